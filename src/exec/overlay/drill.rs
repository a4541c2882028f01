//! A restore that is rehearsed: snapshots as they would be restored, shown where the data is, and a command that says whether they
//! are good. Nothing of it is left, and nothing else is written to.

use std::collections::VecDeque;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{New, Survivors, create, destroy, reap, run, unhindered};
use crate::endpoint::overlay::{Home, base, owner};
use crate::endpoint::{Dataset, Error, Result};
use crate::model::VersionRef;
use crate::model::overlay::{Mode, OverlayName};
use crate::sys::interrupt;
use crate::sys::sandbox::Sandbox;

/// Where the command finds the first tree; `_2`, `_3` … behind it are the others'.
pub const DIR: &str = "COWSNAP_DRILL_DIR";
/// What the snapshot is called.
pub const SNAPSHOT: &str = "COWSNAP_DRILL_SNAPSHOT";

/// How much of what the command says is kept: its end.
const KEPT: usize = 64 << 10;
/// How often it is looked whether a signal has come.
const TICK: Duration = Duration::from_millis(50);

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
    /// Datasets come before those within them.
    pub parts: Vec<Part>,
    /// Says whether the data is good: a program and its arguments.
    pub command: &'a [String],
    /// How long it may take.
    pub within: Duration,
    /// A line that it has to say.
    pub expect: Option<&'a str>,
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

/// Rehearses. To be called after [`run::enter`], whose mounts nobody else sees. A signal ends it, and leaves nothing.
///
/// # Errors
/// A snapshot that can not be put back; a command that can not be started; a signal. That the data is not good is none.
pub fn drill(home: &Home, mut drill: Drill<'_>) -> Result<Drilled> {
    reap(home, false)?;
    let mut made = Made { home, names: Vec::new() };
    let mut modes = Vec::new();
    for part in &drill.parts {
        let created = made.overlay_on(part)?;
        modes.push(created.0);
        drill.sandbox.shown.push((created.1, part.at.clone()));
    }
    let ran = ran(&drill);
    made.away()?;
    let Ran { status, took, said } = ran?;
    let failed = match status {
        None => Some(format!("{} was not done after {:?}", drill.command[0], drill.within)),
        Some(status) if !status.success() => Some(format!("{}: {status}", drill.command[0])),
        Some(_) => drill.expect.and_then(|line| is_unsaid(line, &said)),
    };
    Ok(Drilled { failed, is_late: status.is_none(), took, said, modes })
}

fn is_unsaid(line: &str, said: &str) -> Option<String> {
    let is_said = said.lines().any(|found| found.trim() == line.trim());
    (!is_said).then(|| format!("no line of what it said is {line:?}"))
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
}

fn ran(drill: &Drill<'_>) -> Result<Ran> {
    let [program, arguments @ ..] = drill.command else {
        return Err(Error::NotFound { what: "command", subject: "to run".into(), hint: None });
    };
    let failed = |error: std::io::Error| Error::io("run", program)(error);
    let (reader, writer) = std::io::pipe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).env_clear().envs(environment(drill));
    command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
    let began = Instant::now();
    let mut child = drill.sandbox.spawn(&mut command).map_err(failed)?;
    // Its ends of the pipe.
    drop(command);
    let heard = std::thread::spawn(move || the_end_of(reader));
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break Ok(Some(status)),
            None if began.elapsed() >= drill.within => break Ok(None),
            None => {}
        }
        if let Err(error) = interrupt::check() {
            tracing::debug!(%error, "the command is ended");
            break Err(Error::Interrupted { op: "rehearse with", subject: program.clone() });
        }
        std::thread::sleep(TICK);
    };
    if !matches!(status, Ok(Some(_))) {
        // All that it has started goes with it.
        let _ = child.kill();
        child.wait().map_err(failed)?;
    }
    let took = began.elapsed();
    let said = heard.join().unwrap_or_default();
    Ok(Ran { status: status?, took, said })
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

fn the_end_of(mut from: impl Read) -> String {
    let (mut kept, mut buffer) = (VecDeque::new(), vec![0; 16 << 10]);
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        kept.extend(&buffer[..len]);
        let over = kept.len().saturating_sub(KEPT);
        kept.drain(..over);
    }
    String::from_utf8_lossy(kept.make_contiguous()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_is_said_is_kept() {
        assert_eq!(the_end_of(&b"one\ntwo\n"[..]), "one\ntwo\n");
        let long = [vec![b'a'; 3 * KEPT], b"end".to_vec()].concat();
        let kept = the_end_of(&long[..]);
        assert_eq!((kept.len(), kept.ends_with("aend")), (KEPT, true));
    }

    #[test]
    fn a_line_has_to_be_said_as_it_is() {
        assert_eq!(is_unsaid("ok", "a\n ok \nb\n"), None);
        assert!(is_unsaid("ok", "not ok\n").is_some_and(|why| why.contains("\"ok\"")));
    }
}
