//! The libraries come in two editions: the usual one, and one with models in the process (the feature `local`).

use std::path::PathBuf;
use std::process::Command;

use crate::shell::Shell;

/// Which of them a task builds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edition {
    Usual,
    /// With llama.cpp inside.
    Local,
}

/// What is built and tested with models in the process. Always all of it in one command: what they are made of is built once, with the
/// same features.
const LOCAL: [&str; 5] = ["lomusai_llm", "lomusai", "mlomusai", "lomusai_python", "lomusai_node"];

impl Edition {
    /// Where its libraries are made. Each has a folder of its own: they have the same names, and one would replace the other.
    pub(crate) fn target(self, shell: &Shell) -> PathBuf {
        match self {
            Self::Usual => shell.target(),
            Self::Local => shell.target().join("local"),
        }
    }

    /// Where what is published is built.
    pub(crate) fn shipping(self, shell: &Shell) -> PathBuf {
        self.target(shell).join("shipping")
    }

    /// What cargo is told of one package.
    pub(crate) fn features(self) -> &'static [&'static str] {
        match self {
            Self::Usual => &[],
            Self::Local => &["--features", "local"],
        }
    }

    /// The folder with the C library in the dev profile, built from what is there now.
    pub(crate) fn c_library(self, shell: &Shell) -> Result<PathBuf, String> {
        match self {
            Self::Usual => shell.build(&["--lib"]),
            Self::Local => local_libraries(shell),
        }
    }
}

/// Cargo, for what has models in the process.
pub(crate) fn local_cargo(shell: &Shell, task: &[&str]) -> Result<Command, String> {
    shell.need_llama()?;
    shell.need("python3", "python3")?;
    let mut cargo = shell.cargo(task);
    cargo.args(LOCAL.iter().flat_map(|package| ["--package", package]));
    cargo.args(["--features", &LOCAL.map(|package| format!("{package}/local")).join(",")]);
    cargo.env("CARGO_TARGET_DIR", Edition::Local.target(shell));
    // The interpreter brings Python's symbols along.
    cargo.env("PYO3_BUILD_EXTENSION_MODULE", "1");
    Ok(cargo)
}

/// The folder with the libraries of all languages with models in the process, in the dev profile, built from what is there now.
pub(crate) fn local_libraries(shell: &Shell) -> Result<PathBuf, String> {
    shell.run(local_cargo(shell, &["build"])?)?;
    Ok(Edition::Local.target(shell).join("debug"))
}
