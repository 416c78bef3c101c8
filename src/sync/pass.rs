//! One pass over a claimed mailbox: its sessions, its lease, and how it ended.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{LEASE, budget::Budget, error::Error, retry, session::Sessions};
use crate::{
    pop3::{self, Connector},
    store::{
        self, Store,
        leases::{Claim, Counts, Failure, Outcome},
        mailboxes::Mailbox,
        wakeups::Wakeups,
    },
};

/// Sessions after which a pass makes room for other mailboxes, however much is left.
const MAX_SESSIONS: usize = 50;

/// A pass over one mailbox.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) store: Store,
    pub(super) wakeups: Wakeups,
    pub(super) connector: Connector,
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
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return self.release().await,
                () = self.keep_lease() => {
                    return tracing::warn!("lost the lease; another worker has the mailbox");
                }
                result = Box::pin(self.sessions(&mailbox, &mut progress)) => result,
            };
            self.finish(&mailbox, progress, result, started).await;
        }
        .instrument(span)
        .await;
    }

    /// Runs sessions until the maildrop is caught up with.
    async fn sessions(&self, mailbox: &Mailbox, progress: &mut Progress) -> Result<(), Error> {
        let sessions = Sessions {
            store: &self.store,
            wakeups: &self.wakeups,
            connector: &self.connector,
            budget: &self.budget,
            lease: &self.claim.lease,
            mailbox,
            backlog: !self.claim.backlog_done,
        };
        for _ in 0..MAX_SESSIONS {
            let before = progress.counts.stored;
            let end = sessions.run(&mut progress.counts).await?;
            let may_return = !end
                .capabilities
                .iter()
                .any(|line| line.starts_with("LOGIN-DELAY"));
            progress.capabilities = Some(end.capabilities);
            progress.caught_up = !end.more;
            progress.at_once = end.more && may_return;
            if !progress.at_once || progress.counts.stored == before {
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
    ) {
        let Progress {
            counts,
            capabilities,
            caught_up,
            at_once,
        } = progress;
        let elapsed = started.elapsed();
        metrics::histogram!("popbridge_sync_seconds").record(elapsed);
        let (failure, next_in) = match &result {
            Ok(()) => (None, Some(self.after_success(mailbox, at_once))),
            Err(error) => {
                let auth = matches!(error, Error::Pop3(pop3::Error::AuthFailed(_)));
                let failures = self.claim.failures + 1;
                let auth_failures = self.claim.auth_failures + u32::from(auth);
                let next_in = retry::after_failure(error, failures, auth_failures);
                (
                    Some(Failure {
                        code: error.code(),
                        detail: error.to_string(),
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
        };
        match timeout(LEASE, self.store.finish_pass(&self.claim.lease, &outcome)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot record the end of the pass"),
            Err(_) => tracing::warn!("cannot record the end of the pass in time"),
        }
        self.wakeups.wake_events();
    }

    fn after_success(&self, mailbox: &Mailbox, at_once: bool) -> Duration {
        if at_once {
            return Duration::ZERO;
        }
        let seconds = mailbox.settings.poll_interval_seconds.unsigned_abs();
        retry::jitter(Duration::from_secs(seconds.into()))
    }
}
