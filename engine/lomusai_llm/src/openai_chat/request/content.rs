//! What a message says, as text or as the API's parts. A part that the API has no form for becomes text, or is left out.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lomusai_wire::{Part, Source};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::media;

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Content<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<WirePart<'a>>),
}

impl<'a> Content<'a> {
    /// A single text goes as a plain string, which every server takes.
    pub(super) fn new(mut parts: Vec<WirePart<'a>>) -> Self {
        match parts.as_mut_slice() {
            [WirePart::Known(KnownPart::Text { text })] => Self::Text(std::mem::take(text)),
            _ => Self::Parts(parts),
        }
    }
}

pub(super) enum WirePart<'a> {
    Known(KnownPart<'a>),
    /// A part in the API's own words, which the host or the provider wrote.
    Own(&'a Map<String, Value>),
    /// A part with further fields.
    With(KnownPart<'a>, &'a Map<String, Value>),
}

impl Serialize for WirePart<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct With<'a, 'b> {
            #[serde(flatten)]
            part: &'a KnownPart<'b>,
            #[serde(flatten)]
            fields: &'a Map<String, Value>,
        }
        match self {
            Self::Known(part) => part.serialize(serializer),
            Self::Own(object) => object.serialize(serializer),
            Self::With(part, fields) => With { part, fields }.serialize(serializer),
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum KnownPart<'a> {
    Thinking { thinking: Vec<KnownPart<'a>> },
    Text { text: Cow<'a, str> },
    ImageUrl { image_url: Address<'a> },
    InputAudio { input_audio: Audio<'a> },
    File { file: File<'a> },
}

#[derive(Serialize)]
pub(super) struct Address<'a> {
    url: Cow<'a, str>,
}

#[derive(Serialize)]
pub(super) struct Audio<'a> {
    data: &'a str,
    format: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum File<'a> {
    Data { filename: &'a str, file_data: String },
    Reference { file_id: &'a str },
}

impl<'a> WirePart<'a> {
    pub(super) fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Known(KnownPart::Text { text: text.into() })
    }

    /// A part of the model's own words, as the provider of this name takes it back.
    pub(super) fn own(part: &'a Part, name: &str) -> Option<Self> {
        match part {
            Part::Text(text) if text.is_empty() => None,
            Part::Text(text) => Some(Self::text(text)),
            Part::Reasoning(reasoning) => {
                let thinking = vec![KnownPart::Text { text: reasoning.text.as_str().into() }];
                Some(Self::Known(KnownPart::Thinking { thinking }))
            }
            Part::Provider { provider, data: Value::Object(object), attached: false } if provider == name => {
                Some(Self::Own(object))
            }
            _ => None,
        }
    }

    /// The part as a user may send it, where the API has a form for it.
    pub(super) fn new(part: &'a Part) -> Option<Self> {
        match part {
            // The API refuses an empty one.
            Part::Text(text) if text.is_empty() => None,
            Part::Text(text) => Some(Self::text(text)),
            Part::Image { source, media_type } => Some(Self::Known(image(source, media_type.as_deref()))),
            Part::File { source, media_type, name } => {
                Some(Self::Known(file(source, media_type.as_deref().unwrap_or_default(), name.as_deref())))
            }
            Part::Unknown(object) => Some(Self::Own(object)),
            // For the host only, or for the provider that made it.
            _ => None,
        }
    }
}

fn image<'a>(source: &'a Source, media_type: Option<&str>) -> KnownPart<'a> {
    let url = match source {
        Source::Data(base64) => {
            let media_type = media_type.unwrap_or_else(|| media::sniff(base64));
            format!("data:{media_type};base64,{base64}").into()
        }
        Source::Url(url) => Cow::Borrowed(url.as_str()),
        other => return unseen("image", other, None),
    };
    KnownPart::ImageUrl { image_url: Address { url } }
}

fn file<'a>(source: &'a Source, media_type: &str, name: Option<&'a str>) -> KnownPart<'a> {
    let data = match source {
        Source::Data(base64) => base64,
        _ if media_type.starts_with("image/") => return image(source, Some(media_type)),
        other => return unseen("file", other, name),
    };
    match media_type {
        "audio/wav" | "audio/x-wav" | "audio/wave" => audio(data, "wav"),
        "audio/mpeg" | "audio/mp3" => audio(data, "mp3"),
        _ if media_type.starts_with("image/") => image(source, Some(media_type)),
        // The API takes text as text only.
        _ if media::is_text(media_type) => match STANDARD.decode(data).map(String::from_utf8) {
            Ok(Ok(text)) => match name {
                Some(name) => KnownPart::Text { text: format!("{name}:\n{text}").into() },
                None => KnownPart::Text { text: text.into() },
            },
            _ => binary(data, media_type, name),
        },
        _ => binary(data, media_type, name),
    }
}

fn audio<'a>(data: &'a str, format: &'static str) -> KnownPart<'a> {
    KnownPart::InputAudio { input_audio: Audio { data, format } }
}

fn binary<'a>(data: &str, media_type: &str, name: Option<&'a str>) -> KnownPart<'a> {
    let media_type = if media_type.is_empty() { "application/pdf" } else { media_type };
    let file_data = format!("data:{media_type};base64,{data}");
    KnownPart::File { file: File::Data { filename: name.unwrap_or("file"), file_data } }
}

/// A part whose bytes are not here. The API takes a file of its own by id, and no other; an address at least tells the model what there is.
fn unseen<'a>(what: &str, source: &'a Source, name: Option<&str>) -> KnownPart<'a> {
    match source {
        Source::Reference(file_id) => KnownPart::File { file: File::Reference { file_id } },
        other => KnownPart::Text { text: media::unseen(what, other, name).into() },
    }
}
