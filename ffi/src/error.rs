//! Errors that the caller owns.

use std::ffi::{CString, c_char};
use std::sync::OnceLock;

use lomusai_core::Error;

use crate::{LOMUSAI_OK, guard, lomusai_status, terminated};

/// What went wrong. Owned by the caller, freed with `lomusai_error_free`; immutable, so any thread may read it.
pub struct lomusai_error {
    error: Error,
    code: CString,
    message: CString,
    json: OnceLock<CString>,
}

impl lomusai_error {
    pub(crate) fn new(error: Error) -> Self {
        let code = terminated(error.code().to_owned());
        let message = terminated(error.body().message.clone());
        Self { error, code, message, json: OnceLock::new() }
    }
}

/// The error's kind, the same number that the failed function returned. `LOMUSAI_OK` for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_error_status(error: *const lomusai_error) -> lomusai_status {
    // SAFETY: NULL or a live error, says the header.
    unsafe { error.as_ref() }.map_or(LOMUSAI_OK, |error| error.error.kind().status())
}

/// The error's stable code, for example "tool_unknown", the same in every language. Borrowed until the error is freed; "" for
/// NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_error_code(error: *const lomusai_error) -> *const c_char {
    // SAFETY: NULL or a live error, says the header.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |error| error.code.as_ptr())
}

/// What went wrong, in words: names the thing and the way out. May change between versions. Borrowed until the error is freed; ""
/// for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_error_message(error: *const lomusai_error) -> *const c_char {
    // SAFETY: NULL or a live error, says the header.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |error| error.message.as_ptr())
}

/// Whether the same call may succeed later. `false` for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_error_retryable(error: *const lomusai_error) -> bool {
    // SAFETY: NULL or a live error, says the header.
    unsafe { error.as_ref() }.is_some_and(|error| error.error.is_retryable())
}

/// In how many milliseconds to try again, where the other side said so, else -1. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_error_retry_after_ms(error: *const lomusai_error) -> i64 {
    // SAFETY: NULL or a live error, says the header.
    let ms = unsafe { error.as_ref() }.and_then(|error| error.error.body().retry_after_ms);
    ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX))
}

/// The whole error as JSON: `{kind, code, message, retryable?, retry_after_ms?, details?, host?}`. Borrowed until the error is
/// freed; "null" for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_error_json(error: *const lomusai_error) -> *const c_char {
    // SAFETY: NULL or a live error, says the header.
    let Some(error) = (unsafe { error.as_ref() }) else { return c"null".as_ptr() };
    let json = || terminated(serde_json::to_string(error.error.body()).expect("an error is JSON"));
    error.json.get_or_init(json).as_ptr()
}

/// Frees an error. NULL is fine. Each error once, when no other thread reads it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_error_free(error: *mut lomusai_error) {
    if !error.is_null() {
        // SAFETY: the caller passes what `guard` made, once.
        guard::quietly(|| drop(unsafe { Box::from_raw(error) }));
    }
}
