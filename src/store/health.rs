//! Whether Postgres answers, and takes what it is given: for readiness, metrics and the log.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Error, Store};

/// How long Postgres may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// For how long a refusal counts when nothing is stored after it. Longer than the pause before a
/// message is tried again, so that it lasts as long as the reason does, and no longer where another
/// replica stored the message or it is gone.
const REFUSAL_COUNTS: Duration = Duration::from_secs(120);

/// The last time that Postgres would not store mail, unless it has since. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusal(Arc<Mutex<Option<(Instant, String)>>>);

impl Refusal {
    /// Notes how storing went.
    pub(super) fn note<T>(&self, stored: &Result<T, Error>) {
        let refusal = match stored {
            Ok(_) => None,
            Err(error) if error.is_refusal() => Some((Instant::now(), error.to_string())),
            Err(_) => return,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }

    fn current(&self) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, why) = last.as_ref()?;
        (at.elapsed() < REFUSAL_COUNTS).then(|| why.clone())
    }
}

impl Store {
    /// Whether Postgres answers, and stored the mail that it was last given.
    ///
    /// # Errors
    /// [`Error::Silent`], [`Error::Refused`] or [`Error::Database`].
    pub async fn check(&self) -> Result<(), Error> {
        timeout(ANSWER, self.ping())
            .await
            .map_err(|_| Error::Silent)??;
        self.refusal
            .current()
            .map_or(Ok(()), |why| Err(Error::Refused(why)))
    }

    /// Looks again and again until `stop`; the metrics and the log tell what it saw, the log once
    /// for each outage.
    pub async fn watch(&self, stop: &CancellationToken) {
        metrics::describe_gauge!(
            "popbridge_database_up",
            "1 while Postgres answers and stores mail, else 0"
        );
        metrics::describe_counter!(
            "popbridge_database_outages_total",
            "Times that Postgres began to fail"
        );
        let up = metrics::gauge!("popbridge_database_up");
        let outages = metrics::counter!("popbridge_database_outages_total");
        outages.increment(0);
        let look = async {
            let mut away = false;
            loop {
                let checked = self.check().await;
                up.set(if checked.is_ok() { 1 } else { 0 });
                match checked {
                    Err(error) if !away => {
                        away = true;
                        outages.increment(1);
                        tracing::warn!(%error, "Postgres fails; popbridge goes on when it is back");
                    }
                    Ok(()) if away => {
                        away = false;
                        tracing::info!("Postgres is back");
                    }
                    _ => {}
                }
                sleep(LOOK).await;
            }
        };
        // It never ends by itself.
        let _: Option<()> = stop.run_until_cancelled(look).await;
    }
}
