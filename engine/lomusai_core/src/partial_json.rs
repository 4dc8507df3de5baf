//! Reads a JSON text that is still being written: everything that is certain so far.

use serde_json::Value;

/// The value that `text` begins, with what is open closed and what is undecided left out. `None` while nothing is certain.
///
/// Strings appear as far as they are written; numbers and literals once they are followed by something, since `1` may become `12`.
pub fn parse_partial(text: &str) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(text) {
        return Some(value);
    }
    let mut open = Vec::new();
    let (mut in_string, mut escaped) = (false, false);
    // The longest prefix after which the text could stop, and what was open there.
    let mut safe: Option<(usize, Vec<u8>)> = None;
    // Whether the string that is being read is a key, which alone says nothing.
    let mut in_key = false;
    let mut expects_key = false;
    for (at, byte) in text.bytes().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    in_string = false;
                    if !in_key {
                        safe = Some((at + 1, open.clone()));
                    }
                }
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => {
                in_string = true;
                in_key = expects_key;
                expects_key = false;
            }
            b'{' => {
                open.push(b'}');
                expects_key = true;
                safe = Some((at + 1, open.clone()));
            }
            b'[' => {
                open.push(b']');
                expects_key = false;
                safe = Some((at + 1, open.clone()));
            }
            b'}' | b']' => {
                if !ends_value(&text[..at]) && !text[..at].trim_end().ends_with(['{', '[']) {
                    return None;
                }
                open.pop()?;
                expects_key = false;
                safe = Some((at + 1, open.clone()));
            }
            b',' => {
                safe = Some((at, open.clone()));
                expects_key = open.last() == Some(&b'}');
            }
            _ => {}
        }
    }
    if in_string && !in_key {
        // A cut escape (`\`, `\u12`) is left out.
        let mut cut = text;
        if let Some(escape) = text.rfind('\\') {
            let tail = &text[escape..];
            let whole = tail.len() >= 2 && !(tail.starts_with("\\u") && tail.len() < 6);
            let slashes = text[..=escape].bytes().rev().take_while(|byte| *byte == b'\\').count();
            if !whole && slashes % 2 == 1 {
                cut = &text[..escape];
            }
        }
        if let Some(value) = close(cut, "\"", &open) {
            return Some(value);
        }
        // Half of a surrogate pair.
        if let Some(escape) = cut.rfind("\\u")
            && let Some(value) = close(&cut[..escape], "\"", &open)
        {
            return Some(value);
        }
    }
    let (end, open) = safe?;
    close(&text[..end], "", &open)
}

fn ends_value(text: &str) -> bool {
    text.trim_end().ends_with(|c: char| c.is_alphanumeric() || matches!(c, '"' | '}' | ']'))
}

fn close(text: &str, quote: &str, open: &[u8]) -> Option<Value> {
    let mut whole = String::with_capacity(text.len() + quote.len() + open.len());
    whole.push_str(text);
    whole.push_str(quote);
    whole.extend(open.iter().rev().map(|byte| *byte as char));
    serde_json::from_str(&whole).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_prefix_agrees_with_the_whole() {
        let whole = r#"{"name":"A\u00e9\n\ud83d\ude00 b","list":[1,22,{"x":null,"y":[]}],"n":-1.5e3,"t":true,"e":{}}"#;
        for end in (1..=whole.len()).filter(|end| whole.is_char_boundary(*end)) {
            let partial = parse_partial(&whole[..end]).unwrap_or_else(|| panic!("nothing at {end}: {}", &whole[..end]));
            assert!(begins(&partial, &serde_json::from_str(whole).unwrap()), "{} -> {partial}", &whole[..end]);
        }
    }

    fn begins(partial: &Value, whole: &Value) -> bool {
        match (partial, whole) {
            (Value::Object(a), Value::Object(b)) => a.iter().all(|(k, v)| b.get(k).is_some_and(|w| begins(v, w))),
            (Value::Array(a), Value::Array(b)) => a.len() <= b.len() && a.iter().zip(b).all(|(v, w)| begins(v, w)),
            (Value::String(a), Value::String(b)) => b.starts_with(a.as_str()),
            (a, b) => a == b,
        }
    }

    #[test]
    fn an_unfinished_number_is_left_out() {
        assert_eq!(parse_partial(r#"{"a":1,"b":12"#), Some(json!({"a": 1})));
        assert_eq!(parse_partial("  "), None);
        assert_eq!(parse_partial("no json"), None);
    }
}
