//! Courier: a Maildir, SASL PLAIN, and TLS of its own.

use std::{fs, path::Path, process::Child};

use popbridge::{demo::certificates::Certificates, pop3::Tls};

use super::{
    inetd::Inetd,
    machine::{self, Machine},
    server::{Pop3Server, USERNAME},
    store,
    suite::interoperates,
};
use crate::support::eventually;

interoperates!(
    Courier: implicit [user_pass, plain],
    stls [user_pass, plain],
    plain_text [user_pass, plain]
);

const AUTHENTICATION: &str = "set -a; . /etc/courier/authdaemonrc; \
    exec /usr/lib/courier/courier-authlib/authdaemond";

/// What its own super-server would tell the others.
const PEER: &str = "set -a; . /etc/courier/pop3d; . /etc/courier/pop3d-ssl; \
    TCPLOCALIP=127.0.0.1 TCPLOCALPORT=110 TCPREMOTEIP=127.0.0.1 TCPREMOTEPORT=1024";

/// As in its own start scripts.
const PLAIN_TEXT: &str = "exec $lib/courierpop3login $lib/courierpop3d Maildir";
const IMPLICIT: &str = "POP3_TLS=1 POP3_STARTTLS=NO; \
    exec couriertls -server -tcpd -user=courier $lib/courierpop3login $lib/courierpop3d Maildir";

struct Courier {
    implicit: Inetd,
    plain_text: Inetd,
    machine: Machine,
    /// Ends with the machine.
    _authentication: Child,
}

impl Pop3Server for Courier {
    /// RFC 1939 notwithstanding.
    const LOCKS: bool = false;

    async fn start(dir: &Path, certificates: &Certificates, messages: &[Vec<u8>]) -> Self {
        Machine::prepare(dir, "pop3");
        let home = dir.join("home").join(USERNAME);
        store::write_maildir(&home.join("Maildir"), messages);
        machine::own(&home);
        fs::create_dir_all(dir.join("run/courier/authdaemon")).unwrap();
        let etc = dir.join("etc/courier");
        fs::create_dir(&etc).unwrap();
        let key_and_chain = format!("{}{}", certificates.key_pem, certificates.chain_pem);
        fs::write(etc.join("pop3d.pem"), key_and_chain).unwrap();
        let authentication = "authmodulelist=authpam\ndaemons=1\n\
            authdaemonvar=/run/courier/authdaemon\n";
        fs::write(etc.join("authdaemonrc"), authentication).unwrap();
        fs::write(etc.join("pop3d"), "POP3AUTH=PLAIN\nPOP3AUTH_TLS=PLAIN\n").unwrap();
        let tls = "POP3_STARTTLS=YES\nCOURIERTLS=/usr/bin/couriertls\n\
            TLS_CERTFILE=/etc/courier/pop3d.pem\nTLS_VERIFYPEER=NONE\n";
        fs::write(etc.join("pop3d-ssl"), tls).unwrap();

        let machine = Machine::boot(dir, "courier");
        let authentication = machine.command("sh", &["-c", AUTHENTICATION])().spawn();
        let socket = machine.path("/run/courier/authdaemon/socket");
        eventually("authdaemond is there", async || {
            socket.exists().then_some(())
        })
        .await;
        let serve = |command| {
            let script = format!("{PEER}; lib=/usr/lib/courier/courier; {command}");
            Inetd::start(machine.command("sh", &["-c", &script]))
        };
        Self {
            implicit: serve(IMPLICIT).await,
            plain_text: serve(PLAIN_TEXT).await,
            machine,
            _authentication: authentication.unwrap(),
        }
    }

    fn port(&self, line: Tls) -> u16 {
        match line {
            Tls::Implicit => self.implicit.port(),
            _ => self.plain_text.port(),
        }
    }

    fn maildrop(&self) -> usize {
        store::count_maildir(&self.machine.path("/home").join(USERNAME).join("Maildir"))
    }

    /// Even where the file has nothing.
    fn sent(file: &[u8]) -> Vec<u8> {
        if file.is_empty() {
            return b"\r\n".to_vec();
        }
        store::every_lf_as_crlf(file)
    }
}
