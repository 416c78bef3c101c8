//! The Standard Webhooks headers of an attempt. Pure.

use reqwest::header::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::{
    HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook,
};
use uuid::Uuid;

use super::failure::Failure;

/// Signs exactly `body`. `event_id` stays the same over all attempts; `timestamp` is that of this
/// attempt, in Unix seconds.
pub(super) fn headers(
    secret: &SecretString,
    event_id: Uuid,
    timestamp: i64,
    body: &[u8],
) -> Result<HeaderMap, Failure> {
    let id = event_id.to_string();
    // What the library says of a bad secret shows an octet of it.
    let signature = Webhook::new(secret.expose_secret())
        .and_then(|webhook| webhook.sign(&id, timestamp, body))
        .map_err(|_| Failure::MalformedSecret)?;
    let value = |text: &str| {
        HeaderValue::from_str(text).expect("an id, digits and base64 are visible ASCII")
    };
    Ok(HeaderMap::from_iter([
        (HEADER_WEBHOOK_ID.parse().expect(HEADER_NAME), value(&id)),
        (
            HEADER_WEBHOOK_TIMESTAMP.parse().expect(HEADER_NAME),
            HeaderValue::from(timestamp),
        ),
        (
            HEADER_WEBHOOK_SIGNATURE.parse().expect(HEADER_NAME),
            value(&signature),
        ),
    ]))
}

const HEADER_NAME: &str = "the names of the specification are header names";

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    #[test]
    fn signature_verifies_for_this_body_and_secret_only() {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let body = r#"{"type":"message.received"}"#.as_bytes();
        let headers = headers(&SECRET.into(), Uuid::now_v7(), now, body).unwrap();

        let webhook = Webhook::new(SECRET).unwrap();
        assert!(webhook.verify(body, &headers).is_ok());
        assert!(webhook.verify(b"{}", &headers).is_err());
        let other = Webhook::new("whsec_D2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap();
        assert!(other.verify(body, &headers).is_err());
    }

    #[test]
    fn malformed_secret_is_an_error_that_does_not_show_it() {
        let error = headers(&"whsec_not base64!".into(), Uuid::nil(), 0, b"{}").unwrap_err();
        assert!(matches!(error, Failure::MalformedSecret));
        assert!(!error.to_string().contains("base64!"));
    }
}
