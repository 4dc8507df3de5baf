//! Workflows as a builder writes them down: a chain of links, from which the engine makes the spec. Every language's builder says the same.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Condition, Limits, Mapping, RawJson, Retry, StepSpec};

/// A workflow that is being built. What comes after what follows from the order of its chain.
///
/// A step's `id` may be empty: it is then called as what it runs, or by its kind and a number (`map_1`). A function's name may begin with
/// `#`: it then stands for a function of the host that has none, and is called by its place (`refund.ask.when`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct WorkflowDraft {
    /// The name it is registered under.
    pub name: String,
    /// What it does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// JSON Schema of its input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<RawJson>,
    /// JSON Schema of its output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<RawJson>,
    /// Its links, in order.
    pub chain: Vec<Link>,
    /// What the run comes to. Default: what the last link comes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Mapping>,
    /// Retries of steps that do not say otherwise.
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

/// A link of a chain. Its steps come after all steps of the links before that nothing else comes after; one that says `after`
/// itself comes after those.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Link {
    /// One step.
    Then(StepSpec),
    /// Steps side by side. Come to an object of their outputs by id.
    Parallel(Vec<StepSpec>),
    /// Steps that each say `when`: all whose condition holds run, side by side. Come to an object of the outputs of those that ran. What
    /// follows runs whichever did.
    Branch(Vec<StepSpec>),
    /// A step for each item of a list.
    Foreach(ForeachLink),
    /// A step that is repeated.
    Loop(LoopLink),
    /// Steps that come after what they say in `after`, and after nothing where they say nothing.
    Steps(Vec<StepSpec>),
}

/// A step for each item of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ForeachLink {
    /// The step. What it says of its place (`after`, `needs`, `when`, `input`) is said of the whole.
    pub step: StepSpec,
    /// The id of the whole. Default: that of the step, which is then called `<id>_item`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Most items at once. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
}

impl ForeachLink {
    /// This step for each item, one after the other.
    pub fn new(step: StepSpec) -> Self {
        Self { step, id: String::new(), concurrency: None }
    }
}

/// A step that is repeated. Either `while` or `until` says how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LoopLink {
    /// The step. What it says of its place (`after`, `needs`, `when`, `input`) is said of the whole.
    pub step: StepSpec,
    /// The id of the whole. Default: that of the step, which is then called `<id>_turn`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Again as long as this holds.
    #[serde(default, rename = "while", skip_serializing_if = "Option::is_none")]
    pub while_: Option<Condition>,
    /// Again until this holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Condition>,
    /// Most times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

impl LoopLink {
    /// This step as long as the condition holds.
    pub fn repeat_while(step: StepSpec, condition: Condition) -> Self {
        Self { step, id: String::new(), while_: Some(condition), until: None, max: None }
    }

    /// This step until the condition holds.
    pub fn repeat_until(step: StepSpec, condition: Condition) -> Self {
        Self { step, id: String::new(), while_: None, until: Some(condition), max: None }
    }
}
