//! Workflows: graphs of steps as data, the same JSON in every language. A spec names its components; the host registers them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Limits, RawJson};

/// What a workflow is: steps, and what comes after what.
///
/// Steps that wait for nothing run first, side by side. A step begins once all steps in its `after` have ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct WorkflowSpec {
    /// The name it is registered under: letters, digits, `_`, `-` and `.`, at most 64.
    pub name: String,
    /// What it does, for people and for agents that may call it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// JSON Schema of its input. Default: anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<RawJson>,
    /// JSON Schema of its output. An output that does not fit fails the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<RawJson>,
    /// The steps. Their order has no meaning but for ties: of two that can begin, the first begins first.
    pub steps: Vec<StepSpec>,
    /// What the run comes to. Default: the output of the last step; where several steps are last, an object of their outputs by id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Mapping>,
    /// Retries of steps that do not say otherwise. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Times and sizes that a run must stay within.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// Facts for the host.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl WorkflowSpec {
    /// A workflow of this name with these steps.
    pub fn new(name: impl Into<String>, steps: Vec<StepSpec>) -> Self {
        Self { name: name.into(), steps, ..Self::default() }
    }
}

/// One node of a workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StepSpec {
    /// Its name, unique in the workflow: a letter, then letters, digits, `_` or `-`, at most 64.
    pub id: String,
    /// What it does, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Steps of the same list that must have ended before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// What becomes of it when steps before it were skipped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub needs: Needs,
    /// Whether it runs. A condition that does not hold, or cannot be told, skips the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// What it is given. Default: the output of the step before; the workflow's input where there is none, an object of outputs
    /// by id where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Mapping>,
    /// What it does.
    pub run: Action,
    /// How often it is tried again. Default: what the workflow says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Longest time of one attempt, in milliseconds. Default: `limits.tool_ms` of the workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// JSON Schema of what it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<RawJson>,
    /// JSON Schema of what it gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<RawJson>,
    /// JSON Schema of what it says when it suspends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend_schema: Option<RawJson>,
    /// JSON Schema of what resumes it, or of a signal's data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_schema: Option<RawJson>,
    /// Facts for the host.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

impl StepSpec {
    /// A step that waits for nothing.
    pub fn new(id: impl Into<String>, run: Action) -> Self {
        Self {
            id: id.into(),
            description: String::new(),
            after: Vec::new(),
            needs: Needs::Any,
            when: None,
            input: None,
            run,
            retry: None,
            timeout_ms: None,
            input_schema: None,
            output_schema: None,
            suspend_schema: None,
            resume_schema: None,
            metadata: Map::new(),
        }
    }

    /// The same step, behind these.
    pub fn after<I: Into<String>>(mut self, steps: impl IntoIterator<Item = I>) -> Self {
        self.after = steps.into_iter().map(Into::into).collect();
        self
    }
}

/// What becomes of a step when steps before it were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Needs {
    /// It runs if one of them ran, and is skipped if all were skipped.
    #[default]
    Any,
    /// It is skipped if one of them was skipped.
    All,
    /// It runs all the same.
    None,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// Calls the registered step function of this name.
    Step(String),
    /// Calls the registered tool of this name. Its arguments are the step's input.
    Tool(String),
    /// Runs the registered agent of this name. Its prompt is the step's input: a text, an object with `prompt`, or anything else as JSON.
    Agent(String),
    /// Runs the registered workflow of this name, with the step's input.
    Workflow(String),
    /// Works a value out.
    Map(Mapping),
    /// Waits so many milliseconds. Gives its input.
    Sleep(Mapping),
    /// Waits until this time, in milliseconds since 1970. Gives its input.
    SleepUntil(Mapping),
    /// Waits for a signal. Gives its data.
    Wait(WaitSpec),
    /// Waits for a `resume` command. Gives its data.
    Suspend(SuspendSpec),
    /// Ends the run at once, as a success, with this.
    Bail(Mapping),
    /// Runs steps for each item of a list. Gives the list of what each came to, in the order of the items.
    Foreach(ForeachSpec),
    /// Runs steps, and again as long as a condition says so. Gives what the last time came to.
    Loop(LoopSpec),
}

/// Waiting for a signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WaitSpec {
    /// The signal's name. One that came before the wait counts: the oldest that no wait has taken.
    pub signal: String,
    /// How long to wait before the step fails with `wait_timeout`. Default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl WaitSpec {
    /// A wait for this signal.
    pub fn new(signal: impl Into<String>) -> Self {
        Self { signal: signal.into(), timeout_ms: None }
    }
}

/// Waiting for a person.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SuspendSpec {
    /// What the person should know. Default: the step's input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Mapping>,
    /// A name under which it can be resumed, beside its effect's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// Steps for each item of a list. The list is the step's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ForeachSpec {
    /// The steps. Those that wait for nothing are given the item.
    pub steps: Vec<StepSpec>,
    /// What each item comes to. Default: as of a workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Mapping>,
    /// Most items at once. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
}

impl ForeachSpec {
    /// These steps for each item, one item after the other.
    pub fn new(steps: Vec<StepSpec>) -> Self {
        Self { steps, output: None, concurrency: None }
    }
}

/// Steps that run at least once. The first time, those that wait for nothing are given the step's input, later what the time before came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LoopSpec {
    /// The steps.
    pub steps: Vec<StepSpec>,
    /// What each time comes to. Default: as of a workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Mapping>,
    /// Again as long as this holds.
    #[serde(default, rename = "while", skip_serializing_if = "Option::is_none")]
    pub while_: Option<Condition>,
    /// Again until this holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Condition>,
    /// Most times before the step fails with `loop_exhausted`. Default 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

impl LoopSpec {
    /// These steps, with neither condition yet.
    pub fn new(steps: Vec<StepSpec>) -> Self {
        Self { steps, output: None, while_: None, until: None, max: None }
    }

    /// These steps as long as the condition holds.
    pub fn repeat_while(steps: Vec<StepSpec>, condition: Condition) -> Self {
        Self { while_: Some(condition), ..Self::new(steps) }
    }

    /// These steps until the condition holds.
    pub fn repeat_until(steps: Vec<StepSpec>, condition: Condition) -> Self {
        Self { until: Some(condition), ..Self::new(steps) }
    }

    /// Most times.
    pub fn max(&self) -> u32 {
        self.max.unwrap_or(1_000)
    }
}

/// A question with yes or no for an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Condition {
    /// An expression over `input` (the workflow's), `steps` (outputs by id), `state`, and where they exist `item`, `index`,
    /// `iteration` and `output`. What counts as false: `false`, `none`, 0, and what is empty.
    Expr(String),
    /// The registered function of this name: asked with `{workflow, step, input, state}`, in a loop also `{iteration, output}`, it
    /// answers a boolean.
    Function(String),
}

/// How a value is made from what a run knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mapping {
    /// What is at this path: `input.user.id`, `steps.fetch.items.0`, `state.total`, `item`, `index`, `iteration`. What is not there is null.
    From(String),
    /// This.
    Value(Value),
    /// An object.
    Object(BTreeMap<String, Mapping>),
    /// A list.
    List(Vec<Mapping>),
    /// What an expression gives; see [`Condition::Expr`].
    Expr(String),
}

/// How often a failed step is tried again. Errors that say the step can never succeed (kinds `invalid`, `not_found`, `denied`) are not retried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Retry {
    /// Most further attempts. Default 0.
    #[serde(skip_serializing_if = "is_default")]
    pub max: u32,
    /// How long to wait before the first, in milliseconds. Default 0.
    #[serde(skip_serializing_if = "is_default")]
    pub delay_ms: u64,
    /// What the wait is multiplied with from one to the next. Default 1: it stays the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<u32>,
    /// The longest wait. Default 3,600,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_max_ms: Option<u64>,
}

impl Retry {
    /// So many further attempts, at once.
    pub fn new(max: u32) -> Self {
        Self { max, ..Self::default() }
    }

    /// How long to wait after the attempt of this number, which counts from 1.
    pub fn wait_ms(&self, tried: u32) -> u64 {
        let factor = u64::from(self.factor.unwrap_or(1)).saturating_pow(tried.saturating_sub(1));
        self.delay_ms.saturating_mul(factor).min(self.delay_max_ms.unwrap_or(3_600_000))
    }
}

/// What a step function answers, as JSON: `{"output": …}`, `{"suspend": payload}` or `{"bail": result}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct StepReply {
    /// It is done; this is what it gives.
    #[serde(deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// It waits for a `resume` command. What the person who resumes it should know.
    #[serde(deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub suspend: Option<Value>,
    /// A name under which it can be resumed, beside its effect's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The whole run ends at once, as a success, with this.
    #[serde(deserialize_with = "crate::json::present", skip_serializing_if = "Option::is_none")]
    pub bail: Option<Value>,
    /// Values of the run's state that it sets; `null` removes one. Recorded together with the answer.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub state: Map<String, Value>,
    /// Statements for the store's own SQLite file, carried out in the transaction that records the answer: all of it, or nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sql: Vec<SqlStatement>,
}

/// One statement of SQL and its values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SqlStatement {
    /// The statement, with `?1`, `?2`, … where values belong.
    pub sql: String,
    /// The values: texts, numbers, booleans (as 0 and 1) and null; lists and objects as their JSON.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<Value>,
    /// How many rows it must change. Where it changes another number, the step has failed and nothing is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

impl SqlStatement {
    /// A statement with these values.
    pub fn new(sql: impl Into<String>, params: Vec<Value>) -> Self {
        Self { sql: sql.into(), params, rows: None }
    }
}

impl StepReply {
    /// It is done.
    pub fn output(output: impl Into<Value>) -> Self {
        Self { output: Some(output.into()), ..Self::default() }
    }

    /// It waits for a `resume` command.
    pub fn suspend(payload: impl Into<Value>) -> Self {
        Self { suspend: Some(payload.into()), ..Self::default() }
    }

    /// The run ends with this.
    pub fn bail(result: impl Into<Value>) -> Self {
        Self { bail: Some(result.into()), ..Self::default() }
    }

    /// The same, with a statement for the transaction that records it.
    pub fn with_sql(mut self, statement: SqlStatement) -> Self {
        self.sql.push(statement);
        self
    }

    /// The same, setting a value of the run's state.
    pub fn with_state(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.state.insert(key.into(), value.into());
        self
    }
}

impl From<Value> for StepReply {
    fn from(output: Value) -> Self {
        Self::output(output)
    }
}

/// A request to run a workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WorkflowRequest {
    /// The registered workflow.
    pub workflow: String,
    /// Its input.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input: Value,
    /// The run's id; made by the engine when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<crate::RunId>,
    /// What the caller wants its functions to know.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub context: crate::Context,
    /// Keys of `context` that are not journaled, such as secrets; absent after a resume in another process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transient: Vec<String>,
    /// The run's state at the start.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub state: Map<String, Value>,
    /// What the run is found by: see [`RunFilter::metadata`](crate::RunFilter::metadata).
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Whether the run goes on when its reader goes away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
}

impl WorkflowRequest {
    /// A request to run this workflow on this input.
    pub fn new(workflow: impl Into<String>, input: impl Into<Value>) -> Self {
        Self {
            workflow: workflow.into(),
            input: input.into(),
            run_id: None,
            context: crate::Context::new(),
            transient: Vec::new(),
            state: Map::new(),
            metadata: Map::new(),
            detached: false,
        }
    }
}
