//! Why an attempt failed, in words for the delivery log. They name no secret and no URL, which may
//! hold one.

use std::{error::Error, io, time::Duration};

use reqwest::StatusCode;

use crate::egress::Refused;

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
    /// Nothing that HTTP can be spoken to.
    #[error("the endpoint's URL is not an http or https URL")]
    Url,
    /// The operator's policy forbids the address.
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    /// DNS.
    #[error("the endpoint's host name does not resolve: {0}")]
    Lookup(String),
    /// Name lookup, TCP and TLS took too long.
    #[error("no connection to the endpoint within {0:?}")]
    ConnectTimeout(Duration),
    /// TCP.
    #[error("cannot connect to the endpoint: {0}")]
    Connect(String),
    /// TLS.
    #[error("no TLS connection to the endpoint: {0}")]
    Tls(rustls::Error),
    /// The attempt as a whole took too long.
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    /// Reset, closed early, or not HTTP.
    #[error("the exchange with the endpoint broke off: {0}")]
    Broken(String),
    /// An answer that is not a success.
    #[error("{}", status_text(*.0))]
    Status(StatusCode),
}

impl Failure {
    /// What a failed request or a failed read of its answer means.
    pub(super) fn from_reqwest(error: reqwest::Error, connect_timeout: Duration) -> Self {
        let error = error.without_url();
        if let Some(refused) = find::<Refused>(&error) {
            return Self::Refused(*refused);
        }
        if let Some(tls) = find::<rustls::Error>(&error) {
            return Self::Tls(tls.clone());
        }
        if error.is_builder() {
            return Self::Url;
        }
        let cause = innermost(&error).to_string();
        if error.is_dns() {
            Self::Lookup(cause)
        } else if error.is_connect() && error.is_timeout() {
            Self::ConnectTimeout(connect_timeout)
        } else if error.is_connect() {
            Self::Connect(cause)
        } else {
            Self::Broken(cause)
        }
    }
}

fn status_text(status: StatusCode) -> String {
    let hint = match status.as_u16() {
        300..=399 => "; redirects are not followed",
        410 => "; it wants no more and was disabled",
        _ => "",
    };
    format!("the endpoint answered {}{hint}", status.as_u16())
}

/// The first error of this type among an error and its causes.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

/// An error and what caused it. An [`io::Error`] leaves the error that it wraps out of its own
/// chain.
fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> + 'a {
    std::iter::successors(Some(error), |&error| {
        match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        }
    })
}
