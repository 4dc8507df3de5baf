//! The store that forgets: everything in this process's memory. The default for engines without a path.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::sync::Mutex;
use lomusai_wire::{Event, Message, RunFilter, RunId, RunInfo, ThreadId, codes};
use serde_json::Value;

use super::{
    Batch, Blobs, Capabilities, Journal, KeyValue, Leases, RunAppend, Store, ThreadChange, ThreadInfo, Threads, refusal,
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
    /// Boxed: a table that forgets as much as it takes in grows to twice what it holds, once, whenever its seed says so. With the runs
    /// themselves in it that is half a megabyte, which looks like a leak.
    runs: HashMap<RunId, Box<Run>>,
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
    events: Events,
    owner: Option<Arc<str>>,
    epoch: u64,
    order: u64,
}

/// The events of a run.
enum Events {
    /// While somebody works on it.
    AtWork(Vec<Arc<Event>>),
    /// While nobody does, which may be for days and by the thousand: as JSON, a line each, which takes a fifth of the room.
    AtRest(String),
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
        let result = if state.closed { Err(refusal::closed()) } else { f(&mut state) };
        Box::pin(std::future::ready(result))
    }
}

impl Events {
    fn page(&self, after: u64, limit: usize) -> Result<Vec<Event>> {
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

    fn rest(&mut self) -> Result<()> {
        if let Self::AtWork(events) = self {
            let lines: Vec<String> =
                events.iter().map(|event| serde_json::to_string(event).map_err(unreadable)).collect::<Result<_>>()?;
            *self = Self::AtRest(lines.join("\n"));
        }
        Ok(())
    }
}

fn check_run(run: Option<&Run>, append: &RunAppend) -> Result<()> {
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

impl State {
    fn commit(&mut self, mut batch: Batch, keep_finished: usize) -> Result<()> {
        // All checks come before the first change: a batch is written whole or not at all.
        if !batch.sql.is_empty() || !batch.work.is_empty() {
            return Err(refusal::no_sql());
        }
        let plain = batch.run.take_if(|append| append.info.is_none());
        if let Some(append) = &batch.run {
            let run = self.runs.get(&append.run_id).map(Box::as_ref);
            check_run(run, append)?;
        }
        if let Some(change) = &batch.thread {
            self.check_thread(change)?;
        }
        for (space, key, expected) in &batch.expected {
            if self.values.get(&(space.clone(), key.clone())) != expected.as_ref() {
                return Err(refusal::value_changed(space, key));
            }
        }
        if let Some(append) = plain {
            self.extend(&append)?;
        }
        if let Some(append) = batch.run {
            self.append(append, keep_finished)?;
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

    fn check_thread(&self, change: &ThreadChange) -> Result<()> {
        let Some(claim) = &change.claim else { return Ok(()) };
        if let Some(holder) = self.holder(&change.thread).filter(|holder| *holder != claim) {
            return Err(refusal::thread_busy(&change.thread, holder));
        }
        let messages = self.threads.get(&change.thread).map_or(0, |thread| thread.info.messages);
        match change.expected_messages {
            Some(expected) if expected != messages => Err(refusal::thread_moved_on(&change.thread)),
            _ => Ok(()),
        }
    }

    /// The unfinished run that works on a thread.
    fn holder(&self, thread: &ThreadId) -> Option<&RunId> {
        let claim = self.threads.get(thread)?.info.active_run.as_ref()?;
        self.runs.get(claim).is_some_and(|run| !run.info.status.is_final()).then_some(claim)
    }

    /// Most appends, which change nothing but the events: looked up once, checked and written.
    fn extend(&mut self, append: &RunAppend) -> Result<()> {
        let run = self.runs.get_mut(&append.run_id);
        check_run(run.as_ref().map(|run| &***run), append)?;
        if let (Some(run), Some(last)) = (run, append.events.last()) {
            run.events.append(&append.events)?;
            (run.info.seq, run.info.updated_at_ms) = (last.seq, last.at_ms);
        }
        Ok(())
    }

    fn append(&mut self, append: RunAppend, keep_finished: usize) -> Result<()> {
        let RunAppend { run_id, epoch, owner, events, info, .. } = append;
        let info = info.expect("one without is an extension");
        let created = &mut self.created;
        let run = self.runs.entry(run_id).or_insert_with(|| {
            *created += 1;
            // Its line as it was before these events: not finished.
            let before = RunInfo::new(info.run_id.clone(), "", info.created_at_ms);
            Box::new(Run {
                info: before,
                events: Events::AtWork(Vec::new()),
                owner: Some(owner),
                epoch,
                order: *created,
            })
        });
        // The one thing that might fail, before anything else is changed.
        run.events.append(&events)?;
        let finishes = info.status.is_final() && !run.info.status.is_final();
        // A workflow's run that failed may be tried again.
        if run.info.status.is_final() && !info.status.is_final() {
            self.finished.retain(|finished| *finished != info.run_id);
        }
        run.info = *info;
        if finishes {
            run.owner = None;
            self.finished.push_back(run.info.run_id.clone());
            while self.finished.len() > keep_finished {
                let oldest = self.finished.pop_front().expect("longer than a length");
                self.runs.remove(&oldest);
            }
        }
        Ok(())
    }

    fn delete_run(&mut self, id: &RunId) -> bool {
        let Some(run) = self.runs.remove(id) else { return false };
        if run.info.status.is_final() {
            self.finished.retain(|finished| finished != id);
        }
        for thread in self.threads.values_mut().filter(|thread| thread.info.active_run.as_ref() == Some(id)) {
            thread.info.active_run = None;
        }
        true
    }

    fn change_thread(&mut self, change: ThreadChange) {
        let ThreadChange { thread: id, resource, claim, release, append, now_ms, .. } = change;
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
            let run = state.runs.get(run).ok_or_else(|| refusal::run_unknown(run))?;
            run.events.page(after, limit)
        })
    }

    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>> {
        self.with(|state| Ok(state.runs.get(run).map(|run| run.info.clone())))
    }

    fn runs<'a>(&'a self, filter: &'a RunFilter) -> BoxFuture<'a, Result<Vec<RunInfo>>> {
        self.with(|state| {
            let mut runs: Vec<&Run> =
                state.runs.values().map(Box::as_ref).filter(|run| filter.admits(&run.info)).collect();
            runs.sort_by_key(|run| std::cmp::Reverse(run.order));
            let (offset, limit) = (filter.offset.unwrap_or(0) as usize, filter.limit.unwrap_or(100) as usize);
            Ok(runs.into_iter().skip(offset).take(limit).map(|run| run.info.clone()).collect())
        })
    }

    fn delete_run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        self.with(|state| Ok(state.delete_run(run)))
    }
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
            if let Some(holder) = state.holder(thread) {
                return Err(refusal::thread_busy(thread, holder));
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
            let entry = state.runs.get_mut(run).ok_or_else(|| refusal::run_unknown(run))?;
            if let Some(holder) = entry.owner.as_deref().filter(|holder| *holder != owner) {
                let alive = state.owners.get(holder).is_some_and(|until| *until >= now_ms);
                if alive {
                    return Err(refusal::run_active(run, holder));
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
                entry.events.rest()?;
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

#[cfg(test)]
mod tests {
    use lomusai_wire::RunStatus;

    use super::*;
    use crate::testing::block_on;

    fn finish(store: &MemoryStore, id: &str) {
        let mut info = RunInfo::new(id.into(), "agent", 0);
        info.status = RunStatus::Completed;
        let run = RunAppend {
            run_id: id.into(),
            expected_seq: 0,
            epoch: 1,
            owner: "engine".into(),
            events: Arc::default(),
            info: Some(Box::new(info)),
        };
        block_on(store.commit(Batch { run: Some(run), ..Batch::default() })).unwrap();
    }

    fn listed(store: &MemoryStore) -> Vec<String> {
        let runs = block_on(store.runs(&RunFilter::default())).unwrap();
        runs.iter().map(|info| info.run_id.to_string()).collect()
    }

    #[test]
    fn the_oldest_finished_runs_are_forgotten() {
        let store = MemoryStore::keeping(2);
        for id in ["a", "b", "c"] {
            finish(&store, id);
        }
        assert_eq!(listed(&store), ["c", "b"]);
    }

    #[test]
    fn a_deleted_run_takes_no_finished_run_s_place() {
        let store = MemoryStore::keeping(2);
        finish(&store, "a");
        finish(&store, "b");
        block_on(store.delete_run(&"b".into())).unwrap();
        finish(&store, "b");
        assert_eq!(listed(&store), ["b", "a"]);
    }

    #[test]
    fn a_store_that_keeps_none_forgets_a_run_as_it_ends() {
        let store = MemoryStore::keeping(0);
        finish(&store, "a");
        assert_eq!(listed(&store), [""; 0]);
    }
}
