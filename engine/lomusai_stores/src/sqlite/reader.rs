//! The threads that read. They share one queue, and each has a connection of its own.

use std::sync::mpsc::Receiver;

use lomusai_core::sync::Mutex;
use rusqlite::Connection;

use super::fault::StoreFile;
use super::schema;

/// Something to read. Given the error when the thread has no connection.
pub(super) type Job = Box<dyn FnOnce(rusqlite::Result<&Connection>) + Send>;

/// Reads what comes until all senders are gone.
pub(super) fn run(file: &StoreFile, jobs: &Mutex<Receiver<Job>>) {
    let mut open: Option<Connection> = None;
    loop {
        let job = jobs.lock().recv();
        let Ok(job) = job else { return };
        if open.is_none() {
            match schema::open_reader(file) {
                Ok(conn) => open = Some(conn),
                // The next job tries again: too many open files may pass.
                Err(error) => {
                    job(Err(error));
                    continue;
                }
            }
        }
        job(Ok(open.as_ref().expect("just opened")));
    }
}
