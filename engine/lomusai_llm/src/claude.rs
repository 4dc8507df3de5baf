//! What Claude's models take, by their names: Anthropic and Bedrock sell the same ones.

use crate::json::{Json, Object};

/// The beta that [`thinking`] is of.
pub(crate) const BINDING_BETA: &str = "thinking-binding-controls-2026-08-01";

/// Whether a model is of those that hold no answer to a schema: all before 4.5, but for Opus 4.1.
/// <https://docs.claude.com/en/docs/build-with-claude/structured-outputs>
pub(crate) fn is_old(model: &str) -> bool {
    ["claude-instant", "claude-2", "claude-v2", "claude-3", "-4-0", "-4-2025"].iter().any(|old| model.contains(old))
}

/// Anthropic wants a number. This is the most that the oldest model of each generation takes, so that no answer is cut short for nothing.
pub(crate) fn max_tokens(model: &str) -> u32 {
    match model {
        _ if model.contains("claude-3-5") || model.contains("claude-3-7") => 8_192,
        _ if model.contains("claude-3") || model.contains("claude-2") => 4_096,
        _ => 32_000,
    }
}

/// Whether a model refuses its own thoughts where anything before them has changed: instructions, tools, a message.
/// <https://platform.claude.com/docs/en/build-with-claude/preserved-thinking>
pub(crate) fn binds_thoughts(model: &str) -> bool {
    match version(model) {
        Some(("fable" | "mythos", version)) => version >= (5, 1),
        Some(("opus" | "sonnet" | "haiku", version)) => version >= (5, 5),
        _ => false,
    }
}

/// `us.anthropic.claude-opus-5-5-20260901-v1:0` is Opus 5.5. A date is no minor version.
fn version(model: &str) -> Option<(&str, (u32, u32))> {
    let mut words = model[model.find("claude-")?..].split('-').skip(1);
    let (family, major) = (words.next()?, words.next()?.parse().ok()?);
    let minor = words.next().filter(|word| word.len() <= 2).and_then(|word| word.parse().ok());
    Some((family, (major, minor.unwrap_or(0))))
}

/// What is said of thinking to a model that binds its thoughts: to leave out those that it would refuse. An agent's instructions, tools and
/// conversation change as it pleases; better it forgets a thought than the whole run fails. Such a model thinks unasked, so that this asks
/// for nothing else.
pub(crate) fn thinking<'a>() -> Object<'a> {
    let binding = Object::new().with("prefix_mismatch_behavior", "drop_block");
    Object::new().with("type", "adaptive").with("block_binding", binding)
}

/// Takes that back, where the host wants thinking of another kind: none, or `between_tools`, which takes no other field.
pub(crate) fn settle_thinking(holder: &mut Object<'_>) {
    let Some(Json::Object(thinking)) = holder.get_mut("thinking") else { return };
    let binds = match thinking.get_mut("type") {
        Some(Json::Value(kind)) => matches!(kind.as_str(), Some("adaptive" | "enabled")),
        _ => true,
    };
    if !binds {
        thinking.remove("block_binding");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_that_hold_no_answer_to_a_schema_are_known() {
        for old in ["claude-3-5-sonnet-latest", "claude-sonnet-4-20250514", "us.anthropic.claude-opus-4-20250514-v1:0"]
        {
            assert!(is_old(old), "{old}");
        }
        for new in ["claude-opus-4-1-20250805", "claude-sonnet-4-5", "claude-haiku-4-5-20251001", "claude-opus-5"] {
            assert!(!is_old(new), "{new}");
        }
    }

    #[test]
    fn models_that_bind_their_thoughts_are_known() {
        for bound in [
            "claude-fable-5-1",
            "claude-mythos-5-2",
            "claude-opus-5-5",
            "claude-haiku-5-5-20261001",
            "us.anthropic.claude-sonnet-5-5-20260901-v1:0",
            "claude-opus-6",
        ] {
            assert!(binds_thoughts(bound), "{bound}");
        }
        for free in [
            "claude-fable-5",
            "claude-opus-5",
            "claude-opus-5-20260401",
            "claude-sonnet-4-5-20250929",
            "claude-3-5-sonnet-latest",
            "claude-",
            "amazon.nova-pro-v1:0",
        ] {
            assert!(!binds_thoughts(free), "{free}");
        }
    }
}
