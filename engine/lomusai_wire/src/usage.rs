//! What a model call consumed, in tokens.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tokens in disjoint buckets: nothing is counted twice, whatever the provider's own convention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[non_exhaustive]
pub struct Usage {
    /// Prompt tokens that no cache served or stored.
    #[serde(skip_serializing_if = "is_zero")]
    pub input: u64,
    /// Prompt tokens read from the provider's cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_read: u64,
    /// Prompt tokens written to the provider's cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write: u64,
    /// Answer tokens, reasoning excluded.
    #[serde(skip_serializing_if = "is_zero")]
    pub output: u64,
    /// Reasoning tokens.
    #[serde(skip_serializing_if = "is_zero")]
    pub reasoning: u64,
}

impl Usage {
    /// Usage of an uncached call without reasoning.
    pub fn new(input: u64, output: u64) -> Self {
        Self { input, output, ..Self::default() }
    }

    /// All buckets together. Stays at the largest number there is.
    pub fn total(&self) -> u64 {
        self.input_total().saturating_add(self.output_total())
    }

    /// What went in, cached or not.
    pub fn input_total(&self) -> u64 {
        self.input.saturating_add(self.cache_read).saturating_add(self.cache_write)
    }

    /// What came out, reasoning included.
    pub fn output_total(&self) -> u64 {
        self.output.saturating_add(self.reasoning)
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }
}

/// Bucket by bucket. A count that a provider made up cannot make a sum overflow: it stays at the largest number there is.
impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        let add = |count: &mut u64, more: u64| *count = count.saturating_add(more);
        add(&mut self.input, other.input);
        add(&mut self.cache_read, other.cache_read);
        add(&mut self.cache_write, other.cache_write);
        add(&mut self.output, other.output);
        add(&mut self.reasoning, other.reasoning);
    }
}

impl Add for Usage {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(usages: I) -> Self {
        usages.fold(Self::default(), Add::add)
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_counts_each_bucket_by_itself_and_never_overflows() {
        let one = Usage { input: 1, cache_read: 2, cache_write: 3, output: 4, reasoning: 5 };
        let sum: Usage = [one, one].into_iter().sum();
        assert_eq!(sum, Usage { input: 2, cache_read: 4, cache_write: 6, output: 8, reasoning: 10 });
        assert_eq!((sum.input_total(), sum.output_total(), sum.total()), (12, 18, 30));
        let absurd = Usage { input: u64::MAX, output: u64::MAX, ..one };
        assert_eq!((absurd + absurd).input, u64::MAX);
        assert_eq!(absurd.total(), u64::MAX);
    }
}
