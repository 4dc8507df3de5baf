//! The kit as a binding uses it, and as a hostile host does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lomusai_host::{Answer, CallInfo, HostEngine, NextJson, Placement};
use serde_json::{Value, json};

fn engine(script: Value) -> Arc<HostEngine> {
    let engine = HostEngine::open("{}").unwrap();
    engine.register_builtin_provider("model", &json!({"type": "scripted", "script": script}).to_string()).unwrap();
    engine
}

fn with_tool(
    engine: &Arc<HostEngine>,
    spec: Value,
    placement: Placement,
    tool: impl Fn(CallInfo, Answer) + Send + Sync + 'static,
) {
    let name = spec["name"].clone();
    engine.register_tool(&spec.to_string(), placement, Arc::new(tool)).unwrap();
    engine.register_agent(&json!({"name": "agent", "model": "model", "tools": [name]}).to_string()).unwrap();
}

fn run(engine: &Arc<HostEngine>) -> Value {
    let run = engine.run(r#"{"agent": "agent", "input": "go"}"#, None).unwrap();
    run.discard_events();
    let result = run.result(Some(Duration::from_secs(20))).unwrap().expect("in time");
    serde_json::from_str(&result.json).unwrap()
}

fn calls(name: &str) -> Value {
    json!([{"calls": [{"name": name, "arguments": {"x": 1}}]}, {"says": "done"}])
}

fn told(result: &Value) -> &Value {
    &result["messages"][2]["parts"][0]
}

#[test]
fn a_tool_answers_now_or_later_on_any_thread() {
    for placement in [Placement::Pool, Placement::Inline] {
        let engine = engine(calls("t"));
        with_tool(&engine, json!({"name": "t"}), placement, |call, answer| {
            std::thread::spawn(move || answer.resolve(&call.input));
        });
        let result = run(&engine);
        assert_eq!((&result["status"], &told(&result)["output"]), (&json!("completed"), &json!({"x": 1})));
    }
}

#[test]
fn the_first_answer_counts_and_the_second_is_told_so() {
    let engine = engine(calls("t"));
    let (send, receive) = std::sync::mpsc::channel();
    with_tool(&engine, json!({"name": "t"}), Placement::Pool, move |_, answer| {
        let codes = [answer.resolve("not json"), answer.resolve("1"), answer.resolve("2"), answer.suspend("3")];
        send.send(codes.map(|result| result.err().map(|error| error.code().to_owned()))).unwrap();
    });
    assert_eq!(told(&run(&engine))["output"], 1);
    let codes = receive.recv().unwrap();
    assert_eq!(
        codes,
        [Some("json_invalid"), None, Some("already_answered"), Some("already_answered")]
            .map(|code| code.map(str::to_owned))
    );
}

#[test]
fn an_answer_that_is_dropped_or_never_comes_is_told_to_the_model() {
    let engine = engine(calls("t"));
    with_tool(&engine, json!({"name": "t"}), Placement::Pool, |_, answer| drop(answer));
    let result = run(&engine);
    assert_eq!((&result["status"], &told(&result)["status"]), (&json!("completed"), &json!("error")));

    let engine = self::engine(calls("t"));
    let kept = Arc::new(lomusai_core::sync::Mutex::new(None));
    let keeps = kept.clone();
    with_tool(&engine, json!({"name": "t", "timeout_ms": 50}), Placement::Pool, move |_, answer| {
        *keeps.lock() = Some(answer)
    });
    let result = run(&engine);
    assert!(told(&result)["output"].as_str().unwrap().contains("did not answer within 50 ms"));
    let late = kept.lock().take().unwrap();
    assert!(late.is_cancelled());
    assert_eq!(late.resolve("1").unwrap_err().code(), "handle_closed");
}

#[test]
fn a_thread_that_never_returns_is_reported_by_close() {
    let engine = engine(calls("t"));
    with_tool(&engine, json!({"name": "t", "timeout_ms": 50}), Placement::Pool, |_, _answer| {
        std::thread::sleep(Duration::from_secs(3))
    });
    assert!(told(&run(&engine))["output"].as_str().unwrap().contains("did not answer"));
    let error = engine.close(Some(Duration::from_millis(100))).unwrap_err();
    assert_eq!(error.code(), "close_timeout");
    assert!(error.to_string().contains("`t`"), "{error}");
}

#[test]
fn a_provider_streams_with_back_pressure() {
    let engine = HostEngine::open(r#"{"reader_events": 4}"#).unwrap();
    let pushed = Arc::new(AtomicUsize::new(0));
    let count = pushed.clone();
    let provider = move |_: CallInfo, answer: Answer| {
        for n in 0..1_000 {
            if answer.push(&json!(format!("{n} ")).to_string()).is_err() {
                return;
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
        answer.finish().unwrap();
    };
    engine.register_provider("model", Placement::Pool, Arc::new(provider)).unwrap();
    engine.register_agent(r#"{"name": "agent", "model": "model"}"#).unwrap();
    let run = engine.run(r#"{"agent": "agent", "input": "go"}"#, None).unwrap();
    assert!(matches!(run.next(Some(Duration::from_secs(5))).unwrap(), NextJson::Event(_)));
    // Nothing is read: the provider cannot be far ahead, however long it had.
    engine.call("pending", "").unwrap();
    assert!(pushed.load(Ordering::SeqCst) < 100);
    let mut text = String::new();
    loop {
        match run.next(Some(Duration::from_secs(5))).unwrap() {
            NextJson::Event(event) => {
                let event: Value = serde_json::from_str(&event).unwrap();
                text.push_str(event["text"].as_str().unwrap_or_default());
            }
            NextJson::End => break,
            NextJson::Timeout => {}
        }
    }
    assert_eq!(text.split_whitespace().count(), 1_000);
}

#[test]
fn callbacks_may_call_the_engine_a_thousand_deep() {
    // One callable at a time may work; all others wait for the engine.
    let engine = HostEngine::open(r#"{"callbacks_max": 2}"#).unwrap();
    engine.register_builtin_provider("model", &json!({"type": "scripted", "script": calls("t")}).to_string()).unwrap();
    let depth = Arc::new(AtomicUsize::new(0));
    let (deeper, inner) = (depth.clone(), Arc::downgrade(&engine));
    with_tool(&engine, json!({"name": "t"}), Placement::Pool, move |_, answer| {
        let engine = inner.upgrade().unwrap();
        let result = if deeper.fetch_add(1, Ordering::SeqCst) < 1_000 {
            run(&engine)["status"].clone()
        } else {
            json!("bottom")
        };
        answer.resolve(&result.to_string()).unwrap();
    });
    assert_eq!(run(&engine)["status"], "completed");
    assert_eq!(depth.load(Ordering::SeqCst), 1_001);
    engine.close(None).unwrap();
}

#[test]
fn a_panicking_callback_is_an_error_with_a_code() {
    let engine = engine(calls("t"));
    with_tool(&engine, json!({"name": "t"}), Placement::Pool, |_, _| panic!("boom"));
    assert!(told(&run(&engine))["output"].as_str().unwrap().contains("panicked"));
}

#[test]
fn closing_from_a_callback_is_fine() {
    let engine = engine(calls("t"));
    let inner = Arc::downgrade(&engine);
    let (send, receive) = std::sync::mpsc::channel();
    with_tool(&engine, json!({"name": "t"}), Placement::Pool, move |_, _answer| {
        send.send(
            inner.upgrade().unwrap().close(Some(Duration::from_secs(2))).map_err(|error| error.code().to_owned()),
        )
        .unwrap();
    });
    let run = engine.run(r#"{"agent": "agent", "input": "go"}"#, None).unwrap();
    let _ = run.result(Some(Duration::from_secs(10)));
    assert_eq!(receive.recv_timeout(Duration::from_secs(10)).unwrap(), Ok(()));
    assert_eq!(engine.run("{}", None).err().unwrap().code(), "argument_invalid");
    assert_eq!(engine.run(r#"{"agent": "agent", "input": "go"}"#, None).err().unwrap().code(), "engine_closed");
}
