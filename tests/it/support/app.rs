//! The API on a port of its own, over a database of its own.

use std::{sync::LazyLock, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use popbridge::{
    api::{
        self, ApiState,
        keys::{self, Scope},
    },
    pop3::Deadlines,
    store::{
        Store,
        events::{Facts, NewEvent},
        ingest::{Arrival, NewMessage},
        leases::Lease,
        rematch::CurrentListing,
        wakeups::Wakeups,
    },
    telemetry,
};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::{net::TcpListener, task::JoinHandle};
use uuid::Uuid;

use super::{database::Database, pop3_peer::connector};

/// One recorder for a process of tests.
static METRICS: LazyLock<PrometheusHandle> =
    LazyLock::new(|| telemetry::start_metrics().expect("nobody else installs a recorder"));

const ADMIN_KEY: &str = "an-admin-key-for-tests";

/// A running API; stops when dropped.
pub(crate) struct App {
    pub(crate) store: Store,
    url: String,
    client: reqwest::Client,
    server: JoinHandle<()>,
    _database: Option<Database>,
}

impl App {
    pub(crate) async fn start() -> Self {
        let database = Database::create().await;
        let store = database.store().await;
        Self::over(store, Some(database), &[]).await
    }

    /// One that browsers may call from `origin`.
    pub(crate) async fn start_for_origin(origin: &'static str) -> Self {
        let database = Database::create().await;
        let store = database.store().await;
        Self::over(store, Some(database), &[HeaderValue::from_static(origin)]).await
    }

    /// One over a store that may have no database behind it.
    pub(crate) async fn over(
        store: Store,
        database: Option<Database>,
        cors_origins: &[HeaderValue],
    ) -> Self {
        // Fails where another test of this process was first.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let state = ApiState::new(
            store.clone(),
            Wakeups::default(),
            Some(&SecretString::from(ADMIN_KEY)),
            METRICS.clone(),
            &connector(Deadlines::default()),
        );
        let router = api::router(state, cors_origins);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Self {
            store,
            url,
            client,
            server,
            _database: database,
        }
    }

    /// A request without a key.
    pub(crate) fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// A request with the admin key.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(ADMIN_KEY)
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::GET, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        Reply::of(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Reply {
        Reply::of(self.request(Method::PATCH, path).json(body)).await
    }

    /// A request with another key than the admin key.
    pub(crate) async fn with_key(&self, key: &str, method: Method, path: &str) -> Reply {
        Reply::of(self.anonymous(method, path).bearer_auth(key)).await
    }

    /// A stored key.
    pub(crate) async fn key(
        &self,
        scopes: &[Scope],
        mailbox_ids: &[Uuid],
        expires_at: Option<OffsetDateTime>,
    ) -> String {
        let key = keys::generate();
        let key = key.expose_secret();
        let scopes: Vec<String> = scopes.iter().map(ToString::to_string).collect();
        self.store
            .create_api_key("test", &keys::hash(key), &scopes, mailbox_ids, expires_at)
            .await
            .unwrap();
        key.to_owned()
    }

    /// A mailbox; its id.
    pub(crate) async fn mailbox(&self) -> Uuid {
        let created = self.post("/v1/mailboxes", &mailbox_body()).await;
        assert_eq!(created.status, StatusCode::CREATED, "{}", created.json());
        created.json()["id"].as_str().unwrap().parse().unwrap()
    }

    /// The right to sync this mailbox, which must be due.
    pub(crate) async fn lease(&self, mailbox_id: Uuid) -> Lease {
        let claims = self
            .store
            .claim_due_mailboxes(100, Duration::from_secs(600), &crate::support::any_host())
            .await
            .unwrap();
        let claim = claims
            .iter()
            .find(|claim| claim.lease.mailbox_id == mailbox_id);
        claim.expect("the mailbox is due").lease
    }

    /// Stores a message as a sync would; its id.
    pub(crate) async fn store_message(&self, lease: &Lease, message: NewMessage) -> Uuid {
        let id = message.id;
        self.store
            .store_messages(lease, vec![message], &CurrentListing::default())
            .await
            .unwrap();
        id
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The least that makes a mailbox.
pub(crate) fn mailbox_body() -> Value {
    json!({ "host": "pop.example.com", "username": "anna", "password": "hunter2" })
}

/// A message of these octets.
pub(crate) fn message(mailbox_id: Uuid, unique_id: &str, octets: &[u8]) -> NewMessage {
    let id = Uuid::now_v7();
    NewMessage {
        id,
        unique_id: unique_id.as_bytes().to_vec(),
        octets: octets.to_vec(),
        size: octets.len().try_into().unwrap(),
        listed_octets: octets.len().try_into().unwrap(),
        sha256: Sha256::digest(octets).into(),
        arrival: Arrival::default(),
        backlog: false,
        state: popbridge::store::messages::MessageState::Stored,
        summary: json!({ "subject": unique_id, "attachments": [] }),
        body: json!({ "headers": [], "text": { "plain": "hello", "html": null } }).to_string(),
        parts: json!([]),
        event: NewEvent {
            id: Uuid::now_v7(),
            mailbox_id,
            kind: "message.received",
            message_id: Some(id),
            data: json!({ "message_id": id }),
            notify: true,
            facts: Facts::default(),
        },
    }
}

/// A response, read to its end.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) octets: Vec<u8>,
}

impl Reply {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response: Response = request.send().await.unwrap();
        Self {
            status: response.status(),
            headers: response.headers().clone(),
            octets: response.bytes().await.unwrap().to_vec(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.octets).expect("the body is JSON")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    pub(crate) fn etag(&self) -> &str {
        self.header("etag")
    }

    /// Asserts a whole problem with this status and code.
    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, code: &str) -> Value {
        let problem = self.json();
        assert_eq!(
            (self.status.as_u16(), &problem["code"]),
            (status, &json!(code)),
            "{problem}"
        );
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["instance"], self.header("x-request-id"));
        assert_eq!(problem["type"], format!("urn:popbridge:problem:{code}"));
        for word in ["title", "detail"] {
            assert!(!problem[word].as_str().unwrap().is_empty(), "{word}");
        }
        problem
    }

    /// Asserts a validation problem with mistakes at exactly these pointers.
    #[track_caller]
    pub(crate) fn assert_mistakes(&self, pointers: &[&str]) -> Value {
        let problem = self.assert_problem(422, "validation_failed");
        let errors = problem["errors"].as_array().unwrap();
        let mut found: Vec<_> = errors
            .iter()
            .map(|e| e["pointer"].as_str().unwrap())
            .collect();
        found.sort_unstable();
        let mut expected = pointers.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{problem}");
        problem
    }
}
