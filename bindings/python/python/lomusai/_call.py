"""What a callable is told of its call, and what it may say beside its answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NoReturn

from . import _lomusai as native


class Suspended(BaseException):
    """Leaves a tool or step that suspends. Not an `Exception`, so that its own handlers let it through."""

    def __init__(self, payload: Any, label: str | None = None) -> None:
        super().__init__("the call suspended")
        self.payload = payload
        self.label = label


class Bailed(BaseException):
    """Leaves a step that ends the run. Not an `Exception`, as `Suspended`."""

    def __init__(self, result: Any) -> None:
        super().__init__("the step ended the run")
        self.result = result


class CallContext:
    """Where a call stands. Any tool, function or provider may ask for it by a parameter annotated with this type
    (or named `ctx`)."""

    __slots__ = ("_answer", "_call", "_facts")

    def __init__(self, call: native.Call, answer: native.Answer) -> None:
        self._call = call
        self._answer = answer
        self._facts: dict[str, Any] | None = None

    def _fact(self, name: str) -> Any:
        if self._facts is None:
            self._facts = self._call.facts()
        return self._facts.get(name)

    @property
    def run_id(self) -> str:
        """The run."""
        return str(self._fact("run_id"))

    @property
    def effect_id(self) -> str:
        """The call's place in the run."""
        return str(self._fact("effect_id"))

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this call, in every process: give it to what must not happen twice."""
        return str(self._fact("idempotency_key"))

    @property
    def agent(self) -> str:
        """The agent's name, or the workflow's."""
        return str(self._fact("agent"))

    @property
    def name(self) -> str:
        """The name of what is called."""
        return self._call.name

    @property
    def attempt(self) -> int:
        """Counts from 1."""
        return int(self._fact("attempt"))

    @property
    def call_id(self) -> str | None:
        """The id of the tool call in the conversation, for a tool."""
        value = self._fact("call_id")
        return None if value is None else str(value)

    @property
    def deadline(self) -> float | None:
        """When the call times out, in seconds since 1970."""
        value = self._fact("deadline_ms")
        return None if value is None else value / 1000

    @property
    def context(self) -> dict[str, Any]:
        """What the caller of the run gave as `context`; keys marked transient are absent after a resume."""
        value = self._fact("context")
        return {} if value is None else value

    @property
    def cancelled(self) -> bool:
        """Whether the answer is not wanted any more. Async callables are cancelled by asyncio; plain ones look here."""
        return self._answer.cancelled

    def progress(self, data: Any) -> None:
        """Tells the run's readers how far the call is, with any JSON; not kept in the journal."""
        self._answer.progress(data)

    def custom(self, name: str, data: Any = None, *, durable: bool = False) -> None:
        """Tells the run's readers something; `durable` keeps it in the journal."""
        self._answer.custom(name, data, durable)


class _Resumable(CallContext):
    """Where a call stands that may suspend."""

    __slots__ = ()

    @property
    def resume(self) -> Any:
        """What resumed the call after it suspended; `None` at the first time."""
        return self._fact("resume")

    @property
    def is_resumed(self) -> bool:
        """Whether the call is resumed: tells a resume with `None` from the first time."""
        self._fact("resume")
        return "resume" in (self._facts or {})


class ToolContext(_Resumable):
    """Where a tool's call stands."""

    __slots__ = ()

    def suspend(self, payload: Any = None) -> NoReturn:
        """Ends this call without a result, until a `resume` command comes: the tool is then called again from its
        beginning,
        with `resume` set. Needs `may_suspend=True`.

        Args:
            payload: what the person who resumes it should know, as JSON.
        """
        raise Suspended(payload)


class StepContext(_Resumable):
    """Where the call of a workflow's step stands. It may come more than once for one step of a run, after a failure or
    a crash: the attempt differs then, the idempotency key does not."""

    __slots__ = ("_convert", "_sets")

    def __init__(self, call: native.Call, answer: native.Answer, convert: Callable[[Any], Any] | None = None) -> None:
        super().__init__(call, answer)
        self._convert = convert
        self._sets: dict[str, Any] = {}

    @property
    def resume(self) -> Any:
        """What resumed the call after it suspended, as the type that the step names; `None` at the first time."""
        value = self._fact("resume")
        return value if self._convert is None or not self.is_resumed else self._convert(value)

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        return self.agent

    @property
    def state(self) -> dict[str, Any]:
        """The state of the run when the call began, with what was set since."""
        return {**(self._fact("state") or {}), **self._sets}

    def set_state(self, **values: Any) -> None:
        """Sets values of the run's state, `None` removes one. Recorded together with the answer, whatever that is but
        an error."""
        self._sets.update(values)

    def suspend(self, payload: Any = None, *, label: str | None = None) -> NoReturn:
        """Ends this call without a result, until a `resume` command comes: the step is then called again from its
        beginning, with `resume` set.

        Args:
            payload: what the person who resumes it should know, as JSON.
            label: a name under which it can be resumed, beside its effect's id.
        """
        raise Suspended(payload, label)

    def bail(self, result: Any = None) -> NoReturn:
        """Ends the whole run at once, as a success, with this result."""
        raise Bailed(result)


def is_context(annotation: Any) -> bool:
    """Whether a parameter of this annotation wants the context."""
    return isinstance(annotation, type) and issubclass(annotation, CallContext)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))


def takes_context(function: Callable[..., Any]) -> bool:
    """Whether a function of one question has room for a second argument."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return len(places) >= 2


def function_handler(function: Callable[..., Any]) -> tuple[Callable[..., Any], str]:
    """The handler of a function of one question, and where it runs."""
    context = takes_context(function)
    if is_async(function):

        async def handle_async(call: native.Call, answer: native.Answer) -> None:
            question = call.input
            answer.resolve(await (function(question, CallContext(call, answer)) if context else function(question)))

        return handle_async, "async"

    def handle(call: native.Call, answer: native.Answer) -> None:
        question = call.input
        answer.resolve(function(question, CallContext(call, answer)) if context else function(question))

    return handle, "pool"
