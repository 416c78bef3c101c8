//! Octets of messages and attachments: whatever a sender put there, no browser runs it here.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use self::disposition::content_disposition;
use super::{
    super::{
        ApiState,
        access::{MailboxAccess, MailboxIds, MessagesRead},
        etag::{Conditions, ETag},
        extract::Ids,
        problem::{Code, Problem},
    },
    ReadIds,
};
use crate::{message, store::messages::MessageState};

mod disposition;

/// Octets as they are.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "stands for octets in the document")]
struct Octets(Vec<u8>);

/// Reads a message octet for octet as the server sent it (RFC 5322).
#[utoipa::path(
    get,
    path = "/v1/mailboxes/{mailbox_id}/messages/{message_id}/raw",
    tag = "messages",
    params(MailboxIds, ReadIds),
    responses(
        (status = 200, description = "The octets.", body = inline(Octets),
            content_type = "message/rfc822", headers(
                ("etag" = String, description = "SHA-256 of the octets."),
                ("content-disposition" = String, description = "A file name."),
            )),
        (status = 304, description = "They are as `If-None-Match` says."),
        (status = 404, description = "`not_found`, or `raw_not_stored`."),
    ),
    security(("api_key" = ["messages:read"])),
)]
pub(super) async fn read_raw_message(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MessagesRead>,
    State(state): State<ApiState>,
    Ids(ReadIds { message_id }): Ids<ReadIds>,
    conditions: Conditions,
) -> Result<Response, Problem> {
    let id = message_id.resolve(&state, mailbox_id).await?;
    let message = state.store.message(mailbox_id, id).await?;
    if let Some(reason) = not_stored(message.state) {
        return Err(Problem::new(Code::RawNotStored, reason));
    }
    let tag = ETag::from_digest(&message.sha256);
    if let Some(not_modified) = conditions.not_modified(&tag) {
        return Ok(not_modified);
    }
    let octets = state.store.raw_message(mailbox_id, id).await?;
    Ok(download(
        octets,
        "message/rfc822",
        &format!("{id}.eml"),
        &tag,
    ))
}

/// Why there are no octets, or not all of them.
fn not_stored(state: MessageState) -> Option<&'static str> {
    match state {
        MessageState::Stored => None,
        MessageState::Oversize => Some(
            "The message is longer than `max_message_bytes` of its mailbox: only its head was \
                fetched.",
        ),
        MessageState::Quarantined => Some(
            "The message could not be fetched; `parse_notes` say why. A sync with \
                `retry_quarantined` tries again.",
        ),
    }
}

/// The attachment of a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct AttachmentIds {
    /// Number of the attachment, from 0.
    #[param(minimum = 0)]
    n: u16,
}

/// What is known of an attachment, from the summary of its message.
#[derive(Debug, Deserialize)]
struct Attachment {
    filename: Option<String>,
    content_type: String,
    sha256: String,
}

/// Reads an attachment, decoded.
///
/// Types that a browser would run, such as `text/html`, come as `application/octet-stream`.
#[utoipa::path(
    get,
    path = "/v1/mailboxes/{mailbox_id}/messages/{message_id}/attachments/{n}",
    tag = "messages",
    params(MailboxIds, ReadIds, AttachmentIds),
    responses(
        (status = 200, description = "The octets.", body = inline(Octets), content_type = "*/*",
            headers(
                ("etag" = String, description = "SHA-256 of the octets."),
                ("content-disposition" = String, description = "The file name (RFC 6266)."),
            )),
        (status = 304, description = "They are as `If-None-Match` says."),
        (status = 404, description = "`not_found`, or `raw_not_stored`."),
    ),
    security(("api_key" = ["messages:read"])),
)]
pub(super) async fn read_attachment(
    MailboxAccess { mailbox_id, .. }: MailboxAccess<MessagesRead>,
    State(state): State<ApiState>,
    Ids(ReadIds { message_id }): Ids<ReadIds>,
    Ids(AttachmentIds { n }): Ids<AttachmentIds>,
    conditions: Conditions,
) -> Result<Response, Problem> {
    let id = message_id.resolve(&state, mailbox_id).await?;
    let stored = state.store.message(mailbox_id, id).await?;
    let attachment = stored
        .summary
        .pointer(&format!("/attachments/{n}"))
        .and_then(|attachment| Attachment::deserialize(attachment).ok())
        .ok_or_else(Problem::not_found)?;
    let tag = ETag::from_hex(&attachment.sha256);
    if let Some(not_modified) = conditions.not_modified(&tag) {
        return Ok(not_modified);
    }
    let part = state
        .store
        .attachment_part(mailbox_id, id, n.into())
        .await?;
    // Decoding megabytes takes its time.
    let octets = tokio::task::spawn_blocking(move || message::attachment_octets(&part))
        .await
        .map_err(|_| Problem::internal())?;
    let name = attachment
        .filename
        .unwrap_or_else(|| format!("attachment-{n}"));
    Ok(download(
        octets,
        harmless(&attachment.content_type),
        &name,
        &tag,
    ))
}

fn download(octets: Vec<u8>, content_type: &str, name: &str, tag: &ETag) -> Response {
    let mut headers = HeaderMap::new();
    headers.extend([
        (
            header::CONTENT_TYPE,
            HeaderValue::try_from(content_type)
                .unwrap_or(HeaderValue::from_static("application/octet-stream")),
        ),
        (header::CONTENT_DISPOSITION, content_disposition(name)),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; sandbox"),
        ),
        tag.header(),
    ]);
    (headers, octets).into_response()
}

/// The content type, unless a browser would run what it names.
fn harmless(content_type: &str) -> &str {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c);
    let runs = match content_type.split_once('/') {
        None => true,
        Some((kind, subtype)) => {
            let is_media_type = !kind.is_empty()
                && !subtype.is_empty()
                && kind.chars().chain(subtype.chars()).all(is_plain);
            let subtype = subtype.to_ascii_lowercase();
            !is_media_type
                || kind.eq_ignore_ascii_case("multipart")
                || ["html", "xml", "script", "xsl", "svg"]
                    .iter()
                    .any(|word| subtype.contains(word))
        }
    };
    if runs {
        "application/octet-stream"
    } else {
        content_type
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_run_is_named_octets() {
        for content_type in [
            "text/html",
            "image/svg+xml",
            "text/xml",
            "application/xhtml+xml",
            "application/javascript",
            "multipart/x-mixed-replace",
            "nonsense",
            "text/plain\r\nset-cookie: a=b",
            "",
        ] {
            assert_eq!(
                harmless(content_type),
                "application/octet-stream",
                "{content_type}"
            );
        }
        for content_type in [
            "text/plain",
            "image/png",
            "application/pdf",
            "message/rfc822",
        ] {
            assert_eq!(harmless(content_type), content_type);
        }
    }
}
