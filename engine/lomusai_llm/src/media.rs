//! Media types, and what stands for bytes that a provider cannot take.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lomusai_wire::Source;

/// The media type of an image, by its first bytes in base64.
pub(crate) fn sniff(base64: &str) -> &'static str {
    match base64.as_bytes() {
        [b'/', b'9', b'j', ..] => "image/jpeg",
        [b'R', b'0', b'l', b'G', ..] => "image/gif",
        [b'U', b'k', b'l', b'G', ..] => "image/webp",
        _ => "image/png",
    }
}

/// Whether bytes of this type are text.
pub(crate) fn is_text(media_type: &str) -> bool {
    media_type.starts_with("text/") || matches!(media_type, "application/json" | "application/xml" | "application/yaml")
}

/// A file of text, as text under its name.
pub(crate) fn text(source: &Source, media_type: &str, name: Option<&str>) -> Option<String> {
    let Source::Data(data) = source else { return None };
    let bytes = if is_text(media_type) { STANDARD.decode(data).ok()? } else { return None };
    let text = String::from_utf8(bytes).ok()?;
    Some(name.map_or(text.clone(), |name| format!("{name}:\n{text}")))
}

/// What the model is told of bytes that it cannot be shown: there was something, and where.
pub(crate) fn unseen(what: &str, source: &Source, name: Option<&str>) -> String {
    let name = name.map_or(String::new(), |name| format!(" {name}"));
    match source {
        Source::Url(url) => format!("[{what}{name}: {url}]"),
        _ => format!("[{what}{name}]"),
    }
}
