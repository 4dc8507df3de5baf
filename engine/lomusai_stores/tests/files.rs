//! Files that are not as they should be: each gives the code that says what to do, names the path, and is left as it was.
#![cfg(feature = "sqlite")]

mod kit;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kit::{append, append_as, change, commit, messages, of, told};
use lomusai_core::Error;
use lomusai_core::storage::{Journal as _, KeyValue as _, Store as _};
use lomusai_core::testing::block_on;
use lomusai_stores::sqlite::{SqliteOptions, SqliteStore, Sync};
use lomusai_wire::{Code, RunStatus, codes};
use rusqlite::Connection;

/// A folder for one test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A store with one run in it, closed.
    fn store(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let store = open(&path);
        commit(&store, of(append("r", 0, &["1", "2"])));
        path
    }
}

fn options() -> SqliteOptions {
    SqliteOptions { busy_timeout: Duration::from_millis(100), ..SqliteOptions::default() }
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, options()).unwrap()
}

#[track_caller]
fn refused(code: Code, path: &Path) -> Error {
    let error = SqliteStore::open(path, options()).unwrap_err();
    named(code, path, error)
}

#[track_caller]
fn named(code: Code, path: &Path, error: Error) -> Error {
    assert!(error.is(code), "expected {}, was {error:?}", code.name);
    let path = path.display().to_string();
    assert!(error.body().message.contains(&path), "{error}");
    assert_eq!(error.body().details["path"], path);
    error
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let folder = Folder::new();
    let path = folder.store("s.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&path).unwrap();
    let error = refused(codes::STORE_NEWER, &path);
    assert_eq!((&error.body().details["found"], &error.body().details["known"]), (&99.into(), &5.into()));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_text_file_is_no_store() {
    let folder = Folder::new();
    let path = folder.path("s.db");
    for text in ["x", "Dear diary", &"Dear diary, ".repeat(10_000)] {
        fs::write(&path, text).unwrap();
        refused(codes::STORE_CORRUPT, &path);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn another_program_s_database_is_no_store() {
    let folder = Folder::new();
    let path = folder.path("s.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE recipes (name TEXT)").unwrap();
    let before = fs::read(&path).unwrap();
    refused(codes::STORE_CORRUPT, &path);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_truncated_store_is_refused() {
    let folder = Folder::new();
    let whole = fs::read(folder.store("whole.db")).unwrap();
    let path = folder.path("s.db");
    for length in [1, 15, 16, 50, 99, 100, 512, 4_096, 5_000, whole.len() / 2] {
        fs::write(&path, &whole[..length]).unwrap();
        refused(codes::STORE_CORRUPT, &path);
        assert_eq!(fs::read(&path).unwrap(), &whole[..length], "{length}");
    }
}

#[test]
fn a_damaged_page_is_an_error_where_it_is_read() {
    let folder = Folder::new();
    let path = folder.store("s.db");
    let mut bytes = fs::read(&path).unwrap();
    bytes[4_096..].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let Err(error) = SqliteStore::open(&path, options()).and_then(|store| block_on(store.get("s", "k"))) else {
        panic!("damage was not noticed")
    };
    named(codes::STORE_CORRUPT, &path, error);
}

#[test]
fn an_event_that_does_not_read_is_damage() {
    let folder = Folder::new();
    let path = folder.store("s.db");
    Connection::open(&path)
        .unwrap()
        .execute("UPDATE events SET body = '{\"seq\":' WHERE place & 4294967295 = 2", [])
        .unwrap();
    let store = open(&path);
    use lomusai_core::storage::Journal as _;
    named(codes::STORE_CORRUPT, &path, block_on(store.events(&"r".into(), 0, 9)).unwrap_err());
    assert_eq!(told(&store, "r", 0, 1), ["1"]);
}

#[test]
fn an_empty_file_becomes_a_store() {
    let folder = Folder::new();
    let path = folder.path("s.db");
    fs::write(&path, "").unwrap();
    commit(&open(&path), of(append("r", 0, &["1"])));
    assert_eq!(told(&open(&path), "r", 0, 9), ["1"]);
}

#[test]
fn a_missing_folder_is_named() {
    let folder = Folder::new();
    let path = folder.path("missing").join("s.db");
    let error = refused(codes::STORE_FAILED, &path);
    let missing = format!("create `{}` first", folder.path("missing").display());
    assert!(error.body().message.contains(&missing), "{error}");
}

#[test]
fn a_folder_is_no_store() {
    let folder = Folder::new();
    let error = refused(codes::STORE_FAILED, folder.0.path());
    assert!(error.body().message.contains("is a folder"), "{error}");
}

#[test]
fn a_path_that_names_no_file_is_an_argument_to_correct() {
    for path in ["", ":memory:"] {
        let error = SqliteStore::open(path, options()).unwrap_err();
        assert!(error.is(codes::ARGUMENT_INVALID), "{error:?}");
    }
}

#[test]
fn odd_names_are_names_of_files() {
    let folder = Folder::new();
    // The last begins like the names that SQLite reads as something else.
    for name in ["with space.db", "ключ?.db", "a%20b#c.db", "file:s.db?mode=memory"] {
        let path = folder.path(name);
        commit(&open(&path), of(append("r", 0, &["1"])));
        assert!(path.is_file(), "{name}");
        assert_eq!(told(&open(&path), "r", 0, 9), ["1"]);
    }
}

#[test]
fn a_file_locked_by_another_program_may_be_tried_again() {
    let folder = Folder::new();
    let path = folder.store("s.db");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; PRAGMA user_version = 5; COMMIT").unwrap();
    let error = refused(codes::STORE_LOCKED, &path);
    assert!(error.is_retryable());
    drop(other);
    open(&path);
}

#[test]
fn a_long_write_of_another_program_may_be_waited_for() {
    let folder = Folder::new();
    let path = folder.store("s.db");
    let store = open(&path);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Reading goes on.
    assert_eq!(told(&store, "r", 0, 9), ["1", "2"]);
    let error = block_on(store.commit(of(append("r", 2, &["3"])))).unwrap_err();
    assert!(named(codes::STORE_LOCKED, &path, error).is_retryable());
    other.execute_batch("COMMIT").unwrap();
    commit(&store, of(append("r", 2, &["3"])));
    assert_eq!(told(&store, "r", 0, 9), ["1", "2", "3"]);
}

#[test]
fn many_may_create_a_store_at_once() {
    let folder = Folder::new();
    let path = folder.path("s.db");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let path = &path;
            scope.spawn(move || {
                let options = SqliteOptions { sync: Sync::Full, ..SqliteOptions::default() };
                let store = SqliteStore::open(path, options).unwrap();
                commit(&store, of(append(&format!("r{n}"), 0, &["1"])));
            });
        }
    });
    let store = open(&path);
    assert!((0..8).all(|n| told(&store, &format!("r{n}"), 0, 9) == ["1"]));
}

#[test]
fn dropping_a_store_writes_what_is_queued() {
    let folder = Folder::new();
    let path = folder.path("s.db");
    let store = open(&path);
    let batches = (0..200).map(|n| of(append("r", n, &["x"])));
    batches.for_each(|batch| drop(store.commit(batch)));
    drop(store);
    assert_eq!(told(&open(&path), "r", 0, 999).len(), 200);
}

#[test]
fn a_closed_store_is_one_file() {
    let folder = Folder::new();
    let path = folder.path("s.db");
    let store = open(&path);
    commit(&store, of(append("r", 0, &["1"])));
    assert_eq!(told(&store, "r", 0, 9), ["1"]);
    block_on(store.close()).unwrap();
    let names: Vec<_> = fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["s.db"]);
}

#[test]
fn large_bodies_go_with_the_last_that_has_them() {
    let folder = Folder::new();
    let path = folder.path("s.db");
    let large = "x".repeat(100_000);
    let store = open(&path);
    commit(&store, of(append("r", 0, &["1", &large, "3"])));
    commit(&store, change("t", 1, |thread| thread.append = messages(&[&large])));
    commit(&store, change("u", 1, |thread| thread.append = messages(&[&large])));
    let blobs = || -> i64 {
        let reader = Connection::open(&path).unwrap();
        reader.query_row("SELECT count(*) FROM blobs", [], |row| row.get(0)).unwrap()
    };
    // Equal messages are kept once; the event differs from them.
    assert_eq!(blobs(), 2);
    use lomusai_core::storage::{Journal as _, Threads as _};
    block_on(store.delete_run(&"r".into())).unwrap();
    assert_eq!(blobs(), 1);
    block_on(store.delete_thread(&"t".into())).unwrap();
    assert_eq!(blobs(), 1);
    block_on(store.delete_thread(&"u".into())).unwrap();
    assert_eq!(blobs(), 0);
}

#[test]
fn listing_runs_walks_an_index() {
    let folder = Folder::new();
    let conn = Connection::open(folder.store("s.db")).unwrap();
    for (condition, index) in [
        ("status = 'failed'", "runs_by_status"),
        ("agent = 'a'", "runs_by_agent"),
        ("thread = 't'", "runs_by_thread"),
        ("parent = 'p'", "runs_by_parent"),
    ] {
        let sql =
            format!("EXPLAIN QUERY PLAN SELECT n, info FROM runs WHERE TRUE AND {condition} ORDER BY n DESC LIMIT 9");
        let mut plan = conn.prepare(&sql).unwrap();
        let plan: Vec<String> = plan.query_map([], |row| row.get(3)).unwrap().map(Result::unwrap).collect();
        assert!(plan.len() == 1 && plan[0].contains(index), "{plan:?}");
    }
}

/// Permissions do not bind root, so these tests run themselves again as an ordinary user.
#[cfg(unix)]
mod read_only {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    const NOBODY: u32 = 65_534;
    const FOLDER: &str = "LOMUSAI_TEST_READ_ONLY_FOLDER";

    fn permit(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Makes what `lay_out` makes belong to an ordinary user, and has that user `check` it.
    fn as_a_user(test: &str, lay_out: impl FnOnce(&Folder), check: impl FnOnce(&Path)) {
        if let Some(folder) = std::env::var_os(FOLDER) {
            return check(Path::new(&folder));
        }
        let folder = Folder::new();
        lay_out(&folder);
        if folder.0.path().metadata().unwrap().uid() != 0 {
            check(folder.0.path());
        } else {
            // This program may lie where that user cannot go.
            let home = Folder::new();
            let program = home.path("test");
            fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
            permit(home.0.path(), 0o755);
            for entry in fs::read_dir(folder.0.path()).unwrap() {
                chown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            chown(folder.0.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            let mut user = Command::new(program);
            user.args(["--exact", &format!("read_only::{test}")]).env(FOLDER, folder.0.path());
            let output = user.uid(NOBODY).gid(NOBODY).current_dir("/").output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
        }
        permit(folder.0.path(), 0o700);
    }

    #[test]
    fn a_read_only_file_is_refused() {
        as_a_user(
            "a_read_only_file_is_refused",
            |folder| permit(&folder.store("s.db"), 0o444),
            |folder| _ = refused(codes::STORE_READ_ONLY, &folder.join("s.db")),
        );
    }

    #[test]
    fn a_file_that_may_not_be_read_is_refused() {
        as_a_user(
            "a_file_that_may_not_be_read_is_refused",
            |folder| permit(&folder.store("s.db"), 0o000),
            |folder| _ = refused(codes::STORE_READ_ONLY, &folder.join("s.db")),
        );
    }

    #[test]
    fn a_read_only_folder_is_refused() {
        as_a_user(
            "a_read_only_folder_is_refused",
            |folder| {
                folder.store("old.db");
                permit(folder.0.path(), 0o555);
            },
            |folder| {
                refused(codes::STORE_READ_ONLY, &folder.join("new.db"));
                refused(codes::STORE_READ_ONLY, &folder.join("old.db"));
            },
        );
    }
}

#[cfg(unix)]
#[test]
fn a_forked_process_is_told_to_open_its_own() {
    let folder = Folder::new();
    let path = folder.path("s.db");
    let store = open(&path);
    commit(&store, of(append("r", 0, &["1"])));
    // SAFETY: the child uses only what needs no other thread, and ends without unwinding or running the parent's exit handlers.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = |result: Result<(), Error>| result.is_err_and(|error| error.is(codes::ENGINE_FORKED));
        let told = refused(block_on(store.commit(of(append("r", 1, &["2"])))))
            && refused(block_on(store.get("s", "k")).map(drop))
            && block_on(store.close()).is_ok();
        // Must not wait for threads that are not here.
        drop(store);
        // SAFETY: ends this process at once.
        unsafe { libc::_exit(if told { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above; `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    commit(&store, of(append("r", 1, &["2"])));
    assert_eq!(told(&store, "r", 0, 9), ["1", "2"]);
}

/// How many rows a table has.
fn rows(path: &Path, table: &str) -> i64 {
    let conn = Connection::open(path).unwrap();
    conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// A store with one run that has ended, its journal compacted; closed.
fn compacted(folder: &Folder) -> PathBuf {
    let path = folder.path("s.db");
    let store = open(&path);
    let says: Vec<String> = (0..1_000).map(|n| format!("event {n} of a run that says much the same")).collect();
    let says: Vec<&str> = says.iter().map(String::as_str).collect();
    commit(&store, of(append_as(RunStatus::Completed, "r", 0, &says)));
    commit(&store, of(append("other", 0, &["1"])));
    let done = block_on(store.compact(u64::MAX, 0, 10)).unwrap();
    assert_eq!((done.runs, done.next), (1, None));
    assert_eq!(told(&store, "r", 0, usize::MAX), says);
    path
}

#[test]
fn a_compacted_journal_takes_a_few_rows_and_reads_when_opened_again() {
    let folder = Folder::new();
    let path = compacted(&folder);
    assert_eq!((rows(&path, "events"), rows(&path, "packed")), (1, 1));
    let conn = Connection::open(&path).unwrap();
    let bytes: i64 = conn.query_row("SELECT sum(length(lines)) FROM packed", [], |row| row.get(0)).unwrap();
    assert!(bytes < 40_000, "{bytes} bytes for 1,000 events");
    assert_eq!(told(&open(&path), "r", 998, 9).len(), 2);
}

#[test]
fn a_damaged_compacted_journal_is_named() {
    for lines in ["zeroblob(3)", "x'ffffffff00'", "x'0a000000ff'", "x'0300000030616263'"] {
        let folder = Folder::new();
        let path = compacted(&folder);
        Connection::open(&path).unwrap().execute(&format!("UPDATE packed SET lines = {lines}"), []).unwrap();
        let store = open(&path);
        named(codes::STORE_CORRUPT, &path, block_on(store.events(&"r".into(), 0, 9)).unwrap_err());
        assert_eq!(told(&store, "other", 0, 9), ["1"]);
    }
}

#[test]
fn a_store_of_an_older_version_is_brought_up_to_date() {
    let folder = Folder::new();
    let path = folder.store("s.db");
    let second = "
        CREATE TABLE old_events (run INTEGER NOT NULL, seq INTEGER NOT NULL, body TEXT, blob TEXT, PRIMARY KEY (run, seq))
            STRICT, WITHOUT ROWID;
        INSERT INTO old_events SELECT place >> 32, place & 4294967295, body, blob FROM events;
        DROP TABLE events;
        ALTER TABLE old_events RENAME TO events;
        CREATE INDEX events_by_blob ON events (blob) WHERE blob IS NOT NULL;
        DROP TABLE packed;
        PRAGMA user_version = 2";
    Connection::open(&path).unwrap().execute_batch(second).unwrap();
    let store = open(&path);
    assert_eq!(told(&store, "r", 0, 9), ["1", "2"]);
    commit(&store, of(append_as(RunStatus::Completed, "r", 2, &["3"])));
    assert_eq!(block_on(store.compact(u64::MAX, 0, 10)).unwrap().runs, 1);
    assert_eq!(told(&store, "r", 0, 9), ["1", "2", "3"]);
}
