"""Workflows from Python: steps by their hints, the builder, and what a run's life looks like from here."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lomusai import (
    Agent,
    ConflictError,
    Engine,
    FatalError,
    HostError,
    InvalidError,
    NotFoundError,
    Retention,
    ScriptedModel,
    Step,
    StepContext,
    Workflow,
    expr,
    path,
    step,
    tool,
    workflow,
)

BUILDERS: list[dict[str, Any]] = json.loads((Path(__file__).parents[3] / "tests/conformance/builders.json").read_text())

# --- The table of builders --------------------------------------------------------------------------------------------


def said(mapping: dict[str, Any]) -> Any:
    """A mapping of the wire in this language's words."""
    [(kind, value)] = mapping.items()
    if kind == "from":
        return path(value)
    if kind == "expr":
        return expr(value)
    if kind == "object":
        return {key: said(item) for key, item in value.items()}
    if kind == "list":
        return [said(item) for item in value]
    return value


def condition(of: dict[str, Any]) -> str | Callable[..., Any]:
    return of["expr"] if "expr" in of else lambda asked: True


def part(of: dict[str, Any]) -> Step[Any, Any]:
    made = step(of["step"])
    if "id" in of:
        made = made.named(of["id"])
    if "after" in of:
        made = made.after(*of["after"])
    if "when" in of:
        made = made.when(condition(of["when"]))
    if "takes" in of:
        made = made.takes(said(of["takes"]))
    if "needs" in of:
        made = made.needs(of["needs"])
    if "retry" in of:
        made = made.retried(of["retry"])
    return made


def call(flow: Workflow[Any, Any], one: dict[str, Any]) -> Workflow[Any, Any]:
    options = {key: one[key] for key in ("id", "concurrency", "max") if key in one}
    kind = next(iter(one))
    given = one[kind]
    if kind == "then":
        return flow.then(part(given))
    if kind == "parallel":
        return flow.parallel(map(part, given))
    if kind == "add":
        return flow.add(*map(part, given))
    if kind == "branch":
        return flow.branch([(condition(when), part(arm)) for when, arm in given])
    if kind == "foreach":
        return flow.foreach(part(given), **options)
    if kind in ("dowhile", "dountil"):
        return getattr(flow, kind)(part(given), condition(one["condition"]), **options)
    if kind in ("map", "bail"):
        return getattr(flow, kind)(said(given), **options)
    if kind in ("sleep", "sleep_until"):
        return getattr(flow, kind)(said(given) if isinstance(given, dict) else given / 1000, **options)
    if kind == "wait_for":
        timeout = one["timeout_ms"] / 1000 if "timeout_ms" in one else None
        return flow.wait_for(given, timeout=timeout, **options)
    if kind == "suspend":
        payload = said(given["payload"]) if "payload" in given else None
        return flow.suspend(payload=payload, label=given.get("label"), **options)
    assert kind == "output", kind
    return flow.output(said(given))


@pytest.mark.parametrize("case", BUILDERS, ids=lambda case: case["name"])
def test_the_builder_makes_the_spec_of_the_table(case: dict[str, Any]) -> None:
    names = {"input_schema": "input", "output_schema": "output"}
    options = {names.get(key, key): value for key, value in case.get("options", {}).items()}
    flow = workflow(case["workflow"], **options)
    for one in case["calls"]:
        flow = call(flow, one)
    assert flow.spec == case["spec"]
    # A schema's author chose the order of its properties.
    assert json.dumps(flow.spec.get("input_schema")) == json.dumps(case["spec"].get("input_schema"))


def test_the_program_of_the_guide_runs_and_makes_the_spec_that_c_writes(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (Path(__file__).parents[3] / "docs/guide/workflows.md").read_text()
    program, c = (guide.partition(f"```{language}\n")[2].partition("```")[0] for language in ("python", "c"))

    @step
    def check_order(order: dict[str, Any]) -> dict[str, Any]:
        return {**order, "amount": 150}

    @step
    def ask_the_boss(order: dict[str, Any]) -> bool:
        return order["amount"] == 150

    names: dict[str, Any] = {"check_order": check_order, "ask_the_boss": ask_the_boss}
    exec(program, names)
    assert capsys.readouterr().out == "paid 150\n"
    spec = "".join(re.findall(r'^ +"(.*)";?$', c, re.MULTILINE)).replace('\\"', '"')
    flow: Workflow[Any, Any] = names["refund"]
    # Hints are schemas, which C writes only if it wants to.
    steps = [{key: one[key] for key in one if not key.endswith("_schema")} for one in flow.spec["steps"]]
    assert {**flow.spec, "steps": steps} == json.loads(spec)


# --- Steps ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Order:
    id: str
    amount: int


@dataclasses.dataclass
class Receipt:
    order: str
    paid: bool


@step
def check(order: Order) -> Order:
    """Looks the order up."""
    return dataclasses.replace(order, amount=order.amount + 20)


@step(retry=2)
def pay(order: Order, ctx: StepContext) -> Receipt:
    assert ctx.idempotency_key.endswith("/pay")
    return Receipt(order.id, order.amount > 100)


def test_steps_take_and_give_the_types_of_their_hints(engine: Engine) -> None:
    flow = workflow("typed", input=Order, engine=engine).then(check).then(pay)
    result = flow.run(Order("7", 100))
    assert result.object == Receipt("7", True)
    assert flow.spec["steps"][1]["retry"] == {"max": 2}
    with pytest.raises(InvalidError) as raised:
        flow.run({"id": "7"})  # type: ignore[arg-type]
    assert raised.value.code == "input_invalid"
    assert check(Order("1", 1)).amount == 21, "a step is still the function it is"


def test_a_step_of_several_parameters_is_given_the_fields_of_an_object(engine: Engine) -> None:
    @step
    def add(a: int, b: int = 3) -> int:
        return a + b

    assert workflow("fields", engine=engine).then(add).run({"a": 1}).object == 4


def test_a_chain_with_everything(engine: Engine) -> None:
    @step
    def items(order: dict[str, Any]) -> list[int]:
        return [1, 2, 3]

    @step
    def double(item: int) -> int:
        return item * 2

    @step
    def grow(value: Any) -> list[int]:
        return [*value, len(value)]

    def small(asked: dict[str, Any]) -> bool:
        return len(asked["output"]) < 5

    flow = (
        workflow("all", engine=engine)
        .then(items)
        .foreach(double, concurrency=2)
        .dowhile(grow, small)
        .map({"list": path("steps.grow"), "n": expr("steps.grow|length"), "fixed": {"a": [1]}})
        .parallel([lambda value: value["n"], _named_first])
        .branch([("steps.map_1.n == 5", _yes), (lambda asked: False, _no)])
        .then(lambda ran: sorted(ran))
    )
    assert flow.run({}).object == ["yes"]
    assert [one["id"] for one in flow.spec["steps"][4:6]] == ["step_1", "named_first"]


def _named_first(value: Any) -> Any:
    return value["list"][0]


def _yes(value: Any) -> str:
    return "yes"


def _no(value: Any) -> str:
    return "no"


async def test_async_steps_run_on_the_caller_s_loop(engine: Engine) -> None:
    loop = asyncio.get_running_loop()

    @step
    async def later(value: int) -> int:
        assert asyncio.get_running_loop() is loop
        await asyncio.sleep(0)
        return value + 1

    assert (await workflow("async", engine=engine).then(later).then(later.named("again")).arun(1)).object == 3


def test_a_failure_is_raised_with_its_cause_and_can_be_taken_up(engine: Engine) -> None:
    fails = [True]

    @step
    def shaky(value: Any) -> str:
        if fails[0]:
            raise ZeroDivisionError("not yet")
        return "done"

    flow = workflow("shaky", engine=engine).then(shaky)
    with pytest.raises(HostError) as raised:
        flow.run(run_id="r")
    assert raised.value.code == "step_failed" and isinstance(raised.value.__cause__, ZeroDivisionError)
    fails[0] = False
    assert flow.retry("r").object == "done"
    with pytest.raises(ConflictError) as refused:
        flow.retry("r")
    assert refused.value.code == "run_finished"


def test_a_fatal_error_is_not_tried_again(engine: Engine) -> None:
    calls: list[int] = []

    @step(retry=5)
    def fatal(value: Any, ctx: StepContext) -> None:
        calls.append(ctx.attempt)
        raise FatalError("wrong number")

    with pytest.raises(InvalidError) as raised:
        workflow("fatal", engine=engine).then(fatal).run()
    assert (raised.value.code, calls) == ("step_fatal", [1])


def test_a_step_suspends_is_resumed_by_label_and_keeps_state(engine: Engine) -> None:
    @step(suspend={"type": "object"}, resume=bool)
    def ask(order: dict[str, Any], ctx: StepContext) -> str:
        if not ctx.is_resumed:
            ctx.set_state(asked=True)
            ctx.suspend({"sum": 3}, label="boss")
        return f"{ctx.resume} {ctx.state['asked']}"

    flow = workflow("ask", engine=engine).then(ask)
    waits = flow.run({}, run_id="r")
    assert waits.status == "suspended" and waits.pending[0]["label"] == "boss"
    assert waits.pending[0]["payload"] == {"sum": 3}
    with pytest.raises(InvalidError) as wrong:
        flow.resume("r", "maybe", label="boss")
    assert wrong.value.code == "resume_invalid"
    with pytest.raises(NotFoundError) as unknown:
        flow.resume("r", True, label="clerk")
    assert unknown.value.code == "effect_unknown"
    assert flow.resume("r", True, label="boss").object == "True True"


def test_two_threads_that_resume_at_once_resume_once(engine: Engine) -> None:
    calls: list[Any] = []

    @step
    def note(value: Any) -> None:
        calls.append(value)

    flow = workflow("twice", engine=engine).suspend().then(note)
    for number in range(20):
        run_id, codes = f"r{number}", []
        flow.run(run_id=run_id)

        def go(run_id: str = run_id, codes: list[str] = codes) -> None:
            try:
                flow.resume(run_id, run_id)
            except (ConflictError, NotFoundError) as error:
                codes.append(error.code)

        threads = [threading.Thread(target=go) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(codes) == 1 and codes[0] in ("run_active", "run_finished", "effect_unknown"), codes
    assert len(calls) == 20


def test_a_step_may_bail(engine: Engine) -> None:
    @step
    def enough(value: Any, ctx: StepContext) -> None:
        ctx.bail({"found": value})

    result = workflow("bails", engine=engine).then(enough).then(_yes).run(3)
    assert (result.status, result.output["object"]) == ("bailed", {"found": 3})


def test_signals_wait_for_who_waits(engine: Engine) -> None:
    flow = workflow("signals", engine=engine).wait_for("paid", data=int).wait_for("sent")
    run_id = flow.start({"order": 1}, run_id="s")
    flow.signal(run_id, "sent", "by air")
    flow.signal(run_id, "paid", 3)
    assert flow.result(run_id).object == "by air"


def test_a_run_s_start_is_recorded_or_says_why(engine: Engine) -> None:
    flow = workflow("starts", engine=engine).suspend()
    assert flow.start(run_id="r") == "r"
    assert engine.run_info("r")["status"] in ("running", "suspended")
    with pytest.raises(ConflictError) as raised:
        flow.start(run_id="r")
    assert raised.value.code == "run_exists"


async def test_the_same_for_asyncio(engine: Engine) -> None:
    flow = workflow("aio", engine=engine).suspend(label="one").wait_for("two")
    run_id = await flow.astart()
    assert (await flow.aresult(run_id)).status == "suspended"
    assert (await flow.aresume(run_id, 1, label="one")).status == "suspended"
    await flow.asignal(run_id, "two", 2)
    assert (await flow.aresult(run_id)).object == 2
    run_id = await flow.astart()
    await flow.acancel(run_id, reason="enough")
    assert (await flow.aresult(run_id)).status == "cancelled"
    assert [event["type"] async for event in flow.stream()][-1] == "run_suspended"


def test_agents_tools_and_workflows_are_steps(engine: Engine) -> None:
    @tool
    def shout(text: str) -> str:
        return text.upper()

    agent = Agent("writer", model=ScriptedModel([{"says": "hello"}]))
    inner = workflow("inner").map({"text": path("input")})
    flow = workflow("mixed", engine=engine).then(agent).then(inner).then(shout)
    assert flow.run("write").object == "HELLO"
    assert [one["id"] for one in flow.spec["steps"]] == ["writer", "inner", "shout"]


def test_sleeps_are_seconds_and_datetimes(engine: Engine) -> None:
    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc)
    flow = workflow("sleeps", engine=engine).sleep(0.001).sleep_until(past).map("slept")
    assert flow.run().object == "slept"
    assert flow.spec["steps"][1]["run"] == {"sleep_until": {"value": 978307200000}}


def test_dependencies_in_any_order(engine: Engine) -> None:
    @step
    def a(value: int) -> int:
        return value + 1

    @step
    def b(value: int) -> int:
        return value * 2

    @step
    def c(a: int, b: int) -> int:
        return a + b

    flow = workflow("graph", engine=engine).add(a, b, c.after(a, "b"))
    assert flow.run(5).object == 16


def test_what_is_no_step_is_told_so() -> None:
    with pytest.raises(InvalidError) as raised:
        workflow("w").then(3)  # type: ignore[arg-type]
    assert raised.value.code == "argument_invalid"
    with pytest.raises(InvalidError):
        step(_no_schema)


def _no_schema(value: threading.Lock) -> None:  # type: ignore[valid-type]
    """Its annotation has no JSON Schema."""


def test_a_builder_is_not_changed_by_what_is_built_on_it(engine: Engine) -> None:
    base = workflow("base").then("a")
    longer = base.then("b")
    assert (len(base.spec["steps"]), len(longer.spec["steps"])) == (1, 2)


def test_defining_a_workflow_again_on_the_default_engine_replaces_it() -> None:
    for value in ("one", "two"):
        assert workflow("notebook").map(value).run().object == value


async def test_operations_are_asked_by_name(engine: Engine) -> None:
    draft = {"name": "w", "chain": [{"then": {"id": "", "run": {"map": {"value": 1}}}}]}
    assert engine.call("draft_workflow", draft)["spec"]["steps"][0]["id"] == "map_1"
    assert await engine.acall("draft_workflow", draft) == engine.call("draft_workflow", draft)
    with pytest.raises(InvalidError) as raised:
        engine.call("dance")
    assert raised.value.code == "argument_invalid"


# --- Runs, afterwards -------------------------------------------------------------------------------------------------


@step
def price(order: dict[str, int]) -> int:
    return order["pieces"] * 10


def asks(name: str, engine: Engine, id: str = "ask") -> Workflow[Any, Any]:
    return workflow(name, engine=engine).then(price).suspend(id=id).map(path("steps.price"))


async def test_a_run_is_forked_restarted_and_compared(engine: Engine) -> None:
    flow = asks("forks", engine)
    flow.run({"pieces": 3}, run_id="r")
    assert engine.fork("r", effect_id="price", output=7, new_run_id="f") == "f"
    assert engine.result("f").status == "suspended"
    assert flow.resume("f", None).object == 7
    again = await engine.arestart("r")
    await engine.aresult(again)
    assert "effects" not in engine.difference("r", again)
    changed = await engine.afork("r", effect_id="price", input={"pieces": 5}, metadata={"why": "more"})
    assert (await engine.aresult(changed)).pending[0]["payload"] == 50
    assert engine.run_info(changed)["metadata"] == {"why": "more"}
    told = await engine.adifference("r", "f")
    [priced] = [one for one in told["effects"] if one["effect_id"] == "price"]
    assert (priced["left"]["output"], priced["right"]["output"]) == (30, 7)
    with pytest.raises(InvalidError) as nowhere:
        engine.fork("r")
    assert nowhere.value.code == "fork_invalid"
    with pytest.raises(NotFoundError) as unknown:
        engine.restart("nobody")
    assert unknown.value.code == "run_unknown"


async def test_workflows_and_runs_are_drawn(engine: Engine) -> None:
    flow = asks("drawn", engine)
    assert engine.picture(flow).startswith("<svg")
    flow.run({"pieces": 1}, run_id="r")
    by_name = engine.picture("drawn", format="mermaid")
    assert by_name.startswith("flowchart") and by_name == await engine.apicture(flow.spec, format="mermaid")
    assert await engine.apicture(run_id="r") != engine.picture("drawn"), "a run's steps are in colour"
    with pytest.raises(NotFoundError) as unknown:
        engine.picture("nowhere")
    assert unknown.value.code == "workflow_unknown"
    with pytest.raises(InvalidError) as both:
        engine.picture("drawn", run_id="r")  # type: ignore[call-overload]
    assert both.value.code == "argument_invalid"


async def test_a_run_goes_on_under_a_changed_workflow(engine: Engine) -> None:
    asks("changes", engine).run({"pieces": 3}, run_id="r")
    engine.unregister("workflow", "changes")
    flow = asks("changes", engine, id="question")
    [fit] = engine.check_workflow(flow)
    assert (fit["run_id"], fit["fits"], fit["needs_migration"]) == ("r", False, True)
    assert fit["misfit"]["effect_id"] == "ask"
    engine.register_migration(flow, fit["hash"], steps={"ask": "question"}, outputs={"price": 40})
    [fits] = await engine.acheck_workflow(flow.spec)
    assert fits["fits"] and "misfit" not in fits
    assert flow.resume("r", None).object == 40
    with pytest.raises(ConflictError) as twice:
        await engine.aregister_migration("changes", fit["hash"])
    assert twice.value.code == "name_taken"


async def test_runs_that_ended_are_let_go(engine: Engine) -> None:
    flow = workflow("ends", engine=engine).map("x")
    flow.run(run_id="a")
    assert engine.prune([{"agent": "ends", "keep_runs": 1}]) == []
    assert engine.prune([{"agent": "ends", "keep_ms": 0, "keep_runs": 0}], only_tell=True) == ["a"]
    assert await engine.aprune([{"agent": "ends", "keep_runs": 0}]) == ["a"]
    assert engine.runs() == []
    with pytest.raises(InvalidError) as boundless:
        engine.prune([{"agent": "ends"}])
    assert boundless.value.code == "argument_invalid"


async def test_journals_of_runs_that_ended_are_compacted(tmp_path: Path) -> None:
    rules: list[Retention] = [{"agent": "ends", "keep_runs": 1}]
    with Engine(tmp_path / "runs.db", retention=rules, compact_after_ms=False) as engine:
        flow = workflow("ends", engine=engine).map("x")
        for run_id in ("a", "b"):
            flow.run(run_id=run_id)
        assert [run["run_id"] for run in engine.runs(kind="workflow", top=True, created_from_ms=1)] == ["b", "a"]
        assert engine.runs(kind="agent") == [] == engine.runs(metadata={"of": "none"}, status=["completed"])
        digest = engine.digest("b")
        assert engine.prune() == ["a"]
        assert (engine.compact(), engine.compact(0), await engine.acompact(0)) == (0, 1, 0)
        assert engine.digest("b") == digest == engine.digest_of(engine.export("b"))
    with Engine(tmp_path / "runs.db", compact_after_ms=0) as engine:
        assert engine.digest("b") == digest
    with pytest.raises(InvalidError, match="keep_ms"):
        Engine(retention=[{"agent": "ends"}])


async def test_a_schedule_begins_runs(engine: Engine) -> None:
    flow = workflow("report", engine=engine).map(path("input.of"))
    engine.register(flow)
    put = engine.put_schedule("often", {"workflow": "report", "input": {"of": "sales"}}, every=0.001, missed="skip")
    assert (put["every_ms"], put["missed"]) == (1, "skip")
    # More than one where the machine is slow: a millisecond is soon over.
    begun, *_ = next(filter(None, (engine.fire_due() for _ in range(100_000))))
    assert flow.result(begun).object == "sales"
    assert engine.schedules()[0]["last_run"].startswith("schedule:often:")
    assert engine.pause_schedule("often")["paused"] and await engine.afire_due() == []
    assert "paused" not in await engine.apause_schedule("often", paused=False)
    assert engine.delete_schedule("often") and not await engine.adelete_schedule("often")

    noon = datetime.datetime(2099, 12, 31, 12, tzinfo=datetime.timezone.utc)
    daily = await engine.aput_schedule(
        "daily", {"workflow": "report"}, cron="30 9 * * *", timezone="Europe/Berlin", from_=noon, grace=1.5
    )
    assert (daily["from_ms"], daily["grace_ms"], daily["next_ms"]) == (4102401600000, 1500, 4102475400000)
    assert await engine.aschedules() == [daily]
    with pytest.raises(InvalidError) as timeless:
        engine.put_schedule("never", {"workflow": "report"})
    assert timeless.value.code == "schedule_invalid"
    with pytest.raises(NotFoundError) as unknown:
        engine.pause_schedule("never")
    assert unknown.value.code == "schedule_unknown"
