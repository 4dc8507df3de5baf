//! The pure half of Lomusai: machines that decide what a run does next, the traits that a host implements, and the rules of a
//! transcript. Nothing here does I/O, reads a clock or draws a random number; `lomusai_runtime` carries out what is decided.

pub mod agent;
pub mod budget;
pub mod cancel;
pub mod component;
pub mod error;
pub mod fork;
pub mod journal;
pub mod llm;
pub mod machine;
pub mod models;
pub mod partial_json;
pub mod retry;
pub mod schema;
pub mod seam;
pub mod storage;
pub mod sync;
pub mod table;
pub mod telemetry;
pub mod testing;
pub mod tool;
pub mod transcript;
pub mod workflow;

pub use error::{Error, Result};
pub use lomusai_wire as wire;

/// A boxed future, which object-safe traits return.
pub use futures_util::future::BoxFuture;
