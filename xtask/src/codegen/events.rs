//! `tables/events.toml` → the types of events, messages and what they are made of, in every language, and the table in the docs.

use std::fmt::Write;

use serde::Deserialize;

use super::{Generated, camel};

const NOTE: &str = "Made by `cargo xtask codegen` from engine/lomusai_wire/tables/events.toml. Do not edit.";
const FAMILIES: [&str; 6] = ["run", "effect", "message", "signal", "state", "note"];
/// Where a line of generated code is broken.
const WIDTH: usize = 120;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    r#enum: Vec<Words>,
    r#type: Vec<Record>,
    part: Vec<Record>,
    envelope: Envelope,
    event: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    name: String,
    doc: String,
    values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    name: String,
    doc: String,
    fields: Vec<Field>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    doc: String,
    fields: Vec<Field>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    name: String,
    family: String,
    durable: String,
    doc: String,
    #[serde(default)]
    fields: Vec<Field>,
    /// A record whose fields are the event's own.
    #[serde(default)]
    include: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    name: String,
    r#type: String,
    #[serde(default)]
    optional: bool,
}

impl Event {
    fn is_durable(&self) -> bool {
        self.durable == "yes"
    }

    fn class(&self) -> String {
        format!("{}Event", camel(&self.name))
    }

    fn title(&self) -> String {
        let kept = match self.durable.as_str() {
            "yes" => "",
            "no" => "Transient. ",
            _ => "Durable when asked. ",
        };
        format!("`{}`: {kept}{}", self.name, self.doc)
    }
}

impl Record {
    /// The class of a part of this tag.
    fn part_class(&self) -> String {
        format!("{}Part", camel(&self.name))
    }
}

pub(super) fn generate(toml: &str) -> Result<Vec<Generated>, String> {
    let table: Table = toml::from_str(toml).map_err(|e| format!("events.toml: {e}"))?;
    for event in &table.event {
        if !FAMILIES.contains(&event.family.as_str()) {
            return Err(format!("events.toml: `{}` has the unknown family `{}`", event.name, event.family));
        }
        if !["yes", "no", "when asked"].contains(&event.durable.as_str()) {
            return Err(format!("events.toml: `{}`: durable must be yes, no or when asked", event.name));
        }
        if let Some(name) = event.include.as_ref().filter(|name| !table.r#type.iter().any(|t| t.name == **name)) {
            return Err(format!("events.toml: `{}` includes the unknown type `{name}`", event.name));
        }
    }
    Ok(vec![docs(&table), typescript(&table), python(&table)])
}

/// A type of the table in a language's words: `each` translates one name, `list` wraps an element.
fn translate(text: &str, each: &dyn Fn(&str) -> String, list: &dyn Fn(String) -> String) -> String {
    let one = |text: &str| match text.strip_suffix("[]") {
        Some(element) => list(each(element)),
        None => each(text),
    };
    text.split(" | ").map(one).collect::<Vec<_>>().join(" | ")
}

fn docs(table: &Table) -> Generated {
    let mut out = format!("# Events\n\n<!-- {NOTE} -->\n\n");
    out.push_str(
        "Everything a run says, in order. The stream, the journal and a trace read the same events. Durable ones are the journal: \
         a run's state is their fold. Transient ones exist only for those who watch.\n\n\
         A reader must expect types that it does not know: the wire grows by addition. A field marked `?` is left out where it says nothing.\n\n",
    );
    out.push_str("| family | event | durable | meaning |\n|---|---|---|---|\n");
    for event in FAMILIES.iter().flat_map(|family| table.event.iter().filter(move |event| event.family == *family)) {
        let _ = writeln!(out, "| {} | `{}` | {} | {} |", event.family, event.name, event.durable, event.doc);
    }
    let _ = write!(out, "\n## Envelope\n\n{}\n\n", table.envelope.doc);
    fields_table(&mut out, &table.envelope.fields);
    out.push_str("\n## Fields\n");
    for event in &table.event {
        let _ = write!(out, "\n### `{}`\n\n{}\n\n", event.name, event.doc);
        match &event.include {
            Some(name) => {
                let _ = writeln!(out, "The fields of `{name}`.");
            }
            None if event.fields.is_empty() => out.push_str("No fields of its own.\n"),
            None => fields_table(&mut out, &event.fields),
        }
    }
    out.push_str("\n## Parts of a message\n\nA part is tagged by `type`. One of an unknown type is kept as it came.\n");
    for part in &table.part {
        let _ = write!(out, "\n### `{}` part\n\n{}\n\n", part.name, part.doc);
        fields_table(&mut out, &part.fields);
    }
    out.push_str("\n## Records\n");
    for record in &table.r#type {
        let _ = write!(out, "\n### `{}`\n\n{}\n\n", record.name, record.doc);
        fields_table(&mut out, &record.fields);
    }
    out.push_str("\n## Words\n\n| type | values | meaning |\n|---|---|---|\n");
    for words in &table.r#enum {
        let values: Vec<String> = words.values.iter().map(|value| format!("`{value}`")).collect();
        let _ = writeln!(out, "| `{}` | {} | {} |", words.name, values.join(" "), words.doc);
    }
    Generated { path: "docs/events.md", text: out }
}

fn fields_table(out: &mut String, fields: &[Field]) {
    out.push_str("| field | type |\n|---|---|\n");
    for field in fields {
        let optional = if field.optional { "?" } else { "" };
        let _ = writeln!(out, "| `{}{optional}` | {} |", field.name, field.r#type.replace('|', "or"));
    }
}

fn typescript(table: &Table) -> Generated {
    let mut out = format!(
        "// Events, messages and what they are made of.\n// {NOTE}\n\nimport type {{ ErrorCode, ErrorKind }} from './errors';\n\n"
    );
    for words in &table.r#enum {
        let values = words.values.iter().map(|value| format!("'{value}'")).collect();
        let _ = write!(out, "/** {} */\n{}\n", words.doc, union(&words.name, values));
    }
    for record in &table.r#type {
        interface(&mut out, &record.doc, &record.name, "", None, &record.fields);
    }
    for part in &table.part {
        interface(&mut out, &part.doc, &part.part_class(), "", Some(&part.name), &part.fields);
    }
    let _ = write!(
        out,
        "/** A piece of a message. A part of an unknown type is kept as it came: have a default branch. */\n{}\n",
        union("Part", table.part.iter().map(Record::part_class).collect())
    );
    interface(&mut out, &table.envelope.doc, "Envelope", "", None, &table.envelope.fields);
    for event in &table.event {
        let extends = match &event.include {
            Some(name) => format!(" extends Envelope, {name}"),
            None => " extends Envelope".to_owned(),
        };
        interface(&mut out, &event.title(), &event.class(), &extends, Some(&event.name), &event.fields);
    }
    let durable = table.event.iter().filter(|event| event.is_durable());
    let _ = write!(
        out,
        "/** Everything a run says. Later versions may say more: have a default branch. */\n{}\n",
        union("RunEvent", table.event.iter().map(Event::class).collect())
    );
    let _ = write!(
        out,
        "/** The events that are always kept in the journal. */\n{}",
        union("DurableEvent", durable.map(Event::class).collect())
    );
    Generated { path: "bindings/node/lib/events.d.ts", text: out }
}

fn union(name: &str, members: Vec<String>) -> String {
    let line = format!("export type {name} = {};\n", members.join(" | "));
    if line.len() <= WIDTH { line } else { format!("export type {name} =\n  | {};\n", members.join("\n  | ")) }
}

fn interface(out: &mut String, doc: &str, name: &str, extends: &str, tag: Option<&str>, fields: &[Field]) {
    let _ = writeln!(out, "{}export interface {name}{extends} {{", jsdoc(doc));
    if let Some(tag) = tag {
        let _ = writeln!(out, "  type: '{tag}';");
    }
    for field in fields {
        let optional = if field.optional { "?" } else { "" };
        let each = |name: &str| match name {
            "text" => "string".to_owned(),
            "integer" => "number".to_owned(),
            "json" => "unknown".to_owned(),
            "object" => "Record<string, unknown>".to_owned(),
            name => name.to_owned(),
        };
        let kind = translate(&field.r#type, &each, &|element| format!("{element}[]"));
        let _ = writeln!(out, "  {}{optional}: {kind};", field.name);
    }
    out.push_str("}\n\n");
}

fn python(table: &Table) -> Generated {
    let mut out = format!(
        r#""""Events, messages and what they are made of, as typed dictionaries.

{NOTE}
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypedDict, Union

from .errors import ErrorKind

"#
    );
    let mut names: Vec<String> = Vec::new();
    for words in &table.r#enum {
        let values: Vec<String> = words.values.iter().map(|value| format!("\"{value}\"")).collect();
        alias(&mut out, &mut names, &words.name, "Literal", &values, &words.doc);
    }
    for record in &table.r#type {
        typed_dict(&mut out, &mut names, &record.doc, &record.name, "TypedDict", None, &record.fields);
    }
    for part in &table.part {
        typed_dict(&mut out, &mut names, &part.doc, &part.part_class(), "TypedDict", Some(&part.name), &part.fields);
    }
    out.push_str("\n\n");
    let parts: Vec<String> = table.part.iter().map(Record::part_class).collect();
    alias(
        &mut out,
        &mut names,
        "Part",
        "Union",
        &parts,
        "A piece of a message. One of an unknown type is kept as it came.",
    );
    typed_dict(&mut out, &mut names, &table.envelope.doc, "Envelope", "TypedDict", None, &table.envelope.fields);
    for event in &table.event {
        let bases = event.include.as_ref().map_or_else(|| "Envelope".to_owned(), |name| format!("Envelope, {name}"));
        typed_dict(&mut out, &mut names, &event.title(), &event.class(), &bases, Some(&event.name), &event.fields);
    }
    out.push_str("\n\n");
    let events: Vec<String> = table.event.iter().map(Event::class).collect();
    alias(&mut out, &mut names, "RunEvent", "Union", &events, "Everything a run says. Later versions may say more.");
    let durable: Vec<String> = table.event.iter().filter(|event| event.is_durable()).map(Event::class).collect();
    alias(&mut out, &mut names, "DurableEvent", "Union", &durable, "The events that are always kept in the journal.");
    names.sort();
    let names: Vec<String> = names.iter().map(|name| format!("    \"{name}\",\n")).collect();
    let _ = write!(out, "\n__all__ = [\n{}]\n", names.concat());
    Generated { path: "bindings/python/python/lomusai/events.py", text: out }
}

fn alias(out: &mut String, names: &mut Vec<String>, name: &str, of: &str, members: &[String], doc: &str) {
    names.push(name.to_owned());
    let line = format!("{name}: TypeAlias = {of}[{}]\n", members.join(", "));
    if line.len() <= WIDTH {
        out.push_str(&line);
    } else {
        let _ = write!(out, "{name}: TypeAlias = {of}[\n    {},\n]\n", members.join(",\n    "));
    }
    let _ = writeln!(out, "\"\"\"{doc}\"\"\"");
}

/// A dictionary class. Where some fields may be absent and some not it takes two: `NotRequired` came with Python 3.11.
fn typed_dict(
    out: &mut String,
    names: &mut Vec<String>,
    doc: &str,
    name: &str,
    bases: &str,
    tag: Option<&str>,
    fields: &[Field],
) {
    names.push(name.to_owned());
    let line = |field: &Field| {
        let each = |name: &str| match name {
            "text" | "ErrorCode" => "str".to_owned(),
            "integer" => "int".to_owned(),
            "number" => "float".to_owned(),
            "boolean" => "bool".to_owned(),
            "json" => "Any".to_owned(),
            "object" => "dict[str, Any]".to_owned(),
            name => name.to_owned(),
        };
        let kind = translate(&field.r#type, &each, &|element| format!("list[{element}]"));
        format!("    {}: {kind}\n", field.name)
    };
    let tag: Option<String> = tag.map(|tag| format!("    type: Literal[\"{tag}\"]\n"));
    let required: String = tag.into_iter().chain(fields.iter().filter(|field| !field.optional).map(line)).collect();
    let optional: String = fields.iter().filter(|field| field.optional).map(line).collect();
    let doc = docstring(doc);
    let _ = match (required.is_empty(), optional.is_empty()) {
        (_, true) => write!(out, "\n\nclass {name}({bases}):\n{doc}\n{required}"),
        (true, false) => write!(out, "\n\nclass {name}({bases}, total=False):\n{doc}\n{optional}"),
        (false, false) => write!(
            out,
            "\n\nclass _{name}({bases}):\n{required}\n\nclass {name}(_{name}, total=False):\n{doc}\n{optional}"
        ),
    };
}

/// A comment before a declaration.
fn jsdoc(doc: &str) -> String {
    let line = format!("/** {doc} */\n");
    if line.len() <= WIDTH { line } else { format!("/**\n * {}\n */\n", wrapped(doc, WIDTH - 3).join("\n * ")) }
}

/// A docstring in a class.
fn docstring(doc: &str) -> String {
    let line = format!("    \"\"\"{doc}\"\"\"\n");
    if line.len() <= WIDTH + 1 {
        line
    } else {
        // The quotes stand before the first line: the room is counted as if before all.
        format!("    \"\"\"{}\n    \"\"\"\n", wrapped(doc, WIDTH - 7).join("\n    "))
    }
}

/// A text in lines of at most `width`.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("never empty");
        if last.is_empty() {
            last.push_str(word);
        } else if last.len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            last.push(' ');
            last.push_str(word);
        }
    }
    lines
}
