"""A tool that waits for a person. The run is kept in a file, so that the answer may come from another process, days
later."""

import tempfile
from pathlib import Path

from lomusai import Agent, Engine, ScriptedModel, tool


@tool(approval=True)
def pay(amount: int, to: str) -> str:
    """Pays an amount."""
    return f"paid {amount} to {to}"


model = ScriptedModel(
    [{"calls": [{"name": "pay", "arguments": {"amount": 40, "to": "Ada"}}]}, {"says": "Ada has her money."}]
)

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "runs.db")
    with Engine(file) as engine:
        result = Agent("clerk", model, tools=[pay], engine=engine).generate("Pay Ada 40.")
        print(result.status, [pending["tool"] for pending in result.pending if "tool" in pending])

    # As another process would: open the file, register the same agent, and answer.
    with Engine(file) as engine:
        engine.register(Agent("clerk", model, tools=[pay]))
        for run in engine.pending():
            print(engine.approve(run["run_id"]).text)
