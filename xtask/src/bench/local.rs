//! Models in the process beside a plain loop over llama.cpp, in one program.

use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Kitchen, PROFILE, lines_of};

/// What the program says of a case.
#[derive(Deserialize, Serialize)]
struct Line {
    case: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    plain_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wanted: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

pub(super) struct Figures(Vec<Line>);

pub(super) fn measure(kitchen: &Kitchen<'_>) -> Result<Figures, String> {
    kitchen.shell.need_llama()?;
    let mut cargo = kitchen.shell.cargo(&["build", "--release", "--package", "lomusai_benches"]);
    cargo.args(["--features", "local", "--bin", "local"]);
    // A folder of its own: with the feature, the other benchmarks would be measured with other libraries.
    let folder = kitchen.folder.join("local");
    cargo.envs(PROFILE.iter().copied()).env("CARGO_TARGET_DIR", &folder);
    kitchen.shell.run(cargo)?;
    let mut program: Command = kitchen.shell.command(folder.join("release/local"));
    lines_of(&mut program).map(Figures)
}

impl Figures {
    pub(super) fn print(&self) {
        println!("\nlocal: SmolLM2 135M and MiniLM, one thread, CPU time, medians of pairs measured by turns");
        println!("{:<72} {:>12} {:>12} {:>8} {:>8}", "case", "plain loop", "engine", "ratio", "wanted");
        let number = |value: Option<f64>, unit: &str| value.map_or(String::new(), |value| format!("{value:.1}{unit}"));
        for line in &self.0 {
            let ratio = line.ratio.map_or(number(line.count, ""), |ratio| format!("{ratio:.3}"));
            let verdict = if line.met == Some(false) { "  missed" } else { "" };
            println!(
                "{:<72} {:>12} {:>12} {ratio:>8} {:>8}{verdict}",
                line.case,
                number(line.plain_us, " us"),
                number(line.engine_us, " us"),
                line.wanted.as_deref().unwrap_or_default()
            );
        }
    }

    pub(super) fn json(&self) -> Value {
        json!(self.0)
    }
}
