//! What every provider over HTTP shares: a client that leaves no trace in the process, a place to post to, and the meaning of an answer.

#[cfg(feature = "bedrock")]
pub(crate) mod aws;
pub(crate) mod causes;
pub(crate) mod client;
#[cfg(feature = "_http")]
pub(crate) mod complaint;
mod connection;
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
mod pool;
mod route;
#[cfg(feature = "_http")]
pub(crate) mod sse;
pub(crate) mod tls;
