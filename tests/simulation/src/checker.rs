//! Judges what the engines write and do. It reads commits, leases, calls and answers as they happen, knows the rules of the journal, and
//! shares no decision with the engine: only to tell that a run's line is the fold of its events does it use the machine's own fold.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use lomusai_core::component::CallContext;
use lomusai_core::storage::RunAppend;
use lomusai_core::workflow::{WorkflowMachine, WorkflowPlan};
use lomusai_wire::{
    Command, EffectId, EffectKind, Event, EventBody, Outcome, RunId, RunInfo, RunStatus, SignalKind, WorkflowSpec,
};
use serde_json::Value;

use crate::scenario::kind;

/// So much before its time may a timer go off.
const EARLY_MS: u64 = 50;
/// So long after the end of its grace may a result still be recorded: as long as commits take that stood in its way.
const GRACE_SLACK_MS: u64 = 1_500;
/// So long may a child run on whose parent has ended.
const ORPHAN_SLACK_MS: u64 = 500;

/// What is known of all runs, and the first thing found wrong.
pub(crate) struct Checker {
    plans: HashMap<String, Arc<WorkflowPlan>>,
    pub(crate) runs: BTreeMap<RunId, Run>,
    /// Until when each engine is alive by its own word.
    alive: HashMap<String, u64>,
    /// Attempts that were carried out.
    done: BTreeSet<(String, u32)>,
    /// Effects that were carried out: what was asked.
    pub(crate) effects: BTreeMap<String, String>,
    /// Commands that were acknowledged: signals by run and name, resumes of all runs, retries of each run.
    signals: BTreeMap<(RunId, String), u64>,
    resumes: u64,
    retries: BTreeMap<RunId, u64>,
    /// Since when nothing goes wrong any more, and everything has been recovered.
    pub(crate) calm_since: Option<u64>,
    /// When each run ended, by the clock that is never set.
    ended: BTreeMap<RunId, u64>,
    /// How often the clock was set, or a process woke: times of before and behind do not compare.
    pub(crate) disturbed: u64,
    wrong: Option<String>,
    trace: u64,
}

/// What is known of a run.
pub(crate) struct Run {
    pub(crate) seq: u64,
    pub(crate) epoch: u64,
    pub(crate) owner: Option<String>,
    pub(crate) info: RunInfo,
    pub(crate) parent: Option<(RunId, EffectId)>,
    fold: Option<WorkflowMachine>,
    effects: BTreeMap<EffectId, Effect>,
    /// When it was told to stop, the grace, and how often times had ceased to compare by then.
    cancelling: Option<(u64, u64, u64)>,
    pub(crate) finished: Option<Outcome>,
    pub(crate) output: Option<Value>,
    signals: BTreeMap<String, u64>,
    resumes: u64,
    retries: u64,
}

struct Effect {
    kind: Option<EffectKind>,
    /// Who began each attempt, from the first, and under which epoch.
    attempts: Vec<(String, u64)>,
    due_at_ms: Option<u64>,
    stands: Stands,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Running,
    RetryAt(u64),
    Suspended,
    Resumed,
    Completed,
    /// For good, unless its run is tried again after so many retries.
    Failed(u64),
    Skipped,
}

impl Checker {
    pub(crate) fn new(workflows: &[WorkflowSpec]) -> Self {
        let plan = |spec: &WorkflowSpec| Arc::new(WorkflowPlan::new(spec.clone()).expect("a spec"));
        Self {
            plans: workflows.iter().map(|spec| (spec.name.clone(), plan(spec))).collect(),
            runs: BTreeMap::new(),
            alive: HashMap::new(),
            done: BTreeSet::new(),
            effects: BTreeMap::new(),
            signals: BTreeMap::new(),
            resumes: 0,
            retries: BTreeMap::new(),
            calm_since: None,
            ended: BTreeMap::new(),
            disturbed: 0,
            wrong: None,
            trace: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// The first thing found wrong.
    pub(crate) fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    pub(crate) fn say(&mut self, why: impl Into<String>) {
        self.wrong.get_or_insert_with(|| why.into());
    }

    /// A number over all that was noted.
    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }

    pub(crate) fn note(&mut self, what: &str) {
        for byte in what.bytes().chain([b'\n']) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    // --- Leases ------------------------------------------------------------------------------------------------------

    pub(crate) fn heartbeat(&mut self, owner: &str, until_ms: u64) {
        self.alive.insert(owner.to_owned(), until_ms);
    }

    /// A run was taken over.
    pub(crate) fn claimed(&mut self, run_id: &RunId, owner: &str, epoch: u64, now_ms: u64) {
        let Some(run) = self.runs.get_mut(run_id) else {
            return self.say(format!("`{run_id}` was claimed before it began"));
        };
        // Who never gave a sign of life counts as alive: its lease has not run out.
        let holder = run.owner.as_ref().filter(|holder| *holder != owner);
        let alive = holder.map(|holder| self.alive.get(holder).copied().unwrap_or(u64::MAX));
        let mut wrong = None;
        if alive.is_some_and(|until| until >= now_ms) {
            wrong = Some(format!("`{run_id}` was taken from `{:?}`, which is alive", run.owner));
        }
        if epoch <= run.epoch {
            wrong = Some(format!("`{run_id}` was claimed under epoch {epoch}, which is not new"));
        }
        run.owner = Some(owner.to_owned());
        run.epoch = epoch;
        wrong.into_iter().for_each(|wrong| self.say(wrong));
    }

    pub(crate) fn released(&mut self, run_id: &RunId, epoch: u64) {
        if let Some(run) = self.runs.get_mut(run_id).filter(|run| run.epoch == epoch) {
            run.owner = None;
        }
    }

    // --- Commits -----------------------------------------------------------------------------------------------------

    /// A batch was written.
    pub(crate) fn committed(&mut self, append: &RunAppend, elapsed_ms: u64) {
        let run_id = &append.run_id;
        match &append.info {
            Some(info) if info.status.is_final() => drop(self.ended.insert(run_id.clone(), elapsed_ms)),
            Some(_) => drop(self.ended.remove(run_id)),
            None => {}
        }
        self.note(&format!("{} {run_id} {}+{} {elapsed_ms}", append.owner, append.expected_seq, append.events.len()));
        if let (0, Some(info), false) = (append.expected_seq, &append.info, self.runs.contains_key(run_id)) {
            let fold = self.plans.get(&info.agent).map(|plan| WorkflowMachine::new(plan, run_id.clone()));
            let run = Run {
                seq: 0,
                epoch: append.epoch,
                owner: Some(append.owner.to_string()),
                info: RunInfo::clone(info),
                parent: info.parent.as_ref().map(|parent| (parent.run_id.clone(), parent.effect_id.clone())),
                fold,
                effects: BTreeMap::new(),
                cancelling: None,
                finished: None,
                output: None,
                signals: BTreeMap::new(),
                resumes: 0,
                retries: 0,
            };
            self.runs.insert(run_id.clone(), run);
        }
        let run = self.runs.get_mut(run_id).expect("just made");
        if let Err(why) = run.append(append, self.disturbed) {
            self.say(format!("run `{run_id}`, event {}: {why}", self.runs[run_id].seq));
        }
        for event in &*append.events {
            let what = event.body.effect_id().map_or("", |id| id.as_str());
            self.note(&format!("{} {} {what}", event.seq, word(&event.body)));
        }
    }

    // --- What engines say --------------------------------------------------------------------------------------------

    /// An engine told a reader of an event.
    pub(crate) fn told(&mut self, event: &Event) {
        let there = self.runs.get(&event.run_id).map_or(0, |run| run.seq);
        if event.is_durable() && event.seq > there {
            self.say(format!("event {} of `{}` was told before it was committed", event.seq, event.run_id));
        }
    }

    /// An engine said that a command is recorded.
    pub(crate) fn acknowledged(&mut self, run_id: &RunId, command: &Command) {
        self.note(&format!("ack {run_id} {command:?}"));
        let known = self.runs.get(run_id);
        let wrong = match command {
            Command::Signal { name, .. } => {
                let said = self.signals.entry((run_id.clone(), name.clone())).or_default();
                *said += 1;
                let there = known.and_then(|run| run.signals.get(name)).copied().unwrap_or_default();
                (there < *said)
                    .then(|| format!("signal `{name}` was accepted {said} times, {there} are in the journal"))
            }
            Command::Resume { .. } => {
                self.resumes += 1;
                let there: u64 = self.runs.values().map(|run| run.resumes).sum();
                (there < self.resumes)
                    .then(|| format!("{} resumes were accepted, {there} are in the journals", self.resumes))
            }
            Command::Retry => {
                let said = self.retries.entry(run_id.clone()).or_default();
                *said += 1;
                let there = known.map_or(0, |run| run.retries);
                (there < *said).then(|| format!("{said} retries were accepted, {there} are in the journal"))
            }
            Command::Cancel { .. } => known
                .is_none_or(|run| run.cancelling.is_none())
                .then(|| "a cancellation was accepted and is not in the journal".to_owned()),
            _ => None,
        };
        wrong.into_iter().for_each(|why| self.say(format!("run `{run_id}`: {why}")));
    }

    /// An engine said that a run has begun.
    pub(crate) fn begun(&mut self, run_id: &RunId) {
        if !self.runs.contains_key(run_id) {
            self.say(format!("`{run_id}` was said to have begun, and is not recorded"));
        }
    }

    /// A component was called. Carried out is what the world sees of it.
    pub(crate) fn carried_out(
        &mut self,
        owner: &str,
        component: &str,
        context: &CallContext,
        asked: &str,
        elapsed_ms: u64,
    ) {
        let (run_id, effect_id, attempt) = (&context.run_id, &context.effect_id, context.attempt);
        let key = context.idempotency_key();
        self.note(&format!("call {key} {attempt} {owner}"));
        if key != format!("{run_id}/{effect_id}") {
            return self.say(format!("{effect_id} of `{run_id}` was called under the key `{key}`"));
        }
        if !self.done.insert((key.clone(), attempt)) {
            return self.say(format!("attempt {attempt} of `{key}` was carried out twice"));
        }
        let asked = format!("{component}: {asked}");
        let known = self.effects.entry(key.clone()).or_insert_with(|| asked.clone());
        if *known != asked {
            let why = format!("`{key}` was asked `{known}`, then `{asked}`");
            return self.say(why);
        }
        let Some(run) = self.runs.get(run_id) else {
            return self.say(format!("`{key}` was called before its run began"));
        };
        let began = run.effects.get(effect_id).and_then(|effect| effect.attempts.get(attempt as usize - 1));
        let wrong = match began {
            None => Some("before its start was committed"),
            Some((by, _)) if by != owner => Some("by another than who began it"),
            // Who was overtaken does not know yet.
            Some((_, epoch)) if *epoch != run.epoch => None,
            _ if run.cancelling.is_some() => Some("after the run was told to stop"),
            _ if run.finished.is_some() => Some("after the run had ended"),
            _ if self.is_orphan(run, elapsed_ms) => Some("long after the run that started its run had ended"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            self.say(format!("attempt {attempt} of `{key}` was carried out {wrong}"));
        }
    }

    /// Whether a run above this one has ended so long ago that it should have been told.
    fn is_orphan(&self, run: &Run, elapsed_ms: u64) -> bool {
        let Some(calm_since) = self.calm_since else { return false };
        let mut above = run.parent.as_ref();
        while let Some((parent, _)) = above {
            if self.ended.get(parent).is_some_and(|ended| elapsed_ms > (*ended).max(calm_since) + ORPHAN_SLACK_MS) {
                return true;
            }
            above = self.runs.get(parent).and_then(|run| run.parent.as_ref());
        }
        false
    }

    /// Whether another engine has taken a run over that this one had.
    pub(crate) fn was_overtaken(&self, owner: &str) -> bool {
        self.runs.values().any(|run| {
            run.owner.as_deref() != Some(owner)
                && run.effects.values().any(|effect| effect.attempts.iter().any(|(by, _)| by == owner))
        })
    }

    /// Whether the parent of this suspended run has recorded that it waits for it; a run whose own child is at work need not be passed up.
    pub(crate) fn is_passed_up(&self, run: &Run) -> bool {
        let Some((parent, effect)) = &run.parent else { return true };
        let children = run.info.pending.iter().filter_map(|pending| self.runs.get(pending.child.as_ref()?));
        if children.into_iter().any(|child| child.info.status != RunStatus::Suspended) {
            return true;
        }
        self.runs.get(parent).is_none_or(|parent| {
            parent.finished.is_some()
                || parent.cancelling.is_some()
                || parent.effects.get(effect).is_none_or(|effect| effect.stands == Stands::Suspended)
        })
    }
}

impl Effect {
    /// Under which epoch its last attempt was begun.
    fn epoch(&self) -> Option<u64> {
        self.attempts.last().map(|(_, epoch)| *epoch)
    }
}

impl Run {
    fn append(&mut self, append: &RunAppend, disturbed: u64) -> Result<(), String> {
        if append.epoch != self.epoch {
            return Err(format!("epoch {} wrote, the run is held under {}", append.epoch, self.epoch));
        }
        if append.expected_seq != self.seq {
            return Err(format!("an append behind {} was taken", append.expected_seq));
        }
        for event in &*append.events {
            if event.seq != self.seq + 1 {
                return Err(format!("event {} follows", event.seq));
            }
            self.seq = event.seq;
            self.event(event, append, disturbed)?;
            if let Some(fold) = &mut self.fold {
                fold.apply(&event.body);
            }
        }
        match (&append.info, append.events.last()) {
            (Some(info), _) => self.info = RunInfo::clone(info),
            (None, Some(last)) => (self.info.seq, self.info.updated_at_ms) = (last.seq, last.at_ms),
            (None, None) => return Err("an append of nothing was taken".into()),
        }
        if self.info.status.is_final() {
            self.owner = None;
        }
        self.is_fold(append)
    }

    /// The line about the run says what its events say.
    fn is_fold(&self, append: &RunAppend) -> Result<(), String> {
        let info = &self.info;
        if info.seq != self.seq {
            return Err(format!("the run's line is at {}", info.seq));
        }
        if let Some(outcome) = self.finished
            && info.status != RunStatus::from(outcome)
        {
            return Err(format!("the run's line says {:?} of what is {outcome:?}", info.status));
        }
        let Some(fold) = &self.fold else { return Ok(()) };
        // Said of a run that cannot go on, without an event.
        if append.events.is_empty() && matches!(info.status, RunStatus::Blocked | RunStatus::Poisoned) {
            return Ok(());
        }
        let pending = if fold.status() == RunStatus::Suspended { fold.pending() } else { Vec::new() };
        let wakes = fold.timers().into_iter().map(|(_, at_ms)| at_ms).min();
        let wakes = wakes.filter(|_| matches!(fold.status(), RunStatus::Waiting | RunStatus::Suspended));
        if (info.status, &info.pending, info.wakes_at_ms) != (fold.status(), &pending, wakes) {
            return Err(format!(
                "the run's line says {:?}, {:?}, {:?}; its events say {:?}, {pending:?}, {wakes:?}",
                info.status,
                info.pending,
                info.wakes_at_ms,
                fold.status()
            ));
        }
        Ok(())
    }

    fn event(&mut self, event: &Arc<Event>, append: &RunAppend, disturbed: u64) -> Result<(), String> {
        let is_retry = matches!(event.body, EventBody::SignalReceived { signal: SignalKind::Retry, .. });
        if self.finished.is_some() && !is_retry {
            return Err(format!("{} follows its end", word(&event.body)));
        }
        match &event.body {
            EventBody::EffectStarted { effect_id, kind, attempt, due_at_ms, .. } => {
                self.started(effect_id, *kind, *attempt, *due_at_ms, event.at_ms, append)
            }
            EventBody::EffectCompleted { effect_id, .. } => self.completed(effect_id, event.at_ms, append, disturbed),
            EventBody::EffectFailed { effect_id, retry_at_ms, .. } => {
                let retries = self.retries;
                let effect = self.effect(effect_id);
                if matches!(effect.stands, Stands::Completed | Stands::Skipped) {
                    return Err(format!("{effect_id} failed after it had ended"));
                }
                effect.stands = retry_at_ms.map_or(Stands::Failed(retries), Stands::RetryAt);
                Ok(())
            }
            EventBody::EffectSuspended { pending } => {
                let effect_id = &pending.effect_id;
                let waits = matches!(kind(effect_id.as_str()), "wait" | "susp");
                let cancelling = self.cancelling.is_some();
                let effect = self.effect(effect_id);
                match effect.stands {
                    Stands::Running if !effect.attempts.is_empty() || waits => {}
                    // A child that waits for something else now.
                    Stands::Suspended if effect.kind == Some(EffectKind::Run) => {}
                    Stands::Failed(_) if waits && !cancelling => {}
                    other => return Err(format!("{effect_id} was suspended and was {other:?}")),
                }
                effect.stands = Stands::Suspended;
                Ok(())
            }
            EventBody::EffectSkipped { effect_id, .. } => {
                self.effect(effect_id).stands = Stands::Skipped;
                Ok(())
            }
            EventBody::SignalReceived { signal, name, effect_id, .. } => {
                match signal {
                    SignalKind::Signal => *self.signals.entry(name.clone().unwrap_or_default()).or_default() += 1,
                    SignalKind::Resume => self.resumes += 1,
                    SignalKind::Retry => {
                        self.retries += 1;
                        if self.finished.take() != Some(Outcome::Failed) {
                            return Err("a run that had not failed was tried again".into());
                        }
                    }
                    _ => {}
                }
                if let (SignalKind::Resume, Some(id)) = (signal, effect_id) {
                    let effect = self.effect(id);
                    if effect.stands != Stands::Suspended {
                        return Err(format!("{id} was resumed and was {:?}", effect.stands));
                    }
                    effect.stands = Stands::Resumed;
                }
                Ok(())
            }
            EventBody::RunCancelling { grace_ms, .. } => {
                if self.cancelling.replace((event.at_ms, *grace_ms, disturbed)).is_some() {
                    return Err("it was told to stop twice".into());
                }
                Ok(())
            }
            EventBody::RunFinished { outcome, output, .. } => {
                self.finished = Some(*outcome);
                self.output = output.as_ref().and_then(|output| output.object.clone());
                let running = self.effects.iter().find(|(_, effect)| {
                    effect.stands == Stands::Running
                        && !effect.attempts.is_empty()
                        && effect.kind != Some(EffectKind::Group)
                });
                match running {
                    Some((id, _)) => Err(format!("it ended while {id} was under way")),
                    None if self.cancelling.is_some() && *outcome != Outcome::Cancelled => {
                        Err(format!("it was told to stop and ended as {outcome:?}"))
                    }
                    None => Ok(()),
                }
            }
            EventBody::Custom { effect_id: Some(id), .. } => match self.effects.get(id).map(|effect| effect.stands) {
                Some(Stands::Running) => Ok(()),
                other => Err(format!("{id} said something for the journal and was {other:?}")),
            },
            _ => Ok(()),
        }
    }

    fn effect(&mut self, id: &EffectId) -> &mut Effect {
        self.effects.entry(id.clone()).or_insert_with(|| Effect {
            kind: None,
            attempts: Vec::new(),
            due_at_ms: None,
            stands: Stands::Running,
        })
    }

    fn started(
        &mut self,
        id: &EffectId,
        kind: EffectKind,
        attempt: u32,
        due_at_ms: Option<u64>,
        at_ms: u64,
        append: &RunAppend,
    ) -> Result<(), String> {
        if self.cancelling.is_some() {
            return Err(format!("{id} was started after the run was told to stop"));
        }
        let retries = self.retries;
        let effect = self.effect(id);
        if attempt as usize != effect.attempts.len() + 1 {
            return Err(format!("attempt {attempt} of {id} was started behind {}", effect.attempts.len()));
        }
        match effect.stands {
            Stands::Running if effect.epoch() == Some(append.epoch) => {
                return Err(format!("{id} was started while it was under way"));
            }
            Stands::RetryAt(due) if at_ms + EARLY_MS < due => {
                return Err(format!("{id} was tried again {} ms too early", due - at_ms));
            }
            Stands::Failed(since) if since == retries => return Err(format!("{id} was started after it had failed")),
            Stands::Running | Stands::RetryAt(_) | Stands::Resumed | Stands::Failed(_) => {}
            other => return Err(format!("{id} was started and was {other:?}")),
        }
        effect.attempts.push((append.owner.to_string(), append.epoch));
        (effect.kind, effect.due_at_ms) = (Some(kind), due_at_ms);
        effect.stands = Stands::Running;
        Ok(())
    }

    fn completed(&mut self, id: &EffectId, at_ms: u64, append: &RunAppend, disturbed: u64) -> Result<(), String> {
        let cancelling = self.cancelling;
        let is_model = id.as_str().ends_with(".model");
        let effect = self.effect(id);
        // What the engine works out itself asks nothing of the world.
        let own = matches!(kind(id.as_str()), "map" | "wait" | "while" | "until");
        match effect.stands {
            Stands::Running if effect.epoch() == Some(append.epoch) => {}
            Stands::Running if effect.attempts.is_empty() && own => {}
            Stands::Running if !effect.attempts.is_empty() && effect.due_at_ms.is_some() => {}
            // Of a group the last of its steps says so.
            Stands::Running if effect.kind == Some(EffectKind::Group) => {}
            Stands::Suspended | Stands::Resumed
                if effect.kind == Some(EffectKind::Run) || matches!(kind(id.as_str()), "wait" | "susp") => {}
            // A wait that a failure ended with the run, and that found its signal when the run was tried again.
            Stands::Failed(_) if own => {}
            Stands::Running if effect.attempts.is_empty() => return Err(format!("{id} was completed and not started")),
            Stands::Running => return Err(format!("{id} was completed by who had not started it")),
            other => return Err(format!("{id} was completed and was {other:?}")),
        }
        if effect.due_at_ms.is_some_and(|due| at_ms + EARLY_MS < due) {
            return Err(format!("{id} went off before its time"));
        }
        effect.stands = Stands::Completed;
        // How a child ended is heard and recorded all the same: what it used counts.
        let is_child = effect.kind == Some(EffectKind::Run);
        match cancelling {
            Some((_, 0, _)) if !is_model && !is_child => {
                Err(format!("the result of {id} was recorded, and the run had been told to stop"))
            }
            Some((since, grace, then)) if then == disturbed && at_ms > since + grace + GRACE_SLACK_MS => {
                Err(format!("the result of {id} was recorded {} ms after the grace", at_ms - since - grace))
            }
            _ => Ok(()),
        }
    }
}

/// What an event is, in a word.
fn word(body: &EventBody) -> &'static str {
    match body {
        EventBody::RunStarted { .. } => "run_started",
        EventBody::RunSuspended { .. } => "run_suspended",
        EventBody::RunResumed => "run_resumed",
        EventBody::RunCancelling { .. } => "run_cancelling",
        EventBody::RunFinished { .. } => "run_finished",
        EventBody::EffectStarted { .. } => "effect_started",
        EventBody::EffectCompleted { .. } => "effect_completed",
        EventBody::EffectFailed { .. } => "effect_failed",
        EventBody::EffectSuspended { .. } => "effect_suspended",
        EventBody::EffectSkipped { .. } => "effect_skipped",
        EventBody::MessageCompleted { .. } => "message_completed",
        EventBody::SignalReceived { .. } => "signal_received",
        EventBody::StateSet { .. } => "state_set",
        EventBody::Custom { .. } => "custom",
        _ => "another event",
    }
}
