//! The workflow machine: decides what a workflow's run does next, and nothing else.
//!
//! The run:
//! ```text
//! New        --Start-->             Running     steps that wait for nothing begin
//! Running    --Waiting only-->      Running     the run is suspended until a command or a timer comes
//! Running    --AllEnded-->          Closed      completed
//! Running    --Bail-->              Closed      what is under way is ended first
//! Running    --Failure-->           Closed      what is under way is ended first
//! Closed     --Retry-->             Running     after a failure only: what failed or was ended begins again
//! any        --Cancel-->            cancelling  nothing new starts; results inside the grace are recorded; then Closed
//! ```
//! A step:
//! ```text
//! Waiting    --all of `after` ended-->  To do       in the order of the spec
//! To do      --condition, needs-->      Skipped     effect_skipped
//! To do      --when is a function-->    Asking      effect `id.when`
//! To do      --asks the world-->        Open        effect_started (step, tool, run, timer)
//! To do      --is worked out-->         Done        effect_completed (map, bail, a signal that is there)
//! To do      --waits for somebody-->    Open        effect_suspended (suspend, wait)
//! To do      --foreach, loop-->         Open        effect_started (group); its steps begin, as `id.<n>.<step>`
//! Open       --answer-->                Done        effect_completed
//! Open       --failure, tries left-->   Open        effect_failed with retry_at_ms; then effect_started, the next attempt
//! Open       --failure-->               Failed      effect_failed; the run fails
//! Open       --suspend-->               Open        effect_suspended; resumed, it is to do again
//! Open       --last of its steps-->     Done        foreach: all items; loop: when `id.<n>.while` says so
//! ```
//!
//! [`WorkflowMachine::handle`] turns an input into events and [`WorkflowMachine::advance`] derives what follows; only
//! [`WorkflowMachine::apply`] changes state. Effect ids are paths of step ids and places: `charge`, `items.3.price`, `poll.0.until`.

mod builder;
mod difference;
mod draft;
mod expression;
mod machine;
mod mapping;
mod migration;
pub mod picture;
mod plan;
mod state;
#[cfg(test)]
mod tests;

pub use builder::{Built, Each, Part, Repeat, TypedStep, When, Workflow};
pub use difference::difference;
pub use draft::{Drafted, drafted};
pub use machine::{Start, WorkflowMachine};
pub use migration::{Misfit, fold, shown};
pub use plan::{Needed, WorkflowPlan};
