//! Media types, and what stands for bytes that a provider cannot take.

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

/// What the model is told of bytes that it cannot be shown: there was something, and where.
pub(crate) fn unseen(what: &str, source: &Source, name: Option<&str>) -> String {
    let name = name.map_or(String::new(), |name| format!(" {name}"));
    match source {
        Source::Url(url) => format!("[{what}{name}: {url}]"),
        _ => format!("[{what}{name}]"),
    }
}
