//! Embeddings over HTTP: texts in batches, vectors in the order of the texts, each of the promised length and of norm 1.

use std::fmt;

use lomusai_core::cancel::CancelToken;
use lomusai_core::llm::EmbeddingProvider;
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::codes;
use serde_json::{Value, json};

use crate::ProviderConfig;
use crate::http::complaint;
use crate::http::endpoint::Endpoint;
use crate::http::failure::nonsense;
use crate::kinds::Kind;
use crate::wire::Post;

/// How a provider is asked for embeddings.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Embeddings {
    /// `embeddings`, as OpenAI has it. `sized`: whether the number of dimensions may be asked for.
    OpenAi {
        /// Whether `dimensions` may be sent.
        sized: bool,
    },
    /// `v1/embeddings`, with a bound on the tokens of a request and a field of its own for the dimensions.
    Mistral,
    /// `batchEmbedContents`.
    Google,
    /// `v2/embed`.
    Cohere,
    /// `api/embed`.
    Ollama,
}

/// A source of embeddings over HTTP: `openai`, `google`, `mistral`, `cohere`, `ollama`, `compatible` and their like.
///
/// Calls must be made within a tokio runtime with time and I/O enabled. Dropping the future ends the request.
///
/// # Errors
/// As of a [`Provider`](crate::Provider); `provider_response_invalid` also where vectors are missing or of another length.
pub struct Embedder {
    kind: &'static Kind,
    wire: Embeddings,
    endpoint: Endpoint,
    model: String,
    dimensions: usize,
    bytes_max: usize,
}

impl Embedder {
    /// An embedder of this kind of provider. `config.model` names the model; `dimensions` is how long its vectors are, and is asked
    /// for where the provider can be asked.
    ///
    /// # Errors
    /// `provider_unknown`; `unsupported` for a kind that has no embeddings; `argument_invalid`, naming the setting.
    pub fn new(kind: &str, dimensions: usize, config: ProviderConfig) -> Result<Self> {
        let kind = Kind::named(kind)?;
        let Some(wire) = kind.embeddings else {
            let message = format!("the provider `{}` has no embeddings that this version speaks", kind.name);
            return Err(Error::new(codes::UNSUPPORTED, message).with("provider", kind.name));
        };
        if dimensions == 0 {
            return Err(Error::new(
                codes::ARGUMENT_INVALID,
                "dimensions must be over 0: how many numbers a vector has",
            ));
        }
        let Some(model) = config.model.clone().filter(|model| !model.is_empty()) else {
            let message = format!("model is missing: which model of the provider `{}` embeds", kind.name);
            return Err(Error::new(codes::ARGUMENT_INVALID, message));
        };
        let bytes_max = usize::try_from(config.max_response_bytes).unwrap_or(usize::MAX);
        Ok(Self { kind, wire, endpoint: config.endpoint(kind)?, model, dimensions, bytes_max })
    }

    async fn batch(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let reply = self.endpoint.post(self.post(texts)?, &CancelToken::new()).await?;
        if !(200..300).contains(&reply.status()) {
            return Err(complaint::of_reply(reply).await);
        }
        let body = reply.bytes(self.bytes_max).await?;
        let answer: Value = serde_json::from_slice(&body)
            .map_err(|error| nonsense(&error.to_string(), &String::from_utf8_lossy(&body)))?;
        let vectors = self.vectors(&answer).ok_or_else(|| nonsense("no embeddings", &answer.to_string()))?;
        if vectors.len() != texts.len() {
            return Err(nonsense(&format!("{} embeddings for {} texts", vectors.len(), texts.len()), ""));
        }
        vectors.into_iter().map(|vector| self.checked(vector)).collect()
    }

    fn post(&self, texts: &[&str]) -> Result<Post> {
        let (path, body) = match self.wire {
            Embeddings::OpenAi { sized } => {
                let mut body = json!({"model": self.model, "input": texts, "encoding_format": "float"});
                // The oldest has one length only, and refuses to be asked.
                if sized && !self.model.contains("ada-002") {
                    body["dimensions"] = self.dimensions.into();
                }
                (vec!["embeddings".to_owned()], body)
            }
            Embeddings::Mistral => {
                let mut body = json!({"model": self.model, "input": texts, "encoding_format": "float"});
                // Of `mistral-embed` it is fixed.
                if self.model.starts_with("codestral-embed") {
                    body["output_dimension"] = self.dimensions.into();
                }
                (vec!["embeddings".to_owned()], body)
            }
            Embeddings::Google => {
                let model =
                    if self.model.contains('/') { self.model.clone() } else { format!("models/{}", self.model) };
                let one = |text: &&str| json!({"model": model, "content": {"parts": [{"text": text}]}, "outputDimensionality": self.dimensions});
                let mut path = vec!["v1beta".to_owned()];
                path.extend(format!("{model}:batchEmbedContents").split('/').map(str::to_owned));
                (path, json!({"requests": texts.iter().map(one).collect::<Vec<_>>()}))
            }
            Embeddings::Cohere => {
                let mut body = json!({"model": self.model, "texts": texts, "input_type": "search_document", "embedding_types": ["float"]});
                // Known since embed-v4.
                if !["-v2", "-v3"].iter().any(|old| self.model.contains(old)) {
                    body["output_dimension"] = self.dimensions.into();
                }
                (vec!["v2".to_owned(), "embed".to_owned()], body)
            }
            Embeddings::Ollama => {
                (vec!["api".to_owned(), "embed".to_owned()], json!({"model": self.model, "input": texts}))
            }
        };
        let body = serde_json::to_vec(&body).expect("texts and numbers are JSON");
        Ok(Post { path, query: &[], headers: &[], body })
    }

    /// The vectors of an answer, in the order of the texts.
    fn vectors(&self, answer: &Value) -> Option<Vec<Vec<f64>>> {
        let numbers = |list: &Value| list.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
        let items = match self.wire {
            Embeddings::OpenAi { .. } | Embeddings::Mistral => &answer["data"],
            Embeddings::Cohere => &answer["embeddings"]["float"],
            Embeddings::Google | Embeddings::Ollama => &answer["embeddings"],
        };
        let mut items: Vec<&Value> = items.as_array()?.iter().collect();
        // Where the server says which text a vector is of, its word counts, and not its order.
        items.sort_by_key(|item| item.get("index").and_then(Value::as_u64));
        let vector = |item: &Value| match self.wire {
            Embeddings::OpenAi { .. } | Embeddings::Mistral => numbers(&item["embedding"]),
            Embeddings::Google => numbers(&item["values"]),
            Embeddings::Cohere | Embeddings::Ollama => numbers(item),
        };
        items.into_iter().map(vector).collect()
    }

    fn checked(&self, vector: Vec<f64>) -> Result<Vec<f32>> {
        if vector.len() != self.dimensions {
            let (model, kind, length, wanted) = (&self.model, self.kind.name, vector.len(), self.dimensions);
            let message = format!(
                "the model `{model}` of `{kind}` gives vectors of {length} numbers, not {wanted}: set dimensions to {length}"
            );
            return Err(Error::new(codes::PROVIDER_RESPONSE_INVALID, message));
        }
        let norm = vector.iter().map(|number| number * number).sum::<f64>().sqrt();
        if !norm.is_finite() || norm == 0.0 {
            return Err(nonsense("a vector without a direction", ""));
        }
        Ok(vector.into_iter().map(|number| (number / norm) as f32).collect())
    }
}

impl Embeddings {
    /// Most texts in one request.
    fn batch(self) -> usize {
        match self {
            Self::OpenAi { .. } => 256,
            Self::Mistral => 32,
            Self::Google => 100,
            Self::Cohere => 96,
            Self::Ollama => 64,
        }
    }

    /// Most bytes of text in one request, where that is bounded: no text has more tokens than bytes. A longer text goes alone.
    fn batch_bytes(self) -> usize {
        match self {
            Self::Mistral => 16_000,
            _ => usize::MAX,
        }
    }

    /// The texts of the first request, and those of others.
    fn split<'a, 'b>(self, texts: &'a [&'b str]) -> (&'a [&'b str], &'a [&'b str]) {
        let mut bytes = 0_usize;
        let fits = |text: &&&str| {
            bytes = bytes.saturating_add(text.len());
            bytes <= self.batch_bytes()
        };
        let count = texts.iter().take(self.batch()).take_while(fits).count();
        texts.split_at(count.max(1).min(texts.len()))
    }
}

impl EmbeddingProvider for Embedder {
    fn embed<'a>(&'a self, texts: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<Vec<f32>>>> {
        Box::pin(async move {
            let mut vectors = Vec::with_capacity(texts.len());
            let mut rest = texts;
            while !rest.is_empty() {
                let batch;
                (batch, rest) = self.wire.split(rest);
                let found = self.batch(batch).await.map_err(|error| {
                    let error = error.with("provider", self.kind.name).with("model", self.model.as_str());
                    self.endpoint.scrub(error)
                })?;
                vectors.extend(found);
            }
            Ok(vectors)
        })
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }
}

impl fmt::Debug for Embedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedder")
            .field("kind", &self.kind.name)
            .field("model", &self.model)
            .field("dimensions", &self.dimensions)
            .finish_non_exhaustive()
    }
}
