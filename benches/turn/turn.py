"""What a turn costs in Python: a run with a scripted model, without any network."""

import asyncio
import json
import time

from lomusai import Agent, Engine, ScriptedModel, tool

TURNS = 1000
ANSWER = {"says": "word " * 20}


def print_case(name: str, ns: float) -> None:
    print(json.dumps({"case": name, "calls": TURNS, "cpu_us_per_call": ns / TURNS / 1e3}))


@tool(inline=True)
def add(x: int, y: int) -> int:
    return x + y


def measure(name: str, agent: Agent, stream: bool = False) -> None:
    began = 0
    # The first tenth warms up.
    for turn in range(TURNS + TURNS // 10):
        if turn == TURNS // 10:
            began = time.process_time_ns()
        if stream:
            for _ in agent.stream("go"):
                pass
        else:
            agent.generate("go")
    print_case(name, time.process_time_ns() - began)


async def measure_async(name: str, agent: Agent) -> None:
    began = 0
    for turn in range(TURNS + TURNS // 10):
        if turn == TURNS // 10:
            began = time.process_time_ns()
        await agent.agenerate("go")
    print_case(name, time.process_time_ns() - began)


with Engine() as engine:
    speaker = Agent("speaker", ScriptedModel([ANSWER]), engine=engine)
    call = {"calls": [{"name": "add", "arguments": {"x": 1, "y": 2}}]}
    adder = Agent("adder", ScriptedModel([call, {"says": "word"}]), tools=[add], engine=engine)
    measure("Python: turn, 20 deltas, not read", speaker)
    measure("Python: turn, 20 deltas, read", speaker, stream=True)
    measure("Python: turn with one tool round", adder)
    asyncio.run(measure_async("Python: turn, 20 deltas, asyncio", speaker))
