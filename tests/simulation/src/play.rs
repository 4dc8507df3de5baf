//! Plays a seed: starts a run, does to it what the dice say, then lets everything be well and sees whether it comes to its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use lomusai_core::Result;
use lomusai_runtime::Engine;
use lomusai_wire::{Code, Command, EffectId, Outcome, PendingKind, RunId, RunInfo, RunStatus, WorkflowRequest, codes};
use serde_json::{Value, json};
use tokio::time::{Duration, sleep, timeout};

use crate::fault::{Counts, Fault};
use crate::host::{self, LEASE_MS};
use crate::random::Random;
use crate::scenario::{MAIN, Scenario};
use crate::world::{Condition, Process, Seat, World};

/// So long, by the virtual clock, may a run take to end once nothing goes wrong any more.
const PATIENCE_MS: u64 = 600_000;
/// So long may a parent take to record that its child waits.
const PASS_UP_MS: u64 = 3_000;

/// What a command is answered that comes too late.
const LATE: [Code; 5] =
    [codes::EFFECT_UNKNOWN, codes::RUN_FINISHED, codes::RUN_ACTIVE, codes::RUN_NOT_FAILED, codes::SEQUENCE_CONFLICT];

/// What a seed came to.
#[derive(Clone, Debug)]
pub struct Played {
    /// What is wrong, if anything is.
    pub wrong: Option<String>,
    /// What happened to it.
    pub counts: Counts,
    /// A number over all that happened, in order: the same for the same seed.
    pub trace: u64,
}

/// How a run without faults ends, to compare with.
struct Reference {
    outcome: Option<Outcome>,
    output: Option<Value>,
    effects: BTreeMap<String, String>,
}

/// Plays a seed, and tells its story to who wants to read it.
pub fn play(seed: u64, reader: Option<fn(&str)>) -> Played {
    let reference = on_virtual_time(async move {
        let mut table = Table::new(seed, None);
        table.calm().await;
        table.reference()
    });
    on_virtual_time(async move {
        let mut table = Table::new(seed, reader);
        table.trouble().await;
        table.calm().await;
        table.compare(&reference);
        table.played()
    })
}

/// Everything happens on this thread, in an order that only depends on the seed, and waiting takes no time.
fn on_virtual_time<T>(play: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime without threads");
    runtime.block_on(play)
}

/// A process and what it runs.
#[derive(Clone)]
struct Place {
    process: Arc<Process>,
    engine: Engine,
}

/// The table at which a seed is played.
struct Table {
    world: Arc<World>,
    /// All processes that ever were: what is left of the dead still tries to do something.
    places: Vec<Place>,
    /// Decides what is done, apart from the dice of the world.
    random: Random,
    /// Whether somebody asked for the run to be cancelled.
    cancelled: bool,
}

impl Table {
    fn new(seed: u64, reader: Option<fn(&str)>) -> Self {
        let mut dice = Random::new(seed);
        let scenario = Scenario::new(&mut dice);
        let world = Arc::new(World::new(scenario, Random::new(dice.draw())));
        world.state.lock().reader = reader;
        let spec = serde_json::to_string(&world.scenario.workflows).expect("JSON");
        world.tell(|| spec);
        Self { world, places: Vec::new(), random: Random::new(dice.draw()), cancelled: false }
    }

    // --- Processes ---------------------------------------------------------------------------------------------------

    fn boot(&mut self) -> Place {
        let process = Arc::new(Process::new(format!("e{}", self.places.len() + 1)));
        self.world.tell(|| format!("{} boots", process.owner));
        let seat = Arc::new(Seat { world: self.world.clone(), process: process.clone() });
        let engine = host::open(&seat).expect("an engine");
        let place = Place { process, engine };
        self.places.push(place.clone());
        place
    }

    fn in_condition(&self, condition: Condition) -> Vec<Place> {
        self.places.iter().filter(|place| place.process.condition() == condition).cloned().collect()
    }

    fn one_of(&mut self, places: &[Place]) -> Option<Place> {
        (!places.is_empty()).then(|| self.random.pick(places).clone())
    }

    /// A process that is alive; another one is started where there is none.
    fn alive(&mut self) -> Place {
        let alive = self.in_condition(Condition::Alive);
        match self.one_of(&alive) {
            Some(place) => place,
            None => {
                let place = self.boot();
                self.start(&place);
                place
            }
        }
    }

    /// Has an engine look for work, in the background.
    fn start(&self, place: &Place) {
        let engine = place.engine.clone();
        tokio::spawn(async move { engine.start().await });
    }

    fn begin(&self, place: &Place) {
        let (world, place) = (self.world.clone(), place.clone());
        let mut request = WorkflowRequest::new(MAIN, world.scenario.input.clone());
        (request.run_id, request.detached) = (Some(MAIN.into()), true);
        tokio::spawn(async move {
            let begun = place.engine.stream(request).await;
            if place.process.condition() == Condition::Alive && begun.is_ok() {
                world.state.lock().checker.begun(&MAIN.into());
            }
        });
    }

    // --- Commands ----------------------------------------------------------------------------------------------------

    /// Sends a command, in the background. Its sender may give up.
    fn send(&self, place: &Place, run_id: &RunId, command: Command, patience_ms: Option<u64>) {
        let (world, place, run_id) = (self.world.clone(), place.clone(), run_id.clone());
        tokio::spawn(async move {
            let sent = place.engine.command(&run_id, command.clone());
            let result = match patience_ms {
                None => sent.await,
                Some(ms) => match timeout(Duration::from_millis(ms), sent).await {
                    Ok(result) => result,
                    Err(_) => {
                        world.tell(|| format!("nobody waits for {command:?} to {run_id} any more"));
                        return world.state.lock().counts.add(Fault::CommandDropped);
                    }
                },
            };
            // What a dead process says reaches nobody.
            if place.process.condition() == Condition::Alive {
                world.tell(|| format!("{} says {result:?} to {command:?} for {run_id}", place.process.owner));
                if result.is_ok() {
                    world.state.lock().checker.acknowledged(&run_id, &command);
                }
            }
        });
    }

    fn lines(&self) -> Vec<RunInfo> {
        self.world.state.lock().checker.runs.values().map(|run| run.info.clone()).collect()
    }

    /// A command that makes sense for a run: what it waits for, or a signal that it will wait for.
    fn sensible(&mut self) -> Option<(RunId, Command)> {
        let lines: Vec<RunInfo> = self.lines().into_iter().filter(|info| !info.status.is_final()).collect();
        if lines.is_empty() {
            return None;
        }
        let info = self.random.pick(&lines).clone();
        let signals = self.world.scenario.signals(&info.agent);
        if !signals.is_empty() && self.random.per_mille(300) {
            let name = self.random.pick(&signals).clone();
            let waited_for = info.pending.iter().any(|pending| pending.signal.as_ref() == Some(&name));
            if !waited_for {
                self.world.state.lock().counts.add(Fault::SignalEarly);
            }
            return Some((info.run_id, signal(&name)));
        }
        if info.pending.is_empty() {
            return None;
        }
        let pending = self.random.pick(&info.pending).clone();
        match (pending.reason, pending.signal) {
            (_, Some(name)) => Some((info.run_id, signal(&name))),
            _ => Some((info.run_id, resume(Some(pending.effect_id)))),
        }
    }

    // --- Trouble -----------------------------------------------------------------------------------------------------

    /// Everything that can go wrong, for a while.
    async fn trouble(&mut self) {
        self.rates();
        let first = self.boot();
        if self.random.per_mille(500) {
            self.start(&first);
        }
        self.begin(&first);
        let (crowd, cancels, jumps) =
            (self.random.between(1, 3), self.random.per_mille(120), self.random.per_mille(300));
        for _ in 0..self.random.between(5, 35) {
            let most = *self.random.pick(&[20, 20, 200, 200, 2_000, 9_000]);
            let ms = self.random.between(0, most);
            sleep(Duration::from_millis(ms)).await;
            if self.world.state.lock().checker.wrong().is_some() {
                return;
            }
            self.something(crowd, cancels, jumps);
        }
    }

    /// What goes wrong inside of the world, and how often: another mixture for each seed.
    fn rates(&mut self) {
        let can = [
            (Fault::CommitFails, 30),
            (Fault::CommitAnswerLost, 30),
            (Fault::CommitSlow, 100),
            (Fault::ReadFails, 30),
            (Fault::LeaseFails, 60),
            (Fault::LeaseAnswerLost, 60),
            (Fault::CrashBeforeCommit, 30),
            (Fault::CrashAfterCommit, 30),
            (Fault::CrashInStep, 40),
            (Fault::StepFails, 500),
            (Fault::StepLate, 200),
            (Fault::StepSilent, 200),
            (Fault::StepTwice, 200),
        ];
        let mut state = self.world.state.lock();
        for (fault, most) in can {
            if self.random.per_mille(350) {
                state.rates.insert(fault, self.random.between(1, most));
            }
        }
        state.latency_ms = *self.random.pick(&[0, 0, 3, 20]);
    }

    /// One thing from outside.
    fn something(&mut self, crowd: u64, cancels: bool, jumps: bool) {
        let count = |table: &Self, fault| table.world.state.lock().counts.add(fault);
        match self.random.below(100) {
            0..40 => {
                let place = self.alive();
                let Some((run_id, command)) = self.sensible() else { return };
                let patience = self.random.per_mille(150).then(|| self.random.below(60));
                self.send(&place, &run_id, command.clone(), patience);
                if self.random.per_mille(150) {
                    count(self, Fault::CommandTwice);
                    let other = self.alive();
                    self.send(&other, &run_id, command, None);
                }
            }
            40..45 => {
                count(self, Fault::CommandAmiss);
                let place = self.alive();
                let command = match self.random.below(4) {
                    0 => resume(Some("nothing".into())),
                    1 => resume(None),
                    2 => signal("nobody-waits-for-this"),
                    _ => Command::Approve { effect_id: None },
                };
                self.send(&place, &MAIN.into(), command, None);
            }
            45..55 => {
                let alive = self.in_condition(Condition::Alive);
                let Some(place) = self.one_of(&alive) else { return };
                if alive.len() > 1 {
                    count(self, Fault::StartedTwice);
                }
                self.start(&place);
            }
            55..65 => {
                let up = [self.in_condition(Condition::Alive), self.in_condition(Condition::Stopped)].concat();
                if up.len() < crowd as usize {
                    let place = self.boot();
                    self.start(&place);
                }
            }
            65..72 => {
                let Some(place) = self.one_of(&self.in_condition(Condition::Alive)) else { return };
                count(self, Fault::Crash);
                self.world.tell(|| format!("{} dies", place.process.owner));
                place.process.set(Condition::Dead);
            }
            72..80 => {
                let Some(place) = self.one_of(&self.in_condition(Condition::Alive)) else { return };
                count(self, Fault::Stopped);
                self.world.tell(|| format!("{} is stopped", place.process.owner));
                place.process.set(Condition::Stopped);
            }
            80..88 => {
                let stopped = self.in_condition(Condition::Stopped);
                if let Some(place) = self.one_of(&stopped) {
                    self.wake(&place);
                }
            }
            88..93 => {
                if jumps {
                    self.set_clock();
                }
            }
            93..96 => {
                if cancels {
                    self.cancel();
                }
            }
            _ => self.repair(),
        }
    }

    fn wake(&self, place: &Place) {
        let mut state = self.world.state.lock();
        state.checker.disturbed += 1;
        let overtaken = state.checker.was_overtaken(&place.process.owner);
        if overtaken {
            state.counts.add(Fault::Overtaken);
        }
        drop(state);
        self.world.tell(|| format!("{} wakes, overtaken: {overtaken}", place.process.owner));
        place.process.set(Condition::Alive);
    }

    fn set_clock(&mut self) {
        let by = self.random.between(10, LEASE_MS * 4) as i64;
        let forward = self.random.per_mille(500);
        let mut state = self.world.state.lock();
        state.clock_ms += if forward { by } else { -by };
        state.checker.disturbed += 1;
        state.counts.add(if forward { Fault::ClockForward } else { Fault::ClockBack });
        drop(state);
        self.world.tell(|| format!("the clock is set {} by {by} ms", if forward { "forward" } else { "back" }));
    }

    fn cancel(&mut self) {
        self.cancelled = true;
        self.world.state.lock().counts.add(Fault::Cancelled);
        let place = self.alive();
        let lines = self.lines();
        // Mostly the whole, now and then a child alone.
        let run_id = if lines.is_empty() || self.random.per_mille(800) {
            MAIN.into()
        } else {
            self.random.pick(&lines).run_id.clone()
        };
        let grace_ms = *self.random.pick(&[0, 0, 30, 300, 3_000]);
        self.send(&place, &run_id, Command::Cancel { grace_ms, reason: None }, None);
    }

    /// Repairs what made steps fail, and has what failed tried again; now and then too early.
    fn repair(&mut self) {
        if self.random.per_mille(700) {
            self.world.state.lock().repaired = true;
        }
        let failed =
            self.lines().into_iter().any(|info| info.run_id.as_str() == MAIN && info.status == RunStatus::Failed);
        if failed {
            self.world.state.lock().counts.add(Fault::Retried);
            let place = self.alive();
            self.send(&place, &MAIN.into(), Command::Retry, None);
        }
    }

    // --- Calm --------------------------------------------------------------------------------------------------------

    /// From here on nothing goes wrong: one process, which looks for work as long as a dead one's lease lasts. Everything must end.
    async fn calm(&mut self) {
        self.world.tell(|| "from here on all is well".into());
        {
            let mut state = self.world.state.lock();
            state.rates.clear();
            (state.latency_ms, state.repaired) = (0, true);
        }
        for place in self.in_condition(Condition::Stopped) {
            match self.random.per_mille(300) {
                true => place.process.set(Condition::Dead),
                false => self.wake(&place),
            }
        }
        let mut alive = self.in_condition(Condition::Alive);
        if alive.is_empty() || self.random.per_mille(500) {
            alive.push(self.boot());
        }
        let keeps = self.random.below(alive.len() as u64) as usize;
        let place = alive.swap_remove(keeps);
        alive.iter().for_each(|place| place.process.set(Condition::Dead));
        if let Err(why) = self.go_on(&place).await {
            let lines: Vec<String> = self
                .lines()
                .iter()
                .map(|info| {
                    format!(
                        "{} {:?} {:?}",
                        info.run_id,
                        info.status,
                        info.pending.iter().map(|p| &p.effect_id).collect::<Vec<_>>()
                    )
                })
                .collect();
            self.world.state.lock().checker.say(format!("{why}: {}", lines.join("; ")));
        }
    }

    async fn go_on(&mut self, place: &Place) -> std::result::Result<(), String> {
        let words = |error: lomusai_core::Error| format!("in good times: {error}");
        self.look_for_work(place).await?;
        self.world.state.lock().checker.calm_since = Some(self.world.elapsed_ms());
        if !self.lines().iter().any(|info| info.run_id.as_str() == MAIN) {
            let mut request = WorkflowRequest::new(MAIN, self.world.scenario.input.clone());
            (request.run_id, request.detached) = (Some(MAIN.into()), true);
            match place.engine.stream(request).await {
                Ok(run) => drop(run.detach()),
                Err(error) if error.is(codes::RUN_EXISTS) => {}
                Err(error) => return Err(words(error)),
            }
        }
        let mut waited = 0;
        // For how long each suspended child has waited for its parent to say so.
        let mut unsaid: BTreeMap<RunId, u64> = BTreeMap::new();
        while waited < PATIENCE_MS {
            if self.world.state.lock().checker.wrong().is_some() {
                return Ok(());
            }
            let lines = self.lines();
            let Some(main) = lines.iter().find(|info| info.run_id.as_str() == MAIN).cloned() else {
                // An earlier attempt to begin it is still under way.
                sleep(Duration::from_millis(200)).await;
                waited += 200;
                continue;
            };
            if main.status == RunStatus::Failed && !self.cancelled {
                match self.told(place, &main.run_id, Command::Retry).await {
                    Err(error) if !LATE.iter().any(|code| error.is(*code)) => return Err(words(error)),
                    // Who has it lets go of it in time, and time has to pass for that.
                    _ => {
                        sleep(Duration::from_millis(200)).await;
                        waited += 200;
                        continue;
                    }
                }
            }
            if lines.iter().all(|info| info.status.is_final()) {
                return Ok(());
            }
            let mut quiet = true;
            for info in lines.iter().filter(|info| info.status == RunStatus::Suspended) {
                if !self.passed_up(&info.run_id) {
                    let since = *unsaid.entry(info.run_id.clone()).or_insert(waited);
                    if waited - since > PASS_UP_MS {
                        return Err(format!("nobody passed up that `{}` waits", info.run_id));
                    }
                    continue;
                }
                unsaid.remove(&info.run_id);
                quiet &= !self.answer(place, info, &lines).await.map_err(words)?;
            }
            let pause = if quiet { 200 } else { 10 };
            sleep(Duration::from_millis(pause)).await;
            waited += pause;
        }
        Err("it does not come to an end".into())
    }

    /// Leases of the dead run out; then everything is recovered.
    async fn look_for_work(&self, place: &Place) -> std::result::Result<(), String> {
        for _ in 0..100 {
            let started = timeout(Duration::from_millis(PATIENCE_MS), place.engine.start()).await;
            let report = started.map_err(|_| "an engine does not start".to_owned())?.map_err(|e| e.to_string())?;
            if let Some((run, error)) = report.blocked.first() {
                return Err(format!("run `{run}` is blocked: {error}"));
            }
            if report.elsewhere.is_empty() {
                return Ok(());
            }
            sleep(Duration::from_millis(LEASE_MS / 3)).await;
        }
        Err("the leases of the dead do not run out".into())
    }

    fn passed_up(&self, run_id: &RunId) -> bool {
        let state = self.world.state.lock();
        state.checker.runs.get(run_id).is_none_or(|run| state.checker.is_passed_up(run))
    }

    /// Tells a run what it waits for; where it is a child, now and then through its parent. Gives whether anything was said.
    async fn answer(&mut self, place: &Place, info: &RunInfo, lines: &[RunInfo]) -> Result<bool> {
        let mut said = false;
        let own: Vec<_> = info.pending.iter().filter(|pending| pending.reason != PendingKind::Child).cloned().collect();
        for pending in &own {
            let command = match &pending.signal {
                Some(name) => signal(name),
                None => resume(Some(pending.effect_id.clone())),
            };
            let parent = info.parent.as_ref().filter(|_| pending.signal.is_none() && own.len() == 1);
            let parent = parent.and_then(|parent| {
                let waits = lines.iter().find(|line| line.run_id == parent.run_id)?.status == RunStatus::Suspended;
                waits.then(|| (parent.run_id.clone(), resume(Some(parent.effect_id.clone()))))
            });
            let (run_id, command) = match parent {
                Some(parent) if self.random.per_mille(700) => parent,
                _ => (info.run_id.clone(), command),
            };
            match self.told(place, &run_id, command).await {
                Ok(()) => said = true,
                // It went on by itself meanwhile, or this engine had not noticed yet that another one took it over.
                Err(error) if LATE.iter().any(|code| error.is(*code)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(said)
    }

    async fn told(&self, place: &Place, run_id: &RunId, command: Command) -> Result<()> {
        let sent = timeout(Duration::from_millis(PATIENCE_MS), place.engine.command(run_id, command.clone())).await;
        let Ok(result) = sent else {
            self.world.state.lock().checker.say(format!("{command:?} for `{run_id}` is not answered"));
            return Ok(());
        };
        self.world.tell(|| format!("{} says {result:?} to {command:?} for {run_id}", place.process.owner));
        if result.is_ok() {
            self.world.state.lock().checker.acknowledged(run_id, &command);
        }
        result
    }

    // --- The end -----------------------------------------------------------------------------------------------------

    fn reference(&self) -> std::result::Result<Reference, String> {
        let state = self.world.state.lock();
        match state.checker.wrong() {
            Some(why) => Err(format!("without a fault: {why}")),
            None => {
                let main = &state.checker.runs[&RunId::from(MAIN)];
                let (outcome, output) = (main.finished, main.output.clone());
                Ok(Reference { outcome, output, effects: first_children(&state.checker.effects) })
            }
        }
    }

    fn compare(&self, reference: &std::result::Result<Reference, String>) {
        let mut state = self.world.state.lock();
        if state.checker.wrong().is_some() {
            return;
        }
        let reference = match reference {
            Ok(reference) => reference,
            Err(why) => return state.checker.say(why.clone()),
        };
        let main = &state.checker.runs[&RunId::from(MAIN)];
        let (outcome, output, effects) = (main.finished, main.output.clone(), first_children(&state.checker.effects));
        for (key, asked) in &effects {
            match reference.effects.get(key) {
                None => return state.checker.say(format!("`{key}` was carried out, and is not without faults")),
                Some(known) if known != asked => {
                    return state.checker.say(format!("`{key}` was asked `{asked}`, without faults `{known}`"));
                }
                Some(_) => {}
            }
        }
        if self.cancelled {
            return;
        }
        if let Some(lacks) = reference.effects.keys().find(|key| !effects.contains_key(*key)) {
            return state.checker.say(format!("`{lacks}` was not carried out"));
        }
        if (outcome, &output) != (reference.outcome, &reference.output) {
            let why = format!(
                "it came to {outcome:?} {output:?}, without faults {:?} {:?}",
                reference.outcome, reference.output
            );
            state.checker.say(why);
        }
    }

    fn played(&self) -> Played {
        let state = self.world.state.lock();
        Played {
            wrong: state.checker.wrong().map(str::to_owned),
            counts: state.counts.clone(),
            trace: state.checker.trace(),
        }
    }
}

/// The same, as if no child run had had to be begun again under another id: `main/nest4~2/work5` is `main/nest4/work5`.
fn first_children(effects: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let plain = |key: &String| {
        let parts = key.split('/').map(|part| part.split('~').next().unwrap_or_default());
        parts.collect::<Vec<_>>().join("/")
    };
    effects.iter().map(|(key, asked)| (plain(key), asked.clone())).collect()
}

fn signal(name: &str) -> Command {
    Command::Signal { name: name.into(), data: json!({"signal": name}) }
}

fn resume(effect_id: Option<EffectId>) -> Command {
    Command::Resume { effect_id, label: None, data: json!("yes") }
}
