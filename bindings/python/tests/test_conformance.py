"""Every conformance vector, with plain functions and with async ones, and the digest by our own code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import conformance

VECTORS = conformance.read_paths()


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vector(path: Path) -> None:
    vector = json.loads(path.read_text())
    conformance.run_vector(vector)


ASYNC = [path for path in VECTORS if any(f'"{key}"' in path.read_text() for key in ("tools", "functions", "steps"))]


@pytest.mark.parametrize("path", ASYNC, ids=lambda path: path.stem)
def test_vector_with_async_functions(path: Path) -> None:
    vector = json.loads(path.read_text())
    conformance.run_vector(vector, asynchronous=True)


def example(name: str) -> str:
    page = Path(__file__).parents[3].joinpath("tests/conformance/README.md").read_text()
    found = re.search(rf"<!-- example: {name} -->\n```\w*\n(.*?)```", page, re.S)
    assert found, name
    return found[1]


def test_the_worked_example_has_its_lines_and_digest() -> None:
    events: list[dict[str, Any]] = json.loads(example("journal"))
    assert conformance.lines(events) == example("lines")
    assert conformance.digest(events) == example("digest").strip()


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (1.0, "1"), (-0.0, "0"), (1e21, "1e+21"), (1e20, "100000000000000000000"),
        (123456789012345680000.0, "123456789012345680000"),
        (1e-6, "0.000001"), (1e-7, "1e-7"), (5e-324, "5e-324"), (1.7976931348623157e308, "1.7976931348623157e+308"),
        (0.1, "0.1"), (333333333.33333329, "333333333.3333333"), (-1.5, "-1.5"), (9007199254740991, "9007199254740991"),
        (1.25e-9, "1.25e-9"),
    ],
)  # fmt: skip
def test_numbers_are_printed_as_ecmascript_does(value: float, printed: str) -> None:
    assert conformance.number(value) == printed
