//! The workflows that are measured: the same ones as other frameworks run in the jobs J6 and J7.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lomusai::stores::Store;
use lomusai::stores::sqlite::{SqliteOptions, SqliteStore, Sync};
use lomusai::wire::{
    Action, ForeachSpec, Mapping, RawJson, StepReply, StepSpec, SuspendSpec, WorkflowRequest, WorkflowSpec,
};
use lomusai::{Engine, EngineConfig, Result, RunStatus};
use lomusai_core::component::FnStep;
use serde_json::{Value, json};

/// Steps of [`chain`].
pub const STEPS: u64 = 10;

/// An engine with the steps and the workflows, over this store or in memory.
///
/// # Errors
/// None that a benchmark expects.
pub fn engine(store: Option<Arc<dyn Store>>, threads: Option<usize>) -> Result<Engine> {
    let mut config = EngineConfig::default();
    config.threads = threads;
    let mut builder = Engine::builder(config);
    if let Some(store) = store {
        builder = builder.with_store(store);
    }
    let engine = builder.build()?;
    engine.register_step(
        "inc",
        FnStep(|_, input: Value| async move { Ok(json!({"x": number(&input["x"]) + 1}).into()) }),
    )?;
    engine.register_step(
        "collect",
        FnStep(|_, input: Value| async move {
            let more = input.as_object().map_or(0, |parts| parts.len() as u64) - 10;
            Ok(Value::from((0..1_000).map(|i| i + more).collect::<Vec<u64>>()).into())
        }),
    )?;
    engine.register_step("item", FnStep(|_, input: Value| async move { Ok(StepReply::output(number(&input) + 1)) }))?;
    engine.register_workflow(chain("one", 1, false))?;
    engine.register_workflow(chain("bare", STEPS, false))?;
    engine.register_workflow(chain("bare-long", 10 * STEPS, false))?;
    engine.register_workflow(chain("chain", STEPS, true))?;
    engine.register_workflow(fan())?;
    engine.register_workflow(waits())?;
    Ok(engine)
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("the workflow counts")
}

fn schema() -> RawJson {
    RawJson::from(&json!({"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}))
}

/// Steps one after the other, each of which adds one; where they are `typed`, what goes in and out is checked, as Mastra's do.
fn chain(name: &str, steps: u64, typed: bool) -> WorkflowSpec {
    let id = |step: u64| format!("s{step}");
    let steps = (0..steps).map(|step| {
        let mut spec = StepSpec::new(id(step), Action::Step("inc".into()));
        spec.after = step.checked_sub(1).map(id).into_iter().collect();
        (spec.input_schema, spec.output_schema) = (typed.then(schema), typed.then(schema));
        spec
    });
    let mut spec = WorkflowSpec::new(name, steps.collect());
    (spec.input_schema, spec.output_schema) = (typed.then(schema), typed.then(schema));
    spec
}

/// Ten steps side by side, then a thousand items, ten at once.
fn fan() -> WorkflowSpec {
    let parallel: Vec<String> = (0..10).map(|step| format!("s{step}")).collect();
    let mut steps: Vec<StepSpec> = parallel.iter().map(|id| StepSpec::new(id, Action::Step("inc".into()))).collect();
    for step in &mut steps {
        (step.input_schema, step.output_schema) = (Some(schema()), Some(schema()));
    }
    steps.push(StepSpec::new("collect", Action::Step("collect".into())).after(parallel));
    let mut item = StepSpec::new("item", Action::Step("item".into()));
    let number = RawJson::from(&json!({"type": "number"}));
    (item.input_schema, item.output_schema) = (Some(number.clone()), Some(number));
    let mut each = ForeachSpec::new(vec![item]);
    each.concurrency = Some(10);
    steps.push(StepSpec::new("items", Action::Foreach(each)).after(["collect"]));
    WorkflowSpec::new("fan", steps)
}

/// A step, and then a person.
fn waits() -> WorkflowSpec {
    let mut suspend = SuspendSpec::default();
    suspend.payload = Some(Mapping::Value(json!({"question": "shall it go on?"})));
    WorkflowSpec::new(
        "waits",
        vec![
            StepSpec::new("first", Action::Step("inc".into())),
            StepSpec::new("person", Action::Suspend(suspend)).after(["first"]),
        ],
    )
}

/// Runs [`chain`] once.
///
/// # Errors
/// Why the run could not be driven on.
///
/// # Panics
/// Where the run did not come to what it should.
pub async fn run_chain(engine: &Engine, name: &str, steps: u64) -> Result<()> {
    let result = engine.run(WorkflowRequest::new(name, json!({"x": 0}))).await?;
    assert_eq!(object(&result)["x"], steps, "{:?}", result.error);
    Ok(())
}

/// Runs the fan once.
///
/// # Errors
/// Why the run could not be driven on.
///
/// # Panics
/// Where the run did not come to what it should.
pub async fn run_fan(engine: &Engine) -> Result<()> {
    let result = engine.run(WorkflowRequest::new("fan", json!({"x": 1}))).await?;
    let items = object(&result).as_array().expect("a list");
    assert!(items.len() == 1_000 && items[999] == 1_000, "{:?}", result.error);
    Ok(())
}

/// Starts a run that waits for a person.
///
/// # Errors
/// Why the run could not be driven on.
///
/// # Panics
/// Where the run does not wait.
pub async fn run_waits(engine: &Engine) -> Result<()> {
    let result = engine.run(WorkflowRequest::new("waits", json!({"x": 0}))).await?;
    assert_eq!(result.status, RunStatus::Suspended, "{:?}", result.error);
    Ok(())
}

fn object(result: &lomusai::RunResult) -> &Value {
    let output = result.output.as_ref().unwrap_or_else(|| panic!("no output: {:?}", result.error));
    output.object.as_ref().expect("a workflow's output is a value")
}

/// A store in a file of its own, which goes with it.
pub struct TemporaryStore {
    /// The store.
    pub store: Arc<SqliteStore>,
    folder: std::path::PathBuf,
}

impl TemporaryStore {
    /// An empty store.
    ///
    /// # Errors
    /// Storage errors.
    pub fn new(sync: Sync) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("lomusai-bench-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let options = SqliteOptions { sync, ..SqliteOptions::default() };
        Ok(Self { store: Arc::new(SqliteStore::open(folder.join("store.db"), options)?), folder })
    }

    /// Where the file is.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }
}

impl Drop for TemporaryStore {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
