//! A run and its result as JSON.

use std::sync::Arc;
use std::time::Duration;

use lomusai_core::sync::Mutex;
use lomusai_core::{Error, Result};
use lomusai_runtime::{Next, Observer, Run, RunResult};
use lomusai_wire::RunStatus;
use serde_json::json;

use crate::engine::HostEngine;
use crate::{pool, write};

/// The next event of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextJson {
    /// An [`Event`](lomusai_wire::Event) as JSON.
    Event(String),
    /// None came in time.
    Timeout,
    /// There will be no more.
    End,
}

/// What a run came to, as JSON, and the host's own error object where it has one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostResult {
    /// `{run_id, status, text, output?, error?, usage, cost_nano_usd, messages, history, pending}`.
    pub json: String,
    /// The error of a run that failed.
    pub error: Option<Error>,
}

impl HostResult {
    pub(crate) fn new(result: &RunResult) -> Self {
        let mut value = json!({
            "run_id": result.run_id,
            "status": result.status,
            "text": result.text(),
            "usage": result.usage,
            "cost_nano_usd": result.cost_nano_usd,
            "messages": result.messages,
            "history": result.history,
            "pending": result.pending,
        });
        let fields = value.as_object_mut().expect("an object");
        if let Some(output) = &result.output {
            fields.insert("output".into(), json!(output));
        }
        if let Some(error) = &result.error {
            fields.insert("error".into(), json!(error.body()));
        }
        let error = result.error.clone().filter(|_| result.status == RunStatus::Failed);
        Self { json: write(&value), error }
    }
}

/// A run that this process reads. Letting go of it cancels the run, unless it was started `detached`.
#[derive(Clone)]
pub struct HostRun {
    engine: Arc<HostEngine>,
    run: Arc<Mutex<Option<Arc<Run>>>>,
    id: Arc<str>,
}

impl HostRun {
    pub(crate) fn new(engine: Arc<HostEngine>, run: Run) -> Self {
        let id = run.id().as_str().into();
        Self { engine, run: Arc::new(Mutex::new(Some(Arc::new(run)))), id }
    }

    /// The run's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The engine it runs on.
    pub fn engine(&self) -> &Arc<HostEngine> {
        &self.engine
    }

    fn run(&self) -> Result<Arc<Run>> {
        self.engine.check_process()?;
        self.run.lock().clone().ok_or_else(|| {
            Error::new(
                lomusai_wire::codes::HANDLE_CLOSED,
                format!(
                    "the handle of run `{}` is closed: observe the run, or read its result from the engine",
                    self.id
                ),
            )
        })
    }

    /// The next event, waited for on this thread; `None` waits for ever. May give a timeout early.
    ///
    /// # Errors
    /// `handle_closed` after [`close`](Self::close), `engine_forked`.
    pub fn next(&self, timeout: Option<Duration>) -> Result<NextJson> {
        let run = self.run()?;
        Ok(match pool::while_waiting(|| run.next_blocking(timeout)) {
            Next::Event(event) => NextJson::Event(write(&*event)),
            Next::Timeout => NextJson::Timeout,
            _ => NextJson::End,
        })
    }

    /// The next event; `None` when there will be no more. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_async(&self) -> Result<Option<String>> {
        let run = self.run()?;
        Ok(run.next().await.map(|event| write(&*event)))
    }

    /// What the run came to, waited for on this thread. `None` if it takes longer than `timeout`. Read or discard the events first:
    /// a run waits for its reader.
    ///
    /// # Errors
    /// Why it could not be driven on; `handle_closed`, `engine_forked`.
    pub fn result(&self, timeout: Option<Duration>) -> Result<Option<HostResult>> {
        let run = self.run()?;
        let result = pool::while_waiting(|| run.result_blocking(timeout));
        result.transpose().map(|result| result.map(|result| HostResult::new(&result)))
    }

    /// As [`result`](Self::result), as a task. Events that were not read are dropped.
    ///
    /// # Errors
    /// As [`result`](Self::result).
    pub async fn result_async(&self) -> Result<HostResult> {
        let run = self.run()?;
        run.result().await.map(|result| HostResult::new(&result))
    }

    /// Drops events that were not read, and those to come.
    pub fn discard_events(&self) {
        if let Ok(run) = self.run() {
            run.discard_events();
        }
    }

    /// Asks for the run to be cancelled.
    ///
    /// # Errors
    /// `handle_closed`, `engine_forked`.
    pub fn cancel(&self, grace_ms: u64, reason: Option<String>) -> Result<()> {
        self.run()?.cancel(grace_ms, reason);
        Ok(())
    }

    /// Lets go of the run: it is cancelled unless it was started `detached` or has ended. Doing it twice is fine.
    pub fn close(&self) {
        let run = self.run.lock().take();
        // In a process that was forked the run's own threads do not exist: leave it alone.
        if self.engine.check_process().is_err() {
            std::mem::forget(run);
        }
    }
}

/// Reads a run beside its primary reader.
pub struct HostObserver {
    pub(crate) engine: Arc<HostEngine>,
    pub(crate) observer: Arc<tokio::sync::Mutex<Observer>>,
}

impl HostObserver {
    /// Whether this process is a fork of the one that made it, in which its locks may be held for ever.
    pub fn is_forked(&self) -> bool {
        self.engine.check_process().is_err()
    }

    /// The engine the run is known to.
    pub fn engine(&self) -> &Arc<HostEngine> {
        &self.engine
    }

    /// The next event; `None` when there will be no more for now. Dropping the future may lose nothing but its turn.
    pub async fn next_async(&self) -> Option<String> {
        self.observer.lock().await.next().await.map(|event| write(&*event))
    }

    /// The next event, waited for on this thread.
    ///
    /// # Errors
    /// `engine_closed`, `engine_forked`.
    pub fn next(&self, timeout: Option<Duration>) -> Result<NextJson> {
        let observer = self.observer.clone();
        self.engine.wait(async move {
            let next = async { observer.lock().await.next().await };
            match timeout {
                None => next.await.map_or(NextJson::End, |event| NextJson::Event(write(&*event))),
                Some(timeout) => match tokio::time::timeout(timeout, next).await {
                    Ok(Some(event)) => NextJson::Event(write(&*event)),
                    Ok(None) => NextJson::End,
                    Err(_) => NextJson::Timeout,
                },
            }
        })
    }
}
