//! What models can do and cost, and what a run may use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Usage;

/// What tokens of a model cost: micro-dollars per million tokens, so that $2.50 per million is 2,500,000. That is the same number as
/// pico-dollars per token, so every price is an integer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Price {
    /// Input that no cache served or stored.
    pub input: u64,
    /// Input read from the provider's cache. Default: as `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<u64>,
    /// Input written to the provider's cache. Default: as `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<u64>,
    /// Answers.
    pub output: u64,
    /// Reasoning. Default: as `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<u64>,
    /// The prices of a call whose whole input is longer than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<Box<LongPrice>>,
}

/// The prices of long calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LongPrice {
    /// Input tokens, of all kinds together, above which these prices hold for the whole call.
    pub above: u64,
    /// The prices.
    pub price: Price,
}

impl Price {
    /// So much per million tokens of input and of output, in micro-dollars; caches cost what input costs.
    pub fn new(input: u64, output: u64) -> Self {
        Self { input, output, ..Self::default() }
    }

    /// What one call cost, in nano-dollars, rounded up.
    pub fn cost_nano_usd(&self, usage: &Usage) -> u64 {
        if let Some(long) = self.long.as_ref().filter(|long| usage.input_total() > long.above) {
            return long.price.cost_nano_usd(usage);
        }
        let pico = [
            (usage.input, self.input),
            (usage.cache_read, self.cache_read.unwrap_or(self.input)),
            (usage.cache_write, self.cache_write.unwrap_or(self.input)),
            (usage.output, self.output),
            (usage.reasoning, self.reasoning.unwrap_or(self.output)),
        ];
        let pico = pico
            .into_iter()
            .fold(0_u128, |sum, (tokens, price)| sum.saturating_add(u128::from(tokens) * u128::from(price)));
        u64::try_from(pico.div_ceil(1_000)).unwrap_or(u64::MAX)
    }
}

/// A model: where it is, what it can do, what it costs. What is absent is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ModelInfo {
    /// The provider, as a spec's `model` names it before the slash.
    pub provider: String,
    /// The model's name at the provider. Empty for a provider that has one model, or whose models are not listed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Whether a run could ask it now: its provider is registered, or its key is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub configured: bool,
    /// Why not, where it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// Most tokens of input and output together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u64>,
    /// Most tokens of an answer, reasoning included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Whether it calls tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<bool>,
    /// Whether it sees images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision: Option<bool>,
    /// Whether it reasons before it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<bool>,
    /// Whether the provider holds it to a JSON Schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structured_output: Option<bool>,
    /// What it costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// When the facts were looked up, as year and month: `2026-03`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// Where the facts are from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl ModelInfo {
    /// A model of which nothing else is known.
    pub fn new(provider: impl Into<String>, model: impl Into<String>) -> Self {
        Self { provider: provider.into(), model: model.into(), ..Self::default() }
    }

    /// The name a spec gives it: `provider/model`, or the provider alone.
    pub fn id(&self) -> String {
        if self.model.is_empty() { self.provider.clone() } else { format!("{}/{}", self.provider, self.model) }
    }
}

/// What may be used. What is absent is not bounded.
///
/// Each model call reserves what it may use before it begins and settles what it used after: calls at the same time cannot use
/// the same tokens twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Budget {
    /// Tokens, of all kinds together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Money, in nano-dollars: $1 is 1,000,000,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_nano_usd: Option<u64>,
    /// Calls of models, retries included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<u64>,
    /// Time spent in calls of models, in milliseconds; calls at the same time count each for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ms: Option<u64>,
}

impl Budget {
    /// No bound.
    pub fn unbounded() -> Self {
        Self::default()
    }

    /// So many tokens.
    pub fn tokens(tokens: u64) -> Self {
        Self { tokens: Some(tokens), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input: u64, cache_read: u64, cache_write: u64, output: u64, reasoning: u64) -> Usage {
        let mut usage = Usage::new(input, output);
        (usage.cache_read, usage.cache_write, usage.reasoning) = (cache_read, cache_write, reasoning);
        usage
    }

    #[test]
    fn each_bucket_has_its_price() {
        let price =
            Price { cache_read: Some(300_000), cache_write: Some(3_750_000), ..Price::new(3_000_000, 15_000_000) };
        // 3 + 0.3 + 3.75 + 15 + 15 dollars.
        let all = usage(1_000_000, 1_000_000, 1_000_000, 1_000_000, 1_000_000);
        assert_eq!(price.cost_nano_usd(&all), 37_050_000_000);
        assert_eq!(Price::new(3_000_000, 0).cost_nano_usd(&usage(0, 10, 10, 0, 0)), 60_000);
    }

    #[test]
    fn a_fraction_of_a_nano_dollar_counts_as_one() {
        assert_eq!(Price::new(37_500, 0).cost_nano_usd(&usage(1, 0, 0, 0, 0)), 38);
        assert_eq!(Price::new(1, 0).cost_nano_usd(&usage(1, 0, 0, 0, 0)), 1);
        assert_eq!(Price::default().cost_nano_usd(&usage(1, 0, 0, 0, 0)), 0);
    }

    #[test]
    fn a_long_call_has_its_own_prices() {
        let long = LongPrice { above: 200_000, price: Price::new(2, 20) };
        let price = Price { long: Some(Box::new(long)), ..Price::new(1, 10) };
        assert_eq!(price.cost_nano_usd(&usage(100_000, 100_000, 0, 0, 0)), 200);
        assert_eq!(price.cost_nano_usd(&usage(100_000, 100_001, 0, 1, 0)), 401);
    }

    #[test]
    fn an_absurd_count_does_not_overflow() {
        assert_eq!(Price::new(u64::MAX, u64::MAX).cost_nano_usd(&usage(u64::MAX, 0, 0, u64::MAX, 0)), u64::MAX);
    }
}
