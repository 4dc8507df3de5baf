//! The Node package: built, tested by its own tests, and its types checked.

use std::fs;
use std::path::{Path, PathBuf};

use crate::edition::Edition;
use crate::files::{copy, copy_tree, fresh};
use crate::shell::Shell;
use crate::soak::{self, Counter};
use crate::tally::Reader;
use crate::test::Report;

pub(crate) fn run(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let package = package(shell)?;
    shell.npm_install(&package)?;
    let mut types = shell.command(package.join("node_modules/.bin/tsc"));
    types.current_dir(&package).args(["-p", "test/types"]);
    report.check("tsc", types)?;
    // TAP, whose last lines are the counts. The collector is exposed for the tests that look at memory.
    let mut tests = shell.command("node");
    tests.current_dir(&package).args(["--expose-gc", "--test", "--test-reporter=tap", "test/"]);
    report.tests("node --test", tests, Reader::Node)
}

/// The hostile hosts, each so often that a leak shows.
pub(crate) fn soak(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let package = package_of(shell, &soak::library(shell, "lomusai_node")?)?;
    shell.npm_install(&package)?;
    let mut tests = shell.command("node");
    tests.current_dir(&package).args(["--expose-gc", "test/hostile.test.js"]);
    tests.env("LOMUSAI_HOSTILE_RUNS", soak::TIMES);
    report.tests("soak of Node's hostile hosts", Counter::new(shell, "node")?.counts(tests), Reader::Node)
}

/// The package with its compiled part, ready to be linked into a `node_modules`.
pub(crate) fn package(shell: &Shell) -> Result<PathBuf, String> {
    package_of(shell, &shell.build(&["--lib"])?)
}

/// The same with the compiled part that is in `libraries`.
fn package_of(shell: &Shell, libraries: &Path) -> Result<PathBuf, String> {
    shell.need("node", "nodejs")?;
    let package = shell.root().join("bindings/node");
    let native = package.join("native");
    fs::create_dir_all(&native).map_err(|e| format!("{}: {e}", native.display()))?;
    let file = native.join(format!("lomusai.{}.node", platform(shell)?));
    // Removed first: a process may have it open.
    let _ = fs::remove_file(&file);
    let library = library(libraries);
    fs::copy(&library, &file).map_err(|e| format!("{}: {e}", library.display()))?;
    Ok(package)
}

/// Puts the package into a folder's `node_modules` as npm does, with the compiled part that is in `libraries`.
pub(crate) fn laid_out(shell: &Shell, libraries: &Path, folder: &Path) -> Result<(), String> {
    shell.need("node", "nodejs")?;
    let (bindings, package) = (shell.root().join("bindings/node"), folder.join("node_modules/@lomusai/node"));
    copy_tree(&bindings.join("lib"), &package.join("lib"))?;
    for file in ["index.js", "index.mjs", "package.json"] {
        copy(&bindings.join(file), &package.join(file))?;
    }
    copy(&library(libraries), &package.join("native").join(format!("lomusai.{}.node", platform(shell)?)))
}

/// Writes the packages that are published, with this library, to `folder`: the main one, then the platform's.
pub(crate) fn pack(shell: &Shell, edition: Edition, library: &Path, folder: &Path) -> Result<Vec<PathBuf>, String> {
    shell.need("npm", "npm")?;
    let mut pack = shell.command("node");
    pack.arg("bindings/node/scripts/pack.js").arg(library).arg(folder);
    if edition == Edition::Local {
        pack.arg("--local");
    }
    let output = pack.output().map_err(|e| format!("node: {e}"))?;
    if !output.status.success() {
        return Err(format!("pack.js: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect())
}

/// Installs packed packages in a clean folder, each main one before its platform's, and runs a program there.
pub(crate) fn installed(shell: &Shell, packages: &[PathBuf], program: &str, says: &str) -> Result<(), String> {
    let folder = shell.target().join("try-node");
    fresh(&folder)?;
    for (name, text) in [("package.json", "{ \"private\": true }\n"), ("app.mjs", program)] {
        fs::write(folder.join(name), text).map_err(|e| format!("{name}: {e}"))?;
    }
    // The platform's first: npm would look for it in a registry.
    for package in packages.iter().rev() {
        let mut npm = shell.command("npm");
        npm.current_dir(&folder)
            .args(["install", "--offline", "--no-audit", "--no-fund", "--omit=optional"])
            .arg(package);
        shell.run(npm)?;
    }
    let mut node = shell.command("node");
    node.current_dir(&folder).arg("app.mjs");
    shell.says(node, says)
}

/// What the loader calls this platform.
pub(crate) fn platform(shell: &Shell) -> Result<String, String> {
    let mut node = shell.command("node");
    node.current_dir(shell.root().join("bindings/node")).args(["-p", "require('./lib/loader.js').platform()"]);
    let output = node.output().map_err(|e| format!("node: {e}"))?;
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !name.is_empty() { Ok(name) } else { Err("node cannot say its platform".into()) }
}

/// The compiled part, as cargo names it.
pub(crate) fn library(folder: &Path) -> PathBuf {
    folder.join(format!("{}lomusai_node{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX))
}
