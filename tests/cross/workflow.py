"""A workflow that waits three times, in Python. See tests/cross/README.md."""

import sys
import time
from typing import Any

from lomusai import Engine, Result, StepContext, Workflow, path, step, workflow


@step
def check(order):  # type: ignore[no-untyped-def]
    return {"n": order["n"] * 2, "items": [1, 2, 3]}


@step
def yes(answer):  # type: ignore[no-untyped-def]
    return "yes"


@step
def many(answer):  # type: ignore[no-untyped-def]
    return "many"


@step
def price(item):  # type: ignore[no-untyped-def]
    return item * 10


@step
def total(of):  # type: ignore[no-untyped-def]
    return {"total": sum(of["prices"]) + of["paid"]}


@step
def toil(order, ctx: StepContext):  # type: ignore[no-untyped-def]
    if ctx.attempt < 4:
        print("status working", flush=True)
        # Killed here.
        time.sleep(600)
    return ctx.attempt


def handover(engine: Engine) -> Workflow[Any, Any]:
    return (
        workflow("handover", engine=engine)
        .then(check)
        .suspend(label="boss", payload={"sum": path("steps.check.n")}, id="boss")
        .branch([("steps.boss.ok", yes), (lambda asked: asked["input"]["ok"], many)])
        .wait_for("paid", id="paid")
        .foreach(price.takes(path("steps.check.items")), concurrency=2)
        .suspend(label="clerk", id="clerk")
        .then(total.takes({"prices": path("steps.price"), "paid": path("steps.paid.sum")}))
    )


def tell(flow: Workflow[Any, Any], stage: int) -> Result[Any]:
    """What the run waits for at this stage."""
    if stage == 0:
        return flow.run({"n": 3}, run_id="handover")
    if stage == 1:
        return flow.resume("handover", {"ok": True}, label="boss")
    if stage == 2:
        flow.signal("handover", "paid", {"sum": 5})
        return flow.result("handover")
    return flow.resume("handover", None, label="clerk")


def work(engine: Engine, stage: str) -> None:
    """Begins the work, or goes on with it once nobody else holds it."""
    flow = workflow("toil", engine=engine).then(toil)
    engine.register(flow)
    if stage == "4":
        flow.start(run_id="toil")
    while stage == "5" and "toil" not in engine.start()["recovered"]:
        time.sleep(0.05)
    print("status", flow.result("toil").status)
    print("digest", engine.digest("toil"))


def main(file: str, *stages: str) -> None:
    with Engine(file, lease_ms=500) as engine:
        if stages[0] in ("4", "5"):
            return work(engine, stages[0])
        flow = handover(engine)
        for stage in map(int, stages):
            result = tell(flow, stage)
            print("status", result.status, flush=True)
        if stages[-1] != "3":
            # Killed here.
            time.sleep(600)
        print("total", result.object["total"])
        print("digest", engine.digest("handover"))


main(*sys.argv[1:])
