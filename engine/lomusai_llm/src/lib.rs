//! Model providers of Lomusai. [`Provider::new`] makes one of the [`KINDS`], by its name.
//!
//! A wire is a protocol, and a folder of one shape: `mod.rs` (whom it reaches), `request.rs` (our words into theirs), `response.rs` (their
//! answer into ours, without I/O). A provider is a row of [`KINDS`]: an address, a key, and a wire. `http/` holds what all share: the
//! client, the framings of streams, and the meaning of a status. `local/` needs no server: it runs models in this process.

#[cfg(feature = "anthropic")]
mod anthropic;
#[cfg(feature = "bedrock")]
mod bedrock;
#[cfg(any(feature = "anthropic", feature = "bedrock"))]
mod claude;
#[cfg(feature = "cohere")]
mod cohere;
#[cfg(feature = "_http")]
mod config;
#[cfg(feature = "_http")]
mod embeddings;
#[cfg(feature = "google")]
mod google;
#[cfg(feature = "_client")]
mod http;
#[cfg(feature = "_http")]
mod ids;
#[cfg(feature = "_http")]
mod json;
#[cfg(feature = "_http")]
mod kinds;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "_http")]
mod media;
#[cfg(feature = "ollama")]
mod ollama;
#[cfg(feature = "_openai_chat")]
mod openai_chat;
#[cfg(feature = "_openai_responses")]
mod openai_responses;
#[cfg(feature = "_http")]
mod provider;
#[cfg(feature = "_http")]
mod question;
// For the recorded traffic, which is replayed without a network. Not part of the API.
#[cfg(feature = "_http")]
#[doc(hidden)]
pub mod replay;
#[cfg(feature = "_http")]
mod router;
mod secret;
#[cfg(feature = "_http")]
mod wire;

#[cfg(feature = "_http")]
pub use config::{ProviderConfig, Timeouts};
#[cfg(feature = "_http")]
pub use embeddings::Embedder;
#[cfg(feature = "_http")]
pub use kinds::{KINDS, Kind};
#[cfg(feature = "_http")]
pub use provider::Provider;
#[cfg(feature = "_http")]
pub use router::Router;
pub use secret::Secret;
