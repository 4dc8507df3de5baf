//! Files and folders, with errors that name them.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Copies a file; its folder is made.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let parent = to.parent().expect("a file is in a folder");
    fs::create_dir_all(parent)
        .and_then(|()| fs::copy(from, to))
        .map(drop)
        .map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))
}

/// Copies a folder, without what Python compiled in it. What is there already keeps its time, so that nothing is built again.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<(), String> {
    let entries = fs::read_dir(from).map_err(|e| format!("{}: {e}", from.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| format!("{}: {e}", from.display()))?.path();
        let name = path.file_name().expect("an entry has a name");
        if name == "__pycache__" {
            continue;
        }
        let to = to.join(name);
        if path.is_dir() {
            copy_tree(&path, &to)?;
        } else if fs::read(&path).ok() != fs::read(&to).ok() {
            copy(&path, &to)?;
        }
    }
    Ok(())
}

/// A folder with nothing in it.
pub(crate) fn fresh(folder: &Path) -> Result<(), String> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))
}

/// How many bytes this user may still write where `folder` is, if that can be found out.
pub(crate) fn free(folder: &Path) -> Option<u64> {
    let said = Command::new("df").args(["-P", "-k"]).arg(folder).output().ok()?.stdout;
    let said = String::from_utf8(said).ok()?;
    // What stands before the share that is used, which no name of a device or folder looks like. Less than none is none.
    let columns: Vec<&str> = said.lines().nth(1)?.split_whitespace().collect();
    let share = columns.iter().position(|column| column.strip_suffix('%').is_some_and(|n| n.parse::<u8>().is_ok()))?;
    let kibibytes: i64 = columns[share.checked_sub(1)?].parse().ok()?;
    Some(kibibytes.max(0).cast_unsigned() << 10)
}
