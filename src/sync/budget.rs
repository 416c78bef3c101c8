//! One byte budget for the message data of all sessions, whatever the servers send.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Error;
use crate::message::limits::MAX_TEXT_OCTETS;

/// Octets that one permit stands for.
const UNIT: u64 = 1024;

/// A message is held twice at its peak: raw beside its decoded parts.
const COPIES: u64 = 2;

/// What is kept of its text is held as often more: parsed, as JSON, in a statement, and on its way
/// to Postgres.
const TEXT_COPIES: u64 = 4;

/// How long a session waits for its share; the server would hang up on it soon after.
const PATIENCE: Duration = Duration::from_secs(45);

/// The budget. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    permits: Arc<Semaphore>,
    total: u32,
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    permit: OwnedSemaphorePermit,
    budget: Budget,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX);
        Self {
            permits: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    /// Room for a message. One that is larger than the whole budget gets all of it.
    pub(super) async fn reserve(&self, octets: u64) -> Result<Reservation, Error> {
        let wanted = self.permits_for(octets);
        let permits = Arc::clone(&self.permits).acquire_many_owned(wanted);
        let permit = tokio::time::timeout(PATIENCE, permits)
            .await
            .map_err(|_| Error::MemoryBudget)?
            .expect("never closed");
        Ok(Reservation {
            permit,
            budget: self.clone(),
        })
    }

    fn permits_for(&self, octets: u64) -> u32 {
        let text = octets.min(MAX_TEXT_OCTETS as u64) * TEXT_COPIES;
        let held = octets.saturating_mul(COPIES).saturating_add(text);
        let permits = held.div_ceil(UNIT).max(1);
        u32::try_from(permits).unwrap_or(u32::MAX).min(self.total)
    }
}

impl Reservation {
    /// Makes room for a message that turns out longer than listed. It does not wait: two sessions
    /// that each hold a share and wait for more would wait for ever.
    pub(super) fn grow_to(&mut self, octets: u64) -> Result<(), Error> {
        let wanted = self.budget.permits_for(octets);
        let held = u32::try_from(self.permit.num_permits()).unwrap_or(u32::MAX);
        if wanted > held {
            let more = Arc::clone(&self.budget.permits)
                .try_acquire_many_owned(wanted - held)
                .map_err(|_| Error::MemoryBudget)?;
            self.permit.merge(more);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn message_larger_than_the_budget_gets_all_of_it() {
        let budget = Budget::new(1 << 20);
        let all = budget.reserve(u64::MAX).await.unwrap();
        assert_eq!(budget.permits.available_permits(), 0);
        drop(all);
        assert_eq!(budget.permits.available_permits(), 1 << 10);
    }

    #[tokio::test]
    async fn growth_fails_rather_than_waits() {
        let budget = Budget::new(4 << 20);
        let mut first = budget.reserve(200 << 10).await.unwrap();
        let _second = budget.reserve(200 << 10).await.unwrap();
        assert!(first.grow_to(250 << 10).is_ok());
        assert!(first.grow_to(900 << 10).is_err());
    }
}
