//! Dovecot: a Maildir, and all that POP3 has.

use std::{fs, path::Path};

use popbridge::{
    demo::{
        certificates::Certificates,
        dovecot::{Account, Dovecot},
    },
    pop3::Tls,
};

use super::{
    server::{PASSWORD, Pop3Server, USERNAME},
    store,
    suite::interoperates,
};

interoperates!(
    Dovecot: implicit [user_pass, plain, apop],
    stls [user_pass, plain],
    plain_text [user_pass, plain, apop]
);

impl Pop3Server for Dovecot {
    /// Not unless asked to, by `pop3_lock_session`.
    const LOCKS: bool = false;

    const RESUMES_TLS: bool = true;

    async fn start(dir: &Path, certificates: &Certificates, messages: &[Vec<u8>]) -> Self {
        fs::write(dir.join("local.conf"), "auth_mechanisms = plain apop\n").unwrap();
        let account = Account {
            username: USERNAME.into(),
            password: PASSWORD.into(),
        };
        let dovecot = Self::start(dir, &[account], certificates).await.unwrap();
        for message in messages {
            dovecot.deliver(USERNAME, message).unwrap();
        }
        dovecot
    }

    fn port(&self, line: Tls) -> u16 {
        match line {
            Tls::Implicit => self.pop3s().port(),
            _ => self.pop3().port(),
        }
    }

    fn maildrop(&self) -> usize {
        store::count_maildir(&self.maildir(USERNAME))
    }

    fn sent(file: &[u8]) -> Vec<u8> {
        store::bare_lf_as_crlf(file)
    }
}
