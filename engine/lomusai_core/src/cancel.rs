//! Cancellation: a flag that can be polled, awaited or listened to, from any thread and without a runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use crate::sync::Mutex;

/// Tells work that its result is not wanted any more. Clones share one flag.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Inner>);

#[derive(Default)]
struct Inner {
    cancelled: AtomicBool,
    listeners: Mutex<Listeners>,
}

#[derive(Default)]
struct Listeners {
    next: u64,
    /// By key, in the order in which they came. Few: a list is searched faster than a tree is built.
    active: Vec<(u64, Listener)>,
}

enum Listener {
    Waker(Waker),
    Callback(Box<dyn FnOnce() + Send>),
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag, wakes every waiter and calls every listener, on this thread. Does nothing the second time.
    pub fn cancel(&self) {
        if self.0.cancelled.swap(true, Ordering::AcqRel) {
            return;
        }
        // Taken out first: a listener may itself use this token.
        let listeners = std::mem::take(&mut self.0.listeners.lock().active);
        for (_, listener) in listeners {
            match listener {
                Listener::Waker(waker) => waker.wake(),
                Listener::Callback(callback) => callback(),
            }
        }
    }

    /// As [`cancel`](Self::cancel), for whoever has no use for the token any more. Where nobody else has one this means nothing, and takes no
    /// lock.
    pub fn cancel_others(mut self) {
        if Arc::get_mut(&mut self.0).is_none() {
            self.cancel();
        }
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Waits until the flag is set.
    pub fn cancelled(&self) -> Cancelled {
        Cancelled { token: self.clone(), key: None }
    }

    /// Calls `callback` once when the flag is set, at once if it is. Dropping the guard takes the callback back.
    pub fn on_cancel(&self, callback: impl FnOnce() + Send + 'static) -> CancelGuard {
        let mut listeners = self.0.listeners.lock();
        // Checked under the lock: `cancel` sets the flag before it takes the lock.
        if self.is_cancelled() {
            drop(listeners);
            callback();
            return CancelGuard { token: self.clone(), key: None };
        }
        let key = listeners.insert(Listener::Callback(Box::new(callback)));
        drop(listeners);
        CancelGuard { token: self.clone(), key: Some(key) }
    }

    fn forget(&self, key: u64) {
        let mut listeners = self.0.listeners.lock();
        let Some(place) = listeners.active.iter().position(|(known, _)| *known == key) else { return };
        let forgotten = listeners.active.remove(place);
        drop(listeners);
        // Out of the lock: what a callback holds may itself use this token when it goes.
        drop(forgotten);
    }
}

impl Listeners {
    fn insert(&mut self, listener: Listener) -> u64 {
        let key = self.next;
        self.next += 1;
        self.active.push((key, listener));
        key
    }
}

impl std::fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CancelToken").field(&self.is_cancelled()).finish()
    }
}

/// Takes a listener back when dropped.
#[must_use = "dropping the guard takes the listener back"]
pub struct CancelGuard {
    token: CancelToken,
    key: Option<u64>,
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.token.forget(key);
        }
    }
}

/// The future of [`CancelToken::cancelled`].
pub struct Cancelled {
    token: CancelToken,
    key: Option<u64>,
}

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { token, key } = &mut *self;
        let mut listeners = token.0.listeners.lock();
        if token.is_cancelled() {
            return Poll::Ready(());
        }
        let known = key.and_then(|key| listeners.active.iter_mut().find(|(known, _)| *known == key));
        match known {
            Some((_, Listener::Waker(waker))) => waker.clone_from(cx.waker()),
            _ => *key = Some(listeners.insert(Listener::Waker(cx.waker().clone()))),
        }
        Poll::Pending
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.token.forget(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn listeners_are_called_once_and_guards_take_them_back() {
        let (token, count) = (CancelToken::new(), Arc::new(AtomicUsize::new(0)));
        let add = |n: usize| {
            let count = count.clone();
            move || {
                count.fetch_add(n, Ordering::SeqCst);
            }
        };
        let _kept = token.on_cancel(add(1));
        drop(token.on_cancel(add(10)));
        token.cancel();
        token.cancel();
        let _late = token.on_cancel(add(100));
        assert_eq!(count.load(Ordering::SeqCst), 101);
    }

    #[test]
    fn a_waiter_is_woken() {
        let token = CancelToken::new();
        let waiter = token.cancelled();
        let other = token.clone();
        let thread = std::thread::spawn(move || other.cancel());
        crate::testing::block_on(waiter);
        thread.join().expect("no panic");
        assert!(token.is_cancelled());
    }
}
