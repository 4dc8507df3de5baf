//! The floor under the crossing costs: the same run with a tool of Rust, which crosses nothing.

use std::hint::black_box;
use std::sync::{Arc, Mutex};

use lomusai::testing::ScriptedModel;
use lomusai::tool::{CallContext, Tool};
use lomusai::{AgentSpec, BoxFuture, Engine, Result, StartRequest, ToolReply, ToolSpec, wire::RawJson};
use lomusai_benches::{cpu_us, print_case};
use serde_json::{Value, json};

const CALLS: u64 = 200;
const RUNS: u64 = 100;
const LOOPS: u64 = 100_000_000;

const SCHEMA: &str = r#"{"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
    "required": ["x", "y"], "additionalProperties": false}"#;

/// CPU time from the first call of a run to the last: what its start and end cost is not the crossing's.
#[derive(Default)]
struct Watch {
    seen: u64,
    began: f64,
    spent: f64,
}

struct Add(Arc<Mutex<Watch>>);

impl Tool for Add {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("add", "").with_input_schema(RawJson::parse(SCHEMA).expect("a literal"))
    }

    fn call<'a>(&'a self, _context: CallContext, _arguments: &'a str) -> BoxFuture<'a, Result<ToolReply>> {
        Box::pin(async move {
            let mut watch = self.0.lock().expect("nothing panics while it is held");
            if watch.seen == 0 {
                watch.began = cpu_us();
            }
            watch.seen += 1;
            if watch.seen == CALLS {
                watch.spent += cpu_us() - watch.began;
            }
            Ok(Value::from(3).into())
        })
    }
}

fn main() -> Result<()> {
    let began = cpu_us();
    for i in 0..LOOPS {
        black_box(black_box(i) + 2);
    }
    print_case("Rust: plain loop", LOOPS, cpu_us() - began);

    let watch = Arc::new(Mutex::new(Watch::default()));
    let engine = Engine::in_memory()?;
    let calls = vec![json!({"name": "add", "arguments": {"x": 1, "y": 2}}); CALLS as usize];
    engine.register_provider("model", ScriptedModel::from_value(json!([{"calls": calls}, {"says": "done"}]))?)?;
    engine.register_tool(Add(watch.clone()))?;
    let mut agent = AgentSpec::new("adder", "model");
    agent.tools = vec!["add".into()];
    agent.tool_concurrency = Some(1);
    engine.register_agent(agent)?;
    for run in 0..=RUNS {
        {
            let mut watch = watch.lock().expect("nothing panics while it is held");
            // The first run warms up.
            if run <= 1 {
                watch.spent = 0.0;
            }
            watch.seen = 0;
        }
        let run = engine.launch(StartRequest::new("adder", "go"), None)?;
        run.discard_events();
        run.result_blocking(None).expect("no timeout was given")?;
        assert_eq!(watch.lock().expect("nothing panics while it is held").seen, CALLS);
    }
    print_case("Rust", RUNS * (CALLS - 1), watch.lock().expect("nothing panics while it is held").spent);
    Ok(())
}
