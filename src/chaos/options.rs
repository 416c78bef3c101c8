//! What to serve, to whom, and how badly.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{Faults, Mail};

/// Flags of `popbridge chaos-server`, usable as plain data.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Address and port to listen on
    #[arg(long, env = "POPBRIDGE_LISTEN", default_value = "127.0.0.1:1110")]
    pub listen: SocketAddr,
    /// User name of the one maildrop
    #[arg(long, default_value = "demo")]
    pub user: String,
    /// Its password
    #[arg(long, default_value = "demo")]
    pub password: String,
    /// How the line is encrypted
    #[arg(long, value_enum, default_value_t = Tls::None)]
    pub tls: Tls,
    /// Another name or address that the certificate is valid for, beside localhost
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// Write the certificate of the CA to FILE; by default to a temporary one
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Print each command that comes, without credentials
    #[arg(long)]
    pub log_commands: bool,
    /// What is in the maildrop.
    #[command(flatten)]
    pub mail: Mail,
    /// What it does wrong.
    #[command(flatten)]
    pub faults: Faults,
}

/// How the line is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Tls {
    /// Not at all
    #[default]
    None,
    /// By STLS (RFC 2595), for who asks for it
    Starttls,
    /// From the first octet
    Implicit,
}

impl Default for Options {
    /// Three messages for user `demo`, password `demo`, in plain text on a free loopback port.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            user: "demo".to_owned(),
            password: "demo".to_owned(),
            tls: Tls::None,
            name: Vec::new(),
            ca_file: None,
            log_commands: false,
            mail: Mail::default(),
            faults: Faults::default(),
        }
    }
}
