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
    record::{Context, Refused, record},
    session::{Break, Findings},
    since::is_before,
    trials::Failure,
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
        unsettled::Retry,
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
    /// What came of it before.
    pub(super) before: Option<Retry>,
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
    /// Each message is a batch: one of them was refused by Postgres.
    pub(super) one_by_one: bool,
}

impl Ingest<'_> {
    /// Fetches and stores `wanted`. When it returns without an error, all of it is committed but
    /// what the trials in `findings` say did not come. When the line fails, what was whole by then
    /// is committed all the same, and `findings` tell where it was.
    pub(super) async fn run(
        &self,
        session: &mut Session,
        wanted: &[Entry],
        counts: &mut Counts,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let (to_parse, fetched) = mpsc::channel(BATCH_MESSAGES);
        let (to_store, parsed) = mpsc::channel(1);
        let fetch = self.fetch(session, wanted, to_parse, findings);
        let mut keep = pin!(async {
            tokio::try_join!(self.parse(fetched, to_store), self.store(parsed, counts))
        });
        let result = tokio::select! {
            fetched = fetch => keep.await.and(fetched),
            kept = &mut keep => Err(kept.err().unwrap_or(Error::Stopped)),
        };
        if let Err(Error::Store(error)) = &result
            && error.is_data_refusal()
        {
            // Which it was shows when they come again, one by one.
            findings.one_by_one = true;
            findings.broke = Some(Break { at: None });
        }
        result
    }

    async fn fetch(
        &self,
        session: &mut Session,
        wanted: &[Entry],
        to_parse: mpsc::Sender<Fetched>,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let mut retrieval = session.retrieve(wanted.iter().map(|e| (e.number, e.octets)));
        let (mut some_came, mut cut_off) = (false, false);
        // Replies come in the order asked for.
        for entry in wanted {
            let reply = retrieval.next().await;
            let fetched = match reply {
                Ok(Some(Retrieved::Refused { reply, .. })) => {
                    tracing::info!(%reply, "the server would not send a message");
                    let before = findings.retries.get(&entry.unique_id);
                    let failure = Failure::refused(&reply);
                    findings.trials.failed(entry, failure, before);
                    cut_off = false;
                    continue;
                }
                Ok(_) => {
                    let before = findings.retries.get(&entry.unique_id);
                    self.receive(&mut retrieval, entry, before).await
                }
                Err(error) => {
                    // Behind a message that was cut off, this is the end of that one.
                    let at = (!cut_off).then_some(entry);
                    findings.broke = Some(Break::at(at, &error, some_came));
                    return Err(error.into());
                }
            };
            let message = fetched.inspect_err(|error| {
                if let Error::Pop3(error) = error {
                    findings.broke = Some(Break::at(Some(entry), error, some_came));
                }
            })?;
            findings.trials.came();
            some_came = true;
            cut_off = message.state == MessageState::Oversize;
            to_parse.send(message).await.map_err(|_| Error::Stopped)?;
        }
        // Behind the last one the session is in order again.
        let end = retrieval.next().await;
        end.inspect_err(|error| findings.broke = Some(Break::at(None, error, some_came)))?;
        Ok(())
    }

    /// Takes in the message whose octets come next.
    async fn receive(
        &self,
        retrieval: &mut Retrieval<'_>,
        entry: &Entry,
        before: Option<&Retry>,
    ) -> Result<Fetched, Error> {
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
        Ok(Fetched {
            entry: entry.clone(),
            octets,
            state,
            before: before.cloned(),
            reservation: Some(reservation),
        })
    }

    async fn parse(
        &self,
        mut fetched: mpsc::Receiver<Fetched>,
        to_store: mpsc::Sender<Batch>,
    ) -> Result<(), Error> {
        while let Some(first) = fetched.recv().await {
            let batch = if self.one_by_one {
                vec![first]
            } else {
                gather(first, &mut fetched).await
            };
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

    /// Stores what a batch has, and counts it.
    pub(super) async fn commit(&self, batch: Batch, counts: &mut Counts) -> Result<(), Error> {
        let Batch {
            messages,
            completed,
            left_out,
            reservations,
        } = batch;
        if !left_out.is_empty() {
            self.store.skip_messages(self.lease, &left_out).await?;
            counts.skipped += i64::try_from(left_out.len()).expect("a batch is small");
        }
        let mut stored = self.store_new(messages).await?;
        for message in completed {
            if let Some(octets) = self.complete(message).await? {
                stored.messages += 1;
                stored.octets += octets;
            }
        }
        drop(reservations);
        let Stored {
            messages,
            octets,
            matched,
            left_out,
        } = stored;
        counts.stored += messages;
        counts.octets += octets;
        counts.matched += matched;
        counts.skipped += left_out;
        self.wakeups.wake_events();
        metrics::counter!("popbridge_messages_stored_total").increment(messages.unsigned_abs());
        metrics::counter!("popbridge_message_octets_total").increment(octets.unsigned_abs());
        Ok(())
    }

    /// Stores new messages. One that is stored alone, and that Postgres refuses, is set aside.
    async fn store_new(&self, messages: Vec<NewMessage>) -> Result<Stored, Error> {
        let alone = match messages.as_slice() {
            [message] if self.one_by_one => Some(Refused::from(message)),
            _ => None,
        };
        let stored = self
            .store
            .store_messages(self.lease, messages, self.listing);
        match (stored.await, alone) {
            (Err(error), Some(refused)) if error.is_data_refusal() => {
                tracing::warn!(%error, "set aside a message that Postgres does not take");
                let message = refused.set_aside(&error, self.context);
                self.store.set_aside(self.lease, message).await?;
                Ok(Stored::default())
            }
            (stored, _) => Ok(stored?),
        }
    }

    /// Puts a message in the place of what was kept of it, unless Postgres refuses it.
    async fn complete(&self, message: NewMessage) -> Result<Option<i64>, Error> {
        let refused = Refused::from(&message);
        match self.store.complete_message(self.lease, message).await {
            Err(error) if error.is_data_refusal() => {
                tracing::warn!(%error, "Postgres does not take a message that was set aside");
                let failed = vec![refused.failed(&error)];
                self.store.record_failures(self.lease, failed).await?;
                Ok(None)
            }
            completed => Ok(completed?),
        }
    }
}

/// Messages that are stored in one transaction.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) messages: Vec<NewMessage>,
    /// Those that were kept in part before.
    completed: Vec<NewMessage>,
    /// Too old, as their octets say.
    left_out: Vec<Listed>,
    reservations: Vec<Reservation>,
}

impl Batch {
    pub(super) fn parse(fetched: Vec<Fetched>, context: Context) -> Self {
        let mut batch = Self {
            messages: Vec::new(),
            completed: Vec::new(),
            left_out: Vec::new(),
            reservations: Vec::new(),
        };
        for mut message in fetched {
            batch.reservations.extend(message.reservation.take());
            let kept = message.before.as_ref().and_then(|before| before.kept);
            let arrival = message::arrival(&message.octets);
            if kept.is_some() {
                batch.completed.push(record(message, arrival, context));
            } else if context.since.is_some_and(|since| is_before(since, arrival)) {
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
