//! Workflows built in Rust: functions of typed values as steps, and a chain that is read from left to right.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use lomusai_wire::{
    Action, Condition, ForeachLink, Link, LoopLink, Mapping, Needs, Retry, StepReply, StepSpec, SuspendSpec, WaitSpec,
    WorkflowDraft, WorkflowSpec, codes,
};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::draft::{drafted, step_id};
use crate::component::{CallContext, FnFunction, Function, Step};
use crate::tool::schema_of;
use crate::{BoxFuture, Error, Result};

// --- Steps -----------------------------------------------------------------------------------------------------------

/// A Rust function of a typed value as a [`Step`]. The types become the schemas by which its input and output are checked.
///
/// # Example
/// ```
/// use lomusai_core::workflow::TypedStep;
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Order { amount: u64 }
///
/// let double = TypedStep::new("double", |_context, order: Order| async move { Ok(order.amount * 2) });
/// ```
pub struct TypedStep<A, F> {
    name: String,
    spec: StepSpec,
    function: F,
    input: PhantomData<fn(A)>,
}

impl<A, R, F, Fut> TypedStep<A, F>
where
    A: DeserializeOwned + JsonSchema + Send + 'static,
    R: Serialize + JsonSchema,
    F: Fn(CallContext, A) -> Fut + Send + Sync,
    Fut: Future<Output = Result<R>> + Send,
{
    /// A step whose function is registered under this name.
    pub fn new(name: impl Into<String>, function: F) -> Self {
        let name = name.into();
        let mut spec = StepSpec::new(step_id(&name), Action::Step(name.clone()));
        (spec.input_schema, spec.output_schema) = (Some(schema_of::<A>()), Some(schema_of::<R>()));
        Self { name, spec, function, input: PhantomData }
    }
}

impl<A, R, F, Fut> Step for TypedStep<A, F>
where
    A: DeserializeOwned + JsonSchema + Send + 'static,
    R: Serialize + JsonSchema,
    F: Fn(CallContext, A) -> Fut + Send + Sync,
    Fut: Future<Output = Result<R>> + Send,
{
    fn call<'a>(&'a self, context: CallContext, input: Arc<Value>) -> BoxFuture<'a, Result<StepReply>> {
        Box::pin(async move {
            let input = A::deserialize(&*input).map_err(|e| {
                let message = format!("the input of step function `{}` does not fit: {e}", self.name);
                Error::new(codes::INPUT_INVALID, message).with("step", self.name.as_str())
            })?;
            let output = serde_json::to_value((self.function)(context, input).await?).map_err(|e| {
                let message = format!("the result of step function `{}` is not JSON: {e}", self.name);
                Error::new(codes::STEP_RESULT_INVALID, message).with("step", self.name.as_str())
            })?;
            Ok(StepReply::output(output))
        })
    }
}

/// A step on its way into a workflow: what it says of itself and its place, and the function where that is Rust's.
pub struct Part {
    spec: StepSpec,
    function: Option<Arc<dyn Step>>,
    when: Option<When>,
}

impl Part {
    /// A step whose function replies in full: it may suspend, bail and set values of the run's state.
    pub fn of(name: impl Into<String>, function: impl Step + 'static) -> Self {
        let mut part = Self::from(name.into().as_str());
        part.function = Some(Arc::new(function));
        part
    }

    /// The same, behind these steps, in place of behind the link before.
    pub fn after<I: Into<String>>(mut self, steps: impl IntoIterator<Item = I>) -> Self {
        self.spec = self.spec.after(steps);
        self
    }

    /// The same, run only if this holds. A condition that fails counts as one that does not hold.
    pub fn when(mut self, condition: impl Into<When>) -> Self {
        self.when = Some(condition.into());
        self
    }

    /// The same, given this in place of what the step before gave.
    pub fn takes(mut self, input: Mapping) -> Self {
        self.spec.input = Some(input);
        self
    }

    /// The same under another id.
    pub fn named(mut self, id: impl Into<String>) -> Self {
        self.spec.id = id.into();
        self
    }

    /// The same, saying what becomes of it when steps before it were skipped.
    pub fn needs(mut self, needs: Needs) -> Self {
        self.spec.needs = needs;
        self
    }

    /// The same, tried again so often when it fails.
    pub fn retried(mut self, retry: Retry) -> Self {
        self.spec.retry = Some(retry);
        self
    }

    /// The same, with anything else of its spec changed.
    pub fn configure(mut self, change: impl FnOnce(&mut StepSpec)) -> Self {
        change(&mut self.spec);
        self
    }
}

impl<A, R, F, Fut> From<TypedStep<A, F>> for Part
where
    A: DeserializeOwned + JsonSchema + Send + 'static,
    R: Serialize + JsonSchema + 'static,
    F: Fn(CallContext, A) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R>> + Send + 'static,
{
    fn from(step: TypedStep<A, F>) -> Self {
        Self { spec: step.spec.clone(), function: Some(Arc::new(step)), when: None }
    }
}

impl From<StepSpec> for Part {
    fn from(spec: StepSpec) -> Self {
        Self { spec, function: None, when: None }
    }
}

/// The step whose function is registered under this name.
impl From<&str> for Part {
    fn from(name: &str) -> Self {
        StepSpec::new(step_id(name), Action::Step(name.into())).into()
    }
}

/// What a step does, under an id that the engine makes.
impl From<Action> for Part {
    fn from(run: Action) -> Self {
        StepSpec::new("", run).into()
    }
}

/// A condition: an expression, or a function.
pub enum When {
    /// See [`Condition::Expr`].
    Expr(String),
    /// Asked with `{workflow, step, input, state, iteration?, output?}`, it answers a boolean.
    Function(Arc<dyn Function>),
}

impl When {
    /// A function of what is asked.
    pub fn holds(function: impl Fn(&Value) -> bool + Send + Sync + 'static) -> Self {
        let answer = move |_: CallContext, asked: Value| std::future::ready(Ok(Value::Bool(function(&asked))));
        Self::Function(Arc::new(FnFunction(answer)))
    }
}

impl From<&str> for When {
    fn from(expression: &str) -> Self {
        Self::Expr(expression.into())
    }
}

// --- Workflows -------------------------------------------------------------------------------------------------------

/// A workflow that is being built, together with its functions.
///
/// A link comes after all steps before it that nothing else comes after. Steps in one link run side by side. What a step gives is the next
/// one's input.
pub struct Workflow {
    draft: WorkflowDraft,
    steps: Vec<(String, Arc<dyn Step>)>,
    /// Functions that have no name yet.
    conditions: Vec<Arc<dyn Function>>,
}

/// A workflow that is built: a spec, and the functions that it names.
pub struct Built {
    /// The spec.
    pub spec: WorkflowSpec,
    /// Its step functions by name.
    pub steps: Vec<(String, Arc<dyn Step>)>,
    /// Its conditions that are functions, by name.
    pub functions: Vec<(String, Arc<dyn Function>)>,
}

/// How a foreach goes through its list.
#[derive(Clone, Debug, Default)]
pub struct Each {
    /// The id of the whole. Default: the step's, which is then called `<id>_item`.
    pub id: String,
    /// Most items at once. Default 1.
    pub concurrency: Option<u32>,
}

/// How a loop goes on.
#[derive(Clone, Debug, Default)]
pub struct Repeat {
    /// The id of the whole. Default: the step's, which is then called `<id>_turn`.
    pub id: String,
    /// Most times before it fails with `loop_exhausted`. Default 1,000.
    pub max: Option<u32>,
}

impl Workflow {
    /// A workflow of this name without steps.
    pub fn new(name: impl Into<String>) -> Self {
        let mut draft = WorkflowDraft::default();
        draft.name = name.into();
        Self { draft, steps: Vec::new(), conditions: Vec::new() }
    }

    /// The same, with what its spec says beside the steps changed: descriptions, schemas, retries, limits.
    pub fn configure(mut self, change: impl FnOnce(&mut WorkflowDraft)) -> Self {
        change(&mut self.draft);
        self
    }

    /// One more step.
    pub fn then(mut self, step: impl Into<Part>) -> Self {
        let step = self.step(step.into());
        self.link(Link::Then(step))
    }

    /// Steps side by side. Gives an object of what each gave, by id.
    pub fn parallel(mut self, steps: impl IntoIterator<Item = Part>) -> Self {
        let steps = steps.into_iter().map(|step| self.step(step)).collect();
        self.link(Link::Parallel(steps))
    }

    /// Steps with a condition each. All whose condition holds run, side by side; one that fails counts as not holding. Gives an object of
    /// what those gave that ran, by id. What follows runs whichever did.
    pub fn branch(mut self, arms: impl IntoIterator<Item = (When, Part)>) -> Self {
        let arms = arms.into_iter().map(|(condition, step)| self.step(step.when(condition))).collect();
        self.link(Link::Branch(arms))
    }

    /// A step for each item of the list that the step before gave. Gives the list of what each gave, in order.
    pub fn foreach(mut self, step: impl Into<Part>, each: Each) -> Self {
        let mut link = ForeachLink::new(self.step(step.into()));
        (link.id, link.concurrency) = (each.id, each.concurrency);
        self.link(Link::Foreach(link))
    }

    /// A step that runs, and again with what it gave as long as the condition holds. The condition sees `output` and `iteration`.
    pub fn do_while(mut self, step: impl Into<Part>, condition: impl Into<When>, repeat: Repeat) -> Self {
        let step = self.step(step.into());
        let mut link = LoopLink::repeat_while(step, self.condition(condition.into()));
        (link.id, link.max) = (repeat.id, repeat.max);
        self.link(Link::Loop(link))
    }

    /// As [`do_while`](Self::do_while), until the condition holds.
    pub fn do_until(mut self, step: impl Into<Part>, condition: impl Into<When>, repeat: Repeat) -> Self {
        let step = self.step(step.into());
        let mut link = LoopLink::repeat_until(step, self.condition(condition.into()));
        (link.id, link.max) = (repeat.id, repeat.max);
        self.link(Link::Loop(link))
    }

    /// Works a value out.
    pub fn map(self, mapping: Mapping) -> Self {
        self.then(Action::Map(mapping))
    }

    /// Waits so long, across restarts.
    pub fn sleep(self, time: Duration) -> Self {
        self.then(Action::Sleep(Mapping::Value(u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into())))
    }

    /// Waits until this time, in milliseconds since 1970.
    pub fn sleep_until(self, at_ms: u64) -> Self {
        self.then(Action::SleepUntil(Mapping::Value(at_ms.into())))
    }

    /// Waits for a signal, and gives its data. One that came earlier counts.
    pub fn wait_for(self, signal: impl Into<String>) -> Self {
        self.then(Action::Wait(WaitSpec::new(signal)))
    }

    /// Waits for a `resume` command, and gives its data.
    pub fn suspend(self, suspend: SuspendSpec) -> Self {
        self.then(Action::Suspend(suspend))
    }

    /// Ends the run as a success with this.
    pub fn bail(self, result: Mapping) -> Self {
        self.then(Action::Bail(result))
    }

    /// Steps in the style of dependencies: each comes after what it says by [`Part::after`], and after nothing else.
    pub fn steps(mut self, steps: impl IntoIterator<Item = Part>) -> Self {
        let steps = steps.into_iter().map(|step| self.step(step)).collect();
        self.link(Link::Steps(steps))
    }

    /// What the run comes to. Default: what the last link gives.
    pub fn output(mut self, output: Mapping) -> Self {
        self.draft.output = Some(output);
        self
    }

    /// The spec and the functions, ready to be registered.
    ///
    /// # Errors
    /// As [`drafted`](super::drafted).
    pub fn build(self) -> Result<Built> {
        let drafted = drafted(self.draft)?;
        let functions = self.conditions.into_iter().enumerate();
        let functions = functions.map(|(number, function)| (drafted.functions[&placeholder(number)].clone(), function));
        Ok(Built { functions: functions.collect(), steps: self.steps, spec: drafted.spec })
    }

    fn link(mut self, link: Link) -> Self {
        self.draft.chain.push(link);
        self
    }

    fn step(&mut self, part: Part) -> StepSpec {
        let mut spec = part.spec;
        if let Some(condition) = part.when {
            spec.when = Some(self.condition(condition));
        }
        if let (Some(function), Action::Step(name)) = (part.function, &spec.run) {
            self.steps.push((name.clone(), function));
        }
        spec
    }

    fn condition(&mut self, condition: When) -> Condition {
        match condition {
            When::Expr(expression) => Condition::Expr(expression),
            When::Function(function) => {
                self.conditions.push(function);
                Condition::Function(placeholder(self.conditions.len() - 1))
            }
        }
    }
}

fn placeholder(number: usize) -> String {
    format!("#{number}")
}
