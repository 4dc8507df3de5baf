//! A run that is begun in one language, killed, and gone on with in another. See tests/cross/README.md.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{c, node, python};
use crate::shell::Shell;
use crate::test::Report;

/// How to begin the program of a language.
struct Program {
    language: &'static str,
    words: Vec<PathBuf>,
}

impl Program {
    fn command(&self, shell: &Shell, arguments: &[&str]) -> Command {
        let mut command = shell.command(&self.words[0]);
        command.args(&self.words[1..]).args(arguments);
        command
    }
}

pub(crate) fn run(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let folder = shell.target().join("cross");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let programs = programs(shell, &folder)?;
    let mut unbroken = Vec::new();
    for program in &programs {
        let file = folder.join(format!("{}.db", program.language));
        let said = said(program.command(shell, &["unbroken", &text(&file)]))?;
        unbroken.push(line(&said, "digest ").ok_or_else(|| format!("{}: no digest in {said}", program.language))?);
    }
    // The same run gives the same journal in every language.
    if unbroken.iter().all(|digest| *digest == unbroken[0]) {
        println!("ok: unbroken runs have the digest {}", unbroken[0]);
        report.pass();
    } else {
        report.fail(format!("digests of unbroken runs differ between languages: {unbroken:?}"));
    }
    for (starts, digest) in programs.iter().zip(&unbroken) {
        for resumes in &programs {
            let what = format!("started in {}, killed, resumed in {}", starts.language, resumes.language);
            let file = folder.join(format!("{}-{}.db", starts.language, resumes.language));
            let run_id = wait_and_kill(starts.command(shell, &["start", &text(&file)]), "run ")?;
            let said = said(resumes.command(shell, &["resume", &text(&file), &run_id]))?;
            if line(&said, "digest ").as_ref() == Some(digest) && line(&said, "text ").as_deref() == Some("1 + 2 is 3.")
            {
                println!("ok: {what}");
                report.pass();
            } else {
                report.fail(format!("{what}: expected digest {digest}, was {said}"));
            }
        }
    }
    workflow(shell, report, &folder)
}

/// A workflow that goes from language to language, each killed while it waits.
fn workflow(shell: &Shell, report: &mut Report, folder: &Path) -> Result<(), String> {
    let programs = workflow_programs(shell, folder)?;
    let mut unbroken = Vec::new();
    for program in &programs {
        let file = text(&folder.join(format!("workflow-{}.db", program.language)));
        let said = said(program.command(shell, &[&file, "0", "1", "2", "3"]))?;
        if line(&said, "total ").as_deref() != Some("65") {
            report.fail(format!("the workflow in {}: expected total 65, was {said}", program.language));
        }
        unbroken.push(line(&said, "digest ").ok_or_else(|| format!("{}: no digest in {said}", program.language))?);
    }
    if unbroken.iter().all(|digest| *digest == unbroken[0]) {
        println!("ok: the workflow's unbroken runs have the digest {}", unbroken[0]);
        report.pass();
    } else {
        report.fail(format!("digests of the workflow's unbroken runs differ between languages: {unbroken:?}"));
    }
    for first in 0..programs.len() {
        let order: Vec<&Program> = (0..programs.len()).map(|n| &programs[(first + n) % programs.len()]).collect();
        let names: Vec<&str> = order.iter().map(|program| program.language).collect();
        let file = text(&folder.join(format!("workflow-from-{}.db", names[0])));
        for (stage, program) in ["0", "1", "2"].iter().zip(&order) {
            let status = wait_and_kill(program.command(shell, &[&file, stage]), "status ")?;
            if status != "suspended" {
                return Err(format!("{} at stage {stage}: {status}", program.language));
            }
        }
        let said = said(order[3].command(shell, &[&file, "3"]))?;
        let (what, total) = (format!("a workflow by {}, each killed", names.join(", ")), line(&said, "total "));
        if line(&said, "digest ").as_ref() == Some(&unbroken[0]) && total.as_deref() == Some("65") {
            println!("ok: {what}");
            report.pass();
        } else {
            report.fail(format!("{what}: expected digest {}, was {said}", unbroken[0]));
        }
    }
    at_work(shell, report, folder, &programs)
}

/// A step that is killed at work in one language after the other, and done in the last.
fn at_work(shell: &Shell, report: &mut Report, folder: &Path, programs: &[Program]) -> Result<(), String> {
    let mut digests = Vec::new();
    for first in 0..programs.len() {
        let order: Vec<&Program> = (0..programs.len()).map(|n| &programs[(first + n) % programs.len()]).collect();
        let file = text(&folder.join(format!("toil-from-{}.db", order[0].language)));
        for (stage, program) in ["4", "5", "5"].iter().zip(&order) {
            let status = wait_and_kill(program.command(shell, &[&file, stage]), "status ")?;
            if status != "working" {
                return Err(format!("{} at stage {stage}: {status}", program.language));
            }
        }
        let said = said(order[3].command(shell, &[&file, "5"]))?;
        if line(&said, "status ").as_deref() != Some("completed") {
            report.fail(format!("a step killed at work, done in {}: {said}", order[3].language));
        }
        digests.push(line(&said, "digest ").ok_or_else(|| format!("{}: no digest in {said}", order[3].language))?);
    }
    if digests.iter().all(|digest| *digest == digests[0]) {
        println!("ok: a step killed at work in each language is done in the next, with the digest {}", digests[0]);
        report.pass();
    } else {
        report.fail(format!("digests of runs that were killed at work differ: {digests:?}"));
    }
    Ok(())
}

fn workflow_programs(shell: &Shell, folder: &Path) -> Result<Vec<Program>, String> {
    let sources = shell.root().join("tests/cross");
    let client = folder.join("workflow");
    c::compile(shell, &sources.join("workflow.c"), &client)?;
    fs::copy(sources.join("workflow.mjs"), folder.join("workflow.mjs")).map_err(|e| format!("workflow.mjs: {e}"))?;
    let rust = shell.build(&["--bin", "cross-workflow"])?.join("cross-workflow");
    Ok(vec![
        Program { language: "python", words: vec![python::interpreter(shell)?, sources.join("workflow.py")] },
        Program { language: "node", words: vec!["node".into(), folder.join("workflow.mjs")] },
        Program { language: "c", words: vec![client] },
        Program { language: "rust", words: vec![rust] },
    ])
}

fn programs(shell: &Shell, folder: &Path) -> Result<Vec<Program>, String> {
    let sources = shell.root().join("tests/cross");
    let client = folder.join("agent");
    c::compile(shell, &sources.join("agent.c"), &client)?;
    // Node looks for packages beside the program.
    let modules = folder.join("node_modules/@lomusai");
    fs::create_dir_all(&modules).map_err(|e| format!("{}: {e}", modules.display()))?;
    std::os::unix::fs::symlink(node::package(shell)?, modules.join("node"))
        .map_err(|e| format!("{}: {e}", modules.display()))?;
    fs::copy(sources.join("agent.mjs"), folder.join("agent.mjs")).map_err(|e| format!("agent.mjs: {e}"))?;
    Ok(vec![
        Program { language: "python", words: vec![python::interpreter(shell)?, sources.join("agent.py")] },
        Program { language: "node", words: vec!["node".into(), folder.join("agent.mjs")] },
        Program { language: "c", words: vec![client] },
    ])
}

/// Runs a program until it says what begins with `prefix`, that its run waits, and kills it. Gives the rest of the line.
fn wait_and_kill(mut command: Command, prefix: &str) -> Result<String, String> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let said = lines.map_while(Result::ok).find_map(|line| line.strip_prefix(prefix).map(str::to_owned));
    // SIGKILL: nothing of it runs any more.
    child.kill().map_err(|e| e.to_string())?;
    child.wait().map_err(|e| e.to_string())?;
    said.ok_or_else(|| "the program ended before its run waited".into())
}

fn said(mut command: Command) -> Result<String, String> {
    let output = command.output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(said) } else { Err(format!("{command:?}: {}: {said}", output.status)) }
}

fn line(said: &str, prefix: &str) -> Option<String> {
    said.lines().find_map(|line| line.strip_prefix(prefix).map(str::to_owned))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
