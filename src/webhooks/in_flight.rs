//! The attempts that run, and for which endpoints.

use std::collections::HashMap;

use tokio::task::{Id, JoinError, JoinSet};
use uuid::Uuid;

/// Attempts that run. Dropping it abandons them.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    tasks: JoinSet<()>,
    webhooks: HashMap<Id, Uuid>,
}

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.webhooks.len()
    }

    /// How many run for each endpoint that has any.
    pub(super) fn by_webhook(&self) -> HashMap<Uuid, i64> {
        let mut counts = HashMap::new();
        for webhook in self.webhooks.values() {
            *counts.entry(*webhook).or_default() += 1;
        }
        counts
    }

    pub(super) fn start(
        &mut self,
        webhook_id: Uuid,
        attempt: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = self.tasks.spawn(attempt).id();
        self.webhooks.insert(id, webhook_id);
    }

    /// Forgets those that ended.
    pub(super) fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.forget(ended);
        }
    }

    /// Waits until one ends; for ever while none runs. Safe to cancel.
    pub(super) async fn one_ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.forget(ended),
            None => std::future::pending().await,
        }
    }

    /// Waits until none runs. Safe to cancel.
    pub(super) async fn all_ended(&mut self) {
        while self.len() > 0 {
            self.one_ended().await;
        }
    }

    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                tracing::error!(%error, "a webhook attempt panicked; it is made again when its lease ends");
                error.id()
            }
        };
        self.webhooks.remove(&id);
    }
}
