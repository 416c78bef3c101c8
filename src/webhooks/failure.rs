//! Why an attempt failed, in words for the delivery log. They name no secret and no URL, which may
//! hold one.

use std::time::Duration;

use reqwest::StatusCode;

use crate::egress::http;

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Sealed under another master key.
    #[error(
        "the endpoint's secret does not open with this master key; start popbridge with the one \
         that sealed it, or make the endpoint anew"
    )]
    SealedSecret,
    /// Not what Standard Webhooks asks for.
    #[error("the endpoint's secret is not `whsec_` and base64; make the endpoint anew")]
    MalformedSecret,
    /// There is no whole answer.
    #[error("{}", .0.describe("endpoint"))]
    Http(http::Failure),
    /// The attempt as a whole took too long.
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    /// An answer that is not a success.
    #[error("{}", status_text(*.0))]
    Status(StatusCode),
}

fn status_text(status: StatusCode) -> String {
    let hint = match status.as_u16() {
        300..=399 => "; redirects are not followed",
        410 => "; it wants no more and was disabled",
        _ => "",
    };
    format!("the endpoint answered {}{hint}", status.as_u16())
}
