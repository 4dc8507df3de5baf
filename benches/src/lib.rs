//! Benchmarks of Lomusai.
