//! The engine on a virtual clock. A seed chooses what runs, in which order things happen and what goes wrong; a checker that knows the rules
//! of the journal reads along. The same seed plays the same game.
//!
//! ```text
//! cargo xtask simulate --seeds N --from S
//! cargo xtask simulate --seed S            one seed, told in words
//! ```
//! Everything is the real engine but for what surrounds it: the store, the clock, the model and the host's functions are simulated. A
//! process is what lies between an engine and these: it dies when none of its calls is let through any more, it is stopped when they wait.

mod checker;
pub mod fault;
mod host;
mod play;
pub mod random;
mod scenario;
mod store;
mod world;

pub use play::{Played, play};
