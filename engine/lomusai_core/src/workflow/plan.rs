//! What is worked out once per workflow and shared by all its runs: checked, hashed, its names turned into places.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lomusai_wire::{Action, Condition, EffectId, Needs, RawJson, Retry, StepSpec, WorkflowSpec, codes};
use serde_json::Value;

use super::mapping::{Asked, Made, Root};
use crate::agent::check_name;
use crate::schema::Schema;
use crate::{Error, Result, journal};

/// Ids that stand for a step's condition in the ids of effects.
const RESERVED: [&str; 3] = ["when", "while", "until"];
/// So deep may steps lie inside of steps.
const DEPTH_MAX: usize = 16;
/// So many steps may a workflow have.
const STEPS_MAX: usize = 10_000;

/// A workflow, ready to run.
#[derive(Debug)]
pub struct WorkflowPlan {
    /// What it was made from.
    pub spec: WorkflowSpec,
    /// SHA-256 of the spec's canonical JSON.
    pub hash: String,
    /// The first is the workflow's own, the others lie in steps.
    pub(super) scopes: Vec<Scope>,
    pub(super) input: Option<Schema>,
    pub(super) output: Option<Schema>,
    needed: Vec<Needed>,
}

/// A component that a workflow needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needed {
    /// A step function.
    Step(String),
    /// A tool.
    Tool(String),
    /// An agent.
    Agent(String),
    /// A workflow.
    Workflow(String),
    /// A function.
    Function(String),
}

/// Steps that begin and end together.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) nodes: Vec<Node>,
    by_id: BTreeMap<String, usize>,
    /// Those that nothing comes after.
    pub(super) last: Vec<usize>,
    pub(super) output: Option<Made>,
}

#[derive(Debug)]
pub(super) struct Node {
    /// Its id; outside of groups that is its effect's, too.
    pub(super) id: EffectId,
    pub(super) after: Vec<usize>,
    /// Those that have it in their `after`, in order.
    pub(super) before: Vec<usize>,
    pub(super) needs: Needs,
    pub(super) when: Option<Question>,
    pub(super) input: Option<Made>,
    pub(super) action: Does,
    pub(super) retry: Retry,
    pub(super) timeout_ms: u64,
    pub(super) input_schema: Option<Schema>,
    pub(super) output_schema: Option<Schema>,
    pub(super) suspend_schema: Option<Schema>,
    pub(super) resume_schema: Option<(Schema, RawJson)>,
}

#[derive(Debug)]
pub(super) enum Question {
    Expr(Asked),
    Function(Arc<str>),
}

#[derive(Debug)]
pub(super) enum Does {
    Step(Arc<str>),
    Tool(Arc<str>),
    Agent(Arc<str>),
    Workflow(Arc<str>),
    Map(Made),
    Sleep(Made),
    SleepUntil(Made),
    Wait { signal: String, timeout_ms: Option<u64> },
    Suspend { payload: Option<Made>, label: Option<String> },
    Bail(Made),
    Foreach { scope: usize, concurrency: usize },
    Loop { scope: usize, condition: Question, until: bool, max: u32 },
}

impl WorkflowPlan {
    /// Checks a spec and makes it ready.
    ///
    /// # Errors
    /// `name_invalid`, `step_duplicate`, `step_reference_unknown`, `step_cycle`, `expression_invalid`, `schema_invalid`, and `spec_invalid`
    /// for the rest; each names the workflow and the step.
    pub fn new(spec: WorkflowSpec) -> Result<Self> {
        check_name("workflow", &spec.name)?;
        let hash = journal::value_hash(&spec);
        let mut builder = Builder { spec: &spec, scopes: Vec::new(), ids: BTreeSet::new(), steps: 0 };
        builder
            .scope(&spec.steps, spec.output.as_ref(), None)
            .map_err(|error| error.with("workflow", spec.name.as_str()))?;
        let scopes: Vec<Scope> =
            builder.scopes.into_iter().map(|scope| scope.expect("every scope was built")).collect();
        let schema = |schema: &Option<RawJson>, which: &str| {
            let what = format!("the {which} of workflow `{}`", spec.name);
            schema.as_ref().map(|schema| Schema::compile(schema, &what)).transpose()
        };
        let (input, output) =
            (schema(&spec.input_schema, "input_schema")?, schema(&spec.output_schema, "output_schema")?);
        let needed = needed(&scopes);
        Ok(Self { hash, scopes, input, output, needed, spec })
    }

    /// The components that it calls, each once.
    pub fn needed(&self) -> &[Needed] {
        &self.needed
    }

    /// Steps that wait for this signal.
    pub(super) fn waits_for<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> {
        let waits = move |node: &&Node| matches!(&node.action, Does::Wait { signal, .. } if signal == name);
        self.scopes.iter().flat_map(|scope| &scope.nodes).filter(waits)
    }

    /// Names of all signals that steps wait for.
    pub(super) fn signals(&self) -> BTreeSet<&str> {
        let nodes = self.scopes.iter().flat_map(|scope| &scope.nodes);
        nodes
            .filter_map(|node| if let Does::Wait { signal, .. } = &node.action { Some(&**signal) } else { None })
            .collect()
    }
}

fn needed(scopes: &[Scope]) -> Vec<Needed> {
    let mut needed = BTreeSet::new();
    for node in scopes.iter().flat_map(|scope| &scope.nodes) {
        needed.extend(match &node.action {
            Does::Step(name) => Some(Needed::Step(name.to_string())),
            Does::Tool(name) => Some(Needed::Tool(name.to_string())),
            Does::Agent(name) => Some(Needed::Agent(name.to_string())),
            Does::Workflow(name) => Some(Needed::Workflow(name.to_string())),
            Does::Loop { condition: Question::Function(name), .. } => Some(Needed::Function(name.to_string())),
            _ => None,
        });
        if let Some(Question::Function(name)) = &node.when {
            needed.insert(Needed::Function(name.to_string()));
        }
    }
    needed.into_iter().collect()
}

impl Scope {
    pub(super) fn find(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }
}

struct Builder<'s> {
    spec: &'s WorkflowSpec,
    /// `None` while it is being built.
    scopes: Vec<Option<Scope>>,
    ids: BTreeSet<&'s str>,
    steps: usize,
}

/// What surrounds a scope, from the inside out.
struct Around<'a> {
    nodes: &'a [StepSpec],
    /// For each step, those that come before it.
    behind: &'a [BTreeSet<usize>],
    /// The step inside of which we are.
    here: usize,
    is_loop: bool,
    parent: Option<&'a Around<'a>>,
}

/// What can be referred to at some place of a spec.
pub(super) struct Sight<'a> {
    workflow: &'a str,
    /// The step, in words.
    what: String,
    nodes: &'a [StepSpec],
    /// What comes before the step; `None` where everything has ended.
    behind: Option<&'a BTreeSet<usize>>,
    around: Option<&'a Around<'a>>,
    pub(super) in_foreach: bool,
    pub(super) in_loop: bool,
    pub(super) in_condition: bool,
}

impl Sight<'_> {
    pub(super) fn place(&self) -> String {
        format!("{} of workflow `{}`", self.what, self.workflow)
    }

    pub(super) fn invalid(&self, why: &str) -> Error {
        Error::new(codes::SPEC_INVALID, format!("{} {why}", self.place()))
    }

    /// The step of this id, as so many scopes further out and its place there.
    pub(super) fn find(&self, id: &str) -> Result<(usize, usize)> {
        let unknown = |why: &str| {
            Error::new(codes::STEP_REFERENCE_UNKNOWN, format!("{} refers to step `{id}`, {why}", self.place()))
                .with("reference", id)
        };
        let early = "which need not have ended by then: put it into `after`";
        // In an expression a `-` would be a minus.
        let named = |step: &StepSpec| step.id == id || step.id.replace('-', "_") == id;
        if let Some(node) = self.nodes.iter().position(named) {
            return match self.behind {
                Some(behind) if !behind.contains(&node) => Err(unknown(early)),
                _ => Ok((0, node)),
            };
        }
        let (mut around, mut up) = (self.around, 1);
        while let Some(scope) = around {
            if let Some(node) = scope.nodes.iter().position(named) {
                return if scope.behind[scope.here].contains(&node) { Ok((up, node)) } else { Err(unknown(early)) };
            }
            (around, up) = (scope.parent, up + 1);
        }
        Err(unknown("which is not there"))
    }
}

impl<'s> Builder<'s> {
    fn invalid(&self, id: &str, why: impl std::fmt::Display) -> Error {
        Error::new(codes::SPEC_INVALID, format!("step `{id}` of workflow `{}` {why}", self.spec.name)).with("step", id)
    }

    /// Builds a scope and those inside of it. Gives its place.
    fn scope(
        &mut self,
        steps: &'s [StepSpec],
        output: Option<&'s lomusai_wire::Mapping>,
        outer: Option<&Around<'_>>,
    ) -> Result<usize> {
        let name = &self.spec.name;
        let place = self.scopes.len();
        self.scopes.push(None);
        let inside = outer.map(|around| &around.nodes[around.here].id);
        if steps.is_empty() {
            let what =
                inside.map_or_else(|| format!("workflow `{name}`"), |id| format!("step `{id}` of workflow `{name}`"));
            return Err(Error::new(codes::SPEC_INVALID, format!("{what} has no steps: give it at least one")));
        }
        let mut by_id = BTreeMap::new();
        for (node, step) in steps.iter().enumerate() {
            self.check_id(&step.id)?;
            by_id.insert(step.id.clone(), node);
        }
        let after: Vec<Vec<usize>> = steps.iter().map(|step| self.after(step, &by_id)).collect::<Result<_>>()?;
        let behind = self.behind(steps, &after)?;
        let mut before = vec![Vec::new(); steps.len()];
        for (node, after) in after.iter().enumerate() {
            after.iter().for_each(|&earlier| before[earlier].push(node));
        }
        let last = (0..steps.len()).filter(|&node| before[node].is_empty()).collect();
        let (in_foreach, in_loop) = within(outer);
        let mut nodes = Vec::with_capacity(steps.len());
        for (node, step) in steps.iter().enumerate() {
            let what = format!("step `{}`", step.id);
            let sight = Sight {
                workflow: name,
                what,
                nodes: steps,
                behind: Some(&behind[node]),
                around: outer,
                in_foreach,
                in_loop,
                in_condition: false,
            };
            let action = self.action(
                step,
                &sight,
                Around {
                    nodes: steps,
                    behind: &behind,
                    here: node,
                    is_loop: matches!(step.run, Action::Loop(_)),
                    parent: outer,
                },
            )?;
            nodes.push(self.node(step, &sight, action, after[node].clone(), std::mem::take(&mut before[node]))?);
        }
        let sight = Sight {
            workflow: name,
            what: inside.map_or_else(|| "the output".into(), |id| format!("the output of step `{id}`")),
            nodes: steps,
            behind: None,
            around: outer,
            in_foreach,
            in_loop,
            in_condition: false,
        };
        let output = output.map(|output| Made::compile(output, &sight)).transpose()?;
        if outer.is_some() && output.as_ref().is_some_and(Made::may_fail) {
            return Err(sight.invalid("cannot be an expression: put a `map` step there"));
        }
        self.check_types(steps, &after)?;
        self.scopes[place] = Some(Scope { nodes, by_id, last, output });
        Ok(place)
    }

    fn check_id(&mut self, id: &'s str) -> Result<()> {
        let name = &self.spec.name;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let good = id.len() <= 64 && id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.chars().all(fits);
        if !good || RESERVED.contains(&id) {
            return Err(Error::new(
                codes::NAME_INVALID,
                format!("the id of a step is a letter and up to 63 letters, digits, `_` or `-`, and not when, while or until; one of workflow `{name}` is `{}`", id.escape_debug()),
            )
            .with("step", id));
        }
        if !self.ids.insert(id) {
            return Err(Error::new(
                codes::STEP_DUPLICATE,
                format!("workflow `{name}` has two steps `{id}`: ids are unique, also inside of foreach and loop"),
            )
            .with("step", id));
        }
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(Error::new(
                codes::SPEC_INVALID,
                format!("workflow `{name}` has more than {STEPS_MAX} steps: use foreach, or workflows inside of it"),
            ));
        }
        Ok(())
    }

    fn after(&self, step: &StepSpec, by_id: &BTreeMap<String, usize>) -> Result<Vec<usize>> {
        let mut places = Vec::with_capacity(step.after.len());
        for id in &step.after {
            let Some(&place) = by_id.get(id) else {
                let mut known: Vec<&str> = by_id.keys().map(String::as_str).filter(|other| *other != step.id).collect();
                known.sort_unstable();
                known.truncate(10);
                return Err(Error::new(
                    codes::STEP_REFERENCE_UNKNOWN,
                    format!(
                        "step `{}` of workflow `{}` comes after `{id}`, which is not beside it: there are {}",
                        step.id,
                        self.spec.name,
                        if known.is_empty() { "no others".to_owned() } else { known.join(", ") }
                    ),
                )
                .with("step", step.id.as_str())
                .with("reference", id.as_str()));
            };
            if places.contains(&place) {
                return Err(self.invalid(&step.id, format_args!("comes after `{id}` twice: name it once")));
            }
            places.push(place);
        }
        Ok(places)
    }

    /// For each step, all that come before it.
    fn behind(&self, steps: &[StepSpec], after: &[Vec<usize>]) -> Result<Vec<BTreeSet<usize>>> {
        let mut behind: Vec<Option<BTreeSet<usize>>> = vec![None; steps.len()];
        for start in 0..steps.len() {
            // Depth first without recursion: a workflow may be one long chain.
            let mut path = vec![(start, 0)];
            while let Some(&mut (node, ref mut next)) = path.last_mut() {
                if behind[node].is_some() {
                    path.pop();
                    continue;
                }
                match after[node].get(*next) {
                    Some(&earlier) => {
                        *next += 1;
                        if let Some(from) = path.iter().position(|(on_path, _)| *on_path == earlier) {
                            let mut circle: Vec<&str> = path[from..].iter().map(|(n, _)| &*steps[*n].id).collect();
                            circle.push(&steps[earlier].id);
                            circle.reverse();
                            return Err(Error::new(
                                codes::STEP_CYCLE,
                                format!(
                                    "steps of workflow `{}` wait for one another: {}. Take one out of `after`, or use a loop",
                                    self.spec.name,
                                    circle.join(" → ")
                                ),
                            )
                            .with("steps", circle));
                        }
                        path.push((earlier, 0));
                    }
                    None => {
                        let mut all: BTreeSet<usize> = after[node].iter().copied().collect();
                        for earlier in &after[node] {
                            all.extend(behind[*earlier].iter().flatten());
                        }
                        behind[node] = Some(all);
                        path.pop();
                    }
                }
            }
        }
        Ok(behind.into_iter().map(Option::unwrap_or_default).collect())
    }

    fn node(
        &self,
        step: &StepSpec,
        sight: &Sight<'_>,
        action: Does,
        after: Vec<usize>,
        before: Vec<usize>,
    ) -> Result<Node> {
        let schema = |schema: &Option<RawJson>, which: &str| {
            let what = format!("the {which} of {}", sight.place());
            schema.as_ref().map(|schema| Schema::compile(schema, &what)).transpose()
        };
        let resume_schema = schema(&step.resume_schema, "resume_schema")?;
        Ok(Node {
            id: step.id.as_str().into(),
            after,
            before,
            needs: step.needs,
            when: step.when.as_ref().map(|when| question(when, sight)).transpose()?,
            input: step.input.as_ref().map(|input| Made::compile(input, sight)).transpose()?,
            action,
            retry: step.retry.or(self.spec.retry).unwrap_or_default(),
            timeout_ms: step.timeout_ms.unwrap_or(self.spec.limits.tool_ms()),
            input_schema: schema(&step.input_schema, "input_schema")?,
            output_schema: schema(&step.output_schema, "output_schema")?,
            suspend_schema: schema(&step.suspend_schema, "suspend_schema")?,
            resume_schema: resume_schema.zip(step.resume_schema.clone()),
        })
    }

    fn action(&mut self, step: &'s StepSpec, sight: &Sight<'_>, around: Around<'_>) -> Result<Does> {
        let made = |mapping| Made::compile(mapping, sight);
        let named = |what: &str, name: &String| check_name(what, name).map(|()| Arc::from(name.as_str()));
        Ok(match &step.run {
            Action::Step(name) => Does::Step(named("step function", name)?),
            Action::Tool(name) => Does::Tool(named("tool", name)?),
            Action::Agent(name) => Does::Agent(named("agent", name)?),
            Action::Workflow(name) if *name == self.spec.name => {
                return Err(self.invalid(&step.id, "runs its own workflow: use a loop"));
            }
            Action::Workflow(name) => Does::Workflow(named("workflow", name)?),
            Action::Map(mapping) => Does::Map(made(mapping)?),
            Action::Sleep(mapping) => Does::Sleep(self.time(step, mapping, sight)?),
            Action::SleepUntil(mapping) => Does::SleepUntil(self.time(step, mapping, sight)?),
            Action::Wait(wait) if wait.signal.is_empty() => {
                return Err(self.invalid(&step.id, "waits for a signal without a name"));
            }
            Action::Wait(wait) => Does::Wait { signal: wait.signal.clone(), timeout_ms: wait.timeout_ms },
            Action::Suspend(suspend) => {
                Does::Suspend { payload: suspend.payload.as_ref().map(made).transpose()?, label: suspend.label.clone() }
            }
            Action::Bail(mapping) => Does::Bail(made(mapping)?),
            Action::Foreach(foreach) => {
                self.check_depth(step, &around)?;
                if foreach.concurrency == Some(0) {
                    return Err(self.invalid(&step.id, "has `concurrency` 0: it must be at least 1"));
                }
                let scope = self.scope(&foreach.steps, foreach.output.as_ref(), Some(&around))?;
                Does::Foreach { scope, concurrency: foreach.concurrency.unwrap_or(1) as usize }
            }
            Action::Loop(repeat) => {
                self.check_depth(step, &around)?;
                let (condition, until) = match (&repeat.while_, &repeat.until) {
                    (Some(condition), None) => (condition, false),
                    (None, Some(condition)) => (condition, true),
                    _ => return Err(self.invalid(&step.id, "is a loop: give it either `while` or `until`")),
                };
                if repeat.max == Some(0) {
                    return Err(self.invalid(&step.id, "has `max` 0: it must be at least 1"));
                }
                let scope = self.scope(&repeat.steps, repeat.output.as_ref(), Some(&around))?;
                let (in_foreach, _) = within(Some(&around));
                let inside = Sight {
                    workflow: sight.workflow,
                    what: format!("the condition of step `{}`", step.id),
                    nodes: &repeat.steps,
                    behind: None,
                    around: Some(&around),
                    in_foreach,
                    in_loop: true,
                    in_condition: true,
                };
                let condition = question(condition, &inside)?;
                Does::Loop { scope, condition, until, max: repeat.max() }
            }
            _ => return Err(self.invalid(&step.id, "does what this version does not know")),
        })
    }

    fn time(&self, step: &StepSpec, mapping: &lomusai_wire::Mapping, sight: &Sight<'_>) -> Result<Made> {
        let made = Made::compile(mapping, sight)?;
        if let Made::Value(value) = &made
            && value.as_u64().is_none()
        {
            return Err(
                self.invalid(&step.id, format_args!("sleeps a time that is no whole number of milliseconds: {value}"))
            );
        }
        Ok(made)
    }

    fn check_depth(&self, step: &StepSpec, around: &Around<'_>) -> Result<()> {
        let mut depth = 1;
        let mut next = around.parent;
        while let Some(outer) = next {
            depth += 1;
            next = outer.parent;
        }
        if depth > DEPTH_MAX {
            return Err(self.invalid(
                &step.id,
                format_args!("lies more than {DEPTH_MAX} deep: use a workflow inside of the workflow"),
            ));
        }
        Ok(())
    }

    /// What one step gives must be what the next one takes, where both say so.
    fn check_types(&self, steps: &[StepSpec], after: &[Vec<usize>]) -> Result<()> {
        for (step, after) in steps.iter().zip(after) {
            // Only where the output is passed on as it is.
            let ([earlier], None, Some(takes)) = (&after[..], &step.input, &step.input_schema) else { continue };
            let Some(gives) = &steps[*earlier].output_schema else { continue };
            if let Some(why) = mismatch(&gives.to_value(), &takes.to_value(), "") {
                return Err(self.invalid(
                    &step.id,
                    format_args!(
                        "cannot take what step `{}` gives: {why}. Change a schema, or say `input`",
                        steps[*earlier].id
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Whether a place is inside of a foreach, and of a loop.
fn within(mut around: Option<&Around<'_>>) -> (bool, bool) {
    let (mut in_foreach, mut in_loop) = (false, false);
    while let Some(scope) = around {
        if scope.is_loop {
            in_loop = true;
        } else {
            in_foreach = true;
        }
        around = scope.parent;
    }
    (in_foreach, in_loop)
}

fn question(condition: &Condition, sight: &Sight<'_>) -> Result<Question> {
    Ok(match condition {
        Condition::Expr(text) => Question::Expr(Asked::compile(text, sight)?),
        Condition::Function(name) => {
            check_name("function", name)?;
            Question::Function(name.as_str().into())
        }
        _ => return Err(sight.invalid("has a condition that this version does not know")),
    })
}

/// How a value of one schema can never fit another. Says nothing where that cannot be told.
fn mismatch(gives: &Value, takes: &Value, at: &str) -> Option<String> {
    let place = || if at.is_empty() { String::new() } else { format!(" at {at}") };
    if let (Some(gives), Some(takes)) = (gives["type"].as_str(), takes["type"].as_str())
        && gives != takes
        && (gives, takes) != ("integer", "number")
        && (gives, takes) != ("number", "integer")
    {
        return Some(format!("type {gives} is no {takes}{}", place()));
    }
    let closed = gives["additionalProperties"] == Value::Bool(false);
    for required in takes["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if closed && gives["properties"].get(required).is_none() {
            return Some(format!("`{required}` is missing{}", place()));
        }
    }
    for (name, takes) in takes["properties"].as_object().into_iter().flatten() {
        if let Some(gives) = gives["properties"].get(name)
            && let Some(why) = mismatch(gives, takes, &format!("{at}/{name}"))
        {
            return Some(why);
        }
    }
    match (gives.get("items"), takes.get("items")) {
        (Some(gives), Some(takes)) => mismatch(gives, takes, &format!("{at}/*")),
        _ => None,
    }
}

impl Root {
    /// Its name in expressions. Steps are known together.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Step { .. } => "steps",
            Self::State => "state",
            Self::Item => "item",
            Self::Index => "index",
            Self::Iteration => "iteration",
            Self::Output => "output",
        }
    }
}
