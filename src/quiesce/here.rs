//! Who is at work for a job among the processes that this one sees: in a container, those that end with its first. Others, with the same state directory, outlive
//! it.

use std::fs;
use std::path::Path;

use crate::quiesce::Leases;

/// What a process of this program does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Does {
    /// It runs these jobs.
    Run(String),
    /// It starts what a run of that job leaves stopped.
    Guard(String),
    /// It starts what runs have left stopped.
    Recover,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtWork {
    /// Its number.
    pub pid: i32,
    /// What it does.
    pub does: Does,
}

/// All that are there.
pub fn at_work() -> Vec<AtWork> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let one = |pid: i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(AtWork { pid, does: does(&words)? })
    };
    pids.filter_map(one).collect()
}

/// Of a command line, as `/proc` has it.
fn does(line: &[u8]) -> Option<Does> {
    let line = String::from_utf8_lossy(line);
    let words: Vec<_> = line.split_terminator('\0').collect();
    // The program's name is its own, or `/proc/self/exe`.
    let is_own = words.first().is_some_and(|first| first.ends_with("cowsnap") || *first == "/proc/self/exe");
    let nth =
        words.windows(2).position(|two| two[0] == "job" && ["run", "guard", "recover"].contains(&two[1]))?;
    let last = || words.last().map(|&last| last.to_owned());
    match words[nth + 1] {
        _ if !is_own => None,
        "recover" => Some(Does::Recover),
        "guard" => last().map(Does::Guard),
        _ => last().map(Does::Run),
    }
}

/// The services that somebody here is to start again, each in words, and with its job.
pub fn to_be_started(state_dir: &Path) -> Vec<String> {
    let (leases, all) = (Leases::there(state_dir), at_work());
    let is_guarded = |job: &str| {
        all.iter().any(|one| one.does == Does::Recover || matches!(&one.does, Does::Guard(its) if its == job))
    };
    let told = |job: String| {
        let lease = match leases.read(&job) {
            Ok(None) => return None, // It is over since.
            read => read.ok(),
        };
        let lease = lease.flatten();
        let named = lease.iter().flat_map(|lease| [&lease.run, &lease.guard]).flatten();
        let is_there = named.into_iter().any(|process| matches!(process.open(), Ok(Some(_))));
        let services: Vec<_> =
            lease.iter().flat_map(|lease| lease.services()).map(ToString::to_string).collect();
        (is_there || is_guarded(&job)).then(|| format!("{} of job {job}", services.join(", ")))
    };
    leases.jobs().unwrap_or_default().into_iter().filter_map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_this_program_is_told_by_its_words() {
        let of = |line: &str| does(format!("{}\0", line.replace(' ', "\0")).as_bytes());
        let run = Some(Does::Run("node".into()));
        assert_eq!(of("cowsnap --state-dir /x job run --config /x/config.toml --due -- node"), run);
        assert_eq!(of("/usr/bin/cowsnap job run node"), run);
        assert_eq!(of("/proc/self/exe --state-dir /x job guard node"), Some(Does::Guard("node".into())));
        assert_eq!(of("cowsnap --state-dir /x job recover"), Some(Does::Recover));
        for other in ["", "cowsnap daemon", "cowsnap job request node", "vi job run", "cowsnap snapshot job"]
        {
            assert_eq!(of(other), None, "{other}");
        }
        assert!(at_work().iter().all(|one| one.pid > 0));
    }
}
