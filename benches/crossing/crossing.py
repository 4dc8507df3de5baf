"""What a call into Python costs: a plain function inline and on the host pool, and an async one; and what the import costs."""

import json
import sys
import time

CALLS, RUNS, LOOPS = 200, 100, 1_000_000

# Before anything else is imported, so that both pay for what they need themselves.
began = time.process_time_ns()
import empty  # noqa: E402, F401

emptied = time.process_time_ns()
import lomusai  # noqa: E402

imported = time.process_time_ns()

import asyncio  # noqa: E402


def print_case(name: str, calls: int, ns: float) -> None:
    print(json.dumps({"case": name, "calls": calls, "cpu_us_per_call": ns / calls / 1e3}))


class Watch:
    """CPU time of the process from the first call of a run to the last: what its start and end cost is not the crossing's."""

    def __init__(self) -> None:
        self.seen = 0
        self.began = 0
        self.spent = 0

    def __call__(self) -> None:
        if self.seen == 0:
            self.began = time.process_time_ns()
        self.seen += 1
        if self.seen == CALLS:
            self.spent += time.process_time_ns() - self.began


watch = Watch()


def add(x: int, y: int) -> int:
    watch()
    return x + y


async def add_async(x: int, y: int) -> int:
    watch()
    return x + y


def agent(engine: lomusai.Engine, tool: lomusai.Tool) -> lomusai.Agent:
    calls = [{"name": "add", "arguments": {"x": 1, "y": 2}}] * CALLS
    model = lomusai.ScriptedModel([{"calls": calls}, {"says": "done"}])
    return lomusai.Agent("adder", model, tools=[tool], tool_concurrency=1, engine=engine)


def begin(run: int) -> None:
    # The first run warms up.
    if run <= 1:
        watch.spent = 0
    watch.seen = 0


def end(name: str) -> None:
    if watch.seen != CALLS:
        sys.exit(f"{name}: {watch.seen} calls")


def measure(name: str, tool: lomusai.Tool) -> None:
    with lomusai.Engine() as engine:
        adder = agent(engine, tool)
        for run in range(RUNS + 1):
            begin(run)
            adder.generate("go")
            end(name)
    print_case(name, RUNS * (CALLS - 1), watch.spent)


async def measure_async(name: str, tool: lomusai.Tool) -> None:
    async with lomusai.Engine() as engine:
        adder = agent(engine, tool)
        for run in range(RUNS + 1):
            begin(run)
            await adder.agenerate("go")
            end(name)
    print_case(name, RUNS * (CALLS - 1), watch.spent)


print(json.dumps({"case": "Python: import of an empty module", "cpu_ms": (emptied - began) / 1e6}))
print(json.dumps({"case": "Python: import lomusai", "cpu_ms": (imported - emptied) / 1e6}))


def plain_loop() -> None:
    began = time.process_time_ns()
    for _ in range(LOOPS):
        add(1, 2)
    print_case("Python: plain loop", LOOPS, time.process_time_ns() - began)


plain_loop()
measure("Python: sync, inline", lomusai.tool(inline=True)(add))
measure("Python: sync, pooled", lomusai.tool(add))
asyncio.run(measure_async("Python: async", lomusai.tool(name="add")(add_async)))
