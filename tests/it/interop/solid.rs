//! solid-pop3d: a Maildir, USER, PASS and APOP; no CAPA, no TLS.

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

interoperates!(Solid: plain_text [user_pass, apop]);

struct Solid {
    inetd: Inetd,
    machine: Machine,
}

impl Pop3Server for Solid {
    /// Of a Maildir it does not.
    const LOCKS: bool = false;

    async fn start(dir: &Path, _: &Certificates, messages: &[Vec<u8>]) -> Self {
        Machine::prepare(dir, "solid-pop3d");
        let home = dir.join("home").join(USERNAME);
        store::write_maildir(&home.join("Maildir"), messages);
        let secret: String = PASSWORD
            .bytes()
            .map(|octet| format!("{:02x}", !octet))
            .collect();
        let own_settings = home.join(".spop3d");
        fs::write(&own_settings, format!("APOPSecret {secret}\n")).unwrap();
        fs::set_permissions(&own_settings, fs::Permissions::from_mode(0o600)).unwrap();
        machine::own(&home);
        let settings = "<Global>\n\
            MailDropName \"Maildir\"\n\
            MailDropType maildir\n\
            AddBulletins no\n\
            </Global>\n";
        fs::write(dir.join("etc/spop3d.conf"), settings).unwrap();

        let machine = Machine::boot(dir, "solid");
        Self {
            inetd: Inetd::start(machine.command("/usr/sbin/solid-pop3d", &[])).await,
            machine,
        }
    }

    fn port(&self, _: Tls) -> u16 {
        self.inetd.port()
    }

    fn maildrop(&self) -> usize {
        store::count_maildir(&self.machine.path("/home").join(USERNAME).join("Maildir"))
    }

    /// One message whose last line does not end, and it refuses the whole maildrop as damaged.
    fn delivered(message: &Message) -> Vec<u8> {
        store::with_last_line_ended(&message.octets)
    }
}
