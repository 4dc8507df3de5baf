"""What a host should not do, with the code that it is told: the table is the same for every language."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lomusai import Engine, LomusaiError, _lomusai

CONFORMANCE = Path(__file__).parents[3] / "tests/conformance"
CASES: list[dict[str, Any]] = json.loads((CONFORMANCE / "bad_input.json").read_text())

NOBODY = 65534


def answer_null(call: _lomusai.Call, answer: _lomusai.Answer) -> None:
    answer.resolve(None)


@contextmanager
def bad_file(kind: str, folder: Path) -> Iterator[Path]:
    file = folder / "store.db"
    if kind == "corrupt":
        file.write_text("This is not a database. " * 1000)
        yield file
        return
    Engine(file).close()
    if kind == "newer":
        data = bytearray(file.read_bytes())
        data[60:64] = b"\x7f\xff\xff\xff"
        file.write_bytes(data)
        yield file
    elif kind == "locked":
        holder = [sys.executable, str(CONFORMANCE / "hold_store.py"), str(file)]
        with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"locked\n"
            yield file
            process.communicate()
    elif kind == "read_only":
        file.chmod(0o444)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            # pytest's folders are for their owner alone.
            for above in folder.parents[:3]:
                if above.owner() == "root" and above != Path("/tmp"):
                    above.chmod(0o755)
            os.seteuid(NOBODY)
        try:
            yield file
        finally:
            os.seteuid(user)
            folder.chmod(0o755)
    else:
        raise AssertionError(f"unknown file {kind}")


def act(engine: Engine, step: dict[str, Any], folder: Path) -> None:
    native, does, args = engine._native, step["does"], step.get("args", {})
    if "text" in step:
        # This API takes values: one that JSON does not know stands for text that is none.
        args = object()
    if does == "open" and "file" in step:
        with bad_file(step["file"], folder) as file:
            _lomusai.Engine({**args, "path": str(file)}).close()
    elif does == "open":
        _lomusai.Engine(args).close()
    elif does == "register_tool":
        native.register_tool(args, answer_null, "pool")
    elif does == "register_function":
        native.register_function(args["name"], answer_null, "pool")
    elif does == "register_provider":
        native.register_provider(args["name"], answer_null, "pool")
    elif does == "register_builtin_provider":
        native.register_builtin_provider(args["name"], args["config"])
    elif does == "register_agent":
        engine.register_spec(args)
    elif does == "register_workflow":
        engine.register_workflow(args)
    elif does == "register_step":
        native.register_step(args["name"], answer_null, "pool")
    elif does == "unregister":
        engine.unregister(args["kind"], args["name"])
    elif does == "run":
        engine.run(args)
    elif does == "command":
        engine.command(args["run_id"], args["command"])
    elif does == "call":
        native.call(args["operation"], args["params"])
    elif does == "close":
        engine.close()
    else:
        raise AssertionError(f"unknown step {does}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_bad_input(case: dict[str, Any], engine: Engine, tmp_path: Path) -> None:
    for step in case.get("first", []):
        act(engine, step, tmp_path)
    with pytest.raises(LomusaiError) as raised:
        act(engine, case, tmp_path)
    assert raised.value.code == case["code"], raised.value
    assert raised.value.message
