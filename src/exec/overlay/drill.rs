//! A restore that is rehearsed: snapshots as they would be restored, shown where the data is, and a command that says whether they
//! are good. Nothing of it is left, and nothing else is written to.

use std::collections::VecDeque;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{New, Survivors, create, destroy, reap, run, unhindered};
use crate::endpoint::backup::{self, Backup};
use crate::endpoint::overlay::{Home, base, owner};
use crate::endpoint::{Dataset, Error, Result};
use crate::model::VersionRef;
use crate::model::overlay::{Mode, OverlayName};
use crate::sys::mount::MountInfo;
use crate::sys::sandbox::Sandbox;
use crate::sys::{interrupt, mount};

/// Where the command finds the first tree; `_2`, `_3` … behind it are the others'.
pub const DIR: &str = "COWSNAP_DRILL_DIR";
/// What the snapshot is called.
pub const SNAPSHOT: &str = "COWSNAP_DRILL_SNAPSHOT";

/// Into which directory the `backup_label` was put that was kept for the snapshot.
pub const BACKUP: &str = "COWSNAP_DRILL_BACKUP";

/// How much of what the command says is kept: its end.
const KEPT: usize = 64 << 10;
/// How often it is looked whether a signal has come.
const TICK: Duration = Duration::from_millis(50);
/// How long what was killed may take to end.
const DYING: Duration = Duration::from_secs(30);

/// One of the snapshots that are put back for it.
#[derive(Debug, Clone)]
pub struct Part {
    /// Whose.
    pub dataset: Dataset,
    /// Which.
    pub version: VersionRef,
    /// Where it shows; nothing is changed there for anybody else.
    pub at: PathBuf,
}

/// What is rehearsed.
#[derive(Debug)]
pub struct Drill<'a> {
    /// In the order in which the command is told of them.
    pub parts: Vec<Part>,
    /// Says whether the data is good: a program and its arguments.
    pub command: &'a [String],
    /// How long it may take.
    pub within: Duration,
    /// A line that it has to say.
    pub expect: Option<&'a str>,
    /// What a server needs that was in backup mode while the snapshots were taken.
    pub backup: Option<Backup>,
    /// What else it may reach. What is shown is added.
    pub sandbox: Sandbox,
}

/// What came of it.
#[derive(Debug)]
pub struct Drilled {
    /// Why the data is not known to be good; `None` if it is.
    pub failed: Option<String>,
    /// Whether that is because the time was over.
    pub is_late: bool,
    /// How long the command took.
    pub took: Duration,
    /// The end of what it said.
    pub said: String,
    /// How each part was put back.
    pub modes: Vec<Mode>,
}

/// Rehearses. To be called after `run::enter`, whose mounts nobody else sees. A signal ends it, and leaves nothing.
///
/// # Errors
/// A snapshot that can not be put back; a command that can not be started; a signal. That the data is not good is none.
pub fn drill(home: &Home, mut drill: Drill<'_>) -> Result<Drilled> {
    reap(home, false)?;
    let mut made = Made { home, names: Vec::new() };
    let mut modes = Vec::new();
    for part in &drill.parts {
        check_interrupt(&drill)?;
        let (mode, tree) = made.overlay_on(part)?;
        modes.push(mode);
        let shown = everywhere(&part.at).map_err(Error::io("read", "the table of mounts"))?;
        for (within, at) in shown {
            let tree = tree.join(within);
            match tree.is_dir() {
                true => drill.sandbox.shown.push((tree, at)),
                // Of the live data alone. Nothing is what a restore would have there.
                false => drill.sandbox.scratch.push(at),
            }
        }
    }
    check_interrupt(&drill)?;
    let shown: Vec<_> = drill.sandbox.shown.iter().map(|(tree, at)| backup::Shown { tree, at }).collect();
    let backup = drill.backup.as_ref().map(|backup| backup.put(&shown)).transpose()?;
    let ran = ran(&drill, backup.as_deref());
    // What came of it counts, whatever becomes of what it used.
    let gone = made.away();
    let Ran { status, took, said, has_said } = ran?;
    if let Err(error) = gone {
        tracing::warn!(%error, "what a drill used stays until the next reap");
    }
    let program = &drill.command[0];
    let failed = match status {
        None => Some(format!("{program} was not done after {:?}", drill.within)),
        Some(status) if !status.success() => Some(format!("{program}: {status}")),
        Some(_) if !has_said => {
            Some(format!("no line of what it said is {:?}", drill.expect.unwrap_or_default()))
        }
        Some(_) => None,
    };
    Ok(Drilled { failed, is_late: status.is_none(), took, said, modes })
}

fn check_interrupt(drill: &Drill<'_>) -> Result<()> {
    let subject = || drill.command.first().cloned().unwrap_or_default();
    interrupt::check().map_err(|_| Error::Interrupted { op: "rehearse with", subject: subject() })
}

/// Where the live data at `at` shows, there and elsewhere: what of it, and where.
fn everywhere(at: &Path) -> std::io::Result<Vec<(PathBuf, PathBuf)>> {
    Ok(shown_in(&mount::mounts()?, at))
}

fn shown_in(mounts: &[MountInfo], at: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut all = vec![(PathBuf::new(), at.to_owned())];
    let Some(own) = mounts.iter().rev().find(|mount| at.starts_with(&mount.dir)) else { return all };
    // What the data is called within its filesystem.
    let Ok(within) = at.strip_prefix(&own.dir) else { return all };
    let root = if within.as_os_str().is_empty() { own.root.clone() } else { own.root.join(within) };
    for mount in mounts.iter().filter(|mount| mount.device == own.device && mount.kind == own.kind) {
        if let Ok(rest) = root.strip_prefix(&mount.root) {
            all.push((PathBuf::new(), joined(&mount.dir, rest)));
        } else if let Ok(rest) = mount.root.strip_prefix(&root) {
            all.push((rest.to_owned(), mount.dir.clone()));
        }
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|(_, at)| seen.insert(at.clone()));
    all
}

fn joined(dir: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { dir.to_owned() } else { dir.join(rest) }
}

/// The overlays that a drill has. They go, however it ends.
struct Made<'a> {
    home: &'a Home,
    names: Vec<OverlayName>,
}

impl Made<'_> {
    /// A writable tree that is as the snapshot: how it is served, and where it shows.
    fn overlay_on(&mut self, part: &Part) -> Result<(Mode, PathBuf)> {
        let owner = owner::of(std::process::id())?;
        for number in 1.. {
            let name: OverlayName =
                format!("drill-{number}").parse().expect("letters, digits and a hyphen are a name");
            let entry = self.home.entry(&name);
            if entry.dir().exists() {
                continue;
            }
            let new = New {
                at: run::tree(&entry),
                name: name.clone(),
                base: base::of_snapshot(&part.dataset, &part.version)?,
                copies: 1,
                mode: None,
                owner: owner.clone(),
                durable: false,
                layers: Vec::new(),
                more: std::collections::BTreeMap::new(),
            };
            match create(self.home, &new, &mut unhindered) {
                Err(Error::Exists { .. }) => {}
                Err(error) => return Err(error),
                Ok(created) => {
                    self.names.push(name);
                    return Ok((created.record.mode, created.record.copies[0].at().to_owned()));
                }
            }
        }
        unreachable!("the numbers do not end")
    }

    /// Destroys all of them; the first error of those that can not be.
    fn away(&mut self) -> Result<()> {
        let mut done = Ok(());
        for name in self.names.drain(..).rev() {
            let gone = destroy(self.home, &name, Survivors::Leave, &mut unhindered).map(drop);
            done = done.and(gone);
        }
        done
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.away() {
            tracing::warn!(%error, "what a drill used stays until the next reap");
        }
    }
}

/// How a command ended.
struct Ran {
    /// `None` if its time was over.
    status: Option<ExitStatus>,
    took: Duration,
    said: String,
    /// Whether it said what it had to.
    has_said: bool,
}

fn ran(drill: &Drill<'_>, backup: Option<&Path>) -> Result<Ran> {
    let [program, arguments @ ..] = drill.command else {
        return Err(Error::NotFound { what: "command", subject: "to run".into(), hint: None });
    };
    let failed = |error: std::io::Error| Error::io("run", program)(error);
    let (reader, writer) = std::io::pipe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).env_clear().envs(environment(drill));
    command.envs(backup.map(|dir| (BACKUP, dir)));
    command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
    let began = Instant::now();
    let mut child = drill.sandbox.spawn(&mut command).map_err(failed)?;
    // Its ends of the pipe.
    drop(command);
    let (to, heard) = std::sync::mpsc::channel();
    let expect = drill.expect.map(str::to_owned);
    std::thread::spawn(move || to.send(Heard::of(reader, expect.as_deref())));
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break Ok(Some(status)),
            None if began.elapsed() >= drill.within => break Ok(None),
            None => {}
        }
        if let Err(error) = check_interrupt(drill) {
            break Err(error);
        }
        std::thread::sleep(TICK);
    };
    if !matches!(status, Ok(Some(_))) {
        // All that it has started goes with it, but for what waits for a disk that does not answer.
        let _ = child.kill();
        let killed = Instant::now();
        while child.try_wait().map_err(failed)?.is_none() && killed.elapsed() < DYING {
            std::thread::sleep(TICK);
        }
    }
    let took = began.elapsed();
    let heard = heard.recv_timeout(DYING).unwrap_or_default();
    let has_said = drill.expect.is_none() || heard.has_said;
    Ok(Ran { status: status?, took, said: heard.end(), has_said })
}

/// What the command is told: of this process' environment only what every program takes for granted.
fn environment(drill: &Drill<'_>) -> Vec<(String, std::ffi::OsString)> {
    let mut all: Vec<(String, std::ffi::OsString)> = ["PATH", "LANG", "TZ", "TERM"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var_os(name)?)))
        .collect();
    let home = drill.sandbox.user.as_ref().map_or(Path::new("/root"), |user| &user.home);
    all.push(("HOME".into(), home.into()));
    for (nth, part) in drill.parts.iter().enumerate() {
        let name = if nth == 0 { DIR.to_owned() } else { format!("{DIR}_{}", nth + 1) };
        all.push((name, part.at.clone().into()));
    }
    let snapshot = drill.parts.first().map(|part| part.version.name.to_string());
    all.push((SNAPSHOT.into(), snapshot.unwrap_or_default().into()));
    all
}

/// What a command says.
#[derive(Default)]
struct Heard {
    /// The end of it.
    kept: VecDeque<u8>,
    /// The line that has not ended yet, as far as it may be the one that counts.
    line: Vec<u8>,
    /// Whether one line was what it had to be.
    has_said: bool,
}

impl Heard {
    fn of(mut from: impl Read, expect: Option<&str>) -> Self {
        let (mut heard, mut buffer) = (Self::default(), vec![0; 16 << 10]);
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            heard.more(&buffer[..len], expect);
        }
        heard.line_ends(expect);
        heard
    }

    fn more(&mut self, bytes: &[u8], expect: Option<&str>) {
        self.kept.extend(bytes);
        let over = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..over);
        for &byte in bytes {
            match byte {
                b'\n' => self.line_ends(expect),
                byte if self.line.len() < KEPT => self.line.push(byte),
                // A longer one is no such line, whatever it begins with.
                _ => self.line.fill(0),
            }
        }
    }

    fn line_ends(&mut self, expect: Option<&str>) {
        let line = std::mem::take(&mut self.line);
        self.has_said |= expect.is_some_and(|expect| line.trim_ascii() == expect.trim().as_bytes());
    }

    fn end(mut self) -> String {
        String::from_utf8_lossy(self.kept.make_contiguous()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_is_said_is_kept_and_every_line_counts() {
        let heard = |said: &[u8]| {
            let heard = Heard::of(said, Some("ok"));
            let has_said = heard.has_said;
            (has_said, heard.end())
        };
        assert_eq!(heard(b"one\ntwo\n"), (false, "one\ntwo\n".into()));
        for said in [&b"a\n ok \nb\n"[..], b"ok", b"ok\r\n"] {
            assert!(heard(said).0, "{said:?}");
        }
        assert!(!heard(b"not ok\nokay\n").0);
        // It was said before the end that is kept, and what is kept begins within a line.
        let (has_said, kept) = heard(&[&b"ok\n"[..], &vec![b'a'; 3 * KEPT], b"end"].concat());
        assert_eq!((has_said, kept.len(), kept.ends_with("aend")), (true, KEPT, true));
        let long = [&b"not "[..], &vec![b' '; 2 * KEPT], b"ok\n"].concat();
        assert!(!heard(&long).0);
    }

    #[test]
    fn the_live_data_is_found_wherever_it_is_mounted() {
        let mount = |dir: &str, root: &str, device: &str| MountInfo {
            id: 0,
            parent: 0,
            groups: Vec::new(),
            device: device.into(),
            root: root.into(),
            dir: dir.into(),
            options: Vec::new(),
            kind: "btrfs".into(),
            source: PathBuf::new(),
        };
        let mounts = [
            mount("/", "/@", "0:1"),
            mount("/mnt/top", "/", "0:2"),
            mount("/var/lib/node", "/@node", "0:2"),
            mount("/var/lib/other", "/@nodes", "0:2"),
            mount("/srv/blocks", "/@node/blocks", "0:2"),
        ];
        let expected = [("", "/mnt/top/@node"), ("", "/var/lib/node"), ("blocks", "/srv/blocks")];
        let expected = expected.map(|(within, at)| (PathBuf::from(within), PathBuf::from(at)));
        assert_eq!(shown_in(&mounts, Path::new("/mnt/top/@node")), expected);
        let mut from_there = shown_in(&mounts, Path::new("/var/lib/node"));
        from_there.sort_by(|a, b| a.1.cmp(&b.1));
        let mut sorted = expected.to_vec();
        sorted.sort_by(|a, b| a.1.cmp(&b.1));
        assert_eq!(from_there, sorted);
    }
}
