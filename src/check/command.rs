//! `popbridge check`: the diagnosis, on a terminal.

use std::{fs, io::IsTerminal, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use secrecy::SecretString;
use tokio::time::timeout;

use super::{DEADLINES, Report, check};
use crate::{
    config::ConfigError,
    egress::Egress,
    pop3::{Connector, Credentials, KeyPin, PasswordMechanism, Server, Tls},
};

/// Longest that a check takes, whatever the server does.
const LIMIT: Duration = Duration::from_secs(60);

/// What to look at.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    popbridge check pop.example.com\n  \
    popbridge check pop.example.com --username anna\n  \
    popbridge check mail.example.com:110 --username anna --password-file secret.txt --json")]
pub struct Check {
    /// Host name or address of the server, and its port where it is neither 995 nor 110
    #[arg(value_name = "HOST[:PORT]")]
    server: String,
    /// How the line is encrypted [default: starttls for port 110, else implicit]
    #[arg(long, value_enum)]
    tls: Option<TlsMode>,
    /// PEM file with the only certificates to trust
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// SHA-256 of the only public key to trust, in base64 or hexadecimal
    #[arg(long, value_name = "PIN")]
    tls_pin_sha256: Option<KeyPin>,
    /// Who logs in; without it the check ends before the login
    #[arg(long)]
    username: Option<String>,
    /// File with the password; without it the password is asked for
    #[arg(long, value_name = "FILE", env = "POPBRIDGE_CHECK_PASSWORD_FILE")]
    password_file: Option<PathBuf>,
    /// How to log in
    #[arg(long, value_enum, default_value_t = Mechanism::Auto)]
    auth: Mechanism,
    /// Print the whole report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TlsMode {
    Implicit,
    Starttls,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Mechanism {
    Auto,
    UserPass,
    Plain,
    Apop,
}

impl Check {
    /// Makes the check and prints what it found.
    ///
    /// The user at the terminal may connect to anything, so the egress policy does not apply; what
    /// `egress` would refuse is said.
    ///
    /// # Errors
    /// When the check cannot be made, or fails.
    pub async fn run(self, egress: &Egress) -> anyhow::Result<()> {
        let server = self.server()?;
        let credentials = self.credentials()?;
        let everything = ["0.0.0.0/0", "::/0"].map(str::parse);
        let everything = everything.into_iter().collect::<Result<Vec<_>, _>>()?;
        let connector = Connector::new(Egress::new(everything), DEADLINES)?;
        let report = timeout(LIMIT, check(&connector, &server, credentials.as_ref()))
            .await
            .context("the server kept the check busy for a minute")?;
        if self.json {
            print(&serde_json::to_string_pretty(&report)?);
        } else {
            print(&text(&report));
        }
        let address = report.address.as_deref().and_then(|text| text.parse().ok());
        if let Some(address) = address.map(|address: std::net::SocketAddr| address.ip())
            && let Err(refused) = egress.check(address)
        {
            complain(&format!(
                "popbridge serve would not connect there: {refused}"
            ));
        }
        match report.error {
            Some(_) => bail!("the check failed"),
            None => Ok(()),
        }
    }

    fn server(&self) -> Result<Server, ConfigError> {
        let (host, port) = split(&self.server)?;
        let tls = match (self.tls, port) {
            (Some(TlsMode::Implicit), _) => Tls::Implicit,
            (Some(TlsMode::Starttls), _) | (None, Some(110)) => Tls::Starttls,
            (Some(TlsMode::None), _) => Tls::None,
            (None, _) => Tls::Implicit,
        };
        let ca_pem = match &self.tls_ca {
            Some(file) => Some(read(file)?),
            None => None,
        };
        Ok(Server {
            host,
            port: port.unwrap_or(if tls == Tls::Implicit { 995 } else { 110 }),
            tls,
            ca_pem,
            pin: self.tls_pin_sha256,
            pipelining: true,
        })
    }

    fn credentials(&self) -> anyhow::Result<Option<Credentials>> {
        let Some(username) = &self.username else {
            return Ok(None);
        };
        let password = match &self.password_file {
            Some(file) => read(file)?.trim_end_matches(['\r', '\n']).to_owned(),
            None if std::io::stdin().is_terminal() => rpassword::prompt_password("Password: ")?,
            None => {
                let problem = "--username needs a password: give a file with --password-file";
                return Err(ConfigError::new(problem).into());
            }
        };
        let mechanism = match self.auth {
            Mechanism::Auto => PasswordMechanism::Auto,
            Mechanism::UserPass => PasswordMechanism::UserPass,
            Mechanism::Plain => PasswordMechanism::Plain,
            Mechanism::Apop => PasswordMechanism::Apop,
        };
        let password = SecretString::from(password);
        Ok(Some(Credentials::with_password(
            username, password, mechanism,
        )))
    }
}

/// `host`, `host:port`, `[v6]:port`, or an IPv6 address alone.
fn split(text: &str) -> Result<(String, Option<u16>), ConfigError> {
    let invalid = || ConfigError::new(format!("`{text}` is no HOST[:PORT]"));
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(invalid)?;
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':').ok_or_else(invalid)?),
        };
        (host, port)
    } else {
        match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        }
    };
    let port = port.map(str::parse).transpose().map_err(|_| invalid())?;
    if host.is_empty() || port == Some(0) {
        return Err(invalid());
    }
    Ok((host.to_owned(), port))
}

fn read(file: &PathBuf) -> Result<String, ConfigError> {
    fs::read_to_string(file)
        .map_err(|error| ConfigError::new(format!("cannot read {}: {error}", file.display())))
}

/// The report for people.
fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    for step in &report.steps {
        let mark = if step.ok { "ok    " } else { "FAILED" };
        lines.push(format!("{mark} {:>6} ms  {}", step.elapsed_ms, step.step));
    }
    if let Some(error) = &report.error {
        lines.push(format!(
            "\n{} failed ({}): {}",
            error.step, error.code, error.detail
        ));
    }
    lines.push(String::new());
    if let Some(address) = &report.address {
        lines.push(format!("address       {address}"));
    }
    if let Some(tls) = &report.tls {
        lines.push(format!(
            "tls           {} {}",
            tls.version, tls.cipher_suite
        ));
        for certificate in &tls.certificates {
            lines.push(format!(
                "certificate   {} by {}, until {}",
                certificate.subject,
                certificate.issuer,
                certificate.not_after.date(),
            ));
        }
        let pin = tls
            .certificates
            .first()
            .and_then(|first| first.pin_sha256.as_ref());
        lines.extend(pin.map(|pin| format!("pin           {pin}")));
    }
    if !report.capabilities.is_empty() {
        lines.push(format!("capabilities  {}", report.capabilities.join(", ")));
    }
    if let (Some(messages), Some(octets)) = (report.messages, report.octets) {
        lines.push(format!(
            "maildrop      {messages} messages, {octets} octets"
        ));
    }
    if let Some(stable) = report.uidl_stable {
        let word = if stable { "the same" } else { "NOT the same" };
        lines.push(format!("unique-ids    {word} after a second login"));
    }
    for quirk in &report.quirks {
        lines.push(format!("note          {} ({})", quirk.detail, quirk.code));
    }
    lines.extend(report.hint.map(|hint| format!("provider      {hint}")));
    lines.join("\n")
}

#[expect(clippy::print_stdout, reason = "what a command is asked for")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "beside what the command is asked for")]
fn complain(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_perhaps_a_port() {
        for (text, host, port) in [
            ("pop.example.com", "pop.example.com", None),
            ("pop.example.com:995", "pop.example.com", Some(995)),
            ("192.0.2.1:110", "192.0.2.1", Some(110)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("[2001:db8::1]:1995", "2001:db8::1", Some(1995)),
        ] {
            let (found_host, found_port) = split(text).unwrap();
            assert_eq!((found_host.as_str(), found_port), (host, port), "{text}");
        }
        for text in [
            "",
            ":995",
            "host:",
            "host:pop3",
            "host:0",
            "host:70000",
            "[::1",
            "[::1]995",
        ] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
