//! What tests stand on.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ::popbridge::store::leases::HostLimit;

pub(crate) mod app;
pub(crate) mod cluster;
pub(crate) mod crowd;
pub(crate) mod database;
pub(crate) mod pop3_peer;
pub(crate) mod popbridge;
pub(crate) mod program;
pub(crate) mod token_endpoint;
pub(crate) mod world;

/// Asks again and again until there is an answer; a test waits for nothing longer than a minute.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(Duration::from_secs(60), what, ask).await
}

/// The same with a deadline of its own, for what documented time limits make slower.
pub(crate) async fn eventually_within<T>(
    limit: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// No server has its share yet.
pub(crate) fn any_host() -> HostLimit {
    HostLimit {
        passes: 100,
        running: HashMap::new(),
    }
}
