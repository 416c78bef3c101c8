//! Postgres away and back.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use popbridge::store::deliveries::DeliveryState;

use super::{Outbox, quick, receiver::Receiver};
use crate::support::eventually;

const COMPLAINT: &str = "cannot look for due deliveries";

#[tokio::test]
async fn dispatcher_complains_once_and_goes_on_when_postgres_is_back() {
    let outbox = Outbox::new().await;
    let receiver = Receiver::answering(200).await;
    let webhook = outbox.endpoint(&receiver.url).await;
    outbox.store_messages(1).await;
    let log = Log::default();
    let _subscriber = log.listen();
    let _running = outbox.dispatch(quick(1));
    outbox.ended(&webhook).await;

    outbox.database.cut_off().await;
    eventually("a complaint", async || log.complaints().checked_sub(1)).await;
    outbox.database.let_back().await;
    outbox.store_messages(1).await;

    let deliveries = outbox.ended(&webhook).await;
    let states: Vec<_> = deliveries.iter().map(|d| d.state).collect();
    assert_eq!(states, [DeliveryState::Delivered; 2]);
    assert_eq!(log.complaints(), 1);
}

/// What this thread logs, and with it every task of a test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || log.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    fn complaints(&self) -> usize {
        let log = self.0.lock().unwrap();
        String::from_utf8_lossy(&log).matches(COMPLAINT).count()
    }
}

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
