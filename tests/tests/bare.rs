//! Runs every vector on the bare machine, and every vector's run again in all the ways a process can treat it.
//!
//! ```text
//! cargo test -p lomusai_tests --test bare -- [FILTER]... [--show] [--export=DIR]
//! ```
//!
//! `--show` prints canonical journals; `--export` writes the journals as they are, as a binding would export them.
#![allow(clippy::print_stdout, reason = "a line per vector is what this program is for")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use lomusai_core::{journal, transcript};
use lomusai_runtime::RunRequest;
use lomusai_tests::bare::{Driver, Order, Request, Session, World};
use lomusai_tests::matching::{difference, events_difference, shortened};
use lomusai_tests::vector::{Expect, Turn, Vector};
use lomusai_wire::{Event, EventBody, RunStatus, StartRequest};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let show = arguments.iter().any(|argument| argument == "--show");
    let filter: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let vectors = match Vector::read_all() {
        Ok(vectors) => vectors,
        Err(why) => {
            println!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let export = arguments.iter().find_map(|argument| argument.strip_prefix("--export=")).map(PathBuf::from);
    let update = std::env::var_os("LOMUSAI_UPDATE_VECTORS").is_some_and(|value| value == "1");
    let (mut passed, mut failed) = (0, 0);
    for vector in &vectors {
        let fits = |text: &&String| vector.name.contains(text.as_str()) || vector.path.ends_with(text.as_str());
        if !filter.is_empty() && !filter.iter().any(fits) {
            continue;
        }
        let mut check =
            Check { vector, show, update, export: export.clone(), digests: BTreeMap::new(), faults: Vec::new() };
        // A vector that brings the machine down must not hide the others.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check.run())) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => check.faults.push(why),
            Err(_) => check.faults.push("it panicked, see above".into()),
        }
        if check.faults.is_empty() {
            passed += 1;
            println!("test {} ... ok", vector.name);
        } else {
            failed += 1;
            println!("test {} ({}) ... FAILED", vector.name, vector.path.display());
            check.faults.iter().for_each(|fault| println!("  - {fault}"));
        }
    }
    println!("\n{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One vector under examination.
struct Check<'v> {
    vector: &'v Vector,
    show: bool,
    update: bool,
    export: Option<PathBuf>,
    /// By the JSON pointer of their place in the file.
    digests: BTreeMap<String, String>,
    faults: Vec<String>,
}

impl Check<'_> {
    fn run(&mut self) -> Result<(), String> {
        let world = match (World::new(self.vector), &self.vector.refused_spec) {
            (Err(error), Some(code)) if error.contains(&format!("[{code}]")) => return Ok(()),
            (Err(error), _) => return Err(error),
            (Ok(_), Some(code)) => return Err(format!("the spec was not refused with {code}")),
            (Ok(world), None) => world,
        };
        let mut session = Session::default();
        for (number, turn) in self.vector.turns.iter().enumerate() {
            let place = if number == 0 { "/expect".to_owned() } else { format!("/turns/{}/expect", number - 1) };
            let request = session.request(self.vector, turn)?;
            let driver = match (Driver::start(&world, &request, Order::Asked), &turn.expect.refused) {
                (Err(error), Some(code)) if error.code() == code => continue,
                (Err(error), _) => return Err(format!("the start was refused: {error}")),
                (Ok(_), Some(code)) => return Err(format!("the start was not refused with {code}")),
                (Ok(mut driver), None) => {
                    driver.play(turn);
                    driver
                }
            };
            self.faults.extend(driver.faults.iter().cloned());
            self.expectations(&place, turn, &driver);
            let trial = Trial { world: &world, request: &request, turn, whole: &driver };
            self.faults.extend(trial.in_other_orders());
            self.faults.extend(trial.interrupted(self.vector.sees_recovery()));
            self.faults.extend(trial.cancelled());
            session.keep(&request, &driver);
        }
        if self.update && self.faults.is_empty() {
            self.vector.write_digests(&self.digests)?;
        }
        Ok(())
    }

    fn expectations(&mut self, place: &str, turn: &Turn, driver: &Driver<'_>) {
        let expect = &turn.expect;
        self.run_as_expected(place, expect, driver.journal(), driver.machine().status());
        let mut differs = |expected: &Option<Value>, found: Value, what: &str| {
            let difference = expected.as_ref().and_then(|expected| difference(expected, Some(&found), what));
            self.faults.extend(difference);
        };
        differs(&expect.messages, json!(driver.messages()), "messages");
        differs(&expect.pending, json!(driver.suspensions), "pending");
        if driver.machine().status().is_final()
            && let Err(error) = transcript::check(driver.messages())
        {
            self.faults.push(format!("the transcript is invalid: {error}"));
        }
        let children: BTreeMap<&str, (&[Event], RunStatus)> =
            driver.children().map(|(to, journal, status)| (to, (journal, status))).collect();
        for (to, expect) in &expect.children {
            match children.get(to.as_str()) {
                Some((journal, status)) => {
                    self.run_as_expected(
                        &format!("{place}/children/{}", to.replace('/', "~1")),
                        expect,
                        journal,
                        *status,
                    );
                }
                None => self.faults.push(format!("there is no child run {to}")),
            }
        }
    }

    fn run_as_expected(&mut self, place: &str, expect: &Expect, journal: &[Event], status: RunStatus) {
        let lines = journal::canonical(journal);
        if self.show {
            println!("{place}");
            lines.iter().for_each(|line| println!("    {}", shortened(line, 600)));
        }
        let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
        if let Some(why) = expect.events.as_ref().and_then(|expected| events_difference(expected, &events)) {
            self.faults.push(why);
        }
        if let Some(expected) = expect.status.as_ref().filter(|expected| *expected != status.as_str()) {
            self.faults.push(format!("status: expected {expected}, was {}", status.as_str()));
        }
        let (output, error) = Driver::finish(journal);
        let found = json!({"output": output, "error": error});
        for (key, expected) in [("output", &expect.output), ("error", &expect.error)] {
            let found = Some(&found[key]);
            self.faults.extend(expected.as_ref().and_then(|expected| difference(expected, found, key)));
        }
        if let Some(error) = error.filter(|_| expect.status.is_some() && expect.error.is_none()) {
            self.faults.push(format!("error: expected none, was {error}"));
        }
        let digest = journal::digest(journal);
        if let Some(folder) = &self.export {
            let stem = self.vector.path.file_stem().unwrap_or_default().to_string_lossy();
            let file = folder.join(format!("{stem}{}.json", place.replace('/', "-").replace("~1", "_")));
            let written = std::fs::write(&file, json!({"digest": digest, "journal": journal}).to_string());
            self.faults.extend(written.err().map(|e| format!("{}: {e}", file.display())));
        }
        let pointer = format!("{place}/digest");
        match &expect.digest {
            Some(expected) if !self.update && *expected != digest => {
                self.faults
                    .push(format!("digest: expected {expected}, was {digest}; run with --show to read the journal"));
            }
            None if !place.contains("/children/") => {
                self.faults.push(format!("write `\"digest\": \"?\"` at {pointer}, to be filled in"));
            }
            None => {}
            Some(_) => {
                self.digests.insert(pointer, digest);
            }
        }
    }
}

/// One turn's run, to be lived through again under other circumstances.
struct Trial<'a> {
    world: &'a World,
    request: &'a Request,
    turn: &'a Turn,
    whole: &'a Driver<'a>,
}

impl<'a> Trial<'a> {
    /// Whichever of several answers comes first, the journal reads the same.
    fn in_other_orders(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for order in [Order::Reverse, Order::Random(1), Order::Random(2), Order::Random(3)] {
            let mut driver = self.started(order);
            driver.play(self.turn);
            let digests = |driver: &Driver<'_>| {
                let children = driver.children().map(|(to, events, _)| (to.to_owned(), journal::canonical(events)));
                [(String::new(), journal::canonical(driver.journal()))].into_iter().chain(children).collect::<Vec<_>>()
            };
            for ((to, expected), (_, found)) in digests(self.whole).iter().zip(&digests(&driver)) {
                if let Some(i) = (0..expected.len().max(found.len())).find(|i| expected.get(*i) != found.get(*i)) {
                    faults.push(format!(
                        "with answers in order {order:?} the journal of run `{to}` differs at {i}:\n    {:?}\n    {:?}",
                        expected.get(i),
                        found.get(i)
                    ));
                }
            }
            faults.extend(driver.faults.iter().map(|fault| format!("with answers in order {order:?}: {fault}")));
        }
        faults
    }

    /// A process may stop after any commit; another one then comes to the same end.
    fn interrupted(&self, sees_recovery: bool) -> Vec<String> {
        let mut faults = Vec::new();
        for cut in 1..=self.whole.commits.len() {
            let mut driver = Driver::recover(self.world, self.request, &self.whole.commits[..cut]);
            driver.play(self.turn);
            let mut fault = |why: String| faults.push(format!("stopped after commit {cut} and recovered: {why}"));
            driver.faults.iter().cloned().for_each(&mut fault);
            let end = |driver: &Driver<'_>| {
                let messages = json!(driver.messages());
                (driver.machine().status(), json!(Driver::finish(driver.journal()).0), messages)
            };
            let (expected, found) = (end(self.whole), end(&driver));
            // Where it is cancelled by the number of events, a second attempt shifts what that was.
            let same = !sees_recovery && self.turn.cancel_at.is_none();
            if expected.0 != found.0 || (same && expected != found) {
                fault(format!("\n    expected {expected:?}\n    was      {found:?}"));
            }
        }
        faults
    }

    /// A run may be cancelled after any commit: nothing starts any more, its transcript is whole and can be gone on with.
    fn cancelled(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for cut in 1..=self.whole.commits.len() {
            let mut driver = self.started(Order::Asked);
            driver.play_until(self.turn, cut);
            if driver.machine().status().is_final() {
                continue;
            }
            driver.cancel();
            let mut fault = |why: String| faults.push(format!("cancelled after commit {cut}: {why}"));
            let status = driver.machine().status();
            if status != RunStatus::Cancelled {
                fault(format!("status is {}", status.as_str()));
            }
            if driver.work() {
                fault("something was left to do".into());
            }
            let children = driver.children().map(|(to, events, _)| (to, events));
            for (to, events) in std::iter::once(("", driver.journal())).chain(children) {
                let told = events.iter().position(|event| matches!(event.body, EventBody::RunCancelling { .. }));
                let after = told.map_or(&events[..0], |told| &events[told..]);
                let ended = matches!(events.last().map(|event| &event.body), Some(EventBody::RunFinished { .. }));
                if after.iter().any(|event| matches!(event.body, EventBody::EffectStarted { .. })) {
                    fault(format!("run `{to}` started something afterwards"));
                }
                if !ended {
                    fault(format!("run `{to}` did not end"));
                }
            }
            if let Err(error) = transcript::check(driver.messages()) {
                fault(format!("the transcript is invalid: {error}"));
            }
            driver.faults.iter().cloned().for_each(&mut fault);
            let RunRequest::Agent(start) = &self.request.start else { continue };
            let request =
                Request { start: StartRequest::new(&start.agent, "go on").into(), history: driver.messages().to_vec() };
            match Driver::start(self.world, &request, Order::Asked) {
                Err(error) => fault(format!("the next turn was refused: {error}")),
                Ok(next) => next.faults.iter().cloned().for_each(fault),
            }
        }
        faults
    }

    fn started(&self, order: Order) -> Driver<'a> {
        Driver::start(self.world, self.request, order).expect("it was started before")
    }
}
