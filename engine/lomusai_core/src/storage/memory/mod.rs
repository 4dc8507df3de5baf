//! The store that forgets: everything in this process's memory. The default for engines without a path.

mod runs;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lomusai_wire::{Event, Message, RunFilter, RunId, RunInfo, ThreadId};
use serde_json::Value;

use self::runs::{Keep, Run, Runs};
use super::{Batch, Blobs, Capabilities, Journal, KeyValue, Leases, Store, ThreadChange, ThreadInfo, Threads, refusal};
use crate::sync::Mutex;
use crate::{BoxFuture, Result};

/// Keeps everything in memory, of finished runs the newest only. An `Arc` of it can be shared by the engines of one process.
pub struct MemoryStore {
    closed: AtomicBool,
    runs: Runs,
    /// Locked before any run.
    shared: Mutex<Shared>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_limits(Keep { runs: 1_000, long_runs: 100, events: 20_000 })
    }
}

/// What is of no single run.
#[derive(Default)]
struct Shared {
    threads: HashMap<ThreadId, Thread>,
    values: BTreeMap<(String, String), Value>,
    blobs: HashMap<String, Arc<[u8]>>,
    owners: HashMap<Arc<str>, u64>,
}

struct Thread {
    info: ThreadInfo,
    messages: Vec<Arc<Message>>,
}

impl MemoryStore {
    /// An empty store that keeps the newest 1,000 finished runs; fewer, but 100, where those have more than 20,000 events together.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that keeps so many finished runs, however long; older ones are forgotten as new ones finish.
    pub fn keeping(keep_finished: usize) -> Self {
        Self::with_limits(Keep { runs: keep_finished, long_runs: keep_finished, events: u64::MAX })
    }

    fn with_limits(keep: Keep) -> Self {
        Self { closed: AtomicBool::new(false), runs: Runs::keeping(keep), shared: Mutex::default() }
    }

    /// What `f` makes of the runs.
    fn with_runs<'a, T: Send + 'a>(&'a self, f: impl FnOnce(&Runs) -> Result<T>) -> BoxFuture<'a, Result<T>> {
        let result = if self.closed.load(Ordering::Acquire) { Err(refusal::closed()) } else { f(&self.runs) };
        Box::pin(std::future::ready(result))
    }

    /// What `f` makes of all there is.
    fn with<'a, T: Send + 'a>(&'a self, f: impl FnOnce(&mut Shared, &Runs) -> Result<T>) -> BoxFuture<'a, Result<T>> {
        self.with_runs(|runs| f(&mut self.shared.lock(), runs))
    }
}

impl Shared {
    /// Writes a batch of which the run's part is not all.
    fn commit(&mut self, runs: &Runs, batch: Batch) -> Result<()> {
        // All checks come before the first change: a batch is written whole or not at all.
        if let Some(append) = &batch.run {
            runs.check(append)?;
        }
        if let Some(change) = &batch.thread {
            self.check_thread(runs, change)?;
        }
        for (space, key, expected) in &batch.expected {
            if self.values.get(&(space.clone(), key.clone())) != expected.as_ref() {
                return Err(refusal::value_changed(space, key));
            }
        }
        // Checked again, and the only one of the changes that can be refused: others write runs without this lock.
        if let Some(append) = batch.run {
            runs.append(append)?;
        }
        if let Some(change) = batch.thread {
            self.change_thread(*change);
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

    fn check_thread(&self, runs: &Runs, change: &ThreadChange) -> Result<()> {
        let Some(claim) = &change.claim else { return Ok(()) };
        if let Some(holder) = self.holder(runs, &change.thread).filter(|holder| *holder != claim) {
            return Err(refusal::thread_busy(&change.thread, holder));
        }
        let messages = self.threads.get(&change.thread).map_or(0, |thread| thread.info.messages);
        match change.expected_messages {
            Some(expected) if expected != messages => Err(refusal::thread_moved_on(&change.thread)),
            _ => Ok(()),
        }
    }

    /// The unfinished run that works on a thread.
    fn holder(&self, runs: &Runs, thread: &ThreadId) -> Option<&RunId> {
        let claim = self.threads.get(thread)?.info.active_run.as_ref()?;
        runs.with(claim, |run| !run.info.status.is_final())?.then_some(claim)
    }

    fn delete_run(&mut self, runs: &Runs, id: &RunId) -> bool {
        if !runs.delete(id) {
            return false;
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
        self.with_runs(|runs| {
            if !batch.sql.is_empty() || !batch.work.is_empty() {
                return Err(refusal::no_sql());
            }
            if batch.is_of_run_only()
                && let Some(append) = batch.run
            {
                return runs.append(append);
            }
            self.shared.lock().commit(runs, batch)
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::VOLATILE
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        // What is kept stays in place: the memory goes with the store. A write of another thread may be done behind this.
        self.closed.store(true, Ordering::Release);
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Journal for MemoryStore {
    fn events<'a>(&'a self, run: &'a RunId, after: u64, limit: usize) -> BoxFuture<'a, Result<Vec<Event>>> {
        self.with_runs(|runs| {
            runs.with(run, |run| run.events.page(after, limit)).unwrap_or_else(|| Err(refusal::run_unknown(run)))
        })
    }

    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>> {
        self.with_runs(|runs| Ok(runs.with(run, |run| run.info.clone())))
    }

    fn runs<'a>(&'a self, filter: &'a RunFilter) -> BoxFuture<'a, Result<Vec<RunInfo>>> {
        self.with_runs(|runs| Ok(runs.list(filter)))
    }

    fn delete_run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        self.with(|shared, runs| Ok(shared.delete_run(runs, run)))
    }
}

impl Threads for MemoryStore {
    fn thread<'a>(&'a self, thread: &'a ThreadId) -> BoxFuture<'a, Result<Option<ThreadInfo>>> {
        self.with(|shared, _| Ok(shared.threads.get(thread).map(|thread| thread.info.clone())))
    }

    fn threads<'a>(
        &'a self,
        resource: Option<&'a str>,
        offset: usize,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ThreadInfo>>> {
        self.with(|shared, _| {
            let mut threads: Vec<&ThreadInfo> = shared
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
        self.with(|shared, _| {
            let Some(thread) = shared.threads.get(thread) else { return Ok(Vec::new()) };
            Ok(thread.messages.iter().skip(from as usize).take(limit).cloned().collect())
        })
    }

    fn delete_thread<'a>(&'a self, thread: &'a ThreadId) -> BoxFuture<'a, Result<bool>> {
        self.with(|shared, runs| {
            if let Some(holder) = shared.holder(runs, thread) {
                return Err(refusal::thread_busy(thread, holder));
            }
            Ok(shared.threads.remove(thread).is_some())
        })
    }
}

impl KeyValue for MemoryStore {
    fn get<'a>(&'a self, space: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Value>>> {
        self.with(|shared, _| Ok(shared.values.get(&(space.to_owned(), key.to_owned())).cloned()))
    }

    fn keys<'a>(&'a self, space: &'a str, prefix: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
        self.with(|shared, _| {
            let from = (space.to_owned(), prefix.to_owned());
            let of_space = shared.values.range(from..).take_while(|((s, k), _)| s == space && k.starts_with(prefix));
            Ok(of_space.map(|((_, key), _)| key.clone()).collect())
        })
    }
}

impl Blobs for MemoryStore {
    fn blob<'a>(&'a self, hash: &'a str) -> BoxFuture<'a, Result<Option<Arc<[u8]>>>> {
        self.with(|shared, _| Ok(shared.blobs.get(hash).cloned()))
    }
}

impl Leases for MemoryStore {
    fn claim<'a>(&'a self, run: &'a RunId, owner: &'a str, now_ms: u64) -> BoxFuture<'a, Result<u64>> {
        self.with(|shared, runs| {
            let claimed = runs.with(run, |entry| {
                if let Some(holder) = entry.owner.as_deref().filter(|holder| *holder != owner) {
                    let alive = shared.owners.get(holder).is_some_and(|until| *until >= now_ms);
                    if alive {
                        return Err(refusal::run_active(run, holder));
                    }
                }
                entry.owner = Some(owner.into());
                entry.epoch += 1;
                Ok(entry.epoch)
            });
            claimed.unwrap_or_else(|| Err(refusal::run_unknown(run)))
        })
    }

    fn heartbeat<'a>(&'a self, owner: &'a str, until_ms: u64) -> BoxFuture<'a, Result<()>> {
        self.with(|shared, _| {
            shared.owners.insert(owner.into(), until_ms);
            Ok(())
        })
    }

    fn release<'a>(&'a self, run: &'a RunId, epoch: u64) -> BoxFuture<'a, Result<()>> {
        self.with_runs(|runs| {
            let let_go = |run: &mut Run| {
                if run.epoch == epoch {
                    run.owner = None;
                    run.events.rest()?;
                }
                Ok(())
            };
            runs.with(run, let_go).unwrap_or(Ok(()))
        })
    }

    fn retire<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<()>> {
        self.with(|shared, runs| {
            shared.owners.remove(owner);
            runs.for_each(|run| drop(run.owner.take_if(|of| &**of == owner)));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use lomusai_wire::RunStatus;

    use super::*;
    use crate::storage::RunAppend;
    use crate::testing::block_on;

    fn first(id: &str, status: RunStatus) -> Option<RunAppend> {
        let mut info = RunInfo::new(id.into(), "agent", 0);
        info.status = status;
        Some(RunAppend {
            run_id: id.into(),
            expected_seq: 0,
            epoch: 1,
            owner: "engine".into(),
            events: Arc::default(),
            info: Some(Box::new(info)),
        })
    }

    fn finish(store: &MemoryStore, id: &str) {
        block_on(store.commit(Batch { run: first(id, RunStatus::Completed), ..Batch::default() })).unwrap();
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
    fn long_runs_are_forgotten_sooner_but_for_the_newest() {
        let store = MemoryStore::with_limits(Keep { runs: 4, long_runs: 2, events: 6 });
        let append = |id: &str, from: u64, to: u64, status| {
            let mut append = first(id, status).unwrap();
            let event = |seq| Arc::new(Event::new(id.into(), seq, 0, 0, lomusai_wire::EventBody::RunResumed));
            append.expected_seq = from;
            append.events = (from + 1..=to).map(event).collect();
            append.info.as_mut().unwrap().seq = to;
            block_on(store.commit(Batch { run: Some(append), ..Batch::default() })).unwrap();
        };
        let finish = |id: &str, events| append(id, 0, events, RunStatus::Failed);
        for (id, events) in [("a", 2), ("b", 2), ("c", 2)] {
            finish(id, events);
        }
        assert_eq!(listed(&store), ["c", "b", "a"]);
        finish("d", 9);
        assert_eq!(listed(&store), ["d", "c"]);
        // It has fewer than it is allowed, but two are kept however long they are.
        finish("e", 1);
        assert_eq!(listed(&store), ["e", "d"]);
        block_on(store.delete_run(&"d".into())).unwrap();
        finish("f", 2);
        finish("g", 1);
        assert_eq!(listed(&store), ["g", "f", "e"]);
        // Tried again, and failed again in the same breath: as long as it is now, and the newest to end.
        append("e", 1, 4, RunStatus::Failed);
        assert_eq!(listed(&store), ["g", "e"]);
        // Tried again, and at work.
        append("g", 1, 2, RunStatus::Running);
        finish("h", 2);
        assert_eq!(listed(&store), ["h", "g", "e"]);
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

    #[test]
    fn threads_that_commit_at_once_lose_nothing_and_keep_the_newest() {
        let store = MemoryStore::keeping(50);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let store = &store;
                scope.spawn(move || (0..200).for_each(|n| finish(store, &format!("{thread}-{n}"))));
            }
        });
        assert_eq!(listed(&store).len(), 50);
        // Of two that claim one thread at once, one has it.
        let claims = |id: &str| {
            let mut change = ThreadChange::new("t".into(), 0);
            change.claim = Some(id.into());
            let run = first(id, RunStatus::Running);
            block_on(store.commit(Batch { run, thread: Some(Box::new(change)), ..Batch::default() })).is_ok()
        };
        let claims = &claims;
        let claimed = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|n| scope.spawn(move || claims(&format!("claims-{n}")))).collect();
            all.into_iter().filter_map(|one| one.join().ok()).filter(|claimed| *claimed).count()
        });
        assert_eq!(claimed, 1);
    }
}
