//! What is asked of the store. Each answer comes from one statement, so that it shows one moment.

use std::sync::Arc;

use lomusai_core::storage::{ThreadInfo, refusal};
use lomusai_wire::{Event, Message, RunFilter, RunId, RunInfo, ThreadId};
use rusqlite::{Connection, OptionalExtension as _, Params, Row, ToSql, params};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::compact;
use super::fault::Fault;
use super::schema::{LAST_SEQ, natural, stored};

pub(super) fn events(conn: &Connection, run: &RunId, after: u64, limit: usize) -> Result<Vec<Event>, Fault> {
    let mut find = conn.prepare_cached(
        // Ordered within, by the key itself: by what is made of it, all that is left of the run would be sorted for each page.
        "SELECT * FROM (
             SELECT body, content, place & 4294967295 AS at, NULL
             FROM runs JOIN events ON place > (n << 32) + ?2 AND place < (n + 1) << 32 LEFT JOIN blobs ON hash = blob
             WHERE run_id = ?1 ORDER BY place LIMIT ?3)
         UNION ALL
         SELECT NULL, NULL, first, lines FROM packed
         WHERE run = (SELECT n FROM runs WHERE run_id = ?1) AND last > ?2
         ORDER BY at LIMIT ?3",
    )?;
    let mut rows = find.query(params![run.as_str(), stored(after.min(LAST_SEQ)), stored(limit as u64)])?;
    let mut found: Vec<Event> = Vec::new();
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        let Some(lines) = row.get_ref(3)?.as_blob_or_null().map_err(rusqlite::Error::from)? else {
            found.push(body(row)?);
            continue;
        };
        let lines = compact::unpacked(lines)?;
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event: Event = serde_json::from_slice(line).map_err(garbled)?;
            if event.seq > after && found.len() < limit {
                found.push(event);
            }
        }
    }
    if found.is_empty() && self::run(conn, run)?.is_none() {
        return Err(refusal::run_unknown(run).into());
    }
    Ok(found)
}

/// Columns of `runs`: the line about a run, and the last event that was recorded after it.
macro_rules! line {
    () => {
        "info, (SELECT ifnull(body, (SELECT CAST(content AS TEXT) FROM blobs WHERE hash = blob)) FROM events
                WHERE place > (n << 32) + runs.seq AND place < (n + 1) << 32 ORDER BY place DESC LIMIT 1)"
    };
}

/// Reads what [`line!`] selects, from column `at` on.
fn line(row: &Row<'_>, at: usize) -> Result<RunInfo, Fault> {
    let mut info: RunInfo = parse(row.get_ref(at)?.as_str().map_err(rusqlite::Error::from)?)?;
    if let Some(last) = row.get_ref(at + 1)?.as_str_or_null().map_err(rusqlite::Error::from)? {
        let last: Last = parse(last)?;
        (info.seq, info.updated_at_ms) = (last.seq, last.at_ms);
    }
    Ok(info)
}

/// What of an event is in the line about its run.
#[derive(Deserialize)]
struct Last {
    seq: u64,
    at_ms: u64,
}

pub(super) fn run(conn: &Connection, run: &RunId) -> Result<Option<RunInfo>, Fault> {
    let mut find = conn.prepare_cached(concat!("SELECT ", line!(), " FROM runs WHERE run_id = ?1"))?;
    let mut rows = find.query([run.as_str()])?;
    rows.next()?.map(|row| line(row, 0)).transpose()
}

pub(super) fn runs(conn: &Connection, filter: &RunFilter) -> Result<Vec<RunInfo>, Fault> {
    let mut values: Vec<&dyn ToSql> = Vec::new();
    let mut conditions = String::from("TRUE");
    let (thread, parent) = (filter.thread.as_ref().map(ThreadId::as_str), filter.parent.as_ref().map(RunId::as_str));
    let (thread, parent) = (thread.as_ref(), parent.as_ref());
    let columns: [(&str, Option<&dyn ToSql>); 3] = [
        ("agent", filter.agent.as_ref().map(|agent| agent as _)),
        ("thread", thread.map(|thread| thread as _)),
        ("parent", parent.map(|parent| parent as _)),
    ];
    for (column, value) in columns {
        if let Some(value) = value {
            values.push(value);
            conditions += &format!(" AND {column} = ?{}", values.len());
        }
    }
    let mut statuses: Vec<&str> = filter.status.iter().map(|status| status.as_str()).collect();
    statuses.sort_unstable();
    statuses.dedup();
    // A select for each status, merged: each walks its index from the newest on and stops early. One `IN` would sort them all.
    let select = |status: String| format!("SELECT n, {} FROM runs WHERE {conditions}{status}", line!());
    let mut selects: Vec<String> = Vec::new();
    for status in &statuses {
        values.push(status);
        selects.push(select(format!(" AND status = ?{}", values.len())));
    }
    if selects.is_empty() {
        selects.push(select(String::new()));
    }
    // What no column tells is looked at row by row, and only then counted.
    let (limit, offset) = (filter.limit.unwrap_or(100) as usize, filter.offset.unwrap_or(0) as usize);
    let times = [filter.created_from_ms, filter.created_until_ms, filter.quiet_since_ms];
    let is_plain = filter.kind.is_none() && !filter.top && filter.metadata.is_empty() && times == [None; 3];
    let paged = if is_plain { format!(" LIMIT {limit} OFFSET {offset}") } else { String::new() };
    let sql = format!("{} ORDER BY n DESC{paged}", selects.join(" UNION ALL "));
    // Not cached: there are many of these, and listing is rare.
    let mut find = conn.prepare(&sql)?;
    let mut rows = find.query(&*values)?;
    let mut found = Vec::new();
    let mut skip = if is_plain { 0 } else { offset };
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        let info = line(row, 1)?;
        match is_plain || filter.admits(&info) {
            true if skip > 0 => skip -= 1,
            true => found.push(info),
            false => {}
        }
    }
    Ok(found)
}

pub(super) fn thread(conn: &Connection, thread: &ThreadId) -> Result<Option<ThreadInfo>, Fault> {
    let mut find = conn.prepare_cached(
        "SELECT thread, resource, active_run, messages, created_at_ms, updated_at_ms FROM threads WHERE thread = ?1",
    )?;
    Ok(find.query_row([thread.as_str()], thread_info).optional()?)
}

pub(super) fn threads(
    conn: &Connection,
    resource: Option<&str>,
    offset: usize,
    limit: usize,
) -> Result<Vec<ThreadInfo>, Fault> {
    let (limit, offset) = (stored(limit as u64), stored(offset as u64));
    let infos = match resource {
        Some(resource) => {
            let mut find = conn.prepare_cached(
                "SELECT thread, resource, active_run, messages, created_at_ms, updated_at_ms FROM threads
                 WHERE resource = ?1 ORDER BY updated_at_ms DESC, thread LIMIT ?2 OFFSET ?3",
            )?;
            find.query_map(params![resource, limit, offset], thread_info)?.collect::<rusqlite::Result<_>>()
        }
        None => {
            let mut find = conn.prepare_cached(
                "SELECT thread, resource, active_run, messages, created_at_ms, updated_at_ms FROM threads
                 ORDER BY updated_at_ms DESC, thread LIMIT ?1 OFFSET ?2",
            )?;
            find.query_map(params![limit, offset], thread_info)?.collect::<rusqlite::Result<_>>()
        }
    };
    Ok(infos?)
}

fn thread_info(row: &Row<'_>) -> rusqlite::Result<ThreadInfo> {
    let thread = ThreadId::from(row.get::<_, String>(0)?);
    let mut info = ThreadInfo::new(thread, row.get(1)?, natural(row.get(4)?));
    info.active_run = row.get::<_, Option<String>>(2)?.map(RunId::from);
    info.messages = natural(row.get(3)?);
    info.updated_at_ms = natural(row.get(5)?);
    Ok(info)
}

pub(super) fn messages(
    conn: &Connection,
    thread: &ThreadId,
    from: u64,
    limit: usize,
) -> Result<Vec<Arc<Message>>, Fault> {
    let mut find = conn.prepare_cached(
        "SELECT body, content FROM messages LEFT JOIN blobs ON hash = blob
         WHERE thread = (SELECT n FROM threads WHERE thread = ?1) AND position >= ?2 ORDER BY position LIMIT ?3",
    )?;
    bodies(find.query(params![thread.as_str(), stored(from), stored(limit as u64)])?)
}

pub(super) fn value(conn: &Connection, space: &str, key: &str) -> Result<Option<Value>, Fault> {
    let found = text(conn, "SELECT value FROM key_values WHERE space = ?1 AND key = ?2", [space, key])?;
    found.map(|value| parse(&value)).transpose()
}

pub(super) fn keys(conn: &Connection, space: &str, prefix: &str) -> Result<Vec<String>, Fault> {
    // No LIKE: it has wildcards and folds case.
    let mut find = conn.prepare_cached("SELECT key FROM key_values WHERE space = ?1 AND key >= ?2 ORDER BY key")?;
    let mut rows = find.query([space, prefix])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        if !key.starts_with(prefix) {
            break;
        }
        keys.push(key);
    }
    Ok(keys)
}

pub(super) fn blob(conn: &Connection, hash: &str) -> Result<Option<Arc<[u8]>>, Fault> {
    let mut find = conn.prepare_cached("SELECT content FROM blobs WHERE hash = ?1")?;
    let found = find.query_row([hash], |row| Ok(row.get_ref(0)?.as_blob()?.into()));
    Ok(found.optional()?)
}

fn text(conn: &Connection, sql: &str, params: impl Params) -> Result<Option<String>, Fault> {
    Ok(conn.prepare_cached(sql)?.query_row(params, |row| row.get(0)).optional()?)
}

/// JSON from the columns `body` and `content`, whichever has it.
fn bodies<T: DeserializeOwned>(mut rows: rusqlite::Rows<'_>) -> Result<Vec<T>, Fault> {
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(body(row)?);
    }
    Ok(found)
}

fn body<T: DeserializeOwned>(row: &Row<'_>) -> Result<T, Fault> {
    let (body, content) = (row.get_ref(0)?, row.get_ref(1)?);
    let json = match body.as_bytes_or_null().map_err(rusqlite::Error::from)? {
        Some(json) => json,
        None => content
            .as_bytes()
            .map_err(|_| Fault::Garbled("the content of a large event or message is missing".into()))?,
    };
    serde_json::from_slice(json).map_err(garbled)
}

fn parse<T: DeserializeOwned>(json: &str) -> Result<T, Fault> {
    serde_json::from_str(json).map_err(garbled)
}

fn garbled(error: serde_json::Error) -> Fault {
    Fault::Garbled(format!("a row does not read: {error}"))
}
