//! Patterns for providers that match them against the whole text, where JSON Schema looks for them anywhere in it.

/// A pattern that matches a whole text where `pattern` is found in it. `None` where it uses what such a provider does not know
/// (lookaround, back references, word boundaries, properties of characters, flags), or has anchors that cannot be taken off.
pub(super) fn whole(pattern: &str) -> Option<String> {
    let starts = pattern.starts_with('^');
    let body = &pattern[usize::from(starts)..];
    let escapes = body.strip_suffix('$').map_or(0, |rest| rest.bytes().rev().take_while(|byte| *byte == b'\\').count());
    let ends = body.ends_with('$') && escapes.is_multiple_of(2);
    let body = &body[..body.len() - usize::from(ends)];
    let has_choice = choice(body)?;
    if has_choice && (starts || ends) {
        // An anchor is of one of the choices only.
        return None;
    }
    let (before, after) = (if starts { "" } else { ".*" }, if ends { "" } else { ".*" });
    Some(if has_choice { format!("{before}(?:{body}){after}") } else { format!("{before}{body}{after}") })
}

/// Whether there is a choice outside of any group; `None` for what cannot be said.
fn choice(body: &str) -> Option<bool> {
    let (mut depth, mut in_class, mut has_choice) = (0_u32, false, false);
    let mut chars = body.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next()? {
                '1'..='9' | 'k' | 'p' | 'P' => return None,
                'b' | 'B' if !in_class => return None,
                _ => {}
            },
            ']' if in_class => in_class = false,
            _ if in_class => {}
            '[' => in_class = true,
            '(' => {
                depth += 1;
                if chars.next_if_eq(&'?').is_some() && chars.next() != Some(':') {
                    return None;
                }
            }
            ')' => depth = depth.checked_sub(1)?,
            '|' if depth == 0 => has_choice = true,
            '^' | '$' => return None,
            _ => {}
        }
    }
    (depth == 0 && !in_class).then_some(has_choice)
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn what_is_found_anywhere_has_anything_around_it() {
        for (pattern, expected) in [
            ("^[A-Z]{3}$", "[A-Z]{3}"),
            ("@", ".*@.*"),
            ("^a", "a.*"),
            ("a$", ".*a"),
            (r"a\$", r".*a\$.*"),
            (r"a\\$", r".*a\\"),
            ("a|b", ".*(?:a|b).*"),
            ("^(?:a|b)$", "(?:a|b)"),
            ("^[$^|]+$", "[$^|]+"),
            (r"^\d+(\.\d+)?$", r"\d+(\.\d+)?"),
            ("", ".*.*"),
        ] {
            assert_eq!(whole(pattern).as_deref(), Some(expected), "{pattern}");
        }
    }

    #[test]
    fn what_cannot_be_said_is_not() {
        for pattern in
            ["^a|b$", "a^b", "(^a)", r"\bword\b", "(?=a)b", "(?i)a", r"(a)\1", r"\p{L}", "(a", "a)", "[a", "\\"]
        {
            assert_eq!(whole(pattern), None, "{pattern}");
        }
    }
}
