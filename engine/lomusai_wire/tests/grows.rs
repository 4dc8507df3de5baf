//! The wire grows by addition: what this version does not know is kept, what it knows must fit, and nothing is lost in between.

use lomusai_wire::{Command, Event, EventBody, FinishReason, Input, Message, ModelChunk, Part, RunSpec, ToolResult};
use serde_json::{Value, json};

fn event(body: &str) -> Result<Event, serde_json::Error> {
    serde_json::from_str(&format!(r#"{{"run_id":"r1","seq":1,"at_ms":5,{body}}}"#))
}

#[test]
fn an_unknown_event_keeps_all_but_its_envelope() {
    let event = event(r#""type":"label_raised","label":"secret","to":[1,{"run_id":"kept"}]"#).unwrap();
    let EventBody::Unknown(fields) = &event.body else { panic!("{:?}", event.body) };
    let expected = json!({"type": "label_raised", "label": "secret", "to": [1, {"run_id": "kept"}]});
    assert_eq!(Value::Object(fields.clone()), expected);
    assert!(event.is_durable() && event.body.is_durable());
}

#[test]
fn a_damaged_event_is_an_error_and_not_an_unknown_one() {
    let error = event(r#""type":"effect_started","effect_id":"1.0""#).unwrap_err().to_string();
    assert!(error.contains("event `effect_started`") && error.contains("missing field `kind`"), "{error}");
    assert!(event(r#""no_type":1"#).unwrap_err().to_string().contains("missing field `type`"));
    assert!(serde_json::from_str::<Event>(r#"{"type":"run_resumed","seq":1}"#).is_err());
    assert!(serde_json::from_str::<Event>(r#"{"type":"run_resumed","run_id":"r1","seq":-1}"#).is_err());
}

#[test]
fn an_event_keeps_the_order_of_schemas_in_its_options() {
    let schema = r#"{"type":"object","properties":{"zip":{"type":"string"},"city":{"type":"string"}}}"#;
    let body = format!(
        r#""type":"run_started","spec":{{"kind":"agent","name":"a","hash":"0"}},"input":[],"options":{{"client_tools":[{{"name":"t","input_schema":{schema}}}],"output":{{"schema":{schema}}}}}"#
    );
    let event = event(&body).unwrap();
    let EventBody::RunStarted(started) = &event.body else { panic!("{:?}", event.body) };
    let options = &started.options;
    assert_eq!(options.client_tools[0].input_schema.as_str(), schema);
    assert_eq!(options.output.as_ref().unwrap().schema.as_str(), schema);
    assert_eq!(serde_json::to_string(&event).unwrap().matches(schema).count(), 2);
}

#[test]
fn a_spec_keeps_the_order_of_its_schemas() {
    let text = r#"{"agent":{"name":"a","model":"m"},"tools":[{"name":"t","input_schema":{"z":1,"a":{"y":2,"b":3}}}]}"#;
    let spec: RunSpec = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&spec).unwrap(), text);
}

#[test]
fn null_given_is_not_nothing_given() {
    let body = r#""type":"effect_started","effect_id":"1.0","kind":"tool","component":"t""#;
    for (text, expected) in [(body.to_owned(), None), (format!(r#"{body},"resume":null"#), Some(Value::Null))] {
        let EventBody::EffectStarted { resume, .. } = event(&text).unwrap().body else { panic!("{text}") };
        assert_eq!(resume.as_deref(), expected.as_ref());
    }
}

#[test]
fn an_unknown_part_is_kept_and_a_damaged_one_is_named() {
    let text = r#"{"role":"assistant","parts":[{"type":"audio","id":"a1","data":{"b64":"AA=="}}]}"#;
    let message: Message = serde_json::from_str(text).unwrap();
    assert!(matches!(&message.parts[0], Part::Unknown(fields) if fields["id"] == "a1"));
    assert_eq!(message.parts[0].type_name(), "audio");
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), serde_json::to_value(&message).unwrap());

    let error = serde_json::from_str::<Message>(r#"{"role":"user","parts":[{"type":"text"}]}"#).unwrap_err();
    assert!(error.to_string().contains("missing field `text`"), "{error}");
    let error = serde_json::from_str::<Input>(r#"[{"role":"user","parts":[{"text":"x"}]}]"#).unwrap_err();
    assert!(error.to_string().contains("missing field `type`"), "{error}");
    let error = serde_json::from_str::<Input>("3").unwrap_err();
    assert!(error.to_string().contains("a text, a message or a list of messages"), "{error}");
    assert!(serde_json::from_str::<ToolResult>(r#"{"call_id":"c1.0","name":"t"}"#).is_err());
}

#[test]
fn an_unknown_finish_reason_is_other_and_stays_so() {
    let chunk: ModelChunk = serde_json::from_str(r#"{"type":"finish","reason":"pause_turn"}"#).unwrap();
    assert_eq!(chunk, ModelChunk::Finish { reason: Some(FinishReason::Other) });
    assert_eq!(serde_json::to_string(&chunk).unwrap(), r#"{"type":"finish","reason":"other"}"#);
    let body = event(r#""type":"effect_completed","effect_id":"1.model","finish":"pause_turn""#).unwrap().body;
    assert!(matches!(body, EventBody::EffectCompleted { finish: Some(FinishReason::Other), .. }));
}

#[test]
fn parts_may_be_written_as_text() {
    let expected = Message::user("hi");
    for text in [r#"{"role":"user","content":"hi"}"#, r#"{"role":"user","parts":"hi"}"#] {
        assert_eq!(serde_json::from_str::<Message>(text).unwrap(), expected);
    }
}

#[test]
fn a_command_has_no_field_that_it_does_not_know() {
    let error = serde_json::from_str::<Command>(r#"{"type":"approve","effect":"1.0"}"#).unwrap_err();
    assert!(error.to_string().contains("unknown field `effect`"), "{error}");
    assert!(serde_json::from_str::<Command>(r#"{"type":"pause"}"#).is_err());
}
