//! `cargo xtask crash`: a process that runs a workflow is killed, again and again, and its outcome compared.

use crate::shell::Shell;

pub(crate) const USAGE: &str = "[--kills N] [--seed S]";

pub(crate) fn run(shell: &Shell, arguments: &[&str]) -> Result<(), String> {
    let mut command = shell.cargo(&["run", "--quiet", "-p", "lomusai_tests", "--bin", "crash", "--"]);
    let status = command.args(arguments).status().map_err(|e| format!("cargo: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("crash: {status}")) }
}
