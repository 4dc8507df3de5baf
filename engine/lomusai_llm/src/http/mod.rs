//! What every provider over HTTP shares: a client that leaves no trace in the process, a place to post to, and the meaning of an answer.

#[cfg(feature = "bedrock")]
pub(crate) mod aws;
pub(crate) mod client;
#[cfg(feature = "_http")]
pub(crate) mod complaint;
#[cfg(feature = "_http")]
pub(crate) mod date;
#[cfg(feature = "_http")]
pub(crate) mod decoder;
#[cfg(feature = "_http")]
pub(crate) mod endpoint;
#[cfg(feature = "_http")]
pub(crate) mod failure;
#[cfg(feature = "bedrock")]
pub(crate) mod frames;
#[cfg(feature = "_http")]
pub(crate) mod objects;
#[cfg(feature = "_http")]
pub(crate) mod sse;
