//! What the conformance vectors cannot show: answers that come late, twice or to nobody, and time that runs out.

use std::sync::Arc;

use lomusai_wire::{
    AgentSpec, Command, EventBody, ModelChunk, Outcome, Pending, PendingKind, RunOptions, RunStatus, ToolReply,
    ToolSpec, ToolStatus, Usage, codes,
};
use serde_json::{Value, json};

use super::{AgentMachine, ChildOutcome, Effect, Input, ModelOutcome, Plan, PlannedTool, Start};
use crate::llm::{Answer, MessageBuilder};
use crate::{Error, Result, transcript};

#[test]
fn a_second_answer_means_nothing() {
    let mut run = Case::new(json!({"tools": ["a", "b"]})).calls(&["a", "b"]);
    assert!(!run.tool("1.0", Ok(json!(1))).is_empty());
    assert_eq!(run.tool("1.0", Ok(json!(2))), []);
    run.tool("1.1", Ok(json!(3)));
    assert_eq!(run.results(), [(ToolStatus::Ok, json!(1)), (ToolStatus::Ok, json!(3))]);
    assert_eq!(run.tool("1.1", Ok(json!(4))), [], "the step is over");
}

#[test]
fn an_answer_after_the_end_means_nothing() {
    let mut run = Case::new(json!({"tools": ["a"]})).calls(&["a"]);
    run.command(json!({"type": "cancel"})).unwrap();
    run.input(Input::GraceOver);
    assert_eq!(run.machine.status(), RunStatus::Cancelled);
    assert_eq!(run.tool("1.0", Ok(json!(1))), []);
    for late in [Input::GraceOver, Input::Recover, Input::Due("1.0".into()), Input::Fail(timeout(), Vec::new())] {
        assert_eq!(run.input(late), []);
    }
    assert_eq!(run.input(custom("1.0", json!(1))), []);
}

#[test]
fn a_tool_is_heard_while_it_works_and_not_afterwards() {
    let mut run = Case::new(json!({"tools": ["a", "b"]})).calls(&["a", "b"]);
    assert!(
        matches!(&run.input(custom("1.1", json!(1)))[..], [EventBody::Custom { effect_id: Some(id), .. }] if id.as_str() == "1.1")
    );
    run.tool("1.1", Ok(json!(2)));
    assert_eq!(run.input(custom("1.1", json!(3))), [], "it has answered");
    assert_eq!(run.input(custom("7.3", json!(4))), [], "it never was");
}

#[test]
fn an_answer_to_an_effect_that_never_was_means_nothing() {
    let mut run = Case::new(json!({"tools": ["a"]})).calls(&["a"]);
    assert_eq!(run.tool("7.3", Ok(json!(1))), []);
    assert_eq!(run.input(Input::Due("1.0".into())), [], "it is at work and waits for no retry");
}

#[test]
fn a_tool_that_suspended_cannot_answer_any_more() {
    let mut run = Case::new(json!({"tools": ["a"]})).calls(&["a"]);
    run.input(Input::Tool("1.0".into(), Ok(ToolReply::Suspend { suspend: json!("?") })));
    assert_eq!(run.machine.status(), RunStatus::Suspended);
    assert_eq!(run.tool("1.0", Ok(json!("late"))), []);
    assert_eq!(run.machine.status(), RunStatus::Suspended);
}

#[test]
fn a_resume_with_null_is_a_resume() {
    let mut run = Case::new(json!({"tools": ["a"]})).calls(&["a"]);
    run.input(Input::Tool("1.0".into(), Ok(ToolReply::Suspend { suspend: Value::Null })));
    run.command(json!({"type": "resume"})).unwrap();
    assert_eq!(run.machine.effect(&"1.0".into()).unwrap().resume.as_deref(), Some(&Value::Null));
    let mut recovered = run.reloaded();
    recovered.input(Input::Recover);
    assert_eq!(recovered.machine.effect(&"1.0".into()).unwrap().resume.as_deref(), Some(&Value::Null));
}

#[test]
fn what_could_not_be_read_back_is_refused() {
    let mut deep = json!("bottom");
    for _ in 0..200 {
        deep = json!([deep]);
    }
    let mut run = Case::new(json!({"tools": ["a", "b"]})).calls(&["a", "b"]);
    run.tool("1.0", Ok(deep.clone()));
    run.input(Input::Tool("1.1".into(), Ok(ToolReply::Suspend { suspend: deep })));
    let results = run.results();
    assert!(
        results.iter().all(|(status, told)| *status == ToolStatus::Error && told.to_string().contains("nests deeper")),
        "{results:?}"
    );
}

#[test]
fn a_finished_run_takes_no_commands() {
    let mut run = Case::new(json!({})).says("done");
    assert_eq!(run.machine.status(), RunStatus::Completed);
    for command in [json!({"type": "cancel"}), json!({"type": "approve"}), json!({"type": "resume", "data": 1})] {
        assert!(run.command(command).unwrap_err().is(codes::RUN_FINISHED));
    }
}

#[test]
fn a_command_for_the_wrong_effect_changes_nothing() {
    let mut run = Case::new(json!({"tools": ["a", "ask"]})).calls(&["ask", "ask", "a"]);
    run.tool("1.2", Ok(json!(1)));
    assert_eq!(run.machine.status(), RunStatus::Suspended);
    let before = run.machine.pending();
    for wrong in [
        json!({"type": "approve"}),
        json!({"type": "approve", "effect_id": "1.2"}),
        json!({"type": "approve", "effect_id": "9.9"}),
        json!({"type": "resume", "effect_id": "1.0", "data": 1}),
        json!({"type": "tool_result", "effect_id": "1.0", "output": 1}),
    ] {
        let error = run.command(wrong.clone()).unwrap_err();
        assert!(error.is(codes::EFFECT_UNKNOWN), "{wrong}: {error}");
        assert!(error.to_string().contains("1.0 (approval), 1.1 (approval)"), "{error}");
    }
    assert_eq!(run.machine.pending(), before);
    run.command(json!({"type": "approve", "effect_id": "1.1"})).unwrap();
    assert!(run.command(json!({"type": "approve", "effect_id": "1.1"})).unwrap_err().is(codes::EFFECT_UNKNOWN));
    run.command(json!({"type": "decline"})).expect("only one waits now");
}

#[test]
fn a_command_while_nothing_waits_is_refused() {
    let mut run = Case::new(json!({"tools": ["a"]})).calls(&["a"]);
    assert!(run.command(json!({"type": "approve"})).unwrap_err().to_string().contains("nothing waits"));
}

#[test]
fn a_deadline_during_a_tool_fails_the_run_and_leaves_its_transcript_whole() {
    let mut run = Case::new(json!({"tools": ["a", "b"]})).calls(&["a", "b"]);
    run.tool("1.0", Ok(json!(1)));
    let events = run.input(Input::Fail(timeout(), Vec::new()));
    assert_eq!(run.failure(), Some("run_timeout"));
    assert_eq!(run.results()[0], (ToolStatus::Ok, json!(1)));
    assert_eq!(run.results()[1].0, ToolStatus::Error);
    assert!(!events.iter().any(|event| matches!(event, EventBody::EffectStarted { .. })));
    assert_eq!(transcript::check(run.machine.messages()), Ok(()));
}

#[test]
fn a_deadline_during_a_model_call_or_before_its_retry_fails_the_run() {
    let mut run = Case::new(json!({}));
    run.input(Input::Fail(timeout(), Vec::new()));
    assert_eq!(run.failure(), Some("run_timeout"));
    let mut run = Case::new(json!({}));
    run.fails(codes::PROVIDER_FAILED, None);
    run.input(Input::Fail(timeout(), Vec::new()));
    assert_eq!(run.failure(), Some("run_timeout"));
}

#[test]
fn a_result_inside_the_grace_is_recorded_and_nothing_starts() {
    let agent = json!({"tools": ["a", "b"], "tool_concurrency": 1, "hooks": {"after_tool": "h", "after_step": "h"}});
    let mut run = Case::new(agent).calls(&["a", "b"]);
    run.command(json!({"type": "cancel", "grace_ms": 50})).unwrap();
    assert_eq!(run.machine.status(), RunStatus::Running, "the grace is not over");
    assert_eq!(run.command(json!({"type": "cancel"})).unwrap(), [], "it was told already");
    let events = run.tool("1.0", Ok(json!(1)));
    assert!(!events.iter().any(|event| matches!(event, EventBody::EffectStarted { .. })), "{events:?}");
    assert_eq!(run.machine.status(), RunStatus::Cancelled, "nothing is left to wait for");
    assert_eq!(run.results()[0], (ToolStatus::Ok, json!(1)));
    assert_eq!(run.results()[1].0, ToolStatus::Cancelled);
}

#[test]
fn an_answer_of_a_model_inside_the_grace_is_kept_with_its_calls_cancelled() {
    let mut run = Case::new(json!({"tools": ["a"]}));
    run.command(json!({"type": "cancel", "grace_ms": 50})).unwrap();
    let run = run.calls(&["a"]);
    assert_eq!(run.machine.status(), RunStatus::Cancelled);
    assert_eq!(run.results()[0].0, ToolStatus::Cancelled);
    assert_eq!(transcript::check(run.machine.messages()), Ok(()));
}

#[test]
fn an_approval_inside_the_grace_starts_nothing() {
    let mut run = Case::new(json!({"tools": ["a", "ask"], "tool_concurrency": 2})).calls(&["ask", "a"]);
    run.command(json!({"type": "cancel", "grace_ms": 50})).unwrap();
    let events = run.command(json!({"type": "approve"})).unwrap();
    assert!(!events.iter().any(|event| matches!(event, EventBody::EffectStarted { .. })), "{events:?}");
    run.input(Input::GraceOver);
    assert_eq!(run.machine.status(), RunStatus::Cancelled);
}

#[test]
fn a_cancelled_run_tries_nothing_again() {
    let mut run = Case::new(json!({}));
    run.command(json!({"type": "cancel", "grace_ms": 50})).unwrap();
    run.fails(codes::PROVIDER_FAILED, None);
    assert_eq!(run.machine.status(), RunStatus::Cancelled);
    let mut run = Case::new(json!({}));
    run.fails(codes::PROVIDER_FAILED, None);
    run.command(json!({"type": "cancel", "grace_ms": 50})).unwrap();
    assert_eq!(run.machine.status(), RunStatus::Cancelled, "what waits for a retry is not at work");
}

#[test]
fn a_failed_run_that_was_told_to_stop_is_cancelled() {
    let mut run = Case::new(json!({}));
    run.command(json!({"type": "cancel", "grace_ms": 50})).unwrap();
    run.fails(codes::CREDENTIALS_REJECTED, None);
    assert_eq!((run.machine.status(), run.failure()), (RunStatus::Cancelled, None));
}

#[test]
fn recovery_starts_again_what_was_at_work_and_nothing_else() {
    let mut run = Case::new(json!({"tools": ["a", "b", "c"]})).calls(&["a", "b", "c"]);
    run.tool("1.1", Ok(json!(1)));
    run.input(Input::Tool("1.2".into(), Ok(ToolReply::Suspend { suspend: json!("?") })));
    let mut recovered = run.reloaded();
    let events = recovered.input(Input::Recover);
    assert!(
        matches!(&events[..], [EventBody::EffectStarted { effect_id, attempt: 2, .. }] if effect_id.as_str() == "1.0")
    );
}

#[test]
fn recovery_leaves_a_retry_to_its_time() {
    let mut run = Case::new(json!({}));
    run.fails(codes::PROVIDER_FAILED, None);
    let mut recovered = run.reloaded();
    assert_eq!(recovered.input(Input::Recover), []);
    assert_eq!(recovered.machine.retries(), [("1.model".into(), NOW + 1_000)]);
    let events = recovered.input(Input::Due("1.model".into()));
    assert!(matches!(&events[..], [EventBody::EffectStarted { attempt: 2, .. }]));
}

#[test]
fn a_recovered_run_that_was_told_to_stop_stops() {
    let mut run = Case::new(json!({"tools": ["a"]})).calls(&["a"]);
    run.command(json!({"type": "cancel", "grace_ms": 60_000})).unwrap();
    let mut recovered = run.reloaded();
    recovered.input(Input::Recover);
    assert_eq!(recovered.machine.status(), RunStatus::Cancelled);
    assert_eq!(recovered.results()[0].0, ToolStatus::Cancelled);
}

#[test]
fn retries_wait_longer_each_time_or_as_long_as_asked() {
    let mut run = Case::new(json!({"settings": {"max_retries": 4}}));
    for (asked, waits) in [(None, 1_000), (None, 2_000), (Some(7), 7), (Some(90_000), 30_000)] {
        run.fails(codes::PROVIDER_RATE_LIMITED, asked);
        assert_eq!(run.machine.retries(), [("1.model".into(), NOW + waits)]);
        run.input(Input::Due("1.model".into()));
    }
    run.fails(codes::PROVIDER_RATE_LIMITED, None);
    assert_eq!(run.failure(), Some("provider_rate_limited"));
}

#[test]
fn no_more_calls_run_at_once_than_the_limit() {
    let mut run = Case::new(json!({"tools": ["a"]})).calls(&["a"; 12]);
    assert_eq!(run.asked.len(), 10);
    run.tool("1.7", Ok(json!(1)));
    assert_eq!(run.asked.last().unwrap().effect_id.as_str(), "1.10");
    assert!(!run.machine.is_open(&"1.11".into()));
    let run = Case::new(json!({"tools": ["a"], "tool_concurrency": 3})).calls(&["a"; 5]);
    assert_eq!(run.asked.len(), 3);
    let run = Case::new(json!({"tools": ["a", "ask"]})).calls(&["a", "a"]);
    assert_eq!(run.asked.len(), 1, "beside a tool that may wait for a person, calls run one by one");
}

#[test]
fn a_tools_own_time_limit_is_over_the_agents() {
    let run = Case::new(json!({"tools": ["a", "slow"], "limits": {"tool_ms": 7}})).calls(&["a", "slow"]);
    let limits: Vec<u64> = run.asked.iter().map(|effect| effect.timeout_ms).collect();
    assert_eq!(limits, [7, 99]);
}

#[test]
fn a_suspended_child_told_twice_is_one_wait() {
    let mut run = Case::new(json!({"agents": ["helper"]})).calls(&["agent-helper"]);
    let pending = Pending::new("1.0".into(), PendingKind::Approval);
    let told = Input::child("1.0".into(), ChildOutcome::Suspended(vec![pending]));
    assert!(!run.input(told.clone()).is_empty());
    assert_eq!(run.input(told), []);
    assert_eq!(run.machine.suspended_children(), [("1.0".into(), "r/1.0".into())]);
    run.input(Input::child(
        "1.0".into(),
        ChildOutcome::Finished {
            outcome: Outcome::Cancelled,
            output: None,
            error: None,
            usage: Usage::new(3, 4),
            cost_nano_usd: Some(5),
        },
    ));
    assert_eq!(run.machine.status(), RunStatus::Running);
    assert_eq!(run.results()[0].0, ToolStatus::Cancelled);
    assert_eq!(run.machine.usage(), Usage::new(3, 4), "what a cancelled child used was used");
}

#[test]
fn large_integers_of_context_and_custom_events_are_journaled_as_text() {
    let mut start = Start::default();
    start.context.insert("id".into(), json!(9_007_199_254_740_993_u64));
    let mut run = Case::started(json!({}), start);
    let Some(EventBody::RunStarted(started)) = run.journal.first() else { panic!("it started") };
    assert_eq!(started.context["id"], json!("9007199254740993"));
    let events = run.input(custom("1.model", json!([-9_007_199_254_740_993_i64])));
    let [EventBody::Custom { data, .. }] = &events[..] else { panic!("it is heard: {events:?}") };
    assert_eq!(*data, json!(["-9007199254740993"]));
}

// --- A run driven by hand --------------------------------------------------------------------------------------------

const NOW: u64 = 1_000_000;

fn custom(effect_id: &str, data: Value) -> Input {
    Input::Custom { effect_id: effect_id.into(), name: "n".into(), data }
}

/// A started run, its journal, and what it asked last.
struct Case {
    plan: Arc<Plan>,
    machine: AgentMachine,
    journal: Vec<EventBody>,
    asked: Vec<Effect>,
}

impl Case {
    /// A run of an agent that was asked something. Its tools: `a`, `b`, `c`; `ask` needs approval, `slow` has 99 ms.
    fn new(agent: Value) -> Self {
        Self::started(agent, Start::default())
    }

    fn started(mut agent: Value, mut start: Start) -> Self {
        (agent["name"], agent["model"]) = (json!("agent"), json!("model"));
        let agent: AgentSpec = serde_json::from_value(agent).unwrap();
        let tool = |name: &String| {
            let spec = match name.as_str() {
                "ask" => json!({"name": name, "approval": "always"}),
                "slow" => json!({"name": name, "timeout_ms": 99}),
                _ => json!({"name": name}),
            };
            PlannedTool::compile(serde_json::from_value::<ToolSpec>(spec).unwrap()).unwrap()
        };
        let tools = agent.tools.iter().map(tool).collect();
        let agents = agent.agents.iter().map(|name| (name.clone(), String::new())).collect();
        let plan = Arc::new(Plan::new(agent, tools, agents, Vec::new()).unwrap());
        let machine = AgentMachine::new(&plan, "r".into(), Vec::new(), RunOptions::default()).unwrap();
        let mut case = Self { plan, machine, journal: Vec::new(), asked: Vec::new() };
        start.input = vec![lomusai_wire::Message::user("Go")];
        case.input(Input::Start(Box::new(start)));
        case
    }

    /// Feeds an input; gives what it led to.
    fn input(&mut self, input: Input) -> Vec<EventBody> {
        self.step(input).unwrap()
    }

    fn command(&mut self, command: Value) -> Result<Vec<EventBody>> {
        self.step(Input::Command(serde_json::from_value::<Command>(command).unwrap()))
    }

    fn step(&mut self, input: Input) -> Result<Vec<EventBody>> {
        let decision = self.machine.step(input, NOW)?;
        self.journal.extend(decision.events.iter().cloned());
        self.asked = decision.effects;
        Ok(decision.events)
    }

    fn tool(&mut self, id: &str, result: Result<Value>) -> Vec<EventBody> {
        self.input(Input::Tool(id.into(), result.map(ToolReply::from)))
    }

    /// The model says this.
    fn says(mut self, text: &str) -> Self {
        self.model(vec![ModelChunk::text(text)]);
        self
    }

    /// The model calls these tools, without arguments but for sub-agents.
    fn calls(mut self, tools: &[&str]) -> Self {
        let call = |name: &&str| {
            let arguments = if name.starts_with("agent-") { json!({"prompt": "?"}) } else { json!({}) };
            serde_json::from_value(json!({"type": "tool_call", "name": name, "arguments": arguments})).unwrap()
        };
        self.model(tools.iter().map(call).collect());
        self
    }

    fn model(&mut self, chunks: Vec<ModelChunk>) {
        let number = self.machine.messages().len() as u64;
        let mut builder = MessageBuilder::new(transcript::message_id(number), number, u64::MAX);
        for chunk in chunks {
            builder.push(chunk, &mut |_| {}).unwrap();
        }
        let answer: Answer = builder.finish();
        self.input(Input::model("1.model".into(), ModelOutcome::Answered(answer)));
    }

    /// The model call fails.
    fn fails(&mut self, code: lomusai_wire::Code, retry_after_ms: Option<u64>) {
        let error = Error::new(code, "x");
        let error = retry_after_ms.map_or(error.clone(), |ms| error.with_retry_after_ms(ms));
        let outcome = ModelOutcome::Failed { error, partial: None, usage: Usage::default(), cost_nano_usd: None };
        self.input(Input::model("1.model".into(), outcome));
    }

    /// The same run as another process finds it.
    fn reloaded(&self) -> Self {
        let mut machine = AgentMachine::new(&self.plan, "r".into(), Vec::new(), RunOptions::default()).unwrap();
        self.journal.iter().for_each(|event| machine.apply(event));
        Self { plan: self.plan.clone(), machine, journal: self.journal.clone(), asked: Vec::new() }
    }

    /// What the calls came to.
    fn results(&self) -> Vec<(ToolStatus, Value)> {
        let message = self.machine.messages().iter().rev().find(|message| message.tool_results().next().is_some());
        let results = message.expect("the calls are over").tool_results();
        results.map(|result| (result.status, result.output.clone())).collect()
    }

    fn failure(&self) -> Option<&str> {
        match self.journal.last() {
            Some(EventBody::RunFinished { error: Some(error), .. }) => Some(&error.code),
            _ => None,
        }
    }
}

fn timeout() -> Error {
    Error::new(codes::RUN_TIMEOUT, "too long")
}
