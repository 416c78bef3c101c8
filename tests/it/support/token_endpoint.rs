//! A token endpoint of OAuth 2.0 over real HTTP: it gives a new refresh token with each access token
//! and takes none twice. POP3 servers can ask it about access tokens.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use popbridge::store::credentials::{Credential, Grant};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinHandle,
};

type Fields = HashMap<String, String>;

/// A running token endpoint; stops when dropped.
pub(crate) struct TokenEndpoint {
    origin: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    books: Mutex<Books>,
    /// Answers wait here.
    gate: Semaphore,
    asked: watch::Sender<usize>,
}

/// What it knows.
struct Books {
    /// Whose tokens they are.
    username: String,
    /// The one refresh token that it takes.
    refresh_token: String,
    used_refresh_tokens: Vec<String>,
    access_tokens: Vec<String>,
    /// Old refresh tokens that came again.
    reused: usize,
    expires_in: Value,
    token_octets: usize,
    instead: Option<(StatusCode, String)>,
}

/// As many as nobody waits for.
const OPEN: usize = 1000;

impl TokenEndpoint {
    /// For the tokens of this user.
    pub(crate) async fn start(username: &str) -> Self {
        let shared = Arc::new(Shared {
            books: Mutex::new(Books {
                username: username.to_owned(),
                refresh_token: "refresh-0".to_owned(),
                used_refresh_tokens: Vec::new(),
                access_tokens: Vec::new(),
                reused: 0,
                expires_in: json!(3600),
                token_octets: 0,
                instead: None,
            }),
            gate: Semaphore::new(OPEN),
            asked: watch::Sender::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/token", post(token))
            .route("/introspect", post(introspect))
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            origin,
            shared,
            task,
        }
    }

    pub(crate) fn introspection_url(&self) -> String {
        format!("{}/introspect", self.origin)
    }

    /// What the API takes as `oauth2`, with the refresh token that is good now.
    pub(crate) fn oauth2(&self) -> Value {
        json!({
            "token_url": format!("{}/token", self.origin),
            "client_id": "popbridge",
            "client_secret": "client-s3cret",
            "refresh_token": self.refresh_token(),
            "scope": "mail",
        })
    }

    /// The same for the store.
    pub(crate) fn credential(&self) -> Credential {
        Credential::OAuth2(Grant {
            token_url: format!("{}/token", self.origin),
            client_id: "popbridge".to_owned(),
            client_secret: Some("client-s3cret".into()),
            refresh_token: self.refresh_token().into(),
            scope: Some("mail".to_owned()),
        })
    }

    /// The refresh token that is good now.
    pub(crate) fn refresh_token(&self) -> String {
        self.books().refresh_token.clone()
    }

    /// Access tokens given, the newest last.
    pub(crate) fn access_tokens(&self) -> Vec<String> {
        self.books().access_tokens.clone()
    }

    /// Refresh tokens that came again although they had been replaced.
    pub(crate) fn reused(&self) -> usize {
        self.books().reused
    }

    /// Requests so far.
    pub(crate) fn asked(&self) -> usize {
        *self.shared.asked.borrow()
    }

    /// What it says access tokens live, in seconds; null: nothing.
    pub(crate) fn set_expires_in(&self, seconds: Value) {
        self.books().expires_in = seconds;
    }

    /// How long access tokens are at least.
    pub(crate) fn set_token_octets(&self, octets: usize) {
        self.books().token_octets = octets;
    }

    /// Answers like this from now on, or again as it should.
    pub(crate) fn answer_instead(&self, answer: Option<(u16, &str)>) {
        self.books().instead =
            answer.map(|(status, body)| (StatusCode::from_u16(status).unwrap(), body.to_owned()));
    }

    /// Says of all access tokens so far that they are good no more.
    pub(crate) fn revoke_access_tokens(&self) {
        for token in &mut self.books().access_tokens {
            token.insert_str(0, "revoked-");
        }
    }

    /// Keeps answers back, though what they tell of is done, until [`Self::open`].
    pub(crate) fn hold(&self) {
        self.shared.gate.forget_permits(OPEN);
    }

    /// Lets answers go.
    pub(crate) fn open(&self) {
        self.shared.gate.add_permits(OPEN);
    }

    /// Waits until that many requests came.
    pub(crate) async fn was_asked(&self, times: usize) {
        let mut asked = self.shared.asked.subscribe();
        asked.wait_for(|asked| *asked >= times).await.unwrap();
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.shared.books.lock().unwrap()
    }
}

impl Drop for TokenEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// RFC 6749, section 6.
async fn token(State(shared): State<Arc<Shared>>, body: String) -> Response {
    let answer = refresh(&mut shared.books.lock().unwrap(), &fields(&body));
    shared.asked.send_modify(|asked| *asked += 1);
    drop(shared.gate.acquire().await.unwrap());
    answer
}

fn refresh(books: &mut Books, form: &Fields) -> Response {
    if let Some((status, body)) = &books.instead {
        return (*status, body.clone()).into_response();
    }
    let refused = |error: &str| {
        let body = json!({ "error": error, "error_description": "Bad Request" });
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    };
    let is = |field: &str, value: &str| form.get(field).is_some_and(|found| found == value);
    if !is("grant_type", "refresh_token") {
        return refused("unsupported_grant_type");
    }
    if !is("client_id", "popbridge") || !is("client_secret", "client-s3cret") {
        return refused("invalid_client");
    }
    if !is("scope", "mail") {
        return refused("invalid_scope");
    }
    if !is("refresh_token", &books.refresh_token) {
        let used = |old: &String| is("refresh_token", old);
        books.reused += usize::from(books.used_refresh_tokens.iter().any(used));
        return refused("invalid_grant");
    }
    let number = books.access_tokens.len() + 1;
    let used = std::mem::replace(&mut books.refresh_token, format!("refresh-{number}"));
    books.used_refresh_tokens.push(used);
    let name = format!("access-{number}.");
    let token = format!("{name:a<width$}", width = books.token_octets);
    books.access_tokens.push(token.clone());
    Json(json!({
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": books.expires_in,
        "refresh_token": books.refresh_token,
        "scope": "mail",
    }))
    .into_response()
}

/// RFC 7662.
async fn introspect(State(shared): State<Arc<Shared>>, body: String) -> Json<Value> {
    let books = shared.books.lock().unwrap();
    let good = fields(&body)
        .get("token")
        .is_some_and(|token| books.access_tokens.contains(token));
    Json(if good {
        json!({ "active": true, "username": books.username, "scope": "mail" })
    } else {
        json!({ "active": false })
    })
}

fn fields(form: &str) -> Fields {
    url::form_urlencoded::parse(form.as_bytes())
        .into_owned()
        .collect()
}
