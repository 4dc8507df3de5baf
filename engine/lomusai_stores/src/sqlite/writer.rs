//! Who writes. All that is queued goes into one transaction, so that one flush serves many commits.
//!
//! Under [`Sync::Normal`](super::Sync::Normal) a commit waits for no disk, and handing it to a thread and back costs more than writing it: whoever
//! waits for it writes it, with all that is queued by then. What may have to wait is the thread's: for the disk, for another process's lock,
//! for a log that is emptied into the file or begun anew; and what nobody waits for any more.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use lomusai_core::storage::refusal;
use lomusai_core::sync::{Condvar, Mutex, MutexGuard};
use lomusai_core::{Error, Result};
use lomusai_wire::{RunId, codes};
use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use super::Sync;
use super::fault::StoreFile;

/// Most commits of one transaction: bounds how long the first of them waits for the last.
const GROUP_MAX: usize = 256;

/// So many pages of log are emptied into the file: 16 MB, four times SQLite's own. Each page of the file is written once then for all that was
/// appended to it, and the disk waited for once.
const LOG_PAGES: i32 = 4_000;

thread_local! {
    /// How long the log is, as SQLite says on this thread when it commits.
    static LOG: Cell<i32> = const { Cell::new(0) };
}

/// Something to write, and somebody who waits for the answer.
pub(super) trait Job: Send {
    /// Does the work and remembers the outcome. `false` if what it wrote has to be undone.
    fn run(&mut self, conn: &Connection) -> bool;

    /// Tells the outcome, or why the transaction failed.
    fn answer(self: Box<Self>, failure: Option<Error>);
}

/// A job, and where its answer will be.
pub(super) fn job<T: Send + 'static>(
    work: impl Fn(&Connection) -> Result<T> + Send + 'static,
) -> (Box<dyn Job>, oneshot::Receiver<Result<T>>) {
    let (reply, answer) = oneshot::channel();
    (Box::new(Task { work, outcome: None, reply }), answer)
}

struct Task<T, F> {
    work: F,
    outcome: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: Fn(&Connection) -> Result<T> + Send> Job for Task<T, F> {
    fn run(&mut self, conn: &Connection) -> bool {
        self.outcome.insert((self.work)(conn)).is_ok()
    }

    fn answer(self: Box<Self>, failure: Option<Error>) {
        let outcome = match failure {
            Some(error) => Err(error),
            None => self.outcome.expect("a job without an outcome has a failure"),
        };
        // Nobody may be waiting.
        let _ = self.reply.send(outcome);
    }
}

/// What is to be written, and the connection that writes.
pub(super) struct Writer {
    file: Arc<StoreFile>,
    queue: Mutex<Queue>,
    /// Tells the thread that there is something for it.
    called: Condvar,
    /// Held by whoever writes, who looks at the queue once more after letting go. Empty once the store is closed.
    conn: Mutex<Option<Connection>>,
    process: u32,
}

#[derive(Default)]
struct Queue {
    /// In the order in which they came.
    jobs: VecDeque<Box<dyn Job>>,
    /// The run that was committed last: where others come between, they are waited for, to be written together.
    last: Option<RunId>,
    /// Whether the thread is to write what there is.
    called: bool,
    /// Whether the log is to be emptied into the file.
    long: bool,
    /// Whether the next commit begins the log anew, which waits for the disk.
    anew: bool,
    closed: bool,
    /// Whether the thread is gone before its time.
    stopped: bool,
}

impl Writer {
    pub(super) fn new(conn: Connection, file: Arc<StoreFile>) -> Self {
        conn.wal_hook(Some(|_, pages| {
            LOG.set(pages);
            Ok(())
        }));
        let process = std::process::id();
        Self { file, queue: Mutex::default(), called: Condvar::new(), conn: Mutex::new(Some(conn)), process }
    }

    /// Queues a job for the thread.
    pub(super) fn send(&self, job: Box<dyn Job>) -> Result<()> {
        let mut queue = self.queue.lock();
        queue.push(job)?;
        queue.last = None;
        self.call(queue);
        Ok(())
    }

    /// Queues a job whose answer is waited for here. `run` is what it commits events of.
    pub(super) fn commit<T>(
        self: &Arc<Self>,
        run: Option<&RunId>,
        job: Box<dyn Job>,
        answer: oneshot::Receiver<Result<T>>,
    ) -> Result<Written<T>> {
        let mut queue = self.queue.lock();
        queue.push(job)?;
        let alone = queue.last.as_ref() == run;
        if !alone {
            queue.last = run.cloned();
        }
        let mut turn = if alone && queue.jobs.len() == 1 { Turn::Write } else { Turn::Yield };
        if self.file.options.sync == Sync::Full {
            self.call(queue);
            turn = Turn::Wait;
        }
        Ok(Written { writer: self.clone(), answer, turn })
    }

    /// Has the thread write what is queued.
    fn call(&self, mut queue: MutexGuard<'_, Queue>) {
        queue.called = true;
        drop(queue);
        self.called.notify_one();
    }

    /// Writes what is queued on this thread, where that waits for nothing and nobody else does it.
    fn help(&self) {
        let queue = self.queue.lock();
        if queue.anew {
            return self.call(queue);
        }
        drop(queue);
        let Some(held) = self.conn.try_lock() else { return };
        let Some(conn) = &*held else { return };
        let mut busy = Vec::new();
        let long = self.write(conn, self.group(), &mut |jobs, _| busy.extend(jobs));
        drop(held);
        let mut queue = self.queue.lock();
        busy.into_iter().rev().for_each(|job| queue.jobs.push_front(job));
        queue.long |= long;
        if queue.long || !queue.jobs.is_empty() {
            self.call(queue);
        }
    }

    /// The thread's work: writes what it is called for, until the store is closed and all is written. Gives the connection back.
    pub(super) fn run(&self) -> Option<Connection> {
        let _stops = Stops(self);
        loop {
            let mut queue = self.queue.lock();
            while !queue.called && !queue.closed {
                self.called.wait(&mut queue);
            }
            queue.called = false;
            drop(queue);
            let mut held = self.conn.lock();
            let conn = held.as_ref()?;
            // Here there is time to wait for another process.
            let _ = conn.busy_timeout(self.file.options.busy_timeout);
            while self.write_next(conn) {}
            let _ = conn.busy_timeout(Duration::ZERO);
            if self.is_done() {
                return held.take();
            }
            drop(held);
            // Once more: whoever came by now found the connection held.
            let mut queue = self.queue.lock();
            queue.called |= !queue.jobs.is_empty();
        }
    }

    /// Writes the next group and empties the log where that is due. `false` if there was nothing to do.
    fn write_next(&self, conn: &Connection) -> bool {
        let group = self.group();
        let none = group.is_empty();
        let long = self.write(conn, group, &mut |jobs, error| {
            let error = self.file.error(error);
            jobs.into_iter().for_each(|job| job.answer(Some(error.clone())));
        });
        let mut queue = self.queue.lock();
        let long = std::mem::take(&mut queue.long) || long;
        queue.anew = long || queue.anew && none;
        drop(queue);
        if long {
            // Where that fails, as on a full disk, the log only gets longer.
            let _ = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
        !none
    }

    fn is_done(&self) -> bool {
        let queue = self.queue.lock();
        queue.closed && queue.jobs.is_empty()
    }

    fn group(&self) -> Vec<Box<dyn Job>> {
        let mut queue = self.queue.lock();
        let most = queue.jobs.len().min(GROUP_MAX);
        queue.jobs.drain(..most).collect()
    }

    /// Writes a group. Gives to `busy` what could not begin because another process writes. Whether the log is long by now.
    fn write(&self, conn: &Connection, group: Vec<Box<dyn Job>>, busy: &mut Busy<'_>) -> bool {
        LOG.set(0);
        if !group.is_empty() {
            write(conn, &self.file, group, busy);
        }
        LOG.get() >= LOG_PAGES
    }

    /// Takes no more. The thread writes what is queued and ends.
    pub(super) fn close(&self) {
        self.queue.lock().closed = true;
        self.called.notify_one();
    }
}

impl Queue {
    fn push(&mut self, job: Box<dyn Job>) -> Result<()> {
        if self.closed {
            return Err(refusal::closed());
        }
        if self.stopped {
            return Err(stopped());
        }
        self.jobs.push_back(job);
        Ok(())
    }
}

/// Takes down with it what waits for the thread, where that panics.
struct Stops<'a>(&'a Writer);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = self.0.queue.lock();
            queue.stopped = true;
            let jobs = std::mem::take(&mut queue.jobs);
            drop(queue);
            drop(jobs);
        }
    }
}

pub(super) fn stopped() -> Error {
    Error::new(codes::INTERNAL, "a thread of the store has stopped: open a new engine, and please report this")
}

/// The answer to a commit.
pub(super) struct Written<T> {
    writer: Arc<Writer>,
    answer: oneshot::Receiver<Result<T>>,
    turn: Turn,
}

/// What whoever waits for a commit does next.
#[derive(Clone, Copy)]
enum Turn {
    /// Lets others come first, whose commits then go into the same transaction.
    Yield,
    /// Writes.
    Write,
    /// Only waits.
    Wait,
}

impl<T> Future for Written<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        loop {
            if let Poll::Ready(answer) = Pin::new(&mut self.answer).poll(cx) {
                self.turn = Turn::Wait;
                return Poll::Ready(answer.unwrap_or_else(|_| Err(stopped())));
            }
            match self.turn {
                Turn::Yield => {
                    self.turn = Turn::Write;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Turn::Write => {
                    self.turn = Turn::Wait;
                    self.writer.help();
                }
                Turn::Wait => return Poll::Pending,
            }
        }
    }
}

impl<T> Drop for Written<T> {
    fn drop(&mut self) {
        // The answer is not wanted any more; what was committed is written all the same. A fork left the thread behind.
        if !matches!(self.turn, Turn::Wait) && std::process::id() == self.writer.process {
            self.writer.call(self.writer.queue.lock());
        }
    }
}

/// Takes jobs that could not begin because another process writes.
type Busy<'a> = dyn FnMut(Vec<Box<dyn Job>>, rusqlite::Error) + 'a;

fn write(conn: &Connection, file: &StoreFile, mut group: Vec<Box<dyn Job>>, busy: &mut Busy<'_>) {
    match attempt(conn, &mut group) {
        Ok(()) => group.into_iter().for_each(|job| job.answer(None)),
        // The fault of one must not be the fault of all: each gets a transaction of its own.
        Err(Failed::Midway | Failed::Commit(_)) if group.len() > 1 => {
            group.into_iter().for_each(|job| write(conn, file, vec![job], busy));
        }
        // The only job in it has the reason as its outcome.
        Err(Failed::Midway) => group.into_iter().for_each(|job| job.answer(None)),
        Err(Failed::Begin(error)) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => busy(group, error),
        Err(Failed::Begin(error) | Failed::Commit(error)) => {
            let error = file.error(error);
            group.into_iter().for_each(|job| job.answer(Some(error.clone())));
        }
    }
}

/// Why a transaction wrote nothing.
enum Failed {
    /// It could not begin: another process writes.
    Begin(rusqlite::Error),
    /// A job ended it, as a full disk does.
    Midway,
    /// It could not be committed, or a part of it not undone.
    Commit(rusqlite::Error),
}

/// An open transaction. Undone when dropped, unless it is over by then.
struct Open<'a>(&'a Connection);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.0.is_autocommit() {
            // Where that fails the connection is done for, and the next transaction says so.
            let _ = step(self.0, "ROLLBACK");
        }
    }
}

fn step(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute([]).map(drop)
}

fn attempt(conn: &Connection, group: &mut [Box<dyn Job>]) -> Result<(), Failed> {
    // Immediate: what is checked in here is still true when it is written, whatever other processes do.
    step(conn, "BEGIN IMMEDIATE").map_err(Failed::Begin)?;
    let _open = Open(conn);
    if let [job] = group {
        let kept = job.run(conn);
        return match conn.is_autocommit() {
            true => Err(Failed::Midway),
            // Nothing of it is kept: the transaction is undone.
            false if !kept => Ok(()),
            false => step(conn, "COMMIT").map_err(Failed::Commit),
        };
    }
    for job in group {
        step(conn, "SAVEPOINT job").map_err(Failed::Commit)?;
        let kept = job.run(conn);
        if conn.is_autocommit() {
            return Err(Failed::Midway);
        }
        if !kept {
            step(conn, "ROLLBACK TO job").map_err(Failed::Commit)?;
        }
        step(conn, "RELEASE job").map_err(Failed::Commit)?;
    }
    step(conn, "COMMIT").map_err(Failed::Commit)
}

#[cfg(test)]
mod tests {
    use lomusai_wire::codes;

    use super::*;
    use crate::sqlite::{SqliteOptions, schema};

    /// A store's connection that finds the disk full after some 30 more pages, and a group of jobs that each write so many bytes.
    fn written_together(sizes: &[i64]) -> Vec<Result<()>> {
        let folder = tempfile::tempdir().unwrap();
        let file = StoreFile::new(&folder.path().join("s.db"), &SqliteOptions::default()).unwrap();
        let conn = schema::open(&file).unwrap();
        let pages: i64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        conn.pragma_update_and_check(None, "max_page_count", pages + 30, |_| Ok(())).unwrap();
        let (jobs, answers): (Vec<_>, Vec<_>) = sizes
            .iter()
            .map(|&size| {
                let write =
                    "INSERT INTO blobs (hash, content, kept) SELECT 'h' || count(*), zeroblob(?1), 1 FROM blobs";
                let path = folder.path().join("s.db");
                job(move |conn| {
                    let file = StoreFile::new(&path, &SqliteOptions::default())?;
                    conn.execute(write, [size]).map(drop).map_err(|error| file.error(error))
                })
            })
            .unzip();
        write(&conn, &file, jobs, &mut |_, error| panic!("{error}"));

        let results: Vec<Result<()>> = answers.into_iter().map(|answer| answer.blocking_recv().unwrap()).collect();
        // What was acknowledged is there, and nothing else.
        let there: i64 = conn.query_row("SELECT count(*) FROM blobs", [], |row| row.get(0)).unwrap();
        assert_eq!(there as usize, results.iter().filter(|result| result.is_ok()).count());
        results
    }

    #[test]
    fn what_a_refused_job_wrote_before_is_undone_and_its_neighbours_stay() {
        let folder = tempfile::tempdir().unwrap();
        let file = StoreFile::new(&folder.path().join("s.db"), &SqliteOptions::default()).unwrap();
        let conn = schema::open(&file).unwrap();
        let (jobs, answers): (Vec<_>, Vec<_>) = (0..3)
            .map(|n| {
                job(move |conn: &Connection| {
                    conn.execute("INSERT INTO owners (owner, until_ms) VALUES (?1, ?1)", [n]).unwrap();
                    if n == 1 { Err(Error::new(codes::STORE_FAILED, "half way")) } else { Ok(n) }
                })
            })
            .unzip();
        write(&conn, &file, jobs, &mut |_, error| panic!("{error}"));
        let answers: Vec<bool> = answers.into_iter().map(|answer| answer.blocking_recv().unwrap().is_ok()).collect();
        assert_eq!(answers, [true, false, true]);
        let owners: String = conn.query_row("SELECT group_concat(owner) FROM owners", [], |row| row.get(0)).unwrap();
        assert_eq!(owners, "0,2");
    }

    #[test]
    fn a_full_disk_refuses_what_does_not_fit_and_takes_what_does() {
        let results = written_together(&[1_000, 2_000_000, 1_000, 3_000_000, 1_000]);
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, false, true]);
        for error in results.into_iter().filter_map(Result::err) {
            assert!(error.is(codes::STORE_FULL), "{error:?}");
        }
    }

    #[test]
    fn commits_that_fit_only_one_by_one_are_taken_until_the_disk_is_full() {
        let results = written_together(&[40_000; 6]);
        assert!(results[0].is_ok() && results[5].is_err(), "{results:?}");
    }
}
