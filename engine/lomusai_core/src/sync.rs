//! Locks without poisoning, over the standard library's.
//!
//! `parking_lot` keeps the threads that wait in a table of the process. A fork copies the table without the threads, and the child then
//! follows pointers into stacks that are used anew. The standard library's locks keep nothing but themselves.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, TryLockError};
use std::time::{Duration, Instant};

pub use std::sync::{RwLockReadGuard, RwLockWriteGuard};

/// A value on cache lines of its own: what all threads write, away from what they only read, which each would have to fetch again.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Apart<T>(T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A mutual exclusion. A panic of its holder leaves the value as it is.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(std::sync::Mutex<T>);

/// Holds a [`Mutex`].
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized>(Option<std::sync::MutexGuard<'a, T>>);

const HELD: &str = "only empty while its thread waits";

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The lock, if nobody holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(MutexGuard(Some(guard))),
            Err(TryLockError::Poisoned(poisoned)) => Some(MutexGuard(Some(poisoned.into_inner()))),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The value, without locking: nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect(HELD)
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(HELD)
    }
}

/// A lock that many may read under.
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(std::sync::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits until nobody writes.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody reads or writes.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes threads that wait under a [`Mutex`].
///
/// Waking is free where nobody waits: the standard library's asks the kernel each time, which is dear where most of the waiting is done
/// by tasks. So what a waiter waits for must be changed under the lock before it is told.
#[derive(Debug, Default)]
pub struct Condvar {
    inner: std::sync::Condvar,
    /// Raised and lowered under the lock of whoever waits.
    waiting: AtomicU32,
}

/// Whether a wait ended because its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether it did.
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self { inner: std::sync::Condvar::new(), waiting: AtomicU32::new(0) }
    }

    /// Wakes one.
    pub fn notify_one(&self) {
        if self.is_awaited() {
            self.inner.notify_one();
        }
    }

    /// Wakes all.
    pub fn notify_all(&self) {
        if self.is_awaited() {
            self.inner.notify_all();
        }
    }

    fn is_awaited(&self) -> bool {
        // The lock orders it: whoever came to wait before the change had raised the count when they let go of the lock.
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Lets go of the lock until woken. May wake for no reason.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.0.take().expect(HELD);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        guard.0 = Some(self.inner.wait(held).unwrap_or_else(PoisonError::into_inner));
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// As [`wait`](Self::wait), at most `timeout`.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> WaitTimeoutResult {
        let held = guard.0.take().expect(HELD);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let (held, result) = self.inner.wait_timeout(held, timeout).unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        guard.0 = Some(held);
        WaitTimeoutResult(result.timed_out())
    }

    /// As [`wait`](Self::wait), at most until `deadline`.
    // A deadline is a time of this process and of no run.
    #[allow(clippy::disallowed_methods)]
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> WaitTimeoutResult {
        self.wait_for(guard, deadline.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn nobody_sleeps_through_a_change() {
        let shared = Arc::new((Mutex::new(0_u32), Condvar::new()));
        let threads: Vec<_> = (0..4)
            .map(|own| {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let (turn, changed) = &*shared;
                    for round in 0..5_000 {
                        let mut now = turn.lock();
                        while *now != round * 4 + own {
                            changed.wait(&mut now);
                        }
                        *now += 1;
                        drop(now);
                        changed.notify_all();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_eq!(*shared.0.lock(), 20_000);
    }
}
