// Events, messages and what they are made of.
// Made by `cargo xtask codegen` from engine/lomusai_wire/tables/events.toml. Do not edit.

import type { ErrorCode, ErrorKind } from './errors';

/** Who speaks. */
export type Role = 'system' | 'user' | 'assistant' | 'tool';

/** How a tool call ended. `ok` is not written. */
export type ToolStatus = 'ok' | 'error' | 'denied' | 'cancelled';

/** Why a model stopped. */
export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'content_filter' | 'paused' | 'other';

/** How a run ended. */
export type Outcome = 'completed' | 'failed' | 'cancelled' | 'exhausted' | 'bailed';

/** Where a run stands. */
export type RunStatus =
  | 'running'
  | 'suspended'
  | 'waiting'
  | 'completed'
  | 'failed'
  | 'cancelled'
  | 'exhausted'
  | 'bailed'
  | 'blocked'
  | 'poisoned';

/** What an effect asks. */
export type EffectKind = 'model' | 'tool' | 'run' | 'call' | 'step' | 'timer' | 'group';

/** What a suspended effect waits for. */
export type PendingKind = 'approval' | 'suspended' | 'client' | 'child' | 'signal';

/** The commands that a journal records. */
export type SignalKind = 'approve' | 'decline' | 'resume' | 'tool_result' | 'signal' | 'retry';

/** How much a note matters. */
export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

/** What kind of thing a run executes. */
export type SpecKind = 'agent' | 'workflow';

/** Where the bytes of an image or a file are. Exactly one field is there. */
export interface Source {
  url?: string;
  data?: string;
  reference?: string;
}

/** One turn of a conversation. */
export interface Message {
  id?: string;
  role: Role;
  parts: Part[];
  metadata?: Record<string, unknown>;
}

/** Tokens in disjoint buckets. A bucket that is absent is empty. */
export interface Usage {
  input?: number;
  cache_read?: number;
  cache_write?: number;
  output?: number;
  reasoning?: number;
}

/** An error as JSON. */
export interface ErrorBody {
  kind: ErrorKind;
  code: ErrorCode;
  message: string;
  retryable?: boolean;
  retry_after_ms?: number;
  details?: Record<string, unknown>;
  host?: unknown;
}

/** Something that waits for a command. */
export interface Pending {
  effect_id: string;
  reason: PendingKind;
  child?: string;
  call_id?: string;
  tool?: string;
  arguments?: string;
  payload?: unknown;
  resume_schema?: string;
  signal?: string;
  label?: string;
  due_at_ms?: number;
}

/** Who started a child run. */
export interface Parent {
  run_id: string;
  effect_id: string;
}

/** The run that a run begins as a copy of, as it was at this event. */
export interface Fork {
  run_id: string;
  seq: number;
}

/** What runs, by name and content hash. */
export interface SpecRef {
  kind: SpecKind;
  name: string;
  hash: string;
}

/** What a run came to. */
export interface RunOutput {
  text?: string;
  object?: unknown;
  finish?: FinishReason;
  steps?: number;
}

/** A line about a run: a cache of what its journal says. */
export interface RunInfo {
  run_id: string;
  kind?: SpecKind;
  agent: string;
  status: RunStatus;
  seq: number;
  thread?: string;
  parent?: Parent;
  forked_from?: Fork;
  metadata?: Record<string, unknown>;
  pending?: Pending[];
  blocked_by?: string;
  created_at_ms: number;
  updated_at_ms: number;
  wakes_at_ms?: number;
  recoveries?: number;
}

/** The first `upto` messages of the run's thread. */
export interface HistoryUpto {
  upto: number;
}

/** What one provider says and only it understands. It goes back to that provider unchanged and in this place. */
export interface ProviderPart {
  type: 'provider';
  provider: string;
  data: unknown;
  attached?: boolean;
}

/** Plain text. */
export interface TextPart {
  type: 'text';
  text: string;
}

/** A picture. */
export interface ImagePart {
  type: 'image';
  source: Source;
  media_type?: string;
}

/** A document, sound or other file. */
export interface FilePart {
  type: 'file';
  source: Source;
  media_type?: string;
  name?: string;
}

/** What the model thought, with the provider's opaque signature. */
export interface ReasoningPart {
  type: 'reasoning';
  text?: string;
  signature?: string;
  encrypted?: string;
  provider?: Record<string, unknown>;
}

/** A wish to call a tool. The arguments are the text the model wrote. */
export interface ToolCallPart {
  type: 'tool_call';
  call_id: string;
  name: string;
  arguments: string;
  provider_id?: string;
  signature?: string;
  provider?: Record<string, unknown>;
}

/** What a tool call came to. */
export interface ToolResultPart {
  type: 'tool_result';
  call_id: string;
  name: string;
  status?: ToolStatus;
  output: unknown;
  content?: Part[];
}

/** A named value for the host, not for the model. */
export interface DataPart {
  type: 'data';
  name: string;
  data: unknown;
}

/** A piece of a message. A part of an unknown type is kept as it came: have a default branch. */
export type Part =
  | ProviderPart
  | TextPart
  | ImagePart
  | FilePart
  | ReasoningPart
  | ToolCallPart
  | ToolResultPart
  | DataPart;

/**
 * What every event has. Order is (`seq`, `sub`): durable events count `seq`, transient ones count `sub` behind the last
 * durable one.
 */
export interface Envelope {
  run_id: string;
  seq: number;
  sub?: number;
  at_ms: number;
}

/** `run_started`: The run exists. */
export interface RunStartedEvent extends Envelope {
  type: 'run_started';
  spec: SpecRef;
  input: Message[];
  data?: unknown;
  state?: Record<string, unknown>;
  history?: Message[] | HistoryUpto;
  thread?: string;
  parent?: Parent;
  forked_from?: Fork;
  metadata?: Record<string, unknown>;
  context?: Record<string, unknown>;
  options?: Record<string, unknown>;
}

/**
 * `run_migrated`: It goes on under another spec of its workflow: the events before this one are read as if they had
 * been of that.
 */
export interface RunMigratedEvent extends Envelope {
  type: 'run_migrated';
  spec: SpecRef;
  steps?: Record<string, unknown>;
  outputs?: Record<string, unknown>;
  state?: Record<string, unknown>;
}

/** `run_suspended`: Nothing goes on until a command comes. */
export interface RunSuspendedEvent extends Envelope {
  type: 'run_suspended';
  reasons: Pending[];
}

/** `run_resumed`: It goes on. */
export interface RunResumedEvent extends Envelope {
  type: 'run_resumed';
}

/** `run_cancelling`: It was told to stop; nothing new starts. */
export interface RunCancellingEvent extends Envelope {
  type: 'run_cancelling';
  grace_ms: number;
  reason?: string;
}

/** `run_finished`: It is over. */
export interface RunFinishedEvent extends Envelope {
  type: 'run_finished';
  outcome: Outcome;
  output?: RunOutput;
  error?: ErrorBody;
  usage?: Usage;
  cost_nano_usd?: number;
}

/** `effect_started`: The world was asked for something. */
export interface EffectStartedEvent extends Envelope {
  type: 'effect_started';
  effect_id: string;
  kind: EffectKind;
  component: string;
  attempt?: number;
  choice?: number;
  call_id?: string;
  resume?: unknown;
  due_at_ms?: number;
  input?: unknown;
}

/** `effect_completed`: It answered. A model's answer is the message that follows. */
export interface EffectCompletedEvent extends Envelope {
  type: 'effect_completed';
  effect_id: string;
  output?: unknown;
  content?: Part[];
  finish?: FinishReason;
  usage?: Usage;
  cost_nano_usd?: number;
}

/** `effect_failed`: It failed. With `retry_at_ms` it is tried again. */
export interface EffectFailedEvent extends Envelope {
  type: 'effect_failed';
  effect_id: string;
  error: ErrorBody;
  retry_at_ms?: number;
  usage?: Usage;
  cost_nano_usd?: number;
}

/** `effect_suspended`: It waits for a command. */
export interface EffectSuspendedEvent extends Envelope, Pending {
  type: 'effect_suspended';
}

/** `effect_skipped`: It was not carried out. */
export interface EffectSkippedEvent extends Envelope {
  type: 'effect_skipped';
  effect_id: string;
  call_id?: string;
  why: string;
  output?: unknown;
}

/** `effect_progress`: Transient. News of an effect under way. */
export interface EffectProgressEvent extends Envelope {
  type: 'effect_progress';
  effect_id: string;
  data: unknown;
}

/** `message_completed`: A whole message, as it was shown. */
export interface MessageCompletedEvent extends Envelope {
  type: 'message_completed';
  message: Message;
}

/** `message_started`: Transient. A message begins. */
export interface MessageStartedEvent extends Envelope {
  type: 'message_started';
  message_id: string;
  role: Role;
}

/** `part_started`: Transient. A part begins. */
export interface PartStartedEvent extends Envelope {
  type: 'part_started';
  message_id: string;
  index: number;
  part_type: string;
  name?: string;
  call_id?: string;
}

/**
 * `part_delta`: Transient. More of a part: one of `text` (text and reasoning), `arguments` (a tool call) and `object`
 * (the structured answer so far).
 */
export interface PartDeltaEvent extends Envelope {
  type: 'part_delta';
  message_id: string;
  index: number;
  text?: string;
  arguments?: string;
  object?: unknown;
}

/** `part_completed`: Transient. A part is whole. */
export interface PartCompletedEvent extends Envelope {
  type: 'part_completed';
  message_id: string;
  index: number;
}

/** `signal_received`: A command came from outside. */
export interface SignalReceivedEvent extends Envelope {
  type: 'signal_received';
  signal: SignalKind;
  name?: string;
  effect_id?: string;
  data?: unknown;
}

/** `state_set`: A value of the run's state changed; null removes it. */
export interface StateSetEvent extends Envelope {
  type: 'state_set';
  effect_id?: string;
  key: string;
  value: unknown;
}

/**
 * `custom`: Durable when asked. Something a host function wants known, and the effect that says it. Kept only while
 * that effect is under way.
 */
export interface CustomEvent extends Envelope {
  type: 'custom';
  effect_id?: string;
  name: string;
  data: unknown;
  durable?: boolean;
}

/** `log`: Transient. A note for people. */
export interface LogEvent extends Envelope {
  type: 'log';
  level: LogLevel;
  message: string;
}

/**
 * `lagged`: Transient. This reader was too slow and missed events; durable ones can be read again from the journal.
 */
export interface LaggedEvent extends Envelope {
  type: 'lagged';
  missed: number;
}

/** Everything a run says. Later versions may say more: have a default branch. */
export type RunEvent =
  | RunStartedEvent
  | RunMigratedEvent
  | RunSuspendedEvent
  | RunResumedEvent
  | RunCancellingEvent
  | RunFinishedEvent
  | EffectStartedEvent
  | EffectCompletedEvent
  | EffectFailedEvent
  | EffectSuspendedEvent
  | EffectSkippedEvent
  | EffectProgressEvent
  | MessageCompletedEvent
  | MessageStartedEvent
  | PartStartedEvent
  | PartDeltaEvent
  | PartCompletedEvent
  | SignalReceivedEvent
  | StateSetEvent
  | CustomEvent
  | LogEvent
  | LaggedEvent;

/** The events that are always kept in the journal. */
export type DurableEvent =
  | RunStartedEvent
  | RunMigratedEvent
  | RunSuspendedEvent
  | RunResumedEvent
  | RunCancellingEvent
  | RunFinishedEvent
  | EffectStartedEvent
  | EffectCompletedEvent
  | EffectFailedEvent
  | EffectSuspendedEvent
  | EffectSkippedEvent
  | MessageCompletedEvent
  | SignalReceivedEvent
  | StateSetEvent;
