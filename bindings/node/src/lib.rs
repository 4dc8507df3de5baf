//! Lomusai for Node: the classes under `lib/*.js`, and the one door through which the engine's threads reach JavaScript.
//!
//! No thread but JavaScript's own ever waits for JavaScript: what the engine has to say is queued in a [`port`] and read from there.

// What JavaScript sees is documented in `index.d.ts`; these items are only called from `lib`.
#![allow(unreachable_pub, reason = "napi exports what is public, wherever it is")]

mod answer;
mod engine;
mod error;
mod port;
mod run;

lomusai_host::allocator!();
