"""A model in the process, in Python. See tests/local/README.md."""

import math
import re

from lomusai import Agent, Engine, LomusaiError, tool

MODEL = "local:smollm2-135m"
ARGUMENTS = {
    "type": "object",
    "properties": {
        "order": {"type": "string", "pattern": "^[A-Z]-[0-9]{2}$"},
        "cents": {"type": "integer", "minimum": 1, "maximum": 5000},
        "reason": {"enum": ["broken", "late", "lost"]},
    },
    "required": ["order", "cents", "reason"],
    "additionalProperties": False,
}
given: list[tuple[str, int, str]] = []


@tool(input_schema=ARGUMENTS)
def refund(order: str, cents: int, reason: str) -> str:
    """Pays an order back."""
    given.append((order, cents, reason))
    return "done"


def an_agent_calls_a_tool_and_streams() -> None:
    agent = Agent(
        "clerk", model=MODEL, tools=[refund], settings={"max_output_tokens": 60, "seed": 7, "temperature": 1.0}, engine=engine
    )
    stream = agent.stream("Order A-17 for 12.99 is broken.", options={"tool_choice": {"tool": "refund"}})
    deltas = sum(event["type"] == "part_delta" for event in stream)
    result = stream.result()
    assert result.status == "completed", result
    [(order, cents, reason)] = given
    assert re.fullmatch("[A-Z]-[0-9]{2}", order) and 1 <= cents <= 5000, given
    assert reason in ("broken", "late", "lost"), given
    assert deltas > 1 and result.usage["output"] > 1, (deltas, result.usage)
    digest = engine.digest(result.run_id)
    assert re.fullmatch("[0-9a-f]+", digest), digest


def an_answer_fits_its_schema() -> None:
    shape = {
        "type": "object",
        "properties": {"city": {"type": "string", "minLength": 1, "maxLength": 12}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
    }
    agent = Agent("planner", model=MODEL, output=shape, settings={"max_output_tokens": 80, "seed": 3}, engine=engine)
    plan = agent.generate("Plan a journey.").object
    assert set(plan) == {"city", "days"} and 1 <= len(plan["city"]) <= 12 and 1 <= plan["days"] <= 9, plan


def texts_become_vectors() -> None:
    one, same, other = engine.embed("local:minilm-l6-v2", ["A ship at sea", "A boat on the ocean", "Tax law of 1911"])
    assert len(one) == 384 and math.isclose(sum(x * x for x in one), 1.0, abs_tol=1e-3)
    near, far = (sum(a * b for a, b in zip(one, vector)) for vector in (same, other))
    assert near > far, (near, far)


def a_model_that_is_not_there_is_named() -> None:
    for model, code in [("local:nobody-has-this", "model_unknown"), ("local:/nowhere/x.gguf", "model_unknown")]:
        try:
            Agent("lost", model=model, settings={"max_retries": 0}, engine=Engine()).generate("Hello")
        except LomusaiError as error:
            assert error.code == code and model.removeprefix("local:") in str(error), error
        else:
            raise AssertionError(f"{model} answered")


with Engine(providers={"local": {"threads": 1, "context_tokens": 2048}}) as engine:
    TESTS = [
        an_agent_calls_a_tool_and_streams,
        an_answer_fits_its_schema,
        texts_become_vectors,
        a_model_that_is_not_there_is_named,
    ]
    for test in TESTS:
        test()
        print("ok:", test.__name__, flush=True)
print(f"{len(TESTS)} passed, 0 failed")
