//! What users send of a webhook, and how it becomes settings.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use url::Url;
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::{
    document,
    extract::{Field, Mistakes},
    problem::Problem,
};
use crate::store::{
    Store,
    webhooks::{Filter, PayloadKind, WebhookSettings, WebhookState},
};

/// Every type of event.
const EVENT_TYPES: [&str; 10] = [
    "message.received",
    "message.updated",
    "message.deleted",
    "message.quarantined",
    "mailbox.auth_failed",
    "mailbox.error",
    "mailbox.recovered",
    "mailbox.uidl_reset",
    "mailbox.stale",
    "webhook.disabled",
];

const DEFAULT_EVENT: &str = "message.received";

const MAX_URL: usize = 2000;
const MAX_MAILBOXES: usize = 1000;
const MAX_TEXT: usize = 500;

/// A webhook as users send it, whole or in part. All fields are optional to serde, so that all
/// mistakes can be told at once.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(super) struct WebhookBody {
    /// Where it is called, by POST: `http` or `https`, without a user or a fragment.
    #[schema(value_type = String, required, max_length = 2000, format = "uri",
        example = "https://example.com/hooks/mail")]
    #[serde(default)]
    url: Field<String>,
    /// Event types it hears of; `message.received` where none are given.
    #[schema(value_type = Vec<EventType>, min_items = 1, default = json!(["message.received"]))]
    #[serde(default)]
    events: Field<Vec<String>>,
    /// The only mailboxes it hears of; empty: all.
    #[schema(value_type = Vec<Uuid>, max_items = 1000, default = json!([]))]
    #[serde(default)]
    mailbox_ids: Field<Vec<Uuid>>,
    /// Which messages it hears of.
    #[schema(value_type = Option<FilterBody>)]
    #[serde(default)]
    filter: Field<Option<FilterBody>>,
    /// How much of a message its body holds.
    #[schema(value_type = PayloadKind, default = "thin")]
    #[serde(default)]
    payload: Field<PayloadKind>,
    /// For people.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 500)]
    #[serde(default)]
    description: Field<Option<String>>,
    /// Whether it is called. What happens while it is not, it never hears of.
    #[schema(value_type = WebhookState, default = "enabled")]
    #[serde(default)]
    state: Field<WebhookState>,
    #[serde(flatten)]
    #[schema(ignore)]
    unknown: BTreeMap<String, Value>,
}

/// Which messages a webhook hears of: parts of names, addresses and the subject, whatever their
/// case. All that are given must match.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[schema(as = SetFilter)]
struct FilterBody {
    /// In the name or address of an author.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 500)]
    #[serde(default)]
    from: Field<Option<String>>,
    /// In the name or address of a recipient (`To` or `Cc`).
    #[schema(value_type = Option<String>, min_length = 1, max_length = 500)]
    #[serde(default)]
    to: Field<Option<String>>,
    /// In the subject.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 500)]
    #[serde(default)]
    subject: Field<Option<String>>,
    #[serde(flatten)]
    #[schema(ignore)]
    unknown: BTreeMap<String, Value>,
}

/// Type of an event.
enum EventType {}

impl utoipa::PartialSchema for EventType {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::Type::String)
            .enum_values(Some(EVENT_TYPES))
            .description(Some("Type of an event."))
            .into()
    }
}

impl ToSchema for EventType {}

document::request_body! {
    /// A webhook to make.
    CreateWebhook = closed(WebhookBody);
    /// Settings of a webhook to change.
    UpdateWebhook = patch(WebhookBody);
}

impl WebhookBody {
    /// The settings of a webhook to make.
    pub(super) async fn into_new(self, store: &Store) -> Result<WebhookSettings, Problem> {
        let mut mistakes = Mistakes::default();
        mistakes.check(!self.url.is_absent(), "/url", "is required");
        let defaults = WebhookSettings {
            url: String::new(),
            events: vec![DEFAULT_EVENT.to_owned()],
            mailbox_ids: Vec::new(),
            filter: Filter::default(),
            payload: PayloadKind::default(),
            description: None,
            state: WebhookState::Enabled,
        };
        self.apply(defaults, mistakes, store).await
    }

    /// `current` with what this changes.
    pub(super) async fn into_changed(
        self,
        current: WebhookSettings,
        store: &Store,
    ) -> Result<WebhookSettings, Problem> {
        self.apply(current, Mistakes::default(), store).await
    }

    async fn apply(
        self,
        mut settings: WebhookSettings,
        mut mistakes: Mistakes,
        store: &Store,
    ) -> Result<WebhookSettings, Problem> {
        mistakes.refuse(&self.unknown, "", why_refused);
        self.url.put(&mut settings.url, "/url", &mut mistakes);
        self.events
            .put(&mut settings.events, "/events", &mut mistakes);
        self.payload
            .put(&mut settings.payload, "/payload", &mut mistakes);
        self.description
            .put(&mut settings.description, "/description", &mut mistakes);
        self.state.put(&mut settings.state, "/state", &mut mistakes);
        match self.filter.take("/filter", &mut mistakes) {
            None => {}
            Some(None) => settings.filter = Filter::default(),
            Some(Some(filter)) => filter.apply(&mut settings.filter, &mut mistakes),
        }
        // Only what is new: a mailbox that was deleted since does no harm.
        if let Some(ids) = self.mailbox_ids.take("/mailbox_ids", &mut mistakes) {
            settings.mailbox_ids = ids;
            check_mailboxes(&mut settings.mailbox_ids, store, &mut mistakes).await?;
        }
        check(&mut settings, &mut mistakes);
        mistakes.into_result(settings)
    }
}

impl FilterBody {
    fn apply(self, filter: &mut Filter, mistakes: &mut Mistakes) {
        mistakes.refuse(&self.unknown, "/filter", |_| None);
        for (field, place, pointer) in [
            (self.from, &mut filter.from, "/filter/from"),
            (self.to, &mut filter.to, "/filter/to"),
            (self.subject, &mut filter.subject, "/filter/subject"),
        ] {
            field.put(place, pointer, mistakes);
            if let Some(text) = place {
                mistakes.check_text(text, MAX_TEXT, pointer);
            }
        }
    }
}

fn why_refused(field: &str) -> Option<&'static str> {
    match field {
        "id" | "created_at" | "updated_at" => Some("is read-only; leave it out"),
        "secret" => Some("is made by popbridge; leave it out"),
        _ => None,
    }
}

fn check(settings: &mut WebhookSettings, mistakes: &mut Mistakes) {
    if let Err(detail) = check_url(&settings.url) {
        mistakes.check(false, "/url", detail);
    }
    mistakes.check(
        !settings.events.is_empty(),
        "/events",
        "must name at least one event type",
    );
    let mut seen = Vec::new();
    for (n, event) in settings.events.iter().enumerate() {
        if !EVENT_TYPES.contains(&event.as_str()) {
            let detail = format!("must be one of {}", EVENT_TYPES.join(", "));
            mistakes.check(false, &format!("/events/{n}"), detail);
        } else if !seen.contains(event) {
            seen.push(event.clone());
        }
    }
    settings.events = seen;
    if let Some(description) = &settings.description {
        mistakes.check_text(description, MAX_TEXT, "/description");
    }
}

fn check_url(text: &str) -> Result<(), &'static str> {
    if text.len() > MAX_URL {
        return Err("must not be longer than 2000 octets");
    }
    let url = Url::parse(text).map_err(|_| "must be a URL such as https://example.com/hooks")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with https:// or http://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not have a user or password; requests are signed instead");
    }
    if url.fragment().is_some() {
        return Err("must not have a fragment (#…)");
    }
    Ok(())
}

async fn check_mailboxes(
    ids: &mut Vec<Uuid>,
    store: &Store,
    mistakes: &mut Mistakes,
) -> Result<(), Problem> {
    if ids.len() > MAX_MAILBOXES {
        let detail = format!("must not name more than {MAX_MAILBOXES} mailboxes");
        mistakes.check(false, "/mailbox_ids", detail);
        return Ok(());
    }
    if ids.is_empty() {
        return Ok(());
    }
    let limit = i64::try_from(ids.len()).expect("it was bounded above");
    let found = store.mailboxes(None, ids, limit).await?;
    for (n, id) in ids.iter().enumerate() {
        let exists = found.iter().any(|mailbox| mailbox.id == *id);
        mistakes.check(exists, &format!("/mailbox_ids/{n}"), "is no mailbox");
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_one_that_can_be_called() {
        for url in ["https://example.com/hook?a=b", "http://127.0.0.1:9000/"] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for url in [
            "",
            "example.com",
            "ftp://example.com/",
            "https://user@example.com/",
            "https://:secret@example.com/",
            "https://example.com/#top",
            "https://",
        ] {
            assert!(check_url(url).is_err(), "{url}");
        }
    }
}
