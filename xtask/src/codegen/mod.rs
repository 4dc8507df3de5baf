//! Writes the files that are made from data: one table of errors and one of events, for every language.
//!
//! `--check` writes nothing and fails naming the files that are out of date.

mod errors;
mod events;
mod header;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::shell::Shell;

/// A generated file: where it goes, and what it says.
pub(crate) struct Generated {
    pub(crate) path: &'static str,
    pub(crate) text: String,
}

/// Makes all generated files; with `--check`, only compares.
pub(crate) fn run(shell: &Shell, arguments: &[&str]) -> Result<(), String> {
    let check = match arguments {
        [] => false,
        ["--check"] => true,
        other => return Err(format!("unknown arguments `{}`: cargo xtask codegen [--check]", other.join(" "))),
    };
    let root = shell.root();
    let tables = root.join("engine/lomusai_wire/tables");
    let mut files = Vec::new();
    files.extend(errors::generate(&read(&tables.join("errors.toml"))?)?);
    files.extend(events::generate(&read(&tables.join("events.toml"))?)?);
    files.push(header::generate(root)?);
    let mut stale = Vec::new();
    for mut file in files {
        if file.path.ends_with(".rs") {
            file.text = rustfmt(&file.text)?;
        }
        let path = root.join(file.path);
        if fs::read_to_string(&path).is_ok_and(|old| old == file.text) {
            continue;
        }
        if check {
            stale.push(file.path);
            continue;
        }
        fs::create_dir_all(path.parent().expect("a file has a folder"))
            .map_err(|e| format!("{}: {e}", path.display()))?;
        fs::write(&path, file.text).map_err(|e| format!("{}: {e}", path.display()))?;
        eprintln!("wrote {}", file.path);
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(format!("out of date, run `cargo xtask codegen`: {}", stale.join(", ")))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn rustfmt(text: &str) -> Result<String, String> {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024", "--config", "max_width=120,use_small_heuristics=Max"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("rustfmt: {e}; install it with `rustup component add rustfmt`"))?;
    child.stdin.take().expect("piped").write_all(text.as_bytes()).map_err(|e| format!("rustfmt: {e}"))?;
    let output = child.wait_with_output().map_err(|e| format!("rustfmt: {e}"))?;
    if !output.status.success() {
        return Err("rustfmt failed on generated code".into());
    }
    String::from_utf8(output.stdout).map_err(|e| format!("rustfmt: {e}"))
}

/// `run_started` → `RunStarted`.
fn camel(name: &str) -> String {
    name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}
