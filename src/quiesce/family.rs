//! What a process has begun: it may write still when the process has ended.

use std::fs;

use crate::quiesce::process::Process;

/// Those that a process has begun, as far as the kernel says so while it is there, and those of the session and the group that it leads. Who has left both,
/// and whose parent had ended before, is nobody's.
#[derive(Debug)]
pub struct Family {
    first: i32,
    members: Vec<(i32, Process)>,
}

/// A process, as `/proc/PID/stat` has it.
#[derive(Debug, Clone, Copy)]
struct Row {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
}

impl Family {
    /// That of a process that is there.
    pub fn of(first: i32) -> Self {
        let mut family = Self { first, members: Vec::new() };
        family.grow();
        family
    }

    /// Adds who has been begun since.
    fn grow(&mut self) {
        let table = table();
        let near = near(&table);
        let is_near = |pid: i32| near.contains(&pid);
        let mut todo: Vec<i32> = self.members.iter().map(|&(pid, _)| pid).chain([self.first]).collect();
        let leads = |row: &&Row| row.session == self.first || row.group == self.first;
        let found = table.iter().filter(leads).map(|row| row.pid).collect::<Vec<_>>();
        let mut known: Vec<i32> = todo.clone();
        let mut add = |pids: Vec<i32>, todo: &mut Vec<i32>| {
            for pid in pids {
                if !known.contains(&pid) && !is_near(pid) {
                    known.push(pid);
                    todo.push(pid);
                    self.members.extend(Process::of(pid).map(|process| (pid, process)));
                }
            }
        };
        add(found, &mut todo);
        while let Some(parent) = todo.pop() {
            add(table.iter().filter(|row| row.parent == parent).map(|row| row.pid).collect(), &mut todo);
        }
    }

    /// Whether none is left, nor of those that they have begun since. What can not be asked for is there.
    pub fn is_gone(&mut self) -> bool {
        self.grow();
        self.members.retain(|(_, process)| !matches!(process.open(), Ok(None)));
        self.members.is_empty()
    }

    /// The numbers of those that were there when it was asked last.
    pub fn left(&self) -> Vec<i32> {
        self.members.iter().map(|&(pid, _)| pid).collect()
    }
}

/// This process, and all by which it was begun: who waits for itself waits for ever.
fn near(table: &[Row]) -> Vec<i32> {
    let mut near = Vec::new();
    let mut next = i32::try_from(std::process::id()).ok();
    while let Some(pid) = next.filter(|pid| !near.contains(pid)) {
        near.push(pid);
        next = table.iter().find(|row| row.pid == pid).map(|row| row.parent);
    }
    near
}

fn table() -> Vec<Row> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| row(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn row(pid: i32) -> Option<Row> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(1).map(|field| field.parse().ok());
    let mut next = || fields.next().flatten();
    Some(Row { pid, parent: next()?, group: next()?, session: next()? })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::quiesce::command;
    use crate::quiesce::service::eventually;

    #[test]
    fn who_was_begun_by_a_process_is_known_when_it_has_ended_though_it_has_a_session_of_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let (up, enough) = (folder.path().join("up"), folder.path().join("enough"));
        let waits = folder.path().join("waits");
        fs::write(&waits, format!("while [ ! -e {} ]; do sleep 0.02; done", enough.display()))
            .expect("written");
        let line = format!("setsid sh {0} & sh {0} & touch {1}; sh {0}; wait", waits.display(), up.display());
        let mut child = command::spawn(&["sh".into(), "-c".into(), line], false, None).expect("it starts");
        let first = i32::try_from(child.id()).expect("a number");
        let until = Some(Instant::now() + Duration::from_secs(30));
        let is_whole = || Ok(up.exists() && Family::of(first).left().len() >= 2);
        assert_eq!(eventually(until, false, is_whole), Ok(true));
        let mut family = Family::of(first);
        child.kill().and_then(|()| child.wait()).expect("killed");
        assert!(!family.is_gone(), "both are there still");
        fs::write(&enough, "").expect("written");
        assert_eq!(eventually(until, false, || Ok(family.is_gone())), Ok(true), "{:?}", family.left());
    }

    #[test]
    fn who_waits_is_not_waited_for() {
        let parent = row(i32::try_from(std::process::id()).expect("a number")).expect("it is there").parent;
        let own = i32::try_from(std::process::id()).expect("a number");
        assert!(!Family::of(parent).left().contains(&own));
    }
}
