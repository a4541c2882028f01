//! Owners: processes told apart by when they started, and where.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use crate::endpoint::{Error, Result};
use crate::model::overlay::Owner;

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its parent's id; 0 if that is not to be seen.
    pub parent: u32,
    /// Its group of processes; 0 if that is not to be seen from here.
    pub group: u32,
    /// The leader of its session; 0 if that is not to be seen from here, as in a container whose shell began outside of it.
    pub session: u32,
    /// When it started, in clock ticks since the machine started, whatever this time namespace has that be.
    pub start: u64,
    /// Whether it has ended, and only waits to be asked how.
    pub ended: bool,
}

/// What is known of a process; `None` if there is none of that id.
pub fn stat_of(pid: u32) -> Option<Stat> {
    let mut stat = parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    stat.start = stat.start.saturating_add_signed(-time_offset());
    Some(stat)
}

/// Whether a process is stopped by a signal, or by who traces it.
pub fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rfind(')').and_then(|at| stat.get(at + 1..)?.split_whitespace().next());
    matches!(state, Some("T" | "t"))
}

/// How many clock ticks a process has worked, with those that it waited for; `None` if it is gone.
pub fn worked(pid: u32) -> Option<u64> {
    ticks_worked(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The fields 14 to 17 of `/proc/PID/stat`.
fn ticks_worked(stat: &str) -> Option<u64> {
    let fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    fields.skip(11).take(4).map(|field| field.parse::<u64>().ok()).sum()
}

/// Clock ticks in a second, as `/proc` counts them on every architecture that this is built for.
const TICKS: i64 = 100;

/// How many clock ticks later the machine started than this process' time namespace says.
fn time_offset() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        ticks_of(&offsets).unwrap_or(0)
    })
}

/// `boottime 3600 500000000`, in seconds and nanoseconds.
fn ticks_of(offsets: &str) -> Option<i64> {
    let mut fields = offsets.lines().find_map(|line| line.strip_prefix("boottime"))?.split_whitespace();
    let seconds: i64 = fields.next()?.parse().ok()?;
    let nanoseconds: i64 = fields.next()?.parse().ok()?;
    Some(seconds * TICKS + nanoseconds / (1_000_000_000 / TICKS))
}

/// `4711 (a name (with) anything) S 1 …`: the fields are counted behind the last parenthesis.
fn parse(stat: &str) -> Option<Stat> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X" | "x");
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    Some(Stat { parent, group, session, ended, start: fields.nth(15)?.parse().ok()? })
}

/// The process `pid` as an owner; `None` if there is none.
pub fn of(pid: u32) -> Result<Option<Owner>> {
    let Some(stat) = stat_of(pid).filter(|stat| !stat.ended) else { return Ok(None) };
    Ok(Some(Owner { pid, start: stat.start, boot: boot()?, namespace: namespace()? }))
}

/// Whoever the caller's overlays belong to if nothing else is said: the leader of its session, which is a login or a job. If that
/// is gone, or is this very process: its parent.
pub fn by_default() -> Result<Owner> {
    let own = std::process::id();
    let stat = stat_of(own);
    let session = stat.map_or(0, |stat| stat.session);
    let parent = stat.map_or(0, |stat| stat.parent);
    for pid in [session, parent].into_iter().filter(|&pid| pid != 0 && pid != own) {
        if let Some(owner) = of(pid)? {
            return Ok(owner);
        }
    }
    of(1)?
        .ok_or_else(|| Error::io("read", "/proc/1/stat")(std::io::Error::from(std::io::ErrorKind::NotFound)))
}

/// This start of the machine.
pub fn boot() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).map_err(Error::io("read", path))?.trim().to_owned())
}

/// What process ids mean here.
pub fn namespace() -> Result<u64> {
    let path = "/proc/self/ns/pid";
    Ok(fs::metadata(path).map_err(Error::io("read", path))?.ino())
}

/// The first pid namespace of the machine: `PROC_PID_INIT_INO` in the kernel.
const FIRST: u64 = 0xEFFF_FFFC;

/// The pid namespaces in which there are processes; `None` where not all are to be seen: in a namespace of one's own, or without
/// the right to look at other users' processes.
pub fn namespaces() -> Option<BTreeSet<u64>> {
    if namespace().ok()? != FIRST {
        return None;
    }
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        if !entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok())?;
        // Whoever has ended owns nothing, though nobody may have asked yet how it did.
        if stat_of(pid).is_none_or(|stat| stat.ended) {
            continue;
        }
        match fs::metadata(entry.path().join("ns/pid")) {
            Ok(meta) => drop(found.insert(meta.ino())),
            // What may not be looked at says itself in how many namespaces it has an id: of one alone, it is in this one.
            Err(_) if is_in_one(&fs::read_to_string(entry.path().join("status")).unwrap_or_default()) => {}
            Err(_) if stat_of(pid).is_none_or(|stat| stat.ended) => {}
            Err(_) => return None,
        }
    }
    Some(found)
}

/// Whether `/proc/PID/status` names one id alone: `NSpid:\t7`.
fn is_in_one(status: &str) -> bool {
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.is_some_and(|ids| ids.split_whitespace().count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_says_in_how_many_namespaces_it_has_an_id() {
        assert!(is_in_one("Name:\tx\nNSpid:\t7\n"));
        assert!(!is_in_one("NSpid:\t7\t1\n") && !is_in_one("Name:\tx\n") && !is_in_one(""));
    }

    #[test]
    fn a_process_whose_name_looks_like_fields_is_read() {
        let line = "7 (a) S (b) R 3 7 6 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1 1";
        assert_eq!(parse(line), Some(Stat { parent: 3, group: 7, session: 6, start: 987_654, ended: false }));
        let dead = parse("7 (x) Z 3 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5 1 1 1");
        assert_eq!(dead.map(|stat| stat.ended), Some(true));
        assert_eq!((parse(""), parse("7 (x) S 3")), (None, None));
    }

    #[test]
    fn a_time_namespaces_offset_is_read_in_ticks() {
        assert_eq!(ticks_of("monotonic  1 0\nboottime  3600 250000000\n"), Some(360_025));
        assert_eq!(ticks_of("boottime -2 0\n"), Some(-200));
        assert_eq!((ticks_of(""), ticks_of("boottime x 0")), (None, None));
    }

    #[test]
    fn a_process_is_its_own_owner_and_one_that_is_gone_is_none() {
        let own = of(std::process::id()).expect("read").expect("there");
        assert_eq!(own, of(std::process::id()).expect("read").expect("there"));
        let mut child = std::process::Command::new("true").spawn().expect("spawned");
        let pid = child.id();
        while !stat_of(pid).expect("not waited for").ended {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(of(pid).expect("read"), None, "one that has ended and is not waited for is gone");
        child.wait().expect("waited for");
        assert_eq!(of(pid).expect("read"), None);
        by_default().expect("somebody");
    }
}
