//! What each provider takes of a schema, held against rules that are written here once more, from the providers' documents.
//!
//! `LOMUSAI_CONFORMANCE` names the folder of the public test data; without it, the schemas below are all there is.

use std::path::PathBuf;

use lomusai_core::schema::Schema;
use lomusai_core::schema::subset::{self, Compiled, Subset, without_nulls};
use lomusai_wire::RawJson;
use serde_json::{Value, json};

fn raw(text: &str) -> RawJson {
    RawJson::parse(text).unwrap()
}

static SUBSETS: [&Subset; 12] = [
    &subset::ALL,
    &subset::OBJECT,
    &subset::OPENAI,
    &subset::ANTHROPIC,
    &subset::GEMINI,
    &subset::GEMINI_JSON,
    &subset::XAI,
    &subset::OLLAMA,
    &subset::MISTRAL,
    &subset::COHERE,
    &subset::BEDROCK,
    &subset::LLAMA,
];

/// Schemas that hold most of what people write.
const SCHEMAS: [&str; 9] = [
    r#"{"type":"object","properties":{"verdict":{"type":"string"},"a":{"type":"integer","minimum":1,"maximum":5}},"required":["verdict"]}"#,
    r##"{"type":"object","properties":{"root":{"$ref":"#/$defs/node"}},"required":["root"],"$defs":{"node":{"type":"object","properties":{"value":{"type":"string","minLength":2},"next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["value","next"]}}}"##,
    r##"{"type":"object","properties":{"home":{"$ref":"#/definitions/address","description":"where"},"work":{"$ref":"#/definitions/address"}},"definitions":{"address":{"type":"object","properties":{"zip":{"type":"string","pattern":"^[0-9]+$"}},"required":["zip"],"additionalProperties":false}}}"##,
    r#"{"type":"object","properties":{"kind":{"const":"x"},"level":{"enum":[1,2,null]},"unit":{"enum":["C","F",null]},"tags":{"type":"array","items":{"type":"string"},"minItems":2,"uniqueItems":true},"at":{"type":"string","format":"date-time"},"link":{"type":"string","format":"uri"}},"required":["kind"]}"#,
    r#"{"type":"object","additionalProperties":{"type":"number"}}"#,
    r#"{"oneOf":[{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]},{"type":"object","properties":{"b":{"type":["integer","null"]}},"required":["b"]}]}"#,
    r#"{"type":"object","properties":{"both":{"allOf":[{"type":"object","properties":{"x":{"type":"number"}},"required":["x"]},{"properties":{"y":{"type":"number"}}}]},"either":{"oneOf":[{"type":"string"},{"type":"integer"},{"type":"null"}]},"any":true,"not":{"not":{"type":"string"}}}}"#,
    r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"T","type":"object"}"#,
    r#"{"type":"array","items":{"type":"string"}}"#,
];

fn conformance(path: &str) -> Option<String> {
    let folder = PathBuf::from(std::env::var_os("LOMUSAI_CONFORMANCE")?);
    let path = folder.join(path);
    Some(std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// The data set writes types as Python does.
fn as_json_schema(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let word = fields.get("type").and_then(Value::as_str).map(str::to_owned);
            match word.as_deref() {
                Some("dict") => drop(fields.insert("type".into(), "object".into())),
                Some("float") => drop(fields.insert("type".into(), "number".into())),
                Some("tuple") => drop(fields.insert("type".into(), "array".into())),
                Some("any") => drop(fields.remove("type")),
                _ => {}
            }
            fields.values_mut().for_each(as_json_schema);
        }
        Value::Array(items) => items.iter_mut().for_each(as_json_schema),
        _ => {}
    }
}

/// Every schema in a schema, with what it may be called in errors.
fn visit(schema: &Value, place: &str, see: &mut dyn FnMut(&str, &Value)) {
    let Some(fields) = schema.as_object() else { return };
    see(place, schema);
    for (field, value) in fields {
        let here = format!("{place}/{field}");
        match (field.as_str(), value) {
            ("properties" | "$defs" | "definitions", Value::Object(schemas)) => {
                schemas.iter().for_each(|(name, schema)| visit(schema, &format!("{here}/{name}"), see));
            }
            ("anyOf" | "allOf" | "oneOf" | "prefixItems", Value::Array(schemas)) => {
                schemas.iter().enumerate().for_each(|(i, schema)| visit(schema, &format!("{here}/{i}"), see));
            }
            ("items" | "additionalProperties" | "not", schema) => visit(schema, &here, see),
            _ => {}
        }
    }
}

fn is_object(schema: &Value) -> bool {
    schema["type"] == "object" || schema["type"].as_array().is_some_and(|types| types.contains(&json!("object")))
}

/// What the documents of a provider forbid, and a schema has all the same.
fn complaints(provider: &Subset, schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let name = provider.name;
    let forbidden: &[&str] = if std::ptr::eq(provider, &subset::OPENAI) {
        &[
            "allOf",
            "oneOf",
            "not",
            "if",
            "then",
            "else",
            "dependentRequired",
            "dependentSchemas",
            "patternProperties",
            "minLength",
            "maxLength",
            "uniqueItems",
            "default",
            "minProperties",
            "$schema",
        ]
    } else if std::ptr::eq(provider, &subset::ANTHROPIC) {
        &[
            "oneOf",
            "not",
            "if",
            "minimum",
            "maximum",
            "multipleOf",
            "exclusiveMinimum",
            "minLength",
            "maxLength",
            "maxItems",
            "uniqueItems",
            "patternProperties",
            "minProperties",
        ]
    } else if std::ptr::eq(provider, &subset::GEMINI) {
        &[
            "$ref",
            "$defs",
            "definitions",
            "additionalProperties",
            "oneOf",
            "allOf",
            "not",
            "const",
            "uniqueItems",
            "exclusiveMinimum",
            "$schema",
            "patternProperties",
        ]
    } else if std::ptr::eq(provider, &subset::GEMINI_JSON) {
        &["allOf", "not", "if", "const", "pattern", "minLength", "uniqueItems", "exclusiveMinimum", "patternProperties"]
    } else if std::ptr::eq(provider, &subset::XAI) {
        &["contains", "minContains", "maxContains", "uniqueItems", "multipleOf", "patternProperties"]
    } else if std::ptr::eq(provider, &subset::OLLAMA) {
        &["$ref", "$defs", "definitions", "allOf", "oneOf", "const", "format", "pattern", "additionalProperties"]
    } else if std::ptr::eq(provider, &subset::COHERE) {
        &[
            "allOf",
            "oneOf",
            "not",
            "minimum",
            "maximum",
            "minItems",
            "maxItems",
            "minLength",
            "maxLength",
            "uniqueItems",
        ]
    } else if std::ptr::eq(provider, &subset::LLAMA) {
        &["not", "if", "uniqueItems", "multipleOf", "patternProperties", "minProperties"]
    } else {
        &[]
    };
    visit(schema, "", &mut |place, schema| {
        for keyword in forbidden.iter().filter(|keyword| schema.get(**keyword).is_some()) {
            found.push(format!("{name}: {place} has `{keyword}`"));
        }
        let closed = [&subset::OPENAI, &subset::ANTHROPIC, &subset::MISTRAL].iter().any(|s| std::ptr::eq(*s, provider));
        if closed && is_object(schema) && schema["additionalProperties"] != json!(false) {
            found.push(format!("{name}: {place} is not closed"));
        }
        if std::ptr::eq(provider, &subset::OPENAI) && is_object(schema) {
            let names: Vec<&String> =
                schema["properties"].as_object().map(|all| all.keys().collect()).unwrap_or_default();
            let mut required: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            required.sort_unstable();
            if names != required {
                found.push(format!("{name}: {place} requires {required:?} of {names:?}"));
            }
        }
        if std::ptr::eq(provider, &subset::GEMINI) {
            if schema["type"].is_array() || schema["type"] == "null" {
                found.push(format!("{name}: {place} has the type {}", schema["type"]));
            }
            if schema["enum"].as_array().is_some_and(|values| !values.iter().all(Value::is_string)) {
                found.push(format!("{name}: {place} has an enum of {}", schema["enum"]));
            }
        }
        if std::ptr::eq(provider, &subset::ANTHROPIC) && schema["minItems"].as_u64().is_some_and(|n| n > 1) {
            found.push(format!("{name}: {place} has minItems {}", schema["minItems"]));
        }
    });
    let rooted = [
        &subset::OBJECT,
        &subset::OPENAI,
        &subset::XAI,
        &subset::OLLAMA,
        &subset::COHERE,
        &subset::BEDROCK,
        &subset::MISTRAL,
    ];
    if rooted.iter().any(|s| std::ptr::eq(*s, provider))
        && (schema["type"] != "object" || schema.get("anyOf").is_some())
    {
        found.push(format!("{name}: the root is no plain object"));
    }
    let roots = ["type", "properties", "required"];
    if std::ptr::eq(provider, &subset::BEDROCK) {
        found.extend(
            schema
                .as_object()
                .unwrap()
                .keys()
                .filter(|key| !roots.contains(&key.as_str()))
                .map(|key| format!("{name}: root `{key}`")),
        );
    }
    found
}

fn compiled(provider: &Subset, schema: &RawJson) -> Compiled {
    let compiled = provider.compile(schema);
    Schema::compile(&compiled.schema, provider.name).unwrap_or_else(|e| panic!("{e}\n{:?}", compiled.schema));
    let found = complaints(provider, &compiled.schema.to_value());
    assert!(found.is_empty(), "{}\n{schema:?}\n{:?}", found.join("\n"), compiled.schema);
    compiled
}

#[test]
fn every_provider_gets_what_it_takes() {
    for schema in SCHEMAS {
        for provider in SUBSETS {
            compiled(provider, &raw(schema));
        }
    }
}

#[test]
fn a_provider_that_takes_all_gets_all() {
    for schema in SCHEMAS {
        let same = subset::ALL.compile(&raw(schema));
        assert_eq!((same.schema, same.lost), (raw(schema), vec![]));
    }
}

#[test]
fn properties_keep_their_order() {
    for provider in SUBSETS {
        let text = compiled(provider, &raw(SCHEMAS[0])).schema.as_str().to_owned();
        let places = ["\"type\"", "\"properties\"", "\"verdict\"", "\"a\""].map(|word| text.find(word));
        assert!(places.is_sorted() && places[0].is_some(), "{}: {text}", provider.name);
    }
}

#[test]
fn what_is_lost_is_named_and_told() {
    let lost = compiled(&subset::ANTHROPIC, &raw(SCHEMAS[0]));
    let named: Vec<(&str, &str)> =
        lost.lost.iter().map(|loss| (loss.pointer.as_str(), loss.keyword.as_str())).collect();
    assert_eq!(named, [("/properties/a", "minimum"), ("/properties/a", "maximum")]);
    assert!(!lost.narrows() && lost.lost.iter().all(|loss| !loss.reason.is_empty()));
    assert_eq!(lost.schema.to_value()["properties"]["a"]["description"], "minimum: 1, maximum: 5");
    let map = compiled(&subset::OPENAI, &raw(SCHEMAS[4]));
    assert!(map.narrows(), "a map is an empty object there: better not enforced");
    assert_eq!(map.lost[0].keyword, "additionalProperties");
}

#[test]
fn a_schema_with_too_many_choices_is_not_enforced_where_it_would_be_refused() {
    let object = |count: usize, property: &str, required: bool| {
        let names = (0..count).map(|n| format!("\"p{n}\"")).collect::<Vec<_>>();
        let properties = names.iter().map(|name| format!("{name}:{property}")).collect::<Vec<_>>().join(",");
        let required = if required { names.join(",") } else { String::new() };
        raw(&format!(
            r#"{{"type":"object","properties":{{"in":{{"type":"object","properties":{{{properties}}},"required":[{required}]}}}},"required":["in"]}}"#
        ))
    };
    for (count, property, required, keyword) in [
        (24, r#"{"type":"string"}"#, false, None),
        (25, r#"{"type":"string"}"#, false, Some("properties")),
        (16, r#"{"type":["string","null"]}"#, true, None),
        (17, r#"{"anyOf":[{"type":"string"},{"type":"null"}]}"#, true, Some("anyOf")),
    ] {
        let made = compiled(&subset::ANTHROPIC, &object(count, property, required));
        assert_eq!(made.lost.first().map(|loss| loss.keyword.as_str()), keyword, "{count} {property}");
        assert_eq!(made.narrows(), keyword.is_some());
        assert!(!compiled(&subset::ALL, &object(count, property, required)).narrows());
    }
}

#[test]
fn optional_properties_are_nullable_where_all_are_required() {
    let schema = compiled(&subset::OPENAI, &raw(SCHEMAS[3])).schema.to_value();
    assert_eq!(schema["required"].as_array().unwrap().len(), 6);
    assert_eq!(schema["properties"]["kind"], json!({"const": "x"}));
    assert_eq!(schema["properties"]["at"]["type"], json!(["string", "null"]));
    assert_eq!(schema["properties"]["level"]["enum"], json!([1, 2, null]));
}

#[test]
fn xai_gets_whole_patterns_open_maps_tuples_and_ends_of_references() {
    let schema = raw(
        r##"{"type":"object","properties":{"mail":{"type":"string","pattern":"@"},"code":{"type":"string","pattern":"^[A-Z]+$"},"word":{"type":"string","pattern":"\\bx"},
            "map":{"type":"object"},"none":{"type":"object","properties":{}},"of":{"type":"object","additionalProperties":{"type":"integer"}},"shut":{"type":"object","additionalProperties":false},
            "pair":{"type":"array","items":[{"type":"string"},{"type":"integer"}],"maxItems":2},"tree":{"$ref":"#/$defs/node"}},
            "$defs":{"node":{"type":"object","properties":{"next":{"$ref":"#/$defs/node"}}}}}"##,
    );
    let compiled = compiled(&subset::XAI, &schema);
    let properties = &compiled.schema.to_value()["properties"];
    assert_eq!((&properties["mail"]["pattern"], &properties["code"]["pattern"]), (&json!(".*@.*"), &json!("[A-Z]+")));
    assert_eq!(properties["word"], json!({"type": "string", "description": "pattern: \"\\\\bx\""}));
    assert_eq!(properties["map"]["additionalProperties"], true);
    assert_eq!(properties["none"].get("additionalProperties"), None);
    assert_eq!(properties["of"]["additionalProperties"], json!({"type": "integer"}));
    assert_eq!(properties["shut"]["additionalProperties"], false);
    assert_eq!(
        (&properties["pair"]["prefixItems"][1]["type"], properties["pair"].get("items")),
        (&json!("integer"), None)
    );
    assert_eq!(properties["tree"]["properties"]["next"].get("$ref"), None);
    let lost: Vec<&str> = compiled.lost.iter().map(|loss| loss.keyword.as_str()).collect();
    assert_eq!(lost, ["pattern", "$ref", "$ref"]);
    assert!(!compiled.narrows());
    // Others that are held to a part of JSON Schema know no lists of items at all.
    let openai = subset::OPENAI.compile(&schema).schema.to_value();
    assert_eq!(openai["properties"]["pair"].get("items"), None);
}

#[test]
fn nulls_that_stand_for_nothing_are_taken_out_and_others_stay() {
    let schema = raw(
        r##"{"type":"object","properties":{"a":{"type":"string"},"n":{"type":["string","null"]},"list":{"type":"array","items":{"$ref":"#/$defs/x"}},"any":{}},"$defs":{"x":{"type":"object","properties":{"o":{"type":"integer"},"r":{"type":"null"}},"required":["r"]}}}"##,
    );
    let mut value = json!({"a": null, "n": null, "list": [{"o": null, "r": null}, {"o": 1, "r": null}], "any": null, "other": null});
    assert!(without_nulls(&schema, &mut value));
    assert_eq!(value, json!({"n": null, "list": [{"r": null}, {"o": 1, "r": null}], "any": null, "other": null}));
    assert!(!without_nulls(&schema, &mut value));
}

#[test]
fn a_reference_is_put_in_place_and_one_into_itself_ends() {
    let gemini = compiled(&subset::GEMINI, &raw(SCHEMAS[2])).schema.to_value();
    assert_eq!(gemini["properties"]["home"]["properties"]["zip"]["type"], "string");
    assert_eq!(gemini["properties"]["home"]["description"], "where");
    let endless = compiled(&subset::GEMINI, &raw(SCHEMAS[1]));
    assert!(
        endless.lost.iter().any(|loss| loss.keyword == "$ref" && loss.reason.contains("itself")),
        "{:?}",
        endless.lost
    );
    let kept = compiled(&subset::OPENAI, &raw(SCHEMAS[1]));
    assert!(kept.schema.as_str().contains("$ref") && !kept.narrows());
}

/// Calls that the data set accepts: they must fit what each provider is given, unless it says that it narrows.
#[test]
fn public_schemas_compile_and_their_calls_fit() {
    let Some(text) = conformance("tools/bfcl.jsonl") else { return };
    let (mut schemas, mut calls, mut narrowed) = (0, 0, 0);
    for line in text.lines() {
        let mut case: Value = serde_json::from_str(line).unwrap();
        let functions = case["functions"].take();
        for mut function in functions.as_array().unwrap().clone() {
            as_json_schema(&mut function["parameters"]);
            let name = function["name"].as_str().unwrap().to_owned();
            let original = RawJson::from(&function["parameters"]);
            let check = Schema::compile(&original, &name).unwrap();
            for provider in SUBSETS {
                let compiled = compiled(provider, &original);
                schemas += 1;
                narrowed += usize::from(compiled.narrows());
                let given = Schema::compile(&compiled.schema, &name).unwrap();
                for call in case["accepted_calls"].as_array().into_iter().flatten() {
                    let Some(arguments) = call[name.as_str()].as_object() else { continue };
                    // Each argument has a list of good values, where `""` is leaving it out.
                    let first = |values: &Value| {
                        values.as_array().and_then(|values| values.first().cloned()).unwrap_or(Value::Null)
                    };
                    let mut whole: Value = arguments
                        .iter()
                        .map(|(key, values)| (key.clone(), first(values)))
                        .filter(|(_, value)| *value != "")
                        .collect::<serde_json::Map<_, _>>()
                        .into();
                    if compiled.narrows() || check.violations(&whole).is_some() {
                        continue;
                    }
                    if std::ptr::eq(provider, &subset::OPENAI) {
                        for property in function["parameters"]["properties"].as_object().unwrap().keys() {
                            if whole.get(property).is_none() {
                                whole[property] = Value::Null;
                            }
                        }
                    }
                    calls += 1;
                    if let Some(why) = given.violations(&whole) {
                        // Nested objects leave properties out, too.
                        assert!(
                            std::ptr::eq(provider, &subset::OPENAI) && why.contains("required"),
                            "{name} at {}: {why}\n{whole}",
                            provider.name
                        );
                    }
                    without_nulls(&original, &mut whole);
                    assert_eq!(check.violations(&whole), None, "{name}: {whole}");
                }
            }
        }
    }
    assert!(schemas > 1_000 && calls > 500, "{schemas} schemas, {calls} calls");
    assert!(narrowed * 10 < schemas, "{narrowed} of {schemas} schemas narrow");
}
