"""One agent whose tool waits for approval, in Python. See tests/cross/README.md."""

import sys
import time
from typing import Any

from lomusai import Agent, Engine, ScriptedModel, tool


async def nothing(question: Any) -> None:
    """A hook or processor that changes nothing."""


@tool(approval=lambda question: True)
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def main(mode: str, path: str, run_id: str = "") -> None:
    with Engine(path) as engine:
        agent = Agent(
            "calculator",
            model=ScriptedModel([{"calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]}, {"says": "1 + 2 is 3."}]),
            tools=[add],
            instructions=lambda question: "Add.",
            stop=[lambda question: False],
            processors={"input": [lambda question: None], "output": nothing},
            hooks={"before_tool": nothing},
            engine=engine,
        )
        if mode == "resume":
            engine.register(agent)
            print("text", engine.approve(run_id).text)
        else:
            result = agent.generate("What is 1 + 2?")
            assert result.status == "suspended", result
            run_id = result.run_id
            print("run", run_id, flush=True)
            if mode == "start":
                # Killed here.
                time.sleep(600)
            print("text", result.approve().text)
        print("digest", engine.digest(run_id))


main(*sys.argv[1:])
