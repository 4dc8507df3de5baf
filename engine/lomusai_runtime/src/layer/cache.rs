//! The same answer for the same request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use lomusai_core::component::CallContext;
use lomusai_core::llm::{LlmProvider, ModelStream};
use lomusai_core::sync::Mutex;
use lomusai_core::transcript::Accepts;
use lomusai_core::{BoxFuture, Result};
use lomusai_wire::{ModelChunk, ModelRequest, Usage};
use tokio::time::Instant;

/// Gives an answer again where the same request came before, for a while. Only whole answers are kept. One given again has used nothing.
pub struct Cached<P> {
    inner: P,
    ttl: Duration,
    entries_max: usize,
    answers: Arc<Mutex<Answers>>,
}

#[derive(Default)]
struct Answers {
    by_request: HashMap<String, (Instant, Arc<[ModelChunk]>)>,
}

impl Answers {
    fn get(&mut self, key: &str, ttl: Duration) -> Option<Arc<[ModelChunk]>> {
        let (kept, chunks) = self.by_request.get(key)?;
        if kept.elapsed() < ttl {
            return Some(chunks.clone());
        }
        self.by_request.remove(key);
        None
    }

    fn keep(&mut self, key: String, chunks: Vec<ModelChunk>, most: usize) {
        if self.by_request.len() >= most
            && let Some(oldest) = self.by_request.iter().min_by_key(|(_, (kept, _))| *kept).map(|(key, _)| key.clone())
        {
            self.by_request.remove(&oldest);
        }
        self.by_request.insert(key, (Instant::now(), chunks.into()));
    }
}

impl<P: LlmProvider> Cached<P> {
    /// This provider, whose answers are kept for `ttl`, at most `entries_max` of them (default 1,000).
    pub fn new(inner: P, ttl: Duration, entries_max: Option<usize>) -> Self {
        Self { inner, ttl, entries_max: entries_max.unwrap_or(1_000).max(1), answers: Arc::default() }
    }
}

impl<P: LlmProvider> LlmProvider for Cached<P> {
    fn accepts(&self) -> Accepts {
        self.inner.accepts()
    }

    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        Box::pin(async move {
            // The text and not a hash of its canonical form: the order of a schema matters.
            let key = serde_json::to_string(&*request).expect("a request is JSON");
            if let Some(chunks) = self.answers.lock().get(&key, self.ttl) {
                let chunks = chunks.iter().map(|chunk| match chunk {
                    ModelChunk::Usage { .. } => ModelChunk::Usage { usage: Usage::default() },
                    other => other.clone(),
                });
                let chunks: Vec<_> = chunks.map(Ok).collect();
                return Ok(Box::pin(stream::iter(chunks)) as ModelStream);
            }
            let mut answer = self.inner.stream(context, request).await?;
            let (answers, most) = (self.answers.clone(), self.entries_max);
            let mut so_far = Some((key, Vec::new()));
            Ok(Box::pin(stream::poll_fn(move |task| {
                let item = answer.poll_next_unpin(task);
                if let std::task::Poll::Ready(Some(item)) = &item {
                    match (item, &mut so_far) {
                        (Ok(chunk), Some((_, chunks))) => chunks.push(chunk.clone()),
                        _ => so_far = None,
                    }
                    if matches!(item, Ok(ModelChunk::Finish { .. }))
                        && let Some((key, chunks)) = so_far.take()
                    {
                        answers.lock().keep(key, chunks, most);
                    }
                }
                item
            })) as ModelStream)
        })
    }
}
