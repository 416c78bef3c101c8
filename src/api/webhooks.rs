//! `/v1/webhooks`.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use self::body::{CreateWebhook, UpdateWebhook, WebhookBody};
use super::{
    ApiState,
    access::{Access, WebhooksRead, WebhooksWrite},
    etag::{self, Conditions},
    extract::{Body, Ids, Params},
    mailboxes::{UPDATE_TRIES, changed_meanwhile},
    page::{Page, PageParams},
    problem::{Code, Problem},
};
use crate::store::{self, deliveries::Delivery, webhooks::Webhook};

mod body;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create_webhook, list_webhooks))
        .routes(routes!(read_webhook, update_webhook, delete_webhook))
        .routes(routes!(list_deliveries))
}

/// The webhook of a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct WebhookIds {
    /// Id of the webhook.
    webhook_id: Uuid,
}

/// A webhook that was just made: only now with its secret.
#[derive(Debug, Serialize, ToSchema)]
struct CreatedWebhook {
    #[serde(flatten)]
    webhook: Webhook,
    /// The key of its signatures (Standard Webhooks): `whsec_` and 32 octets in base64. It is not
    /// shown again.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=")]
    secret: String,
}

/// Makes a webhook.
///
/// Its secret is in the response, and nowhere else. Where it is called is checked with each
/// connection, against `POPBRIDGE_EGRESS_ALLOW`.
#[utoipa::path(
    post,
    path = "/v1/webhooks",
    tag = "webhooks",
    request_body = CreateWebhook,
    responses(
        (status = 201, description = "Made.", body = CreatedWebhook, headers(
            ("location" = String, description = "Path of the webhook."),
        )),
    ),
    security(("api_key" = ["webhooks:write"])),
)]
async fn create_webhook(
    access: Access<WebhooksWrite>,
    State(state): State<ApiState>,
    Body(body): Body<WebhookBody>,
) -> Result<Response, Problem> {
    let settings = body.into_new(&state.store).await?;
    if !access.covers(&settings.mailbox_ids) {
        return Err(out_of_bounds());
    }
    let secret = new_secret();
    let webhook = state.store.create_webhook(&settings, &secret).await?;
    let location = [
        (header::LOCATION, format!("/v1/webhooks/{}", webhook.id)),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    let created = CreatedWebhook {
        webhook,
        secret: secret.expose_secret().to_owned(),
    };
    Ok((StatusCode::CREATED, location, Json(created)).into_response())
}

fn new_secret() -> SecretString {
    format!("whsec_{}", STANDARD.encode(rand::random::<[u8; 32]>())).into()
}

fn out_of_bounds() -> Problem {
    Problem::new(
        Code::MailboxBoundKey,
        "This API key is bound to certain mailboxes: name some or all of them in `mailbox_ids`, \
            and no others.",
    )
}

/// Lists the webhooks that the key may see, newest first.
#[utoipa::path(
    get,
    path = "/v1/webhooks",
    tag = "webhooks",
    params(PageParams),
    responses((status = 200, description = "A page.", body = Page<Webhook>)),
    security(("api_key" = ["webhooks:read"])),
)]
async fn list_webhooks(
    access: Access<WebhooksRead>,
    State(state): State<ApiState>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<Webhook>>, Problem> {
    let page = params.check()?;
    let found = state
        .store
        .webhooks(page.before, access.mailbox_ids(), page.fetch())
        .await?;
    Ok(Json(page.page(found, |webhook| webhook.id)))
}

/// The webhook, where the key may see it.
async fn visible<S>(
    state: &ApiState,
    access: &Access<S>,
    webhook_id: Uuid,
) -> Result<Webhook, Problem> {
    let webhook = state.store.webhook(webhook_id).await?;
    if !access.covers(&webhook.settings.mailbox_ids) {
        return Err(Problem::not_found());
    }
    Ok(webhook)
}

/// Reads a webhook.
#[utoipa::path(
    get,
    path = "/v1/webhooks/{webhook_id}",
    tag = "webhooks",
    params(WebhookIds),
    responses(
        (status = 200, description = "The webhook.", body = Webhook, headers(
            ("etag" = String, description = "Changes with the webhook."),
        )),
        (status = 304, description = "It is as `If-None-Match` says."),
    ),
    security(("api_key" = ["webhooks:read"])),
)]
async fn read_webhook(
    access: Access<WebhooksRead>,
    State(state): State<ApiState>,
    Ids(WebhookIds { webhook_id }): Ids<WebhookIds>,
    conditions: Conditions,
) -> Result<Response, Problem> {
    Ok(conditions.json(&visible(&state, &access, webhook_id).await?))
}

/// Changes the settings that the body names (JSON Merge Patch, RFC 7396).
///
/// What the body leaves out stays as it is; null clears what may be null. What waits for a
/// webhook that is disabled becomes a dead letter.
#[utoipa::path(
    patch,
    path = "/v1/webhooks/{webhook_id}",
    tag = "webhooks",
    params(WebhookIds),
    request_body = UpdateWebhook,
    responses(
        (status = 200, description = "As it is now.", body = Webhook, headers(
            ("etag" = String, description = "Changes with the webhook."),
        )),
        (status = 409, description = "`changed_meanwhile`."),
        (status = 412, description = "It is no longer as `If-Match` says."),
    ),
    security(("api_key" = ["webhooks:write"])),
)]
async fn update_webhook(
    access: Access<WebhooksWrite>,
    State(state): State<ApiState>,
    Ids(WebhookIds { webhook_id }): Ids<WebhookIds>,
    conditions: Conditions,
    Body(body): Body<WebhookBody>,
) -> Result<Response, Problem> {
    for _ in 0..UPDATE_TRIES {
        let current = visible(&state, &access, webhook_id).await?;
        conditions.guard(&current)?;
        let read_at = current.updated_at;
        let settings = body
            .clone()
            .into_changed(current.settings, &state.store)
            .await?;
        if !access.covers(&settings.mailbox_ids) {
            return Err(out_of_bounds());
        }
        match state
            .store
            .update_webhook(webhook_id, read_at, &settings)
            .await
        {
            // Deleted or changed since it was read: the next reading tells which.
            Err(store::Error::NotFound) => {}
            updated => return Ok(etag::json(StatusCode::OK, &updated?)),
        }
    }
    Err(changed_meanwhile())
}

/// Deletes a webhook with its deliveries.
#[utoipa::path(
    delete,
    path = "/v1/webhooks/{webhook_id}",
    tag = "webhooks",
    params(WebhookIds),
    responses((status = 204, description = "Deleted.")),
    security(("api_key" = ["webhooks:write"])),
)]
async fn delete_webhook(
    access: Access<WebhooksWrite>,
    State(state): State<ApiState>,
    Ids(WebhookIds { webhook_id }): Ids<WebhookIds>,
) -> Result<StatusCode, Problem> {
    visible(&state, &access, webhook_id).await?;
    state.store.delete_webhook(webhook_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the deliveries to a webhook with each attempt, newest first.
#[utoipa::path(
    get,
    path = "/v1/webhooks/{webhook_id}/deliveries",
    tag = "webhooks",
    params(WebhookIds, PageParams),
    responses((status = 200, description = "A page.", body = Page<Delivery>)),
    security(("api_key" = ["webhooks:read"])),
)]
async fn list_deliveries(
    access: Access<WebhooksRead>,
    State(state): State<ApiState>,
    Ids(WebhookIds { webhook_id }): Ids<WebhookIds>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<Delivery>>, Problem> {
    let page = params.check()?;
    visible(&state, &access, webhook_id).await?;
    let found = state
        .store
        .deliveries(webhook_id, page.before, page.fetch())
        .await?;
    Ok(Json(page.page(found, |delivery| delivery.id)))
}
