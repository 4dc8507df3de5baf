"""The demo's first program: an agent in Python whose tool asks for approval. It is killed while it waits."""

import sys
import time

from lomusai import Agent, Engine, ScriptedModel, tool


@tool(approval=True)
def refund(order: str, cents: int) -> str:
    """Pays an order back."""
    return f"{cents} cents paid back for {order}"


script = [
    {"says": "Let me look that up. ", "calls": [{"name": "refund", "arguments": {"order": "A-17", "cents": 1299}}]},
    {"says": "Done: order A-17 is refunded.", "usage": {"input": 60, "output": 8}},
]
model = ScriptedModel(script, name="model")

with Engine(sys.argv[1]) as engine:
    agent = Agent("clerk", instructions="You help customers.", model=model, tools=[refund], engine=engine)
    stream = agent.stream("My order A-17 arrived broken.")
    print("  clerk: ", end="", flush=True)
    for text in stream.text:
        for letter in text:
            print(letter, end="", flush=True)
            time.sleep(0.01)
    result = stream.result()
    for wait in result.pending:
        print(f"\n  waits for approval: {wait['tool']}({wait['arguments']})")
    print(f"run {result.run_id}", flush=True)
    time.sleep(600)
