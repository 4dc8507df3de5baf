//! Answering calls of the engine: the callback's shape, and the handle that may be used now, later, on any thread.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use lomusai_core::{Error, Result};
use lomusai_host::{Answer, CallInfo, Handler, Process, Pushed};
use lomusai_wire::{Code, ErrorBody, codes};

use crate::guard::{self, Userdata, guard};
use crate::run::Slot;
use crate::{LOMUSAI_FULL, LOMUSAI_OK, lomusai_drop_fn, lomusai_error, lomusai_status, lomusai_str, owned};

/// What a call is answered by. Counted: a callback OWNS one reference to the handle it is given and gives it back with
/// `lomusai_answer_free`, exactly once, before it returns or at any time later, on any thread. Answering never frees.
/// When the last reference goes and nothing was answered, the engine takes that for an error of the callback.
///
/// Thread-safe: any thread that holds a reference may use it, at the same time as others.
pub struct lomusai_answer {
    answer: Answer,
    call: CallInfo,
    process: Process,
}

/// A tool, a step, a function, a provider or an embedder of the host. `input` is what is asked, as JSON: a tool's arguments as the
/// model wrote them, a step's input, a function's question, a provider's model request, an embedder's `{texts}`. It stays valid until the last reference
/// to `answer` is freed. `answer` is the callee's to free, see `lomusai_answer`.
///
/// The callback must return normally: a C++ exception, `longjmp` or `pthread_exit` through the engine's frames ends the process.
pub type lomusai_call_fn =
    Option<unsafe extern "C" fn(userdata: *mut c_void, input: lomusai_str, answer: *mut lomusai_answer)>;

/// Told once that an answer is not wanted any more. Runs on a thread of the engine and must return soon.
pub type lomusai_cancel_fn = Option<unsafe extern "C" fn(userdata: *mut c_void)>;

/// A callback of the host as the kit's handler.
pub(crate) struct Callback {
    pub(crate) function: unsafe extern "C" fn(*mut c_void, lomusai_str, *mut lomusai_answer),
    pub(crate) userdata: Userdata,
}

impl Handler for Callback {
    fn call(&self, call: CallInfo, answer: Answer) {
        let answer = Arc::new(lomusai_answer { answer, call, process: Process::this() });
        let input = lomusai_str::of(&answer.call.input);
        // SAFETY: the header's contract for `lomusai_call_fn`; the reference passes to the callee, and `input` lives inside it.
        unsafe { (self.function)(self.userdata.pointer, input, Arc::into_raw(answer).cast_mut()) };
    }
}

/// The answer behind a handle, in the process it belongs to.
fn answer<'a>(pointer: *const lomusai_answer) -> Result<&'a lomusai_answer> {
    let answer = guard::handle("answer", pointer)?;
    if !answer.process.is_this() {
        let message = "this call was made before the process forked: only the process it was made in can answer it";
        return Err(Error::new(codes::ENGINE_FORKED, message));
    }
    Ok(answer)
}

/// Answers with JSON: a tool's result, a step's output, a function's reply, an embedder's list of vectors. The handle stays to be freed.
///
/// Errors: `json_invalid`, `utf8_invalid` (the call stays open: answer again); `already_answered`; `handle_closed` when nobody waits
/// any more; `unsupported` for a provider. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_resolve(
    answer: *mut lomusai_answer,
    json: *const c_char,
    json_len: usize,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let this = self::answer(answer)?;
        this.answer.resolve(guard::text("json", json, json_len)?)?;
        Ok(LOMUSAI_OK)
    })
}

/// Answers a tool's call in full: `{"output": …, "content": [parts]}` or `{"suspend": payload}`; a step's: `{"output": …}`,
/// `{"suspend": payload, "label": "…"}` or `{"bail": result}`, which ends the run as a success, each with `"state": {…}`, values of
/// the run's state to set. The handle stays to be freed.
///
/// Errors: as `lomusai_answer_resolve`, and `argument_invalid` for another form; `unsupported` for other calls. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_reply(
    answer: *mut lomusai_answer,
    json: *const c_char,
    json_len: usize,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let this = self::answer(answer)?;
        this.answer.reply(guard::text("json", json, json_len)?)?;
        Ok(LOMUSAI_OK)
    })
}

/// Suspends the call of a tool or a step until a `resume` command comes; it is then called again with what resumed it, see
/// `lomusai_answer_facts`. `payload` tells the person who resumes it what is asked. A tool's spec must say `may_suspend`. The
/// handle stays to be freed.
///
/// Errors: as `lomusai_answer_reply`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_suspend(
    answer: *mut lomusai_answer,
    payload: *const c_char,
    payload_len: usize,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let this = self::answer(answer)?;
        this.answer.suspend(guard::text_or("payload", payload, payload_len, "null")?)?;
        Ok(LOMUSAI_OK)
    })
}

/// Answers with an error. A tool's is told to the model, a provider's may be retried by the engine, a step's is tried again as its
/// `retry` says, but for `step_fatal`. `code` is one of the engine's codes, or NULL for the one that says that a callback failed
/// (`tool_failed`, `step_failed`, `function_failed`, `provider_host_failed`). The handle stays to be freed.
///
/// Errors: `argument_invalid` for an unknown code (the call stays open); `already_answered`; `handle_closed`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_reject(
    answer: *mut lomusai_answer,
    code: *const c_char,
    message: *const c_char,
    message_len: usize,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let this = self::answer(answer)?;
        let code = guard::name_or_none("code", code)?;
        let message = guard::text_or("message", message, message_len, "")?;
        let error = match code {
            None => this.answer.host_error(message),
            Some(code) => Error::new(known(code)?, message),
        };
        this.answer.reject(error)?;
        Ok(LOMUSAI_OK)
    })
}

/// As `lomusai_answer_reject`, with the whole error as JSON: `{code, message, retryable?, retry_after_ms?, details?, host?}`. The
/// handle stays to be freed.
///
/// Errors: as `lomusai_answer_reject`, and `json_invalid`, `argument_invalid` (the call stays open). Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_reject_json(
    answer: *mut lomusai_answer,
    error: *const c_char,
    error_len: usize,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let this = self::answer(answer)?;
        let text = guard::text("error", error, error_len)?;
        let mut fields: serde_json::Map<String, serde_json::Value> = lomusai_host::read("the error", text)?;
        let code = known(fields.get("code").and_then(serde_json::Value::as_str).unwrap_or_default())?;
        fields.insert("kind".into(), code.kind.as_str().into());
        fields.entry("retryable").or_insert_with(|| code.retryable.into());
        fields.entry("message").or_insert_with(|| "".into());
        let body: ErrorBody = serde_json::from_value(fields.into())
            .map_err(|e| Error::new(codes::ARGUMENT_INVALID, format!("the error cannot be read: {e}")))?;
        this.answer.reject(body.into())?;
        Ok(LOMUSAI_OK)
    })
}

fn known(code: &str) -> Result<Code> {
    Code::from_name(code).ok_or_else(|| {
        let message = format!("there is no error code `{code}`: see the table of errors, or pass NULL");
        Error::new(codes::ARGUMENT_INVALID, message)
    })
}

/// Gives a piece of a model's answer: a chunk as JSON (`{"type": "text", "text": …}`, `{"type": "tool_call", …}`, …), or a JSON
/// string for text. Waits on this thread while the run is slower than its provider.
///
/// Errors: `json_invalid`, `argument_invalid` (the call stays open); `already_answered` after the end; `handle_closed` once nobody
/// reads on: stop then; `unsupported` for other calls. Thread-safe; chunks of two threads come in the order they were taken.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_push(
    answer: *mut lomusai_answer,
    chunk: *const c_char,
    chunk_len: usize,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let this = self::answer(answer)?;
        this.answer.push(guard::text("chunk", chunk, chunk_len)?)?;
        Ok(LOMUSAI_OK)
    })
}

/// As `lomusai_answer_push`, but never waits: `LOMUSAI_FULL` when there is no room now, and the chunk was not taken. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_try_push(
    answer: *mut lomusai_answer,
    chunk: *const c_char,
    chunk_len: usize,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let this = self::answer(answer)?;
        Ok(match this.answer.try_push(guard::text("chunk", chunk, chunk_len)?)? {
            Pushed::Taken => LOMUSAI_OK,
            Pushed::Full => LOMUSAI_FULL,
        })
    })
}

/// Ends a provider's stream. Without a `finish` chunk before it, the answer counts as complete. The handle stays to be freed.
///
/// Errors: `already_answered`; `handle_closed`; `unsupported` for other calls. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_finish(
    answer: *mut lomusai_answer,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        self::answer(answer)?.answer.finish()?;
        Ok(LOMUSAI_OK)
    })
}

/// Tells the run's readers how far the call is, in JSON of your own. Not kept in the journal.
///
/// Errors: `json_invalid`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_progress(
    answer: *mut lomusai_answer,
    data: *const c_char,
    data_len: usize,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let this = self::answer(answer)?;
        this.answer.progress(guard::text("data", data, data_len)?)?;
        Ok(LOMUSAI_OK)
    })
}

/// Tells the run's readers something of this name, in JSON; `durable` keeps it in the journal.
///
/// Errors: `json_invalid`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_custom(
    answer: *mut lomusai_answer,
    name: *const c_char,
    data: *const c_char,
    data_len: usize,
    durable: bool,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let this = self::answer(answer)?;
        let name = guard::name("name", name)?;
        this.answer.custom(name, guard::text_or("data", data, data_len, "null")?, durable)?;
        Ok(LOMUSAI_OK)
    })
}

/// Whether the answer is not wanted any more. `true` for NULL. Cheap; thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_is_cancelled(answer: *const lomusai_answer) -> bool {
    // SAFETY: NULL or a live handle, says the header.
    unsafe { answer.as_ref() }.is_none_or(|answer| answer.answer.is_cancelled())
}

/// Has `callback` called once, when the answer is not wanted any more; at once, on this thread, if that is so already. It is not
/// called after the last reference to the handle was freed (but may still be at work then). `userdata` passes to the engine, also
/// when this fails, see `lomusai_drop_fn`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_on_cancel(
    answer: *mut lomusai_answer,
    callback: lomusai_cancel_fn,
    userdata: *mut c_void,
    drop: lomusai_drop_fn,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    let userdata = Userdata::new(userdata, drop);
    guard(err, || {
        let this = self::answer(answer)?;
        let callback = callback.ok_or_else(|| Error::new(codes::ARGUMENT_INVALID, "callback is NULL"))?;
        this.answer.on_cancel(move || {
            let userdata = userdata;
            // SAFETY: the header's contract for `lomusai_cancel_fn`.
            unsafe { callback(userdata.pointer) };
        });
        Ok(LOMUSAI_OK)
    })
}

/// Facts about the call, as owned JSON to be freed with `lomusai_string_free`:
/// `{run_id, effect_id, idempotency_key, agent, name, attempt, call_id?, deadline_ms?, context?, resume?, state?}`. `agent` is the
/// workflow's name in a workflow, `state` the state of its run. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_facts(
    answer: *const lomusai_answer,
    json: *mut *mut c_char,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let json = guard::place("json", json, std::ptr::null_mut())?;
        *json = owned(self::answer(answer)?.call.facts());
        Ok(LOMUSAI_OK)
    })
}

/// The pointer that the caller of the run attached to it (`slot` of `lomusai_run_options`); NULL where there is none, as after a
/// recovery. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_slot(answer: *const lomusai_answer) -> *mut c_void {
    // SAFETY: NULL or a live handle, says the header.
    let slot = unsafe { answer.as_ref() }.and_then(|answer| answer.call.host()).and_then(|slot| slot.downcast_ref());
    slot.map_or(std::ptr::null_mut(), |Slot(userdata)| userdata.pointer)
}

/// One more reference to the handle, to be freed like the first. NULL is fine. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_retain(answer: *mut lomusai_answer) {
    if !answer.is_null() {
        // SAFETY: a live handle, says the header; handles come from `Arc::into_raw`.
        unsafe { Arc::increment_strong_count(answer) };
    }
}

/// Gives one reference to the handle back. NULL is fine. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_answer_free(answer: *mut lomusai_answer) {
    if answer.is_null() {
        return;
    }
    guard::quietly(|| {
        // SAFETY: the caller gives back a reference that it owned; handles come from `Arc::into_raw`.
        let answer = unsafe { Arc::from_raw(answer) };
        if !answer.process.is_this() {
            // A thread that was not forked along may have held its lock.
            std::mem::forget(answer);
        }
    });
}
