//! The scenarios, and the order in which everything runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    contender::{Contender, Destination},
    delay::DelayedLine,
    maildrops::{Maildrop, Maildrops, Target},
    measure::{self, Drained, Usage},
    program::{self, Synced},
    report, say,
};

const MIB: usize = 1 << 20;

/// Octets of each of many messages.
pub(crate) const SMALL: usize = 9000;

/// Each way, so that a round trip takes twice that.
pub(crate) const ONE_WAY: Duration = Duration::from_millis(25);

/// Who runs in the first round only, because it takes a minute: it starts a process for each
/// message,
const ONCE_OVER_PLAIN_LINE: &[Contender] = &[Contender::Getmail];

/// or waits for each reply before the next command,
const ONCE_OVER_DELAYED_LINE: &[Contender] =
    &[Contender::Fetchmail, Contender::Getmail, Contender::Poplib];

/// or both.
const ONCE_TO_DISK: &[Contender] = &[Contender::Fetchmail, Contender::Getmail];

/// What comes before a scenario's first round: Dovecot computes sizes when first asked for them.
const WARM_UP: Contender = Contender::Engine;

/// How much of everything.
struct Extent {
    rounds: usize,
    /// Messages over the plain line,
    many: u64,
    /// in MiB, one message each,
    large: &'static [usize],
    /// over the delayed line,
    delayed: u64,
    delayed_rounds: usize,
    /// and the many into the whole program.
    stored_rounds: usize,
}

const FULL: Extent = Extent {
    rounds: 5,
    many: 10_000,
    large: &[1, 3, 12, 48],
    delayed: 500,
    delayed_rounds: 5,
    stored_rounds: 3,
};

const QUICK: Extent = Extent {
    rounds: 1,
    many: 300,
    large: &[1, 3],
    delayed: 20,
    delayed_rounds: 1,
    stored_rounds: 1,
};

/// One drain of a maildrop by a contender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) usage: Usage,
    pub(crate) drained: Drained,
}

/// All rounds of one scenario.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) maildrop: Maildrop,
    pub(crate) destination: Destination,
    /// Of each contender, its runs in the order of rounds.
    pub(crate) runs: Vec<(Contender, Vec<Run>)>,
}

/// Everything that was measured.
#[derive(Clone, Debug)]
pub(crate) struct Outcomes {
    pub(crate) many: Outcome,
    /// From small to large.
    pub(crate) large: Vec<Outcome>,
    pub(crate) delayed: Outcome,
    pub(crate) synced: Vec<Synced>,
    /// Beside `synced`, in the same rounds.
    pub(crate) stored: Outcome,
}

/// Measures everything and writes the Markdown.
pub(crate) fn full(results: &Path) -> anyhow::Result<()> {
    let started = Instant::now();
    let outcomes = all(&FULL, started)?;
    fs::write(results, report::markdown(&outcomes))?;
    say(started, &format!("wrote {}", results.display()));
    Ok(())
}

/// Measures little of everything and prints the Markdown.
pub(crate) fn quick() -> anyhow::Result<()> {
    let outcomes = all(&QUICK, Instant::now())?;
    println!("\n{}", report::markdown(&outcomes));
    Ok(())
}

#[tokio::main]
async fn all(extent: &Extent, started: Instant) -> anyhow::Result<Outcomes> {
    let dir = TempDir::with_prefix("popbridge-bench-")?;
    let memory = memory_dir()?;
    for dir in [&dir, &memory] {
        // Dovecot's and Postgres's unprivileged processes pass through.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
    }
    let large: Vec<String> = extent.large.iter().map(|mib| format!("mib{mib}")).collect();
    let mut usernames: Vec<&str> = large.iter().map(String::as_str).collect();
    usernames.extend(["many", "delayed"]);
    let dovecot_dir = dir.path().join("dovecot");
    fs::create_dir(&dovecot_dir)?;
    let maildrops = Maildrops::start(&dovecot_dir, &usernames).await?;
    let bench = Bench {
        started,
        maildrops,
        contenders: Contender::ALL
            .into_iter()
            .filter(|contender| contender.version().is_some())
            .collect(),
        memory: memory.path().to_owned(),
        disk: dir.path().join("disk"),
    };
    say(started, "filling maildrops");
    let many = bench.maildrops.fill("many", extent.many, SMALL)?;
    let delayed = bench.maildrops.fill("delayed", extent.delayed, SMALL)?;
    let mut outcomes = Vec::new();
    let many_drained = bench.over_plain_line(&many, extent.rounds).await?;
    for (username, mib) in large.iter().zip(extent.large) {
        let maildrop = bench.maildrops.fill(username, 1, mib * MIB)?;
        outcomes.push(bench.over_plain_line(&maildrop, extent.rounds).await?);
    }
    let delayed = bench
        .over_delayed_line(&delayed, extent.delayed_rounds)
        .await?;
    let (synced, stored) = bench.stored(&many, extent.stored_rounds).await?;
    Ok(Outcomes {
        many: many_drained,
        large: outcomes,
        delayed,
        synced,
        stored,
    })
}

struct Bench {
    started: Instant,
    maildrops: Maildrops,
    contenders: Vec<Contender>,
    memory: PathBuf,
    disk: PathBuf,
}

impl Bench {
    async fn over_plain_line(&self, maildrop: &Maildrop, rounds: usize) -> anyhow::Result<Outcome> {
        let target = self.maildrops.target(maildrop);
        self.drain(maildrop, &target, rounds, ONCE_OVER_PLAIN_LINE)
            .await
    }

    async fn over_delayed_line(
        &self,
        maildrop: &Maildrop,
        rounds: usize,
    ) -> anyhow::Result<Outcome> {
        let target = self.maildrops.target(maildrop);
        let line = DelayedLine::to(target.port, ONE_WAY).await?;
        let target = Target {
            port: line.port(),
            ..target
        };
        self.drain(maildrop, &target, rounds, ONCE_OVER_DELAYED_LINE)
            .await
    }

    async fn drain(
        &self,
        maildrop: &Maildrop,
        target: &Target,
        rounds: usize,
        once: &[Contender],
    ) -> anyhow::Result<Outcome> {
        let destination = Destination::Memory;
        let plain = self.maildrops.target(maildrop);
        self.run(WARM_UP, maildrop, &plain, destination).await?;
        let mut runs: Vec<_> = self.contenders.iter().map(|c| (*c, Vec::new())).collect();
        for round in 0..rounds {
            for turn in 0..runs.len() {
                let at = (turn + round) % runs.len();
                let (contender, runs) = &mut runs[at];
                if round > 0 && once.contains(contender) {
                    continue;
                }
                let run = self.run(*contender, maildrop, target, destination).await?;
                self.tell(maildrop, round, contender.name(), run.usage.elapsed_ms);
                runs.push(run);
            }
        }
        Ok(Outcome {
            maildrop: maildrop.clone(),
            destination,
            runs,
        })
    }

    /// The whole program, beside those fetchers that can deliver to disk.
    async fn stored(
        &self,
        maildrop: &Maildrop,
        rounds: usize,
    ) -> anyhow::Result<(Vec<Synced>, Outcome)> {
        let destination = Destination::Maildir;
        let target = self.maildrops.target(maildrop);
        let mut synced = Vec::new();
        let mut runs: Vec<_> = [Contender::Mpop, Contender::Getmail, Contender::Fetchmail]
            .into_iter()
            .filter(|contender| self.contenders.contains(contender))
            .map(|contender| (contender, Vec::new()))
            .collect();
        for round in 0..rounds {
            let dir = fresh(&self.disk)?;
            let sync = program::first_sync(&self.maildrops, maildrop, &dir).await?;
            self.tell(maildrop, round, "popbridge", sync.elapsed_ms);
            synced.push(sync);
            for (contender, runs) in &mut runs {
                if round > 0 && ONCE_TO_DISK.contains(contender) {
                    continue;
                }
                let run = self.run(*contender, maildrop, &target, destination).await?;
                self.tell(maildrop, round, contender.name(), run.usage.elapsed_ms);
                runs.push(run);
            }
        }
        let maildrop = maildrop.clone();
        let outcome = Outcome {
            maildrop,
            destination,
            runs,
        };
        Ok((synced, outcome))
    }

    async fn run(
        &self,
        contender: Contender,
        maildrop: &Maildrop,
        target: &Target,
        destination: Destination,
    ) -> anyhow::Result<Run> {
        let dir = fresh(match destination {
            Destination::Memory => &self.memory,
            Destination::Maildir => &self.disk,
        })?;
        let invocation = contender.invocation(target, destination, &dir)?;
        let (said, usage) = measure::run(&invocation).await?;
        let drained = contender.received(&said, maildrop, destination, &dir)?;
        fs::remove_dir_all(dir)?;
        Ok(Run { usage, drained })
    }

    fn tell(&self, maildrop: &Maildrop, round: usize, name: &str, elapsed_ms: f64) {
        let (messages, username) = (maildrop.messages, &maildrop.username);
        let (round, seconds) = (round + 1, elapsed_ms / 1e3);
        say(
            self.started,
            &format!("{username} ({messages}), round {round}: {name} {seconds:.2} s"),
        );
    }
}

/// An empty directory `run` below this one.
fn fresh(parent: &Path) -> anyhow::Result<PathBuf> {
    let dir = parent.join("run");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// In memory where the machine has such a file system.
fn memory_dir() -> std::io::Result<TempDir> {
    let (prefix, shared) = ("popbridge-bench-", Path::new("/dev/shm"));
    if shared.is_dir() {
        TempDir::with_prefix_in(prefix, shared)
    } else {
        TempDir::with_prefix(prefix)
    }
}
