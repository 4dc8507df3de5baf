//! Runs the vectors of operations through the door that all hosts ask by.

use std::collections::BTreeMap;
use std::path::Path;

use lomusai_core::Result;
use lomusai_host::HostEngine;
use lomusai_tests::matching::difference;
use lomusai_tests::vector::{Ask, Vector};
use serde_json::{Value, json};

#[test]
fn operations_answer_as_the_vectors_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/operations");
    let vectors = Vector::read_folder(&folder).unwrap();
    assert!(vectors.len() >= 12, "{} vectors", vectors.len());
    let faults: Vec<String> = vectors
        .iter()
        .flat_map(|vector| play(vector).into_iter().map(move |fault| format!("{}: {fault}", vector.path.display())))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn play(vector: &Vector) -> Vec<String> {
    let engine = HostEngine::open("{}").unwrap();
    for workflow in vector.workflows.iter().chain(&vector.workflow) {
        engine.register_workflow(&json!(workflow).to_string()).unwrap();
    }
    let mut faults = Vec::new();
    let mut bound = BTreeMap::new();
    for turn in &vector.turns {
        let request = match vector.request(turn, None).unwrap() {
            lomusai_runtime::RunRequest::Workflow(request) => json!(request),
            other => panic!("{}: no workflow: {other:?}", vector.path.display()),
        };
        let run = engine.run(&request.to_string(), None).unwrap();
        run.discard_events();
        let result: Value = serde_json::from_str(&run.result(None).unwrap().unwrap().json).unwrap();
        let status = turn.expect.status.as_ref().map(|status| json!(status));
        faults.extend(status.and_then(|status| difference(&status, Some(&result["status"]), "status")));
        bound.insert("run".to_owned(), result["run_id"].clone());
    }
    for (place, ask) in vector.calls.iter().enumerate() {
        let name = ask.call.as_deref().unwrap_or("replace_workflow");
        let answer = answer(&engine, ask, &bound);
        if let Ok(answer) = &answer {
            let named =
                |(name, at): (&String, &String)| (name.clone(), answer.pointer(at).cloned().unwrap_or_default());
            bound.extend(ask.bind.iter().map(named));
        }
        faults.extend(fault(ask, answer, &bound).map(|fault| format!("call {place}, {name}: {fault}")));
    }
    engine.close(None).unwrap();
    faults
}

fn answer(engine: &HostEngine, ask: &Ask, bound: &BTreeMap<String, Value>) -> Result<Value> {
    let Some(call) = &ask.call else {
        let workflow = ask.replace_workflow.as_ref().expect("a call or a workflow");
        engine.unregister("workflow", workflow["name"].as_str().expect("a name"))?;
        engine.register_workflow(&workflow.to_string())?;
        return Ok(Value::Null);
    };
    let params = with(&ask.params, bound);
    let params = if params.is_null() { String::new() } else { params.to_string() };
    Ok(serde_json::from_str(&engine.call(call, &params)?).expect("JSON"))
}

/// With what was bound in the place of its name.
fn with(value: &Value, bound: &BTreeMap<String, Value>) -> Value {
    match value {
        Value::String(text) => text.strip_prefix('$').and_then(|name| bound.get(name)).unwrap_or(value).clone(),
        Value::Array(items) => items.iter().map(|item| with(item, bound)).collect(),
        Value::Object(fields) => fields.iter().map(|(key, item)| (key.clone(), with(item, bound))).collect(),
        other => other.clone(),
    }
}

fn fault(ask: &Ask, answer: Result<Value>, bound: &BTreeMap<String, Value>) -> Option<String> {
    let answer = match (answer, &ask.error) {
        (Err(error), Some(code)) if error.code() == code => return None,
        (Err(error), _) => return Some(format!("was refused: {error}")),
        (Ok(answer), Some(code)) => return Some(format!("was not refused with {code}: {answer}")),
        (Ok(answer), None) => answer,
    };
    match &ask.begins {
        Some(begins) if !answer.as_str().is_some_and(|text| text.starts_with(begins.as_str())) => {
            Some(format!("does not begin with {begins}: {answer}"))
        }
        _ => ask.expect.as_ref().and_then(|expected| difference(&with(expected, bound), Some(&answer), "answer")),
    }
}
