//! How many sessions this process has with each server: some refuse more than a few.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

/// Counts of running passes by host. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    running: Arc<Mutex<HashMap<String, usize>>>,
    left: Arc<Notify>,
}

/// A pass that runs; it leaves when dropped.
#[derive(Debug)]
pub(super) struct Visit {
    hosts: Hosts,
    host: String,
}

impl Hosts {
    /// Counts a pass in.
    pub(super) fn enter(&self, host: String) -> Visit {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        *running.entry(host.clone()).or_default() += 1;
        let hosts = self.clone();
        Visit { hosts, host }
    }

    /// Passes that run, by host.
    pub(super) fn running(&self) -> HashMap<String, usize> {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether a host has that many.
    pub(super) fn is_full(&self, limit: usize) -> bool {
        self.running().values().any(|running| *running >= limit)
    }

    /// Waits until a pass has ended since the last call.
    pub(super) async fn left(&self) {
        self.left.notified().await;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let running = &self.hosts.running;
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.host);
            }
        }
        drop(running);
        self.hosts.left.notify_one();
    }
}
