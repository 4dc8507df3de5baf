"""Runs as their callers see them: streams of events, and results."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from . import _lomusai as native
from .errors import LimitError, LomusaiError
from .events import Message, Pending, RunEvent, RunStatus, Usage

if TYPE_CHECKING:
    from ._engine import Engine

T = TypeVar("T")
Parse = Callable[[Any], T]


class Result(Generic[T]):
    """What a run came to, or where it waits."""

    def __init__(
        self, engine: Engine, body: dict[str, Any], error: LomusaiError | None, parse: Parse[T] | None
    ) -> None:
        self._engine = engine
        self._parse = parse
        self._object: Any = None
        self._parsed = False
        self.run_id: str = body["run_id"]
        """The run."""
        self.status: RunStatus = body["status"]
        """`completed`, `suspended`, `cancelled`, `exhausted`, `bailed` or `failed`."""
        self.text: str = body.get("text") or ""
        """The text of the answer."""
        self.output: dict[str, Any] = body.get("output") or {}
        """The output as it is recorded: `text`, `object`, `finish`, `steps`."""
        self.usage: Usage = cast(Usage, body.get("usage") or {})
        """Tokens used by the run and its sub-agents."""
        self.cost_nano_usd: int | None = body.get("cost_nano_usd")
        """What they cost, in nano-dollars ($1 is 1,000,000,000). `None`: a price is not known, which is not nothing."""
        self.messages: list[Message] = body.get("messages") or []
        """The whole conversation. The next call's `history`."""
        self.pending: list[Pending] = body.get("pending") or []
        """What a suspended run waits for."""
        told = body.get("error") if self.status == "exhausted" else None
        if told is not None:
            # Told, and not raised: the run has come to what it could.
            error = LimitError(told["message"], code=told["code"], details=told.get("details"))
        self.error: LomusaiError | None = error
        """Why a run failed, or what was exhausted."""
        self._history: int = body.get("history") or 0

    @property
    def new_messages(self) -> list[Message]:
        """The messages of this run: its input and what was said since."""
        return self.messages[self._history :]

    @property
    def object(self) -> T:
        """The structured answer, as the type that the agent's `output` names, or what a workflow came to; `None` where
        there is none."""
        if not self._parsed:
            value = self.output.get("object")
            self._object = value if value is None or self._parse is None else self._parse(value)
            self._parsed = True
        return cast(T, self._object)

    def __repr__(self) -> str:
        return f"Result(run_id={self.run_id!r}, status={self.status!r}, text={self.text!r})"

    def approve(self, effect_id: str | None = None) -> Result[T]:
        """Runs the tool that waits for approval, and waits for the run. `effect_id` names it where several wait."""
        return self._engine._command(self.run_id, _approve(effect_id), self._parse)

    def decline(self, reason: str | None = None, effect_id: str | None = None) -> Result[T]:
        """Does not run the tool that waits for approval; the model is told why."""
        return self._engine._command(self.run_id, _decline(effect_id, reason), self._parse)

    def resume(self, data: Any = None, effect_id: str | None = None, *, label: str | None = None) -> Result[T]:
        """Goes on with a tool or step that suspended, which is given `data`; `label` names a step in place of its
        effect."""
        return self._engine._command(self.run_id, _resume(effect_id, data, label), self._parse)

    def tool_result(self, output: Any = None, effect_id: str | None = None, *, is_error: bool = False) -> Result[T]:
        """Gives the result of a tool that the caller executes."""
        return self._engine._command(self.run_id, _tool_result(effect_id, output, is_error), self._parse)

    async def aapprove(self, effect_id: str | None = None) -> Result[T]:
        """As `approve`, for asyncio."""
        return await self._engine._acommand(self.run_id, _approve(effect_id), self._parse)

    async def adecline(self, reason: str | None = None, effect_id: str | None = None) -> Result[T]:
        """As `decline`, for asyncio."""
        return await self._engine._acommand(self.run_id, _decline(effect_id, reason), self._parse)

    async def aresume(self, data: Any = None, effect_id: str | None = None, *, label: str | None = None) -> Result[T]:
        """As `resume`, for asyncio."""
        return await self._engine._acommand(self.run_id, _resume(effect_id, data, label), self._parse)

    async def atool_result(
        self, output: Any = None, effect_id: str | None = None, *, is_error: bool = False
    ) -> Result[T]:
        """As `tool_result`, for asyncio."""
        return await self._engine._acommand(self.run_id, _tool_result(effect_id, output, is_error), self._parse)


def _command(kind: str, effect_id: str | None, **fields: Any) -> dict[str, Any]:
    command = {"type": kind, **{name: value for name, value in fields.items() if value is not None}}
    if effect_id is not None:
        command["effect_id"] = effect_id
    return command


def _approve(effect_id: str | None) -> dict[str, Any]:
    return _command("approve", effect_id)


def _decline(effect_id: str | None, reason: str | None) -> dict[str, Any]:
    return _command("decline", effect_id, reason=reason)


def _resume(effect_id: str | None, data: Any, label: str | None = None) -> dict[str, Any]:
    return _command("resume", effect_id, data=data, label=label)


def _tool_result(effect_id: str | None, output: Any, is_error: bool) -> dict[str, Any]:
    return _command("tool_result", effect_id, output=output, is_error=is_error or None)


class Stream(Generic[T]):
    """A run under way: `for` or `async for` its events, then ask for its `result`.

    Leaving the loop early cancels the run and its tools, unless it is detached; so does letting go of the stream.
    To read on and
    off without that, use `next` and `anext`. A run waits for a reader that is slow.
    """

    def __init__(self, engine: Engine, run: native.Run, parse: Parse[T] | None, detached: bool = False) -> None:
        self._engine = engine
        self._run = run
        self._parse = parse
        self._detached = detached
        self._ended = False

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run.id

    def next(self) -> RunEvent | None:
        """The next event; `None` after the last. Blocks this thread; a `KeyboardInterrupt` cancels the run."""
        try:
            event = self._run.next()
        except BaseException:
            self._interrupted()
            raise
        if event is None:
            self._ended = True
        return cast("RunEvent | None", event)

    async def anext(self) -> RunEvent | None:
        """As `next`, for asyncio. Cancelling the task loses nothing."""
        event = self._run.try_next()
        if event is False:
            from . import _loop

            bridge = _loop.current()
            future = bridge.future()
            self._run.next_async(bridge.native, future)
            event = await future
        if event is None:
            self._ended = True
        return cast("RunEvent | None", event)

    def __iter__(self) -> Iterator[RunEvent]:
        return _Events(self)

    def __aiter__(self) -> AsyncIterator[RunEvent]:
        return _AsyncEvents(self)

    @property
    def text(self) -> TextStream:
        """The pieces of the answer's text, as they come: to be read with `for` or `async for`."""
        return TextStream(self)

    def result(self, *, check: bool = True) -> Result[T]:
        """What the run came to, or where it waits. Events that were not read are dropped.

        Args:
            check: raise the error of a run that failed; else it is in the result's `error`.

        Raises:
            LomusaiError: why the run failed or could not be driven on, of the class of its kind; `__cause__` is
            what the
                Python callable raised.
            KeyboardInterrupt: the run was cancelled by Ctrl-C.
        """
        self._run.discard_events()
        return self._result(self._run.result(), check)

    async def aresult(self, *, check: bool = True) -> Result[T]:
        """As `result`, for asyncio. Cancelling the task cancels the run, unless it is detached."""
        # Not at the top: whoever uses no asyncio does not wait for its import.
        import asyncio

        from . import _loop

        bridge = _loop.current()
        future = bridge.future()
        self._run.result_async(bridge.native, future)
        try:
            return self._result(await future, check)
        except asyncio.CancelledError:
            self._interrupted()
            raise

    def _result(self, ended: tuple[dict[str, Any], LomusaiError | None], check: bool) -> Result[T]:
        body, error = ended
        self._ended = True
        result = Result[T](self._engine, body, error, self._parse)
        if check and error is not None:
            try:
                raise error
            finally:
                # The traceback of the error must not hold the error itself through this frame.
                del error, ended
                result.error = None
        return result

    def cancel(self, grace: float = 0, reason: str | None = None) -> None:
        """Asks for the run to be cancelled. Its tools are told at once; results within `grace` seconds are still
        recorded."""
        self._run.cancel(max(0, round(grace * 1000)), reason)

    def close(self) -> None:
        """Lets go of the run: it is cancelled unless it has ended or is detached. Doing it twice is fine."""
        self._run.close()

    def _interrupted(self) -> None:
        if not self._detached:
            with contextlib.suppress(LomusaiError):
                self._run.cancel(0, "the caller was interrupted")

    def _left(self) -> None:
        """A loop over the events was left."""
        if not self._ended and not self._detached:
            with contextlib.suppress(LomusaiError):
                self._run.cancel(0, "the run's reader went away")

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Stream[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class _Events:
    """One loop over a stream. Its end is noticed by its being let go of, which `break` does."""

    def __init__(self, stream: Stream[Any]) -> None:
        self._stream = stream

    def __iter__(self) -> _Events:
        return self

    def __next__(self) -> RunEvent:
        event = self._stream.next()
        if event is None:
            raise StopIteration
        return event

    def __del__(self) -> None:
        self._stream._left()


class _AsyncEvents:
    def __init__(self, stream: Stream[Any]) -> None:
        self._stream = stream

    def __aiter__(self) -> _AsyncEvents:
        return self

    async def __anext__(self) -> RunEvent:
        event = await self._stream.anext()
        if event is None:
            raise StopAsyncIteration
        return event

    def __del__(self) -> None:
        self._stream._left()


class TextStream:
    """The text of an answer, piece by piece."""

    def __init__(self, stream: Stream[Any]) -> None:
        self._stream = stream
        self._texts: set[tuple[str, int]] = set()

    def _piece(self, event: RunEvent) -> str | None:
        if event["run_id"] != self._stream.run_id:
            return None
        if event["type"] == "part_started" and event["part_type"] == "text":
            self._texts.add((event["message_id"], event["index"]))
        elif event["type"] == "part_delta" and (event["message_id"], event["index"]) in self._texts:
            return event.get("text")
        return None

    def __iter__(self) -> Iterator[str]:
        for event in self._stream:
            piece = self._piece(event)
            if piece:
                yield piece

    async def __aiter__(self) -> AsyncIterator[str]:
        async for event in self._stream:
            piece = self._piece(event)
            if piece:
                yield piece


class Observer:
    """Reads a run beside its primary reader: `for` or `async for` its events. Never slows the run; may lag, and is
    told so."""

    def __init__(self, observer: native.Observer) -> None:
        self._observer = observer

    def __iter__(self) -> Iterator[RunEvent]:
        while (event := self._observer.next()) is not None:
            yield cast(RunEvent, event)

    async def __aiter__(self) -> AsyncIterator[RunEvent]:
        from . import _loop

        while True:
            bridge = _loop.current()
            future = bridge.future()
            self._observer.next_async(bridge.native, future)
            event = await future
            if event is None:
                return
            yield event
