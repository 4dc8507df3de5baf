//! What a batch writes. All checks come before the first change, and the caller's thread has made the JSON before that.

use std::sync::Arc;

use lomusai_core::journal::content_hash;
use lomusai_core::storage::{Batch, RunAppend, ThreadChange, refusal};
use lomusai_core::{Error, Result};
use lomusai_wire::{RunId, RunInfo, RunStatus, SqlStatement, ThreadId, codes};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::de::IntoDeserializer as _;
use serde::de::value::StrDeserializer;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

use super::fault::Fault;
use super::schema::{natural, of_run, stored};
use super::{query, statement};

/// The longest JSON that lies in a table's row, in bytes; longer ones become blobs.
const BODY_MAX: usize = 64 * 1024;

/// A batch in the form in which it is written.
pub(super) struct Prepared {
    run: Option<Run>,
    thread: Option<Thread>,
    expected: Vec<(String, String, Option<Value>)>,
    values: Vec<(String, String, Option<String>)>,
    blobs: Vec<(String, Arc<[u8]>)>,
    sql: Vec<SqlStatement>,
    work: Vec<Arc<statement::Work>>,
}

struct Run {
    id: RunId,
    expected_seq: u64,
    epoch: u64,
    owner: Arc<str>,
    events: Vec<Body>,
    line: Option<Line>,
}

/// What a run's row says, where it is written.
struct Line {
    info: Box<RunInfo>,
    json: String,
}

struct Thread {
    change: ThreadChange,
    append: Vec<Body>,
}

/// JSON, and its hash where it is long.
struct Body {
    json: String,
    hash: Option<String>,
}

impl Prepared {
    pub(super) fn new(batch: Batch) -> Result<Self> {
        let run = batch.run.map(Run::new).transpose()?;
        let thread = batch.thread.map(|change| Thread::new(*change)).transpose()?;
        let values =
            batch.values.into_iter().map(|(space, key, value)| (space, key, value.map(|json| json.to_string())));
        let (sql, work) = (batch.sql, batch.work.into_iter().map(Arc::downcast));
        let work = work.collect::<Result<_, _>>().map_err(|_| refusal::no_sql())?;
        Ok(Self { run, thread, expected: batch.expected, values: values.collect(), blobs: batch.blobs, sql, work })
    }

    pub(super) fn write(&self, conn: &Connection) -> Result<(), Fault> {
        let run = self.run.as_ref().map(|run| run.check(conn).map(|found| (run, found))).transpose()?;
        let thread = self.thread.as_ref().map(|thread| thread.check(conn).map(|found| (thread, found))).transpose()?;
        for (space, key, expected) in &self.expected {
            if query::value(conn, space, key)? != *expected {
                return Err(refusal::value_changed(space, key).into());
            }
        }
        // Before the record: what cannot be written is not recorded as done.
        statement::write(conn, &self.sql)?;
        self.work.iter().try_for_each(|work| work.write(conn))?;
        if let Some((run, found)) = run {
            run.write(conn, found)?;
        }
        if let Some((thread, found)) = thread {
            thread.write(conn, found)?;
        }
        for (space, key, value) in &self.values {
            match value {
                Some(value) => conn
                    .prepare_cached("INSERT OR REPLACE INTO key_values (space, key, value) VALUES (?1, ?2, ?3)")?
                    .execute([space, key, value])?,
                None => conn
                    .prepare_cached("DELETE FROM key_values WHERE space = ?1 AND key = ?2")?
                    .execute([space, key])?,
            };
        }
        for (hash, content) in &self.blobs {
            let mut keep = conn.prepare_cached(
                "INSERT INTO blobs (hash, content, kept) VALUES (?1, ?2, 1)
                 ON CONFLICT (hash) DO UPDATE SET kept = 1 WHERE kept = 0",
            )?;
            keep.execute(params![hash, &**content])?;
        }
        Ok(())
    }
}

/// The row of a run that exists.
struct FoundRun {
    n: i64,
    seq: u64,
    epoch: u64,
}

impl Run {
    fn new(append: RunAppend) -> Result<Self> {
        if !append.is_in_order() {
            return Err(refusal::out_of_order(&append.run_id));
        }
        let RunAppend { run_id: id, expected_seq, epoch, owner, events, info } = append;
        let events = events.iter().map(Body::new).collect::<Result<_>>()?;
        let line = info.map(Line::new).transpose()?;
        Ok(Self { id, expected_seq, epoch, owner, events, line })
    }

    fn check(&self, conn: &Connection) -> Result<Option<FoundRun>, Fault> {
        // The row is behind where more was recorded since it was written. What was compacted is not in `events`, but then it was written.
        let mut find = conn.prepare_cached(concat!(
            "SELECT n, epoch, max(seq, ifnull((SELECT max(place) FROM events WHERE ",
            of_run!("n"),
            ") & 4294967295, 0)) FROM runs WHERE run_id = ?1"
        ))?;
        let found = find.query_row([self.id.as_str()], |row| {
            Ok(FoundRun { n: row.get(0)?, epoch: natural(row.get(1)?), seq: natural(row.get(2)?) })
        });
        let (found, id) = (found.optional()?, &self.id);
        match &found {
            None if self.expected_seq == 0 => Ok(found),
            None => Err(refusal::run_unknown(id).into()),
            Some(_) if self.expected_seq == 0 => Err(refusal::run_exists(id).into()),
            Some(run) if run.epoch != self.epoch || run.seq != self.expected_seq => {
                Err(refusal::sequence_conflict(id).into())
            }
            Some(_) => Ok(found),
        }
    }

    fn write(&self, conn: &Connection, found: Option<FoundRun>) -> Result<(), Fault> {
        let n = match (found, &self.line) {
            (Some(run), None) => run.n,
            (Some(run), Some(line)) => line.update(conn, run.n)?,
            (None, Some(line)) => line.create(conn, self)?,
            (None, None) => return Err(refusal::out_of_order(&self.id).into()),
        };
        for (seq, event) in (self.expected_seq + 1..).zip(&self.events) {
            let (body, blob) = event.place(conn)?;
            let mut append =
                conn.prepare_cached("INSERT INTO events (place, body, blob) VALUES ((?1 << 32) + ?2, ?3, ?4)")?;
            append.execute(params![n, stored(seq), body, blob])?;
        }
        Ok(())
    }
}

impl Line {
    fn new(info: Box<RunInfo>) -> Result<Self> {
        Ok(Self { json: json(&info)?, info })
    }

    /// The thread and the parent that it names.
    fn above(&self) -> (Option<&str>, Option<&str>) {
        let info = &self.info;
        (info.thread.as_ref().map(ThreadId::as_str), info.parent.as_ref().map(|parent| parent.run_id.as_str()))
    }

    fn create(&self, conn: &Connection, run: &Run) -> Result<i64, Fault> {
        let ((thread, parent), info) = (self.above(), &self.info);
        // Who has ended is held by nobody.
        let owner = Some(&*run.owner).filter(|_| !info.status.is_final());
        let mut create = conn.prepare_cached(
            "INSERT INTO runs (run_id, agent, status, thread, parent, seq, epoch, owner, info)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?;
        let (status, seq, epoch) = (info.status.as_str(), stored(info.seq), stored(run.epoch));
        Ok(create.insert(params![run.id.as_str(), info.agent, status, thread, parent, seq, epoch, owner, self.json])?)
    }

    fn update(&self, conn: &Connection, n: i64) -> Result<i64, Fault> {
        let ((thread, parent), info) = (self.above(), &self.info);
        let (status, seq) = (info.status.as_str(), stored(info.seq));
        let mut find =
            conn.prepare_cached("SELECT status, agent = ?2 AND thread IS ?3 AND parent IS ?4 FROM runs WHERE n = ?1")?;
        let (was_final, is_same) = find.query_row(params![n, info.agent, thread, parent], |row| {
            Ok((is_final(row.get_ref(0)?.as_str()?), row.get::<_, bool>(1)?))
        })?;
        if !is_same {
            let mut rename =
                conn.prepare_cached("UPDATE runs SET agent = ?2, thread = ?3, parent = ?4 WHERE n = ?1")?;
            rename.execute(params![n, info.agent, thread, parent])?;
        }
        // Columns that are named here are written anew in their indexes, whether they change or not: only what a run does change.
        let ends = info.status.is_final() && !was_final;
        let update = if ends {
            "UPDATE runs SET status = ?2, seq = ?3, info = ?4, owner = NULL WHERE n = ?1"
        } else {
            "UPDATE runs SET status = ?2, seq = ?3, info = ?4 WHERE n = ?1"
        };
        conn.prepare_cached(update)?.execute(params![n, status, seq, self.json])?;
        Ok(n)
    }
}

/// The row of a thread that exists.
struct FoundThread {
    n: i64,
    active_run: Option<String>,
    messages: i64,
}

impl Thread {
    fn new(mut change: ThreadChange) -> Result<Self> {
        let append = std::mem::take(&mut change.append);
        let append = append.iter().map(Body::new).collect::<Result<_>>()?;
        Ok(Self { change, append })
    }

    fn check(&self, conn: &Connection) -> Result<Option<FoundThread>, Fault> {
        let found = find_thread(conn, &self.change.thread)?;
        if let (Some(found), Some(claim)) = (&found, &self.change.claim)
            && let Some(holder) = holder(conn, found)?
            && holder != *claim
        {
            return Err(refusal::thread_busy(&self.change.thread, &holder).into());
        }
        let messages = found.as_ref().map_or(0, |found| found.messages);
        if self.change.claim.is_some()
            && self.change.expected_messages.is_some_and(|expected| stored(expected) != messages)
        {
            return Err(refusal::thread_moved_on(&self.change.thread).into());
        }
        Ok(found)
    }

    fn write(&self, conn: &Connection, found: Option<FoundThread>) -> Result<(), Fault> {
        let ThreadChange { thread, resource, claim, release, now_ms, .. } = &self.change;
        let found = match found {
            Some(found) => found,
            None => {
                let mut create = conn.prepare_cached(
                    "INSERT INTO threads (thread, resource, messages, created_at_ms, updated_at_ms)
                     VALUES (?1, ?2, 0, ?3, ?3)",
                )?;
                let n = create.insert(params![thread.as_str(), resource, stored(*now_ms)])?;
                FoundThread { n, active_run: None, messages: 0 }
            }
        };
        for (position, message) in (found.messages..).zip(&self.append) {
            let (body, blob) = message.place(conn)?;
            let mut append =
                conn.prepare_cached("INSERT INTO messages (thread, position, body, blob) VALUES (?1, ?2, ?3, ?4)")?;
            append.execute(params![found.n, position, body, blob])?;
        }
        let active_run = claim.as_ref().map(RunId::as_str).or(found.active_run.as_deref());
        let active_run = active_run.filter(|run| release.as_ref().map(RunId::as_str) != Some(run));
        let messages = found.messages + self.append.len() as i64;
        let mut update =
            conn.prepare_cached("UPDATE threads SET active_run = ?2, messages = ?3, updated_at_ms = ?4 WHERE n = ?1")?;
        update.execute(params![found.n, active_run, messages, stored(*now_ms)])?;
        Ok(())
    }
}

fn find_thread(conn: &Connection, thread: &ThreadId) -> Result<Option<FoundThread>, Fault> {
    let mut find = conn.prepare_cached("SELECT n, active_run, messages FROM threads WHERE thread = ?1")?;
    let found = find.query_row([thread.as_str()], |row| {
        Ok(FoundThread { n: row.get(0)?, active_run: row.get(1)?, messages: row.get(2)? })
    });
    Ok(found.optional()?)
}

/// The unfinished run that works on a thread.
fn holder(conn: &Connection, thread: &FoundThread) -> Result<Option<RunId>, Fault> {
    let Some(run) = &thread.active_run else { return Ok(None) };
    let mut find = conn.prepare_cached("SELECT status FROM runs WHERE run_id = ?1")?;
    let status: Option<String> = find.query_row([run], |row| row.get(0)).optional()?;
    Ok(status.filter(|status| !is_final(status)).map(|_| run.as_str().into()))
}

fn is_final(status: &str) -> bool {
    // A status that this version does not know is taken for unfinished: nothing of it is given away.
    let status: StrDeserializer<'_, serde::de::value::Error> = status.into_deserializer();
    RunStatus::deserialize(status).is_ok_and(RunStatus::is_final)
}

impl Body {
    fn new(value: &impl Serialize) -> Result<Self> {
        let json = json(value)?;
        let hash = (json.len() > BODY_MAX).then(|| content_hash(json.as_bytes()));
        Ok(Self { json, hash })
    }

    /// Writes the blob of a long one. Gives the columns `body` and `blob`.
    fn place(&self, conn: &Connection) -> Result<(Option<&str>, Option<&str>), Fault> {
        let Some(hash) = &self.hash else { return Ok((Some(&self.json), None)) };
        let mut write = conn.prepare_cached("INSERT OR IGNORE INTO blobs (hash, content, kept) VALUES (?1, ?2, 0)")?;
        write.execute(params![hash, self.json.as_bytes()])?;
        Ok((None, Some(hash)))
    }
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::new(codes::INTERNAL, format!("not JSON: {error}")))
}

pub(super) fn delete_run(conn: &Connection, run: &RunId) -> Result<bool, Fault> {
    let mut find = conn.prepare_cached("SELECT n FROM runs WHERE run_id = ?1")?;
    let Some(n) = find.query_row([run.as_str()], |row| row.get::<_, i64>(0)).optional()? else { return Ok(false) };
    let mut large = conn.prepare_cached(concat!(
        "SELECT DISTINCT blob FROM events WHERE ",
        of_run!("?1"),
        " AND blob IS NOT NULL"
    ))?;
    let large = large.query_map([n], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    conn.prepare_cached(concat!("DELETE FROM events WHERE ", of_run!("?1")))?.execute([n])?;
    conn.prepare_cached("DELETE FROM packed WHERE run = ?1")?.execute([n])?;
    conn.prepare_cached("DELETE FROM runs WHERE n = ?1")?.execute([n])?;
    conn.prepare_cached("UPDATE threads SET active_run = NULL WHERE active_run = ?1")?.execute([run.as_str()])?;
    delete_unused(conn, &large)?;
    Ok(true)
}

pub(super) fn delete_thread(conn: &Connection, thread: &ThreadId) -> Result<bool, Fault> {
    let Some(found) = find_thread(conn, thread)? else { return Ok(false) };
    if let Some(holder) = holder(conn, &found)? {
        return Err(refusal::thread_busy(thread, &holder).into());
    }
    let mut large = conn.prepare_cached("SELECT DISTINCT blob FROM messages WHERE thread = ?1 AND blob IS NOT NULL")?;
    let large = large.query_map([found.n], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    conn.prepare_cached("DELETE FROM messages WHERE thread = ?1")?.execute([found.n])?;
    conn.prepare_cached("DELETE FROM threads WHERE n = ?1")?.execute([found.n])?;
    delete_unused(conn, &large)?;
    Ok(true)
}

/// Deletes large bodies that no event and no message has any more.
fn delete_unused(conn: &Connection, hashes: &[String]) -> Result<(), Fault> {
    let mut delete = conn.prepare_cached(
        "DELETE FROM blobs WHERE hash = ?1 AND kept = 0
         AND NOT EXISTS (SELECT 1 FROM events WHERE blob = ?1)
         AND NOT EXISTS (SELECT 1 FROM messages WHERE blob = ?1)",
    )?;
    for hash in hashes {
        delete.execute([hash])?;
    }
    Ok(())
}
