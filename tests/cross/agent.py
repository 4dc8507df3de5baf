"""One agent whose tool waits for approval, in Python. See tests/cross/README.md."""

import sys
import time

from lomusai import Agent, Engine, ScriptedModel, tool


@tool(approval=True)
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


model = ScriptedModel([{"calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]}, {"says": "1 + 2 is 3."}], name="model")


def main(mode: str, path: str, run_id: str = "") -> None:
    with Engine(path) as engine:
        if mode == "resume":
            engine.register(add, model)
            print("text", engine.approve(run_id).text)
        else:
            agent = Agent("calculator", model=model, tools=[add], engine=engine)
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
