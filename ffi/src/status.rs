//! Statuses and codes as C sees them.
//!
//! Made by `cargo xtask codegen` from engine/lomusai_wire/tables/errors.toml. Do not edit.

/// The request can never succeed as written. Fix what the message names; do not retry.
pub const LOMUSAI_E_INVALID: u32 = 1;
/// The thing named does not exist here. Register or create it, or correct the name.
pub const LOMUSAI_E_NOT_FOUND: u32 = 2;
/// The state does not allow it: it exists already, is busy, or was done before.
pub const LOMUSAI_E_CONFLICT: u32 = 3;
/// Credentials are missing or not accepted, or a rule said no.
pub const LOMUSAI_E_DENIED: u32 = 4;
/// The other side asked to slow down. Retry after `retry_after_ms`.
pub const LOMUSAI_E_RATE_LIMITED: u32 = 5;
/// The other side could not be reached or failed. Trying again may help.
pub const LOMUSAI_E_UNAVAILABLE: u32 = 6;
/// It took longer than the limit named in the message.
pub const LOMUSAI_E_TIMEOUT: u32 = 7;
/// The run was told to stop.
pub const LOMUSAI_E_CANCELLED: u32 = 8;
/// A limit on size, depth or count was crossed.
pub const LOMUSAI_E_LIMIT: u32 = 9;
/// The store refused or lost access. The message names the file and what to do.
pub const LOMUSAI_E_STORAGE: u32 = 10;
/// A tool failed. The model is told; the host sees it where it ends the run.
pub const LOMUSAI_E_TOOL: u32 = 11;
/// A model provider answered with an error or with nonsense.
pub const LOMUSAI_E_PROVIDER: u32 = 12;
/// A function of the host failed or broke the contract of its callback.
pub const LOMUSAI_E_HOST: u32 = 13;
/// The engine or handle is closed.
pub const LOMUSAI_E_CLOSED: u32 = 14;
/// A defect of the engine. Please report it.
pub const LOMUSAI_E_INTERNAL: u32 = 15;
