"""One of the peers, from Python: `peer.py JOB [N]`, against the server `MOCK_URL`, prints one line. The jobs are the Rust program's."""

import json
import os
import resource
import sys
import time
import tracemalloc

from lomusai import Agent, Compatible, Engine, tool


@tool
def add(a: float, b: float) -> dict[str, float]:
    """Add two numbers"""
    return {"sum": a + b}


def agent(engine: Engine, name: str, *, tools: bool = False) -> Agent:
    model = "mock/mock"
    instructions = "You are a helpful assistant."
    return Agent(name, model, instructions=instructions, tools=[add] if tools else [], max_steps=20, engine=engine)


def turn(agent: Agent, prompt: str) -> None:
    assert agent.generate(prompt).text


class Watch:
    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def done(self) -> tuple[float, float]:
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


def say(n: int, took: tuple[float, float], **extra: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = {"peer": "lomusai-python", "job": JOB, "n": n, "wall_s": took[0], "cpu_s": took[1], "peak_rss_kb": peak}
    print(json.dumps({**line, "extra": extra}), flush=True)


def agents(engine: Engine, n: int = 10_000) -> None:
    def make(i: int) -> Agent:
        one = agent(engine, f"agent{i}", tools=True)
        engine.register(one)
        return one

    kept = [make(-1 - i) for i in range(200)]
    watch = Watch()
    kept += [make(i) for i in range(n)]
    took = watch.done()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept += [make(n + i) for i in range(1_000)]
    bytes_per_agent = (tracemalloc.get_traced_memory()[0] - before) / 1_000
    say(n, took, us_per_agent=took[0] * 1e6 / n, bytes_per_agent=bytes_per_agent)


def cold_start(engine: Engine, n: int = 1) -> None:
    watch = Watch()
    turn(agent(engine, "agent", tools=True), "hello tools:1")
    say(1, watch.done())


def turns(engine: Engine, n: int = 500) -> None:
    one = agent(engine, "agent")
    for _ in range(100):
        turn(one, "hello")
    laps = []
    watch = Watch()
    for _ in range(n):
        began = time.perf_counter()
        turn(one, "hello")
        laps.append((time.perf_counter() - began) * 1e6)
    took = watch.done()
    laps.sort()
    say(n, took, us_per_turn=took[0] * 1e6 / n, min_us=laps[0], p50_us=laps[n // 2])


def tool_rounds(engine: Engine, n: int = 50) -> None:
    one = agent(engine, "agent", tools=True)
    for _ in range(10):
        turn(one, "hello tools:10")
    watch = Watch()
    for _ in range(n):
        turn(one, "hello tools:10")
    took = watch.done()
    say(n, took, ms_per_turn=took[0] * 1e3 / n, us_per_round=took[0] * 1e6 / (n * 11))


JOBS = {"J0": agents, "J1": cold_start, "J2": turns, "J3": tool_rounds}
JOB = sys.argv[1] if len(sys.argv) > 1 else ""
if JOB in JOBS:
    url = os.environ.get("MOCK_URL", "http://127.0.0.1:18080/v1")
    with Engine() as engine:
        engine.register(Compatible(url, api_key="mock", name="mock", stream=False))
        JOBS[JOB](engine, *map(int, sys.argv[2:3]))
else:
    print(json.dumps({"peer": "lomusai-python", "job": JOB, "skip": "no such job here"}))
