"""Tools are functions: the schema comes from the signature, what they raise is told to the model."""

from lomusai import Agent, ScriptedModel, tool


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: the first number
        b: the second number
    """
    return a + b


@tool
async def divide(a: float, b: float = 2) -> float:
    """Divides one number by another."""
    return a / b


model = ScriptedModel(
    [
        {"calls": [{"name": "add", "arguments": {"a": 2, "b": 3}}, {"name": "divide", "arguments": {"a": 5, "b": 0}}]},
        {"says": "2 + 3 is 5, and nothing can be divided by 0."},
    ]
)
agent = Agent("calculator", model, tools=[add, divide])
result = agent.generate("What is 2 + 3, and 5 / 0?")
for message in result.messages:
    for part in message["parts"]:
        if part["type"] == "tool_result":
            print(f"{part['name']}: {part['output']} ({part.get('status', 'ok')})")
print(result.text)
