//! What a process takes, and what it says that it drained.
//!
//! Each contender runs below a process of its own, which is otherwise idle: what the kernel then
//! says of that process's children is the contender's, with all that it started itself.

use std::{
    fmt,
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        signal::{Signal, killpg},
        time::TimeValLike,
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};

/// The slowest contender needs a fraction of it.
const DEADLINE: Duration = Duration::from_secs(300);

/// What a contender got.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Drained {
    pub(crate) messages: u64,
    pub(crate) octets: u64,
    /// From the connection to the end of the listing.
    #[serde(default)]
    pub(crate) open_ms: f64,
    /// From the first RETR to the end of the last message, where the contender is one of ours.
    #[serde(default)]
    pub(crate) drain_ms: Option<f64>,
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// What a process took, from its start to its end.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) elapsed_ms: f64,
    /// User and system time, of the process and all that it waited for.
    pub(crate) cpu_ms: f64,
    /// Of the largest process.
    pub(crate) peak_rss_kib: i64,
}

/// Runs a command and prints its [`Usage`] as the last line.
pub(crate) fn measure(command: &[String]) -> anyhow::Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command")?;
    let started = Instant::now();
    let status = std::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = usage.user_time() + usage.system_time();
    let usage = Usage {
        elapsed_ms,
        cpu_ms: cpu.num_microseconds() as f64 / 1e3,
        peak_rss_kib: usage.max_rss(),
    };
    println!("{}", serde_json::to_string(&usage)?);
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The first lines of what a contender said: one for each of its messages would be too many.
fn head(text: &str) -> String {
    text.lines()
        .take(10)
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// A command line with what it finds in its environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Invocation {
    pub(crate) command: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// Runs it under [`measure`]; what it printed, and what it took.
pub(crate) async fn run(invocation: &Invocation) -> anyhow::Result<(String, Usage)> {
    let child = Command::new(std::env::current_exe()?)
        .args(["measure", "--"])
        .args(&invocation.command)
        .envs(invocation.environment.iter().map(|(k, v)| (*k, v)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let group = Pid::from_raw(child.id().context("it just started")?.try_into()?);
    let Ok(output) = timeout(DEADLINE, child.wait_with_output()).await else {
        killpg(group, Signal::SIGKILL)?;
        bail!("{:?} did not end in time", invocation.command);
    };
    let output = output?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{:?} failed: {}{}",
            invocation.command,
            head(&stdout),
            head(&stderr)
        );
    }
    let last = stdout.lines().last().context("it says what it took")?;
    let said = stdout.trim_end().strip_suffix(last).unwrap_or_default();
    Ok((said.to_owned(), serde_json::from_str(last)?))
}
