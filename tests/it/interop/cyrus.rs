//! Cyrus: a store of its own, one file for each message, and all that POP3 has.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Child,
};

use popbridge::{demo::certificates::Certificates, pop3::Tls};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    corpus::Message,
    machine::Machine,
    server::{PASSWORD, Pop3Server, USERNAME},
    store,
    suite::interoperates,
};
use crate::support::eventually;

interoperates!(
    Cyrus: implicit [user_pass, plain, apop],
    stls [user_pass, plain],
    plain_text [user_pass, plain, apop]
);

const SETTINGS: &str = "configdirectory: /var/lib/cyrus\n\
    proc_path: /run/cyrus/proc\n\
    mboxname_lockpath: /run/cyrus/lock\n\
    defaultpartition: default\n\
    partition-default: /var/spool/cyrus\n\
    autocreate_quota: 0\n\
    expunge_mode: immediate\n\
    allowplaintext: yes\n\
    allowapop: yes\n\
    sasl_pwcheck_method: auxprop\n\
    sasl_auxprop_plugin: sasldb\n\
    sasl_sasldb_path: /var/lib/cyrus/sasldb2\n\
    sasl_mech_list: PLAIN\n\
    tls_server_cert: /var/lib/cyrus/cert.pem\n\
    tls_server_key: /var/lib/cyrus/key.pem\n";

struct Cyrus {
    implicit: u16,
    plain_text: u16,
    machine: Machine,
    /// Ends with the machine.
    _master: Child,
}

impl Pop3Server for Cyrus {
    const LOCKS: bool = false;

    const RESUMES_TLS: bool = true;

    async fn start(dir: &Path, certificates: &Certificates, messages: &[Vec<u8>]) -> Self {
        Machine::prepare(dir, "pop");
        for path in [
            "var/lib/cyrus",
            "var/spool/cyrus",
            "run/cyrus/proc",
            "run/cyrus/lock",
        ] {
            fs::create_dir_all(dir.join(path)).unwrap();
        }
        let etc = dir.join("etc");
        fs::write(etc.join("imapd.conf"), SETTINGS).unwrap();
        fs::write(dir.join("var/lib/cyrus/cert.pem"), &certificates.chain_pem).unwrap();
        fs::write(dir.join("var/lib/cyrus/key.pem"), &certificates.key_pem).unwrap();
        let [plain_text, implicit] = free_ports().await;
        let services = format!(
            "START {{\n recover cmd=\"/usr/lib/cyrus/bin/ctl_cyrusdb -r\"\n}}\nSERVICES {{\n \
            pop3 cmd=\"/usr/lib/cyrus/bin/pop3d\" listen=\"127.0.0.1:{plain_text}\"\n \
            pop3s cmd=\"/usr/lib/cyrus/bin/pop3d -s\" listen=\"127.0.0.1:{implicit}\"\n}}\n"
        );
        fs::write(etc.join("cyrus.conf"), services).unwrap();

        let machine = Machine::boot(dir, "cyrus");
        let run = |program: &str| {
            let status = machine.command("sh", &["-euc", program])().status();
            assert!(status.unwrap().success(), "{program}");
        };
        let as_cyrus = "setpriv --reuid cyrus --regid mail --clear-groups";
        run("chown -R cyrus:mail /var/lib/cyrus /var/spool/cyrus /run/cyrus");
        run(&format!(
            "printf '{PASSWORD}' | {as_cyrus} saslpasswd2 -c -p -f /var/lib/cyrus/sasldb2 {USERNAME}"
        ));
        let master = machine.command("/usr/lib/cyrus/bin/master", &[])().spawn();
        create_maildrop(plain_text).await;
        write_maildrop(&maildrop(&machine), messages);
        run(&format!(
            "{as_cyrus} /usr/lib/cyrus/bin/reconstruct user/{USERNAME} >/dev/null"
        ));
        Self {
            implicit,
            plain_text,
            machine,
            _master: master.unwrap(),
        }
    }

    fn port(&self, line: Tls) -> u16 {
        match line {
            Tls::Implicit => self.implicit,
            _ => self.plain_text,
        }
    }

    fn maildrop(&self) -> usize {
        let files = store::files_in(&maildrop(&self.machine));
        let names = files.iter().map(|file| file.to_string_lossy());
        names.filter(|name| name.ends_with('.')).count()
    }

    /// There is no message of no octets for it.
    fn delivered(message: &Message) -> Vec<u8> {
        if message.octets.is_empty() {
            return b"\n".to_vec();
        }
        message.octets.clone()
    }

    /// What comes behind a NUL is lost up to the next line, the end of its own line too. (By SMTP
    /// or LMTP it would not have taken the message.)
    fn sent(file: &[u8]) -> Vec<u8> {
        let lines = file.split_inclusive(|octet| *octet == b'\n');
        let kept = lines.flat_map(|line| {
            let end = line.iter().position(|octet| *octet == 0);
            &line[..end.unwrap_or(line.len())]
        });
        store::bare_lf_as_crlf(&kept.copied().collect::<Vec<_>>())
    }
}

async fn free_ports() -> [u16; 2] {
    let any = || TcpListener::bind("127.0.0.1:0");
    let listeners = [any().await.unwrap(), any().await.unwrap()];
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// The first login does.
async fn create_maildrop(port: u16) {
    let mut socket = eventually("Cyrus is there", async || {
        TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    let commands = format!("USER {USERNAME}\r\nPASS {PASSWORD}\r\nQUIT\r\n");
    socket.write_all(commands.as_bytes()).await.unwrap();
    let mut replies = String::new();
    socket.read_to_string(&mut replies).await.unwrap();
    assert!(!replies.contains("-ERR"), "{replies}");
}

/// The only directory that there is on each level.
fn maildrop(machine: &Machine) -> PathBuf {
    let mut dir = machine.path("/var/spool/cyrus/uuid");
    while !dir.join("cyrus.index").exists() {
        dir = store::files_in(&dir).remove(0);
    }
    dir
}

fn write_maildrop(dir: &Path, messages: &[Vec<u8>]) {
    let owner = fs::metadata(dir).unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&owner);
    for (n, message) in messages.iter().enumerate() {
        let file = dir.join(format!("{}.", n + 1));
        fs::write(&file, store::bare_lf_as_crlf(message)).unwrap();
        chown(&file, Some(owner), None).unwrap();
    }
}
