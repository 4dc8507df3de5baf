//! Models in the process: the provider's own tests with real models, and a program in each language on the edition that has them.
//!
//! A suite of its own, with a folder of its own. In the one build that the other suites share, llama.cpp would be everybody's: ten
//! minutes of C++ before the first test, and no suite would see the libraries that most people get.

use std::path::Path;

use super::{c, node, python};
use crate::edition::{Edition, local_cargo, local_libraries};
use crate::files::{copy, fresh};
use crate::shell::Shell;
use crate::tally::Reader;
use crate::test::Report;

pub(crate) fn run(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let folder = Edition::Local.target(shell).join("programs");
    fresh(&folder)?;
    rust(shell, report)?;
    hosts(shell, report, &folder)
}

/// The provider itself, and the example.
fn rust(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let mut tests = local_cargo(shell, &["test", "--no-fail-fast", "--lib", "--test", "local"])?;
    if report.full {
        tests.env("LOMUSAI_FULL", "1");
    }
    report.tests("the provider `local`", tests, Reader::Libtest)?;
    // `cargo run` takes one package only, which would build all anew with other features.
    shell.run(local_cargo(shell, &["build", "--example", "local"])?)?;
    let mut example = shell.command(Edition::Local.target(shell).join("debug/examples/local"));
    example.env("LOMUSAI_LOCAL_THREADS", "1");
    report.prints("examples/rust/local.rs", example, &[" tokens"])
}

fn hosts(shell: &Shell, report: &mut Report, folder: &Path) -> Result<(), String> {
    let sources = shell.root().join("tests/local");
    let libraries = local_libraries(shell)?;
    let program = folder.join("agent");
    c::compile_with(shell, Edition::Local, &sources.join("agent.c"), &program)?;
    report.tests("tests/local/agent.c", shell.command(&program), Reader::Plain)?;

    let site = folder.join("site");
    python::laid_out(shell, &libraries, &site)?;
    let mut python = shell.command("python3");
    python.arg(sources.join("agent.py")).env("PYTHONPATH", site);
    report.tests("tests/local/agent.py", python, Reader::Plain)?;

    node::laid_out(shell, &libraries, folder)?;
    copy(&sources.join("agent.mjs"), &folder.join("agent.mjs"))?;
    let mut node = shell.command("node");
    node.arg(folder.join("agent.mjs"));
    report.tests("tests/local/agent.mjs", node, Reader::Plain)
}
