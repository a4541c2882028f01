use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::image::tail;
use crate::{Error, Finished, Payload, Result, Running, Session};

/// Of a guest that did not boot: all that a kernel says.
const CONSOLE_LINES: usize = 1000;

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
        match session {
            Ok(session) => {
                let mut guest = Self { child: Some(child), folder, session };
                guest.unpack(payload)?;
                Ok(guest)
            }
            Err(error) => {
                let ended = child.try_wait().ok().flatten();
                let _ = child.kill();
                let _ = child.wait();
                let error = no_boot(&folder, ended, limit, error);
                let _ = fs::remove_dir_all(&folder);
                Err(error)
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

    /// Whether it outlives this value.
    pub fn is_left_to_run(&self) -> bool {
        self.child.is_none()
    }

    /// What QEMU has used of the host's processors since it started.
    pub fn cpu_time(&self) -> Duration {
        let pid = self.child.as_ref().map(|child| child.id().to_string());
        let pid = pid.or_else(|| kept_pid(&self.folder).map(|pid| pid.as_raw_nonzero().to_string()));
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.unwrap_or_default())).unwrap_or_default();
        // Behind the name, which may hold anything: user and system time are the 12th and 13th word, in ticks of 10 ms.
        let words = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u64 = words.skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Waits until it is off, as a guest is that was told to reboot or to power off.
    ///
    /// # Errors
    /// [`Error::Hung`] if it is not within `limit`; it is killed then.
    pub fn ends(mut self, limit: Duration) -> Result<()> {
        let began = Instant::now();
        while let Some(Ok(None)) = self.child.as_mut().map(Child::try_wait) {
            if began.elapsed() > limit {
                let console = self.folder.join("console");
                let tail = tail(&console, 40);
                return Err(Error::Hung { what: "power off".into(), limit, console, tail });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
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

/// What is known of a guest that never answered, before its folder goes.
fn no_boot(folder: &Path, ended: Option<ExitStatus>, limit: Duration, error: Error) -> Error {
    if !matches!(error, Error::Gone { .. } | Error::Hung { .. }) {
        return error;
    }
    let why = match ended {
        Some(status) => format!("QEMU ended ({status})"),
        None => format!("no answer within {} s", limit.as_secs()),
    };
    Error::NoBoot {
        why,
        console: tail(&folder.join("console"), CONSOLE_LINES),
        qemu: tail(&folder.join("qemu.log"), CONSOLE_LINES),
    }
}

/// QEMU's process, if the one with that number is still QEMU.
fn kept_pid(folder: &Path) -> Option<Pid> {
    let pid = fs::read_to_string(folder.join("pid")).ok()?.trim().parse::<i32>().ok()?;
    let ours = folder.to_string_lossy().into_owned();
    let command = command_line(pid)?;
    String::from_utf8_lossy(&command).contains(&ours).then(|| Pid::from_raw(pid)).flatten()
}

/// The words of a process; `None` if it has ended. While it becomes another program it has none, for an instant.
fn command_line(pid: i32) -> Option<Vec<u8>> {
    let read = || fs::read(format!("/proc/{pid}/cmdline")).ok();
    for _ in 0..50 {
        let words = read()?;
        if !words.is_empty() {
            return Some(words);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_that_becomes_another_program_has_its_words_all_the_time() {
        let script = "exec env env env env env env env env env env env env cat";
        for _ in 0..40 {
            let mut child = Command::new("sh")
                .args(["-c", script])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .expect("it starts");
            let pid = i32::try_from(child.id()).expect("a pid");
            let is_known = (0..200).all(|_| command_line(pid).is_some());
            drop(child.stdin.take());
            child.wait().expect("it ends");
            assert!(is_known);
        }
    }
}
