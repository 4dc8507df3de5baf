//! What crosses a border: conformance vectors and their runners.
//!
//! `tests/conformance/README.md` is the contract. [`vector`] reads it, [`behaviour`] is what host functions do in it, [`matching`]
//! says how a run differs from what was expected, and [`bare`] runs a vector with no runtime at all: the machine, a journal and
//! a loop. A runner for a real driver shares all but the last.

pub mod bare;
pub mod behaviour;
pub mod matching;
pub mod vector;
