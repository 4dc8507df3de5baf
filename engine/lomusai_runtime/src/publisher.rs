//! Numbers a run's events and gives them to whoever reads: one primary reader with back-pressure, any number of observers that may lag.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lomusai_core::cancel::CancelToken;
use lomusai_core::seam::Clock;
use lomusai_core::sync::Mutex;
use lomusai_wire::{Event, EventBody, LogLevel, RunId};
use tokio::sync::broadcast;

use crate::queue::EventQueue;

/// So many events an observer may be behind before it misses some.
const OBSERVER_EVENTS: usize = 1_024;

pub(crate) struct Publisher {
    run_id: RunId,
    clock: Arc<dyn Clock>,
    place: Mutex<Place>,
    primary: Option<Arc<EventQueue>>,
    /// Whether others need the run too, so that its reader must not stall it.
    detached: bool,
    observers: Mutex<Observers>,
    /// Whether there has ever been an observer: for most runs there never is, and each of their events asks.
    observed: AtomicBool,
    /// What the readers were told already and need not hear at each step.
    advice: Mutex<HashSet<String>>,
    cancelled: CancelToken,
}

#[derive(Default)]
struct Observers {
    sender: Option<broadcast::Sender<Arc<Event>>>,
    /// Whoever comes now hears that there is nothing more.
    ended: bool,
}

#[derive(Clone, Copy)]
struct Place {
    seq: u64,
    sub: u64,
}

impl Publisher {
    pub(crate) fn new(
        run_id: RunId,
        clock: Arc<dyn Clock>,
        seq: u64,
        primary: Option<Arc<EventQueue>>,
        detached: bool,
        cancelled: CancelToken,
    ) -> Self {
        let place = Mutex::new(Place { seq, sub: 0 });
        let (observers, observed, advice) = (Mutex::default(), AtomicBool::new(false), Mutex::default());
        Self { run_id, clock, place, primary, detached, observers, observed, advice, cancelled }
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.detached
    }

    pub(crate) fn seq(&self) -> u64 {
        self.place.lock().seq
    }

    /// Gives durable events their numbers, behind this one. They count once they are [`committed`](Self::committed).
    pub(crate) fn number(&self, bodies: Vec<EventBody>, seq: u64, at_ms: u64) -> Arc<[Arc<Event>]> {
        let numbered = bodies.into_iter().zip(seq + 1..);
        numbered.map(|(body, seq)| Arc::new(Event::new(self.run_id.clone(), seq, 0, at_ms, body))).collect()
    }

    /// Durable events were committed: tells the readers.
    pub(crate) async fn committed(&self, events: &[Arc<Event>]) {
        if let Some(last) = events.last() {
            *self.place.lock() = Place { seq: last.seq, sub: 0 };
        }
        if !self.is_read() {
            return;
        }
        for event in events {
            self.publish(event).await;
        }
        self.tell();
    }

    /// Whether anybody would read a transient event.
    pub(crate) fn is_read(&self) -> bool {
        self.primary.as_ref().is_some_and(|queue| !queue.discards()) || self.has_observers()
    }

    fn has_observers(&self) -> bool {
        self.observed.load(Ordering::Acquire)
            && self.observers.lock().sender.as_ref().is_some_and(|sender| sender.receiver_count() > 0)
    }

    /// Has something for the readers that is not kept, and waits where the primary reader is slow. They are told of it with what else comes
    /// until [`tell`](Self::tell): to wake a reader for each word costs more than the word.
    pub(crate) async fn transient(&self, body: EventBody) {
        let event = self.place_transient(body);
        self.publish(&event).await;
    }

    /// Tells the readers something that is not kept, if they can take it now.
    pub(crate) fn try_transient(&self, body: EventBody) {
        if !self.is_read() {
            return;
        }
        let event = self.place_transient(body);
        self.observe(&event);
        if let Some(queue) = &self.primary {
            queue.try_push(&event);
            queue.tell();
        }
    }

    /// Tells the primary reader of what has come since it was told last.
    pub(crate) fn tell(&self) {
        if let Some(queue) = &self.primary {
            queue.tell();
        }
    }

    /// Tells the readers something that is true for the whole run, once.
    pub(crate) fn advise(&self, level: LogLevel, message: String) {
        if self.is_read() && self.advice.lock().insert(message.clone()) {
            self.try_transient(EventBody::Log { level, message });
        }
    }

    fn place_transient(&self, body: EventBody) -> Arc<Event> {
        let mut place = self.place.lock();
        place.sub += 1;
        Arc::new(Event::new(self.run_id.clone(), place.seq, place.sub, self.clock.now_ms(), body))
    }

    async fn publish(&self, event: &Arc<Event>) {
        let observed = self.observe(event);
        let Some(queue) = &self.primary else { return };
        // A reader that stops reading never stalls a run that others need.
        if self.detached || observed {
            queue.try_push(event);
            return;
        }
        queue.push(event, &self.cancelled).await;
    }

    fn observe(&self, event: &Arc<Event>) -> bool {
        if !self.observed.load(Ordering::Acquire) {
            return false;
        }
        match &self.observers.lock().sender {
            Some(sender) => sender.send(event.clone()).is_ok(),
            None => false,
        }
    }

    pub(crate) fn subscribe(&self) -> (broadcast::Receiver<Arc<Event>>, u64) {
        let mut observers = self.observers.lock();
        self.observed.store(true, Ordering::Release);
        let ended = observers.ended;
        let sender = observers.sender.get_or_insert_with(|| broadcast::channel(OBSERVER_EVENTS).0);
        let receiver = sender.subscribe();
        if ended {
            observers.sender = None;
        }
        (receiver, self.seq())
    }

    /// Nothing more comes.
    pub(crate) fn end(&self) {
        if let Some(queue) = &self.primary {
            queue.end();
        }
        *self.observers.lock() = Observers { sender: None, ended: true };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn whoever_comes_after_the_end_hears_that_it_is_over() {
        let publisher = Publisher::new("r".into(), Arc::new(SystemClock), 0, None, false, CancelToken::new());
        let (mut early, _) = publisher.subscribe();
        publisher.end();
        let (mut late, _) = publisher.subscribe();
        for receiver in [&mut early, &mut late] {
            let heard = tokio::time::timeout(Duration::from_secs(5), receiver.recv()).await;
            assert!(matches!(heard, Ok(Err(broadcast::error::RecvError::Closed))));
        }
    }
}
