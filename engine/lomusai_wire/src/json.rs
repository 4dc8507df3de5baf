//! JSON that is kept as text, and numbers that every language can hold.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::{self, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The largest integer that every JSON reader holds exactly: 2^53 − 1.
pub const MAX_SAFE_INTEGER: i64 = 9_007_199_254_740_991;

/// A JSON document kept as text, its properties in the order their author gave them: the order of a schema steers models.
///
/// Only the order is the author's. White space, escapes and the spelling of numbers are made the same on the way in, so that one
/// schema has one text whichever language printed it, and a text never spans lines. Equality is equality of that text. Cloning it copies a
/// pointer: a schema goes into every request to a model.
#[derive(Clone, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct RawJson(#[schemars(with = "Value")] Arc<RawValue>);

impl RawJson {
    /// Checks that `text` is one JSON document and keeps it.
    ///
    /// # Errors
    /// The parser's complaint, with line and column.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text.as_ref())
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

/// Reads any format and any buffer: a `RawValue` by itself cannot be read inside of a tagged enum, which serde buffers.
impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = String::new();
        Printer { into: &mut text, before: "" }.deserialize(deserializer)?;
        RawValue::from_string(text).map(|raw| Self(raw.into())).map_err(D::Error::custom)
    }
}

/// Prints what it reads as compact JSON, in order, behind a separator.
struct Printer<'a> {
    into: &'a mut String,
    before: &'static str,
}

impl Printer<'_> {
    fn scalar<E: de::Error>(self, value: impl Serialize) -> Result<(), E> {
        self.into.push_str(&serde_json::to_string(&value).map_err(E::custom)?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Printer<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.into.push_str(self.before);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Printer<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.scalar(())
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.scalar(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { into, .. } = self;
        into.push('[');
        let mut before = "";
        while items.next_element_seed(Printer { into, before })?.is_some() {
            before = ",";
        }
        into.push(']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Self { into, .. } = self;
        into.push('{');
        let mut before = "";
        while fields.next_key_seed(Printer { into, before })?.is_some() {
            fields.next_value_seed(Printer { into, before: ":" })?;
            before = ",";
        }
        into.push('}');
        Ok(())
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

/// Reads a field for which `null` given is something else than nothing given: a tool that answered `null` did answer.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
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

    const SCHEMA: &str = r#"{"z":{"\"":[1.5,-3,1e+300]},"a":[[],{},"é\n",null,true],"a":18446744073709551615}"#;

    #[test]
    fn raw_json_keeps_the_order_and_nothing_else() {
        let raw: RawJson = serde_json::from_str("{\"z\" : 1,\n\t\"a\":\"\\u00e9\\/\" }").unwrap();
        assert_eq!(serde_json::to_string(&raw).unwrap(), r#"{"z":1,"a":"é/"}"#);
        assert_eq!(RawJson::parse(SCHEMA).unwrap().as_str(), SCHEMA);
        assert_eq!(RawJson::parse(" 3 ").unwrap().as_str(), "3");
    }

    #[test]
    fn raw_json_keeps_the_order_inside_of_a_buffer() {
        #[derive(Deserialize)]
        #[serde(tag = "type")]
        enum Tagged {
            A { schema: RawJson },
        }
        let Tagged::A { schema } = serde_json::from_str(&format!(r#"{{"type":"A","schema":{SCHEMA}}}"#)).unwrap();
        assert_eq!(schema.as_str(), SCHEMA);
        let schema: RawJson = serde_json::from_value(json!({"b": 1, "a": 2})).unwrap();
        assert_eq!(schema.as_str(), r#"{"a":2,"b":1}"#);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "{} {}", "{'a':1}", "[1,]", "1e999"] {
            assert!(RawJson::parse(text).is_err(), "{text}");
        }
    }
}
