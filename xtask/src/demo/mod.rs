//! `cargo xtask demo`: one run in three programs. Python begins it and is killed, Node goes on with it, C reads its journal. The model is a
//! script, or with `--local` a small real one in the program's own process.

mod screen;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::edition::{Edition, local_libraries};
use crate::files::{copy, fresh};
use crate::shell::Shell;
use crate::suites::{c, node, python};
use crate::test::Report;
use screen::Screen;

pub(crate) const USAGE: &str = "[--local] [--plain]";

const SCRIPT: &str = "The model is a script, so that this needs no key and no download. All else is real. With --local, a small real model takes its \
                      place, and with LOMUSAI_MODEL=PROVIDER/MODEL any other.";

/// The model of `--local`.
const SMALL: &str = "local:smollm2-135m";
const SMALL_IS: &str = "The model is SmolLM2 with 135 million parameters, in the program's own process: no server, no key. It has 98 MB, downloaded once and \
                        kept. It is small enough for any machine, and no thinker: what it says may be nonsense, and it was shown examples of what to do. \
                        What it writes as a call fits the function's schema all the same, because it is held to it while it writes. A better one \
                        takes its place by LOMUSAI_MODEL=local:/path/to/a/model.gguf.";

pub(crate) fn run(shell: &Shell, arguments: &[&str]) -> Result<(), String> {
    if let Some(other) = arguments.iter().find(|word| !["--local", "--plain"].contains(word)) {
        return Err(format!("unknown argument `{other}`: cargo xtask demo {USAGE}"));
    }
    let mut screen = if arguments.contains(&"--plain") { Screen::plain() } else { Screen::of_terminal() };
    let named = std::env::var("LOMUSAI_MODEL").ok().filter(|model| !model.is_empty());
    let about = match &named {
        Some(model) => format!("The model is {model}, as LOMUSAI_MODEL says."),
        None if arguments.contains(&"--local") => SMALL_IS.to_owned(),
        None => SCRIPT.to_owned(),
    };
    let model = named.or_else(|| arguments.contains(&"--local").then(|| SMALL.to_owned()));
    let local = model.as_ref().is_some_and(|model| model.starts_with("local:") || model.starts_with("local/"));
    let edition = if local { Edition::Local } else { Edition::Usual };
    let started = screen.now();
    let programs = Programs::build(shell, edition, &mut screen)?;
    let file = programs.folder.join("runs.db");

    screen.title("Python", "a program whose agent calls functions of its own");
    screen.paragraph(&about);
    let mut start = shell.command(&programs.python);
    start.arg(shell.root().join("examples/demo/start.py")).arg(&file);
    start.env("LOMUSAI_MODEL", model.unwrap_or_default());
    if local {
        start.env("PYTHONPATH", programs.folder.join("site"));
    }
    let run_id = shown_until_it_waits(&mut screen, start)?;
    screen.line("killed", "That process was ended just now (SIGKILL). The run is a file:");
    screen.line("", &format!("{}, {} bytes", name(&file), size(&file)));

    screen.title("Node", "another program opens the file, brings its own `refund`, and approves");
    let mut resume = shell.command("node");
    resume.arg(programs.folder.join("resume.mjs")).arg(&file).arg(&run_id);
    shown(&mut screen, resume)?;

    screen.title("C", "a third one reads the run's journal, and its digest: the same in every language");
    let mut journal = shell.command(programs.folder.join("journal"));
    journal.arg(&file).arg(&run_id);
    shown(&mut screen, journal)?;

    screen.end(started, "The three programs are in examples/demo. The README begins with the smallest ones.");
    Ok(())
}

/// What is shown, ready to run.
struct Programs {
    folder: PathBuf,
    python: PathBuf,
}

impl Programs {
    fn build(shell: &Shell, edition: Edition, screen: &mut Screen) -> Result<Self, String> {
        // What is missing is said before minutes of building.
        for (program, package) in [("python3", "python3"), ("node", "nodejs"), ("gcc", "gcc")] {
            shell.need(program, package)?;
        }
        let folder = edition.target(shell).join("demo");
        fresh(&folder)?;
        let sources = shell.root().join("examples/demo");
        let quiet = shell.quiet(screen.is_terminal());
        let python = match edition {
            Edition::Usual => {
                screen.title("Building", "the first time this takes some minutes");
                let python = screen.task("the Python package", || python::interpreter(&quiet))?;
                screen.task("the Node package", || node::laid_out(&quiet, &quiet.build(&["--lib"])?, &folder))?;
                python
            }
            Edition::Local => {
                screen.title("Building", "the first time this takes many minutes, for llama.cpp is compiled, too");
                let libraries = screen.task("the engine, for all three languages", || local_libraries(&quiet))?;
                screen.task("the packages", || {
                    python::laid_out(&quiet, &libraries, &folder.join("site"))?;
                    node::laid_out(&quiet, &libraries, &folder)
                })?;
                "python3".into()
            }
        };
        screen.task("the programs", || {
            copy(&sources.join("resume.mjs"), &folder.join("resume.mjs"))?;
            c::compile_with(&quiet, edition, &sources.join("journal.c"), &folder.join("journal"))
        })?;
        Ok(Self { folder, python })
    }
}

/// Shows what a program prints until it says which run waits, and kills it.
fn shown_until_it_waits(screen: &mut Screen, command: Command) -> Result<String, String> {
    let mut child = start(command)?;
    let run_id = screen.show(child.stdout.take().expect("piped"));
    child.kill().and_then(|()| child.wait()).map_err(|e| e.to_string())?;
    run_id?.ok_or_else(|| "the program ended before its run waited".into())
}

/// Shows what a program prints until it ends.
fn shown(screen: &mut Screen, command: Command) -> Result<(), String> {
    let what = format!("{command:?}");
    let mut child = start(command)?;
    screen.show(child.stdout.take().expect("piped"))?;
    let status = child.wait().map_err(|e| format!("{what}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{what}: {status}")) }
}

fn start(mut command: Command) -> Result<std::process::Child, String> {
    let shown = format!("{command:?}");
    command.stdout(Stdio::piped()).spawn().map_err(|e| format!("{shown}: {e}"))
}

fn size(file: &Path) -> u64 {
    // Both count: what is committed is in the log beside the file until it is folded in.
    let wal = format!("{}-wal", file.display());
    [file, Path::new(&wal)].iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum()
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The demo as a test.
pub(crate) fn suite(shell: &Shell, report: &mut Report) -> Result<(), String> {
    as_a_test(shell, report, &[], "The model is a script")
}

/// The demo on the small model, as a test.
pub(crate) fn local_suite(shell: &Shell, report: &mut Report) -> Result<(), String> {
    as_a_test(shell, report, &["--local"], "135 million parameters")
}

/// Runs it and looks for all that it must have shown, in this order: what it says of the model, then [`SHAPE`]. Never what the model said.
fn as_a_test(shell: &Shell, report: &mut Report, arguments: &[&str], about: &str) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|e| format!("the path of this program: {e}"))?;
    let mut demo = shell.command(own);
    demo.args(["demo", "--plain"]).args(arguments).env("LOMUSAI_MODEL", "").stdout(Stdio::piped());
    let mut child = demo.spawn().map_err(|e| format!("the demo: {e}"))?;
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        let line = line.map_err(|e| format!("the demo: {e}"))?;
        println!("{line}");
        lines.push(line);
    }
    let status = child.wait().map_err(|e| format!("the demo: {e}"))?;
    if !status.success() {
        report.fail(format!("the demo: {status}"));
        return Ok(());
    }
    let mut rest = lines.iter();
    if rest.any(|line| line.contains(about)) {
        report.pass();
    } else {
        report.fail("the demo does not say what the model is");
        return Ok(());
    }
    for (what, is_it) in SHAPE {
        match rest.find(|line| is_it(line.trim())) {
            Some(_) => report.pass(),
            None => {
                report.fail(format!("the demo shows no {what}, or not where it should"));
                return Ok(());
            }
        }
    }
    Ok(())
}

type Shape = (&'static str, fn(&str) -> bool);

/// What is seen, by how its lines look.
const SHAPE: &[Shape] = &[
    ("answer of the model", |line| line.strip_prefix("model").is_some_and(|said| !said.trim().is_empty())),
    ("call of `look_up` with an order's number", |line| {
        line.strip_prefix("call").is_some_and(|call| arguments(call, "look_up").is_some_and(|it| order(&it)))
    }),
    ("`look_up` in Python", |line| line.starts_with("python") && line.contains("look_up runs, for ")),
    ("call of `refund` that fits", |line| {
        line.strip_prefix("call").is_some_and(|call| {
            arguments(call, "refund").is_some_and(|it| {
                let reasons = ["broken", "late", "lost"];
                order(&it)
                    && it["cents"].as_u64().is_some_and(|cents| (1..=5000).contains(&cents))
                    && it["reason"].as_str().is_some_and(|reason| reasons.contains(&reason))
            })
        })
    }),
    ("wait for approval", |line| line.starts_with("waits") && line.contains("approval of refund")),
    ("killed process", |line| line.starts_with("killed")),
    ("`refund` in Node, under a key of its own", |line| line.starts_with("node") && line.contains("under the key ")),
    ("last word of the model", |line| line.starts_with("model")),
    ("suspension in the journal", |line| line.ends_with(" run_suspended")),
    ("approval in the journal", |line| line.ends_with(" signal_received")),
    ("end in the journal", |line| line.ends_with(" run_finished")),
    ("digest", |line| {
        line.strip_prefix("digest").is_some_and(|digest| {
            let digest = digest.trim();
            digest.len() >= 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    }),
];

fn arguments(call: &str, tool: &str) -> Option<serde_json::Value> {
    serde_json::from_str(call.trim().strip_prefix(tool)?).ok()
}

fn order(arguments: &serde_json::Value) -> bool {
    let order = arguments["order"].as_str().unwrap_or_default().as_bytes();
    matches!(order, [b'A'..=b'Z', b'-', b'0'..=b'9', b'0'..=b'9'])
}
