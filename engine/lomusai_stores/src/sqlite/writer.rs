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
    /// It could not be committed, or a part of it not undone.
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

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
        let (send, receive) = mpsc::channel();
        jobs.into_iter().for_each(|job| send.send(job).unwrap());
        drop(send);
        run(&conn, &file, &receive);

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
        let (send, receive) = mpsc::channel();
        let answers: Vec<_> = (0..3)
            .map(|n| {
                let (job, answer) = job(move |conn: &Connection| {
                    conn.execute("INSERT INTO owners (owner, until_ms) VALUES (?1, ?1)", [n]).unwrap();
                    if n == 1 { Err(Error::new(codes::STORE_FAILED, "half way")) } else { Ok(n) }
                });
                send.send(job).unwrap();
                answer
            })
            .collect();
        drop(send);
        run(&conn, &file, &receive);
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
