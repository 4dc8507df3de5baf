//! `cargo xtask bench`: builds with optimisation into `target/bench`, runs the programs in `benches/`, prints one table each.

pub(crate) mod instructions;
mod peers;
mod scaling;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::files::{copy, copy_tree, fresh};
use crate::shell::Shell;
use crate::suites::{node, python};

pub(crate) const USAGE: &str = "[NAME] [--json] [--update]";

/// Benchmarks that are more than programs whose cases are compared.
const OTHERS: [&str; 3] = ["peers", "scaling", "instructions"];

/// A benchmark: programs in several languages, named after it, that print a [`Line`] per case.
struct Bench {
    name: &'static str,
    languages: &'static [Language],
    /// The case of Rust that the others are compared with: their own cost is what they take beyond it.
    floor: Option<&'static str>,
    /// The most that a case may come to: CPU time in microseconds, beyond the floor where there is one, or a count.
    targets: &'static [(&'static str, f64)],
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "crossing",
        languages: &[Language::Rust, Language::C, Language::Python, Language::Node],
        floor: Some("Rust"),
        targets: &[
            ("C: inline", 1.0),
            ("Python: sync, inline", 5.0),
            ("Python: sync, pooled", 30.0),
            ("Python: async", 60.0),
            ("Node: sync", 80.0),
            ("Node: async", 80.0),
        ],
    },
    Bench { name: "turn", languages: &[Language::Rust, Language::Python, Language::Node], floor: None, targets: &[] },
    Bench { name: "wires", languages: &[Language::Rust], floor: None, targets: &[] },
    Bench {
        name: "workflows",
        languages: &[Language::Rust],
        floor: None,
        targets: &[
            ("step, run of 10", 2.0),
            ("fan of 1,010 steps", 3_000.0),
            ("durable step, sync normal", 25.0),
            ("durable step, sync full, times raw SQLite by the clock", 1.2),
            ("10,000 suspended runs: MB", 50.0),
        ],
    },
];

/// Every program is run so often, one after the other, and the best of each case counts: what disturbs a machine only ever adds.
const ROUNDS: usize = 3;

#[derive(Clone, Copy)]
enum Language {
    Rust,
    C,
    Python,
    Node,
}

/// What a program says of a case.
#[derive(Clone, Deserialize, Serialize)]
struct Line {
    case: String,
    #[serde(default)]
    calls: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_us_per_call: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wall_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mb_per_s: Option<f64>,
}

impl Line {
    /// The less, the better.
    fn value(&self) -> f64 {
        let us_per_mb = self.mb_per_s.map(|speed| 1e6 / speed);
        self.cpu_us_per_call.or(self.cpu_ms).or(self.wall_us).or(self.count).or(us_per_mb).unwrap_or(f64::INFINITY)
    }
}

/// Runs the benchmark that is named, or all. `--json` prints one object in place of the tables; `--update` writes the counts of
/// instructions down as the new baseline.
///
/// # Errors
/// What could not be built or run. A target that is missed is no error: it stands in the table.
pub(crate) fn run(shell: &Shell, words: &[&str]) -> Result<(), String> {
    let (flags, names): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with("--"));
    if flags.iter().any(|flag| !["--json", "--update"].contains(flag)) || names.len() > 1 {
        return Err(format!("cargo xtask bench {USAGE}"));
    }
    let (json, update, name) = (flags.contains(&"--json"), flags.contains(&"--update"), names.first().copied());
    let known: Vec<&str> = BENCHES.iter().map(|bench| bench.name).chain(OTHERS).collect();
    if let Some(name) = name.filter(|name| !known.contains(name)) {
        return Err(format!("there is no benchmark `{name}`: there are {}", known.join(", ")));
    }
    let wanted = |which: &str| name.is_none_or(|name| name == which);
    let mut report = Report { json, figures: Map::new() };
    if wanted("instructions") {
        let counts = instructions::measure(shell)?;
        if update {
            instructions::write_baseline(shell, &counts)?;
        }
        report.add("instructions", json!(counts), || instructions::print(shell, &counts))?;
    }
    if name == Some("instructions") {
        return report.end();
    }
    let kitchen = Kitchen { shell, folder: shell.target().join("bench") };
    kitchen.build(name)?;
    for bench in BENCHES.iter().filter(|bench| wanted(bench.name)) {
        let programs: Vec<Command> =
            bench.languages.iter().map(|language| kitchen.program(bench, *language)).collect::<Result<_, _>>()?;
        let lines = measure(programs)?;
        report.add(bench.name, json!(lines), || {
            print_table(bench, &lines);
            Ok(())
        })?;
    }
    if wanted("scaling") {
        let figures = scaling::measure(&kitchen)?;
        report.add("scaling", figures.json(), || {
            figures.print();
            Ok(())
        })?;
    }
    if name == Some("peers") || name.is_none() && std::env::var_os("LOMUSAI_PEERS").is_some() {
        let figures = peers::measure(&kitchen)?;
        report.add("peers", figures.json(), || {
            figures.print();
            Ok(())
        })?;
    }
    report.end()
}

/// What is said in the end, or as it comes.
struct Report {
    json: bool,
    figures: Map<String, Value>,
}

impl Report {
    fn add(&mut self, name: &str, figures: Value, print: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        if self.json {
            self.figures.insert(name.to_owned(), figures);
            return Ok(());
        }
        print()
    }

    fn end(self) -> Result<(), String> {
        if self.json {
            println!("{}", Value::Object(self.figures));
        }
        Ok(())
    }
}

/// Runs the programs in rounds and keeps each case's best, in the order in which they came first.
fn measure(mut programs: Vec<Command>) -> Result<Vec<Line>, String> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Vec<Line> = Vec::new();
    for _ in 0..ROUNDS {
        for program in &mut programs {
            for line in lines_of::<Line>(program)? {
                match places.get(&line.case) {
                    Some(&place) if best[place].value() <= line.value() => {}
                    Some(&place) => best[place] = line,
                    None => {
                        places.insert(line.case.clone(), best.len());
                        best.push(line);
                    }
                }
            }
        }
    }
    Ok(best)
}

fn lines_of<T: DeserializeOwned>(program: &mut Command) -> Result<Vec<T>, String> {
    let shown = Path::new(program.get_program()).display().to_string();
    let output = program.stderr(Stdio::inherit()).output().map_err(|e| format!("{shown}: cannot be started: {e}"))?;
    if !output.status.success() {
        return Err(format!("{shown}: {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).map_err(|e| format!("{shown} said `{line}`: {e}"))).collect()
}

fn print_table(bench: &Bench, lines: &[Line]) {
    println!("\n{}: CPU time, best of {ROUNDS}; release build", bench.name);
    let width = lines.iter().map(|line| line.case.len()).max().unwrap_or_default().max(40);
    println!("{:<width$} {:>10} {:>13} {:>13} {:>9}", "case", "calls", "per call", "beyond Rust", "target");
    let floor = bench.floor.and_then(|floor| lines.iter().find(|line| line.case == floor)).map(Line::value);
    for line in lines {
        let (value, calls) = (line.value(), if line.calls > 0 { line.calls.to_string() } else { String::new() });
        let shown = match line {
            Line { cpu_us_per_call: Some(us), .. } | Line { wall_us: Some(us), .. } => format!("{us:.3} us"),
            Line { cpu_ms: Some(ms), .. } => format!("{ms:.2} ms"),
            Line { mb_per_s: Some(speed), .. } => format!("{speed:.0} MB/s"),
            _ => format!("{value:.2}"),
        };
        let target = bench.targets.iter().find(|(case, _)| *case == line.case).map(|(_, target)| *target);
        // Loops, imports and counts have no engine in them.
        let measured = line.cpu_us_per_call.is_some() && !line.case.ends_with("plain loop");
        let beyond = floor.filter(|_| measured && Some(&*line.case) != bench.floor).map(|floor| value - floor);
        let counts = if bench.floor.is_some() { beyond } else { Some(value) };
        let verdict = match (counts, target) {
            (Some(is), Some(most)) if is > most => "  missed",
            _ => "",
        };
        let beyond = beyond.map_or(String::new(), |beyond| format!("{beyond:.3} us"));
        let unit = if measured { " us" } else { "" };
        let target = target.map_or(String::new(), |target| format!("<= {target}{unit}"));
        println!("{:<width$} {calls:>10} {shown:>13} {beyond:>13} {target:>9}{verdict}", line.case);
    }
}

/// Where the programs are made.
struct Kitchen<'a> {
    shell: &'a Shell,
    folder: PathBuf,
}

impl Kitchen<'_> {
    /// Builds the Rust programs and the library of every language.
    fn build(&self, name: Option<&str>) -> Result<(), String> {
        let packages: &[&str] = match name {
            Some("scaling" | "wires" | "workflows") => &["lomusai_benches"],
            _ => &["lomusai_benches", "mlomusai", "lomusai_python", "lomusai_node"],
        };
        let mut cargo = self.shell.cargo(&["build", "--release"]);
        cargo.args(packages.iter().flat_map(|package| ["--package", package]));
        // Each program and library is a link of minutes: those that are run, and no other.
        match name {
            Some("scaling") => drop(cargo.args(["--bin", "scaling"])),
            Some("peers") => drop(cargo.args(["--bin", "peer-lomusai", "--lib"])),
            Some("wires") => drop(cargo.args(["--bin", "wires"])),
            Some(name) if name != "instructions" => drop(cargo.args(["--bin", name, "--lib"])),
            _ => {}
        }
        cargo.env("CARGO_TARGET_DIR", &self.folder);
        // The interpreter brings Python's symbols along.
        cargo.env("PYO3_BUILD_EXTENSION_MODULE", "1");
        self.shell.run(cargo)
    }

    fn program(&self, bench: &Bench, language: Language) -> Result<Command, String> {
        match language {
            Language::Rust => Ok(self.shell.command(self.folder.join("release").join(bench.name))),
            Language::C => self.c(bench),
            Language::Python => self.python(bench),
            Language::Node => self.node(bench),
        }
    }

    fn source(&self, bench: &Bench) -> PathBuf {
        self.shell.root().join("benches").join(bench.name)
    }

    fn c(&self, bench: &Bench) -> Result<Command, String> {
        self.shell.need("cc", "gcc")?;
        let (libraries, program) = (self.fresh("c")?, self.folder.join(format!("{}-c", bench.name)));
        // Programs look for the library by its SONAME, which is not the name of the file that cargo makes.
        copy(&self.folder.join("release/libmlomusai.so"), &libraries.join("libmlomusai.so.1"))?;
        let mut cc = self.shell.command("cc");
        cc.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program);
        cc.arg(self.source(bench).join(format!("{}.c", bench.name)));
        cc.arg("-I").arg(self.shell.root().join("include")).arg(libraries.join("libmlomusai.so.1"));
        cc.arg(format!("-Wl,-rpath,{}", libraries.display()));
        self.shell.run(cc)?;
        Ok(self.shell.command(program))
    }

    fn python(&self, bench: &Bench) -> Result<Command, String> {
        let site = self.python_site()?;
        let mut python = self.shell.command("python3");
        python.arg(self.source(bench).join(format!("{}.py", bench.name))).env("PYTHONPATH", site);
        Ok(python)
    }

    /// The package as a wheel has it, found by the path.
    fn python_site(&self) -> Result<PathBuf, String> {
        let site = self.folder.join("python");
        python::laid_out(self.shell, &self.folder.join("release"), &site)?;
        Ok(site)
    }

    fn node(&self, bench: &Bench) -> Result<Command, String> {
        let folder = self.node_folder(&self.source(bench))?;
        let mut node = self.shell.command("node");
        node.arg(folder.join(format!("{}.mjs", bench.name)));
        Ok(node)
    }

    /// The package as npm installs it, with the programs beside it: Node looks for packages from where a program is.
    fn node_folder(&self, programs: &Path) -> Result<PathBuf, String> {
        self.shell.need("node", "nodejs")?;
        let folder = self.fresh("node")?;
        copy_tree(programs, &folder)?;
        node::laid_out(self.shell, &self.folder.join("release"), &folder)?;
        Ok(folder)
    }

    /// An empty folder: what an earlier checkout left there must not be measured.
    fn fresh(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.folder.join(name);
        fresh(&folder)?;
        Ok(folder)
    }
}
