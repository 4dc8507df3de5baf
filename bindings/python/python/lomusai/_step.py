"""Steps of workflows: what one runs, and the values that are made while a run goes on."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar, Union, cast, overload

from . import _lomusai as native
from ._call import Bailed, CallContext, StepContext, Suspended, is_async
from ._schema import Convert, Schema, Types, is_model
from ._signature import Signature
from .errors import InvalidError

if TYPE_CHECKING:
    from typing_extensions import Self

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741

Condition: TypeAlias = Union[str, Callable[[dict[str, Any]], Any], Callable[[dict[str, Any], CallContext], Any]]
"""An expression such as `"steps.check.amount > 100"`, or a function that is asked with
`{workflow, step, input, state, iteration?, output?}` and answers a boolean."""
Retry: TypeAlias = Union[int, Mapping[str, int]]
"""How often a failed step is tried again: a number, or `{max, delay_ms?, factor?, delay_max_ms?}`."""

# --- Values ----------------------------------------------------------------------------------------------------------


class Made:
    """A value that is made while a run goes on: what `path` and `expr` give."""

    def __init__(self, mapping: dict[str, Any]) -> None:
        self.mapping = mapping

    def __repr__(self) -> str:
        return f"Made({self.mapping!r})"


def path(of: str) -> Any:
    """What is at a path: `input.user.id`, `steps.fetch.items.0`, `state.total`, `item`, `index`, `iteration`. What is
    not there is `None`."""
    return Made({"from": of})


def expr(text: str) -> Any:
    """What an expression gives: `expr("'Dear ' ~ input.name")`."""
    return Made({"expr": text})


def _mapping(value: Any) -> dict[str, Any]:
    """A mapping as the engine takes it: dicts and lists may hold paths and expressions, all else stands for itself."""
    if isinstance(value, Made):
        return value.mapping
    if isinstance(value, dict) and _has_made(value):
        return {"object": {str(key): _mapping(item) for key, item in value.items()}}
    if isinstance(value, (list, tuple)) and _has_made(value):
        return {"list": [_mapping(item) for item in value]}
    return {"value": value}


def _has_made(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_made, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_has_made, value))
    return isinstance(value, Made)


def _retry(retry: Retry) -> dict[str, int]:
    return {"max": retry} if isinstance(retry, int) else dict(retry)


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _typed(given: Any, what: str, localns: Mapping[str, Any] | None = None) -> tuple[Schema, Convert | None]:
    """The schema of a type or the schema itself, and what makes a value of the type."""
    if isinstance(given, Mapping):
        return dict(cast("Mapping[str, Any]", given)), None
    if is_model(given):
        return given.model_json_schema(), given.model_validate
    known = Types(None, None if localns is None else dict(localns))
    schema = known.schema(given, what)
    if known.definitions:
        schema["$defs"] = known.definitions
    return schema, known.convert(given)


class FatalError(InvalidError):
    """Raised by a step's function: it failed, and trying again is of no use."""

    def __init__(self, message: str, *, code: str = "step_fatal", details: dict[str, Any] | None = None) -> None:
        super().__init__(message, code=code, details=details)


# --- Steps -----------------------------------------------------------------------------------------------------------


class Step(Generic[I, O]):
    """A step of a workflow: what it runs, and what it says of its place. Made by `step`. Methods give changed copies;
    a step of a function is still callable as the function it is."""

    def __init__(
        self,
        run: dict[str, Any],
        function: Callable[..., Any] | None = None,
        *,
        name: str = "",
        id: str = "",
        component: Any = None,
    ) -> None:
        self.name = name
        self.function = function
        self.spec: dict[str, Any] = {"id": id, "run": run}
        """What is said of it so far, as in every language."""
        self._component = component
        self._when: Condition | None = None
        self._signature: Signature | None = None
        self._convert: dict[str, Convert] = {}
        self._whole: str | None = None
        self._resume: Convert | None = None
        self._parse: Convert | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.function is None:
            raise TypeError(f"{self!r} names a function that is registered elsewhere: it cannot be called here")
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Step({self.spec['id'] or self.name!r})"

    @property
    def id(self) -> str:
        """Its id in the workflow; empty where the engine is to make one."""
        return str(self.spec["id"])

    def _copy(self, **fields: Any) -> Self:
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.spec = {**self.spec, **fields}
        return copy

    def after(self, *steps: str | Step[Any, Any] | Sequence[str | Step[Any, Any]]) -> Self:
        """The same, behind these steps, in place of behind the link before."""
        ids: list[str] = []
        for item in steps:
            several = [item] if isinstance(item, (str, Step)) else item
            ids += [one if isinstance(one, str) else one.id for one in several]
        return self._copy(after=ids)

    def when(self, condition: Condition) -> Self:
        """The same, run only if this holds. A condition that fails counts as one that does not hold."""
        copy = self._copy()
        copy._when = condition
        return copy

    def takes(self, input: Any) -> Self:
        """The same, given this in place of what the step before gave: `path(…)`, `expr(…)`, or a value in which they
        are."""
        return self._copy(input=_mapping(input))

    def needs(self, needs: str) -> Self:
        """The same, saying what becomes of it when steps before it were skipped: it runs if `any` ran, is skipped
        unless `all` ran, or runs all the same (`none`)."""
        return self._copy(needs=needs)

    def named(self, id: str) -> Self:
        """The same under another id."""
        return self._copy(id=id)

    def retried(self, retry: Retry) -> Self:
        """The same, tried again so often when it fails."""
        return self._copy(retry=_retry(retry))

    def describe(self, description: str) -> Self:
        """The same, with words about it."""
        return self._copy(description=description)

    # --- Its function ---

    def _read(self, localns: dict[str, Any] | None, given: Mapping[str, Any]) -> None:
        """Takes schemas from the function's signature; those that are given go before."""
        assert self.function is not None
        signature = self._signature = Signature(self.function, f"step `{self.name}`", localns)
        parameters = signature.parameters
        empty = inspect.Parameter.empty
        if len(parameters) == 1 and parameters[0].kind is not inspect.Parameter.VAR_KEYWORD:
            only = parameters[0]
            self._whole = only.name
            if signature.annotation(only.name) not in (empty, Any) and "input" not in given:
                self.spec["input_schema"] = signature.schema_of(signature.annotation(only.name), f"`{only.name}`")
            convert = signature.types.convert(signature.annotation(only.name))
            self._convert = {} if convert is None else {only.name: convert}
        elif parameters and "input" not in given:
            self.spec["input_schema"] = signature.schema()
            self._convert = signature.converters()
        returned = signature.annotation("return")
        if returned not in (empty, Any, None, type(None)) and "output" not in given:
            self.spec["output_schema"] = signature.schema_of(returned, "what it returns")
            self._parse = signature.types.convert(returned)
        for place, value in given.items():
            schema, convert = _typed(value, f"step `{self.name}`, `{place}`", localns)
            self.spec[f"{place}_schema"] = schema
            if place == "resume":
                self._resume = convert
            elif place == "output":
                self._parse = convert
            elif place == "input" and self._whole is not None and convert is not None:
                self._convert = {self._whole: convert}

    def _arguments(self, call: native.Call, ctx: StepContext) -> dict[str, Any]:
        signature = self._signature
        assert signature is not None
        value = call.input
        if self._whole is not None:
            value = {self._whole: value}
        elif not signature.parameters or not isinstance(value, dict):
            value = {}
        for name, convert in self._convert.items():
            if name in value:
                value[name] = convert(value[name])
        if signature.context is not None:
            value[signature.context] = ctx
        return cast("dict[str, Any]", value)

    @staticmethod
    def _reply(answer: native.Answer, ctx: StepContext, reply: dict[str, Any]) -> None:
        if ctx._sets:
            reply["state"] = ctx._sets
        answer.reply(reply)

    def _left(self, answer: native.Answer, ctx: StepContext, left: BaseException) -> None:
        if isinstance(left, Suspended):
            label = {} if left.label is None else {"label": left.label}
            self._reply(answer, ctx, {"suspend": left.payload, **label})
        else:
            self._reply(answer, ctx, {"bail": cast(Bailed, left).result})

    def _handle(self, call: native.Call, answer: native.Answer) -> None:
        ctx = StepContext(call, answer, self._resume)
        try:
            value = cast("Callable[..., Any]", self.function)(**self._arguments(call, ctx))
        except (Suspended, Bailed) as left:
            self._left(answer, ctx, left)
        else:
            self._reply(answer, ctx, {"output": value})

    async def _handle_async(self, call: native.Call, answer: native.Answer) -> None:
        ctx = StepContext(call, answer, self._resume)
        try:
            value = await cast("Callable[..., Any]", self.function)(**self._arguments(call, ctx))
        except (Suspended, Bailed) as left:
            self._left(answer, ctx, left)
        else:
            self._reply(answer, ctx, {"output": value})

    def register(self, engine: native.Engine, name: str) -> None:
        """Registers its function with a native engine under this name."""
        if is_async(cast("Callable[..., Any]", self.function)):
            engine.register_step(name, self._handle_async, "async")
        else:
            engine.register_step(name, self._handle, "pool")


class Decorator(Protocol):
    """Makes a step of a function: what `step` with options gives."""

    @overload
    def __call__(self, function: Callable[[I], Coroutine[Any, Any, O]], /) -> Step[I, O]: ...

    @overload
    def __call__(self, function: Callable[[I, StepContext], Coroutine[Any, Any, O]], /) -> Step[I, O]: ...

    @overload
    def __call__(self, function: Callable[[I], O], /) -> Step[I, O]: ...

    @overload
    def __call__(self, function: Callable[[I, StepContext], O], /) -> Step[I, O]: ...

    @overload
    def __call__(self, function: Callable[..., O], /) -> Step[Any, O]: ...


@overload
def step(function: Callable[[I], Coroutine[Any, Any, O]], /) -> Step[I, O]: ...


@overload
def step(function: Callable[[I, StepContext], Coroutine[Any, Any, O]], /) -> Step[I, O]: ...


@overload
def step(function: Callable[[I], O], /) -> Step[I, O]: ...


@overload
def step(function: Callable[[I, StepContext], O], /) -> Step[I, O]: ...


@overload
def step(function: Callable[..., O], /) -> Step[Any, O]: ...


@overload
def step(
    name: str,
    /,
    *,
    id: str | None = None,
    retry: Retry | None = None,
    timeout: float | None = None,
    input: type[Any] | Mapping[str, Any] | None = None,
    output: type[Any] | Mapping[str, Any] | None = None,
    suspend: type[Any] | Mapping[str, Any] | None = None,
    resume: type[Any] | Mapping[str, Any] | None = None,
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Step[Any, Any]: ...


@overload
def step(
    *,
    name: str | None = None,
    id: str | None = None,
    retry: Retry | None = None,
    timeout: float | None = None,
    input: type[Any] | Mapping[str, Any] | None = None,
    output: type[Any] | Mapping[str, Any] | None = None,
    suspend: type[Any] | Mapping[str, Any] | None = None,
    resume: type[Any] | Mapping[str, Any] | None = None,
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Decorator: ...


def step(
    function: Callable[..., Any] | str | None = None,
    /,
    *,
    name: str | None = None,
    id: str | None = None,
    retry: Retry | None = None,
    timeout: float | None = None,
    input: Any = None,
    output: Any = None,
    suspend: Any = None,
    resume: Any = None,
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """Makes a step of a function, plain or `async`: `@step`, `@step(retry=3)`. With a name, `step("charge")` is a step
    whose function is registered under that name.

    A function of one parameter is given the step's input, of the annotated type; one of several is given its fields by
    name. A parameter annotated with `StepContext`, or called `ctx`, is given where the call stands. What it returns is
    what the step gives. What it raises is a failure, tried again as `retry` says; `FatalError` is not. Annotations
    become the schemas by which input and output are checked.

    Args:
        name: what the function is registered as. Default: the function's name.
        id: the step's id in the workflow. Default: its name.
        retry: most further attempts, or `{max, delay_ms, factor, delay_max_ms}`. Default: what the workflow says.
        timeout: longest attempt in seconds. Default 300.
        input, output: types or JSON Schemas in place of those of the signature.
        suspend: type or JSON Schema of what it tells when it suspends.
        resume: type or JSON Schema of what resumes it; `ctx.resume` is of the type.
        description: what it does, for people.
        metadata: facts for the host.

    Raises:
        InvalidError: an annotation has no JSON Schema (`schema_invalid`).
    """
    localns = dict(sys._getframe(1).f_locals)
    given = {
        place: value
        for place, value in (("input", input), ("output", output), ("suspend", suspend), ("resume", resume))
        if value is not None
    }
    fields: dict[str, Any] = {}
    if description is not None:
        fields["description"] = description
    if retry is not None:
        fields["retry"] = _retry(retry)
    if timeout is not None:
        fields["timeout_ms"] = _ms(timeout)
    if metadata is not None:
        fields["metadata"] = dict(metadata)

    def decorate(function: Callable[..., Any]) -> Step[Any, Any]:
        called = name or str(getattr(function, "__name__", type(function).__name__))
        made = Step[Any, Any]({"step": called}, function, name=called, id=id or _id(called))
        made.__doc__ = function.__doc__
        made.spec.update(fields)
        made._read(localns, given)
        return made

    if isinstance(function, str):
        made = Step[Any, Any]({"step": function}, name=function, id=id or _id(function))
        made.spec.update(fields)
        for place, value in given.items():
            made.spec[f"{place}_schema"], _ = _typed(value, f"step `{function}`, `{place}`", localns)
        return made
    return decorate if function is None else decorate(function)


def _id(name: str) -> str:
    """The id of a step that runs a component of this name."""
    return name.replace(".", "_").lstrip("_")


def _anonymous(function: Callable[..., Any], id: str) -> Step[Any, Any]:
    """A step of a function that has no name of its own: it is called by its place in the workflow."""
    made = Step[Any, Any]({"step": ""}, function, id=id)
    made._read(None, {})
    return made
