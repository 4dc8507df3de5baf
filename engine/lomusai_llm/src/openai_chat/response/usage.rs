//! What the answer took. The API's counts contain one another; ours do not.

use lomusai_wire::Usage;
use serde_json::Value;

/// The usage in disjoint buckets, or nothing where the server counted nothing.
pub(super) fn usage(counts: &Value) -> Option<Usage> {
    // Capped, so that a nonsensical count cannot overflow a sum.
    // By name and not by JSON pointer, which would take its text apart each time.
    let number = |value: Option<&Value>| value.and_then(Value::as_u64).map(|count| count.min(1 << 50));
    let count = |name: &str| number(counts.get(name));
    let detail = |group: &str, name: &str| number(counts.get(group).and_then(|group| group.get(name)));

    let prompt = count("prompt_tokens").unwrap_or(0);
    let answer = count("completion_tokens").unwrap_or(0);
    let cached = detail("prompt_tokens_details", "cached_tokens")
        .or_else(|| count("prompt_cache_hit_tokens"))
        .or_else(|| count("cached_tokens"))
        .or_else(|| count("num_cached_tokens"))
        .unwrap_or(0);
    let stored = detail("prompt_tokens_details", "cache_write_tokens").unwrap_or(0);
    let reasoning =
        detail("completion_tokens_details", "reasoning_tokens").or_else(|| count("reasoning_tokens")).unwrap_or(0);
    // Some servers count reasoning beside the answer instead of within it, and some name it nowhere but in the total.
    let beside = count("total_tokens").unwrap_or(0).saturating_sub(prompt + answer);

    let mut usage = Usage::default();
    usage.cache_read = cached.min(prompt);
    usage.cache_write = stored.min(prompt - usage.cache_read);
    usage.input = prompt - usage.cache_read - usage.cache_write;
    usage.reasoning = if beside > 0 { beside } else { reasoning.min(answer) };
    usage.output = if beside > 0 { answer } else { answer - usage.reasoning };
    (!usage.is_empty()).then_some(usage)
}

#[cfg(test)]
mod tests {
    use super::usage;
    use serde_json::{Value, json};

    fn buckets(counts: Value) -> [u64; 5] {
        let usage = usage(&counts).unwrap();
        [usage.input, usage.cache_read, usage.cache_write, usage.output, usage.reasoning]
    }

    #[test]
    fn buckets_are_disjoint() {
        let counts = json!({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 20}});
        assert_eq!(buckets(counts), [30, 60, 10, 30, 20]);
    }

    #[test]
    fn what_was_read_from_a_cache_has_many_names() {
        for (name, count) in [("cached_tokens", 7), ("prompt_cache_hit_tokens", 7), ("num_cached_tokens", 7)] {
            let counts = json!({"prompt_tokens": 10, "completion_tokens": 1, name: count});
            assert_eq!(buckets(counts), [3, 7, 0, 1, 0], "{name}");
        }
    }

    #[test]
    fn reasoning_beside_the_answer_is_counted_once() {
        let counts = json!({"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 334,
            "completion_tokens_details": {"reasoning_tokens": 320}});
        assert_eq!(buckets(counts), [12, 0, 0, 2, 320]);
        let unnamed = json!({"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109});
        assert_eq!(buckets(unnamed), [35, 0, 0, 12, 62]);
    }

    #[test]
    fn impossible_counts_do_not_overflow() {
        let counts = json!({"prompt_tokens": 5, "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 9, "cache_write_tokens": 9}, "reasoning_tokens": 7});
        assert_eq!(buckets(counts), [0, 5, 0, 0, 1]);
        assert_eq!(usage(&json!({"prompt_tokens": 0})), None);
        assert_eq!(usage(&json!({"prompt_tokens": -1, "completion_tokens": "x"})), None);
    }
}
