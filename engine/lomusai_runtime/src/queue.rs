//! The queue between a run and its reader: bounded, so that a slow reader slows its run; readable by tasks and by plain threads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lomusai_core::cancel::CancelToken;
use lomusai_core::sync::{Condvar, Mutex};
use lomusai_wire::Event;
use tokio::sync::Notify;

/// What a reader gets.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Next {
    /// The next event.
    Event(Arc<Event>),
    /// None came in time.
    Timeout,
    /// There will be no more: the run has ended or is suspended.
    End,
}

pub(crate) struct EventQueue {
    state: Mutex<State>,
    /// Nobody reads any more. Set under the lock; looked at without it before every delta.
    discards: AtomicBool,
    capacity: usize,
    /// For threads that read.
    arrived: Condvar,
    /// For tasks that read.
    readable: Notify,
    /// For the run that waits for room.
    writable: Notify,
}

struct State {
    events: VecDeque<Arc<Event>>,
    /// How many events the reader missed since the last one it got.
    missed: u64,
    ended: bool,
}

impl EventQueue {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        let state = State { events: VecDeque::new(), missed: 0, ended: false };
        Arc::new(Self {
            state: Mutex::new(state),
            discards: AtomicBool::new(false),
            capacity: capacity.max(1),
            arrived: Condvar::new(),
            readable: Notify::new(),
            writable: Notify::new(),
        })
    }

    /// Adds an event; waits for room unless the run is `cancelled`, when the few events left go in at once.
    pub(crate) async fn push(&self, event: &Arc<Event>, cancelled: &CancelToken) {
        loop {
            {
                let mut state = self.state.lock();
                if self.discards() || state.ended {
                    return;
                }
                if state.events.len() < self.capacity || cancelled.is_cancelled() {
                    state.events.push_back(event.clone());
                    drop(state);
                    self.arrived.notify_one();
                    self.readable.notify_one();
                    return;
                }
            }
            tokio::select! {
                biased;
                () = self.writable.notified() => {}
                () = cancelled.cancelled() => {}
            }
        }
    }

    /// Adds an event if there is room, else counts it as missed.
    pub(crate) fn try_push(&self, event: &Arc<Event>) {
        let mut state = self.state.lock();
        if self.discards() || state.ended {
            return;
        }
        if state.events.len() >= self.capacity {
            state.missed += 1;
            return;
        }
        state.events.push_back(event.clone());
        drop(state);
        self.arrived.notify_one();
        self.readable.notify_one();
    }

    /// No more events come.
    pub(crate) fn end(&self) {
        self.state.lock().ended = true;
        self.arrived.notify_all();
        self.readable.notify_one();
    }

    /// Nobody reads any more: what is there goes, what comes is dropped.
    pub(crate) fn discard(&self) {
        let mut state = self.state.lock();
        self.discards.store(true, Ordering::Release);
        state.events.clear();
        drop(state);
        self.writable.notify_one();
    }

    pub(crate) fn discards(&self) -> bool {
        self.discards.load(Ordering::Acquire)
    }

    /// How many events were dropped since this was last asked.
    pub(crate) fn take_missed(&self) -> u64 {
        std::mem::take(&mut self.state.lock().missed)
    }

    fn take(&self, state: &mut State) -> Option<Next> {
        if let Some(event) = state.events.pop_front() {
            self.writable.notify_one();
            return Some(Next::Event(event));
        }
        (state.ended || self.discards()).then_some(Next::End)
    }

    pub(crate) async fn next(&self) -> Next {
        loop {
            let readable = self.readable.notified();
            if let Some(next) = self.take(&mut self.state.lock()) {
                return next;
            }
            readable.await;
        }
    }

    /// Waits on this thread, at most `timeout`; `None` waits for ever.
    pub(crate) fn next_blocking(&self, timeout: Option<Duration>) -> Next {
        let mut state = self.state.lock();
        if let Some(next) = self.take(&mut state) {
            return next;
        }
        match timeout {
            None => loop {
                self.arrived.wait(&mut state);
                if let Some(next) = self.take(&mut state) {
                    return next;
                }
            },
            Some(timeout) => {
                // A wake-up without an event only shortens the wait; callers poll again.
                self.arrived.wait_for(&mut state, timeout);
                self.take(&mut state).unwrap_or(Next::Timeout)
            }
        }
    }
}
