"""A workflow that asks a person about large refunds. It is kept in a file: this process may end, and another one, in
any language, goes on."""

import tempfile
from pathlib import Path
from typing import Any

from lomusai import Engine, StepContext, Workflow, path, step, workflow


@step
def check(order: dict[str, Any]) -> dict[str, Any]:
    """Looks up what the order cost."""
    return {"order": order["order"], "amount": 120}


@step(resume=bool)
def boss(order: dict[str, Any], ctx: StepContext) -> bool:
    """Waits for the boss, maybe for days."""
    if not ctx.is_resumed:
        ctx.suspend({"may": "we pay back", **order}, label="boss")
    if not ctx.resume:
        ctx.bail("the boss said no")
    return True


@step(retry=3)
def pay(refund: dict[str, Any], ctx: StepContext) -> str:
    """Pays it back. The key is the same however often this is called for one run: give it to who takes the money."""
    print("paying back", refund["amount"], "under the key", ctx.idempotency_key)
    return f"{refund['amount']} paid back for {refund['order']}"


@step
def tell(person: str) -> str:
    return f"told {person}"


def refund(engine: Engine) -> Workflow[Any, Any]:
    return (
        workflow("refund", engine=engine)
        .then(check)
        .branch([("steps.check.amount > 100", boss)])
        .then(pay.takes(path("steps.check")))
        .map(path("input.people"))
        .foreach(tell, concurrency=2)
    )


with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "runs.db")
    with Engine(file) as engine:
        result = refund(engine).run({"order": "A-17", "people": ["Ada", "Bob"]}, run_id="refund-1")
        print(result.status, [pending.get("label") for pending in result.pending])

    # As another process would: open the file, register the same steps, and answer.
    with Engine(file) as engine:
        result = refund(engine).resume("refund-1", True, label="boss")
        print(result.status, result.object)
