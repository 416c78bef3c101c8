//! One attempt at a delivery: sign, send, record.

use std::time::Duration;

use reqwest::StatusCode;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Settings,
    client::{Answer, Client},
    failure::Failure,
    payload,
    retry::{self, Ended},
    signature,
};
use crate::store::{
    self, Store,
    deliveries::{Attempt, DueDelivery, Verdict},
    wakeups::Wakeups,
};

/// How long Postgres may take for the body of an attempt.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// How long an attempt's record is tried while Postgres is away. What is not recorded is sent again.
const RECORD_PATIENCE: Duration = Duration::from_secs(20);

/// Pause between two tries to record.
const RECORD_PAUSE: Duration = Duration::from_secs(1);

/// Makes attempts.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) store: Store,
    pub(super) wakeups: Wakeups,
    pub(super) client: Client,
    pub(super) settings: Settings,
}

/// An attempt that was made: for the log, and what decides how it goes on.
struct Made {
    attempt: Attempt,
    ended: Ended,
}

impl Sender {
    /// Makes one attempt and records it. Without Postgres there is neither: the lease ends, and the
    /// delivery is tried again.
    pub(super) async fn deliver(&self, due: &DueDelivery) {
        let _running = Running::start();
        let body = match timeout(BODY_PATIENCE, payload::body(&self.store, due)).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return not_made(due, &error),
            Err(elapsed) => return not_made(due, &elapsed),
        };
        let Made { attempt, ended } = self.attempt(due, body).await;
        let number = usize::try_from(attempt.attempt).unwrap_or(usize::MAX);
        let jitter = rand::random_range(retry::JITTER);
        let verdict = retry::verdict(ended, number, &self.settings.retry_pauses, jitter);
        observe(due, &attempt, verdict);
        match self.record(due, &attempt, verdict).await {
            Ok(()) if verdict == Verdict::Disable => {
                tracing::warn!(webhook_id = %due.webhook_id, "disabled a webhook that answered 410");
                self.wakeups.wake_events();
            }
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(delivery_id = %due.id, %error, "a webhook attempt is not recorded");
            }
        }
    }

    async fn attempt(&self, due: &DueDelivery, body: Vec<u8>) -> Made {
        let started_at = OffsetDateTime::now_utc();
        let clock = Instant::now();
        let answer = self.send(due, started_at, body).await;
        let elapsed = clock.elapsed();
        let (status, ended, error, head) = match answer {
            Ok(Answer {
                status,
                retry_after,
                head,
                cut,
            }) => {
                let ended = Ended {
                    status: Some(status.as_u16()),
                    complete: cut.is_none(),
                    retry_after,
                };
                let refusal = (!status.is_success()).then_some(Failure::Status(status));
                (Some(status), ended, refusal.or(cut), Some(head))
            }
            Err(failure) => (None, Ended::default(), Some(failure), None),
        };
        let attempt = Attempt {
            attempt: due.attempts.saturating_add(1),
            started_at,
            elapsed_ms: elapsed.as_millis().try_into().unwrap_or(i32::MAX),
            status: status.map(|status: StatusCode| status.as_u16().into()),
            error: error.map(|failure| failure.to_string()),
            response_head: head,
        };
        Made { attempt, ended }
    }

    async fn send(
        &self,
        due: &DueDelivery,
        at: OffsetDateTime,
        body: Vec<u8>,
    ) -> Result<Answer, Failure> {
        let secret = self
            .store
            .delivery_secret(due)
            .map_err(|_| Failure::SealedSecret)?;
        let headers = signature::headers(&secret, due.event_id, at.unix_timestamp(), &body)?;
        self.client.post(&due.url, headers, body).await
    }

    /// Tries until Postgres is back or patience ends: an attempt that succeeded is worth the wait.
    async fn record(
        &self,
        due: &DueDelivery,
        attempt: &Attempt,
        verdict: Verdict,
    ) -> Result<(), store::Error> {
        let deadline = Instant::now() + RECORD_PATIENCE;
        loop {
            let record = self.store.record_attempt(due, attempt, verdict);
            let recorded = timeout_at(deadline, record).await;
            match recorded.unwrap_or(Err(store::Error::Silent)) {
                Err(store::Error::Database(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(RECORD_PAUSE).await;
                }
                recorded => return recorded,
            }
        }
    }
}

fn not_made(due: &DueDelivery, error: &dyn std::fmt::Display) {
    tracing::debug!(delivery_id = %due.id, %error, "cannot read what a webhook is to tell");
}

fn observe(due: &DueDelivery, attempt: &Attempt, verdict: Verdict) {
    let (result, retry_in) = match verdict {
        Verdict::Delivered => ("delivered", None),
        Verdict::Retry(pause) => ("retry", Some(pause)),
        Verdict::Dead => ("dead", None),
        Verdict::Disable => ("disabled", None),
    };
    metrics::counter!("popbridge_webhook_attempts_total", "result" => result).increment(1);
    metrics::histogram!("popbridge_webhook_attempt_seconds")
        .record(f64::from(attempt.elapsed_ms) / 1000.0);
    if let Some(error) = &attempt.error {
        tracing::debug!(
            webhook_id = %due.webhook_id,
            delivery_id = %due.id,
            attempt = attempt.attempt,
            status = attempt.status,
            elapsed_ms = attempt.elapsed_ms,
            retry_in_seconds = retry_in.map(|pause| pause.as_secs()),
            error,
            result,
            "a webhook attempt failed",
        );
    }
}

/// Counts an attempt among those that run, for as long as it lives.
struct Running(metrics::Gauge);

impl Running {
    fn start() -> Self {
        let gauge = metrics::gauge!("popbridge_webhook_attempts_in_flight");
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}
