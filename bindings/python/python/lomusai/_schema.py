"""JSON Schema from Python annotations, and values of those types from JSON."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import inspect
import pathlib
import re
import sys
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any, Literal, Union

from .errors import InvalidError

Schema = dict[str, Any]
Convert = Callable[[Any], Any]

_SIMPLE: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    datetime.datetime: {"type": "string", "format": "date-time"},
    datetime.date: {"type": "string", "format": "date"},
    datetime.time: {"type": "string", "format": "time"},
    uuid.UUID: {"type": "string", "format": "uuid"},
    decimal.Decimal: {"type": "string"},
    pathlib.Path: {"type": "string"},
}

_PARSE: dict[Any, Convert] = {
    datetime.datetime: lambda text: datetime.datetime.fromisoformat(_utc(text)),
    datetime.date: datetime.date.fromisoformat,
    datetime.time: lambda text: datetime.time.fromisoformat(_utc(text)),
    uuid.UUID: uuid.UUID,
    decimal.Decimal: decimal.Decimal,
    pathlib.Path: pathlib.Path,
    # A model writes 2 where 2.0 is meant.
    float: float,
}

_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_SETS = (set, frozenset, collections.abc.Set)


def _utc(text: str) -> str:
    # Python 3.10 does not read the Z.
    return text[:-1] + "+00:00" if text.endswith("Z") else text


def _each(item: Convert) -> Convert:
    return lambda values: [item(value) for value in values]


def _into(kind: Convert, item: Convert) -> Convert:
    return lambda values: kind(map(item, values))


def _each_value(item: Convert) -> Convert:
    return lambda values: {key: item(value) for key, value in values.items()}


def is_model(annotation: object) -> bool:
    """Whether it is a pydantic model, without importing pydantic."""
    return isinstance(annotation, type) and hasattr(annotation, "model_json_schema")


def _is_typed_dict(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, dict) and hasattr(annotation, "__required_keys__")


class Types:
    """The annotations of one function or type. Types that contain themselves end up in `definitions`."""

    def __init__(self, globalns: dict[str, Any] | None = None, localns: dict[str, Any] | None = None) -> None:
        self.definitions: Schema = {}
        self._names: tuple[dict[str, Any] | None, dict[str, Any] | None] = (globalns, localns)
        self._open: list[type] = []
        self._recursive: set[type] = set()
        self._converters: dict[type, list[Convert]] = {}

    def hints(self, of: Any) -> dict[str, Any]:
        globalns, localns = self._names
        try:
            if isinstance(of, type):
                known = dict(vars(sys.modules.get(of.__module__, types)))
                return typing.get_type_hints(of, known, {**(localns or {}), of.__name__: of}, include_extras=True)
            return typing.get_type_hints(of, globalns, localns, include_extras=True)
        except NameError as e:
            raise InvalidError(
                f"an annotation of `{getattr(of, '__qualname__', of)}` cannot be resolved: {e}", code="schema_invalid"
            ) from e

    def schema(self, annotation: Any, where: str) -> Schema:
        """The schema of an annotation; `where` names it in errors."""
        if annotation is Any or annotation is inspect.Parameter.empty or annotation is object:
            return {}
        if isinstance(annotation, collections.abc.Hashable) and annotation in _SIMPLE:
            return dict(_SIMPLE[annotation])
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is not None and str(origin).endswith(("Required", "NotRequired", "ReadOnly")):
            return self.schema(arguments[0], where)
        if origin is typing.Annotated:
            return self._annotated(annotation, arguments, where)
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.schema(item, where) for item in arguments]}
        if annotation in _LISTS or origin in _LISTS:
            return {"type": "array", "items": self.schema(arguments[0], where)} if arguments else {"type": "array"}
        if annotation in _SETS or origin in _SETS:
            items = {"items": self.schema(arguments[0], where)} if arguments else {}
            return {"type": "array", **items, "uniqueItems": True}
        if annotation is tuple or origin is tuple:
            return self._tuple(arguments, where)
        if annotation in _DICTS or origin in _DICTS:
            if not arguments:
                return {"type": "object"}
            if arguments[0] not in (str, Any):
                raise InvalidError(f"{where}: the keys of a JSON object are str", code="schema_invalid")
            return {"type": "object", "additionalProperties": self.schema(arguments[1], where)}
        if isinstance(annotation, type):
            if issubclass(annotation, enum.Enum):
                return {"enum": [item.value for item in annotation]}
            if is_model(annotation):
                return self._foreign(annotation.model_json_schema())  # type: ignore[attr-defined]
            if _is_typed_dict(annotation) or dataclasses.is_dataclass(annotation):
                return self._fields(annotation, where)
        if isinstance(annotation, typing.TypeVar):
            return {}
        raise InvalidError(
            f"{where}: no JSON Schema is known for {annotation!r}: use standard types, dataclasses, TypedDicts, models",
            code="schema_invalid",
        )

    def _annotated(self, annotation: Any, arguments: tuple[Any, ...], where: str) -> Schema:
        if any(type(item).__module__.startswith(("pydantic", "annotated_types")) for item in arguments[1:]):
            from pydantic import TypeAdapter

            return self._foreign(TypeAdapter(annotation).json_schema())
        schema = self.schema(arguments[0], where)
        for item in arguments[1:]:
            if isinstance(item, str):
                schema["description"] = item
            elif isinstance(item, dict):
                schema.update(item)
        return schema

    def _tuple(self, arguments: tuple[Any, ...], where: str) -> Schema:
        if not arguments:
            return {"type": "array"}
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return {"type": "array", "items": self.schema(arguments[0], where)}
        items = [self.schema(item, where) for item in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}

    def _foreign(self, schema: Schema) -> Schema:
        """A whole schema as a part of ours: its definitions move to our root, where its references look for them."""
        self.definitions.update(schema.pop("$defs", {}))
        return schema

    def _fields(self, of: type, where: str) -> Schema:
        if of in self._open:
            self._recursive.add(of)
            return {"$ref": f"#/$defs/{of.__name__}"}
        self._open.append(of)
        properties: Schema = {}
        required: list[str] = []
        for name, annotation in self.hints(of).items():
            field = getattr(of, "__dataclass_fields__", {}).get(name)
            if field is None and not _is_typed_dict(of):
                continue
            properties[name] = self.schema(annotation, f"{where}, field `{name}` of {of.__name__}")
            if field is None:
                needed = name in of.__required_keys__  # type: ignore[attr-defined]
            else:
                needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
                if not field.init:
                    del properties[name]
                    continue
            if needed:
                required.append(name)
        self._open.pop()
        schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        if required:
            schema["required"] = required
        if of in self._recursive:
            self.definitions[of.__name__] = schema
            return {"$ref": f"#/$defs/{of.__name__}"}
        return schema

    def convert(self, annotation: Any) -> Convert | None:
        """Makes a value of the annotated type from JSON that fits its schema; `None` where JSON's own value is it."""
        if isinstance(annotation, collections.abc.Hashable) and annotation in _PARSE:
            return _PARSE[annotation]
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is not None and str(origin).endswith(("Required", "NotRequired", "ReadOnly")):
            return self.convert(arguments[0])
        if origin is typing.Annotated:
            return self.convert(arguments[0])
        if origin in (Union, types.UnionType):
            return self._union([item for item in arguments if item is not type(None)])
        if annotation in _LISTS or origin in _LISTS:
            item = self.convert(arguments[0]) if arguments else None
            return None if item is None else _each(item)
        if annotation in _SETS or origin in _SETS:
            kind = frozenset if (origin or annotation) is frozenset else set
            item = self.convert(arguments[0]) if arguments else None
            return kind if item is None else _into(kind, item)
        if annotation is tuple or origin is tuple:
            return self._convert_tuple(arguments)
        if annotation in _DICTS or origin in _DICTS:
            item = self.convert(arguments[1]) if arguments else None
            return None if item is None else _each_value(item)
        if isinstance(annotation, type):
            if issubclass(annotation, enum.Enum):
                return annotation
            if is_model(annotation):
                return annotation.model_validate  # type: ignore[attr-defined, no-any-return]
            if dataclasses.is_dataclass(annotation) or _is_typed_dict(annotation):
                return self._convert_fields(annotation)
        return None

    def _union(self, items: list[Any]) -> Convert | None:
        converters = [self.convert(item) for item in items]
        if all(converter is None for converter in converters):
            return None
        if len(items) == 1:
            only = converters[0]
            assert only is not None
            return lambda value: None if value is None else only(value)

        def first_that_fits(value: Any) -> Any:
            if value is None:
                return None
            for item, converter in zip(items, converters, strict=True):
                if converter is None:
                    plain = typing.get_origin(item) or item
                    if not isinstance(plain, type) or isinstance(value, plain):
                        return value
                    continue
                try:
                    return converter(value)
                except Exception:
                    continue
            return value

        return first_that_fits

    def _convert_tuple(self, arguments: tuple[Any, ...]) -> Convert:
        if not arguments:
            return tuple
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            item = self.convert(arguments[0])
            return tuple if item is None else _into(tuple, item)
        items = [self.convert(item) for item in arguments]

        def convert(values: Any) -> Any:
            return tuple(v if item is None else item(v) for item, v in zip(items, values, strict=True))

        return convert

    def _convert_fields(self, of: type) -> Convert | None:
        typed_dict = _is_typed_dict(of)
        if of in self._converters:
            # Inside of itself: looked up once it is known.
            known = self._converters[of]
            return lambda value: known[0](value) if known else value
        known = self._converters[of] = []
        converters = {name: self.convert(annotation) for name, annotation in self.hints(of).items()}
        needed = {name: converter for name, converter in converters.items() if converter is not None}
        del self._converters[of]
        if typed_dict and not needed:
            return None

        def convert(value: Any) -> Any:
            if not isinstance(value, dict):
                raise TypeError(f"{of.__name__} is made from an object, not from {type(value).__name__}")
            fields = {key: needed[key](item) if key in needed else item for key, item in value.items()}
            return fields if typed_dict else of(**fields)

        known.append(convert)
        return convert


_GOOGLE = re.compile(r"^\s*(?:Args|Arguments|Parameters):\s*$")
_SECTION = re.compile(r"^\s*(?:Returns?|Raises|Yields?|Examples?|Notes?|Attributes|See Also|Warnings?):\s*$")
_GOOGLE_ITEM = re.compile(r"^(\s+)\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_REST_ITEM = re.compile(r"^\s*:param\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)$")
_NUMPY_ITEM = re.compile(r"^\*{0,2}(\w+)\s*(?::.*)?$")


def docstring(text: str | None) -> tuple[str, dict[str, str]]:
    """The description, and what is said of each parameter: in Google's, numpy's or reST's form."""
    lines = inspect.cleandoc(text or "").splitlines()
    description: list[str] = []
    parameters: dict[str, list[str]] = {}
    form, name, indent = "text", "", 0
    for place, line in enumerate(lines):
        following = lines[place + 1].strip() if place + 1 < len(lines) else ""
        underlined = len(following) >= 3 and set(following) == {"-"}
        rest = _REST_ITEM.match(line)
        if _GOOGLE.match(line) and not underlined:
            form, name, indent = "google", "", 0
        elif underlined:
            form, name = ("numpy" if line.strip() in ("Parameters", "Other Parameters") else "other"), ""
        elif _SECTION.match(line):
            form = "other"
        elif rest:
            form, name = "rest", rest[1]
            parameters[name] = [rest[2]]
        elif re.match(r"^\s*:\w", line):
            form = "other"
        elif form == "text":
            description.append(line)
        elif form == "google":
            item = _GOOGLE_ITEM.match(line)
            if item and (not indent or len(item[1]) <= indent):
                indent, name = len(item[1]), item[2]
                parameters[name] = [item[3]]
            elif line.strip() and not line.startswith(" "):
                form = "text"
                description.append(line)
            elif name:
                parameters[name].append(line.strip())
        elif form == "numpy":
            item = _NUMPY_ITEM.match(line)
            if set(line.strip()) == {"-"}:
                continue
            if item:
                name = item[1]
                parameters[name] = []
            elif name:
                parameters[name].append(line.strip())
        elif form == "rest" and name and line.startswith(" "):
            parameters[name].append(line.strip())
    said = {name: " ".join(part for part in parts if part) for name, parts in parameters.items()}
    return "\n".join(description).strip(), said
