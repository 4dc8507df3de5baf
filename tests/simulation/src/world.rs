//! What surrounds the engines: one store, one clock, processes that die and stop, and the dice that say when something goes wrong.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lomusai_core::component::CallContext;
use lomusai_core::seam::{Clock, Ids};
use lomusai_core::storage::MemoryStore;
use lomusai_core::sync::Mutex;
use lomusai_core::telemetry::TelemetrySink;
use lomusai_wire::{Event, LogLevel, RunId};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep};

use crate::checker::Checker;
use crate::fault::{Counts, Fault};
use crate::random::Random;
use crate::scenario::Scenario;

/// What the clock shows when a seed begins.
const BEGIN_MS: u64 = 1_700_000_000_000;

/// One seed's world.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) store: MemoryStore,
    pub(crate) state: Mutex<State>,
    began: Instant,
}

/// What changes in it.
pub(crate) struct State {
    pub(crate) random: Random,
    pub(crate) checker: Checker,
    pub(crate) counts: Counts,
    /// How often each fault happens where it can, out of a thousand. Empty: never.
    pub(crate) rates: BTreeMap<Fault, u64>,
    /// How long a call of the store takes at most.
    pub(crate) latency_ms: u64,
    /// How far the clock was set forward or back.
    pub(crate) clock_ms: i64,
    /// How often steps failed, by key: no more than their retries allow.
    failures: HashMap<String, u32>,
    /// Whether what `frag` steps need is there.
    pub(crate) repaired: bool,
    /// Who wants to read what happens.
    pub(crate) reader: Option<fn(&str)>,
}

impl World {
    pub(crate) fn new(scenario: Scenario, random: Random) -> Self {
        let state = State {
            random,
            checker: Checker::new(&scenario.workflows),
            counts: Counts::default(),
            rates: BTreeMap::new(),
            latency_ms: 0,
            clock_ms: 0,
            failures: HashMap::new(),
            repaired: false,
            reader: None,
        };
        Self { scenario, store: MemoryStore::keeping(usize::MAX), state: Mutex::new(state), began: Instant::now() }
    }

    /// The clock on the wall, which may be set.
    pub(crate) fn now_ms(&self) -> u64 {
        let clock_ms = self.state.lock().clock_ms;
        (BEGIN_MS + self.elapsed_ms()).saturating_add_signed(clock_ms)
    }

    /// How long the seed has been played, by the clock that is never set.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Notes a line of the story, if anybody reads it.
    pub(crate) fn tell(&self, line: impl FnOnce() -> String) {
        let Some(reader) = self.state.lock().reader else { return };
        reader(&format!("{:>7} {}", self.elapsed_ms(), line()));
    }

    /// Whether this goes wrong now.
    pub(crate) fn happens(&self, fault: Fault) -> bool {
        let mut state = self.state.lock();
        let Some(rate) = state.rates.get(&fault).copied() else { return false };
        let happens = state.random.per_mille(rate);
        if happens {
            state.counts.add(fault);
        }
        drop(state);
        if happens {
            self.tell(|| format!("! {fault:?}"));
        }
        happens
    }

    /// As [`happens`](Self::happens), for what a step may do only so often.
    pub(crate) fn fails(&self, fault: Fault, key: &str, most: u32) -> bool {
        if self.state.lock().failures.get(key).copied().unwrap_or_default() >= most || !self.happens(fault) {
            return false;
        }
        *self.state.lock().failures.entry(key.to_owned()).or_default() += 1;
        true
    }

    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        self.state.lock().random.between(low, high)
    }

    /// A call of the store takes its time.
    pub(crate) async fn latency(&self) {
        let ms = {
            let mut state = self.state.lock();
            let most = state.latency_ms;
            if most == 0 { 0 } else { state.random.between(0, most) }
        };
        if ms > 0 {
            sleep(Duration::from_millis(ms)).await;
        }
    }
}

/// A process with an engine in it.
pub(crate) struct Process {
    /// What its engine is called.
    pub(crate) owner: String,
    condition: Mutex<Condition>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Alive,
    Stopped,
    Dead,
}

impl Process {
    pub(crate) fn new(owner: String) -> Self {
        Self { owner, condition: Mutex::new(Condition::Alive), changed: Notify::new() }
    }

    pub(crate) fn condition(&self) -> Condition {
        *self.condition.lock()
    }

    /// The dead stay dead.
    pub(crate) fn set(&self, condition: Condition) {
        let mut current = self.condition.lock();
        if *current != Condition::Dead {
            *current = condition;
        }
        drop(current);
        self.changed.notify_waiters();
    }

    /// Where an engine touches the world: it goes no further while its process is stopped, and never when that is dead.
    pub(crate) async fn gate(&self) {
        loop {
            let changed = self.changed.notified();
            match self.condition() {
                Condition::Alive => return,
                Condition::Stopped => changed.await,
                Condition::Dead => std::future::pending().await,
            }
        }
    }

    /// It dies here.
    pub(crate) async fn die(&self) -> ! {
        self.set(Condition::Dead);
        std::future::pending().await
    }
}

/// The world as one process sees it: its clock, its names, and whom its engine tells of events.
pub(crate) struct Seat {
    pub(crate) world: Arc<World>,
    pub(crate) process: Arc<Process>,
}

impl Seat {
    /// A component is called: from here on the world has seen it.
    pub(crate) fn carried_out(&self, component: &str, context: &CallContext, asked: &str) {
        self.world.tell(|| {
            format!("{} calls {component} {} #{}", self.process.owner, context.idempotency_key(), context.attempt)
        });
        let elapsed_ms = self.world.elapsed_ms();
        self.world.state.lock().checker.carried_out(&self.process.owner, component, context, asked, elapsed_ms);
    }
}

impl Clock for Seat {
    fn now_ms(&self) -> u64 {
        self.world.now_ms()
    }
}

impl Ids for Seat {
    fn run_id(&self) -> RunId {
        unreachable!("every run is given its id")
    }

    fn owner(&self) -> String {
        self.process.owner.clone()
    }
}

impl TelemetrySink for Seat {
    fn log(&self, _: LogLevel, _: &str, message: &str) {
        self.world.tell(|| format!("{} logs: {message}", self.process.owner));
    }

    fn event(&self, event: &Event) {
        self.world.state.lock().checker.told(event);
    }
}
