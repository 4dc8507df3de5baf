"""Python functions as tools: schema from the signature, arguments of the annotated types."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, overload

from . import _lomusai as native
from ._call import Suspended, ToolContext, function_handler, is_async
from ._schema import Convert
from ._signature import Signature
from .errors import InvalidError
from .events import Part

P = ParamSpec("P")
R = TypeVar("R")


class ToolOutput:
    """A tool's result with images or files beside it.

    Args:
        output: the result, as from a plain return.
        content: parts such as `{"type": "image", "source": {"data": "…base64…"}, "media_type": "image/png"}`.
    """

    def __init__(self, output: Any = None, content: Sequence[Part] = ()) -> None:
        self.output: Any = output
        self.content: list[Part] = list(content)


class Tool(Generic[P, R]):
    """A function that a model may call. Made by `tool`; still callable as the function it is."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        description: str | None = None,
        input_schema: dict[str, Any] | None = None,
        output_schema: dict[str, Any] | None = None,
        resume_schema: dict[str, Any] | None = None,
        approval: bool | str | Callable[..., Any] = False,
        may_suspend: bool = False,
        timeout: float | None = None,
        inline: bool = False,
        localns: dict[str, Any] | None = None,
    ) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self.name: str = name or str(getattr(function, "__name__", type(function).__name__))
        self.approval_name: str = ""
        """The name of the function that decides on approval, where it is one of Python."""
        self.approval: bool | str | Callable[..., Any] = approval
        self.is_async: bool = is_async(function)
        if inline and self.is_async:
            raise InvalidError(f"tool `{self.name}`: `inline` is for plain functions", code="argument_invalid")
        self.place: str = "async" if self.is_async else "inline" if inline else "pool"
        self._context: str | None = None
        self._convert: dict[str, Convert] = {}
        self._whole: str | None = None
        said, schema = self._signature(localns, input_schema)
        spec: dict[str, Any] = {"name": self.name, "input_schema": schema}
        if description is None:
            description = said
        if description:
            spec["description"] = description
        if output_schema is not None:
            spec["output_schema"] = output_schema
        if resume_schema is not None:
            spec["resume_schema"] = resume_schema
        if approval is True:
            spec["approval"] = "always"
        elif isinstance(approval, str):
            spec["approval"] = {"function": approval}
        elif approval is not False:
            named = native.name_functions({"name": self.name, "approval": {"function": "#"}})
            self.approval_name = named["functions"]["#"]
            spec["approval"] = named["spec"]["approval"]
        if may_suspend:
            spec["may_suspend"] = True
        if timeout is not None:
            spec["timeout_ms"] = max(0, round(timeout * 1000))
        self.spec = spec
        """The tool's spec, as in every language."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Tool({self.name!r})"

    @property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments."""
        schema: dict[str, Any] = self.spec["input_schema"]
        return schema

    def _signature(self, localns: dict[str, Any] | None, given: dict[str, Any] | None) -> tuple[str, dict[str, Any]]:
        signature = Signature(self.function, f"tool `{self.name}`", localns)
        self._context = signature.context
        if given is None:
            schema = signature.schema()
            self._convert = signature.converters()
            return signature.description, schema
        # A function of one parameter that the schema does not know takes all arguments as they are.
        parameters = signature.parameters
        if len(parameters) == 1 and parameters[0].name not in given.get("properties", {}):
            keyword = parameters[0].kind is inspect.Parameter.VAR_KEYWORD
            self._whole = None if keyword else parameters[0].name
        else:
            keywords = {p.name for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD}
            self._convert = {name: made for name, made in signature.converters().items() if name not in keywords}
        return signature.description, given

    def _arguments(self, call: native.Call, answer: native.Answer) -> dict[str, Any]:
        arguments: dict[str, Any] = call.input
        if self._whole is not None:
            arguments = {self._whole: arguments}
        for name, convert in self._convert.items():
            if name in arguments:
                arguments[name] = convert(arguments[name])
        if self._context is not None:
            arguments[self._context] = ToolContext(call, answer)
        return arguments

    @staticmethod
    def _answer(answer: native.Answer, value: Any) -> None:
        if type(value) is ToolOutput:
            answer.reply({"output": value.output, "content": value.content})
        else:
            answer.resolve(value)

    def _handle(self, call: native.Call, answer: native.Answer) -> None:
        function: Any = self.function
        try:
            value = function(**self._arguments(call, answer))
        except Suspended as suspended:
            answer.suspend(suspended.payload)
        else:
            self._answer(answer, value)

    async def _handle_async(self, call: native.Call, answer: native.Answer) -> None:
        function: Any = self.function
        try:
            value = await function(**self._arguments(call, answer))
        except Suspended as suspended:
            answer.suspend(suspended.payload)
        else:
            self._answer(answer, value)

    def register(self, engine: native.Engine) -> list[tuple[str, str]]:
        """Registers it with a native engine. Gives kind and name of what was registered."""
        done: list[tuple[str, str]] = []
        if not isinstance(self.approval, (bool, str)):
            handler, place = function_handler(self.approval)
            engine.register_function(self.approval_name, handler, place)
            done.append(("function", self.approval_name))
        try:
            engine.register_tool(self.spec, self._handle_async if self.is_async else self._handle, self.place)
        except BaseException:
            for kind, name in done:
                engine.unregister(kind, name)
            raise
        return [*done, ("tool", self.name)]


class ClientTool:
    """A tool that the caller of a run executes itself: the run suspends, and goes on with a `tool_result` command.

    Args:
        name: what the model calls it.
        description: what it does, for the model.
        input_schema: JSON Schema of its arguments.
    """

    def __init__(self, name: str, description: str = "", input_schema: dict[str, Any] | None = None) -> None:
        self.name = name
        self.spec: dict[str, Any] = {"name": name, "client": True, "input_schema": input_schema or {"type": "object"}}
        if description:
            self.spec["description"] = description

    def register(self, engine: native.Engine) -> list[tuple[str, str]]:
        """Registers it with a native engine. Gives kind and name of what was registered."""

        def never(call: native.Call, answer: native.Answer) -> None:
            answer.reject(InvalidError(f"`{self.name}` is executed by the caller of the run", code="unsupported"))

        engine.register_tool(self.spec, never, "pool")
        return [("tool", self.name)]


@overload
def tool(
    function: Callable[P, R],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    input_schema: dict[str, Any] | None = None,
    output_schema: dict[str, Any] | None = None,
    resume_schema: dict[str, Any] | None = None,
    approval: bool | str | Callable[..., Any] = False,
    may_suspend: bool = False,
    timeout: float | None = None,
    inline: bool = False,
) -> Tool[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    input_schema: dict[str, Any] | None = None,
    output_schema: dict[str, Any] | None = None,
    resume_schema: dict[str, Any] | None = None,
    approval: bool | str | Callable[..., Any] = False,
    may_suspend: bool = False,
    timeout: float | None = None,
    inline: bool = False,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Makes a tool of a function, plain or `async`.

    The model is told the function's name, its docstring (without the part on parameters), and a JSON Schema made
    from its
    signature; no other arguments are let through. Parameters with a default may be left out. The function gets
    values of the
    annotated types: dataclasses, enums, pydantic models. A parameter annotated with `ToolContext` is not shown to
    the model.

    What it raises is told to the model as the tool's error, as `str(exception)`. When the run is cancelled, an
    async function
    is cancelled by asyncio; a plain one goes on until it returns and should look at `ctx.cancelled`.

    Args:
        name: what the model calls it. Default: the function's name.
        description: what it does. Default: from the docstring.
        input_schema: JSON Schema of the arguments in place of the one from the signature.
        output_schema: JSON Schema of the result; one that does not fit is an error told to the model.
        resume_schema: JSON Schema of what resumes it after it suspended.
        approval: whether each call waits for a person; or a function that is asked with `{tool, call_id, arguments}`.
        may_suspend: whether it may call `ctx.suspend`.
        timeout: longest call in seconds. Default: the agent's limit, 300.
        inline: call it on the engine's own thread, which it must not block: faster by some 20 µs.

    Raises:
        InvalidError: an annotation has no JSON Schema (`schema_invalid`).
    """
    caller = sys._getframe(1)
    localns = dict(caller.f_locals)
    if function is not None:
        return Tool(function, localns=localns, **options)

    def decorate(function: Callable[..., Any]) -> Tool[..., Any]:
        return Tool(function, localns=localns, **options)

    return decorate
