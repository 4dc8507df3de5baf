//! The wire, word for word. Every public type has samples in `golden/<Type>.json`; the JSON Schema of all of them is
//! `golden/schema.json`. After a wanted change, `UPDATE_GOLDEN=1 cargo test -p lomusai_wire` writes the schema anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use lomusai_wire::*;
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// A type of the wire, as functions over JSON text.
struct WireType {
    name: &'static str,
    round_trip: fn(&str) -> Result<String, String>,
    schema: fn(&mut SchemaGenerator) -> schemars::Schema,
}

impl WireType {
    const fn of<T: Serialize + DeserializeOwned + JsonSchema + PartialEq>(name: &'static str) -> Self {
        Self { name, round_trip: round_trip::<T>, schema: T::json_schema }
    }

    fn samples(&self) -> Vec<String> {
        let path = golden(&format!("{}.json", self.name));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}: write a golden", path.display()));
        let samples: Vec<Box<RawValue>> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        samples.into_iter().map(|sample| sample.get().to_owned()).collect()
    }
}

macro_rules! wire_types {
    ($($name:ident)*) => { &[$(WireType::of::<$name>(stringify!($name))),*] };
}

const WIRE: &[WireType] = wire_types! {
    Action AgentSpec Approval Budget CallId Command Condition Context EffectId EffectKind ErrorBody Event EventBody
    Fallback FinishReason ForeachLink ForeachSpec Fork FunctionReply History Hooks Input Instructions Kind Limits Link LogLevel LongPrice
    LoopLink LoopSpec Mapping Message MessageId ModelChunk ModelInfo ModelRequest ModelSettings ModelTool Needs OnBusy Outcome
    OutputSpec Parent Part PartDelta Pending PendingKind Price Processors RawJson Reasoning Retry Role RunFilter RunId
    RunInfo RunOptions RunOutput RunSpec RunStarted RunStatus SignalKind Source SpecKind SpecRef SqlStatement StartRequest StepReply
    StepSpec StopCondition SuspendSpec ThreadId ToolCall ToolChoice ToolReply ToolResult ToolSpec ToolStatus Usage WaitSpec
    WorkflowDraft WorkflowRequest WorkflowSpec
};

/// Public names that never cross a border as JSON.
const NOT_ON_THE_WIRE: [&str; 1] = ["Code"];

/// Fields that are written even where they say nothing: a reader relies on them.
const ALWAYS_WRITTEN: [(&str, &[&str]); 6] = [
    ("AgentSpec", &["name", "model"]),
    ("Event", &["at_ms"]),
    ("ModelRequest", &["messages", "tool_choice", "settings"]),
    ("ToolSpec", &["input_schema"]),
    ("WorkflowDraft", &["name", "chain"]),
    ("WorkflowSpec", &["name", "steps"]),
];

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn sorted(json: &str) -> String {
    serde_json::from_str::<Value>(json).expect("JSON").to_string()
}

/// Reads a sample in each way there is (text, tree, serde's buffer) and writes it again.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq>(sample: &str) -> Result<String, String> {
    #[derive(Deserialize)]
    #[serde(tag = "type")]
    enum Buffered<T> {
        It { it: T },
    }
    let text: T = serde_json::from_str(sample).map_err(|e| e.to_string())?;
    let tree: T = serde_json::from_str::<Value>(sample).and_then(serde_json::from_value).map_err(|e| e.to_string())?;
    let Buffered::It { it: buffer } =
        serde_json::from_str(&format!(r#"{{"it":{sample},"type":"It"}}"#)).map_err(|e| format!("buffered: {e}"))?;
    if text != buffer {
        return Err("reads differently out of a buffer".into());
    }
    let written = serde_json::to_string(&text).map_err(|e| e.to_string())?;
    // Not compared as values: a tree has lost the order of a schema's properties, which is all that may differ.
    let rewritten = serde_json::to_string(&tree).map_err(|e| e.to_string())?;
    if sorted(&rewritten) != sorted(&written) {
        return Err("reads differently out of a tree".into());
    }
    Ok(written)
}

#[test]
fn every_public_type_has_a_golden() {
    let exported: BTreeSet<&str> = include_str!("../src/lib.rs")
        .lines()
        .skip_while(|line| !line.starts_with("pub use"))
        .flat_map(|line| line.split(|c: char| !c.is_alphanumeric()))
        .filter(|word| word.starts_with(|c: char| c.is_uppercase()) && word.contains(|c: char| c.is_lowercase()))
        .filter(|word| !NOT_ON_THE_WIRE.contains(word))
        .collect();
    let tested: BTreeSet<&str> = WIRE.iter().map(|wire| wire.name).collect();
    assert_eq!(exported, tested);
}

#[test]
fn samples_are_written_as_they_were_read() {
    for wire in WIRE {
        for sample in wire.samples() {
            match (wire.round_trip)(&sample) {
                Ok(written) => assert_eq!(sorted(&written), sorted(&sample), "{}", wire.name),
                Err(e) => panic!("{}: {e}\n{sample}", wire.name),
            }
        }
    }
}

#[test]
fn samples_show_every_value_and_field_and_no_default() {
    let mut wrong = Vec::new();
    for wire in WIRE {
        let mut generator = SchemaGenerator::default();
        let schema = (wire.schema)(&mut generator).to_value();
        let samples: Vec<Value> = wire.samples().iter().map(|s| serde_json::from_str(s).expect("checked")).collect();
        let always = ALWAYS_WRITTEN.iter().find(|(name, _)| *name == wire.name).map_or(&[][..], |(_, fields)| fields);
        for value in values(&schema) {
            if !samples.contains(&value) {
                wrong.push(format!("{}: no sample is {value}", wire.name));
            }
        }
        for shape in shapes(&schema, generator.definitions()) {
            let fitting: Vec<BTreeSet<&str>> = samples.iter().filter_map(|sample| shape.fits(sample)).collect();
            for field in &shape.fields {
                if !fitting.iter().any(|fields| fields.contains(field.as_str())) {
                    wrong.push(format!("{}: no sample has `{field}` of {:?}", wire.name, shape.tags));
                }
            }
            let least: BTreeSet<&str> =
                shape.required.iter().map(String::as_str).chain(always.iter().copied()).collect();
            if !shape.fields.is_empty() && !fitting.contains(&least) {
                wrong.push(format!("{}: no sample has just {least:?} of {:?}", wire.name, shape.tags));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The plain values a schema lists.
fn values(schema: &Value) -> Vec<Value> {
    let mut found: Vec<Value> = schema["enum"].as_array().cloned().unwrap_or_default();
    found.extend(schema.get("const").cloned());
    for branch in ["oneOf", "anyOf"] {
        found.extend(schema[branch].as_array().into_iter().flatten().flat_map(values));
    }
    found
}

/// One form that objects of a type may have.
#[derive(Clone, Default)]
struct Shape {
    fields: BTreeSet<String>,
    required: BTreeSet<String>,
    /// Fields with one possible value.
    tags: BTreeMap<String, Value>,
}

impl Shape {
    fn fits<'a>(&self, sample: &'a Value) -> Option<BTreeSet<&'a str>> {
        let fields: BTreeSet<&str> = sample.as_object()?.keys().map(String::as_str).collect();
        let fits = self.tags.iter().all(|(name, value)| sample[name] == *value)
            && self.required.iter().all(|name| fields.contains(name.as_str()))
            && fields.iter().all(|name| self.fields.contains(*name));
        fits.then_some(fields)
    }

    fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.fields.extend(other.fields.iter().cloned());
        both.required.extend(other.required.iter().cloned());
        both.tags.extend(other.tags.clone());
        both
    }
}

/// The forms a schema allows. Other types are followed only where their fields are mixed into this one's.
fn shapes(schema: &Value, definitions: &serde_json::Map<String, Value>) -> Vec<Shape> {
    let mut base = Shape::default();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        base.fields.insert(name.clone());
        base.tags.extend(property.get("const").map(|value| (name.clone(), value.clone())));
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    base.required.extend(required.map(str::to_owned));
    let mixes = !base.fields.is_empty();
    let mut found = vec![base];
    if mixes && let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        let other = shapes(&definitions[name], definitions);
        found = found.iter().flat_map(|a| other.iter().map(|b| a.and(b))).collect();
    }
    for branch in ["oneOf", "anyOf"] {
        if let Some(branches) = schema[branch].as_array() {
            let other: Vec<Shape> = branches.iter().flat_map(|branch| shapes(branch, definitions)).collect();
            found = found.iter().flat_map(|a| other.iter().map(|b| a.and(b))).collect();
        }
    }
    found
}

#[test]
fn the_schema_is_as_published() {
    let mut generator = SchemaGenerator::default();
    for wire in WIRE {
        let schema = (wire.schema)(&mut generator);
        generator.definitions_mut().insert(wire.name.to_owned(), schema.to_value());
    }
    let schema = serde_json::json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The wire of Lomusai",
        "$defs": generator.take_definitions(true),
    });
    let text = format!("{:#}\n", schema);
    let path = golden("schema.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("the golden can be written");
        return;
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        published == text,
        "the wire's schema has changed; if that is wanted: UPDATE_GOLDEN=1 cargo test -p lomusai_wire"
    );
}
