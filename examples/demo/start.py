"""The demo's first program: an agent in Python, on a model in this process. It is killed while it waits for approval."""

import os
import sys
import time

from lomusai import Agent, Engine, Stream, tool

MODEL = os.environ.get("LOMUSAI_MODEL", "local:smollm2-135m")


@tool(
    input_schema={
        "type": "object",
        "properties": {"order": {"type": "string", "pattern": "^[A-Z]-[0-9]{2}$"}},
        "required": ["order"],
        "additionalProperties": False,
    }
)
def look_up(order: str) -> str:
    """Finds an order."""
    print(f"\n  look_up runs in Python, for {order}", flush=True)
    return f"Order {order}: one teapot, 12.99, delivered on Monday."


@tool(
    approval=True,
    input_schema={
        "type": "object",
        "properties": {
            "order": {"type": "string", "pattern": "^[A-Z]-[0-9]{2}$"},
            "cents": {"type": "integer", "minimum": 1, "maximum": 5000},
            "reason": {"type": "string", "minLength": 3, "maxLength": 40},
        },
        "required": ["order", "cents", "reason"],
        "additionalProperties": False,
    },
)
def refund(order: str, cents: int, reason: str) -> str:
    """Pays an order back."""
    raise AssertionError("in this demo it runs in Node")


def shown(stream: Stream[None]) -> None:
    """Prints what a run says, piece by piece; and how far its model is on its way into this process."""
    for event in stream:
        if event["type"] == "effect_progress":
            data = event["data"]
            if data.get("phase") == "downloading" and data["total"]:
                told = f"{data['done'] >> 20} of {data['total'] >> 20} MiB"
                end = "\r" if sys.stdout.isatty() and data["done"] < data["total"] else "\n"
                if end == "\r" or data["done"] == data["total"]:
                    print(f"  downloading the model: {told}", end=end, flush=True)
        elif event["type"] == "part_delta" and event["delta"].get("type") == "text":
            print(event["delta"]["text"].replace("\n", "\n  "), end="", flush=True)


with Engine(sys.argv[1]) as engine:
    settings = {"temperature": 0.2, "max_output_tokens": 60, "seed": 7}
    poet = Agent("poet", instructions="You answer in one short sentence.", model=MODEL, settings=settings, engine=engine)
    print("  you:   What is the sea?\n  model: ", end="", flush=True)
    shown(poet.stream("What is the sea?"))
    print()

    clerk = Agent(
        "clerk",
        # A small model follows examples better than rules.
        instructions="You are a clerk. You look orders up and pay them back.\n"
        "Example: for `Where is B-31?` call look_up with order B-31.\n"
        "Example: for `B-31 for 4.50 is torn, pay it back.` call refund with order B-31, cents 450, reason torn.\n"
        "After a result, say in one short sentence what was done.",
        model=MODEL,
        settings=settings,
        tools=[look_up, refund],
        engine=engine,
    )
    print("  you:   Where is my order A-17?", end="", flush=True)
    shown(clerk.stream("Where is my order A-17?", tool_choice={"tool": "look_up"}, active_tools=["look_up"]))
    print()

    question = "My order A-17 for 12.99 arrived broken. Pay it back."
    print(f"  you:   {question}")
    stream = clerk.stream(question, tool_choice={"tool": "refund"}, active_tools=["refund"])
    shown(stream)
    result = stream.result()
    for wait in result.pending:
        print(f"  waits for approval: {wait['tool']}({wait['arguments']})")
    print(f"run {result.run_id}", flush=True)
    time.sleep(600)
