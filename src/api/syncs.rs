//! `/v1/mailboxes/{mailbox_id}/sync` and its history.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    access::{MailboxAccess, MailboxIds, MailboxesRead, MailboxesWrite},
    etag::Conditions,
    extract::{Ids, Params},
    page::{Page, PageParams},
    problem::{Code, Problem},
};
use crate::{
    pop3::TranscriptRecord,
    store::{
        dry_runs::{DryRun, Ended, Requested},
        syncs::{Sync, SyncState},
    },
};

const MAX_WAIT_SECONDS: u64 = 60;

/// Pauses between two looks at a sync that is waited for, unless an event comes before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list_syncs))
        .routes(routes!(read_sync))
}

/// Routes that may wait up to a minute.
pub(super) fn waiting_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(sync_mailbox))
}

/// How to sync.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct SyncParams {
    /// Seconds to wait for the end of the sync; 0 where nothing is said, 60 for a dry run.
    #[param(minimum = 0, maximum = 60)]
    wait: Option<u64>,
    /// Only count what a sync would do now.
    #[param(default = false)]
    #[serde(default)]
    dry_run: bool,
    /// Ask for quarantined messages too, however short ago they failed.
    #[param(default = false)]
    #[serde(default)]
    retry_quarantined: bool,
}

/// The sync of a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct SyncIds {
    /// Id of the sync.
    sync_id: Uuid,
}

/// Syncs a mailbox now, or joins the sync that waits or runs.
///
/// With `dry_run` it logs in, lists the maildrop and tells what a sync would fetch, skip and delete;
/// it retrieves and deletes nothing, and leaves the mailbox as it is.
#[utoipa::path(
    post,
    path = "/v1/mailboxes/{mailbox_id}/sync",
    tag = "syncs",
    params(MailboxIds, SyncParams),
    responses(
        (status = 200, description = "It ended within the wait; or what the dry run counted.",
            body = inline(Outcome)),
        (status = 202, description = "It waits or runs.", body = Sync, headers(
            ("location" = String, description = "Path of the sync."),
        )),
        (status = 409, description = "`mailbox_paused`; for a dry run also `sync_running`."),
        (status = 502, description = "`dry_run_failed`."),
    ),
    security(("api_key" = ["mailboxes:write"])),
)]
async fn sync_mailbox(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MailboxesWrite>,
    State(state): State<ApiState>,
    Params(params): Params<SyncParams>,
) -> Result<Response, Problem> {
    let SyncParams {
        wait,
        dry_run,
        retry_quarantined,
    } = params;
    let wait = wait.unwrap_or(if dry_run { MAX_WAIT_SECONDS } else { 0 });
    if wait > MAX_WAIT_SECONDS {
        return Err(
            Problem::new(Code::InvalidQuery, "A query parameter cannot be used.")
                .at("/wait", format!("must be between 0 and {MAX_WAIT_SECONDS}")),
        );
    }
    if dry_run && retry_quarantined {
        return Err(
            Problem::new(Code::InvalidQuery, "A query parameter cannot be used.")
                .at("/retry_quarantined", "cannot go with dry_run"),
        );
    }
    let deadline = Instant::now() + Duration::from_secs(wait);
    if dry_run {
        let counted = await_dry_run(&state, mailbox_id, deadline).await?;
        return Ok(Json(Outcome::DryRun(counted)).into_response());
    }
    if retry_quarantined {
        state.store.retry_quarantined(mailbox_id).await?;
    }
    let Some(sync_id) = state.store.request_sync(mailbox_id).await? else {
        return Err(paused());
    };
    state.wakeups.wake_syncs();
    let sync = await_end(&state, mailbox_id, sync_id, deadline).await?;
    let status = if has_ended(&sync) {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let location = format!("/v1/mailboxes/{mailbox_id}/syncs/{sync_id}");
    let sync = Json(Outcome::Sync(sync));
    Ok((status, [(header::LOCATION, location)], sync).into_response())
}

/// A sync, or what a dry run counted.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Outcome {
    Sync(Sync),
    DryRun(DryRun),
}

fn paused() -> Problem {
    Problem::new(
        Code::MailboxPaused,
        "The mailbox is paused. Resume it by changing `paused` to false.",
    )
}

/// What a worker counts, by the deadline.
async fn await_dry_run(
    state: &ApiState,
    mailbox_id: Uuid,
    deadline: Instant,
) -> Result<DryRun, Problem> {
    let mut events = state.wakeups.events();
    let mut pause = FIRST_PAUSE;
    let mut requested = None;
    loop {
        events.mark_unchanged();
        let late = match requested {
            None => match state.store.request_dry_run(mailbox_id).await? {
                Requested::Paused => return Err(paused()),
                Requested::Waits(id) => {
                    state.wakeups.wake_syncs();
                    requested = Some(id);
                    continue;
                }
                Requested::Busy => Problem::new(
                    Code::SyncRunning,
                    "A sync of this mailbox runs, and a maildrop has one session at a time. Try \
                        again once it has ended.",
                ),
            },
            Some(id) => match state.store.dry_run(mailbox_id, id).await? {
                Some(Ended::Counted(counts)) => return Ok(counts),
                Some(Ended::Failed(code, detail)) => {
                    return Err(Problem::new(
                        Code::DryRunFailed,
                        format!("{code}: {detail}"),
                    ));
                }
                None => Problem::from_status(StatusCode::SERVICE_UNAVAILABLE),
            },
        };
        if Instant::now() >= deadline {
            return Err(late);
        }
        rest(&mut events, pause, deadline).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits for a change, but not longer than `pause`, nor than until the deadline.
async fn rest(events: &mut watch::Receiver<()>, pause: Duration, deadline: Instant) {
    let rest = async {
        // However many events there are: not more often than this.
        sleep(FIRST_PAUSE).await;
        timeout(pause, events.changed()).await.ok();
    };
    timeout_at(deadline, rest).await.ok();
}

fn has_ended(sync: &Sync) -> bool {
    matches!(sync.state, SyncState::Succeeded | SyncState::Failed)
}

/// The sync once it has ended, or as it is at the deadline.
async fn await_end(
    state: &ApiState,
    mailbox_id: Uuid,
    sync_id: Uuid,
    deadline: Instant,
) -> Result<Sync, Problem> {
    let mut events = state.wakeups.events();
    let mut pause = FIRST_PAUSE;
    loop {
        events.mark_unchanged();
        let sync = state.store.sync(mailbox_id, sync_id).await?;
        if has_ended(&sync) || Instant::now() >= deadline {
            return Ok(sync);
        }
        rest(&mut events, pause, deadline).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Lists the syncs of a mailbox that ended, newest first.
///
/// The last hundred are kept. One that nobody asked for and that found nothing to do is not.
#[utoipa::path(
    get,
    path = "/v1/mailboxes/{mailbox_id}/syncs",
    tag = "syncs",
    params(MailboxIds, PageParams),
    responses((status = 200, description = "A page.", body = Page<Sync>)),
    security(("api_key" = ["mailboxes:read"])),
)]
async fn list_syncs(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MailboxesRead>,
    State(state): State<ApiState>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<Sync>>, Problem> {
    let page = params.check()?;
    let found = state
        .store
        .syncs(mailbox_id, page.before, page.fetch())
        .await?;
    let page = page.page(found, |sync| sync.id);
    if page.is_empty() {
        // An empty list, or no such mailbox.
        state.store.mailbox(mailbox_id).await?;
    }
    Ok(Json(page))
}

/// A sync, with what was said in it.
#[derive(Debug, Serialize, ToSchema)]
struct SyncWithTranscript {
    #[serde(flatten)]
    sync: Sync,
    /// What popbridge and the POP3 server said; null until the sync has ended.
    #[schema(value_type = Option<TranscriptRecord>)]
    transcript: Option<Value>,
}

/// Reads a sync, whether it waits, runs or has ended.
///
/// The transcript has command lines, status lines, sizes and times, and neither credentials nor
/// messages.
#[utoipa::path(
    get,
    path = "/v1/mailboxes/{mailbox_id}/syncs/{sync_id}",
    tag = "syncs",
    params(MailboxIds, SyncIds),
    responses(
        (status = 200, description = "The sync.", body = SyncWithTranscript, headers(
            ("etag" = String, description = "Changes with the sync."),
        )),
        (status = 304, description = "It is as `If-None-Match` says."),
    ),
    security(("api_key" = ["mailboxes:read"])),
)]
async fn read_sync(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MailboxesRead>,
    State(state): State<ApiState>,
    Ids(SyncIds { sync_id }): Ids<SyncIds>,
    conditions: Conditions,
) -> Result<Response, Problem> {
    let sync = state.store.sync(mailbox_id, sync_id).await?;
    let transcript = state.store.transcript(mailbox_id, sync_id).await?;
    Ok(conditions.json(&SyncWithTranscript { sync, transcript }))
}
