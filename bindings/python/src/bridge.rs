//! The way from the engine's threads to an asyncio loop: a queue, and one wake-up per batch. The engine's threads stay out of Python.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use lomusai_core::sync::Mutex;
use lomusai_core::{Error, Result};
use lomusai_host::{CallInfo, HostResult, HostRun};
use lomusai_wire::codes;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::answer::{Answer, Call};
use crate::handler::HostSlot;
use crate::run::{Run, result_object};
use crate::{error, json, threads};

/// What a loop is told.
pub(crate) enum Job {
    /// Start a task for this call.
    Start {
        key: u64,
        handler: Arc<Py<PyAny>>,
        call: CallInfo,
        answer: lomusai_host::Answer,
        host: Option<Arc<HostSlot>>,
    },
    /// Cancel the task of this call.
    Cancel(u64),
    /// Settle this asyncio future.
    Settle(Py<PyAny>, Outcome),
    /// Hand a note of the engine to `logging`.
    Log(&'static str, String, String),
}

/// What an asyncio future is settled with.
pub(crate) enum Outcome {
    Nothing,
    Json(String),
    Event(Option<String>),
    Result(HostResult),
    Run(HostRun),
    Error(Error),
}

impl Outcome {
    pub(crate) fn of<T>(result: Result<T>, ok: impl FnOnce(T) -> Self) -> Self {
        result.map_or_else(Self::Error, ok)
    }

    fn into_object(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match self {
            Self::Nothing | Self::Event(None) => py.None(),
            Self::Json(text) | Self::Event(Some(text)) => json::decode(py, &text)?.unbind(),
            Self::Result(result) => result_object(py, &result)?.unbind(),
            Self::Run(run) => Run::new(run).into_pyobject(py)?.into_any().unbind(),
            Self::Error(error) => return Err(error::exception(py, &error)),
        })
    }
}

/// The queue of one loop.
pub(crate) struct Queue {
    /// `None` once the loop is closed.
    jobs: Mutex<Option<Vec<Job>>>,
    wake: Wake,
}

enum Wake {
    /// A file descriptor that the loop watches.
    Fd(File),
    /// For loops that watch none: a callable that may be called from any thread.
    Call(Py<PyAny>),
}

impl Queue {
    /// Adds a job. Gives it back when the loop is closed.
    pub(crate) fn push(&self, job: Job) -> std::result::Result<(), Job> {
        let first = {
            let mut jobs = self.jobs.lock();
            let Some(jobs) = jobs.as_mut() else { return Err(job) };
            jobs.push(job);
            jobs.len() == 1
        };
        if first {
            self.wake();
        }
        Ok(())
    }

    fn wake(&self) {
        match &self.wake {
            Wake::Fd(file) => {
                // Full means that the loop has been woken already and has not looked yet.
                let _ = (&*file).write(&1_u64.to_ne_bytes());
            }
            Wake::Call(wake) => {
                threads::with_python(|py| {
                    let wake = wake.bind(py);
                    // A loop that is closed by now raises; its jobs are lost with it.
                    let _ = threads::call(wake, pyo3::types::PyTuple::empty(py));
                });
            }
        }
    }
}

/// The queue of the package's own loop, for calls without a loop or whose loop is closed. Never freed: there are few.
///
/// No lock, since another thread might hold it when the process forks.
static DEFAULT: AtomicPtr<Queue> = AtomicPtr::new(std::ptr::null_mut());

/// The package's own loop, if it runs.
pub(crate) fn default_queue() -> Option<&'static Queue> {
    // SAFETY: NULL, or a pointer that `set_default_bridge` leaked.
    unsafe { DEFAULT.load(Ordering::Acquire).as_ref() }
}

/// Makes a bridge the one for calls that have no loop of their own; `None` in a process that has just been forked.
#[pyfunction]
#[pyo3(signature = (bridge=None))]
pub(crate) fn set_default_bridge(bridge: Option<&Bridge>) {
    let pointer = bridge.map_or(std::ptr::null_mut(), |bridge| Arc::into_raw(bridge.0.clone()).cast_mut());
    DEFAULT.store(pointer, Ordering::Release);
}

/// Settles a future at the latest when it is dropped, so that nobody waits for an engine that was closed.
pub(crate) struct Waiter {
    queue: Arc<Queue>,
    future: Option<Py<PyAny>>,
}

impl Waiter {
    pub(crate) fn new(bridge: &Bridge, future: Py<PyAny>) -> Self {
        Self { queue: bridge.0.clone(), future: Some(future) }
    }

    pub(crate) fn settle(mut self, outcome: Outcome) {
        self.push(outcome);
    }

    fn push(&mut self, outcome: Outcome) {
        if let Some(future) = self.future.take() {
            let _ = self.queue.push(Job::Settle(future, outcome));
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.future.is_some() {
            let error = Error::new(codes::ENGINE_CLOSED, "the engine was closed before there was an answer");
            self.push(Outcome::Error(error));
        }
    }
}

static KEYS: AtomicU64 = AtomicU64::new(1);

/// Passes a call to the first of these loops that is open.
pub(crate) fn start(
    queues: [Option<&Queue>; 2],
    handler: Arc<Py<PyAny>>,
    call: CallInfo,
    answer: lomusai_host::Answer,
    host: Option<Arc<HostSlot>>,
) -> bool {
    let key = KEYS.fetch_add(1, Ordering::Relaxed);
    let mut job = Job::Start { key, handler, call, answer, host };
    for queue in queues.into_iter().flatten() {
        match queue.push(job) {
            Ok(()) => return true,
            Err(back) => job = back,
        }
    }
    false
}

/// The native side of one asyncio loop.
#[pyclass(frozen)]
pub(crate) struct Bridge(pub(crate) Arc<Queue>);

#[pymethods]
impl Bridge {
    /// `fd` is written to when there is something to drain; without one, `wake` is called, on any thread.
    #[new]
    #[pyo3(signature = (fd=None, wake=None))]
    fn new(fd: Option<i32>, wake: Option<Py<PyAny>>) -> PyResult<Self> {
        let wake = match (fd, wake) {
            (Some(fd), _) => Wake::Fd(duplicate(fd)?),
            (None, Some(wake)) => Wake::Call(wake),
            (None, None) => {
                return Err(pyo3::exceptions::PyTypeError::new_err("a bridge needs a file descriptor or a callable"));
            }
        };
        Ok(Self(Arc::new(Queue { jobs: Mutex::new(Some(Vec::new())), wake })))
    }

    /// Takes what has arrived: `(0, key, handler, call, answer, context)`, `(1, key)`, `(2, future, value, exception)`,
    /// `(3, level, target, message)`.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let jobs = self.0.jobs.lock().as_mut().map(std::mem::take).unwrap_or_default();
        let list = PyList::empty(py);
        for job in jobs {
            match job {
                Job::Start { key, handler, call, answer, host } => {
                    let queue = Arc::downgrade(&self.0);
                    answer.on_cancel(move || {
                        if let Some(queue) = queue.upgrade() {
                            let _ = queue.push(Job::Cancel(key));
                        }
                    });
                    let context = host.as_ref().map(|host| host.context.clone_ref(py));
                    list.append((0, key, handler.clone_ref(py), Call::new(call), Answer::new(answer), context))?;
                }
                Job::Cancel(key) => list.append((1, key))?,
                Job::Settle(future, outcome) => match outcome.into_object(py) {
                    Ok(value) => list.append((2, future, value, py.None()))?,
                    Err(raised) => list.append((2, future, py.None(), raised.into_value(py)))?,
                },
                Job::Log(level, target, message) => list.append((3, level, target, message))?,
            }
        }
        Ok(list)
    }

    /// The loop is closed: nothing is taken any more. What has not been drained is answered as unanswered.
    fn close(&self, py: Python<'_>) {
        let jobs = self.0.jobs.lock().take();
        // Dropping a call answers it, which may wake threads: not with the lock of the interpreter held.
        py.detach(|| drop(jobs));
    }
}

#[cfg(unix)]
fn duplicate(fd: i32) -> PyResult<File> {
    use std::os::fd::BorrowedFd;
    if fd < 0 {
        return Err(pyo3::exceptions::PyValueError::new_err("a file descriptor is not negative"));
    }
    // SAFETY: borrowed for this call only, in which the caller holds it open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(File::from(fd.try_clone_to_owned()?))
}

#[cfg(not(unix))]
fn duplicate(_fd: i32) -> PyResult<File> {
    Err(pyo3::exceptions::PyNotImplementedError::new_err("no file descriptors here: give a callable"))
}
