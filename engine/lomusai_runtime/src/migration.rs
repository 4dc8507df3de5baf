//! Runs of a workflow that has changed: whether they can go on under its spec of today, and the migrations that say how.

use std::collections::BTreeMap;
use std::time::Duration;

use lomusai_core::component::{CallContext, RunContext};
use lomusai_core::workflow::{self, Misfit, WorkflowMachine, WorkflowPlan};
use lomusai_core::{Error, Result};
use lomusai_wire::{Event, EventBody, RunFilter, RunId, RunStatus, SpecKind, SpecRef, WorkflowSpec, codes};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tokio::sync::oneshot;

use crate::Engine;
use crate::inner::{Inner, closed};
use crate::load::Started;

/// How runs of a workflow that began under one spec go on under another. Data, so that it is the same in every language.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Migration {
    /// The workflow.
    pub workflow: String,
    /// The hash of the spec that runs began under: `run_started.spec.hash`.
    pub from: String,
    /// Steps that are named otherwise now, by their old name; those that are forgotten as if they had not run, with `null`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub steps: BTreeMap<String, Option<String>>,
    /// What steps came to, by their new names: in place of what they did come to, or for new ones in the place of running.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub outputs: Map<String, Value>,
    /// Values of the state that are set; `null` removes one.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub state: Map<String, Value>,
    /// A registered function that is asked for each run with `{workflow, run_id, from, to, outputs, state}` and answers `{steps?, outputs?, state?}`, over
    /// what is said here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
}

impl Migration {
    /// Runs of this workflow that began under the spec of this hash go on as they are, where they fit.
    pub fn new(workflow: impl Into<String>, from: impl Into<String>) -> Self {
        Self { workflow: workflow.into(), from: from.into(), ..Self::default() }
    }
}

/// What a migration's function answers.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Answer {
    steps: BTreeMap<String, Option<String>>,
    outputs: Map<String, Value>,
    state: Map<String, Value>,
}

/// Whether a stored run can go on under a spec.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Fit {
    /// The run.
    pub run_id: RunId,
    /// Where it stands.
    pub status: RunStatus,
    /// The hash of the spec that it is of.
    pub hash: String,
    /// Whether it can: as it is where the hash is the same, else by a migration.
    pub fits: bool,
    /// Whether it needs a migration for that, and none is registered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub needs_migration: bool,
    /// What stands against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub misfit: Option<Misfit>,
}

impl Engine {
    /// Registers how runs that began under another spec of a workflow go on under the registered one. A run is migrated when it next goes on;
    /// its journal says so.
    ///
    /// # Errors
    /// `workflow_unknown`; `name_taken` where there is one for this hash; `argument_invalid`.
    pub fn register_migration(&self, migration: Migration) -> Result<()> {
        let now = self.0.registry.workflow_spec(&migration.workflow)?;
        if migration.from == lomusai_core::journal::value_hash(&now) {
            let message =
                format!("workflow `{}` is of the spec `{}` now: `from` is the one before", now.name, migration.from);
            return Err(Error::new(codes::ARGUMENT_INVALID, message).with("workflow", now.name));
        }
        self.0.registry.add_migration(migration)
    }

    /// Whether the unfinished runs of a workflow could go on under this spec, with the migrations that are registered. Runs nothing, changes
    /// nothing, asks no function.
    ///
    /// # Errors
    /// What is wrong with the spec; storage errors.
    pub async fn check_workflow(&self, spec: WorkflowSpec) -> Result<Vec<Fit>> {
        self.0.open()?;
        let plan = Arc::new(WorkflowPlan::new(spec)?);
        let mut filter = RunFilter::default();
        (filter.kind, filter.agent, filter.limit) =
            (Some(SpecKind::Workflow), Some(plan.spec.name.clone()), Some(u32::MAX));
        filter.status = vec![
            RunStatus::Running,
            RunStatus::Suspended,
            RunStatus::Waiting,
            RunStatus::Failed,
            RunStatus::Blocked,
            RunStatus::Poisoned,
        ];
        let mut fits = Vec::new();
        for info in self.0.store.runs(&filter).await? {
            let mut events = self.0.journal(&info.run_id).await?;
            let hash = Started::of(&events, &info.run_id)?.spec.hash.clone();
            let migration = self.0.registry.migration(&plan.spec.name, &hash);
            let same = hash == plan.hash;
            if let Some(migration) = migration.as_ref().filter(|_| !same) {
                push(&mut events, migrated(migration, &plan, Answer::default()));
            }
            let misfit = workflow::fold(&plan, info.run_id.clone(), &events).err();
            let needs_migration = !same && migration.is_none();
            let fits_now = misfit.is_none() && !needs_migration;
            fits.push(Fit { run_id: info.run_id, status: info.status, hash, fits: fits_now, needs_migration, misfit });
        }
        Ok(fits)
    }
}

impl Inner {
    /// Reads a run under the registered spec of its workflow, which is another one than it is of. Gives the event that has to be recorded.
    ///
    /// # Errors
    /// `changed`, where no migration is registered, or the run does not fit with it.
    pub(crate) async fn migrated(
        &self,
        changed: Error,
        events: &[Event],
        run_id: &RunId,
        hash: &str,
    ) -> Result<(Arc<WorkflowPlan>, WorkflowMachine, EventBody)> {
        let started = Started::of(events, run_id)?;
        let name = &started.spec.name;
        let Some(migration) = self.registry.migration(name, hash) else { return Err(changed) };
        let plan = self.registry.workflow(name)?;
        let answer = match &migration.function {
            Some(function) => self.ask_migration(function, events, run_id, &migration, &plan).await?,
            None => Answer::default(),
        };
        let body = migrated(&migration, &plan, answer);
        let mut read = events.to_vec();
        push(&mut read, body.clone());
        match workflow::fold(&plan, run_id.clone(), &read) {
            Ok(machine) => Ok((plan, machine, body)),
            Err(misfit) => Err(Error::new(
                codes::WORKFLOW_CHANGED,
                format!("run `{run_id}` cannot go on under the spec of workflow `{name}` as it is now, also not as its migration says: {misfit}. Change the migration, or cancel the run"),
            )
            .with("workflow", name.as_str())
            .with("run_id", run_id.as_str())
            .with("misfit", json!(misfit))),
        }
    }

    async fn ask_migration(
        &self,
        name: &str,
        events: &[Event],
        run_id: &RunId,
        migration: &Migration,
        plan: &WorkflowPlan,
    ) -> Result<Answer> {
        let function = self.registry.function(name)?;
        let (outputs, state) = workflow::shown(events);
        let question = json!({
            "workflow": migration.workflow, "run_id": run_id, "from": migration.from, "to": plan.hash, "outputs": outputs, "state": state,
        });
        let mut run = RunContext::new(run_id.clone());
        run.agent = migration.workflow.as_str().into();
        let context = CallContext::of(Arc::new(run), "migrate".into());
        let limit = Duration::from_millis(plan.spec.limits.function_ms());
        let (reply, answered) = oneshot::channel();
        // As a task: whoever waits for the run need not be on one of our threads, and a panic is its own.
        self.threads.spawn(async move {
            let _ = reply.send(tokio::time::timeout(limit, function.call(context, question)).await);
        });
        let said = match answered.await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) => {
                let message = format!("function `{name}` did not answer within {} ms", limit.as_millis());
                return Err(Error::new(codes::FUNCTION_TIMEOUT, message).with("function", name));
            }
            Err(_) if self.open().is_err() => return Err(closed()),
            Err(_) => {
                return Err(
                    Error::new(codes::CALLBACK_PANICKED, format!("function `{name}` panicked")).with("function", name)
                );
            }
        };
        serde_json::from_value(said).map_err(|e| {
            Error::new(
                codes::FUNCTION_REPLY_INVALID,
                format!("function `{name}` migrates with {{steps?, outputs?, state?}}: {e}"),
            )
            .with("function", name)
        })
    }
}

fn migrated(migration: &Migration, plan: &WorkflowPlan, answer: Answer) -> EventBody {
    let (mut steps, mut outputs, mut state) =
        (migration.steps.clone(), migration.outputs.clone(), migration.state.clone());
    steps.extend(answer.steps);
    outputs.extend(answer.outputs);
    state.extend(answer.state);
    outputs.values_mut().chain(state.values_mut()).for_each(lomusai_wire::normalise);
    let spec = SpecRef::new(SpecKind::Workflow, &plan.spec.name, &plan.hash);
    EventBody::RunMigrated { spec: Box::new(spec), steps, outputs, state }
}

fn push(events: &mut Vec<Event>, body: EventBody) {
    let last = events.last().expect("a journal has a beginning");
    events.push(Event::new(last.run_id.clone(), last.seq + 1, 0, last.at_ms, body));
}
