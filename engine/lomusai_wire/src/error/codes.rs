//! Kinds and codes of errors.
//!
//! Made by `cargo xtask codegen` from engine/lomusai_wire/tables/errors.toml. Do not edit.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Code;

/// What a caller can do about an error. A new kind exists only where a caller would act differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// The request can never succeed as written. Fix what the message names; do not retry.
    Invalid,
    /// The thing named does not exist here. Register or create it, or correct the name.
    NotFound,
    /// The state does not allow it: it exists already, is busy, or was done before.
    Conflict,
    /// Credentials are missing or not accepted, or a rule said no.
    Denied,
    /// The other side asked to slow down. Retry after `retry_after_ms`.
    RateLimited,
    /// The other side could not be reached or failed. Trying again may help.
    Unavailable,
    /// It took longer than the limit named in the message.
    Timeout,
    /// The run was told to stop.
    Cancelled,
    /// A limit on size, depth or count was crossed.
    Limit,
    /// The store refused or lost access. The message names the file and what to do.
    Storage,
    /// A tool failed. The model is told; the host sees it where it ends the run.
    Tool,
    /// A model provider answered with an error or with nonsense.
    Provider,
    /// A function of the host failed or broke the contract of its callback.
    Host,
    /// The engine or handle is closed.
    Closed,
    /// A defect of the engine. Please report it.
    #[serde(other)]
    Internal,
}

impl Kind {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Limit => "limit",
            Self::Storage => "storage",
            Self::Tool => "tool",
            Self::Provider => "provider",
            Self::Host => "host",
            Self::Closed => "closed",
            Self::Internal => "internal",
        }
    }

    /// The number that the C ABI and the bindings use.
    pub fn status(self) -> u32 {
        match self {
            Self::Invalid => 1,
            Self::NotFound => 2,
            Self::Conflict => 3,
            Self::Denied => 4,
            Self::RateLimited => 5,
            Self::Unavailable => 6,
            Self::Timeout => 7,
            Self::Cancelled => 8,
            Self::Limit => 9,
            Self::Storage => 10,
            Self::Tool => 11,
            Self::Provider => 12,
            Self::Host => 13,
            Self::Closed => 14,
            Self::Internal => 15,
        }
    }
}

/// An argument of an API call is not of the form it takes.
pub const ARGUMENT_INVALID: Code = Code { name: "argument_invalid", kind: Kind::Invalid, retryable: false };

/// A text that must be JSON is not.
pub const JSON_INVALID: Code = Code { name: "json_invalid", kind: Kind::Invalid, retryable: false };

/// A text is not valid UTF-8.
pub const UTF8_INVALID: Code = Code { name: "utf8_invalid", kind: Kind::Invalid, retryable: false };

/// A name has characters it may not have, or is too long or empty.
pub const NAME_INVALID: Code = Code { name: "name_invalid", kind: Kind::Invalid, retryable: false };

/// A JSON Schema cannot be compiled.
pub const SCHEMA_INVALID: Code = Code { name: "schema_invalid", kind: Kind::Invalid, retryable: false };

/// A spec contradicts itself or has an unknown field.
pub const SPEC_INVALID: Code = Code { name: "spec_invalid", kind: Kind::Invalid, retryable: false };

/// A run needs at least one message.
pub const INPUT_EMPTY: Code = Code { name: "input_empty", kind: Kind::Invalid, retryable: false };

/// The history passed in pairs no results with its tool calls, or has roles out of order.
pub const TRANSCRIPT_INVALID: Code = Code { name: "transcript_invalid", kind: Kind::Invalid, retryable: false };

/// A model's arguments do not fit the tool's schema. The model is told and may correct itself.
pub const ARGUMENTS_INVALID: Code = Code { name: "arguments_invalid", kind: Kind::Invalid, retryable: false };

/// What should resume a tool does not fit its resume_schema.
pub const RESUME_INVALID: Code = Code { name: "resume_invalid", kind: Kind::Invalid, retryable: false };

/// The model's final answer does not fit the output schema, after all retries.
pub const OUTPUT_INVALID: Code = Code { name: "output_invalid", kind: Kind::Invalid, retryable: false };

/// A stored run needs a component whose schema has changed since. The message shows the difference.
pub const COMPONENT_CHANGED: Code = Code { name: "component_changed", kind: Kind::Invalid, retryable: false };

/// A run cannot be forked at that event, or with that change.
pub const FORK_INVALID: Code = Code { name: "fork_invalid", kind: Kind::Invalid, retryable: false };

/// A schedule's times cannot be read, its time zone is not known, or it never comes due.
pub const SCHEDULE_INVALID: Code = Code { name: "schedule_invalid", kind: Kind::Invalid, retryable: false };

/// The component cannot do this.
pub const UNSUPPORTED: Code = Code { name: "unsupported", kind: Kind::Invalid, retryable: false };

/// The input of a workflow or of one of its steps does not fit its schema.
pub const INPUT_INVALID: Code = Code { name: "input_invalid", kind: Kind::Invalid, retryable: false };

/// Two steps of a workflow have the same id.
pub const STEP_DUPLICATE: Code = Code { name: "step_duplicate", kind: Kind::Invalid, retryable: false };

/// A step of a workflow, or an expression in it, names a step that is not there.
pub const STEP_REFERENCE_UNKNOWN: Code = Code { name: "step_reference_unknown", kind: Kind::Invalid, retryable: false };

/// Steps of a workflow wait for one another in a circle.
pub const STEP_CYCLE: Code = Code { name: "step_cycle", kind: Kind::Invalid, retryable: false };

/// An expression of a workflow cannot be read.
pub const EXPRESSION_INVALID: Code = Code { name: "expression_invalid", kind: Kind::Invalid, retryable: false };

/// An expression of a workflow gave no value, or one of the wrong type.
pub const EXPRESSION_FAILED: Code = Code { name: "expression_failed", kind: Kind::Invalid, retryable: false };

/// A step failed and said that trying again is of no use.
pub const STEP_FATAL: Code = Code { name: "step_fatal", kind: Kind::Invalid, retryable: false };

/// A JSON Schema is sound, and a local model cannot be held to it: no grammar says what it says.
pub const SCHEMA_UNSUPPORTED: Code = Code { name: "schema_unsupported", kind: Kind::Invalid, retryable: false };

/// A model's file is damaged, cut off, or not of the format.
pub const MODEL_FILE_INVALID: Code = Code { name: "model_file_invalid", kind: Kind::Invalid, retryable: false };

/// A model's file is sound, and of an architecture or a kind that cannot do what it is asked.
pub const MODEL_UNSUPPORTED: Code = Code { name: "model_unsupported", kind: Kind::Invalid, retryable: false };

/// A model has no chat template, or one that fails.
pub const MODEL_TEMPLATE_INVALID: Code = Code { name: "model_template_invalid", kind: Kind::Invalid, retryable: false };

/// This CPU lacks instructions that local models need.
pub const CPU_UNSUPPORTED: Code = Code { name: "cpu_unsupported", kind: Kind::Invalid, retryable: false };

/// A model's address gives nothing: it is wrong, or the server will not.
pub const DOWNLOAD_REFUSED: Code = Code { name: "download_refused", kind: Kind::Invalid, retryable: false };

/// A downloaded file is not what was asked for. It was deleted.
pub const CHECKSUM_MISMATCH: Code = Code { name: "checksum_mismatch", kind: Kind::Invalid, retryable: false };

/// A run has a budget of money, and nothing says what its model costs. Give the price in the engine's `models`, or drop that bound.
pub const PRICE_UNKNOWN: Code = Code { name: "price_unknown", kind: Kind::Invalid, retryable: false };

/// A cassette cannot be read: it is damaged, of a later version, or no cassette.
pub const CASSETTE_INVALID: Code = Code { name: "cassette_invalid", kind: Kind::Invalid, retryable: false };

/// No agent of this name is registered.
pub const AGENT_UNKNOWN: Code = Code { name: "agent_unknown", kind: Kind::NotFound, retryable: false };

/// No tool of this name is registered, or the agent does not have it.
pub const TOOL_UNKNOWN: Code = Code { name: "tool_unknown", kind: Kind::NotFound, retryable: false };

/// No provider of this name is registered.
pub const PROVIDER_UNKNOWN: Code = Code { name: "provider_unknown", kind: Kind::NotFound, retryable: false };

/// No function of this name is registered.
pub const FUNCTION_UNKNOWN: Code = Code { name: "function_unknown", kind: Kind::NotFound, retryable: false };

/// No workflow of this name is registered.
pub const WORKFLOW_UNKNOWN: Code = Code { name: "workflow_unknown", kind: Kind::NotFound, retryable: false };

/// No step function of this name is registered.
pub const STEP_UNKNOWN: Code = Code { name: "step_unknown", kind: Kind::NotFound, retryable: false };

/// No run of this id is in the store.
pub const RUN_UNKNOWN: Code = Code { name: "run_unknown", kind: Kind::NotFound, retryable: false };

/// No thread of this id is in the store.
pub const THREAD_UNKNOWN: Code = Code { name: "thread_unknown", kind: Kind::NotFound, retryable: false };

/// The run has no such effect waiting.
pub const EFFECT_UNKNOWN: Code = Code { name: "effect_unknown", kind: Kind::NotFound, retryable: false };

/// A run names a shared budget that the engine does not have.
pub const BUDGET_UNKNOWN: Code = Code { name: "budget_unknown", kind: Kind::NotFound, retryable: false };

/// A cassette that is replayed has no recording of this call. The message shows how the nearest one differs.
pub const CASSETTE_MISS: Code = Code { name: "cassette_miss", kind: Kind::NotFound, retryable: false };

/// No content of this hash is in the store.
pub const BLOB_UNKNOWN: Code = Code { name: "blob_unknown", kind: Kind::NotFound, retryable: false };

/// No local model has this name, or its file is not there.
pub const MODEL_UNKNOWN: Code = Code { name: "model_unknown", kind: Kind::NotFound, retryable: false };

/// No schedule of this name is in the store.
pub const SCHEDULE_UNKNOWN: Code = Code { name: "schedule_unknown", kind: Kind::NotFound, retryable: false };

/// A component of this name is registered already.
pub const NAME_TAKEN: Code = Code { name: "name_taken", kind: Kind::Conflict, retryable: false };

/// A run of this id exists already.
pub const RUN_EXISTS: Code = Code { name: "run_exists", kind: Kind::Conflict, retryable: false };

/// The run has ended and takes no more commands.
pub const RUN_FINISHED: Code = Code { name: "run_finished", kind: Kind::Conflict, retryable: false };

/// Only a workflow's run that has failed can be tried again.
pub const RUN_NOT_FAILED: Code = Code { name: "run_not_failed", kind: Kind::Conflict, retryable: false };

/// A stored run was started under another spec of its workflow. The message shows the difference.
pub const WORKFLOW_CHANGED: Code = Code { name: "workflow_changed", kind: Kind::Conflict, retryable: false };

/// The run is at work, here or in another process.
pub const RUN_ACTIVE: Code = Code { name: "run_active", kind: Kind::Conflict, retryable: false };

/// The run needs a component that is not registered here.
pub const RUN_BLOCKED: Code = Code { name: "run_blocked", kind: Kind::Conflict, retryable: false };

/// Another run works on the thread.
pub const THREAD_BUSY: Code = Code { name: "thread_busy", kind: Kind::Conflict, retryable: true };

/// The call was answered before. The first answer counts.
pub const ALREADY_ANSWERED: Code = Code { name: "already_answered", kind: Kind::Conflict, retryable: false };

/// A value in the store is not what it was when it was read: somebody else has changed it.
pub const VALUE_CONFLICT: Code = Code { name: "value_conflict", kind: Kind::Conflict, retryable: false };

/// Another writer appended to the run first, or took over its lease.
pub const SEQUENCE_CONFLICT: Code = Code { name: "sequence_conflict", kind: Kind::Conflict, retryable: false };

/// The engine was opened before a fork. Open one in each process.
pub const ENGINE_FORKED: Code = Code { name: "engine_forked", kind: Kind::Conflict, retryable: false };

/// The provider did not accept the credentials.
pub const CREDENTIALS_REJECTED: Code = Code { name: "credentials_rejected", kind: Kind::Denied, retryable: false };

/// A model's provider needs a key that is not there. The message names the environment variable.
pub const CREDENTIALS_MISSING: Code = Code { name: "credentials_missing", kind: Kind::Denied, retryable: false };

/// A processor stopped the run. The message carries its reason.
pub const PROCESSOR_ABORTED: Code = Code { name: "processor_aborted", kind: Kind::Denied, retryable: false };

/// The provider asked to slow down.
pub const PROVIDER_RATE_LIMITED: Code =
    Code { name: "provider_rate_limited", kind: Kind::RateLimited, retryable: true };

/// The provider could not be reached.
pub const PROVIDER_UNREACHABLE: Code = Code { name: "provider_unreachable", kind: Kind::Unavailable, retryable: true };

/// The provider answered that it failed.
pub const PROVIDER_FAILED: Code = Code { name: "provider_failed", kind: Kind::Unavailable, retryable: true };

/// The provider's stream ended before the answer did.
pub const STREAM_TRUNCATED: Code = Code { name: "stream_truncated", kind: Kind::Unavailable, retryable: true };

/// A download broke off. The next try goes on where it stopped.
pub const DOWNLOAD_FAILED: Code = Code { name: "download_failed", kind: Kind::Unavailable, retryable: true };

/// A tool took longer than its limit. The model is told.
pub const TOOL_TIMEOUT: Code = Code { name: "tool_timeout", kind: Kind::Timeout, retryable: false };

/// A model call took longer than its limit.
pub const MODEL_TIMEOUT: Code = Code { name: "model_timeout", kind: Kind::Timeout, retryable: true };

/// A host function took longer than its limit.
pub const FUNCTION_TIMEOUT: Code = Code { name: "function_timeout", kind: Kind::Timeout, retryable: false };

/// A step function took longer than its limit.
pub const STEP_TIMEOUT: Code = Code { name: "step_timeout", kind: Kind::Timeout, retryable: false };

/// The signal that a step waited for did not come in time.
pub const WAIT_TIMEOUT: Code = Code { name: "wait_timeout", kind: Kind::Timeout, retryable: false };

/// The run worked longer than its limit.
pub const RUN_TIMEOUT: Code = Code { name: "run_timeout", kind: Kind::Timeout, retryable: false };

/// Threads of the host did not return before the engine had to close. They are abandoned.
pub const CLOSE_TIMEOUT: Code = Code { name: "close_timeout", kind: Kind::Timeout, retryable: false };

/// The run was told to stop.
pub const RUN_CANCELLED: Code = Code { name: "run_cancelled", kind: Kind::Cancelled, retryable: false };

/// A message is larger than `limits.message_bytes`.
pub const MESSAGE_TOO_LARGE: Code = Code { name: "message_too_large", kind: Kind::Limit, retryable: false };

/// A tool result is larger than `limits.result_bytes`.
pub const RESULT_TOO_LARGE: Code = Code { name: "result_too_large", kind: Kind::Limit, retryable: false };

/// A run's journal is larger than `limits.run_bytes`.
pub const RUN_TOO_LARGE: Code = Code { name: "run_too_large", kind: Kind::Limit, retryable: false };

/// Sub-agents nest deeper than `limits.depth`.
pub const DEPTH_EXCEEDED: Code = Code { name: "depth_exceeded", kind: Kind::Limit, retryable: false };

/// A loop of a workflow ran `max` times and was not done.
pub const LOOP_EXHAUSTED: Code = Code { name: "loop_exhausted", kind: Kind::Limit, retryable: false };

/// A conversation is longer than the model's context.
pub const CONTEXT_TOO_LONG: Code = Code { name: "context_too_long", kind: Kind::Limit, retryable: false };

/// There is not enough memory for the model with these settings.
pub const MEMORY_INSUFFICIENT: Code = Code { name: "memory_insufficient", kind: Kind::Limit, retryable: false };

/// A budget does not hold another model call. The run ends as `exhausted`; its conversation can be gone on with.
pub const BUDGET_EXHAUSTED: Code = Code { name: "budget_exhausted", kind: Kind::Limit, retryable: false };

/// Another process holds the store's lock for too long.
pub const STORE_LOCKED: Code = Code { name: "store_locked", kind: Kind::Storage, retryable: true };

/// The store's file or folder cannot be written.
pub const STORE_READ_ONLY: Code = Code { name: "store_read_only", kind: Kind::Storage, retryable: false };

/// The store was written by a newer version of the engine.
pub const STORE_NEWER: Code = Code { name: "store_newer", kind: Kind::Storage, retryable: false };

/// The store's file is damaged or is not a store.
pub const STORE_CORRUPT: Code = Code { name: "store_corrupt", kind: Kind::Storage, retryable: false };

/// The disk is full.
pub const STORE_FULL: Code = Code { name: "store_full", kind: Kind::Storage, retryable: false };

/// The store failed in another way.
pub const STORE_FAILED: Code = Code { name: "store_failed", kind: Kind::Storage, retryable: false };

/// There is no room for a model's file.
pub const DISK_FULL: Code = Code { name: "disk_full", kind: Kind::Storage, retryable: false };

/// A model's file, or the folder of models, cannot be read or written.
pub const MODEL_FILE_UNREADABLE: Code = Code { name: "model_file_unreadable", kind: Kind::Storage, retryable: false };

/// A tool answered with an error. The model is told.
pub const TOOL_FAILED: Code = Code { name: "tool_failed", kind: Kind::Tool, retryable: false };

/// A tool's answer handle was dropped without an answer. The model is told.
pub const TOOL_UNANSWERED: Code = Code { name: "tool_unanswered", kind: Kind::Tool, retryable: false };

/// A tool's result is not JSON or does not fit its output schema. The model is told.
pub const TOOL_RESULT_INVALID: Code = Code { name: "tool_result_invalid", kind: Kind::Tool, retryable: false };

/// The provider refused the request as it is.
pub const PROVIDER_REJECTED: Code = Code { name: "provider_rejected", kind: Kind::Provider, retryable: false };

/// The provider's answer cannot be understood.
pub const PROVIDER_RESPONSE_INVALID: Code =
    Code { name: "provider_response_invalid", kind: Kind::Provider, retryable: false };

/// A provider written by the host failed.
pub const PROVIDER_HOST_FAILED: Code = Code { name: "provider_host_failed", kind: Kind::Provider, retryable: false };

/// A scripted model was asked more often than it has answers.
pub const SCRIPT_EXHAUSTED: Code = Code { name: "script_exhausted", kind: Kind::Provider, retryable: false };

/// A function of the host failed.
pub const FUNCTION_FAILED: Code = Code { name: "function_failed", kind: Kind::Host, retryable: false };

/// A function's or provider's answer handle was dropped without an answer.
pub const FUNCTION_UNANSWERED: Code = Code { name: "function_unanswered", kind: Kind::Host, retryable: false };

/// A function's answer is not of the form its place asks for.
pub const FUNCTION_REPLY_INVALID: Code = Code { name: "function_reply_invalid", kind: Kind::Host, retryable: false };

/// A step function failed.
pub const STEP_FAILED: Code = Code { name: "step_failed", kind: Kind::Host, retryable: false };

/// A step function's answer handle was dropped without an answer.
pub const STEP_UNANSWERED: Code = Code { name: "step_unanswered", kind: Kind::Host, retryable: false };

/// A statement that a step gave for the transaction that records it failed, or changed another number of rows than it must. Nothing was written.
pub const STEP_SQL_FAILED: Code = Code { name: "step_sql_failed", kind: Kind::Host, retryable: false };

/// A step's result is not JSON, is no step's answer, or does not fit its schema.
pub const STEP_RESULT_INVALID: Code = Code { name: "step_result_invalid", kind: Kind::Host, retryable: false };

/// A callback panicked or threw across the border.
pub const CALLBACK_PANICKED: Code = Code { name: "callback_panicked", kind: Kind::Host, retryable: false };

/// The engine is closed.
pub const ENGINE_CLOSED: Code = Code { name: "engine_closed", kind: Kind::Closed, retryable: false };

/// The handle's run has ended or been cancelled; the answer is not wanted any more.
pub const HANDLE_CLOSED: Code = Code { name: "handle_closed", kind: Kind::Closed, retryable: false };

/// A defect of the engine.
pub const INTERNAL: Code = Code { name: "internal", kind: Kind::Internal, retryable: false };

/// Every code.
pub const ALL: &[Code] = &[
    ARGUMENT_INVALID,
    JSON_INVALID,
    UTF8_INVALID,
    NAME_INVALID,
    SCHEMA_INVALID,
    SPEC_INVALID,
    INPUT_EMPTY,
    TRANSCRIPT_INVALID,
    ARGUMENTS_INVALID,
    RESUME_INVALID,
    OUTPUT_INVALID,
    COMPONENT_CHANGED,
    FORK_INVALID,
    SCHEDULE_INVALID,
    UNSUPPORTED,
    INPUT_INVALID,
    STEP_DUPLICATE,
    STEP_REFERENCE_UNKNOWN,
    STEP_CYCLE,
    EXPRESSION_INVALID,
    EXPRESSION_FAILED,
    STEP_FATAL,
    SCHEMA_UNSUPPORTED,
    MODEL_FILE_INVALID,
    MODEL_UNSUPPORTED,
    MODEL_TEMPLATE_INVALID,
    CPU_UNSUPPORTED,
    DOWNLOAD_REFUSED,
    CHECKSUM_MISMATCH,
    PRICE_UNKNOWN,
    CASSETTE_INVALID,
    AGENT_UNKNOWN,
    TOOL_UNKNOWN,
    PROVIDER_UNKNOWN,
    FUNCTION_UNKNOWN,
    WORKFLOW_UNKNOWN,
    STEP_UNKNOWN,
    RUN_UNKNOWN,
    THREAD_UNKNOWN,
    EFFECT_UNKNOWN,
    BUDGET_UNKNOWN,
    CASSETTE_MISS,
    BLOB_UNKNOWN,
    MODEL_UNKNOWN,
    SCHEDULE_UNKNOWN,
    NAME_TAKEN,
    RUN_EXISTS,
    RUN_FINISHED,
    RUN_NOT_FAILED,
    WORKFLOW_CHANGED,
    RUN_ACTIVE,
    RUN_BLOCKED,
    THREAD_BUSY,
    ALREADY_ANSWERED,
    VALUE_CONFLICT,
    SEQUENCE_CONFLICT,
    ENGINE_FORKED,
    CREDENTIALS_REJECTED,
    CREDENTIALS_MISSING,
    PROCESSOR_ABORTED,
    PROVIDER_RATE_LIMITED,
    PROVIDER_UNREACHABLE,
    PROVIDER_FAILED,
    STREAM_TRUNCATED,
    DOWNLOAD_FAILED,
    TOOL_TIMEOUT,
    MODEL_TIMEOUT,
    FUNCTION_TIMEOUT,
    STEP_TIMEOUT,
    WAIT_TIMEOUT,
    RUN_TIMEOUT,
    CLOSE_TIMEOUT,
    RUN_CANCELLED,
    MESSAGE_TOO_LARGE,
    RESULT_TOO_LARGE,
    RUN_TOO_LARGE,
    DEPTH_EXCEEDED,
    LOOP_EXHAUSTED,
    CONTEXT_TOO_LONG,
    MEMORY_INSUFFICIENT,
    BUDGET_EXHAUSTED,
    STORE_LOCKED,
    STORE_READ_ONLY,
    STORE_NEWER,
    STORE_CORRUPT,
    STORE_FULL,
    STORE_FAILED,
    DISK_FULL,
    MODEL_FILE_UNREADABLE,
    TOOL_FAILED,
    TOOL_UNANSWERED,
    TOOL_RESULT_INVALID,
    PROVIDER_REJECTED,
    PROVIDER_RESPONSE_INVALID,
    PROVIDER_HOST_FAILED,
    SCRIPT_EXHAUSTED,
    FUNCTION_FAILED,
    FUNCTION_UNANSWERED,
    FUNCTION_REPLY_INVALID,
    STEP_FAILED,
    STEP_UNANSWERED,
    STEP_SQL_FAILED,
    STEP_RESULT_INVALID,
    CALLBACK_PANICKED,
    ENGINE_CLOSED,
    HANDLE_CLOSED,
    INTERNAL,
];
