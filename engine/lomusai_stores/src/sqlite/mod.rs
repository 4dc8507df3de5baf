//! The store in one SQLite file. One connection writes, many commits to a transaction; a few threads read.
//!
//! # One file
//! Beside `agents.db` lie `agents.db-wal` and `agents.db-shm` while it is open, and after a crash: they belong to it, move them
//! together. The first is a log of what was committed last, emptied into the file whenever it has 16 MB. Several processes may use the file at once, on one machine: its locks do not hold on network file systems.
//!
//! # What a crash can lose
//! A killed process loses nothing that was acknowledged. A power cut loses nothing that was acknowledged under [`Sync::Full`];
//! under [`Sync::Normal`] it can undo the last commits, whole and in order, so that what is left is an earlier state of the
//! store and never a mixture.
//!
//! # Tables of your own
//! A step of a workflow can write tables of its own in the transaction that records its answer: by statements in its answer, or in Rust by
//! [`in_transaction`]. They lie in the same file, and outlive a crash together with the record, or not at all. The store's own tables are closed
//! to them.
//!
//! # Large content
//! Events and messages above 64 KiB lie in a table of content by hash, once each; callers do not notice. Deleting a run or a
//! thread deletes such content when no other event or message has it. Content that a caller committed as a blob stays.
//!
//! # Old journals
//! [`Journal::compact`] compresses the journals of runs that have ended, which read as before: an engine that was started does it. The file does
//! not shrink by it; what is free in it is written to before it grows.

mod commit;
mod compact;
mod fault;
mod lease;
mod query;
mod reader;
mod schema;
mod statement;
mod writer;

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::Shared;
use lomusai_core::storage::{
    Batch, Blobs, Capabilities, Compaction, Journal, KeyValue, Leases, Store, ThreadInfo, Threads, refusal,
};
use lomusai_core::sync::Mutex;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::{Event, Message, RunFilter, RunId, RunInfo, ThreadId, codes};
use rusqlite::Connection;
use serde_json::Value;
use tokio::sync::oneshot;

use self::fault::{Fault, StoreFile};
pub use self::statement::{WorkError, in_transaction};
use self::writer::{Writer, stopped};
pub use rusqlite;

/// How a [`SqliteStore`] works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteOptions {
    /// What a commit waits for. Default [`Sync::Normal`].
    pub sync: Sync,
    /// How long to wait for another process's lock before `store_locked`. Default 5 seconds.
    pub busy_timeout: Duration,
    /// How many threads read, at least 1. Each opens its connection when it first reads. Default 2.
    pub readers: usize,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { sync: Sync::Normal, busy_timeout: Duration::from_secs(5), readers: 2 }
    }
}

/// What a commit waits for before it is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sync {
    /// The operating system has it. Outlives the process, however it dies; a power cut or a crash of the operating system can
    /// undo the last commits, back to an earlier state of the whole store.
    #[default]
    Normal,
    /// The disk has it. Outlives a power cut as well, where the disk keeps its word; costs one flush for each group of commits.
    Full,
}

/// A store in one SQLite file.
///
/// Needs no runtime: its futures can be awaited anywhere. Awaiting a commit under [`Sync::Normal`] writes it, which takes some
/// microseconds; nothing else holds up the thread that awaits. Dropping the store writes what is queued and blocks until that is done;
/// [`close`](Store::close) does the same without blocking.
///
/// # Example
/// ```
/// use lomusai_core::storage::{Batch, KeyValue, Store};
/// use lomusai_stores::sqlite::{SqliteOptions, SqliteStore};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("agents.db");
/// # lomusai_core::testing::block_on(async {
/// let store = SqliteStore::open(&path, SqliteOptions::default())?;
/// let mut batch = Batch::default();
/// batch.values.push(("settings".into(), "greeting".into(), Some("hello".into())));
/// store.commit(batch).await?;
/// assert_eq!(store.get("settings", "greeting").await?, Some("hello".into()));
/// store.close().await
/// # }).unwrap();
/// ```
pub struct SqliteStore {
    file: Arc<StoreFile>,
    writer: Arc<Writer>,
    /// The way to the threads that read. Empty once the store is closed: they end when they have done what is queued.
    read: Mutex<Option<mpsc::Sender<reader::Job>>>,
    /// Writes what nobody who waits for it writes, and leaves last.
    thread: Option<JoinHandle<()>>,
    closed: Shared<oneshot::Receiver<Result<()>>>,
    process: u32,
}

impl SqliteStore {
    /// Opens the store in this file, which is created where it does not exist; its folder is not.
    ///
    /// Blocks for as long as the disk takes, or another process holds the file's lock. A store of an older version is brought to
    /// this version, whole or not at all; older versions of the engine then refuse it.
    ///
    /// # Errors
    /// `argument_invalid` for a path that names no file; `store_newer` when a newer version wrote it; `store_corrupt` when it is
    /// damaged or not a store, and left as it was; `store_read_only`; `store_locked`; `store_full`; `store_failed` otherwise,
    /// as where its folder does not exist.
    pub fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self> {
        let file = Arc::new(StoreFile::new(path.as_ref(), &options)?);
        let conn = schema::open(&file)?;
        Self::start(conn, file, options.readers)
    }

    /// The file, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    fn start(conn: Connection, file: Arc<StoreFile>, readers: usize) -> Result<Self> {
        let no_thread = |error: std::io::Error| {
            Error::new(codes::STORE_FAILED, format!("no thread could be started for the store: {error}"))
        };
        let (read, jobs) = mpsc::channel();
        let jobs = Arc::new(Mutex::new(jobs));
        let readers: Vec<JoinHandle<()>> = (0..readers.max(1))
            .map(|_| {
                let (file, jobs) = (Arc::clone(&file), Arc::clone(&jobs));
                let reader = std::thread::Builder::new().name("lomusai-read".into());
                reader.spawn(move || reader::run(&file, &jobs)).map_err(no_thread)
            })
            .collect::<Result<_>>()?;

        let writer = Arc::new(Writer::new(conn, Arc::clone(&file)));
        let (gone, closed) = oneshot::channel();
        let thread = {
            let (file, writer) = (Arc::clone(&file), Arc::clone(&writer));
            let thread = std::thread::Builder::new().name("lomusai-write".into());
            let work = move || {
                let conn = writer.run();
                // It leaves last: the last connection to close empties the log into the file.
                for reader in readers {
                    let _ = reader.join();
                }
                // Nobody may be waiting.
                let _ = gone.send(conn.map_or(Ok(()), schema::close).map_err(|error| file.error(error)));
            };
            thread.spawn(work).map_err(no_thread)?
        };
        Ok(Self {
            file,
            writer,
            read: Mutex::new(Some(read)),
            thread: Some(thread),
            closed: closed.shared(),
            process: std::process::id(),
        })
    }

    /// Has the writer do this, in one transaction with what else is queued. It may be done again if the transaction fails.
    fn write<'a, T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> BoxFuture<'a, Result<T>> {
        let file = Arc::clone(&self.file);
        let (job, answer) = writer::job(move |conn| work(conn).map_err(|fault| file.fault(fault)));
        if let Err(error) = self.check_process().and_then(|()| self.writer.send(job)) {
            return Box::pin(std::future::ready(Err(error)));
        }
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(stopped())) })
    }

    /// Has a reader do this. It sees all that was committed before.
    fn read<'a, T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> BoxFuture<'a, Result<T>> {
        let file = Arc::clone(&self.file);
        let (reply, answer) = oneshot::channel();
        let job: reader::Job = Box::new(move |conn| {
            let result = conn.map_err(Fault::Sqlite).and_then(work);
            // Nobody may be waiting.
            let _ = reply.send(result.map_err(|fault| file.fault(fault)));
        });
        let sent = self.check_process().and_then(|()| match &*self.read.lock() {
            None => Err(refusal::closed()),
            Some(readers) => readers.send(job).map_err(|_| stopped()),
        });
        Box::pin(async move { sent.and(answer.await.unwrap_or_else(|_| Err(stopped()))) })
    }

    /// Comes before any lock: a fork may have copied it locked, and none of the threads.
    fn check_process(&self) -> Result<()> {
        if self.is_forked() {
            return Err(Error::new(
                codes::ENGINE_FORKED,
                format!("the store `{}` was opened before a fork: open it in each process", self.file.path.display()),
            ));
        }
        Ok(())
    }

    fn begin_close(&self) {
        self.read.lock().take();
        self.writer.close();
    }

    fn is_forked(&self) -> bool {
        std::process::id() != self.process
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        let thread = self.thread.take();
        if self.is_forked() {
            // The threads stayed behind with the parent; what waits for them would wait for ever.
            std::mem::forget((self.read.get_mut().take(), thread, Arc::clone(&self.writer)));
            return;
        }
        self.begin_close();
        if let Some(thread) = thread {
            // A panic in there has been reported to those who waited.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.file.path).finish_non_exhaustive()
    }
}

impl Store for SqliteStore {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<()>> {
        let run = batch.run.as_ref().map(|append| append.run_id.clone());
        let written = self.check_process().and_then(|()| commit::Prepared::new(batch)).and_then(|batch| {
            let file = Arc::clone(&self.file);
            let (job, answer) = writer::job(move |conn| batch.write(conn).map_err(|fault| file.fault(fault)));
            self.writer.commit(run.as_ref(), job, answer)
        });
        match written {
            Ok(written) => Box::pin(written),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::DURABLE.with_sql()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        if self.is_forked() {
            // There is nothing here to wait for: the file is the parent's.
            return Box::pin(std::future::ready(Ok(())));
        }
        self.begin_close();
        let closed = self.closed.clone();
        Box::pin(async move { closed.await.unwrap_or_else(|_| Err(stopped())) })
    }
}

impl Journal for SqliteStore {
    fn events<'a>(&'a self, run: &'a RunId, after: u64, limit: usize) -> BoxFuture<'a, Result<Vec<Event>>> {
        let run = run.clone();
        self.read(move |conn| query::events(conn, &run, after, limit))
    }

    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>> {
        let run = run.clone();
        self.read(move |conn| query::run(conn, &run))
    }

    fn runs<'a>(&'a self, filter: &'a RunFilter) -> BoxFuture<'a, Result<Vec<RunInfo>>> {
        let filter = filter.clone();
        self.read(move |conn| query::runs(conn, &filter))
    }

    fn delete_run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        let run = run.clone();
        self.write(move |conn| commit::delete_run(conn, &run))
    }

    fn compact(&self, ended_before_ms: u64, from: u64, limit: usize) -> BoxFuture<'_, Result<Compaction>> {
        self.write(move |conn| compact::compact(conn, ended_before_ms, from, limit))
    }
}

impl Threads for SqliteStore {
    fn thread<'a>(&'a self, thread: &'a ThreadId) -> BoxFuture<'a, Result<Option<ThreadInfo>>> {
        let thread = thread.clone();
        self.read(move |conn| query::thread(conn, &thread))
    }

    fn threads<'a>(
        &'a self,
        resource: Option<&'a str>,
        offset: usize,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ThreadInfo>>> {
        let resource = resource.map(str::to_owned);
        self.read(move |conn| query::threads(conn, resource.as_deref(), offset, limit))
    }

    fn messages<'a>(
        &'a self,
        thread: &'a ThreadId,
        from: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Arc<Message>>>> {
        let thread = thread.clone();
        self.read(move |conn| query::messages(conn, &thread, from, limit))
    }

    fn delete_thread<'a>(&'a self, thread: &'a ThreadId) -> BoxFuture<'a, Result<bool>> {
        let thread = thread.clone();
        self.write(move |conn| commit::delete_thread(conn, &thread))
    }
}

impl KeyValue for SqliteStore {
    fn get<'a>(&'a self, space: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Value>>> {
        let (space, key) = (space.to_owned(), key.to_owned());
        self.read(move |conn| query::value(conn, &space, &key))
    }

    fn keys<'a>(&'a self, space: &'a str, prefix: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
        let (space, prefix) = (space.to_owned(), prefix.to_owned());
        self.read(move |conn| query::keys(conn, &space, &prefix))
    }
}

impl Blobs for SqliteStore {
    fn blob<'a>(&'a self, hash: &'a str) -> BoxFuture<'a, Result<Option<Arc<[u8]>>>> {
        let hash = hash.to_owned();
        self.read(move |conn| query::blob(conn, &hash))
    }
}

impl Leases for SqliteStore {
    fn claim<'a>(&'a self, run: &'a RunId, owner: &'a str, now_ms: u64) -> BoxFuture<'a, Result<u64>> {
        let (run, owner) = (run.clone(), owner.to_owned());
        self.write(move |conn| lease::claim(conn, &run, &owner, now_ms))
    }

    fn heartbeat<'a>(&'a self, owner: &'a str, until_ms: u64) -> BoxFuture<'a, Result<()>> {
        let owner = owner.to_owned();
        self.write(move |conn| lease::heartbeat(conn, &owner, until_ms))
    }

    fn release<'a>(&'a self, run: &'a RunId, epoch: u64) -> BoxFuture<'a, Result<()>> {
        let run = run.clone();
        self.write(move |conn| lease::release(conn, &run, epoch))
    }

    fn retire<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<()>> {
        let owner = owner.to_owned();
        self.write(move |conn| lease::retire(conn, &owner))
    }
}
