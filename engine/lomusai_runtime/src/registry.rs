//! What the host has registered, by kind and name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lomusai_core::agent::{Plan, PlannedTool, check_agent, check_name, check_tool, workflow_tool};
use lomusai_core::component::{CallContext, Function, Step};
use lomusai_core::llm::{EmbeddingProvider, LlmProvider, Router};
use lomusai_core::sync::{Mutex, RwLock};
use lomusai_core::table::Table;
use lomusai_core::tool::Tool;
use lomusai_core::workflow::{Needed, WorkflowPlan, difference};
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_wire::{AgentSpec, Code, RawJson, RunSpec, StepReply, WorkflowSpec, codes};
use serde_json::Value;

use crate::layer::{self, ProviderLimits};
use crate::migration::Migration;

/// What kind of thing a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ComponentKind {
    /// An agent's spec.
    Agent,
    /// A tool.
    Tool,
    /// A model provider.
    Provider,
    /// Any other function.
    Function,
    /// A source of embeddings.
    Embedder,
    /// A workflow's spec.
    Workflow,
    /// A step function of workflows.
    Step,
}

impl ComponentKind {
    fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Tool => "tool",
            Self::Provider => "provider",
            Self::Function => "function",
            Self::Embedder => "embedder",
            Self::Workflow => "workflow",
            Self::Step => "step",
        }
    }

    fn unknown(self) -> Code {
        match self {
            Self::Agent => codes::AGENT_UNKNOWN,
            Self::Tool => codes::TOOL_UNKNOWN,
            Self::Provider | Self::Embedder => codes::PROVIDER_UNKNOWN,
            Self::Function => codes::FUNCTION_UNKNOWN,
            Self::Workflow => codes::WORKFLOW_UNKNOWN,
            Self::Step => codes::STEP_UNKNOWN,
        }
    }
}

#[derive(Clone)]
struct RegisteredTool {
    tool: Arc<dyn Tool>,
    planned: PlannedTool,
}

/// Who answers for a model, and the model's name there. Nobody, where a cassette answers.
pub(crate) struct Found {
    pub(crate) provider: Option<Arc<dyn LlmProvider>>,
    pub(crate) model: String,
}

/// What stands before the first slash of a model's name, and what behind. `local:` may have a colon: a path may follow it.
pub(crate) fn split(model: &str) -> (&str, &str) {
    match model.strip_prefix("local:") {
        Some(rest) => ("local", rest),
        None => model.split_once('/').unwrap_or((model, "")),
    }
}

#[derive(Default)]
pub(crate) struct Registry {
    router: Option<Arc<dyn Router>>,
    limits: BTreeMap<String, ProviderLimits>,
    /// Whether a cassette answers in the place of all providers.
    replays: bool,
    routed: Mutex<Table<String, Arc<dyn LlmProvider>>>,
    routed_embedders: Mutex<Table<String, Arc<dyn EmbeddingProvider>>>,
    agents: RwLock<Table<String, Arc<AgentSpec>>>,
    tools: RwLock<Table<String, RegisteredTool>>,
    providers: RwLock<Table<String, Arc<dyn LlmProvider>>>,
    functions: RwLock<Table<String, Arc<dyn Function>>>,
    embedders: RwLock<Table<String, Arc<dyn EmbeddingProvider>>>,
    workflows: RwLock<Table<String, Arc<WorkflowPlan>>>,
    steps: RwLock<Table<String, Arc<dyn Step>>>,
    /// By workflow and the hash of the spec that they come from.
    migrations: RwLock<Table<(String, String), Arc<Migration>>>,
    /// Plans that were made before, by agent, for new runs.
    plans: RwLock<Table<String, Arc<Plan>>>,
    /// Plans of stored runs, by the hash of their spec.
    stored_plans: RwLock<Table<String, Arc<Plan>>>,
    /// Rises when something is removed: until then a name stands for what it stood for.
    removals: AtomicU64,
}

/// The steps that a run has asked so far. Each run has its own, and hands out its own references to them: a lock, or a count, that all
/// threads change at each step is what they would wait for.
#[derive(Default)]
pub(crate) struct KnownSteps {
    removals: u64,
    steps: Table<Arc<str>, Arc<dyn Step>>,
}

impl KnownSteps {
    pub(crate) fn find(&mut self, registry: &Registry, name: &Arc<str>) -> Result<Arc<dyn Step>> {
        let removals = registry.removals.load(Ordering::Acquire);
        if self.removals != removals {
            self.removals = removals;
            self.steps.clear();
        }
        if let Some(step) = self.steps.get(name) {
            return Ok(step.clone());
        }
        let step: Arc<dyn Step> = Arc::new(Shared(registry.step(name)?));
        self.steps.insert(name.clone(), step.clone());
        Ok(step)
    }
}

/// A step with a count of references of its own.
struct Shared(Arc<dyn Step>);

impl Step for Shared {
    fn call<'a>(&'a self, context: CallContext, input: Arc<Value>) -> BoxFuture<'a, Result<StepReply>> {
        self.0.call(context, input)
    }
}

impl Registry {
    pub(crate) fn new(
        router: Option<Arc<dyn Router>>,
        limits: BTreeMap<String, ProviderLimits>,
        replays: bool,
    ) -> Self {
        Self { router, limits, replays, ..Self::default() }
    }

    pub(crate) fn add_agent(&self, spec: AgentSpec) -> Result<()> {
        check_agent(&spec)?;
        insert(&self.agents, ComponentKind::Agent, spec.name.clone(), Arc::new(spec))
    }

    pub(crate) fn add_tool(&self, tool: Arc<dyn Tool>) -> Result<()> {
        let spec = tool.spec();
        check_tool(&spec)?;
        let name = spec.name.clone();
        let planned = PlannedTool::compile(spec)?;
        insert(&self.tools, ComponentKind::Tool, name, RegisteredTool { tool, planned })
    }

    pub(crate) fn add_provider(&self, name: &str, provider: Arc<dyn LlmProvider>) -> Result<()> {
        check_name("provider", name)?;
        let provider = layer::limited(provider, self.limits.get(name));
        insert(&self.providers, ComponentKind::Provider, name.to_owned(), provider)
    }

    pub(crate) fn add_function(&self, name: &str, function: Arc<dyn Function>) -> Result<()> {
        check_name("function", name)?;
        insert(&self.functions, ComponentKind::Function, name.to_owned(), function)
    }

    pub(crate) fn add_embedder(&self, name: &str, embedder: Arc<dyn EmbeddingProvider>) -> Result<()> {
        check_name("embedder", name)?;
        insert(&self.embedders, ComponentKind::Embedder, name.to_owned(), embedder)
    }

    pub(crate) fn add_workflow(&self, spec: WorkflowSpec) -> Result<()> {
        let plan = WorkflowPlan::new(spec)?;
        insert(&self.workflows, ComponentKind::Workflow, plan.spec.name.clone(), Arc::new(plan))
    }

    pub(crate) fn add_migration(&self, migration: Migration) -> Result<()> {
        let key = (migration.workflow.clone(), migration.from.clone());
        let mut migrations = self.migrations.write();
        if migrations.contains_key(&key) {
            let (workflow, from) = key;
            return Err(Error::new(
                codes::NAME_TAKEN,
                format!("a migration of workflow `{workflow}` from the spec `{from}` is registered already"),
            )
            .with("workflow", workflow));
        }
        migrations.insert(key, Arc::new(migration));
        Ok(())
    }

    /// The migration of a workflow's runs from the spec of this hash.
    pub(crate) fn migration(&self, workflow: &str, from: &str) -> Option<Arc<Migration>> {
        self.migrations.read().get(&(workflow.to_owned(), from.to_owned())).cloned()
    }

    pub(crate) fn add_step(&self, name: &str, step: Arc<dyn Step>) -> Result<()> {
        check_name("step", name)?;
        insert(&self.steps, ComponentKind::Step, name.to_owned(), step)
    }

    /// Takes a component away. Runs that need it later fail or are blocked, naming it.
    pub(crate) fn remove(&self, kind: ComponentKind, name: &str) -> bool {
        // Plans hold tools and agents; the next run makes its own again.
        self.plans.write().clear();
        self.stored_plans.write().clear();
        let removed = match kind {
            ComponentKind::Agent => self.agents.write().remove(name).is_some(),
            ComponentKind::Tool => self.tools.write().remove(name).is_some(),
            ComponentKind::Provider => self.providers.write().remove(name).is_some(),
            ComponentKind::Function => self.functions.write().remove(name).is_some(),
            ComponentKind::Embedder => self.embedders.write().remove(name).is_some(),
            ComponentKind::Workflow => self.workflows.write().remove(name).is_some(),
            ComponentKind::Step => self.steps.write().remove(name).is_some(),
        };
        // Behind the removal: whoever sees the new count finds the name gone, or what has taken its place.
        self.removals.fetch_add(1, Ordering::AcqRel);
        removed
    }

    pub(crate) fn tool(&self, name: &str) -> Result<Arc<dyn Tool>> {
        find(&self.tools, ComponentKind::Tool, name).map(|entry| entry.tool)
    }

    pub(crate) fn function(&self, name: &str) -> Result<Arc<dyn Function>> {
        find(&self.functions, ComponentKind::Function, name)
    }

    pub(crate) fn step(&self, name: &str) -> Result<Arc<dyn Step>> {
        find(&self.steps, ComponentKind::Step, name)
    }

    /// The spec of a registered workflow.
    pub(crate) fn workflow_spec(&self, name: &str) -> Result<WorkflowSpec> {
        find(&self.workflows, ComponentKind::Workflow, name).map(|plan| plan.spec.clone())
    }

    /// The plan for a new run of a workflow.
    pub(crate) fn workflow(&self, name: &str) -> Result<Arc<WorkflowPlan>> {
        let plan = find(&self.workflows, ComponentKind::Workflow, name)?;
        self.check_needed(&plan)?;
        Ok(plan)
    }

    /// The plan for a stored run of a workflow.
    ///
    /// # Errors
    /// `run_blocked`, naming what is missing; `workflow_changed`, where the workflow is another one by now.
    pub(crate) fn workflow_for_stored(&self, spec: WorkflowSpec, hash: &str) -> Result<Arc<WorkflowPlan>> {
        let now = find(&self.workflows, ComponentKind::Workflow, &spec.name).map_err(blocked)?;
        if now.hash != hash {
            return Err(changed(&spec, &now.spec));
        }
        self.check_needed(&now).map_err(blocked)?;
        Ok(now)
    }

    fn check_needed(&self, plan: &WorkflowPlan) -> Result<()> {
        plan.needed().iter().try_for_each(|needed| {
            let found = match needed {
                Needed::Step(name) => self.step(name).map(drop),
                Needed::Tool(name) => self.tool(name).map(drop),
                Needed::Function(name) => self.function(name).map(drop),
                Needed::Agent(name) => find(&self.agents, ComponentKind::Agent, name).map(drop),
                Needed::Workflow(name) => find(&self.workflows, ComponentKind::Workflow, name).map(drop),
            };
            found.map_err(|error| error.with("workflow", plan.spec.name.as_str()))
        })
    }

    /// An embedder: a registered one, else the router's.
    pub(crate) fn embedder(&self, name: &str) -> Result<Arc<dyn EmbeddingProvider>> {
        if let Some(embedder) = self.embedders.read().get(name) {
            return Ok(embedder.clone());
        }
        if let Some(router) = &self.router {
            let (provider, model) = split(name);
            let mut routed = self.routed_embedders.lock();
            if let Some(embedder) = routed.get(name) {
                return Ok(embedder.clone());
            }
            if let Some(embedder) = router.embedder(provider, model)? {
                routed.insert(name.to_owned(), embedder.clone());
                return Ok(embedder);
            }
        }
        find(&self.embedders, ComponentKind::Embedder, name)
    }

    /// The provider that a spec's `model` names, and the model's name at that provider: a registered one, else the router's.
    ///
    /// # Errors
    /// `provider_unknown`, naming what there is; `credentials_missing` and what else the router says.
    pub(crate) fn model(&self, model: &str) -> Result<Found> {
        match self.find_model(model) {
            // What is only given back needs nobody to ask.
            Err(_) if self.replays => {
                let (_, name) = split(model);
                Ok(Found { provider: None, model: name.to_owned() })
            }
            found => found,
        }
    }

    fn find_model(&self, model: &str) -> Result<Found> {
        let found = |provider, model: &str| Found { provider: Some(provider), model: model.to_owned() };
        if let Some(provider) = self.providers.read().get(model) {
            return Ok(found(provider.clone(), ""));
        }
        let (name, rest) = split(model);
        if let Some(provider) = self.providers.read().get(name) {
            return Ok(found(provider.clone(), rest));
        }
        if let Some(provider) = self.routed(name)? {
            return Ok(found(provider, rest));
        }
        let mut known: Vec<String> = self.providers.read().keys().cloned().collect();
        known.extend(self.router.iter().flat_map(|router| router.providers()).map(|(name, _)| name));
        known.sort_unstable();
        known.dedup();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(Error::new(
            codes::PROVIDER_UNKNOWN,
            format!("no provider `{name}` is registered or known: register it, or name one of {known}"),
        )
        .with("provider", name))
    }

    /// The router's provider of this name, made when it is first asked for.
    fn routed(&self, name: &str) -> Result<Option<Arc<dyn LlmProvider>>> {
        let Some(router) = &self.router else { return Ok(None) };
        let mut routed = self.routed.lock();
        if let Some(provider) = routed.get(name) {
            return Ok(Some(provider.clone()));
        }
        let Some(provider) = router.provider(name)? else { return Ok(None) };
        let provider = layer::limited(provider, self.limits.get(name));
        routed.insert(name.to_owned(), provider.clone());
        Ok(Some(provider))
    }

    /// Lets go of what the router has made, and the connections that it keeps.
    pub(crate) fn forget_routed(&self) {
        self.routed.lock().clear();
        self.routed_embedders.lock().clear();
    }

    /// What there is to ask: registered providers, and the router's with why they cannot be asked where they cannot.
    pub(crate) fn providers(&self) -> BTreeMap<String, Option<String>> {
        let mut all: BTreeMap<String, Option<String>> =
            self.router.iter().flat_map(|router| router.providers()).collect();
        all.extend(self.providers.read().keys().map(|name| (name.clone(), None)));
        all
    }

    /// The plan for a new run of an agent.
    pub(crate) fn plan(&self, agent: &str) -> Result<Arc<Plan>> {
        if let Some(plan) = self.plans.read().get(agent) {
            return Ok(plan.clone());
        }
        let spec = find(&self.agents, ComponentKind::Agent, agent)?;
        let plan = self.compose((*spec).clone(), None)?;
        self.check_models(&plan.spec.agent)?;
        self.check_functions(&plan.spec)?;
        self.plans.write().insert(agent.to_owned(), plan.clone());
        Ok(plan)
    }

    /// The plan for a stored run: as its spec was then, carried out by what is registered now.
    ///
    /// # Errors
    /// `run_blocked`, naming what is missing; `component_changed`, naming what has another schema now.
    pub(crate) fn plan_for_stored(&self, spec: RunSpec, hash: &str) -> Result<Arc<Plan>> {
        if let Some(plan) = self.stored_plans.read().get(hash) {
            return Ok(plan.clone());
        }
        let plan = self
            .compose(spec.agent.clone(), Some(&spec))
            .map_err(|error| if error.is(codes::COMPONENT_CHANGED) { error } else { blocked(error) })?;
        self.check_models(&plan.spec.agent).map_err(blocked)?;
        self.check_functions(&plan.spec).map_err(blocked)?;
        self.stored_plans.write().insert(hash.to_owned(), plan.clone());
        Ok(plan)
    }

    /// Puts an agent together with its registered tools; with `stored`, keeps the specs as they were and checks that they still hold.
    fn compose(&self, agent: AgentSpec, stored: Option<&RunSpec>) -> Result<Arc<Plan>> {
        let mut tools = Vec::with_capacity(agent.tools.len());
        for name in &agent.tools {
            let entry = find(&self.tools, ComponentKind::Tool, name)
                .map_err(|error| error.with("agent", agent.name.as_str()))?;
            let then = stored.and_then(|stored| stored.tools.iter().find(|tool| tool.name == *name));
            tools.push(match then {
                None => entry.planned,
                Some(then) => {
                    let now = entry.planned.spec();
                    same_schema(name, "input_schema", Some(&then.input_schema), Some(&now.input_schema))?;
                    same_schema(name, "resume_schema", then.resume_schema.as_ref(), now.resume_schema.as_ref())?;
                    PlannedTool::compile(then.clone())?
                }
            });
        }
        let agents = agent.agents.iter().map(|name| {
            match stored.and_then(|stored| stored.agents.iter().find(|(n, _)| n == name)) {
                Some(then) => Ok(then.clone()),
                None => {
                    find(&self.agents, ComponentKind::Agent, name).map(|spec| (name.clone(), spec.description.clone()))
                }
            }
        });
        let agents = agents.collect::<Result<Vec<_>>>()?;
        let workflows = agent.workflows.iter().map(|name| {
            let now = find(&self.workflows, ComponentKind::Workflow, name)
                .map(|plan| workflow_tool(&plan.spec))
                .map_err(|error| error.with("agent", agent.name.as_str()))?;
            let then = stored.and_then(|stored| stored.workflows.iter().find(|tool| tool.name == now.name));
            let Some(then) = then else { return Ok(now) };
            same_schema(&now.name, "input_schema", Some(&then.input_schema), Some(&now.input_schema))?;
            Ok(then.clone())
        });
        let workflows = workflows.collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(Plan::new(agent, tools, agents, workflows)?))
    }

    fn check_models(&self, agent: &AgentSpec) -> Result<()> {
        let fallbacks = agent.fallbacks.iter().filter(|entry| !entry.disabled).map(|entry| &entry.model);
        [&agent.model]
            .into_iter()
            .chain(fallbacks)
            .try_for_each(|model| self.model(model).map(drop).map_err(|error| error.with("agent", agent.name.as_str())))
    }

    fn check_functions(&self, spec: &RunSpec) -> Result<()> {
        use lomusai_wire::{Approval, Instructions, StopCondition};
        let agent = &spec.agent;
        let mut names: Vec<&String> = Vec::new();
        if let Some(Instructions::Function { function }) = &agent.instructions {
            names.push(function);
        }
        let processors = &agent.processors;
        names.extend(
            [&processors.input, &processors.step, &processors.stream, &processors.output].into_iter().flatten(),
        );
        names
            .extend([&agent.hooks.before_tool, &agent.hooks.after_tool, &agent.hooks.after_step].into_iter().flatten());
        names.extend(
            agent
                .stop
                .iter()
                .filter_map(|stop| if let StopCondition::Function { function } = stop { Some(function) } else { None }),
        );
        let approvals = spec.tools.iter().map(|tool| &tool.approval).chain([&agent.approval]);
        names.extend(
            approvals.filter_map(|approval| if let Approval::Function(name) = approval { Some(name) } else { None }),
        );
        names.into_iter().try_for_each(|name| {
            self.function(name).map(drop).map_err(|error| error.with("agent", agent.name.as_str()))
        })
    }
}

fn blocked(error: Error) -> Error {
    Error::new(codes::RUN_BLOCKED, format!("the run needs what is not registered here: {}", error.body().message))
        .with("needs", error.body().message.clone())
}

/// A stored run's workflow is another one by now: says which steps differ.
fn changed(then: &WorkflowSpec, now: &WorkflowSpec) -> Error {
    let difference = difference(then, now);
    Error::new(
        codes::WORKFLOW_CHANGED,
        format!(
            "the run was started under another spec of workflow `{}`: {difference}. Register the workflow as it was, fork the run, or cancel it",
            now.name
        ),
    )
    .with("workflow", now.name.as_str())
    .with("difference", difference)
}

fn insert<T>(map: &RwLock<Table<String, T>>, kind: ComponentKind, name: String, value: T) -> Result<()> {
    let mut map = map.write();
    if map.contains_key(&name) {
        let what = kind.word();
        return Err(Error::new(
            codes::NAME_TAKEN,
            format!("{what} `{name}` is registered already: choose another name, or remove it first"),
        )
        .with(what, name));
    }
    map.insert(name, value);
    Ok(())
}

fn find<T: Clone>(map: &RwLock<Table<String, T>>, kind: ComponentKind, name: &str) -> Result<T> {
    let map = map.read();
    map.get(name).cloned().ok_or_else(|| unknown(&map, kind, name))
}

fn unknown<T>(map: &Table<String, T>, kind: ComponentKind, name: &str) -> Error {
    let what = kind.word();
    let mut known: Vec<&str> = map.keys().map(String::as_str).collect();
    known.sort_unstable();
    known.truncate(10);
    let known = if known.is_empty() { "none is".to_owned() } else { format!("there are {}", known.join(", ")) };
    Error::new(kind.unknown(), format!("no {what} `{name}` is registered ({known}): register it before the run"))
        .with(what, name)
}

/// Compares what schemas allow: their words for people may differ between languages.
fn same_schema(tool: &str, which: &str, then: Option<&RawJson>, now: Option<&RawJson>) -> Result<()> {
    let bare = |schema: Option<&RawJson>| {
        let mut value = schema.map(RawJson::to_value).unwrap_or_default();
        strip_annotations(&mut value);
        value
    };
    let (then, now) = (bare(then), bare(now));
    if then == now {
        return Ok(());
    }
    Err(Error::new(
        codes::COMPONENT_CHANGED,
        format!("tool `{tool}` has another {which} than when the run was stored: then {then}, now {now}; register it as it was, or cancel the run"),
    )
    .with("tool", tool)
    .with("then", then)
    .with("now", now))
}

fn strip_annotations(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            for key in ["title", "description", "examples", "$schema", "$comment"] {
                // A property may have such a name: then its value is a schema, not a text.
                if fields.get(key).is_some_and(|value| value.is_string() || key == "examples" && value.is_array()) {
                    fields.remove(key);
                }
            }
            fields.values_mut().for_each(strip_annotations);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_annotations),
        _ => {}
    }
}
