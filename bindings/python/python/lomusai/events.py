"""Events, messages and what they are made of, as typed dictionaries.

Made by `cargo xtask codegen` from engine/lomusai_wire/tables/events.toml. Do not edit.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypedDict, Union

from .errors import ErrorKind

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
"""Who speaks."""
ToolStatus: TypeAlias = Literal["ok", "error", "denied", "cancelled"]
"""How a tool call ended. `ok` is not written."""
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "paused", "other"]
"""Why a model stopped."""
Outcome: TypeAlias = Literal["completed", "failed", "cancelled", "exhausted", "bailed"]
"""How a run ended."""
RunStatus: TypeAlias = Literal[
    "running",
    "suspended",
    "waiting",
    "completed",
    "failed",
    "cancelled",
    "exhausted",
    "bailed",
    "blocked",
    "poisoned",
]
"""Where a run stands."""
EffectKind: TypeAlias = Literal["model", "tool", "run", "call", "step", "timer", "group"]
"""What an effect asks."""
PendingKind: TypeAlias = Literal["approval", "suspended", "client", "child", "signal"]
"""What a suspended effect waits for."""
SignalKind: TypeAlias = Literal["approve", "decline", "resume", "tool_result", "signal", "retry"]
"""The commands that a journal records."""
LogLevel: TypeAlias = Literal["debug", "info", "warn", "error"]
"""How much a note matters."""
SpecKind: TypeAlias = Literal["agent", "workflow"]
"""What kind of thing a run executes."""


class Source(TypedDict, total=False):
    """Where the bytes of an image or a file are. Exactly one field is there."""

    url: str
    data: str
    reference: str


class _Message(TypedDict):
    role: Role
    parts: list[Part]


class Message(_Message, total=False):
    """One turn of a conversation."""

    id: str
    metadata: dict[str, Any]


class Usage(TypedDict, total=False):
    """Tokens in disjoint buckets. A bucket that is absent is empty."""

    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int


class _ErrorBody(TypedDict):
    kind: ErrorKind
    code: str
    message: str


class ErrorBody(_ErrorBody, total=False):
    """An error as JSON."""

    retryable: bool
    retry_after_ms: int
    details: dict[str, Any]
    host: Any


class _Pending(TypedDict):
    effect_id: str
    reason: PendingKind


class Pending(_Pending, total=False):
    """Something that waits for a command."""

    child: str
    call_id: str
    tool: str
    arguments: str
    payload: Any
    resume_schema: str
    signal: str
    label: str
    due_at_ms: int


class Parent(TypedDict):
    """Who started a child run."""

    run_id: str
    effect_id: str


class Fork(TypedDict):
    """The run that a run begins as a copy of, as it was at this event."""

    run_id: str
    seq: int


class SpecRef(TypedDict):
    """What runs, by name and content hash."""

    kind: SpecKind
    name: str
    hash: str


class RunOutput(TypedDict, total=False):
    """What a run came to."""

    text: str
    object: Any
    finish: FinishReason
    steps: int


class _RunInfo(TypedDict):
    run_id: str
    agent: str
    status: RunStatus
    seq: int
    created_at_ms: int
    updated_at_ms: int


class RunInfo(_RunInfo, total=False):
    """A line about a run: a cache of what its journal says."""

    kind: SpecKind
    thread: str
    parent: Parent
    forked_from: Fork
    metadata: dict[str, Any]
    pending: list[Pending]
    blocked_by: str
    wakes_at_ms: int
    recoveries: int


class HistoryUpto(TypedDict):
    """The first `upto` messages of the run's thread."""

    upto: int


class _ProviderPart(TypedDict):
    type: Literal["provider"]
    provider: str
    data: Any


class ProviderPart(_ProviderPart, total=False):
    """What one provider says and only it understands. It goes back to that provider unchanged and in this place."""

    attached: bool


class TextPart(TypedDict):
    """Plain text."""

    type: Literal["text"]
    text: str


class _ImagePart(TypedDict):
    type: Literal["image"]
    source: Source


class ImagePart(_ImagePart, total=False):
    """A picture."""

    media_type: str


class _FilePart(TypedDict):
    type: Literal["file"]
    source: Source


class FilePart(_FilePart, total=False):
    """A document, sound or other file."""

    media_type: str
    name: str


class _ReasoningPart(TypedDict):
    type: Literal["reasoning"]


class ReasoningPart(_ReasoningPart, total=False):
    """What the model thought, with the provider's opaque signature."""

    text: str
    signature: str
    encrypted: str
    provider: dict[str, Any]


class _ToolCallPart(TypedDict):
    type: Literal["tool_call"]
    call_id: str
    name: str
    arguments: str


class ToolCallPart(_ToolCallPart, total=False):
    """A wish to call a tool. The arguments are the text the model wrote."""

    provider_id: str
    signature: str
    provider: dict[str, Any]


class _ToolResultPart(TypedDict):
    type: Literal["tool_result"]
    call_id: str
    name: str
    output: Any


class ToolResultPart(_ToolResultPart, total=False):
    """What a tool call came to."""

    status: ToolStatus
    content: list[Part]


class DataPart(TypedDict):
    """A named value for the host, not for the model."""

    type: Literal["data"]
    name: str
    data: Any


Part: TypeAlias = Union[
    ProviderPart,
    TextPart,
    ImagePart,
    FilePart,
    ReasoningPart,
    ToolCallPart,
    ToolResultPart,
    DataPart,
]
"""A piece of a message. One of an unknown type is kept as it came."""


class _Envelope(TypedDict):
    run_id: str
    seq: int
    at_ms: int


class Envelope(_Envelope, total=False):
    """What every event has. Order is (`seq`, `sub`): durable events count `seq`, transient ones count `sub` behind the
    last durable one.
    """

    sub: int


class _RunStartedEvent(Envelope):
    type: Literal["run_started"]
    spec: SpecRef
    input: list[Message]


class RunStartedEvent(_RunStartedEvent, total=False):
    """`run_started`: The run exists."""

    data: Any
    state: dict[str, Any]
    history: list[Message] | HistoryUpto
    thread: str
    parent: Parent
    forked_from: Fork
    metadata: dict[str, Any]
    context: dict[str, Any]
    options: dict[str, Any]


class _RunMigratedEvent(Envelope):
    type: Literal["run_migrated"]
    spec: SpecRef


class RunMigratedEvent(_RunMigratedEvent, total=False):
    """`run_migrated`: It goes on under another spec of its workflow: the events before this one are read as if they had
    been of that.
    """

    steps: dict[str, Any]
    outputs: dict[str, Any]
    state: dict[str, Any]


class RunSuspendedEvent(Envelope):
    """`run_suspended`: Nothing goes on until a command comes."""

    type: Literal["run_suspended"]
    reasons: list[Pending]


class RunResumedEvent(Envelope):
    """`run_resumed`: It goes on."""

    type: Literal["run_resumed"]


class _RunCancellingEvent(Envelope):
    type: Literal["run_cancelling"]
    grace_ms: int


class RunCancellingEvent(_RunCancellingEvent, total=False):
    """`run_cancelling`: It was told to stop; nothing new starts."""

    reason: str


class _RunFinishedEvent(Envelope):
    type: Literal["run_finished"]
    outcome: Outcome


class RunFinishedEvent(_RunFinishedEvent, total=False):
    """`run_finished`: It is over."""

    output: RunOutput
    error: ErrorBody
    usage: Usage
    cost_nano_usd: int


class _EffectStartedEvent(Envelope):
    type: Literal["effect_started"]
    effect_id: str
    kind: EffectKind
    component: str


class EffectStartedEvent(_EffectStartedEvent, total=False):
    """`effect_started`: The world was asked for something."""

    attempt: int
    choice: int
    call_id: str
    resume: Any
    due_at_ms: int
    input: Any


class _EffectCompletedEvent(Envelope):
    type: Literal["effect_completed"]
    effect_id: str


class EffectCompletedEvent(_EffectCompletedEvent, total=False):
    """`effect_completed`: It answered. A model's answer is the message that follows."""

    output: Any
    content: list[Part]
    finish: FinishReason
    usage: Usage
    cost_nano_usd: int


class _EffectFailedEvent(Envelope):
    type: Literal["effect_failed"]
    effect_id: str
    error: ErrorBody


class EffectFailedEvent(_EffectFailedEvent, total=False):
    """`effect_failed`: It failed. With `retry_at_ms` it is tried again."""

    retry_at_ms: int
    usage: Usage
    cost_nano_usd: int


class EffectSuspendedEvent(Envelope, Pending):
    """`effect_suspended`: It waits for a command."""

    type: Literal["effect_suspended"]


class _EffectSkippedEvent(Envelope):
    type: Literal["effect_skipped"]
    effect_id: str
    why: str


class EffectSkippedEvent(_EffectSkippedEvent, total=False):
    """`effect_skipped`: It was not carried out."""

    call_id: str
    output: Any


class EffectProgressEvent(Envelope):
    """`effect_progress`: Transient. News of an effect under way."""

    type: Literal["effect_progress"]
    effect_id: str
    data: Any


class MessageCompletedEvent(Envelope):
    """`message_completed`: A whole message, as it was shown."""

    type: Literal["message_completed"]
    message: Message


class MessageStartedEvent(Envelope):
    """`message_started`: Transient. A message begins."""

    type: Literal["message_started"]
    message_id: str
    role: Role


class _PartStartedEvent(Envelope):
    type: Literal["part_started"]
    message_id: str
    index: int
    part_type: str


class PartStartedEvent(_PartStartedEvent, total=False):
    """`part_started`: Transient. A part begins."""

    name: str
    call_id: str


class _PartDeltaEvent(Envelope):
    type: Literal["part_delta"]
    message_id: str
    index: int


class PartDeltaEvent(_PartDeltaEvent, total=False):
    """`part_delta`: Transient. More of a part: one of `text` (text and reasoning), `arguments` (a tool call) and
    `object` (the structured answer so far).
    """

    text: str
    arguments: str
    object: Any


class PartCompletedEvent(Envelope):
    """`part_completed`: Transient. A part is whole."""

    type: Literal["part_completed"]
    message_id: str
    index: int


class _SignalReceivedEvent(Envelope):
    type: Literal["signal_received"]
    signal: SignalKind


class SignalReceivedEvent(_SignalReceivedEvent, total=False):
    """`signal_received`: A command came from outside."""

    name: str
    effect_id: str
    data: Any


class _StateSetEvent(Envelope):
    type: Literal["state_set"]
    key: str
    value: Any


class StateSetEvent(_StateSetEvent, total=False):
    """`state_set`: A value of the run's state changed; null removes it."""

    effect_id: str


class _CustomEvent(Envelope):
    type: Literal["custom"]
    name: str
    data: Any


class CustomEvent(_CustomEvent, total=False):
    """`custom`: Durable when asked. Something a host function wants known, and the effect that says it. Kept only while
    that effect is under way.
    """

    effect_id: str
    durable: bool


class LogEvent(Envelope):
    """`log`: Transient. A note for people."""

    type: Literal["log"]
    level: LogLevel
    message: str


class LaggedEvent(Envelope):
    """`lagged`: Transient. This reader was too slow and missed events; durable ones can be read again from the journal.
    """

    type: Literal["lagged"]
    missed: int


RunEvent: TypeAlias = Union[
    RunStartedEvent,
    RunMigratedEvent,
    RunSuspendedEvent,
    RunResumedEvent,
    RunCancellingEvent,
    RunFinishedEvent,
    EffectStartedEvent,
    EffectCompletedEvent,
    EffectFailedEvent,
    EffectSuspendedEvent,
    EffectSkippedEvent,
    EffectProgressEvent,
    MessageCompletedEvent,
    MessageStartedEvent,
    PartStartedEvent,
    PartDeltaEvent,
    PartCompletedEvent,
    SignalReceivedEvent,
    StateSetEvent,
    CustomEvent,
    LogEvent,
    LaggedEvent,
]
"""Everything a run says. Later versions may say more."""
DurableEvent: TypeAlias = Union[
    RunStartedEvent,
    RunMigratedEvent,
    RunSuspendedEvent,
    RunResumedEvent,
    RunCancellingEvent,
    RunFinishedEvent,
    EffectStartedEvent,
    EffectCompletedEvent,
    EffectFailedEvent,
    EffectSuspendedEvent,
    EffectSkippedEvent,
    MessageCompletedEvent,
    SignalReceivedEvent,
    StateSetEvent,
]
"""The events that are always kept in the journal."""

__all__ = [
    "CustomEvent",
    "DataPart",
    "DurableEvent",
    "EffectCompletedEvent",
    "EffectFailedEvent",
    "EffectKind",
    "EffectProgressEvent",
    "EffectSkippedEvent",
    "EffectStartedEvent",
    "EffectSuspendedEvent",
    "Envelope",
    "ErrorBody",
    "FilePart",
    "FinishReason",
    "Fork",
    "HistoryUpto",
    "ImagePart",
    "LaggedEvent",
    "LogEvent",
    "LogLevel",
    "Message",
    "MessageCompletedEvent",
    "MessageStartedEvent",
    "Outcome",
    "Parent",
    "Part",
    "PartCompletedEvent",
    "PartDeltaEvent",
    "PartStartedEvent",
    "Pending",
    "PendingKind",
    "ProviderPart",
    "ReasoningPart",
    "Role",
    "RunCancellingEvent",
    "RunEvent",
    "RunFinishedEvent",
    "RunInfo",
    "RunMigratedEvent",
    "RunOutput",
    "RunResumedEvent",
    "RunStartedEvent",
    "RunStatus",
    "RunSuspendedEvent",
    "SignalKind",
    "SignalReceivedEvent",
    "Source",
    "SpecKind",
    "SpecRef",
    "StateSetEvent",
    "TextPart",
    "ToolCallPart",
    "ToolResultPart",
    "ToolStatus",
    "Usage",
]
