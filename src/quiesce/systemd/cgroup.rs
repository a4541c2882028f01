//! The processes of a unit, whatever systemd thinks of them.

use std::fs;
use std::io;
use std::path::Path;

/// Where a unit's group may lie: cgroup 2 alone, beside version 1, or version 1.
const ROOTS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

/// Those in a group and in the groups inside.
///
/// # Errors
/// Nobody can say.
pub fn processes(group: &str) -> io::Result<Vec<i32>> {
    let roots: Vec<_> = ROOTS.iter().filter(|root| Path::new(root).join("cgroup.procs").exists()).collect();
    if roots.is_empty() {
        return Err(io::Error::other("no control groups are mounted below /sys/fs/cgroup"));
    }
    let mut found = Vec::new();
    for root in roots {
        gather(&Path::new(root).join(group.trim_start_matches('/')), &mut found)?;
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn gather(group: &Path, found: &mut Vec<i32>) -> io::Result<()> {
    match fs::read_to_string(group.join("cgroup.procs")) {
        Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        Err(error) if is_gone(&error) => return Ok(()),
        // One of threads: its processes are those of the group around it.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    let inside = match fs::read_dir(group) {
        Err(error) if is_gone(&error) => return Ok(()),
        read => read?,
    };
    for entry in inside {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            gather(&entry.path(), found)?;
        }
    }
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}
