//! `tables/events.toml` says the same as the Rust types, so that what is generated from it does too.

use std::collections::BTreeMap;

use lomusai_wire::{Event, EventBody};
use schemars::SchemaGenerator;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Table {
    r#enum: Vec<Words>,
    r#type: Vec<Record>,
    part: Vec<Record>,
    envelope: Fields,
    event: Vec<Record>,
}

#[derive(Deserialize)]
struct Words {
    name: String,
    values: Vec<String>,
}

#[derive(Deserialize)]
struct Record {
    name: String,
    #[serde(default)]
    fields: Vec<Field>,
    include: Option<String>,
    durable: Option<String>,
}

#[derive(Deserialize)]
struct Fields {
    fields: Vec<Field>,
}

#[derive(Clone, Deserialize)]
struct Field {
    name: String,
    r#type: String,
    #[serde(default)]
    optional: bool,
}

/// Fields by name: their type in the table's words, and whether they may be absent.
type Shape = BTreeMap<String, (String, bool)>;

fn table() -> Table {
    toml::from_str(include_str!("../tables/events.toml")).expect("the table is in order")
}

fn shape(fields: &[Field]) -> Shape {
    // A code is a text with known values.
    let plain = |name: &str| name.replace("ErrorCode", "text");
    fields.iter().map(|field| (field.name.clone(), (plain(&field.r#type), field.optional))).collect()
}

/// Definitions of everything an event or a run's line is made of.
fn definitions() -> serde_json::Map<String, Value> {
    let mut generator = SchemaGenerator::default();
    generator.subschema_for::<EventBody>();
    generator.subschema_for::<Event>();
    generator.subschema_for::<lomusai_wire::RunInfo>();
    generator.take_definitions(true)
}

/// A schema as a type in the table's words.
fn words(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return match name {
            "CallId" | "EffectId" | "MessageId" | "RunId" | "ThreadId" => "text".into(),
            "Kind" => "ErrorKind".into(),
            "History" => "Message[] | HistoryUpto".into(),
            // Bindings have types of their own for what callers write.
            "RunOptions" => "object".into(),
            name => name.into(),
        };
    }
    if let Some(branches) = schema["anyOf"].as_array() {
        return words(&branches[0]);
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match kind {
        None => "json".into(),
        Some("array") => format!("{}[]", words(&schema["items"])),
        Some("string") => "text".into(),
        Some(kind) => kind.into(),
    }
}

/// The fields of one form of an object, the tag left out. `None` if the schema is of another form.
fn fields(schema: &Value, tag: Option<&str>, definitions: &serde_json::Map<String, Value>) -> Option<Shape> {
    if tag.is_some_and(|tag| schema["properties"]["type"]["const"] != tag) {
        return None;
    }
    let required = |name: &str| schema["required"].as_array().is_some_and(|list| list.iter().any(|item| item == name));
    let mut shape: Shape = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| tag.is_none() || *name != "type")
        .map(|(name, schema)| (name.clone(), (words(schema), !required(name))))
        .collect();
    // Fields of another type mixed in.
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        shape.extend(fields(&definitions[name], None, definitions)?);
    }
    // One of several fields.
    for branch in schema["oneOf"].as_array().into_iter().flatten() {
        let branch = fields(branch, None, definitions)?;
        shape.extend(branch.into_iter().map(|(name, (kind, _))| (name, (kind, true))));
    }
    Some(shape)
}

#[test]
fn every_event_is_in_the_table_with_its_fields() {
    let (table, definitions) = (table(), definitions());
    assert_eq!(table.event.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), EventBody::TYPES);
    let branches = definitions["EventBody"]["oneOf"].as_array().expect("tagged");
    assert_eq!(branches.len(), table.event.len());
    for event in &table.event {
        let found = branches.iter().find_map(|branch| fields(branch, Some(&event.name), &definitions));
        let included = event.include.iter().flat_map(|name| {
            table.r#type.iter().find(|record| record.name == *name).expect("a type of the table").fields.clone()
        });
        let expected: Vec<Field> = event.fields.iter().cloned().chain(included).collect();
        assert_eq!(found.expect("an event"), shape(&expected), "{}", event.name);
    }
    // The time is always written, though it may be absent when an event is read.
    let mut envelope = fields(&definitions["Event"], None, &definitions).expect("an object");
    envelope.retain(|name, _| table.envelope.fields.iter().any(|field| field.name == *name));
    envelope.get_mut("at_ms").expect("an envelope has a time").1 = false;
    assert_eq!(envelope, shape(&table.envelope.fields));
}

#[test]
fn durability_is_as_the_table_says() {
    let table = table();
    let samples: Vec<EventBody> = serde_json::from_str(include_str!("golden/EventBody.json")).expect("a golden");
    for event in &table.event {
        let mut kept: Vec<bool> = samples
            .iter()
            .filter(|body| serde_json::to_value(body).expect("JSON")["type"] == event.name)
            .map(EventBody::is_durable)
            .collect();
        kept.sort_unstable();
        kept.dedup();
        let expected: &[bool] = match event.durable.as_deref() {
            Some("yes") => &[true],
            Some("no") => &[false],
            Some("when asked") => &[false, true],
            other => panic!("{}: durable is {other:?}", event.name),
        };
        assert_eq!(kept, expected, "{}", event.name);
    }
}

#[test]
fn words_and_records_are_as_the_types_are() {
    let (table, definitions) = (table(), definitions());
    for words in &table.r#enum {
        let schema = &definitions[&words.name];
        let listed = schema["enum"].as_array().cloned().unwrap_or_default();
        let described = schema["oneOf"].as_array().into_iter().flatten().map(|branch| branch["const"].clone());
        let found: Vec<Value> = listed.into_iter().chain(described).collect();
        assert_eq!(found, words.values, "{}", words.name);
    }
    for record in &table.r#type {
        let schema = match record.name.as_str() {
            "HistoryUpto" => &definitions["History"]["anyOf"][1],
            name => &definitions[name],
        };
        assert_eq!(fields(schema, None, &definitions).expect("an object"), shape(&record.fields), "{}", record.name);
    }
    let branches = definitions["Part"]["oneOf"].as_array().expect("tagged");
    assert_eq!(branches.len(), table.part.len());
    for part in &table.part {
        let found = branches.iter().find_map(|branch| fields(branch, Some(&part.name), &definitions));
        assert_eq!(found.expect("a part"), shape(&part.fields), "{}", part.name);
    }
}
