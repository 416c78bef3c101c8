//! One pass over a claimed mailbox: its sessions, its lease, and how it ended.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    LEASE,
    budget::Budget,
    dry_run::dry_run,
    error::Error,
    login::Login,
    record::{Context, quarantined},
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

/// Sessions of a pass that may end at messages; what else there is to do is done in one more.
const MAX_BREAKS: usize = 5;

/// After a session that ended at a message some servers keep the maildrop locked for a moment: this
/// often it is tried again,
const MAX_LOCKED: u32 = 6;

/// after this long, and each time twice as long.
const PAUSE_WHILE_LOCKED: Duration = Duration::from_millis(20);

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

fn failure(error: &Error, mailbox: &Mailbox) -> Failure {
    Failure {
        code: error.code(),
        detail: detail(error, mailbox),
        auth: error.is_auth_failure(),
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
    caught_up: bool,
    /// More is left, and the server lets us come back for it without a pause.
    at_once: bool,
    /// For how long commands are not to be sent ahead of replies.
    pipelining_off: Option<Duration>,
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
            if let Some(id) = self.claim.dry_run {
                return self.dry_run(id, stop).await;
            }
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
                    result = Box::pin(self.sync(&mailbox, login, &mut progress)) => result,
                },
                Err(error) if error.is_overtaken() => return self.release().await,
                Err(error) => Err(error),
            };
            self.finish(&mailbox, progress, result, started, stop).await;
        }
        .instrument(span)
        .await;
    }

    /// Counts what there would be to do, instead of doing it.
    async fn dry_run(&self, id: Uuid, stop: &CancellationToken) {
        let lease = &self.claim.lease;
        let mailbox = match timeout(LEASE, self.store.mailbox(lease.mailbox_id)).await {
            Ok(Ok(mailbox)) => mailbox,
            Ok(Err(error)) => return tracing::warn!(%error, "cannot read the mailbox"),
            Err(_) => return tracing::warn!("cannot read the mailbox in time"),
        };
        let prepare = Login::prepare(&self.store, &self.tokens, lease, &mailbox.settings);
        let result = match prepare.await {
            Ok(login) => {
                let counting = dry_run(&self.store, &self.connector, &self.claim, &mailbox, &login);
                let result = tokio::select! {
                    biased;
                    () = stop.cancelled() => return self.release().await,
                    () = self.keep_lease() => {
                        return tracing::warn!("lost the lease; another worker has the mailbox");
                    }
                    result = Box::pin(counting) => result,
                };
                match result {
                    Err(error) => Err(login.judge(error, &self.tokens, lease).await),
                    counted => counted,
                }
            }
            Err(error) if error.is_overtaken() => return self.release().await,
            Err(error) => Err(error),
        };
        let announced = match &result {
            Ok((_, capabilities)) => capabilities,
            Err(_) => &mailbox.capabilities,
        };
        let pause = retry::login_delay(announced).unwrap_or_default();
        let result = match result {
            Ok((counts, _)) => Ok(counts),
            Err(error) => Err(failure(&error, &mailbox)),
        };
        let finish = self.store.finish_dry_run(lease, id, result, pause);
        match timeout(LEASE, finish).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot record the end of the dry run"),
            Err(_) => tracing::warn!("cannot record the end of the dry run in time"),
        }
        self.wakeups.wake_events();
    }

    /// Runs sessions, then settles what did not come in them.
    async fn sync(
        &self,
        mailbox: &Mailbox,
        login: Login,
        progress: &mut Progress,
    ) -> Result<(), Error> {
        let result = self.sessions(mailbox, login, progress).await;
        let settled = self.settle_failures(mailbox, progress).await;
        result.and(settled)
    }

    /// Runs sessions until the maildrop is caught up with. A session that ends at a message is
    /// followed by one without that message.
    async fn sessions(
        &self,
        mailbox: &Mailbox,
        mut login: Login,
        progress: &mut Progress,
    ) -> Result<(), Error> {
        progress.findings.unique_ids = self.claim.unique_ids;
        let transcript = progress.transcript.clone();
        // Where a pass is one session, every other one leaves alone what may end it too soon.
        let one_session = retry::login_delay(&mailbox.capabilities).is_some();
        let mut sessions = Sessions {
            store: &self.store,
            wakeups: &self.wakeups,
            connector: &self.connector,
            budget: &self.budget,
            lease: &self.claim.lease,
            mailbox,
            backlog: !self.claim.backlog_done,
            transcript: &transcript,
            pipelining: self.claim.pipelining,
            try_top: self.claim.failures == 0,
            retrieve: true,
            retry: !(one_session && self.claim.failures > 0),
        };
        let began = Instant::now();
        let (mut breaks, mut locked) = (0, 0);
        let mut first_break = None;
        let mut blamed_on_pipelining = None;
        for _ in 0..MAX_SESSIONS {
            let before = progress.counts;
            let session = sessions.run(
                &login.credentials,
                &mut progress.counts,
                &mut progress.findings,
            );
            let Ok(ended) = timeout(MAX_SESSION, session).await else {
                return Err(store::Error::Silent.into());
            };
            let findings = &mut progress.findings;
            let may_return = findings
                .capabilities
                .as_ref()
                .is_none_or(|lines| retry::login_delay(lines).is_none());
            match ended {
                Ok(end) => {
                    login.worked();
                    progress.caught_up = !end.more;
                    let got_on = sessions.retrieve || progress.counts.stored > 0;
                    // A server that forgets deletions would have us come back for ever.
                    let deletions = end.more_deletions && progress.counts.deleted > 0;
                    progress.at_once = may_return && (end.more && got_on || deletions);
                    let got_further = dealt_with(&progress.counts) > dealt_with(&before);
                    let goes_on = end.more && got_further || end.more_deletions;
                    // The next pass has an access token of its own.
                    if !goes_on
                        || !may_return
                        || !sessions.retrieve
                        || !login.is_usable()
                        || began.elapsed() >= MAX_PASS
                    {
                        break;
                    }
                }
                Err(error) => {
                    let pipelining_failed = std::mem::take(&mut findings.pipelining_failed);
                    if pipelining_failed {
                        progress.pipelining_off = Some(without_pipelining(&error));
                    }
                    if breaks > 0 && locked < MAX_LOCKED && error.is_in_use() {
                        sleep(PAUSE_WHILE_LOCKED * 2_u32.pow(locked)).await;
                        locked += 1;
                        continue;
                    }
                    let Some(broke) = findings.broke.take() else {
                        return Err(login.judge(error, &self.tokens, &self.claim.lease).await);
                    };
                    login.worked();
                    let at = broke.at.map(|entry| entry.unique_id);
                    if pipelining_failed {
                        sessions.pipelining = false;
                        blamed_on_pipelining = at;
                    } else if at.is_some() && at == blamed_on_pipelining {
                        progress.pipelining_off = None;
                    }
                    if !may_return || !login.is_usable() {
                        return Err(error);
                    }
                    first_break.get_or_insert(error);
                    breaks += 1;
                    // However long the first took: else one that stalls would stop the others.
                    let in_time = breaks == 1 || began.elapsed() < MAX_PASS;
                    sessions.retrieve = breaks < MAX_BREAKS && in_time;
                }
            }
        }
        match first_break {
            Some(error) if progress.findings.trials.show_outage() => Err(error),
            _ => Ok(()),
        }
    }

    /// Counts what did not come, and sets aside what will not come.
    async fn settle_failures(
        &self,
        mailbox: &Mailbox,
        progress: &mut Progress,
    ) -> Result<(), Error> {
        let failed = progress.findings.trials.judge();
        if failed.is_empty() {
            return Ok(());
        }
        progress.counts.failed += i64::try_from(failed.len()).unwrap_or(i64::MAX);
        let lease = &self.claim.lease;
        for failed in self.store.record_failures(lease, failed).await? {
            tracing::warn!(
                reason = failed.reason,
                "set aside a message that does not come"
            );
            let context = Context {
                mailbox_id: mailbox.id,
                backlog: !self.claim.backlog_done,
                notify_backlog: mailbox.settings.notify_backlog,
                since: None,
            };
            self.store
                .set_aside(lease, quarantined(failed, context))
                .await?;
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
            caught_up,
            at_once,
            pipelining_off,
            findings: Findings { capabilities, .. },
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
                (Some(failure(error, mailbox)), next_in)
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
            pipelining_off_for: pipelining_off,
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

/// Messages that no later session has to fetch.
fn dealt_with(counts: &Counts) -> i64 {
    counts.stored + counts.matched + counts.skipped
}

fn after_success(mailbox: &Mailbox, at_once: bool, announced: &[String]) -> Duration {
    if at_once {
        return Duration::ZERO;
    }
    let seconds = mailbox.settings.poll_interval_seconds.unsigned_abs();
    let interval = retry::jitter(Duration::from_secs(seconds.into()));
    interval.min(retry::half_expiry(announced).unwrap_or(Duration::MAX))
}
