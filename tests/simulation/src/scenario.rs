//! What a seed runs: workflows of every construct, put together by dice. The kind of a step is the beginning of its id, so that whoever
//! reads a journal knows what the step does without asking the engine.

use lomusai_wire::WorkflowSpec;
use serde_json::{Value, json};

use crate::random::Random;

/// The workflow that a seed starts.
pub(crate) const MAIN: &str = "main";
/// A time that a run does not spend in memory.
const LONG_MS: u64 = 5_500;

/// Workflows and what the first of them is given.
pub(crate) struct Scenario {
    pub(crate) workflows: Vec<WorkflowSpec>,
    pub(crate) input: Value,
}

impl Scenario {
    pub(crate) fn new(random: &mut Random) -> Self {
        let input = json!({"n": random.below(10), "items": (0..random.between(2, 3)).collect::<Vec<_>>()});
        let mut dice = Dice { random, count: 0, nests: [false; 2] };
        let mut workflows = vec![dice.workflow(MAIN, 0)];
        for depth in 1..=dice.nests.len() {
            if dice.nests[depth - 1] {
                workflows.push(dice.workflow(nested(depth), depth));
            }
        }
        let workflows = workflows.into_iter().map(|spec| serde_json::from_value(spec).expect("a spec")).collect();
        Self { workflows, input }
    }

    /// The signals that a workflow of this name waits for.
    pub(crate) fn signals(&self, workflow: &str) -> Vec<String> {
        let text = |spec| serde_json::to_value(spec).expect("JSON");
        let mut found = Vec::new();
        for spec in self.workflows.iter().filter(|spec| spec.name == workflow) {
            signals_of(&text(spec), &mut found);
        }
        found
    }
}

fn signals_of(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("signal").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| signals_of(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| signals_of(value, found)),
        _ => {}
    }
}

fn nested(depth: usize) -> &'static str {
    ["inner", "deep"][depth - 1]
}

/// What a step is, by its effect's id: `each3.0.work4` is `work`.
pub(crate) fn kind(effect: &str) -> &str {
    effect.rsplit('.').next().unwrap_or_default().trim_end_matches(|c: char| c.is_ascii_digit())
}

struct Dice<'r> {
    random: &'r mut Random,
    /// Ids are unique in all workflows.
    count: usize,
    /// Whether the workflow of this depth is called.
    nests: [bool; 2],
}

impl Dice<'_> {
    fn id(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}{}", self.count)
    }

    fn workflow(&mut self, name: &str, depth: usize) -> Value {
        let most = if depth == 0 { 4 } else { 2 };
        let mut steps: Vec<Value> = Vec::new();
        let mut before: Vec<String> = Vec::new();
        let mut outputs = serde_json::Map::new();
        for _ in 0..self.random.between(1, most) {
            let arms = if self.random.per_mille(350) { self.random.between(2, 3) } else { 1 };
            let mut ids = Vec::new();
            for arm in 0..arms {
                let (id, mut step) = self.step(depth, true);
                step["after"] = json!(before);
                // One arm always runs, so that something comes behind.
                if arm > 0 && self.random.per_mille(250) {
                    let condition = match self.random.below(2) {
                        0 => json!({"expr": format!("input.n > {}", self.random.below(10))}),
                        _ => json!({"function": "odd"}),
                    };
                    step["when"] = condition;
                }
                outputs.insert(id.clone(), json!({"from": format!("steps.{id}")}));
                ids.push(id);
                steps.push(step);
            }
            before = ids;
        }
        json!({"name": name, "steps": steps, "output": {"object": outputs}})
    }

    /// A step; `whole` where it may have steps of its own.
    fn step(&mut self, depth: usize, whole: bool) -> (String, Value) {
        let kinds: &[&str] = match (whole, depth) {
            (true, 0 | 1) => &[
                "work", "work", "flaky", "flaky", "frag", "ask", "tool", "map", "sleep", "sleep", "wait", "wait",
                "susp", "each", "loop", "nest", "nest", "nest", "agent",
            ],
            (true, _) => &["work", "flaky", "ask", "sleep", "wait", "susp", "each"],
            (false, _) => &["work", "flaky", "ask", "sleep", "susp", "tool"],
        };
        let kind = *self.random.pick(kinds);
        let id = self.id(kind);
        let step = match kind {
            "flaky" => {
                let delay = *self.random.pick(&[0, 20, LONG_MS]);
                json!({"run": {"step": "work"}, "retry": {"max": 20, "delay_ms": delay}, "timeout_ms": 500})
            }
            "tool" => json!({"run": {"tool": "look"}, "input": {"value": {"q": 1}}}),
            "map" => json!({"run": {"map": {"object": {"n": {"from": "input.n"}, "two": {"expr": "1 + 1"}}}}}),
            "sleep" => {
                let ms = match self.random.below(3) {
                    0 => LONG_MS + self.random.below(3_000),
                    _ => self.random.between(1, 60),
                };
                json!({"run": {"sleep": {"value": ms}}})
            }
            "wait" => json!({"run": {"wait": {"signal": format!("go-{id}")}}}),
            "susp" => json!({"run": {"suspend": {}}}),
            "ask" => json!({"run": {"step": "ask"}}),
            "each" => {
                let steps = self.chain(depth);
                let concurrency = self.random.between(1, 3);
                json!({"input": {"value": [1, 2]}, "run": {"foreach": {"concurrency": concurrency, "steps": steps}}})
            }
            "loop" => {
                let (steps, times) = (self.chain(depth), self.random.between(1, 3));
                json!({"run": {"loop": {"steps": steps, "while": {"expr": format!("iteration < {times}")}}}})
            }
            "nest" => {
                self.nests[depth] = true;
                json!({"run": {"workflow": nested(depth + 1)}, "input": {"object": {"n": {"from": "input.n"}}}})
            }
            "agent" => {
                let agent = *self.random.pick(&["clerk", "asker"]);
                json!({"run": {"agent": agent}, "input": {"value": "Look it up."}})
            }
            // `work`, and `frag`, which fails until somebody has repaired what it needs.
            _ => json!({"run": {"step": "work"}}),
        };
        let mut step = step;
        step["id"] = json!(id);
        (id, step)
    }

    /// One or two steps, the second behind the first.
    fn chain(&mut self, depth: usize) -> Vec<Value> {
        let (first, step) = self.step(depth, false);
        let mut steps = vec![step];
        if self.random.per_mille(400) {
            let (_, mut step) = self.step(depth, false);
            step["after"] = json!([first]);
            steps.push(step);
        }
        steps
    }
}
