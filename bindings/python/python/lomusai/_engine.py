"""The engine: what keeps runs, drives them, and knows the agents, tools and providers of this process."""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from . import _lomusai as native
from ._call import function_handler, is_async
from ._history import HistoryOperations, Retention, RunFilter
from ._models import Provider
from ._run import Observer, Parse, Result, Stream, _approve, _decline, _resume, _tool_result
from ._schedules import ScheduleOperations
from ._tool import ClientTool, Tool
from .errors import InvalidError, LomusaiError
from .events import DurableEvent, Message, RunInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._agent import Agent
    from ._step import Step
    from ._workflow import Workflow

T = TypeVar("T")
_logger = logging.getLogger("lomusai")

_EXIT_SECONDS = 2.0
"""How long the end of the process waits for callables, per engine."""

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine(HistoryOperations, ScheduleOperations):
    """An engine. Thread-safe; belongs to the process that opened it.

    Every method that waits has a twin for asyncio, named with an `a` in front: `pending` and `apending`.

    Args:
        path: the file that keeps runs, so that they outlive the process. Default: in memory.
        sync: what a commit waits for: `normal` survives a crash of the process, `full` one of the machine.
        threads: threads that drive runs. Default: one per core.
        busy_ms: how long to wait for another process's lock on the file.
        callbacks_max: most plain functions at once. Default 256.
        keep_finished: finished runs kept in memory, without a `path`. Default 1,000; fewer, but 100,
            where they have more than 20,000 events together.
        reader_events: events kept for a reader before its run waits for it. Default 256.
        lease_ms: how long a lease on a run outlives its holder's last sign of life. Default 15,000.
        recoveries_max: how often a run is recovered without progress before it counts as poisoned. Default 5.
        close_ms: how long `close` waits for runs and callables. Default 10,000.
        providers: settings of providers by the name before the slash of `provider/model`, such as
            `{"mine": {"type": "compatible", "base_url": …}}`. Default: keys and addresses of the environment.
        models: what is known of models over the table that comes along: `[{"provider", "model", "price", …}]`.
        budgets: budgets that runs share, by name: `{"team": {"tokens": …}}`. See `budget` of `Agent`.
        provider_limits: most calls by provider: `{"openai": {"concurrency": …, "calls_per_minute": …}}`.
        cassette: records calls of models and tools, or gives them back: `{"mode": "record" | "replay" | "auto",
            "path": …}`. Default: what `LOMUSAI_CASSETTE` and `LOMUSAI_CASSETTE_PATH` say.
        retention: which runs that have ended are kept; see `prune`. Default: all.
        compact_after_ms: how long after its end a run's journal is compressed in the file, when the engine was started;
            `False`: never. Default: an hour.

    Raises:
        StorageError: the file is locked, read-only, newer or damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        sync: Literal["normal", "full"] = "normal",
        threads: int | None = None,
        busy_ms: int | None = None,
        callbacks_max: int | None = None,
        keep_finished: int | None = None,
        reader_events: int | None = None,
        lease_ms: int | None = None,
        recoveries_max: int | None = None,
        close_ms: int | None = None,
        providers: Mapping[str, Mapping[str, Any]] | None = None,
        models: Iterable[Mapping[str, Any]] | None = None,
        budgets: Mapping[str, Mapping[str, int]] | None = None,
        provider_limits: Mapping[str, Mapping[str, int]] | None = None,
        cassette: Mapping[str, Any] | None = None,
        retention: Iterable[Retention] | None = None,
        compact_after_ms: int | Literal[False] | None = None,
    ) -> None:
        from . import _loop

        options: dict[str, Any] = {
            "path": None if path is None else os.fspath(path),
            "sync": None if sync == "normal" else sync,
            "threads": threads,
            "busy_ms": busy_ms,
            "callbacks_max": callbacks_max,
            "keep_finished": keep_finished,
            "reader_events": reader_events,
            "lease_ms": lease_ms,
            "recoveries_max": recoveries_max,
            "close_ms": close_ms,
            "providers": providers,
            "models": None if models is None else list(models),
            "budgets": budgets,
            "provider_limits": provider_limits,
            "cassette": None if cassette is None else {**cassette, "path": os.fspath(cassette["path"])},
            "retention": None if retention is None else list(retention),
            "compact_after_ms": compact_after_ms,
        }
        _loop.own_bridge()
        options = {key: value for key, value in options.items() if value is not None}
        if compact_after_ms is False:
            options["compact_after_ms"] = None
        self._native = native.Engine(options)
        self._native.log_to_loop()
        self._closing = False
        self._lock = threading.RLock()
        # What was registered from Python, by kind and name, so that registering the same thing again is fine.
        self._registered: dict[tuple[str, str], Any] = {}
        self._replaces = False
        self._pid = os.getpid()
        _engines.add(self)

    # --- Components ---------------------------------------------------------------------------------------------------

    def register(
        self, *components: Agent[Any] | Workflow[Any, Any] | Step[Any, Any] | Tool[..., Any] | ClientTool | Provider
    ) -> None:
        """Registers agents and workflows (with all that they use), steps, tools and providers. The same object again is
        fine.

        Raises:
            ConflictError: another one has the name (`name_taken`).
            InvalidError: a name, spec or schema is wrong.
        """
        from ._agent import Agent
        from ._step import Step
        from ._workflow import Workflow

        for component in components:
            if isinstance(component, (Agent, Workflow)):
                component._register(self)
            elif isinstance(component, Step):
                self._register_step(component, component.name)
            elif isinstance(component, Provider):
                if component.name is None:
                    raise InvalidError("a provider that is registered by itself needs a `name`", code="name_invalid")
                self._register_provider(component, component.name)
            else:
                self._register_tool(component)

    def register_function(self, name: str, function: Callable[..., Any], *, inline: bool = False) -> None:
        """Registers a function that specs can name: instructions, processors, hooks, rules. It takes the question
        as a dict,
        and a `CallContext` if it has a second parameter; it may be `async`."""
        with self._lock:
            if self._registered.get(("function", name)) is function:
                return
            handler, place = function_handler(function)
            self._replace("function", name, function)
            self._native.register_function(name, handler, "inline" if inline and not is_async(function) else place)
            self._registered[("function", name)] = function

    def register_embedder(self, name: str, dimensions: int, function: Callable[[list[str]], Any]) -> None:
        """Registers a function that gives one vector of `dimensions` numbers per text; it may be `async`."""

        def of_question(question: dict[str, Any]) -> Any:
            return function(question["texts"])

        async def of_question_async(question: dict[str, Any]) -> Any:
            return await function(question["texts"])

        handler, place = function_handler(of_question_async if is_async(function) else of_question)
        with self._lock:
            self._native.register_embedder(name, dimensions, handler, place)
            self._registered[("embedder", name)] = function

    def register_spec(self, spec: Mapping[str, Any]) -> None:
        """Registers an agent by its spec, as in every language. What it names is registered separately."""
        self._native.register_agent(spec)

    def register_workflow(self, spec: Mapping[str, Any]) -> None:
        """Registers a workflow by its spec, as in every language. What it names is registered separately.

        Raises:
            InvalidError: what is wrong with it: `step_cycle`, `step_duplicate`, `step_reference_unknown`,
                `expression_invalid`, `schema_invalid`, `spec_invalid`, `name_invalid`, `argument_invalid`.
            ConflictError: another one has the name (`name_taken`).
        """
        self._native.register_workflow(spec)

    def unregister(self, kind: str, name: str) -> bool:
        """Takes an `agent`, `tool`, `provider`, `function`, `embedder`, `workflow` or `step` away. Whether there was
        one."""
        with self._lock:
            self._registered.pop((kind, name), None)
            return self._native.unregister(kind, name)

    def _replace(self, kind: str, name: str, component: object) -> None:
        """On the default engine, what is defined again takes the place of what it was: a notebook's cell is run
        again."""
        known = self._registered.get((kind, name))
        if known is not None and self._replaces and _same_definition(known, component):
            self._native.unregister(kind, name)
            del self._registered[(kind, name)]

    def _register_tool(self, tool: Tool[..., Any] | ClientTool) -> None:
        with self._lock:
            if self._registered.get(("tool", tool.name)) is tool:
                return
            self._replace("tool", tool.name, tool)
            if isinstance(tool, Tool) and ("tool", tool.name) not in self._registered:
                self._native.unregister("function", tool.approval_name)
            for kind, name in tool.register(self._native):
                self._registered[(kind, name)] = tool

    def _register_step(self, step: Step[Any, Any], name: str) -> None:
        if step.function is None:
            raise InvalidError(f"step `{name}` names a function and has none: make it of one", code="argument_invalid")
        with self._lock:
            if self._registered.get(("step", name)) is step.function:
                return
            self._replace("step", name, step.function)
            step.register(self._native, name)
            self._registered[("step", name)] = step.function

    def _register_provider(self, provider: Provider, name: str) -> None:
        with self._lock:
            if self._registered.get(("provider", name)) is provider:
                return
            self._replace("provider", name, provider)
            provider.register(self._native, name)
            self._registered[("provider", name)] = provider

    # --- Runs ---------------------------------------------------------------------------------------------------------

    def _launch(self, request: Mapping[str, Any], bridge: Any, parse: Parse[T] | None) -> Stream[T]:
        host = native.Host(contextvars.copy_context(), bridge)
        run = self._native.run(request, host)
        return Stream(self, run, parse, bool(request.get("detached")))

    def run(self, request: Mapping[str, Any], *, check: bool = True) -> Result[Any]:
        """Runs an agent by a start request, as in every language: `{agent, input, history?, thread?, context?,
        options?, …}`; or a workflow: `{workflow, input?, state?, context?, …}`.

        Raises:
            LomusaiError: what is wrong with the request, or, with `check`, why the run failed.
        """
        return self._run(request, None, check)

    def _run(self, request: Mapping[str, Any], parse: Parse[T] | None, check: bool = True) -> Result[T]:
        from . import _loop

        with _loop.blocking() as bridge:
            stream = self._launch(request, bridge.native, parse)
            return stream.result(check=check)

    async def arun(self, request: Mapping[str, Any], *, check: bool = True) -> Result[Any]:
        """As `run`, for asyncio. Async callables run on this loop; cancelling the task cancels the run."""
        return await self._arun(request, None, check)

    async def _arun(self, request: Mapping[str, Any], parse: Parse[T] | None, check: bool = True) -> Result[T]:
        from . import _loop

        return await self._launch(request, _loop.current().native, parse).aresult(check=check)

    def stream(self, request: Mapping[str, Any]) -> Stream[Any]:
        """Begins a run by a start request, to be read with `for` or `async for`. Where a loop runs, async callables
        run on it,
        and it must not be blocked by a plain `for`."""
        return self._stream(request, None)

    def _stream(self, request: Mapping[str, Any], parse: Parse[T] | None) -> Stream[T]:
        return self._launch(request, _stream_bridge(), parse)

    def _resumed(self, run: native.Run, parse: Parse[T] | None) -> Stream[T]:
        return Stream(self, run, parse)

    def _command(self, run_id: str, command: Mapping[str, Any], parse: Parse[T] | None = None) -> Result[T]:
        from . import _loop

        with _loop.blocking() as bridge:
            host = native.Host(contextvars.copy_context(), bridge.native)
            return self._resumed(self._native.resume(run_id, command, host), parse).result()

    async def _acommand(self, run_id: str, command: Mapping[str, Any], parse: Parse[T] | None = None) -> Result[T]:
        return await (await self._aresumed(run_id, command, parse)).aresult()

    async def _aresumed(self, run_id: str, command: Mapping[str, Any], parse: Parse[T] | None) -> Stream[T]:
        from . import _loop

        bridge = _loop.current()
        future = bridge.future()
        host = native.Host(contextvars.copy_context(), bridge.native)
        self._native.resume_async(run_id, command, host, bridge.native, future)
        return self._resumed(await future, parse)

    def command_stream(self, run_id: str, command: Mapping[str, Any]) -> Stream[Any]:
        """Sends a command to a suspended run and reads on from there, once the command is recorded."""
        host = native.Host(contextvars.copy_context(), _stream_bridge())
        return self._resumed(self._native.resume(run_id, command, host), None)

    def command(self, run_id: str, command: Mapping[str, Any]) -> None:
        """Sends a command to a run, which goes on without a reader. Returns once it is recorded."""
        self._call("command", {"run_id": run_id, "command": command})

    async def acommand(self, run_id: str, command: Mapping[str, Any]) -> None:
        """As `command`, for asyncio."""
        await self._acall("command", {"run_id": run_id, "command": command})

    def approve(self, run_id: str, effect_id: str | None = None) -> Result[Any]:
        """Runs the tool that waits for approval, and waits for the run. `effect_id` names it where several wait.

        Raises:
            NotFoundError: no such run, or nothing waits (`run_unknown`, `effect_unknown`).
            ConflictError: the run has finished, is at work elsewhere, or needs what is not registered here.
        """
        return self._command(run_id, _approve(effect_id))

    async def aapprove(self, run_id: str, effect_id: str | None = None) -> Result[Any]:
        """As `approve`, for asyncio."""
        return await self._acommand(run_id, _approve(effect_id))

    def decline(self, run_id: str, reason: str | None = None, effect_id: str | None = None) -> Result[Any]:
        """Does not run the tool that waits for approval; the model is told why. Raises as `approve`."""
        return self._command(run_id, _decline(effect_id, reason))

    async def adecline(self, run_id: str, reason: str | None = None, effect_id: str | None = None) -> Result[Any]:
        """As `decline`, for asyncio."""
        return await self._acommand(run_id, _decline(effect_id, reason))

    def resume(
        self, run_id: str, data: Any = None, effect_id: str | None = None, *, label: str | None = None
    ) -> Result[Any]:
        """Goes on with a tool or step that suspended, which is given `data`; `label` names a step in place of its
        effect.
        Raises as `approve`, and `resume_invalid`."""
        return self._command(run_id, _resume(effect_id, data, label))

    async def aresume(
        self, run_id: str, data: Any = None, effect_id: str | None = None, *, label: str | None = None
    ) -> Result[Any]:
        """As `resume`, for asyncio."""
        return await self._acommand(run_id, _resume(effect_id, data, label))

    def signal(self, run_id: str, name: str, data: Any = None) -> None:
        """Tells a workflow's run that something happened. Kept until a step waits for it; returns once it is
        recorded."""
        self.command(run_id, _signal(name, data))

    async def asignal(self, run_id: str, name: str, data: Any = None) -> None:
        """As `signal`, for asyncio."""
        await self.acommand(run_id, _signal(name, data))

    def retry(self, run_id: str) -> Result[Any]:
        """Takes up a workflow's run that failed, and waits for it: what was done stays done, what failed begins again.

        Raises:
            ConflictError: it has not failed (`run_not_failed`, `run_finished`).
        """
        return self._command(run_id, {"type": "retry"})

    async def aretry(self, run_id: str) -> Result[Any]:
        """As `retry`, for asyncio."""
        return await self._acommand(run_id, {"type": "retry"})

    def tool_result(
        self, run_id: str, output: Any = None, effect_id: str | None = None, *, is_error: bool = False
    ) -> Result[Any]:
        """Gives the result of a tool that the caller executes. Raises as `approve`."""
        return self._command(run_id, _tool_result(effect_id, output, is_error))

    async def atool_result(
        self, run_id: str, output: Any = None, effect_id: str | None = None, *, is_error: bool = False
    ) -> Result[Any]:
        """As `tool_result`, for asyncio."""
        return await self._acommand(run_id, _tool_result(effect_id, output, is_error))

    def cancel(self, run_id: str, grace: float = 0, reason: str | None = None) -> None:
        """Asks for a run to be cancelled. Its tools are told at once; results within `grace` seconds are still
        recorded."""
        self.command(run_id, _cancel(grace, reason))

    async def acancel(self, run_id: str, grace: float = 0, reason: str | None = None) -> None:
        """As `cancel`, for asyncio."""
        await self.acommand(run_id, _cancel(grace, reason))

    # --- What there is ------------------------------------------------------------------------------------------------

    def start(self) -> dict[str, Any]:
        """Takes up the unfinished runs of the store, once what they need is registered. Opening an engine runs nothing.

        Returns:
            `{recovered: [run_id], blocked: [{run_id, error}], poisoned: [run_id], elsewhere: [run_id]}`
        """
        return cast("dict[str, Any]", self._call("start"))

    async def astart(self) -> dict[str, Any]:
        """As `start`, for asyncio."""
        return cast("dict[str, Any]", await self._acall("start"))

    def runs(self, **filter: Unpack[RunFilter]) -> list[RunInfo]:
        """Lines about runs for which all of a `RunFilter` holds, newest first, at most `limit` (default 100)."""
        return cast("list[RunInfo]", self._call("runs", _filter(filter)))

    async def aruns(self, **filter: Unpack[RunFilter]) -> list[RunInfo]:
        """As `runs`, for asyncio."""
        return cast("list[RunInfo]", await self._acall("runs", _filter(filter)))

    def run_info(self, run_id: str) -> RunInfo:
        """The line about a run."""
        return cast(RunInfo, self._call("run", {"run_id": run_id}))

    async def arun_info(self, run_id: str) -> RunInfo:
        """As `run_info`, for asyncio."""
        return cast(RunInfo, await self._acall("run", {"run_id": run_id}))

    def pending(self) -> list[RunInfo]:
        """Suspended runs, with what each waits for."""
        return cast("list[RunInfo]", self._call("pending"))

    async def apending(self) -> list[RunInfo]:
        """As `pending`, for asyncio."""
        return cast("list[RunInfo]", await self._acall("pending"))

    def models(self) -> list[dict[str, Any]]:
        """The models that are known: `{provider, model?, configured?, missing?, context_tokens?, price?, …}`."""
        return cast("list[dict[str, Any]]", self._call("models"))

    async def amodels(self) -> list[dict[str, Any]]:
        """As `models`, for asyncio."""
        return cast("list[dict[str, Any]]", await self._acall("models"))

    def budgets(self) -> list[dict[str, Any]]:
        """The shared budgets: `{name, limit, spent}`."""
        return cast("list[dict[str, Any]]", self._call("budgets"))

    async def abudgets(self) -> list[dict[str, Any]]:
        """As `budgets`, for asyncio."""
        return cast("list[dict[str, Any]]", await self._acall("budgets"))

    def result(self, run_id: str) -> Result[Any]:
        """What a run came to; waits while it is at work here. A failed run's error is in the result."""
        return self._stored(self._call("result", {"run_id": run_id}))

    async def aresult(self, run_id: str) -> Result[Any]:
        """As `result`, for asyncio."""
        return self._stored(await self._acall("result", {"run_id": run_id}))

    def _stored(self, body: dict[str, Any], parse: Parse[T] | None = None) -> Result[T]:
        from .errors import KINDS

        error = body.get("error")
        raised = None
        if error is not None:
            raised = KINDS.get(error["kind"], LomusaiError)(
                error["message"],
                code=error["code"],
                retryable=error.get("retryable", False),
                retry_after_ms=error.get("retry_after_ms"),
                details=error.get("details"),
            )
        return Result(self, body, raised, parse)

    def observe(self, run_id: str, seq: int = 0) -> Observer:
        """Reads a run's events after `seq` beside its primary reader, those of the past first."""
        return Observer(self._native.observe(run_id, seq))

    def export(self, run_id: str) -> list[DurableEvent]:
        """A run's journal."""
        return cast("list[DurableEvent]", self._call("export", {"run_id": run_id}))

    async def aexport(self, run_id: str) -> list[DurableEvent]:
        """As `export`, for asyncio."""
        return cast("list[DurableEvent]", await self._acall("export", {"run_id": run_id}))

    def digest(self, run_id: str) -> str:
        """The digest of a run's journal: the same in every language."""
        return str(self._call("digest", {"run_id": run_id}))

    async def adigest(self, run_id: str) -> str:
        """As `digest`, for asyncio."""
        return str(await self._acall("digest", {"run_id": run_id}))

    def digest_of(self, events: Iterable[Mapping[str, Any]]) -> str:
        """The digest of a journal that was exported."""
        return str(self._call("digest_of", {"events": list(events)}))

    def delete_run(self, run_id: str) -> bool:
        """Removes a run and its children. Whether there was one. Refused while it is at work (`run_active`)."""
        return bool(self._call("delete_run", {"run_id": run_id}))

    async def adelete_run(self, run_id: str) -> bool:
        """As `delete_run`, for asyncio."""
        return bool(await self._acall("delete_run", {"run_id": run_id}))

    def messages(self, thread: str) -> list[Message]:
        """The messages of a thread."""
        return cast("list[Message]", self._call("messages", {"thread": thread}))

    async def amessages(self, thread: str) -> list[Message]:
        """As `messages`, for asyncio."""
        return cast("list[Message]", await self._acall("messages", {"thread": thread}))

    def threads(self, resource: str | None = None, *, offset: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Lines about the threads of a resource, or of all, most recently changed first."""
        parameters = {"resource": resource, "offset": offset, "limit": limit}
        return cast("list[dict[str, Any]]", self._call("threads", parameters))

    async def athreads(self, resource: str | None = None, *, offset: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """As `threads`, for asyncio."""
        parameters = {"resource": resource, "offset": offset, "limit": limit}
        return cast("list[dict[str, Any]]", await self._acall("threads", parameters))

    def delete_thread(self, thread: str) -> bool:
        """Removes a thread and its messages. Whether there was one. Refused while a run works on it (`thread_busy`)."""
        return bool(self._call("delete_thread", {"thread": thread}))

    async def adelete_thread(self, thread: str) -> bool:
        """As `delete_thread`, for asyncio."""
        return bool(await self._acall("delete_thread", {"thread": thread}))

    def embed(self, embedder: str, texts: Iterable[str]) -> list[list[float]]:
        """Embeds each text, in order."""
        return cast("list[list[float]]", self._call("embed", {"embedder": embedder, "texts": list(texts)}))

    async def aembed(self, embedder: str, texts: Iterable[str]) -> list[list[float]]:
        """As `embed`, for asyncio."""
        parameters = {"embedder": embedder, "texts": list(texts)}
        return cast("list[list[float]]", await self._acall("embed", parameters))

    # --- The end ------------------------------------------------------------------------------------------------------

    def close(self, timeout: float | None = None) -> None:
        """Closes the engine: runs that have a reader are cancelled, detached ones with a `path` go on at the next
        `start`.
        Waits at most `timeout` seconds (default: `close_ms`) for runs and plain functions. Doing it twice is fine.

        Raises:
            TimeoutError: functions that did not return are abandoned (`close_timeout`); the engine is closed all
            the same.
        """
        if self._pid != os.getpid():
            # The parent's: it goes on there, and nothing of it runs here.
            return
        with self._lock:
            first, self._closing = not self._closing, True
        try:
            self._native.close(timeout)
        finally:
            # Runs still need the callables while another thread closes.
            if first:
                self._let_go()

    def _let_go(self) -> None:
        """Lets go of the callables: some of them may refer to this engine, and the native half is no part of Python's
        garbage collection."""
        with self._lock:
            for kind, name in [key for key in self._registered if key[0] != "agent"]:
                del self._registered[(kind, name)]
                with contextlib.suppress(LomusaiError):
                    self._native.unregister(kind, name)

    async def aclose(self, timeout: float | None = None) -> None:
        """As `close`, for asyncio."""
        import asyncio

        # On another thread: the loop must go on, for the async tools that are cancelled.
        await asyncio.get_running_loop().run_in_executor(None, self.close, timeout)

    @property
    def closed(self) -> bool:
        """Whether the engine is closed."""
        return self._native.closed

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _stream_bridge() -> native.Bridge:
    """The loop for the async callables of a stream: the caller's, if one runs."""
    from . import _loop

    try:
        return _loop.current().native
    except RuntimeError:
        return _loop.own_bridge().native


def _same_definition(one: object, other: object) -> bool:
    def place(component: object) -> tuple[Any, ...]:
        function = getattr(component, "function", component)
        return (type(component), getattr(function, "__module__", None), getattr(function, "__qualname__", None))

    return place(one) == place(other)


def _signal(name: str, data: Any) -> dict[str, Any]:
    return {"type": "signal", "name": name, "data": data}


def _cancel(grace: float, reason: str | None) -> dict[str, Any]:
    command: dict[str, Any] = {"type": "cancel", "grace_ms": max(0, round(grace * 1000))}
    if reason is not None:
        command["reason"] = reason
    return command


def _filter(filter: RunFilter) -> dict[str, Any]:
    wanted: dict[str, Any] = {key: value for key, value in filter.items() if value is not None}
    if "status" in wanted:
        status = wanted["status"]
        wanted["status"] = [status] if isinstance(status, str) else list(status)
    return wanted


_default: Engine | None = None
_default_lock = threading.Lock()


def default_engine() -> Engine:
    """The engine of agents that were given none. In memory; opened when it is first needed, closed at exit."""
    global _default
    with _default_lock:
        if _default is None or _default.closed:
            _default = Engine()
            _default._replaces = True
        return _default


def _at_exit() -> None:
    """Closes every engine before the interpreter goes away: a thread that comes back to a finalized one is killed
    by CPython."""
    for engine in list(_engines):
        with contextlib.suppress(Exception):
            engine.close(_EXIT_SECONDS)
    native.begin_exit(0.5)
    loops = sys.modules.get("lomusai._loop")
    if loops is not None:
        loops.stop()


def _after_fork() -> None:
    """In the child of a fork the engine's threads do not exist: forget what belongs to them."""
    global _default, _default_lock
    _default_lock = threading.Lock()
    # Kept, not dropped: dropping would talk to threads that are not there.
    _forgotten.extend(_engines)
    _engines.clear()
    _default = None
    native.after_fork()
    loops = sys.modules.get("lomusai._loop")
    if loops is not None:
        loops.after_fork()


_forgotten: list[Engine] = []
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
