//! What goes wrong with a file, in words that name it and the way out. SQLite's own codes stay in here.

use std::path::{Path, PathBuf, absolute};

use lomusai_core::{Error, Result};
use lomusai_wire::{Code, codes};
use rusqlite::{ErrorCode, ffi};

use super::SqliteOptions;

/// Why some work on the file failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The state does not allow it. The caller reads this as it is.
    Refused(Error),
    /// SQLite failed.
    Sqlite(rusqlite::Error),
    /// What is stored does not read as what was written.
    Garbled(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// The file, and what its errors have to say about it.
pub(super) struct StoreFile {
    pub(super) path: PathBuf,
    pub(super) options: SqliteOptions,
}

impl StoreFile {
    pub(super) fn new(path: &Path, options: &SqliteOptions) -> Result<Self> {
        // Absolute, so that SQLite takes no path for one of its own names (`file:…`), and a later change of folder does no harm.
        match absolute(path) {
            Ok(absolute) if path != Path::new(":memory:") => Ok(Self { path: absolute, options: options.clone() }),
            _ => Err(Error::new(
                codes::ARGUMENT_INVALID,
                format!(
                    "`{}` names no file: give the store a path, or open the engine without one to keep all in memory",
                    path.display()
                ),
            )
            .with("path", path.display().to_string())),
        }
    }

    pub(super) fn fault(&self, fault: Fault) -> Error {
        match fault {
            Fault::Refused(error) => error,
            Fault::Sqlite(error) => self.error(error),
            Fault::Garbled(why) => self.corrupt(&why),
        }
    }

    /// An error of SQLite's, as a caller can act on it.
    pub(super) fn error(&self, error: rusqlite::Error) -> Error {
        use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
        let failure = match &error {
            rusqlite::Error::SqliteFailure(failure, _) => *failure,
            FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..) => {
                return self.corrupt(&error.to_string());
            }
            _ => return self.say(codes::STORE_FAILED, "failed", &error.to_string()),
        };
        let words = error.to_string();
        match (failure.code, failure.extended_code) {
            (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => {
                let waited = self.options.busy_timeout.as_millis();
                let advice = "try again, close the other program, or raise the busy timeout";
                self.say(
                    codes::STORE_LOCKED,
                    &format!("is locked by another program for more than {waited} ms: {advice}"),
                    &words,
                )
            }
            (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => self.corrupt(&words),
            // The second: the shared index beside the file cannot grow, which only a full disk or a quota brings about.
            (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => {
                self.say(codes::STORE_FULL, "cannot grow, the disk is full: make room, then try again", &words)
            }
            (ErrorCode::ReadOnly, ffi::SQLITE_READONLY_DBMOVED) => {
                self.say(codes::STORE_FAILED, "was moved or deleted while it was open: open a new engine", &words)
            }
            (ErrorCode::ReadOnly | ErrorCode::PermissionDenied, _) => self.read_only(&words),
            (ErrorCode::CannotOpen, _) => self.cannot_open(&words),
            _ => self.say(codes::STORE_FAILED, "failed", &words),
        }
    }

    pub(super) fn read_only(&self, words: &str) -> Error {
        let advice = "allow writing to the file and its folder, or choose another path";
        self.say(codes::STORE_READ_ONLY, &format!("cannot be written: {advice}"), words)
    }

    pub(super) fn corrupt(&self, words: &str) -> Error {
        let advice = "restore it from a backup, or choose another path; it was left as it is";
        self.say(codes::STORE_CORRUPT, &format!("is damaged or is not a store: {advice}"), words)
    }

    pub(super) fn newer(&self, found: i64, known: i64) -> Error {
        self.say(
            codes::STORE_NEWER,
            "was written by a newer version of the engine: update this program, or choose another path",
            &format!("the file has schema version {found}, this engine knows {known}"),
        )
        .with("found", found)
        .with("known", known)
    }

    pub(super) fn failed(&self, what: &str, words: &str) -> Error {
        self.say(codes::STORE_FAILED, what, words)
    }

    /// SQLite does not say why it cannot open a file, so look.
    fn cannot_open(&self, words: &str) -> Error {
        if self.path.is_dir() {
            return self.failed("is a folder: name a file in it", words);
        }
        let Some(folder) = self.path.parent() else { return self.failed("cannot be opened", words) };
        if !folder.is_dir() {
            return self.failed(&format!("has no folder to lie in: create `{}` first", folder.display()), words);
        }
        // The store itself is not touched for this: closing it would drop the locks that other connections of this process hold.
        let probe = folder.join(format!(".lomusai-probe-{}", std::process::id()));
        match std::fs::File::create_new(&probe) {
            Ok(_) => {
                // Left behind, it would be an empty file and no more.
                let _ = std::fs::remove_file(&probe);
                self.read_only(words)
            }
            Err(error) => match error.kind() {
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => self.read_only(words),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    self.say(codes::STORE_FULL, "cannot be created, the disk is full: make room, then try again", words)
                }
                _ => self.failed(&format!("cannot be opened: {error}"), words),
            },
        }
    }

    fn say(&self, code: Code, what: &str, words: &str) -> Error {
        let path = self.path.display().to_string();
        Error::new(code, format!("the store `{path}` {what} ({words})")).with("path", path)
    }
}
