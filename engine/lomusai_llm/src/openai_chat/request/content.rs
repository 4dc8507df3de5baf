//! What a message says, as text or as the API's parts. A part that the API has no form for becomes text, or is left out.

use std::borrow::Cow;

use lomusai_wire::{Part, Source};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::super::{Audio, Files, Media};
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
    Thinking {
        thinking: Vec<KnownPart<'a>>,
    },
    Text {
        text: Cow<'a, str>,
    },
    ImageUrl {
        image_url: Address<'a>,
    },
    InputAudio {
        input_audio: Sound<'a>,
    },
    File {
        file: File<'a>,
    },
    #[serde(rename = "file")]
    FileId {
        file_id: &'a str,
    },
    DocumentUrl {
        document_url: Cow<'a, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        document_name: Option<&'a str>,
    },
}

#[derive(Serialize)]
pub(super) struct Address<'a> {
    url: Cow<'a, str>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Sound<'a> {
    Described { data: &'a str, format: &'static str },
    Bare(&'a str),
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
                let thinking = KnownPart::Thinking { thinking };
                Some(match reasoning.provider.get(name) {
                    Some(Value::Object(fields)) => Self::With(thinking, fields),
                    _ => Self::Known(thinking),
                })
            }
            Part::Provider { provider, data: Value::Object(object), attached: false } if provider == name => {
                Some(Self::Own(object))
            }
            _ => None,
        }
    }

    /// The part as a user may send it, where the API has a form for it.
    pub(super) fn new(part: &'a Part, media: Media) -> Option<Self> {
        match part {
            // The API refuses an empty one.
            Part::Text(text) if text.is_empty() => None,
            Part::Text(text) => Some(Self::text(text)),
            Part::Image { source, media_type } => Some(Self::Known(image(source, media_type.as_deref(), media))),
            Part::File { source, media_type, name } => {
                Some(Self::Known(file(source, media_type.as_deref().unwrap_or_default(), name.as_deref(), media)))
            }
            Part::Unknown(object) => Some(Self::Own(object)),
            // For the host only, or for the provider that made it.
            _ => None,
        }
    }
}

fn image<'a>(source: &'a Source, media_type: Option<&str>, media: Media) -> KnownPart<'a> {
    let url = match source {
        _ if !media.images => return unseen("image", source, None),
        Source::Data(base64) => {
            let media_type = media_type.unwrap_or_else(|| media::sniff(base64));
            format!("data:{media_type};base64,{base64}").into()
        }
        Source::Url(url) => Cow::Borrowed(url.as_str()),
        other => return held("image", other, None, media),
    };
    KnownPart::ImageUrl { image_url: Address { url } }
}

fn file<'a>(source: &'a Source, media_type: &str, name: Option<&'a str>, media: Media) -> KnownPart<'a> {
    if media_type.starts_with("image/") {
        return image(source, Some(media_type), media);
    }
    match source {
        Source::Data(data) => match (media_type, media.audio) {
            ("audio/wav" | "audio/x-wav" | "audio/wave" | "audio/mpeg" | "audio/mp3", Audio::Bare) => {
                KnownPart::InputAudio { input_audio: Sound::Bare(data) }
            }
            ("audio/wav" | "audio/x-wav" | "audio/wave", Audio::Described) => sound(data, "wav"),
            ("audio/mpeg" | "audio/mp3", Audio::Described) => sound(data, "mp3"),
            // The API takes text as text only.
            _ => match media::text(source, media_type, name) {
                Some(text) => KnownPart::Text { text: text.into() },
                None => binary(source, data, media_type, name, media),
            },
        },
        Source::Url(url) if media.files == Files::Addressed => {
            KnownPart::DocumentUrl { document_url: url.as_str().into(), document_name: name }
        }
        Source::Url(url) if media.files == Files::Enclosed => {
            KnownPart::File { file: File::Data { filename: name.unwrap_or("file"), file_data: url.clone() } }
        }
        other => held("file", other, name, media),
    }
}

fn sound<'a>(data: &'a str, format: &'static str) -> KnownPart<'a> {
    KnownPart::InputAudio { input_audio: Sound::Described { data, format } }
}

fn binary<'a>(source: &'a Source, data: &str, media_type: &str, name: Option<&'a str>, media: Media) -> KnownPart<'a> {
    let media_type = if media_type.is_empty() { "application/pdf" } else { media_type };
    let address = || format!("data:{media_type};base64,{data}");
    match media.files {
        Files::No => unseen("file", source, name),
        Files::Held | Files::Enclosed => {
            KnownPart::File { file: File::Data { filename: name.unwrap_or("file"), file_data: address() } }
        }
        Files::Addressed => KnownPart::DocumentUrl { document_url: address().into(), document_name: name },
    }
}

/// What the server has already, and knows by an id; an address at least tells the model what there is.
fn held<'a>(what: &str, source: &'a Source, name: Option<&str>, media: Media) -> KnownPart<'a> {
    match (source, media.files) {
        (Source::Reference(file_id), Files::Held) => KnownPart::File { file: File::Reference { file_id } },
        (Source::Reference(file_id), Files::Addressed) => KnownPart::FileId { file_id },
        _ => unseen(what, source, name),
    }
}

fn unseen<'a>(what: &str, source: &'a Source, name: Option<&str>) -> KnownPart<'a> {
    KnownPart::Text { text: media::unseen(what, source, name).into() }
}
