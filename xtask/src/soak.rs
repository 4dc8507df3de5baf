//! `cargo xtask soak`: what hosts do wrong, so often that a leak shows. What is allocated is counted, and may not grow.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::shell::Shell;
use crate::suites::{c, node, python};
use crate::test::{Suite, one, summary};
use crate::watch;

pub(crate) const USAGE: &str = "[--only LANGUAGE]...";

/// So often is each case done.
pub(crate) const TIMES: &str = "100000";

const SUITES: &[Suite] = &[
    Suite { name: "c", language: "c", run: c::soak },
    Suite { name: "python", language: "python", run: python::soak },
    Suite { name: "node", language: "node", run: node::soak },
];

pub(crate) fn run(shell: &Shell, arguments: &[&str]) -> Result<(), String> {
    let mut only = Vec::new();
    for pair in arguments.chunks(2) {
        match pair {
            ["--only", language] if SUITES.iter().any(|suite| suite.name == *language) => only.push(*language),
            _ => {
                return Err(format!(
                    "unknown argument `{}`: cargo xtask soak {USAGE}, one of c, python, node",
                    pair[0]
                ));
            }
        }
    }
    let minutes = watch::minutes(600.0)?;
    let chosen = SUITES.iter().filter(|suite| only.is_empty() || only.contains(&suite.name));
    summary(&chosen.map(|suite| one(shell, suite, true, minutes)).collect::<Vec<_>>())
}

/// The folder with a language's library as it is published, nearly: 100,000 times of everything take hours without optimisation.
pub(crate) fn library(shell: &Shell, package: &str) -> Result<PathBuf, String> {
    let folder = shell.target().join("soak");
    let mut cargo = shell.cargo(&["build", "--release", "--package", package]);
    cargo.env("CARGO_TARGET_DIR", &folder);
    // With them the library has the system's allocator, which is what is counted.
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true");
    // The interpreter brings Python's symbols along.
    cargo.env("PYO3_BUILD_EXTENSION_MODULE", "1");
    shell.run(cargo)?;
    Ok(folder.join("release"))
}

/// Makes a program count what it allocates: see `tests/c/count_malloc.c`.
pub(crate) struct Counter {
    library: PathBuf,
    count: PathBuf,
}

impl Counter {
    pub(crate) fn new(shell: &Shell, language: &str) -> Result<Self, String> {
        shell.need("gcc", "gcc")?;
        let folder = shell.target().join("soak");
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        // A file for each, so that several soaks may run side by side.
        let library = folder.join(format!("libcount_malloc_{language}.so"));
        let mut gcc = shell.command("gcc");
        gcc.args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-o"]);
        gcc.arg(&library).arg("tests/c/count_malloc.c");
        shell.run(gcc)?;
        Ok(Self { library, count: folder.join(format!("allocated_{language}")) })
    }

    /// The command, counted from 0.
    pub(crate) fn counts(&self, mut command: Command) -> Command {
        // The library makes it, and whoever made it is who counts.
        let _ = fs::remove_file(&self.count);
        command.env("LD_PRELOAD", &self.library).env("LOMUSAI_MALLOC_COUNT", &self.count);
        command
    }
}
