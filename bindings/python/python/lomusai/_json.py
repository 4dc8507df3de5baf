"""What Python has and JSON has not, reduced to what it has."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import os
import uuid
from collections.abc import Mapping, Set
from typing import Any

from .errors import InvalidError


class NotJson(InvalidError):
    """A value that cannot be written as JSON."""


def reduce(value: object) -> Any:
    """Returns something simpler that means the same; called for what is neither a text, number, list nor dict."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(mode="json")
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (uuid.UUID, decimal.Decimal)):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    # Subclasses, whose own methods must not surprise the writer.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return list(value)
    raise NotJson(
        f"a value of type {type(value).__name__} is not JSON: give texts, numbers, lists, dicts, dataclasses, models",
        code="json_invalid",
    )
