//! JSON Schemas, compiled once and asked often, and what each provider takes of them.

mod compiler;
mod nulls;
mod pattern;
mod plain;
pub mod subset;
mod tree;

use std::sync::Arc;

use jsonschema::Validator;
use lomusai_wire::{RawJson, codes};
use serde_json::Value;

use crate::{Error, Result};

/// A compiled JSON Schema. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Schema(Arc<Validator>);

/// So many violations are named; more do not help a model or a person.
const NAMED: usize = 5;

impl Schema {
    /// Compiles a schema. `what` names it in errors, for example "the input_schema of tool `add`".
    ///
    /// # Errors
    /// `schema_invalid`. References to other documents are not followed.
    pub fn compile(schema: &RawJson, what: &str) -> Result<Self> {
        let value = schema.to_value();
        if !value.is_object() && !value.is_boolean() {
            return Err(Error::new(
                codes::SCHEMA_INVALID,
                format!("{what} must be a JSON object, was `{}`", shortened(&value)),
            ));
        }
        if let Some(validator) = plain::compiled(&value) {
            return Ok(Self(Arc::new(validator)));
        }
        match jsonschema::validator_for(&value) {
            Ok(validator) => Ok(Self(Arc::new(validator))),
            Err(e) => Err(Error::new(codes::SCHEMA_INVALID, format!("{what} is not a valid JSON Schema: {e}"))
                .with("schema_path", e.schema_path().to_string())),
        }
    }

    /// Why a value does not fit, in words for the one who wrote it; `None` if it fits.
    pub fn violations(&self, value: &Value) -> Option<String> {
        if self.0.is_valid(value) {
            return None;
        }
        let mut errors = self.0.iter_errors(value);
        let mut named: Vec<String> = errors
            .by_ref()
            .take(NAMED)
            .map(|e| match e.instance_path().as_str() {
                "" => e.to_string(),
                path => format!("at {path}: {e}"),
            })
            .collect();
        let more = errors.count();
        if more > 0 {
            named.push(format!("and {more} more"));
        }
        Some(named.join("; "))
    }
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn violations_name_the_place() {
        let schema =
            RawJson::from(&json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}));
        let schema = Schema::compile(&schema, "the schema").unwrap();
        assert_eq!(schema.violations(&json!({"a": 1})), None);
        assert!(schema.violations(&json!({"a": "x"})).unwrap().contains("/a"));
        assert!(schema.violations(&json!({})).unwrap().contains("required"));
    }

    #[test]
    fn a_bad_schema_is_named() {
        let error =
            Schema::compile(&RawJson::from(&json!({"type": "nonsense"})), "the input_schema of tool `t`").unwrap_err();
        assert!(error.is(codes::SCHEMA_INVALID) && error.to_string().contains("tool `t`"), "{error}");
        assert!(Schema::compile(&RawJson::from(&json!(3)), "x").is_err());
    }
}
