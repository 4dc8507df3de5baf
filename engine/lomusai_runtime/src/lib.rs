//! The driver of Lomusai: an engine that keeps components, starts and recovers runs, and carries out on tokio what their machines decide.

mod ask;
mod budgets;
mod cassette;
mod clock;
mod config;
mod driver;
mod effects;
mod engine;
mod fork;
mod inner;
pub mod layer;
mod load;
mod migration;
mod publisher;
mod queue;
mod recovery;
mod registry;
mod retention;
mod run;
mod schedule;
mod telemetry;
mod threads;

pub use cassette::{CassetteConfig, CassetteMode};
pub use config::EngineConfig;
pub use engine::{BudgetState, Engine, EngineBuilder, PictureFormat, PictureOf, StartReport};
pub use migration::{Fit, Migration};
pub use queue::Next;
pub use registry::ComponentKind;
pub use retention::Retention;
pub use run::{Observer, Run, RunRequest, RunResult};
pub use schedule::{Missed, Schedule, ScheduleState};
