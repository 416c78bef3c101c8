//! Settings: flags and environment in, a validated [`Config`] out.
//!
//! Every secret also has a `…_FILE` form. All mistakes are told at once, a line each.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use crate::{egress::Egress, store::MasterKey};

/// Flags and environment as given.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Postgres 14 or newer; absent: a private one in the data directory
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true)]
    database_url: Option<SecretString>,
    /// File that holds the database URL
    #[arg(long, env = "DATABASE_URL_FILE", value_name = "FILE", global = true)]
    database_url_file: Option<PathBuf>,
    /// Where the private Postgres and generated keys live
    #[arg(
        long,
        env = "POPBRIDGE_DATA_DIR",
        default_value = "./popbridge-data",
        global = true
    )]
    data_dir: PathBuf,
    /// Address and port of the API
    #[arg(
        long,
        env = "POPBRIDGE_LISTEN",
        default_value = "127.0.0.1:8080",
        global = true
    )]
    listen: SocketAddr,
    /// API key with every scope, at least 16 characters
    #[arg(
        long,
        env = "POPBRIDGE_ADMIN_KEY",
        hide_env_values = true,
        global = true
    )]
    admin_key: Option<SecretString>,
    /// File that holds the admin key
    #[arg(
        long,
        env = "POPBRIDGE_ADMIN_KEY_FILE",
        value_name = "FILE",
        global = true
    )]
    admin_key_file: Option<PathBuf>,
    /// 32 bytes in base64 that encrypt stored credentials
    #[arg(
        long,
        env = "POPBRIDGE_MASTER_KEY",
        hide_env_values = true,
        global = true
    )]
    master_key: Option<SecretString>,
    /// File that holds the master key
    #[arg(
        long,
        env = "POPBRIDGE_MASTER_KEY_FILE",
        value_name = "FILE",
        global = true
    )]
    master_key_file: Option<PathBuf>,
    /// Bring the database up to date at start
    #[arg(
        long,
        env = "POPBRIDGE_MIGRATE",
        default_value_t = true,
        action = clap::ArgAction::Set,
        global = true
    )]
    migrate: bool,
    /// POP3 sessions at once
    #[arg(
        long,
        env = "POPBRIDGE_SYNC_CONCURRENCY",
        default_value_t = 32,
        value_parser = clap::value_parser!(u16).range(1..=4096),
        global = true
    )]
    sync_concurrency: u16,
    /// POP3 sessions at once with one server
    #[arg(
        long,
        env = "POPBRIDGE_SYNC_CONCURRENCY_PER_HOST",
        default_value_t = 8,
        value_parser = clap::value_parser!(u16).range(1..=4096),
        global = true
    )]
    sync_concurrency_per_host: u16,
    /// Message data in flight over all sessions, such as 256MiB
    #[arg(
        long,
        env = "POPBRIDGE_MEMORY_BUDGET",
        default_value = "256MiB",
        global = true
    )]
    memory_budget: ByteSize,
    /// Networks that connections may reach beside public addresses, such as 10.0.0.0/8
    #[arg(
        long,
        env = "POPBRIDGE_EGRESS_ALLOW",
        value_delimiter = ',',
        global = true
    )]
    egress_allow: Vec<String>,
    /// Origins that may call the API from a browser
    #[arg(
        long,
        env = "POPBRIDGE_CORS_ORIGINS",
        value_delimiter = ',',
        global = true
    )]
    cors_origins: Vec<String>,
    /// Log filter, such as info or popbridge=debug
    #[arg(long, env = "POPBRIDGE_LOG", default_value = "info", global = true)]
    log: String,
    /// Log lines for people or for machines
    #[arg(
        long,
        env = "POPBRIDGE_LOG_FORMAT",
        value_enum,
        default_value_t = LogFormat::Text,
        global = true
    )]
    log_format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which parts of popbridge a process runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Everything.
    #[default]
    All,
    /// The HTTP API only.
    Api,
    /// Sync workers and webhook dispatcher, with health and metrics over HTTP.
    Worker,
}

/// A number of bytes: plain, or with KiB, MiB or GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor: u64 = match &text[digits.len()..] {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            unit => return Err(format!("unknown unit `{unit}`; use KiB, MiB or GiB")),
        };
        digits
            .trim()
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no size; write one such as 256MiB"))
    }
}

/// Settings that make sense together.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which database, with its keys.
    pub database: Database,
    /// Address and port of the API.
    pub listen: SocketAddr,
    /// Bring the database up to date at start.
    pub migrate: bool,
    /// POP3 sessions at once.
    pub sync_concurrency: usize,
    /// POP3 sessions at once with one server.
    pub sync_concurrency_per_host: usize,
    /// Bytes of message data in flight over all sessions.
    pub memory_budget: u64,
    /// Networks that connections may reach beside public addresses.
    pub egress_allow: Vec<IpNet>,
    /// Origins that may call the API from a browser.
    pub cors_origins: Vec<axum::http::HeaderValue>,
}

/// Where the data is.
#[derive(Clone, Debug)]
pub enum Database {
    /// A server that somebody else runs.
    External {
        /// How to reach it.
        url: SecretString,
        /// Seals credentials.
        master_key: MasterKey,
        /// The bootstrap API key, where one is set.
        admin_key: Option<SecretString>,
    },
    /// A server of our own; keys that are not given are made and kept in the directory.
    Private {
        /// The data directory.
        data_dir: PathBuf,
        /// Seals credentials.
        master_key: Option<MasterKey>,
        /// The bootstrap API key.
        admin_key: Option<SecretString>,
    },
}

/// Settings that do not make sense, a line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(Vec<String>);

impl ConfigError {
    /// One mistake, with what to do about it.
    pub fn new(mistake: impl Into<String>) -> Self {
        Self(vec![mistake.into()])
    }
}

/// The smallest budget with which a message of the default limit still gets through.
const MIN_MEMORY_BUDGET: u64 = 16 << 20;

const MIN_ADMIN_KEY_CHARS: usize = 16;

impl Settings {
    /// The log filter and format: wanted before the rest is looked at.
    pub fn logs(&self) -> (&str, LogFormat) {
        (&self.log, self.log_format)
    }

    /// The address of the API, for those who call it.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Reads the secret files and checks everything.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake.
    pub fn resolve(&self) -> Result<Config, ConfigError> {
        let mut mistakes = Vec::new();
        let url = secret(
            "DATABASE_URL",
            &self.database_url,
            &self.database_url_file,
            &mut mistakes,
        );
        if url
            .as_ref()
            .is_some_and(|url| !is_postgres_url(url.expose_secret()))
        {
            mistakes.push(
                "DATABASE_URL: is no Postgres URL; write postgres://user:password@host/database"
                    .to_owned(),
            );
        }
        let admin_key = self.admin_key(&mut mistakes);
        let master_key = self.master_key(url.is_some(), &mut mistakes);
        if self.memory_budget.0 < MIN_MEMORY_BUDGET {
            mistakes.push("POPBRIDGE_MEMORY_BUDGET: must be at least 16MiB".to_owned());
        }
        let egress_allow = self.egress_allow(&mut mistakes);
        let cors_origins = self.cors_origins(&mut mistakes);
        let database = match (url, master_key) {
            (Some(url), Some(master_key)) => Some(Database::External {
                url,
                master_key,
                admin_key,
            }),
            (None, master_key) => Some(Database::Private {
                data_dir: self.data_dir.clone(),
                master_key,
                admin_key,
            }),
            (Some(_), None) => None,
        };
        match database {
            Some(database) if mistakes.is_empty() => Ok(Config {
                database,
                listen: self.listen,
                migrate: self.migrate,
                sync_concurrency: self.sync_concurrency.into(),
                sync_concurrency_per_host: self.sync_concurrency_per_host.into(),
                memory_budget: self.memory_budget.0,
                egress_allow,
                cors_origins,
            }),
            _ => Err(ConfigError(mistakes)),
        }
    }

    fn admin_key(&self, mistakes: &mut Vec<String>) -> Option<SecretString> {
        let key = secret(
            "POPBRIDGE_ADMIN_KEY",
            &self.admin_key,
            &self.admin_key_file,
            mistakes,
        );
        if let Some(key) = &key
            && key.expose_secret().len() < MIN_ADMIN_KEY_CHARS
        {
            mistakes.push(format!(
                "POPBRIDGE_ADMIN_KEY: must have at least {MIN_ADMIN_KEY_CHARS} characters; \
                make one with: openssl rand -hex 32"
            ));
        }
        key
    }

    fn master_key(&self, external: bool, mistakes: &mut Vec<String>) -> Option<MasterKey> {
        let before = mistakes.len();
        let text = secret(
            "POPBRIDGE_MASTER_KEY",
            &self.master_key,
            &self.master_key_file,
            mistakes,
        );
        match text {
            Some(text) => MasterKey::from_base64(&text)
                .map_err(|error| mistakes.push(format!("POPBRIDGE_MASTER_KEY: {error}")))
                .ok(),
            None if external && mistakes.len() == before => {
                mistakes.push(
                    "POPBRIDGE_MASTER_KEY: needed with DATABASE_URL, to encrypt stored passwords; \
                    make one with: openssl rand -base64 32 — and keep it safe"
                        .to_owned(),
                );
                None
            }
            None => None,
        }
    }

    /// What connections may reach beside public addresses, for those who need no more of this.
    ///
    /// # Errors
    /// [`ConfigError`] with a line for each mistake.
    pub fn egress(&self) -> Result<Egress, ConfigError> {
        let mut mistakes = Vec::new();
        let networks = self.egress_allow(&mut mistakes);
        if mistakes.is_empty() {
            Ok(Egress::new(networks))
        } else {
            Err(ConfigError(mistakes))
        }
    }

    fn egress_allow(&self, mistakes: &mut Vec<String>) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for text in self.egress_allow.iter().filter(|text| !text.is_empty()) {
            // An address alone is a network of one.
            match text
                .parse()
                .or_else(|_| text.parse().map(|address: IpAddr| address.into()))
            {
                Ok(network) => networks.push(network),
                Err(_) => mistakes.push(format!(
                    "POPBRIDGE_EGRESS_ALLOW: `{text}` is no network; write one such as 10.0.0.0/8"
                )),
            }
        }
        networks
    }

    fn cors_origins(&self, mistakes: &mut Vec<String>) -> Vec<axum::http::HeaderValue> {
        let mut origins = Vec::new();
        for origin in self.cors_origins.iter().filter(|origin| !origin.is_empty()) {
            match origin.parse() {
                Ok(value) if is_origin(origin) => origins.push(value),
                _ => mistakes.push(format!(
                    "POPBRIDGE_CORS_ORIGINS: `{origin}` is no origin; write scheme and host, \
                    such as https://app.example.com"
                )),
            }
        }
        origins
    }
}

fn is_postgres_url(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

/// Scheme, host and maybe port; no path.
fn is_origin(text: &str) -> bool {
    text.strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .is_some_and(|host| !host.is_empty() && !host.contains('/'))
}

/// A secret given as it is or in a file. An empty variable counts as absent, as Compose passes
/// unset variables on as empty ones.
fn secret(
    name: &str,
    value: &Option<SecretString>,
    file: &Option<PathBuf>,
    mistakes: &mut Vec<String>,
) -> Option<SecretString> {
    let value = value
        .as_ref()
        .filter(|value| !value.expose_secret().is_empty());
    match (
        value,
        file.as_ref().filter(|path| !path.as_os_str().is_empty()),
    ) {
        (Some(_), Some(_)) => {
            mistakes.push(format!("{name} and {name}_FILE are both set; keep one"));
            None
        }
        (Some(value), None) => Some(value.clone()),
        (None, Some(path)) => match std::fs::read_to_string(path) {
            Ok(text) if !text.trim().is_empty() => Some(text.trim().into()),
            Ok(_) => {
                mistakes.push(format!("{name}_FILE: {} is empty", path.display()));
                None
            }
            Err(error) => {
                mistakes.push(format!(
                    "{name}_FILE: cannot read {}: {error}",
                    path.display()
                ));
                None
            }
        },
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        settings: Settings,
    }

    fn resolve(arguments: &[&str]) -> Result<Config, ConfigError> {
        let arguments = ["popbridge"].iter().chain(arguments);
        Cli::try_parse_from(arguments).unwrap().settings.resolve()
    }

    #[test]
    fn external_database_needs_a_master_key() {
        let error = resolve(&["--database-url", "postgres://db/popbridge"]).unwrap_err();
        assert!(
            error.to_string().contains("openssl rand -base64 32"),
            "{error}"
        );
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let error = resolve(&[
            "--database-url=mysql://db/popbridge",
            "--master-key=short",
            "--admin-key=short",
            "--memory-budget=1KiB",
            "--cors-origins=app.example.com",
            "--egress-allow=everything",
        ])
        .unwrap_err();
        let lines = error.to_string();
        for name in [
            "MASTER_KEY",
            "ADMIN_KEY",
            "MEMORY_BUDGET",
            "CORS_ORIGINS",
            "EGRESS_ALLOW",
        ] {
            assert!(lines.contains(name), "{name} missing in: {lines}");
        }
    }

    #[test]
    fn secret_comes_from_a_file_or_the_environment_but_not_both() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
        let path = format!("--admin-key-file={}", file.path().display());
        let master_key = format!("--master-key={}", MasterKey::generate().expose_secret());

        assert!(resolve(&[&master_key, &path]).is_ok());
        let error = resolve(&[&master_key, &path, "--admin-key=0123456789abcdef"]).unwrap_err();
        assert!(error.to_string().contains("keep one"), "{error}");
    }

    #[test]
    fn egress_allows_networks_and_single_addresses_and_ignores_an_empty_list() {
        let master_key = format!("--master-key={}", MasterKey::generate().expose_secret());
        for (text, expected) in [
            ("10.0.0.0/8,::1", vec!["10.0.0.0/8", "::1/128"]),
            ("", vec![]),
        ] {
            let config = resolve(&[&master_key, &format!("--egress-allow={text}")]).unwrap();
            let networks: Vec<String> = config.egress_allow.iter().map(IpNet::to_string).collect();
            assert_eq!(networks, expected);
        }
    }

    #[test]
    fn byte_sizes_have_binary_units() {
        assert_eq!("256MiB".parse(), Ok(ByteSize(256 << 20)));
        assert_eq!("1024".parse(), Ok(ByteSize(1024)));
        assert!("12 apples".parse::<ByteSize>().is_err());
        assert!("99999999999GiB".parse::<ByteSize>().is_err());
    }
}
