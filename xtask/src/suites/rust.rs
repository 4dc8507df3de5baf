//! What Rust's own tools can say about the workspace.

use std::fs;

use crate::codegen;
use crate::crash;
use crate::shell::Shell;
use crate::simulate;
use crate::tally::Reader;
use crate::test::Report;

pub(crate) fn format(shell: &Shell, report: &mut Report) -> Result<(), String> {
    report.check("cargo fmt", shell.cargo(&["fmt", "--all", "--check"]))
}

/// The generated files of every language are what the tables say.
pub(crate) fn codegen(shell: &Shell, report: &mut Report) -> Result<(), String> {
    codegen::run(shell, &["--check"])?;
    report.pass();
    Ok(())
}

pub(crate) fn clippy(shell: &Shell, report: &mut Report) -> Result<(), String> {
    report.check("clippy", shell.cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

pub(crate) fn docs(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let mut crates: Vec<String> = fs::read_dir(shell.root().join("engine"))
        .map_err(|e| format!("engine: {e}"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    crates.sort();
    let mut command = shell.cargo(&["doc", "--no-deps"]);
    command.args(crates.iter().flat_map(|name| ["--package", name])).env("RUSTDOCFLAGS", "-D warnings");
    report.check("cargo doc", command)
}

/// All Rust tests.
pub(crate) fn tests(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let mut everything = shell.tested("test");
    everything.arg("--no-fail-fast");
    report.tests("cargo test", everything, Reader::Libtest)
}

/// A process killed at every write of its journal; 500 times in the long form.
pub(crate) fn crash(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let kills = if report.full { "500" } else { "100" };
    let mut command = crash::program(shell)?;
    command.args(["--kills", kills]);
    report.check("crash", command)
}

/// The engine on a virtual clock, and in the long form the mutants that it has to find.
pub(crate) fn simulation(shell: &Shell, report: &mut Report) -> Result<(), String> {
    report.check("simulate", simulate::program(shell, &["--seeds", "10000", "--least", "100"])?)?;
    if report.full {
        simulate::mutants(shell)?;
        report.pass();
    }
    Ok(())
}
