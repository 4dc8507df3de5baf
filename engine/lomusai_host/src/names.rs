//! Names for functions that have none: the same in every language, since a run's journal names them, and may go on in another.

use std::collections::BTreeMap;

use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use serde_json::{Map, Value, json};

use crate::{read, write};

/// Keys that say what kind of list or object it is, and not where in the spec.
const CONTAINERS: [&str; 3] = ["processors", "hooks", "function"];

/// Names the functions and the provider that stand in the spec of an agent or a tool as placeholders: a `#` and whatever tells them
/// apart, as in `{"instructions": {"function": "#0"}}`. Each is called as the spec's `name` and its place in it: `helper.instructions`,
/// `helper.stop.0`, `helper.input.1`, `helper.before_tool`, `helper.model`. Gives `{spec, functions}`: the spec with these names, and
/// the names by placeholder.
///
/// # Errors
/// `json_invalid`, `argument_invalid`: it is not an object with a `name`.
pub fn name_functions(spec: &str) -> Result<String> {
    let mut spec: Map<String, Value> = read("the spec", spec)?;
    let Some(Value::String(name)) = spec.get("name").cloned() else {
        return Err(Error::new(codes::ARGUMENT_INVALID, "`name` is missing in the spec: it is a text"));
    };
    let mut functions = BTreeMap::new();
    for (key, value) in spec.iter_mut().filter(|(key, _)| *key != "name") {
        name_in(value, &place(&name, key), &mut functions);
    }
    Ok(write(&json!({"spec": spec, "functions": functions})))
}

fn name_in(value: &mut Value, at: &str, functions: &mut BTreeMap<String, String>) {
    match value {
        Value::String(text) if text.starts_with('#') => {
            // A provider's may be followed by a model.
            let (placeholder, model) = text.find('/').map_or((&**text, ""), |slash| text.split_at(slash));
            functions.insert(placeholder.to_owned(), at.to_owned());
            *text = format!("{at}{model}");
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                name_in(item, &format!("{at}.{index}"), functions);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                name_in(field, &place(at, key), functions);
            }
        }
        _ => {}
    }
}

fn place(at: &str, key: &str) -> String {
    if CONTAINERS.contains(&key) { at.to_owned() } else { format!("{at}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_called_by_its_place() {
        let spec = json!({
            "name": "helper",
            "model": "#m/large",
            "instructions": {"function": "#0"},
            "approval": {"function": "rules.approval"},
            "stop": [{"type": "tool_called", "tool": "end"}, {"type": "function", "function": "#1"}],
            "processors": {"input": ["#2", "#3"], "max_retries": 2},
            "hooks": {"before_tool": "#4"},
        });
        let named: Value = serde_json::from_str(&name_functions(&spec.to_string()).unwrap()).unwrap();
        assert_eq!(
            named["functions"],
            json!({"#m": "helper.model", "#0": "helper.instructions", "#1": "helper.stop.1", "#2": "helper.input.0",
                   "#3": "helper.input.1", "#4": "helper.before_tool"})
        );
        assert_eq!(named["spec"]["model"], "helper.model/large");
        assert_eq!(named["spec"]["approval"], json!({"function": "rules.approval"}), "it has a name");
        assert_eq!(
            named["spec"]["processors"],
            json!({"input": ["helper.input.0", "helper.input.1"], "max_retries": 2})
        );
    }

    #[test]
    fn a_spec_without_a_name_is_refused() {
        assert!(name_functions("{}").unwrap_err().is(codes::ARGUMENT_INVALID));
        assert!(name_functions("{").unwrap_err().is(codes::JSON_INVALID));
    }
}
