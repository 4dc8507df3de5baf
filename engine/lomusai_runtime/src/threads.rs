//! The threads that an engine's work is done on: its own, or its owner's.

use std::time::Duration;

use lomusai_core::sync::{Mutex, RwLock};
use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

/// Where futures are run until the engine is closed. From then on it holds nothing of the system: a handle alone would keep the
/// runtime's epoll and its descriptors open for as long as a host has a closed engine lying about.
pub(crate) struct Threads {
    handle: RwLock<Option<Handle>>,
    own: Mutex<Option<Runtime>>,
}

impl Threads {
    /// Threads of its own, so many or one per core.
    pub(crate) fn start(threads: Option<usize>) -> Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.enable_all().thread_name("lomusai");
        if let Some(threads) = threads {
            builder.worker_threads(threads.max(1));
        }
        let own = builder
            .build()
            .map_err(|e| Error::new(codes::INTERNAL, format!("the engine's threads cannot be started: {e}")))?;
        Ok(Self { handle: RwLock::new(Some(own.handle().clone())), own: Mutex::new(Some(own)) })
    }

    /// Somebody else's, which go on when the engine is closed.
    pub(crate) fn of(handle: Handle) -> Self {
        Self { handle: RwLock::new(Some(handle)), own: Mutex::new(None) }
    }

    /// Runs a future in the background. `None`, and the future is dropped, once they have stopped.
    pub(crate) fn spawn<F>(&self, future: F) -> Option<JoinHandle<F::Output>>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        // Not under the lock: a runtime that stops drops the future here, and what that drops may ask for a task too.
        let handle = self.handle.read().clone();
        handle.map(|handle| handle.spawn(future))
    }

    /// Lets go of them: what still runs on own ones is dropped where it waits next.
    pub(crate) fn stop(&self) {
        self.handle.write().take();
        match self.own.lock().take() {
            // Blocking on one of a runtime's threads is not allowed, and on one of its own would be a deadlock: they stop by themselves.
            Some(own) if Handle::try_current().is_ok() => own.shutdown_background(),
            Some(own) => own.shutdown_timeout(Duration::from_millis(500)),
            None => {}
        }
    }

    /// Leaves own ones alone for good: in a child process after a fork there are none to stop.
    pub(crate) fn abandon(&self) {
        if let Some(own) = self.own.lock().take() {
            std::mem::forget(own);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(own) = self.own.get_mut().take() {
            // May happen on one of their own, where waiting is not allowed.
            own.shutdown_background();
        }
    }
}
