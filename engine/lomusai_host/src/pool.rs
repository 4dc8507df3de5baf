//! Threads for the host's functions. They may block: in their own work, and in calls back into the engine, for which others step in.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use lomusai_core::sync::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// A thread that has nothing to do for so long ends. Where more calls come than that, the wake-ups go round, and none may end: so there are never
/// more idle threads than functions that may run at once.
const IDLE: Duration = Duration::from_secs(10);

pub(crate) struct HostPool {
    state: Mutex<State>,
    work: Condvar,
    quiet: Condvar,
    /// So many functions run at once; those that wait for the engine, or were given up, do not count.
    active_max: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Arc<Ticket>, Job)>,
    idle: usize,
    active: usize,
    /// Functions that were given up and have not returned.
    lost: Vec<Arc<Ticket>>,
    closed: bool,
}

/// One function on its way through the pool. Its stage changes only under the pool's lock.
pub(crate) struct Ticket {
    what: String,
    stage: AtomicU8,
}

// Queued  --taken-->     Running   counts as active
// Running --calls in-->  Away      waits for the engine; does not count
// Away    --returns-->   Running
// Running, Away --given up--> Lost  does not count, is named by `close`
// any     --returned-->  Done
const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
const AWAY: u8 = 2;
const LOST: u8 = 3;
const DONE: u8 = 4;

impl Ticket {
    fn stage(&self) -> u8 {
        self.stage.load(Ordering::Relaxed)
    }

    fn set(&self, stage: u8) {
        self.stage.store(stage, Ordering::Relaxed);
    }
}

thread_local! {
    /// The pool this thread works for, and the function it runs.
    static OWN: RefCell<Option<(Arc<HostPool>, Arc<Ticket>)>> = const { RefCell::new(None) };
}

impl HostPool {
    pub(crate) fn new(active_max: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            work: Condvar::new(),
            quiet: Condvar::new(),
            active_max: active_max.max(1),
        })
    }

    /// Runs a job on a thread of the pool. `what` names it, should it never return.
    pub(crate) fn run(self: &Arc<Self>, what: String, job: Job) -> Arc<Ticket> {
        let ticket = Arc::new(Ticket { what, stage: AtomicU8::new(QUEUED) });
        let mut state = self.state.lock();
        state.queue.push_back((ticket.clone(), job));
        self.staff(&mut state);
        ticket
    }

    /// Sees to it that somebody takes up what waits, as far as there is room.
    fn staff(self: &Arc<Self>, state: &mut State) {
        if state.queue.is_empty() || state.active >= self.active_max {
            return;
        }
        if state.idle > 0 {
            self.work.notify_one();
            return;
        }
        let pool = self.clone();
        // Where the system gives no thread, what waits is taken up by the next one that is free.
        let _ = std::thread::Builder::new().name("lomusai-host".into()).spawn(move || pool.serve());
    }

    fn serve(self: Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            if state.active < self.active_max
                && let Some((ticket, job)) = state.queue.pop_front()
            {
                state.active += 1;
                ticket.set(RUNNING);
                // One wakes one: whoever takes a job sees whether more wait.
                self.staff(&mut state);
                drop(state);
                OWN.with(|own| *own.borrow_mut() = Some((self.clone(), ticket.clone())));
                // A panic must not take the thread, nor leave the count wrong. The job's answer handle tells of it.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                OWN.with(|own| *own.borrow_mut() = None);
                state = self.state.lock();
                if ticket.stage() == LOST {
                    state.lost.retain(|lost| !Arc::ptr_eq(lost, &ticket));
                } else {
                    state.active -= 1;
                }
                ticket.set(DONE);
                self.quiet.notify_all();
                continue;
            }
            // Functions that call in may have nested deeper than may run at once: what they needed beyond that goes with them.
            if state.closed || state.idle >= self.active_max {
                break;
            }
            state.idle += 1;
            let timed_out = self.work.wait_for(&mut state, IDLE).timed_out();
            state.idle -= 1;
            if timed_out && state.queue.is_empty() {
                break;
            }
        }
    }

    /// Nobody waits for this function any more: its thread is its own business, and another may take its place.
    pub(crate) fn give_up(self: &Arc<Self>, ticket: &Arc<Ticket>) {
        let mut state = self.state.lock();
        match ticket.stage() {
            QUEUED => state.queue.retain(|(waiting, _)| !Arc::ptr_eq(waiting, ticket)),
            RUNNING | AWAY => {
                if ticket.stage() == RUNNING {
                    state.active -= 1;
                }
                ticket.set(LOST);
                state.lost.push(ticket.clone());
                self.staff(&mut state);
            }
            _ => {}
        }
    }

    /// Waits until no function runs, at most `timeout`. Gives the names of those that still do; their threads are abandoned.
    pub(crate) fn close(&self, timeout: Duration) -> Vec<String> {
        let mut state = self.state.lock();
        state.closed = true;
        state.queue.clear();
        self.work.notify_all();
        // The thread that closes may run one of them: it cannot wait for itself, and while it closes it waits for the engine.
        let deadline = timeout_at(timeout);
        let own = OWN.with(|own| {
            own.borrow().as_ref().filter(|(pool, _)| std::ptr::eq(&**pool, self)).map(|(_, ticket)| ticket.clone())
        });
        let own_active = usize::from(own.as_ref().is_some_and(|ticket| ticket.stage() == RUNNING));
        let own_lost = usize::from(own.as_ref().is_some_and(|ticket| ticket.stage() == LOST));
        while state.active + state.lost.len() > own_active + own_lost {
            if self.quiet.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        let others = state.lost.iter().filter(|lost| own.as_ref().is_none_or(|own| !Arc::ptr_eq(lost, own)));
        let mut names: Vec<String> = others.map(|ticket| ticket.what.clone()).collect();
        if state.active > own_active {
            names.push(format!("{} more", state.active - own_active));
        }
        names
    }
}

// The one place that reads the monotonic clock outside of tokio: these threads have no runtime.
#[allow(clippy::disallowed_methods)]
fn timeout_at(timeout: Duration) -> std::time::Instant {
    std::time::Instant::now() + timeout
}

/// Runs something that waits for the engine. On a pool's thread, another may take its place meanwhile: so callbacks that call back
/// into the engine can nest as deep as there are threads.
pub fn while_waiting<T>(wait: impl FnOnce() -> T) -> T {
    let Some((pool, ticket)) = OWN.with(|own| own.borrow().clone()) else { return wait() };
    /// Takes the place again, also when the wait panics.
    struct Back(Arc<HostPool>, Arc<Ticket>);
    impl Drop for Back {
        fn drop(&mut self) {
            let mut state = self.0.state.lock();
            if self.1.stage() == AWAY {
                self.1.set(RUNNING);
                state.active += 1;
            }
        }
    }
    {
        let mut state = pool.state.lock();
        if ticket.stage() != RUNNING {
            // Given up already: its place is not counted.
            drop(state);
            return wait();
        }
        ticket.set(AWAY);
        state.active -= 1;
        pool.staff(&mut state);
    }
    let _back = Back(pool, ticket);
    wait()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// A function that waits for the engine, which waits for a function, so many deep.
    fn nest(pool: &Arc<HostPool>, depth: usize, done: Sender<()>) {
        let inner = pool.clone();
        pool.run(
            "nested".into(),
            Box::new(move || {
                if depth > 1 {
                    let (told, tells) = channel();
                    nest(&inner, depth - 1, told);
                    while_waiting(|| tells.recv().expect("the inner one tells"));
                }
                done.send(()).expect("the outer one waits");
            }),
        );
    }

    #[test]
    fn threads_that_nesting_needed_end_with_it() {
        let pool = HostPool::new(2);
        let (done, is_done) = channel();
        nest(&pool, 50, done);
        is_done.recv().expect("the outermost tells");
        // Each thread holds the pool: this test, and those that stay.
        let deadline = timeout_at(IDLE / 2);
        while Arc::strong_count(&pool) > 3 && timeout_at(Duration::ZERO) < deadline {
            std::thread::yield_now();
        }
        assert!(Arc::strong_count(&pool) <= 3, "{} threads are left", Arc::strong_count(&pool) - 1);
        assert_eq!(pool.close(IDLE), Vec::<String>::new());
    }
}
