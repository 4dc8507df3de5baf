//! Stores of Lomusai. What a store promises is in [`lomusai_core::storage`]; `tests/behaviour` holds every store to it.

#[cfg(feature = "sqlite")]
pub mod sqlite;
