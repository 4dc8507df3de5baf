"""What can be done with runs that there are: forks, differences, pictures, changed workflows, retention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast, overload

from ._operations import Operations
from .errors import InvalidError
from .events import RunStatus, SpecKind

if TYPE_CHECKING:
    from ._engine import Engine
    from ._workflow import Workflow

# --- What is answered and asked ---------------------------------------------------------------------------------------


class Sides(TypedDict, total=False):
    """A thing in two runs. What is not there is absent."""

    left: Any
    right: Any


class _EffectDifference(TypedDict):
    effect_id: str


class EffectDifference(_EffectDifference, Sides):
    """An effect that differs: `{status, component?, input?, output?, error?}` on each side."""


class _Difference(TypedDict):
    left: str
    right: str
    same: int


class Difference(_Difference, total=False):
    """How two runs, `left` and `right`, differ. The first `same` events say the same in both; what is the same is left
    out."""

    input: Sides
    effects: list[EffectDifference]
    messages: dict[str, Sides]
    state: dict[str, Sides]
    outcome: Sides


class _Misfit(TypedDict):
    seq: int
    why: str


class Misfit(_Misfit, total=False):
    """The event of a run's journal that cannot have been under a spec."""

    effect_id: str


class _Fit(TypedDict):
    run_id: str
    status: RunStatus
    hash: str
    fits: bool


class Fit(_Fit, total=False):
    """Whether a stored run could go on under a spec. `hash` is that of the spec it is of."""

    needs_migration: bool
    misfit: Misfit


class RunFilter(TypedDict, total=False):
    """Which runs are meant: those for which all of this holds."""

    status: RunStatus | Iterable[RunStatus] | None
    """One status, or any of several."""
    kind: SpecKind | None
    """Runs of agents, or of workflows."""
    agent: str | None
    """The agent's or workflow's name."""
    thread: str | None
    parent: str | None
    """Children of this run."""
    top: bool
    """Only runs that no other run started."""
    metadata: Mapping[str, Any] | None
    """With all of this in their metadata."""
    created_from_ms: int | None
    """Started at this time or later, in milliseconds since 1970."""
    created_until_ms: int | None
    """Started before this time."""
    quiet_since_ms: int | None
    """That recorded nothing at this time or later."""
    limit: int | None
    """At most so many. Default 100."""
    offset: int | None
    """Skip so many."""


class Retention(TypedDict, total=False):
    """A rule about runs that have ended: they go `keep_ms` after their end, or when they are not among the newest
    `keep_runs`. `status`, `kind` and `agent` (an agent's or workflow's name) say which runs it is about."""

    status: list[RunStatus]
    kind: SpecKind
    agent: str
    keep_ms: int
    keep_runs: int


# --- The methods ------------------------------------------------------------------------------------------------------


class HistoryOperations(Operations):
    """An engine's methods for runs that there are."""

    def fork(
        self,
        run_id: str,
        *,
        seq: int | None = None,
        effect_id: str | None = None,
        output: Any = ...,
        input: Any = ...,
        new_run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> str:
        """Begins another run that is as this one was at some event, with one thing changed, and gives its id. Nothing
        of what was before is carried out again. The fork goes on without a reader: see `result` and `observe`.

        Args:
            seq: the last event that the fork begins with.
            effect_id: in its place: with `output`, where this effect last ended; else where it first began.
            output: what that effect answered, in the fork. Of a model: a text, or a message. `None` is a value.
            input: what the step that begins there is given. Without a place: the run's input. `None` is a value.
            new_run_id: the fork's id; made by the engine when absent.
            metadata: what the fork is found by, in place of what the run is.
            context: further context, for this process; it is not recorded.

        Raises:
            NotFoundError: no such run (`run_unknown`).
            InvalidError: there is no such place, or the run has ended there (`fork_invalid`); what is changed does not
                fit its schema.
            ConflictError: `new_run_id` is taken, or the run needs what is not registered or is registered otherwise
                (`run_exists`, `run_blocked`, `workflow_changed`).
        """
        return _run_id(self._call("fork", _fork(run_id, seq, effect_id, output, input, new_run_id, metadata, context)))

    async def afork(
        self,
        run_id: str,
        *,
        seq: int | None = None,
        effect_id: str | None = None,
        output: Any = ...,
        input: Any = ...,
        new_run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> str:
        """As `fork`, for asyncio."""
        request = _fork(run_id, seq, effect_id, output, input, new_run_id, metadata, context)
        return _run_id(await self._acall("fork", request))

    def restart(self, run_id: str, *, new_run_id: str | None = None) -> str:
        """Begins another run with the same input, and gives its id. It goes on without a reader. Raises as `fork`."""
        return _run_id(self._call("restart", _set(run_id=run_id, new_run_id=new_run_id)))

    async def arestart(self, run_id: str, *, new_run_id: str | None = None) -> str:
        """As `restart`, for asyncio."""
        return _run_id(await self._acall("restart", _set(run_id=run_id, new_run_id=new_run_id)))

    def difference(self, left: str, right: str) -> Difference:
        """How two runs differ, mostly one and its fork: where their journals part, and what each effect came to.

        Raises:
            NotFoundError: no such run (`run_unknown`).
        """
        return cast(Difference, self._call("difference", {"left": left, "right": right}))

    async def adifference(self, left: str, right: str) -> Difference:
        """As `difference`, for asyncio."""
        return cast(Difference, await self._acall("difference", {"left": left, "right": right}))

    @overload
    def picture(
        self, workflow: str | Workflow[Any, Any] | Mapping[str, Any], *, format: Literal["svg", "mermaid"] = "svg"
    ) -> str: ...

    @overload
    def picture(self, *, run_id: str, format: Literal["svg", "mermaid"] = "svg") -> str: ...

    def picture(
        self,
        workflow: str | Workflow[Any, Any] | Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        format: Literal["svg", "mermaid"] = "svg",
    ) -> str:
        """A workflow drawn, or a run's workflow with each step in the colour of where it stands.

        Args:
            workflow: the name of a registered workflow; or a workflow or its spec, registered or not.
            run_id: in its place: a workflow's run.
            format: a picture by itself, or a flowchart for documents that know Mermaid.

        Raises:
            NotFoundError: no such workflow or run (`workflow_unknown`, `run_unknown`).
            InvalidError: a run of an agent, or neither or both are named (`argument_invalid`); what is wrong with the
                spec.
        """
        return str(self._call("picture", _picture(workflow, run_id, format)))

    @overload
    async def apicture(
        self, workflow: str | Workflow[Any, Any] | Mapping[str, Any], *, format: Literal["svg", "mermaid"] = "svg"
    ) -> str: ...

    @overload
    async def apicture(self, *, run_id: str, format: Literal["svg", "mermaid"] = "svg") -> str: ...

    async def apicture(
        self,
        workflow: str | Workflow[Any, Any] | Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        format: Literal["svg", "mermaid"] = "svg",
    ) -> str:
        """As `picture`, for asyncio."""
        return str(await self._acall("picture", _picture(workflow, run_id, format)))

    def check_workflow(self, workflow: Workflow[Any, Any] | Mapping[str, Any]) -> list[Fit]:
        """Whether the unfinished runs of a workflow could go on under this workflow or spec, with the migrations that
        are registered. It need not be registered. Runs nothing, changes nothing.

        Raises:
            InvalidError: what is wrong with the spec.
        """
        return cast("list[Fit]", self._call("check_workflow", {"spec": _spec(workflow)}))

    async def acheck_workflow(self, workflow: Workflow[Any, Any] | Mapping[str, Any]) -> list[Fit]:
        """As `check_workflow`, for asyncio."""
        return cast("list[Fit]", await self._acall("check_workflow", {"spec": _spec(workflow)}))

    def register_migration(
        self,
        workflow: str | Workflow[Any, Any],
        from_: str,
        *,
        steps: Mapping[str, str | None] | None = None,
        outputs: Mapping[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
        function: str | None = None,
    ) -> None:
        """Registers how runs that began under another spec of a workflow go on under the registered one. A run is
        migrated when it next goes on, and its journal says so. Migrations are this engine's, not the store's.

        Args:
            workflow: the workflow or its name. A workflow that is not registered yet is registered.
            from_: the hash of the spec that runs began under: `hash` of `check_workflow`.
            steps: steps that are named otherwise now, by their old name; `None` forgets one as if it had not run.
            outputs: what steps came to, by their new names: in place of what was recorded, or of running.
            state: values of the state that are set; `None` removes one.
            function: a registered function that is asked for each run with `{workflow, run_id, from, to, outputs,
                state}` and answers `{steps?, outputs?, state?}`, over what is said here.

        Raises:
            NotFoundError: no such workflow is registered (`workflow_unknown`).
            ConflictError: there is a migration for this hash (`name_taken`).
            InvalidError: the workflow is of the spec `from_` now (`argument_invalid`).
        """
        self._call("register_migration", self._migration(workflow, from_, steps, outputs, state, function))

    async def aregister_migration(
        self,
        workflow: str | Workflow[Any, Any],
        from_: str,
        *,
        steps: Mapping[str, str | None] | None = None,
        outputs: Mapping[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
        function: str | None = None,
    ) -> None:
        """As `register_migration`, for asyncio."""
        await self._acall("register_migration", self._migration(workflow, from_, steps, outputs, state, function))

    def _migration(
        self,
        workflow: str | Workflow[Any, Any],
        from_: str,
        steps: Mapping[str, str | None] | None,
        outputs: Mapping[str, Any] | None,
        state: Mapping[str, Any] | None,
        function: str | None,
    ) -> dict[str, Any]:
        if not isinstance(workflow, str):
            workflow._register(cast("Engine", self))
            workflow = workflow.name
        said = _set(workflow=workflow, steps=steps, outputs=outputs, state=state, function=function)
        return {**said, "from": from_}

    def prune(self, rules: Iterable[Retention] | None = None, *, only_tell: bool = False) -> list[str]:
        """Removes runs that have ended and that a rule does not keep, with their children, and gives their ids.

        Args:
            rules: such as `[{"agent": "refund", "keep_runs": 100}]`. Default: those of the engine's settings.
            only_tell: removes nothing, and only says which would go.

        Raises:
            InvalidError: a rule bounds nothing, or is about runs that have not ended (`argument_invalid`).
        """
        return cast("list[str]", self._call("prune", _prune(rules, only_tell)))

    async def aprune(self, rules: Iterable[Retention] | None = None, *, only_tell: bool = False) -> list[str]:
        """As `prune`, for asyncio."""
        return cast("list[str]", await self._acall("prune", _prune(rules, only_tell)))

    def compact(self, ended_ms_ago: int | None = None) -> int:
        """Compresses the journals of runs that ended so long ago in the store's file, and gives how many. They read as
        before. Default: as the engine's `compact_after_ms` says."""
        return cast(int, self._call("compact", _set(ended_ms_ago=ended_ms_ago)))

    async def acompact(self, ended_ms_ago: int | None = None) -> int:
        """As `compact`, for asyncio."""
        return cast(int, await self._acall("compact", _set(ended_ms_ago=ended_ms_ago)))


def _fork(
    run_id: str,
    seq: int | None,
    effect_id: str | None,
    output: Any,
    input: Any,
    new_run_id: str | None,
    metadata: Mapping[str, Any] | None,
    context: Mapping[str, Any] | None,
) -> dict[str, Any]:
    request = _set(
        run_id=run_id, seq=seq, effect_id=effect_id, new_run_id=new_run_id, metadata=metadata, context=context
    )
    # `None` is an answer like another.
    changes = {"output": output, "input": input}
    return {**request, **{name: value for name, value in changes.items() if value is not ...}}


def _picture(
    workflow: str | Workflow[Any, Any] | Mapping[str, Any] | None, run_id: str | None, format: str
) -> dict[str, Any]:
    if (workflow is None) == (run_id is None):
        raise InvalidError("name a workflow or a `run_id` to draw, one of them", code="argument_invalid")
    if workflow is None:
        return {"run_id": run_id, "format": format}
    what = {"workflow": workflow} if isinstance(workflow, str) else {"spec": _spec(workflow)}
    return {**what, "format": format}


def _prune(rules: Iterable[Retention] | None, only_tell: bool) -> dict[str, Any]:
    return {"rules": None if rules is None else list(rules), "only_tell": only_tell}


def _spec(workflow: Workflow[Any, Any] | Mapping[str, Any]) -> Mapping[str, Any]:
    return workflow if isinstance(workflow, Mapping) else workflow.spec


def _run_id(answer: dict[str, Any]) -> str:
    return str(answer["run_id"])


def _set(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
