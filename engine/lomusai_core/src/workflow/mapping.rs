//! Mappings, compiled: paths become indexes, and what they refer to is known to be there.

use std::collections::BTreeSet;

use lomusai_wire::{Mapping, codes};
use serde_json::{Map, Value};

use super::expression::Expression;
use super::plan::Sight;
use crate::{Error, Result};

/// How a value is made.
#[derive(Debug)]
pub(super) enum Made {
    From(Path),
    Value(Value),
    Object(Vec<(String, Made)>),
    List(Vec<Made>),
    Expr(Asked),
}

/// An expression, and what of the run it has to be shown.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) expression: Expression,
    pub(super) needs: BTreeSet<Root>,
}

/// A value that a run knows, and the way to a part of it.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) root: Root,
    pub(super) rest: Vec<String>,
}

/// A value that a run knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Root {
    /// The workflow's input.
    Input,
    /// The output of a step, so many scopes further out.
    Step {
        up: usize,
        node: usize,
    },
    /// The run's state.
    State,
    /// The item of the nearest `foreach`, and its place.
    Item,
    Index,
    /// How often the nearest `loop` has run.
    Iteration,
    /// What the loop's last time came to: in its condition only.
    Output,
}

impl Made {
    /// # Errors
    /// `step_reference_unknown`, `expression_invalid`, `spec_invalid`.
    pub(super) fn compile(mapping: &Mapping, sight: &Sight<'_>) -> Result<Self> {
        Ok(match mapping {
            Mapping::From(path) => Self::From(Path::parse(path, sight)?),
            Mapping::Value(value) => Self::Value(value.clone()),
            Mapping::Object(fields) => {
                let fields = fields.iter().map(|(key, field)| Ok((key.clone(), Self::compile(field, sight)?)));
                Self::Object(fields.collect::<Result<_>>()?)
            }
            Mapping::List(items) => {
                Self::List(items.iter().map(|item| Self::compile(item, sight)).collect::<Result<_>>()?)
            }
            Mapping::Expr(text) => Self::Expr(Asked::compile(text, sight)?),
            _ => return Err(sight.invalid("has a mapping that this version does not know")),
        })
    }

    /// Whether making it can fail.
    pub(super) fn may_fail(&self) -> bool {
        match self {
            Self::Expr(_) => true,
            Self::Object(fields) => fields.iter().any(|(_, field)| field.may_fail()),
            Self::List(items) => items.iter().any(Self::may_fail),
            _ => false,
        }
    }

    /// # Errors
    /// `expression_failed`.
    pub(super) fn make(&self, known: &impl Known) -> Result<Value> {
        Ok(match self {
            Self::From(path) => {
                let found = known.look(&path.root);
                let mut found = found.as_deref();
                for key in &path.rest {
                    found = found.and_then(|value| match value {
                        Value::Object(fields) => fields.get(key),
                        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
                        _ => None,
                    });
                }
                found.cloned().unwrap_or_default()
            }
            Self::Value(value) => value.clone(),
            Self::Object(fields) => {
                let fields = fields.iter().map(|(key, field)| Ok((key.clone(), field.make(known)?)));
                Value::Object(fields.collect::<Result<Map<_, _>>>()?)
            }
            Self::List(items) => Value::Array(items.iter().map(|item| item.make(known)).collect::<Result<_>>()?),
            Self::Expr(asked) => asked.expression.value(known.shown(&asked.needs))?,
        })
    }
}

/// What a run knows at some place.
pub(super) trait Known {
    /// A value, `None` where there is none (yet).
    fn look(&self, root: &Root) -> Option<std::borrow::Cow<'_, Value>>;

    /// What an expression needs, by name.
    fn shown(&self, needs: &BTreeSet<Root>) -> Vec<(&'static str, minijinja::Value)>;
}

impl Asked {
    /// # Errors
    /// `expression_invalid`, `step_reference_unknown`.
    pub(super) fn compile(text: &str, sight: &Sight<'_>) -> Result<Self> {
        let expression = Expression::compile(text, &sight.place())?;
        let mut needs = BTreeSet::new();
        for name in expression.names() {
            if name == "steps" {
                return Err(Error::new(
                    codes::EXPRESSION_INVALID,
                    format!("{} asks for `steps` as a whole: write `steps.<id>`", sight.place()),
                ));
            }
            needs.insert(Path::parse(&name, sight)?.root);
        }
        Ok(Self { expression, needs })
    }
}

impl Path {
    fn parse(text: &str, sight: &Sight<'_>) -> Result<Self> {
        let mut tokens = text.split('.');
        let first = tokens.next().unwrap_or_default();
        let root = match first {
            "input" => Root::Input,
            "state" => Root::State,
            "item" if sight.in_foreach => Root::Item,
            "index" if sight.in_foreach => Root::Index,
            "iteration" if sight.in_loop => Root::Iteration,
            "output" if sight.in_condition => Root::Output,
            "steps" => {
                let id = tokens.next().unwrap_or_default();
                let (up, node) = sight.find(id)?;
                Root::Step { up, node }
            }
            _ => {
                let mut known = vec!["`input`", "`state`", "`steps.<id>`"];
                known.extend(sight.in_foreach.then_some("`item`"));
                known.extend(sight.in_foreach.then_some("`index`"));
                known.extend(sight.in_loop.then_some("`iteration`"));
                known.extend(sight.in_condition.then_some("`output`"));
                return Err(Error::new(
                    codes::STEP_REFERENCE_UNKNOWN,
                    format!("{} refers to `{text}`: there it can refer to {}", sight.place(), known.join(", ")),
                )
                .with("reference", text));
            }
        };
        Ok(Self { root, rest: tokens.map(str::to_owned).collect() })
    }
}
