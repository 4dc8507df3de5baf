// Error classes, one per kind of error.
// Made by `cargo xtask codegen` from engine/lomusai_wire/tables/errors.toml. Do not edit.

import type { ErrorBody } from './events';

export type { ErrorBody };

/** What a caller can do about an error. */
export type ErrorKind =
  | 'invalid'
  | 'not_found'
  | 'conflict'
  | 'denied'
  | 'rate_limited'
  | 'unavailable'
  | 'timeout'
  | 'cancelled'
  | 'limit'
  | 'storage'
  | 'tool'
  | 'provider'
  | 'host'
  | 'closed'
  | 'internal';

/** A stable code. Later versions may have more. */
export type ErrorCode =
  | 'argument_invalid'
  | 'json_invalid'
  | 'utf8_invalid'
  | 'name_invalid'
  | 'schema_invalid'
  | 'spec_invalid'
  | 'input_empty'
  | 'transcript_invalid'
  | 'arguments_invalid'
  | 'resume_invalid'
  | 'output_invalid'
  | 'component_changed'
  | 'fork_invalid'
  | 'schedule_invalid'
  | 'unsupported'
  | 'input_invalid'
  | 'step_duplicate'
  | 'step_reference_unknown'
  | 'step_cycle'
  | 'expression_invalid'
  | 'expression_failed'
  | 'step_fatal'
  | 'schema_unsupported'
  | 'model_file_invalid'
  | 'model_unsupported'
  | 'model_template_invalid'
  | 'cpu_unsupported'
  | 'download_refused'
  | 'checksum_mismatch'
  | 'price_unknown'
  | 'cassette_invalid'
  | 'agent_unknown'
  | 'tool_unknown'
  | 'provider_unknown'
  | 'function_unknown'
  | 'workflow_unknown'
  | 'step_unknown'
  | 'run_unknown'
  | 'thread_unknown'
  | 'effect_unknown'
  | 'budget_unknown'
  | 'cassette_miss'
  | 'blob_unknown'
  | 'model_unknown'
  | 'schedule_unknown'
  | 'name_taken'
  | 'run_exists'
  | 'run_finished'
  | 'run_not_failed'
  | 'workflow_changed'
  | 'run_active'
  | 'run_blocked'
  | 'thread_busy'
  | 'already_answered'
  | 'value_conflict'
  | 'sequence_conflict'
  | 'engine_forked'
  | 'credentials_rejected'
  | 'credentials_missing'
  | 'processor_aborted'
  | 'provider_rate_limited'
  | 'provider_unreachable'
  | 'provider_failed'
  | 'stream_truncated'
  | 'download_failed'
  | 'tool_timeout'
  | 'model_timeout'
  | 'function_timeout'
  | 'step_timeout'
  | 'wait_timeout'
  | 'run_timeout'
  | 'close_timeout'
  | 'run_cancelled'
  | 'message_too_large'
  | 'result_too_large'
  | 'run_too_large'
  | 'depth_exceeded'
  | 'loop_exhausted'
  | 'context_too_long'
  | 'memory_insufficient'
  | 'budget_exhausted'
  | 'store_locked'
  | 'store_read_only'
  | 'store_newer'
  | 'store_corrupt'
  | 'store_full'
  | 'store_failed'
  | 'disk_full'
  | 'model_file_unreadable'
  | 'tool_failed'
  | 'tool_unanswered'
  | 'tool_result_invalid'
  | 'provider_rejected'
  | 'provider_response_invalid'
  | 'provider_host_failed'
  | 'script_exhausted'
  | 'function_failed'
  | 'function_unanswered'
  | 'function_reply_invalid'
  | 'step_failed'
  | 'step_unanswered'
  | 'step_sql_failed'
  | 'step_result_invalid'
  | 'callback_panicked'
  | 'engine_closed'
  | 'handle_closed'
  | 'internal'
  | (string & {});

/** An error of the engine. `code` is stable and the same in every language. */
export class LomusaiError extends Error {
  constructor(body: Partial<ErrorBody> & { message: string }, options?: { cause?: unknown });
  readonly kind: ErrorKind;
  readonly code: ErrorCode;
  readonly retryable: boolean;
  readonly retryAfterMs?: number;
  readonly details: Record<string, unknown>;
}

/** The request can never succeed as written. Fix what the message names; do not retry. */
export class InvalidError extends LomusaiError {}
/** The thing named does not exist here. Register or create it, or correct the name. */
export class NotFoundError extends LomusaiError {}
/** The state does not allow it: it exists already, is busy, or was done before. */
export class ConflictError extends LomusaiError {}
/** Credentials are missing or not accepted, or a rule said no. */
export class DeniedError extends LomusaiError {}
/** The other side asked to slow down. Retry after `retry_after_ms`. */
export class RateLimitedError extends LomusaiError {}
/** The other side could not be reached or failed. Trying again may help. */
export class UnavailableError extends LomusaiError {}
/** It took longer than the limit named in the message. */
export class TimeoutError extends LomusaiError {}
/** The run was told to stop. */
export class CancelledError extends LomusaiError {}
/** A limit on size, depth or count was crossed. */
export class LimitError extends LomusaiError {}
/** The store refused or lost access. The message names the file and what to do. */
export class StorageError extends LomusaiError {}
/** A tool failed. The model is told; the host sees it where it ends the run. */
export class ToolError extends LomusaiError {}
/** A model provider answered with an error or with nonsense. */
export class ProviderError extends LomusaiError {}
/** A function of the host failed or broke the contract of its callback. */
export class HostError extends LomusaiError {}
/** The engine or handle is closed. */
export class ClosedError extends LomusaiError {}
/** A defect of the engine. Please report it. */
export class InternalError extends LomusaiError {}

export const KINDS: Record<ErrorKind, typeof LomusaiError>;
export const CODES: Record<string, ErrorKind>;
