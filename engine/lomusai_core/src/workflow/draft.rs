//! From a builder's chain to a spec: what comes after what, what steps and functions without a name are called. One place for all languages.

use std::collections::BTreeMap;

use lomusai_wire::{
    Action, Condition, ForeachLink, ForeachSpec, Link, LoopLink, LoopSpec, Mapping, Needs, StepSpec, WorkflowDraft,
    WorkflowSpec, codes,
};
use serde::Serialize;

use crate::{Error, Result};

/// A spec, and the names that functions without one were given.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drafted {
    /// To be registered.
    pub spec: WorkflowSpec,
    /// The name by the placeholder, `#` and what the builder wrote behind it.
    pub functions: BTreeMap<String, String>,
}

/// Makes the spec of a draft. Whether that can run is found out when it is registered.
///
/// # Errors
/// `spec_invalid` for an arm of a branch without a condition.
pub fn drafted(draft: WorkflowDraft) -> Result<Drafted> {
    let mut chain = Chain { workflow: draft.name.clone(), ..Chain::default() };
    for link in draft.chain {
        chain.link(link)?;
    }
    let output = draft.output.or_else(|| chain.lone.take().map(by_id));
    let mut spec = WorkflowSpec::new(draft.name, chain.steps);
    (spec.description, spec.output, spec.retry) = (draft.description, output, draft.retry);
    (spec.input_schema, spec.output_schema) = (draft.input_schema, draft.output_schema);
    (spec.limits, spec.metadata) = (draft.limits, draft.metadata);
    let mut functions = BTreeMap::new();
    name_functions(&chain.workflow, &mut spec.steps, &mut functions);
    Ok(Drafted { spec, functions })
}

#[derive(Default)]
struct Chain {
    workflow: String,
    steps: Vec<StepSpec>,
    /// Steps that nothing comes after yet.
    last: Vec<String>,
    /// Whether the last link was a branch: what follows runs, whichever of its arms did.
    branched: bool,
    /// The only step of a parallel or a branch: what follows is given an object all the same.
    lone: Option<String>,
    /// How many steps of a kind were called by it.
    counted: BTreeMap<&'static str, usize>,
}

impl Chain {
    fn link(&mut self, link: Link) -> Result<()> {
        match link {
            Link::Then(step) => self.side_by_side(vec![step]),
            Link::Parallel(steps) => {
                self.side_by_side(steps);
                self.lone = self.only();
            }
            Link::Branch(steps) => {
                if let Some(arm) = steps.iter().find(|step| step.when.is_none()) {
                    let message = format!(
                        "step `{}` of workflow `{}` is in a branch and has no condition: say `when`, or put it behind",
                        arm.id, self.workflow
                    );
                    return Err(Error::new(codes::SPEC_INVALID, message).with("step", arm.id.as_str()));
                }
                self.side_by_side(steps);
                self.lone = self.only();
                self.branched = true;
            }
            Link::Foreach(ForeachLink { step, id, concurrency, .. }) => {
                let (mut whole, inner) = self.around(step, id, "item");
                let mut each = ForeachSpec::new(vec![inner]);
                each.concurrency = concurrency;
                whole.run = Action::Foreach(each);
                self.side_by_side(vec![whole]);
            }
            Link::Loop(LoopLink { step, id, while_, until, max, .. }) => {
                let (mut whole, inner) = self.around(step, id, "turn");
                let mut repeat = LoopSpec::new(vec![inner]);
                (repeat.while_, repeat.until, repeat.max) = (while_, until, max);
                whole.run = Action::Loop(repeat);
                self.side_by_side(vec![whole]);
            }
            Link::Steps(steps) => {
                (self.branched, self.lone) = (false, None);
                for mut step in steps {
                    self.name(&mut step);
                    self.add(step);
                }
            }
            _ => {
                let message = format!("workflow `{}` has a link that this version does not know", self.workflow);
                return Err(Error::new(codes::SPEC_INVALID, message));
            }
        }
        Ok(())
    }

    /// Puts steps behind those that are last.
    fn side_by_side(&mut self, steps: Vec<StepSpec>) {
        let (before, lone) = (self.last.clone(), self.lone.take());
        let branched = std::mem::take(&mut self.branched);
        for mut step in steps {
            self.name(&mut step);
            if step.after.is_empty() {
                step.after.clone_from(&before);
                if branched && step.needs == Needs::Any {
                    step.needs = Needs::None;
                }
                if step.input.is_none() {
                    step.input = lone.clone().map(by_id);
                }
            }
            self.add(step);
        }
    }

    fn add(&mut self, step: StepSpec) {
        self.last.retain(|id| !step.after.contains(id));
        self.last.push(step.id.clone());
        self.steps.push(step);
    }

    fn only(&self) -> Option<String> {
        if let [only] = &self.last[..] { Some(only.clone()) } else { None }
    }

    /// A step as the inside of one around it, which has what is said of the place.
    fn around(&mut self, mut step: StepSpec, id: String, suffix: &str) -> (StepSpec, StepSpec) {
        self.name(&mut step);
        let id = if id.is_empty() {
            let id = step.id.clone();
            step.id = format!("{id}_{suffix}");
            id
        } else {
            id
        };
        let mut whole = StepSpec::new(id, step.run.clone());
        (whole.after, whole.needs) = (std::mem::take(&mut step.after), std::mem::take(&mut step.needs));
        (whole.when, whole.input) = (step.when.take(), step.input.take());
        (whole, step)
    }

    /// Calls a step without an id as what it runs, or by its kind and a number.
    fn name(&mut self, step: &mut StepSpec) {
        if !step.id.is_empty() {
            return;
        }
        let (kind, component) = match &step.run {
            Action::Step(name) => ("step", name.as_str()),
            Action::Tool(name) => ("tool", name.as_str()),
            Action::Agent(name) => ("agent", name.as_str()),
            Action::Workflow(name) => ("workflow", name.as_str()),
            Action::Map(_) => ("map", ""),
            Action::Sleep(_) => ("sleep", ""),
            Action::SleepUntil(_) => ("sleep_until", ""),
            Action::Wait(_) => ("wait", ""),
            Action::Suspend(_) => ("suspend", ""),
            Action::Bail(_) => ("bail", ""),
            Action::Foreach(_) => ("foreach", ""),
            Action::Loop(_) => ("loop", ""),
            _ => ("step", ""),
        };
        step.id = step_id(component);
        if !step.id.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let count = self.counted.entry(kind).or_default();
            *count += 1;
            step.id = format!("{kind}_{count}");
        }
    }
}

/// The id of a step that runs a component of this name.
pub(super) fn step_id(component: &str) -> String {
    component.replace('.', "_").trim_start_matches('_').to_owned()
}

/// What a parallel or branch of one step comes to.
fn by_id(id: String) -> Mapping {
    let output = Mapping::From(format!("steps.{id}"));
    Mapping::Object(BTreeMap::from([(id, output)]))
}

/// Gives names to functions that have none, by their place: a condition's is the id of its effect.
fn name_functions(workflow: &str, steps: &mut [StepSpec], functions: &mut BTreeMap<String, String>) {
    let mut call = |name: &mut String, place: String| {
        if name.starts_with('#') {
            let given = format!("{workflow}.{place}");
            functions.insert(std::mem::replace(name, given.clone()), given);
        }
    };
    for step in &mut *steps {
        let id = &step.id;
        if let Some(Condition::Function(name)) = &mut step.when {
            call(name, format!("{id}.when"));
        }
        match &mut step.run {
            Action::Step(name) => call(name, id.clone()),
            Action::Loop(LoopSpec { while_, until, .. }) => {
                for (condition, word) in [(while_, "while"), (until, "until")] {
                    if let Some(Condition::Function(name)) = condition {
                        call(name, format!("{id}.{word}"));
                    }
                }
            }
            _ => {}
        }
    }
    for step in steps {
        match &mut step.run {
            Action::Foreach(each) => name_functions(workflow, &mut each.steps, functions),
            Action::Loop(repeat) => name_functions(workflow, &mut repeat.steps, functions),
            _ => {}
        }
    }
}
