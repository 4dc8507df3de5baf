//! Python: the wheel as people install it, its tests, and its types.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::examples::code_block;
use crate::files::{copy, copy_tree, fresh};
use crate::shell::Shell;
use crate::soak::{self, Counter};
use crate::tally::Reader;
use crate::test::Report;

pub(crate) fn run(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let python = interpreter(shell)?;
    report.pass();
    readme(shell, report)?;
    for (what, words) in [("ruff check", &["ruff", "check"][..]), ("ruff format", &["ruff", "format", "--check"])] {
        let mut command = shell.command(&python);
        // From the package's folder, to which the settings' own paths are relative.
        command.current_dir(shell.root().join("bindings/python")).arg("-m").args(words);
        command.args(["--config", "pyproject.toml", "python", "tests", "../../examples/python"]);
        report.check(what, command)?;
    }
    let package = shell.root().join("bindings/python");
    let checks: [(&str, &[&str]); 3] = [
        ("mypy", &["mypy"]),
        ("pyright", &["pyright"]),
        ("pyright --verifytypes", &["pyright", "--verifytypes", "lomusai", "--ignoreexternal"]),
    ];
    for (what, words) in checks {
        let mut command = shell.command(&python);
        command.current_dir(&package).arg("-m").args(words);
        if words[0] == "pyright" {
            command.arg("--pythonpath").arg(&python).env("PYTHONPATH", "python");
        }
        report.check(what, command)?;
    }
    let mut pytest = shell.command(&python);
    pytest.current_dir(&package).args(["-m", "pytest", "-q"]);
    report.tests("pytest", pytest, Reader::Pytest)
}

/// The hostile hosts, each so often that a leak shows.
pub(crate) fn soak(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let python = shell.venv(&shell.root().join("bindings/python/requirements-dev.txt"))?;
    let site = shell.target().join("soak/python");
    laid_out(shell, &soak::library(shell, "lomusai_python")?, &site)?;
    let mut pytest = shell.command(python);
    pytest.current_dir(shell.root().join("bindings/python")).env("LOMUSAI_SOAK", soak::TIMES).env("PYTHONPATH", site);
    // Python's own allocator asks for large pieces, of which nobody sees how much is used.
    pytest.env("PYTHONMALLOC", "malloc");
    // What a case says of its memory is shown.
    pytest.args(["-m", "pytest", "-s", "-v", "tests/test_hostile.py"]);
    report.tests("soak of Python's hostile hosts", Counter::new(shell, "python")?.counts(pytest), Reader::Pytest)
}

/// A Python in which the package is installed from its wheel, beside the tools of development.
pub(crate) fn interpreter(shell: &Shell) -> Result<PathBuf, String> {
    let python = shell.venv(&shell.root().join("bindings/python/requirements-dev.txt"))?;
    let wheel = wheel(shell)?;
    let mut pip = shell.command(&python);
    install(&mut pip, &wheel);
    shell.run(pip)?;
    Ok(python)
}

/// Puts the package into the empty folder `site` as a wheel does, with the compiled part that is in `libraries`.
pub(crate) fn laid_out(shell: &Shell, libraries: &Path, site: &Path) -> Result<(), String> {
    shell.need("python3", "python3")?;
    fresh(site)?;
    copy_tree(&shell.root().join("bindings/python/python/lomusai"), &site.join("lomusai"))?;
    copy(&libraries.join("lib_lomusai.so"), &site.join("lomusai/_lomusai.abi3.so"))?;
    // As pip does when it installs: nobody's first import compiles.
    let mut compile = shell.command("python3");
    compile.args(["-m", "compileall", "-q"]).arg(site);
    shell.run(compile)
}

/// What builds the wheel in a profile into `folder`, and the Python that it runs in.
pub(crate) fn maturin(shell: &Shell, profile: &str, folder: &Path) -> Result<(PathBuf, Command), String> {
    let python = shell.venv(&shell.root().join("bindings/python/requirements-dev.txt"))?;
    let mut maturin = shell.command(&python);
    maturin.args(["-m", "maturin", "build", "--quiet", "--profile", profile]);
    maturin.args(["--manifest-path", "bindings/python/Cargo.toml", "--interpreter"]).arg(&python);
    maturin.arg("--out").arg(folder);
    // Its own: maturin builds pyo3 with another environment than cargo does, and each would undo the other's work.
    maturin.env("CARGO_TARGET_DIR", shell.target().join("python"));
    shell.cached(&mut maturin);
    Ok((python, maturin))
}

/// Installs wheels in a clean venv and runs a program there.
pub(crate) fn installed(shell: &Shell, wheels: &[&Path], program: &str, says: &str) -> Result<(), String> {
    let folder = shell.target().join("try-python");
    let python = clean_venv(shell, &folder)?;
    let mut pip = shell.command(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]).args(wheels);
    shell.run(pip)?;
    let source = folder.join("app.py");
    fs::write(&source, program).map_err(|e| format!("{}: {e}", source.display()))?;
    let mut command = shell.command(&python);
    command.current_dir(&folder).arg(&source);
    shell.says(command, says)
}

/// Makes the wheel of the package `lomusai-local` of one that was built with models in the process.
pub(crate) fn local_wheel(shell: &Shell, python: &Path, wheel: &Path, folder: &Path) -> Result<PathBuf, String> {
    let mut make = shell.command(python);
    make.arg("bindings/python/scripts/local_wheel.py").arg(wheel).arg(folder);
    let output = make.output().map_err(|e| format!("local_wheel.py: {e}"))?;
    if !output.status.success() {
        return Err(format!("local_wheel.py: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn clean_venv(shell: &Shell, folder: &Path) -> Result<PathBuf, String> {
    let _ = fs::remove_dir_all(folder);
    let mut venv = shell.command("python3");
    venv.args(["-m", "venv"]).arg(folder);
    shell.run(venv)?;
    Ok(folder.join("bin/python"))
}

/// Builds the wheel in the dev profile.
fn wheel(shell: &Shell) -> Result<PathBuf, String> {
    let folder = shell.target().join("python/wheels");
    let _ = fs::remove_dir_all(&folder);
    let (_, maturin) = maturin(shell, "dev", &folder)?;
    shell.run(maturin)?;
    wheel_in(&folder)
}

/// The one wheel in a folder.
pub(crate) fn wheel_in(folder: &Path) -> Result<PathBuf, String> {
    fs::read_dir(folder)
        .map_err(|e| format!("{}: {e}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| format!("maturin made no wheel in {}", folder.display()))
}

fn install(pip: &mut Command, wheel: &Path) {
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
        "--force-reinstall",
    ])
    .arg(wheel);
}

/// The README's program, in a clean venv with nothing but the wheel.
fn readme(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let folder = shell.target().join("python/clean");
    let python = clean_venv(shell, &folder)?;
    let wheels = shell.target().join("python/wheels");
    let mut pip = shell.command(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--find-links"]);
    // By name: what the wheel asks for would have to be there too, and it asks for nothing.
    pip.arg(&wheels).arg("lomusai");
    shell.run(pip)?;
    for page in ["README.md", "bindings/python/README.md"] {
        let text = fs::read_to_string(shell.root().join(page)).map_err(|e| format!("{page}: {e}"))?;
        let program = code_block(&text, "python").ok_or_else(|| format!("{page} has no Python program"))?;
        let source = folder.join("readme.py");
        fs::write(&source, program).map_err(|e| format!("{}: {e}", source.display()))?;
        let mut command = shell.command(&python);
        command.current_dir(&folder).arg(&source);
        report.prints(&format!("the program of {page} in a clean venv"), command, &["1 + 2 is 3."])?;
    }
    Ok(())
}
