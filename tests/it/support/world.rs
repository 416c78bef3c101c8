//! popbridge whole, with a real Dovecot.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
};

use popbridge::demo::{
    certificates::Certificates,
    dovecot::{Account, Dovecot},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::popbridge::Popbridge;

pub(crate) const USERNAME: &str = "anna";
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// Everything, running. Dropped parts stop in the order of the fields.
pub(crate) struct World {
    pub(crate) dovecot: Dovecot,
    pub(crate) certificates: Certificates,
    popbridge: Popbridge,
    _dir: TempDir,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with_certificates(Certificates::for_names(&["localhost"]).unwrap()).await
    }

    /// A world whose Dovecot has this certificate.
    pub(crate) async fn with_certificates(certificates: Certificates) -> Self {
        Self::with(certificates, |_| Vec::new()).await
    }

    /// A world whose Dovecot finds these files, of a name and a content each, in its directory.
    pub(crate) async fn with_dovecot_files(
        files: impl Fn(&Path) -> Vec<(&'static str, String)>,
    ) -> Self {
        Self::with(Certificates::for_names(&["localhost"]).unwrap(), files).await
    }

    async fn with(
        certificates: Certificates,
        files: impl Fn(&Path) -> Vec<(&'static str, String)>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let account = Account {
            username: USERNAME.into(),
            password: PASSWORD.into(),
        };
        for (name, content) in files(dir.path()) {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let dovecot = Dovecot::start(dir.path(), &[account], &certificates)
            .await
            .unwrap();
        Self {
            dovecot,
            certificates,
            popbridge: Popbridge::start().await,
            _dir: dir,
        }
    }

    pub(crate) async fn stop(self) {
        self.popbridge.stop().await;
    }

    /// A mailbox on the Dovecot, over implicit TLS; `settings` override.
    pub(crate) async fn create_mailbox(&self, settings: Value) -> String {
        let mut body = json!({
            "host": "localhost",
            "port": self.dovecot.pop3s().port(),
            "username": USERNAME,
            "password": PASSWORD,
            "tls_ca_pem": self.certificates.ca_pem,
            "poll_interval_seconds": 86400,
        });
        for (name, value) in settings.as_object().unwrap() {
            body[name] = value.clone();
        }
        // What is null is as good as absent.
        body.as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        let mailbox = self.post("/v1/mailboxes", body).await;
        mailbox["id"].as_str().unwrap().to_owned()
    }

    /// What is left in the maildrop.
    pub(crate) fn maildrop(&self) -> Vec<PathBuf> {
        let maildir = self.dovecot.maildir(USERNAME);
        let files = ["new", "cur"].map(|part| std::fs::read_dir(maildir.join(part)).unwrap());
        files
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

impl Deref for World {
    type Target = Popbridge;

    fn deref(&self) -> &Popbridge {
        &self.popbridge
    }
}
