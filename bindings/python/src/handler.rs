//! Python callables as handlers of the engine, and what a caller of a run attaches for them: its loop and its context variables.

use std::sync::Arc;

use lomusai_core::Error;
use lomusai_host::{CallInfo, Handler};
use lomusai_wire::codes;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::answer::{Answer, Call};
use crate::bridge::{self, Bridge, Queue};
use crate::{error, threads};

/// What the caller of a run attached to it.
pub(crate) struct HostSlot {
    /// The loop of the caller; the package's own where there is none.
    pub(crate) queue: Option<Arc<Queue>>,
    /// The caller's context variables.
    pub(crate) context: Py<PyAny>,
}

/// What the caller of a run attaches to it.
#[pyclass(frozen)]
pub(crate) struct Host(pub(crate) Arc<HostSlot>);

#[pymethods]
impl Host {
    #[new]
    #[pyo3(signature = (context, bridge=None))]
    fn new(context: Py<PyAny>, bridge: Option<&Bridge>) -> Self {
        Self(Arc::new(HostSlot { queue: bridge.map(|bridge| bridge.0.clone()), context }))
    }
}

fn slot(call: &CallInfo) -> Option<Arc<HostSlot>> {
    call.host().and_then(|host| host.clone().downcast().ok())
}

/// A plain function: `(call, answer)`, called on the thread that the engine gives.
pub(crate) struct SyncHandler(pub(crate) Py<PyAny>);

impl Handler for SyncHandler {
    fn call(&self, call: CallInfo, answer: lomusai_host::Answer) {
        let kept = answer.clone();
        let done = threads::with_python(|py| {
            let host = slot(&call);
            let run = || -> PyResult<()> {
                let handler = self.0.bind(py);
                let (call, answer) = (Bound::new(py, Call::new(call))?, Bound::new(py, Answer::new(answer))?);
                let Some(host) = host else {
                    threads::call(handler, PyTuple::new(py, [call.into_any(), answer.into_any()])?)?;
                    return Ok(());
                };
                // A copy: a context cannot be entered twice at once, and calls of one run go side by side.
                let run = host.context.bind(py).call_method0("copy")?.getattr("run")?;
                let arguments = [handler.clone(), call.into_any(), answer.into_any()];
                threads::call(&run, PyTuple::new(py, arguments)?)?;
                Ok(())
            };
            if let Err(raised) = run() {
                // Refused where the call was answered before it failed, or nobody waits: the engine has told of that.
                let failed = error::of_callable(py, &kept, raised);
                let _ = py.detach(|| kept.reject(failed));
            }
        });
        if done.is_none() {
            let _ = kept.reject(Error::new(codes::ENGINE_CLOSED, "the Python interpreter is going away"));
        }
    }
}

/// An async function: passed on to a loop, which answers.
pub(crate) struct AsyncHandler(pub(crate) Arc<Py<PyAny>>);

impl Handler for AsyncHandler {
    fn call(&self, call: CallInfo, answer: lomusai_host::Answer) {
        let host = slot(&call);
        let own = host.as_ref().and_then(|host| host.queue.clone());
        let kept = answer.clone();
        if !bridge::start([own.as_deref(), bridge::default_queue()], self.0.clone(), call, answer, host) {
            let _ = kept.reject(kept.host_error("there is no asyncio loop to run it on: the loop was closed"));
        }
    }
}
