//! What stands between the engine and a model or a tool while a cassette is open.

use std::sync::Arc;
use std::task::Poll;

use futures_util::{Stream, StreamExt, stream};
use lomusai_core::component::CallContext;
use lomusai_core::llm::{LlmProvider, ModelStream};
use lomusai_core::sync::Mutex;
use lomusai_core::tool::Tool;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::{ErrorBody, EventBody, ModelChunk, ModelRequest, ToolReply, codes};
use serde_json::{Value, json};

use super::{Cassette, Exchange, Kind};

/// A provider whose answers are recorded, or come from the record. Without an inner one it can only give back.
pub(crate) struct Taped {
    pub(crate) inner: Option<Arc<dyn LlmProvider>>,
    pub(crate) cassette: Arc<Cassette>,
    pub(crate) component: String,
}

impl LlmProvider for Taped {
    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        Box::pin(async move {
            let mut asked = serde_json::to_value(&*request).expect("a request is JSON");
            self.cassette.secrets.clean(&mut asked);
            if let Some(exchange) = self.cassette.find(Kind::Model, &self.component, &asked)? {
                return given_back(&exchange);
            }
            let inner =
                self.inner.as_ref().expect("a cassette that finds nothing is an error, or there is somebody to ask");
            let mut tape = Tape {
                cassette: self.cassette.clone(),
                exchange: Some(Exchange {
                    kind: Kind::Model,
                    component: self.component.clone(),
                    request: asked,
                    chunks: Vec::new(),
                    said: Vec::new(),
                    reply: None,
                    error: None,
                    cut: true,
                }),
                chunks: Vec::new(),
            };
            match inner.stream(context, request).await {
                Ok(stream) => Ok(Box::pin(Recording { stream, tape }) as ModelStream),
                Err(error) => {
                    tape.end(Some(&error))?;
                    Err(error)
                }
            }
        })
    }
}

/// The recorded answer. One that nobody waited for goes on for ever, as it did then.
fn given_back(exchange: &Exchange) -> Result<ModelStream> {
    let mut items = Vec::with_capacity(exchange.chunks.len() + 1);
    for chunk in &exchange.chunks {
        let chunk: ModelChunk = serde_json::from_value(chunk.clone()).map_err(|e| {
            Error::new(
                codes::CASSETTE_INVALID,
                format!("a recorded piece of an answer of `{}` is none: {e}", exchange.component),
            )
        })?;
        items.push(Ok(chunk));
    }
    if let Some(error) = &exchange.error {
        let error = Error::from(error.clone());
        if items.is_empty() {
            return Err(error);
        }
        items.push(Err(error));
    }
    let items = stream::iter(items);
    Ok(if exchange.cut { Box::pin(items.chain(stream::pending())) } else { Box::pin(items) })
}

struct Tape {
    cassette: Arc<Cassette>,
    exchange: Option<Exchange>,
    chunks: Vec<ModelChunk>,
}

impl Tape {
    /// Writes the call down. Once.
    fn end(&mut self, error: Option<&Error>) -> Result<()> {
        let Some(mut exchange) = self.exchange.take() else { return Ok(()) };
        exchange.cut = false;
        self.write(exchange, error)
    }

    fn write(&mut self, mut exchange: Exchange, error: Option<&Error>) -> Result<()> {
        let secrets = &self.cassette.secrets;
        let mut chunks = std::mem::take(&mut self.chunks);
        type Of = fn(&mut ModelChunk) -> Option<(u32, &mut String)>;
        let kinds: [Of; 3] = [
            |chunk| if let ModelChunk::Text { text } = chunk { Some((0, text)) } else { None },
            |chunk| if let ModelChunk::Reasoning { text, .. } = chunk { Some((0, text)) } else { None },
            |chunk| {
                if let ModelChunk::ToolCallDelta { index, arguments, .. } = chunk {
                    Some((*index, arguments))
                } else {
                    None
                }
            },
        ];
        for of in kinds {
            let mut groups: std::collections::BTreeMap<u32, Vec<&mut String>> = std::collections::BTreeMap::new();
            for (group, text) in chunks.iter_mut().filter_map(of) {
                groups.entry(group).or_default().push(text);
            }
            groups.values_mut().for_each(|pieces| secrets.pieces(pieces));
        }
        exchange.chunks = chunks.iter().map(|chunk| serde_json::to_value(chunk).expect("a chunk is JSON")).collect();
        for chunk in &mut exchange.chunks {
            secrets.clean(chunk);
        }
        exchange.error = error.map(|error| clean_error(&self.cassette, error.body()));
        self.cassette.record(exchange)
    }
}

impl Drop for Tape {
    /// Nobody waits for the rest: what came is kept, as an answer without an end.
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            let _ = self.write(exchange, None);
        }
    }
}

fn clean_error(cassette: &Cassette, error: &ErrorBody) -> ErrorBody {
    let mut value = serde_json::to_value(error).expect("an error is JSON");
    cassette.secrets.clean(&mut value);
    serde_json::from_value(value).unwrap_or_else(|_| error.clone())
}

struct Recording {
    stream: ModelStream,
    tape: Tape,
}

impl Stream for Recording {
    type Item = Result<ModelChunk>;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, task: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        let item = std::task::ready!(self.stream.poll_next_unpin(task));
        let written = match &item {
            Some(Ok(chunk)) => {
                self.tape.chunks.push(chunk.clone());
                if matches!(chunk, ModelChunk::Finish { .. }) { self.tape.end(None) } else { Ok(()) }
            }
            Some(Err(error)) => self.tape.end(Some(error)),
            None => self.tape.end(None),
        };
        Poll::Ready(match written {
            Ok(()) => item,
            Err(unwritable) => Some(Err(unwritable)),
        })
    }
}

/// Calls a tool and records what it does, or gives back what it did.
pub(crate) async fn call_tool(
    cassette: &Cassette,
    tool: &dyn Tool,
    name: &str,
    mut context: CallContext,
    arguments: &str,
) -> Result<ToolReply> {
    let mut asked = json!({"arguments": arguments});
    if let Some(resume) = &context.resume {
        asked["resume"] = resume.clone();
    }
    cassette.secrets.clean(&mut asked);
    if let Some(exchange) = cassette.find(Kind::Tool, name, &asked)? {
        for said in &exchange.said {
            match said["name"].as_str() {
                Some(name) => context.custom(name, said["data"].clone(), said["durable"].as_bool().unwrap_or(false)),
                None => context.progress(said["data"].clone()),
            }
        }
        return match (&exchange.reply, &exchange.error) {
            (_, Some(error)) => Err(Error::from(error.clone())),
            (Some(reply), None) => serde_json::from_value(reply.clone()).map_err(|e| {
                Error::new(codes::CASSETTE_INVALID, format!("a recorded answer of tool `{name}` is none: {e}"))
            }),
            // It was cancelled then.
            (None, None) => std::future::pending().await,
        };
    }
    let said: Arc<Mutex<Vec<Value>>> = Arc::default();
    if let Some(emit) = context.emit.clone() {
        let said = said.clone();
        Arc::make_mut(&mut context.run).emit = Some(Arc::new(move |body| {
            match &body {
                EventBody::EffectProgress { data, .. } => said.lock().push(json!({"data": data})),
                EventBody::Custom { name, data, durable, .. } => {
                    said.lock().push(json!({"name": name, "data": data, "durable": durable}));
                }
                _ => {}
            }
            emit(body);
        }));
    }
    let exchange = Exchange {
        kind: Kind::Tool,
        component: name.to_owned(),
        request: asked,
        chunks: Vec::new(),
        said: Vec::new(),
        reply: None,
        error: None,
        cut: false,
    };
    let mut note = ToolNote { cassette, exchange: Some(exchange), said };
    let result = tool.call(context, arguments).await;
    note.end(&result)?;
    result
}

struct ToolNote<'a> {
    cassette: &'a Cassette,
    exchange: Option<Exchange>,
    said: Arc<Mutex<Vec<Value>>>,
}

impl ToolNote<'_> {
    fn end(&mut self, result: &Result<ToolReply>) -> Result<()> {
        let mut exchange = self.exchange.take().expect("a tool ends once");
        match result {
            Ok(reply) => exchange.reply = Some(serde_json::to_value(reply).expect("a reply is JSON")),
            Err(error) => exchange.error = Some(clean_error(self.cassette, error.body())),
        }
        self.write(exchange)
    }

    fn write(&self, mut exchange: Exchange) -> Result<()> {
        let secrets = &self.cassette.secrets;
        exchange.said = std::mem::take(&mut *self.said.lock());
        for value in exchange.said.iter_mut().chain(&mut exchange.reply) {
            secrets.clean(value);
        }
        self.cassette.record(exchange)
    }
}

impl Drop for ToolNote<'_> {
    fn drop(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.cut = true;
            let _ = self.write(exchange);
        }
    }
}
