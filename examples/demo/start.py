"""The demo's first program: agents in Python, on a scripted model or a real one. It is killed while it waits for approval.

What it prints is a word for who speaks, and what is said: the demo lays that out.
"""

import os
import sys
import time
from typing import Any

from lomusai import Agent, Engine, ScriptedModel, Stream, ToolContext, tool

# A name such as `local:smollm2-135m`; none is a script.
MODEL = os.environ.get("LOMUSAI_MODEL")
ORDER = {"type": "string", "pattern": "^[A-Z]-[0-9]{2}$"}


@tool(
    input_schema={
        "type": "object",
        "properties": {"order": ORDER},
        "required": ["order"],
        "additionalProperties": False,
    }
)
def look_up(order: str, ctx: ToolContext) -> str:
    """Finds an order."""
    # Told as an event, which comes in its place among the others; this runs on another thread.
    ctx.progress({"phase": "running", "text": f"look_up runs, for {order}"})
    return f"Order {order}: one teapot, 12.99, delivered on Monday."


@tool(
    approval=True,
    input_schema={
        "type": "object",
        "properties": {
            "order": ORDER,
            "cents": {"type": "integer", "minimum": 1, "maximum": 5000},
            "reason": {"enum": ["broken", "late", "lost"]},
        },
        "required": ["order", "cents", "reason"],
        "additionalProperties": False,
    },
)
def refund(order: str, cents: int, reason: str) -> str:
    """Pays an order back."""
    raise AssertionError("in this demo it runs in Node")


def example(number: int, question: str, name: str, arguments: str, result: str, answer: str) -> list[dict[str, Any]]:
    """A call as it should be: a small model follows examples better than rules."""
    call = f"example-{number}"
    return [
        {"id": f"{call}-0", "role": "user", "parts": [{"type": "text", "text": question}]},
        {
            "id": f"{call}-1",
            "role": "assistant",
            "parts": [{"type": "tool_call", "call_id": call, "name": name, "arguments": arguments}],
        },
        {
            "id": f"{call}-2",
            "role": "tool",
            "parts": [{"type": "tool_result", "call_id": call, "name": name, "output": result}],
        },
        {"id": f"{call}-3", "role": "assistant", "parts": [{"type": "text", "text": answer}]},
    ]


LOOKED_UP = [
    *example(1, "Where is order B-31?", "look_up", '{"order": "B-31"}', "Order B-31: one lamp, delivered on Friday.",
             "Your lamp, order B-31, was delivered on Friday."),
    *example(2, "Where is order K-02?", "look_up", '{"order": "K-02"}', "Order K-02: two cups, on their way.",
             "Your cups, order K-02, are on their way."),
]  # fmt: skip
PAID_BACK = [
    *example(3, "Order B-31 for 4.50 was lost. I want my money back.", "refund",
             '{"order": "B-31", "cents": 450, "reason": "lost"}', "450 cents paid back for B-31",
             "I paid back 4.50 for order B-31."),
    *example(4, "Order K-02 for 20.00 is broken. I want my money back.", "refund",
             '{"order": "K-02", "cents": 2000, "reason": "broken"}', "2000 cents paid back for K-02",
             "I paid back 20.00 for order K-02."),
]  # fmt: skip


def model(name: str, *script: dict[str, Any]) -> str | ScriptedModel:
    return MODEL or ScriptedModel(list(script), name=name)


def say(who: str, text: str) -> None:
    print(f"{who} {text}", flush=True)


def shown(stream: Stream[None]) -> None:
    """Prints what a run says, piece by piece; and how far its model is on its way into this process."""
    speaking = False
    for event in stream:
        if event["type"] == "effect_progress":
            data = event["data"]
            if data.get("phase") == "downloading":
                say("bar", f"{data['done']} {data['total'] or 0}")
            elif data.get("phase") == "loading":
                say("bar", f"{data['percent']} 100")
            elif data.get("phase") == "running":
                say("python", data["text"])
        elif event["type"] == "part_delta" and "text" in event:
            print("" if speaking else "model ", end="")
            print(event["text"].replace("\n", " "), end="", flush=True)
            speaking = True
        elif event["type"] == "message_completed":
            if speaking:
                print(flush=True)
            speaking = False
            for part in event["message"]["parts"] if event["message"]["role"] == "assistant" else []:
                if part["type"] == "tool_call":
                    say("call", f"{part['name']} {part['arguments']}")


with Engine(sys.argv[1]) as engine:
    settings = {"temperature": 0.0, "max_output_tokens": 60, "seed": 7}
    say("step", "An agent answers, word by word")
    poet = Agent(
        "poet",
        instructions="You answer in one short sentence.",
        model=model("sea", {"says": "The sea is salt water that covers most of the planet."}),
        settings=settings,
        engine=engine,
    )
    say("you", "What is the sea?")
    shown(poet.stream("What is the sea?"))

    say("step", "It calls a function of this program")
    finder = Agent(
        "finder",
        instructions="You are a clerk. You look orders up, and say in one short sentence what you found.",
        model=model(
            "orders",
            {"calls": [{"name": "look_up", "arguments": {"order": "A-17"}}]},
            {"says": "Your teapot, order A-17, was delivered on Monday."},
        ),
        settings=settings,
        tools=[look_up],
        tool_choice={"tool": "look_up"},
        engine=engine,
    )
    say("you", "Where is order A-17?")
    shown(finder.stream("Where is order A-17?", history=LOOKED_UP if MODEL else None))

    say("step", "It wants to spend money: a person has to approve")
    clerk = Agent(
        "clerk",
        instructions="You are a clerk. You pay orders back, and say in one short sentence what was done.",
        model=model(
            "refunds",
            {"calls": [{"name": "refund", "arguments": {"order": "A-17", "cents": 1299, "reason": "broken"}}]},
            {"says": "I paid back 12.99 for order A-17."},
        ),
        settings=settings,
        tools=[refund],
        tool_choice={"tool": "refund"},
        engine=engine,
    )
    question = "Order A-17 for 12.99 is broken. I want my money back."
    say("you", question)
    stream = clerk.stream(question, history=PAID_BACK if MODEL else None)
    shown(stream)
    for wait in stream.result().pending:
        say("waits", f"for a person's approval of {wait['tool']}")
    say("run", stream.result().run_id)
    time.sleep(600)
