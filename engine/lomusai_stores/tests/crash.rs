//! A process killed while it writes: every commit that was acknowledged is there, and no journal has a gap.
#![cfg(feature = "sqlite")]

mod kit;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use kit::{append, change, commit, info, messages, more, told, values};
use lomusai_core::storage::{KeyValue as _, Threads as _};
use lomusai_core::testing::block_on;
use lomusai_stores::sqlite::{SqliteOptions, SqliteStore};

const WRITERS: usize = 8;
const STORE: &str = "LOMUSAI_TEST_CRASH_STORE";
const ROUND: &str = "LOMUSAI_TEST_CRASH_ROUND";

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    if let Some(path) = std::env::var_os(STORE) {
        write_until_killed(Path::new(&path), &std::env::var(ROUND).unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let mut acknowledged = HashMap::new();
    // From the first commits on to a log that has been emptied a few times. Each round finds what the last left behind.
    for (round, commits) in [1, 20, 150, 400, 1_000].into_iter().enumerate() {
        acknowledged.extend(kill_after(commits, &path, round));
        check(&path, &acknowledged);
    }
}

/// Starts this program again to write, kills it after so many acknowledged commits, and gives the last of each run.
fn kill_after(commits: usize, path: &Path, round: usize) -> HashMap<String, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_process_loses_nothing_that_was_acknowledged", "--nocapture"])
        .envs([(STORE, path.as_os_str()), (ROUND, round.to_string().as_ref())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = HashMap::new();
    let mut count = 0;
    // Lines that were in the pipe when it died count as well: they had been said.
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some((run, seq)) = line.strip_prefix("ack ").and_then(|line| line.split_once(' ')) else { continue };
        acknowledged.insert(run.to_owned(), seq.parse().unwrap());
        count += 1;
        if count == commits {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success() && count >= commits, "{count} commits");
    acknowledged
}

/// Each writer appends two events, a message and a value at a time, and says so.
fn write_until_killed(path: &Path, round: &str) -> ! {
    let store = SqliteStore::open(path, SqliteOptions::default()).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (run, store) = (format!("r{round}.{writer}"), &store);
            scope.spawn(move || {
                for seq in (0..).step_by(2) {
                    let large = "x".repeat(if seq % 10 == 0 { 70_000 } else { 500 });
                    let mut batch = change(&run, seq, |thread| thread.append = messages(&[&large]));
                    // The line about the run is written with every other commit.
                    let append = if seq % 4 == 0 { append } else { more };
                    batch.run = Some(append(&run, seq, &["x", &large]));
                    batch.values = values(&[("last", &run, Some((seq + 2).into()))]).values;
                    commit(store, batch);
                    // One write, so that the lines of threads do not mix.
                    std::io::stdout().write_all(format!("ack {run} {}\n", seq + 2).as_bytes()).unwrap();
                }
            });
        }
    });
    unreachable!("writers do not end")
}

fn check(path: &Path, acknowledged: &HashMap<String, u64>) {
    let store = SqliteStore::open(path, SqliteOptions::default()).unwrap();
    for (run, &seq) in acknowledged {
        let line = info(&store, run).unwrap_or_else(|| panic!("{run} is lost"));
        assert!(line.seq >= seq, "{run}: {seq} was acknowledged, {} is there", line.seq);
        // `told` looks for gaps. What was written together is there together.
        assert_eq!(told(&store, run, 0, usize::MAX).len() as u64, line.seq);
        assert_eq!(block_on(store.get("last", run)).unwrap(), Some(line.seq.into()));
        let thread = block_on(store.thread(&run.as_str().into())).unwrap().unwrap();
        let messages = block_on(store.messages(&thread.thread, 0, usize::MAX)).unwrap();
        assert_eq!((thread.messages, messages.len() as u64), (line.seq / 2, line.seq / 2));
    }
    drop(store);
    let conn = rusqlite::Connection::open(path).unwrap();
    let verdict: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
}
