//! What the vectors cannot say: commands to ended runs, signals that come early, what the fold keeps.

use std::sync::Arc;

use lomusai_wire::{Command, EventBody, RunStatus, StepReply, WorkflowSpec, codes};
use serde_json::{Value, json};

use super::{WorkflowMachine, WorkflowPlan, difference};
use crate::machine::{Decision, Input};
use crate::{Error, Result};

/// A run, and the journal that must always lead to the same place.
struct Run {
    plan: Arc<WorkflowPlan>,
    machine: WorkflowMachine,
    journal: Vec<EventBody>,
    now_ms: u64,
}

impl Run {
    fn start(steps: Value) -> Self {
        let spec: WorkflowSpec = serde_json::from_value(json!({"name": "w", "steps": steps})).unwrap();
        let plan = Arc::new(WorkflowPlan::new(spec).unwrap());
        let machine = WorkflowMachine::new(&plan, "r".into());
        let mut run = Self { plan, machine, journal: Vec::new(), now_ms: 1_000 };
        run.input(Input::StartWorkflow(Box::default()));
        run
    }

    fn try_input(&mut self, input: Input) -> Result<Vec<EventBody>> {
        let Decision { events, .. } = self.machine.step(input, self.now_ms)?;
        self.journal.extend(events.iter().cloned());
        let mut fold = WorkflowMachine::new(&self.plan, "r".into());
        self.journal.iter().for_each(|event| fold.apply(event));
        assert_eq!(
            (fold.status(), fold.pending(), fold.timers()),
            (self.machine.status(), self.machine.pending(), self.machine.timers())
        );
        assert_eq!(fold.advance(self.now_ms), None);
        Ok(events)
    }

    fn input(&mut self, input: Input) -> Vec<EventBody> {
        self.try_input(input).unwrap()
    }

    fn answer(&mut self, id: &str, value: Value) -> Vec<EventBody> {
        self.input(Input::step(id.into(), Ok(StepReply::output(value))))
    }

    fn fail(&mut self, id: &str) -> Vec<EventBody> {
        self.input(Input::step(id.into(), Err(Error::new(codes::STEP_FAILED, "no"))))
    }

    fn output(&self) -> Option<&Value> {
        match self.journal.last() {
            Some(EventBody::RunFinished { output: Some(output), .. }) => output.object.as_ref(),
            _ => None,
        }
    }
}

fn step(id: &str, after: &[&str]) -> Value {
    json!({"id": id, "after": after, "run": {"step": id}})
}

#[test]
fn a_failed_run_is_tried_again_from_the_failed_step() {
    let mut run = Run::start(json!([step("a", &[]), step("b", &["a"]), step("c", &[])]));
    run.answer("a", json!(1));
    run.fail("b");
    assert_eq!(run.machine.status(), RunStatus::Failed);
    let events = run.input(Input::Command(Command::Retry));
    let begun: Vec<(&str, u32)> = events
        .iter()
        .filter_map(|event| match event {
            EventBody::EffectStarted { effect_id, attempt, .. } => Some((effect_id.as_str(), *attempt)),
            _ => None,
        })
        .collect();
    // What ran beside it was ended with it; `a` stays done.
    assert_eq!(begun, [("b", 2), ("c", 2)]);
    run.answer("b", json!(2));
    run.answer("c", json!(3));
    assert_eq!(run.output(), Some(&json!({"b": 2, "c": 3})));
}

#[test]
fn only_a_run_that_has_failed_can_be_tried_again() {
    let mut run = Run::start(json!([step("a", &[])]));
    assert!(run.try_input(Input::Command(Command::Retry)).unwrap_err().is(codes::RUN_NOT_FAILED));
    run.answer("a", json!(1));
    assert!(run.try_input(Input::Command(Command::Retry)).unwrap_err().is(codes::RUN_NOT_FAILED));
    let cancel = Command::Cancel { grace_ms: 0, reason: None };
    assert!(run.try_input(Input::Command(cancel)).unwrap_err().is(codes::RUN_FINISHED));
}

#[test]
fn a_signal_that_comes_before_its_wait_is_kept() {
    let mut run = Run::start(json!([step("a", &[]), {"id": "w", "after": ["a"], "run": {"wait": {"signal": "go"}}}]));
    for n in [1, 2] {
        run.input(Input::Command(Command::Signal { name: "go".into(), data: json!(n) }));
    }
    run.answer("a", json!(0));
    assert_eq!(run.output(), Some(&json!(1)), "the oldest counts");
    let mut other = Run::start(json!([{"id": "w", "run": {"wait": {"signal": "go"}}}]));
    let unknown = Command::Signal { name: "gone".into(), data: Value::Null };
    assert!(other.try_input(Input::Command(unknown)).unwrap_err().is(codes::EFFECT_UNKNOWN));
}

#[test]
fn a_wait_ends_when_its_time_is_over_also_of_a_suspended_run() {
    let mut run = Run::start(json!([{"id": "w", "run": {"wait": {"signal": "go", "timeout_ms": 50}}}]));
    assert_eq!((run.machine.status(), run.machine.timers()), (RunStatus::Suspended, vec![("w".into(), 1_050)]));
    assert_eq!(run.input(Input::Due("w".into())), [], "it is early");
    run.now_ms = 1_050;
    run.input(Input::Due("w".into()));
    assert_eq!(run.machine.status(), RunStatus::Failed);
    assert_eq!(run.input(Input::Due("w".into())), [], "it went off once");
}

#[test]
fn late_and_second_answers_mean_nothing() {
    let mut run = Run::start(json!([step("a", &[]), step("b", &["a"])]));
    run.answer("a", json!(1));
    assert_eq!(run.answer("a", json!(2)), []);
    assert_eq!(run.answer("nobody", json!(2)), []);
    assert_eq!(run.answer("b.0.c", json!(2)), []);
    run.input(Input::Command(Command::Cancel { grace_ms: 10, reason: None }));
    run.input(Input::GraceOver);
    assert_eq!(run.machine.status(), RunStatus::Cancelled);
    assert_eq!(run.answer("b", json!(2)), []);
}

#[test]
fn a_difference_names_the_steps() {
    let spec = |steps: Value| -> WorkflowSpec { serde_json::from_value(json!({"name": "w", "steps": steps})).unwrap() };
    let then = spec(json!([step("a", &[]), step("b", &["a"])]));
    let now = spec(json!([step("a", &[]), {"id": "b", "run": {"step": "other"}}, step("c", &[])]));
    assert_eq!(difference(&then, &now), "new steps c; steps that differ b (after, run)");
}

mod pictures {
    use std::collections::BTreeMap;

    use lomusai_wire::WorkflowSpec;
    use serde_json::{Value, json};

    use crate::workflow::picture::{StepStatus, mermaid, svg};

    fn spec(steps: Value) -> WorkflowSpec {
        serde_json::from_value(json!({"name": "a <b> & \"c\"", "steps": steps})).unwrap()
    }

    fn odd() -> WorkflowSpec {
        spec(json!([
            {"id": "a", "run": {"step": "a"}, "description": "first & \"foremost\""},
            {"id": "end", "after": ["a"], "when": {"expr": "input.n < 3 and input.s == '<script>'"}, "run": {"tool": "t"}},
            {"id": "each", "after": ["a"], "run": {"foreach": {"concurrency": 3, "steps": [
                {"id": "x", "run": {"agent": "clerk"}}, {"id": "y", "after": ["x"], "run": {"sleep": {"value": 5}}}]}}},
            {"id": "z", "after": ["end", "each", "a"], "run": {"map": {"value": "`code` #1"}}},
        ]))
    }

    #[test]
    fn a_flowchart_names_steps_by_number_and_escapes_what_they_say() {
        let statuses = BTreeMap::from([("a".to_owned(), StepStatus::Completed), ("x".to_owned(), StepStatus::Failed)]);
        let text = mermaid(&odd(), &statuses);
        let lines = [
            "flowchart TD",
            "  s0[\"a\"]",
            "  class s0 completed",
            "  s1[\"end<br/>tool t<br/>if input.n #lt; 3 and input.s == '#lt;s…\"]",
            "  subgraph s2 [\"each<br/>for each, 3 at once\"]",
            "    s3[[\"x<br/>agent clerk\"]]",
            "    class s3 failed",
            "    s4([\"y<br/>sleep 5 ms\"])",
            "    s3 --> s4",
            "  end",
            "  s5[/\"z<br/>map #quot;#96;code#96; #35;1#quot;\"/]",
            "  s0 --> s1",
            "  s0 --> s2",
            "  s1 --> s5",
            "  s2 --> s5",
            "  s0 --> s5",
            "  classDef completed fill:#dcfce7,stroke:#15803d,color:#111827",
            "  classDef failed fill:#fee2e2,stroke:#b91c1c,color:#111827",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn a_drawing_holds_every_step_and_edge_and_no_text_as_markup() {
        let statuses = BTreeMap::from([("end".to_owned(), StepStatus::Skipped)]);
        let text = svg(&odd(), &statuses);
        // One for each step, and the background; one for each edge, and the arrow's head.
        assert_eq!((text.matches("<rect ").count(), text.matches("<path ").count()), (7, 7), "{text}");
        assert!(
            text.contains("<title>a &lt;b&gt; &amp; &quot;c&quot;</title>") && !text.contains("<script>"),
            "{text}"
        );
        assert!(text.contains("end\nskipped</title>") && text.contains("stroke-dasharray"), "{text}");
        for tag in ["svg", "g", "text", "title", "defs", "marker"] {
            let open = text.matches(&format!("<{tag}>")).count() + text.matches(&format!("<{tag} ")).count();
            assert_eq!(open, text.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn boxes_of_a_drawing_do_not_lie_on_one_another() {
        let wide: Vec<Value> = (0..40)
            .map(|n| {
                let after: Vec<String> =
                    (0..n).filter(|m| (n * 7 + m * 13) % 11 == 0).map(|m| format!("s{m}")).collect();
                json!({"id": format!("s{n}"), "after": after, "run": {"step": "w".repeat(n)}})
            })
            .collect();
        let text = svg(&spec(Value::Array(wide)), &BTreeMap::new());
        let number = |rect: &str, name: &str| -> f64 {
            let rest = rect.split(&format!(" {name}=\"")).nth(1).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        let rects: Vec<[f64; 4]> = text
            .split("<rect x=")
            .skip(1)
            .map(|rest| {
                let rect = format!(" x={rest}");
                ["x", "y", "width", "height"].map(|name| number(&rect, name))
            })
            .collect();
        assert_eq!(rects.len(), 40);
        for (n, a) in rects.iter().enumerate() {
            for b in &rects[n + 1..] {
                let apart = a[0] + a[2] <= b[0] || b[0] + b[2] <= a[0] || a[1] + a[3] <= b[1] || b[1] + b[3] <= a[1];
                assert!(apart, "{a:?} lies on {b:?}");
            }
        }
    }
}
