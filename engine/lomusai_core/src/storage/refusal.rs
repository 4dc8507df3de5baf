//! The refusals that every store gives, in the same words. A store that answers otherwise fails the behaviour suite.

use lomusai_wire::{RunId, ThreadId, codes};

use crate::Error;

/// No such run.
pub fn run_unknown(run: &RunId) -> Error {
    Error::new(codes::RUN_UNKNOWN, format!("no run `{run}` is in the store")).with("run_id", run.as_str())
}

/// A first append to a run that exists.
pub fn run_exists(run: &RunId) -> Error {
    Error::new(codes::RUN_EXISTS, format!("a run `{run}` exists already: choose another id or leave it out"))
        .with("run_id", run.as_str())
}

/// An append under a sequence or an epoch that is not the current one.
pub fn sequence_conflict(run: &RunId) -> Error {
    Error::new(
        codes::SEQUENCE_CONFLICT,
        format!("another writer has taken over run `{run}`: read it again before writing"),
    )
    .with("run_id", run.as_str())
}

/// A claim on a run whose holder is alive.
pub fn run_active(run: &RunId, holder: &str) -> Error {
    Error::new(codes::RUN_ACTIVE, format!("run `{run}` is at work in another engine"))
        .with("run_id", run.as_str())
        .with("owner", holder)
}

/// Somebody wrote to the thread after it was read.
pub fn thread_moved_on(thread: &ThreadId) -> Error {
    Error::new(codes::SEQUENCE_CONFLICT, format!("thread `{thread}` has more messages than were read: read it again"))
        .with("thread", thread.as_str())
}

/// A thread on which another unfinished run works.
pub fn thread_busy(thread: &ThreadId, holder: &RunId) -> Error {
    Error::new(
        codes::THREAD_BUSY,
        format!("run `{holder}` works on thread `{thread}`: wait for it, finish or cancel it, or use another thread"),
    )
    .with("thread", thread.as_str())
    .with("run_id", holder.as_str())
}

/// A value that is not what its writer took it for.
pub fn value_changed(space: &str, key: &str) -> Error {
    Error::new(codes::VALUE_CONFLICT, format!("`{key}` of `{space}` has been changed since it was read: read it again"))
        .with("space", space)
        .with("key", key)
}

/// Work of a step for a store that has no tables, or not those.
pub fn no_sql() -> Error {
    Error::new(
        codes::UNSUPPORTED,
        "the step writes SQL together with its answer, and this store has no tables: open the engine on a SQLite file",
    )
}

/// Events whose numbers would leave a gap in the journal. A defect of the caller, never of its input.
pub fn out_of_order(run: &RunId) -> Error {
    Error::new(codes::INTERNAL, format!("events of run `{run}` are not numbered in order: nothing was written"))
        .with("run_id", run.as_str())
}

/// A call after `close`.
pub fn closed() -> Error {
    Error::new(codes::ENGINE_CLOSED, "the store is closed: open a new engine")
}
