//! How what came differs from what was expected, for people.

use serde_json::{Value, json};

/// Whether a value matches: objects in part, lists item by item, numbers by value, `null` what is absent.
pub fn matches(expected: &Value, found: Option<&Value>) -> bool {
    difference(expected, found, "").is_none()
}

/// The first place where a value does not match, and how; `None` if it does.
pub fn difference(expected: &Value, found: Option<&Value>, place: &str) -> Option<String> {
    let differs = |found: &Value| Some(format!("{place}: expected {expected}, was {found}"));
    match (expected, found) {
        (Value::Null, None | Some(Value::Null)) => None,
        (_, None) => Some(format!("{place}: expected {expected}, was absent")),
        (Value::Object(fields), Some(found @ Value::Object(_))) => {
            fields.iter().find_map(|(key, value)| difference(value, found.get(key), &format!("{place}/{key}")))
        }
        (Value::Array(items), Some(Value::Array(found))) => {
            let (mut items, mut at) = (items.iter().zip(found).enumerate(), place.to_owned());
            if at.is_empty() {
                at = "list".into();
            }
            items.find_map(|(i, (a, b))| difference(a, Some(b), &format!("{place}/{i}"))).or_else(|| {
                let lengths = (expected.as_array().map_or(0, Vec::len), found.len());
                (lengths.0 != lengths.1).then(|| format!("{at}: expected {} items, was {}", lengths.0, lengths.1))
            })
        }
        (Value::Number(a), Some(Value::Number(b))) if a.as_f64() == b.as_f64() => None,
        (_, Some(found)) if expected == found => None,
        (_, Some(found)) => differs(found),
    }
}

/// Compares events, each expected one an object or a text such as `effect_started 1.0`. Shows both lists where they differ.
pub fn events_difference(expected: &[Value], found: &[Value]) -> Option<String> {
    let spelled = |event: &Value| match event.as_str().map(|text| text.split_once(' ').unwrap_or((text, ""))) {
        Some((name, "")) => json!({"type": name}),
        Some((name, effect)) => json!({"type": name, "effect_id": effect}),
        None => event.clone(),
    };
    let first = (0..expected.len().max(found.len())).find_map(|i| {
        let why = match (expected.get(i), found.get(i)) {
            (Some(expected), Some(found)) => difference(&spelled(expected), Some(found), "")?,
            (Some(expected), None) => format!(": expected {expected}, was the end"),
            (None, found) => format!(": expected the end, was {}", found.map_or_else(String::new, |e| e.to_string())),
        };
        Some((i, why))
    });
    let (at, why) = first?;
    let mut text = format!("event {at}{why}\n    the journal was:");
    for (i, event) in found.iter().enumerate() {
        let mark = if i == at { ">" } else { " " };
        text += &format!("\n    {mark} {i:>2} {}", shortened(&event.to_string(), 200));
    }
    Some(text)
}

/// A text of at most so many characters.
pub fn shortened(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_match_in_part_and_lists_as_a_whole() {
        let found = json!({"a": [1.0, {"b": 2, "c": 3}], "d": "x"});
        for same in [json!({}), json!({"a": [1, {"b": 2}]}), json!({"e": null}), json!({"d": "x"})] {
            assert_eq!(difference(&same, Some(&found), ""), None, "{same}");
        }
        for other in [json!({"a": [1]}), json!({"a": [1, {"b": null}]}), json!({"d": "y"}), json!({"e": 1}), json!([])]
        {
            assert!(!matches(&other, Some(&found)), "{other}");
        }
    }

    #[test]
    fn events_may_be_named_by_type_and_effect() {
        let found = [json!({"type": "run_started"}), json!({"type": "effect_started", "effect_id": "1.0"})];
        assert_eq!(events_difference(&[json!("run_started"), json!("effect_started 1.0")], &found), None);
        assert!(events_difference(&[json!("run_started"), json!("effect_started 1.1")], &found).is_some());
        assert!(events_difference(&[json!("run_started")], &found).is_some());
    }
}
