//! `/v1/mailboxes/{mailbox_id}/messages`.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    ApiState,
    access::{MailboxAccess, MailboxIds, MessagesDelete, MessagesRead, MessagesWrite},
    etag::{self, Conditions},
    extract::{Ids, Params},
    page::{Page, PageParams},
    problem::{Code, Problem},
};
use crate::{
    message,
    parsed::{self, Subject},
    store::{
        maildrop::{Ledger, RemoteState},
        messages::{DeleteScope, MessageState, StoredMessage, WholeMessage},
    },
};

mod download;

/// Messages parsed at once on request.
pub(super) const PARSERS: usize = 2;

/// What the store hands on as JSON without looking into it, for the document.
type ListedMessage = StoredMessage<message::Summary>;
type FullMessage = WholeMessage<message::Summary, message::Body>;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list_messages))
        .routes(routes!(read_message, delete_message))
        .routes(routes!(ack_message))
        .routes(routes!(reparse_message))
        .routes(routes!(read_ledger))
        .routes(routes!(download::read_raw_message))
        .routes(routes!(download::read_attachment))
}

/// The message of a path that is only read.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct ReadIds {
    /// Id of the message, or `latest`.
    #[param(value_type = String, example = "latest")]
    message_id: MessageId,
}

/// The message of a path that is changed: by its id alone, as `latest` may be another by then.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct ChangeIds {
    /// Id of the message.
    message_id: Uuid,
}

/// Which message.
#[derive(Clone, Copy, Debug)]
enum MessageId {
    Latest,
    Id(Uuid),
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "latest" => Ok(Self::Latest),
            id => id.parse().map(Self::Id).map_err(de::Error::custom),
        }
    }
}

impl MessageId {
    async fn resolve(self, state: &ApiState, mailbox_id: Uuid) -> Result<Uuid, Problem> {
        match self {
            Self::Id(id) => Ok(id),
            Self::Latest => {
                let latest = state.store.messages(mailbox_id, None, 1).await?;
                Ok(latest.first().ok_or_else(Problem::not_found)?.id)
            }
        }
    }
}

/// Lists the messages of a mailbox without their text, newest first.
#[utoipa::path(
    get,
    path = "/v1/mailboxes/{mailbox_id}/messages",
    tag = "messages",
    params(MailboxIds, PageParams),
    responses((status = 200, description = "A page.", body = Page<ListedMessage>)),
    security(("api_key" = ["messages:read"])),
)]
async fn list_messages(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MessagesRead>,
    State(state): State<ApiState>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<StoredMessage>>, Problem> {
    let page = params.check()?;
    let found = state
        .store
        .messages(mailbox_id, page.before, page.fetch())
        .await?;
    let page = page.page(found, |message| message.id);
    if page.is_empty() {
        // An empty list, or no such mailbox.
        state.store.mailbox(mailbox_id).await?;
    }
    Ok(Json(page))
}

/// Reads a message with its headers and text.
#[utoipa::path(
    get,
    path = "/v1/mailboxes/{mailbox_id}/messages/{message_id}",
    tag = "messages",
    params(MailboxIds, ReadIds),
    responses(
        (status = 200, description = "The message.", body = FullMessage, headers(
            ("etag" = String, description = "Changes with the message."),
        )),
        (status = 304, description = "It is as `If-None-Match` says."),
    ),
    security(("api_key" = ["messages:read"])),
)]
async fn read_message(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MessagesRead>,
    State(state): State<ApiState>,
    Ids(ReadIds { message_id }): Ids<ReadIds>,
    conditions: Conditions,
) -> Result<Response, Problem> {
    let id = message_id.resolve(&state, mailbox_id).await?;
    Ok(conditions.json(&state.store.whole_message(mailbox_id, id).await?))
}

/// Marks a message as dealt with.
///
/// Doing it again changes nothing. With `delete_policy` `after_ack` the next sync deletes it
/// from the server. There, a message counts as dealt with too once every webhook that its
/// `message.received` went to took it.
#[utoipa::path(
    post,
    path = "/v1/mailboxes/{mailbox_id}/messages/{message_id}/ack",
    tag = "messages",
    params(MailboxIds, ChangeIds),
    responses((status = 204, description = "Marked.")),
    security(("api_key" = ["messages:write"])),
)]
async fn ack_message(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MessagesWrite>,
    State(state): State<ApiState>,
    Ids(ChangeIds { message_id }): Ids<ChangeIds>,
) -> Result<StatusCode, Problem> {
    state.store.ack_message(mailbox_id, message_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Parses the stored octets of a message again.
///
/// Its id stays. `message.updated` tells of it where that changed anything.
#[utoipa::path(
    post,
    path = "/v1/mailboxes/{mailbox_id}/messages/{message_id}/reparse",
    tag = "messages",
    params(MailboxIds, ChangeIds),
    responses(
        (status = 200, description = "As it is now.", body = FullMessage, headers(
            ("etag" = String, description = "Changes with the message."),
        )),
        (status = 409, description = "`nothing_to_parse`: none of its octets are stored."),
    ),
    security(("api_key" = ["messages:write"])),
)]
async fn reparse_message(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MessagesWrite>,
    State(state): State<ApiState>,
    Ids(ChangeIds { message_id }): Ids<ChangeIds>,
) -> Result<Response, Problem> {
    let store = &state.store;
    let message = store.message(mailbox_id, message_id).await?;
    let notify_backlog = store.mailbox(mailbox_id).await?.settings.notify_backlog;
    let _permit = state.parsers.acquire().await.expect("never closed");
    let octets = store.raw_message(mailbox_id, message_id).await?;
    if octets.is_empty() && message.state != MessageState::Stored {
        return Err(Problem::new(
            Code::NothingToParse,
            "None of the message's octets are stored. A sync with `retry_quarantined` asks the \
                server for it again.",
        ));
    }
    let subject = Subject {
        mailbox_id,
        id: message_id,
        size: message.size,
        backlog: message.backlog,
        notify_backlog,
    };
    let parsing = move || {
        let message = message::parse(&octets);
        let event = parsed::event("message.updated", subject, &message);
        (parsed::columns(&message), event)
    };
    let (parsed, event) = tokio::task::spawn_blocking(parsing)
        .await
        .map_err(|_| Problem::internal())?;
    if store.replace_parsed(&message, parsed, event).await? {
        state.wakeups.wake_events();
    }
    let message = store.whole_message(mailbox_id, message_id).await?;
    Ok(etag::json(StatusCode::OK, &message))
}

/// Tells what happened to a message and when. It outlives the message.
#[utoipa::path(
    get,
    path = "/v1/mailboxes/{mailbox_id}/messages/{message_id}/ledger",
    tag = "messages",
    params(MailboxIds, ReadIds),
    responses((status = 200, description = "What happened.", body = Ledger)),
    security(("api_key" = ["messages:read"])),
)]
async fn read_ledger(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MessagesRead>,
    State(state): State<ApiState>,
    Ids(ReadIds { message_id }): Ids<ReadIds>,
) -> Result<Json<Ledger>, Problem> {
    let id = message_id.resolve(&state, mailbox_id).await?;
    Ok(Json(state.store.ledger(mailbox_id, id).await?))
}

/// How to delete.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct DeleteParams {
    /// What is deleted: the stored copy, the server's, or both; `both` where nothing is said.
    #[param(inline)]
    #[serde(default)]
    scope: DeleteScope,
}

/// A message that was deleted.
#[derive(Debug, Serialize, ToSchema)]
struct DeletedMessage {
    /// Its id.
    id: Uuid,
    /// Where it is on the server: `delete_pending` until a later listing lacks it.
    remote_state: RemoteState,
}

/// Deletes a message here, on the server, or both.
///
/// The server's copy is deleted by a later sync.
#[utoipa::path(
    delete,
    path = "/v1/mailboxes/{mailbox_id}/messages/{message_id}",
    tag = "messages",
    params(MailboxIds, ChangeIds, DeleteParams),
    responses((status = 200, description = "Done, or to be done.", body = DeletedMessage)),
    security(("api_key" = ["messages:delete"])),
)]
async fn delete_message(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MessagesDelete>,
    State(state): State<ApiState>,
    Ids(ChangeIds { message_id }): Ids<ChangeIds>,
    Params(DeleteParams { scope }): Params<DeleteParams>,
) -> Result<Json<DeletedMessage>, Problem> {
    let remote_state = state
        .store
        .delete_message(mailbox_id, message_id, scope)
        .await?;
    if scope != DeleteScope::Remote {
        state.wakeups.wake_events();
    }
    Ok(Json(DeletedMessage {
        id: message_id,
        remote_state,
    }))
}
