//! The store as a process sees it: the one in memory, behind faults, and watched by the checker.

use std::sync::Arc;

use lomusai_core::storage::{
    Batch, Blobs, Capabilities, Journal, KeyValue, Leases, MemoryStore, Store, ThreadInfo, Threads,
};
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::{Event, Message, RunFilter, RunId, RunInfo, ThreadId, codes};
use serde_json::Value;
use tokio::time::{Duration, sleep};

use crate::fault::Fault;
use crate::world::Seat;

/// One process's way to the store.
pub(crate) struct SimulatedStore(pub(crate) Arc<Seat>);

fn broken(what: &str) -> Error {
    Error::new(codes::STORE_FAILED, format!("the simulated disk failed at {what}"))
}

impl SimulatedStore {
    async fn come(&self) {
        self.0.process.gate().await;
        self.0.world.latency().await;
        self.0.process.gate().await;
    }

    async fn go(&self) {
        self.0.world.latency().await;
        self.0.process.gate().await;
    }

    fn read<'a, T: Send + 'a>(
        &'a self,
        ask: impl FnOnce(&'a MemoryStore) -> BoxFuture<'a, Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            self.come().await;
            if self.0.world.happens(Fault::ReadFails) {
                return Err(broken("reading"));
            }
            let result = ask(&self.0.world.store).await;
            self.0.process.gate().await;
            result
        })
    }

    /// A call about leases: refused by the disk, done without an answer, or done. `seen` is told what was done.
    fn lease<'a, T: Send + 'a>(
        &'a self,
        ask: impl FnOnce(&'a MemoryStore) -> BoxFuture<'a, Result<T>> + Send + 'a,
        seen: impl FnOnce(&Seat, &T) + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            self.come().await;
            if self.0.world.happens(Fault::LeaseFails) {
                return Err(broken("a lease"));
            }
            let result = ask(&self.0.world.store).await;
            if let Ok(done) = &result {
                seen(&self.0, done);
            }
            self.go().await;
            if result.is_ok() && self.0.world.happens(Fault::LeaseAnswerLost) {
                return Err(broken("the answer of a lease"));
            }
            result
        })
    }
}

impl Store for SimulatedStore {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let Seat { world, process } = &*self.0;
            self.come().await;
            if world.happens(Fault::CommitSlow) {
                let ms = world.between(100, 900);
                sleep(Duration::from_millis(ms)).await;
                process.gate().await;
            }
            if world.happens(Fault::CommitFails) {
                return Err(broken("a commit"));
            }
            if world.happens(Fault::CrashBeforeCommit) {
                process.die().await;
            }
            let append = batch.run.clone();
            let result = world.store.commit(batch).await;
            match (&result, append) {
                (Ok(()), Some(append)) => {
                    world.tell(|| told(&process.owner, &append));
                    let elapsed_ms = world.elapsed_ms();
                    world.state.lock().checker.committed(&append, elapsed_ms);
                }
                (Err(error), _) if error.is(codes::SEQUENCE_CONFLICT) => {
                    world.tell(|| format!("{} is refused: {error}", process.owner));
                    world.state.lock().counts.add(Fault::StaleWriteRefused);
                }
                _ => {}
            }
            if result.is_ok() && world.happens(Fault::CrashAfterCommit) {
                process.die().await;
            }
            self.go().await;
            if result.is_ok() && world.happens(Fault::CommitAnswerLost) {
                return Err(broken("the answer of a commit"));
            }
            result
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::DURABLE
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        // The store outlives its processes.
        Box::pin(std::future::ready(Ok(())))
    }
}

fn told(owner: &str, append: &lomusai_core::storage::RunAppend) -> String {
    let events: Vec<String> = append.events.iter().map(|event| format!("{:?}", event.body)).collect();
    let status = append.info.as_ref().map(|info| info.status);
    format!("{owner} writes {} {}+{status:?} {events:?}", append.run_id, append.expected_seq)
}

impl Journal for SimulatedStore {
    fn events<'a>(&'a self, run: &'a RunId, after: u64, limit: usize) -> BoxFuture<'a, Result<Vec<Event>>> {
        self.read(move |store| store.events(run, after, limit))
    }
    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>> {
        self.read(move |store| store.run(run))
    }
    fn runs<'a>(&'a self, filter: &'a RunFilter) -> BoxFuture<'a, Result<Vec<RunInfo>>> {
        self.read(move |store| store.runs(filter))
    }
    fn delete_run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        self.read(move |store| store.delete_run(run))
    }
}

impl Threads for SimulatedStore {
    fn thread<'a>(&'a self, thread: &'a ThreadId) -> BoxFuture<'a, Result<Option<ThreadInfo>>> {
        self.read(move |store| store.thread(thread))
    }
    fn threads<'a>(
        &'a self,
        resource: Option<&'a str>,
        offset: usize,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ThreadInfo>>> {
        self.read(move |store| store.threads(resource, offset, limit))
    }
    fn messages<'a>(
        &'a self,
        thread: &'a ThreadId,
        from: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Arc<Message>>>> {
        self.read(move |store| store.messages(thread, from, limit))
    }
    fn delete_thread<'a>(&'a self, thread: &'a ThreadId) -> BoxFuture<'a, Result<bool>> {
        self.read(move |store| store.delete_thread(thread))
    }
}

impl KeyValue for SimulatedStore {
    fn get<'a>(&'a self, space: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Value>>> {
        self.read(move |store| store.get(space, key))
    }
    fn keys<'a>(&'a self, space: &'a str, prefix: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
        self.read(move |store| store.keys(space, prefix))
    }
}

impl Blobs for SimulatedStore {
    fn blob<'a>(&'a self, hash: &'a str) -> BoxFuture<'a, Result<Option<Arc<[u8]>>>> {
        self.read(move |store| store.blob(hash))
    }
}

impl Leases for SimulatedStore {
    fn claim<'a>(&'a self, run: &'a RunId, owner: &'a str, now_ms: u64) -> BoxFuture<'a, Result<u64>> {
        self.lease(
            move |store| store.claim(run, owner, now_ms),
            move |seat, epoch| {
                seat.world.tell(|| format!("{owner} claims {run}, epoch {epoch}"));
                seat.world.state.lock().checker.claimed(run, owner, *epoch, now_ms);
            },
        )
    }
    fn heartbeat<'a>(&'a self, owner: &'a str, until_ms: u64) -> BoxFuture<'a, Result<()>> {
        self.lease(
            move |store| store.heartbeat(owner, until_ms),
            move |seat, ()| seat.world.state.lock().checker.heartbeat(owner, until_ms),
        )
    }
    fn release<'a>(&'a self, run: &'a RunId, epoch: u64) -> BoxFuture<'a, Result<()>> {
        self.lease(
            move |store| store.release(run, epoch),
            move |seat, ()| seat.world.state.lock().checker.released(run, epoch),
        )
    }
    fn retire<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<()>> {
        self.lease(move |store| store.retire(owner), |_, ()| {})
    }
}
