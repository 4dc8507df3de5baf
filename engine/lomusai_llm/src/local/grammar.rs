//! JSON Schemas as grammars: what a model may write so that it fits.
//!
//! A grammar may be narrower than its schema, never wider in what it knows of: properties come in the schema's order and no others
//! beside them, dates end with the 28th. Keywords that a grammar cannot say (`multipleOf`, `uniqueItems`, `contains`, `minProperties` and
//! their like) are left to the validation that follows. Keywords whose meaning would be turned round by leaving them out are refused.

use std::collections::HashMap;
use std::fmt::Write as _;

use lomusai_core::{Error, Result};
use lomusai_wire::{ModelTool, RawJson, codes};
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::ordered::Json;

/// What begins a call, in the words that most open models were taught.
pub(super) const CALL_BEGINS: &str = "<tool_call>";
pub(super) const CALL_ENDS: &str = "\n</tool_call>";
/// What follows [`CALL_BEGINS`] in every call, up to the name.
pub(super) const NAME_BEGINS: &str = "\n{\"name\": \"";
/// What stands between the name and the arguments.
pub(super) const ARGUMENTS_BEGIN: &str = "\", \"arguments\": ";

/// Longest bounded text that is counted; llama.cpp's grammars count no further than 2,000.
const COUNT_MAX: u64 = 1_000;
/// Most digits of a number without bounds: what every language's integers and floats hold.
const DIGITS_MAX: usize = 15;
/// How deep schemas may nest; references are counted apart.
const DEPTH_MAX: usize = 64;
/// Most rules of one grammar.
const RULES_MAX: usize = 20_000;

/// The grammar of values that fit a schema.
///
/// # Errors
/// `schema_unsupported`, naming the place in the schema.
pub(super) fn of_value(schema: &RawJson) -> Result<String> {
    let mut grammar = Grammar::default();
    let value = grammar.root(schema, "the output schema")?;
    Ok(grammar.finish(&value))
}

/// The grammar of a tool's arguments.
///
/// # Errors
/// As [`of_value`].
pub(super) fn of_arguments(tool: &ModelTool) -> Result<String> {
    let mut grammar = Grammar::default();
    let value = grammar.arguments(tool)?;
    Ok(grammar.finish(&value))
}

/// The grammar of a call of any of the tools, from its name on.
///
/// # Errors
/// As [`of_value`].
pub(super) fn of_calls(tools: &[ModelTool]) -> Result<String> {
    let mut grammar = Grammar::default();
    let calls = tools
        .iter()
        .map(|tool| {
            let before = format!("{}{ARGUMENTS_BEGIN}", tool.name);
            Ok(format!("{} {} \"}}\"", literal(&before), grammar.arguments(tool)?))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(grammar.finish(&calls.join(" | ")))
}

/// The grammar of either the beginning of a call or a value that fits a schema.
///
/// # Errors
/// As [`of_value`].
pub(super) fn of_call_or_value(schema: &RawJson) -> Result<String> {
    let mut grammar = Grammar::default();
    let value = grammar.root(schema, "the output schema")?;
    Ok(grammar.finish(&format!("{} | {value}", literal(CALL_BEGINS))))
}

#[derive(Default)]
struct Grammar {
    rules: Vec<String>,
    /// Rules of what is referred to, by schema and reference.
    references: HashMap<String, String>,
    /// Rules that every schema shares.
    shared: HashMap<&'static str, ()>,
    /// What the schema at work is called in errors, and its root for references.
    name: String,
    document: Option<Json>,
}

const CHARACTER: &str =
    r#"[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" ([0-9a-cA-Ce-fE-F] hex hex hex | [dD] [0-7] hex hex))"#;

impl Grammar {
    fn finish(self, root: &str) -> String {
        let mut text = format!("root ::= {root}\n");
        for rule in self.rules {
            text.push_str(&rule);
            text.push('\n');
        }
        text
    }

    fn arguments(&mut self, tool: &ModelTool) -> Result<String> {
        self.root(&tool.input_schema, &format!("the schema of tool `{}`", tool.name))
    }

    fn root(&mut self, schema: &RawJson, name: &str) -> Result<String> {
        let document: Json = serde_json::from_str(schema.as_str())
            .map_err(|e| Error::new(codes::SCHEMA_UNSUPPORTED, format!("{name} cannot be read: {e}")))?;
        self.name = name.to_owned();
        self.references.clear();
        self.document = Some(document.clone());
        self.schema(&document, "#", 0)
    }

    fn unsupported(&self, at: &str, why: impl std::fmt::Display) -> Error {
        Error::new(
            codes::SCHEMA_UNSUPPORTED,
            format!("{} cannot be a grammar for a local model: {why}, at {at}; say it in another way", self.name),
        )
        .with("at", at)
    }

    fn rule(&mut self, body: &str) -> String {
        let name = format!("r{}", self.rules.len());
        self.rules.push(format!("{name} ::= {body}"));
        name
    }

    /// A rule that is the same for every schema, with what it is made of.
    fn share(&mut self, name: &'static str) -> String {
        if self.shared.insert(name, ()).is_none() {
            let body = match name {
                "hex" => "[0-9a-fA-F]".to_owned(),
                "char" => {
                    self.share("hex");
                    CHARACTER.to_owned()
                }
                "string" => format!("\"\\\"\" {}* \"\\\"\"", self.share("char")),
                "number" => format!("\"-\"? (\"0\" | [1-9] [0-9]{{0,{DIGITS_MAX}}}) (\".\" [0-9]{{1,{DIGITS_MAX}}})?"),
                "integer" => format!("\"-\"? (\"0\" | [1-9] [0-9]{{0,{}}})", DIGITS_MAX - 1),
                "boolean" => "\"true\" | \"false\"".to_owned(),
                "object" => {
                    let (string, value) = (self.share("string"), self.share("value"));
                    format!(
                        "\"{{\" ({string} \":\" \" \"? {value} (\",\" \" \"? {string} \":\" \" \"? {value})*)? \"}}\""
                    )
                }
                "array" => {
                    let value = self.share("value");
                    format!("\"[\" ({value} (\",\" \" \"? {value})*)? \"]\"")
                }
                "value" => {
                    // Named before they are made: values hold values.
                    for part in ["object", "array", "string", "number", "boolean"] {
                        self.share(part);
                    }
                    "object | array | string | number | boolean | \"null\"".to_owned()
                }
                other => unreachable!("there is no shared rule {other}"),
            };
            self.rules.push(format!("{name} ::= {body}"));
        }
        name.to_owned()
    }

    /// The rule, or part of one, of values that fit a schema.
    fn schema(&mut self, schema: &Json, at: &str, depth: usize) -> Result<String> {
        if depth > DEPTH_MAX || self.rules.len() > RULES_MAX {
            return Err(self.unsupported(at, "it is too deep or too large"));
        }
        let fields = match schema {
            Json::Bool(true) => return Ok(self.share("value")),
            Json::Bool(false) => return Err(self.unsupported(at, "nothing can fit `false`")),
            Json::Object(fields) => fields,
            _ => return Err(self.unsupported(at, "a schema is an object, `true` or `false`")),
        };
        for word in
            ["not", "if", "then", "else", "$dynamicRef", "$recursiveRef", "dependentSchemas", "unevaluatedItems"]
        {
            if fields.iter().any(|(key, _)| key == word) {
                return Err(self.unsupported(at, format!("a grammar cannot say `{word}`")));
            }
        }
        if let Some(Json::Text(reference)) = schema.get("$ref") {
            return self.reference(reference, at, depth);
        }
        if let Some(value) = schema.get("const") {
            return Ok(literal(&value.to_string()));
        }
        if let Some(Json::Array(values)) = schema.get("enum") {
            if values.is_empty() {
                return Err(self.unsupported(at, "nothing can fit an empty `enum`"));
            }
            let values: Vec<String> = values.iter().map(|value| literal(&value.to_string())).collect();
            return Ok(self.rule(&values.join(" | ")));
        }
        for word in ["anyOf", "oneOf"] {
            if let Some(Json::Array(options)) = schema.get(word) {
                let rest = schema.without(&["anyOf", "oneOf"]);
                let options = options
                    .iter()
                    .enumerate()
                    .map(|(number, option)| {
                        let at = format!("{at}/{word}/{number}");
                        let whole = if rest.constrains() { self.merged(&rest, option, &at)? } else { option.clone() };
                        self.schema(&whole, &at, depth + 1)
                    })
                    .collect::<Result<Vec<_>>>()?;
                if options.is_empty() {
                    return Err(self.unsupported(at, format!("nothing can fit an empty `{word}`")));
                }
                return Ok(self.rule(&options.join(" | ")));
            }
        }
        if let Some(Json::Array(parts)) = schema.get("allOf") {
            let mut whole = schema.without(&["allOf"]);
            for (number, part) in parts.iter().enumerate() {
                let at = format!("{at}/allOf/{number}");
                whole = self.merged(&whole, part, &at)?;
            }
            return self.schema(&whole, at, depth + 1);
        }
        match schema.get("type") {
            Some(Json::Text(kind)) => self.typed(kind, schema, at, depth),
            Some(Json::Array(kinds)) => {
                let kinds = kinds
                    .iter()
                    .map(|kind| match kind {
                        Json::Text(kind) => self.typed(kind, schema, at, depth),
                        _ => Err(self.unsupported(at, "a `type` is a text")),
                    })
                    .collect::<Result<Vec<_>>>()?;
                Ok(self.rule(&kinds.join(" | ")))
            }
            Some(_) => Err(self.unsupported(at, "a `type` is a text or a list of texts")),
            // Without a type, what else is said tells which is meant.
            None => {
                let has = |words: &[&str]| words.iter().any(|word| schema.get(word).is_some());
                let kind = if has(&["properties", "required", "additionalProperties"]) {
                    "object"
                } else if has(&["items", "prefixItems", "minItems", "maxItems"]) {
                    "array"
                } else if has(&["minLength", "maxLength", "pattern", "format"]) {
                    "string"
                } else if has(&["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]) {
                    "number"
                } else {
                    return Ok(self.share("value"));
                };
                self.typed(kind, schema, at, depth)
            }
        }
    }

    fn typed(&mut self, kind: &str, schema: &Json, at: &str, depth: usize) -> Result<String> {
        match kind {
            "object" => self.object(schema, at, depth),
            "array" => self.array(schema, at, depth),
            "string" => self.string(schema, at),
            "integer" | "number" => self.number(schema, at, kind == "integer"),
            "boolean" => Ok(self.share("boolean")),
            "null" => Ok("\"null\"".into()),
            other => Err(self.unsupported(at, format!("there is no type {other:?}"))),
        }
    }

    /// A reference within the document. It becomes a rule of its own, so that it may refer to itself.
    fn reference(&mut self, reference: &str, at: &str, depth: usize) -> Result<String> {
        if let Some(rule) = self.references.get(reference) {
            return Ok(rule.clone());
        }
        let Some(path) = reference.strip_prefix('#') else {
            return Err(self.unsupported(at, format!("{reference:?} refers to another document")));
        };
        let document = self.document.clone().unwrap_or(Json::Null);
        let Some(target) = document.pointer(path) else {
            return Err(self.unsupported(at, format!("{reference:?} refers to nothing")));
        };
        let name = format!("r{}", self.rules.len());
        self.rules.push(String::new());
        let place = self.rules.len() - 1;
        self.references.insert(reference.to_owned(), name.clone());
        let body = self.schema(target, reference, depth + 1)?;
        if body == name {
            return Err(self.unsupported(at, format!("{reference:?} refers to itself only")));
        }
        self.rules[place] = format!("{name} ::= {body}");
        Ok(name)
    }

    /// One schema that says what both say.
    fn merged(&self, one: &Json, other: &Json, at: &str) -> Result<Json> {
        let document = self.document.clone().unwrap_or(Json::Null);
        let mut other = other.clone();
        for _ in 0..DEPTH_MAX {
            let Some(Json::Text(reference)) = other.get("$ref") else { break };
            let target = reference.strip_prefix('#').and_then(|path| document.pointer(path)).cloned();
            let target = target.ok_or_else(|| self.unsupported(at, format!("{reference:?} refers to nothing here")))?;
            let rest = other.without(&["$ref"]);
            other = if rest.constrains() { self.merged(&target, &rest, at)? } else { target };
        }
        let (Json::Object(mine), Json::Object(theirs)) = (one, &other) else {
            return if other == Json::Bool(true) {
                Ok(one.clone())
            } else {
                Err(self.unsupported(at, "these cannot be joined"))
            };
        };
        let mut whole = mine.clone();
        for (key, value) in theirs {
            let Some(place) = whole.iter().position(|(mine, _)| mine == key) else {
                whole.push((key.clone(), value.clone()));
                continue;
            };
            let joined = match (key.as_str(), &whole[place].1, value) {
                (_, mine, theirs) if mine == theirs => mine.clone(),
                ("properties" | "$defs" | "definitions", Json::Object(mine), Json::Object(theirs)) => {
                    let mut all = mine.clone();
                    for (name, schema) in theirs {
                        match all.iter().position(|(mine, _)| mine == name) {
                            None => all.push((name.clone(), schema.clone())),
                            Some(place) => all[place].1 = self.merged(&all[place].1.clone(), schema, at)?,
                        }
                    }
                    Json::Object(all)
                }
                ("required", Json::Array(mine), Json::Array(theirs)) => {
                    let mut all = mine.clone();
                    all.extend(theirs.iter().filter(|name| !mine.contains(name)).cloned());
                    Json::Array(all)
                }
                ("enum", Json::Array(mine), Json::Array(theirs)) => {
                    Json::Array(mine.iter().filter(|value| theirs.contains(value)).cloned().collect())
                }
                ("minimum" | "exclusiveMinimum" | "minLength" | "minItems", mine, theirs) => {
                    if mine.number() >= theirs.number() { mine.clone() } else { theirs.clone() }
                }
                ("maximum" | "exclusiveMaximum" | "maxLength" | "maxItems", mine, theirs) => {
                    if mine.number() <= theirs.number() { mine.clone() } else { theirs.clone() }
                }
                ("title" | "description" | "default" | "examples" | "$comment", mine, _) => mine.clone(),
                ("additionalProperties", Json::Bool(false), _) | ("additionalProperties", _, Json::Bool(false)) => {
                    Json::Bool(false)
                }
                (word, ..) => return Err(self.unsupported(at, format!("two different `{word}` cannot be joined"))),
            };
            whole[place].1 = joined;
        }
        Ok(Json::Object(whole))
    }

    fn object(&mut self, schema: &Json, at: &str, depth: usize) -> Result<String> {
        let required: Vec<&str> = match schema.get("required") {
            Some(Json::Array(names)) => names.iter().filter_map(Json::text).collect(),
            _ => Vec::new(),
        };
        let mut properties: Vec<(&str, &Json)> = match schema.get("properties") {
            Some(Json::Object(properties)) => properties.iter().map(|(name, schema)| (name.as_str(), schema)).collect(),
            _ => Vec::new(),
        };
        let additional = schema.get("additionalProperties").unwrap_or(&Json::Bool(true));
        for name in &required {
            if !properties.iter().any(|(known, _)| known == name) {
                properties.push((name, additional));
            }
        }
        if properties.is_empty() {
            return match additional {
                Json::Bool(false) => Ok("\"{}\"".into()),
                Json::Bool(true) => Ok(self.share("object")),
                other => {
                    let (string, value) =
                        (self.share("string"), self.schema(other, &format!("{at}/additionalProperties"), depth + 1)?);
                    let pair = self.rule(&format!("{string} \":\" \" \"? {value}"));
                    Ok(self.rule(&format!("\"{{\" ({pair} (\",\" \" \"? {pair})*)? \"}}\"")))
                }
            };
        }
        let mut pairs = Vec::with_capacity(properties.len());
        for (name, property) in &properties {
            let value = self.schema(property, &format!("{at}/properties/{name}"), depth + 1)?;
            let key = Json::Text((*name).to_owned()).to_string();
            pairs
                .push((self.rule(&format!("{} \" \"? {value}", literal(&format!("{key}:")))), required.contains(name)));
        }
        // From the back: what may follow once a property stands there, and what may begin.
        let (mut follows, mut begins) = (String::new(), Some(String::new()));
        for (pair, needed) in pairs.iter().rev() {
            let begin = format!("{pair} {follows}");
            begins = Some(match begins {
                _ if *needed => begin,
                Some(later) if later.is_empty() => format!("({begin})?"),
                Some(later) => {
                    let later = self.rule(&later);
                    format!("{begin} | {later}")
                }
                None => begin,
            });
            let follow = format!("\",\" \" \"? {pair}");
            let body = if *needed { format!("{follow} {follows}") } else { format!("({follow})? {follows}") };
            follows = self.rule(&body);
        }
        let begins = begins.unwrap_or_default();
        let inner = self.rule(&begins);
        Ok(self.rule(&format!("\"{{\" {inner} \"}}\"")))
    }

    fn array(&mut self, schema: &Json, at: &str, depth: usize) -> Result<String> {
        let least = schema.get("minItems").and_then(Json::count).unwrap_or(0);
        let most = schema.get("maxItems").and_then(Json::count);
        if most.is_some_and(|most| most < least) {
            return Err(self.unsupported(at, "`maxItems` is below `minItems`"));
        }
        // The older way to say `prefixItems` is a list as `items`.
        let prefix = match (schema.get("prefixItems"), schema.get("items")) {
            (Some(Json::Array(prefix)), _) | (None, Some(Json::Array(prefix))) => prefix.as_slice(),
            _ => &[],
        };
        if !prefix.is_empty() {
            let items = prefix
                .iter()
                .enumerate()
                .map(|(number, item)| self.schema(item, &format!("{at}/prefixItems/{number}"), depth + 1))
                .collect::<Result<Vec<_>>>()?;
            if least > items.len() as u64 {
                return Err(self.unsupported(at, "a list that begins with `prefixItems` and goes on has no grammar"));
            }
            return Ok(self.rule(&format!("\"[\" {} \"]\"", items.join(" \",\" \" \"? "))));
        }
        if most == Some(0) {
            return Ok("\"[]\"".into());
        }
        let item = match schema.get("items") {
            None => self.share("value"),
            Some(items) => self.schema(items, &format!("{at}/items"), depth + 1)?,
        };
        let item = self.rule(&item);
        let next = self.rule(&format!("\",\" \" \"? {item}"));
        let counted = |least: u64, most: Option<u64>| match most {
            Some(most) if most <= COUNT_MAX => format!("{{{least},{most}}}"),
            _ if least <= COUNT_MAX => format!("{{{least},}}"),
            _ => "*".to_owned(),
        };
        let after = counted(least.saturating_sub(1), most.map(|most| most - 1));
        let body = format!("{item} {next}{after}");
        Ok(self.rule(&if least == 0 { format!("\"[\" ({body})? \"]\"") } else { format!("\"[\" {body} \"]\"") }))
    }

    fn string(&mut self, schema: &Json, at: &str) -> Result<String> {
        if let Some(Json::Text(pattern)) = schema.get("pattern") {
            let body = self.pattern(pattern, at)?;
            return Ok(self.rule(&format!("\"\\\"\" {body} \"\\\"\"")));
        }
        let date = r#"[12] [0-9] [0-9] [0-9] "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])"#;
        let time = r#"([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] "Z""#;
        let body = match schema.get("format").and_then(Json::text) {
            Some("date") => date.to_owned(),
            Some("time") => time.to_owned(),
            Some("date-time") => format!("{date} \"T\" {time}"),
            Some("uuid") => {
                self.share("hex");
                "hex{8} \"-\" hex{4} \"-\" hex{4} \"-\" hex{4} \"-\" hex{12}".to_owned()
            }
            Some("email") => {
                r#"[a-z0-9] [a-z0-9._-]{0,30} [a-z0-9] "@" [a-z0-9] [a-z0-9-]{0,30} [a-z0-9] "." [a-z]{2,6}"#.to_owned()
            }
            Some("ipv4") => {
                let byte = self.rule(r#""25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9]? [0-9]"#);
                format!("{byte} \".\" {byte} \".\" {byte} \".\" {byte}")
            }
            _ => {
                let least = schema.get("minLength").and_then(Json::count).unwrap_or(0);
                let most = schema.get("maxLength").and_then(Json::count);
                if most.is_some_and(|most| most < least) {
                    return Err(self.unsupported(at, "`maxLength` is below `minLength`"));
                }
                let most = most.filter(|most| *most <= COUNT_MAX);
                let character = self.share("char");
                match (least, most) {
                    (0, None) => return Ok(self.share("string")),
                    (_, None) if least > COUNT_MAX => {
                        return Err(self.unsupported(at, format!("`minLength` is over {COUNT_MAX}")));
                    }
                    (least, None) => format!("{character}{{{least},}}"),
                    (least, Some(most)) => format!("{character}{{{least},{most}}}"),
                }
            }
        };
        Ok(self.rule(&format!("\"\\\"\" {body} \"\\\"\"")))
    }

    /// The texts that match a regular expression somewhere, as JSON Schema means it.
    fn pattern(&mut self, pattern: &str, at: &str) -> Result<String> {
        let parsed = regex_syntax::Parser::new().parse(pattern);
        let hir = parsed.map_err(|_| {
            self.unsupported(at, format!("the pattern {pattern:?} is no regular expression that can be used"))
        })?;
        let character = self.share("char");
        // Anchors count at the ends only.
        let parts = if let HirKind::Concat(parts) = hir.kind() { parts.clone() } else { vec![hir] };
        let is = |part: Option<&Hir>, look: Look| {
            part.is_some_and(|part| matches!(part.kind(), HirKind::Look(found) if *found == look))
        };
        let (start, end) = (is(parts.first(), Look::Start), is(parts.last(), Look::End));
        let inner = &parts[usize::from(start)..parts.len() - usize::from(end && parts.len() > usize::from(start))];
        let mut body = String::new();
        if !start {
            let _ = write!(body, "{character}{{0,64}} ");
        }
        for part in inner {
            let _ = write!(body, "{} ", self.expression(part, pattern, at, 0)?);
        }
        if !end {
            let _ = write!(body, "{character}{{0,64}}");
        }
        Ok(if body.trim().is_empty() { "\"\"".into() } else { body })
    }

    fn expression(&mut self, hir: &Hir, pattern: &str, at: &str, depth: usize) -> Result<String> {
        let refused = |grammar: &Self, why: &str| grammar.unsupported(at, format!("the pattern {pattern:?} {why}"));
        if depth > DEPTH_MAX {
            return Err(refused(self, "nests too deep"));
        }
        let all = |grammar: &mut Self, parts: &[Hir], between: &str| -> Result<String> {
            let parts = parts
                .iter()
                .map(|part| grammar.expression(part, pattern, at, depth + 1))
                .collect::<Result<Vec<_>>>()?;
            Ok(format!("({})", parts.join(between)))
        };
        Ok(match hir.kind() {
            HirKind::Empty => "\"\"".into(),
            HirKind::Literal(text) => {
                let text = std::str::from_utf8(&text.0).map_err(|_| refused(self, "holds bytes that are no text"))?;
                let quoted = Json::Text(text.to_owned()).to_string();
                literal(&quoted[1..quoted.len() - 1])
            }
            HirKind::Class(Class::Unicode(class)) => {
                let mut ranges = String::new();
                for range in class.iter() {
                    // What JSON would write as an escape is left out; the class is only narrower for it.
                    let (mut from, to) = (range.start() as u32, range.end() as u32);
                    for hole in
                        [(0, 0x1f), (0x22, 0x22), (0x5c, 0x5c), (0x7f, 0x7f), (0xd800, 0xdfff), (0x11_0000, u32::MAX)]
                    {
                        if from < hole.0 {
                            let last = to.min(hole.0 - 1);
                            let _ = write!(ranges, "\\U{from:08X}");
                            if last > from {
                                let _ = write!(ranges, "-\\U{last:08X}");
                            }
                        }
                        from = from.max(hole.1.saturating_add(1));
                        if from > to {
                            break;
                        }
                    }
                }
                if ranges.is_empty() {
                    return Err(refused(self, "has a class of characters that JSON can only escape"));
                }
                format!("[{ranges}]")
            }
            HirKind::Class(Class::Bytes(_)) => return Err(refused(self, "matches bytes")),
            HirKind::Look(_) => {
                return Err(refused(self, "looks around; only ^ at its start and $ at its end can be used"));
            }
            HirKind::Repetition(repetition) => {
                let inner = self.expression(&repetition.sub, pattern, at, depth + 1)?;
                let inner = self.rule(&inner);
                let (least, most) = (u64::from(repetition.min), repetition.max.map(u64::from));
                if least > COUNT_MAX {
                    return Err(refused(self, "repeats too often"));
                }
                match most {
                    Some(most) if most <= COUNT_MAX => format!("{inner}{{{least},{most}}}"),
                    _ => format!("{inner}{{{least},}}"),
                }
            }
            HirKind::Capture(capture) => self.expression(&capture.sub, pattern, at, depth + 1)?,
            HirKind::Concat(parts) => all(self, parts, " ")?,
            HirKind::Alternation(parts) => all(self, parts, " | ")?,
        })
    }

    fn number(&mut self, schema: &Json, at: &str, integer: bool) -> Result<String> {
        let bound = |name: &str| schema.get(name).map(Json::number);
        let (mut low, mut high) = (bound("minimum").flatten(), bound("maximum").flatten());
        let (above, below) = (bound("exclusiveMinimum").flatten(), bound("exclusiveMaximum").flatten());
        if low.is_none() && high.is_none() && above.is_none() && below.is_none() {
            return Ok(self.share(if integer { "integer" } else { "number" }));
        }
        // Bounds that do not count themselves move in by the smallest step that is written.
        const STEP: f64 = 1e-6;
        if let Some(above) = above {
            let next = if integer { above.floor() + 1.0 } else { above + STEP };
            low = Some(low.map_or(next, |low| low.max(next)));
        }
        if let Some(below) = below {
            let next = if integer { below.ceil() - 1.0 } else { below - STEP };
            high = Some(high.map_or(next, |high| high.min(next)));
        }
        let limit = 10f64.powi(DIGITS_MAX as i32) - 1.0;
        let (low, high) = (low.unwrap_or(-limit).max(-limit), high.unwrap_or(limit).min(limit));
        let (low, high) = if integer { (low.ceil(), high.floor()) } else { (low, high) };
        if low > high {
            return Err(self.unsupported(at, "no number is within its bounds"));
        }
        let mut parts = Vec::new();
        if high >= 0.0 {
            parts.extend(magnitudes(low.max(0.0), high, integer));
        }
        if low < 0.0 {
            let below = magnitudes((-high).max(if integer { 1.0 } else { 0.0 }), -low, integer);
            parts.extend(below.iter().map(|part| format!("\"-\" ({part})")));
        }
        if parts.is_empty() {
            return Err(self.unsupported(at, "no number that can be written is within its bounds"));
        }
        Ok(self.rule(&parts.join(" | ")))
    }
}

/// Numbers from `low` to `high`, neither of them negative.
fn magnitudes(low: f64, high: f64, integer: bool) -> Vec<String> {
    if integer {
        return integers(low as u64, high as u64);
    }
    const PLACES: usize = 6;
    let units = 10f64.powi(PLACES as i32);
    let mut parts = Vec::new();
    let (first, last) = (low.ceil(), high.floor());
    // Whole numbers, and those with any fraction as long as the next whole number is within the bounds too.
    if first <= last {
        parts.extend(integers(first as u64, last as u64));
        if first < last {
            let wholes = integers(first as u64, last as u64 - 1);
            parts.push(format!("({}) \".\" [0-9]{{1,{PLACES}}}", wholes.join(" | ")));
        }
    }
    // What lies between a bound and the whole number next to it: exactly six places, which can be compared as digits.
    let mut between = |whole: f64, from: f64, to: f64| {
        let (from, to) = ((from * units).ceil() as u64, (to * units).floor() as u64);
        if from <= to && from < units as u64 {
            let to = to.min(units as u64 - 1);
            let digits = same_length(&format!("{from:0PLACES$}"), &format!("{to:0PLACES$}"));
            parts.push(format!("\"{}.\" ({})", whole as u64, digits.join(" | ")));
        }
    };
    if low.floor() == high.floor() {
        if low < high {
            between(low.floor(), low - low.floor(), high - low.floor());
        }
    } else {
        if low.fract() > 0.0 {
            between(low.floor(), low.fract(), 1.0);
        }
        if high.fract() > 0.0 {
            between(last, 0.0, high.fract());
        }
    }
    parts
}

/// Whole numbers from `low` to `high`.
fn integers(low: u64, high: u64) -> Vec<String> {
    let mut parts = Vec::new();
    let (first, last) = (low.to_string(), high.to_string());
    for length in first.len()..=last.len() {
        let from = if length == first.len() { first.clone() } else { format!("1{}", "0".repeat(length - 1)) };
        let to = if length == last.len() { last.clone() } else { "9".repeat(length) };
        parts.extend(same_length(&from, &to));
    }
    parts
}

/// Digits from `low` to `high`, which have the same number of them.
fn same_length(low: &str, high: &str) -> Vec<String> {
    let Some(first) = low.chars().next() else { return vec!["\"\"".into()] };
    let last = high.chars().next().expect("they have the same length");
    let (low, high) = (&low[1..], &high[1..]);
    let zeros = low.bytes().all(|digit| digit == b'0');
    let nines = high.bytes().all(|digit| digit == b'9');
    let any = |length: usize| if length == 0 { String::new() } else { format!(" [0-9]{{{length}}}") };
    if zeros && nines {
        return vec![format!("[{first}-{last}]{}", any(low.len()))];
    }
    if first == last {
        return same_length(low, high).iter().map(|rest| format!("\"{first}\" ({rest})")).collect();
    }
    let next = |digit: char, by: i8| (digit as u8).wrapping_add_signed(by) as char;
    let mut parts = Vec::new();
    let (mut from, mut to) = (first, last);
    if !zeros {
        let rest = same_length(low, &"9".repeat(low.len())).join(" | ");
        parts.push(format!("\"{first}\" ({rest})"));
        from = next(first, 1);
    }
    if !nines {
        let rest = same_length(&"0".repeat(high.len()), high).join(" | ");
        parts.push(format!("\"{last}\" ({rest})"));
        to = next(last, -1);
    }
    if from <= to {
        parts.push(format!("[{from}-{to}]{}", any(low.len())));
    }
    parts
}

/// A text as a grammar writes it.
fn literal(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
