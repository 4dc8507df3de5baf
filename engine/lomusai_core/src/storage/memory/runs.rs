//! The runs of a store in memory, in parts with locks of their own: engines commit on all cores at once.

use std::collections::VecDeque;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use lomusai_wire::{Event, RunFilter, RunId, RunInfo, codes};

use crate::storage::{RunAppend, refusal};
use crate::sync::{Apart, Mutex, MutexGuard};
use crate::table::Table;
use crate::{Error, Result};

/// More than any machine has cores that would wait for each other.
const PARTS: usize = 32;

pub(super) struct Runs {
    parts: [Apart<Mutex<ById>>; PARTS],
    part_of: RandomState,
    /// Rises with each new run, so that runs of one millisecond still list newest first.
    created: AtomicU64,
    /// Locked last: behind a part, never before one.
    finished: Mutex<Finished>,
    keep: Keep,
}

/// How much of what has finished is kept.
#[derive(Clone, Copy)]
pub(super) struct Keep {
    /// At most so many runs.
    pub(super) runs: usize,
    /// At most so many that have more than `events` together: who began a long run comes back for it.
    pub(super) long_runs: usize,
    pub(super) events: u64,
}

/// Finished runs, oldest first.
#[derive(Default)]
struct Finished {
    runs: VecDeque<Ended>,
    /// Of all of them.
    events: u64,
    ends: u64,
}

struct Ended {
    run_id: RunId,
    /// The number of its end.
    end: u64,
    events: u64,
}

impl Finished {
    /// Adds a run that ends now. Gives the number of its end, and which ones are not kept any more.
    fn add(&mut self, run_id: RunId, events: u64, keep: Keep) -> (u64, Vec<Ended>) {
        self.ends += 1;
        self.events += events;
        self.runs.push_back(Ended { run_id, end: self.ends, events });
        let mut forgotten = Vec::new();
        while self.runs.len() > keep.runs || self.events > keep.events && self.runs.len() > keep.long_runs {
            let Some(oldest) = self.runs.pop_front() else { break };
            self.events -= oldest.events;
            forgotten.push(oldest);
        }
        (self.ends, forgotten)
    }

    /// Takes out the one with this end, if it is among them.
    fn remove(&mut self, end: u64) {
        if let Ok(at) = self.runs.binary_search_by_key(&end, |ended| ended.end) {
            self.events -= self.runs.remove(at).map_or(0, |ended| ended.events);
        }
    }
}

/// Boxed: a table that forgets as much as it takes in grows to twice what it holds, once, whenever its seed says so. With the runs
/// themselves in it that is half a megabyte, which looks like a leak.
type ById = Table<RunId, Box<Run>>;

pub(super) struct Run {
    pub(super) info: RunInfo,
    pub(super) events: Events,
    pub(super) owner: Option<Arc<str>>,
    pub(super) epoch: u64,
    order: u64,
    /// The number of its end. Of a run that ends a second time, of the last.
    end: u64,
}

/// The events of a run.
pub(super) enum Events {
    /// While somebody works on it.
    AtWork(Vec<Arc<Event>>),
    /// While nobody does, which may be for days and by the thousand: as JSON, a line each, which takes a fifth of the room.
    AtRest(String),
}

impl Runs {
    pub(super) fn keeping(keep: Keep) -> Self {
        Self {
            parts: Default::default(),
            part_of: RandomState::default(),
            created: AtomicU64::new(0),
            finished: Mutex::default(),
            keep,
        }
    }

    fn part(&self, id: &RunId) -> MutexGuard<'_, ById> {
        self.parts[self.part_of.hash_one(id) as usize % PARTS].lock()
    }

    /// What `f` makes of a run, where there is such a one.
    pub(super) fn with<T>(&self, id: &RunId, f: impl FnOnce(&mut Run) -> T) -> Option<T> {
        self.part(id).get_mut(id).map(|run| f(run))
    }

    /// Those that the filter admits, newest first.
    pub(super) fn list(&self, filter: &RunFilter) -> Vec<RunInfo> {
        // All of them at once. Nobody else waits for a part while holding another.
        let parts: Vec<_> = self.parts.iter().map(|part| part.lock()).collect();
        let runs = parts.iter().flat_map(|part| part.values());
        let mut runs: Vec<&Run> = runs.map(Box::as_ref).filter(|run| filter.admits(&run.info)).collect();
        runs.sort_by_key(|run| std::cmp::Reverse(run.order));
        let (offset, limit) = (filter.offset.unwrap_or(0) as usize, filter.limit.unwrap_or(100) as usize);
        runs.into_iter().skip(offset).take(limit).map(|run| run.info.clone()).collect()
    }

    pub(super) fn for_each(&self, mut f: impl FnMut(&mut Run)) {
        for part in &self.parts {
            part.lock().values_mut().for_each(|run| f(run));
        }
    }

    /// Whether the append may be written.
    pub(super) fn check(&self, append: &RunAppend) -> Result<()> {
        check(self.part(&append.run_id).get(&append.run_id).map(Box::as_ref), append)
    }

    /// Writes an append, or says why it may not be written and changes nothing.
    pub(super) fn append(&self, append: RunAppend) -> Result<()> {
        let mut part = self.part(&append.run_id);
        let found = part.get_mut(&append.run_id);
        check(found.as_deref().map(Box::as_ref), &append)?;
        let RunAppend { run_id, epoch, owner, events, info, .. } = append;
        let Some(info) = info else {
            // Most appends, which change nothing but the events.
            if let (Some(run), Some(last)) = (found, events.last()) {
                run.events.append(&events)?;
                (run.info.seq, run.info.updated_at_ms) = (last.seq, last.at_ms);
            }
            return Ok(());
        };
        let run = part.entry(run_id).or_insert_with(|| {
            // Its line as it was before these events: not finished.
            let before = RunInfo::new(info.run_id.clone(), "", info.created_at_ms);
            let order = self.created.fetch_add(1, Ordering::Relaxed);
            Box::new(Run { info: before, events: Events::AtWork(Vec::new()), owner: Some(owner), epoch, order, end: 0 })
        });
        // The one thing that might fail, before anything else is changed.
        run.events.append(&events)?;
        let (was, is) = (run.info.status.is_final(), info.status.is_final());
        run.info = *info;
        let mut forgotten = Vec::new();
        if was || is {
            let mut finished = self.finished.lock();
            // A workflow's run that failed may be tried again, and fail again at once.
            if was {
                finished.remove(run.end);
            }
            if is {
                run.owner = None;
                (run.end, forgotten) = finished.add(run.info.run_id.clone(), run.info.seq, self.keep);
            }
        }
        drop(part);
        for oldest in forgotten {
            let gone = self.forget(&oldest.run_id, oldest.end);
            // Here, without the part's lock: a long journal takes its time.
            drop(gone);
        }
        Ok(())
    }

    /// Takes out a run that has ended with this number, unless it is being tried again, or has ended once more.
    fn forget(&self, id: &RunId, end: u64) -> Option<Box<Run>> {
        let mut part = self.part(id);
        let run = part.get(id)?;
        if run.end != end || !run.info.status.is_final() {
            return None;
        }
        part.remove(id)
    }

    pub(super) fn delete(&self, id: &RunId) -> bool {
        let mut part = self.part(id);
        let Some(run) = part.remove(id) else { return false };
        if run.info.status.is_final() {
            self.finished.lock().remove(run.end);
        }
        true
    }
}

impl Events {
    pub(super) fn page(&self, after: u64, limit: usize) -> Result<Vec<Event>> {
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        match self {
            Self::AtWork(events) => Ok(events.iter().skip(after).take(limit).map(|event| (**event).clone()).collect()),
            Self::AtRest(lines) => lines.lines().skip(after).take(limit).map(read).collect(),
        }
    }

    fn append(&mut self, more: &[Arc<Event>]) -> Result<()> {
        if let Self::AtRest(lines) = self {
            *self = Self::AtWork(lines.lines().map(|line| read(line).map(Arc::new)).collect::<Result<_>>()?);
        }
        let Self::AtWork(events) = self else { unreachable!("just put to work") };
        events.extend_from_slice(more);
        Ok(())
    }

    pub(super) fn rest(&mut self) -> Result<()> {
        if let Self::AtWork(events) = self {
            let lines: Vec<String> =
                events.iter().map(|event| serde_json::to_string(event).map_err(unreadable)).collect::<Result<_>>()?;
            *self = Self::AtRest(lines.join("\n"));
        }
        Ok(())
    }
}

fn check(run: Option<&Run>, append: &RunAppend) -> Result<()> {
    let id = &append.run_id;
    match run {
        _ if !append.is_in_order() => Err(refusal::out_of_order(id)),
        None if append.expected_seq == 0 => Ok(()),
        None => Err(refusal::run_unknown(id)),
        Some(_) if append.expected_seq == 0 => Err(refusal::run_exists(id)),
        Some(run) if run.epoch != append.epoch || run.info.seq != append.expected_seq => {
            Err(refusal::sequence_conflict(id))
        }
        Some(_) => Ok(()),
    }
}

fn read(line: &str) -> Result<Event> {
    serde_json::from_str(line).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::new(codes::INTERNAL, format!("an event in memory does not read as what was written: {error}"))
}
