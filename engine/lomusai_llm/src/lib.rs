//! Model providers of Lomusai. Each is a folder of one shape and a feature of its own: `config.rs` (what it is told),
//! `request.rs` (our words into theirs), `response/` (their stream into ours, without I/O), `errors.rs` (what went wrong).
//!
//! | feature | provider |
//! |---|---|
//! | `compatible` | [`compatible::Compatible`]: any server that speaks OpenAI's Chat Completions |
//! | `local` | [`local::LocalModels`], [`local::LocalEmbedder`]: GGUF files in this process, by llama.cpp |
//!
//! `http/` holds what they share: the client, server-sent events, and the meaning of a status.

#[cfg(feature = "compatible")]
pub mod compatible;
#[cfg(feature = "_http")]
mod http;
#[cfg(feature = "local")]
pub mod local;
mod secret;

pub use secret::Secret;
