//! JSON that is kept as text, and numbers that every language can hold.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The largest integer that every JSON reader holds exactly: 2^53 − 1.
pub const MAX_SAFE_INTEGER: i64 = 9_007_199_254_740_991;

/// A JSON document kept as its author wrote it. Property order of a schema steers models, so schemas are never re-serialised.
///
/// Equality is equality of text.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RawJson(#[schemars(with = "Value")] Box<RawValue>);

impl RawJson {
    /// Checks that `text` is one JSON document and keeps it.
    ///
    /// # Errors
    /// The parser's complaint, with line and column.
    pub fn parse(text: impl Into<String>) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text.into()).map(Self)
    }

    /// The document's text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The document as a tree.
    pub fn to_value(&self) -> Value {
        serde_json::from_str(self.0.get()).expect("RawValue only holds valid JSON")
    }
}

impl From<&Value> for RawJson {
    fn from(value: &Value) -> Self {
        Self::parse(value.to_string()).expect("a Value prints as valid JSON")
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Turns integers beyond ±(2^53 − 1) into strings, in place: JavaScript would round them, and a journal must read the same everywhere.
pub fn normalise(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let unsafe_integer =
                number.as_i64().map_or(number.is_u64(), |n| n.unsigned_abs() > MAX_SAFE_INTEGER as u64);
            if unsafe_integer {
                *value = Value::String(number.to_string());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        Value::Object(fields) => fields.values_mut().for_each(normalise),
        _ => {}
    }
}

/// Reads `null` as something given, where serde would read it as nothing given.
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn integers_beyond_two_to_the_53_become_text() {
        let mut value = json!({"id": 9_007_199_254_740_993_u64, "low": -9_007_199_254_740_992_i64, "ok": [9_007_199_254_740_991_u64, 1.5]});
        normalise(&mut value);
        assert_eq!(
            value,
            json!({"id": "9007199254740993", "low": "-9007199254740992", "ok": [9_007_199_254_740_991_u64, 1.5]})
        );
    }

    #[test]
    fn raw_json_keeps_property_order() {
        let raw: RawJson = serde_json::from_str(r#"{"z":1, "a":2}"#).unwrap();
        assert_eq!(serde_json::to_string(&raw).unwrap(), r#"{"z":1, "a":2}"#);
    }
}
