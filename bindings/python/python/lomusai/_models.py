"""Where answers come from: providers written in Python, and those that come with the engine."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeAlias, Union, cast

from . import _lomusai as native
from ._call import CallContext, takes_context
from .errors import ClosedError, InvalidError

Chunk: TypeAlias = Union[str, dict[str, Any]]
"""A piece of an answer: text, or `{"type": "text" | "reasoning" | "tool_call" | "tool_call_delta" | "usage" |
"finish" | …}`."""
ModelRequest: TypeAlias = dict[str, Any]
"""What a model is asked: `{messages, tools?, tool_choice, settings, output?, model?}`."""


class Provider:
    """A source of models."""

    name: str | None = None
    """What it is registered as. Default: the agent's name followed by `.model`."""

    def model(self, name: str) -> ModelOf:
        """One of its models, for `Agent(model=…)`."""
        return ModelOf(self, name)

    def register(self, engine: native.Engine, name: str) -> None:
        """Registers it with a native engine."""
        raise NotImplementedError


class ModelOf:
    """A model of a provider."""

    def __init__(self, provider: Provider, model: str) -> None:
        self.provider = provider
        self.model = model


class ScriptedModel(Provider):
    """Answers from a script, for tests and examples: the n-th model call of a run gets the n-th answer.

    Args:
        script: a list of answers such as `{"says": "text"}`, `{"calls": [{"name": …, "arguments": {…}}]}`,
            `{"error": {"code": …}}` or `{"hangs": True}`; or `{"answers": […], "repeat": True}`.
        name: what it is registered as.
    """

    def __init__(self, script: Iterable[dict[str, Any]] | dict[str, Any], *, name: str | None = None) -> None:
        self.script: dict[str, Any] | list[dict[str, Any]] = (
            cast("dict[str, Any]", script) if isinstance(script, dict) else list(script)
        )
        self.name = name

    def register(self, engine: native.Engine, name: str) -> None:
        engine.register_builtin_provider(name, {"type": "scripted", "script": self.script})


class Compatible(Provider):
    """Any server that speaks the OpenAI chat completions protocol.

    Args:
        base_url: for example `https://api.openai.com/v1`.
        api_key: sent as a bearer token. Or name a variable with `api_key_env`.
        name: what it is registered as.
        settings: everything else that the provider takes, such as `model`, `headers`, `proxy`, `ca_file`, `timeouts`.
    """

    def __init__(self, base_url: str, *, api_key: str | None = None, name: str | None = None, **settings: Any) -> None:
        self.settings: dict[str, Any] = {"base_url": base_url, **settings}
        if api_key is not None:
            self.settings["api_key"] = api_key
        self.name = name

    def register(self, engine: native.Engine, name: str) -> None:
        engine.register_builtin_provider(name, {"type": "compatible", **self.settings})


class LlmProvider(Provider):
    """A provider written in Python: subclass it and write `stream`.

    `stream` takes the request, and a `CallContext` if it has a second parameter, and gives the answer in chunks,
    strings or
    dicts: as an `async` generator, as a plain generator, or, returning it, as one text or a list. A `{"type":
    "finish"}` chunk
    is added where it gives none.

    What it raises ends the run with `provider_host_failed`, whose cause is the exception; raise
    `UnavailableError("…", code="provider_failed")` and the like to have the call retried. When the run is
    cancelled, an async
    generator is cancelled by asyncio; a plain one is closed at its next chunk.
    """

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            self.name: str | None = name

    def stream(
        self, request: ModelRequest, /
    ) -> AsyncIterator[Chunk] | Iterable[Chunk] | Awaitable[str | Iterable[Chunk]] | str:
        """Answers a request."""
        raise NotImplementedError(f"{type(self).__name__} must define `stream`")

    def register(self, engine: native.Engine, name: str) -> None:
        stream: Any = self.stream
        handler, place = _provider_handler(stream, engine)
        engine.register_provider(name, handler, place)


def _pieces(answer: Any) -> Iterable[Chunk]:
    if isinstance(answer, (str, dict)):
        return (answer,)
    if answer is None:
        return ()
    if not isinstance(answer, Iterable):
        raise TypeError(f"a provider gives strings and dicts, not {type(answer).__name__}")
    return answer


def _provider_handler(stream: Callable[..., Any], engine: native.Engine) -> tuple[Callable[..., Any], str]:
    context = takes_context(stream)
    # Weak: the engine holds the handler.
    engine_ref = weakref.ref(engine)

    def begin(call: native.Call, answer: native.Answer) -> Any:
        return stream(call.input, CallContext(call, answer)) if context else stream(call.input)

    def handle(call: native.Call, answer: native.Answer) -> None:
        chunks = begin(call, answer)
        if inspect.isawaitable(chunks) or isinstance(chunks, AsyncIterable):
            if inspect.iscoroutine(chunks):
                chunks.close()
            raise InvalidError(
                f"provider `{call.name}`: declare `stream` itself with `async def`", code="function_reply_invalid"
            )
        try:
            for chunk in _pieces(chunks):
                answer.push(chunk)
            answer.finish()
        except ClosedError:
            return
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    async def push(answer: native.Answer, chunk: Chunk) -> None:
        if not answer.try_push(chunk):
            from . import _loop

            bridge = _loop.current()
            engine = engine_ref()
            if engine is None:
                raise ClosedError("the engine is gone", code="engine_closed")
            future: Any = bridge.future()
            answer.push_async(chunk, engine, bridge.native, future)
            await future

    async def handle_async(call: native.Call, answer: native.Answer) -> None:
        chunks = begin(call, answer)
        try:
            if isinstance(chunks, AsyncIterable):
                async for chunk in chunks:
                    await push(answer, chunk)
            else:
                for chunk in _pieces(await chunks):
                    await push(answer, chunk)
            answer.finish()
        except ClosedError:
            return
        finally:
            aclose = getattr(chunks, "aclose", None)
            if aclose is not None:
                await aclose()

    plain = inspect.unwrap(stream)
    asynchronous = inspect.isasyncgenfunction(plain) or inspect.iscoroutinefunction(plain)
    return (handle_async, "async") if asynchronous else (handle, "pool")
