//! Journals of runs that have ended, in less room: their events lie together, compressed, and read as before.

use lomusai_core::storage::Compaction;
use lomusai_wire::{RunInfo, RunStatus};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::fault::Fault;
use super::schema::{LAST_RUN, of_run, stored};

/// So much JSON lies together, in bytes: what is unpacked for one event.
const TOGETHER: usize = 256 * 1024;

/// Packs runs that ended before `ended_before_ms`, at most `limit` of them, looking from the run after `from` on.
pub(super) fn compact(conn: &Connection, ended_before_ms: u64, from: u64, limit: usize) -> Result<Compaction, Fault> {
    let mut runs = 0;
    let mut n = stored(from.min(LAST_RUN));
    for _ in 0..limit {
        // From one run to the next over the key. A journal that is packed is not met: only large events lie here still.
        let mut next =
            conn.prepare_cached("SELECT place >> 32 FROM events WHERE place >= (?1 + 1) << 32 ORDER BY place LIMIT 1")?;
        let Some(found) = next.query_row([n], |row| row.get(0)).optional()? else {
            return Ok(Compaction { runs, next: None });
        };
        n = found;
        runs += usize::from(has_ended(conn, n, ended_before_ms)? && pack_run(conn, n)?);
    }
    Ok(Compaction { runs, next: u64::try_from(n).ok() })
}

fn has_ended(conn: &Connection, n: i64, before_ms: u64) -> Result<bool, Fault> {
    let mut find = conn.prepare_cached("SELECT info FROM runs WHERE n = ?1")?;
    let info = find.query_row([n], |row| row.get::<_, String>(0)).optional()?;
    // A status that this version does not know is none that has ended.
    Ok(info
        .and_then(|info| serde_json::from_str::<RunInfo>(&info).ok())
        .is_some_and(|info| RunStatus::is_final(info.status) && info.updated_at_ms < before_ms))
}

/// Packs the events of a run that lie in rows. `false` where all that do are large: these have a place of their own.
fn pack_run(conn: &Connection, n: i64) -> Result<bool, Fault> {
    let mut find = conn.prepare_cached(concat!(
        "SELECT place & 4294967295, body FROM events WHERE ",
        of_run!("?1"),
        " AND body IS NOT NULL ORDER BY place"
    ))?;
    let mut rows = find.query([n])?;
    let mut open: Option<Lines> = None;
    let mut any = false;
    while let Some(row) = rows.next()? {
        let (seq, body) = (row.get(0)?, row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?);
        match &mut open {
            Some(lines) if lines.last + 1 == seq && lines.text.len() + body.len() < TOGETHER => lines.add(seq, body),
            _ => {
                any = true;
                if let Some(full) = open.replace(Lines::new(seq, body)) {
                    full.write(conn, n)?;
                }
            }
        }
    }
    if let Some(last) = open {
        last.write(conn, n)?;
    }
    let delete = concat!("DELETE FROM events WHERE ", of_run!("?1"), " AND body IS NOT NULL");
    conn.prepare_cached(delete)?.execute([n])?;
    Ok(any)
}

/// Events that follow one another, one line of JSON each.
struct Lines {
    first: i64,
    last: i64,
    text: String,
}

impl Lines {
    fn new(seq: i64, body: &str) -> Self {
        let mut lines = Self { first: seq, last: seq, text: String::new() };
        lines.add(seq, body);
        lines
    }

    fn add(&mut self, seq: i64, body: &str) {
        self.last = seq;
        self.text.push_str(body);
        self.text.push('\n');
    }

    fn write(&self, conn: &Connection, n: i64) -> Result<(), Fault> {
        let mut write = conn.prepare_cached("INSERT INTO packed (run, first, last, lines) VALUES (?1, ?2, ?3, ?4)")?;
        let lines = lz4_flex::compress_prepend_size(self.text.as_bytes());
        write.execute(params![n, self.first, self.last, lines])?;
        Ok(())
    }
}

/// The lines that were packed, one event each.
pub(super) fn unpacked(lines: &[u8]) -> Result<Vec<u8>, Fault> {
    let garbled = |why: String| Fault::Garbled(format!("packed events do not unpack: {why}"));
    let size = lines.first_chunk().map_or(usize::MAX, |size| u32::from_le_bytes(*size) as usize);
    // Before so much is allocated as a damaged file asks for. The last event may have been as large as a row may be.
    if size > 2 * TOGETHER {
        return Err(garbled(format!("{size} bytes are too many")));
    }
    lz4_flex::decompress_size_prepended(lines).map_err(|error| garbled(error.to_string()))
}
