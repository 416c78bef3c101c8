//! The token endpoint: refreshing an access token (RFC 6749, section 6).

use std::time::Duration;

use reqwest::{
    Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;
use url::{Host, Url, form_urlencoded};

use super::error::{Error, Refusal};
use crate::{
    egress::{
        Egress,
        http::{self, ClientError},
    },
    store::credentials::Grant,
};

/// Time for name lookup, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a whole exchange.
const DEADLINE: Duration = Duration::from_secs(10);

/// Octets of an answer.
const MAX_ANSWER: usize = 64 * 1024;

/// Refreshes are rare.
const IDLE_CONNECTIONS: usize = 1;

/// Life of an access token whose answer does not tell it.
const DEFAULT_LIFE: Duration = Duration::from_secs(5 * 60);

/// Longer lives are not believed.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Characters of what an endpoint says that are shown.
const MAX_SHOWN: usize = 256;

/// Speaks to token endpoints.
#[derive(Debug)]
pub(super) struct TokenEndpoint {
    http: http::Client,
}

/// What a refresh gave.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) access_token: SecretString,
    pub(super) expires_in: Duration,
    /// To be used instead of the old one from now on.
    pub(super) refresh_token: Option<SecretString>,
}

impl TokenEndpoint {
    pub(super) fn new(egress: Egress) -> Result<Self, ClientError> {
        let http = http::Client::new(egress, CONNECT_TIMEOUT, IDLE_CONNECTIONS)?;
        Ok(Self { http })
    }

    /// Asks once for a new access token.
    pub(super) async fn refresh(&self, grant: &Grant) -> Result<Answer, Error> {
        // What is no URL at all the client says in its own words.
        if Url::parse(&grant.token_url).is_ok_and(|url| !is_secure(&url)) {
            return Err(Error::Insecure);
        }
        let request = self
            .http
            .post(&grant.token_url)
            .map_err(Error::Http)?
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(form(grant));
        let exchange = async {
            let mut response = request.send().await.map_err(|e| self.failed(e))?;
            let body = self.read(&mut response).await?;
            understand(response.status(), &body, grant)
        };
        timeout(DEADLINE, exchange)
            .await
            .unwrap_or(Err(Error::Timeout(DEADLINE)))
    }

    async fn read(&self, response: &mut Response) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.failed(e))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                let told = format!("its answer is longer than {MAX_ANSWER} octets");
                return Err(Error::NotAnEndpoint(told));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn failed(&self, error: reqwest::Error) -> Error {
        Error::Http(self.http.failure(error))
    }
}

/// Whether secrets may go to this token endpoint: by TLS, or to an address of this machine. Whether
/// that may be reached at all is the egress policy's to say.
#[must_use]
pub fn is_secure(token_url: &Url) -> bool {
    let loopback = match token_url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match token_url.scheme() {
        "https" => true,
        "http" => loopback,
        _ => false,
    }
}

/// The client's secret goes in the body, as Google and Microsoft document it.
fn form(grant: &Grant) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token")
        .append_pair("refresh_token", grant.refresh_token.expose_secret())
        .append_pair("client_id", &grant.client_id);
    if let Some(secret) = &grant.client_secret {
        form.append_pair("client_secret", secret.expose_secret());
    }
    if let Some(scope) = &grant.scope {
        form.append_pair("scope", scope);
    }
    form.finish()
}

/// What token endpoints send, in success and in failure.
#[derive(Default, Deserialize)]
struct Body {
    access_token: Option<String>,
    token_type: Option<String>,
    /// Seconds: a number, or with some servers a string.
    expires_in: Option<Value>,
    refresh_token: Option<String>,
    error: Option<Value>,
    error_description: Option<Value>,
}

fn understand(status: StatusCode, body: &[u8], grant: &Grant) -> Result<Answer, Error> {
    let body = serde_json::from_slice::<Body>(body);
    match body {
        // Some servers tell of errors with a status of success.
        Ok(body) if body.error.is_some() => Err(refused(status, &body, grant)),
        _ if is_passing(status) => Err(Error::Unavailable(by_status(status))),
        Ok(body) if status.is_success() => granted(body),
        _ => Err(Error::NotAnEndpoint(match status.as_u16() {
            200..=299 => "its answer is no JSON of OAuth 2.0; check token_url".to_owned(),
            300..=399 => format!("{status}; redirects are not followed, check token_url"),
            _ => format!("{status}; check token_url"),
        })),
    }
}

fn granted(body: Body) -> Result<Answer, Error> {
    let access_token = match body.access_token {
        Some(token) if !token.is_empty() => token,
        _ => {
            return Err(Error::NotAnEndpoint(
                "its answer has no access_token".into(),
            ));
        }
    };
    if let Some(kind) = body.token_type
        && !kind.eq_ignore_ascii_case("bearer")
    {
        let told = "the access token is not a bearer token".to_owned();
        return Err(Error::NotAnEndpoint(told));
    }
    Ok(Answer {
        access_token: access_token.into(),
        expires_in: life(body.expires_in.as_ref()),
        refresh_token: body
            .refresh_token
            .filter(|token| !token.is_empty())
            .map(SecretString::from),
    })
}

fn life(expires_in: Option<&Value>) -> Duration {
    let seconds = match expires_in {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    match seconds {
        None => DEFAULT_LIFE,
        Some(seconds) => {
            let longest = LONGEST_LIFE.as_secs_f64();
            // What is not a number is no life at all.
            Duration::try_from_secs_f64(seconds.clamp(0.0, longest)).unwrap_or_default()
        }
    }
}

fn refused(status: StatusCode, body: &Body, grant: &Grant) -> Error {
    let shown = |value: Option<&Value>| {
        let text = match value {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        printable(&without_secrets(&text, grant))
    };
    let refusal = Refusal {
        error: shown(body.error.as_ref()),
        description: shown(body.error_description.as_ref()),
    };
    match refusal.error.as_str() {
        "temporarily_unavailable" | "server_error" | "slow_down" => Error::Unavailable(refusal),
        _ if is_passing(status) => Error::Unavailable(refusal),
        "invalid_grant" | "interaction_required" => Error::ConsentNeeded(refusal),
        "invalid_client" | "unauthorized_client" => Error::ClientRefused(refusal),
        "invalid_scope" => Error::ScopeRefused(refusal),
        _ => Error::Refused(refusal),
    }
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
}

fn by_status(status: StatusCode) -> Refusal {
    Refusal {
        error: status.to_string(),
        description: String::new(),
    }
}

/// Some servers repeat what they did not like.
fn without_secrets(text: &str, grant: &Grant) -> String {
    let secrets = [Some(&grant.refresh_token), grant.client_secret.as_ref()];
    let secrets = secrets
        .into_iter()
        .flatten()
        .map(SecretString::expose_secret);
    secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

fn printable(text: &str) -> String {
    let shown: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_SHOWN)
        .collect();
    shown.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(token_url: &str) -> Grant {
        Grant {
            token_url: token_url.into(),
            client_id: "the client".into(),
            client_secret: Some("the+secret".into()),
            refresh_token: "the/refresh&token".into(),
            scope: Some("https://mail.google.com/ more".into()),
        }
    }

    fn answer(status: u16, body: &str) -> Result<Answer, Error> {
        let status = StatusCode::from_u16(status).unwrap();
        understand(status, body.as_bytes(), &grant("https://example.com/"))
    }

    #[test]
    fn a_request_is_a_form_of_what_is_there() {
        let mut grant = grant("https://example.com/");
        assert_eq!(
            form(&grant),
            "grant_type=refresh_token&refresh_token=the%2Frefresh%26token&client_id=the+client\
             &client_secret=the%2Bsecret&scope=https%3A%2F%2Fmail.google.com%2F+more"
        );
        (grant.client_secret, grant.scope) = (None, None);
        assert_eq!(
            form(&grant),
            "grant_type=refresh_token&refresh_token=the%2Frefresh%26token&client_id=the+client"
        );
    }

    #[test]
    fn only_loopback_goes_without_tls() {
        for (url, secure) in [
            ("https://login.example.com/token", true),
            ("http://localhost:8080/token", true),
            ("http://127.0.0.1/token", true),
            ("http://[::1]/token", true),
            ("http://login.example.com/token", false),
            ("http://10.0.0.1/token", false),
            ("http://localhost.example.com/", false),
            ("HTTP://example.com/", false),
            ("ftp://localhost/", false),
        ] {
            let parsed = Url::parse(url).unwrap();
            assert_eq!(is_secure(&parsed), secure, "{url}");
        }
    }

    #[test]
    fn life_is_told_in_seconds_or_is_five_minutes() {
        for (body, seconds) in [
            (r#"{"access_token":"t","expires_in":3599}"#, 3599),
            (r#"{"access_token":"t","expires_in":"3599"}"#, 3599),
            (r#"{"access_token":"t"}"#, 300),
            (r#"{"access_token":"t","expires_in":null}"#, 300),
            (r#"{"access_token":"t","expires_in":"soon"}"#, 300),
            (r#"{"access_token":"t","expires_in":-5}"#, 0),
            (r#"{"access_token":"t","expires_in":1e300}"#, 86_400),
            (r#"{"access_token":"t","expires_in":"NaN"}"#, 0),
        ] {
            let found = answer(200, body).unwrap();
            assert_eq!(found.expires_in.as_secs(), seconds, "{body}");
        }
    }

    #[test]
    fn a_new_refresh_token_is_taken_where_there_is_one() {
        let rotated = |body| answer(200, body).unwrap().refresh_token;
        assert!(rotated(r#"{"access_token":"t","token_type":"BEARER"}"#).is_none());
        assert!(rotated(r#"{"access_token":"t","refresh_token":""}"#).is_none());
        let rotated = rotated(r#"{"access_token":"t","refresh_token":"new"}"#).unwrap();
        assert_eq!(rotated.expose_secret(), "new");
    }

    #[test]
    fn errors_have_codes_and_say_what_to_change() {
        for (status, body, code, advice) in [
            (
                400,
                r#"{"error":"invalid_grant"}"#,
                "oauth_refused",
                "consent again",
            ),
            (
                400,
                r#"{"error":"interaction_required"}"#,
                "oauth_refused",
                "consent again",
            ),
            (
                401,
                r#"{"error":"invalid_client"}"#,
                "oauth_refused",
                "client_secret",
            ),
            (
                400,
                r#"{"error":"unauthorized_client"}"#,
                "oauth_refused",
                "client_id",
            ),
            (
                400,
                r#"{"error":"invalid_scope"}"#,
                "oauth_refused",
                "scope",
            ),
            (
                400,
                r#"{"error":"invalid_request"}"#,
                "oauth_refused",
                "check oauth2",
            ),
            (
                400,
                r#"{"error":{"code":7}}"#,
                "oauth_refused",
                "check oauth2",
            ),
            (
                200,
                r#"{"error":"invalid_grant"}"#,
                "oauth_refused",
                "consent again",
            ),
            (
                503,
                r#"{"error":"invalid_grant"}"#,
                "oauth_unreachable",
                "tried again",
            ),
            (
                400,
                r#"{"error":"temporarily_unavailable"}"#,
                "oauth_unreachable",
                "tried again",
            ),
            (429, "slow down", "oauth_unreachable", "tried again"),
            (500, "<html>", "oauth_unreachable", "tried again"),
            (404, "<html>", "oauth_unreachable", "check token_url"),
            (302, "", "oauth_unreachable", "redirects are not followed"),
            (200, "<html>", "oauth_unreachable", "check token_url"),
            (200, "{}", "oauth_unreachable", "no access_token"),
            (
                200,
                r#"{"access_token":""}"#,
                "oauth_unreachable",
                "no access_token",
            ),
            (
                200,
                r#"{"access_token":"t","token_type":"mac"}"#,
                "oauth_unreachable",
                "bearer",
            ),
        ] {
            let error = answer(status, body).unwrap_err();
            assert_eq!(error.code(), code, "{status} {body}");
            assert!(error.to_string().contains(advice), "{error}");
        }
    }

    #[test]
    fn what_an_endpoint_repeats_shows_no_secret() {
        let body = serde_json::json!({
            "error": "invalid_grant",
            "error_description":
                format!("no the/refresh&token of the+secret\u{1b}{}", "x".repeat(9000)),
        });
        let told = answer(400, &body.to_string()).unwrap_err().to_string();
        assert!(told.contains("invalid_grant: no *** of *** xxx"), "{told}");
        assert!(told.chars().count() < 500, "{}", told.len());
    }
}
