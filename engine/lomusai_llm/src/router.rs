//! `"provider/model"` strings without registering anything: providers from the environment and from a table of settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use lomusai_core::llm::{self, LlmProvider};
use lomusai_core::{Error, Result};
use lomusai_wire::codes;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{KINDS, Kind, Provider, ProviderConfig};

/// Makes the provider that stands before the slash of `"provider/model"`, when it is first asked for.
///
/// Every kind of this build is known under its own name: its key and its address come from the environment ([`Kind::key_env`],
/// [`Kind::base_url_env`]). A table gives settings to a kind, or further names: `{"mine": {"type": "compatible", "base_url": …}}` makes
/// `"mine/llama"` a model.
///
/// With the feature `local`, `local/NAME` and `local:NAME` are models in this process; an entry of the type `local` gives them settings.
///
/// # Example
/// ```
/// # #[cfg(feature = "compatible")] {
/// use lomusai_core::llm::Router as _;
/// use lomusai_llm::Router;
///
/// let router = Router::from_json(r#"{"mine": {"type": "compatible", "base_url": "http://localhost:8080/v1"}}"#)?;
/// assert!(router.provider("mine")?.is_some());
/// assert!(router.provider("nobody")?.is_none());
/// # }
/// # Ok::<(), lomusai_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Router {
    table: BTreeMap<String, (&'static str, ProviderConfig)>,
    /// Models in this process have settings of their own.
    #[cfg(feature = "local")]
    local: BTreeMap<String, crate::local::LocalConfig>,
}

/// The kind of models in this process. It is no row of [`KINDS`]: it has no address.
const LOCAL: &str = "local";

impl Router {
    /// The environment alone.
    pub fn from_env() -> Self {
        Self::default()
    }

    /// The environment, and a table as JSON: by name, the settings of a [`ProviderConfig`], and `type`, the kind (default: the name).
    ///
    /// # Errors
    /// `argument_invalid`, naming the entry; `provider_unknown` for a kind there is not.
    pub fn from_json(table: &str) -> Result<Self> {
        let table: BTreeMap<String, Map<String, Value>> = serde_json::from_str(table).map_err(|e| {
            Error::new(codes::ARGUMENT_INVALID, format!("the table of providers is not an object of settings: {e}"))
        })?;
        let mut router = Self::default();
        for (name, mut fields) in table {
            let kind = match fields.remove("type") {
                None => name.clone(),
                Some(Value::String(kind)) => kind,
                Some(other) => {
                    return Err(Error::new(
                        codes::ARGUMENT_INVALID,
                        format!("provider `{name}`: `type` is the name of a kind, was {other}"),
                    ));
                }
            };
            let wrong = |e: serde_json::Error| {
                Error::new(codes::ARGUMENT_INVALID, format!("the settings of provider `{name}` cannot be read: {e}"))
                    .with("provider", name.as_str())
            };
            if kind == LOCAL {
                #[cfg(feature = "local")]
                router.local.insert(name.clone(), Deserialize::deserialize(Value::Object(fields)).map_err(wrong)?);
                #[cfg(not(feature = "local"))]
                return Err(Self::local_missing());
                #[cfg(feature = "local")]
                continue;
            }
            let config = ProviderConfig::deserialize(Value::Object(fields)).map_err(wrong)?;
            router = router.with(&name, &kind, config)?;
        }
        Ok(router)
    }

    /// The same router, which knows this name, too.
    ///
    /// # Errors
    /// `provider_unknown` for a kind there is not.
    pub fn with(mut self, name: &str, kind: &str, config: ProviderConfig) -> Result<Self> {
        let kind = Kind::named(kind)?.name;
        self.table.insert(name.to_owned(), (kind, config));
        Ok(self)
    }

    fn entry(&self, name: &str) -> Option<(&'static str, ProviderConfig)> {
        self.table.get(name).cloned().or_else(|| {
            let kind = KINDS.iter().find(|kind| kind.name == name)?;
            Some((kind.name, ProviderConfig::default()))
        })
    }
}

#[cfg(feature = "local")]
impl Router {
    fn local(&self, name: &str) -> Option<crate::local::LocalConfig> {
        let bare = || (name == LOCAL && !self.table.contains_key(name)).then(Default::default);
        self.local.get(name).cloned().or_else(bare)
    }
}

#[cfg(not(feature = "local"))]
impl Router {
    /// What a build without models in the process says when it is asked for one: how to get the build that has them.
    pub fn local_missing() -> Error {
        Error::new(
            codes::PROVIDER_UNKNOWN,
            "this build of Lomusai has no models in the process. Get the one that has: `pip install lomusai-local`, \
             `npm install @lomusai/local`, the C archive `lomusai-c-local`, or in Rust the feature `local` of the crate `lomusai`",
        )
        .with("provider", LOCAL)
    }
}

impl llm::Router for Router {
    fn provider(&self, name: &str) -> Result<Option<Arc<dyn LlmProvider>>> {
        #[cfg(feature = "local")]
        if let Some(config) = self.local(name) {
            return Ok(Some(Arc::new(crate::local::LocalModels::new(config))));
        }
        #[cfg(not(feature = "local"))]
        if name == LOCAL && !self.table.contains_key(name) {
            return Err(Self::local_missing());
        }
        let Some((kind, config)) = self.entry(name) else { return Ok(None) };
        Ok(Some(Arc::new(Provider::new(kind, config)?)))
    }

    fn providers(&self) -> Vec<(String, Option<String>)> {
        let kinds = KINDS.iter().map(|kind| kind.name);
        let mut names: Vec<&str> = self.table.keys().map(String::as_str).chain(kinds).collect();
        names.sort_unstable();
        names.dedup();
        let missing = |name: &str| {
            let (kind, config) = self.entry(name)?;
            config.missing(Kind::named(kind).ok()?)
        };
        let mut all: Vec<_> = names.into_iter().map(|name| (name.to_owned(), missing(name))).collect();
        #[cfg(feature = "local")]
        {
            let locals = self.local.keys().map(String::as_str).chain([LOCAL]);
            all.extend(locals.map(|name| (name.to_owned(), None)));
        }
        #[cfg(not(feature = "local"))]
        all.push((LOCAL.to_owned(), Some(Self::local_missing().body().message.clone())));
        all.sort_unstable();
        all.dedup_by(|one, other| one.0 == other.0);
        all
    }

    #[cfg(feature = "local")]
    fn embedder(&self, name: &str, model: &str) -> Result<Option<Arc<dyn llm::EmbeddingProvider>>> {
        let Some(mut config) = self.local(name) else { return Ok(None) };
        if !model.is_empty() {
            config.model = Some(model.to_owned());
        }
        Ok(Some(Arc::new(crate::local::LocalEmbedder::lazy(config)?)))
    }

    fn secrets(&self) -> Vec<String> {
        let all = self.table.values().flat_map(|(_, config)| config.secrets());
        all.map(|secret| secret.expose().to_owned()).collect()
    }
}
