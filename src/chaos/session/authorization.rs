//! AUTHORIZATION state (RFC 1939, section 4; RFC 2595; RFC 5034).

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use md5::{Digest, Md5};

use super::{Next, Session, transaction::Opened, unknown};
use crate::chaos::{Shared, Tls, command::Command, reply::Reply};

/// Refused logins after which the connection ends.
const MAX_LOGIN_FAILURES: u32 = 3;

impl Session<'_> {
    /// Answers a command of somebody who is not logged in.
    pub(super) fn authorize(&mut self, command: &Command) -> (Reply, Next) {
        let reply = match command.verb.as_str() {
            "STLS" if self.shared.tls == Tls::Starttls && !self.encrypted => {
                self.user = None;
                return (Reply::ok("begin TLS"), Next::Encrypt);
            }
            "USER" => {
                self.user = Some(command.argument.clone());
                Reply::ok("now the password")
            }
            "PASS" => match self.user.take() {
                None => Reply::err("USER comes first"),
                Some(user) => {
                    return self.log_in(
                        user == self.shared.user && command.argument == self.shared.password,
                    );
                }
            },
            "APOP" => return self.log_in(command.argument == self.apop()),
            "AUTH" => match command.argument.split_once(' ') {
                Some((mechanism, response)) if mechanism.eq_ignore_ascii_case("PLAIN") => {
                    return self.log_in(self.is_plain(response));
                }
                None if command.argument.eq_ignore_ascii_case("PLAIN") => {
                    self.sasl = true;
                    Reply::line("+ ".to_owned())
                }
                _ => Reply::err("no such mechanism"),
            },
            "STAT" | "LIST" | "UIDL" | "RETR" | "TOP" | "DELE" | "NOOP" | "RSET" => {
                Reply::err("log in first")
            }
            _ => unknown(),
        };
        (reply, Next::Command)
    }

    /// SASL PLAIN (RFC 4616): authorization identity, user and password.
    fn is_plain(&self, response: &str) -> bool {
        let Shared { user, password, .. } = self.shared;
        STANDARD.decode(response).is_ok_and(|response| {
            let mut parts = response.splitn(3, |octet| *octet == 0);
            let identity = parts.next().unwrap_or_default();
            (identity.is_empty() || identity == user.as_bytes())
                && parts.next() == Some(user.as_bytes())
                && parts.next() == Some(password.as_bytes())
        })
    }

    fn apop(&self) -> String {
        let digest = Md5::new()
            .chain_update(&self.timestamp)
            .chain_update(&self.shared.password)
            .finalize();
        let digest: String = digest.iter().map(|octet| format!("{octet:02x}")).collect();
        format!("{} {digest}", self.shared.user)
    }

    fn log_in(&mut self, right: bool) -> (Reply, Next) {
        if !right {
            self.login_failures += 1;
            let next = if self.login_failures >= MAX_LOGIN_FAILURES {
                Next::Close
            } else {
                Next::Command
            };
            return (Reply::err("[AUTH] wrong user name or password"), next);
        }
        let lingers = self.faults.lock_lingers.map(Duration::from_secs);
        let Some(lock) = self.shared.maildrop.lock(lingers) else {
            let reply = Reply::err("[IN-USE] another session has the maildrop");
            return (reply, Next::Command);
        };
        let shown = self.faults.list_at_most.unwrap_or(usize::MAX);
        let messages = self.shared.maildrop.messages();
        let open = Opened::new(messages.into_iter().take(shown), lock);
        let reply = Reply::ok(&format!("{} messages", open.len()));
        self.maildrop = Some(open);
        (reply, Next::Command)
    }
}
