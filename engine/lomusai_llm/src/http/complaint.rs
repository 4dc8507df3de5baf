//! What went wrong, read from the shapes in which servers say it.

use lomusai_core::Error;
use serde_json::Value;

use super::endpoint::Reply;
use super::failure::{self, Complaint, excerpt};

/// Most bytes of an error's body that are read.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Longest complaint that is passed on, in characters.
const MESSAGE_CHARS_MAX: usize = 4_000;

/// The error of an answer whose status is not 200.
pub(crate) async fn of_reply(reply: Reply) -> Error {
    let (status, headers, host) = (reply.status(), reply.headers().clone(), reply.host().to_owned());
    let text = reply.text(ERROR_BYTES_MAX).await;
    of_body(&host, status, &headers, &text)
}

/// The error of a body.
pub(crate) fn of_body(host: &str, status: u16, headers: &http::HeaderMap, text: &str) -> Error {
    let said = serde_json::from_str(text).ok().as_ref().and_then(complaint);
    let complaint = said.unwrap_or_else(|| Complaint {
        // A page of HTML says little, and all of it at its beginning.
        message: excerpt(text.trim(), 500),
        ..Complaint::default()
    });
    failure::of_status(host, status, headers, complaint)
}

/// What a JSON body complains of: `{error: {message, type, code}}`, `{error: "…"}`, `{message}`, `{detail}`, or a list of one of them.
pub(crate) fn complaint(body: &Value) -> Option<Complaint> {
    if let Value::Array(items) = body {
        return complaint(items.first()?);
    }
    let (place, message) = match &body["error"] {
        Value::String(text) => (body, text.clone()),
        error @ Value::Object(_) => (error, message(error).unwrap_or_else(|| error.to_string())),
        _ => (body, message(body)?),
    };
    let message = match &place["metadata"]["raw"] {
        // A gateway's own message only says that the server behind it complained.
        Value::String(raw) => format!("{message}: {raw}"),
        _ => message,
    };
    let code = ["code", "type", "status"].iter().find_map(|field| match &place[field] {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    });
    let status = ["status_code", "code", "status"].iter().find_map(|field| {
        place[field].as_u64().filter(|status| (400..600).contains(status)).map(|status| status as u16)
    });
    // Google says when to try again within the body: `34.4s`.
    let delays = place["details"].as_array().into_iter().flatten().filter_map(|detail| detail["retryDelay"].as_str());
    let seconds =
        delays.filter_map(|delay| delay.strip_suffix('s')?.parse::<f64>().ok()).find(|seconds| *seconds >= 0.0);
    let retry_after_ms = seconds.map(|seconds| (seconds * 1000.0).ceil() as u64);
    let request_id = [body, place].iter().find_map(|place| place["request_id"].as_str()).map(str::to_owned);
    Some(Complaint { message: excerpt(&message, MESSAGE_CHARS_MAX), code, status, retry_after_ms, request_id })
}

fn message(place: &Value) -> Option<String> {
    ["message", "detail", "error_description", "title"].iter().find_map(|field| match &place[field] {
        Value::String(text) => Some(text.clone()),
        // Validators list one object per field.
        list @ Value::Array(items) if !items.is_empty() => Some(list.to_string()),
        object @ Value::Object(_) => Some(message(object).unwrap_or_else(|| object.to_string())),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use serde_json::json;

    fn said(body: Value) -> (String, Option<String>, Option<u16>) {
        let complaint = complaint(&body).expect("a complaint");
        (complaint.message, complaint.code, complaint.status)
    }

    #[test]
    fn every_shape_is_read() {
        let no = || None::<String>;
        assert_eq!(
            said(json!({"error": {"message": "no", "type": "t", "code": "c"}})),
            ("no".into(), Some("c".into()), None)
        );
        assert_eq!(
            said(json!({"error": {"message": "no", "type": "t", "code": 429}})),
            ("no".into(), Some("t".into()), Some(429))
        );
        assert_eq!(said(json!({"error": "no"})), ("no".into(), no(), None));
        assert_eq!(said(json!({"message": "no"})), ("no".into(), no(), None));
        assert_eq!(said(json!({"detail": "no"})), ("no".into(), no(), None));
        assert_eq!(said(json!({"detail": [{"msg": "no"}]})), (r#"[{"msg":"no"}]"#.into(), no(), None));
        assert_eq!(said(json!([{"error": {"code": 400, "message": "no"}}])), ("no".into(), no(), Some(400)));
        assert_eq!(
            said(json!({"error": {"code": 429, "message": "upstream", "metadata": {"raw": "slow down"}}})),
            ("upstream: slow down".into(), no(), Some(429))
        );
        for nothing in [json!({}), json!([]), json!(1), json!({"error": null}), json!({"choices": []})] {
            assert_eq!(complaint(&nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_status_decides_the_code() {
        for (status, code) in [
            (302, "provider_rejected"),
            (400, "provider_rejected"),
            (401, "credentials_rejected"),
            (403, "credentials_rejected"),
            (404, "provider_rejected"),
            (408, "provider_failed"),
            (409, "provider_failed"),
            (413, "provider_rejected"),
            (422, "provider_rejected"),
            (429, "provider_rate_limited"),
            (500, "provider_failed"),
            (503, "provider_failed"),
            (529, "provider_failed"),
        ] {
            let error = of_body("host", status, &HeaderMap::new(), "<html>busy</html>");
            assert_eq!((error.code(), &error.body().details["status"]), (code, &json!(status)));
        }
    }

    #[test]
    fn when_to_try_again_is_read_from_either_header() {
        let after = |headers: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, value.parse().unwrap());
            }
            of_body("host", 429, &map, "").body().retry_after_ms
        };
        let date = ("date", "Thu, 01 Jan 1970 00:00:10 GMT");
        assert_eq!(after(&[("retry-after", "2")]), Some(2_000));
        assert_eq!(after(&[("retry-after", "0.5")]), Some(500));
        assert_eq!(after(&[("retry-after-ms", "12.5"), ("retry-after", "2")]), Some(13));
        assert_eq!(after(&[("retry-after", "Thu, 01 Jan 1970 00:01:00 GMT"), date]), Some(50_000));
        assert_eq!(after(&[("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT"), date]), Some(0));
        assert_eq!(after(&[("retry-after", "Thu, 01 Jan 1970 00:01:00 GMT")]), None);
        assert_eq!(after(&[("retry-after", "-1")]), None);
        assert_eq!(after(&[]), None);
    }

    #[test]
    fn waiting_does_not_refill_an_account() {
        let error = of_body("h", 429, &HeaderMap::new(), r#"{"error":{"message":"m","code":"insufficient_quota"}}"#);
        assert_eq!((error.code(), error.is_retryable()), ("provider_rate_limited", false));
    }

    #[test]
    fn what_the_model_wrote_badly_is_asked_for_again() {
        let error = of_body("h", 400, &HeaderMap::new(), r#"{"error":{"message":"m","code":"tool_use_failed"}}"#);
        assert_eq!((error.code(), error.is_retryable()), ("provider_rejected", true));
    }
}
