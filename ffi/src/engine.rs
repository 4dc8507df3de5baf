//! The engine: opening, registering, asking, closing.

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use lomusai_core::{Error, Result};
use lomusai_host::{HostEngine, LogFn, Placement};
use lomusai_wire::{LogLevel, codes};
use serde_json::{Map, Value, json};

use crate::answer::{Callback, lomusai_call_fn};
use crate::guard::{self, Userdata, guard};
use crate::run::Told;
use crate::{
    LOMUSAI_INLINE, LOMUSAI_LOG_DEBUG, LOMUSAI_LOG_ERROR, LOMUSAI_LOG_INFO, LOMUSAI_LOG_WARN, LOMUSAI_OK, LOMUSAI_POOL,
    lomusai_drop_fn, lomusai_error, lomusai_status, lomusai_str, owned,
};

/// An engine: components, a store, and the threads that drive runs. Thread-safe. Belongs to the process that opened it: in a
/// child after `fork`, every function says `engine_forked`.
pub struct lomusai_engine {
    pub(crate) host: Arc<HostEngine>,
    pub(crate) told: Arc<Told>,
}

/// Takes a line of the engine's log. `level` is one of `LOMUSAI_LOG_*`, with more to come. The texts are borrowed for the call.
/// Called on any thread, by several at once; must return soon.
pub type lomusai_log_fn =
    Option<unsafe extern "C" fn(userdata: *mut c_void, level: u32, target: lomusai_str, message: lomusai_str)>;

/// Options of an engine. Set all of it to zero, then `struct_size` to `sizeof(lomusai_engine_options)`, then what you want.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lomusai_engine_options {
    /// `sizeof(lomusai_engine_options)`.
    pub struct_size: usize,
    /// The store's file, NUL-terminated; NULL keeps runs in memory.
    pub path: *const c_char,
    /// Further settings as a JSON object, NUL-terminated; NULL for none: `sync` ("normal", "full"), `busy_ms`, `callbacks_max`,
    /// `keep_finished`, `threads`, `reader_events`, `lease_ms`, `recoveries_max`, `close_ms`, `providers`,
    /// `models`, `budgets`, `provider_limits`, `cassette`, `retention`, `compact_after_ms`.
    pub config_json: *const c_char,
    /// Takes the engine's log; NULL for none. The library itself prints nothing.
    pub log: lomusai_log_fn,
    /// Passed to `log`. Passes to the engine, also when opening fails.
    pub log_userdata: *mut c_void,
    /// Frees `log_userdata`; may be NULL.
    pub log_drop: lomusai_drop_fn,
}

impl Default for lomusai_engine_options {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            path: std::ptr::null(),
            config_json: std::ptr::null(),
            log: None,
            log_userdata: std::ptr::null_mut(),
            log_drop: None,
        }
    }
}

/// So long a close without a limit waits for the last event callbacks.
const CALLBACKS: Duration = Duration::from_secs(10);

// --- Opening and closing ---------------------------------------------------------------------------------------------

/// Opens an engine. `options` may be NULL. Runs nothing yet: register components, then call `lomusai_engine_start` where the store
/// is a file. `*engine` is the caller's, to be freed with `lomusai_engine_free`; NULL on failure.
///
/// Errors: `argument_invalid`, `json_invalid`; the storage codes for the file. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_engine_open(
    options: *const lomusai_engine_options,
    engine: *mut *mut lomusai_engine,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let options = guard::versioned("options", options, lomusai_engine_options::default())?;
        let log = logger(options.log, Userdata::new(options.log_userdata, options.log_drop));
        let engine = guard::place("engine", engine, std::ptr::null_mut())?;
        let mut fields: Map<String, Value> = match guard::name_or_none("config_json", options.config_json)? {
            None => Map::new(),
            Some(config) => lomusai_host::read("config_json", config)?,
        };
        if let Some(path) = guard::name_or_none("path", options.path)? {
            fields.insert("path".into(), path.into());
        }
        let host = HostEngine::open(&Value::Object(fields).to_string())?;
        if log.is_some() {
            host.set_log(log)?;
        }
        *engine = Box::into_raw(Box::new(lomusai_engine { host, told: Arc::default() }));
        Ok(LOMUSAI_OK)
    })
}

/// Takes up what an earlier process left unfinished in the store. Call it after registering, once. `*report` (may be NULL) is owned
/// JSON, freed with `lomusai_string_free`: `{recovered, blocked, poisoned, elsewhere}`.
///
/// Errors: the storage codes, `engine_closed`. Waits for the store; thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_engine_start(
    engine: *const lomusai_engine,
    report: *mut *mut c_char,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        if !report.is_null() {
            guard::place("report", report, std::ptr::null_mut())?;
        }
        let json = host(engine)?.call("start", "")?;
        if !report.is_null() {
            *guard::place("report", report, std::ptr::null_mut())? = owned(json);
        }
        Ok(LOMUSAI_OK)
    })
}

/// Closes the engine: new work is refused with `engine_closed`, runs with a reader are cancelled, detached runs of a file are left
/// for the next start. Waits at most `timeout_ms` for runs and callbacks (`LOMUSAI_FOREVER`: as long as the settings say). The
/// handle stays to be freed. Doing it twice is fine; works from a callback too.
///
/// Errors: `close_timeout`, naming the callbacks that did not return: the engine is closed all the same. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_engine_close(
    engine: *const lomusai_engine,
    timeout_ms: u32,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let this = guard::handle("engine", engine)?;
        let closed = this.host.close(guard::timeout(timeout_ms));
        // They are on their way, and their userdata may be on the caller's stack.
        this.told.wait(guard::timeout(timeout_ms).unwrap_or(CALLBACKS));
        closed?;
        Ok(LOMUSAI_OK)
    })
}

/// Frees the handle; closes the engine first, without waiting for callbacks, where that was not done. NULL is fine. Once, and not
/// beside other calls that use this handle. Runs, observers and answers that are still out stay valid, say `engine_closed`, and are
/// freed by their own functions, before or after.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_engine_free(engine: *mut lomusai_engine) {
    if engine.is_null() {
        return;
    }
    guard::quietly(|| {
        // SAFETY: the caller passes what `lomusai_engine_open` made, once.
        let engine = unsafe { Box::from_raw(engine) };
        if engine.host.engine().is_err() {
            // Forked: the store and the threads belong to the parent.
            std::mem::forget(engine);
            return;
        }
        let _ = engine.host.close(Some(Duration::ZERO));
    });
}

/// Whether the engine is closed. `true` for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_engine_is_closed(engine: *const lomusai_engine) -> bool {
    // SAFETY: NULL or a live handle, says the header.
    unsafe { engine.as_ref() }.is_none_or(|engine| engine.host.is_closed())
}

/// Has the engine's log go to `log` from now on; NULL for nowhere. `userdata` passes to the engine, also when this fails.
///
/// Errors: `engine_forked`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_engine_set_log(
    engine: *const lomusai_engine,
    log: lomusai_log_fn,
    userdata: *mut c_void,
    drop: lomusai_drop_fn,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    let log = logger(log, Userdata::new(userdata, drop));
    guard(err, || {
        host(engine)?.set_log(log)?;
        Ok(LOMUSAI_OK)
    })
}

fn logger(log: lomusai_log_fn, userdata: Userdata) -> Option<LogFn> {
    let log = log?;
    Some(Box::new(move |level, target, message| {
        let level = match level {
            LogLevel::Debug => LOMUSAI_LOG_DEBUG,
            LogLevel::Info => LOMUSAI_LOG_INFO,
            LogLevel::Warn => LOMUSAI_LOG_WARN,
            _ => LOMUSAI_LOG_ERROR,
        };
        let userdata = &userdata;
        // SAFETY: the header's contract for `lomusai_log_fn`.
        unsafe { log(userdata.pointer, level, lomusai_str::of(target), lomusai_str::of(message)) };
    }))
}

// --- Components ------------------------------------------------------------------------------------------------------

/// Registers a tool: its spec as JSON, and the callback that carries it out. `flags` is `LOMUSAI_POOL` or `LOMUSAI_INLINE`.
/// `userdata` passes to the engine, also when this fails.
///
/// Errors: `json_invalid`, `argument_invalid`, `name_invalid`, `schema_invalid`, `name_taken`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_register_tool(
    engine: *const lomusai_engine,
    spec: *const c_char,
    spec_len: usize,
    flags: u32,
    callback: lomusai_call_fn,
    userdata: *mut c_void,
    drop: lomusai_drop_fn,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    let userdata = Userdata::new(userdata, drop);
    guard(err, || {
        let host = host(engine)?;
        let spec = guard::text("spec", spec, spec_len)?;
        host.register_tool(spec, placement(flags)?, handler(callback, userdata)?)?;
        Ok(LOMUSAI_OK)
    })
}

/// Registers a function that specs can name: a processor, a hook, an approval rule, a stop condition, instructions. `flags` and
/// `userdata` as with `lomusai_register_tool`.
///
/// Errors: `name_invalid`, `name_taken`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_register_function(
    engine: *const lomusai_engine,
    name: *const c_char,
    flags: u32,
    callback: lomusai_call_fn,
    userdata: *mut c_void,
    drop: lomusai_drop_fn,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    let userdata = Userdata::new(userdata, drop);
    guard(err, || {
        let host = host(engine)?;
        let name = guard::name("name", name)?;
        host.register_function(name, placement(flags)?, handler(callback, userdata)?)?;
        Ok(LOMUSAI_OK)
    })
}

/// Registers a model provider of the host: asked with a model request, it answers with `lomusai_answer_push` and
/// `lomusai_answer_finish`. `flags` and `userdata` as with `lomusai_register_tool`.
///
/// Errors: `name_invalid`, `name_taken`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_register_provider(
    engine: *const lomusai_engine,
    name: *const c_char,
    flags: u32,
    callback: lomusai_call_fn,
    userdata: *mut c_void,
    drop: lomusai_drop_fn,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    let userdata = Userdata::new(userdata, drop);
    guard(err, || {
        let host = host(engine)?;
        let name = guard::name("name", name)?;
        host.register_provider(name, placement(flags)?, handler(callback, userdata)?)?;
        Ok(LOMUSAI_OK)
    })
}

/// Registers a provider that comes with the engine: `{"type": "scripted", "script": …}` or
/// `{"type": "compatible", "base_url": …, …}`.
///
/// Errors: `json_invalid`, `argument_invalid`, `name_invalid`, `name_taken`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_register_builtin_provider(
    engine: *const lomusai_engine,
    name: *const c_char,
    config: *const c_char,
    config_len: usize,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let host = host(engine)?;
        let name = guard::name("name", name)?;
        host.register_builtin_provider(name, guard::text("config", config, config_len)?)?;
        Ok(LOMUSAI_OK)
    })
}

/// Registers an embedder of the host: asked with `{texts}`, it answers with one vector of `dimensions` numbers per text. `flags`
/// and `userdata` as with `lomusai_register_tool`.
///
/// Errors: `name_invalid`, `name_taken`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_register_embedder(
    engine: *const lomusai_engine,
    name: *const c_char,
    dimensions: usize,
    flags: u32,
    callback: lomusai_call_fn,
    userdata: *mut c_void,
    drop: lomusai_drop_fn,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    let userdata = Userdata::new(userdata, drop);
    guard(err, || {
        let host = host(engine)?;
        let name = guard::name("name", name)?;
        host.register_embedder(name, dimensions, placement(flags)?, handler(callback, userdata)?)?;
        Ok(LOMUSAI_OK)
    })
}

/// Registers an agent: its spec as JSON.
///
/// Errors: `json_invalid`, `argument_invalid`, `name_invalid`, `spec_invalid`, `name_taken`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_register_agent(
    engine: *const lomusai_engine,
    spec: *const c_char,
    spec_len: usize,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        host(engine)?.register_agent(guard::text("spec", spec, spec_len)?)?;
        Ok(LOMUSAI_OK)
    })
}

/// Registers a workflow: its spec as JSON. The steps, tools, agents, workflows and functions that it names may be registered later.
///
/// Errors: `json_invalid`, `argument_invalid`, `name_invalid`, `name_taken`, `step_duplicate`, `step_reference_unknown`,
/// `step_cycle`, `expression_invalid`, `schema_invalid`, `spec_invalid`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_register_workflow(
    engine: *const lomusai_engine,
    spec: *const c_char,
    spec_len: usize,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        host(engine)?.register_workflow(guard::text("spec", spec, spec_len)?)?;
        Ok(LOMUSAI_OK)
    })
}

/// Registers a function that steps of workflows call by this name: asked with the step's input, it answers with what the step gives
/// (`lomusai_answer_resolve`), suspends (`lomusai_answer_suspend`), or says more than that (`lomusai_answer_reply`). It may be called
/// more than once for one step of a run, with the same idempotency key: see `lomusai_answer_facts`. `flags` and `userdata` as with
/// `lomusai_register_tool`. Conditions that are functions are registered with `lomusai_register_function`.
///
/// Errors: `name_invalid`, `name_taken`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_register_step(
    engine: *const lomusai_engine,
    name: *const c_char,
    flags: u32,
    callback: lomusai_call_fn,
    userdata: *mut c_void,
    drop: lomusai_drop_fn,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    let userdata = Userdata::new(userdata, drop);
    guard(err, || {
        let host = host(engine)?;
        let name = guard::name("name", name)?;
        host.register_step(name, placement(flags)?, handler(callback, userdata)?)?;
        Ok(LOMUSAI_OK)
    })
}

/// Takes a component away; `kind` is "agent", "tool", "provider", "function", "embedder", "workflow" or "step". `*existed` (may be NULL) says whether
/// there was one. Calls that are at work end as they would have, and a run that is under way may keep a step's function until it asks for its
/// next step, or ends.
///
/// Errors: `argument_invalid` for another kind. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_unregister(
    engine: *const lomusai_engine,
    kind: *const c_char,
    name: *const c_char,
    existed: *mut bool,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let found = host(engine)?.unregister(guard::name("kind", kind)?, guard::name("name", name)?)?;
        if !existed.is_null() {
            guard::place("existed", existed, found)?;
        }
        Ok(LOMUSAI_OK)
    })
}

// --- Questions -------------------------------------------------------------------------------------------------------

/// Asks the engine something, by the operation's name and its parameters as JSON (NULL and 0 for none). `*json` is the owned
/// answer, freed with `lomusai_string_free`; it may be NULL when the answer does not matter. Waits on this thread; works from
/// callbacks on the pool.
///
/// Operations: `start`, `command {run_id, command}`, `draft_workflow {name, chain, ...}` (the spec of a chain), `run {run_id}`, `runs {status?, agent?, thread?, parent?, limit?, offset?}`,
/// `pending`, `result {run_id}`, `export {run_id}`, `digest {run_id}`, `digest_of {events}`, `delete_run {run_id}`, `thread {thread}`,
/// `threads {resource?, offset?, limit?}`, `messages {thread}`, `delete_thread {thread}`, `embed {embedder, texts}`,
/// `models` (what is known and configured, with what each can do and costs), `budgets` (the shared ones, and what was spent).
///
/// Errors: `argument_invalid` for an unknown operation or parameter; what the operation says; `engine_closed`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_engine_call(
    engine: *const lomusai_engine,
    operation: *const c_char,
    params: *const c_char,
    params_len: usize,
    json: *mut *mut c_char,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let json = optional(json)?;
        let operation = guard::name("operation", operation)?;
        let params = guard::text_or("params", params, params_len, "")?;
        give(json, host(engine)?.call(operation, params)?)
    })
}

/// Tells a run something, as JSON: `{"type": "approve"}`, `decline`, `resume`, `tool_result`, `cancel`; to a run of a workflow also
/// `{"type": "resume", "label" or "effect_id", "data"}`, `{"type": "signal", "name", "data"}` and `{"type": "retry"}`, which takes up
/// one that failed. Returns once it is recorded. The run goes on without a reader here; `lomusai_run_resume` reads on.
///
/// Errors: `json_invalid`, `argument_invalid`, `run_unknown`, `run_finished`, `run_not_failed`, `effect_unknown`, `resume_invalid`,
/// `workflow_changed`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_engine_command(
    engine: *const lomusai_engine,
    run_id: *const c_char,
    command: *const c_char,
    command_len: usize,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let run_id = guard::name("run_id", run_id)?;
        let command: Value = lomusai_host::read("the command", guard::text("command", command, command_len)?)?;
        host(engine)?.call("command", &json!({ "run_id": run_id, "command": command }).to_string())?;
        Ok(LOMUSAI_OK)
    })
}

/// A run's journal as a JSON array of events. `*json` is owned, freed with `lomusai_string_free`.
///
/// Errors: `run_unknown`; the storage codes. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_engine_export_journal(
    engine: *const lomusai_engine,
    run_id: *const c_char,
    json: *mut *mut c_char,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || of_run(engine, "export", run_id, json))
}

/// The digest of a run's journal: equal in every language and process where the run went alike. `*digest` is owned text, freed
/// with `lomusai_string_free`.
///
/// Errors: `run_unknown`; the storage codes. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_engine_digest(
    engine: *const lomusai_engine,
    run_id: *const c_char,
    digest: *mut *mut c_char,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let digest = guard::place("digest", digest, std::ptr::null_mut())?;
        let run_id = guard::name("run_id", run_id)?;
        let json = host(engine)?.call("digest", &json!({ "run_id": run_id }).to_string())?;
        *digest = owned(lomusai_host::read("the digest", &json)?);
        Ok(LOMUSAI_OK)
    })
}

/// Runs as a JSON array, newest first. `filter` is a JSON object: `{status?, agent?, thread?, parent?, limit?, offset?}`, NULL and 0
/// for all. `*json` is owned, freed with `lomusai_string_free`.
///
/// Errors: `json_invalid`, `argument_invalid`; the storage codes. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_engine_list_runs(
    engine: *const lomusai_engine,
    filter: *const c_char,
    filter_len: usize,
    json: *mut *mut c_char,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let json = guard::place("json", json, std::ptr::null_mut())?;
        *json = owned(host(engine)?.call("runs", guard::text_or("filter", filter, filter_len, "")?)?);
        Ok(LOMUSAI_OK)
    })
}

/// The suspended runs, with what each waits for, as a JSON array. `*json` is owned, freed with `lomusai_string_free`.
///
/// Errors: the storage codes. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_engine_pending(
    engine: *const lomusai_engine,
    json: *mut *mut c_char,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let json = guard::place("json", json, std::ptr::null_mut())?;
        *json = owned(host(engine)?.call("pending", "")?);
        Ok(LOMUSAI_OK)
    })
}

/// Deletes a run and its journal. `*existed` (may be NULL) says whether there was one.
///
/// Errors: `run_active` while it is at work; the storage codes. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_engine_delete_run(
    engine: *const lomusai_engine,
    run_id: *const c_char,
    existed: *mut bool,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let run_id = guard::name("run_id", run_id)?;
        let found = host(engine)?.call("delete_run", &json!({ "run_id": run_id }).to_string())?;
        if !existed.is_null() {
            guard::place("existed", existed, found == "true")?;
        }
        Ok(LOMUSAI_OK)
    })
}

fn of_run(
    engine: *const lomusai_engine,
    operation: &str,
    run_id: *const c_char,
    json: *mut *mut c_char,
) -> Result<lomusai_status> {
    let json = guard::place("json", json, std::ptr::null_mut())?;
    let run_id = guard::name("run_id", run_id)?;
    *json = owned(host(engine)?.call(operation, &json!({ "run_id": run_id }).to_string())?);
    Ok(LOMUSAI_OK)
}

pub(crate) fn optional<'a>(place: *mut *mut c_char) -> Result<Option<&'a mut *mut c_char>> {
    if place.is_null() { Ok(None) } else { guard::place("json", place, std::ptr::null_mut()).map(Some) }
}

pub(crate) fn give(place: Option<&mut *mut c_char>, text: String) -> Result<lomusai_status> {
    if let Some(place) = place {
        *place = owned(text);
    }
    Ok(LOMUSAI_OK)
}

pub(crate) fn host<'a>(engine: *const lomusai_engine) -> Result<&'a Arc<HostEngine>> {
    Ok(&guard::handle("engine", engine)?.host)
}

fn placement(flags: u32) -> Result<Placement> {
    match flags {
        LOMUSAI_POOL => Ok(Placement::Pool),
        LOMUSAI_INLINE => Ok(Placement::Inline),
        other => {
            let message = format!("flags must be LOMUSAI_POOL (0) or LOMUSAI_INLINE (1), was {other}");
            Err(Error::new(codes::ARGUMENT_INVALID, message))
        }
    }
}

fn handler(callback: lomusai_call_fn, userdata: Userdata) -> Result<Arc<Callback>> {
    let function = callback.ok_or_else(|| Error::new(codes::ARGUMENT_INVALID, "callback is NULL"))?;
    Ok(Arc::new(Callback { function, userdata }))
}
