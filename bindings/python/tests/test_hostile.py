"""Callables that break every rule: an error or nothing, never a crash, hang or leak."""

from __future__ import annotations

import array
import asyncio
import ctypes
import gc
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import lomusai
from conftest import SOAK
from lomusai import Agent, Chunk, Engine, LlmProvider, LomusaiError, ModelRequest, ScriptedModel, ToolContext, tool
from lomusai._lomusai import Answer, Call


def used() -> int:
    """Bytes in use. A soak counts what is allocated and not given back, see tests/c/count_malloc.c; a short run looks
    at the process, less what its allocator only keeps for later."""
    gc.collect()
    count = os.environ.get("LOMUSAI_MALLOC_COUNT")
    if count:
        with open(count, "rb") as file:
            _, size, process = array.array("q", file.read())
        assert process == os.getpid(), "somebody else is counted"
        return size
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def model(*names: str) -> ScriptedModel:
    return ScriptedModel([{"calls": [{"name": name} for name in names]}, {"says": "done"}])


def repeat(engine: Engine, times: int, once: Callable[[], Any]) -> None:
    """Runs a case often; the second half must not grow. A soak says ten times where it is."""
    half, begun = 0, time.monotonic()
    for place in range(times):
        once()
        if place == times // 2:
            half = used()
        if SOAK and times >= 10 and (place + 1) % (times // 10) == 0:
            took = time.monotonic() - begun
            print(f"\n  {place + 1} of {times} after {took:.0f} s: {used() // 1024} KiB", end="", flush=True)
    grown = used() - half
    if SOAK:
        print(f"\n  {times} times, the second half grew by {grown // 1024} KiB", flush=True)
    # Short runs of few cases measure the allocator; in the soak the bound is the real one.
    assert grown <= (1 if SOAK else 8) * 1024 * 1024, f"{grown / 1024:.0f} KiB"


AT_ONCE = 25
"""So many runs wait at once for what does not come: alone, each would wait for the clock."""


def at_once(agent: Agent[Any]) -> list[Any]:
    async def gather() -> list[Any]:
        return await asyncio.gather(*(agent.agenerate("go") for _ in range(AT_ONCE)))

    return asyncio.run(gather())


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
    repeat(small, runs, lambda: check(once(), "ok", "later"))


def test_answering_after_the_timeout(small: Engine, runs: int) -> None:
    kept: list[Answer] = []

    def bad(call: Call, answer: Answer) -> None:
        kept.append(answer)

    small._native.register_tool({"name": "bad", "timeout_ms": 2}, bad, "pool")
    agent = Agent("a", model("bad"), tools=["bad"], engine=small)

    def late() -> None:
        for result in at_once(agent):
            assert result.status == "completed" and "did not answer" in str(result.messages)
        # The time may be over before the tool is called: then it is not called any more, or only now.
        for answer in [kept.pop() for _ in list(kept)]:
            assert answer.cancelled
            with pytest.raises(lomusai.ClosedError):
                answer.resolve(1)

    repeat(small, runs // AT_ONCE, late)


def test_never_answering_ends_with_the_timeout(small: Engine, runs: int) -> None:
    @tool(timeout=0.001)
    async def never() -> None:
        await asyncio.sleep(3600)

    agent = Agent("a", model("never"), tools=[never], engine=small)

    def once() -> None:
        for result in at_once(agent):
            assert result.status == "completed" and "never" in str(result.messages)

    repeat(small, runs // AT_ONCE, once)


def test_answering_after_cancel(small: Engine, runs: int) -> None:
    kept: list[Answer] = []

    def bad(call: Call, answer: Answer) -> None:
        kept.append(answer)

    small._native.register_tool({"name": "bad"}, bad, "pool")
    agent = Agent("a", model("bad"), tools=["bad"], engine=small)

    def once() -> None:
        stream = agent.stream("go")
        until(lambda: bool(kept))
        stream.cancel()
        assert stream.result().status == "cancelled"
        with pytest.raises(lomusai.ClosedError):
            kept.pop().resolve(1)

    repeat(small, runs, once)


def test_answering_after_close(small: Engine, runs: int) -> None:
    """Ten runs on an engine of their own each time."""
    kept: list[Answer] = []

    def bad(call: Call, answer: Answer) -> None:
        kept.append(answer)

    def once() -> None:
        with Engine() as engine:
            engine._native.register_tool({"name": "bad"}, bad, "pool")
            agent = Agent("a", model("bad"), tools=["bad"], engine=engine)
            streams = [agent.stream("go") for _ in range(10)]
            until(lambda: len(kept) == 10)
        for stream in streams:
            assert stream.result(check=False).status == "cancelled"
            with pytest.raises(lomusai.ClosedError):
                kept.pop().resolve(1)
        with pytest.raises(lomusai.ClosedError):
            agent.generate("go")
        with pytest.raises(lomusai.ClosedError):
            engine.runs()
        engine.close()

    repeat(small, runs // 10, once)


NOT_JSON: list[tuple[Any, str]] = [
    (float("nan"), "NaN"),
    (float("-inf"), "inf"),
    (object(), "object"),
    (b"bytes", "bytes"),
    ("\ud800", "Unicode"),
    ({"\udfff": 1}, "Unicode"),
    ({(1, 2): 3}, "key"),
]


KNOT: list[Any] = []
KNOT.append(KNOT)
NOT_JSON.append((KNOT, "nested deeper"))


def test_results_that_are_not_json(small: Engine, runs: int) -> None:
    turns = itertools.cycle(NOT_JSON)
    value: Any = None

    @tool
    def bad() -> Any:
        return value

    agent = Agent("a", model("bad"), tools=[bad], engine=small)

    def once() -> None:
        nonlocal value
        value, said = next(turns)
        [part] = [p for m in agent.generate("go").messages for p in m["parts"] if p["type"] == "tool_result"]
        check(part, "error", said)

    repeat(small, runs, once)


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

    repeat(small, runs, once)


def test_64_megabytes(small: Engine, runs: int) -> None:
    """64 MB are written, copied and read in seconds, which is too long for thousands of runs. The true limit is met a
    few times, and a lower one, which is the same code, as often as in the other cases."""
    length = 0

    @tool
    def huge() -> str:
        return "x" * length

    def around(agent: Agent[Any], limit: int) -> Callable[[], None]:
        # With its quotes just what is allowed, and one more.
        turns = itertools.cycle([limit - 2, limit - 1])

        def once() -> None:
            nonlocal length
            length = next(turns)
            result = agent.generate("go")
            assert result.status == "completed"
            [part] = [p for m in result.messages for p in m["parts"] if p["type"] == "tool_result"]
            if length == limit - 2:
                assert part.get("status", "ok") == "ok" and len(part["output"]) == length
            else:
                assert part["status"] == "error" and f"limits.result_bytes = {limit}" in part["output"], str(part)[:300]

        return once

    low = Agent("low", model("huge"), tools=[huge], limits={"result_bytes": 16 << 10}, engine=small)
    repeat(small, runs, around(low, 16 << 10))
    true = around(Agent("true", model("huge"), tools=[huge], engine=small), 64 << 20)
    for _ in range(4):
        true()


def test_integers_of_any_size(small: Engine, runs: int) -> None:
    @tool
    def big(n: int) -> list[int]:
        return [n, 2**63, -(2**70)]

    script = ScriptedModel(
        [{"calls": [{"name": "big", "arguments": '{"n": 123456789012345678901234567890}'}]}, {"says": "ok"}]
    )
    agent = Agent("a", script, tools=[big], engine=small)

    def once() -> None:
        [part] = [p for m in agent.generate("go").messages for p in m["parts"] if p["type"] == "tool_result"]
        assert part["output"] == ["123456789012345678901234567890", str(2**63), str(-(2**70))]

    repeat(small, runs, once)


DEPTH = 1_000


def test_re_entering_the_engine_1000_deep(small: Engine, runs: int) -> None:
    """A tool that runs the agent whose tool runs the agent: each time a thousand runs, one within the other, and as
    many threads that wait."""
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

    agents.append(Agent("a", Model(), tools=[deeper], engine=small))

    def once() -> None:
        assert agents[0].generate(str(DEPTH)).text == "bottom"

    repeat(small, max(1, runs // DEPTH), once)


PROVIDERS: dict[str, tuple[Any, str]] = {
    "raises": (lambda: (_ for _ in ()).throw(ValueError("no")), "provider_host_failed"),
    "nan": (lambda: iter([{"type": "metadata", "key": "k", "value": float("nan")}]), "provider_host_failed"),
    "unknown": (lambda: iter([{"type": "no such"}]), "provider_host_failed"),
    "number": (lambda: 3, "provider_host_failed"),
    "surrogate": (lambda: iter(["\ud800"]), "provider_host_failed"),
    "after the finish": (lambda: iter([{"type": "finish"}, "more"]), ""),
    "nothing": (lambda: iter(()), ""),
}


def test_providers_that_misbehave(small: Engine, runs: int) -> None:
    turns = itertools.cycle(PROVIDERS.items())
    answer: Any = None

    class Bad(LlmProvider):
        def stream(self, request: ModelRequest, /) -> Any:
            return answer()

    agent = Agent("a", Bad(), settings={"max_retries": 0}, engine=small)

    def once() -> None:
        nonlocal answer
        name, (answer, code) = next(turns)
        try:
            agent.generate("go")
        except LomusaiError as error:
            assert not code or error.code == code, (name, error)
        else:
            assert not code, name

    repeat(small, runs, once)


async def test_generators_that_are_left_are_closed(small: Engine, runs: int) -> None:
    closed = 0

    class Endless(LlmProvider):
        async def stream(self, request: ModelRequest, /) -> AsyncIterator[Chunk]:
            try:
                while True:
                    yield "x"
                    await asyncio.sleep(0)
            finally:
                nonlocal closed
                closed += 1

    class EndlessPlain(LlmProvider):
        def stream(self, request: ModelRequest, /) -> Iterator[Chunk]:
            try:
                while True:
                    yield "x"
            finally:
                nonlocal closed
                closed += 1

    agents = [Agent(type(p).__name__, p, engine=small) for p in (Endless(), EndlessPlain())]
    for place in range(runs):
        async for event in agents[place % 2].stream("go"):
            if event["type"] == "part_delta":
                break
        # A generator is closed by the thread that ran it, in its own time.
        while closed <= place:
            await asyncio.sleep(0.001)
    assert closed == runs


def test_suspending_where_no_tool_may_suspend_waits_all_the_same(small: Engine, runs: int) -> None:
    @tool
    def bad(ctx: ToolContext) -> None:
        ctx.suspend("?")

    agent = Agent("a", model("bad"), tools=[bad], engine=small)

    def once() -> None:
        result = agent.generate("go")
        assert result.status == "suspended"
        small.delete_run(result.run_id)

    repeat(small, runs, once)


def test_exceptions_that_cannot_be_shown(small: Engine, runs: int) -> None:
    class Unshown(Exception):
        def __str__(self) -> str:
            raise RuntimeError("even this")

    def bad(call: Call, answer: Answer) -> None:
        raise Unshown

    once = one(small, bad)
    repeat(small, runs, lambda: check(once(), "error", "Unshown"))


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_ending_the_interpreter_from_an_async_tool(small: Engine, runs: int, end: type[BaseException]) -> None:
    """On the package's loop, which goes on."""

    async def bad(call: Call, answer: Answer) -> None:
        raise end("enough")

    once = one(small, bad, "async")
    repeat(small, runs, lambda: check(once(), "error", "enough"))


def test_stopping_the_loop_from_an_async_tool(small: Engine, runs: int) -> None:
    async def bad(call: Call, answer: Answer) -> None:
        asyncio.get_running_loop().stop()
        answer.resolve("stopped")

    once = one(small, bad, "async")
    repeat(small, runs, lambda: check(once(), "ok", "stopped"))


def test_closing_from_several_threads_while_others_run() -> None:
    """Whoever comes too late is told so, and nothing else."""
    kinds: set[str] = set()

    def work(agent: Agent[Any]) -> None:
        while not agent.engine.closed:
            try:
                agent.generate("go")
            except LomusaiError as error:
                kinds.add(error.kind)

    for _ in range(20):
        engine = Engine()
        agent = Agent("a", model("fine"), tools=[tool(lambda: 1, name="fine")], engine=engine)
        agent.generate("go")
        threads = [threading.Thread(target=work, args=(agent,)) for _ in range(4)]
        threads += [threading.Thread(target=engine.close) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    assert kinds <= {"closed", "cancelled"}


def test_closing_from_a_tool(small: Engine, runs: int) -> None:
    """An engine of its own each time."""

    def once() -> None:
        engine = Engine()

        @tool
        def close() -> None:
            engine.close()

        agent = Agent("a", model("close"), tools=[close], engine=engine)
        try:
            agent.generate("go")
        except LomusaiError as error:
            assert error.kind in ("closed", "cancelled"), error
        assert engine.closed

    repeat(small, runs, once)


def test_a_callable_that_does_not_return_is_reported_by_close(small: Engine, runs: int) -> None:
    """An engine of its own each time."""

    def once() -> None:
        engine, begun, stop = Engine(), threading.Event(), threading.Event()

        @tool
        def stuck() -> None:
            begun.set()
            stop.wait(20)

        stream = Agent("a", model("stuck"), tools=[stuck], engine=engine).stream("go")
        assert begun.wait(20)
        try:
            with pytest.raises(lomusai.TimeoutError) as raised:
                engine.close(0.001)
            assert raised.value.code == "close_timeout"
            assert "stuck" in str(raised.value)
        finally:
            stop.set()
        del stream

    repeat(small, runs, once)


def test_a_forked_child_is_told(small: Engine, runs: int) -> None:
    once = one(small, lambda call, answer: answer.resolve("fine"))

    # Starting a process takes a hundred times as long as what is looked for: a soak asks twenty times in each.
    asks = 20 if SOAK else 1

    def fork() -> None:
        child = os.fork()
        if child == 0:
            for _ in range(asks):
                try:
                    once()
                except lomusai.ConflictError as error:
                    if error.code == "engine_forked":
                        continue
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0

    repeat(small, runs // asks, fork)
    check(once(), "ok", "fine")


# --- Steps of workflows -----------------------------------------------------------------------------------------------


def one_step(
    engine: Engine, handler: Callable[[Call, Answer], Any], place: str = "pool", **spec: Any
) -> Callable[[], Any]:
    """A step given as it is to the engine; what its run came to, or the code of why it failed."""
    engine._native.register_step("bad", handler, place)
    engine.register_workflow({"name": "flow", "steps": [{"id": "a", "run": {"step": "bad"}, **spec}]})

    def once() -> Any:
        try:
            return engine.run({"workflow": "flow", "input": "go"}).object
        except LomusaiError as error:
            return error.code

    return once


def equal(found: Any, wanted: Any) -> None:
    assert found == wanted


@pytest.mark.parametrize("place", ["pool", "async"])
def test_a_step_that_raises(small: Engine, runs: int, place: str) -> None:
    def bad(call: Call, answer: Answer) -> None:
        raise ValueError("no")

    async def bad_async(call: Call, answer: Answer) -> None:
        raise ValueError("no")

    once = one_step(small, bad if place == "pool" else bad_async, place)
    repeat(small, runs, lambda: equal(once(), "step_failed"))


def test_a_step_that_lets_go_unanswered(small: Engine, runs: int) -> None:
    once = one_step(small, lambda call, answer: None)
    repeat(small, runs, lambda: equal(once(), "step_unanswered"))


def test_a_step_that_answers_twice(small: Engine, runs: int) -> None:
    codes: set[str] = set()

    def bad(call: Call, answer: Answer) -> None:
        answer.resolve("first")
        for again in (lambda: answer.resolve(2), lambda: answer.reply({"bail": 3}), lambda: answer.suspend(None)):
            try:
                again()
            except LomusaiError as error:
                codes.add(error.code)

    once = one_step(small, bad)
    repeat(small, runs, lambda: equal(once(), "first"))
    assert codes <= {"already_answered", "handle_closed"}


def test_a_step_whose_answer_is_no_json(small: Engine, runs: int) -> None:
    flow = lomusai.workflow("flow", engine=small).then(lambda value: object())

    def once() -> None:
        with pytest.raises(LomusaiError) as raised:
            flow.run()
        assert raised.value.code == "step_result_invalid"

    repeat(small, runs, once)


def test_a_step_whose_reply_is_none(small: Engine, runs: int) -> None:
    codes: set[str] = set()

    def bad(call: Call, answer: Answer) -> None:
        for reply in ([1], {"bail": 1, "colour": "red"}, "x"):
            with pytest.raises(LomusaiError) as raised:
                answer.reply(reply)
            codes.add(raised.value.code)
        answer.resolve("on")

    once = one_step(small, bad)
    repeat(small, runs // 5, lambda: equal(once(), "on"))
    assert codes == {"argument_invalid"}


def test_a_step_that_answers_100_mb(small: Engine) -> None:
    once = one_step(small, lambda call, answer: answer.resolve("x" * 100_000_000))
    equal(once(), "result_too_large")


def test_a_step_that_never_answers_and_does_later(small: Engine, runs: int) -> None:
    kept: list[Answer] = []
    once = one_step(small, lambda call, answer: kept.append(answer), timeout_ms=2)

    def late() -> None:
        equal(once(), "step_timeout")
        # The call may only come when the run is over.
        while kept:
            with pytest.raises(LomusaiError) as raised:
                kept.pop().resolve(1)
            assert raised.value.code == "handle_closed"

    repeat(small, runs // 20, late)


def test_a_step_that_answers_after_its_run_was_cancelled(small: Engine, runs: int) -> None:
    calls: list[Answer] = []
    called = threading.Semaphore(0)

    def keeps(call: Call, answer: Answer) -> None:
        calls.append(answer)
        called.release()

    one_step(small, keeps)

    def once() -> None:
        stream = small.stream({"workflow": "flow"})
        called.acquire()
        stream.cancel()
        assert stream.result().status == "cancelled"
        with pytest.raises(LomusaiError) as raised:
            calls.pop().resolve(1)
        assert raised.value.code == "handle_closed"

    repeat(small, runs // 5, once)
