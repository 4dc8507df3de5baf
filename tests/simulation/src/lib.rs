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

/// Seeds that find what is known and not mended yet, with what it is.
pub fn open() -> std::collections::BTreeMap<u64, &'static str> {
    listed(include_str!("../open.txt"))
}

/// Seeds that once found something, with what it was.
pub fn mended() -> std::collections::BTreeMap<u64, &'static str> {
    listed(include_str!("../seeds.txt"))
}

fn listed(text: &'static str) -> std::collections::BTreeMap<u64, &'static str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (seed, what) = line.split_once(' ').expect("a line is a seed, and what it finds");
            (seed.parse().expect("a line begins with a seed"), what)
        })
        .collect()
}
