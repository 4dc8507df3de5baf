//! Turns a schema into what a [`Subset`] takes, place by place, and notes what got lost.

use std::collections::BTreeSet;

use lomusai_wire::RawJson;
use serde_json::Value;

use super::pattern;
use super::subset::{Compiled, Counts, Loss, Nulls, References, Subset};
use super::tree::{Object, Tree};

/// Keywords that say nothing about values: what is lost of them is not told to the model.
const NOTES: [&str; 12] = [
    "$schema",
    "$id",
    "$comment",
    "$anchor",
    "title",
    "description",
    "examples",
    "example",
    "default",
    "deprecated",
    "readOnly",
    "writeOnly",
];

/// The schema as the provider takes it.
pub(super) fn compile(subset: &Subset, schema: &RawJson) -> Compiled {
    let original = Tree::parse(schema);
    let mut compiler = Compiler { subset, root: original.clone(), lost: Vec::new(), inside: Vec::new() };
    let mut tree = compiler.schema(original, "", 0);
    if subset.root_object {
        compiler.root(&mut tree);
    }
    let schema = tree.to_raw();
    if let Some(most) = subset.counts_max {
        let mut counts = Counts::default();
        counts.add(&schema.to_value());
        if counts.optional > most.optional {
            let reason = format!("{} are optional, of which {} are taken", counts.optional, most.optional);
            compiler.lose("", "properties", true, reason);
        }
        if counts.unions > most.unions {
            let reason = format!("{} are of several types, of which {} are taken", counts.unions, most.unions);
            compiler.lose("", "anyOf", true, reason);
        }
    }
    Compiled { schema, lost: compiler.lost }
}

impl Counts {
    fn add(&mut self, schema: &Value) {
        let Value::Object(schema) = schema else {
            schema.as_array().into_iter().flatten().for_each(|one| self.add(one));
            return;
        };
        self.unions += usize::from(schema.contains_key("anyOf") || schema.get("type").is_some_and(Value::is_array));
        for (keyword, value) in schema {
            match (keyword.as_str(), value) {
                ("properties" | "$defs" | "definitions", Value::Object(named)) => {
                    let required = schema.get("required").and_then(Value::as_array);
                    let is_optional =
                        |name: &str| !required.is_some_and(|names| names.iter().any(|known| known == name));
                    if keyword == "properties" {
                        self.optional += named.keys().filter(|name| is_optional(name)).count();
                    }
                    named.values().for_each(|one| self.add(one));
                }
                ("enum" | "const" | "default" | "required", _) => {}
                (_, value) => self.add(value),
            }
        }
    }
}

struct Compiler<'a> {
    subset: &'a Subset,
    root: Tree,
    lost: Vec<Loss>,
    /// References that are being put in place.
    inside: Vec<String>,
}

fn pointer_to(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

impl Compiler<'_> {
    fn lose(&mut self, pointer: &str, keyword: &str, narrows: bool, reason: impl Into<String>) {
        let loss = Loss { pointer: pointer.to_owned(), keyword: keyword.to_owned(), reason: reason.into(), narrows };
        if !self.lost.contains(&loss) {
            self.lost.push(loss);
        }
    }

    fn schema(&mut self, schema: Tree, pointer: &str, depth: usize) -> Tree {
        let mut object = match schema {
            Tree::Object(object) => object,
            // `true` is any value. `false` is none, which no provider can be told.
            Tree::Plain(Value::Bool(allowed)) => {
                if !allowed {
                    self.lose(
                        pointer,
                        "false",
                        false,
                        "a schema that allows nothing cannot be told; it allows anything now",
                    );
                }
                if self.subset.keywords.is_none() {
                    return Tree::Plain(Value::Bool(true));
                }
                Object::default()
            }
            other => return other,
        };
        if self.subset.references == References::None {
            object.remove("$defs");
            object.remove("definitions");
        }
        // First, since a choice of a reference and null becomes the reference.
        self.types(&mut object, pointer);
        if let Some(found) = self.reference(&mut object, pointer, depth) {
            return found;
        }
        self.merge_all_of(&mut object, pointer);
        self.choices(&mut object, pointer);
        self.types(&mut object, pointer);
        self.constants(&mut object, pointer);
        self.patterns(&mut object, pointer);
        self.tuples(&mut object);
        self.drop_untaken(&mut object, pointer);
        self.children(&mut object, pointer, depth);
        self.objects(&mut object, pointer, depth);
        Tree::Object(object)
    }

    /// Puts what a reference names in its place, where the provider takes none.
    fn reference(&mut self, object: &mut Object, pointer: &str, depth: usize) -> Option<Tree> {
        let name = object.get("$ref")?.as_str()?.to_owned();
        let taken = match self.subset.references {
            References::All => name.starts_with('#'),
            References::Finite => name.starts_with('#') && !self.is_recursive(&name),
            References::None => false,
        };
        if taken || self.subset.keywords.is_none() && self.subset.references == References::All {
            return None;
        }
        object.remove("$ref");
        let target = self.find(&name).cloned();
        let Some(target) = target else {
            self.lose(
                pointer,
                "$ref",
                false,
                format!("`{name}` is in another document, or nowhere; anything is allowed now"),
            );
            return None;
        };
        if self.inside.contains(&name) {
            self.lose(
                pointer,
                "$ref",
                false,
                format!("`{name}` holds itself, which {} cannot say; anything is allowed there now", self.subset.name),
            );
            return None;
        }
        // What stands beside a reference goes before what it names.
        let mut merged = match target {
            Tree::Object(target) => target,
            other => return Some(self.schema(other, pointer, depth)),
        };
        for (field, value) in std::mem::take(&mut object.0) {
            merged.set(&field, value);
        }
        self.inside.push(name);
        let tree = self.schema(Tree::Object(merged), pointer, depth);
        self.inside.pop();
        Some(tree)
    }

    fn find(&self, name: &str) -> Option<&Tree> {
        let path = name.strip_prefix('#')?;
        path.split('/').skip(1).try_fold(&self.root, |tree, step| {
            let step = step.replace("~1", "/").replace("~0", "~");
            match tree {
                Tree::Object(object) => object.get(&step),
                Tree::List(items) => items.get(step.parse::<usize>().ok()?),
                Tree::Plain(_) => None,
            }
        })
    }

    fn is_recursive(&self, name: &str) -> bool {
        fn reaches(compiler: &Compiler<'_>, tree: &Tree, wanted: &str, seen: &mut BTreeSet<String>) -> bool {
            match tree {
                Tree::Plain(_) => false,
                Tree::List(items) => items.iter().any(|item| reaches(compiler, item, wanted, seen)),
                Tree::Object(object) => object.0.iter().any(|(field, value)| match (field.as_str(), value.as_str()) {
                    ("$ref", Some(name)) => {
                        name == wanted
                            || seen.insert(name.to_owned())
                                && compiler.find(name).is_some_and(|target| reaches(compiler, target, wanted, seen))
                    }
                    _ => reaches(compiler, value, wanted, seen),
                }),
            }
        }
        self.find(name).is_some_and(|target| reaches(self, target, name, &mut BTreeSet::new()))
    }

    /// Makes one object of all that must hold, where the provider has no word for that.
    fn merge_all_of(&mut self, object: &mut Object, pointer: &str) {
        if self.subset.takes("allOf") {
            return;
        }
        let Some(Tree::List(parts)) = object.remove("allOf") else { return };
        for (index, part) in parts.into_iter().enumerate() {
            let part = match part {
                Tree::Object(mut part) => {
                    if let Some(name) = part.get("$ref").and_then(Tree::as_str).map(str::to_owned) {
                        part.remove("$ref");
                        let Some(Tree::Object(target)) = self.find(&name).cloned() else {
                            self.lose(pointer, "allOf", false, format!("`{name}` is not in this document"));
                            continue;
                        };
                        for (field, value) in target.0 {
                            if part.get(&field).is_none() {
                                part.set(&field, value);
                            }
                        }
                    }
                    part
                }
                _ => continue,
            };
            for (field, value) in part.0 {
                self.merge_field(object, &field, value, &format!("{pointer}/allOf/{index}"));
            }
        }
    }

    fn merge_field(&mut self, object: &mut Object, field: &str, value: Tree, pointer: &str) {
        match (object.get_mut(field), value) {
            (None, value) => object.set(field, value),
            (Some(Tree::Object(old)), Tree::Object(new)) if field == "properties" || field == "$defs" => {
                for (name, schema) in new.0 {
                    match old.get(&name) {
                        None => old.set(&name, schema),
                        Some(same) if *same == schema => {}
                        Some(_) => self.lose(
                            pointer,
                            "allOf",
                            false,
                            format!("property `{name}` is described twice; only the first is kept"),
                        ),
                    }
                }
            }
            (Some(Tree::List(old)), Tree::List(new)) if field == "required" => {
                new.into_iter().for_each(|name| {
                    if !old.contains(&name) {
                        old.push(name)
                    }
                });
            }
            (Some(old), new) if *old == new || NOTES.contains(&field) => {}
            (Some(_), _) => {
                self.lose(pointer, "allOf", false, format!("`{field}` is there twice; only the first is kept"))
            }
        }
    }

    fn choices(&mut self, object: &mut Object, pointer: &str) {
        if self.subset.takes("oneOf") || object.get("oneOf").is_none() {
            return;
        }
        if object.get("anyOf").is_some() {
            return;
        }
        let place = object.0.iter().position(|(field, _)| field == "oneOf").expect("it is there");
        object.0[place].0 = "anyOf".to_owned();
        self.lose(pointer, "oneOf", false, "any of them is allowed now, and not just one");
    }

    fn constants(&mut self, object: &mut Object, pointer: &str) {
        if !self.subset.takes("const")
            && let Some(place) = object.0.iter().position(|(field, _)| field == "const")
        {
            let value = object.0[place].1.clone();
            if object.get("enum").is_none() {
                object.0[place] = ("enum".to_owned(), Tree::List(vec![value]));
            }
        }
        if !self.subset.text_enums {
            return;
        }
        let Some(Tree::List(values)) = object.get("enum") else { return };
        let texts: Vec<Tree> = values.iter().filter(|value| value.as_str().is_some()).cloned().collect();
        let (all, nulls) = (values.len(), values.iter().filter(|value| value.is_null()).count());
        if texts.len() == all {
            return;
        }
        if texts.len() + nulls == all && !texts.is_empty() {
            object.set("enum", texts);
            object.set("nullable", true);
            return;
        }
        let values = object.remove("enum").expect("it is there");
        self.lose(
            pointer,
            "enum",
            false,
            "values that are no texts cannot be listed; any value of the type is allowed now",
        );
        describe(object, &format!("one of {}", serde_json::to_string(&values).unwrap_or_default()));
    }

    /// Has a pattern match the whole text, where the provider does so.
    fn patterns(&mut self, object: &mut Object, pointer: &str) {
        if !self.subset.whole_patterns {
            return;
        }
        let Some(text) = object.get("pattern").and_then(Tree::as_str).map(str::to_owned) else { return };
        match pattern::whole(&text) {
            Some(whole) => object.set("pattern", whole.as_str()),
            None => {
                object.remove("pattern");
                let reason = format!("{} have no `pattern` like this; it is told in the description", self.subset.name);
                self.lose(pointer, "pattern", false, reason);
                describe(object, &format!("pattern: {}", Value::from(text)));
            }
        }
    }

    /// A list of `items`, of drafts before 2020-12, by its new name.
    fn tuples(&self, object: &mut Object) {
        if self.subset.keywords.is_none() || !self.subset.takes("prefixItems") {
            return;
        }
        for (field, value) in &mut object.0 {
            if field == "items" && value.as_list().is_some() {
                "prefixItems".clone_into(field);
            }
        }
    }

    /// `["string", "null"]` in the words of the provider.
    fn types(&mut self, object: &mut Object, pointer: &str) {
        if self.subset.nulls == Nulls::Types {
            return;
        }
        if let Some(Tree::List(types)) = object.get("type").cloned() {
            let nullable = types.iter().any(|name| name.as_str() == Some("null"));
            let others: Vec<Tree> = types.into_iter().filter(|name| name.as_str() != Some("null")).collect();
            match others.as_slice() {
                [only] => object.set("type", only.clone()),
                [] => {
                    object.remove("type");
                }
                _ => {
                    object.remove("type");
                    if object.get("anyOf").is_none() {
                        let each = others.into_iter().map(|name| Object(vec![("type".into(), name)]).into());
                        object.set("anyOf", each.collect::<Vec<Tree>>());
                    } else {
                        self.lose(
                            pointer,
                            "type",
                            false,
                            "several types beside a choice cannot be said; any type is allowed now",
                        );
                    }
                }
            }
            if nullable {
                object.set("nullable", true);
            }
        }
        if object.get("type").and_then(Tree::as_str) == Some("null") {
            object.remove("type");
            object.set("nullable", true);
        }
        // A choice of something and null.
        if let Some(Tree::List(choices)) = object.get_mut("anyOf") {
            let before = choices.len();
            choices.retain(|choice| {
                choice.as_object().and_then(|choice| choice.get("type")).and_then(Tree::as_str) != Some("null")
            });
            let (after, only) = (choices.len(), choices.first().cloned());
            if after < before {
                object.set("nullable", true);
            }
            if let (1, Some(Tree::Object(only))) = (after, only)
                && after < before
            {
                object.remove("anyOf");
                for (field, value) in only.0 {
                    if object.get(&field).is_none() {
                        object.set(&field, value);
                    }
                }
            }
        }
    }

    fn drop_untaken(&mut self, object: &mut Object, pointer: &str) {
        let mut told = Vec::new();
        for (field, value) in std::mem::take(&mut object.0) {
            let taken = match field.as_str() {
                "format" => {
                    let known = |formats: &[&str]| value.as_str().is_some_and(|format| formats.contains(&format));
                    self.subset.takes("format") && self.subset.formats.is_none_or(known)
                }
                "minItems" if self.subset.small_min_items => {
                    matches!(&value, Tree::Plain(number) if number.as_u64().is_some_and(|n| n <= 1))
                }
                // Who does not know lists of them refuses the schema.
                "items" if value.as_list().is_some() && self.subset.keywords.is_some() => false,
                // Said by what the children and the closing below make of it.
                "additionalProperties" | "$defs" | "definitions" => true,
                "nullable" if self.subset.nulls == Nulls::Nullable => true,
                field => self.subset.takes(field),
            };
            if taken {
                object.0.push((field, value));
                continue;
            }
            let note = NOTES.contains(&field.as_str());
            if !note {
                told.push(format!("{field}: {}", serde_json::to_string(&value).unwrap_or_default()));
            }
            if !matches!(field.as_str(), "$schema" | "$id" | "$comment" | "$anchor") {
                let reason = format!(
                    "{} have no `{field}`{}",
                    self.subset.name,
                    if note { "" } else { " like this; it is told in the description" }
                );
                self.lose(pointer, &field, false, reason);
            }
        }
        if !told.is_empty() {
            describe(object, &told.join(", "));
        }
    }

    fn children(&mut self, object: &mut Object, pointer: &str, depth: usize) {
        for (field, value) in &mut object.0 {
            let here = pointer_to(pointer, field);
            match (field.as_str(), value) {
                (
                    "properties" | "$defs" | "definitions" | "patternProperties" | "dependentSchemas",
                    Tree::Object(schemas),
                ) => {
                    let deeper = depth + usize::from(field == "properties");
                    for (name, schema) in &mut schemas.0 {
                        let taken = std::mem::replace(schema, Tree::Plain(Value::Null));
                        *schema = self.schema(taken, &pointer_to(&here, name), deeper);
                    }
                }
                ("anyOf" | "allOf" | "oneOf" | "prefixItems" | "items", Tree::List(schemas)) => {
                    for (index, schema) in schemas.iter_mut().enumerate() {
                        let taken = std::mem::replace(schema, Tree::Plain(Value::Null));
                        *schema = self.schema(taken, &format!("{here}/{index}"), depth);
                    }
                }
                (
                    "items"
                    | "additionalProperties"
                    | "not"
                    | "if"
                    | "then"
                    | "else"
                    | "contains"
                    | "propertyNames"
                    | "unevaluatedProperties"
                    | "unevaluatedItems",
                    schema @ Tree::Object(_),
                ) => {
                    let taken = std::mem::replace(schema, Tree::Plain(Value::Null));
                    *schema = self.schema(taken, &here, depth);
                }
                _ => {}
            }
        }
    }

    /// Closes objects and requires all, where the provider asks for that.
    fn objects(&mut self, object: &mut Object, pointer: &str, depth: usize) {
        let is_object = match object.get("type") {
            Some(Tree::List(types)) => types.iter().any(|name| name.as_str() == Some("object")),
            Some(name) => name.as_str() == Some("object"),
            None => object.get("properties").is_some(),
        };
        if !is_object {
            if !self.subset.takes("additionalProperties") {
                object.remove("additionalProperties");
            }
            return;
        }
        if self.subset.depth_max.is_some_and(|most| depth > most) {
            self.lose(
                pointer,
                "properties",
                true,
                format!("{} nest {} deep at most", self.subset.name, self.subset.depth_max.unwrap_or(0)),
            );
        }
        let open = match object.get("additionalProperties") {
            Some(Tree::Plain(Value::Bool(false))) => Open::No,
            None | Some(Tree::Plain(Value::Bool(true))) => Open::Any,
            Some(_) => Open::Map,
        };
        let bare = object.get("properties").and_then(Tree::as_object).is_none_or(|properties| properties.0.is_empty());
        if self.subset.closed {
            match open {
                Open::No => {}
                Open::Map => self.lose(
                    pointer,
                    "additionalProperties",
                    true,
                    "objects must be closed: names that are not listed cannot be used",
                ),
                // With names listed, others are an accident of JSON Schema and not what anybody asked for; without, they are all there is.
                Open::Any if bare => {
                    self.lose(
                        pointer,
                        "additionalProperties",
                        true,
                        "objects must be closed: an object of anything is empty now",
                    );
                }
                Open::Any => {}
            }
            object.set("additionalProperties", false);
        } else if self.subset.opened_by_word {
            // With names listed, others are an accident of JSON Schema, as above; an empty list of them means that there are none.
            if matches!(open, Open::Any) && object.get("properties").is_none() {
                object.set("additionalProperties", true);
            }
        } else if !self.subset.takes("additionalProperties") && object.remove("additionalProperties").is_some() {
            match open {
                Open::Map => {
                    self.lose(
                        pointer,
                        "additionalProperties",
                        false,
                        format!("{} cannot describe names that are not listed", self.subset.name),
                    );
                }
                Open::No => {
                    self.lose(
                        pointer,
                        "additionalProperties",
                        false,
                        format!("{} cannot close an object", self.subset.name),
                    );
                }
                Open::Any => {}
            }
        }
        if self.subset.all_required {
            self.require_all(object);
        }
    }

    /// Requires every property; one that was optional may be null. [`without_nulls`] takes these nulls out of the answer again.
    fn require_all(&mut self, object: &mut Object) {
        let required: Vec<Tree> = object.get("required").and_then(Tree::as_list).unwrap_or_default().to_vec();
        let Some(Tree::Object(properties)) = object.get_mut("properties") else {
            object.set("properties", Object::default());
            object.set("required", Vec::new());
            return;
        };
        let mut names = Vec::with_capacity(properties.0.len());
        for (name, schema) in &mut properties.0 {
            let name = Tree::from(name.as_str());
            if !required.contains(&name)
                && let Tree::Object(schema) = schema
            {
                make_nullable(schema);
            }
            names.push(name);
        }
        object.set("required", names);
    }

    /// Makes an object of a schema that is none.
    fn root(&mut self, tree: &mut Tree) {
        let Tree::Object(object) = tree else {
            *tree = Object(vec![("type".into(), "object".into())]).into();
            return;
        };
        for keyword in ["anyOf", "oneOf", "allOf", "enum", "const", "not"] {
            if let Some(value) = object.remove(keyword) {
                self.lose("", keyword, false, "the schema itself must be one object; it is told in the description");
                describe(object, &format!("{keyword}: {}", serde_json::to_string(&value).unwrap_or_default()));
            }
        }
        match object.get("type").and_then(Tree::as_str) {
            Some("object") => {}
            None if object.get("type").is_none() => object.0.insert(0, ("type".into(), "object".into())),
            _ => {
                self.lose("", "type", true, "the schema itself must be an object");
                object.set("type", "object");
            }
        }
        if self.subset.closed {
            object.set("additionalProperties", false);
        }
        if let Some(keywords) = self.subset.root_keywords {
            for (field, _) in std::mem::take(&mut object.0).into_iter().filter_map(|(field, value)| {
                if keywords.contains(&field.as_str()) {
                    object.0.push((field, value));
                    return None;
                }
                Some((field, value))
            }) {
                self.lose("", &field, false, format!("{} take {} at the root", self.subset.name, keywords.join(", ")));
            }
        }
        if self.subset.all_required && object.get("properties").is_none() {
            object.set("properties", Object::default());
            object.set("required", Vec::new());
        }
    }
}

enum Open {
    No,
    Any,
    Map,
}

/// Tells the model what the schema cannot say any more.
fn describe(object: &mut Object, told: &str) {
    let text = match object.get("description").and_then(Tree::as_str) {
        Some(text) if !text.is_empty() => format!("{text} ({told})"),
        _ => told.to_owned(),
    };
    object.set("description", text.as_str());
}

fn make_nullable(schema: &mut Object) {
    let null = || Tree::Object(Object(vec![("type".into(), "null".into())]));
    if let Some(Tree::List(choices)) = schema.get_mut("anyOf") {
        if !choices.contains(&null()) {
            choices.push(null());
        }
        return;
    }
    if schema.get("const").is_some() || schema.get("$ref").is_some() {
        let whole = Tree::Object(std::mem::take(schema));
        schema.set("anyOf", vec![whole, null()]);
        return;
    }
    if let Some(Tree::List(values)) = schema.get_mut("enum")
        && !values.iter().any(Tree::is_null)
    {
        values.push(Tree::Plain(Value::Null));
    }
    match schema.get_mut("type") {
        Some(Tree::List(types)) if types.iter().any(|name| name.as_str() == Some("null")) => {}
        Some(Tree::List(types)) => types.push("null".into()),
        Some(one) if one.as_str() != Some("null") => *one = Tree::List(vec![one.clone(), "null".into()]),
        // Without a type anything fits, null too.
        _ => {}
    }
}
