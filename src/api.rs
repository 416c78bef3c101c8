//! The HTTP API: a file a resource, over the store.
//!
//! A request passes `layers`, then the extractors of its handler: access first (`access`),
//! then path, query and body (`extract`). Whatever goes wrong is a `problem`.
#![expect(unused_qualifications, reason = "the macros of utoipa write them")]

use std::sync::Arc;

use axum::{Router, http::HeaderValue};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    check,
    pop3::Connector,
    store::{Store, wakeups::Wakeups},
};

mod access;
mod document;
mod etag;
mod extract;
pub mod keys;
mod layers;
mod mailboxes;
mod messages;
mod operations;
mod page;
pub mod problem;
mod syncs;
mod webhooks;

/// What handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    store: Store,
    wakeups: Wakeups,
    admin_key_hash: Option<[u8; 32]>,
    metrics: PrometheusHandle,
    connector: Connector,
    verifications: Arc<Semaphore>,
    parsers: Arc<Semaphore>,
}

impl ApiState {
    /// State over `store`. `admin_key` has every scope; the metrics shown are those of `metrics`;
    /// servers are verified by `connector`.
    pub fn new(
        store: Store,
        wakeups: Wakeups,
        admin_key: Option<&SecretString>,
        metrics: PrometheusHandle,
        connector: &Connector,
    ) -> Self {
        layers::describe_metrics();
        Self {
            store,
            wakeups,
            admin_key_hash: admin_key.map(|key| keys::hash(key.expose_secret())),
            metrics,
            connector: connector.with_deadlines(check::DEADLINES),
            verifications: Arc::new(Semaphore::new(mailboxes::VERIFICATIONS)),
            parsers: Arc::new(Semaphore::new(messages::PARSERS)),
        }
    }
}

impl std::fmt::Debug for ApiState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiState")
    }
}

/// The whole API. Browsers may call it from `cors_origins`.
pub fn router(state: ApiState, cors_origins: &[HeaderValue]) -> Router {
    let (routes, _) = documented().split_for_parts();
    let router = routes.merge(operations::pages(&openapi()));
    layers::surround(router.with_state(state), cors_origins)
}

/// Health and metrics alone, for a process that serves no API.
pub fn operations_router(state: ApiState) -> Router {
    let (routes, _) = operations::routes().split_for_parts();
    layers::surround(routes.with_state(state), &[])
}

/// The OpenAPI 3.1 document of the API.
pub fn openapi() -> utoipa::openapi::OpenApi {
    document::complete(documented().into_openapi())
}

fn documented() -> OpenApiRouter<ApiState> {
    let prompt = OpenApiRouter::with_openapi(document::base())
        .merge(mailboxes::routes())
        .merge(syncs::routes())
        .merge(messages::routes())
        .merge(webhooks::routes())
        .merge(operations::routes())
        .layer(layers::deadline());
    let waiting = syncs::waiting_routes().merge(mailboxes::waiting_routes());
    prompt.merge(waiting.layer(layers::waiting_deadline()))
}
