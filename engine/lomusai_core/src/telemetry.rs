//! Where the engine's notes and events can be watched. Nothing is ever printed.

use lomusai_wire::{Event, LogLevel};

/// Watches an engine. Called on the engine's threads: must not block.
pub trait TelemetrySink: Send + Sync {
    /// A note for people.
    fn log(&self, level: LogLevel, target: &str, message: &str);

    /// Every durable event of every run, once it is committed.
    fn event(&self, _event: &Event) {}
}
