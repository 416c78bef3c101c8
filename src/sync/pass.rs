//! One pass over a claimed mailbox: its sessions, its lease, and how it ended.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    LEASE,
    budget::Budget,
    error::Error,
    login::Login,
    retry::{self, Standing},
    session::{Findings, Sessions},
};
use crate::{
    oauth::AccessTokens,
    pop3::{self, Connector},
    store::{
        self, Store,
        leases::{Claim, Counts, Failure, Outcome},
        mailboxes::Mailbox,
        wakeups::Wakeups,
    },
};

/// Sessions after which a pass makes room for other mailboxes, however much is left; it is due again
/// at once, behind those that wait longer.
const MAX_SESSIONS: usize = 20;

/// No session begins so long after the pass did: a slow server keeps its slot no longer than that
/// and one session.
const MAX_PASS: Duration = Duration::from_secs(20);

/// A session that takes longer waits for Postgres: all waits for the server end before
/// ([`pop3::Deadlines`]).
const MAX_SESSION: Duration = Duration::from_secs(20 * 60);

/// How long the end of a pass may take to record while Postgres is away; less than the lease has
/// left at least.
const RECORD_PATIENCE: Duration = Duration::from_secs(15);

/// Pause between two tries.
const RECORD_PAUSE: Duration = Duration::from_secs(1);

/// For how long a maildrop is read one command at a time after this error, which came while
/// commands were sent ahead of replies. A server that loses its place will do so again; a
/// connection that was lost may be the network's fault alone.
fn without_pipelining(error: &Error) -> Duration {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    match error {
        Error::Pop3(pop3::Error::Closed { .. }) => HOUR,
        _ => 7 * 24 * HOUR,
    }
}

/// What happened and what to change. Of a login that failed, known providers' users are told more.
fn detail(error: &Error, mailbox: &Mailbox) -> String {
    let hint = match error {
        Error::Pop3(
            pop3::Error::AuthFailed(_)
            | pop3::Error::AuthUnsupported(_)
            | pop3::Error::TokenRefused(_),
        ) => pop3::provider_hint(&mailbox.settings.host),
        _ => None,
    };
    match hint {
        Some(hint) => format!("{error}. {hint}"),
        None => error.to_string(),
    }
}

/// A pass over one mailbox.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) store: Store,
    pub(super) wakeups: Wakeups,
    pub(super) connector: Connector,
    pub(super) tokens: Arc<AccessTokens>,
    pub(super) budget: Budget,
    pub(super) claim: Claim,
}

/// What a pass has done when it ends, in whatever way.
#[derive(Debug, Default)]
struct Progress {
    counts: Counts,
    capabilities: Option<Vec<String>>,
    caught_up: bool,
    /// More is left, and the server lets us come back for it without a pause.
    at_once: bool,
    findings: Findings,
    transcript: pop3::Transcript,
}

impl Pass {
    /// Makes the pass, unless `stop` or the loss of the lease ends it.
    pub(super) async fn run(self, stop: &CancellationToken) {
        let lease = self.claim.lease;
        let span =
            tracing::info_span!("sync", mailbox_id = %lease.mailbox_id, sync_id = %lease.sync_id);
        async {
            let mut progress = Progress::default();
            let started = (OffsetDateTime::now_utc(), Instant::now());
            let mailbox = match timeout(LEASE, self.store.mailbox(lease.mailbox_id)).await {
                Ok(Ok(mailbox)) => mailbox,
                Ok(Err(error)) => return tracing::warn!(%error, "cannot read the mailbox"),
                Err(_) => return tracing::warn!("cannot read the mailbox in time"),
            };
            // Neither a stop nor a lost lease cuts this short: refresh tokens could get lost.
            let prepare = Login::prepare(&self.store, &self.tokens, &lease, &mailbox.settings);
            let result = match prepare.await {
                Ok(login) => tokio::select! {
                    biased;
                    () = stop.cancelled() => return self.release().await,
                    () = self.keep_lease() => {
                        return tracing::warn!("lost the lease; another worker has the mailbox");
                    }
                    result = Box::pin(self.sessions(&mailbox, login, &mut progress)) => result,
                },
                Err(error) if error.is_overtaken() => return self.release().await,
                Err(error) => Err(error),
            };
            self.finish(&mailbox, progress, result, started, stop).await;
        }
        .instrument(span)
        .await;
    }

    /// Runs sessions until the maildrop is caught up with.
    async fn sessions(
        &self,
        mailbox: &Mailbox,
        mut login: Login,
        progress: &mut Progress,
    ) -> Result<(), Error> {
        progress.findings.unique_ids = self.claim.unique_ids;
        let transcript = progress.transcript.clone();
        let sessions = Sessions {
            store: &self.store,
            wakeups: &self.wakeups,
            connector: &self.connector,
            budget: &self.budget,
            lease: &self.claim.lease,
            mailbox,
            backlog: !self.claim.backlog_done,
            transcript: &transcript,
            pipelining: self.claim.pipelining,
        };
        let began = Instant::now();
        for _ in 0..MAX_SESSIONS {
            let before = progress.counts.stored;
            let session = sessions.run(
                &login.credentials,
                &mut progress.counts,
                &mut progress.findings,
            );
            let end = match timeout(MAX_SESSION, session).await {
                Err(_) => return Err(store::Error::Silent.into()),
                Ok(Ok(end)) => end,
                Ok(Err(error)) => {
                    return Err(login.judge(error, &self.tokens, &self.claim.lease).await);
                }
            };
            login.worked();
            let may_return = retry::login_delay(&end.capabilities).is_none();
            progress.capabilities = Some(end.capabilities);
            progress.caught_up = !end.more;
            progress.at_once = end.more && may_return;
            // The next pass has an access token of its own.
            if !progress.at_once
                || progress.counts.stored == before
                || !login.is_usable()
                || began.elapsed() >= MAX_PASS
            {
                break;
            }
        }
        Ok(())
    }

    /// Renews the lease for as long as it can be; returns once it is lost. A lease that cannot be
    /// renewed in time counts as lost: another worker may have claimed the mailbox.
    async fn keep_lease(&self) {
        let mut renewed = Instant::now();
        loop {
            sleep(LEASE / 4).await;
            match timeout(LEASE / 4, self.store.renew_lease(&self.claim.lease, LEASE)).await {
                Ok(Ok(())) => renewed = Instant::now(),
                Ok(Err(store::Error::LeaseLost)) => return,
                Ok(Err(_)) | Err(_) if renewed.elapsed() >= LEASE / 2 => return,
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// Gives the mailbox back, so that the next worker need not wait for the lease to end.
    async fn release(&self) {
        const PATIENCE: Duration = Duration::from_secs(5);
        if !matches!(
            timeout(PATIENCE, self.store.release_lease(&self.claim.lease)).await,
            Ok(Ok(()))
        ) {
            tracing::info!("could not give the mailbox back; its lease ends by itself");
        }
    }

    async fn finish(
        &self,
        mailbox: &Mailbox,
        progress: Progress,
        result: Result<(), Error>,
        (started_at, started): (OffsetDateTime, Instant),
        stop: &CancellationToken,
    ) {
        let Progress {
            counts,
            capabilities,
            caught_up,
            at_once,
            findings,
            transcript,
        } = progress;
        let elapsed = started.elapsed();
        metrics::histogram!("popbridge_sync_seconds").record(elapsed);
        let announced = capabilities.as_ref().unwrap_or(&mailbox.capabilities);
        let login_delay = retry::login_delay(announced);
        let (failure, next_in) = match &result {
            Ok(()) => {
                let next_in = after_success(mailbox, at_once, announced);
                (None, Some(next_in.max(login_delay.unwrap_or_default())))
            }
            Err(error) => {
                let auth = error.is_auth_failure();
                let standing = Standing {
                    failures: self.claim.failures + 1,
                    auth_failures: self.claim.auth_failures + u32::from(auth),
                    login_delay,
                };
                let next_in = retry::after_failure(error, standing);
                (
                    Some(Failure {
                        code: error.code(),
                        detail: detail(error, mailbox),
                        auth,
                    }),
                    next_in,
                )
            }
        };
        let code = failure.as_ref().map_or("ok", |failure| failure.code);
        metrics::counter!("popbridge_syncs_total", "result" => code).increment(1);
        let elapsed_ms = elapsed.as_millis();
        match &failure {
            None => tracing::info!(
                elapsed_ms,
                listed = counts.listed,
                stored = counts.stored,
                deleted = counts.deleted,
                failed = counts.failed,
                "synced"
            ),
            // Told of once for all mailboxes.
            Some(_) if result.as_ref().is_err_and(Error::is_outage) => {
                tracing::debug!(
                    elapsed_ms,
                    stored = counts.stored,
                    "no sync without Postgres"
                );
            }
            Some(failure) => tracing::warn!(
                elapsed_ms,
                stored = counts.stored,
                code = failure.code,
                detail = failure.detail,
                "sync failed"
            ),
        }
        let outcome = Outcome {
            started_at,
            counts,
            failure,
            capabilities,
            caught_up,
            next_in,
            pipelining_off_for: match &result {
                Err(error) if findings.pipelining_failed => Some(without_pipelining(error)),
                _ => None,
            },
            transcript: serde_json::to_value(transcript.record()).unwrap_or_default(),
        };
        match timeout(RECORD_PATIENCE, self.record(&outcome, stop)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot record the end of the pass"),
            Err(_) => tracing::debug!("cannot record the end of the pass in time"),
        }
        self.wakeups.wake_events();
    }

    /// Tries until Postgres is back: else the mailbox would wait for the end of the lease.
    async fn record(
        &self,
        outcome: &Outcome,
        stop: &CancellationToken,
    ) -> Result<(), store::Error> {
        loop {
            match self.store.finish_pass(&self.claim.lease, outcome).await {
                Err(error) if error.is_unavailable() && !stop.is_cancelled() => {
                    sleep(RECORD_PAUSE).await;
                }
                recorded => return recorded,
            }
        }
    }
}

fn after_success(mailbox: &Mailbox, at_once: bool, announced: &[String]) -> Duration {
    if at_once {
        return Duration::ZERO;
    }
    let seconds = mailbox.settings.poll_interval_seconds.unsigned_abs();
    let interval = retry::jitter(Duration::from_secs(seconds.into()));
    interval.min(retry::half_expiry(announced).unwrap_or(Duration::MAX))
}
