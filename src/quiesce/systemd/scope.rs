//! A process leaves the unit that it was started in, and does not end with it.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use zbus::{OwnedObjectPath, Variant};

use crate::quiesce::service::eventually;
use crate::quiesce::systemd::bus::{self, Bus};

/// How long systemd may take to move a process.
const MOVES: Duration = Duration::from_secs(20);

/// Has systemd move this process into a scope of its own, described as `what`. Nothing where systemd has not started the machine.
///
/// # Errors
/// It is where it was.
pub fn leave(what: &str) -> Result<(), String> {
    if !bus::is_there() {
        return Ok(());
    }
    let pid = std::process::id();
    // A scope whose process has gone is there as long as what that has started, and numbers come again.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = format!("cowsnap-guard-{pid}-{:x}.scope", now.as_nanos());
    let properties = vec![
        ("Description", Variant::from(what)),
        ("CollectMode", Variant::from("inactive-or-failed")),
        ("PIDs", Variant::from(vec![pid])),
    ];
    let others: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
    let body = (name.as_str(), "fail", properties, others);
    Bus::open()?.manager::<OwnedObjectPath>("StartTransientUnit", "ssa(sv)a(sa(sv))", &body)?;
    // The answer came when that was queued.
    match eventually(Some(Instant::now() + MOVES), false, || Ok(is_in(&name)))? {
        true => Ok(()),
        false => Err(format!("systemd has not moved it within {MOVES:?}")),
    }
}

fn is_in(unit: &str) -> bool {
    groups().lines().any(|line| line.ends_with(unit))
}

/// Whether this process ends with a service of systemd.
pub fn is_a_service() -> bool {
    groups().lines().any(|line| line.ends_with(".service"))
}

fn groups() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}
