//! The Markdown of `benches/RESULTS.md`.

use std::{fmt::Write as _, fs, thread};

use crate::{
    contender::{Contender, first_line},
    run::{ONE_WAY, Outcome, Outcomes, Run, SMALL},
    statistics::{least, median, most},
};

const MIB: f64 = (1 << 20) as f64;

/// Of the raw reader's throughput, what the engine is to reach.
const AIM: f64 = 0.8;

/// How far from proportional to size the time may be and still count as linear.
const LINEAR_WITHIN: f64 = 0.25;

pub(crate) fn markdown(outcomes: &Outcomes) -> String {
    let mut text = String::from(
        "# Results\n\n\
        Written by `script/bench`; what it does is in [`pop3/main.rs`](pop3/main.rs). One Dovecot \
        serves all over TLS on the same machine. In each round every contender runs once, as a \
        process of its own, from its start to its end; the order turns. Who did not get every \
        message would have ended the benchmark. Times are medians, with the least and the most; \
        a ratio is the median of the rounds' ratios. *Line* is the time over which the mail itself \
        came, from the first RETR to the last terminator.\n",
    );
    facts(&mut text);
    many(&mut text, &outcomes.many);
    large(&mut text, &outcomes.large);
    delayed(&mut text, &outcomes.delayed);
    program(&mut text, outcomes);
    text
}

fn facts(text: &mut String) {
    text.push_str("\n## Machine and versions\n\n| | |\n| --- | --- |\n");
    let mut fact = |name: &str, value: Option<String>| {
        let _ = writeln!(text, "| {name} | {} |", value.as_deref().unwrap_or("—"));
    };
    fact("date", first_line("date", &["+%Y-%m-%d"]));
    fact(
        "popbridge",
        first_line("git", &["describe", "--always", "--dirty"]),
    );
    fact("processor", field("/proc/cpuinfo", "model name"));
    let cores = thread::available_parallelism().ok();
    fact("cores", cores.map(|cores| cores.to_string()));
    fact("memory", field("/proc/meminfo", "MemTotal"));
    fact("kernel", first_line("uname", &["-sr"]));
    let load = fs::read_to_string("/proc/loadavg").ok();
    let load = load.map(|load| load.split(' ').take(3).collect::<Vec<_>>().join(" "));
    fact("load at the end (1, 5, 15 min)", load);
    fact("Rust", first_line("rustc", &["--version"]));
    fact("Dovecot", first_line("dovecot", &["--version"]));
    for contender in Contender::ALL {
        if !matches!(contender, Contender::Raw | Contender::Engine) {
            let version = contender.version();
            let version = version.unwrap_or_else(|| "not installed: left out".to_owned());
            fact(contender.name(), Some(version));
        }
    }
    text.push_str("\nCommand: `script/bench`\n");
}

fn many(text: &mut String, outcome: &Outcome) {
    let count = outcome.maildrop.messages;
    let _ = writeln!(text, "\n## {count} × {SMALL} octets to memory\n");
    drains(text, outcome);
    verdict(text, outcome);
    manners(text, outcome);
}

fn large(text: &mut String, outcomes: &[Outcome]) {
    let (Some(first), Some(last)) = (outcomes.first(), outcomes.last()) else {
        return;
    };
    let size = |outcome: &Outcome| outcome.maildrop.octets as f64 / MIB;
    let _ = writeln!(text, "\n## One message of {} MiB\n", size(last));
    drains(text, last);
    verdict(text, last);
    text.push_str("\nThe line's time by size, and its throughput:\n\n| message |");
    let ours = [Contender::Engine, Contender::Raw];
    for contender in ours {
        let _ = write!(text, " {} |", contender.name());
    }
    text.push_str("\n| --- | --- | --- |\n");
    for outcome in outcomes {
        let _ = write!(text, "| {} MiB |", size(outcome));
        for contender in ours {
            let milliseconds = median(&line(outcome, contender));
            let throughput = size(outcome) / (milliseconds / 1e3);
            let _ = write!(text, " {milliseconds:.1} ms, {throughput:.0} MiB/s |");
        }
        text.push('\n');
    }
    let times = median(&line(last, Contender::Engine)) / median(&line(first, Contender::Engine));
    let sizes = size(last) / size(first);
    let linear = times <= sizes * (1.0 + LINEAR_WITHIN);
    let _ = writeln!(
        text,
        "\n{sizes:.0} times the size takes the engine {times:.1} times as long: {}.",
        if linear {
            "no more than linear"
        } else {
            "**more than linear**"
        }
    );
}

fn delayed(text: &mut String, outcome: &Outcome) {
    let (count, trip) = (outcome.maildrop.messages, 2 * ONE_WAY.as_millis());
    let _ = writeln!(
        text,
        "\n## {count} × {SMALL} octets over a line with a {trip} ms round trip\n\n\
        A relay hands every octet on {} ms later, each way, and limits nothing else.\n",
        ONE_WAY.as_millis()
    );
    drains(text, outcome);
    verdict(text, outcome);
}

fn program(text: &mut String, outcomes: &Outcomes) {
    let (synced, stored) = (&outcomes.synced, &outcomes.stored);
    let (count, messages) = (stored.maildrop.messages, stored.maildrop.messages as f64);
    let _ = writeln!(
        text,
        "\n## {count} × {SMALL} octets, the whole program\n\n\
        `popbridge serve` with its own Postgres and everything at its default: from the \
        mailbox's registration over HTTP until all is stored, parsed and committed. Beside it \
        fetchers that write a Maildir to the same disk.\n\n\
        | | seconds | messages/s | time ÷ popbridge's | CPU seconds | peak MiB |\n\
        | --- | --- | --- | --- | --- | --- |"
    );
    let own: Vec<f64> = synced.iter().map(|sync| sync.elapsed_ms).collect();
    let cpu: Vec<f64> = synced.iter().map(|sync| sync.cpu_ms).collect();
    let postgres: Vec<f64> = synced.iter().map(|sync| sync.postgres_cpu_ms).collect();
    let rss: Vec<f64> = synced.iter().map(|sync| sync.peak_rss_kib as f64).collect();
    let _ = writeln!(
        text,
        "| popbridge | {} | {:.0} | 1 | {:.2}, and Postgres {:.2} | {:.0}, without Postgres |",
        spread(&own),
        messages / (median(&own) / 1e3),
        median(&cpu) / 1e3,
        median(&postgres) / 1e3,
        median(&rss) / 1024.0,
    );
    for (contender, runs) in &stored.runs {
        let elapsed = elapsed(runs);
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:.2} | {:.2} | {:.0} |",
            contender.name(),
            spread(&elapsed),
            messages / (median(&elapsed) / 1e3),
            median(&ratios(&elapsed, &own)),
            cpu_seconds(runs),
            rss_mib(runs),
        );
    }
    manners(text, stored);
}

/// A table of all contenders.
fn drains(text: &mut String, outcome: &Outcome) {
    text.push_str(
        "| | seconds | MB/s | time ÷ engine's | time ÷ raw reader's | line, seconds | CPU seconds \
        | peak MiB |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let engine = elapsed_of(outcome, Contender::Engine);
    let raw = elapsed_of(outcome, Contender::Raw);
    for (contender, runs) in &outcome.runs {
        let elapsed = elapsed(runs);
        let line = line(outcome, *contender);
        let line = if line.is_empty() {
            "—".to_owned()
        } else {
            spread(&line)
        };
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} | {:.2} | {:.2} | {line} | {:.2} | {:.0} |",
            contender.name(),
            spread(&elapsed),
            outcome.maildrop.octets as f64 / 1e3 / median(&elapsed),
            median(&ratios(&elapsed, &engine)),
            median(&ratios(&elapsed, &raw)),
            cpu_seconds(runs),
            rss_mib(runs),
        );
    }
}

/// Whether the aim is met, on the line and from start to end.
fn verdict(text: &mut String, outcome: &Outcome) {
    let share = |times: fn(&Outcome, Contender) -> Vec<f64>| {
        median(&ratios(
            &times(outcome, Contender::Raw),
            &times(outcome, Contender::Engine),
        ))
    };
    let (on_line, in_all) = (share(line), share(elapsed_of));
    let _ = writeln!(
        text,
        "\nOf the raw reader's throughput the engine gets {:.0} % on the line: the aim of {:.0} % \
        is {}. From start to end, with login and listing, it is {:.0} %.",
        on_line * 100.0,
        AIM * 100.0,
        if on_line >= AIM { "met" } else { "**not met**" },
        in_all * 100.0,
    );
}

fn manners(text: &mut String, outcome: &Outcome) {
    text.push('\n');
    for (contender, _) in &outcome.runs {
        let manner = contender.manner(outcome.destination);
        let _ = writeln!(text, "- {}: {manner}", contender.name());
    }
}

fn elapsed(runs: &[Run]) -> Vec<f64> {
    runs.iter().map(|run| run.usage.elapsed_ms).collect()
}

fn elapsed_of(outcome: &Outcome, contender: Contender) -> Vec<f64> {
    elapsed(runs_of(outcome, contender))
}

/// Milliseconds on the line of each run; empty where the contender does not say.
fn line(outcome: &Outcome, contender: Contender) -> Vec<f64> {
    let runs = runs_of(outcome, contender).iter();
    runs.filter_map(|run| run.drained.drain_ms).collect()
}

fn runs_of(outcome: &Outcome, contender: Contender) -> &[Run] {
    let found = outcome.runs.iter().find(|(other, _)| *other == contender);
    found.map_or(&[], |(_, runs)| runs)
}

fn cpu_seconds(runs: &[Run]) -> f64 {
    let values: Vec<f64> = runs.iter().map(|run| run.usage.cpu_ms / 1e3).collect();
    median(&values)
}

fn rss_mib(runs: &[Run]) -> f64 {
    let values: Vec<f64> = runs
        .iter()
        .map(|run| run.usage.peak_rss_kib as f64)
        .collect();
    median(&values) / 1024.0
}

/// Round by round.
fn ratios(times: &[f64], of: &[f64]) -> Vec<f64> {
    times.iter().zip(of).map(|(time, of)| time / of).collect()
}

/// Median, least and most of milliseconds, in seconds.
fn spread(milliseconds: &[f64]) -> String {
    if let [once] = milliseconds {
        return format!("{:.3} (one run)", once / 1e3);
    }
    let [median, least, most] = [median, least, most].map(|of| of(milliseconds) / 1e3);
    format!("{median:.3} ({least:.3}–{most:.3})")
}

/// Value of the first line `name : value`.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_matches([' ', '\t', ':']).to_owned())
}
