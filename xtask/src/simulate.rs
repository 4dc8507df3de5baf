//! `cargo xtask simulate`: the engine on a virtual clock, and mutants of it that the simulation has to find.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::shell::Shell;

pub(crate) const USAGE: &str = "[--seeds N] [--from S] | --seed S | --mutants";

/// A mutant that is not found by so many seeds is not found.
const MUTANT_SEEDS: &str = "3000";

pub(crate) fn run(shell: &Shell, arguments: &[&str]) -> Result<(), String> {
    if arguments == ["--mutants"] {
        return mutants(shell);
    }
    let status = program(shell, arguments)?.status().map_err(|e| format!("simulate: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("simulate: {status}")) }
}

/// The command that plays seeds.
pub(crate) fn program(shell: &Shell, arguments: &[&str]) -> Result<Command, String> {
    let mut command = shell.command(shell.build(&["--bin", "simulate"])?.join("simulate"));
    command.args(arguments);
    Ok(command)
}

/// Applies each patch to a copy of the tree, and has the simulation find what is wrong with it.
pub(crate) fn mutants(shell: &Shell) -> Result<(), String> {
    let tree = Copy::of(shell)?;
    tree.build()?;
    let sound = tree.play()?;
    if !sound.status.success() {
        return Err(format!("the engine itself fails:\n{}", String::from_utf8_lossy(&sound.stderr)));
    }
    let mut survivors = Vec::new();
    for patch in patches(shell.root())? {
        let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        tree.apply(&patch, false)?;
        let played = tree.build().and_then(|()| tree.play());
        tree.apply(&patch, true)?;
        let played = played.map_err(|why| format!("{name}: {why}"))?;
        let said = String::from_utf8_lossy(&played.stderr);
        match said.lines().find(|line| line.starts_with("seed ")) {
            Some(line) => println!("found: {name}: {line}"),
            None => {
                println!("NOT FOUND: {name}");
                survivors.push(name);
            }
        }
    }
    if survivors.is_empty() { Ok(()) } else { Err(format!("not found: {}", survivors.join(", "))) }
}

fn patches(root: &Path) -> Result<Vec<PathBuf>, String> {
    let folder = root.join("tests/mutants");
    let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut patches: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .collect();
    patches.sort();
    Ok(patches)
}

/// Takes away the files of a folder that are not wanted.
fn keep_only(folder: &Path, wanted: &BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            keep_only(&path, wanted)?;
        } else if !wanted.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// A copy of the tree with a target folder of its own, which is kept from one time to the next.
struct Copy<'s> {
    shell: &'s Shell,
    tree: PathBuf,
    target: PathBuf,
}

impl<'s> Copy<'s> {
    fn of(shell: &'s Shell) -> Result<Self, String> {
        let folder = shell.target().join("mutants");
        let (tree, target) = (folder.join("tree"), folder.join("target"));
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(shell.root())
            .output()
            .map_err(|e| format!("git: {e}"))?;
        let listed = String::from_utf8_lossy(&listed.stdout);
        let mut wanted = BTreeSet::new();
        for name in listed.split('\0').filter(|name| !name.is_empty()) {
            let (from, to) = (shell.root().join(name), tree.join(name));
            let Ok(content) = fs::read(&from) else { continue };
            wanted.insert(to.clone());
            // What is the same keeps its time, so that cargo need not build it again.
            if fs::read(&to).is_ok_and(|known| known == content) {
                continue;
            }
            let parent = to.parent().expect("in the tree");
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&to, content))
                .map_err(|e| format!("{}: {e}", to.display()))?;
        }
        // A file that has moved would be there twice.
        keep_only(&tree, &wanted).map_err(|e| format!("{}: {e}", tree.display()))?;
        Ok(Self { shell, tree, target })
    }

    fn build(&self) -> Result<(), String> {
        let mut command = self.shell.cargo(&["build", "--quiet", "-p", "lomusai_simulation", "--bin", "simulate"]);
        let output = command.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target).output();
        let output = output.map_err(|e| format!("cargo: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("it does not build:\n{}", String::from_utf8_lossy(&output.stderr)))
    }

    fn play(&self) -> Result<Output, String> {
        let program = self.target.join("debug/simulate");
        let output = Command::new(&program).args(["--seeds", MUTANT_SEEDS]).output();
        output.map_err(|e| format!("{}: {e}", program.display()))
    }

    fn apply(&self, patch: &Path, back: bool) -> Result<(), String> {
        let mut command = Command::new("git");
        command.arg("apply").args(back.then_some("--reverse")).arg(patch).current_dir(&self.tree);
        // As if it were no repository: the one around it would take the paths for its own.
        command.env("GIT_CEILING_DIRECTORIES", self.tree.parent().expect("a folder"));
        let output = command.output().map_err(|e| format!("git: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{} does not apply: {}", patch.display(), String::from_utf8_lossy(&output.stderr)))
    }
}
