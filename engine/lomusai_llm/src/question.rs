//! A request as a wire gets it: its schemas as this provider takes them, with a report of what they lost.

use std::collections::HashMap;
use std::sync::Arc;

use lomusai_core::schema::subset::{Loss, Subset};
use lomusai_core::sync::Mutex;
use lomusai_wire::{Message, ModelRequest, ModelTool, RawJson, ToolChoice};

/// How a provider takes schemas of one use.
#[derive(Debug)]
pub(crate) enum Rule {
    /// Told to the model, and not enforced.
    Told(&'static Subset),
    /// Enforced, always.
    Enforced(&'static Subset),
    /// Enforced where it is asked for (`strict`), and else told.
    Strict { enforced: &'static Subset, told: &'static Subset },
    /// Not at all: the model is told in words.
    Words,
}

/// How a provider takes the schemas of a request.
#[derive(Debug)]
pub(crate) struct Schemas {
    /// Of the arguments of tools.
    tools: Rule,
    /// Of the answer.
    output: Rule,
    holds: Holds,
}

/// When a provider can be asked for an answer that is JSON. When it cannot, the model is told in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Always,
    /// Not where a tool must be called.
    Unforced,
    /// Not where there are tools: the request would be refused, or no tool ever be called.
    WithoutTools,
    /// Nor in pieces: such an answer is asked for whole.
    WholeWithoutTools,
}

impl Schemas {
    /// Rules for the arguments of tools and for the answer, which hold side by side.
    pub(crate) const fn new(tools: Rule, output: Rule) -> Self {
        Self { tools, output, holds: Holds::Always }
    }

    /// The same rules, but that of the answer only where no tool must be called.
    pub(crate) const fn unforced(self) -> Self {
        Self { holds: Holds::Unforced, ..self }
    }

    /// The same rules, but that of the answer only where there are no tools.
    pub(crate) const fn without_tools(self) -> Self {
        Self { holds: Holds::WithoutTools, ..self }
    }

    /// The same rules, but that of the answer only where there are no tools, and where it need not come in pieces.
    pub(crate) const fn whole_without_tools(self) -> Self {
        Self { holds: Holds::WholeWithoutTools, ..self }
    }
}

/// A schema as a provider takes it.
#[derive(Debug)]
pub(crate) struct Fitted {
    pub(crate) schema: RawJson,
    /// It has to be asked to enforce it.
    pub(crate) strict: bool,
    /// What got lost on the way.
    lost: Vec<Loss>,
}

/// What is asked, of which model, and how.
pub(crate) struct Question<'a> {
    /// The provider's name.
    pub(crate) name: &'static str,
    pub(crate) model: &'a str,
    /// Whether the answer is to come in pieces.
    pub(crate) stream: bool,
    pub(crate) request: &'a ModelRequest,
    /// What the model is told beside the conversation.
    instruction: Option<Arc<Message>>,
    tools: Vec<Arc<Fitted>>,
    /// The schema of the answer, where the provider can hold the model to it.
    pub(crate) output: Option<Arc<Fitted>>,
    /// Whether the answer is to be JSON and the provider may be asked for that, with a schema or without.
    pub(crate) json: bool,
}

impl<'a> Question<'a> {
    /// Fits the request's schemas to the provider.
    pub(crate) fn new(
        name: &'static str,
        model: &'a str,
        stream: bool,
        request: &'a ModelRequest,
        schemas: &'static Schemas,
        fitter: &Fitter,
    ) -> Self {
        let tool = |tool: &ModelTool| fitter.fit(&schemas.tools, &tool.input_schema).unwrap_or_else(|| as_it_is(tool));
        let tools = request.tools.iter().map(tool).collect();
        let forced = matches!(request.tool_choice, ToolChoice::Required | ToolChoice::Tool(_));
        let holds = match schemas.holds {
            Holds::Always => true,
            Holds::Unforced => request.tools.is_empty() || !forced,
            Holds::WithoutTools | Holds::WholeWithoutTools => request.tools.is_empty(),
        };
        let json = request.output.is_some() && holds;
        let output = request.output.as_ref().filter(|_| json);
        let output = output.and_then(|output| fitter.fit(&schemas.output, &output.schema));
        let stream = stream && !(json && schemas.holds == Holds::WholeWithoutTools);
        let unheld = request.output.as_ref().filter(|_| output.is_none());
        let instruction = unheld.map(|output| {
            let text = format!("Answer with JSON of this schema, and with nothing else:\n{}", output.schema.as_str());
            Arc::new(Message::system(text))
        });
        Self { name, model, stream, request, instruction, tools, output, json }
    }

    /// The conversation.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.instruction.iter().chain(&self.request.messages)
    }

    /// How many messages stand before the request's own.
    pub(crate) fn added(&self) -> usize {
        usize::from(self.instruction.is_some())
    }

    /// The tools, each with its schema.
    pub(crate) fn tools(&self) -> impl Iterator<Item = (&ModelTool, &Fitted)> {
        self.request.tools.iter().zip(self.tools.iter().map(|fitted| &**fitted))
    }

    /// The tools, or the one that must be called: for a provider that cannot be told which, but can be shown no other.
    pub(crate) fn tools_to_choose_from(&self) -> impl Iterator<Item = (&ModelTool, &Fitted)> {
        let forced = if let ToolChoice::Tool(name) = &self.request.tool_choice { Some(name) } else { None };
        self.tools().filter(move |(tool, _)| forced.is_none_or(|name| *name == tool.name))
    }

    /// The name of the answer's schema, for those who want one.
    pub(crate) fn output_name(&self) -> &str {
        self.request.output.as_ref().and_then(|output| output.name.as_deref()).unwrap_or("output")
    }

    /// What the schemas lost, in words.
    pub(crate) fn losses(&self) -> impl Iterator<Item = String> {
        let told = |what: String, loss: &Loss| {
            let place = if loss.pointer.is_empty() { "" } else { " at " };
            format!("the schema of {what} lost `{}`{place}{}: {}", loss.keyword, loss.pointer, loss.reason)
        };
        let tools = self.tools().flat_map(move |(tool, fitted)| {
            fitted.lost.iter().map(move |loss| told(format!("tool `{}`", tool.name), loss))
        });
        let output = self.output.iter().flat_map(|fitted| fitted.lost.iter());
        let beside = if self.json { "" } else { " where there are tools" };
        let words = self.instruction.iter().map(move |_| {
            format!("`{}` cannot hold the answer to its schema{beside}: the model is told of it in words", self.name)
        });
        tools.chain(output.map(move |loss| told("the answer".into(), loss))).chain(words)
    }
}

fn as_it_is(tool: &ModelTool) -> Arc<Fitted> {
    Arc::new(Fitted { schema: tool.input_schema.clone(), strict: false, lost: Vec::new() })
}

/// Compiles schemas, and remembers: the same ones go into every request of an agent.
#[derive(Default)]
pub(crate) struct Fitter(Mutex<HashMap<usize, Known>>);

/// What one rule made of schemas, by their texts.
type Known = HashMap<Box<str>, Option<Arc<Fitted>>>;

/// More schemas than this are not remembered by one rule: somebody makes up new ones all the time.
const REMEMBERED: usize = 500;

impl Fitter {
    /// The schema as the rule wants it. `None`: the provider cannot be given it.
    fn fit(&self, rule: &'static Rule, schema: &RawJson) -> Option<Arc<Fitted>> {
        let mut rules = self.0.lock();
        // A rule is a static, and known by its place.
        let known = rules.entry(std::ptr::from_ref(rule) as usize).or_default();
        if let Some(fitted) = known.get(schema.as_str()) {
            return fitted.clone();
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let fitted = rule.fit(schema).map(Arc::new);
        known.insert(schema.as_str().into(), fitted.clone());
        fitted
    }
}

impl Rule {
    fn fit(&self, schema: &RawJson) -> Option<Fitted> {
        let (enforced, told) = match self {
            Self::Told(subset) => (None, Some(*subset)),
            Self::Enforced(subset) => (Some(*subset), None),
            Self::Strict { enforced, told } => (Some(*enforced), Some(*told)),
            Self::Words => (None, None),
        };
        // A model that is held to less than was asked for could not say what is right: better it is told only.
        let enforced = enforced.map(|subset| subset.compile(schema)).filter(|compiled| !compiled.narrows());
        let strict = enforced.is_some() && told.is_some();
        let compiled = enforced.or_else(|| told.map(|subset| subset.compile(schema)))?;
        Some(Fitted { schema: compiled.schema, strict, lost: compiled.lost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lomusai_core::schema::subset;
    use lomusai_wire::OutputSpec;

    static STRICT: Schemas = Schemas::new(
        Rule::Strict { enforced: &subset::OPENAI, told: &subset::ALL },
        Rule::Enforced(&subset::ANTHROPIC),
    );

    fn question<'a>(request: &'a ModelRequest, fitter: &Fitter) -> Question<'a> {
        Question::new("test", "m", true, request, &STRICT, fitter)
    }

    fn request(tool: &str, output: &str) -> ModelRequest {
        let mut request = ModelRequest::default();
        request.tools = vec![ModelTool::new("t", "", RawJson::parse(tool).unwrap())];
        request.output = Some(OutputSpec::new(RawJson::parse(output).unwrap()));
        request
    }

    #[test]
    fn what_a_provider_can_enforce_is_enforced_and_what_it_loses_is_told() {
        let request = request(
            r#"{"type":"object","properties":{"a":{"type":"string","minLength":2}},"required":["a"]}"#,
            r#"{"type":"object","properties":{"n":{"type":"integer","maximum":3}},"required":["n"]}"#,
        );
        let fitter = Fitter::default();
        let question = question(&request, &fitter);
        let (_, tool) = question.tools().next().unwrap();
        assert!(tool.strict && tool.schema.as_str().contains("additionalProperties"), "{:?}", tool.schema);
        assert!(question.output.as_ref().is_some_and(|output| !output.strict) && question.added() == 0);
        let losses: Vec<String> = question.losses().collect();
        assert!(losses[0].starts_with("the schema of tool `t` lost `minLength` at /properties/a: "), "{losses:?}");
        assert!(losses[1].starts_with("the schema of the answer lost `maximum` at /properties/n: "), "{losses:?}");
        assert_eq!(losses.len(), 2);
    }

    #[test]
    fn what_would_forbid_right_answers_is_not_enforced() {
        let map = r#"{"type":"object","additionalProperties":{"type":"number"}}"#;
        let request = request(map, map);
        let fitter = Fitter::default();
        let question = question(&request, &fitter);
        let (_, tool) = question.tools().next().unwrap();
        assert!(!tool.strict && tool.schema.as_str() == map, "{tool:?}");
        assert!(question.output.is_none(), "the provider would close the object");
        let told = question.messages().next().unwrap();
        assert!(told.text().ends_with(map), "{told:?}");
        assert!(question.losses().any(|loss| loss.contains("in words")));
    }

    #[test]
    fn what_is_not_held_beside_tools_is_told_and_said_to_be() {
        static ALONE: Schemas =
            Schemas::new(Rule::Told(&subset::ALL), Rule::Enforced(&subset::ANTHROPIC)).whole_without_tools();
        let schema = r#"{"type":"object","additionalProperties":false}"#;
        let mut request = request(schema, schema);
        let fitter = Fitter::default();
        let question = Question::new("test", "m", true, &request, &ALONE, &fitter);
        assert!(question.output.is_none() && !question.json && question.stream && question.added() == 1);
        let losses: Vec<String> = question.losses().collect();
        assert!(losses[0].contains("where there are tools: the model is told of it in words"), "{losses:?}");
        request.tools.clear();
        let question = Question::new("test", "m", true, &request, &ALONE, &fitter);
        assert!(question.output.is_some() && question.json && !question.stream && question.added() == 0);
    }

    #[test]
    fn a_schema_is_compiled_once() {
        let schema = r#"{"type":"object"}"#;
        let (one, two) = (request(schema, schema), request(schema, schema));
        let fitter = Fitter::default();
        assert!(Arc::ptr_eq(&question(&one, &fitter).tools[0], &question(&two, &fitter).tools[0]));
    }
}
