"""Callables that break every rule: an error or nothing, never a crash, hang or leak."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import lomusai
from conftest import SOAK
from lomusai import Agent, Chunk, Engine, LlmProvider, LomusaiError, ModelRequest, ScriptedModel, ToolContext, tool
from lomusai._lomusai import Answer, Call


def resident() -> int:
    """Resident memory in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def model(*names: str) -> ScriptedModel:
    return ScriptedModel([{"calls": [{"name": name} for name in names]}, {"says": "done"}])


def repeat(engine: Engine, times: int, once: Callable[[], None]) -> None:
    """Runs a case often; the second half must not grow."""
    half = 0
    for place in range(times):
        once()
        if place == times // 2:
            gc.collect()
            half = resident()
    gc.collect()
    grown = resident() - half
    # Short runs of few cases measure the allocator; in the soak the bound is the real one.
    assert grown <= (1 if SOAK else 8) * 1024 * 1024, f"{grown / 1024:.0f} KiB"


@pytest.fixture
def small() -> Iterator[Engine]:
    """An engine that forgets finished runs soon, so that memory says something."""
    with Engine(keep_finished=10) as engine:
        yield engine


def one(engine: Engine, handler: Callable[[Call, Answer], Any], place: str = "pool", **spec: Any) -> Callable[[], Any]:
    """A tool given as it is to the engine, with the answer handle in its hands."""
    engine._native.register_tool({"name": "bad", **spec}, handler, place)
    agent = Agent("a", model("bad"), tools=["bad"], engine=engine)

    def once() -> Any:
        result = agent.generate("go")
        assert result.status == "completed"
        [part] = [p for m in result.messages for p in m["parts"] if p["type"] == "tool_result"]
        return part

    return once


def test_raising(small: Engine, runs: int) -> None:
    def bad(call: Call, answer: Answer) -> None:
        raise ValueError("no")

    once = one(small, bad)
    repeat(small, runs, lambda: check(once(), "error", "no"))


def test_raising_async(small: Engine, runs: int) -> None:
    async def bad(call: Call, answer: Answer) -> None:
        raise ValueError("no")

    once = one(small, bad, "async")
    repeat(small, runs, lambda: check(once(), "error", "no"))


def until(holds: Callable[[], bool]) -> None:
    for _ in range(5000):
        if holds():
            return
        time.sleep(0.001)
    raise AssertionError("it never came")


def check(part: Any, status: str, said: str) -> None:
    assert part.get("status", "ok") == status, part
    assert said in str(part["output"]), part


@pytest.mark.parametrize("place", ["pool", "async"])
def test_letting_go_unanswered(small: Engine, runs: int, place: str) -> None:
    def bad(call: Call, answer: Answer) -> None:
        return None

    async def bad_async(call: Call, answer: Answer) -> None:
        return None

    once = one(small, bad if place == "pool" else bad_async, place)
    repeat(small, runs, lambda: check(once(), "error", "without an answer"))


def test_answering_twice(small: Engine, runs: int) -> None:
    codes: set[str] = set()

    def bad(call: Call, answer: Answer) -> None:
        answer.resolve(1)
        for again in (
            lambda: answer.resolve(2),
            lambda: answer.reject(ValueError("late")),
            lambda: answer.suspend(None),
        ):
            try:
                again()
            except LomusaiError as error:
                codes.add(error.code)

    once = one(small, bad)
    repeat(small, runs, lambda: check(once(), "ok", "1"))
    assert codes <= {"already_answered", "handle_closed"}


def test_answering_from_another_thread(small: Engine, runs: int) -> None:
    def bad(call: Call, answer: Answer) -> None:
        threading.Thread(target=answer.resolve, args=("later",)).start()

    once = one(small, bad, "inline")
    repeat(small, min(runs, 5000), lambda: check(once(), "ok", "later"))


def test_answering_after_the_timeout(small: Engine) -> None:
    kept: list[Answer] = []

    def bad(call: Call, answer: Answer) -> None:
        kept.append(answer)

    once = one(small, bad, timeout_ms=2)
    for _ in range(200):
        part = once()
        assert part["status"] == "error"
        answer = kept.pop()
        assert answer.cancelled
        with pytest.raises(lomusai.ClosedError):
            answer.resolve(1)


def test_never_answering_ends_with_the_timeout(small: Engine) -> None:
    @tool(timeout=0.01)
    async def never() -> None:
        await asyncio.sleep(3600)

    agent = Agent("a", model("never"), tools=[never], engine=small)
    results = [agent.generate("go") for _ in range(100)]
    assert {result.status for result in results} == {"completed"}
    assert "never" in str(results[0].messages)


def test_answering_after_cancel_and_after_close() -> None:
    kept: list[Answer] = []
    with Engine() as engine:

        def bad(call: Call, answer: Answer) -> None:
            kept.append(answer)

        engine._native.register_tool({"name": "bad"}, bad, "pool")
        agent = Agent("a", model("bad"), tools=["bad"], engine=engine)
        for _ in range(300):
            stream = agent.stream("go")
            until(lambda: bool(kept))
            stream.cancel()
            assert stream.result().status == "cancelled"
            with pytest.raises(lomusai.ClosedError):
                kept.pop().resolve(1)
        stream = agent.stream("go")
        until(lambda: bool(kept))
    assert stream.result(check=False).status == "cancelled"
    with pytest.raises(lomusai.ClosedError):
        kept.pop().resolve(1)
    with pytest.raises(lomusai.ClosedError):
        agent.generate("go")
    with pytest.raises(lomusai.ClosedError):
        engine.runs()
    engine.close()


NOT_JSON: list[tuple[Any, str]] = [
    (float("nan"), "NaN"),
    (float("-inf"), "inf"),
    (object(), "object"),
    (b"bytes", "bytes"),
    ("\ud800", "Unicode"),
    ({"\udfff": 1}, "Unicode"),
    ({(1, 2): 3}, "key"),
]


@pytest.mark.parametrize(("value", "said"), NOT_JSON, ids=[said for _, said in NOT_JSON])
def test_results_that_are_not_json(small: Engine, runs: int, value: Any, said: str) -> None:
    @tool
    def bad() -> Any:
        return value

    agent = Agent("a", model("bad"), tools=[bad], engine=small)

    def once() -> None:
        [part] = [p for m in agent.generate("go").messages for p in m["parts"] if p["type"] == "tool_result"]
        check(part, "error", said)

    repeat(small, runs // 5, once)


def test_results_that_contain_themselves(small: Engine) -> None:
    knot: list[Any] = []
    knot.append(knot)

    @tool
    def bad() -> Any:
        return knot

    result = Agent("a", model("bad"), tools=[bad], engine=small).generate("go")
    assert "nested deeper" in str(result.messages)


def test_text_that_is_not_json(small: Engine, runs: int) -> None:
    def bad(call: Call, answer: Answer) -> None:
        with pytest.raises(lomusai.InvalidError):
            answer.resolve_text("{")
        answer.resolve("open until answered")

    once = one(small, bad)
    repeat(small, runs, lambda: check(once(), "ok", "open"))


def test_nul_and_odd_texts_come_through(small: Engine, runs: int) -> None:
    odd = "a\0b\u2028\U0001f600\x7f"

    @tool
    def bad() -> str:
        return odd

    agent = Agent("a", model("bad"), tools=[bad], engine=small)

    def once() -> None:
        [part] = [p for m in agent.generate("x\0y").messages for p in m["parts"] if p["type"] == "tool_result"]
        assert part["output"] == odd

    repeat(small, runs // 5, once)


def test_64_megabytes(small: Engine) -> None:
    @tool
    def huge() -> str:
        return "x" * (64 << 20)

    result = Agent("a", model("huge"), tools=[huge], engine=small).generate("go")
    assert result.status == "completed"
    [part] = [p for m in result.messages for p in m["parts"] if p["type"] == "tool_result"]
    assert part.get("status") == "error" and "67108" in str(part["output"]).replace(",", ""), str(part)[:300]


def test_integers_of_any_size(small: Engine) -> None:
    @tool
    def big(n: int) -> list[int]:
        return [n, 2**63, -(2**70)]

    script = ScriptedModel(
        [{"calls": [{"name": "big", "arguments": '{"n": 123456789012345678901234567890}'}]}, {"says": "ok"}]
    )
    result = Agent("a", script, tools=[big], engine=small).generate("go")
    [part] = [p for m in result.messages for p in m["parts"] if p["type"] == "tool_result"]
    assert part["output"] == ["123456789012345678901234567890", str(2**63), str(-(2**70))]


@pytest.mark.parametrize("depth", [50])
def test_re_entering_the_engine(depth: int) -> None:
    """Tools that run agents whose tools run agents: 20 times 50 deep, a thousand calls in all that wait at once at
    most 50 deep."""
    with Engine(keep_finished=10) as engine:
        agents: list[Agent[Any]] = []

        @tool
        def deeper(n: int) -> str:
            return agents[0].generate(str(n - 1)).text if n > 1 else "bottom"

        class Model(LlmProvider):
            def stream(self, request: ModelRequest, /) -> Iterator[Chunk]:
                messages = request["messages"]
                if messages[-1]["role"] == "user":
                    yield {
                        "type": "tool_call",
                        "name": "deeper",
                        "arguments": {"n": int(messages[-1]["parts"][0]["text"])},
                    }
                else:
                    yield str(messages[-1]["parts"][0]["output"])

        agents.append(Agent("a", Model(), tools=[deeper], engine=engine))
        results: list[str] = []
        threads = [
            threading.Thread(target=lambda: results.append(agents[0].generate(str(depth)).text))
            for _ in range(1000 // depth)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == ["bottom"] * (1000 // depth)


PROVIDERS: dict[str, tuple[Any, str]] = {
    "raises": (lambda: (_ for _ in ()).throw(ValueError("no")), "provider_host_failed"),
    "nan": (lambda: iter([{"type": "metadata", "key": "k", "value": float("nan")}]), "function_reply_invalid"),
    "unknown": (lambda: iter([{"type": "no such"}]), "provider_host_failed"),
    "number": (lambda: 3, "provider_host_failed"),
    "surrogate": (lambda: iter(["\ud800"]), "function_reply_invalid"),
    "after the finish": (lambda: iter([{"type": "finish"}, "more"]), ""),
    "nothing": (lambda: iter(()), ""),
}


@pytest.mark.parametrize("name", PROVIDERS)
def test_providers_that_misbehave(small: Engine, runs: int, name: str) -> None:
    answer, code = PROVIDERS[name]

    class Bad(LlmProvider):
        def stream(self, request: ModelRequest, /) -> Any:
            return answer()

    agent = Agent("a", Bad(), settings={"max_retries": 0}, engine=small)

    def once() -> None:
        try:
            agent.generate("go")
        except LomusaiError as error:
            assert not code or error.code == code, error
        else:
            assert not code

    repeat(small, runs // 5, once)


async def test_generators_that_are_left_are_closed(small: Engine) -> None:
    closed: list[str] = []

    class Endless(LlmProvider):
        async def stream(self, request: ModelRequest, /) -> AsyncIterator[Chunk]:
            try:
                while True:
                    yield "x"
                    await asyncio.sleep(0)
            finally:
                closed.append("async")

    class EndlessPlain(LlmProvider):
        def stream(self, request: ModelRequest, /) -> Iterator[Chunk]:
            try:
                while True:
                    yield "x"
            finally:
                closed.append("plain")

    for provider in (Endless(), EndlessPlain()):
        agent = Agent(type(provider).__name__, provider, engine=small)
        async for event in agent.stream("go"):
            if event["type"] == "part_delta":
                break
    for _ in range(500):
        if len(closed) == 2:
            break
        await asyncio.sleep(0.01)
    assert sorted(closed) == ["async", "plain"]


def test_suspending_where_it_is_not_allowed_is_told(small: Engine) -> None:
    @tool
    def bad(ctx: ToolContext) -> None:
        ctx.suspend("?")

    result = Agent("a", model("bad"), tools=[bad], engine=small).generate("go")
    assert result.status in ("completed", "suspended")


def test_exceptions_that_cannot_be_shown(small: Engine, runs: int) -> None:
    class Unshown(Exception):
        def __str__(self) -> str:
            raise RuntimeError("even this")

    def bad(call: Call, answer: Answer) -> None:
        raise Unshown

    once = one(small, bad)
    repeat(small, runs // 5, lambda: check(once(), "error", "Unshown"))


def test_closing_from_a_tool() -> None:
    engine = Engine(close_ms=500)

    @tool
    def close() -> None:
        engine.close()

    agent = Agent("a", model("close"), tools=[close], engine=engine)
    begun = time.monotonic()
    try:
        agent.generate("go")
    except LomusaiError as error:
        assert error.kind in ("closed", "timeout", "cancelled"), error
    assert time.monotonic() - begun < 5
    assert engine.closed


def test_a_callable_that_does_not_return_is_reported_by_close() -> None:
    engine = Engine()
    stop = threading.Event()

    @tool
    def stuck() -> None:
        stop.wait(20)

    stream = Agent("a", model("stuck"), tools=[stuck], engine=engine).stream("go")
    for event in stream:
        if event["type"] == "effect_started" and event["kind"] == "tool":
            time.sleep(0.05)
            break
    try:
        with pytest.raises(lomusai.TimeoutError) as raised:
            engine.close(0.1)
        assert raised.value.code == "close_timeout"
        assert "stuck" in str(raised.value)
    finally:
        stop.set()
