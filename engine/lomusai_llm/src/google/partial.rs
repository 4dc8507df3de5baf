//! Arguments of a call that come in pieces, each with the path of the value that it is a piece of: `$.recipe.steps[3]`.

use serde_json::{Map, Value};

/// Most items that a list may grow to by one index: a wild one must not fill the memory.
const GAP_MAX: usize = 1_000;

/// A call that is being written.
pub(super) struct PartialCall {
    pub(super) name: String,
    pub(super) id: Option<String>,
    pub(super) signature: Option<String>,
    args: Value,
}

enum Step {
    Field(String),
    Index(usize),
}

impl PartialCall {
    pub(super) fn new(name: String, id: Option<String>, signature: Option<String>) -> Self {
        Self { name, id, signature, args: Value::Object(Map::new()) }
    }

    /// Takes one `partialArgs` item: texts grow, anything else is set. One that makes no sense is left out.
    pub(super) fn push(&mut self, piece: &Value) {
        let Some(steps) = piece["jsonPath"].as_str().and_then(steps) else { return };
        let value = ["stringValue", "numberValue", "boolValue"].iter().find_map(|field| piece.get(*field)).cloned();
        let value = value.unwrap_or_default();
        let mut place = &mut self.args;
        for step in steps {
            place = match step {
                Step::Field(name) => {
                    if !place.is_object() {
                        *place = Value::Object(Map::new());
                    }
                    place.as_object_mut().expect("it is one now").entry(name).or_insert(Value::Null)
                }
                Step::Index(index) => {
                    if !place.is_array() {
                        *place = Value::Array(Vec::new());
                    }
                    let list = place.as_array_mut().expect("it is one now");
                    if index > list.len() + GAP_MAX {
                        return;
                    }
                    if index >= list.len() {
                        list.resize(index + 1, Value::Null);
                    }
                    &mut list[index]
                }
            };
        }
        match (place, value) {
            (Value::String(so_far), Value::String(more)) => so_far.push_str(&more),
            (place, value) => *place = value,
        }
    }

    /// The arguments as they are.
    pub(super) fn arguments(&self) -> String {
        self.args.to_string()
    }
}

/// `$.a.b[0]['c d']` in steps.
fn steps(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            steps.push(Step::Field(after[..end].to_owned()));
            rest = &after[end..];
        } else {
            let after = rest.strip_prefix('[')?;
            let quote = after.chars().next().filter(|c| matches!(c, '\'' | '"'));
            let (inner, after) = match quote {
                Some(quote) => {
                    after[1..].split_once(quote).and_then(|(inner, after)| Some((inner, after.strip_prefix(']')?)))?
                }
                None => after.split_once(']')?,
            };
            steps.push(match (quote, inner.parse()) {
                (None, Ok(index)) => Step::Index(index),
                _ => Step::Field(inner.to_owned()),
            });
            rest = after;
        }
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pieces_become_one_object() {
        let mut call = PartialCall::new("f".into(), None, None);
        for piece in [
            json!({"jsonPath": "$.a.b[1].c", "stringValue": "Bos", "willContinue": true}),
            json!({"jsonPath": "$.a.b[1].c", "stringValue": "ton"}),
            json!({"jsonPath": "$.n", "numberValue": 1.5}),
            json!({"jsonPath": "$['x y'][\"z\"]", "boolValue": true}),
            json!({"jsonPath": "$.nothing", "nullValue": "NULL_VALUE"}),
            json!({"jsonPath": "no path", "stringValue": "x"}),
            json!({"jsonPath": "$.far[99999999999]", "stringValue": "x"}),
            json!({"jsonPath": "$.open[", "stringValue": "x"}),
        ] {
            call.push(&piece);
        }
        let found: Value = serde_json::from_str(&call.arguments()).unwrap();
        assert_eq!(
            found,
            json!({"a": {"b": [null, {"c": "Boston"}]}, "n": 1.5, "x y": {"z": true}, "nothing": null, "far": []})
        );
    }
}
