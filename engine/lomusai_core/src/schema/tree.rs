//! JSON as a tree that keeps the order of properties: a schema is read from the top.

use std::fmt;

use lomusai_wire::RawJson;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// JSON in its author's order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tree {
    /// `null`, a boolean, a number or a text.
    Plain(Value),
    List(Vec<Tree>),
    Object(Object),
}

/// Fields in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Object(pub(super) Vec<(String, Tree)>);

impl Object {
    pub(super) fn get(&self, name: &str) -> Option<&Tree> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Tree> {
        self.0.iter_mut().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Tree> {
        let place = self.0.iter().position(|(field, _)| field == name)?;
        Some(self.0.remove(place).1)
    }

    /// In the place of the old one, or at the end.
    pub(super) fn set(&mut self, name: &str, value: impl Into<Tree>) {
        let value = value.into();
        match self.get_mut(name) {
            Some(old) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }
}

impl Tree {
    pub(super) fn parse(raw: &RawJson) -> Self {
        serde_json::from_str(raw.as_str()).expect("raw JSON is JSON")
    }

    pub(super) fn to_raw(&self) -> RawJson {
        RawJson::parse(serde_json::to_string(self).expect("a tree prints")).expect("a tree prints as JSON")
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        if let Self::Plain(Value::String(text)) = self { Some(text) } else { None }
    }

    pub(super) fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(items) = self { Some(items) } else { None }
    }

    pub(super) fn as_object(&self) -> Option<&Object> {
        if let Self::Object(object) = self { Some(object) } else { None }
    }

    pub(super) fn is_null(&self) -> bool {
        *self == Self::Plain(Value::Null)
    }
}

impl From<&str> for Tree {
    fn from(text: &str) -> Self {
        Self::Plain(text.into())
    }
}

impl From<bool> for Tree {
    fn from(flag: bool) -> Self {
        Self::Plain(flag.into())
    }
}

impl From<Vec<Self>> for Tree {
    fn from(items: Vec<Self>) -> Self {
        Self::List(items)
    }
}

impl From<Object> for Tree {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(value) => value.serialize(serializer),
            Self::List(items) => items.serialize(serializer),
            Self::Object(Object(fields)) => serializer.collect_map(fields.iter().map(|(name, value)| (name, value))),
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyJson;

        impl<'de> Visitor<'de> for AnyJson {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Tree, E> {
                Ok(Tree::Plain(Value::Null))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Tree, E> {
                Ok(Tree::Plain(value.into()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Tree, E> {
                Ok(Tree::Plain(value.into()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Tree, E> {
                Ok(Tree::Plain(value.into()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Tree, E> {
                Ok(Tree::Plain(value.into()))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Tree, E> {
                Ok(Tree::Plain(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Tree::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Tree, A::Error> {
                let mut object = Object::default();
                while let Some((name, value)) = fields.next_entry::<String, Tree>()? {
                    object.set(&name, value);
                }
                Ok(Tree::Object(object))
            }
        }

        deserializer.deserialize_any(AnyJson)
    }
}
