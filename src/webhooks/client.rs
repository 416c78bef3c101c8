//! The HTTP client of webhooks: a POST and its answer, with bounds on time and on what is read.

use std::time::{Duration, SystemTime};

use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use tokio::time::{Instant, timeout_at};

use super::{Settings, failure::Failure, retry};
use crate::egress::{
    Egress,
    http::{self, ClientError},
};

/// Octets of an answer's body after which no more is read, give or take what the connection hands
/// over at once; the rest is left, and the connection with it.
const BODY_READ: usize = 8 * 1024;

/// Octets of an answer's body that the delivery log shows.
const BODY_KEPT: usize = 1024;

/// Posts to endpoints.
#[derive(Debug)]
pub(super) struct Client {
    http: http::Client,
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
        let (limit, idle) = (settings.connect_timeout, settings.concurrency_per_webhook);
        Ok(Self {
            http: http::Client::new(egress, limit, idle)?,
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
        let failed = |error| Failure::Http(self.http.failure(error));
        let too_late = |_| Failure::Timeout(self.attempt_deadline);
        let request = self
            .http
            .post(url)
            .map_err(Failure::Http)?
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
