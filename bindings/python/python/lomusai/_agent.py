"""Agents: a model, instructions, tools and rules, and the ways to run them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeAlias, TypeVar, Union, cast, overload

from . import _lomusai as native
from ._engine import Engine, default_engine
from ._models import ModelOf, Provider
from ._run import Parse, Result, Stream
from ._schema import Types, is_model
from ._tool import ClientTool, Tool, tool
from .errors import InvalidError
from .events import Message

T = TypeVar("T")
Input: TypeAlias = Union[str, Message, Sequence[Message]]
Function: TypeAlias = Union[str, Callable[..., Any]]
"""A function of one question, or the name of one that is registered with the engine."""

_PHASES = ("input", "step", "stream", "output")
_HOOKS = ("before_tool", "after_tool", "after_step")


class Agent(Generic[T]):
    """An agent. Making one registers nothing yet: its engine learns of it when it first runs, or by `Engine.register`.

    Functions in `instructions`, `approval`, `stop`, `processors` and `hooks` take the question as a dict, and a
    `CallContext` if
    they have a second parameter; they may be `async`. They are registered as `<agent>.<place>`, for example
    `helper.approval`
    and `helper.input.0`; a string is the name of one that the engine has under that name.

    Args:
        name: letters, digits, `_`, `-` and `.`, at most 64; unique on its engine.
        model: a provider, `provider.model("name")`, or a name: of a registered provider, `name` or `name/model`, or
            `openai/…`, `anthropic/…` and the like, with the key in the environment.
        instructions: the system message; or a function that is asked with `{agent, input}` once per run.
        description: what it does, for agents that may hand work to it.
        tools: tools, plain functions, or names of registered tools.
        agents: agents that the model may hand work to, each as the tool `agent-<name>`.
        output: the shape of the final answer: a pydantic model, a dataclass, a TypedDict or a JSON Schema.
        approval: `True`: every tool call waits for a person; or a function asked with `{tool, call_id, arguments}`.
        stop: ends the run after a step: `{"type": "tool_called", "tool": …}`, `{"type": "text_contains", "text":
        …}`, or a
            function asked with `{step, message, usage}`.
        processors: functions by phase, `input`, `step`, `stream` or `output`.
        hooks: a function by point, `before_tool`, `after_tool` or `after_step`.
        settings: `temperature`, `max_output_tokens` and the like.
        tool_choice: `auto`, `none`, `required`, or `{"tool": name}`.
        max_steps: most model calls in one run. Default 5.
        tool_concurrency: most tool calls at once. Default 10.
        limits: times and sizes: `run_ms`, `model_ms`, `tool_ms`, …
        fallbacks: models to ask where the one before failed: names, or `{"model", "max_retries", "settings"}`.
        budget: what a run and its sub-agents may use: `tokens`, `cost_nano_usd`, `calls`, `model_ms`.
        metadata: facts for the host.
        engine: the engine that runs it. Default: `default_engine()`.

    Raises:
        InvalidError: an argument has no meaning (`spec_invalid`, `schema_invalid`).
    """

    @overload
    def __init__(
        self: Agent[Any],
        name: str,
        model: str | Provider | ModelOf,
        *,
        instructions: str | Callable[..., Any] | None = None,
        description: str | None = None,
        tools: Iterable[Tool[..., Any] | ClientTool | Callable[..., Any] | str] = (),
        agents: Iterable[Agent[Any] | str] = (),
        output: Mapping[str, Any] | None = None,
        approval: bool | Function = False,
        stop: Iterable[Mapping[str, Any] | Callable[..., Any]] = (),
        processors: Mapping[str, Function | Sequence[Function]] | None = None,
        hooks: Mapping[str, Function] | None = None,
        settings: Mapping[str, Any] | None = None,
        tool_choice: str | Mapping[str, str] | None = None,
        max_steps: int | None = None,
        tool_concurrency: int | None = None,
        limits: Mapping[str, int] | None = None,
        fallbacks: Iterable[str | Mapping[str, Any]] = (),
        budget: Mapping[str, int] | None = None,
        metadata: Mapping[str, Any] | None = None,
        engine: Engine | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str,
        model: str | Provider | ModelOf,
        *,
        instructions: str | Callable[..., Any] | None = None,
        description: str | None = None,
        tools: Iterable[Tool[..., Any] | ClientTool | Callable[..., Any] | str] = (),
        agents: Iterable[Agent[Any] | str] = (),
        output: type[T],
        approval: bool | Function = False,
        stop: Iterable[Mapping[str, Any] | Callable[..., Any]] = (),
        processors: Mapping[str, Function | Sequence[Function]] | None = None,
        hooks: Mapping[str, Function] | None = None,
        settings: Mapping[str, Any] | None = None,
        tool_choice: str | Mapping[str, str] | None = None,
        max_steps: int | None = None,
        tool_concurrency: int | None = None,
        limits: Mapping[str, int] | None = None,
        fallbacks: Iterable[str | Mapping[str, Any]] = (),
        budget: Mapping[str, int] | None = None,
        metadata: Mapping[str, Any] | None = None,
        engine: Engine | None = None,
    ) -> None: ...

    def __init__(
        self,
        name: str,
        model: str | Provider | ModelOf,
        *,
        instructions: str | Callable[..., Any] | None = None,
        description: str | None = None,
        tools: Iterable[Tool[..., Any] | ClientTool | Callable[..., Any] | str] = (),
        agents: Iterable[Agent[Any] | str] = (),
        output: Any = None,
        approval: bool | Function = False,
        stop: Iterable[Mapping[str, Any] | Callable[..., Any]] = (),
        processors: Mapping[str, Function | Sequence[Function]] | None = None,
        hooks: Mapping[str, Function] | None = None,
        settings: Mapping[str, Any] | None = None,
        tool_choice: str | Mapping[str, str] | None = None,
        max_steps: int | None = None,
        tool_concurrency: int | None = None,
        limits: Mapping[str, int] | None = None,
        fallbacks: Iterable[str | Mapping[str, Any]] = (),
        budget: Mapping[str, int] | None = None,
        metadata: Mapping[str, Any] | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.name = name
        self._engine = engine
        self._placeholders: dict[str, Any] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._provider: tuple[Provider, str] | None = None
        self._tools: list[Tool[..., Any] | ClientTool] = []
        self._agents: list[Agent[Any]] = []
        self._parse: Parse[T] | None = None
        spec: dict[str, Any] = {"name": name, "model": self._model(model)}
        for key, value in (
            ("description", description),
            ("settings", settings),
            ("tool_choice", tool_choice),
            ("max_steps", max_steps),
            ("tool_concurrency", tool_concurrency),
            ("limits", limits),
            ("budget", budget),
            ("metadata", metadata),
        ):
            if value is not None:
                spec[key] = value
        if instructions is not None:
            spec["instructions"] = (
                instructions if isinstance(instructions, str) else {"function": self._function(instructions)}
            )
        spec["fallbacks"] = [{"model": item} if isinstance(item, str) else dict(item) for item in fallbacks]
        spec["tools"] = [self._tool(item) for item in tools]
        spec["agents"] = [self._agent(item) for item in agents]
        if approval is True:
            spec["approval"] = "always"
        elif approval is not False:
            spec["approval"] = {"function": self._function(approval)}
        spec["stop"] = [
            {"type": "function", "function": self._function(item)} if callable(item) else dict(item) for item in stop
        ]
        if processors:
            spec["processors"] = self._processors(processors)
        if hooks:
            unknown = [key for key in hooks if key not in _HOOKS]
            if unknown:
                raise _unknown(name, "hooks", unknown, _HOOKS)
            spec["hooks"] = {key: self._function(item) for key, item in hooks.items()}
        if output is not None:
            spec["output"] = self._output(output)
        self._name_functions(spec)
        self.spec: dict[str, Any] = {key: value for key, value in spec.items() if value != []}
        """The agent's spec, as in every language."""

    def __repr__(self) -> str:
        return f"Agent({self.name!r})"

    @property
    def engine(self) -> Engine:
        """The engine that runs it."""
        return default_engine() if self._engine is None else self._engine

    # --- Putting it together ------------------------------------------------------------------------------------------

    def _model(self, model: str | Provider | ModelOf) -> str:
        if isinstance(model, str):
            return model
        provider, suffix = (model.provider, f"/{model.model}") if isinstance(model, ModelOf) else (model, "")
        if provider.name:
            self._provider = (provider, provider.name)
            return provider.name + suffix
        return self._placeholder(provider) + suffix

    def _function(self, function: Function) -> str:
        return function if isinstance(function, str) else self._placeholder(function)

    def _placeholder(self, thing: Any) -> str:
        placeholder = f"#{len(self._placeholders)}"
        self._placeholders[placeholder] = thing
        return placeholder

    def _name_functions(self, spec: dict[str, Any]) -> None:
        """Has the engine name what has no name: it is called the same in every language."""
        if not self._placeholders:
            return
        places = ("name", "model", "instructions", "approval", "stop", "processors", "hooks")
        named = native.name_functions({key: spec[key] for key in places if key in spec})
        spec.update(named["spec"])
        for placeholder, name in named["functions"].items():
            thing = self._placeholders[placeholder]
            if isinstance(thing, Provider):
                self._provider = (thing, name)
            else:
                self._functions[name] = thing

    def _tool(self, item: Tool[..., Any] | ClientTool | Callable[..., Any] | str) -> str:
        if isinstance(item, str):
            return item
        made = item if isinstance(item, (Tool, ClientTool)) else tool(item)
        self._tools.append(made)
        return made.name

    def _agent(self, item: Agent[Any] | str) -> str:
        if isinstance(item, str):
            return item
        self._agents.append(item)
        return item.name

    def _processors(self, processors: Mapping[str, Function | Sequence[Function]]) -> dict[str, Any]:
        spec: dict[str, Any] = {}
        for phase, items in processors.items():
            if phase == "max_retries":
                spec[phase] = items
                continue
            if phase not in _PHASES:
                raise _unknown(self.name, "processors", [phase], _PHASES)
            several = [items] if isinstance(items, str) or callable(items) else items
            spec[phase] = [self._function(item) for item in several]
        return spec

    def _output(self, output: Any) -> dict[str, Any]:
        if isinstance(output, Mapping):
            # A whole output spec, or the schema alone.
            given = dict(cast("Mapping[str, Any]", output))
            return given if "schema" in given and set(given) <= {"schema", "name", "retries"} else {"schema": given}
        known = Types()
        if is_model(output):
            schema = output.model_json_schema()
            self._parse = output.model_validate
        else:
            schema = known.schema(output, f"the output of agent `{self.name}`")
            if known.definitions:
                schema["$defs"] = known.definitions
            self._parse = known.convert(output)
        spec: dict[str, Any] = {"schema": schema}
        label = getattr(output, "__name__", "")
        if isinstance(output, type) and (dataclasses.is_dataclass(output) or is_model(output)) and label:
            spec["name"] = label
        return spec

    def _register(self, engine: Engine) -> None:
        with engine._lock:
            if engine._registered.get(("agent", self.name)) is self:
                return
            if self._provider is not None:
                engine._register_provider(*self._provider)
            for item in self._tools:
                engine._register_tool(item)
            for agent in self._agents:
                agent._register(engine)
            for name, function in self._functions.items():
                engine.register_function(name, function)
            engine._replace("agent", self.name, self)
            engine._native.register_agent(self.spec)
            engine._registered[("agent", self.name)] = self

    # --- Running it ---------------------------------------------------------------------------------------------------

    def _request(self, input: Input, fields: dict[str, Any]) -> dict[str, Any]:
        request = {key: value for key, value in fields.items() if value not in (None, False, ())}
        request["agent"] = self.name
        request["input"] = input
        return request

    def _ready(self) -> Engine:
        engine = self.engine
        if engine._registered.get(("agent", self.name)) is not self:
            self._register(engine)
        return engine

    def generate(
        self,
        input: Input,
        *,
        history: Sequence[Message] | None = None,
        thread: str | None = None,
        resource: str | None = None,
        run_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        transient: Sequence[str] = (),
        detached: bool = False,
        on_busy: Literal["wait", "error"] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Result[T]:
        """Runs the agent until it ends or is suspended. Blocks this thread; Ctrl-C cancels the run.

        Where an asyncio loop runs on this thread, as in a notebook, async tools run on a loop of the package; prefer
        `await agenerate(…)` there, since the loop stands still meanwhile.

        Args:
            input: a text, a message or several.
            history: the conversation before it: `messages` of the result before.
            thread: the stored conversation it belongs to, in place of `history`; created when it does not exist.
            resource: who owns the thread, when it is created.
            run_id: the run's id; made by the engine when absent.
            context: what tools and functions find in `ctx.context`, as JSON.
            transient: keys of `context` that are not recorded, such as secrets; absent after a resume in another
            process.
            detached: the run goes on when nobody waits for it.
            on_busy: what happens when another run works on the thread: `wait` (default), or `error`.
            options: over the spec: `instructions`, `settings`, `max_steps`, `tool_choice`, `active_tools`,
            `client_tools`,
                `output`, `require_approval`, `timeout_ms`, `save_per_step`.

        Raises:
            LomusaiError: why the run failed, of the class of its kind; `__cause__` is what a Python callable raised.
                A run that was cancelled, suspended or exhausted is no error: see the result's `status`.
        """
        request = self._request(
            input,
            {
                "history": history,
                "thread": thread,
                "resource": resource,
                "run_id": run_id,
                "context": context,
                "transient": transient,
                "detached": detached,
                "on_busy": on_busy,
                "options": options,
            },
        )
        return self._ready()._run(request, self._parse)

    async def agenerate(
        self,
        input: Input,
        *,
        history: Sequence[Message] | None = None,
        thread: str | None = None,
        resource: str | None = None,
        run_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        transient: Sequence[str] = (),
        detached: bool = False,
        on_busy: Literal["wait", "error"] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Result[T]:
        """As `generate`, for asyncio. Async tools run on this loop, in a copy of the caller's context variables.
        Cancelling the
        task cancels the run and its tools, unless it is detached."""
        request = self._request(
            input,
            {
                "history": history,
                "thread": thread,
                "resource": resource,
                "run_id": run_id,
                "context": context,
                "transient": transient,
                "detached": detached,
                "on_busy": on_busy,
                "options": options,
            },
        )
        return await self._ready()._arun(request, self._parse)

    def stream(
        self,
        input: Input,
        *,
        history: Sequence[Message] | None = None,
        thread: str | None = None,
        resource: str | None = None,
        run_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        transient: Sequence[str] = (),
        detached: bool = False,
        on_busy: Literal["wait", "error"] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Stream[T]:
        """Begins a run, to be read with `for` or `async for`; the arguments are those of `generate`."""
        request = self._request(
            input,
            {
                "history": history,
                "thread": thread,
                "resource": resource,
                "run_id": run_id,
                "context": context,
                "transient": transient,
                "detached": detached,
                "on_busy": on_busy,
                "options": options,
            },
        )
        return self._ready()._stream(request, self._parse)


def _unknown(agent: str, what: str, unknown: Sequence[str], known: Sequence[str]) -> InvalidError:
    names, all_names = ", ".join(unknown), ", ".join(known)
    return InvalidError(f"agent `{agent}`: `{what}` has no {names}: there are {all_names}", code="spec_invalid")
