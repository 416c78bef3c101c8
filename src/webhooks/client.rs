//! The HTTP client of webhooks: HTTP/1.1 with connections kept alive, no redirects, no proxy, only
//! addresses that the egress policy lets through, and bounds on time and on what is read.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use reqwest::{
    StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect, retry as resend,
};
use rustls::{ClientConfig, crypto::ring};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::time::{Instant, timeout_at};

use super::{Settings, failure::Failure, resolver::Resolver, retry};
use crate::egress::Egress;

const USER_AGENT: &str = concat!("popbridge/", env!("CARGO_PKG_VERSION"));

/// Octets of an answer's body after which no more is read, give or take what the connection hands
/// over at once; the rest is left, and the connection with it.
const BODY_READ: usize = 8 * 1024;

/// Octets of an answer's body that the delivery log shows.
const BODY_KEPT: usize = 1024;

/// The HTTP client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS, most often for want of CA certificates.
    #[error("cannot set up TLS for webhooks: {0}; install ca-certificates")]
    Tls(#[from] rustls::Error),
    /// The HTTP library refuses its settings.
    #[error("cannot set up HTTP for webhooks: {0}")]
    Http(#[from] reqwest::Error),
}

/// Posts to endpoints.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    egress: Egress,
    connect_timeout: Duration,
    attempt_deadline: Duration,
}

/// What an endpoint answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// From now.
    pub(super) retry_after: Option<Duration>,
    /// Start of the body: valid UTF-8 without NUL.
    pub(super) head: String,
    /// Why the body did not end; `None` when it did, or is longer than what is read.
    pub(super) cut: Option<Failure>,
}

impl Client {
    /// A client that keeps as many connections to a host as an endpoint may have attempts.
    pub(super) fn new(egress: Egress, settings: &Settings) -> Result<Self, ClientError> {
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()?
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(resend::never())
            .dns_resolver(Arc::new(Resolver(egress.clone())))
            .connect_timeout(settings.connect_timeout)
            .pool_max_idle_per_host(settings.concurrency_per_webhook)
            .user_agent(USER_AGENT)
            .build()?;
        Ok(Self {
            http,
            egress,
            connect_timeout: settings.connect_timeout,
            attempt_deadline: settings.attempt_deadline,
        })
    }

    /// Posts JSON and reads the answer, all within the deadline of an attempt.
    pub(super) async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.attempt_deadline;
        let failed = |error| Failure::from_reqwest(error, self.connect_timeout);
        let too_late = |_| Failure::Timeout(self.attempt_deadline);
        let url = self.vet(url)?;
        let request = self
            .http
            .post(url)
            .headers(headers)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body);
        let mut response = timeout_at(deadline, request.send())
            .await
            .map_err(too_late)?
            .map_err(failed)?;
        let mut body = Vec::new();
        let cut = match timeout_at(deadline, read_start(&mut response, &mut body)).await {
            Ok(read) => read.err().map(failed),
            Err(elapsed) => Some(too_late(elapsed)),
        };
        Ok(Answer {
            status: response.status(),
            retry_after: asked_pause(response.headers()),
            head: shown(&body),
            cut,
        })
    }

    /// Resolvers are not asked for hosts that are addresses, so those are checked here.
    fn vet(&self, url: &str) -> Result<Url, Failure> {
        let url = Url::parse(url).map_err(|_| Failure::Url)?;
        let host = match url.scheme() {
            "http" | "https" => url.host_str().ok_or(Failure::Url)?,
            _ => return Err(Failure::Url),
        };
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            self.egress.check(address)?;
        }
        Ok(url)
    }
}

/// Reads to the end, so that the connection can be used again, or to [`BODY_READ`].
async fn read_start(response: &mut reqwest::Response, body: &mut Vec<u8>) -> reqwest::Result<()> {
    while body.len() < BODY_READ
        && let Some(chunk) = response.chunk().await?
    {
        body.extend_from_slice(&chunk);
    }
    Ok(())
}

fn asked_pause(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    retry::retry_after(value, SystemTime::now())
}

fn shown(body: &[u8]) -> String {
    let kept = &body[..body.len().min(BODY_KEPT)];
    String::from_utf8_lossy(kept).replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn shown_body_is_text_that_postgres_takes() {
        assert_eq!(shown(b"ok"), "ok");
        assert_eq!(shown(b"a\0b\xff"), "a\u{fffd}b\u{fffd}");
        assert_eq!(shown(&[b'x'; 5000]).len(), 1024);
    }
}
