//! What tests stand on.

use std::time::{Duration, Instant};

pub(crate) mod app;
pub(crate) mod database;
pub(crate) mod pop3_peer;
pub(crate) mod world;

/// Asks again and again until there is an answer; a test waits for nothing longer than this.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
