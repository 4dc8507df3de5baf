//! A call and the handle it is answered by, for Python.

use lomusai_host::CallInfo;
use pyo3::prelude::*;

use crate::bridge::{Bridge, Outcome, Waiter};
use crate::error::{self, OrRaise};
use crate::json;

/// A call of a tool, function or provider.
#[pyclass(frozen)]
pub(crate) struct Call(CallInfo);

impl Call {
    pub(crate) fn new(call: CallInfo) -> Self {
        Self(call)
    }
}

#[pymethods]
impl Call {
    /// The component's name.
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    /// What is asked, decoded anew at each look.
    #[getter]
    fn input<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json::decode(py, &self.0.input)
    }

    /// What is asked, as text.
    #[getter]
    fn input_text(&self) -> &str {
        &self.0.input
    }

    /// Facts about the call: `run_id`, `effect_id`, `idempotency_key`, `agent`, `name`, `attempt` and, where they apply, `call_id`,
    /// `deadline_ms`, `context`, `resume`.
    fn facts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json::decode(py, &self.0.facts())
    }
}

/// What a call is answered by: now, later, on any thread. Letting go of it unanswered is an error of the callable.
#[pyclass(frozen, weakref)]
pub(crate) struct Answer(lomusai_host::Answer);

impl Answer {
    pub(crate) fn new(answer: lomusai_host::Answer) -> Self {
        Self(answer)
    }
}

// Each lets go of the interpreter: answering wakes the engine's threads, and one of them may hold what it waits for.
#[pymethods]
impl Answer {
    /// Answers with a value.
    fn resolve(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let text = json::encode(value)?;
        py.detach(|| self.0.resolve(&text)).or_raise(py)
    }

    /// Answers with a value that is JSON already.
    fn resolve_text(&self, py: Python<'_>, text: &str) -> PyResult<()> {
        py.detach(|| self.0.resolve(text)).or_raise(py)
    }

    /// Answers a tool's call with `{"output": …, "content": [parts]}` or `{"suspend": …}`.
    fn reply(&self, py: Python<'_>, reply: &Bound<'_, PyAny>) -> PyResult<()> {
        let text = json::encode(reply)?;
        py.detach(|| self.0.reply(&text)).or_raise(py)
    }

    /// Suspends a tool's call.
    fn suspend(&self, py: Python<'_>, payload: &Bound<'_, PyAny>) -> PyResult<()> {
        let text = json::encode(payload)?;
        py.detach(|| self.0.suspend(&text)).or_raise(py)
    }

    /// Answers with an exception.
    fn reject(&self, py: Python<'_>, raised: &Bound<'_, PyAny>) -> PyResult<()> {
        let failed = error::of_callable(py, &self.0, PyErr::from_value(raised.clone()));
        py.detach(|| self.0.reject(failed)).or_raise(py)
    }

    /// Gives a piece of a model's answer, waiting for room on this thread.
    fn push(&self, py: Python<'_>, chunk: &Bound<'_, PyAny>) -> PyResult<()> {
        let text = json::encode(chunk)?;
        py.detach(|| self.0.push(&text)).or_raise(py)
    }

    /// Gives a piece of a model's answer if there is room. Whether there was.
    fn try_push(&self, py: Python<'_>, chunk: &Bound<'_, PyAny>) -> PyResult<bool> {
        let text = json::encode(chunk)?;
        let pushed = py.detach(|| self.0.try_push(&text)).or_raise(py)?;
        Ok(pushed == lomusai_host::Pushed::Taken)
    }

    /// Gives a piece of a model's answer once there is room, which settles `future` on the loop of `bridge`.
    fn push_async(
        &self,
        chunk: &Bound<'_, PyAny>,
        engine: &crate::engine::Engine,
        bridge: &Bridge,
        future: Py<PyAny>,
    ) -> PyResult<()> {
        let (text, answer, waiter) = (json::encode(chunk)?, self.0.clone(), Waiter::new(bridge, future));
        // Where the engine is closed, the waiter says so as it is dropped.
        let _ = engine.0.spawn(async move {
            let pushed = answer.push_async(&text).await;
            waiter.settle(Outcome::of(pushed, |()| Outcome::Nothing));
        });
        Ok(())
    }

    /// Ends a provider's stream.
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.finish()).or_raise(py)
    }

    /// Tells the run's readers how far the call is.
    fn progress(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let text = json::encode(data)?;
        py.detach(|| self.0.progress(&text)).or_raise(py)
    }

    /// Tells the run's readers something.
    fn custom(&self, py: Python<'_>, name: &str, data: &Bound<'_, PyAny>, durable: bool) -> PyResult<()> {
        let text = json::encode(data)?;
        py.detach(|| self.0.custom(name, &text, durable)).or_raise(py)
    }

    /// Whether the answer is not wanted any more.
    #[getter]
    fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Whether an answer has been given.
    #[getter]
    fn answered(&self) -> bool {
        self.0.is_answered()
    }
}
