//! Expressions: questions to what a run knows, in the syntax of Jinja. Pure, and bounded in time.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::LazyLock;

use lomusai_wire::{codes, normalise};
use minijinja::{Environment, UndefinedBehavior};
use serde_json::Value;

use crate::{Error, Result};

/// Steps of the evaluator before it gives up.
const FUEL: u64 = 100_000;
/// The longest expression, in bytes.
const LENGTH_MAX: usize = 4_096;

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    // Only filters and tests stay: they depend on nothing but what they are given.
    for global in ["debug", "dict", "namespace", "range"] {
        environment.remove_global(global);
    }
    environment
});

/// A compiled expression.
pub(super) struct Expression {
    text: String,
    compiled: minijinja::Expression<'static, 'static>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Expression {
    /// `what` names the place in errors.
    ///
    /// # Errors
    /// `expression_invalid`.
    pub(super) fn compile(text: &str, what: &str) -> Result<Self> {
        let invalid = |why: String| {
            Error::new(codes::EXPRESSION_INVALID, format!("{what} has an expression that cannot be read: {why}"))
                .with("expression", text)
        };
        if text.len() > LENGTH_MAX {
            return Err(invalid(format!("it is longer than {LENGTH_MAX} bytes: use a step")));
        }
        let compiled = ENVIRONMENT
            .compile_expression_owned(text.to_owned())
            .map_err(|error| invalid(error.detail().unwrap_or("it is no expression").to_owned()))?;
        Ok(Self { text: text.to_owned(), compiled })
    }

    /// What it refers to, as dotted paths: `input.amount`, `steps.fetch.total`.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.compiled.undeclared_variables(true).into_iter().collect()
    }

    /// Its value, with these names known.
    ///
    /// # Errors
    /// `expression_failed`.
    pub(super) fn value(&self, known: Vec<(&'static str, minijinja::Value)>) -> Result<Value> {
        let found = self.evaluate(known)?;
        let mut value = serde_json::to_value(&found).map_err(|error| self.failed(&error.to_string()))?;
        normalise(&mut value);
        Ok(value)
    }

    /// Whether it holds, with these names known.
    ///
    /// # Errors
    /// `expression_failed`.
    pub(super) fn holds(&self, known: Vec<(&'static str, minijinja::Value)>) -> Result<bool> {
        Ok(self.evaluate(known)?.is_true())
    }

    fn evaluate(&self, known: Vec<(&'static str, minijinja::Value)>) -> Result<minijinja::Value> {
        let known = minijinja::Value::from_pairs(known);
        self.compiled.eval(known).map_err(|error| {
            let kind = error.kind().to_string();
            self.failed(&error.detail().map_or(kind.clone(), |detail| format!("{kind}, {detail}")))
        })
    }

    fn failed(&self, why: &str) -> Error {
        Error::new(codes::EXPRESSION_FAILED, format!("the expression `{}` gives no value: {why}", self.text))
            .with("expression", self.text.as_str())
    }
}

/// JSON as expressions see it.
pub(super) fn seen(value: &Value) -> minijinja::Value {
    match value {
        Value::Null => minijinja::Value::from(()),
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            _ => number.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(seen).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            minijinja::Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), seen(value))))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(text: &str) -> Result<Value> {
        let input = json!({"amount": 120, "name": "Anna", "list": [1, 2], "big": 0.5});
        Expression::compile(text, "step `a`")?.value(vec![("input", seen(&input))])
    }

    #[test]
    fn expressions_work_values_out() {
        for (text, value) in [
            ("input.amount > 100 and input.name == 'Anna'", json!(true)),
            ("input.list|length", json!(2)),
            ("'Dear ' ~ input.name", json!("Dear Anna")),
            ("input.amount * 2", json!(240)),
            ("input.missing is defined", json!(false)),
            ("{'sum': input.list|sum, 'first': input.list[0]}", json!({"sum": 3, "first": 1})),
            ("9007199254740992 + 1", json!("9007199254740993")),
        ] {
            assert_eq!(ask(text).unwrap(), value, "{text}");
        }
    }

    #[test]
    fn what_has_no_value_is_an_error_that_shows_the_expression() {
        for text in ["input.missing.deeper", "input.name.x.y", "range(3)", "debug()", "1 / 0", "2 ** 70"] {
            let error = ask(text).unwrap_err();
            assert!(error.is(codes::EXPRESSION_FAILED) && error.to_string().contains(text), "{error}");
        }
        for text in ["1 +", "{% if %}", "", &"1+".repeat(4_000)] {
            assert!(ask(text).unwrap_err().is(codes::EXPRESSION_INVALID), "{text}");
        }
    }
}
