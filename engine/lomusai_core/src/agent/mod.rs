//! The agent machine: decides what an agent's run does next, and nothing else.
//!
//! ```text
//! New        --Start-->            Preparing   input processors, then instructions
//! Preparing  --AllAnswered-->      Step 1
//! Step n     --StepProcessors-->   Thinking    asks the model                                  (effect n.model)
//! Thinking   --ModelSaid(calls)--> Acting      one effect per call, in the model's order       (effects n.0, n.1, …)
//! Thinking   --ModelSaid(text)-->  Reviewing
//! Acting     --Waiting only-->     Acting      the run is suspended until a command comes
//! Acting     --AllCallsDone-->     Reviewing   hook, stop conditions                           (effects n.after, n.stop.i)
//! Reviewing  --GoOn|Paused-->      Step n+1    calls were answered, or the provider wants to go on with its answer
//! Reviewing  --Answer|Stop|Max-->  Finishing   shape of the answer, output processors          (effects n.output.i)
//! Finishing  --Feedback-->         Step n+1    the model may correct itself
//! Finishing  --Accepted-->         Closed
//! any        --Failure-->          Closed      unanswered calls get a `cancelled` result first
//! any        --Cancel-->           cancelling  nothing new starts; results inside the grace are recorded; then Closed
//! ```
//!
//! [`AgentMachine::handle`] turns an input into events and [`AgentMachine::advance`] derives what follows; only
//! [`AgentMachine::apply`] changes state. So living through a run, replaying its journal and recovering it are one code path.

mod machine;
mod plan;
mod state;
#[cfg(test)]
mod tests;

pub use crate::machine::{ChildOutcome, Decision, Effect, EffectInput, Input, ModelOutcome};
pub use machine::{AgentMachine, Start, WRITTEN_BY};
pub use plan::{
    AGENT_TOOL_PREFIX, Plan, PlannedTool, WORKFLOW_TOOL_PREFIX, check_agent, check_name, check_tool, workflow_tool,
};
