// Error classes, one per kind of error.
// Made by `cargo xtask codegen` from engine/lomusai_wire/tables/errors.toml. Do not edit.
'use strict';

/** An error of the engine. `code` is stable and the same in every language. */
class LomusaiError extends Error {
  constructor(body, options) {
    super(body.message, options);
    this.name = new.target.name;
    this.kind = body.kind ?? 'internal';
    this.code = body.code ?? 'internal';
    this.retryable = body.retryable ?? false;
    this.retryAfterMs = body.retry_after_ms;
    this.details = body.details ?? {};
  }
}

/** The request can never succeed as written. Fix what the message names; do not retry. */
class InvalidError extends LomusaiError {}

/** The thing named does not exist here. Register or create it, or correct the name. */
class NotFoundError extends LomusaiError {}

/** The state does not allow it: it exists already, is busy, or was done before. */
class ConflictError extends LomusaiError {}

/** Credentials are missing or not accepted, or a rule said no. */
class DeniedError extends LomusaiError {}

/** The other side asked to slow down. Retry after `retry_after_ms`. */
class RateLimitedError extends LomusaiError {}

/** The other side could not be reached or failed. Trying again may help. */
class UnavailableError extends LomusaiError {}

/** It took longer than the limit named in the message. */
class TimeoutError extends LomusaiError {}

/** The run was told to stop. */
class CancelledError extends LomusaiError {}

/** A limit on size, depth or count was crossed. */
class LimitError extends LomusaiError {}

/** The store refused or lost access. The message names the file and what to do. */
class StorageError extends LomusaiError {}

/** A tool failed. The model is told; the host sees it where it ends the run. */
class ToolError extends LomusaiError {}

/** A model provider answered with an error or with nonsense. */
class ProviderError extends LomusaiError {}

/** A function of the host failed or broke the contract of its callback. */
class HostError extends LomusaiError {}

/** The engine or handle is closed. */
class ClosedError extends LomusaiError {}

/** A defect of the engine. Please report it. */
class InternalError extends LomusaiError {}

const KINDS = {
  invalid: InvalidError,
  not_found: NotFoundError,
  conflict: ConflictError,
  denied: DeniedError,
  rate_limited: RateLimitedError,
  unavailable: UnavailableError,
  timeout: TimeoutError,
  cancelled: CancelledError,
  limit: LimitError,
  storage: StorageError,
  tool: ToolError,
  provider: ProviderError,
  host: HostError,
  closed: ClosedError,
  internal: InternalError,
};

const CODES = {
  argument_invalid: 'invalid',
  json_invalid: 'invalid',
  utf8_invalid: 'invalid',
  name_invalid: 'invalid',
  schema_invalid: 'invalid',
  spec_invalid: 'invalid',
  input_empty: 'invalid',
  transcript_invalid: 'invalid',
  arguments_invalid: 'invalid',
  resume_invalid: 'invalid',
  output_invalid: 'invalid',
  component_changed: 'invalid',
  fork_invalid: 'invalid',
  schedule_invalid: 'invalid',
  unsupported: 'invalid',
  input_invalid: 'invalid',
  step_duplicate: 'invalid',
  step_reference_unknown: 'invalid',
  step_cycle: 'invalid',
  expression_invalid: 'invalid',
  expression_failed: 'invalid',
  step_fatal: 'invalid',
  schema_unsupported: 'invalid',
  model_file_invalid: 'invalid',
  model_unsupported: 'invalid',
  model_template_invalid: 'invalid',
  cpu_unsupported: 'invalid',
  download_refused: 'invalid',
  checksum_mismatch: 'invalid',
  price_unknown: 'invalid',
  cassette_invalid: 'invalid',
  agent_unknown: 'not_found',
  tool_unknown: 'not_found',
  provider_unknown: 'not_found',
  function_unknown: 'not_found',
  workflow_unknown: 'not_found',
  step_unknown: 'not_found',
  run_unknown: 'not_found',
  thread_unknown: 'not_found',
  effect_unknown: 'not_found',
  budget_unknown: 'not_found',
  cassette_miss: 'not_found',
  blob_unknown: 'not_found',
  model_unknown: 'not_found',
  schedule_unknown: 'not_found',
  name_taken: 'conflict',
  run_exists: 'conflict',
  run_finished: 'conflict',
  run_not_failed: 'conflict',
  workflow_changed: 'conflict',
  run_active: 'conflict',
  run_blocked: 'conflict',
  thread_busy: 'conflict',
  already_answered: 'conflict',
  value_conflict: 'conflict',
  sequence_conflict: 'conflict',
  engine_forked: 'conflict',
  credentials_rejected: 'denied',
  credentials_missing: 'denied',
  processor_aborted: 'denied',
  provider_rate_limited: 'rate_limited',
  provider_unreachable: 'unavailable',
  provider_failed: 'unavailable',
  stream_truncated: 'unavailable',
  download_failed: 'unavailable',
  tool_timeout: 'timeout',
  model_timeout: 'timeout',
  function_timeout: 'timeout',
  step_timeout: 'timeout',
  wait_timeout: 'timeout',
  run_timeout: 'timeout',
  close_timeout: 'timeout',
  run_cancelled: 'cancelled',
  message_too_large: 'limit',
  result_too_large: 'limit',
  run_too_large: 'limit',
  depth_exceeded: 'limit',
  loop_exhausted: 'limit',
  context_too_long: 'limit',
  memory_insufficient: 'limit',
  budget_exhausted: 'limit',
  store_locked: 'storage',
  store_read_only: 'storage',
  store_newer: 'storage',
  store_corrupt: 'storage',
  store_full: 'storage',
  store_failed: 'storage',
  disk_full: 'storage',
  model_file_unreadable: 'storage',
  tool_failed: 'tool',
  tool_unanswered: 'tool',
  tool_result_invalid: 'tool',
  provider_rejected: 'provider',
  provider_response_invalid: 'provider',
  provider_host_failed: 'provider',
  script_exhausted: 'provider',
  function_failed: 'host',
  function_unanswered: 'host',
  function_reply_invalid: 'host',
  step_failed: 'host',
  step_unanswered: 'host',
  step_sql_failed: 'host',
  step_result_invalid: 'host',
  callback_panicked: 'host',
  engine_closed: 'closed',
  handle_closed: 'closed',
  internal: 'internal',
};

module.exports = {
  LomusaiError,
  KINDS,
  CODES,
  InvalidError,
  NotFoundError,
  ConflictError,
  DeniedError,
  RateLimitedError,
  UnavailableError,
  TimeoutError,
  CancelledError,
  LimitError,
  StorageError,
  ToolError,
  ProviderError,
  HostError,
  ClosedError,
  InternalError,
};
