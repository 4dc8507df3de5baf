//! The door to one JavaScript thread: a queue that any thread may fill, and one wake-up call for whoever reads it.
//!
//! A wake-up is asked for only when the queue was empty, so that a busy engine crosses once for many messages.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lomusai_core::sync::Mutex;
use lomusai_core::{Error, Result};
use lomusai_host::{Answer, CallInfo, Handler, HostEngine, HostObserver, HostRun};
use lomusai_wire::{LogLevel, codes};
use napi::bindgen_prelude::{Array, Function};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Status};
use napi_derive::napi;

use crate::answer::NativeAnswer;
use crate::error::{body, host_id, slot_id};
use crate::run::{NativeObserver, NativeRun};

/// Weak: an engine that is idle must not keep the process alive. `lib/native.js` keeps it alive while something is awaited.
type Wake = ThreadsafeFunction<(), (), (), Status, false, true>;

/// What the engine has to say.
pub(crate) enum Message {
    /// One of JavaScript's callables is called.
    Call { engine: f64, handler: f64, call: CallInfo, answer: Answer, home: Weak<HostEngine> },
    /// Something awaited is there.
    Done { ticket: f64, payload: Payload, error: Option<Error> },
    /// The answer to a call is not wanted any more.
    Cancel(f64),
    /// Nothing of the engine refers to this value any more.
    Forget(f64),
    /// A note.
    Log { engine: f64, level: LogLevel, target: String, message: String },
}

/// What was awaited.
pub(crate) enum Payload {
    None,
    Text(String),
    Run(HostRun),
    Observer(HostObserver),
}

/// So many values may wait to be forgotten. The collector lets go of thousands at once, after which a process may be idle for long.
const FORGOTTEN_MAX: usize = 64;

/// Fields of a message in the flat list that [`Port::drain`] gives.
const STRIDE: u32 = 7;

/// The part of a port that the engine's threads hold.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    /// Whether a wake-up is under way.
    woken: bool,
    wake: Option<Wake>,
    closed: bool,
    engines: Vec<Weak<HostEngine>>,
}

impl Shared {
    pub(crate) fn post(&self, message: Message) {
        self.push(message, true);
    }

    /// Tells that a value may be forgotten. One is no reason to wake anybody: it is told with the next message, or when many wait.
    pub(crate) fn forget(&self, id: f64) {
        self.push(Message::Forget(id), false);
    }

    fn push(&self, message: Message, wake: bool) {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            // Only now: what it holds may post in turn when it goes.
            drop(message);
            return;
        }
        state.messages.push(message);
        if (wake || state.messages.len() >= FORGOTTEN_MAX) && !state.woken {
            // Under the lock, so that the function cannot be taken down in between.
            if let Some(function) = &state.wake {
                state.woken = function.call((), ThreadsafeFunctionCallMode::NonBlocking) == Status::Ok;
            }
        }
    }

    pub(crate) fn own(&self, engine: &Arc<HostEngine>) {
        let mut state = self.state.lock();
        state.engines.retain(|engine| engine.strong_count() > 0);
        state.engines.push(Arc::downgrade(engine));
    }

    /// The JavaScript thread ends: nothing may reach it any more, and its engines have nobody left to serve.
    fn shut(&self, timeout: Duration) {
        let (messages, wake, engines) = {
            let mut state = self.state.lock();
            state.closed = true;
            (std::mem::take(&mut state.messages), state.wake.take(), std::mem::take(&mut state.engines))
        };
        drop(wake);
        drop(messages);
        for engine in engines.iter().filter_map(Weak::upgrade) {
            // There is nobody left to tell.
            let _ = engine.close(Some(timeout));
        }
    }
}

/// Runs a future on the engine's threads; its outcome settles the promise that waits under the ticket.
pub(crate) fn settle(
    port: &Arc<Shared>,
    engine: &HostEngine,
    ticket: f64,
    future: impl Future<Output = Result<(Payload, Option<Error>)>> + Send + 'static,
) {
    let ticket = Ticket { port: port.clone(), id: Some(ticket) };
    // Where the engine refuses or drops the task, the ticket says so.
    let _ = engine.spawn(async move {
        match future.await {
            Ok((payload, error)) => ticket.done(payload, error),
            Err(error) => ticket.done(Payload::None, Some(error)),
        }
    });
}

/// A promise that must be settled, however its task ends.
pub(crate) struct Ticket {
    port: Arc<Shared>,
    id: Option<f64>,
}

impl Ticket {
    pub(crate) fn new(port: &Arc<Shared>, id: f64) -> Self {
        Self { port: port.clone(), id: Some(id) }
    }

    pub(crate) fn done(mut self, payload: Payload, error: Option<Error>) {
        if let Some(ticket) = self.id.take() {
            self.port.post(Message::Done { ticket, payload, error });
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(ticket) = self.id.take() {
            let error = Error::new(codes::ENGINE_CLOSED, "the engine is closed: open a new one");
            self.port.post(Message::Done { ticket, payload: Payload::None, error: Some(error) });
        }
    }
}

/// A callable of JavaScript.
pub(crate) struct JsHandler {
    pub(crate) port: Arc<Shared>,
    pub(crate) engine: f64,
    pub(crate) handler: f64,
    /// Weak, since the engine holds the handler.
    pub(crate) home: Weak<HostEngine>,
}

impl Handler for JsHandler {
    fn call(&self, call: CallInfo, answer: Answer) {
        let Self { engine, handler, .. } = *self;
        self.port.post(Message::Call { engine, handler, call, answer, home: self.home.clone() });
    }
}

/// The door to this JavaScript thread. `lib/native.js` makes one.
#[napi]
pub struct Port {
    pub(crate) shared: Arc<Shared>,
}

#[napi]
impl Port {
    /// `wake` is called when there is something to drain.
    #[napi(constructor)]
    pub fn new(env: Env, wake: Function<'_, (), ()>) -> napi::Result<Self> {
        let wake = wake.build_threadsafe_function::<()>().weak::<true>().build()?;
        let shared = Arc::new(Shared::default());
        shared.state.lock().wake = Some(wake);
        // Added after the function's own hook, hence called before it: from then on nobody calls the function.
        env.add_env_cleanup_hook(shared.clone(), |shared| shared.shut(Duration::from_millis(500)))?;
        Ok(Self { shared })
    }

    /// What was said since the last time, as a flat list of messages of 7 fields.
    #[napi]
    pub fn drain<'env>(&self, env: &'env Env) -> napi::Result<Array<'env>> {
        let messages = {
            let mut state = self.shared.state.lock();
            state.woken = false;
            std::mem::take(&mut state.messages)
        };
        let mut list = env.create_array(messages.len() as u32 * STRIDE)?;
        for (index, message) in messages.into_iter().enumerate() {
            self.write(&mut list, index as u32 * STRIDE, message)?;
        }
        Ok(list)
    }

    /// Closes every engine of this thread and waits for them, at most so long each. For the end of the process.
    #[napi]
    pub fn shut(&self, timeout_ms: u32) {
        self.shared.shut(Duration::from_millis(timeout_ms.into()));
    }

    fn write(&self, list: &mut Array<'_>, at: u32, message: Message) -> napi::Result<()> {
        match message {
            Message::Call { engine, handler, call, answer, home } => {
                list.set(at, 0)?;
                list.set(at + 1, engine)?;
                list.set(at + 2, handler)?;
                list.set(at + 3, call.facts())?;
                list.set(at + 4, slot_id(&self.shared, call.host()))?;
                list.set(at + 5, NativeAnswer { answer, port: self.shared.clone(), home })?;
                list.set(at + 6, call.input)
            }
            Message::Done { ticket, payload, error } => {
                list.set(at, 1)?;
                list.set(at + 1, ticket)?;
                if let Some(error) = error {
                    list.set(at + 2, body(&error))?;
                    list.set(at + 3, host_id(&self.shared, &error))?;
                }
                match payload {
                    Payload::None => Ok(()),
                    Payload::Text(text) => list.set(at + 4, text),
                    Payload::Run(run) => list.set(at + 4, NativeRun { run, port: self.shared.clone() }),
                    Payload::Observer(observer) => {
                        list.set(at + 4, NativeObserver { observer: Arc::new(observer), port: self.shared.clone() })
                    }
                }
            }
            Message::Cancel(id) => {
                list.set(at, 2)?;
                list.set(at + 1, id)
            }
            Message::Forget(id) => {
                list.set(at, 3)?;
                list.set(at + 1, id)
            }
            Message::Log { engine, level, target, message } => {
                list.set(at, 4)?;
                list.set(at + 1, engine)?;
                list.set(at + 2, serde_json::to_string(&level).unwrap_or_default())?;
                list.set(at + 3, target)?;
                list.set(at + 4, message)
            }
        }
    }
}
