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
    /// Whether events have come of which the reader was not told. Set under the lock.
    untold: AtomicBool,
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
            untold: AtomicBool::new(false),
            capacity: capacity.max(1),
            arrived: Condvar::new(),
            readable: Notify::new(),
            writable: Notify::new(),
        })
    }

    /// Adds an event; waits for room unless the run is `cancelled`, when the few events left go in at once. Who waits for events does not wake
    /// by this: whoever adds them [tells](Self::tell) of all of them together.
    pub(crate) async fn push(&self, event: &Arc<Event>, cancelled: &CancelToken) {
        loop {
            {
                let mut state = self.state.lock();
                if self.discards() || state.ended {
                    return;
                }
                if state.events.len() < self.capacity || cancelled.is_cancelled() {
                    state.events.push_back(event.clone());
                    self.untold.store(true, Ordering::Release);
                    return;
                }
            }
            self.tell();
            tokio::select! {
                biased;
                () = self.writable.notified() => {}
                () = cancelled.cancelled() => {}
            }
        }
    }

    /// Adds an event if there is room, else counts it as missed. Tells nobody, as [`push`](Self::push).
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
        self.untold.store(true, Ordering::Release);
    }

    /// Wakes who waits for events, if there are new ones.
    pub(crate) fn tell(&self) {
        if self.untold.swap(false, Ordering::AcqRel) {
            self.arrived.notify_one();
            self.readable.notify_one();
        }
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
            // Not for each: a run and a reader that wake one another for every event do little else.
            if state.events.len() <= self.capacity / 2 {
                self.writable.notify_one();
            }
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Wake, Waker};

    use futures_util::FutureExt as _;
    use lomusai_wire::EventBody;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn event(seq: u64) -> Arc<Event> {
        Arc::new(Event::new("r".into(), seq, 0, 0, EventBody::RunResumed))
    }

    fn push(queue: &EventQueue, seq: u64) -> Option<()> {
        queue.push(&event(seq), &CancelToken::new()).now_or_never()
    }

    fn read(queue: &EventQueue) -> Option<u64> {
        match queue.next().now_or_never()? {
            Next::Event(event) => Some(event.seq),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reader_that_waits_is_woken_once_for_all_that_came() {
        let (queue, wakes) = (EventQueue::new(8), Arc::new(Wakes::default()));
        let waker = Waker::from(wakes.clone());
        let mut reader = pin!(queue.next());
        assert!(reader.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        (1..=3).for_each(|seq| push(&queue, seq).unwrap());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        queue.tell();
        queue.tell();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(reader.now_or_never(), Some(Next::Event(event(1))));
        assert_eq!((read(&queue), read(&queue), read(&queue)), (Some(2), Some(3), None));
    }

    #[test]
    fn a_run_that_waits_for_room_goes_on_when_half_is_read_and_its_reader_was_told() {
        let queue = EventQueue::new(4);
        (1..=4).for_each(|seq| push(&queue, seq).unwrap());
        let writers = Arc::new(Wakes::default());
        let (last, cancel) = (event(5), CancelToken::new());
        let mut writer = pin!(queue.push(&last, &cancel));
        // Nobody told the reader; who waits for room does.
        assert!(queue.untold.load(Ordering::Relaxed));
        assert!(writer.as_mut().poll(&mut Context::from_waker(&Waker::from(writers.clone()))).is_pending());
        assert!(!queue.untold.load(Ordering::Relaxed));
        assert_eq!(read(&queue), Some(1));
        assert_eq!(writers.0.load(Ordering::Relaxed), 0);
        assert_eq!(read(&queue), Some(2));
        assert_eq!(writers.0.load(Ordering::Relaxed), 1);
        assert_eq!(writer.now_or_never(), Some(()));
        assert_eq!((read(&queue), read(&queue), read(&queue)), (Some(3), Some(4), Some(5)));
    }

    #[test]
    fn a_queue_of_one_passes_one_at_a_time() {
        let queue = EventQueue::new(1);
        for seq in 1..=3 {
            push(&queue, seq).unwrap();
            assert_eq!(push(&queue, 9), None);
            assert_eq!(read(&queue), Some(seq));
        }
    }
}
