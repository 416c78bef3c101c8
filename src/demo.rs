//! `popbridge demo`: the main job on this machine alone.
//!
//! A private Postgres, a real Dovecot with real-looking mail, popbridge, and a webhook receiver;
//! all in a temporary directory and on loopback. Everything goes through the public API, as a
//! user's own program would.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail, ensure};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};

use self::{
    certificates::Certificates,
    dovecot::{Account, Dovecot},
    receiver::{Received, Receiver},
};
use crate::{
    app::App,
    config::{Config, Database, Role, Settings},
    telemetry,
};

pub mod dovecot;
pub mod maildrop;
pub mod receiver;

pub use crate::certificates;

const USERNAME: &str = "demo";

/// Seconds between two looks at the maildrop.
const POLL_SECONDS: u64 = 2;

/// Time between two new messages.
const DELIVERY_INTERVAL: Duration = Duration::from_secs(4);

/// With `--once`, how long everything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// New messages that `--once` waits for.
const ONCE_DELIVERIES: usize = 3;

/// Runs the demo until `signal`; with `once`, until all that should arrive did.
///
/// # Errors
/// When something is not installed or, with `once`, did not arrive.
pub async fn run(
    settings: &Settings,
    once: bool,
    signal: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new()
        .prefix("popbridge-demo-")
        .tempdir()?;
    let mut demo = Demo::start(settings, dir.path()).await?;
    let result = tokio::select! {
        result = demo.play(once) => result,
        () = signal => Ok(()),
    };
    drop(demo.dovecot);
    demo.app.stop().await?;
    result
}

struct Demo {
    app: App,
    dovecot: Dovecot,
    certificates: Certificates,
    receiver: Receiver,
    client: reqwest::Client,
    key: SecretString,
    password: String,
}

impl Demo {
    async fn start(settings: &Settings, dir: &std::path::Path) -> anyhow::Result<Self> {
        say("Starting a private Postgres, Dovecot and popbridge …");
        let certificates = Certificates::for_names(&["localhost", "127.0.0.1", "::1"])?;
        let password = uuid::Uuid::new_v4().simple().to_string();
        let account = Account {
            username: USERNAME.to_owned(),
            password: password.clone(),
        };
        let dovecot_dir = dir.join("dovecot");
        std::fs::create_dir(&dovecot_dir)?;
        // Its unprivileged processes, and those of Postgres, pass through.
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        let dovecot = Dovecot::start(&dovecot_dir, &[account], &certificates).await?;
        for (_, octets) in maildrop::MESSAGES {
            dovecot.deliver(USERNAME, octets)?;
        }
        let receiver = Receiver::start().await?;
        let config = Config {
            database: Database::Private {
                data_dir: dir.join("data"),
                master_key: None,
                admin_key: None,
            },
            listen: free_address(settings.listen()).await?,
            migrate: true,
            sync_concurrency: 4,
            sync_concurrency_per_host: 4,
            memory_budget: 64 << 20,
            egress_allow: vec!["127.0.0.0/8".parse()?, "::1/128".parse()?],
            cors_origins: Vec::new(),
        };
        let app = App::start(config, Role::All, telemetry::start_metrics()?).await?;
        let key = app
            .admin_key()
            .context("a private Postgres comes with an admin key")?
            .clone();
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .build()?;
        Ok(Self {
            app,
            dovecot,
            certificates,
            receiver,
            client,
            key,
            password,
        })
    }

    async fn play(&mut self, once: bool) -> anyhow::Result<()> {
        let webhook = json!({ "url": self.receiver.url(), "events": ["message.received"] });
        let webhook = self.post("/v1/webhooks", &webhook).await?;
        self.receiver.set_secret(text(&webhook, "secret")?);
        let mailbox = json!({
            "name": "demo",
            "host": "localhost",
            "port": self.dovecot.pop3s().port(),
            "username": USERNAME,
            "password": self.password,
            "tls_ca_pem": self.certificates.ca_pem,
            "poll_interval_seconds": POLL_SECONDS,
        });
        let mailbox = self.post("/v1/mailboxes", &mailbox).await?;
        let id = text(&mailbox, "id")?.to_owned();
        self.await_backlog(&id).await?;
        if once {
            return self.check(&id).await;
        }
        self.show_how_to_look(&id);
        self.deliver_for_ever().await
    }

    async fn await_backlog(&self, id: &str) -> anyhow::Result<()> {
        let sync = self
            .post(&format!("/v1/mailboxes/{id}/sync?wait=30"), &Value::Null)
            .await?;
        let mailbox = self.get(&format!("/v1/mailboxes/{id}")).await?;
        let count = mailbox["message_count"].as_u64().unwrap_or_default();
        ensure!(
            count == maildrop::MESSAGES.len() as u64,
            "{count} of {} messages were stored: {sync} {mailbox}",
            maildrop::MESSAGES.len()
        );
        say(&format!("{count} messages fetched over TLS and stored."));
        Ok(())
    }

    fn show_how_to_look(&self, id: &str) {
        let (api, key) = (self.app.address(), self.key.expose_secret());
        say(&format!(
            "\nTry, in another terminal:\n\n  \
            KEY={key}\n  \
            MAILBOX={id}\n  \
            curl -s http://{api}/v1/mailboxes/$MAILBOX -H \"Authorization: Bearer $KEY\"\n  \
            curl -s http://{api}/v1/mailboxes/$MAILBOX/messages -H \"Authorization: Bearer $KEY\"\n  \
            curl -s http://{api}/v1/mailboxes/$MAILBOX/messages/latest -H \"Authorization: Bearer $KEY\"\n  \
            curl -s http://{api}/v1/webhooks -H \"Authorization: Bearer $KEY\"\n\n\
            All of the API: http://{api}/docs\n\n\
            A new message every {} s; Ctrl-C ends it and leaves nothing.\n",
            DELIVERY_INTERVAL.as_secs()
        ));
    }

    async fn deliver_for_ever(&mut self) -> anyhow::Result<()> {
        let mut due = Instant::now();
        for number in 1_u64.. {
            self.dovecot
                .deliver(USERNAME, maildrop::new_message(number).as_bytes())?;
            due += DELIVERY_INTERVAL;
            while let Ok(received) =
                timeout(due.duration_since(Instant::now()), self.receiver.next()).await
            {
                show(&received);
            }
        }
        Ok(())
    }

    /// Everything that should arrive does: each new message by one verified webhook, and in the
    /// list, whose raw octets are those of the maildrop.
    async fn check(&mut self, id: &str) -> anyhow::Result<()> {
        let mut waiting = Vec::new();
        for number in 1..=ONCE_DELIVERIES as u64 {
            let message = maildrop::new_message(number);
            self.dovecot.deliver(USERNAME, message.as_bytes())?;
            waiting.push(message);
        }
        let deadline = Instant::now() + PATIENCE;
        while !waiting.is_empty() {
            let received = tokio::time::timeout_at(deadline, self.receiver.next())
                .await
                .context("the webhooks did not arrive in time")?;
            show(&received);
            if let Err(reason) = &received.verified {
                bail!("a webhook's signature is wrong: {reason}");
            }
            let message = text(&received.event["data"], "message_id")?;
            let raw = self
                .raw(&format!("/v1/mailboxes/{id}/messages/{message}/raw"))
                .await?;
            let before = waiting.len();
            waiting.retain(|sent| sent.replace('\n', "\r\n").as_bytes() != raw);
            ensure!(
                waiting.len() + 1 == before,
                "message {message} was not sent, or came twice"
            );
        }
        let listed = self
            .get(&format!("/v1/mailboxes/{id}/messages?limit=500"))
            .await?;
        let listed = listed["items"].as_array().map_or(0, Vec::len);
        let expected = maildrop::MESSAGES.len() + ONCE_DELIVERIES;
        ensure!(
            listed == expected,
            "{listed} messages are listed, not {expected}"
        );
        say(&format!(
            "All {expected} messages are listed; all webhooks came and verified."
        ));
        Ok(())
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self
            .client
            .post(self.url(path))
            .bearer_auth(self.key.expose_secret());
        let request = if body.is_null() {
            request
        } else {
            request.json(body)
        };
        answer(request).await
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        answer(
            self.client
                .get(self.url(path))
                .bearer_auth(self.key.expose_secret()),
        )
        .await
    }

    async fn raw(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let request = self
            .client
            .get(self.url(path))
            .bearer_auth(self.key.expose_secret());
        Ok(request
            .send()
            .await?
            .error_for_status()?
            .bytes()
            .await?
            .to_vec())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.app.address())
    }
}

async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
    let response = request.send().await?;
    let (status, url) = (response.status(), response.url().clone());
    let body: Value = response.json().await?;
    ensure!(status.is_success(), "{url} answers {status}: {body}");
    Ok(body)
}

fn text<'a>(value: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    value[field]
        .as_str()
        .with_context(|| format!("no `{field}` in {value}"))
}

/// The wanted address, or a free port beside it when another program has that.
async fn free_address(wanted: SocketAddr) -> anyhow::Result<SocketAddr> {
    match TcpListener::bind(wanted).await {
        Ok(_) => Ok(wanted),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Ok(SocketAddr::new(wanted.ip(), 0))
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {wanted}")),
    }
}

fn show(received: &Received) {
    let data = &received.event["data"];
    let verdict = match &received.verified {
        Ok(()) => "verified".to_owned(),
        Err(reason) => format!("NOT VERIFIED ({reason})"),
    };
    say(&format!(
        "webhook {verdict}: {} {} from {}",
        received.event["type"].as_str().unwrap_or("?"),
        data["subject"],
        data["from"][0]["address"],
    ));
}

#[expect(clippy::print_stdout, reason = "a demo talks to its user")]
fn say(line: &str) {
    println!("{line}");
}
