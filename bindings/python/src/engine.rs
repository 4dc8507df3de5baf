//! The engine for Python.

use std::sync::Arc;
use std::time::Duration;

use lomusai_core::component;
use lomusai_host::{Handler, HostEngine, Placement};
use lomusai_wire::LogLevel;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::bridge::{self, Bridge, Job, Outcome, Waiter};
use crate::error::{self, OrRaise};
use crate::handler::{AsyncHandler, Host, SyncHandler};
use crate::json;
use crate::run::{Observer, POLL, Run};

/// An engine. Thread-safe; belongs to the process that opened it.
#[pyclass(frozen, weakref)]
pub(crate) struct Engine(pub(crate) Arc<HostEngine>);

/// A callable as a handler. `place` is `pool`, `inline` or `async`.
fn handler(callable: Py<PyAny>, place: &str) -> PyResult<(Placement, Arc<dyn Handler>)> {
    Ok(match place {
        "pool" => (Placement::Pool, Arc::new(SyncHandler(callable))),
        "inline" => (Placement::Inline, Arc::new(SyncHandler(callable))),
        // Passing a call on to a loop takes no time and no lock of Python's.
        "async" => (Placement::Inline, Arc::new(AsyncHandler(Arc::new(callable)))),
        other => return Err(PyValueError::new_err(format!("place must be pool, inline or async, was {other}"))),
    })
}

fn slot(host: Option<&Host>) -> Option<component::HostSlot> {
    host.map(|host| host.0.clone() as component::HostSlot)
}

/// Waits for the engine on this thread, looking for signals.
fn wait<T: Send + 'static>(
    py: Python<'_>,
    engine: &Arc<HostEngine>,
    future: impl Future<Output = lomusai_core::Result<T>> + Send + 'static,
) -> PyResult<T> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    engine.engine().or_raise(py)?;
    let spawned = engine.spawn(async move {
        let _ = sender.send(future.await);
    });
    spawned.or_raise(py)?;
    let receiver = std::sync::Mutex::new(receiver);
    loop {
        let received = py.detach(|| {
            let receiver = receiver.lock().expect("only this thread locks it");
            lomusai_host::while_waiting(|| receiver.recv_timeout(POLL))
        });
        match received {
            Ok(result) => return result.or_raise(py),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                let closed = lomusai_core::Error::new(
                    lomusai_wire::codes::ENGINE_CLOSED,
                    "the engine was closed before there was an answer",
                );
                return Err(error::exception(py, &closed));
            }
        }
    }
}

#[pymethods]
impl Engine {
    /// Opens an engine; see `HostEngine::open` for the options.
    #[new]
    fn new(py: Python<'_>, options: &Bound<'_, PyAny>) -> PyResult<Self> {
        let options = json::encode(options)?;
        py.detach(|| HostEngine::open(&options)).or_raise(py).map(Self)
    }

    fn register_tool(&self, py: Python<'_>, spec: &Bound<'_, PyAny>, callable: Py<PyAny>, place: &str) -> PyResult<()> {
        let (spec, (placement, handler)) = (json::encode(spec)?, handler(callable, place)?);
        py.detach(|| self.0.register_tool(&spec, placement, handler)).or_raise(py)
    }

    fn register_function(&self, py: Python<'_>, name: &str, callable: Py<PyAny>, place: &str) -> PyResult<()> {
        let (placement, handler) = handler(callable, place)?;
        py.detach(|| self.0.register_function(name, placement, handler)).or_raise(py)
    }

    fn register_provider(&self, py: Python<'_>, name: &str, callable: Py<PyAny>, place: &str) -> PyResult<()> {
        let (placement, handler) = handler(callable, place)?;
        py.detach(|| self.0.register_provider(name, placement, handler)).or_raise(py)
    }

    fn register_embedder(
        &self,
        py: Python<'_>,
        name: &str,
        dimensions: usize,
        callable: Py<PyAny>,
        place: &str,
    ) -> PyResult<()> {
        let (placement, handler) = handler(callable, place)?;
        py.detach(|| self.0.register_embedder(name, dimensions, placement, handler)).or_raise(py)
    }

    fn register_builtin_provider(&self, py: Python<'_>, name: &str, config: &Bound<'_, PyAny>) -> PyResult<()> {
        let config = json::encode(config)?;
        py.detach(|| self.0.register_builtin_provider(name, &config)).or_raise(py)
    }

    fn register_agent(&self, py: Python<'_>, spec: &Bound<'_, PyAny>) -> PyResult<()> {
        let spec = json::encode(spec)?;
        py.detach(|| self.0.register_agent(&spec)).or_raise(py)
    }

    fn register_workflow(&self, py: Python<'_>, spec: &Bound<'_, PyAny>) -> PyResult<()> {
        let spec = json::encode(spec)?;
        py.detach(|| self.0.register_workflow(&spec)).or_raise(py)
    }

    fn register_step(&self, py: Python<'_>, name: &str, callable: Py<PyAny>, place: &str) -> PyResult<()> {
        let (placement, handler) = handler(callable, place)?;
        py.detach(|| self.0.register_step(name, placement, handler)).or_raise(py)
    }

    fn unregister(&self, py: Python<'_>, kind: &str, name: &str) -> PyResult<bool> {
        py.detach(|| self.0.unregister(kind, name)).or_raise(py)
    }

    /// Gives the engine's notes to the package's loop, which hands them to `logging`.
    fn log_to_loop(&self, py: Python<'_>) -> PyResult<()> {
        let log = |level: LogLevel, target: &str, message: &str| {
            let level = match level {
                LogLevel::Error => "error",
                LogLevel::Warn => "warning",
                LogLevel::Info => "info",
                _ => "debug",
            };
            if let Some(queue) = bridge::default_queue() {
                let _ = queue.push(Job::Log(level, target.to_owned(), message.to_owned()));
            }
        };
        py.detach(|| self.0.set_log(Some(Box::new(log)))).or_raise(py)
    }

    /// Begins a run.
    #[pyo3(signature = (request, host=None))]
    fn run(&self, py: Python<'_>, request: &Bound<'_, PyAny>, host: Option<&Host>) -> PyResult<Run> {
        let (request, host) = (json::encode(request)?, slot(host));
        py.detach(|| self.0.run(&request, host)).or_raise(py).map(Run::new)
    }

    /// Sends a command to a suspended run and reads on from there. Waits until it is recorded.
    #[pyo3(signature = (run_id, command, host=None))]
    fn resume(&self, py: Python<'_>, run_id: String, command: &Bound<'_, PyAny>, host: Option<&Host>) -> PyResult<Run> {
        let (command, host, engine) = (json::encode(command)?, slot(host), self.0.clone());
        wait(py, &self.0, async move { engine.resume_async(&run_id, &command, host).await }).map(Run::new)
    }

    /// As `resume`; settles `future` with the run.
    fn resume_async(
        &self,
        py: Python<'_>,
        run_id: String,
        command: &Bound<'_, PyAny>,
        host: Option<&Host>,
        bridge: &Bridge,
        future: Py<PyAny>,
    ) -> PyResult<()> {
        let (command, host, engine) = (json::encode(command)?, slot(host), self.0.clone());
        let waiter = Waiter::new(bridge, future);
        self.0.engine().or_raise(py)?;
        let _ = self.0.spawn(async move {
            let run = engine.resume_async(&run_id, &command, host).await;
            waiter.settle(Outcome::of(run, Outcome::Run));
        });
        Ok(())
    }

    /// Asks the engine something; see `lomusai_host::OPERATIONS`.
    fn call<'py>(
        &self,
        py: Python<'py>,
        operation: String,
        parameters: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (parameters, engine) = (json::encode(parameters)?, self.0.clone());
        let text = wait(py, &self.0, async move { engine.call_async(&operation, &parameters).await })?;
        json::decode(py, &text)
    }

    /// As `call`; settles `future` with the answer.
    fn call_async(
        &self,
        py: Python<'_>,
        operation: String,
        parameters: &Bound<'_, PyAny>,
        bridge: &Bridge,
        future: Py<PyAny>,
    ) -> PyResult<()> {
        let (parameters, engine, waiter) = (json::encode(parameters)?, self.0.clone(), Waiter::new(bridge, future));
        self.0.engine().or_raise(py)?;
        let _ = self.0.spawn(async move {
            let answer = engine.call_async(&operation, &parameters).await;
            waiter.settle(Outcome::of(answer, Outcome::Json));
        });
        Ok(())
    }

    /// Reads a run's events after `seq` beside its primary reader.
    fn observe(&self, py: Python<'_>, run_id: &str, seq: u64) -> PyResult<Observer> {
        py.detach(|| self.0.observe(run_id, seq)).or_raise(py).map(|observer| Observer::new(observer, self.0.clone()))
    }

    /// Closes the engine; waits at most `timeout` seconds.
    #[pyo3(signature = (timeout=None))]
    fn close(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let timeout = timeout.map(Duration::try_from_secs_f64).transpose();
        let timeout = timeout.map_err(|e| PyValueError::new_err(format!("timeout: {e}")))?;
        py.detach(|| self.0.close(timeout)).or_raise(py)
    }

    #[getter]
    fn closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// Makes the spec of a workflow's chain; see `lomusai_host::draft_workflow`.
#[pyfunction]
pub(crate) fn draft_workflow<'py>(py: Python<'py>, draft: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let draft = json::encode(draft)?;
    let drafted = py.detach(|| lomusai_host::draft_workflow(&draft)).or_raise(py)?;
    json::decode(py, &drafted)
}

/// Names the functions of a spec that have none; see [`lomusai_host::name_functions`].
#[pyfunction]
pub(crate) fn name_functions<'py>(py: Python<'py>, spec: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    json::decode(py, &lomusai_host::name_functions(&json::encode(spec)?).or_raise(py)?)
}
