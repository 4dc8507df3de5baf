//! Which process this is: the one that made a thing, or a fork of it, where its threads do not exist and its locks may be held for ever.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many forks lie between this process and the one that loaded the engine.
static FORKS: AtomicU32 = AtomicU32::new(0);
static WATCHED: Once = Once::new();

/// The process that a thing was made in. Asking whether it is this one costs no system call, so that every call may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

impl Process {
    /// This process.
    pub fn this() -> Self {
        WATCHED.call_once(watch);
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// Whether it is this process, and not one that was forked off it.
    pub fn is_this(self) -> bool {
        self.0 == FORKS.load(Ordering::Relaxed)
    }
}

/// Counts forks from now on. A `clone` by hand that leaves out the C library's handlers is not seen.
#[cfg(unix)]
fn watch() {
    extern "C" fn forked() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler only touches an atomic, which is allowed between a fork and whatever follows.
    // It can only fail for want of memory; then forks are not told apart, which harms nobody who does not fork.
    let _ = unsafe { libc::pthread_atfork(None, None, Some(forked)) };
}

/// Nothing forks here.
#[cfg(not(unix))]
fn watch() {}

#[cfg(all(test, unix))]
mod tests {
    use super::Process;

    #[test]
    fn a_fork_is_another_process() {
        let process = Process::this();
        assert!(process.is_this());
        // SAFETY: the child does nothing but look at an atomic and leave.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let known = !process.is_this() && Process::this().is_this();
            // SAFETY: leaves without running what belongs to the parent.
            unsafe { libc::_exit(if known { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child did not see that it is one");
        assert!(process.is_this());
    }
}
