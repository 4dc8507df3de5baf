//! A disk that fails at each write in turn, and one that loses what was not synced: what was acknowledged is there, and what is there is a
//! state that the store had.
#![cfg(all(feature = "sqlite", target_os = "linux"))]

#[path = "../kit/mod.rs"]
mod kit;
mod vfs;

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use kit::{append, change, info, messages, more, told, values};
use lomusai_core::Result;
use lomusai_core::storage::{KeyValue as _, Store as _, Threads as _};
use lomusai_core::testing::block_on;
use lomusai_stores::sqlite::{SqliteOptions, SqliteStore, Sync};
use lomusai_wire::codes;
use vfs::{Disk, Fault};

/// Commits of a workload; they are numbered from 1, and those before are there from the start.
const BEFORE: u64 = 3;
const COMMITS: u64 = 9;
const RUNS: u64 = 3;

fn open(folder: &Path, sync: Sync) -> Result<SqliteStore> {
    let options = SqliteOptions { sync, busy_timeout: Duration::from_millis(50), readers: 1 };
    SqliteStore::open(folder.join("s.db"), options)
}

/// Commit `n`: two events of one of the runs, a message, and the commit's number, all in one.
fn batch(n: u64) -> lomusai_core::storage::Batch {
    let run = format!("r{}", n % RUNS);
    // Those of this run before.
    let behind = (1..n).filter(|before| before % RUNS == n % RUNS).count() as u64 * 2;
    let mut batch = change(&run, n, |thread| thread.append = messages(&["said"]));
    // Now and then more than a page.
    let text = "x".repeat(if n.is_multiple_of(4) { 9_000 } else { 100 });
    // The line about the run is written with every other commit.
    let append = if behind.is_multiple_of(4) { append } else { more };
    batch.run = Some(append(&run, behind, &["x", &text]));
    batch.values = values(&[("last", "commit", Some(n.into()))]).values;
    batch
}

/// A folder with the first commits in it.
fn prepared() -> tempfile::TempDir {
    static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), Sync::Full).unwrap();
        (1..=BEFORE).for_each(|n| kit::commit(&store, batch(n)));
        block_on(store.close()).unwrap();
        std::fs::read(folder.path().join("s.db")).unwrap()
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("s.db"), &*FILE).unwrap();
    folder
}

/// Opens, commits, closes. Gives the commits that were acknowledged; where one fails, it is tried again once.
fn work(folder: &Path, sync: Sync) -> u64 {
    let fits = |error: &lomusai_core::Error| {
        let codes = [codes::STORE_FAILED, codes::STORE_FULL, codes::STORE_LOCKED, codes::STORE_READ_ONLY];
        assert!(codes.iter().any(|code| error.is(*code)), "{error:?}");
        assert_eq!(error.body().details["path"], folder.join("s.db").display().to_string(), "{error:?}");
    };
    let store = match open(folder, sync) {
        Ok(store) => store,
        Err(error) => {
            fits(&error);
            return BEFORE;
        }
    };
    let mut acknowledged = BEFORE;
    'commits: for n in BEFORE + 1..=COMMITS {
        for _ in 0..2 {
            match block_on(store.commit(batch(n))) {
                Ok(()) => {
                    acknowledged = n;
                    continue 'commits;
                }
                // To this process what failed is not there.
                Err(error) if error.is(codes::SEQUENCE_CONFLICT) => panic!("commit {n} was refused and is there"),
                Err(error) => fits(&error),
            }
        }
        break;
    }
    let _ = block_on(store.close());
    acknowledged
}

/// The number of the last commit that is there, once all is found to be as after that commit.
fn whole(folder: &Path) -> u64 {
    let store = open(folder, Sync::Full).unwrap();
    let last = block_on(store.get("last", "commit")).unwrap().map_or(0, |last| last.as_u64().unwrap());
    for run in 0..RUNS {
        let (name, commits) = (format!("r{run}"), (1..=last).filter(|n| n % RUNS == run).count());
        assert_eq!(info(&store, &name).map_or(0, |line| line.seq), commits as u64 * 2, "{name}, after commit {last}");
        if commits > 0 {
            // `told` looks for gaps.
            assert_eq!(told(&store, &name, 0, usize::MAX).len(), commits * 2);
            assert_eq!(block_on(store.messages(&name.as_str().into(), 0, usize::MAX)).unwrap().len(), commits);
        }
    }
    block_on(store.close()).unwrap();
    let conn = rusqlite::Connection::open(folder.join("s.db")).unwrap();
    let verdict: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    last
}

/// How often the disk is touched when nothing fails.
fn touches(sync: Sync) -> u64 {
    let folder = prepared();
    let disk = Disk::under(folder.path());
    assert_eq!(work(folder.path(), sync), COMMITS);
    disk.take_away();
    assert_eq!(whole(folder.path()), COMMITS);
    disk.touched()
}

/// Has this happen at each touch in turn. Gives how often it came to a commit that was not acknowledged.
fn at_each(sync: Sync, fault: Fault) -> u64 {
    let mut unlucky = 0;
    for at in 1..=touches(sync) {
        let folder = prepared();
        let disk = Disk::under(folder.path());
        disk.fail(at, fault);
        let acknowledged = work(folder.path(), sync);
        disk.take_away();
        let there = whole(folder.path());
        // A commit whose last word failed may have reached the log all the same, and be found there by the next process.
        let most = acknowledged + 1;
        assert!(
            (acknowledged..=most).contains(&there),
            "{fault:?} at touch {at}: {acknowledged} were said, {there} are there"
        );
        unlucky += u64::from(acknowledged < COMMITS);
    }
    unlucky
}

#[test]
fn a_failing_write_loses_nothing_that_was_acknowledged() {
    for sync in [Sync::Full, Sync::Normal] {
        at_each(sync, Fault::Fails);
    }
}

#[test]
fn a_short_write_loses_nothing_that_was_acknowledged() {
    for sync in [Sync::Full, Sync::Normal] {
        at_each(sync, Fault::Short);
    }
}

#[test]
fn a_torn_write_loses_nothing_that_was_acknowledged() {
    for sync in [Sync::Full, Sync::Normal] {
        assert!(at_each(sync, Fault::Torn) > 0, "no process came to its end");
    }
}

#[test]
fn a_disk_that_is_full_for_a_while_loses_nothing_that_was_acknowledged() {
    for sync in [Sync::Full, Sync::Normal] {
        assert!(at_each(sync, Fault::Full(6)) > 0, "no commit was refused");
    }
}

/// Cuts the power at each touch in turn. Gives how often an acknowledged commit was lost.
fn power_cuts(sync: Sync) -> u64 {
    let mut lost = 0;
    // From what the fault finds in the way: sectors that were written all the same.
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    let mut toss = move || {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice & 1 == 0
    };
    // One more than there are: the power goes once all is closed.
    for at in 1..=touches(sync) + 1 {
        for kept in [Some(false), Some(true), None, None] {
            let folder = prepared();
            let disk = Disk::under(folder.path());
            disk.fail(at, Fault::PowerCut);
            let acknowledged = work(folder.path(), sync);
            disk.take_away();
            disk.lose_power(|| kept.unwrap_or_else(&mut toss));
            let there = whole(folder.path());
            assert!(
                (BEFORE..=acknowledged + 1).contains(&there),
                "touch {at}: {acknowledged} were said, {there} are there"
            );
            lost += u64::from(there < acknowledged);
        }
    }
    lost
}

#[test]
fn full_loses_nothing_in_a_power_cut() {
    assert_eq!(power_cuts(Sync::Full), 0);
}

#[test]
fn normal_may_lose_the_last_commits_in_a_power_cut_and_is_an_earlier_state_then() {
    // `whole` has looked at each: it is this that tells the two modes from one another.
    assert!(power_cuts(Sync::Normal) > 0, "what is the difference between normal and full?");
}
