//! The store that forgets: everything in this process's memory. The default for engines without a path.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use lomusai_wire::{Event, Message, RunFilter, RunId, RunInfo, ThreadId, codes};
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    Batch, Blobs, Capabilities, Journal, KeyValue, Leases, RunAppend, Store, ThreadChange, ThreadInfo, Threads,
};
use crate::{BoxFuture, Error, Result};

/// Keeps everything in memory, of finished runs the newest only. An `Arc` of it can be shared by the engines of one process.
pub struct MemoryStore {
    state: Mutex<State>,
    keep_finished: usize,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::keeping(1_000)
    }
}

#[derive(Default)]
struct State {
    closed: bool,
    runs: HashMap<RunId, Run>,
    /// Rises with each new run, so that runs of one millisecond still list newest first.
    created: u64,
    /// Finished runs, oldest first.
    finished: VecDeque<RunId>,
    threads: HashMap<ThreadId, Thread>,
    values: BTreeMap<(String, String), Value>,
    blobs: HashMap<String, Arc<[u8]>>,
    owners: HashMap<Arc<str>, u64>,
}

struct Run {
    info: RunInfo,
    events: Vec<Arc<Event>>,
    owner: Option<Arc<str>>,
    epoch: u64,
    order: u64,
}

struct Thread {
    info: ThreadInfo,
    messages: Vec<Arc<Message>>,
}

impl MemoryStore {
    /// An empty store that keeps the newest 1,000 finished runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that keeps so many finished runs; older ones are forgotten as new ones finish.
    pub fn keeping(keep_finished: usize) -> Self {
        Self { state: Mutex::default(), keep_finished }
    }

    fn with<'a, T: Send + 'a>(&'a self, f: impl FnOnce(&mut State) -> Result<T>) -> BoxFuture<'a, Result<T>> {
        let mut state = self.state.lock();
        let result = if state.closed { Err(closed()) } else { f(&mut state) };
        Box::pin(std::future::ready(result))
    }
}

fn closed() -> Error {
    Error::new(codes::ENGINE_CLOSED, "the store is closed: open a new engine")
}

impl State {
    fn commit(&mut self, batch: Batch, keep_finished: usize) -> Result<()> {
        // All checks come before the first change: a batch is written whole or not at all.
        if let Some(append) = &batch.run {
            self.check_run(append)?;
        }
        if let Some(change) = &batch.thread {
            self.check_thread(change)?;
        }
        if let Some(append) = batch.run {
            self.append(append, keep_finished);
        }
        if let Some(change) = batch.thread {
            self.change_thread(change);
        }
        for (space, key, value) in batch.values {
            match value {
                Some(value) => self.values.insert((space, key), value),
                None => self.values.remove(&(space, key)),
            };
        }
        self.blobs.extend(batch.blobs);
        Ok(())
    }

    fn check_run(&self, append: &RunAppend) -> Result<()> {
        let id = &append.info.run_id;
        match self.runs.get(id) {
            None if append.expected_seq == 0 => Ok(()),
            None => Err(run_unknown(id)),
            Some(_) if append.expected_seq == 0 => Err(Error::new(
                codes::RUN_EXISTS,
                format!("a run `{id}` exists already: choose another id or leave it out"),
            )
            .with("run_id", id.as_str())),
            Some(run) if run.epoch != append.epoch || run.info.seq != append.expected_seq => Err(Error::new(
                codes::SEQUENCE_CONFLICT,
                format!("another writer has taken over run `{id}`: read it again before writing"),
            )
            .with("run_id", id.as_str())),
            Some(_) => Ok(()),
        }
    }

    fn check_thread(&self, change: &ThreadChange) -> Result<()> {
        let Some(claim) = &change.claim else { return Ok(()) };
        match self.threads.get(&change.thread).and_then(|thread| thread.info.active_run.as_ref()) {
            Some(holder) if holder != claim => Err(thread_busy(&change.thread, holder)),
            _ => Ok(()),
        }
    }

    fn append(&mut self, append: RunAppend, keep_finished: usize) {
        let id = append.info.run_id.clone();
        if append.info.status.is_final() {
            self.finished.push_back(id.clone());
            while self.finished.len() > keep_finished {
                let oldest = self.finished.pop_front().expect("not empty");
                self.runs.remove(&oldest);
            }
        }
        match self.runs.get_mut(&id) {
            Some(run) => {
                run.events.extend(append.events);
                run.info = append.info;
            }
            None => {
                self.created += 1;
                let run = Run {
                    info: append.info,
                    events: append.events,
                    owner: Some(append.owner),
                    epoch: append.epoch,
                    order: self.created,
                };
                self.runs.insert(id, run);
            }
        }
    }

    fn change_thread(&mut self, change: ThreadChange) {
        let ThreadChange { thread: id, resource, claim, release, append, now_ms } = change;
        let thread = self
            .threads
            .entry(id.clone())
            .or_insert_with(|| Thread { info: ThreadInfo::new(id, resource, now_ms), messages: Vec::new() });
        if claim.is_some() {
            thread.info.active_run = claim;
        }
        if release.is_some() && thread.info.active_run == release {
            thread.info.active_run = None;
        }
        thread.messages.extend(append);
        thread.info.messages = thread.messages.len() as u64;
        thread.info.updated_at_ms = now_ms;
    }
}

fn run_unknown(run: &RunId) -> Error {
    Error::new(codes::RUN_UNKNOWN, format!("no run `{run}` is in the store")).with("run_id", run.as_str())
}

fn thread_busy(thread: &ThreadId, holder: &RunId) -> Error {
    Error::new(
        codes::THREAD_BUSY,
        format!("run `{holder}` works on thread `{thread}`: wait for it, finish or cancel it, or use another thread"),
    )
    .with("thread", thread.as_str())
    .with("run_id", holder.as_str())
}

impl Store for MemoryStore {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<()>> {
        self.with(|state| state.commit(batch, self.keep_finished))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::VOLATILE
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        // What is kept stays in place: the memory goes with the store.
        self.state.lock().closed = true;
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Journal for MemoryStore {
    fn events<'a>(&'a self, run: &'a RunId, after: u64, limit: usize) -> BoxFuture<'a, Result<Vec<Event>>> {
        self.with(|state| {
            let run = state.runs.get(run).ok_or_else(|| run_unknown(run))?;
            Ok(run.events.iter().skip(after as usize).take(limit).map(|event| (**event).clone()).collect())
        })
    }

    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>> {
        self.with(|state| Ok(state.runs.get(run).map(|run| run.info.clone())))
    }

    fn runs<'a>(&'a self, filter: &'a RunFilter) -> BoxFuture<'a, Result<Vec<RunInfo>>> {
        self.with(|state| {
            let mut runs: Vec<&Run> = state.runs.values().filter(|run| matches(filter, &run.info)).collect();
            runs.sort_by_key(|run| std::cmp::Reverse(run.order));
            let (offset, limit) = (filter.offset.unwrap_or(0) as usize, filter.limit.unwrap_or(100) as usize);
            Ok(runs.into_iter().skip(offset).take(limit).map(|run| run.info.clone()).collect())
        })
    }

    fn delete_run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        self.with(|state| Ok(state.runs.remove(run).is_some()))
    }
}

fn matches(filter: &RunFilter, info: &RunInfo) -> bool {
    (filter.status.is_empty() || filter.status.contains(&info.status))
        && filter.agent.as_ref().is_none_or(|agent| *agent == info.agent)
        && filter.thread.as_ref().is_none_or(|thread| Some(thread) == info.thread.as_ref())
        && filter.parent.as_ref().is_none_or(|parent| info.parent.as_ref().is_some_and(|p| p.run_id == *parent))
}

impl Threads for MemoryStore {
    fn thread<'a>(&'a self, thread: &'a ThreadId) -> BoxFuture<'a, Result<Option<ThreadInfo>>> {
        self.with(|state| Ok(state.threads.get(thread).map(|thread| thread.info.clone())))
    }

    fn threads<'a>(
        &'a self,
        resource: Option<&'a str>,
        offset: usize,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ThreadInfo>>> {
        self.with(|state| {
            let mut threads: Vec<&ThreadInfo> = state
                .threads
                .values()
                .map(|thread| &thread.info)
                .filter(|info| resource.is_none_or(|owner| info.resource.as_deref() == Some(owner)))
                .collect();
            threads.sort_by(|a, b| b.updated_at_ms.cmp(&a.updated_at_ms).then_with(|| a.thread.cmp(&b.thread)));
            Ok(threads.into_iter().skip(offset).take(limit).cloned().collect())
        })
    }

    fn messages<'a>(
        &'a self,
        thread: &'a ThreadId,
        from: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Arc<Message>>>> {
        self.with(|state| {
            let Some(thread) = state.threads.get(thread) else { return Ok(Vec::new()) };
            Ok(thread.messages.iter().skip(from as usize).take(limit).cloned().collect())
        })
    }

    fn delete_thread<'a>(&'a self, thread: &'a ThreadId) -> BoxFuture<'a, Result<bool>> {
        self.with(|state| {
            if let Some(holder) = state.threads.get(thread).and_then(|thread| thread.info.active_run.as_ref()) {
                return Err(thread_busy(thread, holder));
            }
            Ok(state.threads.remove(thread).is_some())
        })
    }
}

impl KeyValue for MemoryStore {
    fn get<'a>(&'a self, space: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Value>>> {
        self.with(|state| Ok(state.values.get(&(space.to_owned(), key.to_owned())).cloned()))
    }

    fn keys<'a>(&'a self, space: &'a str, prefix: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
        self.with(|state| {
            let from = (space.to_owned(), prefix.to_owned());
            let of_space = state.values.range(from..).take_while(|((s, k), _)| s == space && k.starts_with(prefix));
            Ok(of_space.map(|((_, key), _)| key.clone()).collect())
        })
    }
}

impl Blobs for MemoryStore {
    fn blob<'a>(&'a self, hash: &'a str) -> BoxFuture<'a, Result<Option<Arc<[u8]>>>> {
        self.with(|state| Ok(state.blobs.get(hash).cloned()))
    }
}

impl Leases for MemoryStore {
    fn claim<'a>(&'a self, run: &'a RunId, owner: &'a str, now_ms: u64) -> BoxFuture<'a, Result<u64>> {
        self.with(|state| {
            let entry = state.runs.get_mut(run).ok_or_else(|| run_unknown(run))?;
            if let Some(holder) = entry.owner.as_deref().filter(|holder| *holder != owner) {
                let alive = state.owners.get(holder).is_some_and(|until| *until >= now_ms);
                if alive {
                    return Err(Error::new(codes::RUN_ACTIVE, format!("run `{run}` is at work in another engine"))
                        .with("run_id", run.as_str())
                        .with("owner", holder));
                }
            }
            entry.owner = Some(owner.into());
            entry.epoch += 1;
            Ok(entry.epoch)
        })
    }

    fn heartbeat<'a>(&'a self, owner: &'a str, until_ms: u64) -> BoxFuture<'a, Result<()>> {
        self.with(|state| {
            state.owners.insert(owner.into(), until_ms);
            Ok(())
        })
    }

    fn release<'a>(&'a self, run: &'a RunId, epoch: u64) -> BoxFuture<'a, Result<()>> {
        self.with(|state| {
            if let Some(entry) = state.runs.get_mut(run).filter(|entry| entry.epoch == epoch) {
                entry.owner = None;
            }
            Ok(())
        })
    }

    fn retire<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<()>> {
        self.with(|state| {
            state.owners.remove(owner);
            state.runs.values_mut().filter(|run| run.owner.as_deref() == Some(owner)).for_each(|run| run.owner = None);
            Ok(())
        })
    }
}
