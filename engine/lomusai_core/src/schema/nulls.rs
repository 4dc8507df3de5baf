//! Nulls that stand for properties left out.

use lomusai_wire::RawJson;
use serde_json::Value;

/// Takes out the nulls that stand for properties left out: a provider that requires all of them had no other way to say so. A null that the
/// original allows stays. `true` if there was any.
pub fn without_nulls(schema: &RawJson, value: &mut Value) -> bool {
    fn clean(root: &Value, schema: &Value, value: &mut Value, depth: usize) -> bool {
        let schema = match schema["$ref"].as_str().and_then(|name| root.pointer(name.strip_prefix('#')?)) {
            Some(target) if depth < 100 => target,
            _ => schema,
        };
        let mut any = false;
        for choice in ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten() {
            if depth < 100 && (choice["properties"].is_object() || choice["$ref"].is_string()) {
                any |= clean(root, choice, value, depth + 1);
            }
        }
        match value {
            Value::Object(fields) => {
                let Some(properties) = schema["properties"].as_object() else { return any };
                let required = |name: &str| {
                    schema["required"].as_array().is_some_and(|names| names.iter().any(|known| known == name))
                };
                let before = fields.len();
                fields.retain(|name, value| {
                    let optional = properties.get(name).filter(|_| value.is_null() && !required(name));
                    optional.is_none_or(|schema| takes_null(root, schema, depth))
                });
                any |= fields.len() < before;
                for (name, value) in fields.iter_mut() {
                    if let Some(schema) = properties.get(name) {
                        any |= clean(root, schema, value, depth + 1);
                    }
                }
            }
            Value::Array(items) if schema["items"].is_object() => {
                for item in items {
                    any |= clean(root, &schema["items"], item, depth + 1);
                }
            }
            _ => {}
        }
        any
    }

    fn takes_null(root: &Value, schema: &Value, depth: usize) -> bool {
        let is_null = |name: &Value| name == "null";
        if depth > 100 {
            return true;
        }
        if let Some(target) = schema["$ref"].as_str().and_then(|name| root.pointer(name.strip_prefix('#')?)) {
            return takes_null(root, target, depth + 1);
        }
        let by_type = match &schema["type"] {
            Value::Array(types) => types.iter().any(is_null),
            Value::Null => true,
            one => is_null(one),
        };
        let by_enum = schema["enum"].as_array().is_none_or(|values| values.contains(&Value::Null));
        let by_choice = ["anyOf", "oneOf"]
            .into_iter()
            .filter_map(|key| schema[key].as_array())
            .all(|choices| choices.iter().any(|choice| takes_null(root, choice, depth + 1)));
        by_type && by_enum && by_choice && schema.get("const").is_none_or(Value::is_null)
    }

    let root = schema.to_value();
    clean(&root, &root, value, 0)
}
