//! `cargo xtask test`: every suite in order, a failed one does not stop the others; then the numbers.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::files;
use crate::shell::{Shell, stream};
use crate::suites::{NAMED, SUITES};
use crate::tally::{Reader, Tally};
use crate::watch;

pub(crate) const USAGE: &str = "[--full] [--only SUITE]...";

/// What no suite can do without, in bytes.
const LEAST_ROOM: u64 = 1 << 30;

/// What `target` grows to in a fresh checkout, in GiB.
const WHOLE_RUN: u64 = 6;

/// What belongs together in the report.
pub(crate) struct Suite {
    /// What `--only` takes.
    pub(crate) name: &'static str,
    /// The row it counts in.
    pub(crate) language: &'static str,
    /// Reports what it finds; an error is one failure more.
    pub(crate) run: fn(&Shell, &mut Report) -> Result<(), String>,
}

/// What a suite has found so far.
pub(crate) struct Report {
    /// Whether the long form was asked for.
    pub(crate) full: bool,
    tally: Tally,
    /// What failed, in words.
    failures: Vec<String>,
}

impl Report {
    /// A program whose exit status is one result.
    pub(crate) fn check(&mut self, what: &str, command: Command) -> Result<(), String> {
        let (status, _) = stream(command, None)?;
        if status.success() {
            self.pass()
        } else {
            self.fail(format!("{what}: {status}"))
        }
        Ok(())
    }

    /// A program that runs tests and says how many. A bad exit status is a failure even where it counted none.
    pub(crate) fn tests(&mut self, what: &str, command: Command, reader: Reader) -> Result<(), String> {
        let (status, tally) = stream(command, Some(reader))?;
        self.tally += tally;
        if !status.success() && tally.failed == 0 {
            self.fail(format!("{what}: {status}"));
        } else if tally.failed > 0 {
            self.failures.push(format!("{what}: {} failed", tally.failed));
        } else if tally == Tally::default() {
            self.fail(format!("{what}: ran no test"));
        }
        Ok(())
    }

    /// A program that must end well and print each of these.
    pub(crate) fn prints(&mut self, what: &str, mut command: Command, expected: &[&str]) -> Result<(), String> {
        let output = command.output().map_err(|e| format!("{what}: {e}"))?;
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let missing: Vec<&&str> = expected.iter().filter(|text| !said.contains(**text)).collect();
        if output.status.success() && missing.is_empty() {
            println!("ok: {what}");
            self.pass();
        } else {
            println!("{said}{complained}");
            self.fail(format!("{what}: {}, and did not print {missing:?}", output.status));
        }
        Ok(())
    }

    /// One thing is as it should be.
    pub(crate) fn pass(&mut self) {
        self.tally += Tally::PASSED;
    }

    /// One thing is not.
    pub(crate) fn fail(&mut self, why: impl Into<String>) {
        let why = why.into();
        println!("FAILED: {why}");
        self.tally += Tally::FAILED;
        self.failures.push(why);
    }

    /// One thing could not be looked at.
    pub(crate) fn skip(&mut self, why: &str) {
        println!("skipped: {why}");
        self.tally += Tally::SKIPPED;
    }
}

pub(crate) fn run(shell: &Shell, arguments: &[&str]) -> Result<(), String> {
    let (mut full, mut only) = (false, Vec::new());
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match *word {
            "--full" => full = true,
            "--only" => only.push(*words.next().ok_or("--only needs the name of a suite")?),
            other => return Err(format!("unknown argument `{other}`: cargo xtask test {USAGE}")),
        }
    }
    let all = || SUITES.iter().chain(NAMED);
    if let Some(unknown) = only.iter().find(|name| !all().any(|suite| suite.name == **name)) {
        let known: Vec<&str> = all().map(|suite| suite.name).collect();
        return Err(format!("there is no suite `{unknown}`: there are {}", known.join(", ")));
    }
    // A suite takes some minutes on an idle machine, the first one most, since it builds.
    let minutes = watch::minutes(if full { 120.0 } else { 25.0 })?;
    let chosen: Vec<&Suite> = match &only[..] {
        [] => SUITES.iter().collect(),
        only => all().filter(|suite| only.contains(&suite.name)).collect(),
    };
    summary(&chosen.into_iter().map(|suite| one(shell, suite, full, minutes)).collect::<Vec<_>>())
}

/// Runs one suite to its end, or for so many minutes.
pub(crate) fn one<'a>(shell: &Shell, suite: &'a Suite, full: bool, minutes: f64) -> (&'a Suite, Report, Duration) {
    println!("\n=== {} ===", suite.name);
    let started = now();
    let mut report = Report { full, tally: Tally::default(), failures: Vec::new() };
    // A full disk fails in a hundred places, and says so in few of them.
    let room = files::free(&shell.target()).or_else(|| files::free(shell.root()));
    if let Some(free) = room.filter(|free| *free < LEAST_ROOM) {
        report.fail(format!(
            "the disk of {} has {} MiB left: make room (all suites together write about {WHOLE_RUN} GiB to it)",
            shell.target().display(),
            free >> 20
        ));
        return (suite, report, started.elapsed());
    }
    let (result, cut_off) = watch::within(minutes, || (suite.run)(shell, &mut report));
    if cut_off {
        report.fail(format!("the suite `{}` took longer than {minutes} minutes and was killed", suite.name));
    }
    if let Err(why) = result {
        report.fail(why);
    }
    (suite, report, started.elapsed())
}

/// Prints the numbers of each suite and language, and ends the process where something failed.
pub(crate) fn summary(done: &[(&Suite, Report, Duration)]) -> Result<(), String> {
    let mut languages: BTreeMap<&str, (Tally, Duration)> = BTreeMap::new();
    let mut total = Tally::default();
    println!("\n=== results ===\n{}", row("suite", "passed", "failed", "skipped", "time"));
    for (suite, report, time) in done {
        println!("{}", counts(suite.name, report.tally, *time));
        let sum = languages.entry(suite.language).or_default();
        sum.0 += report.tally;
        sum.1 += *time;
        total += report.tally;
    }
    println!("\n{}", row("language", "passed", "failed", "skipped", "time"));
    for (language, (tally, time)) in languages {
        println!("{}", counts(language, tally, time));
    }
    println!();
    for (suite, report, _) in done {
        for why in &report.failures {
            println!("FAILED in {}: {why}", suite.name);
        }
    }
    // The last line is read by machines, so that nothing may follow it; the exit status says the rest.
    println!("total: {} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    if total.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

fn counts(name: &str, tally: Tally, time: Duration) -> String {
    let Tally { passed, failed, skipped } = tally;
    let time = format!("{:.1} s", time.as_secs_f64());
    row(name, &passed.to_string(), &failed.to_string(), &skipped.to_string(), &time)
}

fn row(name: &str, passed: &str, failed: &str, skipped: &str, time: &str) -> String {
    format!("{name:<20}{passed:>8}{failed:>8}{skipped:>9}{time:>11}")
}

fn now() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "a task times the real world; nothing is replayed")]
    Instant::now()
}
