//! `script/bench`: how fast the POP3 engine drains a real Dovecot, beside other fetchers and
//! beside the most that can be had from the line.
//!
//! One Dovecot serves all, over TLS. In each round every contender runs once, as a process of its
//! own, and has to show that it got every message; the order turns from round to round, so that
//! whatever else the machine does meets all alike. Nothing is deleted.
#![expect(clippy::print_stdout, reason = "a benchmark talks to who runs it")]

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

mod contender;
mod corpus;
mod delay;
mod engine;
mod mailbox_files;
mod maildrops;
mod measure;
mod processes;
mod program;
mod raw;
mod report;
mod run;
mod statistics;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What `cargo bench` says.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Everything, some ten minutes.
    Full {
        /// Markdown file to write.
        #[arg(long)]
        results: PathBuf,
    },
    /// The same with few messages and one round: shows that the benchmark works, proves no speed.
    Quick,
    /// Runs a command and says what it took.
    #[command(hide = true)]
    Measure {
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Drains a maildrop with popbridge's engine.
    #[command(hide = true)]
    Engine(maildrops::Target),
    /// Drains a maildrop as fast as the line gives it, without a look at what comes.
    #[command(hide = true)]
    Raw(maildrops::Target),
}

fn main() -> anyhow::Result<ExitCode> {
    // Ours to choose once; whoever chose before us chose as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Arguments::parse().command {
        Command::Measure { command } => return measure::measure(&command),
        Command::Full { results } => run::full(&results)?,
        Command::Quick => run::quick()?,
        Command::Engine(target) => println!("{}", engine::drain(&target)?),
        Command::Raw(target) => println!("{}", raw::drain(&target)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// Progress, with the seconds since the start.
fn say(started: std::time::Instant, line: &str) {
    println!("[{:>4} s] {line}", started.elapsed().as_secs());
}
