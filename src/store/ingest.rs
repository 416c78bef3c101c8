//! Storing what was fetched: a batch of messages, their events and their deliveries are one
//! transaction, under the lease.

use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    Error, Store,
    connections::Loan,
    events::{self, NewEvent},
    leases::{Lease, lock_lease},
    mailboxes::count_stored,
    messages::MessageState,
    rematch::{CurrentListing, Matched, match_again},
};

/// How long a batch may take to store,
const PATIENCE: Duration = Duration::from_secs(20);

/// and at which pace beyond: a connection that says nothing for longer is given up.
const LEAST_OCTETS_PER_SECOND: usize = 512 << 10;

/// Octets that are sent to Postgres at once.
const COPY_OCTETS: usize = 64 << 10;

/// A fetched and parsed message.
#[derive(Debug)]
pub struct NewMessage {
    /// UUIDv7.
    pub id: Uuid,
    /// Its identity within the mailbox: opaque octets from the unique-id listing.
    pub unique_id: Vec<u8>,
    /// As the server sent it, dot-unstuffed; a head at most unless `state` is stored.
    pub octets: Vec<u8>,
    /// Octets of the message: of `octets` where that is all of it, else as listed.
    pub size: i64,
    /// Its size in the scan listing, a hint.
    pub listed_octets: i64,
    /// SHA-256 of `octets`.
    pub sha256: [u8; 32],
    /// When it was delivered.
    pub arrival: Arrival,
    /// Was there at the first sync.
    pub backlog: bool,
    /// Whether `octets` is all of it. Only then may the server's copy be deleted by a policy.
    pub state: MessageState,
    /// The parsed message as lists show it.
    pub summary: Value,
    /// Its headers and text, as JSON.
    pub body: String,
    /// `[offset, octets]` of each attachment's part.
    pub parts: Value,
    /// The event that tells of it.
    pub event: NewEvent,
}

/// What a message's header says of its delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// When it arrived, or was written.
    pub at: Option<OffsetDateTime>,
    /// It has what no two deliveries have in common.
    pub distinctive: bool,
}

impl NewMessage {
    /// What tells its content from that of others; `None` where there is no content.
    pub(super) fn content(&self) -> Option<&[u8]> {
        (!self.octets.is_empty()).then_some(&self.sha256)
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// New messages.
    pub messages: i64,
    /// Their octets.
    pub octets: i64,
    /// Messages that were stored already, under other unique-ids.
    pub matched: i64,
    /// Messages that were left out under other unique-ids, and are again.
    pub left_out: i64,
}

impl Store {
    /// Stores a batch. A message whose unique-id is stored already is left as it is and makes no
    /// event; one that was stored under a unique-id that is not listed any more gets the new one.
    ///
    /// # Errors
    /// [`Error::LeaseLost`]: nothing was stored.
    pub async fn store_messages(
        &self,
        held: &Lease,
        batch: Vec<NewMessage>,
        listing: &CurrentListing,
    ) -> Result<Stored, Error> {
        let octets: usize = batch.iter().map(|message| message.octets.len()).sum();
        let patience = PATIENCE + Duration::from_secs((octets / LEAST_OCTETS_PER_SECOND) as u64);
        let stored = timeout(patience, self.store_batch(held, batch, listing))
            .await
            .unwrap_or(Err(Error::Silent));
        self.refusal.note(&stored);
        stored
    }

    async fn store_batch(
        &self,
        held: &Lease,
        batch: Vec<NewMessage>,
        listing: &CurrentListing,
    ) -> Result<Stored, Error> {
        let mut loan = Loan::from(&self.pool).await?;
        let stored = insert_batch(loan.connection(), held, batch, listing).await;
        loan.give_back();
        stored
    }
}

async fn insert_batch(
    connection: &mut PgConnection,
    held: &Lease,
    mut batch: Vec<NewMessage>,
    listing: &CurrentListing,
) -> Result<Stored, Error> {
    let mut tx = connection.begin().await?;
    lock_lease(&mut tx, held).await?;
    let Matched { stored, left_out } =
        match_again(&mut tx, held.mailbox_id, &mut batch, listing).await?;
    let fresh = insert_entries(&mut tx, held.mailbox_id, &batch).await?;
    batch.retain(|message| fresh.contains(&message.id));
    let octets: usize = batch.iter().map(|message| message.octets.len()).sum();
    let octets = i64::try_from(octets).expect("memory is smaller than 2^63");
    let count = i64::try_from(batch.len()).expect("a batch is small");
    let events = insert_messages(&mut tx, held.mailbox_id, batch).await?;
    events::append(&mut tx, events).await?;
    count_stored(&mut tx, held.mailbox_id, count, octets).await?;
    tx.commit().await?;
    Ok(Stored {
        messages: count,
        octets,
        matched: stored,
        left_out,
    })
}

pub(super) async fn insert_entries(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    batch: &[NewMessage],
) -> Result<Vec<Uuid>, Error> {
    let unique_ids: Vec<&[u8]> = batch.iter().map(|m| m.unique_id.as_slice()).collect();
    let ids: Vec<Uuid> = batch.iter().map(|m| m.id).collect();
    let sizes: Vec<i64> = batch.iter().map(|m| m.size).collect();
    let whole: Vec<bool> = batch
        .iter()
        .map(|m| m.state == MessageState::Stored)
        .collect();
    let digests: Vec<Option<&[u8]>> = batch.iter().map(NewMessage::content).collect();
    Ok(sqlx::query_scalar!(
        r#"INSERT INTO popbridge.maildrop_entries AS e
            (mailbox_id, unique_id, message_id, octets, stored_at, content_sha256)
        SELECT $1, u, i, s, CASE WHEN whole THEN now() END, d
        FROM unnest($2::bytea[], $3::uuid[], $4::bigint[], $5::boolean[], $6::bytea[])
            AS t(u, i, s, whole, d)
        ON CONFLICT (mailbox_id, unique_id) DO UPDATE
            SET message_id = excluded.message_id, octets = excluded.octets,
                stored_at = excluded.stored_at, content_sha256 = excluded.content_sha256,
                failures = 0, own_failures = 0, failing_since = NULL
            WHERE e.message_id IS NULL
        RETURNING message_id AS "message_id!""#,
        mailbox_id,
        &unique_ids as &[&[u8]],
        &ids,
        &sizes,
        &whole,
        &digests as &[Option<&[u8]>],
    )
    .fetch_all(tx)
    .await?)
}

pub(super) async fn insert_messages(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    batch: Vec<NewMessage>,
) -> Result<Vec<NewEvent>, Error> {
    let (mut ids, mut unique_ids, mut sizes, mut digests) = (vec![], vec![], vec![], vec![]);
    let (mut backlog, mut states, mut summaries, mut bodies, mut parts) =
        (vec![], vec![], vec![], vec![], vec![]);
    let (mut octets, mut events) = (vec![], vec![]);
    for message in batch {
        ids.push(message.id);
        unique_ids.push(message.unique_id);
        sizes.push(message.size);
        digests.push(message.sha256.to_vec());
        backlog.push(message.backlog);
        states.push(message.state);
        summaries.push(message.summary);
        bodies.push(message.body);
        parts.push(message.parts);
        octets.push(message.octets);
        events.push(message.event);
    }
    sqlx::query!(
        "INSERT INTO popbridge.messages
            (mailbox_id, id, unique_id, size, sha256, backlog, state, summary, body, parts)
        SELECT $1, * FROM unnest($2::uuid[], $3::bytea[], $4::bigint[], $5::bytea[], $6::boolean[],
            $7::text[], $8::jsonb[], $9::text[], $10::jsonb[])",
        mailbox_id,
        &ids,
        &unique_ids,
        &sizes,
        &digests,
        &backlog,
        &states as &[MessageState],
        &summaries,
        &bodies,
        &parts,
    )
    .execute(&mut *tx)
    .await?;
    copy_octets(tx, mailbox_id, ids.into_iter().zip(octets)).await?;
    Ok(events)
}

/// Streams the octets in pieces: as a parameter of a statement they would be held three times.
async fn copy_octets(
    tx: &mut PgConnection,
    mailbox_id: Uuid,
    messages: impl Iterator<Item = (Uuid, Vec<u8>)>,
) -> Result<(), Error> {
    let mut copy = tx
        .copy_in_raw(
            "COPY popbridge.raw_messages (mailbox_id, message_id, octets)
            FROM STDIN (FORMAT binary)",
        )
        .await?;
    // Signature, flags, and the length of what extends the header.
    let mut piece = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for (id, octets) in messages {
        // Each field after its length.
        piece.extend_from_slice(&3_i16.to_be_bytes());
        for id in [mailbox_id, id] {
            piece.extend_from_slice(&16_i32.to_be_bytes());
            piece.extend_from_slice(id.as_bytes());
        }
        let length = i32::try_from(octets.len()).expect("no message is longer than a bytea");
        piece.extend_from_slice(&length.to_be_bytes());
        for part in octets.chunks(COPY_OCTETS) {
            piece.extend_from_slice(part);
            if piece.len() >= COPY_OCTETS {
                copy.send(piece.as_slice()).await?;
                piece.clear();
            }
        }
    }
    piece.extend_from_slice(&(-1_i16).to_be_bytes());
    copy.send(piece.as_slice()).await?;
    copy.finish().await?;
    Ok(())
}
