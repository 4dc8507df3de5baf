//! What workflows cost: a step in memory and in a store, a fan of a thousand items, runs that wait, and what a store takes.

// Printing is what this program does.
#![allow(clippy::print_stdout)]

use lomusai::stores::Store;
use lomusai::stores::sqlite::{SqliteOptions, SqliteStore, Sync};
use lomusai::{Engine, Result};
use lomusai_benches::flows::{STEPS, TemporaryStore, engine, run_chain, run_fan, run_waits};
use lomusai_benches::{Counting, cpu_us, memory_kb, now, print_case, print_count, print_wall};
use rusqlite::{Connection, params};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs of a chain that are measured together; the best of [`BATCHES`] counts.
const RUNS: u64 = 200;
const BATCHES: u64 = 10;
/// Runs at once, where commits are to come in groups.
const AT_ONCE: u64 = 50;
const SUSPENDED: u64 = 10_000;
const FINISHED: u64 = 100_000;

/// What is measured together, so that it can be measured alone.
type Part = (&'static str, fn() -> Result<()>);

fn main() -> Result<()> {
    let only = std::env::args().nth(1);
    let parts: [Part; 4] = [("memory", in_memory), ("durable", durable), ("suspended", suspended), ("open", open)];
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    parts.into_iter().filter(|(part, _)| wanted(part)).try_for_each(|(_, measure)| measure())
}

/// Of one unit: the least CPU time and the least time by the clock of several batches, and the allocations of the last.
struct Cost {
    us: f64,
    wall_us: f64,
    allocations: f64,
}

fn best(units: u64, mut batch: impl FnMut() -> Result<()>) -> Result<Cost> {
    let (mut us, mut wall_us, mut allocations) = (f64::INFINITY, f64::INFINITY, 0);
    for _ in 0..BATCHES {
        let (cpu, wall, asked) = (cpu_us(), now(), Counting::allocations());
        batch()?;
        us = us.min(cpu_us() - cpu);
        wall_us = wall_us.min(wall.elapsed().as_secs_f64() * 1e6);
        allocations = Counting::allocations() - asked;
    }
    let units = units as f64;
    Ok(Cost { us: us / units, wall_us: wall_us / units, allocations: allocations as f64 / units })
}

fn chains(engine: &Engine, name: &'static str, steps: u64, runs: u64) -> Result<()> {
    on(engine, async move |engine| {
        for _ in 0..runs {
            run_chain(&engine, name, steps).await?;
        }
        Ok(())
    })
}

/// Does this on the engine's own threads.
fn on<F: Future<Output = Result<()>> + Send + 'static>(engine: &Engine, work: impl FnOnce(Engine) -> F) -> Result<()> {
    engine.block_on(work(engine.clone()))?
}

/// Runs of a chain at once, so many in all.
fn at_once(engine: &Engine, name: &'static str, steps: u64, lanes: u64, runs: u64) -> Result<()> {
    on(engine, async move |engine| {
        let lane = |_| async {
            for _ in 0..runs / lanes {
                run_chain(&engine, name, steps).await?;
            }
            Ok(())
        };
        futures_util::future::try_join_all((0..lanes).map(lane)).await.map(drop)
    })
}

fn in_memory() -> Result<()> {
    let engine = engine(None, Some(1))?;
    let units = RUNS * STEPS;
    let say = |case: &str, units, cost: Cost| {
        print_case(case, units, cost.us * units as f64);
        print_count(&format!("{case}: allocations"), cost.allocations);
    };
    say("step, run of 10", units, best(units, || chains(&engine, "bare", STEPS, RUNS))?);
    say("step, run of 10, with schemas", units, best(units, || chains(&engine, "chain", STEPS, RUNS))?);
    say("step, run of 100", units, best(units, || chains(&engine, "bare-long", 10 * STEPS, RUNS / 10))?);
    say(
        "fan of 1,010 steps",
        5,
        best(5, || {
            on(&engine, async |engine| {
                for _ in 0..5 {
                    run_fan(&engine).await?;
                }
                Ok(())
            })
        })?,
    );
    Ok(())
}

fn durable() -> Result<()> {
    // What waits for a disk is measured less often.
    for (sync, name, runs) in [(Sync::Normal, "normal", RUNS), (Sync::Full, "full", AT_ONCE)] {
        let kept = TemporaryStore::new(sync)?;
        let engine = engine(Some(kept.store.clone()), Some(1))?;
        let units = runs * STEPS;
        let before = stored_bytes(&kept);
        let one = best(units, || chains(&engine, "bare", STEPS, runs))?;
        let one_wall_us = one.wall_us;
        let grown = (stored_bytes(&kept) - before) as f64 / (units * BATCHES) as f64;
        let many = best(units, || at_once(&engine, "bare", STEPS, AT_ONCE, runs))?;
        let case = format!("durable step, sync {name}");
        for (case, cost) in [(case.clone(), one), (format!("{case}, {AT_ONCE} runs at once"), many)] {
            print_case(&case, units, cost.us * units as f64);
            print_wall(&case, cost.wall_us);
            print_count(&format!("{case}: allocations"), cost.allocations);
        }
        print_count(&format!("{case}: bytes of the file"), grown);
        let raw = raw(&kept, sync, runs)?;
        let case = format!("the same as raw SQLite, sync {name}");
        print_case(&case, units, raw.us * units as f64);
        print_wall(&case, raw.wall_us);
        print_count(&format!("durable step, sync {name}, times raw SQLite by the clock"), one_wall_us / raw.wall_us);
    }
    Ok(())
}

/// The rows of the store's last run, written again for other runs by nothing but SQLite: a transaction wherever the store made one, into the
/// store's own tables.
fn raw(kept: &TemporaryStore, sync: Sync, runs: u64) -> Result<Cost> {
    let conn = connect(kept);
    conn.pragma_update(None, "synchronous", if sync == Sync::Full { "FULL" } else { "NORMAL" }).expect("a pragma");
    let (n, info): (i64, String) = conn
        .query_row("SELECT n, info FROM runs ORDER BY n DESC LIMIT 1", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("a run");
    let mut events =
        conn.prepare("SELECT body FROM events WHERE place >> 32 = ?1 ORDER BY place").expect("a statement");
    let events: Vec<String> =
        events.query_map([n], |row| row.get(0)).expect("rows").collect::<rusqlite::Result<_>>().expect("texts");
    assert_eq!(events.len() as u64, 2 * STEPS + 2, "a start, a start and an end of each step, an end");
    let write = || -> rusqlite::Result<()> {
        for run in 0..runs {
            let mut n = 0;
            for (group, events) in events.chunks(2).enumerate() {
                conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
                let seq = 2 * group as i64;
                if group == 0 {
                    let mut create = conn.prepare_cached(
                        "INSERT INTO runs (run_id, agent, status, seq, epoch, owner, info)
                         VALUES (?1 || (SELECT max(n) FROM runs), 'bare', 'running', 2, 1, 'owner', ?2)",
                    )?;
                    n = create.insert(params![format!("run_raw_{run:011x}_"), info])?;
                } else if group as u64 == STEPS {
                    let mut update = conn.prepare_cached(
                        "UPDATE runs SET status = 'completed', seq = ?2, info = ?3, owner = NULL WHERE n = ?1",
                    )?;
                    update.execute(params![n, seq + 2, info])?;
                }
                for (place, event) in (seq + 1..).zip(events) {
                    let mut append =
                        conn.prepare_cached("INSERT INTO events (place, body) VALUES ((?1 << 32) + ?2, ?3)")?;
                    append.execute(params![n, place, event])?;
                }
                conn.prepare_cached("COMMIT")?.execute([])?;
            }
        }
        Ok(())
    };
    best(runs * STEPS, || {
        write().expect("rows that fit");
        Ok(())
    })
}

fn connect(kept: &TemporaryStore) -> Connection {
    Connection::open(kept.folder().join("store.db")).expect("the store's file")
}

/// Bytes of the store's file, once what is in the log is in the file.
fn stored_bytes(kept: &TemporaryStore) -> u64 {
    connect(kept).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("a checkpoint");
    std::fs::metadata(kept.folder().join("store.db")).expect("the store's file").len()
}

fn suspended() -> Result<()> {
    let engine = engine(None, Some(2))?;
    on(&engine, async |engine| {
        for _ in 0..100 {
            run_waits(&engine).await?;
        }
        let before = memory_kb("VmRSS:");
        for _ in 0..SUSPENDED {
            run_waits(&engine).await?;
        }
        let grown = memory_kb("VmRSS:").saturating_sub(before) as f64 / 1024.0;
        print_count("10,000 suspended runs: MB", grown);
        Ok(())
    })
}

fn open() -> Result<()> {
    let kept = TemporaryStore::new(Sync::Normal)?;
    {
        let engine = engine(Some(kept.store.clone()), Some(1))?;
        at_once(&engine, "one", 1, 200, FINISHED)?;
    }
    let file = kept.folder().join("store.db");
    lomusai_core::testing::block_on(Store::close(&*kept.store))?;
    print_count(
        "store with 100,000 finished runs: MB",
        std::fs::metadata(&file).map_or(0, |file| file.len()) as f64 / 1e6,
    );
    let (cpu, wall) = (cpu_us(), now());
    let store = std::sync::Arc::new(SqliteStore::open(&file, SqliteOptions::default())?);
    let opened_us = wall.elapsed().as_secs_f64() * 1e6;
    let engine = engine(Some(store), Some(1))?;
    on(&engine, async |engine| engine.start().await.map(drop))?;
    let case = "store with 100,000 finished runs, opened and recovered";
    print_case(case, 1, cpu_us() - cpu);
    print_wall(case, wall.elapsed().as_secs_f64() * 1e6);
    print_wall("store with 100,000 finished runs, opened", opened_us);
    Ok(())
}
