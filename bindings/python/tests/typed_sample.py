"""A program that uses the whole public API with types. Only checked, never run: by mypy and pyright, both strict."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from lomusai import (
    Agent,
    CallContext,
    Chunk,
    ClientTool,
    Compatible,
    Engine,
    LlmProvider,
    LomusaiError,
    ModelRequest,
    Result,
    ScriptedModel,
    StepContext,
    Tool,
    ToolContext,
    ToolOutput,
    default_engine,
    path,
    step,
    tool,
    workflow,
)


@dataclass
class City:
    name: str
    people: int


@tool
def add(a: int, b: int = 2) -> int:
    return a + b


@tool(approval=True, timeout=2.5)
async def pay(amount: int, ctx: ToolContext) -> ToolOutput:
    ctx.progress({"percent": 10})
    if ctx.cancelled:
        ctx.suspend("why?")
    return ToolOutput(amount)


plain: Tool[[int, int], int] = Tool(lambda a, b: a + b, name="plain")
total: int = add(1, b=2)


class Parrot(LlmProvider):
    async def stream(self, request: ModelRequest, /) -> AsyncIterator[Chunk]:
        yield str(request["messages"])


def rule(question: dict[str, Any], ctx: CallContext) -> bool:
    return ctx.attempt > 1 and bool(question)


def instruct(question: dict[str, Any]) -> str:
    return f"You are {question['agent']}."


compatible = Compatible("https://example.org/v1", api_key="k")
city_agent = Agent("cities", compatible.model("m"), tools=[add, pay, ClientTool("here")], output=City, approval=rule)
text_agent = Agent("text", Parrot(), agents=[city_agent], instructions=instruct)
schema_agent = Agent("schema", ScriptedModel([{"says": "{}"}]), output={"type": "object"})


def use() -> None:
    result: Result[City] = city_agent.generate("Rome", context={"user": 1})
    city: City = result.object
    print(city.people, result.usage.get("input"), result.status == "suspended")
    if result.pending:
        result = result.approve()
    for event in text_agent.stream("x"):
        if event["type"] == "part_delta":
            piece: str | None = event.get("text")
            print(piece)
    for piece in text_agent.stream("x").text:
        print(piece.upper())
    try:
        schema_agent.generate("x", history=result.messages)
    except LomusaiError as error:
        print(error.code, error.kind, error.retryable)


async def ause() -> None:
    async with Engine("runs.db") as engine:
        engine.register(city_agent, add)
        await engine.astart()
        for run in await engine.apending():
            done = await engine.aapprove(run["run_id"])
            print(done.text, [message["role"] for message in done.messages])
        async for event in engine.observe("run"):
            print(event["seq"])
        stream = text_agent.stream("x")
        async for piece in stream.text:
            print(piece)
        print((await stream.aresult()).run_id)
    print(default_engine().runs(status=["failed", "cancelled"]))


@step
def look_up(order: dict[str, int]) -> City:
    return City("Rome", order["people"])


@step(retry=3, timeout=2.5)
async def count(city: City, ctx: StepContext) -> list[int]:
    if not ctx.is_resumed:
        ctx.suspend({"sum": city.people}, label="boss")
    ctx.set_state(asked=True)
    return [city.people]


@step
def double(number: int) -> float:
    return number * 2.0


flow = workflow("census", input=dict[str, int]).then(look_up).then(count).foreach(double, concurrency=2)


def use_flow() -> None:
    result: Result[list[float]] = flow.run({"people": 3}, run_id="r")
    total: float = sum(result.object)
    print(total, flow.resume("r", True, label="boss").object, flow.spec["steps"])
    flow.signal(flow.start({"people": 1}), "paid", 3)
    graph = workflow("graph").add(look_up, count.after(look_up).when("steps.look_up.people > 1"), double.after("count"))
    graph.branch([("input", double), (lambda asked: bool(asked["input"]), "registered")]).map({"x": path("input.y")})
    for event in graph.stream():
        if event["type"] == "run_finished":
            print(event["outcome"])
