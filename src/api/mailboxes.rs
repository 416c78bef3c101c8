//! `/v1/mailboxes`.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::body::{CreateMailbox, MailboxBody, UpdateMailbox};
use super::{
    ApiState,
    access::{Access, MailboxAccess, MailboxIds, MailboxesRead, MailboxesWrite},
    etag::{self, Conditions},
    extract::{Body, Params},
    page::{Page, PageParams},
    problem::{Code, Problem},
};
use crate::{
    check::{self, Report},
    connection,
    pop3::Credentials,
    store::{self, credentials::Credential, mailboxes::Mailbox},
};

mod body;

/// Tries of a change that others keep getting ahead of.
pub(super) const UPDATE_TRIES: usize = 3;

/// Servers verified at once: each of them may take a minute.
pub(super) const VERIFICATIONS: usize = 8;

/// Routes that may wait up to a minute.
pub(super) fn waiting_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(verify_mailbox))
}

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create_mailbox, list_mailboxes))
        .routes(routes!(read_mailbox, update_mailbox, delete_mailbox))
}

/// Registers a mailbox.
///
/// Its first sync begins at once. What logs in, a password or `oauth2`, is stored encrypted and
/// never comes back.
#[utoipa::path(
    post,
    path = "/v1/mailboxes",
    tag = "mailboxes",
    request_body = CreateMailbox,
    responses(
        (status = 201, description = "Registered.", body = Mailbox, headers(
            ("location" = String, description = "Path of the mailbox."),
            ("etag" = String, description = "Changes with the mailbox."),
        )),
        (status = 409, description = "`external_id_taken`."),
    ),
    security(("api_key" = ["mailboxes:write"])),
)]
async fn create_mailbox(
    access: Access<MailboxesWrite>,
    State(state): State<ApiState>,
    Body(body): Body<MailboxBody>,
) -> Result<Response, Problem> {
    refuse_bound_key(&access)?;
    let (settings, credential) = body.into_new()?;
    let mailbox = state.store.create_mailbox(&settings, &credential).await?;
    state.wakeups.wake_syncs();
    let location = [(header::LOCATION, format!("/v1/mailboxes/{}", mailbox.id))];
    Ok((location, etag::json(StatusCode::CREATED, &mailbox)).into_response())
}

fn refuse_bound_key(access: &Access<MailboxesWrite>) -> Result<(), Problem> {
    if access.mailbox_ids().is_empty() {
        return Ok(());
    }
    Err(Problem::new(
        Code::MailboxBoundKey,
        "This API key is bound to certain mailboxes; making others needs one that is not.",
    ))
}

/// Tries settings without saving them.
///
/// Logs in twice, lists the maildrop and leaves it as it is. Tells each step with its time, what the
/// server offers, what is odd about it, and, where a step fails, what to change. Takes up to a
/// minute.
#[utoipa::path(
    post,
    path = "/v1/mailboxes/verify",
    tag = "mailboxes",
    request_body = CreateMailbox,
    responses(
        (status = 200, description = "What was found; `ok` tells whether it would work.", body = Report),
        (status = 429, description = "`too_many_verifications`."),
    ),
    security(("api_key" = ["mailboxes:write"])),
)]
async fn verify_mailbox(
    access: Access<MailboxesWrite>,
    State(state): State<ApiState>,
    Body(body): Body<MailboxBody>,
) -> Result<axum::Json<Report>, Problem> {
    refuse_bound_key(&access)?;
    let (settings, credential) = body.into_new()?;
    let invalid = |pointer: &str, detail: String| {
        let problem = Problem::new(Code::ValidationFailed, "The settings cannot be verified.");
        problem.at(pointer, detail)
    };
    let Credential::Password(password) = credential else {
        // A refresh may use up the refresh token, and the new one would be lost.
        let detail = "cannot be tried without being saved; register the mailbox and sync it";
        return Err(invalid("/oauth2", detail.to_owned()));
    };
    let mechanism = connection::password_mechanism(settings.auth)
        .map_err(|error| invalid("/auth", error.to_string()))?;
    let server = connection::server(&settings, true)
        .map_err(|error| invalid("/tls_pin_sha256", error.to_string()))?;
    let credentials = Credentials::with_password(&settings.username, password, mechanism);
    let Ok(_permit) = state.verifications.try_acquire() else {
        return Err(Problem::new(
            Code::TooManyVerifications,
            "Other servers are being verified. Try again in a moment.",
        ));
    };
    let report = check::check(&state.connector, &server, Some(&credentials)).await;
    Ok(axum::Json(report))
}

/// Lists the mailboxes that the key may see, newest first.
#[utoipa::path(
    get,
    path = "/v1/mailboxes",
    tag = "mailboxes",
    params(PageParams),
    responses((status = 200, description = "A page.", body = Page<Mailbox>)),
    security(("api_key" = ["mailboxes:read"])),
)]
async fn list_mailboxes(
    access: Access<MailboxesRead>,
    State(state): State<ApiState>,
    Params(params): Params<PageParams>,
) -> Result<axum::Json<Page<Mailbox>>, Problem> {
    let page = params.check()?;
    let found = state
        .store
        .mailboxes(page.before, access.mailbox_ids(), page.fetch())
        .await?;
    Ok(axum::Json(page.page(found, |mailbox| mailbox.id)))
}

/// Reads a mailbox: its settings and how its syncs fare.
#[utoipa::path(
    get,
    path = "/v1/mailboxes/{mailbox_id}",
    tag = "mailboxes",
    params(MailboxIds),
    responses(
        (status = 200, description = "The mailbox.", body = Mailbox, headers(
            ("etag" = String, description = "Changes with the mailbox."),
        )),
        (status = 304, description = "It is as `If-None-Match` says."),
    ),
    security(("api_key" = ["mailboxes:read"])),
)]
async fn read_mailbox(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MailboxesRead>,
    State(state): State<ApiState>,
    conditions: Conditions,
) -> Result<Response, Problem> {
    Ok(conditions.json(&state.store.mailbox(mailbox_id).await?))
}

/// Changes the settings that the body names (JSON Merge Patch, RFC 7396).
///
/// What the body leaves out stays as it is; null clears what may be null. `oauth2` is replaced
/// whole. What is stored to log in with is sent nowhere else than it was given for: a new `host`, a
/// change of `tls` to `none`, and there a new `port`, need `password` or `oauth2` again. A sync
/// begins at once unless the mailbox is paused.
#[utoipa::path(
    patch,
    path = "/v1/mailboxes/{mailbox_id}",
    tag = "mailboxes",
    params(MailboxIds),
    request_body = UpdateMailbox,
    responses(
        (status = 200, description = "As it is now.", body = Mailbox, headers(
            ("etag" = String, description = "Changes with the mailbox."),
        )),
        (status = 409, description = "`external_id_taken`, or `changed_meanwhile`."),
        (status = 412, description = "It is no longer as `If-Match` says."),
    ),
    security(("api_key" = ["mailboxes:write"])),
)]
async fn update_mailbox(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MailboxesWrite>,
    State(state): State<ApiState>,
    conditions: Conditions,
    Body(body): Body<MailboxBody>,
) -> Result<Response, Problem> {
    for _ in 0..UPDATE_TRIES {
        let current = state.store.mailbox(mailbox_id).await?;
        conditions.guard(&current)?;
        let (settings, credential) = body.clone().into_changed(&current)?;
        let read_at = current.updated_at;
        let updated = state
            .store
            .update_mailbox(mailbox_id, read_at, &settings, credential.as_ref())
            .await;
        match updated {
            // Deleted or changed since it was read: the next reading tells which.
            Err(store::Error::NotFound) => {}
            updated => {
                let mailbox = updated?;
                state.wakeups.wake_syncs();
                return Ok(etag::json(StatusCode::OK, &mailbox));
            }
        }
    }
    Err(changed_meanwhile())
}

pub(super) fn changed_meanwhile() -> Problem {
    Problem::new(
        Code::ChangedMeanwhile,
        "Others keep changing it at the same time. Try again.",
    )
}

/// Deletes a mailbox with all its messages.
///
/// Nothing is deleted from the POP3 server. Its events stay in the log.
#[utoipa::path(
    delete,
    path = "/v1/mailboxes/{mailbox_id}",
    tag = "mailboxes",
    params(MailboxIds),
    responses((status = 204, description = "Deleted.")),
    security(("api_key" = ["mailboxes:write"])),
)]
async fn delete_mailbox(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MailboxesWrite>,
    State(state): State<ApiState>,
) -> Result<StatusCode, Problem> {
    state.store.delete_mailbox(mailbox_id).await?;
    Ok(StatusCode::NO_CONTENT)
}
