//! popbridge whole, with a database of its own, as users meet it: over HTTP.

use popbridge::{
    app::App,
    config::{Config, Database as DatabaseConfig, Role},
    store::MasterKey,
    telemetry,
};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::{database::Database, eventually};

const ADMIN_KEY: &str = "an admin key for tests only";

/// The program, running. Dropped parts stop in the order of the fields.
pub(crate) struct Popbridge {
    app: App,
    client: reqwest::Client,
    pub(crate) database: Database,
}

impl Popbridge {
    pub(crate) async fn start() -> Self {
        // As the program does first of all.
        rustls::crypto::ring::default_provider()
            .install_default()
            .unwrap();
        let database = Database::create().await;
        let config = Config {
            database: DatabaseConfig::External {
                url: database.url.clone().into(),
                master_key: MasterKey::from_base64(&MasterKey::generate()).unwrap(),
                admin_key: Some(ADMIN_KEY.into()),
            },
            listen: "127.0.0.1:0".parse().unwrap(),
            migrate: true,
            sync_concurrency: 4,
            sync_concurrency_per_host: 4,
            memory_budget: 256 << 20,
            egress_allow: vec!["127.0.0.0/8".parse().unwrap()],
            cors_origins: Vec::new(),
        };
        let metrics = telemetry::start_metrics().unwrap();
        let app = App::start(config, Role::All, metrics).await.unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            app,
            client,
            database,
        }
    }

    pub(crate) async fn stop(self) {
        self.app.stop().await.unwrap();
    }

    /// Syncs and returns the finished sync.
    pub(crate) async fn sync(&self, mailbox: &str) -> Value {
        let asked = self
            .post(&format!("/v1/mailboxes/{mailbox}/sync"), Value::Null)
            .await;
        let path = format!(
            "/v1/mailboxes/{mailbox}/syncs/{}",
            asked["id"].as_str().unwrap()
        );
        eventually("the sync ends", async || {
            let sync = self.get(&path).await;
            (!sync["finished_at"].is_null()).then_some(sync)
        })
        .await
    }

    pub(crate) async fn mailbox(&self, id: &str) -> Value {
        self.get(&format!("/v1/mailboxes/{id}")).await
    }

    /// All messages of a mailbox, newest first, over all pages.
    pub(crate) async fn messages(&self, mailbox: &str) -> Vec<Value> {
        let mut messages = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self
                .get(&format!(
                    "/v1/mailboxes/{mailbox}/messages?limit=500{cursor}"
                ))
                .await;
            messages.extend(page["items"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return messages,
            }
        }
    }

    pub(crate) async fn raw(&self, mailbox: &str, message: &Value) -> Vec<u8> {
        let id = message["id"].as_str().unwrap();
        let path = format!("/v1/mailboxes/{mailbox}/messages/{id}/raw");
        let response = self.request(Method::GET, &path).send().await.unwrap();
        response
            .error_for_status()
            .unwrap()
            .bytes()
            .await
            .unwrap()
            .to_vec()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        ok(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let request = self.request(Method::POST, path);
        ok(if body.is_null() {
            request
        } else {
            request.json(&body)
        })
        .await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Value {
        ok(self.request(Method::PATCH, path).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Value {
        ok(self.request(Method::DELETE, path)).await
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.app.address());
        self.client.request(method, url).bearer_auth(ADMIN_KEY)
    }
}

async fn ok(request: reqwest::RequestBuilder) -> Value {
    let response = request.send().await.unwrap();
    let status = response.status();
    let body = response.text().await.unwrap();
    assert!(status.is_success(), "{status}: {body}");
    if status == StatusCode::NO_CONTENT {
        return Value::Null;
    }
    serde_json::from_str(&body).unwrap()
}
