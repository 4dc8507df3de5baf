//! The thread that writes. It takes all that is queued into one transaction, so that one flush serves many commits.

use std::sync::mpsc::Receiver;

use lomusai_core::{Error, Result};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::fault::StoreFile;

/// Most commits of one transaction: bounds how long the first of them waits for the last.
const GROUP_MAX: usize = 256;

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

/// Writes what comes until all senders are gone.
pub(super) fn run(conn: &Connection, file: &StoreFile, jobs: &Receiver<Box<dyn Job>>) {
    while let Ok(first) = jobs.recv() {
        let mut group = vec![first];
        group.extend(jobs.try_iter().take(GROUP_MAX - 1));
        write(conn, file, group);
    }
}

fn write(conn: &Connection, file: &StoreFile, mut group: Vec<Box<dyn Job>>) {
    match attempt(conn, &mut group) {
        Ok(()) => group.into_iter().for_each(|job| job.answer(None)),
        // The fault of one must not be the fault of all: each gets a transaction of its own.
        Err(Failed::Midway | Failed::Commit(_)) if group.len() > 1 => {
            group.into_iter().for_each(|job| write(conn, file, vec![job]));
        }
        // The only job in it has the reason as its outcome.
        Err(Failed::Midway) => group.into_iter().for_each(|job| job.answer(None)),
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
    /// It could not be committed.
    Commit(rusqlite::Error),
}

fn attempt(conn: &Connection, group: &mut [Box<dyn Job>]) -> Result<(), Failed> {
    // Immediate: what is checked in here is still true when it is written, whatever other processes do.
    let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate).map_err(Failed::Begin)?;
    for job in group {
        let step = |sql| conn.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        step("SAVEPOINT job").map_err(Failed::Commit)?;
        let kept = job.run(conn);
        if conn.is_autocommit() {
            return Err(Failed::Midway);
        }
        if !kept {
            step("ROLLBACK TO job").map_err(Failed::Commit)?;
        }
        step("RELEASE job").map_err(Failed::Commit)?;
    }
    transaction.commit().map_err(Failed::Commit)
}
