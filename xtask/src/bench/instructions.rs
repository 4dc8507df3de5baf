//! Instructions that a turn, a delta and a round of a tool take, counted by callgrind, beside the committed baseline. A count does not know
//! how busy the machine is, so that the tests can hold the engine to it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::shell::Shell;
use crate::test::Report;

/// So much a count may differ from the baseline. Hash maps with random seeds and the scheduler move it by less than a tenth of this.
const TOLERANCE: f64 = 0.05;

/// The cases of `benches/src/bin/instructions.rs`.
const CASES: &[&str] = &["turn", "delta", "delta-read", "round"];

/// Instructions by case.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Counts each case: the difference of a long run of the program and a short one, so that what it does once is in neither.
///
/// Built with the tests' profile, whose artefacts are there: a change shows as well as with optimisation, and nothing more is compiled.
pub(crate) fn measure(shell: &Shell) -> Result<Counts, String> {
    shell.need("valgrind", "valgrind")?;
    let program = shell.build(&["--bin", "instructions"])?.join("instructions");
    let folder = shell.target().join("callgrind");
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let counted = |case: &str, times: u64| {
        let file = folder.join(format!("{case}-{times}.out"));
        let mut valgrind = shell.command("valgrind");
        valgrind.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", file.display()));
        valgrind.arg(&program).args([case, &times.to_string()]);
        shell.run(valgrind)?;
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        // `totals: N`, or `summary: N` in older files.
        let totals =
            text.lines().rev().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
        let count = totals.and_then(|count| count.split_ascii_whitespace().next()?.parse::<u64>().ok());
        count.ok_or_else(|| format!("{} has no total", file.display()))
    };
    CASES
        .iter()
        .map(|case| {
            let (few, many) = (10, 110);
            let more = counted(case, many)?.saturating_sub(counted(case, few)?);
            Ok(((*case).to_owned(), more / (many - few)))
        })
        .collect()
}

fn baseline_file(shell: &Shell) -> PathBuf {
    shell.root().join("benches/instructions.json")
}

fn baseline(shell: &Shell) -> Result<Counts, String> {
    let file = baseline_file(shell);
    let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))
}

/// Makes the counts the ones that later ones are compared with.
pub(crate) fn write_baseline(shell: &Shell, counts: &Counts) -> Result<(), String> {
    let text = serde_json::to_string_pretty(counts).expect("numbers are JSON") + "\n";
    fs::write(baseline_file(shell), text).map_err(|e| format!("{}: {e}", baseline_file(shell).display()))
}

/// How far a case is from the baseline: 0.1 is a tenth more.
fn drift(now: u64, then: u64) -> f64 {
    now as f64 / then.max(1) as f64 - 1.0
}

pub(crate) fn print(shell: &Shell, counts: &Counts) -> Result<(), String> {
    let known = baseline(shell)?;
    println!("\ninstructions of the tests' build without optimisation; may differ by {:.0} %", TOLERANCE * 100.0);
    println!("{:<20} {:>10} {:>10} {:>9}", "case", "now", "baseline", "drift");
    for (case, now) in counts {
        let then = known.get(case).copied().unwrap_or(0);
        println!("{case:<20} {now:>10} {then:>10} {:>8.1}%", drift(*now, then) * 100.0);
    }
    Ok(())
}

/// The suite: no case may have drifted. One that got better has to be written down, or its gain could be lost unseen.
pub(crate) fn suite(shell: &Shell, report: &mut Report) -> Result<(), String> {
    let (counts, known) = (measure(shell)?, baseline(shell)?);
    for (case, now) in counts {
        let then = known.get(&case).copied().unwrap_or(0);
        if drift(now, then).abs() <= TOLERANCE {
            println!("ok: {case}: {now} instructions, baseline {then}");
            report.pass();
        } else {
            report.fail(format!(
                "{case}: {now} instructions, baseline {then}: where that is meant, `cargo xtask bench instructions --update`"
            ));
        }
    }
    Ok(())
}
