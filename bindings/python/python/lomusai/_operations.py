"""Questions to an engine by name: what everything that is no run of its own goes through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import _lomusai as native


class Operations:
    """What asks an engine by name."""

    _native: native.Engine

    def call(self, operation: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Asks the engine something by name, with JSON, as every language can: `engine.call("run", {"run_id": …})`.
        Most operations are methods, too.

        Raises:
            InvalidError: no such operation or parameter (`argument_invalid`); the message lists the operations.
        """
        return self._call(operation, parameters)

    async def acall(self, operation: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """As `call`, for asyncio."""
        return await self._acall(operation, parameters)

    def _call(self, operation: str, parameters: Mapping[str, Any] | None = None) -> Any:
        return self._native.call(operation, parameters or {})

    async def _acall(self, operation: str, parameters: Mapping[str, Any] | None = None) -> Any:
        from . import _loop

        bridge = _loop.current()
        future = bridge.future()
        self._native.call_async(operation, parameters or {}, bridge.native, future)
        return await future
