"""Workflows: functions as steps, a builder for the graph, and the ways to run it.

A builder only writes down what it was told: the engine turns the chain into a graph, the same one in every language.
"""

from __future__ import annotations

import datetime
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar, Union, cast, overload

from . import _lomusai as native
from ._agent import Agent
from ._call import Bailed, CallContext, StepContext, Suspended, is_async
from ._engine import Engine, default_engine
from ._run import Parse, Result, Stream, _resume
from ._schema import Convert, Schema, Types, is_model
from ._signature import Signature
from ._tool import Tool
from .errors import InvalidError

if TYPE_CHECKING:
    from typing_extensions import Self

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
P = TypeVar("P")

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


Runs: TypeAlias = Union[Step[Any, O], "Workflow[Any, O]", Agent[O], Tool[..., O], Callable[..., O], str]
"""What a link can run: a step, a workflow, an agent, a tool, a plain function, or the name of a registered step
function."""

# --- Workflows -------------------------------------------------------------------------------------------------------


class Workflow(Generic[I, O]):
    """A workflow that is built by its methods, each of which gives a longer one. Made by `workflow`.

    A link comes after all steps before it that nothing else comes after. Steps in one link run side by side. What a
    step gives is the next one's input.
    """

    def __init__(self, name: str, fields: Mapping[str, Any], engine: Engine | None) -> None:
        self.name = name
        self._fields = dict(fields)
        self._engine = engine
        self._chain: tuple[dict[str, Any], ...] = ()
        self._steps: tuple[Step[Any, Any], ...] = ()
        self._callables: tuple[Callable[..., Any], ...] = ()
        self._parse: Parse[Any] | None = None
        self._output_given = False
        self._drafted: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Workflow({self.name!r})"

    @property
    def engine(self) -> Engine:
        """The engine that runs it."""
        return default_engine() if self._engine is None else self._engine

    # --- Building it ---

    def then(self, step: Runs[P]) -> Workflow[I, P]:
        """One more step: a step, a function, an agent, a tool, a workflow, or the name of a registered step
        function."""
        with_step, spec, made = self._with(step)
        return with_step._linked({"then": spec}, made._parse)

    def parallel(self, steps: Iterable[Runs[Any]]) -> Workflow[I, dict[str, Any]]:
        """Steps side by side. Gives an object of what each gave, by id."""
        longer, specs = self._with_all(steps)
        return longer._linked({"parallel": specs}, None)

    def branch(self, arms: Iterable[tuple[Condition, Runs[Any]]]) -> Workflow[I, dict[str, Any]]:
        """Steps with a condition each. All whose condition holds run, side by side; one that fails counts as not
        holding. Gives an object of what those gave that ran, by id. What follows runs whichever did."""
        longer, specs = self._with_all(_step(one).when(condition) for condition, one in arms)
        return longer._linked({"branch": specs}, None)

    def foreach(self, step: Runs[P], *, concurrency: int | None = None, id: str | None = None) -> Workflow[I, list[P]]:
        """A step for each item of the list that the step before gave, one at a time unless `concurrency` says more.
        Gives the list of what each gave, in order.

        Args:
            id: the id of the whole. Default: the step's, which is then called `<id>_item`.
        """
        longer, spec, made = self._with(step)
        convert = made._parse
        parse = None if convert is None else lambda values: [convert(value) for value in values]
        return longer._linked({"foreach": _set(step=spec, id=id, concurrency=concurrency)}, parse)

    def dowhile(
        self, step: Runs[P], condition: Condition, *, max: int | None = None, id: str | None = None
    ) -> Workflow[I, P]:
        """A step that runs, and again with what it gave as long as the condition holds. The condition sees `output` and
        `iteration`, which counts from 1.

        Args:
            max: most times before it fails with `loop_exhausted`. Default 1,000.
            id: the id of the whole. Default: the step's, which is then called `<id>_turn`.
        """
        return self._loop(step, "while", condition, max, id)

    def dountil(
        self, step: Runs[P], condition: Condition, *, max: int | None = None, id: str | None = None
    ) -> Workflow[I, P]:
        """As `dowhile`, until the condition holds."""
        return self._loop(step, "until", condition, max, id)

    def map(self, mapping: Any, *, id: str | None = None) -> Workflow[I, Any]:
        """Works a value out: `path(…)`, `expr(…)`, or dicts and lists in which they are; or a function of the input."""
        if callable(mapping) and not isinstance(mapping, (Made, type)):
            return self.then(_anonymous(mapping, id or ""))
        return self._plain({"map": _mapping(mapping)}, id)

    def sleep(self, seconds: float | Any, *, id: str | None = None) -> Workflow[I, O]:
        """Waits so many seconds, across restarts. What makes the time while the run goes on, such as
        `path("input.ms")`, gives milliseconds."""
        time = _mapping(seconds) if isinstance(seconds, Made) else {"value": _ms(seconds)}
        return self._linked({"then": {"id": id or "", "run": {"sleep": time}}}, self._parse)

    def sleep_until(self, time: datetime.datetime | float | Any, *, id: str | None = None) -> Workflow[I, O]:
        """Waits until then: a datetime, or seconds since 1970. What makes the time while the run goes on gives
        milliseconds."""
        if isinstance(time, datetime.datetime):
            time = time.timestamp()
        at = _mapping(time) if isinstance(time, Made) else {"value": _ms(time)}
        return self._linked({"then": {"id": id or "", "run": {"sleep_until": at}}}, self._parse)

    def wait_for(
        self,
        signal: str,
        *,
        timeout: float | None = None,
        data: type[P] | Mapping[str, Any] | None = None,
        id: str | None = None,
    ) -> Workflow[I, P]:
        """Waits for a signal, and gives its data. One that came earlier counts.

        Args:
            timeout: longest wait in seconds, after which it fails with `wait_timeout`. Default: for ever.
            data: type or JSON Schema of the signal's data.
        """
        wait = _set(signal=signal, timeout_ms=None if timeout is None else _ms(timeout))
        return self._waits({"wait": wait}, data, id)

    def suspend(
        self,
        *,
        payload: Any = None,
        label: str | None = None,
        data: type[P] | Mapping[str, Any] | None = None,
        id: str | None = None,
    ) -> Workflow[I, P]:
        """Waits for `resume`, and gives its data.

        Args:
            payload: what the person who resumes it should know, as in `map`. Default: the step's input.
            label: a name under which it can be resumed.
            data: type or JSON Schema of what resumes it.
        """
        made = None if payload is None else _mapping(payload)
        return self._waits({"suspend": _set(payload=made, label=label)}, data, id)

    def bail(self, result: Any = None, *, when: Condition | None = None, id: str | None = None) -> Workflow[I, O]:
        """Ends the run as a success with this, which is as in `map`; with `when` only if that holds."""
        one = Step[Any, Any]({"bail": _mapping(result)}, id=id or "")
        longer, spec, _ = self._with(one if when is None else one.when(when))
        return longer._linked({"then": spec}, self._parse)

    def add(self, *steps: Runs[Any]) -> Workflow[I, Any]:
        """Steps in the style of dependencies: each comes after what it says by `after`, and after nothing else."""
        longer, specs = self._with_all(steps)
        return longer._linked({"steps": specs}, None)

    def output(self, mapping: Any) -> Workflow[I, Any]:
        """What the run comes to, as in `map`. Default: what the last link gives."""
        longer = self._copy()
        longer._fields["output"] = _mapping(mapping)
        if not self._output_given:
            longer._parse = None
        return longer

    def _copy(self) -> Workflow[I, Any]:
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy._fields = dict(self._fields)
        copy._drafted = None
        return copy

    def _linked(self, link: dict[str, Any], parse: Parse[Any] | None) -> Workflow[I, Any]:
        longer = self._copy()
        longer._chain = (*self._chain, link)
        if not self._output_given:
            longer._parse = parse
        return longer

    def _with(self, one: Any) -> tuple[Workflow[I, Any], dict[str, Any], Step[Any, Any]]:
        """The workflow with a step's callables, and the step's spec, in which placeholders stand for those without a
        name."""
        made = _step(one)
        longer = self._copy()
        spec = dict(made.spec)
        if made._when is not None:
            spec["when"] = longer._condition(made._when)
        if spec["run"].get("step") == "" and made.function is not None:
            spec["run"] = {"step": longer._placeholder(made)}
        longer._steps = (*longer._steps, made)
        return longer, spec, made

    def _with_all(self, steps: Iterable[Any]) -> tuple[Workflow[I, Any], list[dict[str, Any]]]:
        longer: Workflow[I, Any] = self
        specs: list[dict[str, Any]] = []
        for one in steps:
            longer, spec, _ = longer._with(one)
            specs.append(spec)
        return longer, specs

    def _condition(self, condition: Condition) -> dict[str, str]:
        return {"expr": condition} if isinstance(condition, str) else {"function": self._placeholder(condition)}

    def _placeholder(self, function: Callable[..., Any]) -> str:
        self._callables = (*self._callables, function)
        return f"#{len(self._callables) - 1}"

    def _loop(self, step: Runs[P], word: str, condition: Condition, most: int | None, id: str | None) -> Workflow[I, P]:
        longer, spec, made = self._with(step)
        link = _set(step=spec, id=id, max=most)
        link[word] = longer._condition(condition)
        return longer._linked({"loop": link}, made._parse)

    def _plain(self, run: dict[str, Any], id: str | None) -> Workflow[I, Any]:
        return self._linked({"then": {"id": id or "", "run": run}}, None)

    def _waits(self, run: dict[str, Any], data: Any, id: str | None) -> Workflow[I, Any]:
        spec: dict[str, Any] = {"id": id or "", "run": run}
        parse = None
        if data is not None:
            spec["resume_schema"], parse = _typed(data, f"workflow `{self.name}`, `data`")
        return self._linked({"then": spec}, parse)

    @property
    def spec(self) -> dict[str, Any]:
        """The workflow's spec, as in every language.

        Raises:
            InvalidError: the chain makes none (`argument_invalid`, `spec_invalid`).
        """
        return cast("dict[str, Any]", self._draft()["spec"])

    def _draft(self) -> dict[str, Any]:
        if self._drafted is None:
            draft = {"name": self.name, **self._fields, "chain": list(self._chain)}
            self._drafted = native.draft_workflow(draft)
        return self._drafted

    def _register(self, engine: Engine) -> None:
        with engine._lock:
            if engine._registered.get(("workflow", self.name)) is self:
                return
            drafted = self._draft()
            for one in self._steps:
                if isinstance(one._component, (Agent, Workflow)):
                    one._component._register(engine)
                elif isinstance(one._component, Tool):
                    engine._register_tool(one._component)
                elif one.function is not None and one.name:
                    engine._register_step(one, one.name)
            for placeholder, name in drafted["functions"].items():
                callable = self._callables[int(placeholder[1:])]
                if isinstance(callable, Step):
                    engine._register_step(callable, name)
                else:
                    engine.register_function(name, callable)
            engine._replace("workflow", self.name, self)
            engine._native.register_workflow(drafted["spec"])
            engine._registered[("workflow", self.name)] = self

    def _ready(self) -> Engine:
        engine = self.engine
        if engine._registered.get(("workflow", self.name)) is not self:
            self._register(engine)
        return engine

    # --- Running it ---

    def _request(self, input: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
        request = {key: value for key, value in fields.items() if value not in (None, False, ())}
        request["workflow"] = self.name
        if input is not None:
            request["input"] = input
        return request

    def run(
        self,
        input: I | None = None,
        *,
        run_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        transient: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
        detached: bool = False,
    ) -> Result[O]:
        """Runs the workflow until it ends or waits for somebody. Blocks this thread; Ctrl-C cancels the run. What it
        came to is the result's `object`.

        Args:
            input: what it works on, as JSON or a value that can be written as JSON.
            run_id: the run's id; made by the engine when absent.
            context: what steps find in `ctx.context`, as JSON.
            transient: keys of `context` that are not recorded; absent after a resume in another process.
            state: the run's state at the start.
            detached: the run goes on when nobody waits for it.

        Raises:
            LomusaiError: why the run failed, of the class of its kind; `__cause__` is what a Python function raised.
                A run that waits, was cancelled or bailed is no error: see the result's `status`.
        """
        request = self._request(
            input,
            {"run_id": run_id, "context": context, "transient": transient, "state": state, "detached": detached},
        )
        return self._ready()._run(request, self._parse)

    async def arun(
        self,
        input: I | None = None,
        *,
        run_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        transient: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
        detached: bool = False,
    ) -> Result[O]:
        """As `run`, for asyncio. Async steps run on this loop; cancelling the task cancels the run, unless it is
        detached."""
        request = self._request(
            input,
            {"run_id": run_id, "context": context, "transient": transient, "state": state, "detached": detached},
        )
        return await self._ready()._arun(request, self._parse)

    def stream(
        self,
        input: I | None = None,
        *,
        run_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        transient: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
        detached: bool = False,
    ) -> Stream[O]:
        """Begins a run, to be read with `for` or `async for`; the arguments are those of `run`."""
        request = self._request(
            input,
            {"run_id": run_id, "context": context, "transient": transient, "state": state, "detached": detached},
        )
        return self._ready()._stream(request, self._parse)

    def start(
        self,
        input: I | None = None,
        *,
        run_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        transient: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
    ) -> str:
        """Begins a run that nobody waits for, and gives its id once its start is recorded. `result` waits for it
        later."""
        request = self._request(
            input, {"run_id": run_id, "context": context, "transient": transient, "state": state, "detached": True}
        )
        stream = self._ready()._stream(request, self._parse)
        if stream.next() is None:
            # It did not begin: this raises why.
            stream.result()
        stream.close()
        return stream.run_id

    async def astart(
        self,
        input: I | None = None,
        *,
        run_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        transient: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
    ) -> str:
        """As `start`, for asyncio."""
        request = self._request(
            input, {"run_id": run_id, "context": context, "transient": transient, "state": state, "detached": True}
        )
        stream = self._ready()._stream(request, self._parse)
        if await stream.anext() is None:
            await stream.aresult()
        stream.close()
        return stream.run_id

    def result(self, run_id: str) -> Result[O]:
        """What a run came to, or where it waits; waits while it is at work here. A failed run's error is in the
        result."""
        return self._ready()._stored(self.engine._call("result", {"run_id": run_id}), self._parse)

    async def aresult(self, run_id: str) -> Result[O]:
        """As `result`, for asyncio."""
        return self._ready()._stored(await self.engine._acall("result", {"run_id": run_id}), self._parse)

    def resume(
        self, run_id: str, data: Any = None, *, effect_id: str | None = None, label: str | None = None
    ) -> Result[O]:
        """Goes on with a step that suspended, which is given `data`, and waits for the run.

        Args:
            effect_id: which, where several wait: `ask`, in a foreach `each.3.ask`.
            label: the label it suspended under, in place of the effect.

        Raises:
            NotFoundError: no such run, or nothing waits (`run_unknown`, `effect_unknown`).
            ConflictError: the run has ended, is at work, or was started with another spec (`run_finished`,
            `run_active`,
                `workflow_changed`).
            InvalidError: the data does not fit (`resume_invalid`).
        """
        return self._ready()._command(run_id, _resume(effect_id, data, label), self._parse)

    async def aresume(
        self, run_id: str, data: Any = None, *, effect_id: str | None = None, label: str | None = None
    ) -> Result[O]:
        """As `resume`, for asyncio."""
        return await self._ready()._acommand(run_id, _resume(effect_id, data, label), self._parse)

    def retry(self, run_id: str) -> Result[O]:
        """Takes up a run that failed, and waits for it: what was done stays done, what failed begins again.

        Raises:
            ConflictError: it has not failed (`run_not_failed`, `run_finished`).
        """
        return self._ready()._command(run_id, {"type": "retry"}, self._parse)

    async def aretry(self, run_id: str) -> Result[O]:
        """As `retry`, for asyncio."""
        return await self._ready()._acommand(run_id, {"type": "retry"}, self._parse)

    def signal(self, run_id: str, name: str, data: Any = None) -> None:
        """Tells a run that something happened. Kept until a step waits for it; returns once it is recorded."""
        self._ready().signal(run_id, name, data)

    async def asignal(self, run_id: str, name: str, data: Any = None) -> None:
        """As `signal`, for asyncio."""
        await self._ready().asignal(run_id, name, data)

    def cancel(self, run_id: str, grace: float = 0, reason: str | None = None) -> None:
        """Asks for a run to be cancelled: nothing new starts, results within `grace` seconds are still recorded."""
        self._ready().cancel(run_id, grace, reason)

    async def acancel(self, run_id: str, grace: float = 0, reason: str | None = None) -> None:
        """As `cancel`, for asyncio."""
        await self._ready().acancel(run_id, grace, reason)


@overload
def workflow(
    name: str,
    *,
    description: str | None = None,
    input: type[I],
    output: Any = None,
    retry: Retry | None = None,
    limits: Mapping[str, int] | None = None,
    metadata: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
) -> Workflow[I, I]: ...


@overload
def workflow(
    name: str,
    *,
    description: str | None = None,
    input: Mapping[str, Any] | None = None,
    output: Any = None,
    retry: Retry | None = None,
    limits: Mapping[str, int] | None = None,
    metadata: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
) -> Workflow[Any, Any]: ...


def workflow(
    name: str,
    *,
    description: str | None = None,
    input: Any = None,
    output: Any = None,
    retry: Retry | None = None,
    limits: Mapping[str, int] | None = None,
    metadata: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
) -> Workflow[Any, Any]:
    """A workflow without steps, to be built: `workflow("refund").then(check).branch([…])`.

    Args:
        name: letters, digits, `_`, `-` and `.`, at most 64; unique on its engine.
        description: what it does.
        input: type or JSON Schema of its input.
        output: type or JSON Schema of what it comes to.
        retry: further attempts of steps that do not say otherwise.
        limits: times and sizes: `run_ms`, `tool_ms`, `result_bytes`, …
        metadata: facts for the host.
        engine: the engine that runs it. Default: `default_engine()`.
    """
    fields: dict[str, Any] = _set(description=description, limits=limits, metadata=metadata)
    parse = None
    if input is not None:
        fields["input_schema"], _ = _typed(input, f"workflow `{name}`, `input`")
    if output is not None:
        fields["output_schema"], parse = _typed(output, f"workflow `{name}`, `output`")
    if retry is not None:
        fields["retry"] = _retry(retry)
    made = Workflow[Any, Any](name, fields, engine)
    made._parse, made._output_given = parse, output is not None
    return made


def _set(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _id(name: str) -> str:
    """The id of a step that runs a component of this name."""
    return name.replace(".", "_").lstrip("_")


def _anonymous(function: Callable[..., Any], id: str) -> Step[Any, Any]:
    """A step of a function that has no name of its own: it is called by its place in the workflow."""
    made = Step[Any, Any]({"step": ""}, function, id=id)
    made._read(None, {})
    return made


def _step(one: Any) -> Step[Any, Any]:
    """What a link runs, as a step."""
    if isinstance(one, Step):
        return one
    if isinstance(one, str):
        return step(one)
    if isinstance(one, Workflow):
        made = Step[Any, Any]({"workflow": one.name}, component=one)
        made._parse = one._parse
        return made
    if isinstance(one, Agent):
        return Step[Any, Any]({"agent": one.name}, component=one)
    if isinstance(one, Tool):
        return Step[Any, Any]({"tool": one.name}, component=one)
    if callable(one):
        name = str(getattr(one, "__name__", ""))
        return step(one) if name.isidentifier() else _anonymous(one, "")
    raise InvalidError(
        f"a step is a function, a step, an agent, a tool, a workflow or a name, not {one!r}", code="argument_invalid"
    )
