//! Which engine may write which run.

use lomusai_core::storage::refusal;
use lomusai_wire::RunId;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::fault::Fault;
use super::schema::{natural, stored};

pub(super) fn claim(conn: &Connection, run: &RunId, owner: &str, now_ms: u64) -> Result<u64, Fault> {
    let mut find = conn.prepare_cached(
        "SELECT runs.n, runs.epoch, runs.owner, owners.until_ms
         FROM runs LEFT JOIN owners ON owners.owner = runs.owner WHERE run_id = ?1",
    )?;
    let found = find.query_row([run.as_str()], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<String>>(2)?, row.get(3)?))
    });
    let (n, epoch, holder, until_ms): (_, _, _, Option<i64>) =
        found.optional()?.ok_or_else(|| refusal::run_unknown(run))?;
    let alive = until_ms.is_some_and(|until| until >= stored(now_ms));
    if let Some(holder) = holder.filter(|holder| holder != owner && alive) {
        return Err(refusal::run_active(run, &holder).into());
    }
    let mut take = conn.prepare_cached("UPDATE runs SET owner = ?2, epoch = ?3 WHERE n = ?1")?;
    take.execute(params![n, owner, epoch + 1])?;
    Ok(natural(epoch + 1))
}

pub(super) fn heartbeat(conn: &Connection, owner: &str, until_ms: u64) -> Result<(), Fault> {
    let mut beat = conn.prepare_cached("INSERT OR REPLACE INTO owners (owner, until_ms) VALUES (?1, ?2)")?;
    beat.execute(params![owner, stored(until_ms)])?;
    Ok(())
}

pub(super) fn release(conn: &Connection, run: &RunId, epoch: u64) -> Result<(), Fault> {
    let mut release = conn.prepare_cached("UPDATE runs SET owner = NULL WHERE run_id = ?1 AND epoch = ?2")?;
    release.execute(params![run.as_str(), stored(epoch)])?;
    Ok(())
}

pub(super) fn retire(conn: &Connection, owner: &str) -> Result<(), Fault> {
    conn.prepare_cached("DELETE FROM owners WHERE owner = ?1")?.execute([owner])?;
    conn.prepare_cached("UPDATE runs SET owner = NULL WHERE owner = ?1")?.execute([owner])?;
    Ok(())
}
