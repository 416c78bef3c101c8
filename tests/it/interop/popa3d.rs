//! popa3d: an mbox, USER and PASS, and nothing else: no CAPA, no TLS. People who want TLS put
//! stunnel before it, and so does this.

use std::{collections::HashSet, fs, path::Path};

use popbridge::{
    demo::certificates::Certificates,
    pop3::{ListingFault, Tls},
};

use super::{
    corpus::Message,
    host::Host,
    inetd::Inetd,
    machine::{self, Machine},
    server::{Pop3Server, USERNAME},
    store,
    suite::interoperates,
};

interoperates!(Popa3d: implicit [user_pass], plain_text [user_pass]);

struct Popa3d {
    plain_text: Inetd,
    stunnel: Inetd,
    machine: Machine,
}

impl Pop3Server for Popa3d {
    /// It locks the mbox only while it reads or writes it.
    const LOCKS: bool = false;

    async fn start(dir: &Path, certificates: &Certificates, messages: &[Vec<u8>]) -> Self {
        Machine::prepare(dir, "popa3d");
        let mbox = dir.join("var/mail").join(USERNAME);
        store::write_mbox(&mbox, messages);
        machine::own(&mbox);
        let key_and_chain = format!("{}{}", certificates.key_pem, certificates.chain_pem);
        fs::write(dir.join("etc/stunnel.pem"), key_and_chain).unwrap();

        let machine = Machine::boot(dir, "popa3d");
        let plain_text = Inetd::start(machine.command("/usr/sbin/popa3d", &[])).await;
        let stunnel = format!(
            "cert = /etc/stunnel.pem\nconnect = 127.0.0.1:{}\nsyslog = no\ndebug = err\n",
            plain_text.port()
        );
        fs::write(dir.join("etc/stunnel.conf"), stunnel).unwrap();
        let stunnel = machine.command("/usr/bin/stunnel4", &["/etc/stunnel.conf"]);
        Self {
            plain_text,
            stunnel: Inetd::start(stunnel).await,
            machine,
        }
    }

    fn port(&self, line: Tls) -> u16 {
        match line {
            Tls::Implicit => self.stunnel.port(),
            _ => self.plain_text.port(),
        }
    }

    fn maildrop(&self) -> usize {
        store::count_mbox(&self.machine.path("/var/mail").join(USERNAME))
    }

    /// Its unique-ids are a hash of the trace fields and `Message-ID`: messages without any would
    /// share one. No mail server delivers such.
    fn delivered(message: &Message) -> Vec<u8> {
        store::for_mbox(&store::with_trace_field(message))
    }
}

/// No mail server delivers such messages, but a script that appends to an mbox does.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_share_a_unique_id_are_told_apart() {
    let untraced = |n| format!("Subject: scan {n}\n\ntext\n").into_bytes();
    let host = Host::<Popa3d>::start_with(&[1, 2, 3].map(untraced)).await;
    let mut unique_ids = Vec::new();
    for _ in 0..2 {
        let mut session = host.open_any().await.unwrap();
        let listing = session.listing(None).await.unwrap();
        assert_eq!(listing.fault, Some(ListingFault::RepeatedUniqueId));
        let entries = listing.entries.into_iter();
        unique_ids.push(entries.map(|entry| entry.unique_id).collect::<HashSet<_>>());
        session.quit().await.unwrap();
    }
    assert_eq!(unique_ids[0].len(), 3);
    assert_eq!(unique_ids[0], unique_ids[1], "they stay the same");
}
