//! JSON to be written: objects keep the order of their fields, long texts are borrowed, and what is JSON already goes as it was written.
//! The order of a schema's properties steers models, and the same bytes again are what a provider's prompt cache looks for.

use std::borrow::Cow;

use lomusai_wire::RawJson;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

pub(crate) enum Json<'a> {
    Text(Cow<'a, str>),
    /// A document as it was written.
    Raw(Cow<'a, RawValue>),
    Value(Cow<'a, Value>),
    List(Vec<Json<'a>>),
    Object(Object<'a>),
}

/// An object in the order in which its fields were set.
#[derive(Default)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Object<'a> {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// With one more field.
    pub(crate) fn with(mut self, name: &'a str, value: impl Into<Json<'a>>) -> Self {
        self.set(name, value);
        self
    }

    /// Sets a field, in its place where it has one.
    pub(crate) fn set(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Json<'a>>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(field, _)| *field == name) {
            Some((_, place)) => *place = value,
            None => self.0.push((name, value)),
        }
    }

    /// Sets a field that has a value.
    pub(crate) fn optional(&mut self, name: &'a str, value: Option<impl Into<Json<'a>>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    #[cfg(feature = "bedrock")]
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(field, _)| field == name)
    }

    /// Takes a field out.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|(field, _)| field != name);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Json<'a>> {
        self.0.iter_mut().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// Takes in the host's own fields: `null` takes one out, objects are merged, `tools` and betas are added to those there are, anything
    /// else is replaced.
    pub(crate) fn merge(&mut self, extra: &'a Map<String, Value>) {
        for (name, value) in extra {
            match (self.get_mut(name), value) {
                (_, Value::Null) => self.remove(name),
                (Some(Json::Object(ours)), Value::Object(theirs)) => ours.merge(theirs),
                (Some(Json::List(ours)), Value::Array(theirs)) if matches!(&**name, "tools" | "anthropic_beta") => {
                    ours.extend(theirs.iter().map(Json::from));
                }
                _ => self.set(name.as_str(), value),
            }
        }
    }
}

impl<'a> Json<'a> {
    /// The text of a document, where it is one; `None` where it is not valid.
    pub(crate) fn raw(text: &'a str) -> Option<Self> {
        serde_json::from_str::<&RawValue>(text).ok().map(|raw| Self::Raw(Cow::Borrowed(raw)))
    }

    /// Arguments of a call as an object. What the model wrote otherwise stays visible to it.
    pub(crate) fn arguments(text: &'a str) -> Self {
        match Self::raw(text) {
            Some(raw) if text.trim_start().starts_with('{') => raw,
            _ => Object::new().with("invalid_arguments", text).into(),
        }
    }

    pub(crate) fn to_bytes(&self) -> lomusai_core::Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| {
            let message = format!("the request cannot be written as JSON: {error}");
            lomusai_core::Error::new(lomusai_wire::codes::INTERNAL, message)
        })
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Raw(raw) => raw.serialize(serializer),
            Self::Value(value) => value.serialize(serializer),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Self::Object(Object(fields)) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'a> From<&'a str> for Json<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Json<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<'a> From<Cow<'a, str>> for Json<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a Value> for Json<'a> {
    fn from(value: &'a Value) -> Self {
        Self::Value(Cow::Borrowed(value))
    }
}

impl From<Value> for Json<'_> {
    fn from(value: Value) -> Self {
        Self::Value(Cow::Owned(value))
    }
}

impl From<Map<String, Value>> for Json<'_> {
    fn from(map: Map<String, Value>) -> Self {
        Value::Object(map).into()
    }
}

impl From<bool> for Json<'_> {
    fn from(value: bool) -> Self {
        Value::from(value).into()
    }
}

impl From<f64> for Json<'_> {
    fn from(value: f64) -> Self {
        Value::from(value).into()
    }
}

impl From<u32> for Json<'_> {
    fn from(value: u32) -> Self {
        Value::from(value).into()
    }
}

impl From<u64> for Json<'_> {
    fn from(value: u64) -> Self {
        Value::from(value).into()
    }
}

impl<'a> From<&'a RawJson> for Json<'a> {
    fn from(json: &'a RawJson) -> Self {
        Self::raw(json.as_str()).expect("RawJson holds valid JSON")
    }
}

impl<'a> From<&'a [String]> for Json<'a> {
    fn from(texts: &'a [String]) -> Self {
        Self::List(texts.iter().map(|text| text.as_str().into()).collect())
    }
}

impl<'a> From<Vec<Json<'a>>> for Json<'a> {
    fn from(items: Vec<Json<'a>>) -> Self {
        Self::List(items)
    }
}

impl<'a> From<Vec<Object<'a>>> for Json<'a> {
    fn from(items: Vec<Object<'a>>) -> Self {
        Self::List(items.into_iter().map(Json::Object).collect())
    }
}

impl<'a> From<Object<'a>> for Json<'a> {
    fn from(object: Object<'a>) -> Self {
        Self::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn order_is_kept_and_the_hosts_fields_win() {
        let Value::Object(extra) = json!({"top": null, "tools": [{"type": "search"}], "config": {"b": 2}, "new": 1})
        else {
            panic!("an object")
        };
        let mut body = Object::new().with("z", "first").with("top", 1_u32);
        body.set("config", Object::new().with("b", 1_u32).with("a", Json::raw(r#"{"z":1.0,"a":2}"#).unwrap()));
        body.set("tools", vec![Object::new().with("name", "f")]);
        body.merge(&extra);
        assert_eq!(
            String::from_utf8(Json::from(body).to_bytes().unwrap()).unwrap(),
            r#"{"z":"first","config":{"b":2,"a":{"z":1.0,"a":2}},"tools":[{"name":"f"},{"type":"search"}],"new":1}"#
        );
    }

    #[test]
    fn arguments_are_an_object_always() {
        let text = |arguments| String::from_utf8(Json::arguments(arguments).to_bytes().unwrap()).unwrap();
        assert_eq!(text(r#"{"b": 1,"a":2}"#), r#"{"b": 1,"a":2}"#);
        assert_eq!(text("[1]"), r#"{"invalid_arguments":"[1]"}"#);
        assert_eq!(text("{\"a"), r#"{"invalid_arguments":"{\"a"}"#);
    }
}
