//! Runs, results and observers for Python. Waiting lets go of the interpreter and looks for signals.

use std::sync::Arc;
use std::time::Duration;

use lomusai_host::{HostObserver, HostResult, HostRun, NextJson};
use pyo3::prelude::*;

use crate::bridge::{Bridge, Outcome, Waiter};
use crate::error::{self, OrRaise};
use crate::json;

/// How often a thread that waits looks for signals, such as Ctrl-C.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// How long an interrupted caller waits for its run to end.
const INTERRUPTED: Duration = Duration::from_secs(1);

/// `(result, exception | None)` of a run that has ended or waits.
pub(crate) fn result_object<'py>(py: Python<'py>, result: &HostResult) -> PyResult<Bound<'py, PyAny>> {
    let exception = result.error.as_ref().map(|e| error::exception(py, e).into_value(py));
    Ok((json::decode(py, &result.json)?, exception).into_pyobject(py)?.into_any())
}

/// A run that this process reads. Letting go of it cancels it, unless it is detached.
#[pyclass(frozen, weakref)]
pub(crate) struct Run(HostRun);

impl Run {
    pub(crate) fn new(run: HostRun) -> Self {
        Self(run)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Not the plain drop: in the child of a fork the run must be left alone.
        self.0.close();
    }
}

#[pymethods]
impl Run {
    /// The run's id.
    #[getter]
    fn id(&self) -> &str {
        self.0.id()
    }

    /// The next event, or `None` after the last; waits on this thread.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            match py.detach(|| self.0.next(Some(POLL))).or_raise(py)? {
                NextJson::Event(text) => return json::decode(py, &text).map(Some),
                NextJson::End => return Ok(None),
                NextJson::Timeout => py.check_signals()?,
            }
        }
    }

    /// The next event if there is one already, `None` after the last, `False` if there is none yet.
    fn try_next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match py.detach(|| self.0.next(Some(Duration::ZERO))).or_raise(py)? {
            NextJson::Event(text) => json::decode(py, &text).map(Some),
            NextJson::End => Ok(None),
            NextJson::Timeout => Ok(Some(pyo3::types::PyBool::new(py, false).to_owned().into_any())),
        }
    }

    /// Settles `future` with the next event, or `None` after the last.
    fn next_async(&self, bridge: &Bridge, future: Py<PyAny>) {
        let (run, waiter) = (self.0.clone(), Waiter::new(bridge, future));
        let _ = self.0.engine().spawn(async move {
            let next = run.next_async().await;
            waiter.settle(Outcome::of(next, Outcome::Event));
        });
    }

    /// `(result, exception | None)`; waits on this thread. When a signal handler raises, the run is cancelled.
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        loop {
            if let Some(result) = py.detach(|| self.0.result(Some(POLL))).or_raise(py)? {
                return result_object(py, &result);
            }
            if let Err(raised) = py.check_signals() {
                let _ = py.detach(|| {
                    let _ = self.0.cancel(0, Some("the caller was interrupted".into()));
                    self.0.result(Some(INTERRUPTED))
                });
                return Err(raised);
            }
        }
    }

    /// Settles `future` with `(result, exception | None)`.
    fn result_async(&self, bridge: &Bridge, future: Py<PyAny>) {
        let (run, waiter) = (self.0.clone(), Waiter::new(bridge, future));
        let _ = self.0.engine().spawn(async move {
            let result = run.result_async().await;
            waiter.settle(Outcome::of(result, Outcome::Result));
        });
    }

    /// Drops events that were not read, and those to come.
    fn discard_events(&self, py: Python<'_>) {
        py.detach(|| self.0.discard_events());
    }

    /// Asks for the run to be cancelled.
    #[pyo3(signature = (grace_ms=0, reason=None))]
    fn cancel(&self, py: Python<'_>, grace_ms: u64, reason: Option<String>) -> PyResult<()> {
        py.detach(|| self.0.cancel(grace_ms, reason)).or_raise(py)
    }

    /// Lets go of the run.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}

/// Reads a run beside its primary reader.
#[pyclass(frozen)]
pub(crate) struct Observer(Arc<HostObserver>, Arc<lomusai_host::HostEngine>);

impl Observer {
    pub(crate) fn new(observer: HostObserver, engine: Arc<lomusai_host::HostEngine>) -> Self {
        Self(Arc::new(observer), engine)
    }
}

#[pymethods]
impl Observer {
    /// The next event, or `None` when there will be no more for now; waits on this thread.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            match py.detach(|| self.0.next(Some(POLL))).or_raise(py)? {
                NextJson::Event(text) => return json::decode(py, &text).map(Some),
                NextJson::End => return Ok(None),
                NextJson::Timeout => py.check_signals()?,
            }
        }
    }

    /// Settles `future` with the next event, or `None` when there will be no more for now.
    fn next_async(&self, bridge: &Bridge, future: Py<PyAny>) {
        let (observer, waiter) = (self.0.clone(), Waiter::new(bridge, future));
        let _ = self.1.spawn(async move {
            let next = observer.next_async().await;
            waiter.settle(Outcome::Event(next));
        });
    }
}
