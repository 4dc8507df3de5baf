//! What stands between runs and models: budgets that runs share, cassettes, layers, costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lomusai_core::component::CallContext;
use lomusai_core::llm::{LlmProvider, ModelStream};
use lomusai_core::retry::Retry;
use lomusai_core::testing::{ScriptedModel, block_on};
use lomusai_core::tool::{FnTool, TypedTool};
use lomusai_core::{BoxFuture, Error, Result};
use lomusai_runtime::layer::{Cached, FallingBack, Patience, ProviderLimits, Retrying, Timed};
use lomusai_runtime::{CassetteConfig, CassetteMode, Engine, EngineConfig, RunResult};
use lomusai_wire::{
    AgentSpec, Budget, EventBody, Message, ModelChunk, ModelInfo, ModelRequest, PartDelta, Price, RunStatus,
    StartRequest, ToolSpec, Usage, codes,
};
use serde_json::{Value, json};

fn run(engine: &Engine, request: StartRequest) -> Result<Arc<RunResult>> {
    let inner = engine.clone();
    engine.block_on(async move { inner.run(request).await }).unwrap()
}

fn request(change: impl FnOnce(&mut StartRequest)) -> StartRequest {
    let mut request = StartRequest::new("agent", "Go");
    change(&mut request);
    request
}

/// A model that takes what it is allowed to take, and a little time.
struct Greedy {
    calls: AtomicUsize,
    /// What it takes where nobody bounds it.
    unbounded: u64,
    /// Whether it does what `max_output_tokens` says.
    obeys: bool,
}

impl LlmProvider for Greedy {
    fn stream<'a>(&'a self, _: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        Box::pin(async move {
            let number = self.calls.fetch_add(1, Ordering::SeqCst);
            // Calls of several runs overlap in any order.
            for _ in 0..number % 7 {
                tokio::task::yield_now().await;
            }
            let bound = request.settings.max_output_tokens.filter(|_| self.obeys);
            let output = bound.map_or(self.unbounded, |bound| u64::from(bound).min(self.unbounded));
            let usage = Usage::new(5, output);
            Ok(Box::pin(futures_util::stream::iter(vec![
                Ok(ModelChunk::text("x")),
                Ok(ModelChunk::Usage { usage }),
                Ok(ModelChunk::Finish { reason: None }),
            ])) as ModelStream)
        })
    }
}

/// Runs many runs at once on one budget, and gives what they spent of it together.
fn spent_together(limit: u64, runs: usize, max_output: Option<u32>, unbounded: u64, obeys: bool) -> (u64, usize) {
    let mut config = EngineConfig::default();
    config.budgets.insert("team".into(), Budget::tokens(limit));
    let engine = Engine::builder(config).build().unwrap();
    engine.register_provider("model", Greedy { calls: AtomicUsize::new(0), unbounded, obeys }).unwrap();
    let mut spec = AgentSpec::new("agent", "model");
    spec.settings.max_output_tokens = max_output;
    engine.register_agent(spec).unwrap();
    let inner = engine.clone();
    let results = engine
        .block_on(async move {
            let start = |_| inner.run(request(|request| request.options.shared_budgets = vec!["team".into()]));
            futures_util::future::join_all((0..runs).map(start)).await
        })
        .unwrap();
    let mut exhausted = 0;
    for result in results {
        let result = result.unwrap();
        match result.status {
            RunStatus::Completed => {}
            RunStatus::Exhausted => {
                assert!(result.error.as_ref().unwrap().is(codes::BUDGET_EXHAUSTED));
                exhausted += 1;
            }
            other => panic!("{other:?}: {:?}", result.error),
        }
    }
    let spent = engine.budgets()[0].spent.tokens;
    engine.close(Duration::from_secs(5)).unwrap();
    (spent, exhausted)
}

#[test]
fn runs_at_the_same_time_never_overspend_a_shared_budget() {
    // Each takes at most 5 + 40 tokens.
    let (spent, exhausted) = spent_together(1_000, 60, Some(40), 1_000, true);
    assert!(spent <= 1_000, "{spent}");
    assert!(exhausted > 0 && spent > 900, "{spent} spent, {exhausted} runs went without");
    // A model whose answers nobody bounds: one call at a time, told what is left.
    let (spent, exhausted) = spent_together(1_000, 30, None, 90, true);
    assert!(spent <= 1_000 && exhausted > 0, "{spent}, {exhausted}");
    // One that does not do as it is told overspends by what a single call takes.
    let (spent, _) = spent_together(1_000, 30, None, 300, false);
    assert!(spent <= 1_000 + 305, "{spent}");
}

/// Answers, fails, panics or hangs, by turns; each time after it has used and said something.
struct Wild(AtomicUsize);

impl LlmProvider for Wild {
    fn stream<'a>(&'a self, _: CallContext, _: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        let turn = self.0.fetch_add(1, Ordering::SeqCst) % 4;
        let text = ["answers", "fails", "panics", "hangs"][turn];
        let said = vec![Ok(ModelChunk::Usage { usage: Usage::new(5, 20) }), Ok(ModelChunk::text(text))];
        let end = async move {
            match turn {
                0 => Ok(ModelChunk::Finish { reason: None }),
                1 => Err(Error::new(codes::PROVIDER_REJECTED, "no")),
                2 => panic!("a provider's own fault"),
                _ => std::future::pending().await,
            }
        };
        let stream = futures_util::stream::iter(said).chain(futures_util::stream::once(end));
        Box::pin(async move { Ok(Box::pin(stream) as ModelStream) })
    }
}

#[test]
fn what_fails_or_is_cancelled_is_settled_too() {
    let mut config = EngineConfig::default();
    config.budgets.insert("team".into(), Budget::tokens(2_000));
    let engine = Engine::builder(config).build().unwrap();
    engine.register_provider("model", Wild(AtomicUsize::new(0))).unwrap();
    let mut spec = AgentSpec::new("agent", "model");
    (spec.settings.max_output_tokens, spec.settings.max_retries) = (Some(40), Some(0));
    engine.register_agent(spec).unwrap();
    let inner = engine.clone();
    let statuses = engine
        .block_on(async move {
            let start = |_| async {
                let request = request(|request| request.options.shared_budgets = vec!["team".into()]);
                let run = inner.stream(request).await.unwrap();
                let id = run.id().clone();
                while let Some(event) = run.next().await {
                    if matches!(&event.body, EventBody::PartDelta { delta: PartDelta::Text(text), .. } if text == "hangs") {
                        inner.cancel(&id, 0, None).await.unwrap();
                    }
                }
                inner.result(&id).await.unwrap().status
            };
            futures_util::future::join_all((0..40).map(start)).await
        })
        .unwrap();
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    let counts = [RunStatus::Completed, RunStatus::Failed, RunStatus::Cancelled].map(count);
    assert_eq!(counts, [10, 20, 10], "{statuses:?}");
    let spent = engine.budgets()[0].spent.tokens;
    assert_eq!(spent, 40 * 25, "what each had used when it ended, however it ended");
    // Nothing is held any more: a call that may take everything that is left need not wait for anybody.
    engine.register_provider("last", Greedy { calls: AtomicUsize::new(0), unbounded: 10, obeys: true }).unwrap();
    engine.register_agent(AgentSpec::new("last", "last")).unwrap();
    let inner = engine.clone();
    let result = engine
        .block_on(async move {
            let mut request = StartRequest::new("last", "Go");
            request.options.shared_budgets = vec!["team".into()];
            tokio::time::timeout(Duration::from_secs(20), inner.run(request)).await
        })
        .unwrap();
    assert_eq!(result.expect("it does not wait").unwrap().status, RunStatus::Completed);
    assert_eq!(engine.budgets()[0].spent.tokens, spent + 15);
}

#[test]
fn a_shared_budget_that_is_not_there_is_named() {
    let engine = Engine::in_memory().unwrap();
    engine.register_provider("model", ScriptedModel::from_value(json!([{"says": "x"}])).unwrap()).unwrap();
    engine.register_agent(AgentSpec::new("agent", "model")).unwrap();
    let error = run(&engine, request(|request| request.options.shared_budgets = vec!["none".into()])).unwrap_err();
    assert!(error.is(codes::BUDGET_UNKNOWN) && error.to_string().contains("`none`"), "{error}");
}

fn priced(script: Value, price: Option<Price>) -> Engine {
    let mut info = ModelInfo::new("model", "");
    info.price = price;
    let mut config = EngineConfig::default();
    config.models = vec![info];
    let engine = Engine::builder(config).build().unwrap();
    engine.register_provider("model", ScriptedModel::from_value(script).unwrap()).unwrap();
    engine.register_agent(AgentSpec::new("agent", "model")).unwrap();
    engine
}

#[test]
fn a_run_costs_what_its_tokens_cost_and_nothing_is_not_unknown() {
    let says = json!([{"says": "x", "usage": {"input": 1000, "output": 10}}]);
    let engine = priced(says.clone(), Some(Price::new(2_000_000, 10_000_000)));
    let result = run(&engine, request(|_| {})).unwrap();
    assert_eq!(result.cost_nano_usd, Some(2_100_000));
    assert_eq!(run(&priced(says, None), request(|_| {})).unwrap().cost_nano_usd, None);
    // Nobody counted what it took: then nobody knows what it cost.
    let engine = priced(json!([{"says": "x"}]), Some(Price::new(2_000_000, 10_000_000)));
    assert_eq!(run(&engine, request(|_| {})).unwrap().cost_nano_usd, None);
}

#[test]
fn money_is_a_bound_and_needs_a_price() {
    let says = json!([{"says": "x", "usage": {"input": 1000, "output": 10}}]);
    let mut budget = Budget::default();
    budget.cost_nano_usd = Some(1_000);
    let with_budget = || request(|request| request.options.budget = Some(budget));
    let result = run(&priced(says.clone(), None), with_budget()).unwrap();
    assert!(result.error.as_ref().unwrap().is(codes::PRICE_UNKNOWN), "{:?}", result.error);
    let result = run(&priced(says, Some(Price::new(2_000_000, 10_000_000))), with_budget()).unwrap();
    assert_eq!(result.status, RunStatus::Exhausted);
    assert_eq!(result.error.as_ref().unwrap().body().details["bound"], "cost_nano_usd");
}

#[test]
fn calls_and_time_are_bounds_too() {
    let twice = json!([{"calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]}, {"says": "x"}]);
    let engine = priced(twice, None);
    register_add(&engine, Arc::default());
    let mut budget = Budget::default();
    budget.calls = Some(1);
    let result = run(&engine, request(|request| request.options.budget = Some(budget))).unwrap();
    assert_eq!((result.status, result.messages.len()), (RunStatus::Exhausted, 3));
    let engine = priced(json!([{"hangs": true}]), None);
    let mut budget = Budget::default();
    budget.model_ms = Some(5);
    let result = run(&engine, request(|request| request.options.budget = Some(budget))).unwrap();
    assert_eq!(result.status, RunStatus::Exhausted, "{:?}", result.error);
}

#[test]
fn an_answer_that_goes_beyond_the_budget_is_ended_and_kept() {
    let mut chunks: Vec<Value> = (0..400).map(|_| json!({"type": "text", "text": "some more words "})).collect();
    chunks.push(json!({"type": "finish"}));
    let engine = priced(json!([{"chunks": chunks}]), None);
    let result = run(&engine, request(|request| request.options.budget = Some(Budget::tokens(100)))).unwrap();
    assert_eq!(result.status, RunStatus::Exhausted);
    let said = &result.messages[1];
    assert!(said.metadata.contains_key("partial") && said.text().len() < 2_000, "{}", said.text().len());
}

fn register_add(engine: &Engine, calls: Arc<AtomicUsize>) {
    #[derive(serde::Deserialize, schemars::JsonSchema)]
    struct Sum {
        a: i64,
        b: i64,
    }
    let add = TypedTool::new("add", "Adds", move |context: CallContext, sum: Sum| {
        calls.fetch_add(1, Ordering::SeqCst);
        async move {
            context.custom("added", json!({"a": sum.a}), true);
            Ok(sum.a + sum.b)
        }
    });
    engine.register_tool(add).unwrap();
    engine.unregister(lomusai_runtime::ComponentKind::Agent, "agent");
    let mut spec = AgentSpec::new("agent", "model");
    spec.tools = vec!["add".into()];
    engine.register_agent(spec).unwrap();
}

struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lomusai-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const CANARY: &str = "sk-canary-0123456789abcdefghij";

/// An engine on a cassette. Without a script there is no provider at all.
fn taped(folder: &Folder, mode: CassetteMode, script: Option<Value>, calls: &Arc<AtomicUsize>) -> Engine {
    let mut config = EngineConfig::default();
    config.cassette = Some(CassetteConfig::new(mode, folder.0.join("c.jsonl")));
    let engine = Engine::builder(config).build().unwrap();
    if let Some(script) = script {
        engine.register_provider("model", ScriptedModel::from_value(script).unwrap()).unwrap();
    }
    let mut spec = AgentSpec::new("agent", "model");
    spec.settings.max_retries = Some(0);
    engine.register_agent(spec).unwrap();
    register_add(&engine, calls.clone());
    engine
}

fn journal_of(engine: &Engine, input: &str) -> (String, Arc<RunResult>) {
    let result = run(engine, request(|request| request.input = input.into())).unwrap();
    let (inner, id) = (engine.clone(), result.run_id.clone());
    let digest = engine.block_on(async move { inner.digest(&id).await }).unwrap().unwrap();
    (digest, result)
}

#[test]
fn a_cassette_gives_back_what_was_recorded_and_asks_nobody() {
    let (folder, calls) = (Folder::new("replay"), Arc::new(AtomicUsize::new(0)));
    let script = json!([
        {"says": "I look.", "reasons": "hm", "calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}], "usage": {"input": 3}},
        {"says": "It is 3.", "usage": {"input": 4, "output": 2}}
    ]);
    let recording = taped(&folder, CassetteMode::Record, Some(script), &calls);
    let (digest, recorded) = journal_of(&recording, "Go");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    for mode in [CassetteMode::Replay, CassetteMode::Auto] {
        let provider = (mode == CassetteMode::Auto).then(|| json!([{"error": {"code": "provider_failed"}}]));
        let replaying = taped(&folder, mode, provider, &calls);
        let (again, result) = journal_of(&replaying, "Go");
        assert_eq!((again, result.text(), result.usage), (digest.clone(), "It is 3.", recorded.usage), "{mode:?}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1, "the tool was not called again");
}

#[test]
fn a_cassette_that_does_not_fit_says_how() {
    let (folder, calls) = (Folder::new("miss"), Arc::default());
    journal_of(&taped(&folder, CassetteMode::Record, Some(json!([{"says": "Hi"}])), &calls), "Go");
    let replaying = taped(&folder, CassetteMode::Replay, None, &calls);
    let (_, result) = journal_of(&replaying, "Go on");
    let error = result.error.clone().expect("it was not recorded");
    assert!(error.is(codes::CASSETTE_MISS), "{error}");
    assert!(error.to_string().contains("/messages/0/parts/0/text: recorded \"Go\", asked \"Go on\""), "{error}");
    journal_of(&replaying, "Go");
    let (_, result) = journal_of(&replaying, "Go");
    assert!(result.error.as_ref().unwrap().to_string().contains("given back already"), "{:?}", result.error);
    let missing = CassetteConfig::new(CassetteMode::Replay, folder.0.join("none.jsonl"));
    let mut config = EngineConfig::default();
    config.cassette = Some(missing);
    assert!(Engine::builder(config.clone()).build().is_err_and(|error| error.is(codes::CASSETTE_INVALID)));
    std::fs::write(folder.0.join("none.jsonl"), "{\"cassette\":1}\n{\"kind\":").unwrap();
    let error = Engine::builder(config).build().err().unwrap();
    assert!(error.to_string().contains("line 2"), "{error}");
}

#[test]
fn errors_and_pieces_before_them_are_given_back_too() {
    let (folder, calls) = (Folder::new("errors"), Arc::default());
    let script = json!([{"chunks": [{"type": "text", "text": "half an ans"}], "error": {"code": "provider_rejected", "message": "no"}}]);
    let (digest, _) = journal_of(&taped(&folder, CassetteMode::Record, Some(script), &calls), "Go");
    let (again, result) = journal_of(&taped(&folder, CassetteMode::Replay, None, &calls), "Go");
    assert_eq!((again, result.messages[1].text()), (digest, "half an ans".to_owned()));
}

#[test]
fn a_cassette_holds_no_secret() {
    let (folder, calls) = (Folder::new("secrets"), Arc::default());
    // Cut where nobody would look for it.
    let pieces: Vec<Value> = CANARY
        .as_bytes()
        .chunks(3)
        .map(|piece| json!({"type": "text", "text": String::from_utf8_lossy(piece)}))
        .collect();
    let mut chunks = pieces;
    chunks.push(json!({"type": "tool_call", "name": "echo", "arguments": {"text": CANARY, "password": "hunter2!"}}));
    chunks.push(json!({"type": "finish"}));
    let engine = taped(
        &folder,
        CassetteMode::Record,
        Some(json!([{"chunks": chunks}, {"says": format!("It is {CANARY}.")}])),
        &calls,
    );
    engine
        .register_tool(FnTool::new(ToolSpec::new("echo", "Echoes"), |_, arguments| async move {
            Ok(Value::String(arguments).into())
        }))
        .unwrap();
    let mut spec = AgentSpec::new("echoing", "model");
    spec.tools = vec!["echo".into()];
    engine.register_agent(spec).unwrap();
    let result = run(&engine, StartRequest::new("echoing", format!("My key is {CANARY}"))).unwrap();
    assert_eq!(result.text(), format!("It is {CANARY}."), "the run itself is not touched");
    let written = std::fs::read_to_string(folder.0.join("c.jsonl")).unwrap();
    assert!(written.lines().count() == 4 && written.contains("[REDACTED]"), "{written}");
    for bad in [CANARY, "hunter2!", "canary-01", "2tLWNhbmFyeS"] {
        assert!(!written.contains(bad), "{bad} in\n{written}");
    }
}

struct Failing(AtomicUsize, usize);

impl LlmProvider for Failing {
    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        Box::pin(async move {
            if self.0.fetch_add(1, Ordering::SeqCst) < self.1 {
                return Err(Error::new(codes::PROVIDER_FAILED, "down").with_retry_after_ms(1));
            }
            ScriptedModel::from_value(json!([{"says": "up", "usage": {"input": 7}}]))?.stream(context, request).await
        })
    }
}

fn ask(provider: &dyn LlmProvider) -> Result<lomusai_core::llm::Answer> {
    let mut request = ModelRequest::default();
    request.messages = vec![Arc::new(Message::user("Go"))];
    let context = CallContext::new("r".into(), "1.model".into());
    block_on(provider.generate(context, Arc::new(request)))
}

#[tokio::test]
async fn layers_retry_fall_back_and_keep_answers() {
    // On its own thread, since the layers wait by the runtime's clock.
    let handle = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let _guard = handle.enter();
        let retrying = Retrying::new(Failing(AtomicUsize::new(0), 2), Retry::new(2));
        assert_eq!(ask(&retrying).unwrap().message.text(), "up");
        assert!(ask(&Retrying::new(Failing(AtomicUsize::new(0), 3), Retry::new(2))).is_err());

        let down: Arc<dyn LlmProvider> = Arc::new(Failing(AtomicUsize::new(0), 9));
        let up: Arc<dyn LlmProvider> = Arc::new(Failing(AtomicUsize::new(0), 0));
        assert_eq!(ask(&FallingBack::new(vec![down.clone(), up]).unwrap()).unwrap().message.text(), "up");
        assert!(ask(&FallingBack::new(vec![down]).unwrap()).unwrap_err().is(codes::PROVIDER_FAILED));

        let inner = Arc::new(Failing(AtomicUsize::new(0), 0));
        let cached = Cached::new(inner.clone(), Duration::from_secs(600), None);
        assert_eq!(ask(&cached).unwrap().usage, Usage::new(7, 0));
        let again = ask(&cached).unwrap();
        assert_eq!(
            (again.message.text(), again.usage, inner.0.load(Ordering::SeqCst)),
            ("up".into(), Usage::default(), 1)
        );

        let hangs = ScriptedModel::from_value(json!([{"hangs": true}])).unwrap();
        let error = ask(&Timed::new(hangs, Patience::new(None, Some(5), None))).unwrap_err();
        assert!(error.is(codes::MODEL_TIMEOUT) && error.to_string().contains("first_token_ms"), "{error}");
    })
    .await
    .unwrap();
}

#[test]
fn a_provider_answers_only_so_many_at_once() {
    struct Counting(Arc<AtomicUsize>, Arc<AtomicUsize>);
    impl LlmProvider for Counting {
        fn stream<'a>(
            &'a self,
            context: CallContext,
            request: Arc<ModelRequest>,
        ) -> BoxFuture<'a, Result<ModelStream>> {
            Box::pin(async move {
                let now = self.0.fetch_add(1, Ordering::SeqCst) + 1;
                self.1.fetch_max(now, Ordering::SeqCst);
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                let under_way = self.0.clone();
                let answer = ScriptedModel::from_value(json!([{"says": "x"}]))?.stream(context, request).await?;
                Ok(Box::pin(answer.inspect(move |chunk| {
                    if matches!(chunk, Ok(ModelChunk::Finish { .. })) {
                        under_way.fetch_sub(1, Ordering::SeqCst);
                    }
                })) as ModelStream)
            })
        }
    }
    let mut config = EngineConfig::default();
    let mut limits = ProviderLimits::default();
    limits.concurrency = Some(3);
    config.provider_limits.insert("model".into(), limits);
    let engine = Engine::builder(config).build().unwrap();
    let (now, most) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
    engine.register_provider("model", Counting(now, most.clone())).unwrap();
    engine.register_agent(AgentSpec::new("agent", "model")).unwrap();
    let inner = engine.clone();
    engine
        .block_on(async move { futures_util::future::join_all((0..20).map(|_| inner.run(request(|_| {})))).await })
        .unwrap();
    assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
}

#[test]
fn models_are_listed_with_what_is_known() {
    let engine = priced(json!([{"says": "x"}]), Some(Price::new(1, 2)));
    let models = engine.models();
    let own = models.iter().find(|info| info.provider == "model").unwrap();
    assert!(own.configured && own.price == Some(Price::new(1, 2)));
    let other = models.iter().find(|info| info.id() == "openai/gpt-4o").unwrap();
    assert!(!other.configured && other.tools == Some(true) && other.context_tokens == Some(128_000));
}

/// A provider of a known kind, which answers with a signature and says what it is asked.
struct Signing;

impl LlmProvider for Signing {
    fn accepts(&self) -> lomusai_core::transcript::Accepts {
        lomusai_core::transcript::Accepts::of("anthropic")
    }

    fn stream<'a>(&'a self, context: CallContext, request: Arc<ModelRequest>) -> BoxFuture<'a, Result<ModelStream>> {
        Box::pin(async move {
            let script = json!([
                {"chunks": [
                    {"type": "reasoning", "text": "hm", "signature": "signed"},
                    {"type": "tool_call", "name": "add", "arguments": {"a": 1, "b": 2}},
                    {"type": "finish"}
                ]},
                {"asked": "/messages/1/parts/0"}
            ]);
            ScriptedModel::from_value(script)?.stream(context, request).await
        })
    }
}

#[test]
fn a_signature_goes_back_to_its_provider_whatever_that_is_registered_as() {
    let engine = Engine::in_memory().unwrap();
    engine.register_provider("claude", Signing).unwrap();
    register_add(&engine, Arc::default());
    let mut spec = AgentSpec::new("signing", "claude/some-model");
    spec.tools = vec!["add".into()];
    engine.register_agent(spec).unwrap();
    let result = run(&engine, StartRequest::new("signing", "Go")).unwrap();
    assert!(result.text().contains("\"signature\":\"signed\""), "{}", result.text());
}
