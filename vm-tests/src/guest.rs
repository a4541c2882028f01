use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{Error, Finished, Payload, Result, Running, Session};

/// Putting the payload's files in their places.
const UNPACK_LIMIT: Duration = Duration::from_secs(60);

/// A machine that runs and answers.
pub struct Guest {
    /// Its QEMU if it ends with this value; `None` if it was left to run.
    child: Option<Child>,
    folder: PathBuf,
    session: Session,
}

impl Guest {
    pub(crate) fn of_child(
        mut child: Child,
        folder: PathBuf,
        payload: &Payload,
        limit: Duration,
    ) -> Result<Self> {
        let is_alive = || matches!(child.try_wait(), Ok(None));
        let session = Session::open(&folder.join("agent"), &folder.join("console"), limit, is_alive);
        let opened = session.map(|session| Self { child: None, folder: folder.clone(), session });
        match opened {
            Ok(mut guest) => {
                guest.child = Some(child);
                guest.unpack(payload)?;
                Ok(guest)
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let words = fs::read_to_string(folder.join("qemu.log")).unwrap_or_default();
                let _ = fs::remove_dir_all(&folder);
                match (error, words.is_empty()) {
                    (Error::Gone { .. }, false) => Err(Error::Program { program: "QEMU".into(), words }),
                    (error, _) => Err(error),
                }
            }
        }
    }

    /// The guest that was left to run in `folder`, with the payload as it is now.
    ///
    /// # Errors
    /// If none runs there, or it does not answer within `limit`.
    pub fn kept(folder: &Path, payload: &Payload, limit: Duration) -> Result<Self> {
        let pid = kept_pid(folder);
        let is_alive = || pid.is_some_and(|pid| test_kill_process(pid).is_ok());
        let session = Session::open(&folder.join("agent"), &folder.join("console"), limit, is_alive)?;
        let mut guest = Self { child: None, folder: folder.into(), session };
        guest.run("! mountpoint -q /payload || umount /payload", UNPACK_LIMIT)?;
        payload.write(&folder.join("payload.img"))?;
        guest.unpack(payload)?;
        Ok(guest)
    }

    /// Whether a guest that was left to run in `folder` still does.
    pub fn is_kept(folder: &Path) -> bool {
        kept_pid(folder).is_some_and(|pid| test_kill_process(pid).is_ok())
    }

    /// Ends the guest that was left to run in `folder`, if one does, and takes the folder away.
    pub fn end_kept(folder: &Path) {
        if let Some(pid) = kept_pid(folder) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = fs::remove_dir_all(folder);
    }

    fn unpack(&mut self, payload: &Payload) -> Result<()> {
        let done = self.run(&payload.unpack(), UNPACK_LIMIT)?;
        if done.code != 0 {
            return Err(Error::Program { program: "unpacking the payload".into(), words: done.text() });
        }
        Ok(())
    }

    /// Runs `script` with `sh -c` to its end, as root.
    ///
    /// # Errors
    /// [`Error::Hung`] after `limit` (the command is killed), [`Error::Gone`]. That the command failed is no error.
    pub fn run(&mut self, script: &str, limit: Duration) -> Result<Finished> {
        self.session.run(script, limit)
    }

    /// Starts `script` with `sh -c` and does not wait.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn start(&mut self, script: &str) -> Result<Running> {
        self.session.start(script)
    }

    /// The line to its agent, for commands from several threads.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Pulls the plug: no process in the guest and no cache of its kernel outlives this. Drives keep what had reached
    /// them.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = child.kill();
        let _ = child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// QEMU's process, if the one with that number is still QEMU.
fn kept_pid(folder: &Path) -> Option<Pid> {
    let pid = fs::read_to_string(folder.join("pid")).ok()?.trim().parse::<i32>().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let ours = folder.to_string_lossy().into_owned();
    String::from_utf8_lossy(&command).contains(&ours).then(|| Pid::from_raw(pid)).flatten()
}
