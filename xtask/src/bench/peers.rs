//! The same jobs for every framework, against one scripted model server: the folder that `LOMUSAI_PEERS` names, with our programs beside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Kitchen, ROUNDS, copy_tree};

/// What every peer does, how often, and how a figure of it is read.
struct Job {
    name: &'static str,
    what: &'static str,
    n: u64,
}

const JOBS: &[Job] = &[
    Job { name: "J0", what: "an agent with a tool, made", n: 10_000 },
    Job { name: "J1", what: "cold start, whole process", n: 1 },
    Job { name: "J2", what: "turn", n: 1_000 },
    Job { name: "J3", what: "turn with ten rounds of a tool", n: 50 },
    Job { name: "J4", what: "chunk of a stream", n: 20_000 },
    Job { name: "J5", what: "turn, 1,000 at once, model takes 50 ms", n: 1_000 },
    Job { name: "J6", what: "workflow of 10 steps", n: 1_000 },
    Job { name: "J6d", what: "workflow of 10 steps, in a store", n: 1_000 },
    Job { name: "J7", what: "10 side by side, then 1,000 items", n: 10 },
];

/// Those that are measured beside ours where the folder has them: the floor, and the fastest and the largest framework.
const OTHERS: &[&str] = &["bare-rust", "bare-hyper", "rig", "mastra", "langgraph"];
const OURS: &[&str] = &["lomusai", "lomusai-python", "lomusai-node"];

/// A figure that is wanted.
struct Target {
    peer: &'static str,
    job: &'static str,
    what: What,
}

enum What {
    /// CPU time, at most so many times that of another peer.
    Times(f64, &'static str),
    /// CPU time of one, in microseconds.
    Microseconds(f64),
    /// Most memory of the process, in MB.
    PeakMb(f64),
    /// A figure of the line's `extra`.
    Extra(&'static str, f64),
}

const TARGETS: &[Target] = &[
    Target { peer: "lomusai", job: "J0", what: What::Microseconds(2.0) },
    Target { peer: "lomusai", job: "J0", what: What::Extra("bytes_per_agent", 2048.0) },
    Target { peer: "lomusai", job: "J1", what: What::Times(3.0, "bare-rust") },
    Target { peer: "lomusai", job: "J2", what: What::Times(2.25, "bare-hyper") },
    Target { peer: "lomusai", job: "J3", what: What::Times(3.0, "bare-rust") },
    Target { peer: "lomusai", job: "J4", what: What::Times(1.5, "bare-rust") },
    Target { peer: "lomusai", job: "J5", what: What::Times(1.5, "bare-hyper") },
    Target { peer: "lomusai", job: "J5", what: What::PeakMb(40.0) },
    Target { peer: "lomusai", job: "J6", what: What::Microseconds(10.0 * 2.0) },
    Target { peer: "lomusai", job: "J6d", what: What::Microseconds(10.0 * 25.0) },
    Target { peer: "lomusai", job: "J7", what: What::Microseconds(3_000.0) },
    Target { peer: "lomusai-python", job: "J2", what: What::Times(0.05, "mastra") },
    Target { peer: "lomusai-node", job: "J2", what: What::Times(0.05, "mastra") },
];

/// The line that a program prints, with what `common/whole.py` adds.
#[derive(Clone, Deserialize)]
struct Line {
    peer: String,
    job: String,
    #[serde(default)]
    n: f64,
    #[serde(default)]
    cpu_s: f64,
    peak_rss_kb: Option<f64>,
    proc: Option<Whole>,
    #[serde(default)]
    extra: Value,
    error: Option<String>,
    skip: Option<String>,
}

#[derive(Clone, Deserialize)]
struct Whole {
    cpu_s: f64,
    peak_rss_kb: f64,
}

impl Line {
    /// CPU time of one operation, in microseconds. A cold start is the whole process.
    fn cpu_us(&self) -> f64 {
        match &self.proc {
            Some(whole) if self.job == "J1" => whole.cpu_s * 1e6,
            _ => self.cpu_s * 1e6 / self.n.max(1.0),
        }
    }

    fn peak_mb(&self) -> f64 {
        // What a program says of itself first: a peak is kept over exec, so that the system's may be the launcher's.
        self.peak_rss_kb.or(self.proc.as_ref().map(|whole| whole.peak_rss_kb)).unwrap_or_default() / 1024.0
    }
}

/// The best line of each job and peer.
pub(super) struct Figures(BTreeMap<(String, String), Line>);

/// Runs the jobs in rounds, all peers after one another in each, and keeps the best.
pub(super) fn measure(kitchen: &Kitchen<'_>) -> Result<Figures, String> {
    let folder = folder(kitchen)?;
    let peers: Vec<&str> =
        OTHERS.iter().copied().filter(|peer| present(kitchen, &folder, peer)).chain(OURS.iter().copied()).collect();
    let results = folder.join("results");
    let _ = fs::remove_dir_all(&results);
    let jobs: Vec<String> = JOBS.iter().map(|job| format!("{}:{}", job.name, job.n)).collect();
    let mut run = kitchen.shell.command("bash");
    run.current_dir(&folder).arg("run.sh");
    run.args(["-p", &peers.join(" "), "-j", &jobs.join(" "), "-r", &ROUNDS.to_string()]);
    run.env("MOCK_PORT", free_port()?.to_string());
    run.env("PEER_CMD_lomusai", kitchen.folder.join("release/peer-lomusai"));
    let script = |name: &str| kitchen.shell.root().join("benches/peers").join(name);
    let site = kitchen.python_site()?;
    run.env(
        "PEER_CMD_lomusai_python",
        format!("env PYTHONPATH={} python3 {}", site.display(), script("peer.py").display()),
    );
    let package = kitchen.node_folder(&kitchen.shell.root().join("benches/peers"))?;
    run.env("PEER_CMD_lomusai_node", format!("node --expose-gc {}", package.join("peer.mjs").display()));
    kitchen.shell.run(run)?;
    let text = fs::read_to_string(results.join("results.jsonl")).map_err(|e| format!("the peers' results: {e}"))?;
    let mut best: BTreeMap<(String, String), Line> = BTreeMap::new();
    for line in text.lines() {
        let line: Line = serde_json::from_str(line).map_err(|e| format!("a peer said `{line}`: {e}"))?;
        if let Some(error) = &line.error {
            return Err(format!("{} {}: {error}", line.peer, line.job));
        }
        if line.skip.is_some() {
            continue;
        }
        let key = (line.job.clone(), line.peer.clone());
        if best.get(&key).is_none_or(|known| known.cpu_us() > line.cpu_us()) {
            best.insert(key, line);
        }
    }
    Ok(Figures(best))
}

/// The peers' folder, or a copy of it where it cannot be written, with its server built.
fn folder(kitchen: &Kitchen<'_>) -> Result<PathBuf, String> {
    let named = std::env::var_os("LOMUSAI_PEERS").map(PathBuf::from).ok_or(
        "LOMUSAI_PEERS is not set: let it name the folder with the peers' benchmarks (the one that has run.sh and mock-llm/)",
    )?;
    if !named.join("run.sh").exists() {
        return Err(format!("LOMUSAI_PEERS names {}, which has no run.sh", named.display()));
    }
    let probe = named.join(".lomusai-probe");
    let folder = if fs::write(&probe, "").and_then(|()| fs::remove_file(&probe)).is_ok() {
        named
    } else {
        let copied = kitchen.folder.join("peers");
        copy_tree(&named, &copied)?;
        copied
    };
    build(kitchen, &folder.join("mock-llm"))?;
    Ok(folder)
}

fn build(kitchen: &Kitchen<'_>, folder: &Path) -> Result<(), String> {
    let mut cargo = kitchen.shell.cargo(&["build", "--release", "--locked", "--quiet"]);
    // Its own folder and its own settings: it is not of this workspace.
    cargo.current_dir(folder).env_remove("CARGO_TARGET_DIR").stderr(Stdio::inherit());
    kitchen.shell.run(cargo)
}

/// Whether a peer can be measured; sets it up where that takes one command.
fn present(kitchen: &Kitchen<'_>, folder: &Path, peer: &str) -> bool {
    let set_up = match peer {
        "rig" => build(kitchen, &folder.join("rig")),
        "mastra" if !folder.join("mastra/node_modules").exists() => {
            let mut npm = kitchen.shell.command("npm");
            npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(folder.join("mastra"));
            kitchen.shell.need("npm", "npm").and_then(|()| kitchen.shell.run(npm))
        }
        "langgraph" if !folder.join("py/venv-lc").exists() => {
            let mut venv = kitchen.shell.command("python3");
            venv.args(["-m", "venv", "py/venv-lc"]).current_dir(folder);
            let mut pip = kitchen.shell.command("py/venv-lc/bin/pip");
            pip.args(["install", "-q", "-r", "py/req-lc.txt"]).current_dir(folder);
            kitchen.shell.run(venv).and_then(|()| kitchen.shell.run(pip))
        }
        _ => Ok(()),
    };
    if let Err(why) = &set_up {
        eprintln!("{peer} is left out: {why}");
    }
    set_up.is_ok()
}

fn free_port() -> Result<u16, String> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|e| format!("no free port: {e}"))
}

impl Figures {
    fn line(&self, job: &str, peer: &str) -> Option<&Line> {
        self.0.get(&(job.to_owned(), peer.to_owned()))
    }

    pub(super) fn print(&self) {
        println!("\npeers: CPU time of the client, best of {ROUNDS}; `x` is how often ours fits into it");
        println!("{:<44} {:<16} {:>14} {:>8} {:>9}", "job", "peer", "CPU each", "x", "peak");
        for job in JOBS {
            let ours = self.line(job.name, "lomusai").map(Line::cpu_us);
            let mut what = format!("{} {}", job.name, job.what);
            for peer in OTHERS.iter().chain(OURS) {
                let Some(line) = self.line(job.name, peer) else { continue };
                let times = ours.map_or(String::new(), |ours| format!("{:.2}", line.cpu_us() / ours));
                println!("{what:<44} {peer:<16} {:>11.2} us {times:>8} {:>6.0} MB", line.cpu_us(), line.peak_mb());
                what.clear();
            }
        }
        if let Some(line) = self.line("J0", "lomusai") {
            let extra = |name: &str| line.extra[name].as_f64().unwrap_or_default();
            println!(
                "J0: an agent takes {:.0} bytes; a tool of its own, with its schema compiled, {:.1} us and {:.0} bytes more",
                extra("bytes_per_agent"),
                extra("distinct_tool_us"),
                extra("distinct_tool_bytes")
            );
        }
        println!("\n{:<62} {:>12} {:>12}", "target", "is", "wanted");
        for (what, is, wanted) in self.targets() {
            let verdict = if is > wanted { "  missed" } else { "" };
            println!("{what:<62} {is:>12.3} {:>12}{verdict}", format!("<= {wanted}"));
        }
    }

    /// Each target that could be measured: what it is, the figure, and the most it may be.
    fn targets(&self) -> Vec<(String, f64, f64)> {
        let figure = |target: &Target| {
            let line = self.line(target.job, target.peer)?;
            let name = format!("{} {}", target.peer, target.job);
            Some(match target.what {
                What::Times(wanted, other) => {
                    let other_us = self.line(target.job, other)?.cpu_us();
                    (format!("{name}: CPU, times that of {other}"), line.cpu_us() / other_us, wanted)
                }
                What::Microseconds(wanted) => (format!("{name}: CPU in us"), line.cpu_us(), wanted),
                What::PeakMb(wanted) => (format!("{name}: peak in MB"), line.peak_mb(), wanted),
                What::Extra(field, wanted) => (format!("{name}: {field}"), line.extra[field].as_f64()?, wanted),
            })
        };
        TARGETS.iter().filter_map(figure).collect()
    }

    pub(super) fn json(&self) -> Value {
        let lines = self.0.values().map(|line| {
            json!({"job": line.job, "peer": line.peer, "n": line.n, "cpu_us": line.cpu_us(), "peak_mb": line.peak_mb(),
                "extra": line.extra})
        });
        let targets = self
            .targets()
            .into_iter()
            .map(|(what, is, wanted)| json!({"target": what, "is": is, "at_most": wanted, "met": is <= wanted}));
        json!({"figures": lines.collect::<Vec<_>>(), "targets": targets.collect::<Vec<_>>()})
    }
}
