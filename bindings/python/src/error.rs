//! Errors of the engine as Python exceptions, and exceptions of callables as errors that keep the original.

use lomusai_core::Error;
use lomusai_host::{Answer, Fault, Raised};
use lomusai_wire::Code;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::json;

use crate::json;

/// The exception class of an error's kind, from the generated table.
fn class<'py>(py: Python<'py>, kind: &str) -> PyResult<Bound<'py, PyAny>> {
    let errors = py.import("lomusai.errors")?;
    let kinds = errors.getattr("KINDS")?;
    let class = kinds.call_method1("get", (kind,))?;
    // A kind that a newer engine has and this package does not.
    if class.is_none() { errors.getattr("LomusaiError") } else { Ok(class) }
}

/// The exception of an error; its `__cause__` is what the callable raised.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    let body = error.body();
    let build = || -> PyResult<PyErr> {
        let kind = serde_json::to_value(body.kind).ok();
        let class = class(py, kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or("internal"))?;
        let fields = PyDict::new(py);
        fields.set_item("code", &*body.code)?;
        fields.set_item("retryable", body.retryable)?;
        fields.set_item("retry_after_ms", body.retry_after_ms)?;
        if !body.details.is_empty() {
            let text = serde_json::to_string(&body.details).expect("details are JSON");
            fields.set_item("details", json::decode(py, &text)?)?;
        }
        let exception = PyErr::from_value(class.call((&body.message,), Some(&fields))?);
        if let Some(cause) = error.host().and_then(|host| host.downcast_ref::<PyErr>()) {
            exception.set_cause(py, Some(cause.clone_ref(py)));
        }
        Ok(exception)
    };
    build().unwrap_or_else(|e| e)
}

/// What cannot be written as JSON.
pub(crate) fn not_json(py: Python<'_>, code: &str, message: String) -> PyErr {
    let build = || -> PyResult<PyErr> {
        let fields = PyDict::new(py);
        fields.set_item("code", code)?;
        let class = py.import("lomusai._json")?.getattr("NotJson")?;
        Ok(PyErr::from_value(class.call((message,), Some(&fields))?))
    };
    build().unwrap_or_else(|e| e)
}

/// The error that a failed callable becomes: its words for the model, the exception itself for whoever called.
pub(crate) fn of_callable(py: Python<'_>, answer: &Answer, raised: PyErr) -> Error {
    let value = raised.value(py);
    let name = value.get_type().name().map(|name| name.to_string()).unwrap_or_else(|_| "Exception".into());
    let text = value.str().ok().and_then(|text| text.to_str().ok().map(str::to_owned)).filter(|text| !text.is_empty());
    let mut failure = Raised { message: text.unwrap_or_else(|| name.clone()), ..Raised::default() };
    let class = |path: &str, name: &str| py.import(path).and_then(|module| module.getattr(name));
    let is = |class: PyResult<Bound<'_, PyAny>>| class.is_ok_and(|class| value.is_instance(&class).unwrap_or(false));
    if is(class("lomusai.errors", "LomusaiError")) {
        let field = |name: &str| value.getattr(name).ok();
        // Without the code that its text ends with.
        if let Some(message) = field("message").and_then(|text| text.extract().ok()) {
            failure.message = message;
        }
        failure.code =
            field("code").and_then(|code| code.extract::<String>().ok()).and_then(|code| Code::from_name(&code));
        failure.retry_after_ms = field("retry_after_ms").and_then(|ms| ms.extract().ok());
    }
    if is(class("lomusai._json", "NotJson")) {
        failure.fault = Fault::Result;
        failure.message = format!("the result cannot be written as JSON: {}", failure.message);
    }
    let words = json!({ "type": name, "traceback": traceback(py, &raised) });
    answer.error_of(failure).with_host_words(words).with_host(std::sync::Arc::new(raised))
}

/// The last lines of the traceback; lines are for people who read a journal, so a few suffice.
fn traceback(py: Python<'_>, raised: &PyErr) -> String {
    const BYTES_MAX: usize = 4096;
    let text = raised.traceback(py).and_then(|traceback| traceback.format().ok()).unwrap_or_default();
    let mut start = text.len().saturating_sub(BYTES_MAX);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

/// The result, or the exception of its error.
pub(crate) trait OrRaise<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for Result<T, Error> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|e| exception(py, &e))
    }
}
