//! One schema, and what each provider takes of it.
//!
//! A provider takes a part of JSON Schema. What it takes is a value, a [`Subset`]; [`Subset::compile`] turns a schema into one that the
//! provider takes and says what got lost on the way. A constraint that is lost is still told to the model, in the description, and is still
//! checked, against the original, when the answer is there.

use lomusai_wire::RawJson;

use super::compiler::compile;
pub use super::nulls::without_nulls;

/// What a provider takes of JSON Schema. Sources stand beside each value.
#[derive(Debug)]
#[non_exhaustive]
pub struct Subset {
    /// What it is called in reports.
    pub name: &'static str,
    /// The keywords it takes. `None`: all.
    pub(super) keywords: Option<&'static [&'static str]>,
    /// The values of `format` it takes. `None`: all.
    pub(super) formats: Option<&'static [&'static str]>,
    /// Objects must be closed: `additionalProperties: false`.
    pub(super) closed: bool,
    /// All properties must be required; optional ones become nullable.
    pub(super) all_required: bool,
    /// How `null` is written beside another type.
    pub(super) nulls: Nulls,
    /// `$ref` into `$defs`.
    pub(super) references: References,
    /// The schema itself must be an object, and no choice.
    pub(super) root_object: bool,
    /// Values of `enum` must be texts.
    pub(super) text_enums: bool,
    /// `minItems` may be 0 or 1 only.
    pub(super) small_min_items: bool,
    /// The keywords that the schema itself, but nothing in it, is held to. `None`: as everywhere.
    pub(super) root_keywords: Option<&'static [&'static str]>,
    /// How deep objects may nest.
    pub(super) depth_max: Option<usize>,
    /// A `pattern` is matched against the whole text, and knows no lookaround and the like.
    pub(super) whole_patterns: bool,
    /// Objects are closed that do not say `additionalProperties: true`.
    pub(super) opened_by_word: bool,
    /// So many optional properties, and so many choices between types, a schema may have in all.
    pub(super) counts_max: Option<Counts>,
}

/// What of a schema makes its grammar large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) optional: usize,
    pub(super) unions: usize,
}

#[derive(Debug, PartialEq)]
pub(super) enum Nulls {
    /// `"type": ["string", "null"]`.
    Types,
    /// `"nullable": true`, as in OpenAPI 3.0; one type only.
    Nullable,
}

#[derive(Debug, PartialEq)]
pub(super) enum References {
    /// As they are.
    All,
    /// But not into themselves.
    Finite,
    /// None: what they refer to is put in their place.
    None,
}

/// What a schema lost on its way to a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// JSON pointer to the schema, in the original, whose keyword it was.
    pub pointer: String,
    /// The keyword.
    pub keyword: String,
    /// Why, and what became of it.
    pub reason: String,
    /// Whether the provider now refuses what the original allows, or all of it. Else it allows what the original refuses, which is checked when the answer is
    /// there.
    pub narrows: bool,
}

/// A schema that a provider takes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Compiled {
    /// The schema.
    pub schema: RawJson,
    /// What got lost. Empty: nothing.
    pub lost: Vec<Loss>,
}

impl Compiled {
    /// Whether the provider would refuse answers that the original allows. Such a schema is better sent without asking for it to be enforced.
    pub fn narrows(&self) -> bool {
        self.lost.iter().any(|loss| loss.narrows)
    }
}

impl Subset {
    /// Whether it takes a keyword.
    pub fn takes(&self, keyword: &str) -> bool {
        self.keywords.is_none_or(|keywords| keywords.contains(&keyword))
    }

    /// Turns a schema into one that the provider takes. The order of properties stays.
    pub fn compile(&self, schema: &RawJson) -> Compiled {
        compile(self, schema)
    }
}

const PLAIN: Subset = Subset {
    name: "JSON Schema",
    keywords: None,
    formats: None,
    closed: false,
    all_required: false,
    nulls: Nulls::Types,
    references: References::All,
    root_object: false,
    text_enums: false,
    small_min_items: false,
    root_keywords: None,
    depth_max: None,
    whole_patterns: false,
    opened_by_word: false,
    counts_max: None,
};

/// All of JSON Schema: arguments of tools that are told, not enforced, at most providers.
pub static ALL: Subset = PLAIN;

/// Arguments of tools as Anthropic, Bedrock and their like read them: all of JSON Schema, in an object.
/// <https://docs.claude.com/en/docs/agents-and-tools/tool-use/implement-tool-use>
pub static OBJECT: Subset = Subset { name: "an object of JSON Schema", root_object: true, ..PLAIN };

/// What OpenAI enforces: `strict` tools and `json_schema` answers. Azure, Groq and OpenRouter follow it.
/// <https://platform.openai.com/docs/guides/structured-outputs>
pub static OPENAI: Subset = Subset {
    name: "OpenAI's strict schemas",
    keywords: Some(&[
        "type",
        "title",
        "description",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "const",
        "anyOf",
        "$ref",
        "$defs",
        "definitions",
        "pattern",
        "format",
        "multipleOf",
        "maximum",
        "exclusiveMaximum",
        "minimum",
        "exclusiveMinimum",
        "minItems",
        "maxItems",
    ]),
    formats: Some(&["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"]),
    closed: true,
    all_required: true,
    root_object: true,
    depth_max: Some(10),
    ..PLAIN
};

/// What Anthropic enforces: `strict` tools and `json_schema` answers.
/// <https://docs.claude.com/en/docs/build-with-claude/structured-outputs>
pub static ANTHROPIC: Subset = Subset {
    name: "Anthropic's structured outputs",
    keywords: Some(&[
        "type",
        "title",
        "description",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "const",
        "anyOf",
        "allOf",
        "$ref",
        "$defs",
        "definitions",
        "default",
        "format",
        "minItems",
    ]),
    formats: Some(&["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"]),
    closed: true,
    references: References::Finite,
    small_min_items: true,
    // "Schemas contains too many parameters with union types", and the same of optional ones.
    counts_max: Some(Counts { optional: 24, unions: 16 }),
    ..PLAIN
};

/// What xAI takes: arguments of tools always, and `json_schema` answers. Of `not`, `if`, several parts of `allOf`, other formats and very large
/// bounds it says that the model keeps to them, and does not enforce them. <https://docs.x.ai/developers/model-capabilities/text/structured-outputs>
pub static XAI: Subset = Subset {
    name: "xAI's structured outputs",
    keywords: Some(&[
        "type",
        "title",
        "description",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "prefixItems",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "not",
        "if",
        "then",
        "else",
        "$ref",
        "$defs",
        "definitions",
        "default",
        "format",
        "pattern",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
    ]),
    references: References::Finite,
    root_object: true,
    whole_patterns: true,
    opened_by_word: true,
    ..PLAIN
};

/// The `Schema` of Gemini's API, a part of OpenAPI 3.0, which older ways of asking it take: `parameters` and `responseSchema`.
/// <https://ai.google.dev/api/caching#Schema>
pub static GEMINI: Subset = Subset {
    name: "Gemini's schemas",
    keywords: Some(&[
        "type",
        "format",
        "title",
        "description",
        "nullable",
        "enum",
        "maxItems",
        "minItems",
        "properties",
        "required",
        "minProperties",
        "maxProperties",
        "minLength",
        "maxLength",
        "pattern",
        "example",
        "anyOf",
        "propertyOrdering",
        "default",
        "items",
        "minimum",
        "maximum",
    ]),
    formats: Some(&["float", "double", "int32", "int64", "enum", "date-time"]),
    nulls: Nulls::Nullable,
    references: References::None,
    text_enums: true,
    ..PLAIN
};

/// JSON Schema as Gemini's API takes it: `parametersJsonSchema` of tools, and `responseJsonSchema`.
/// <https://ai.google.dev/api/generate-content#GenerationConfig>
pub static GEMINI_JSON: Subset = Subset {
    name: "Gemini's JSON schemas",
    keywords: Some(&[
        "$id",
        "$defs",
        "$ref",
        "$anchor",
        "type",
        "format",
        "title",
        "description",
        "enum",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "anyOf",
        "oneOf",
        "properties",
        "additionalProperties",
        "required",
        "propertyOrdering",
    ]),
    ..PLAIN
};

/// What Mistral enforces: `strict` tools and `json_schema` answers. Its documentation asks for closed objects and names no other bound.
/// <https://docs.mistral.ai/capabilities/structured_output/custom>
pub static MISTRAL: Subset = Subset { name: "Mistral's structured outputs", closed: true, root_object: true, ..PLAIN };

/// What Cohere enforces: `strict_tools` and `json_object` answers with a schema.
/// <https://docs.cohere.com/docs/structured-outputs>
pub static COHERE: Subset = Subset {
    name: "Cohere's structured outputs",
    keywords: Some(&[
        "type",
        "title",
        "description",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "const",
        "anyOf",
        "$ref",
        "$defs",
        "definitions",
        "pattern",
        "format",
    ]),
    formats: Some(&["date-time", "uuid", "date", "time"]),
    root_object: true,
    references: References::Finite,
    ..PLAIN
};

/// Arguments of tools for Amazon's own models on Bedrock, whose root takes `type`, `properties` and `required` only; the models of others there
/// take [`OBJECT`]. <https://docs.aws.amazon.com/nova/latest/userguide/tool-use-definition.html>
pub static BEDROCK: Subset = Subset {
    name: "the tools of Bedrock's own models",
    root_object: true,
    root_keywords: Some(&["type", "properties", "required"]),
    references: References::None,
    ..PLAIN
};

/// Arguments of tools at an Ollama server, which reads these keywords and forgets the others before the model's template sees them.
/// <https://github.com/ollama/ollama/blob/main/api/types.go>
pub static OLLAMA: Subset = Subset {
    name: "Ollama's tools",
    keywords: Some(&["type", "description", "properties", "required", "items", "enum", "anyOf"]),
    root_object: true,
    references: References::None,
    ..PLAIN
};

/// What llama.cpp turns into a grammar: `format` at Ollama, `json_schema` at a llama.cpp server.
/// <https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md>
pub static LLAMA: Subset = Subset {
    name: "llama.cpp's grammars",
    keywords: Some(&[
        "type",
        "title",
        "description",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "prefixItems",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "definitions",
        "pattern",
        "format",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "default",
    ]),
    formats: Some(&["date-time", "date", "time", "uuid"]),
    ..PLAIN
};
