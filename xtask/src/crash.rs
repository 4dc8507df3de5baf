//! `cargo xtask crash`: a process that runs a workflow is killed, again and again, and its outcome compared.

use std::process::Command;

use crate::shell::Shell;

pub(crate) const USAGE: &str = "[--kills N] [--seed S]";

pub(crate) fn run(shell: &Shell, arguments: &[&str]) -> Result<(), String> {
    let status = program(shell)?.args(arguments).status().map_err(|e| format!("crash: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("crash: {status}")) }
}

/// What kills, restarts and compares.
pub(crate) fn program(shell: &Shell) -> Result<Command, String> {
    Ok(shell.command(shell.build(&["--bin", "crash"])?.join("crash")))
}
