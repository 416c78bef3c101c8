//! GNU mailutils' pop3d: an mbox, APOP, and TLS of its own.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use popbridge::{demo::certificates::Certificates, pop3::Tls};

use super::{
    corpus::Message,
    inetd::Inetd,
    machine::{self, Machine},
    server::{PASSWORD, Pop3Server, USERNAME},
    store,
    suite::interoperates,
};

interoperates!(Mailutils: implicit [user_pass, apop], stls [user_pass], plain_text [user_pass, apop]);

/// Header fields in which it keeps what it knows of a message.
const OWN_FIELDS: [&str; 5] = ["X-UIDL:", "X-UID:", "X-IMAPbase:", "Status:", "X-Status:"];

struct Mailutils {
    implicit: Inetd,
    plain_text: Inetd,
    machine: Machine,
}

impl Pop3Server for Mailutils {
    const LOCKS: bool = true;

    async fn start(dir: &Path, certificates: &Certificates, messages: &[Vec<u8>]) -> Self {
        Machine::prepare(dir, "mailutils");
        let mbox = dir.join("var/mail").join(USERNAME);
        store::write_mbox(&mbox, messages);
        machine::own(&mbox);
        let locks = dir.join("run/lock/subsys/mail");
        fs::create_dir_all(&locks).unwrap();
        fs::set_permissions(&locks, fs::Permissions::from_mode(0o1777)).unwrap();
        let etc = dir.join("etc");
        fs::write(etc.join("cert.pem"), &certificates.chain_pem).unwrap();
        fs::write(etc.join("key.pem"), &certificates.key_pem).unwrap();
        fs::set_permissions(etc.join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        for (name, mode) in [("pop3", "ondemand"), ("pop3s", "connection")] {
            let settings = format!(
                "mode inetd;\ntls-mode {mode};\n\
                tls {{ ssl-certificate-file /etc/cert.pem; ssl-key-file /etc/key.pem; }};\n\
                apop-database-file \"gdbm:///var/lib/apop\";\n\
                logging {{ syslog no; }};\n"
            );
            fs::write(etc.join(format!("{name}.conf")), settings).unwrap();
        }

        fs::write(etc.join("apop"), format!("{USERNAME}: {PASSWORD}\n")).unwrap();

        let machine = Machine::boot(dir, "mailutils");
        // Without `--compatibility` popauth writes keys that pop3d does not find.
        let popauth = [
            "--create",
            "--compatibility",
            "-f",
            "/etc/apop",
            "-o",
            "gdbm:///var/lib/apop",
        ];
        assert!(
            machine.command("popauth", &popauth)()
                .status()
                .unwrap()
                .success()
        );
        let serve = |name| {
            let settings = format!("--config-file=/etc/{name}.conf");
            Inetd::start(machine.command("/usr/sbin/pop3d", &[&settings]))
        };
        Self {
            implicit: serve("pop3s").await,
            plain_text: serve("pop3").await,
            machine,
        }
    }

    fn port(&self, line: Tls) -> u16 {
        match line {
            Tls::Implicit => self.implicit.port(),
            _ => self.plain_text.port(),
        }
    }

    fn maildrop(&self) -> usize {
        store::count_mbox(&self.machine.path("/var/mail").join(USERNAME))
    }

    /// Of a message without any header field it keeps nothing: neither sends nor stores the body.
    fn delivered(message: &Message) -> Vec<u8> {
        store::for_mbox(&store::with_trace_field(message))
    }

    /// It takes back the quotes of lines that begin with `From`.
    fn sent(file: &[u8]) -> Vec<u8> {
        let lines = file.split_inclusive(|octet| *octet == b'\n');
        let unquoted = lines.map(|line| match line {
            [b'>', quoted @ ..] if quoted.starts_with(b"From ") => quoted,
            line => line,
        });
        store::every_lf_as_crlf(&unquoted.collect::<Vec<_>>().concat())
    }

    /// It writes the unique-id and more into the header, of what it sends and of what it stores,
    /// and when it has stored an empty body anew, that is an empty line.
    fn without_additions(retrieved: Vec<u8>) -> Vec<u8> {
        let lines: Vec<&[u8]> = retrieved.split_inclusive(|octet| *octet == b'\n').collect();
        let header = lines.iter().take_while(|line| **line != b"\r\n");
        let (header, body) = lines.split_at(header.count());
        let own = |line: &&&[u8]| {
            OWN_FIELDS
                .iter()
                .any(|name| line.starts_with(name.as_bytes()))
        };
        let header = header.iter().filter(|line| !own(line));
        let body = if *body == [b"\r\n", b"\r\n"] {
            &body[1..]
        } else {
            body
        };
        header.chain(body).copied().flatten().copied().collect()
    }
}
