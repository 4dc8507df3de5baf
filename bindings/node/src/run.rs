//! A run and an observer, as JavaScript holds them. When a run's handle is collected, the run is cancelled unless it was detached.

use std::sync::Arc;

use futures_util::FutureExt;
use lomusai_core::Result;
use lomusai_host::{HostObserver, HostRun};
use napi_derive::napi;

use crate::error::throwing;
use crate::port::{Payload, Shared, settle};

/// So many events cross at once, where so many wait.
const BATCH: usize = 64;

/// See [`HostRun`].
#[napi(js_name = "Run")]
pub struct NativeRun {
    pub(crate) run: HostRun,
    pub(crate) port: Arc<Shared>,
}

#[napi]
impl NativeRun {
    /// The run's id.
    #[napi(getter)]
    pub fn id(&self) -> String {
        self.run.id().to_owned()
    }

    /// The next events as a JSON list; none when there will be no more.
    #[napi]
    pub fn next(&self, ticket: f64) {
        let run = self.run.clone();
        settle(&self.port, self.run.engine(), ticket, async move {
            let Some(first) = run.next_async().await? else { return Ok((Payload::None, None)) };
            let mut events = Batch::new(first);
            // Dropping the future of an event that is not there loses nothing.
            while events.has_room()
                && let Some(Ok(Some(event))) = run.next_async().now_or_never()
            {
                events.push(&event);
            }
            Ok((Payload::Text(events.finish()), None))
        });
    }

    /// What the run came to.
    #[napi]
    pub fn result(&self, ticket: f64) {
        let run = self.run.clone();
        settle(&self.port, self.run.engine(), ticket, async move {
            let result = run.result_async().await?;
            Ok((Payload::Text(result.json), result.error))
        });
    }

    /// Asks for the run to be cancelled.
    #[napi]
    pub fn cancel(&self, grace_ms: f64, reason: Option<String>) -> napi::Result<()> {
        throwing(self.run.cancel(grace_ms as u64, reason))
    }

    /// Lets go of the run.
    #[napi]
    pub fn close(&self) {
        self.run.close();
    }
}

/// See [`HostObserver`].
#[napi(js_name = "Observer")]
pub struct NativeObserver {
    pub(crate) observer: Arc<HostObserver>,
    pub(crate) port: Arc<Shared>,
}

#[napi]
impl NativeObserver {
    /// The next events as a JSON list; none when there will be no more for now.
    #[napi]
    pub fn next(&self, ticket: f64) {
        let observer = self.observer.clone();
        settle(&self.port, self.observer.engine(), ticket, async move {
            let Some(first) = observer.next_async().await else { return Ok((Payload::None, None)) };
            let mut events = Batch::new(first);
            while events.has_room()
                && let Some(Some(event)) = observer.next_async().now_or_never()
            {
                events.push(&event);
            }
            Result::Ok((Payload::Text(events.finish()), None))
        });
    }
}

/// Events as one JSON list.
struct Batch {
    text: String,
    len: usize,
}

impl Batch {
    fn new(first: String) -> Self {
        Self { text: format!("[{first}"), len: 1 }
    }

    fn has_room(&self) -> bool {
        self.len < BATCH
    }

    fn push(&mut self, event: &str) {
        self.text.push(',');
        self.text.push_str(event);
        self.len += 1;
    }

    fn finish(mut self) -> String {
        self.text.push(']');
        self.text
    }
}
