//! What is known of models: the table that comes along (`data/models.json`), and what a host says over it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use lomusai_wire::{ModelInfo, Price};
use serde::Deserialize;

/// What is known of models, by provider and model.
#[derive(Clone, Debug, Default)]
pub struct ModelTable {
    models: BTreeMap<(String, String), ModelInfo>,
}

/// The file: sources by provider, then models without what their source says once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// For people.
    #[serde(rename = "about")]
    _about: String,
    providers: BTreeMap<String, Source>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    as_of: String,
    source: String,
    models: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    model: String,
    context_tokens: Option<u64>,
    output_tokens: Option<u64>,
    #[serde(default)]
    can: Vec<Ability>,
    price: Option<Price>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Ability {
    Tools,
    Vision,
    Reasoning,
    StructuredOutput,
}

impl ModelTable {
    /// The table that comes along.
    pub fn built_in() -> &'static Self {
        static TABLE: OnceLock<ModelTable> = OnceLock::new();
        TABLE.get_or_init(|| {
            let file: File = serde_json::from_str(include_str!("../data/models.json")).expect("checked by a test");
            let mut table = Self::default();
            for (provider, source) in file.providers {
                for entry in source.models {
                    let mut info = ModelInfo::new(&provider, entry.model);
                    let can = |ability| Some(entry.can.contains(&ability));
                    info.context_tokens = entry.context_tokens;
                    info.output_tokens = entry.output_tokens;
                    info.tools = can(Ability::Tools);
                    info.vision = can(Ability::Vision);
                    info.reasoning = can(Ability::Reasoning);
                    info.structured_output = can(Ability::StructuredOutput);
                    info.price = entry.price;
                    info.as_of = Some(source.as_of.clone());
                    info.source = Some(source.source.clone());
                    table.insert(info);
                }
            }
            table
        })
    }

    /// This table with what a host says: an entry for the same provider and model replaces the fields it has.
    pub fn with(mut self, said: &[ModelInfo]) -> Self {
        for info in said {
            let known = self.find(&info.provider, &info.model).cloned();
            let mut merged = info.clone();
            if let Some(known) = known {
                let ModelInfo { context_tokens, output_tokens, tools, vision, reasoning, structured_output, .. } =
                    known;
                merged.context_tokens = merged.context_tokens.or(context_tokens);
                merged.output_tokens = merged.output_tokens.or(output_tokens);
                merged.tools = merged.tools.or(tools);
                merged.vision = merged.vision.or(vision);
                merged.reasoning = merged.reasoning.or(reasoning);
                merged.structured_output = merged.structured_output.or(structured_output);
                // Facts of a host have no date of ours.
                if merged.price.is_none() {
                    (merged.price, merged.as_of, merged.source) = (known.price, known.as_of, known.source);
                }
            }
            self.insert(merged);
        }
        self
    }

    fn insert(&mut self, info: ModelInfo) {
        self.models.insert((info.provider.clone(), info.model.clone()), info);
    }

    /// What is known of a model: under its own name, or under the name that its dated snapshots share.
    pub fn find(&self, provider: &str, model: &str) -> Option<&ModelInfo> {
        let get = |model: &str| self.models.get(&(provider.to_owned(), model.to_owned()));
        get(model).or_else(|| get(undated(model)?))
    }

    /// All of them, by provider, then model.
    pub fn iter(&self) -> impl Iterator<Item = &ModelInfo> {
        self.models.values()
    }
}

/// `gpt-4o` of `gpt-4o-2024-08-06`, `gemini-2.5-pro` of `gemini-2.5-pro-001`: what a snapshot's name says before its date or number.
fn undated(model: &str) -> Option<&str> {
    let digits =
        |text: &str, lengths: &[usize]| lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if let Some(name) = model.strip_suffix("-latest") {
        return Some(name);
    }
    if let Some((name, day)) = model.rsplit_once('-')
        && digits(day, &[2])
        && let Some((name, month)) = name.rsplit_once('-')
        && digits(month, &[2])
        && let Some((name, year)) = name.rsplit_once('-')
        && digits(year, &[4])
    {
        return Some(name);
    }
    model.rsplit_once('-').filter(|(_, number)| digits(number, &[3, 4, 8])).map(|(name, _)| name)
}

/// A sum of costs of which some may not be known. Not known is never taken for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    nano_usd: Option<u64>,
    unknown: bool,
}

impl Cost {
    /// Adds the cost of a call. `None`: it is not known, and so the sum is not.
    pub fn add(&mut self, nano_usd: Option<u64>) {
        match nano_usd {
            Some(more) => self.nano_usd = Some(self.nano_usd.unwrap_or(0).saturating_add(more)),
            None => self.unknown = true,
        }
    }

    /// The sum in nano-dollars. `None` where the cost of any call is not known, or there was no call.
    pub fn nano_usd(&self) -> Option<u64> {
        self.nano_usd.filter(|_| !self.unknown)
    }

    /// The part of the sum that is known.
    pub fn known_nano_usd(&self) -> u64 {
        self.nano_usd.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_that_comes_along_is_in_order() {
        let table = ModelTable::built_in();
        assert!(table.iter().count() > 40, "{}", table.iter().count());
        for info in table.iter() {
            let name = info.id();
            let (context, output) = (info.context_tokens.expect(&name), info.output_tokens.unwrap_or(0));
            assert!(output <= context, "{name}: an answer longer than the context");
            assert!(info.as_of.as_ref().is_some_and(|date| date.len() == 7), "{name}: when was that so?");
            assert!(info.source.as_ref().is_some_and(|source| source.starts_with("https://")), "{name}: who says so?");
            let Some(price) = &info.price else { continue };
            assert!(price.output >= price.input, "{name}: answers cheaper than questions");
            assert!(price.cache_read.is_none_or(|read| read <= price.input), "{name}: a cache that costs more");
            // A factor of a thousand is the mistake that is easily made here.
            assert!((10_000..200_000_000).contains(&price.output), "{name}: {} per million", price.output);
        }
    }

    #[test]
    fn a_snapshot_is_found_under_the_name_it_is_of() {
        let table = ModelTable::built_in();
        for (provider, snapshot, name) in [
            ("openai", "gpt-4o-2024-08-06", "gpt-4o"),
            ("anthropic", "claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
            ("google", "gemini-2.0-flash-001", "gemini-2.0-flash"),
            ("mistral", "mistral-large-latest", "mistral-large"),
        ] {
            assert_eq!(table.find(provider, snapshot).map(ModelInfo::id), Some(format!("{provider}/{name}")));
        }
        assert!(table.find("openai", "gpt-4o-mine").is_none(), "a name that only begins alike is another model");
        assert!(table.find("azure", "gpt-4o").is_none(), "the same model elsewhere has other prices");
    }

    #[test]
    fn a_host_says_over_the_table_what_it_says_and_no_more() {
        let mut said = ModelInfo::new("openai", "gpt-4o");
        said.price = Some(Price::new(1, 2));
        let mut own = ModelInfo::new("main", "");
        own.context_tokens = Some(8);
        let table = ModelTable::built_in().clone().with(&[said, own.clone()]);
        let info = table.find("openai", "gpt-4o").unwrap();
        assert_eq!(
            (info.price.clone(), info.context_tokens, info.as_of.clone()),
            (Some(Price::new(1, 2)), Some(128_000), None)
        );
        assert_eq!(table.find("main", ""), Some(&own));
    }

    #[test]
    fn what_is_not_known_makes_no_sum() {
        let mut cost = Cost::default();
        assert_eq!(cost.nano_usd(), None, "nothing was asked");
        cost.add(Some(3));
        cost.add(Some(4));
        assert_eq!(cost.nano_usd(), Some(7));
        cost.add(None);
        assert_eq!((cost.nano_usd(), cost.known_nano_usd()), (None, 7));
    }
}
