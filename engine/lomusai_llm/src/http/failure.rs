//! What a status, a header or a broken connection means for a caller: which code, and when to try again.

use http::header::{DATE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use lomusai_core::Error;
use lomusai_wire::{Code, ErrorBody, codes};

use super::causes::causes;
use super::client::Failed;
use super::date;

/// What a provider said went wrong, whatever shape it said it in.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Complaint {
    pub(crate) message: String,
    /// The provider's own code or type of error.
    pub(crate) code: Option<String>,
    /// A status that the complaint itself names.
    pub(crate) status: Option<u16>,
    /// When to try again, where the body says so.
    pub(crate) retry_after_ms: Option<u64>,
    /// What the provider calls the request, where the body says so.
    pub(crate) request_id: Option<String>,
}

/// The error for an answer of this status.
pub(crate) fn of_status(host: &str, status: u16, headers: &HeaderMap, complaint: Complaint) -> Error {
    let said = if complaint.message.is_empty() {
        StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("nothing more")
    } else {
        &complaint.message
    };
    let message = match headers.get(LOCATION).and_then(|value| value.to_str().ok()) {
        Some(location) if (300..400).contains(&status) => {
            format!("{host} answered {status}, a redirect to {location}: set base_url to the final address")
        }
        _ => format!("{host} answered {status}: {said}"),
    };
    let mut body = ErrorBody::new(code_of(status), message);
    body.details.insert("status".into(), status.into());
    if let Some(id) = request_id(headers) {
        body.details.insert("request_id".into(), id.into());
    }
    if body.retryable {
        body.retry_after_ms = retry_after_ms(headers).or(complaint.retry_after_ms);
    }
    finish(body, complaint)
}

/// What the provider calls this request, for its support.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<String> {
    ["x-request-id", "request-id", "x-amzn-requestid", "apim-request-id", "x-generation-id"]
        .iter()
        .find_map(|name| headers.get(*name)?.to_str().ok())
        .map(str::to_owned)
}

/// The error for a complaint within a stream that began well.
pub(crate) fn in_stream(complaint: Complaint) -> Error {
    let status = complaint.status.unwrap_or_else(|| guess(complaint.code.as_deref().unwrap_or_default()));
    let mut body = ErrorBody::new(code_of(status), format!("the provider broke off its answer: {}", complaint.message));
    if let Some(status) = complaint.status {
        body.details.insert("status".into(), status.into());
    }
    finish(body, complaint)
}

/// The error of a request that got no answer.
pub(crate) fn of_transport(host: &str, failed: Failed) -> Error {
    let why = match failed {
        Failed::TimedOut => "no connection within timeouts.connect_ms".to_owned(),
        Failed::Unreachable(cause) => causes(&*cause),
        Failed::Broken(error) => causes(&error),
    };
    Error::new(codes::PROVIDER_UNREACHABLE, format!("{host} cannot be reached: {why}")).with("host", host)
}

/// `text`, or its beginning where it is longer than `chars_max`.
pub(crate) fn excerpt(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The error of an answer that is not what the API promises.
pub(crate) fn nonsense(what: &str, answer: &str) -> Error {
    let message = format!("the provider's answer cannot be understood: {what}: {}", excerpt(answer.trim(), 200));
    Error::new(codes::PROVIDER_RESPONSE_INVALID, message)
}

fn finish(mut body: ErrorBody, complaint: Complaint) -> Error {
    if let Some(id) = complaint.request_id {
        body.details.entry("request_id".to_owned()).or_insert_with(|| id.into());
    }
    if let Some(code) = complaint.code {
        // Waiting does not refill an account.
        body.retryable &= !NO_MONEY.contains(&code.as_str());
        // A slip of the model, which it may not make again.
        body.retryable |= SLIPS.contains(&code.as_str());
        body.details.insert("provider_code".into(), code.into());
    }
    body.into()
}

/// What an account without money is told.
const NO_MONEY: [&str; 4] =
    ["insufficient_quota", "credit_balance_exhausted", "billing_not_active", "billing_hard_limit_reached"];

/// What Groq says of an answer that was to be a call or JSON and was none. <https://console.groq.com/docs/tool-use>
const SLIPS: [&str; 2] = ["tool_use_failed", "json_validate_failed"];

fn code_of(status: u16) -> Code {
    match status {
        401 | 403 => codes::CREDENTIALS_REJECTED,
        429 => codes::PROVIDER_RATE_LIMITED,
        408 | 409 | 500.. => codes::PROVIDER_FAILED,
        _ => codes::PROVIDER_REJECTED,
    }
}

/// A status for a complaint that names none, from the words providers use.
fn guess(code: &str) -> u16 {
    let code = code.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| code.contains(word));
    if NO_MONEY.contains(&&*code) || says(&["rate_limit", "too_many_requests", "resource_exhausted"]) {
        429
    } else if says(&["authentication", "api_key", "permission", "unauthenticated"]) {
        401
    } else if says(&["invalid", "context_length", "not_found", "unsupported", "policy", "image"]) {
        400
    } else {
        500
    }
}

fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    if let Some(ms) = text("retry-after-ms").and_then(number) {
        return Some(ms.ceil() as u64);
    }
    let after = text(RETRY_AFTER.as_str())?;
    if let Some(seconds) = number(after) {
        return Some((seconds * 1000.0).ceil() as u64);
    }
    // The server's own clock says how far away its date is. Without it the date means nothing here: clocks differ.
    let now = date::seconds(text(DATE.as_str())?)?;
    Some((date::seconds(after)? - now).max(0) as u64 * 1000)
}
