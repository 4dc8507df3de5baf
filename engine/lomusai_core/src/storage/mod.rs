//! What a store does, by concern. One behaviour suite judges all of them: `lomusai_stores`' `tests/behaviour`.

mod memory;
pub mod refusal;

use std::sync::Arc;

use lomusai_wire::{Event, Message, RunFilter, RunId, RunInfo, SqlStatement, ThreadId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use memory::MemoryStore;

use crate::component::StoreWork;
use crate::{BoxFuture, Result};

/// Everything the engine needs kept. `commit` is the only way to write a run.
pub trait Store: Journal + Threads + KeyValue + Blobs + Leases {
    /// Writes a batch: all of it or nothing. Returns once it is as durable as the store makes things.
    ///
    /// The batch is on its way when this returns, in the order of the calls: dropping the future forgets the answer, not the
    /// write.
    ///
    /// # Errors
    /// `run_exists` for a first append to a run that exists; `run_unknown` for a later one to a run that does not;
    /// `sequence_conflict` when the sequence or the epoch is not the expected one, or a thread has other than the expected messages; `thread_busy` when another unfinished run
    /// claims the thread, with its id as the detail `run_id`; `step_sql_failed` for a step's own statements; `value_conflict` where a value is not the expected one; storage errors. [`refusal`] has them ready.
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<()>>;

    /// What this store can do.
    fn capabilities(&self) -> Capabilities;

    /// Waits for writes under way and lets go of files. Later calls fail with `engine_closed`. Doing it twice is fine.
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

/// What a store can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether what is committed outlives the process.
    pub durable: bool,
    /// Whether several processes may use it at once.
    pub shared: bool,
    /// Whether steps can write tables of their own in the transaction that records their answer.
    pub sql: bool,
}

impl Capabilities {
    /// A store that keeps things in this process only.
    pub const VOLATILE: Self = Self { durable: false, shared: false, sql: false };
    /// A store whose contents outlive the process and can be shared between processes.
    pub const DURABLE: Self = Self { durable: true, shared: true, sql: false };

    /// The same, with tables for steps.
    pub const fn with_sql(self) -> Self {
        Self { sql: true, ..self }
    }
}

/// What is written together.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Batch {
    /// Events of one run.
    pub run: Option<RunAppend>,
    /// Changes to one thread. Boxed: most batches have none, and each is moved several times on its way.
    pub thread: Option<Box<ThreadChange>>,
    /// Values as they must be for the batch to be written; `None` where there must be none.
    pub expected: Vec<(String, String, Option<Value>)>,
    /// Values to set, or to remove where `None`.
    pub values: Vec<(String, String, Option<Value>)>,
    /// Content to keep, by its hash.
    pub blobs: Vec<(String, Arc<[u8]>)>,
    /// Statements of a step, for a store that [has tables](Capabilities::sql).
    pub sql: Vec<SqlStatement>,
    /// Further work of a step.
    pub work: Vec<StoreWork>,
}

impl Batch {
    /// Whether it writes events of a run and nothing else, as nearly all do.
    fn is_of_run_only(&self) -> bool {
        self.run.is_some()
            && self.thread.is_none()
            && self.expected.is_empty()
            && self.values.is_empty()
            && self.blobs.is_empty()
            && self.sql.is_empty()
            && self.work.is_empty()
    }
}

/// Events to append to a run's journal.
#[derive(Clone, Debug)]
pub struct RunAppend {
    /// The run.
    pub run_id: RunId,
    /// Number of the last durable event so far; 0 creates the run.
    pub expected_seq: u64,
    /// The lease under which the run is written; 1 for a new run.
    pub epoch: u64,
    /// Who writes. Recorded as the lease holder when the run is created.
    pub owner: Arc<str>,
    /// Durable events, `seq` rising by one from `expected_seq + 1`. May be empty, to change only `info`.
    pub events: Arc<[Arc<Event>]>,
    /// The line about the run after these events; `info.seq` is the last event's. `None` where it stays what it is, but for `seq` and
    /// `updated_at_ms`, which are the last event's then: most appends, so that a store need not write the line again.
    pub info: Option<Box<RunInfo>>,
}

impl RunAppend {
    /// Whether the events are durable and numbered by one from `expected_seq + 1`, and `info` after the last, and there where there is
    /// nothing else to write, or no line yet. Every store refuses the rest with [`refusal::out_of_order`]: a journal never has a gap.
    pub fn is_in_order(&self) -> bool {
        let seq = |n: usize| self.expected_seq.checked_add(n as u64);
        let numbered = (1..).zip(&*self.events).all(|(n, event)| event.is_durable() && seq(n) == Some(event.seq));
        numbered
            && match &self.info {
                Some(info) => info.run_id == self.run_id && seq(self.events.len()) == Some(info.seq),
                None => self.expected_seq > 0 && !self.events.is_empty(),
            }
    }
}

/// Changes to a thread. Creates it when it does not exist.
#[derive(Clone, Debug)]
pub struct ThreadChange {
    /// The thread.
    pub thread: ThreadId,
    /// Who owns it, when it is created.
    pub resource: Option<String>,
    /// Makes this run the one that works on the thread; refused while another one that is in the store and unfinished does.
    pub claim: Option<RunId>,
    /// How many messages the claiming run has read: refused where there are more by now.
    pub expected_messages: Option<u64>,
    /// Lets go of the thread, if this run holds it.
    pub release: Option<RunId>,
    /// Messages to append, in order.
    pub append: Vec<Arc<Message>>,
    /// The time of the change.
    pub now_ms: u64,
}

impl ThreadChange {
    /// No change to this thread yet.
    pub fn new(thread: ThreadId, now_ms: u64) -> Self {
        Self { thread, resource: None, claim: None, expected_messages: None, release: None, append: Vec::new(), now_ms }
    }
}

/// Journals of runs.
pub trait Journal: Send + Sync {
    /// Events of a run with `seq > after`, in order, at most `limit`.
    ///
    /// # Errors
    /// `run_unknown`.
    fn events<'a>(&'a self, run: &'a RunId, after: u64, limit: usize) -> BoxFuture<'a, Result<Vec<Event>>>;

    /// The line about a run.
    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>>;

    /// Lines about runs, newest first: in the order in which the store was told of them, whatever their clocks said.
    fn runs<'a>(&'a self, filter: &'a RunFilter) -> BoxFuture<'a, Result<Vec<RunInfo>>>;

    /// Removes a run, its events, its lease and its claim on a thread. Content it shares with others stays. `false` if there
    /// was none.
    fn delete_run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>>;

    /// Has the journals of runs that ended before `ended_before_ms` take less room, where this store can: they read as before. Looks at `limit`
    /// runs, from where an earlier call says to go on; 0 at first.
    fn compact(&self, ended_before_ms: u64, from: u64, limit: usize) -> BoxFuture<'_, Result<Compaction>> {
        let _ = (ended_before_ms, from, limit);
        Box::pin(std::future::ready(Ok(Compaction::default())))
    }
}

/// What a call of [`Journal::compact`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// So many journals take less room now.
    pub runs: usize,
    /// Where to go on; `None` at the end.
    pub next: Option<u64>,
}

/// A line about a thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct ThreadInfo {
    /// The thread.
    pub thread: ThreadId,
    /// Who owns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The run that works on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_run: Option<RunId>,
    /// How many messages it has.
    pub messages: u64,
    /// When it was created.
    pub created_at_ms: u64,
    /// When it last changed.
    pub updated_at_ms: u64,
}

impl ThreadInfo {
    /// A thread that has just been created.
    pub fn new(thread: ThreadId, resource: Option<String>, now_ms: u64) -> Self {
        Self { thread, resource, active_run: None, messages: 0, created_at_ms: now_ms, updated_at_ms: now_ms }
    }
}

/// Conversations.
pub trait Threads: Send + Sync {
    /// The line about a thread.
    fn thread<'a>(&'a self, thread: &'a ThreadId) -> BoxFuture<'a, Result<Option<ThreadInfo>>>;

    /// Lines about the threads of a resource, or of all; most recently changed first, then by id.
    fn threads<'a>(
        &'a self,
        resource: Option<&'a str>,
        offset: usize,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ThreadInfo>>>;

    /// Messages number `from` (0-based) and on, at most `limit`; none of a thread that does not exist.
    fn messages<'a>(
        &'a self,
        thread: &'a ThreadId,
        from: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Arc<Message>>>>;

    /// Removes a thread and its messages. `false` if there was none; `thread_busy` while an unfinished run works on it.
    fn delete_thread<'a>(&'a self, thread: &'a ThreadId) -> BoxFuture<'a, Result<bool>>;
}

/// Values by space and key.
pub trait KeyValue: Send + Sync {
    /// The value.
    fn get<'a>(&'a self, space: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Value>>>;

    /// Keys of a space that begin with `prefix`, sorted by their bytes.
    fn keys<'a>(&'a self, space: &'a str, prefix: &'a str) -> BoxFuture<'a, Result<Vec<String>>>;
}

/// Content by its hash.
pub trait Blobs: Send + Sync {
    /// The content of this SHA-256 in hex.
    fn blob<'a>(&'a self, hash: &'a str) -> BoxFuture<'a, Result<Option<Arc<[u8]>>>>;
}

/// Which process may write which run. An owner is one engine; it keeps all its leases alive with one heartbeat.
///
/// A run that has ended is held by nobody: the commit that ends it ends its lease.
pub trait Leases: Send + Sync {
    /// Takes a run over: succeeds when nobody holds it, `owner` does, or the holder's heartbeat has run out before `now_ms`.
    ///
    /// Gives the new epoch, one more than the last: what an earlier holder still appends is refused.
    ///
    /// # Errors
    /// `run_unknown`; `run_active`, with the holder as the detail `owner`.
    fn claim<'a>(&'a self, run: &'a RunId, owner: &'a str, now_ms: u64) -> BoxFuture<'a, Result<u64>>;

    /// Says that `owner` is alive until `until_ms`.
    fn heartbeat<'a>(&'a self, owner: &'a str, until_ms: u64) -> BoxFuture<'a, Result<()>>;

    /// Lets go of a run, if `epoch` is still the current one.
    fn release<'a>(&'a self, run: &'a RunId, epoch: u64) -> BoxFuture<'a, Result<()>>;

    /// Says that `owner` is gone: all it held is free.
    fn retire<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<()>>;
}
