//! Messages that are listed under other unique-ids than before: after a server's migration, say.
//!
//! A fetched message whose unique-id is new may be one that is stored already. It is, if its octets
//! are those of a message whose own unique-id is not listed now: then that message moves to the new
//! unique-id and stays what it is, with its id and without another event. Two messages that are
//! both listed are two, however alike.

use std::collections::HashSet;

use serde_json::json;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{
    Error, Store,
    events::{self, Facts, NewEvent},
    ingest::NewMessage,
    leases::{Lease, lock_lease},
    maildrop::{RemoteState, count_pending_deletes},
};

/// So many messages under new unique-ids are a reset, even where more kept theirs.
const MANY: i64 = 10;

/// Mail that was left out unread is known by its size and by its date, which must be that much
/// older than the listing that it was left out from: clocks and time zones are often wrong, and
/// new mail that is taken for old would be lost.
const SURELY_OLDER: Duration = Duration::days(1);

/// What the server lists in this session, and what was known of it before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CurrentListing {
    /// All that is listed.
    pub unique_ids: HashSet<Vec<u8>>,
    /// How many of them name messages that were dealt with in an earlier session.
    pub settled: i64,
}

impl Store {
    /// Ends a reset of unique-ids, if one is under way: whatever was listed is fetched. Tells of it
    /// unless it was but a message or two.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn end_reset(&self, held: &Lease) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        lock_lease(&mut tx, held).await?;
        end_reset(&mut tx, held.mailbox_id).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// The same within a transaction that has locked the mailbox's state.
pub(super) async fn end_reset(tx: &mut PgConnection, mailbox_id: Uuid) -> Result<(), Error> {
    let ended = sqlx::query!(
        "UPDATE popbridge.mailbox_states s SET reset_matched = 0, reset_kept = 0
        FROM popbridge.mailbox_states before
        WHERE s.mailbox_id = $1 AND before.mailbox_id = $1 AND s.reset_matched > 0
        RETURNING before.reset_matched AS matched, before.reset_kept AS kept",
        mailbox_id,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(reset) = ended.filter(|reset| reset.matched >= MANY || reset.matched > reset.kept)
    else {
        return Ok(());
    };
    tracing::warn!(
        matched = reset.matched,
        "the server changed its unique-ids; messages were matched again by their content"
    );
    let event = NewEvent {
        id: Uuid::now_v7(),
        mailbox_id,
        kind: "mailbox.uidl_reset",
        message_id: None,
        data: json!({ "matched": reset.matched }),
        notify: true,
        facts: Facts::default(),
    };
    events::append(tx, vec![event]).await
}

/// Messages of a batch that are no new ones.
#[derive(Default)]
pub(super) struct Matched {
    pub(super) stored: i64,
    pub(super) left_out: i64,
}

/// Takes those messages out of `batch` that are stored or left out already, and moves what is known
/// of them to the unique-ids that they have now.
pub(super) async fn match_again(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    batch: &mut Vec<NewMessage>,
    listing: &CurrentListing,
) -> Result<Matched, Error> {
    settle_returned(tx, mailbox_id, batch).await?;
    let mut former = absent_lookalikes(tx, mailbox_id, batch, listing).await?;
    if former.is_empty() {
        return Ok(Matched::default());
    }
    let (mut before, mut now) = (Vec::new(), Vec::new());
    let mut matched = Matched::default();
    batch.retain(|message| {
        let Some(at) = former.iter().position(|former| former.is(message)) else {
            return true;
        };
        let former = former.remove(at);
        if former.skipped {
            matched.left_out += 1;
        } else {
            matched.stored += 1;
        }
        before.push(former.unique_id);
        now.push(message.unique_id.clone());
        false
    });
    move_entries(tx, mailbox_id, &before, &now).await?;
    sqlx::query!(
        "UPDATE popbridge.mailbox_states SET reset_matched = reset_matched + $2,
            reset_kept = CASE reset_matched WHEN 0 THEN $3 ELSE reset_kept END
        WHERE mailbox_id = $1",
        mailbox_id,
        matched.stored + matched.left_out,
        listing.settled,
    )
    .execute(tx)
    .await?;
    Ok(matched)
}

/// What is known of a message that may be listed under another unique-id now.
struct Former {
    unique_id: Vec<u8>,
    content_sha256: Option<Vec<u8>>,
    octets: i64,
    skipped: bool,
    listed_at: OffsetDateTime,
    /// The server took its deletion, and does not list it any more.
    deleted: bool,
}

impl Former {
    fn is(&self, message: &NewMessage) -> bool {
        if self.skipped {
            let arrived_at = message.arrival.at;
            return self.octets == message.listed_octets
                && arrived_at.is_some_and(|at| at < self.listed_at - SURELY_OLDER);
        }
        // What was deleted does not come back, but the same octets may be delivered once more.
        message.content() == self.content_sha256.as_deref()
            && (!self.deleted || message.arrival.distinctive)
    }
}

/// Entries that are not listed now and look like messages of `batch`, those listed first first.
async fn absent_lookalikes(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    batch: &[NewMessage],
    listing: &CurrentListing,
) -> Result<Vec<Former>, Error> {
    let digests: Vec<&[u8]> = batch.iter().filter_map(NewMessage::content).collect();
    let surely_older = OffsetDateTime::now_utc() - SURELY_OLDER;
    let old = batch
        .iter()
        .filter(|message| message.arrival.at.is_some_and(|at| at < surely_older));
    let sizes: Vec<i64> = old.map(|message| message.listed_octets).collect();
    let mut former = sqlx::query_as!(
        Former,
        r#"SELECT unique_id AS "unique_id!", content_sha256, octets AS "octets!", skipped AS "skipped!",
            listed_at AS "listed_at!", remote_state IN ('deleted', 'delete_pending')
                AND dele_sent_at IS NOT NULL AS "deleted!"
        FROM (
            -- Look-ups apart, one by one: a join with a mailbox that grew since it was last
            -- analysed may compare all with all.
            SELECT e.* FROM (SELECT DISTINCT unnest($2::bytea[])) AS t(digest)
            CROSS JOIN LATERAL (SELECT * FROM popbridge.maildrop_entries
                WHERE mailbox_id = $1 AND content_sha256 = digest OFFSET 0) AS e
            UNION ALL
            SELECT e.* FROM (SELECT DISTINCT unnest($3::bigint[])) AS t(size)
            CROSS JOIN LATERAL (SELECT * FROM popbridge.maildrop_entries
                WHERE mailbox_id = $1 AND skipped AND octets = size OFFSET 0) AS e
        ) AS e
        ORDER BY listed_at, message_id"#,
        mailbox_id,
        &digests as &[&[u8]],
        &sizes,
    )
    .fetch_all(tx)
    .await?;
    former.retain(|former| !listing.unique_ids.contains(&former.unique_id));
    Ok(former)
}

/// Moves entries, and with them their messages, to other unique-ids. What was to be deleted still
/// is; a deletion that was done is not repeated on the old word.
async fn move_entries(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    before: &[Vec<u8>],
    now: &[Vec<u8>],
) -> Result<(), Error> {
    // It failed under the new unique-id before it came.
    sqlx::query!(
        "DELETE FROM popbridge.maildrop_entries
        WHERE mailbox_id = $1 AND unique_id = ANY($2) AND message_id IS NULL AND NOT skipped",
        mailbox_id,
        now,
    )
    .execute(&mut *tx)
    .await?;
    let pending_again = sqlx::query_scalar!(
        r#"UPDATE popbridge.maildrop_entries e
        SET unique_id = t.now, absent_at = NULL, failures = 0,
            remote_state = CASE
                WHEN b.remote_state = 'delete_pending' THEN 'delete_pending'
                WHEN b.remote_state = 'deleted' AND b.dele_sent_at IS NULL THEN 'delete_pending'
                ELSE 'present' END
        FROM unnest($2::bytea[], $3::bytea[]) AS t(before, now), popbridge.maildrop_entries b
        WHERE e.mailbox_id = $1 AND e.unique_id = t.before
            AND b.mailbox_id = $1 AND b.unique_id = t.before
        RETURNING e.remote_state = 'delete_pending' AND b.remote_state = 'deleted' AS "again!""#,
        mailbox_id,
        before,
        now,
    )
    .fetch_all(&mut *tx)
    .await?;
    let again = pending_again.iter().filter(|again| **again).count();
    let again = i64::try_from(again).expect("a batch is small");
    count_pending_deletes(tx, mailbox_id, again).await
}

/// Takes those messages out of `batch` whose unique-id is dealt with. Where it names a message that
/// was deleted from the server, either that one is back, or the server gave the unique-id to another
/// one, as RFC 1939 allows.
async fn settle_returned(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    batch: &mut Vec<NewMessage>,
) -> Result<(), Error> {
    let unique_ids: Vec<&[u8]> = batch.iter().map(|m| m.unique_id.as_slice()).collect();
    let settled = sqlx::query!(
        r#"SELECT unique_id, content_sha256, message_id, remote_state AS "remote_state: RemoteState"
        FROM unnest($2::bytea[]) AS t(listed)
        CROSS JOIN LATERAL (SELECT * FROM popbridge.maildrop_entries
            WHERE mailbox_id = $1 AND unique_id = listed OFFSET 0) AS e
        WHERE message_id IS NOT NULL OR skipped"#,
        mailbox_id,
        &unique_ids as &[&[u8]],
    )
    .fetch_all(&mut *tx)
    .await?;
    let (mut returned, mut reused, mut former) = (Vec::new(), Vec::new(), Vec::new());
    for entry in settled {
        let Some(at) = batch.iter().position(|m| m.unique_id == entry.unique_id) else {
            continue;
        };
        let content = batch.get(at).and_then(NewMessage::content);
        match entry.message_id {
            // Where nothing was kept to compare with, the unique-id has to do.
            Some(message_id)
                if entry.remote_state == RemoteState::Deleted
                    && entry.content_sha256.is_some()
                    && entry.content_sha256.as_deref() != content =>
            {
                former.push(format!("popbridge-former-{message_id}").into_bytes());
                reused.push(entry.unique_id);
            }
            _ => {
                batch.remove(at);
                if entry.remote_state == RemoteState::Deleted {
                    returned.push(entry.unique_id);
                }
            }
        }
    }
    if !returned.is_empty() {
        move_entries(tx, mailbox_id, &returned, &returned).await?;
    }
    if !reused.is_empty() {
        sqlx::query!(
            "UPDATE popbridge.maildrop_entries e SET unique_id = t.former
            FROM unnest($2::bytea[], $3::bytea[]) AS t(reused, former)
            WHERE mailbox_id = $1 AND unique_id = t.reused",
            mailbox_id,
            &reused,
            &former,
        )
        .execute(tx)
        .await?;
    }
    Ok(())
}
