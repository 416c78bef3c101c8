//! The program itself, as a process that can be killed.

use std::{
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::LazyLock,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use popbridge::store::MasterKey;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{eventually, eventually_within};

const ADMIN_KEY: &str = "an admin key for tests only";

/// What the contract allows a stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A running `popbridge serve`; killed when dropped.
pub(crate) struct Program {
    child: Child,
    client: reqwest::Client,
    url: String,
}

impl Program {
    /// Starts with the private Postgres of a data directory.
    pub(crate) async fn private(data_dir: &Path) -> Self {
        Self::start_logging(data_dir, "warn", Stdio::inherit()).await
    }

    /// Starts with this log filter, and logs to there.
    pub(crate) async fn start_logging(data_dir: &Path, filter: &str, log: Stdio) -> Self {
        let settings = [
            ("POPBRIDGE_DATA_DIR", data_dir.to_str().unwrap()),
            ("POPBRIDGE_LOG", filter),
        ];
        Self::start(&settings, log).await
    }

    /// Starts over somebody else's Postgres.
    pub(crate) async fn over(database_url: &str, settings: &[(&str, &str)], log: Stdio) -> Self {
        // One for all programs of a test, which may follow each other over the same Postgres.
        static MASTER_KEY: LazyLock<SecretString> = LazyLock::new(MasterKey::generate);
        let mut all = vec![
            ("DATABASE_URL", database_url),
            ("POPBRIDGE_MASTER_KEY", MASTER_KEY.expose_secret()),
            ("POPBRIDGE_LOG", "warn"),
        ];
        all.extend(settings);
        Self::start(&all, log).await
    }

    async fn start(settings: &[(&str, &str)], log: Stdio) -> Self {
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        // Fails where the test has done so.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_popbridge"))
            .env_remove("DATABASE_URL")
            .env("POPBRIDGE_LISTEN", address.to_string())
            .env("POPBRIDGE_ADMIN_KEY", ADMIN_KEY)
            .env("POPBRIDGE_EGRESS_ALLOW", "127.0.0.0/8")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let program = Self {
            child,
            client,
            url: format!("http://{address}"),
        };
        eventually("popbridge is ready", async || {
            (program.readiness().await? == 200).then_some(())
        })
        .await;
        program
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let request = self
            .client
            .post(format!("{}{path}", self.url))
            .bearer_auth(ADMIN_KEY);
        let answer = request
            .json(&body)
            .send()
            .await
            .unwrap()
            .error_for_status()
            .unwrap();
        answer.json().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.try_get(path).await.expect("popbridge answers")
    }

    /// `None` where the answer is an error.
    pub(crate) async fn try_get(&self, path: &str) -> Option<Value> {
        let request = self
            .client
            .get(format!("{}{path}", self.url))
            .bearer_auth(ADMIN_KEY);
        let answer = request.send().await.ok()?.error_for_status().ok()?;
        answer.json().await.ok()
    }

    /// The status of `/readyz`; `None` while nothing answers there.
    pub(crate) async fn readiness(&self) -> Option<u16> {
        let answer = self.client.get(format!("{}/readyz", self.url)).send().await;
        Some(answer.ok()?.status().as_u16())
    }

    /// The value of a metric without labels.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let answer = self.client.get(format!("{}/metrics", self.url)).send();
        let text = answer.await.ok()?.text().await.ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line?.trim().parse().ok()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it by SIGTERM, which ends it in good order and in time.
    pub(crate) async fn terminate(mut self) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        let status: ExitStatus = eventually_within(STOP_LIMIT, "the program ends", async || {
            self.child.try_wait().unwrap()
        })
        .await;
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
