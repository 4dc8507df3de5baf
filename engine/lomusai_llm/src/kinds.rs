//! The providers by name: where each is, what opens it, and which wire it speaks.

use lomusai_core::{Error, Result};
use lomusai_wire::{ErrorBody, codes};

use crate::ProviderConfig;
use crate::embeddings::Embeddings;
use crate::wire::Wire;

/// A kind of provider, as a `provider/model` string or a setting `type` names it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Kind {
    /// Its name: `openai`. Settings and metadata of this provider stand under it, too.
    pub name: &'static str,
    /// Its address, where it has one. `{region}` and `{resource}` are filled from the settings.
    pub base_url: Option<&'static str>,
    /// The environment variable that replaces the address.
    pub base_url_env: &'static str,
    /// The environment variables that hold the key; the first that is set counts.
    pub key_env: &'static [&'static str],
    /// Whether it refuses everybody without a key.
    pub needs_key: bool,
    pub(crate) auth: Auth,
    pub(crate) headers: &'static [(&'static str, &'static str)],
    pub(crate) wire: &'static dyn Wire,
    pub(crate) embeddings: Option<Embeddings>,
}

/// How a key is sent.
#[derive(Debug)]
pub(crate) enum Auth {
    /// `Authorization: Bearer …`.
    Bearer,
    /// As a header of this name.
    Header(&'static str),
    /// Signed with AWS credentials; a key, where there is one, as a bearer token.
    #[cfg(feature = "bedrock")]
    Aws,
}

impl Auth {
    pub(crate) fn header(&self) -> Option<&'static str> {
        match self {
            Self::Bearer => Some("authorization"),
            #[cfg(feature = "bedrock")]
            Self::Aws => Some("authorization"),
            Self::Header(name) => Some(name),
        }
    }
}

impl Kind {
    /// The kind of this name.
    ///
    /// # Errors
    /// `provider_unknown`, naming those there are.
    pub fn named(name: &str) -> Result<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
            let known = KINDS.iter().map(|kind| format!("`{}`", kind.name)).collect::<Vec<_>>().join(", ");
            Error::new(
                codes::PROVIDER_UNKNOWN,
                format!("there is no kind of provider `{name}`: this build has {known}"),
            )
            .with("provider", name)
        })
    }

    /// What to do about an error.
    pub(crate) fn way_out(&self, error: &ErrorBody) -> Option<String> {
        let status = error.details.get("status").and_then(serde_json::Value::as_u64);
        match (error.code.as_str(), status) {
            ("credentials_rejected", _) => match self.key_env.first() {
                Some(variable) => Some(format!("Check the API key: `api_key`, or the environment variable {variable}")),
                None => Some("Check the credentials".into()),
            },
            ("provider_rejected", Some(404)) => Some("Check the model's name and base_url".into()),
            ("provider_rejected", Some(413)) => Some("Send less".into()),
            // What it was called with is what it says is wrong; only it knows more.
            ("provider_rejected", _) => Some("Check the request against what this model takes".into()),
            ("provider_response_invalid", _) if !error.message.contains("max_") => {
                Some("Check that base_url is an address of this API".into())
            }
            ("provider_response_invalid", _) => Some("Raise that bound where so much is meant".into()),
            ("provider_rate_limited", _) if !error.retryable => Some("Check the account at the provider".into()),
            ("provider_rate_limited", _) => Some("Try again later, or name fallbacks".into()),
            ("provider_failed", _) => Some("Try again; where it goes on, name fallbacks".into()),
            ("provider_unreachable", _) => Some("Check base_url, the network and the proxy, and try again".into()),
            ("stream_truncated", _) if !error.message.contains("try again") => Some("Try again".into()),
            ("model_timeout", _) if error.message.contains("idle_ms") => {
                Some("Raise it for models that think long".into())
            }
            _ => None,
        }
    }

    /// The address with the settings in it.
    pub(crate) fn filled(&self, text: &str, config: &ProviderConfig) -> Result<String> {
        if text.contains("{region}") {
            Ok(text.replace("{region}", &self.region(config)?))
        } else {
            Ok(text.to_owned())
        }
    }

    /// The region of a provider on AWS.
    pub(crate) fn region(&self, config: &ProviderConfig) -> Result<String> {
        let named = || ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(crate::config::environment);
        let region = config.region.clone().or_else(named);
        region.filter(|region| region.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')).ok_or_else(|| {
            let message = format!(
                "the provider `{}` needs a region such as us-east-1: set the environment variable AWS_REGION, or `region`",
                self.name
            );
            Error::new(codes::ARGUMENT_INVALID, message).with("variable", "AWS_REGION").with("provider", self.name)
        })
    }
}

/// Every kind that this build has, in the order of the docs.
pub static KINDS: &[Kind] = &[
    #[cfg(feature = "openai")]
    Kind {
        name: "openai",
        base_url: Some("https://api.openai.com/v1"),
        base_url_env: "OPENAI_BASE_URL",
        key_env: &["OPENAI_API_KEY"],
        needs_key: true,
        auth: Auth::Bearer,
        headers: &[],
        wire: &crate::openai_responses::OPENAI,
        embeddings: Some(Embeddings::OpenAi { sized: true }),
    },
    #[cfg(feature = "openai")]
    Kind {
        name: "openai-chat",
        base_url: Some("https://api.openai.com/v1"),
        base_url_env: "OPENAI_BASE_URL",
        key_env: &["OPENAI_API_KEY"],
        needs_key: true,
        auth: Auth::Bearer,
        headers: &[],
        wire: &crate::openai_chat::OPENAI,
        embeddings: Some(Embeddings::OpenAi { sized: true }),
    },
    #[cfg(feature = "anthropic")]
    Kind {
        name: "anthropic",
        base_url: Some("https://api.anthropic.com"),
        base_url_env: "ANTHROPIC_BASE_URL",
        key_env: &["ANTHROPIC_API_KEY"],
        needs_key: true,
        auth: Auth::Header("x-api-key"),
        headers: &[("anthropic-version", "2023-06-01")],
        wire: &crate::anthropic::Messages,
        embeddings: None,
    },
    #[cfg(feature = "google")]
    Kind {
        name: "google",
        base_url: Some("https://generativelanguage.googleapis.com"),
        base_url_env: "GOOGLE_BASE_URL",
        key_env: &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
        needs_key: true,
        auth: Auth::Header("x-goog-api-key"),
        headers: &[],
        wire: &crate::google::GenerateContent,
        embeddings: Some(Embeddings::Google),
    },
    #[cfg(feature = "bedrock")]
    Kind {
        name: "bedrock",
        base_url: Some("https://bedrock-runtime.{region}.amazonaws.com"),
        base_url_env: "BEDROCK_BASE_URL",
        key_env: &["AWS_BEARER_TOKEN_BEDROCK"],
        needs_key: false,
        auth: Auth::Aws,
        headers: &[("accept", "application/vnd.amazon.eventstream, application/json")],
        wire: &crate::bedrock::Converse,
        embeddings: None,
    },
    #[cfg(feature = "cohere")]
    Kind {
        name: "cohere",
        base_url: Some("https://api.cohere.com"),
        base_url_env: "COHERE_BASE_URL",
        key_env: &["COHERE_API_KEY", "CO_API_KEY"],
        needs_key: true,
        auth: Auth::Bearer,
        headers: &[],
        wire: &crate::cohere::Chat,
        embeddings: Some(Embeddings::Cohere),
    },
    #[cfg(feature = "ollama")]
    Kind {
        name: "ollama",
        base_url: Some("http://localhost:11434"),
        base_url_env: "OLLAMA_BASE_URL",
        key_env: &["OLLAMA_API_KEY"],
        needs_key: false,
        auth: Auth::Bearer,
        headers: &[],
        wire: &crate::ollama::Chat,
        embeddings: Some(Embeddings::Ollama),
    },
    #[cfg(feature = "mistral")]
    Kind {
        name: "mistral",
        base_url: Some("https://api.mistral.ai/v1"),
        base_url_env: "MISTRAL_BASE_URL",
        key_env: &["MISTRAL_API_KEY"],
        needs_key: true,
        auth: Auth::Bearer,
        headers: &[],
        wire: &crate::openai_chat::MISTRAL,
        embeddings: Some(Embeddings::Mistral),
    },
    #[cfg(feature = "deepseek")]
    Kind {
        name: "deepseek",
        base_url: Some("https://api.deepseek.com"),
        base_url_env: "DEEPSEEK_BASE_URL",
        key_env: &["DEEPSEEK_API_KEY"],
        needs_key: true,
        auth: Auth::Bearer,
        headers: &[],
        wire: &crate::openai_chat::DEEPSEEK,
        embeddings: None,
    },
    #[cfg(feature = "groq")]
    Kind {
        name: "groq",
        base_url: Some("https://api.groq.com/openai/v1"),
        base_url_env: "GROQ_BASE_URL",
        key_env: &["GROQ_API_KEY"],
        needs_key: true,
        auth: Auth::Bearer,
        headers: &[],
        wire: &crate::openai_chat::GROQ,
        embeddings: None,
    },
    #[cfg(feature = "xai")]
    Kind {
        name: "xai",
        base_url: Some("https://api.x.ai/v1"),
        base_url_env: "XAI_BASE_URL",
        key_env: &["XAI_API_KEY"],
        needs_key: true,
        auth: Auth::Bearer,
        headers: &[],
        wire: &crate::openai_chat::XAI,
        embeddings: None,
    },
    #[cfg(feature = "xai")]
    Kind {
        name: "xai-responses",
        base_url: Some("https://api.x.ai/v1"),
        base_url_env: "XAI_BASE_URL",
        key_env: &["XAI_API_KEY"],
        needs_key: true,
        auth: Auth::Bearer,
        headers: &[],
        wire: &crate::openai_responses::XAI,
        embeddings: None,
    },
    #[cfg(feature = "openrouter")]
    Kind {
        name: "openrouter",
        base_url: Some("https://openrouter.ai/api/v1"),
        base_url_env: "OPENROUTER_BASE_URL",
        key_env: &["OPENROUTER_API_KEY"],
        needs_key: true,
        auth: Auth::Bearer,
        headers: &[],
        wire: &crate::openai_chat::OPENROUTER,
        embeddings: None,
    },
    #[cfg(feature = "azure")]
    Kind {
        name: "azure",
        base_url: None,
        base_url_env: "AZURE_OPENAI_BASE_URL",
        key_env: &["AZURE_OPENAI_API_KEY"],
        needs_key: true,
        auth: Auth::Header("api-key"),
        headers: &[],
        wire: &crate::openai_responses::OPENAI,
        embeddings: Some(Embeddings::OpenAi { sized: true }),
    },
    #[cfg(feature = "azure")]
    Kind {
        name: "azure-chat",
        base_url: None,
        base_url_env: "AZURE_OPENAI_BASE_URL",
        key_env: &["AZURE_OPENAI_API_KEY"],
        needs_key: true,
        auth: Auth::Header("api-key"),
        headers: &[],
        wire: &crate::openai_chat::OPENAI,
        embeddings: Some(Embeddings::OpenAi { sized: true }),
    },
    #[cfg(feature = "llamacpp")]
    Kind {
        name: "llamacpp",
        base_url: Some("http://localhost:8080/v1"),
        base_url_env: "LLAMACPP_BASE_URL",
        key_env: &["LLAMACPP_API_KEY"],
        needs_key: false,
        auth: Auth::Bearer,
        headers: &[],
        wire: &crate::openai_chat::LLAMACPP,
        embeddings: Some(Embeddings::OpenAi { sized: false }),
    },
    #[cfg(feature = "compatible")]
    Kind {
        name: "compatible",
        base_url: None,
        base_url_env: "COMPATIBLE_BASE_URL",
        key_env: &["COMPATIBLE_API_KEY"],
        needs_key: false,
        auth: Auth::Bearer,
        headers: &[],
        wire: &crate::openai_chat::COMPATIBLE,
        embeddings: Some(Embeddings::OpenAi { sized: false }),
    },
];
