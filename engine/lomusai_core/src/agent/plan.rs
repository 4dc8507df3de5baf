//! What is worked out once per agent and shared by all its runs: the spec's hash, compiled schemas, the tools as a model sees them.

use std::collections::HashMap;
use std::sync::Arc;

use lomusai_wire::{
    Action, AgentSpec, Approval, ModelTool, RawJson, RunOptions, RunSpec, StepSpec, ToolSpec, WorkflowSpec, codes,
};
use serde_json::Value;

use crate::schema::Schema;
use crate::{Error, Result, journal};

/// A workflow is offered to the model as this and its name.
pub const WORKFLOW_TOOL_PREFIX: &str = "workflow-";

/// A sub-agent is offered to the model as this and its name.
pub const AGENT_TOOL_PREFIX: &str = "agent-";

/// An agent, ready to run.
#[derive(Debug)]
pub struct Plan {
    /// What it was made from.
    pub spec: RunSpec,
    /// SHA-256 of the spec's canonical JSON.
    pub hash: String,
    pub(super) tools: HashMap<String, PlannedTool>,
    /// In the agent's order.
    pub(super) offered: Vec<ModelTool>,
    pub(super) output: Option<Schema>,
    /// Whether a tool call may wait for someone, so that calls run one by one.
    pub(super) may_wait: bool,
}

/// A tool with its schemas compiled.
#[derive(Clone, Debug)]
pub struct PlannedTool {
    pub(super) kind: ToolKind,
    pub(super) spec: Arc<ToolSpec>,
    pub(super) input: Schema,
    pub(super) output: Option<Schema>,
    pub(super) resume: Option<Schema>,
}

/// Who carries a tool out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ToolKind {
    /// A registered tool.
    Host,
    /// The caller of the run.
    Client,
    /// A sub-agent.
    Agent(String),
    /// A workflow. `wrapped`: its input is the field `input` of the arguments.
    Workflow { name: String, wrapped: bool },
}

impl PlannedTool {
    /// Compiles a tool's schemas.
    ///
    /// # Errors
    /// `schema_invalid`, naming the tool and the schema.
    pub fn compile(spec: ToolSpec) -> Result<Self> {
        let schema =
            |schema: &RawJson, which: &str| Schema::compile(schema, &format!("the {which} of tool `{}`", spec.name));
        let input = schema(&spec.input_schema, "input_schema")?;
        let output = spec.output_schema.as_ref().map(|s| schema(s, "output_schema")).transpose()?;
        let resume = spec.resume_schema.as_ref().map(|s| schema(s, "resume_schema")).transpose()?;
        let kind = if spec.client { ToolKind::Client } else { ToolKind::Host };
        Ok(Self { kind, spec: Arc::new(spec), input, output, resume })
    }

    /// The tool's spec.
    pub fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn offered(&self) -> ModelTool {
        ModelTool::new(&self.spec.name, &self.spec.description, self.spec.input_schema.clone())
    }

    fn may_wait(&self) -> bool {
        self.spec.approval != Approval::Never || self.spec.may_suspend || self.spec.client
    }
}

impl Plan {
    /// Puts an agent together with its tools (in the spec's order), the descriptions of its sub-agents, and its workflows as tools: see
    /// [`workflow_tool`].
    ///
    /// # Errors
    /// What [`check_agent`] finds, `spec_invalid` where two tools share a name, `schema_invalid`.
    pub fn new(
        agent: AgentSpec,
        tools: Vec<PlannedTool>,
        agents: Vec<(String, String)>,
        workflows: Vec<ToolSpec>,
    ) -> Result<Self> {
        check_agent(&agent)?;
        let mut all = tools;
        for (name, description) in &agents {
            all.push(agent_tool(name, description)?);
        }
        for spec in &workflows {
            all.push(planned_workflow(spec)?);
        }
        let may_wait = agent.approval != Approval::Never || all.iter().any(PlannedTool::may_wait);
        let offered = all.iter().map(PlannedTool::offered).collect();
        let output = agent
            .output
            .as_ref()
            .map(|output| Schema::compile(&output.schema, &format!("the output schema of agent `{}`", agent.name)))
            .transpose()?;
        let specs = all
            .iter()
            .filter(|tool| !matches!(tool.kind, ToolKind::Agent(_) | ToolKind::Workflow { .. }))
            .map(|tool| (*tool.spec).clone())
            .collect();
        let mut by_name = HashMap::with_capacity(all.len());
        for tool in all {
            let name = tool.spec.name.clone();
            if by_name.insert(name.clone(), tool).is_some() {
                return Err(Error::new(
                    codes::SPEC_INVALID,
                    format!("agent `{}` has two tools named `{name}`: name it once", agent.name),
                )
                .with("agent", agent.name.as_str())
                .with("tool", name));
            }
        }
        let spec = RunSpec::new(agent, specs, agents).with_workflows(workflows);
        let hash = journal::value_hash(&spec);
        Ok(Self { spec, hash, tools: by_name, offered, output, may_wait })
    }

    /// What one run adds: the caller's own tools and output shape.
    pub(super) fn extended(self: &Arc<Self>, options: &RunOptions) -> Result<RunPlan> {
        let mut client_tools = HashMap::new();
        let mut offered = Vec::new();
        for spec in &options.client_tools {
            check_tool(spec)?;
            let mut tool = PlannedTool::compile(spec.clone())?;
            tool.kind = ToolKind::Client;
            if self.tools.contains_key(&spec.name) || client_tools.contains_key(&spec.name) {
                return Err(Error::new(
                    codes::SPEC_INVALID,
                    format!("client tool `{}` has the name of another tool of the agent: rename one", spec.name),
                )
                .with("tool", spec.name.as_str()));
            }
            offered.push(tool.offered());
            client_tools.insert(spec.name.clone(), tool);
        }
        for name in options.active_tools.iter().flatten() {
            if !self.tools.contains_key(name) {
                return Err(unknown_tool(name, self.tools.keys().map(String::as_str)));
            }
        }
        let output = match &options.output {
            Some(output) => Some(Schema::compile(&output.schema, "the output schema of the run")?),
            None => self.output.clone(),
        };
        let may_wait = self.may_wait || !client_tools.is_empty() || options.require_approval == Some(true);
        Ok(RunPlan { plan: self.clone(), client_tools, client_offered: offered, output, may_wait })
    }
}

/// A plan and what one run adds to it.
#[derive(Debug)]
pub(super) struct RunPlan {
    pub(super) plan: Arc<Plan>,
    client_tools: HashMap<String, PlannedTool>,
    pub(super) client_offered: Vec<ModelTool>,
    pub(super) output: Option<Schema>,
    pub(super) may_wait: bool,
}

impl RunPlan {
    pub(super) fn tool(&self, name: &str) -> Option<&PlannedTool> {
        self.plan.tools.get(name).or_else(|| self.client_tools.get(name))
    }

    pub(super) fn agent(&self) -> &AgentSpec {
        &self.plan.spec.agent
    }

    /// The error a model is told when it calls what it does not have.
    pub(super) fn unknown(&self, name: &str) -> Error {
        unknown_tool(name, self.plan.tools.keys().chain(self.client_tools.keys()).map(String::as_str))
    }
}

fn unknown_tool<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
    Error::new(codes::TOOL_UNKNOWN, format!("the agent has no tool `{name}`: {known}")).with("tool", name)
}

fn agent_tool(name: &str, description: &str) -> Result<PlannedTool> {
    let schema = r#"{"type":"object","properties":{"prompt":{"type":"string","description":"What the agent is asked to do, with all it needs to know."}},"required":["prompt"],"additionalProperties":false}"#;
    let spec = ToolSpec::new(format!("{AGENT_TOOL_PREFIX}{name}"), description)
        .with_input_schema(RawJson::parse(schema).expect("a literal"));
    let mut tool = PlannedTool::compile(spec)?;
    tool.kind = ToolKind::Agent(name.to_owned());
    Ok(tool)
}

/// A workflow as a tool of an agent: its arguments are the workflow's input where that is an object, else `{"input": …}`.
pub fn workflow_tool(spec: &WorkflowSpec) -> ToolSpec {
    let schema = spec.input_schema.as_ref();
    let is_object = |schema: &RawJson| schema.to_value().get("type").is_some_and(|kind| kind == "object");
    let input_schema = match schema {
        Some(schema) if is_object(schema) => schema.clone(),
        // The author's order of properties is kept: the text is put into a text.
        schema => {
            let inner = schema.map_or("{}", RawJson::as_str);
            let text = format!(
                r#"{{"type":"object","properties":{{"input":{inner}}},"required":["input"],"additionalProperties":false}}"#
            );
            RawJson::parse(&text).expect("a schema in a schema is JSON")
        }
    };
    let mut tool = ToolSpec::new(format!("{WORKFLOW_TOOL_PREFIX}{}", spec.name), &spec.description);
    tool.may_suspend = waits(&spec.steps);
    tool.with_input_schema(input_schema)
}

/// Whether steps wait for somebody by what their spec says.
fn waits(steps: &[StepSpec]) -> bool {
    steps.iter().any(|step| match &step.run {
        Action::Wait(_) | Action::Suspend(_) => true,
        Action::Foreach(foreach) => waits(&foreach.steps),
        Action::Loop(repeat) => waits(&repeat.steps),
        _ => false,
    })
}

fn planned_workflow(spec: &ToolSpec) -> Result<PlannedTool> {
    let mut tool = PlannedTool::compile(spec.clone())?;
    let name = spec.name.strip_prefix(WORKFLOW_TOOL_PREFIX).unwrap_or(&spec.name).to_owned();
    // Only what was wrapped has just one property of that name, and allows no other.
    let schema = spec.input_schema.to_value();
    let only = schema["properties"].as_object().is_some_and(|fields| fields.len() == 1 && fields.contains_key("input"));
    let wrapped = only && schema["additionalProperties"] == false;
    tool.kind = ToolKind::Workflow { name, wrapped };
    Ok(tool)
}

/// The input of a workflow in the arguments of its tool.
pub(super) fn unwrapped(mut arguments: Value, wrapped: bool) -> Value {
    if wrapped { arguments["input"].take() } else { arguments }
}

/// Checks the name of a component.
///
/// # Errors
/// `name_invalid`.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !name.is_empty() && name.len() <= 64 && name.chars().all(fits) {
        return Ok(());
    }
    Err(Error::new(
        codes::NAME_INVALID,
        format!("the name of a {what} has 1 to 64 letters, digits, `_`, `-` or `.`, was `{}`", name.escape_debug()),
    )
    .with("name", name))
}

/// Checks a tool's spec. Its schemas are checked by [`PlannedTool::compile`].
///
/// # Errors
/// `name_invalid`.
pub fn check_tool(spec: &ToolSpec) -> Result<()> {
    check_name("tool", &spec.name)?;
    // Providers take no dots in tool names.
    let taken = [AGENT_TOOL_PREFIX, WORKFLOW_TOOL_PREFIX].into_iter().find(|prefix| spec.name.starts_with(prefix));
    if spec.name.contains('.') || taken.is_some() {
        let taken = taken.unwrap_or(AGENT_TOOL_PREFIX);
        return Err(Error::new(
            codes::NAME_INVALID,
            format!("the name of a tool has no `.` and does not begin with `{taken}`, was `{}`", spec.name),
        )
        .with("name", spec.name.as_str()));
    }
    Ok(())
}

/// Checks what an agent's spec says by itself.
///
/// # Errors
/// `name_invalid`; `spec_invalid`, naming the field.
pub fn check_agent(spec: &AgentSpec) -> Result<()> {
    check_name("agent", &spec.name)?;
    let invalid = |message: String| {
        Err(Error::new(codes::SPEC_INVALID, format!("agent `{}`: {message}", spec.name))
            .with("agent", spec.name.as_str()))
    };
    if spec.model.is_empty() {
        return invalid("`model` is missing: name a registered provider, or `provider/model`".into());
    }
    if spec.max_steps == Some(0) {
        return invalid("`max_steps` must be at least 1".into());
    }
    if spec.tool_concurrency == Some(0) {
        return invalid("`tool_concurrency` must be at least 1".into());
    }
    if let Some(t) = spec.settings.temperature.filter(|t| !(0.0..=2.0).contains(t)) {
        return invalid(format!("`settings.temperature` must be in 0.0..=2.0, was {t}"));
    }
    if let Some(p) = spec.settings.top_p.filter(|p| !(0.0..=1.0).contains(p)) {
        return invalid(format!("`settings.top_p` must be in 0.0..=1.0, was {p}"));
    }
    if spec.agents.contains(&spec.name) {
        return invalid("an agent cannot be its own sub-agent".into());
    }
    Ok(())
}
