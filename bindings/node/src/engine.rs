//! An engine, as JavaScript holds it. Everything that waits takes a ticket, the number under which JavaScript keeps the promise.

use std::sync::Arc;
use std::time::Duration;

use lomusai_core::component::HostSlot;
use lomusai_host::{Handler, HostEngine, Placement};
use napi_derive::napi;

use crate::error::{Token, throwing};
use crate::port::{JsHandler, Message, Payload, Port, Shared, Ticket, settle};
use crate::run::NativeRun;

/// See [`HostEngine`].
#[napi(js_name = "Engine")]
pub struct NativeEngine {
    engine: Arc<HostEngine>,
    port: Arc<Shared>,
    id: f64,
}

#[napi]
impl NativeEngine {
    /// `id` is the number under which JavaScript finds the engine's callables.
    #[napi(constructor)]
    pub fn new(port: &Port, id: f64, options: String) -> napi::Result<Self> {
        let engine = throwing(HostEngine::open(&options))?;
        port.shared.own(&engine);
        Ok(Self { engine, port: port.shared.clone(), id })
    }

    /// A tool.
    #[napi]
    pub fn register_tool(&self, spec: String, handler: f64) -> napi::Result<()> {
        throwing(self.engine.register_tool(&spec, Placement::Inline, self.handler(handler)))
    }

    /// A function that specs can name.
    #[napi]
    pub fn register_function(&self, name: String, handler: f64) -> napi::Result<()> {
        throwing(self.engine.register_function(&name, Placement::Inline, self.handler(handler)))
    }

    /// A provider of JavaScript.
    #[napi]
    pub fn register_provider(&self, name: String, handler: f64) -> napi::Result<()> {
        throwing(self.engine.register_provider(&name, Placement::Inline, self.handler(handler)))
    }

    /// A provider of the engine.
    #[napi]
    pub fn register_builtin_provider(&self, name: String, config: String) -> napi::Result<()> {
        throwing(self.engine.register_builtin_provider(&name, &config))
    }

    /// An embedder.
    #[napi]
    pub fn register_embedder(&self, name: String, dimensions: u32, handler: f64) -> napi::Result<()> {
        let handler = self.handler(handler);
        throwing(self.engine.register_embedder(&name, dimensions as usize, Placement::Inline, handler))
    }

    /// An agent.
    #[napi]
    pub fn register_agent(&self, spec: String) -> napi::Result<()> {
        throwing(self.engine.register_agent(&spec))
    }

    /// A workflow.
    #[napi]
    pub fn register_workflow(&self, spec: String) -> napi::Result<()> {
        throwing(self.engine.register_workflow(&spec))
    }

    /// A function that steps of workflows call.
    #[napi]
    pub fn register_step(&self, name: String, handler: f64) -> napi::Result<()> {
        throwing(self.engine.register_step(&name, Placement::Inline, self.handler(handler)))
    }

    /// Takes a component away.
    #[napi]
    pub fn unregister(&self, kind: String, name: String) -> napi::Result<bool> {
        throwing(self.engine.unregister(&kind, &name))
    }

    /// Has the engine's notes sent as messages.
    #[napi]
    pub fn log(&self) -> napi::Result<()> {
        let (port, engine) = (self.port.clone(), self.id);
        throwing(self.engine.set_log(Some(Box::new(move |level, target, message| {
            let (target, message) = (target.to_owned(), message.to_owned());
            port.post(Message::Log { engine, level, target, message });
        }))))
    }

    /// Begins a run. `slot` is the number of a value that its callables find again, or 0.
    #[napi]
    pub fn run(&self, request: String, slot: f64) -> napi::Result<NativeRun> {
        let run = throwing(self.engine.run(&request, self.slot(slot)))?;
        Ok(NativeRun { run, port: self.port.clone() })
    }

    /// Sends a command and gives the run from there.
    #[napi]
    pub fn resume(&self, ticket: f64, run_id: String, command: String, slot: f64) {
        let (engine, slot) = (self.engine.clone(), self.slot(slot));
        settle(&self.port, &self.engine, ticket, async move {
            Ok((Payload::Run(engine.resume_async(&run_id, &command, slot).await?), None))
        });
    }

    /// Gives an observer of the run's events after `seq`.
    #[napi]
    pub fn observe(&self, ticket: f64, run_id: String, seq: f64) {
        let engine = self.engine.clone();
        settle(&self.port, &self.engine, ticket, async move {
            Ok((Payload::Observer(engine.observe_async(&run_id, seq as u64).await?), None))
        });
    }

    /// One of the kit's operations.
    #[napi]
    pub fn call(&self, ticket: f64, operation: String, params: String) {
        let engine = self.engine.clone();
        settle(&self.port, &self.engine, ticket, async move {
            Ok((Payload::Text(engine.call_async(&operation, &params).await?), None))
        });
    }

    /// Closes the engine, on a thread of its own: JavaScript must go on, since its callables are waited for.
    #[napi]
    pub fn close(&self, ticket: f64, timeout_ms: Option<f64>) -> napi::Result<()> {
        let (engine, ticket) = (self.engine.clone(), Ticket::new(&self.port, ticket));
        let timeout = timeout_ms.map(|ms| Duration::from_millis(ms as u64));
        std::thread::Builder::new()
            .name("lomusai-close".into())
            .spawn(move || {
                let result = engine.close(timeout);
                ticket.done(Payload::None, result.err());
            })
            .map(drop)
            .map_err(|e| napi::Error::from_reason(format!("no thread to close the engine on: {e}")))
    }

    /// Whether it is closed.
    #[napi(getter)]
    pub fn closed(&self) -> bool {
        self.engine.is_closed()
    }

    fn handler(&self, handler: f64) -> Arc<dyn Handler> {
        let home = Arc::downgrade(&self.engine);
        Arc::new(JsHandler { port: self.port.clone(), engine: self.id, handler, home })
    }

    fn slot(&self, slot: f64) -> Option<HostSlot> {
        (slot != 0.0).then(|| Token::new(&self.port, slot) as HostSlot)
    }
}

/// The spec of a workflow's chain; see `lomusai_host::draft_workflow`.
#[allow(dead_code, reason = "a build for tests does not see that JavaScript calls it")]
#[napi]
pub fn draft_workflow(draft: String) -> napi::Result<String> {
    throwing(lomusai_host::draft_workflow(&draft))
}

/// Names the functions of a spec that have none; see `lomusai_host::name_functions`.
#[allow(dead_code, reason = "a build for tests does not see that JavaScript calls it")]
#[napi]
pub fn name_functions(spec: String) -> napi::Result<String> {
    throwing(lomusai_host::name_functions(&spec))
}
