//! An HTTP server that takes webhooks and answers as it is told.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use futures_util::{StreamExt, stream};
use tokio::{net::TcpListener, task::JoinHandle};

/// A webhook as it came in.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) peer: SocketAddr,
}

impl Received {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

/// A server on loopback that keeps what comes in, and stops when dropped.
pub(super) struct Receiver {
    pub(super) url: String,
    pub(super) port: u16,
    received: Arc<Mutex<Vec<Received>>>,
    server: JoinHandle<()>,
}

impl Receiver {
    /// Answers the n-th request, from 1, with what `answer` makes of n.
    pub(super) async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(usize) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response> + Send,
    {
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let kept = received.clone();
        let handler = async move |ConnectInfo(peer): ConnectInfo<SocketAddr>,
                                  headers: HeaderMap,
                                  body: Bytes| {
            let n = {
                let mut kept = kept.lock().unwrap();
                kept.push(Received {
                    headers,
                    body,
                    peer,
                });
                kept.len()
            };
            answer(n).await
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(handler);
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let server = tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        Self {
            url: format!("http://{address}/hook?token=hidden"),
            port: address.port(),
            received,
            server,
        }
    }

    /// Always answers with this status.
    pub(super) async fn answering(status: u16) -> Self {
        Self::start(move |_| async move { respond(status) }).await
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(super) fn respond(status: u16) -> Response {
    respond_with(status, &[], Body::from("noted"))
}

pub(super) fn respond_with(status: u16, headers: &[(&str, &str)], body: Body) -> Response {
    let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body).unwrap()
}

/// A body without end, as fast as it is read.
pub(super) fn endless() -> Body {
    let piece = || Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 1000]));
    Body::from_stream(stream::repeat_with(piece))
}

/// A body that begins and never goes on.
pub(super) fn stalled() -> Body {
    let piece = Ok::<_, Infallible>(Bytes::from_static(b"begun"));
    Body::from_stream(stream::iter([piece]).chain(stream::pending()))
}
