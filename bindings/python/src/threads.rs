//! How the engine's threads enter Python: cheaply, and never while the interpreter goes away.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pyo3::ffi;
use pyo3::prelude::*;

/// Set once at exit; no thread of the engine enters Python afterwards.
static EXITING: AtomicBool = AtomicBool::new(false);
/// Threads of the engine that are in Python, or about to be.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

struct Inside;

impl Inside {
    /// `None` once the interpreter goes away.
    fn enter() -> Option<Self> {
        // Counted first, looked second: whoever passes the look is waited for by `begin_exit`.
        INSIDE.fetch_add(1, Ordering::SeqCst);
        let inside = Self;
        (!EXITING.load(Ordering::SeqCst)).then_some(inside)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Runs something in Python on a thread of the engine. `None` when there is no Python any more.
pub(crate) fn with_python<R>(f: impl FnOnce(Python<'_>) -> R) -> Option<R> {
    let _inside = Inside::enter()?;
    WARM.with(|warm| {
        let mut warm = warm.borrow_mut();
        if warm.is_none() {
            *warm = Warm::new();
        }
    });
    Python::try_attach(f)
}

/// Calls a Python callable on a thread of the engine.
///
/// Before 3.14, CPython ends a thread that comes back to a finalized interpreter with `pthread_exit`, whose unwinding must not run
/// through Rust frames. The guard stops it here: the thread sleeps until the process is gone, which is near.
pub(crate) fn call<'py>(
    function: &Bound<'py, PyAny>,
    arguments: Bound<'py, pyo3::types::PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    unsafe extern "C-unwind" {
        // The same function as pyo3's, declared as one that may unwind.
        fn PyObject_CallObject(callable: *mut ffi::PyObject, arguments: *mut ffi::PyObject) -> *mut ffi::PyObject;
    }

    struct Sleep;
    impl Drop for Sleep {
        fn drop(&mut self) {
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
    }

    let guard = Sleep;
    // SAFETY: both are live objects, the second one a tuple; this thread is attached, as the token `'py` shows.
    let result = unsafe { PyObject_CallObject(function.as_ptr(), arguments.as_ptr()) };
    std::mem::forget(guard);
    // SAFETY: a new reference, or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(function.py(), result) }
}

thread_local! {
    static WARM: RefCell<Option<Warm>> = const { RefCell::new(None) };
}

/// A Python thread state that stays between two visits: making one costs thirty times what entering with one does.
struct Warm {
    state: ffi::PyGILState_STATE,
    thread: *mut ffi::PyThreadState,
}

impl Warm {
    /// `None` on a thread that Python has made, which has a state of its own.
    fn new() -> Option<Self> {
        // SAFETY: the interpreter is alive and stays so while this thread is counted in `INSIDE`, see `begin_exit`.
        unsafe {
            if ffi::PyGILState_GetThisThreadState().is_null() {
                let state = ffi::PyGILState_Ensure();
                return Some(Self { state, thread: ffi::PyEval_SaveThread() });
            }
        }
        None
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        // At exit the state is left to the interpreter, which clears it with all others.
        let Some(_inside) = Inside::enter() else { return };
        // SAFETY: made by `new` on this thread, and the interpreter is alive, as in `new`.
        unsafe {
            ffi::PyEval_RestoreThread(self.thread);
            ffi::PyGILState_Release(self.state);
        }
    }
}

/// Keeps the engine's threads out of Python from now on, and waits at most `timeout` seconds for those inside. Whether all have left.
#[pyfunction]
pub(crate) fn begin_exit(py: Python<'_>, timeout: f64) -> bool {
    EXITING.store(true, Ordering::SeqCst);
    py.detach(|| {
        let mut left = (timeout.clamp(0.0, 60.0) * 1000.0) as u64;
        while INSIDE.load(Ordering::SeqCst) > 0 && left > 0 {
            std::thread::sleep(Duration::from_millis(1));
            left -= 1;
        }
        INSIDE.load(Ordering::SeqCst) == 0
    })
}

/// In the child of a fork the engine's threads do not exist, so none of them is inside.
#[pyfunction]
pub(crate) fn after_fork() {
    INSIDE.store(0, Ordering::SeqCst);
}
