//! Runs: read by `next` or told to callbacks, and observers beside their reader.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lomusai_core::component::HostSlot;
use lomusai_core::{Error, Result};
use lomusai_host::{HostEngine, HostObserver, HostResult, HostRun, NextJson};
use lomusai_wire::codes;

use crate::engine::{give, host, lomusai_engine, optional};
use crate::guard::{self, Userdata, guard};
use crate::{
    LOMUSAI_END, LOMUSAI_OK, LOMUSAI_TIMEOUT, lomusai_drop_fn, lomusai_error, lomusai_status, lomusai_str, owned,
    terminated,
};

/// A run that this process reads. Thread-safe; two threads that read share the events between them.
pub struct lomusai_run {
    run: HostRun,
    id: CString,
    /// Whether callbacks read it: then the handle is not what keeps it going.
    told: bool,
}

/// Reads a run beside its reader. Thread-safe; two threads that read share the events between them.
pub struct lomusai_observer {
    observer: HostObserver,
}

/// Takes an event of a run, as JSON, borrowed for the call. Called on a thread of the engine's host pool, by one thread at a time,
/// in order. May block: the run waits for it. May call any function of this library.
pub type lomusai_event_fn = Option<unsafe extern "C" fn(userdata: *mut c_void, event: lomusai_str)>;

/// Told once that a run ended or was suspended, after its last event. `result` is what `lomusai_run_result` gives, `error` is NULL;
/// or `result` is empty and `error` says why the run could not be driven on. Both are borrowed for the call. Then `userdata` is
/// dropped.
pub type lomusai_done_fn =
    Option<unsafe extern "C" fn(userdata: *mut c_void, result: lomusai_str, error: *const lomusai_error)>;

/// How a run is read. Set all of it to zero, then `struct_size` to `sizeof(lomusai_run_options)`, then what you want.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lomusai_run_options {
    /// `sizeof(lomusai_run_options)`.
    pub struct_size: usize,
    /// A pointer of yours that the run's callbacks find again with `lomusai_answer_slot`; may be NULL.
    pub slot: *mut c_void,
    /// Frees `slot` when nothing of the run needs it any more; may be NULL. Also called when starting fails.
    pub slot_drop: lomusai_drop_fn,
    /// Takes the run's events; NULL drops them where `on_done` is set.
    pub on_event: lomusai_event_fn,
    /// Told when the run is over.
    pub on_done: lomusai_done_fn,
    /// Passed to `on_event` and `on_done`. Passes to the engine, also when starting fails.
    pub userdata: *mut c_void,
    /// Frees `userdata`; may be NULL.
    pub drop: lomusai_drop_fn,
}

impl Default for lomusai_run_options {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            slot: std::ptr::null_mut(),
            slot_drop: None,
            on_event: None,
            on_done: None,
            userdata: std::ptr::null_mut(),
            drop: None,
        }
    }
}

/// What the caller attached to a run.
pub(crate) struct Slot(pub(crate) Userdata);

/// [`lomusai_run_options`], taken: what is owned is let go of whatever happens next.
struct Options {
    slot: Option<HostSlot>,
    reader: Option<Reader>,
}

impl Options {
    fn take(options: *const lomusai_run_options) -> Result<Self> {
        let options = guard::versioned("options", options, lomusai_run_options::default())?;
        let slot = Slot(Userdata::new(options.slot, options.slot_drop));
        let userdata = Userdata::new(options.userdata, options.drop);
        let reads = options.on_event.is_some() || options.on_done.is_some();
        let reader =
            reads.then_some(Reader { on_event: options.on_event, on_done: options.on_done, userdata, counted: None });
        Ok(Self { slot: (!options.slot.is_null()).then(|| Arc::new(slot) as HostSlot), reader })
    }
}

// --- Starting --------------------------------------------------------------------------------------------------------

/// Starts a run: a request as JSON, `{agent, input, history?, thread?, resource?, run_id?, context?, transient?, detached?, on_busy?,
/// options?}`, or of a workflow `{workflow, input?, run_id?, context?, transient?, state?, detached?}`. `options` may be NULL. Does not wait: what cannot be told at once is the run's result.
///
/// Without callbacks, read the run with `lomusai_run_next` or wait with `lomusai_run_result`. With `on_event` or `on_done`, the
/// callbacks are the run's reader, and `run` may be NULL. `*run` is the caller's, to be freed with `lomusai_run_free`; NULL on
/// failure, and then no callback is called.
///
/// Errors: `json_invalid`, `argument_invalid`, `agent_unknown`, `workflow_unknown`, `input_empty` and the like, `engine_closed`.
/// Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_run_start(
    engine: *const lomusai_engine,
    request: *const c_char,
    request_len: usize,
    options: *const lomusai_run_options,
    run: *mut *mut lomusai_run,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let options = Options::take(options)?;
        let place = Place::new(run, &options)?;
        let this = guard::handle("engine", engine)?;
        let started = this.host.run(guard::text("request", request, request_len)?, options.slot)?;
        place.give(started, options.reader, &this.told)
    })
}

/// Sends a command to a suspended run, or `{"type": "retry"}` to one of a workflow that failed, as JSON, and reads on from there. Returns once the command is recorded. `options` and
/// `*run` as with `lomusai_run_start`.
///
/// Errors: `run_unknown`, `run_finished`, `run_active`, `run_blocked`, `effect_unknown`, `resume_invalid`, `json_invalid`,
/// `argument_invalid`, `engine_closed`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_run_resume(
    engine: *const lomusai_engine,
    run_id: *const c_char,
    command: *const c_char,
    command_len: usize,
    options: *const lomusai_run_options,
    run: *mut *mut lomusai_run,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let options = Options::take(options)?;
        let place = Place::new(run, &options)?;
        let this = guard::handle("engine", engine)?;
        let run_id = guard::name("run_id", run_id)?;
        let resumed = this.host.resume(run_id, guard::text("command", command, command_len)?, options.slot)?;
        place.give(resumed, options.reader, &this.told)
    })
}

/// Where a run's handle goes.
struct Place<'a>(Option<&'a mut *mut lomusai_run>);

impl Place<'_> {
    fn new(pointer: *mut *mut lomusai_run, options: &Options) -> Result<Self> {
        if pointer.is_null() && options.reader.is_some() {
            return Ok(Self(None));
        }
        guard::place("run", pointer, std::ptr::null_mut()).map(|place| Self(Some(place)))
    }

    fn give(self, run: HostRun, reader: Option<Reader>, told_of: &Arc<Told>) -> Result<lomusai_status> {
        let told = reader.is_some();
        if let Some(place) = self.0 {
            let id = terminated(run.id().to_owned());
            *place = Box::into_raw(Box::new(lomusai_run { run: run.clone(), id, told }));
        }
        if let Some(mut reader) = reader {
            reader.counted = Some(Counted::new(told_of));
            if reader.on_event.is_none() {
                run.discard_events();
            }
            Delivery(Some((run, reader))).wait();
        }
        Ok(LOMUSAI_OK)
    }
}

// --- Reading ---------------------------------------------------------------------------------------------------------

/// Waits up to `timeout_ms` (0 = poll) for the next event. `LOMUSAI_OK`: `*event` is owned JSON, freed with `lomusai_string_free`.
/// `LOMUSAI_TIMEOUT`: nothing yet. `LOMUSAI_END`: the run has ended or is suspended, see `lomusai_run_result`.
///
/// Errors: `handle_closed` after `lomusai_run_close`, `engine_forked`. Thread-safe; works from callbacks on the pool.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_run_next(
    run: *const lomusai_run,
    timeout_ms: u32,
    event: *mut *mut c_char,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let event = guard::place("event", event, std::ptr::null_mut())?;
        let run = &guard::handle("run", run)?.run;
        next(timeout_ms, event, |timeout| run.next(timeout))
    })
}

/// Waits up to `timeout_ms` for what the run came to, or where it waits. `LOMUSAI_OK`: `*json` (may be NULL) is owned, freed with
/// `lomusai_string_free`: `{run_id, status, text, output?, error?, usage, messages, history, pending}`, what a workflow came to as
/// `output.object`; a run that failed is a
/// result with that status. `LOMUSAI_TIMEOUT`: not yet. A run waits for its reader: read or discard its events first.
///
/// Errors: why the run could not be driven on (storage, `engine_closed`); `handle_closed`, `engine_forked`. Thread-safe; works from
/// callbacks on the pool.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_run_result(
    run: *const lomusai_run,
    timeout_ms: u32,
    json: *mut *mut c_char,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let json = optional(json)?;
        match guard::handle("run", run)?.run.result(guard::timeout(timeout_ms))? {
            Some(result) => give(json, result.json),
            None => Ok(LOMUSAI_TIMEOUT),
        }
    })
}

/// The run's id. Borrowed until the handle is freed; "" for NULL. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_run_id(run: *const lomusai_run) -> *const c_char {
    // SAFETY: NULL or a live handle, says the header.
    unsafe { run.as_ref() }.map_or(c"".as_ptr(), |run| run.id.as_ptr())
}

/// Asks for the run to be cancelled: nothing new starts, results within `grace_ms` are still recorded. `reason` may be NULL. Does not
/// wait.
///
/// Errors: `handle_closed`, `engine_forked`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_run_cancel(
    run: *const lomusai_run,
    grace_ms: u64,
    reason: *const c_char,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let run = &guard::handle("run", run)?.run;
        run.cancel(grace_ms, guard::name_or_none("reason", reason)?.map(str::to_owned))?;
        Ok(LOMUSAI_OK)
    })
}

/// Drops events that were not read and those to come; the run no longer waits for a reader. NULL is fine. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_run_discard_events(run: *const lomusai_run) {
    // SAFETY: NULL or a live handle, says the header.
    if let Some(run) = unsafe { run.as_ref() } {
        guard::quietly(|| run.run.discard_events());
    }
}

/// Lets go of the run: it is cancelled, unless its request said `detached` or it is over. The handle stays to be freed. NULL is
/// fine, twice is fine. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_run_close(run: *const lomusai_run) {
    // SAFETY: NULL or a live handle, says the header.
    if let Some(run) = unsafe { run.as_ref() } {
        guard::quietly(|| run.run.close());
    }
}

/// Frees the handle. A run that is read through it is closed, see `lomusai_run_close`; one that callbacks read goes on. NULL is
/// fine. Once, and not beside other calls that use this handle; before or after the engine is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_run_free(run: *mut lomusai_run) {
    if run.is_null() {
        return;
    }
    guard::quietly(|| {
        // SAFETY: the caller passes what starting or resuming made, once.
        let run = unsafe { Box::from_raw(run) };
        if run.run.engine().engine().is_err() {
            std::mem::forget(run);
            return;
        }
        if !run.told {
            run.run.close();
        }
    });
}

/// Calls `read` until it has an event or the time is over: the kit may give a timeout early.
fn next(
    timeout_ms: u32,
    event: &mut *mut c_char,
    mut read: impl FnMut(Option<Duration>) -> Result<NextJson>,
) -> Result<lomusai_status> {
    let timeout = guard::timeout(timeout_ms);
    let until = timeout.filter(|timeout| !timeout.is_zero()).map(|timeout| now() + timeout);
    let mut left = timeout;
    loop {
        match read(left)? {
            NextJson::Event(json) => {
                *event = owned(json);
                return Ok(LOMUSAI_OK);
            }
            NextJson::End => return Ok(LOMUSAI_END),
            NextJson::Timeout => match until.map(|until| until.saturating_duration_since(now())) {
                Some(rest) if !rest.is_zero() => left = Some(rest),
                None if timeout.is_none() => {}
                _ => return Ok(LOMUSAI_TIMEOUT),
            },
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a caller's timeout is real time; nothing of it is replayed")]
fn now() -> Instant {
    Instant::now()
}

// --- Callbacks as reader ---------------------------------------------------------------------------------------------

struct Reader {
    on_event: lomusai_event_fn,
    on_done: lomusai_done_fn,
    userdata: Userdata,
    /// Goes after `userdata`, as fields are dropped in order.
    counted: Option<Counted>,
}

impl Reader {
    fn event(&self, json: &str) {
        let _here = Here::enter();
        if let Some(on_event) = self.on_event {
            // SAFETY: the header's contract for `lomusai_event_fn`.
            unsafe { on_event(self.userdata.pointer, lomusai_str::of(json)) };
        }
    }

    fn done(self, result: Result<HostResult>) {
        let _here = Here::enter();
        let Some(on_done) = self.on_done else { return };
        match result {
            // SAFETY: the header's contract for `lomusai_done_fn`.
            Ok(result) => unsafe { on_done(self.userdata.pointer, lomusai_str::of(&result.json), std::ptr::null()) },
            Err(error) => {
                let error = lomusai_error::new(error);
                // SAFETY: as above; the error lives until the call returns.
                unsafe { on_done(self.userdata.pointer, lomusai_str::of(""), &raw const error) };
            }
        }
    }
}

/// How many runs have not told their callbacks that they are over: closing the engine waits for them.
#[derive(Default)]
pub(crate) struct Told {
    count: Mutex<usize>,
    less: Condvar,
}

impl Told {
    /// Waits until all are told, at most `timeout`. From such a callback it does not wait: that would be for itself.
    pub(crate) fn wait(&self, timeout: Duration) {
        if HERE.get() == 0 {
            let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = self.less.wait_timeout_while(count, timeout, |count| *count > 0);
        }
    }

    fn change(&self, change: impl FnOnce(&mut usize)) {
        change(&mut self.count.lock().unwrap_or_else(PoisonError::into_inner));
        self.less.notify_all();
    }
}

struct Counted(Arc<Told>);

impl Counted {
    fn new(told: &Arc<Told>) -> Self {
        told.change(|count| *count += 1);
        Self(told.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.change(|count| *count -= 1);
    }
}

thread_local! {
    /// How many event callbacks this thread is in.
    static HERE: Cell<u32> = const { Cell::new(0) };
}

struct Here;

impl Here {
    fn enter() -> Self {
        HERE.set(HERE.get() + 1);
        Self
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        HERE.set(HERE.get() - 1);
    }
}

/// A run on its way to its callbacks. It waits as a task and calls on the host pool, so that a thousand quiet runs hold no thread.
/// Wherever it is dropped, the callbacks still learn that it is over.
struct Delivery(Option<(HostRun, Reader)>);

impl Delivery {
    /// Waits for the next event, then delivers.
    fn wait(mut self) {
        let Some((run, reader)) = self.0.take() else { return };
        let engine: Arc<HostEngine> = run.engine().clone();
        let delivery = Self(Some((run.clone(), reader)));
        let pool = engine.clone();
        // Refused or dropped when the engine closes: then the delivery ends itself.
        let _ = engine.spawn(async move {
            let event = run.next_async().await;
            let over = !matches!(event, Ok(Some(_)));
            // What it came to may still be on its way to the store.
            let result = if over { Some(run.result_async().await) } else { None };
            let what = format!("the event callback of run `{}`", run.id());
            drop(run);
            pool.on_pool(what, move || delivery.deliver(event, result));
        });
    }

    fn deliver(mut self, event: Result<Option<String>>, result: Option<Result<HostResult>>) {
        let Some((run, reader)) = self.0.take() else { return };
        if let Some(result) = result {
            return reader.done(result);
        }
        if let Ok(Some(event)) = event {
            reader.event(&event);
        }
        drain(&run, &reader);
        Self(Some((run, reader))).wait();
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let Some((run, reader)) = self.0.take() else { return };
        let end = move || {
            drain(&run, &reader);
            let result = run.result(Some(Duration::ZERO)).and_then(|result| {
                let closed = || {
                    Error::new(
                        codes::ENGINE_CLOSED,
                        format!("the engine was closed while run `{}` was at work", run.id()),
                    )
                };
                result.ok_or_else(closed)
            });
            reader.done(result);
        };
        // On a thread of its own: whoever drops this may hold locks that the callbacks need.
        let _ = std::thread::Builder::new().name("lomusai-last".into()).spawn(end);
    }
}

/// Delivers what is there.
fn drain(run: &HostRun, reader: &Reader) {
    while let Ok(NextJson::Event(event)) = run.next(Some(Duration::ZERO)) {
        reader.event(&event);
    }
}

// --- Observers -------------------------------------------------------------------------------------------------------

/// Reads a run's events after `after_seq` (0 = all) beside its reader: first what is recorded, then what comes. An observer that is
/// slow misses transient events and is told so (`lagged`); the run never waits for it. `*observer` is the caller's, to be freed with
/// `lomusai_observer_free`.
///
/// Errors: `run_unknown`, `engine_closed`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_observe(
    engine: *const lomusai_engine,
    run_id: *const c_char,
    after_seq: u64,
    observer: *mut *mut lomusai_observer,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let place = guard::place("observer", observer, std::ptr::null_mut())?;
        let observer = host(engine)?.observe(guard::name("run_id", run_id)?, after_seq)?;
        *place = Box::into_raw(Box::new(lomusai_observer { observer }));
        Ok(LOMUSAI_OK)
    })
}

/// As `lomusai_run_next`, for an observer.
///
/// Errors: `engine_closed`, `engine_forked`. Thread-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_observer_next(
    observer: *const lomusai_observer,
    timeout_ms: u32,
    event: *mut *mut c_char,
    err: *mut *mut lomusai_error,
) -> lomusai_status {
    guard(err, || {
        let event = guard::place("event", event, std::ptr::null_mut())?;
        let observer = &guard::handle("observer", observer)?.observer;
        next(timeout_ms, event, |timeout| observer.next(timeout))
    })
}

/// Frees an observer. NULL is fine. Once, and not beside other calls that use this handle; the run does not notice.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lomusai_observer_free(observer: *mut lomusai_observer) {
    if observer.is_null() {
        return;
    }
    guard::quietly(|| {
        // SAFETY: the caller passes what `lomusai_observe` made, once.
        let observer = unsafe { Box::from_raw(observer) };
        if observer.observer.is_forked() {
            std::mem::forget(observer);
        }
    });
}
