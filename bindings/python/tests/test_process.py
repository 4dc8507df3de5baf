"""The process around the engine: exits, signals, forks, kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

EXITS = 200

PRELUDE = """
import asyncio, os, signal, sys, threading, time
import lomusai
from lomusai import Agent, Engine, ScriptedModel, ToolContext, tool

@tool
async def nap(ctx: ToolContext) -> None:
    await asyncio.sleep(60)

@tool
def doze(ctx: ToolContext) -> None:
    while not ctx.cancelled:
        time.sleep(0.001)

@tool
def add(a: int = 1, b: int = 2) -> int:
    return a + b

def calls(*names):
    return ScriptedModel({"answers": [{"calls": [{"name": n} for n in names]}, {"says": "done"}], "repeat": True})
"""


def program(body: str) -> list[str]:
    return [sys.executable, "-c", PRELUDE + textwrap.dedent(body)]


def run(body: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(program(body), capture_output=True, text=True, timeout=timeout, check=False)


ENDINGS = {
    "after asyncio": """
        async def main():
            agent = Agent("a", calls("add"), tools=[add])
            await asyncio.gather(*(agent.agenerate("go") for _ in range(5)))
        asyncio.run(main())
    """,
    "in mid-run, async tools at work": """
        async def main():
            agent = Agent("a", calls("nap", "nap"), tools=[nap])
            tasks = [asyncio.create_task(agent.agenerate("go")) for _ in range(5)]
            await asyncio.sleep(0.02)
        asyncio.run(main())
    """,
    "in mid-run, plain tools at work": """
        agent = Agent("a", calls("doze", "doze"), tools=[doze])
        streams = [agent.stream("go", detached=True) for _ in range(4)]
        time.sleep(0.02)
    """,
    "with threads that wait": """
        agent = Agent("a", calls("nap"), tools=[nap])
        for _ in range(4):
            threading.Thread(target=lambda: agent.generate("go"), daemon=True).start()
        time.sleep(0.02)
    """,
    "by an exception": """
        agent = Agent("a", calls("doze", "nap"), tools=[doze, nap])
        stream = agent.stream("go")
        for event in stream:
            if event["type"] == "effect_started" and event["kind"] == "tool":
                sys.exit(0)
    """,
}


def test_two_hundred_exits_without_an_abort() -> None:
    bodies = list(ENDINGS.items())

    def one(place: int) -> str | None:
        name, body = bodies[place % len(bodies)]
        done = run(body)
        if done.returncode == 0 and "FATAL" not in done.stderr and "panicked" not in done.stderr:
            return None
        return f"{name}: {done.returncode}\n{done.stderr[-2000:]}"

    with ThreadPoolExecutor(4) as pool:
        wrong = [line for line in pool.map(one, range(EXITS)) if line]
    assert not wrong, f"{len(wrong)} of {EXITS}: {wrong[0]}"


@pytest.mark.parametrize("seconds", ["0.3", "60"])
def test_a_tool_that_never_looks_up_does_not_keep_the_process(seconds: str) -> None:
    done = run(
        f"""
        @tool
        def deaf() -> None:
            end = time.monotonic() + {seconds}
            while time.monotonic() < end:
                time.sleep(0.0001)
        stream = Agent("a", calls("deaf"), tools=[deaf]).stream("go", detached=True)
        time.sleep(0.1)
        """,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "how",
    [
        'agent.generate("go")',
        'for event in agent.stream("go"): pass',
        'asyncio.run(agent.agenerate("go"))',
        'agent.stream("go").result()',
    ],
)
def test_ctrl_c_cancels_the_run(how: str) -> None:
    body = f"""
        # A shell's background jobs ignore it, and so would their children.
        signal.signal(signal.SIGINT, signal.default_int_handler)

        @tool
        def look(ctx: ToolContext) -> None:
            print("working", flush=True)
            while not ctx.cancelled:
                time.sleep(0.005)
            print("told", flush=True)
            told.set()
        told = threading.Event()
        agent = Agent("a", calls("look"), tools=[look])
        try:
            {how}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            told.wait(10)
            engine = lomusai.default_engine()
            while [run["status"] for run in engine.runs()] == ["running"]:
                time.sleep(0.001)
            print([run["status"] for run in engine.runs()], flush=True)
    """
    process = subprocess.Popen(program(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert "interrupted" in out, err
    assert "told" in out
    assert "cancelled" in out
    assert time.monotonic() - begun < 5
    assert process.returncode == 0


FORKS = """
        agent = Agent("a", calls("add"), tools=[add])
        with Engine() as engine:
            own = Agent("b", calls("add"), tools=[add], engine=engine)
            assert agent.generate("go").text == own.generate("go").text == "done"
            pid = os.fork()
            if pid == 0:
                try:
                    own.generate("go")
                    print("used the parent's engine", flush=True)
                except lomusai.ConflictError as error:
                    assert error.code == "engine_forked"
                # The default engine of the child is its own.
                assert agent.generate("go").text == "done"
                assert asyncio.run(agent.agenerate("go")).text == "done"
                sys.exit(7)
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == 7, status
            assert own.generate("go").text == "done"
            print("fine", flush=True)
"""


def test_after_a_fork_the_child_opens_its_own_engine() -> None:
    done = run(FORKS)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_prefork_servers(tmp_path: Path) -> None:
    """Each worker of a prefork server has its own engine; the parent may have used one before."""
    script = tmp_path / "server.py"
    script.write_text(
        PRELUDE
        + textwrap.dedent("""
        import multiprocessing

        agent = Agent("a", calls("add"), tools=[add])

        def serve(number):
            return [agent.generate(str(number)).text, asyncio.run(agent.agenerate(str(number))).text]

        if __name__ == "__main__":
            assert agent.generate("before").text == "done"
            with multiprocessing.get_context("fork").Pool(4) as pool:
                answers = pool.map(serve, range(20))
            assert answers == [["done", "done"]] * 20, answers
            assert agent.generate("after").text == "done"
            print("fine")
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_a_killed_run_goes_on_in_another_process(tmp_path: Path) -> None:
    file = tmp_path / "runs.db"
    body = f"""
        @tool(approval=True)
        def pay(amount: int) -> str:
            return f"paid {{amount}}"
        model = ScriptedModel([{{"calls": [{{"name": "pay", "arguments": {{"amount": 4}}}}]}}, {{"says": "Paid."}}])
        engine = Engine({str(file)!r}, lease_ms=1000)
        agent = Agent("a", model, tools=[pay], engine=engine)
        if len(sys.argv) > 1:
            engine.register(agent)
            engine.start()
            [waiting] = engine.pending()
            result = engine.approve(waiting["run_id"])
        else:
            result = agent.generate("go")
        if KILL:
            print(result.run_id, flush=True)
            time.sleep(60)
        if result.status == "suspended":
            result = result.approve()
        print(result.run_id, result.status, result.text, engine.digest(result.run_id))
    """
    victim = subprocess.Popen(program("KILL = True\n" + textwrap.dedent(body)), stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    run_id = victim.stdout.readline().strip()
    assert run_id
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    second = subprocess.run(
        [*program("KILL = False\n" + textwrap.dedent(body)), "resume"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 0, second.stderr
    again, status, text, digest = second.stdout.split()
    assert (again, status, text) == (run_id, "completed", "Paid.")
    file.unlink()
    for extra in tmp_path.glob("runs.db*"):
        extra.unlink()
    unbroken = run("KILL = False\n" + textwrap.dedent(body))
    assert unbroken.returncode == 0, unbroken.stderr
    assert unbroken.stdout.split()[3] == digest


def test_nothing_is_printed() -> None:
    done = run('assert Agent("a", calls("add"), tools=[add]).generate("x").text == "done"')
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(os.name != "posix", reason="file descriptors")
def test_engines_leave_no_threads_and_no_files_behind() -> None:
    done = run("""
        def files():
            return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        import gc
        kept = []
        def once():
            with Engine() as engine:
                # Closed is enough for it: nobody waits for the collector.
                kept.append(engine)
                agent = Agent("a", calls("add"), tools=[add], engine=engine)
                agent.generate("go")
                asyncio.run(agent.agenerate("go"))
                # Closed without the word that asyncio.run says.
                loop = asyncio.new_event_loop()
                loop.run_until_complete(agent.agenerate("go"))
                loop.close()
            # What such a loop is woken by goes with the loop.
            del loop
            gc.collect()
        once()
        time.sleep(0.3)
        before = files()
        for _ in range(20):
            once()
        time.sleep(0.5)
        after = files()
        assert after[0] <= before[0] and after[1] <= before[1] + 1, (before, after)
        """)
    assert done.returncode == 0, done.stderr
