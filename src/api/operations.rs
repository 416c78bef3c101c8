//! Health, metrics, the OpenAPI document and its explorer. None needs a key.

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing,
};
use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::{ToSchema, openapi::OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{
    ApiState,
    etag::{Conditions, ETag},
    problem::Problem,
};

/// The explorer loads nothing from elsewhere, and calls nothing but this API.
const DOCS_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .routes(routes!(show_metrics))
}

/// The OpenAPI document, its explorer, and where people who open the address begin.
pub(super) fn pages(document: &OpenApi) -> Router<ApiState> {
    let json = Bytes::from(
        document
            .to_pretty_json()
            .expect("the document is plain data"),
    );
    let tag = ETag::from_digest(&Sha256::digest(&json));
    let serve_document = async move |conditions: Conditions| {
        conditions.not_modified(&tag).unwrap_or_else(|| {
            let content_type = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, content_type), tag.header()], json).into_response()
        })
    };
    // The badge of the validator would come from elsewhere.
    let config = Config::from("/openapi.json").validator_url("none");
    let docs = Router::from(SwaggerUi::new("/docs").config(config))
        .layer(middleware::from_fn(protect_docs));
    Router::new()
        .route("/openapi.json", routing::get(serve_document))
        .route("/", routing::get(async || Redirect::temporary("/docs/")))
        .merge(docs)
}

async fn protect_docs(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(DOCS_POLICY),
    );
    response
}

/// How popbridge is.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `ok`; anything else is a problem.
    status: &'static str,
}

/// Answers while the process does.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "operations",
    responses((status = 200, description = "It lives.", body = Health)),
)]
async fn livez() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Tells whether the database answers, and stored the mail that it was last given.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operations",
    responses(
        (status = 200, description = "Ready.", body = Health),
        (status = 503, description = "`database_unavailable`."),
    ),
)]
async fn readyz(State(state): State<ApiState>) -> Result<Json<Health>, Problem> {
    state.store.check().await?;
    Ok(Json(Health { status: "ok" }))
}

/// Metrics in the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    operation_id = "metrics",
    responses(
        (status = 200, description = "Metrics.", body = String, content_type = "text/plain"),
    ),
)]
async fn show_metrics(State(state): State<ApiState>) -> impl IntoResponse {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    (
        StatusCode::OK,
        [(header::CONTENT_TYPE, content_type)],
        state.metrics.render(),
    )
}
