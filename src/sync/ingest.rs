//! From the line to the store: fetching, parsing and storing overlap, joined by short queues.
//!
//! ```text
//! fetch ──Fetched──▶ parse (blocking threads) ──batches──▶ store
//! ```
//! Memory is bounded by the budget: each message carries its reservation until it is committed.

use std::{pin::pin, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{
    budget::{Budget, Reservation},
    error::Error,
    plan::Entry,
    record::{Context, record},
    since::is_before,
};
use crate::{
    message,
    pop3::{Retrieval, Retrieved, Session},
    store::{
        Store,
        ingest::{NewMessage, Stored},
        leases::{Counts, Lease},
        maildrop::Listed,
        messages::MessageState,
        rematch::CurrentListing,
        wakeups::Wakeups,
    },
};

/// A batch ends with this many messages,
const BATCH_MESSAGES: usize = 200;

/// or octets,
const BATCH_OCTETS: usize = 8 << 20;

/// or this long after its first message, so that the first of a large backlog is soon visible.
const BATCH_DELAY: Duration = Duration::from_millis(200);

/// A message off the line.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) entry: Entry,
    pub(super) octets: Vec<u8>,
    /// Whether `octets` is all of it.
    pub(super) state: MessageState,
    pub(super) reservation: Option<Reservation>,
}

/// What the pipeline works with.
#[derive(Debug)]
pub(super) struct Ingest<'a> {
    pub(super) store: &'a Store,
    pub(super) wakeups: &'a Wakeups,
    pub(super) budget: &'a Budget,
    pub(super) lease: &'a Lease,
    pub(super) listing: &'a CurrentListing,
    pub(super) context: Context,
    pub(super) max_message_octets: u64,
}

impl Ingest<'_> {
    /// Fetches and stores `wanted`. When it returns without an error, all of it is committed but
    /// `failed`. When the line fails, what was whole by then is committed all the same, so that
    /// each pass gets further than the last, and the message that it failed with is in `failed`.
    pub(super) async fn run(
        &self,
        session: &mut Session,
        wanted: &[Entry],
        counts: &mut Counts,
        failed: &mut Vec<Listed>,
    ) -> Result<(), Error> {
        let (to_parse, fetched) = mpsc::channel(BATCH_MESSAGES);
        let (to_store, parsed) = mpsc::channel(1);
        let fetch = self.fetch(session, wanted, to_parse, failed);
        let mut keep = pin!(async {
            tokio::try_join!(self.parse(fetched, to_store), self.store(parsed, counts))
        });
        tokio::select! {
            fetched = fetch => {
                keep.await?;
                fetched
            }
            kept = &mut keep => Err(kept.err().unwrap_or(Error::Stopped)),
        }
    }

    async fn fetch(
        &self,
        session: &mut Session,
        wanted: &[Entry],
        to_parse: mpsc::Sender<Fetched>,
        failed: &mut Vec<Listed>,
    ) -> Result<(), Error> {
        let mut retrieval = session.retrieve(wanted.iter().map(|e| (e.number, e.octets)));
        // Replies come in the order asked for, so a line that fails does so with this entry.
        for entry in wanted {
            match self.fetch_one(&mut retrieval, entry).await {
                Ok(Some(message)) => to_parse.send(message).await.map_err(|_| Error::Stopped)?,
                Ok(None) => failed.push(entry.listed()),
                Err(error) => {
                    if matches!(error, Error::Pop3(_)) {
                        failed.push(entry.listed());
                    }
                    return Err(error);
                }
            }
        }
        // Behind the last one the session is in order again.
        retrieval.next().await?;
        Ok(())
    }

    /// The next message; `None` if the server will not send it.
    async fn fetch_one(
        &self,
        retrieval: &mut Retrieval<'_>,
        entry: &Entry,
    ) -> Result<Option<Fetched>, Error> {
        if let Some(Retrieved::Refused { reply, .. }) = retrieval.next().await? {
            tracing::info!(%reply, "the server would not send a message");
            return Ok(None);
        }
        let mut reservation = self.budget.reserve(entry.octets).await?;
        let mut octets = Vec::with_capacity(usize::try_from(entry.octets).unwrap_or(0));
        let mut state = MessageState::Stored;
        while let Some(chunk) = retrieval.chunk().await? {
            let length = (octets.len() + chunk.len()) as u64;
            if length > self.max_message_octets {
                // The listing said less; what came so far is its head.
                state = MessageState::Oversize;
                break;
            }
            reservation.grow_to(length)?;
            octets.extend_from_slice(chunk);
        }
        let (entry, reservation) = (entry.clone(), Some(reservation));
        Ok(Some(Fetched {
            entry,
            octets,
            state,
            reservation,
        }))
    }

    async fn parse(
        &self,
        mut fetched: mpsc::Receiver<Fetched>,
        to_store: mpsc::Sender<Batch>,
    ) -> Result<(), Error> {
        while let Some(first) = fetched.recv().await {
            let batch = gather(first, &mut fetched).await;
            let context = self.context;
            let parsed = tokio::task::spawn_blocking(move || Batch::parse(batch, context))
                .await
                .map_err(|_| Error::Stopped)?;
            to_store.send(parsed).await.map_err(|_| Error::Stopped)?;
        }
        Ok(())
    }

    async fn store(
        &self,
        mut parsed: mpsc::Receiver<Batch>,
        counts: &mut Counts,
    ) -> Result<(), Error> {
        while let Some(batch) = parsed.recv().await {
            self.commit(batch, counts).await?;
        }
        Ok(())
    }

    pub(super) async fn commit(&self, batch: Batch, counts: &mut Counts) -> Result<(), Error> {
        let Batch {
            messages,
            left_out,
            reservations,
        } = batch;
        if !left_out.is_empty() {
            self.store.skip_messages(self.lease, &left_out).await?;
            counts.skipped += i64::try_from(left_out.len()).expect("a batch is small");
        }
        let stored = self.store.store_messages(self.lease, messages, self.listing);
        let Stored {
            messages,
            octets,
            matched,
            left_out,
        } = stored.await?;
        drop(reservations);
        counts.stored += messages;
        counts.octets += octets;
        counts.matched += matched;
        counts.skipped += left_out;
        self.wakeups.wake_events();
        metrics::counter!("popbridge_messages_stored_total").increment(messages.unsigned_abs());
        metrics::counter!("popbridge_message_octets_total").increment(octets.unsigned_abs());
        Ok(())
    }
}

/// Messages that are stored in one transaction.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) messages: Vec<NewMessage>,
    /// Too old, as their octets say.
    left_out: Vec<Listed>,
    reservations: Vec<Reservation>,
}

impl Batch {
    pub(super) fn parse(fetched: Vec<Fetched>, context: Context) -> Self {
        let mut batch = Self {
            messages: Vec::new(),
            left_out: Vec::new(),
            reservations: Vec::new(),
        };
        for mut message in fetched {
            batch.reservations.extend(message.reservation.take());
            let arrival = message::arrival(&message.octets);
            if context.since.is_some_and(|since| is_before(since, arrival)) {
                batch.left_out.push(message.entry.listed());
            } else {
                batch.messages.push(record(message, arrival, context));
            }
        }
        batch
    }
}

async fn gather(first: Fetched, fetched: &mut mpsc::Receiver<Fetched>) -> Vec<Fetched> {
    let deadline = Instant::now() + BATCH_DELAY;
    let mut octets = first.octets.len();
    let mut batch = vec![first];
    while batch.len() < BATCH_MESSAGES && octets < BATCH_OCTETS {
        let Ok(Some(message)) = timeout_at(deadline, fetched.recv()).await else {
            break;
        };
        octets += message.octets.len();
        batch.push(message);
    }
    batch
}
