"""Workflows: a builder for the graph, and the ways to run it.

A builder only writes down what it was told: the engine turns the chain into a graph, the same one in every language.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, Union, cast, overload

from . import _lomusai as native
from ._agent import Agent
from ._engine import Engine, default_engine
from ._run import Parse, Result, Stream, _resume
from ._step import (
    Condition,
    Made,
    Retry,
    Step,
    _anonymous,
    _mapping,
    _ms,
    _retry,
    _typed,
    step,
)
from ._tool import Tool
from .errors import InvalidError

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
P = TypeVar("P")

Runs: TypeAlias = Union[Step[Any, O], "Workflow[Any, O]", Agent[O], Tool[..., O], Callable[..., O], str]
"""What a link can run: a step, a workflow, an agent, a tool, a plain function, or the name of a registered step
function."""


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
