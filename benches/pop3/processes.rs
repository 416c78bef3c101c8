//! Processes of this machine, as Linux shows them in `/proc`.

use std::fs;

use anyhow::Context;

/// Linux counts processor time in these for every program, whatever the kernel's own ticks.
const TICKS_PER_SECOND: f64 = 100.0;

/// One process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    parent: u32,
    /// User and system time, its own and that of children that ended.
    pub(crate) cpu_seconds: f64,
}

/// A process and all its descendants, itself first.
pub(crate) fn tree(root: u32) -> anyhow::Result<Vec<Process>> {
    let mut others = all()?;
    let position = others.iter().position(|process| process.pid == root);
    let mut tree = vec![others.swap_remove(position.context("the process has ended")?)];
    let mut at = 0;
    while let Some(Process { pid, .. }) = tree.get(at) {
        let pid = *pid;
        tree.extend(others.extract_if(.., |process| process.parent == pid));
        at += 1;
    }
    Ok(tree)
}

fn all() -> anyhow::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended meanwhile.
        if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
            processes.extend(parse(pid, &stat));
        }
    }
    Ok(processes)
}

fn parse(pid: u32, stat: &str) -> Option<Process> {
    // The name, in parentheses, may contain anything.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<f64>());
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        cpu_seconds: ticks.sum::<Result<f64, _>>().ok()? / TICKS_PER_SECOND,
    })
}

/// The most memory that it ever had resident.
pub(crate) fn peak_rss_kib(pid: u32) -> anyhow::Result<i64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let value = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(value.context("VmHWM is missing")?.parse()?)
}
