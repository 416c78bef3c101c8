//! What surrounds every route: request ids, the log, metrics, CORS, limits, and the writing out of
//! problems.

use std::{any::Any, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::CorsLayer,
    limit::RequestBodyLimitLayer,
    request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    timeout::TimeoutLayer,
    trace::TraceLayer,
};
use tracing::Span;
use uuid::Uuid;

use super::problem::Problem;

/// Octets of a request body.
pub(super) const MAX_BODY: usize = 256 << 10;

/// How long a request may take,
const DEADLINE: Duration = Duration::from_secs(30);

/// and one that waits for something first.
const WAITING_DEADLINE: Duration = Duration::from_secs(90);

/// How long browsers keep the answer to a preflight request.
const CORS_MAX_AGE: Duration = Duration::from_secs(3600);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Characters of a request id that a client may choose.
const MAX_REQUEST_ID: usize = 64;

/// The deadline of routes that answer at once.
pub(super) fn deadline() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, DEADLINE)
}

/// The deadline of routes that wait, by then longer than they were asked to.
pub(super) fn waiting_deadline() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, WAITING_DEADLINE)
}

/// Puts everything around `router` that is the same for all routes.
pub(super) fn surround(router: Router, cors_origins: &[HeaderValue]) -> Router {
    let trace = TraceLayer::new_for_http()
        .make_span_with(span)
        .on_request(())
        .on_response(log_response)
        .on_failure(());
    // The last is the outermost.
    let mut router = router
        .layer(RequestBodyLimitLayer::new(MAX_BODY))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(write_out));
    if !cors_origins.is_empty() {
        router = router.layer(cors(cors_origins));
    }
    router
        .layer(middleware::from_fn(measure))
        .layer(trace)
        .layer(PropagateRequestIdLayer::new(X_REQUEST_ID))
        .layer(SetRequestIdLayer::new(X_REQUEST_ID, NewRequestId))
        .layer(middleware::map_request(drop_odd_request_id))
}

fn cors(origins: &[HeaderValue]) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(origins.to_vec())
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            X_REQUEST_ID,
        ])
        .expose_headers([
            header::CONTENT_DISPOSITION,
            header::ETAG,
            header::LOCATION,
            header::RETRY_AFTER,
            X_REQUEST_ID,
        ])
        .max_age(CORS_MAX_AGE)
}

#[derive(Clone, Copy)]
struct NewRequestId;

impl MakeRequestId for NewRequestId {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        let id = HeaderValue::try_from(Uuid::now_v7().to_string());
        Some(RequestId::new(id.expect("a UUID is visible ASCII")))
    }
}

/// Request ids of clients go to the log and into replies: only short and plain ones are taken.
async fn drop_odd_request_id(mut request: Request) -> Request {
    let plain = |id: &HeaderValue| {
        let id = id.as_bytes();
        let plain = |c: &u8| c.is_ascii_alphanumeric() || b"-_.".contains(c);
        (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(plain)
    };
    if !request.headers().get(X_REQUEST_ID).is_some_and(plain) {
        request.headers_mut().remove(X_REQUEST_ID);
    }
    request
}

fn span(request: &Request) -> Span {
    tracing::info_span!(
        "request",
        id = request_id(request),
        method = %request.method(),
        route = route(request),
    )
}

fn log_response(response: &Response, elapsed: Duration, _: &Span) {
    tracing::debug!(
        status = response.status().as_u16(),
        elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        "answered"
    );
}

fn request_id(request: &Request) -> &str {
    request
        .extensions()
        .get::<RequestId>()
        .and_then(|id| id.header_value().to_str().ok())
        .unwrap_or_default()
}

/// The route as it was registered, so that there are only so many.
fn route(request: &Request) -> &str {
    request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or_default();
    tracing::error!(message, "a handler panicked");
    Problem::internal().into_response()
}

/// Counts requests and their seconds by method, route and status class.
async fn measure(request: Request, next: Next) -> Response {
    let started = std::time::Instant::now();
    let route = route(&request).to_owned();
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PATCH" | "DELETE" | "OPTIONS") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let response = next.run(request).await;
    let class = format!("{}xx", response.status().as_u16() / 100);
    let labels = [("method", method), ("route", route), ("status", class)];
    metrics::counter!("popbridge_http_requests_total", &labels).increment(1);
    metrics::histogram!("popbridge_http_request_duration_seconds", &labels)
        .record(started.elapsed());
    response
}

/// Says what the metrics of this module mean.
pub(super) fn describe_metrics() {
    metrics::describe_counter!("popbridge_http_requests_total", "HTTP requests answered");
    metrics::describe_histogram!(
        "popbridge_http_request_duration_seconds",
        metrics::Unit::Seconds,
        "Seconds until the head of the response was ready"
    );
}

/// Writes problems out, and logs their causes: nowhere else is a failed request logged. An error
/// that a library answered becomes a problem too.
async fn write_out(request: Request, next: Next) -> Response {
    let instance = request_id(&request).to_owned();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("private, no-cache"));
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    let problem = parts
        .extensions
        .remove::<Problem>()
        .unwrap_or_else(|| Problem::from_status(status));
    match problem.cause() {
        // Told of once for all requests.
        Some(cause) if cause.is_unavailable() => {
            tracing::debug!(error = %cause, code = ?problem.code(), "a request failed");
        }
        Some(cause) => tracing::error!(error = %cause, code = ?problem.code(), "a request failed"),
        None => {}
    }
    parts.status = problem.status();
    let head = problem.clone().into_response().into_parts().0;
    carry_over(&mut parts.headers, head.headers);
    let document = problem.into_document(instance);
    let body = serde_json::to_vec(&document).expect("a problem is plain data");
    Response::from_parts(parts, Body::from(body))
}

fn carry_over(headers: &mut HeaderMap, of_problem: HeaderMap) {
    headers.remove(header::CONTENT_LENGTH);
    headers.extend(of_problem);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use axum::routing;
    use serde_json::Value;

    use super::*;

    async fn answer(router: Router, path: &str) -> (u16, Value) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{path}", listener.local_addr().unwrap());
        let server = tokio::spawn(async { axum::serve(listener, router).await });
        let response = client().get(url).send().await.unwrap();
        let status = response.status().as_u16();
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let id = response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["instance"], id);
        server.abort();
        (status, problem)
    }

    fn client() -> reqwest::Client {
        // Fails where another test of this process was first.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        reqwest::Client::builder().no_proxy().build().unwrap()
    }

    #[tokio::test]
    async fn panic_is_an_opaque_problem() {
        async fn panics() -> &'static str {
            panic!("secret")
        }
        let router = Router::new().route("/", routing::get(panics));

        let (status, problem) = answer(surround(router, &[]), "/").await;

        assert_eq!(status, 500);
        assert_eq!(problem["code"], "internal_error");
        assert!(!problem.to_string().contains("secret"));
    }

    #[tokio::test]
    async fn late_answer_is_a_problem() {
        let at_once =
            TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, Duration::ZERO);
        let router = Router::new()
            .route("/", routing::get(std::future::pending::<&'static str>))
            .layer(at_once);

        let (status, problem) = answer(surround(router, &[]), "/").await;

        assert_eq!(status, 503);
        assert_eq!(problem["code"], "request_timeout");
    }
}
