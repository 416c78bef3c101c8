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
use tokio::time::{Instant, sleep, timeout, timeout_at};
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
    store::syncs::{Sync, SyncState},
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
    /// Seconds to wait for the end of the sync.
    #[param(minimum = 0, maximum = 60, default = 0)]
    #[serde(default)]
    wait: u64,
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
#[utoipa::path(
    post,
    path = "/v1/mailboxes/{mailbox_id}/sync",
    tag = "syncs",
    params(MailboxIds, SyncParams),
    responses(
        (status = 200, description = "It ended within the wait.", body = Sync),
        (status = 202, description = "It waits or runs.", body = Sync, headers(
            ("location" = String, description = "Path of the sync."),
        )),
        (status = 409, description = "`mailbox_paused`."),
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
        retry_quarantined,
    } = params;
    if wait > MAX_WAIT_SECONDS {
        return Err(
            Problem::new(Code::InvalidQuery, "A query parameter cannot be used.")
                .at("/wait", format!("must be between 0 and {MAX_WAIT_SECONDS}")),
        );
    }
    if retry_quarantined {
        state.store.retry_quarantined(mailbox_id).await?;
    }
    let Some(sync_id) = state.store.request_sync(mailbox_id).await? else {
        return Err(Problem::new(
            Code::MailboxPaused,
            "The mailbox is paused. Resume it by changing `paused` to false.",
        ));
    };
    state.wakeups.wake_syncs();
    let deadline = Instant::now() + Duration::from_secs(wait);
    let sync = await_end(&state, mailbox_id, sync_id, deadline).await?;
    let status = if has_ended(&sync) {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let location = format!("/v1/mailboxes/{mailbox_id}/syncs/{sync_id}");
    Ok((status, [(header::LOCATION, location)], Json(sync)).into_response())
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
        let rest = async {
            // However many events there are: not more often than this.
            sleep(FIRST_PAUSE).await;
            timeout(pause, events.changed()).await.ok();
        };
        timeout_at(deadline, rest).await.ok();
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
