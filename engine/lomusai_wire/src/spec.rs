//! Specs: serialisable descriptions, the same JSON in every language. A spec names its components; the host registers them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Budget, RawJson};

/// What an agent is: a model, instructions, tools and rules.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AgentSpec {
    /// The name it is registered under: letters, digits, `_`, `-` and `.`, at most 64.
    pub name: String,
    /// What it does, for people and for agents that may hand work to it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The system message: a text, or a function that gives one per run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<Instructions>,
    /// The model: the name of a registered provider, or `provider/model` to pass `model` to the provider registered as `provider`.
    pub model: String,
    /// Models to ask, in order, where the one before them failed for good. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<Fallback>,
    /// Settings for every model call.
    #[serde(skip_serializing_if = "ModelSettings::is_default")]
    pub settings: ModelSettings,
    /// Names of registered tools.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Names of registered agents, each offered to the model as the tool `agent-<name>`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// Names of registered workflows, each offered to the model as the tool `workflow-<name>` with the workflow's `input_schema`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workflows: Vec<String>,
    /// Whether and which tool the model must call. Default: its choice.
    #[serde(skip_serializing_if = "ToolChoice::is_auto")]
    pub tool_choice: ToolChoice,
    /// Most model calls in one run. Default 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u32>,
    /// Ends the run after a step for which any of these holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<StopCondition>,
    /// Most tool calls at once. Default 10; always 1 where a tool may need approval or suspend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_concurrency: Option<u32>,
    /// Which tool calls wait for approval, beside the tools that ask for it themselves.
    #[serde(skip_serializing_if = "Approval::is_never")]
    pub approval: Approval,
    /// The shape of the final answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputSpec>,
    /// Functions that read and change what goes in and comes out.
    #[serde(skip_serializing_if = "Processors::is_empty")]
    pub processors: Processors,
    /// Functions called around tool calls and steps.
    #[serde(skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// Times and sizes that a run must stay within.
    #[serde(skip_serializing_if = "Limits::is_default")]
    pub limits: Limits,
    /// What each run may use, its sub-agents included. Default: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Facts for the host.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
}

/// A model to ask where the one before it failed: after its retries, or at once where trying again would not help.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Fallback {
    /// The model, as [`AgentSpec::model`] names one.
    pub model: String,
    /// Retries of this model where the failure may pass. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Whether the entry is left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Settings over the agent's and the run's, for this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<ModelSettings>,
}

impl Fallback {
    /// This model, without retries.
    pub fn new(model: impl Into<String>) -> Self {
        Self { model: model.into(), ..Self::default() }
    }
}

impl AgentSpec {
    /// An agent of this name on this model, with the defaults for the rest.
    pub fn new(name: impl Into<String>, model: impl Into<String>) -> Self {
        Self { name: name.into(), model: model.into(), ..Self::default() }
    }

    /// Most model calls in one run.
    pub fn max_steps(&self) -> u32 {
        self.max_steps.unwrap_or(5)
    }
}

/// The system message of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Instructions {
    /// This text.
    Text(String),
    /// What the registered function answers, asked once per run with `{agent, input}`; it answers a string.
    Function {
        /// The function's name.
        function: String,
    },
}

impl From<&str> for Instructions {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

/// Settings of a model call. What is absent is left to the provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct ModelSettings {
    /// Randomness, 0.0 to 2.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Nucleus sampling, 0.0 to 1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Candidates per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Most tokens in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// Texts that end the answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop_sequences: Vec<String>,
    /// Penalty for words already present, −2.0 to 2.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    /// Penalty for frequent words, −2.0 to 2.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// For providers that can repeat an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Retries of a failed model call where the failure may pass. Default 2, after 1 s × 2ⁿ or what the provider asks for, up to 30 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Fields for one provider, by provider name, passed on as they are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub provider: BTreeMap<String, Value>,
}

impl ModelSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// These settings, with those of `over` where it has any.
    pub fn overlaid(&self, over: &Self) -> Self {
        let mut provider = self.provider.clone();
        provider.extend(over.provider.clone());
        Self {
            temperature: over.temperature.or(self.temperature),
            top_p: over.top_p.or(self.top_p),
            top_k: over.top_k.or(self.top_k),
            max_output_tokens: over.max_output_tokens.or(self.max_output_tokens),
            stop_sequences: if over.stop_sequences.is_empty() { &self.stop_sequences } else { &over.stop_sequences }
                .clone(),
            presence_penalty: over.presence_penalty.or(self.presence_penalty),
            frequency_penalty: over.frequency_penalty.or(self.frequency_penalty),
            seed: over.seed.or(self.seed),
            max_retries: over.max_retries.or(self.max_retries),
            provider,
        }
    }
}

/// Whether and which tool the model must call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// No tool.
    None,
    /// Some tool.
    Required,
    /// The tool of this name.
    Tool(String),
}

impl ToolChoice {
    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// Ends a run after a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopCondition {
    /// The step called the tool of this name.
    ToolCalled {
        /// The tool's name.
        tool: String,
    },
    /// The step's text contains this.
    TextContains {
        /// The text.
        text: String,
    },
    /// The registered function says so: asked with `{step, message, usage}`, it answers a boolean.
    Function {
        /// The function's name.
        function: String,
    },
}

/// Which tool calls wait for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Approval {
    /// None.
    #[default]
    Never,
    /// All.
    Always,
    /// Those for which the registered function, asked with `{tool, call_id, arguments}`, answers true.
    Function(String),
}

impl Approval {
    fn is_never(&self) -> bool {
        *self == Self::Never
    }
}

/// The shape of an agent's final answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OutputSpec {
    /// JSON Schema of the answer.
    pub schema: RawJson,
    /// A name for the shape, which some providers want. Default `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How often the model may correct an answer that does not fit. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

impl OutputSpec {
    /// Answers of this schema.
    pub fn new(schema: RawJson) -> Self {
        Self { schema, name: None, retries: None }
    }
}

/// Names of registered functions that read and change what goes in and comes out, in order.
///
/// Each is asked with `{phase, …}` and answers `null` to let everything through, an object with the fields it changes, or
/// `{abort: {reason, retry}}`. `retry: true` sends the reason to the model as feedback, at most [`Processors::max_retries`] times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Processors {
    /// Before the first step. Asked with `{phase: "input", messages}`; may change `messages`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub input: Vec<String>,
    /// Before each model call. Asked with `{phase: "step", step, messages}`; may change `messages`, `instructions`, `tools` (names), `tool_choice`, `settings`, for that step.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub step: Vec<String>,
    /// For each piece of streamed text. Asked with `{phase: "stream", text, end}`; may change `text` (empty holds it back). What is let
    /// through is what is recorded. Asked once more at the end, with no text and `end: true`, for what it held back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stream: Vec<String>,
    /// On the final answer. Asked with `{phase: "output", text, object}`; may change `text`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
    /// Most retries asked for by processors in one run. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
}

impl Processors {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Names of registered functions called at points of the loop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Hooks {
    /// Before a tool runs: `{tool, call_id, arguments}`. Answers `null`, `{arguments}` to change them, or `{output}` to answer in the tool's place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_tool: Option<String>,
    /// After a tool ran: `{tool, call_id, arguments, status, output}`. Answers `null` or `{output}` to change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_tool: Option<String>,
    /// After each step: `{step, message, usage}`. The answer is ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_step: Option<String>,
}

impl Hooks {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Times and sizes that a run must stay within. A crossed limit is an error with a code, never a hang.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limits {
    /// Longest time a run may work, waiting for people left out. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<u64>,
    /// Longest model call. Default 600,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ms: Option<u64>,
    /// Longest wait for the first piece of a model's answer. Default: none, but for `model_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<u64>,
    /// Longest wait between two pieces of a model's answer. Default: none, but for `model_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub between_tokens_ms: Option<u64>,
    /// Longest tool call, unless the tool says otherwise. Default 300,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_ms: Option<u64>,
    /// Longest call of any other function. Default 60,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_ms: Option<u64>,
    /// Largest message in bytes of JSON. Default 16 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_bytes: Option<u64>,
    /// Largest tool result in bytes of JSON. Default 64 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_bytes: Option<u64>,
    /// Largest journal in bytes. Default 1 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_bytes: Option<u64>,
    /// How deep sub-agents may nest. Default 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
}

impl Limits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// [`Limits::model_ms`] or its default.
    pub fn model_ms(&self) -> u64 {
        self.model_ms.unwrap_or(600_000)
    }

    /// [`Limits::tool_ms`] or its default.
    pub fn tool_ms(&self) -> u64 {
        self.tool_ms.unwrap_or(300_000)
    }

    /// [`Limits::function_ms`] or its default.
    pub fn function_ms(&self) -> u64 {
        self.function_ms.unwrap_or(60_000)
    }

    /// [`Limits::message_bytes`] or its default.
    pub fn message_bytes(&self) -> u64 {
        self.message_bytes.unwrap_or(16 << 20)
    }

    /// [`Limits::result_bytes`] or its default.
    pub fn result_bytes(&self) -> u64 {
        self.result_bytes.unwrap_or(64 << 20)
    }

    /// [`Limits::run_bytes`] or its default.
    pub fn run_bytes(&self) -> u64 {
        self.run_bytes.unwrap_or(1 << 30)
    }

    /// [`Limits::depth`] or its default.
    pub fn depth(&self) -> u32 {
        self.depth.unwrap_or(16)
    }
}

/// What a tool is, for the model and for the engine. The function behind it is registered under the same name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ToolSpec {
    /// What the model calls it: letters, digits, `_` and `-`, at most 64.
    pub name: String,
    /// What it does, for the model.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// JSON Schema of its arguments. Default: an object of anything.
    #[serde(default = "any_object")]
    pub input_schema: RawJson,
    /// JSON Schema of its result. A result that does not fit is an error told to the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<RawJson>,
    /// JSON Schema of what resumes it after it suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_schema: Option<RawJson>,
    /// Whether each call waits for approval.
    #[serde(default, skip_serializing_if = "Approval::is_never")]
    pub approval: Approval,
    /// Whether it may suspend. Such a tool never runs beside others of the same step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_suspend: bool,
    /// Whether the caller of the run executes it: the run suspends and waits for a `tool_result` command.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub client: bool,
    /// Longest call, over the agent's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl ToolSpec {
    /// A tool of this name that takes any object.
    pub fn new(name: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: description.into(),
            input_schema: any_object(),
            output_schema: None,
            resume_schema: None,
            approval: Approval::Never,
            may_suspend: false,
            client: false,
            timeout_ms: None,
        }
    }

    /// The same tool with this schema of arguments.
    pub fn with_input_schema(mut self, schema: impl Into<RawJson>) -> Self {
        self.input_schema = schema.into();
        self
    }
}

fn any_object() -> RawJson {
    RawJson::parse(r#"{"type":"object"}"#).expect("a literal")
}

/// Everything a run depends on, as it was when the run started. Stored by content hash; a run names it by that hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RunSpec {
    /// The agent.
    pub agent: AgentSpec,
    /// Its tools, in the agent's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolSpec>,
    /// Name and description of its sub-agents, in the agent's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<(String, String)>,
    /// Its workflows as the model sees them, in the agent's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workflows: Vec<ToolSpec>,
}

impl RunSpec {
    /// A run of this agent with these tools.
    pub fn new(agent: AgentSpec, tools: Vec<ToolSpec>, agents: Vec<(String, String)>) -> Self {
        Self { agent, tools, agents, workflows: Vec::new() }
    }

    /// The same, with these workflows as tools.
    pub fn with_workflows(mut self, workflows: Vec<ToolSpec>) -> Self {
        self.workflows = workflows;
        self
    }
}
