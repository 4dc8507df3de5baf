//! The handoffs between threads, raced: answers against answers, cancellation, timeouts and the reader's leaving.
//!
//! Neither loom nor ThreadSanitizer can look at these (see DESIGN.md), so they are run often, with nothing between the racers but chance.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lomusai_host::{Answer, CallInfo, HostEngine, HostRun, NextJson, Placement};
use serde_json::{Value, json};

const ROUNDS: usize = 400;

fn engine(tool: impl Fn(CallInfo, Answer) + Send + Sync + 'static, timeout_ms: u64) -> Arc<HostEngine> {
    let engine = HostEngine::open("{}").unwrap();
    let script = json!([{"calls": [{"name": "t"}, {"name": "t"}, {"name": "t"}]}, {"says": "done"}]);
    engine.register_builtin_provider("model", &json!({"type": "scripted", "script": script}).to_string()).unwrap();
    let spec = json!({"name": "t", "timeout_ms": timeout_ms}).to_string();
    engine.register_tool(&spec, Placement::Pool, Arc::new(tool)).unwrap();
    engine.register_agent(r#"{"name": "agent", "model": "model", "tools": ["t"]}"#).unwrap();
    engine
}

fn start(engine: &Arc<HostEngine>) -> HostRun {
    engine.run(r#"{"agent": "agent", "input": "go"}"#, None).unwrap()
}

fn status(run: &HostRun) -> String {
    let result = run.result(Some(Duration::from_secs(30))).unwrap().expect("in time");
    let value: Value = serde_json::from_str(&result.json).unwrap();
    value["status"].as_str().unwrap().to_owned()
}

#[test]
fn of_many_answers_at_once_one_counts() {
    let (taken, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (t, r) = (taken.clone(), refused.clone());
    let engine = engine(
        move |_, answer| {
            std::thread::scope(|scope| {
                for n in 0..4 {
                    let (answer, t, r) = (answer.clone(), t.clone(), r.clone());
                    scope.spawn(move || match answer.resolve(&n.to_string()) {
                        Ok(()) => t.fetch_add(1, Ordering::SeqCst),
                        Err(error) => {
                            assert_eq!(error.code(), "already_answered");
                            r.fetch_add(1, Ordering::SeqCst)
                        }
                    });
                }
            });
        },
        60_000,
    );
    for _ in 0..ROUNDS / 4 {
        let run = start(&engine);
        run.discard_events();
        assert_eq!(status(&run), "completed");
    }
    engine.close(None).unwrap();
    assert_eq!((taken.load(Ordering::SeqCst), refused.load(Ordering::SeqCst)), (ROUNDS / 4 * 3, ROUNDS / 4 * 9));
}

#[test]
fn answers_race_cancellation_and_never_hang_a_run() {
    let engine = engine(
        |_, answer| {
            std::thread::spawn(move || {
                std::thread::yield_now();
                let code = answer.resolve("1").err().map(|error| error.code().to_owned());
                assert!(matches!(code.as_deref(), None | Some("handle_closed")), "{code:?}");
            });
        },
        60_000,
    );
    for round in 0..ROUNDS {
        let run = start(&engine);
        if round % 2 == 0 {
            run.discard_events();
        }
        for _ in 0..round % 7 {
            std::thread::yield_now();
        }
        run.cancel(0, None).unwrap();
        run.discard_events();
        let status = status(&run);
        assert!(status == "cancelled" || status == "completed", "{status}");
    }
    engine.close(None).unwrap();
}

#[test]
fn answers_race_their_timeout() {
    let engine = engine(
        |call, answer| {
            std::thread::sleep(Duration::from_micros(1_500 + 400 * (call.context.run_id.as_str().len() as u64 % 3)));
            let code = answer.resolve("1").err().map(|error| error.code().to_owned());
            assert!(matches!(code.as_deref(), None | Some("handle_closed")), "{code:?}");
        },
        2,
    );
    for _ in 0..ROUNDS / 2 {
        let run = start(&engine);
        run.discard_events();
        assert_eq!(status(&run), "completed");
    }
    engine.close(None).unwrap();
}

#[test]
fn readers_that_leave_cancel_and_let_go() {
    let engine = engine(|_, answer| drop(answer.resolve("1")), 60_000);
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let engine = &engine;
            scope.spawn(move || {
                for round in 0..ROUNDS / 4 {
                    let run = start(engine);
                    for _ in 0..(thread + round) % 9 {
                        if run.next(Some(Duration::from_secs(10))).unwrap() == NextJson::End {
                            break;
                        }
                    }
                    run.close();
                }
            });
        }
    });
    // Whatever is left ends by itself: closing finds nothing that hangs.
    engine.close(Some(Duration::from_secs(20))).unwrap();
}
