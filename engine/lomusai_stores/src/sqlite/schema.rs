//! The tables, their versions, and how a connection is set up.

use std::time::Duration;

use lomusai_core::{Error, Result};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::Sync;
use super::fault::StoreFile;
use super::statement;

/// Marks the file as ours: `LOMU`.
const APPLICATION_ID: i64 = 0x4c4f_4d55;

/// Statements that bring a store from version `index` to `index + 1`. Published ones never change: a change is a new one.
const MIGRATIONS: [&str; 5] = [V1, V2, V3, V4, V5];

const VERSION: i64 = MIGRATIONS.len() as i64;

const V1: &str = "
-- `n` rises with each new run; `info` is the whole line, the other columns what is asked for.
CREATE TABLE runs (
    n INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    agent TEXT NOT NULL,
    status TEXT NOT NULL,
    thread TEXT,
    parent TEXT,
    seq INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    owner TEXT,
    info TEXT NOT NULL
) STRICT;
-- Each ends with `n`, the row's own number, so that they also give the order.
CREATE INDEX runs_by_status ON runs (status);
CREATE INDEX runs_by_agent ON runs (agent);
CREATE INDEX runs_by_thread ON runs (thread) WHERE thread IS NOT NULL;
CREATE INDEX runs_by_parent ON runs (parent) WHERE parent IS NOT NULL;
CREATE INDEX runs_by_owner ON runs (owner) WHERE owner IS NOT NULL;

-- The JSON is in `body`, or in the blob of this hash.
CREATE TABLE events (
    run INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    body TEXT,
    blob TEXT,
    PRIMARY KEY (run, seq)
) STRICT;
CREATE INDEX events_by_blob ON events (blob) WHERE blob IS NOT NULL;

CREATE TABLE threads (
    n INTEGER PRIMARY KEY,
    thread TEXT NOT NULL UNIQUE,
    resource TEXT,
    active_run TEXT,
    messages INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX threads_by_time ON threads (updated_at_ms DESC, thread);
CREATE INDEX threads_by_resource ON threads (resource, updated_at_ms DESC, thread) WHERE resource IS NOT NULL;
CREATE INDEX threads_by_run ON threads (active_run) WHERE active_run IS NOT NULL;

CREATE TABLE messages (
    thread INTEGER NOT NULL,
    position INTEGER NOT NULL,
    body TEXT,
    blob TEXT,
    PRIMARY KEY (thread, position)
) STRICT;
CREATE INDEX messages_by_blob ON messages (blob) WHERE blob IS NOT NULL;

CREATE TABLE key_values (
    space TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (space, key)
) STRICT;

-- `kept` is 1 for what a caller committed, 0 for the large body of an event or a message, which goes with the last of them.
CREATE TABLE blobs (
    hash TEXT PRIMARY KEY NOT NULL,
    content BLOB NOT NULL,
    kept INTEGER NOT NULL
) STRICT;

CREATE TABLE owners (
    owner TEXT PRIMARY KEY NOT NULL,
    until_ms INTEGER NOT NULL
) STRICT;
";

/// Events lie in the order of their key, in one tree: a commit writes two pages, not three.
const V2: &str = "
CREATE TABLE ordered_events (
    run INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    body TEXT,
    blob TEXT,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO ordered_events SELECT run, seq, body, blob FROM events ORDER BY run, seq;
DROP TABLE events;
ALTER TABLE ordered_events RENAME TO events;
CREATE INDEX events_by_blob ON events (blob) WHERE blob IS NOT NULL;
";

/// Events `first` to `last` of runs that have ended, as lines of JSON, compressed (LZ4, behind the size as 32 bits).
const V3: &str = "
CREATE TABLE packed (
    run INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    lines BLOB NOT NULL,
    PRIMARY KEY (run, first)
) STRICT;
";

/// No other tables, but another meaning: a run's row need not be written with its events. Where there are some behind its `seq`, the last of
/// them says how far the run is, and since when. Versions before would take the row's word for it.
const V4: &str = "";

/// Events lie in a tree of whole numbers, the run in the upper half and `seq` in the lower: what is appended at its end fills one page
/// after the other, where a tree of pairs spreads its last pages anew several times before it takes one more.
const V5: &str = "
CREATE TABLE placed_events (
    place INTEGER PRIMARY KEY,
    body TEXT,
    blob TEXT
) STRICT;
INSERT INTO placed_events SELECT (run << 32) + seq, body, blob FROM events ORDER BY run, seq;
DROP TABLE events;
ALTER TABLE placed_events RENAME TO events;
CREATE INDEX events_by_blob ON events (blob) WHERE blob IS NOT NULL;
";

/// The condition under which an event is of a run, of which `$n` gives the number.
macro_rules! of_run {
    ($n:literal) => {
        concat!("place >= ", $n, " << 32 AND place < (", $n, " + 1) << 32")
    };
}
pub(super) use of_run;

/// The highest number of a run, and of an event in it, that has a place.
pub(super) const LAST_RUN: u64 = (1 << 31) - 2;
pub(super) const LAST_SEQ: u64 = (1 << 32) - 1;

/// Opens the writer's connection and brings the tables up to date.
pub(super) fn open(file: &StoreFile) -> Result<Connection> {
    // SQLite takes a file of one byte for an empty one. No database is shorter than its smallest page.
    if std::fs::metadata(&file.path).is_ok_and(|metadata| metadata.is_file() && (1..512).contains(&metadata.len())) {
        return Err(file.corrupt("it is too short"));
    }
    let conn = connect(file, OpenFlags::SQLITE_OPEN_CREATE).map_err(|error| file.error(error))?;
    if conn.is_readonly("main").map_err(|error| file.error(error))? {
        return Err(file.read_only("opened read-only"));
    }
    // Before anything is written: somebody else's file stays as it is.
    let found = judge(&conn, file)?;
    set_up_writer(&conn, file)?;
    statement::guard(&conn).map_err(|error| file.error(error))?;
    if found < VERSION {
        migrate(&conn, file)?;
    }
    Ok(conn)
}

/// Opens a connection that only reads. The file has been judged when the store was opened.
pub(super) fn open_reader(file: &StoreFile) -> rusqlite::Result<Connection> {
    let conn = connect(file, OpenFlags::empty())?;
    conn.pragma_update(None, "query_only", true)?;
    Ok(conn)
}

/// Empties the log into the file, as far as nobody else reads it, and closes.
pub(super) fn close(conn: Connection) -> rusqlite::Result<()> {
    // On a full disk this fails and loses nothing: what stays in the log is read from there.
    let _ = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    conn.close().map_err(|(_, error)| error)
}

fn connect(file: &StoreFile, more: OpenFlags) -> rusqlite::Result<Connection> {
    // No URI, and no mutex: each connection stays on its thread.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let conn = Connection::open_with_flags(&file.path, flags)?;
    conn.busy_timeout(file.options.busy_timeout)?;
    // All statements of this crate, with room.
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// The schema version of the file, 0 for an empty one.
fn judge(conn: &Connection, file: &StoreFile) -> Result<i64> {
    let facts = "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
                 FROM pragma_application_id, pragma_user_version";
    let facts = conn.query_row(facts, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    match facts.map_err(|error| file.error(error))? {
        (0, 0, 0) => Ok(0),
        (APPLICATION_ID, version, _) if version > VERSION => Err(file.newer(version, VERSION)),
        (APPLICATION_ID, version @ 1.., 1..) => Ok(version),
        (APPLICATION_ID, ..) => Err(file.corrupt("its schema version or its tables are missing")),
        _ => Err(file.corrupt("it is the database of another program")),
    }
}

fn set_up_writer(conn: &Connection, file: &StoreFile) -> Result<()> {
    let say = |error| file.error(error);
    match write_ahead(conn, file.options.busy_timeout).map_err(say)?.as_str() {
        "wal" => {}
        other => {
            let words = format!("journal_mode is {other}");
            return Err(file.failed("lies on a disk that cannot share memory: choose a local disk", &words));
        }
    }
    let full = file.options.sync == Sync::Full;
    conn.pragma_update(None, "synchronous", if full { "FULL" } else { "NORMAL" }).map_err(say)?;
    // On macOS a plain flush leaves the data in the disk's cache.
    conn.pragma_update(None, "fullfsync", full).map_err(say)?;
    conn.pragma_update(None, "checkpoint_fullfsync", true).map_err(say)?;
    // What an unusually large transaction leaves behind is given back to the file system: 64 MiB stay.
    conn.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |_| Ok(())).map_err(say)
}

/// Switches to the write-ahead log. SQLite does not wait where two connections switch at once, so this does.
fn write_ahead(conn: &Connection, patience: Duration) -> rusqlite::Result<String> {
    const PAUSE: Duration = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        let switched = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0));
        match switched {
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) && waited < patience => {
                std::thread::sleep(PAUSE);
                waited += PAUSE;
            }
            other => return other,
        }
    }
}

fn migrate(conn: &Connection, file: &StoreFile) -> Result<()> {
    let say = |error: rusqlite::Error| -> Error { file.error(error) };
    let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate).map_err(say)?;
    // Again, now that nobody else writes: another process may have been faster.
    let found = judge(&transaction, file)?;
    for migration in &MIGRATIONS[found as usize..] {
        transaction.execute_batch(migration).map_err(say)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(say)?;
    transaction.pragma_update(None, "user_version", VERSION).map_err(say)?;
    transaction.commit().map_err(say)
}

/// A number as SQLite keeps it. Times beyond its range are for ever anyway.
pub(super) fn stored(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A number as we keep it. None in the store is below zero.
pub(super) fn natural(n: i64) -> u64 {
    n.max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::SqliteOptions;

    #[test]
    fn a_store_of_the_first_version_keeps_its_events() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(V1).unwrap();
        old.execute_batch(
            "INSERT INTO events (run, seq, body, blob) VALUES (2, 1, 'c', NULL), (1, 2, NULL, 'hash'), (1, 1, 'a', NULL)",
        )
        .unwrap();
        old.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        drop(old);

        let conn = open(&StoreFile::new(&path, &SqliteOptions::default()).unwrap()).unwrap();
        let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, VERSION);
        let events =
            "SELECT group_concat((place >> 32) || (place & 4294967295) || ifnull(body, '') || ifnull(blob, ''), ' ')
                      FROM events";
        let events: String = conn.query_row(events, [], |row| row.get(0)).unwrap();
        assert_eq!(events, "11a 12hash 21c");
        let found: i64 = conn
            .query_row("SELECT count(*) FROM events INDEXED BY events_by_blob WHERE blob = 'hash'", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(found, 1);
    }
}
