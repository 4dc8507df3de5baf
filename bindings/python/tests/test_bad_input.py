"""What a host should not do, with the code that it is told: the table is the same for every language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lomusai import Engine, LomusaiError, _lomusai

CASES: list[dict[str, Any]] = json.loads(
    Path(__file__).parents[3].joinpath("tests/conformance/bad_input.json").read_text()
)


def answer_null(call: _lomusai.Call, answer: _lomusai.Answer) -> None:
    answer.resolve(None)


def open_file(options: dict[str, Any], kind: str | None, folder: Path) -> None:
    if kind is None:
        _lomusai.Engine(options).close()
        return
    file = folder / "store.db"
    if kind == "corrupt":
        file.write_text("This is not a database. " * 1000)
    else:
        Engine(file).close()
        data = bytearray(file.read_bytes())
        data[60:64] = b"\x7f\xff\xff\xff"
        file.write_bytes(data)
    _lomusai.Engine({**options, "path": str(file)}).close()


def act(engine: Engine, step: dict[str, Any], folder: Path) -> None:
    native, does, args = engine._native, step["does"], step.get("args", {})
    if does == "open":
        open_file(args, step.get("file"), folder)
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
    if "text" in case:
        pytest.skip("the API takes objects, so raw text cannot be given")
    for step in case.get("first", []):
        act(engine, step, tmp_path)
    with pytest.raises(LomusaiError) as raised:
        act(engine, case, tmp_path)
    assert raised.value.code == case["code"], raised.value
    assert raised.value.message
