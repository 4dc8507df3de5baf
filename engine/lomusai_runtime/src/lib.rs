//! The driver of Lomusai on tokio: engine, registry, runs, subscribers.
