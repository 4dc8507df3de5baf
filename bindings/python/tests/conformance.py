"""The conformance vectors, run on the Python package; the digest is recomputed here, from the exported journal.

See tests/conformance/README.md, which is all that this file follows.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lomusai import (
    CallContext,
    Engine,
    FatalError,
    LomusaiError,
    Result,
    ScriptedModel,
    Step,
    StepContext,
    Stream,
    Tool,
    ToolContext,
    ToolOutput,
    step,
)  # fmt: skip

CONFORMANCE = Path(__file__).parents[3] / "tests/conformance"


def read_paths() -> list[Path]:
    """The vectors of the folder that `LOMUSAI_VECTORS` names, which may be of any kind; else all of ours."""
    given = os.environ.get("LOMUSAI_VECTORS")
    folders = [Path(given)] if given else [CONFORMANCE / kind for kind in ("agent", "workflow", "operations")]
    paths = [sorted(folder.glob("*.json")) for folder in folders]
    empty = [folder for folder, found in zip(folders, paths, strict=True) if not found]
    if empty:
        raise AssertionError(f"no vectors in {empty}")
    return [path for found in paths for path in found]


# --- Canonical form ---------------------------------------------------------------------------------------------------

_EFFECTS = {"effect_started", "effect_completed", "effect_failed", "effect_suspended", "effect_skipped", "custom"}
_HOST_WORDED = {
    "tool_failed",
    "tool_result_invalid",
    "function_failed",
    "function_reply_invalid",
    "provider_host_failed",
    "callback_panicked",
    "tool_unanswered",
    "function_unanswered",
    "step_failed",
    "step_fatal",
    "step_result_invalid",
    "step_unanswered",
}
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def number(value: float | int) -> str:
    """A number as ECMAScript prints it."""
    if isinstance(value, int):
        value = float(value)
    if not math.isfinite(value):
        raise ValueError("not a JSON number")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    # Python's repr gives the same shortest digits that ECMAScript asks for; only the notation differs.
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        if len(digits) <= point:
            return sign + digits + "0" * (point - len(digits))
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = point - 1
    head = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{sign}{head}e{'+' if power >= 0 else '-'}{abs(power)}"


def text(value: str) -> str:
    def escape(character: str) -> str:
        if character in _ESCAPES:
            return _ESCAPES[character]
        return f"\\u{ord(character):04x}" if character < " " else character

    return '"' + "".join(map(escape, value)) + '"'


def canonical(value: Any) -> str:
    """RFC 8785."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
    return "{" + ",".join(f"{text(key)}:{canonical(value[key])}" for key in keys) + "}"


def effect_key(effect_id: str) -> list[tuple[int, int, bytes]]:
    tokens = effect_id.split(".")
    return [(0, int(t), b"") if t.isascii() and t.isdigit() else (1, 0, t.encode()) for t in tokens]


def call_of(event: dict[str, Any]) -> tuple[int, int] | None:
    """The step of a call event, and the call's place in it."""
    tokens = event.get("effect_id", "").split(".") if event["type"] in _EFFECTS else []
    if len(tokens) < 2 or not all(token.isascii() and token.isdigit() for token in tokens[:2]):
        return None
    return int(tokens[0]), int(tokens[1])


def ordered(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Durable events in canonical order: steps 1 and 2."""
    durable = sorted((e for e in events if not e.get("sub")), key=lambda e: e["seq"])
    result: list[dict[str, Any]] = []
    if durable and durable[0].get("spec", {}).get("kind") == "workflow":

        def effect_of(event: dict[str, Any]) -> str:
            return "" if event["type"] == "signal_received" else event.get("effect_id", "")

        for has_effect, stretch in itertools.groupby(durable, key=lambda e: bool(effect_of(e))):
            same = list(stretch)
            result += sorted(same, key=lambda e: effect_key(effect_of(e))) if has_effect else same
        return result
    for (step_number, _), stretch in itertools.groupby(
        durable, key=lambda e: ((call_of(e) or (None, 0))[0], call_of(e) is None)
    ):
        same = list(stretch)
        result += same if step_number is None else sorted(same, key=lambda e: (call_of(e) or (0, 0))[1])
    return result


def canonical_events(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps 1 to 4."""
    runs: dict[str, str] = {}
    threads: dict[str, str] = {}

    def run(name: str) -> str:
        return runs.setdefault(name, f"run:{len(runs)}")

    written = []
    for event in ordered(events):
        event = json.loads(json.dumps(event))
        for key in ("seq", "sub", "at_ms", "retry_at_ms", "due_at_ms"):
            event.pop(key, None)
        error = event.get("error")
        if isinstance(error, dict):
            left_out = ["host", "retry_after_ms"]
            if error.get("code") in _HOST_WORDED:
                left_out += ["message", "details"]
            for key in left_out:
                error.pop(key, None)
        event["run_id"] = run(event["run_id"])
        if "parent" in event:
            event["parent"]["run_id"] = run(event["parent"]["run_id"])
        if "forked_from" in event:
            event["forked_from"]["run_id"] = run(event["forked_from"]["run_id"])
        if "child" in event:
            event["child"] = run(event["child"])
        for reason in event.get("reasons", []):
            reason.pop("due_at_ms", None)
            if "child" in reason:
                reason["child"] = run(reason["child"])
        if "thread" in event:
            event["thread"] = threads.setdefault(event["thread"], f"thread:{len(threads)}")
        written.append(event)
    return written


def lines(events: list[dict[str, Any]]) -> str:
    """Steps 1 to 5."""
    return "".join(canonical(event) + "\n" for event in canonical_events(events))


def digest(events: list[dict[str, Any]]) -> str:
    return "01" + hashlib.sha256(b"\x01" + lines(events).encode()).hexdigest()


# --- Matching ---------------------------------------------------------------------------------------------------------


def mismatch(expected: Any, found: Any, where: str = "") -> str | None:
    """Where `found` does not match, in words; `None` if it does."""
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            return f"{where or 'it'}: expected an object, was {found!r}"
        for key, value in expected.items():
            wrong = mismatch(value, found.get(key), f"{where}/{key}")
            if wrong:
                return wrong
        return None
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return f"{where or 'it'}: expected {expected!r}, was {found!r}"
        for place, (one, other) in enumerate(zip(expected, found, strict=True)):
            wrong = mismatch(one, other, f"{where}/{place}")
            if wrong:
                return wrong
        return None
    same_kind = isinstance(expected, bool) == isinstance(found, bool)
    return None if same_kind and expected == found else f"{where or 'it'}: expected {expected!r}, was {found!r}"


def pointer(value: Any, path: str) -> Any:
    for token in path.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(token)
        elif isinstance(value, list) and token.isdigit() and int(token) < len(value):
            value = value[int(token)]
        else:
            return None
    return value


# --- Behaviours -------------------------------------------------------------------------------------------------------

_KINDS = {
    "returns", "echo", "adds", "upper", "integer", "fails", "context", "attempt", "resume", "hangs", "by", "suspends",
    "attempts", "bails", "fatal", "state",
}  # fmt: skip
_BESIDE = {"progress", "custom", "content", "is", "else", "until", "then", "sets", "label"}


async def behave(does: dict[str, Any], question: Any, ctx: CallContext) -> Any:
    kinds = [key for key in does if key in _KINDS]
    unknown = [key for key in does if key not in _KINDS | _BESIDE]
    if len(kinds) != 1 or unknown:
        raise AssertionError(f"the vector has an unknown behaviour: {does}")
    for value in does.get("progress", []):
        ctx.progress(value)
    for item in does.get("custom", []):
        ctx.custom(item["name"], item["data"], durable=True)
    if "sets" in does:
        assert isinstance(ctx, StepContext)
        ctx.set_state(**does["sets"])
    value = await _value(kinds[0], does, question, ctx)
    return ToolOutput(value, does["content"]) if "content" in does else value


async def _value(kind: str, does: dict[str, Any], question: Any, ctx: CallContext) -> Any:
    given = does[kind]
    if kind == "returns":
        return given
    if kind == "echo":
        return pointer(question, given)
    if kind == "adds":
        terms = question if isinstance(question, dict) else {}
        return terms.get("a", 0) + terms.get("b", 0)
    if kind == "upper":
        return {"text": re.sub("[a-z]", lambda letter: letter[0].upper(), question["text"])}
    if kind == "integer":
        return int(given)
    if kind == "fails":
        raise RuntimeError(given)
    if kind == "context":
        return ctx.context.get(given)
    if kind == "attempt":
        return ctx.attempt
    if kind == "resume":
        return ctx.resume if isinstance(ctx, (ToolContext, StepContext)) else None
    if kind == "attempts":
        return await behave(given[min(ctx.attempt, len(given)) - 1], question, ctx)
    if kind == "fatal":
        raise FatalError(given)
    if kind == "bails":
        assert isinstance(ctx, StepContext)
        ctx.bail(given)
    if kind == "state":
        assert isinstance(ctx, StepContext)
        return ctx.state.get(given)
    if kind == "hangs":
        while not ctx.cancelled:
            await asyncio.sleep(0.005)
        return None
    if kind == "by":
        key = pointer(question, given)
        key = key if isinstance(key, str) else json.dumps(key, separators=(",", ":"))
        return await behave(does["is"].get(key, does.get("else", {"returns": None})), question, ctx)
    assert isinstance(ctx, (ToolContext, StepContext))
    if not ctx.is_resumed or ("until" in does and mismatch(does["until"], ctx.resume)):
        if isinstance(ctx, StepContext):
            ctx.suspend(given, label=does.get("label"))
        ctx.suspend(given)
    return await behave(does.get("then", {"resume": True}), question, ctx)


def _run_now(coroutine: Any) -> Any:
    """A behaviour on a plain thread."""
    return asyncio.run(coroutine)


def make_tool(item: dict[str, Any], asynchronous: bool) -> Tool[..., Any]:
    spec, does = item["spec"], item.get("does", {"returns": None})

    async def on_loop(arguments: Any, ctx: ToolContext) -> Any:
        return await behave(does, arguments, ctx)

    def on_thread(arguments: Any, ctx: ToolContext) -> Any:
        return _run_now(behave(does, arguments, ctx))

    made = Tool[..., Any](on_loop if asynchronous else on_thread, name=spec["name"], input_schema={"type": "object"})
    made._whole = "arguments"
    made.spec = spec
    return made


def make_function(does: dict[str, Any], asynchronous: bool) -> Callable[..., Any]:
    async def on_loop(question: Any, ctx: CallContext) -> Any:
        return await behave(does, question, ctx)

    def on_thread(question: Any, ctx: CallContext) -> Any:
        return _run_now(behave(does, question, ctx))

    return on_loop if asynchronous else on_thread


def make_step(name: str, does: dict[str, Any], asynchronous: bool) -> Step[Any, Any]:
    async def on_loop(input: Any, ctx: StepContext) -> Any:
        return await behave(does, input, ctx)

    def on_thread(input: Any, ctx: StepContext) -> Any:
        return _run_now(behave(does, input, ctx))

    return step(name=name)(on_loop if asynchronous else on_thread)


# --- Vectors ----------------------------------------------------------------------------------------------------------

_FIELDS = {
    "name", "why", "agent", "agents", "models", "tools", "functions", "request", "commands", "cancel_at",
    "expect", "turns", "workflow", "workflows", "steps", "refused_spec", "calls",
}  # fmt: skip

_CALL = {"call", "params", "expect", "begins", "error", "bind", "replace_workflow"}


class Failed(AssertionError):
    pass


def run_vector(vector: dict[str, Any], asynchronous: bool = False) -> None:
    unknown = set(vector) - _FIELDS
    if unknown:
        raise Failed(f"unknown fields {unknown}")
    with Engine() as engine:
        for name, script in vector.get("models", {}).items():
            engine.register(ScriptedModel(script, name=name))
        for item in vector.get("tools", []):
            engine._register_tool(make_tool(item, asynchronous))
        for name, does in vector.get("functions", {}).items():
            engine.register_function(name, make_function(does, asynchronous))
        for name, does in vector.get("steps", {}).items():
            engine.register(make_step(name, does, asynchronous))
        agents = [{"name": "agent", "model": "model", **spec} for spec in vector.get("agents", [])]
        if "workflow" not in vector:
            agents.append({"name": "agent", "model": "model", **vector.get("agent", {})})
        for spec in agents:
            engine.register_spec(spec)
        for spec in vector.get("workflows", []):
            engine.register_workflow({"name": "workflow", **spec})
        if "workflow" in vector:
            runs = {"workflow": vector["workflow"].get("name", "workflow")}
            try:
                engine.register_workflow({"name": "workflow", **vector["workflow"]})
            except LomusaiError as error:
                check("refused spec", vector.get("refused_spec", "no refusal"), error.code)
                return
            if "refused_spec" in vector:
                raise Failed(f"the spec was to be refused with {vector['refused_spec']}")
        else:
            runs = {"agent": agents[-1]["name"]}
        history: list[Any] | None = None
        bound: dict[str, Any] = {}
        for place, turn in enumerate([vector, *vector.get("turns", [])]):
            request = {**runs, **turn["request"]}
            if place and "thread" not in request and "history" not in request and history is not None:
                request["history"] = history
            result = run_turn(engine, turn, request)
            history = [] if result is None else result.messages
            if result is not None:
                bound["run"] = result.run_id
        for item in vector.get("calls", []):
            ask(engine, item, bound)


def ask(engine: Engine, item: dict[str, Any], bound: dict[str, Any]) -> None:
    """Asks the engine something by name, and gives names to parts of the answer."""
    if unknown := set(item) - _CALL:
        raise Failed(f"a call has unknown fields {unknown}")
    if "replace_workflow" in item:
        engine.unregister("workflow", item["replace_workflow"]["name"])
        engine.register_workflow(item["replace_workflow"])
        return
    what = item["call"]
    try:
        answer = engine.call(what, with_bound(item.get("params", {}), bound))
    except LomusaiError as error:
        if error.code != item.get("error"):
            raise Failed(f"{what}: expected {item.get('error', 'an answer')}, was {error.code}: {error}") from error
        return
    if "error" in item:
        raise Failed(f"{what}: expected {item['error']}, was answered with {answer}")
    bound.update({name: pointer(answer, path) for name, path in item.get("bind", {}).items()})
    if "expect" in item and (wrong := mismatch(with_bound(item["expect"], bound), answer)):
        raise Failed(f"{what}: {wrong}")
    if not str(answer).startswith(item.get("begins", "")):
        raise Failed(f"{what}: does not begin with {item['begins']}: {answer}")


def with_bound(value: Any, bound: dict[str, Any]) -> Any:
    """With what was bound in the place of its name."""
    if isinstance(value, str) and value.startswith("$"):
        return bound.get(value[1:], value)
    if isinstance(value, list):
        return [with_bound(item, bound) for item in value]
    if isinstance(value, dict):
        return {key: with_bound(item, bound) for key, item in value.items()}
    return value


def run_turn(engine: Engine, turn: dict[str, Any], request: dict[str, Any]) -> Result[Any] | None:
    expect = turn.get("expect", {})
    if "refused" in expect:
        try:
            engine.run(request, check=False)
        except LomusaiError as error:
            check("refused", expect["refused"], error.code)
            return None
        raise Failed(f"the run was to be refused with {expect['refused']}")
    durable = 0
    cancel_at = turn.get("cancel_at")
    waits: list[list[dict[str, Any]]] = []
    commands = list(turn.get("commands", []))
    stream: Stream[Any] = engine.stream(request)
    while True:
        while (event := stream.next()) is not None:
            if not event.get("sub"):
                durable += 1
                if durable == cancel_at:
                    stream.cancel()
        result = stream.result(check=False)
        if result.status != "suspended":
            break
        waits.append(sorted((dict(p) for p in result.pending), key=lambda p: effect_key(p["effect_id"])))
        if not commands:
            break
        batch = commands.pop(0)
        for place, item in enumerate(batch):
            item = item if "send" in item else {"send": item}
            to = stream.run_id + ("/" + item["to"] if "to" in item else "")
            try:
                if "refused" in item or to != stream.run_id or place + 1 < len(batch):
                    engine.command(to, item["send"])
                else:
                    stream = engine.command_stream(to, item["send"])
                    continue
            except LomusaiError as error:
                check("refusal", item.get("refused"), error.code)
                continue
            check("refusal", item.get("refused"), None)
            # The child has gone on, and its parent with it: read the parent beside.
            for event in engine.observe(stream.run_id, seq_of(engine, stream.run_id)):
                if not event.get("sub"):
                    durable += 1
            stream = Settled(engine, stream.run_id)  # type: ignore[assignment]
    check("status", expect.get("status"), result.status)
    if "output" in expect:
        check("output", expect["output"], result.output)
    if "error" in expect:
        check("error", expect["error"], error_body(result.error))
    elif "status" in expect and result.error is not None and result.status != "suspended":
        raise Failed(f"no error is expected, was {result.error}")
    if "messages" in expect:
        check("messages", expect["messages"], result.messages)
    if "pending" in expect:
        check("pending", expect["pending"], waits)
    check_journal(engine, result.run_id, expect)
    for to, child in expect.get("children", {}).items():
        run_id = f"{result.run_id}/{to}"
        stored = engine.result(run_id)
        check(f"child {to}: status", child.get("status"), stored.status)
        if "output" in child:
            check(f"child {to}: output", child["output"], stored.output)
        if "error" in child:
            check(f"child {to}: error", child["error"], error_body(stored.error))
        check_journal(engine, run_id, child)
    return result


class Settled:
    """Stands in for the stream of a run that goes on without a reader."""

    def __init__(self, engine: Engine, run_id: str) -> None:
        self._engine, self.run_id = engine, run_id

    def next(self) -> None:
        return None

    def result(self, *, check: bool = True) -> Any:
        return self._engine.result(self.run_id)


def seq_of(engine: Engine, run_id: str) -> int:
    return engine.run_info(run_id)["seq"]


def error_body(error: LomusaiError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {"code": error.code, "kind": error.kind, "message": error.message, "details": error.details,
            "retryable": error.retryable or None}  # fmt: skip


def check_journal(engine: Engine, run_id: str, expect: dict[str, Any]) -> None:
    events: list[dict[str, Any]] = engine.export(run_id)  # type: ignore[assignment]
    if "events" in expect:
        found = canonical_events(events)
        names = [f"{e['type']} {e['effect_id']}" if "effect_id" in e else e["type"] for e in found]
        if len(found) != len(expect["events"]):
            raise Failed(f"events: expected {expect['events']}, were {names}")
        for wanted, event, name in zip(expect["events"], found, names, strict=True):
            if isinstance(wanted, str):
                check("events", wanted, name if " " in wanted else event["type"])
            else:
                check("events", wanted, event)
    own = digest(events)
    check("the engine's digest", own, engine.digest(run_id))
    # A question mark stands for a digest that the bare runner has yet to write.
    if expect.get("digest", "?") != "?":
        check("digest", expect["digest"], own)


def check(what: str, expected: Any, found: Any) -> None:
    wrong = mismatch(expected, found) if expected is not None or what in ("refusal",) else None
    if wrong:
        raise Failed(f"{what}{wrong if wrong.startswith('/') else ': ' + wrong}")
