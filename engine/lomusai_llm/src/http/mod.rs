//! What every provider over HTTP shares: a client that leaves no trace in the process, a place to post to, and the meaning of an answer.

#[cfg(feature = "bedrock")]
pub(crate) mod aws;
pub(crate) mod client;
pub(crate) mod complaint;
pub(crate) mod date;
pub(crate) mod decoder;
pub(crate) mod endpoint;
pub(crate) mod failure;
#[cfg(feature = "bedrock")]
pub(crate) mod frames;
pub(crate) mod objects;
pub(crate) mod sse;
