//! A small webhook receiver that verifies signatures, for the demo and for tests.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::{net::TcpListener, sync::mpsc, task::AbortHandle};

/// Requests that wait to be looked at; a full queue answers 503, and is tried again later.
const QUEUE: usize = 1024;

/// A running receiver; stopped when dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    inbox: Arc<Inbox>,
    received: mpsc::Receiver<Received>,
    server: AbortHandle,
}

/// One request to the receiver.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its `webhook-id` header.
    pub webhook_id: String,
    /// Whether the signature is right; else what is wrong with it.
    pub verified: Result<(), String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, to the octet.
    pub octets: Bytes,
    /// The body as JSON; null where it is none.
    pub event: Value,
    /// What was answered.
    pub status: StatusCode,
}

#[derive(Debug)]
struct Inbox {
    secret: OnceLock<String>,
    answers: Mutex<VecDeque<StatusCode>>,
    received: mpsc::Sender<Received>,
}

impl Receiver {
    /// Starts a receiver on a free loopback port.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (sender, received) = mpsc::channel(QUEUE);
        let inbox = Arc::new(Inbox {
            secret: OnceLock::new(),
            answers: Mutex::default(),
            received: sender,
        });
        let router = Router::new()
            .route("/", post(receive))
            .with_state(Arc::clone(&inbox));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self {
            address,
            inbox,
            received,
            server: server.abort_handle(),
        })
    }

    /// Where webhooks are to be sent.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Tells the receiver the endpoint's secret, `whsec_…`, once it is known.
    pub fn set_secret(&self, secret: &str) {
        // A second one is of no use: the endpoint keeps the first.
        let _ = self.inbox.secret.set(secret.to_owned());
    }

    /// Answers the next requests with these, and whatever comes after with 204.
    pub fn answer(&self, statuses: impl IntoIterator<Item = StatusCode>) {
        self.inbox
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(statuses);
    }

    /// The next request, in the order of arrival.
    pub async fn next(&mut self) -> Received {
        self.received
            .recv()
            .await
            .expect("the inbox keeps a sender")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive(State(inbox): State<Arc<Inbox>>, headers: HeaderMap, octets: Bytes) -> StatusCode {
    let verified = match inbox.secret.get() {
        None => Err("the receiver does not know the secret yet".to_owned()),
        Some(secret) => Webhook::new(secret)
            .and_then(|webhook| webhook.verify(&octets, &headers))
            .map_err(|error| error.to_string()),
    };
    let status = match inbox
        .answers
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop_front()
    {
        Some(status) => status,
        None if verified.is_ok() => StatusCode::NO_CONTENT,
        None => StatusCode::UNAUTHORIZED,
    };
    let id = headers
        .get("webhook-id")
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default();
    let received = Received {
        webhook_id: id.to_owned(),
        verified,
        event: serde_json::from_slice(&octets).unwrap_or_default(),
        octets,
        headers,
        status,
    };
    match inbox.received.try_send(received) {
        Ok(()) => status,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}
