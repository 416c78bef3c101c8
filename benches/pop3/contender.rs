//! Who takes part, how each is set up, and how it shows that it got everything.
//!
//! Each keeps all mail on the server, begins without memory of earlier runs, and trusts nothing but
//! the benchmark's certificate authority.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use nix::unistd::{Uid, User};

use crate::{
    mailbox_files::{self, Found},
    maildrops::{HOST, Maildrop, PASSWORD, Target},
    measure::{Drained, Invocation},
};

/// Header fields and separators that a fetcher may add to a message, in octets.
const ADDED: u64 = 512;

const PYTHON: &str = include_str!("poplib_drain.py");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    Raw,
    Engine,
    Mpop,
    Fetchmail,
    Getmail,
    Poplib,
}

/// Where the mail goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Memory, or what is nearest to it: one file in a memory file system.
    Memory,
    /// A Maildir on disk.
    Maildir,
}

impl Contender {
    pub(crate) const ALL: [Self; 6] = [
        Self::Raw,
        Self::Engine,
        Self::Mpop,
        Self::Fetchmail,
        Self::Getmail,
        Self::Poplib,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw pipelined reader",
            Self::Engine => "popbridge's engine",
            Self::Mpop => "mpop",
            Self::Fetchmail => "fetchmail",
            Self::Getmail => "getmail",
            Self::Poplib => "Python's poplib",
        }
    }

    /// What is fair to know of how it runs.
    pub(crate) fn manner(self, destination: Destination) -> &'static str {
        match (self, destination) {
            (Self::Raw, _) => "every RETR sent at once; counts terminators, keeps nothing",
            (Self::Engine, _) => "each message put together in memory, then dropped",
            (Self::Mpop, Destination::Memory) => "pipelined; an mbox file in a memory file system",
            (Self::Mpop, Destination::Maildir) => "pipelined; its own Maildir delivery",
            (Self::Fetchmail, Destination::Memory) => {
                "`bsmtp` to a file in a memory file system: no process for each message; \
                no rewriting, all sizes listed at once"
            }
            (Self::Fetchmail, Destination::Maildir) => {
                "`mda` procmail to a Maildir, the usual way: a process for each message"
            }
            (Self::Getmail, Destination::Memory) => "Mboxrd, a file in a memory file system",
            (Self::Getmail, Destination::Maildir) => "its own Maildir delivery",
            (Self::Poplib, _) => "each message joined in memory, then dropped",
        }
    }

    /// The version of what is installed; `None` if it is not.
    pub(crate) fn version(self) -> Option<String> {
        let program = match self {
            Self::Raw | Self::Engine => return Some(env!("CARGO_PKG_VERSION").to_owned()),
            Self::Mpop => "mpop",
            Self::Fetchmail => "fetchmail",
            Self::Getmail => "getmail",
            Self::Poplib => "python3",
        };
        first_line(program, &["--version"])
    }

    /// What to run, with the files that it needs below `dir`, which is empty.
    pub(crate) fn invocation(
        self,
        target: &Target,
        destination: Destination,
        dir: &Path,
    ) -> anyhow::Result<Invocation> {
        let mailbox = dir.join(mailbox_name(destination));
        if destination == Destination::Maildir {
            for part in ["tmp", "new", "cur"] {
                fs::create_dir_all(mailbox.join(part))?;
            }
        }
        let command = match self {
            Self::Raw => ourselves("raw", target)?,
            Self::Engine => ourselves("engine", target)?,
            Self::Mpop => mpop(target, destination, &mailbox, dir)?,
            Self::Fetchmail => fetchmail(target, destination, &mailbox, dir)?,
            Self::Getmail => getmail(target, destination, &mailbox, dir)?,
            Self::Poplib => poplib(target, dir)?,
        };
        let home = dir.display().to_string();
        let environment = vec![
            ("HOME", home.clone()),
            ("TMPDIR", home.clone()),
            ("FETCHMAILHOME", home),
        ];
        Ok(Invocation {
            command,
            environment,
        })
    }

    /// What it got: exactly the maildrop, or there is no result.
    pub(crate) fn received(
        self,
        said: &str,
        maildrop: &Maildrop,
        destination: Destination,
        dir: &Path,
    ) -> anyhow::Result<Drained> {
        let mailbox = dir.join(mailbox_name(destination));
        let found = |(messages, octets): Found| Drained {
            messages,
            octets,
            open_ms: 0.0,
            drain_ms: None,
        };
        let drained = match (self, destination) {
            (Self::Raw | Self::Engine | Self::Poplib, _) => serde_json::from_str(said)
                .with_context(|| format!("{} says {said:?}", self.name()))?,
            (_, Destination::Maildir) => found(mailbox_files::maildir(&mailbox)?),
            (Self::Fetchmail, Destination::Memory) => found(mailbox_files::bsmtp(&mailbox)?),
            (_, Destination::Memory) => found(mailbox_files::mbox(&mailbox)?),
        };
        let (on_wire, added) = (
            maildrop.octets + maildrop.stuffing,
            maildrop.messages * ADDED,
        );
        let octets = match self {
            // With status lines and terminators.
            Self::Raw => on_wire..=on_wire + added,
            Self::Engine | Self::Poplib => maildrop.octets..=maildrop.octets,
            _ => maildrop.lf_octets..=on_wire + added,
        };
        ensure!(
            drained.messages == maildrop.messages && octets.contains(&drained.octets),
            "{} got {} messages of {} octets, not {} of {octets:?}",
            self.name(),
            drained.messages,
            drained.octets,
            maildrop.messages
        );
        Ok(drained)
    }
}

fn mailbox_name(destination: Destination) -> &'static str {
    match destination {
        Destination::Memory => "mailbox",
        Destination::Maildir => "Maildir",
    }
}

pub(crate) fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(|line| line.trim().to_owned())
}

fn ourselves(command: &str, target: &Target) -> anyhow::Result<Vec<String>> {
    Ok(vec![
        path(&std::env::current_exe()?),
        command.to_owned(),
        format!("--port={}", target.port),
        format!("--username={}", target.username),
        format!("--ca={}", target.ca.display()),
    ])
}

fn mpop(
    target: &Target,
    destination: Destination,
    mailbox: &Path,
    dir: &Path,
) -> anyhow::Result<Vec<String>> {
    let format = match destination {
        Destination::Memory => "mbox",
        Destination::Maildir => "maildir",
    };
    let settings = format!(
        "account default\nhost {HOST}\nport {}\ntls on\ntls_starttls off\ntls_trust_file {}\n\
        user {}\npassword {PASSWORD}\nkeep on\nonly_new off\nreceived_header off\n\
        uidls_file {}\ndelivery {format} {}\n",
        target.port,
        target.ca.display(),
        target.username,
        dir.join("uidls").display(),
        mailbox.display(),
    );
    let file = private_file(dir, "mpoprc", &settings)?;
    Ok(vec![
        "mpop".to_owned(),
        "--quiet".to_owned(),
        format!("--file={}", file.display()),
    ])
}

fn fetchmail(
    target: &Target,
    destination: Destination,
    mailbox: &Path,
    dir: &Path,
) -> anyhow::Result<Vec<String>> {
    let delivery = match destination {
        Destination::Memory => format!("bsmtp \"{}\"", mailbox.display()),
        Destination::Maildir => {
            let settings = format!("MAILDIR={}\nDEFAULT=$MAILDIR/\n", mailbox.display());
            let file = private_file(dir, "procmailrc", &settings)?;
            format!("mda \"procmail {}\"", file.display())
        }
    };
    let settings = format!(
        "set no syslog\nset invisible\n\
        poll {HOST} service {} protocol POP3 no uidl\n\
        user \"{}\" password \"{PASSWORD}\" is \"{}\" here\n\
        ssl sslcertck sslcertfile \"{}\"\n\
        keep fetchall no rewrite no mimedecode fetchsizelimit 0 batchlimit 0\n{delivery}\n",
        target.port,
        target.username,
        target.username,
        target.ca.display(),
    );
    let file = private_file(dir, "fetchmailrc", &settings)?;
    Ok(vec![
        "fetchmail".to_owned(),
        "--silent".to_owned(),
        "--nodetach".to_owned(),
        "--fetchmailrc".to_owned(),
        path(&file),
    ])
}

fn getmail(
    target: &Target,
    destination: Destination,
    mailbox: &Path,
    dir: &Path,
) -> anyhow::Result<Vec<String>> {
    let (format, location) = match destination {
        Destination::Memory => {
            fs::write(mailbox, "")?;
            ("Mboxrd", path(mailbox))
        }
        Destination::Maildir => ("Maildir", format!("{}/", mailbox.display())),
    };
    let user = getmail_user(mailbox)?;
    let settings = format!(
        "[retriever]\ntype = SimplePOP3SSLRetriever\nserver = {HOST}\nport = {}\n\
        username = {}\npassword = {PASSWORD}\nca_certs = {}\n\
        [destination]\ntype = {format}\npath = {location}\n{user}\
        [options]\nread_all = true\ndelete = false\ndelivered_to = false\nreceived = false\n\
        verbose = 0\n",
        target.port,
        target.username,
        target.ca.display(),
    );
    let file = private_file(dir, "getmailrc", &settings)?;
    Ok(vec![
        "getmail".to_owned(),
        format!("--getmaildir={}", dir.display()),
        format!("--rcfile={}", file.display()),
    ])
}

/// Getmail refuses to deliver as root: gives the mailbox to another user, to be named in the
/// settings.
fn getmail_user(mailbox: &Path) -> anyhow::Result<String> {
    if !Uid::effective().is_root() {
        return Ok(String::new());
    }
    let nobody = User::from_name("nobody")?.context("there is no user `nobody`")?;
    give(mailbox, &nobody)?;
    Ok(format!("user = {}\n", nobody.name))
}

fn give(path: &Path, user: &User) -> anyhow::Result<()> {
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), user)?;
        }
    }
    Ok(())
}

fn poplib(target: &Target, dir: &Path) -> anyhow::Result<Vec<String>> {
    let script = private_file(dir, "poplib_drain.py", PYTHON)?;
    Ok(vec![
        "python3".to_owned(),
        path(&script),
        HOST.to_owned(),
        target.port.to_string(),
        target.username.clone(),
        PASSWORD.to_owned(),
        path(&target.ca),
    ])
}

/// Fetchers refuse settings with a password that others can read.
fn private_file(dir: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let file = dir.join(name);
    fs::write(&file, text)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
