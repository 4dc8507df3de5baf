//! Schemas that mean the same in draft 7 and in draft 2020-12.
//!
//! The validator checks each schema against the schema of its draft, which it compiles first. That of 2020-12 is many documents that refer to
//! each other dynamically: it takes most of a small program's start. That of draft 7 is one document. Nearly all schemas of tools use words only
//! that are the same in both.

use jsonschema::{Draft, Validator, draft7};
use serde_json::{Map, Value};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Compiles a schema as one of draft 7. `None` where that is not the same, or where something is wrong with it: the draft it is of says what.
pub(super) fn compiled(schema: &Value) -> Option<Validator> {
    if !is_plain(schema, true) {
        return None;
    }
    // In 2020-12 a format is a remark.
    let options = jsonschema::options().with_draft(Draft::Draft7).should_validate_formats(false);
    match schema.as_object().filter(|object| object.contains_key("$schema")) {
        None => options.build(schema).ok(),
        Some(object) => {
            let mut object = object.clone();
            object.remove("$schema");
            options.build(&Value::Object(object)).ok()
        }
    }
}

fn is_plain(schema: &Value, is_root: bool) -> bool {
    match schema {
        Value::Bool(_) => true,
        Value::Object(object) => {
            // Draft 7 does not look at what stands beside a reference.
            let refers = object.contains_key("$ref");
            object.iter().all(|(key, value)| match key.as_str() {
                "$schema" => is_root && value == DRAFT,
                "title" | "description" | "default" | "examples" | "$comment" | "readOnly" | "writeOnly" => true,
                "deprecated" => value.is_boolean(),
                // To nothing that was not looked at, such as what stands in an example.
                "$ref" => value
                    .as_str()
                    .is_some_and(|to| to == "#" || to.strip_prefix("#/$defs/").is_some_and(|name| !name.contains('/'))),
                // The schema of draft 7 does not know that there are schemas in it.
                "$defs" => is_root && all(value, |one| is_plain(one, false) && draft7::meta::is_valid(one)),
                _ if refers => false,
                "type" | "enum" | "const" | "multipleOf" | "maximum" | "exclusiveMaximum" | "minimum"
                | "exclusiveMinimum" | "maxLength" | "minLength" | "pattern" | "maxItems" | "minItems"
                | "uniqueItems" | "maxProperties" | "minProperties" | "required" | "format" => true,
                "properties" | "patternProperties" => all(value, |one| is_plain(one, false)),
                "items" | "additionalProperties" | "propertyNames" | "contains" | "not" | "if" | "then" | "else" => {
                    is_plain(value, false)
                }
                "allOf" | "anyOf" | "oneOf" => {
                    value.as_array().is_some_and(|several| several.iter().all(|one| is_plain(one, false)))
                }
                _ => false,
            })
        }
        _ => false,
    }
}

fn all(schemas: &Value, is: impl Fn(&Value) -> bool) -> bool {
    schemas.as_object().is_some_and(|schemas: &Map<String, Value>| schemas.values().all(is))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn plain() -> Vec<Value> {
        vec![
            json!(true),
            json!({}),
            json!({"$schema": DRAFT, "title": "Sum", "type": "object", "properties": {
                "a": {"type": "integer", "format": "int64"}, "b": {"type": ["number", "null"], "default": 1},
            }, "required": ["a"]}),
            json!({"type": "object", "properties": {"c": {"enum": ["x", 1, null]}}, "additionalProperties": false}),
            json!({"type": "string", "format": "email", "minLength": 2, "maxLength": 5, "pattern": "^a"}),
            json!({"type": "array", "items": {"type": "integer", "minimum": 0, "exclusiveMaximum": 3}, "uniqueItems": true}),
            json!({"anyOf": [{"type": "string"}, {"type": "integer", "multipleOf": 2}], "deprecated": false}),
            json!({"oneOf": [{"const": 1}, {"const": "a"}, {"type": "object", "minProperties": 1, "maxProperties": 1}]}),
            json!({"allOf": [{"type": "integer"}, {"not": {"enum": [1]}}]}),
            json!({"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"type": "integer"}}),
            json!({"contains": {"type": "integer"}, "minItems": 1, "maxItems": 2}),
            json!({"patternProperties": {"^a": {"type": "integer"}}, "propertyNames": {"maxLength": 1}}),
            json!({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {
                "a": {"$ref": "#/$defs/tree", "description": "below"}, "b": {"type": "string"},
            }}}}),
            json!({"type": "object", "properties": {"a": {"$ref": "#"}}}),
        ]
    }

    fn other() -> Vec<Value> {
        vec![
            json!({"$ref": "#/$defs/one", "maximum": 2, "$defs": {"one": {"type": "integer"}}}),
            json!({"prefixItems": [{"type": "integer"}], "items": false}),
            json!({"dependentRequired": {"a": ["b"]}}),
            json!({"properties": {"a": true}, "unevaluatedProperties": false}),
            json!({"contains": {"type": "integer"}, "minContains": 2}),
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "string", "format": "email"}),
            json!({"$id": "https://example.com/s", "type": "object"}),
            json!({"type": "object", "properties": {"a": {"$defs": {}}}}),
            json!({"items": [{"type": "integer"}]}),
            json!({"x-own": 1}),
            json!({"$ref": "#/examples/0", "examples": [{"prefixItems": [{"type": "integer"}]}]}),
        ]
    }

    /// What neither draft takes.
    fn wrong() -> Vec<Value> {
        vec![
            json!({"type": "nonsense"}),
            json!({"required": "a"}),
            json!({"properties": {"a": {"minimum": "1"}}}),
            json!({"$defs": {"unused": {"type": "nonsense"}}}),
            json!({"$defs": {"unused": 3}}),
            json!({"pattern": "("}),
            json!({"$ref": "#/$defs/none"}),
            json!({"enum": 1}),
            json!({"anyOf": []}),
            json!({"type": []}),
            json!({"uniqueItems": 1, "items": {"type": "integer"}}),
        ]
    }

    #[test]
    fn plain_schemas_judge_as_their_own_draft_does_and_say_it_in_the_same_words() {
        let instances = [
            json!(null),
            json!(true),
            json!(0),
            json!(1),
            json!(1.0),
            json!(1.5),
            json!(2),
            json!(-1),
            json!("a"),
            json!("ab"),
            json!("abcdef"),
            json!("b"),
            json!([]),
            json!([1]),
            json!([1, 1]),
            json!([1, 2]),
            json!(["a", 5]),
            json!([0, 1, 2]),
            json!({}),
            json!({"a": 1}),
            json!({"a": 1.0, "b": null}),
            json!({"a": "x"}),
            json!({"b": "x"}),
            json!({"ab": 1}),
            json!({"c": "x"}),
            json!({"c": 2}),
            json!({"a": {"a": {"b": 1}}}),
            json!({"a": {"b": "x"}, "c": null}),
        ];
        for schema in plain() {
            let (ours, own) =
                (compiled(&schema).unwrap_or_else(|| panic!("{schema}")), jsonschema::validator_for(&schema).unwrap());
            for instance in &instances {
                let said = |validator: &Validator| -> Vec<String> {
                    validator.iter_errors(instance).map(|error| format!("{}: {error}", error.instance_path())).collect()
                };
                assert_eq!(said(&ours), said(&own), "{schema} of {instance}");
            }
        }
    }

    #[test]
    fn what_is_not_the_same_or_wrong_is_left_to_its_own_draft() {
        for schema in other() {
            assert!(compiled(&schema).is_none(), "{schema}");
        }
        for schema in wrong() {
            assert!(compiled(&schema).is_none() && jsonschema::validator_for(&schema).is_err(), "{schema}");
        }
    }
}
