"""Agents, results and streams, as people use them."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import enum
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import lomusai
from lomusai import (
    Agent,
    CallContext,
    Chunk,
    ClientTool,
    Engine,
    LlmProvider,
    LomusaiError,
    ModelRequest,
    ScriptedModel,
    ToolContext,
    ToolOutput,
    tool,
)

SAYS = ScriptedModel([{"says": "Hello there, friend."}])


def calls(name: str, then: str = "done", **arguments: Any) -> ScriptedModel:
    return ScriptedModel([{"calls": [{"name": name, "arguments": arguments}]}, {"says": then}])


def output_of(result: lomusai.Result[Any], name: str) -> Any:
    for message in result.messages:
        for part in message["parts"]:
            if part["type"] == "tool_result" and part["name"] == name:
                return part["output"]
    raise AssertionError(f"{name} was not called")


def test_generate_gives_text_messages_and_usage(engine: Engine) -> None:
    model = ScriptedModel([{"says": "Hi!", "usage": {"input": 3, "output": 1}}])
    result = Agent("a", model, instructions="Be brief.", engine=engine).generate("Hello")
    assert (result.status, result.text) == ("completed", "Hi!")
    assert result.usage == {"input": 3, "output": 1}
    assert [m["role"] for m in result.messages] == ["user", "assistant"]
    assert result.new_messages == result.messages


def test_history_goes_in_and_comes_out(engine: Engine) -> None:
    model = ScriptedModel([{"says": "ok"}])
    agent = Agent("a", model, engine=engine)
    first = agent.generate("one")
    second = agent.generate("two", history=first.messages)
    assert len(second.messages) == 4
    assert len(second.new_messages) == 2


def test_a_thread_keeps_the_conversation(engine: Engine) -> None:
    agent = Agent("a", ScriptedModel([{"says": "ok"}]), engine=engine)
    agent.generate("one", thread="t")
    agent.generate("two", thread="t")
    assert len(engine.messages("t")) == 4
    assert engine.threads()[0]["id" if "id" in engine.threads()[0] else "thread"] == "t"
    assert engine.delete_thread("t")


def test_agents_without_an_engine_share_the_default_one() -> None:
    agent = Agent("default-agent", SAYS)
    assert agent.generate("x").text == "Hello there, friend."
    assert agent.engine is lomusai.default_engine()
    # Defined again, as a notebook's cell does.
    again = Agent("default-agent", ScriptedModel([{"says": "new"}]))
    assert again.generate("x").text == "new"


def test_tools_are_called_with_values_of_their_types(engine: Engine) -> None:
    class Colour(enum.Enum):
        RED = "red"

    @dataclasses.dataclass
    class Point:
        x: int
        y: float = 1

    seen: list[Any] = []

    @tool
    def paint(colour: Colour, at: Point, points: list[Point], note: str | None = None) -> str:
        """Paints."""
        seen.extend([colour, at, points, note])
        return "painted"

    model = calls("paint", colour="red", at={"x": 1}, points=[{"x": 2, "y": 3}])
    result = Agent("a", model, tools=[paint], engine=engine).generate("go")
    assert output_of(result, "paint") == "painted"
    assert seen == [Colour.RED, Point(1), [Point(2, 3.0)], None]
    assert paint.input_schema["additionalProperties"] is False
    assert paint.input_schema["required"] == ["colour", "at", "points"]
    # Still a function.
    assert paint(Colour.RED, Point(1), []) == "painted"


def test_pydantic_models_go_in_and_out(engine: Engine) -> None:
    from pydantic import BaseModel, Field

    class City(BaseModel):
        name: str
        people: int = Field(description="how many live there", ge=0)

    @tool
    def grow(city: City) -> City:
        return City(name=city.name, people=city.people + 1)

    model = ScriptedModel(
        [
            {"calls": [{"name": "grow", "arguments": {"city": {"name": "Rome", "people": 2}}}]},
            {"says": '{"name": "Rome", "people": 3}'},
        ]
    )
    agent = Agent("a", model, tools=[grow], output=City, engine=engine)
    result = agent.generate("go")
    assert output_of(result, "grow") == {"name": "Rome", "people": 3}
    assert isinstance(result.object, City)
    assert result.object.people == 3


def test_output_may_be_a_dataclass_or_a_schema(engine: Engine) -> None:
    @dataclasses.dataclass
    class Answer:
        value: int

    model = ScriptedModel([{"says": '{"value": 4}'}])
    assert Agent("a", model, output=Answer, engine=engine).generate("x").object == Answer(4)
    schema = {"type": "object", "properties": {"value": {"type": "integer"}}}
    assert Agent("b", model, output=schema, engine=engine).generate("x").object == {"value": 4}


def test_what_a_tool_raises_is_told_to_the_model(engine: Engine) -> None:
    @tool
    def fail() -> None:
        raise ValueError("no such ship")

    result = Agent("a", calls("fail"), tools=[fail], engine=engine).generate("go")
    assert "no such ship" in str(output_of(result, "fail"))
    assert result.text == "done"


def test_wrong_arguments_are_told_to_the_model_not_to_the_tool(engine: Engine) -> None:
    called = []

    @tool
    def add(a: int) -> int:
        called.append(a)
        return a

    result = Agent("a", calls("add", a="x", b=1), tools=[add], engine=engine).generate("go")
    assert result.status == "completed"
    assert not called


def test_a_failed_run_raises_with_the_cause_and_its_traceback(engine: Engine) -> None:
    def deep() -> None:
        raise KeyError("boom")

    class Broken(LlmProvider):
        def stream(self, request: ModelRequest, /) -> Iterator[Chunk]:
            yield "a"
            deep()

    agent = Agent("a", Broken(), engine=engine)
    with pytest.raises(LomusaiError) as raised:
        agent.generate("x")
    assert raised.value.code == "provider_host_failed"
    cause = raised.value.__cause__
    assert isinstance(cause, KeyError)
    names = []
    place = cause.__traceback__
    while place is not None:
        names.append(place.tb_frame.f_code.co_name)
        place = place.tb_next
    assert "deep" in names and "stream" in names


def test_a_provider_that_says_try_again_is_tried_again(engine: Engine) -> None:
    tries: list[int] = []

    class Flaky(LlmProvider):
        async def stream(self, request: ModelRequest, /) -> AsyncIterator[Chunk]:
            tries.append(1)
            if len(tries) == 1:
                raise lomusai.RateLimitedError("slow down", code="provider_rate_limited", retry_after_ms=1)
            yield "fine"

    assert Agent("a", Flaky(), engine=engine).generate("x").text == "fine"
    assert len(tries) == 2


def test_providers_may_be_written_in_four_ways(engine: Engine) -> None:
    class Returns(LlmProvider):
        def stream(self, request: ModelRequest, /) -> str:
            return "one"

    class Yields(LlmProvider):
        def stream(self, request: ModelRequest, /) -> Iterator[Chunk]:
            yield "t"
            yield {"type": "text", "text": "wo"}

    class Awaits(LlmProvider):
        async def stream(self, request: ModelRequest, /) -> str:  # type: ignore[override]
            await asyncio.sleep(0)
            return "three"

    class Streams(LlmProvider):
        async def stream(self, request: ModelRequest, ctx: CallContext) -> AsyncIterator[Chunk]:  # type: ignore[override]
            for letter in f"four {ctx.agent}":
                yield letter

    for provider, said in [(Returns(), "one"), (Yields(), "two"), (Awaits(), "three"), (Streams(), "four Streams")]:
        assert Agent(type(provider).__name__, provider, engine=engine).generate("x").text == said


def test_a_long_stream_meets_back_pressure(engine: Engine) -> None:
    class Long(LlmProvider):
        async def stream(self, request: ModelRequest, /) -> AsyncIterator[Chunk]:
            for _ in range(5000):
                yield "x"

    stream = Agent("a", Long(), engine=engine).stream("go")
    assert len("".join(stream.text)) == 5000


async def test_async_all_the_way() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    here = asyncio.get_running_loop()

    @tool
    async def on_loop(ctx: ToolContext) -> dict[str, Any]:
        assert asyncio.get_running_loop() is here
        ctx.progress(50)
        ctx.custom("note", {"a": 1})
        return {"variable": variable.get(), "run": ctx.run_id, "key": ctx.idempotency_key}

    @tool
    def on_thread() -> str:
        return variable.get()

    model = ScriptedModel([{"calls": [{"name": "on_loop"}, {"name": "on_thread"}]}, {"says": "ok"}])
    async with Engine() as engine:
        agent = Agent("a", model, tools=[on_loop, on_thread], engine=engine)
        variable.set("mine")
        result = await agent.agenerate("go")
        assert output_of(result, "on_loop")["variable"] == "mine"
        assert output_of(result, "on_thread") == "mine"
        results = await asyncio.gather(*(agent.agenerate(str(i)) for i in range(200)))
        assert len({r.run_id for r in results}) == 200
        stream = agent.stream("go")
        types = [event["type"] async for event in stream]
        assert "effect_progress" in types and "custom" in types and types[-1] == "run_finished"
        assert (await stream.aresult()).text == "ok"
        assert len(await engine.aruns(limit=1000)) == 202
        assert await engine.adigest(result.run_id) == engine.digest_of(await engine.aexport(result.run_id))


async def test_cancelling_the_task_cancels_the_tool(engine: Engine) -> None:
    told = asyncio.Event()
    begun = asyncio.Event()

    @tool
    async def wait(ctx: ToolContext) -> None:
        begun.set()
        ctx.progress("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.set()
            raise

    agent = Agent("a", calls("wait"), tools=[wait], engine=engine)
    task = asyncio.create_task(agent.agenerate("go"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(told.wait(), 5)
    told.clear()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(agent.agenerate("go"), 0.5)
    await asyncio.wait_for(told.wait(), 5)
    told.clear()
    async for event in agent.stream("go"):
        # Not at its start: a tool that is cancelled before its turn comes is never called.
        if event["type"] == "effect_progress":
            break
    await asyncio.wait_for(told.wait(), 5)
    assert {run["status"] for run in await engine.aruns()} == {"cancelled"}


def test_breaking_out_of_for_cancels_a_plain_tool(engine: Engine) -> None:
    told = threading.Event()

    @tool
    def wait(ctx: ToolContext) -> None:
        ctx.progress("begun")
        while not ctx.cancelled:
            time.sleep(0.002)
        told.set()

    for event in Agent("a", calls("wait"), tools=[wait], engine=engine).stream("go"):
        if event["type"] == "effect_progress":
            break
    assert told.wait(5)


def test_text_has_no_reasoning_in_it(engine: Engine) -> None:
    agent = Agent("a", ScriptedModel([{"reasons": "hmm", "says": "So it is."}]), engine=engine)
    assert "".join(agent.stream("x").text) == "So it is."


async def test_generate_in_a_running_loop_does_not_deadlock(engine: Engine) -> None:
    @tool
    async def slow() -> str:
        await asyncio.sleep(0.01)
        return "ok"

    result = Agent("a", calls("slow"), tools=[slow], engine=engine).generate("go")
    assert output_of(result, "slow") == "ok"


def test_async_tools_may_block_on_the_engine(engine: Engine) -> None:
    """An async tool on the package's loop calls `generate`: another loop takes its place."""

    @tool
    async def leaf() -> str:
        await asyncio.sleep(0)
        return "leaf"

    inner = Agent("inner", calls("leaf"), tools=[leaf], engine=engine)

    @tool
    async def nested() -> str:
        return inner.generate("go").text

    result = Agent("outer", calls("nested"), tools=[nested], engine=engine).generate("go")
    assert output_of(result, "nested") == "done"


def test_approval_and_decline(engine: Engine) -> None:
    paid: list[int] = []

    @tool(approval=True)
    def pay(amount: int) -> str:
        paid.append(amount)
        return "paid"

    agent = Agent("a", calls("pay", amount=4), tools=[pay], engine=engine)
    result = agent.generate("go")
    assert result.status == "suspended"
    assert [p["reason"] for p in result.pending] == ["approval"]
    assert [run["run_id"] for run in engine.pending()] == [result.run_id]
    assert not paid
    assert result.approve().text == "done"
    assert paid == [4]
    declined = agent.generate("go").decline("too much")
    assert declined.status == "completed"
    assert paid == [4]
    assert "too much" in str(output_of(declined, "pay"))


def test_approval_by_a_function(engine: Engine) -> None:
    @tool(approval=lambda question: question["arguments"]["amount"] > 10)
    def pay(amount: int) -> str:
        return "paid"

    assert Agent("small", calls("pay", amount=4), tools=[pay], engine=engine).generate("go").status == "completed"
    assert Agent("large", calls("pay", amount=40), tools=[pay], engine=engine).generate("go").status == "suspended"


def test_a_tool_suspends_and_is_resumed(engine: Engine) -> None:
    @tool(may_suspend=True)
    def ask(ctx: ToolContext) -> Any:
        if not ctx.is_resumed:
            ctx.suspend({"question": "colour?"})
        return ctx.resume

    result = Agent("a", calls("ask"), tools=[ask], engine=engine).generate("go")
    assert result.pending[0]["payload"] == {"question": "colour?"}
    assert output_of(result.resume("blue"), "ask") == "blue"


async def test_async_commands(engine: Engine) -> None:
    @tool(may_suspend=True, approval=True)
    async def ask(ctx: ToolContext) -> Any:
        if not ctx.is_resumed:
            ctx.suspend("?")
        return ctx.resume

    agent = Agent("a", calls("ask"), tools=[ask, ClientTool("here")], engine=engine)
    result = await agent.agenerate("go")
    result = await result.aapprove()
    assert (result.status, result.pending[0]["payload"]) == ("suspended", "?")
    result = await result.aresume({"x": 1})
    assert output_of(result, "ask") == {"x": 1}


def test_client_tools_are_executed_by_the_caller(engine: Engine) -> None:
    result = Agent("a", calls("here"), tools=[ClientTool("here", "Where?")], engine=engine).generate("go")
    assert result.pending[0]["reason"] == "client"
    assert output_of(result.tool_result({"lat": 1}), "here") == {"lat": 1}


def test_functions_instruct_process_hook_and_stop(engine: Engine) -> None:
    asked: list[str] = []

    async def before(question: dict[str, Any]) -> dict[str, Any]:
        asked.append("before")
        return {"arguments": {"a": question["arguments"]["a"] + 1}}

    @tool
    def same(a: int) -> int:
        return a

    class Asks(LlmProvider):
        def stream(self, request: ModelRequest, /) -> Iterator[Chunk]:
            if len(request["messages"]) > 2:
                yield "end"
            else:
                asked.append(str(request["messages"][0]["parts"][0]["text"]))
                yield {"type": "tool_call", "name": "same", "arguments": {"a": 1}}

    agent = Agent(
        "a",
        Asks(),
        instructions=lambda question, ctx: f"You are {ctx.agent}.",
        tools=[same],
        hooks={"before_tool": before},
        processors={"output": lambda question: {"text": question["text"].upper()}},
        engine=engine,
    )
    result = agent.generate("x")
    assert result.text == "END"
    assert output_of(result, "same") == 2
    assert asked == ["You are a.", "before"]


def test_a_failing_function_is_the_cause(engine: Engine) -> None:
    def instructions(question: dict[str, Any]) -> str:
        raise OSError("no file")

    with pytest.raises(lomusai.HostError) as raised:
        Agent("a", SAYS, instructions=instructions, engine=engine).generate("x")
    assert raised.value.code == "function_failed"
    assert isinstance(raised.value.__cause__, OSError)


def test_sub_agents(engine: Engine) -> None:
    expert = Agent("expert", ScriptedModel([{"says": "42"}]), description="Knows.", engine=engine)
    model = ScriptedModel([{"calls": [{"name": "agent-expert", "arguments": {"prompt": "?"}}]}, {"says": "It is 42."}])
    assert Agent("a", model, agents=[expert], engine=engine).generate("x").text == "It is 42."


def test_content_beside_the_result(engine: Engine) -> None:
    @tool
    def picture() -> ToolOutput:
        return ToolOutput("here", [{"type": "image", "source": {"data": "AAAA"}, "media_type": "image/png"}])

    result = Agent("a", calls("picture"), tools=[picture], engine=engine).generate("x")
    part = next(p for m in result.messages for p in m["parts"] if p["type"] == "tool_result")
    assert part["content"][0]["type"] == "image"


def test_context_and_transient_keys(engine: Engine) -> None:
    @tool
    def who(ctx: ToolContext) -> dict[str, Any]:
        return ctx.context

    agent = Agent("a", calls("who"), tools=[who], engine=engine)
    result = agent.generate("x", context={"user": "ada", "token": "t"}, transient=["token"])
    assert output_of(result, "who") == {"user": "ada", "token": "t"}
    assert engine.export(result.run_id)[0]["context"] == {"user": "ada"}  # type: ignore[typeddict-item]


def test_inline_tools(engine: Engine) -> None:
    @tool(inline=True)
    def add(a: int, b: int) -> int:
        return a + b

    assert output_of(Agent("a", calls("add", a=1, b=2), tools=[add], engine=engine).generate("x"), "add") == 3


def test_options_of_a_tool_may_be_said_with_its_function(engine: Engine) -> None:
    add = tool(lambda a, b: a + b, name="add", description="Adds.", inline=True)
    assert (add.spec["name"], add.spec["description"]) == ("add", "Adds.")
    assert output_of(Agent("a", calls("add", a=1, b=2), tools=[add], engine=engine).generate("x"), "add") == 3


def test_exhausted_runs_are_no_error(engine: Engine) -> None:
    @tool
    def again() -> None: ...

    model = ScriptedModel({"answers": [{"calls": [{"name": "again"}]}], "repeat": True})
    assert Agent("a", model, tools=[again], max_steps=2, engine=engine).generate("x").status == "exhausted"


def test_runs_are_listed_exported_and_deleted(engine: Engine) -> None:
    result = Agent("a", SAYS, engine=engine).generate("x")
    assert [run["run_id"] for run in engine.runs(status="completed", agent="a")] == [result.run_id]
    events = engine.export(result.run_id)
    assert engine.digest_of(events) == engine.digest(result.run_id)
    assert engine.result(result.run_id).text == result.text
    assert [event["seq"] for event in engine.observe(result.run_id) if not event.get("sub")] == [
        e["seq"] for e in events
    ]
    assert engine.delete_run(result.run_id)
    assert not engine.delete_run(result.run_id)


def test_embedders(engine: Engine) -> None:
    engine.register_embedder("e", 2, lambda texts: [[float(len(text)), 0.5] for text in texts])
    assert engine.embed("e", ["ab", "c"]) == [[2.0, 0.5], [1.0, 0.5]]


def test_notes_go_to_logging(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="lomusai"):
        Agent("a", SAYS, engine=engine).generate("x")
    # Notes are rare: that none breaks anything is what counts here.
    assert all(record.name == "lomusai" for record in caplog.records if record.name.startswith("lomusai"))


def test_many_threads_share_an_engine(engine: Engine) -> None:
    @tool
    def double(n: int) -> int:
        return n * 2

    @tool
    async def triple(n: int) -> int:
        return n * 3

    class Model(LlmProvider):
        def stream(self, request: ModelRequest, /) -> Iterator[Chunk]:
            messages = request["messages"]
            if messages[-1]["role"] == "user":
                n = int(messages[-1]["parts"][0]["text"])
                yield {"type": "tool_call", "name": "double" if n % 2 else "triple", "arguments": {"n": n}}
            else:
                yield str(messages[-1]["parts"][0]["output"])

    agent = Agent("a", Model(), tools=[double, triple], engine=engine)
    wrong: list[Any] = []

    def work(thread: int) -> None:
        for turn in range(300):
            n = thread * 1000 + turn
            try:
                text = agent.generate(str(n)).text
            except Exception as error:
                wrong.append(error)
                return
            if text != str(n * (2 if n % 2 else 3)):
                wrong.append((n, text))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
