//! Answers, calls and structured output of a real, tiny model.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::join_all;
use lomusai_core::llm::LlmProvider;
use lomusai_wire::{FinishReason, Message, ModelChunk, ModelTool, OutputSpec, RawJson, ToolChoice, codes};
use serde_json::{Value, json};

use crate::{RUNTIME, SMOL, answer, call, refused, says};

fn tool(name: &str, schema: &Value) -> ModelTool {
    ModelTool::new(name, "Looks something up", RawJson::from(schema))
}

fn weather() -> Value {
    json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1, "maxLength": 20},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "unit": {"enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "days", "unit"],
        "additionalProperties": false,
    })
}

fn fits(schema: &Value, text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let validator = jsonschema::validator_for(schema).expect("it compiles");
    if let Err(error) = validator.validate(&value) {
        panic!("{error}: {text}");
    }
}

#[test]
fn an_answer_is_streamed_and_counted() {
    RUNTIME.block_on(async {
        let mut stream = SMOL.stream(call(), Arc::new(says("Count to twenty in words."))).await.unwrap();
        let (mut pieces, mut used, mut reason) = (0, None, None);
        while let Some(chunk) = stream.next().await {
            match chunk.unwrap() {
                ModelChunk::Text { .. } => pieces += 1,
                ModelChunk::Usage { usage } => used = Some(usage),
                ModelChunk::Finish { reason: why } => reason = why,
                other => panic!("{other:?}"),
            }
        }
        let used = used.expect("usage comes before the end");
        assert!(pieces > 1, "it comes in pieces");
        assert!(used.input + used.cache_read > 10 && (1..=32).contains(&used.output), "{used:?}");
        let ended = matches!((reason, used.output), (Some(FinishReason::Length), 32) | (Some(FinishReason::Stop), _));
        assert!(ended, "{reason:?} {used:?}");
    });
}

#[test]
fn a_seed_repeats_an_answer() {
    RUNTIME.block_on(async {
        let mut request = says("Name an animal and say why you like it.");
        request.settings.temperature = Some(1.0);
        let one = answer(&SMOL, request.clone()).await.unwrap();
        let other = answer(&SMOL, request).await.unwrap();
        assert_eq!(one.message.text(), other.message.text());
    });
}

#[test]
fn a_stop_text_ends_an_answer() {
    RUNTIME.block_on(async {
        let mut request = says("Write a long story about the sea.");
        request.settings.max_output_tokens = Some(200);
        request.settings.stop_sequences = vec!["e".into()];
        let said = answer(&SMOL, request).await.unwrap();
        assert!(!said.message.text().contains('e') && said.finish == FinishReason::Stop, "{said:?}");
    });
}

#[test]
fn every_call_of_a_named_tool_fits_its_schema() {
    let runs = if std::env::var_os("LOMUSAI_FULL").is_some() { 100 } else { 16 };
    RUNTIME.block_on(async {
        let ask = |number: u64| async move {
            let mut request = says("What will the weather be like on the coast?");
            request.tools = vec![tool("weather", &weather())];
            request.tool_choice = ToolChoice::Tool("weather".into());
            request.settings.temperature = Some(1.5);
            request.settings.seed = Some(number);
            request.settings.max_output_tokens = Some(100);
            answer(&SMOL, request).await.unwrap()
        };
        for said in join_all((0..runs).map(ask)).await {
            assert_eq!(said.finish, FinishReason::ToolCalls);
            let calls: Vec<_> = said.message.tool_calls().collect();
            assert_eq!((calls.len(), calls[0].name.as_str(), said.message.text().as_str()), (1, "weather", ""));
            fits(&weather(), &calls[0].arguments);
        }
    });
}

#[test]
fn a_call_that_must_be_made_names_a_tool_that_is_there() {
    RUNTIME.block_on(async {
        let place = json!({"type": "object", "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}}, "required": ["zip"]});
        let mut request = says("Where is 10115?");
        request.tools = vec![tool("weather", &weather()), tool("place", &place)];
        request.tool_choice = ToolChoice::Required;
        request.settings.max_output_tokens = Some(200);
        let said = answer(&SMOL, request).await.unwrap();
        let calls: Vec<_> = said.message.tool_calls().collect();
        assert!(!calls.is_empty(), "{said:?}");
        let weather = weather();
        for call in calls {
            fits(if call.name == "place" { &place } else { &weather }, &call.arguments);
        }
    });
}

#[test]
fn a_model_that_may_call_writes_text_or_a_call_that_fits() {
    RUNTIME.block_on(async {
        let examples = [
            ("Weather in Rome for 3 days?", r#"{"city": "Rome", "days": 3, "unit": "celsius"}"#),
            ("Weather in Oslo for 5 days?", r#"{"city": "Oslo", "days": 5, "unit": "celsius"}"#),
        ];
        let mut called = 0;
        for seed in 0..6 {
            let mut request = says("");
            request.messages.clear();
            for (question, arguments) in examples {
                request.messages.push(Arc::new(Message::user(question)));
                let call = format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {arguments}}}\n</tool_call>");
                request.messages.push(Arc::new(Message::assistant(call)));
            }
            request.messages.push(Arc::new(Message::user("Weather in Lima for 4 days?")));
            request.tools = vec![tool("weather", &weather())];
            request.settings.seed = Some(seed);
            request.settings.temperature = Some(0.3);
            request.settings.max_output_tokens = Some(100);
            let said = answer(&SMOL, request).await.unwrap();
            assert!(!said.message.text().contains("<tool_call>"), "{said:?}");
            for call in said.message.tool_calls() {
                called += 1;
                assert_eq!(call.name, "weather");
                fits(&weather(), &call.arguments);
            }
        }
        assert!(called > 0, "after two examples it calls at least once in six");
    });
}

#[test]
fn structured_output_fits_twenty_kinds_of_schema() {
    let schemas: Vec<Value> = serde_json::from_str(include_str!("../data/schemas.json")).unwrap();
    assert_eq!(schemas.len(), 20);
    RUNTIME.block_on(async {
        let ask = |schema: Value| async move {
            let mut request = says("Make up an example.");
            request.output = Some(OutputSpec::new(RawJson::from(&schema)));
            request.settings.max_output_tokens = Some(400);
            request.settings.temperature = Some(1.0);
            (answer(&SMOL, request).await.unwrap(), schema)
        };
        for (said, schema) in join_all(schemas.into_iter().map(ask)).await {
            assert_eq!(said.finish, FinishReason::Stop, "{schema}: {}", said.message.text());
            fits(&schema, &said.message.text());
        }
    });
}

#[test]
fn schemas_that_have_no_grammar_are_refused() {
    for (schema, place) in [
        (json!({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}), "#/properties/a"),
        (json!({"$ref": "https://example.org/schema"}), "#"),
        (json!({"type": "integer", "minimum": 3, "maximum": 2}), "#"),
        (json!({"type": "string", "pattern": "(?=a)b"}), "#"),
    ] {
        let mut request = says("Hi");
        request.output = Some(OutputSpec::new(RawJson::from(&schema)));
        let error = refused(&SMOL, request);
        assert!(error.is(codes::SCHEMA_UNSUPPORTED), "{error}");
        assert_eq!(error.body().details["at"], place, "{error}");
    }
}

#[test]
fn the_next_turn_of_a_thread_reads_only_what_is_new() {
    RUNTIME.block_on(async {
        // A provider of its own: other tests would take its slots.
        let mut config = crate::config();
        (config.model, config.context_tokens, config.parallel) = (Some("smollm2-135m".into()), Some(2_048), Some(2));
        let models = lomusai_llm::local::LocalModels::new(config);
        let mut request = says(&"The sea is wide and the ships are small. ".repeat(30));
        let first = answer(&models, request.clone()).await.unwrap();
        assert_eq!(first.usage.cache_read, 0);
        request.messages.push(Arc::new(first.message.clone()));
        request.messages.push(Arc::new(Message::user("And then?")));
        let second = answer(&models, request.clone()).await.unwrap();
        assert!(second.usage.cache_read >= first.usage.input, "{:?} then {:?}", first.usage, second.usage);
        assert!(second.usage.input < 80, "{:?}", second.usage);
        // Another thread takes the other slot, and the first goes on where it was.
        answer(&models, says("Something else altogether")).await.unwrap();
        let third = answer(&models, request).await.unwrap();
        assert!(third.usage.cache_read >= first.usage.input, "{:?}", third.usage);
    });
}

#[test]
fn more_runs_than_slots_all_get_their_answer() {
    RUNTIME.block_on(async {
        let mut config = crate::config();
        (config.model, config.context_tokens, config.parallel) = (Some("smollm2-135m".into()), Some(512), Some(3));
        let models = lomusai_llm::local::LocalModels::new(config);
        let ask = |number: u64| {
            let mut request = says(&format!("Say the number {number}."));
            request.settings.max_output_tokens = Some(8);
            answer(&models, request)
        };
        for said in join_all((0..8).map(ask)).await {
            assert!(said.unwrap().usage.output > 0);
        }
    });
}

#[test]
fn a_cancelled_call_ends_and_leaves_its_slot() {
    RUNTIME.block_on(async {
        let mut config = crate::config();
        (config.model, config.context_tokens, config.parallel) = (Some("smollm2-135m".into()), Some(2_048), Some(1));
        let models = lomusai_llm::local::LocalModels::new(config);
        let mut request = says("Write a long story about the sea.");
        request.settings.max_output_tokens = Some(1_000);
        let context = call();
        let mut stream = models.stream(context.clone(), Arc::new(request.clone())).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        context.cancel.cancel();
        let error = loop {
            match stream.next().await.expect("it ends with an error") {
                Ok(ModelChunk::Text { .. }) => {}
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert!(error.is(codes::RUN_CANCELLED), "{error}");
        // Dropped in the middle of its prompt: the only slot is free again for the next.
        let mut long = says(&"The sea is wide and the ships are small. ".repeat(40));
        long.settings.max_output_tokens = Some(4);
        drop(models.stream(call(), Arc::new(long.clone())).await.unwrap());
        assert!(answer(&models, long).await.unwrap().usage.output > 0);
    });
}

#[test]
fn a_conversation_longer_than_the_context_is_refused() {
    let error = refused(&SMOL, says(&"word ".repeat(3_000)));
    assert!(error.is(codes::CONTEXT_TOO_LONG), "{error}");
    assert_eq!(error.body().details["context_tokens"], 2_048, "{error}");
}
