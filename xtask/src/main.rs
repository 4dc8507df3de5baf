//! The project's own tasks. `cargo xtask help` lists them.
//!
//! A new task is one file and one line in [`TASKS`]; a new test suite is one file and one line in [`suites::SUITES`].

// Printing is what a task does.
#![allow(clippy::print_stderr, clippy::print_stdout)]

mod bench;
mod codegen;
mod crash;
mod demo;
mod dist;
mod edition;
mod files;
mod shell;
mod simulate;
mod soak;
mod suites;
mod tally;
mod test;
mod watch;

use std::process::ExitCode;

use shell::Shell;

/// Something that `cargo xtask` can do.
struct Task {
    name: &'static str,
    /// What follows the name, and what it does.
    usage: &'static str,
    help: &'static str,
    run: fn(&Shell, &[&str]) -> Result<(), String>,
}

const TASKS: &[Task] = &[
    Task { name: "test", usage: test::USAGE, help: "run all tests in all languages", run: test::run },
    Task {
        name: "soak",
        usage: soak::USAGE,
        help: "what hosts do wrong, 100,000 times each: nothing may leak",
        run: soak::run,
    },
    Task {
        name: "crash",
        usage: crash::USAGE,
        help: "kill a process at every write of a workflow's journal",
        run: crash::run,
    },
    Task {
        name: "simulate",
        usage: simulate::USAGE,
        help: "play seeds with faults on a virtual clock, or find the mutants of the engine",
        run: simulate::run,
    },
    Task { name: "demo", usage: demo::USAGE, help: "one run in three programs: Python, Node, C", run: demo::run },
    Task {
        name: "dist",
        usage: dist::USAGE,
        help: "the wheel, the npm packages and the C archive, in target/dist",
        run: dist::run,
    },
    Task { name: "bench", usage: bench::USAGE, help: "measure, with optimisation, in all languages", run: bench::run },
    Task { name: "codegen", usage: "[--check]", help: "write the generated files, or only compare", run: codegen::run },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.split_first() {
        None | Some((&("help" | "--help" | "-h"), _)) => {
            println!("{}", help());
            Ok(())
        }
        Some((name, rest)) => match TASKS.iter().find(|task| task.name == *name) {
            Some(task) => (task.run)(&Shell::new(), rest),
            None => Err(format!("unknown task `{name}`\n{}", help())),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn help() -> String {
    let lines = TASKS.iter().map(|task| format!("  {:<44} {}", format!("{} {}", task.name, task.usage), task.help));
    format!("cargo xtask TASK\n{}", lines.collect::<Vec<_>>().join("\n"))
}
