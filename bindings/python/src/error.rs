//! Errors of the engine as Python exceptions, and exceptions of callables as errors that keep the original.

use lomusai_core::Error;
use lomusai_host::Answer;
use lomusai_wire::{Code, ErrorBody, Kind, codes};
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
    let message = text.unwrap_or_else(|| name.clone());
    let mut error = answer.host_error(message);
    let class = |path: &str, name: &str| py.import(path).and_then(|module| module.getattr(name));
    let is = |class: PyResult<Bound<'_, PyAny>>| class.is_ok_and(|class| value.is_instance(&class).unwrap_or(false));
    if is(class("lomusai._json", "NotJson")) {
        let code = match () {
            () if error.is(codes::TOOL_FAILED) => codes::TOOL_RESULT_INVALID,
            () if error.is(codes::STEP_FAILED) => codes::STEP_RESULT_INVALID,
            () => codes::FUNCTION_REPLY_INVALID,
        };
        let details = error.body().details.clone();
        let message = value.getattr("message").and_then(|text| text.extract::<String>()).unwrap_or_default();
        error = Error::new(code, format!("the result cannot be written as JSON: {message}"));
        for (key, value) in details {
            error = error.with(&key, value);
        }
    } else if error.is(codes::STEP_FAILED) && is(class("lomusai._workflow", "FatalError")) {
        let details = error.body().details.clone();
        let message = value.getattr("message").and_then(|text| text.extract::<String>()).unwrap_or_default();
        error = details
            .into_iter()
            .fold(Error::new(codes::STEP_FATAL, message), |error, (key, value)| error.with(&key, value));
    } else if error.is(codes::PROVIDER_HOST_FAILED)
        && is(class("lomusai.errors", "LomusaiError"))
        && let Some(same) = of_provider(value)
    {
        // A provider that knows what went wrong says so, and is retried where that helps.
        error = same;
    }
    let words = json!({ "type": name, "traceback": traceback(py, &raised) });
    error.with_host_words(words).with_host(std::sync::Arc::new(raised))
}

fn of_provider(value: &Bound<'_, PyAny>) -> Option<Error> {
    let code: String = value.getattr("code").ok()?.extract().ok()?;
    let code = Code::from_name(&code)?;
    // What a provider meets outside. Anything else, such as a chunk of an unknown form, is its own mistake.
    if !matches!(code.kind, Kind::Denied | Kind::RateLimited | Kind::Unavailable | Kind::Timeout | Kind::Provider) {
        return None;
    }
    let mut body = ErrorBody::new(code, value.getattr("message").ok()?.extract::<String>().ok()?);
    body.retry_after_ms = value.getattr("retry_after_ms").ok().and_then(|ms| ms.extract().ok());
    Some(body.into())
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
