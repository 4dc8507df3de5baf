"""Asyncio loops and the engine: one bridge per loop, and loops of the package's own for callers that have none.

The engine's threads never run Python code of asyncio. They queue what a loop should do and write to a file
descriptor that the
loop watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import os
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

from . import _lomusai as native
from .errors import LomusaiError

_logger = logging.getLogger("lomusai")
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}

AsyncHandler = Callable[[native.Call, native.Answer], Awaitable[None]]


async def _serve(handler: AsyncHandler, call: native.Call, answer: native.Answer) -> None:
    """Runs an async handler. However it ends, the call is answered."""
    try:
        await handler(call, answer)
    except BaseException as error:
        # Refused when the call was answered before or nobody waits any more: both are no news here.
        with contextlib.suppress(LomusaiError):
            answer.reject(error)
        # What ends the program of a caller's loop is, on a loop of the package, an error like any other: nobody looks
        # at that thread.
        if isinstance(error, asyncio.CancelledError) or not (isinstance(error, Exception) or _on_own_loop()):
            raise


class LoopBridge:
    """One loop's side of its bridge."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._fds: tuple[int, ...] = ()
        self._watch: AsyncGenerator[None, None] | None = None
        if sys.platform == "linux":
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._fds = (fd,)
        elif os.name == "posix":
            self._fds = os.pipe()
            for fd in self._fds:
                os.set_blocking(fd, False)
        if self._fds:
            try:
                loop.add_reader(self._fds[0], self._woken)
                self.native = native.Bridge(self._fds[-1])
                return
            except NotImplementedError:
                self._close_fds()

        # Weak: what the native side holds, no collector sees.
        this = weakref.ref(self)

        def wake() -> None:
            bridge = this()
            loop = None if bridge is None else bridge._loop()
            if bridge is not None and loop is not None:
                loop.call_soon_threadsafe(bridge._drain)

        self.native = native.Bridge(None, wake)

    def watch_end(self) -> None:
        """Closes the bridge with its loop. Called while the loop runs."""

        async def watch() -> AsyncGenerator[None, None]:
            try:
                yield
            finally:
                self.close()

        # A loop that ends finalizes the generators that were begun on it: the only notice that asyncio gives. It does
        # so by a weak set. The finalizer that it gives them as well would keep the loop from ever being freed.
        self._watch = watch()
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=None)
        try:
            with contextlib.suppress(StopIteration):
                self._watch.__anext__().send(None)
        finally:
            sys.set_asyncgen_hooks(*hooks)

    def future(self) -> asyncio.Future[Any]:
        """A future of the loop."""
        loop = self._loop()
        assert loop is not None, "called on the loop"
        return loop.create_future()

    def close(self) -> None:
        """Takes no more jobs. Calls that come later go to a loop of the package."""
        loop = self._loop()
        if loop is not None:
            _bridges.pop(loop, None)
            if self._fds and not loop.is_closed():
                loop.remove_reader(self._fds[0])
        self.native.close()
        self._close_fds()

    def _close_fds(self) -> None:
        fds, self._fds = self._fds, ()
        for fd in fds:
            os.close(fd)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fds[0], 8 if len(self._fds) == 1 else 4096)
        self._drain()

    def _drain(self) -> None:
        loop = self._loop()
        if loop is None:
            return
        for job in self.native.drain():
            if job[0] == 2:
                _, future, value, error = job
                if not future.done():
                    if error is None:
                        future.set_result(value)
                    else:
                        future.set_exception(error)
            elif job[0] == 0:
                _, key, handler, call, answer, context = job
                self._start(loop, key, _serve(handler, call, answer), context)
            elif job[0] == 1:
                task = self._tasks.get(job[1])
                if task is not None:
                    task.cancel()
            else:
                _, level, target, message = job
                _logger.log(_LEVELS.get(level, logging.DEBUG), "%s: %s", target, message)

    def _start(
        self,
        loop: asyncio.AbstractEventLoop,
        key: int,
        coroutine: Any,
        context: contextvars.Context | None,
    ) -> None:
        # A copy: a context cannot be entered twice at once, and calls of one run go side by side.
        if context is None:
            task = loop.create_task(coroutine)
        else:
            task = context.copy().run(loop.create_task, coroutine)
        self._tasks[key] = task
        task.add_done_callback(functools.partial(self._tasks.pop, key))


_bridges: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopBridge] = weakref.WeakKeyDictionary()


def current() -> LoopBridge:
    """The bridge of the running loop.

    Raises:
        RuntimeError: no loop runs here.
    """
    loop = asyncio.get_running_loop()
    bridge = _bridges.get(loop)
    if bridge is None:
        bridge = _bridges[loop] = LoopBridge(loop)
        # One that was closed without a word, and is gone: nobody would take up what comes for it.
        weakref.finalize(loop, bridge.close).atexit = False
        if not _on_own_loop():
            bridge.watch_end()
    return bridge


class _OwnLoop:
    """A loop of the package, on a daemon thread."""

    def __init__(self, number: int) -> None:
        self.loop = asyncio.new_event_loop()
        # Calls from this loop's own thread that wait for the engine now.
        self.blocked = 0
        self._stopped = False
        self.bridge = LoopBridge(self.loop)
        _bridges[self.loop] = self.bridge
        self._thread = threading.Thread(target=self._run, name=f"lomusai-loop-{number}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            # A callable may stop the loop that it runs on: others need it.
            while not self._stopped:
                self.loop.run_forever()
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=1))
        finally:
            self.bridge.close()
            self.loop.close()

    def stop(self) -> None:
        self._stopped = True
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=3)


_own_loops: list[_OwnLoop] = []
_forgotten: list[Any] = []
_lock = threading.Lock()


def _on_own_loop() -> bool:
    running = asyncio.get_running_loop()
    return any(own.loop is running for own in _own_loops)


def own_bridge() -> LoopBridge:
    """The bridge of a loop of the package's own that is free to run tasks."""
    for own in _own_loops:
        if not own.blocked:
            return own.bridge
    with _lock:
        for own in _own_loops:
            if not own.blocked:
                return own.bridge
        own = _OwnLoop(len(_own_loops))
        _own_loops.append(own)
        if len(_own_loops) == 1:
            native.set_default_bridge(own.bridge.native)
        return own.bridge


@contextlib.contextmanager
def blocking() -> Iterator[LoopBridge]:
    """Around a call that blocks this thread; gives the loop for the async callables of what it waits for.

    The loop that runs on this thread, if any, cannot serve them meanwhile. Where it is one of ours, another takes
    its place.
    """
    running = asyncio._get_running_loop()
    mine = None if running is None else next((own for own in _own_loops if own.loop is running), None)
    if mine is not None:
        mine.blocked += 1
    try:
        yield own_bridge()
    finally:
        if mine is not None:
            mine.blocked -= 1


def stop() -> None:
    """Stops the package's loops, at exit."""
    for own in _own_loops:
        own.stop()


def after_fork() -> None:
    """In the child of a fork: the loops' threads did not come along."""
    global _lock
    _lock = threading.Lock()
    native.set_default_bridge(None)
    # Kept for ever: to finalize a loop here would take its file descriptors out of the parent's poll set.
    _forgotten.extend(_own_loops)
    _forgotten.extend(_bridges.values())
    _forgotten.extend(_bridges.keys())
    _own_loops.clear()
    _bridges.clear()
