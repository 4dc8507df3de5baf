"""What a Python function takes: its parameters as JSON Schema, and their values from JSON."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ._call import is_context
from ._schema import Convert, Schema, Types, docstring
from .errors import InvalidError


class Signature:
    """The signature of a function.

    Args:
        function: the function, or an object that can be called.
        what: names it in errors, such as "tool `add`".
        localns: names that annotations may use beside the function's globals.
    """

    def __init__(self, function: Callable[..., Any], what: str, localns: dict[str, Any] | None) -> None:
        called: Any = function
        if not inspect.isroutine(called) and not isinstance(called, type):
            called = called.__call__
        plain = inspect.unwrap(called)
        self.what = what
        self.types = Types(getattr(plain, "__globals__", None), localns)
        self.hints = self.types.hints(plain)
        self.description, self._said = docstring(function.__doc__)
        self.context: str | None = None
        """The parameter that wants the context of the call."""
        self.parameters: list[inspect.Parameter] = []
        """All others."""
        for parameter in inspect.signature(called).parameters.values():
            annotation = self.annotation(parameter.name)
            if is_context(annotation) or (parameter.name == "ctx" and annotation is inspect.Parameter.empty):
                self.context = parameter.name
            else:
                self.parameters.append(parameter)

    def annotation(self, name: str) -> Any:
        """The annotation of a parameter, or of the `return`."""
        return self.hints.get(name, inspect.Parameter.empty)

    def converters(self) -> dict[str, Convert]:
        """What makes the annotated values of the parameters for which JSON's own are not enough."""
        made = {p.name: self.types.convert(self.annotation(p.name)) for p in self.parameters}
        return {name: convert for name, convert in made.items() if convert is not None}

    def schema_of(self, annotation: Any, part: str) -> Schema:
        """The schema of one annotation, with the definitions it needs."""
        schema = self.types.schema(annotation, f"{self.what}, {part}")
        return self._defined(schema)

    def schema(self) -> Schema:
        """The schema of an object with a property for each parameter.

        Raises:
            InvalidError: a parameter has no JSON Schema, or cannot be named in a call (`schema_invalid`).
        """
        properties: Schema = {}
        required: list[str] = []
        for parameter in self.parameters:
            name = parameter.name
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise InvalidError(
                    f"{self.what}: parameter `{name}` cannot be named in a call: use plain parameters, "
                    "or give `input_schema`",
                    code="schema_invalid",
                )
            schema = self.types.schema(self.annotation(name), f"{self.what}, parameter `{name}`")
            if name in self._said:
                schema.setdefault("description", self._said[name])
            if parameter.default is inspect.Parameter.empty:
                required.append(name)
            elif isinstance(parameter.default, (str, int, float, bool)):
                schema["default"] = getattr(parameter.default, "value", parameter.default)
            properties[name] = schema
        whole: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        if required:
            whole["required"] = required
        return self._defined(whole)

    def _defined(self, schema: Schema) -> Schema:
        if self.types.definitions and "$defs" not in schema:
            schema["$defs"] = self.types.definitions
        return schema
