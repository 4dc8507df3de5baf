"""Schedules: runs that begin by themselves, at times of a calendar or at an interval."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, TypedDict, cast

from ._operations import Operations
from .events import ErrorBody

Missed: TypeAlias = Literal["skip", "once", "all"]
"""What becomes of times at which no engine was there: nothing, one run for all of them, or a run for each."""


class _ScheduleState(TypedDict):
    name: str
    request: dict[str, Any]


class ScheduleState(_ScheduleState, total=False):
    """A schedule and where it stands. Times are in milliseconds since 1970; a `next_ms` that is absent never comes."""

    cron: str
    every_ms: int
    timezone: str
    missed: Missed
    grace_ms: int
    from_ms: int
    until_ms: int
    paused: bool
    next_ms: int
    last_ms: int
    last_run: str
    last_error: ErrorBody


class ScheduleOperations(Operations):
    """An engine's methods for schedules."""

    def put_schedule(
        self,
        name: str,
        request: Mapping[str, Any],
        *,
        cron: str | None = None,
        every: float | None = None,
        timezone: str | None = None,
        missed: Missed = "once",
        grace: float | None = None,
        from_: datetime.datetime | float | None = None,
        until: datetime.datetime | float | None = None,
        paused: bool = False,
    ) -> ScheduleState:
        """Puts a schedule into the store, in place of one of the same name. Each of its times begins one run, wherever
        an engine on the store has been started (`start`) and has what the request names. Times are datetimes, or
        seconds since 1970.

        Args:
            name: letters, digits, `_`, `-` and `.`, at most 64.
            request: what starts a run, as for `run`, without a `run_id`: `{"workflow": "report", "input": …}`.
            cron: `minute hour day month weekday`, or `@daily` and the like.
            every: in its place: an interval in seconds, counted from `from_`.
            timezone: where the calendar hangs, such as `Europe/Berlin`. Default: UTC.
            missed: what becomes of times at which no engine was there.
            grace: with `missed="skip"`, so many seconds late may a run begin and not count as missed. Default 60.
            from_: no run before this. Default: now.
            until: no run at this time or later. Default: never ends.
            paused: whether it begins nothing for now.

        Raises:
            InvalidError: what is wrong with it (`schedule_invalid`, `name_invalid`).
            ConflictError: it was changed at the same time (`value_conflict`).
        """
        schedule = _schedule(name, request, cron, every, timezone, missed, grace, from_, until, paused)
        return cast(ScheduleState, self._call("put_schedule", schedule))

    async def aput_schedule(
        self,
        name: str,
        request: Mapping[str, Any],
        *,
        cron: str | None = None,
        every: float | None = None,
        timezone: str | None = None,
        missed: Missed = "once",
        grace: float | None = None,
        from_: datetime.datetime | float | None = None,
        until: datetime.datetime | float | None = None,
        paused: bool = False,
    ) -> ScheduleState:
        """As `put_schedule`, for asyncio."""
        schedule = _schedule(name, request, cron, every, timezone, missed, grace, from_, until, paused)
        return cast(ScheduleState, await self._acall("put_schedule", schedule))

    def schedules(self) -> list[ScheduleState]:
        """The schedules of the store, by name."""
        return cast("list[ScheduleState]", self._call("schedules"))

    async def aschedules(self) -> list[ScheduleState]:
        """As `schedules`, for asyncio."""
        return cast("list[ScheduleState]", await self._acall("schedules"))

    def pause_schedule(self, name: str, *, paused: bool = True) -> ScheduleState:
        """Lets a schedule rest, or with `paused=False` go on. Times at which it rested are not made up for.

        Raises:
            NotFoundError: no such schedule (`schedule_unknown`).
            ConflictError: it was changed at the same time (`value_conflict`).
        """
        return cast(ScheduleState, self._call("pause_schedule", {"name": name, "paused": paused}))

    async def apause_schedule(self, name: str, *, paused: bool = True) -> ScheduleState:
        """As `pause_schedule`, for asyncio."""
        return cast(ScheduleState, await self._acall("pause_schedule", {"name": name, "paused": paused}))

    def delete_schedule(self, name: str) -> bool:
        """Takes a schedule out of the store. Whether there was one. Its runs stay.

        Raises:
            ConflictError: it was changed at the same time (`value_conflict`).
        """
        return bool(self._call("delete_schedule", {"name": name}))

    async def adelete_schedule(self, name: str) -> bool:
        """As `delete_schedule`, for asyncio."""
        return bool(await self._acall("delete_schedule", {"name": name}))

    def fire_due(self) -> list[str]:
        """Begins the runs that are due now, and gives their ids. An engine that was started does this by itself. A run
        that cannot begin is its schedule's `last_error`."""
        return cast("list[str]", self._call("fire_due"))

    async def afire_due(self) -> list[str]:
        """As `fire_due`, for asyncio."""
        return cast("list[str]", await self._acall("fire_due"))


def _schedule(
    name: str,
    request: Mapping[str, Any],
    cron: str | None,
    every: float | None,
    timezone: str | None,
    missed: Missed,
    grace: float | None,
    from_: datetime.datetime | float | None,
    until: datetime.datetime | float | None,
    paused: bool,
) -> dict[str, Any]:
    schedule: dict[str, Any] = {
        "name": name,
        "request": request,
        "cron": cron,
        "every_ms": _ms(every),
        "timezone": timezone,
        "missed": missed,
        "grace_ms": _ms(grace),
        "from_ms": _ms(from_),
        "until_ms": _ms(until),
        "paused": paused,
    }
    return {key: value for key, value in schedule.items() if value is not None}


def _ms(time: datetime.datetime | float | None) -> int | None:
    if time is None:
        return None
    seconds = time.timestamp() if isinstance(time, datetime.datetime) else time
    return max(0, round(seconds * 1000))
