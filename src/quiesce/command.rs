//! Commands that stop, start and ask, each in a session of its own.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::sys::{child, interrupt};

/// Starts `words`, which is no shell's line. What it prints is nobody's: a service may keep it open for ever. It, and what it starts, has
/// `kept` open.
pub fn spawn(words: &[String], heard: bool, kept: Option<OwnedFd>) -> Result<Child, String> {
    let [program, arguments @ ..] = words else { return Err("there is no command".into()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
    command.stderr(if heard { Stdio::inherit() } else { Stdio::null() });
    child::own_session(&mut command);
    if let Some(kept) = kept {
        child::keep_open(&mut command, kept);
    }
    command.spawn().map_err(|error| format!("{program}: {error}"))
}

/// How long what was killed may take to end.
const DYING: Duration = Duration::from_secs(10);

/// How long until `until`.
pub fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Waits until a process has ended. `Ok(false)`: it is there still when the time is over.
pub fn ends(pidfd: impl AsFd, until: Option<Instant>, interrupted: bool) -> Result<bool, String> {
    loop {
        if interrupted {
            interrupt::check().map_err(|error| error.to_string())?;
        }
        // In short pieces, so that a signal to this process is noticed, where it is to be.
        let most = if interrupted { Duration::from_millis(500) } else { Duration::MAX };
        let piece = until.map_or(most, |until| left(until).min(most));
        // None for what is more seconds than the kernel can count.
        let time = i64::try_from(piece.as_secs())
            .ok()
            .map(|seconds| rustix::event::Timespec { tv_sec: seconds, tv_nsec: piece.subsec_nanos().into() });
        match rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], time.as_ref()) {
            Ok(0) if until.is_some_and(|until| left(until).is_zero()) => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Runs `words` to their end. `None`: it took too long, and it and all that it started in its session's first group was killed.
pub fn run(words: &[String], within: Duration, interrupted: bool) -> Result<Option<ExitStatus>, String> {
    run_with(words, within, interrupted, None, &mut || ())
}

/// As [`run`], with this added to its environment. What it prints goes where this process tells its errors.
pub fn run_told(
    words: &[String],
    environment: &[(String, String)],
    within: Duration,
    interrupted: bool,
) -> Result<Option<ExitStatus>, String> {
    let [program, arguments @ ..] = words else { return Err("there is no command".into()) };
    let mut command = Command::new(program);
    if interrupted {
        interrupt::check().map_err(|error| error.to_string())?;
    }
    let told = rustix::stdio::stderr().try_clone_to_owned().map_err(|error| error.to_string())?;
    // What a run that has called this one has told it is not about this one.
    let is_told = |name: &str| ["COWSNAP_SNAPSHOT", "COWSNAP_DATASET"].iter().any(|of| name.starts_with(of));
    let names = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_str().is_some_and(is_told));
    for name in names {
        command.env_remove(name);
    }
    command.args(arguments).envs(environment.iter().cloned()).stdin(Stdio::null()).stdout(told);
    command.current_dir("/");
    child::own_session(&mut command);
    // It is not to go on without end if nobody is there any more who would end it.
    child::bind(&mut command, &[]);
    let child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    awaited(child, within, interrupted)
}

/// As [`run`]; it, and what it starts, has `kept` open, and `spawned` is called when it has begun.
pub fn run_with(
    words: &[String],
    within: Duration,
    interrupted: bool,
    kept: Option<OwnedFd>,
    spawned: &mut dyn FnMut(),
) -> Result<Option<ExitStatus>, String> {
    let child = spawn(words, true, kept)?;
    spawned();
    awaited(child, within, interrupted)
}

/// As [`run`], with what it prints; a file holds that, so that nobody has to wait for who keeps it open.
pub fn output(words: &[String], within: Duration) -> Result<Option<(ExitStatus, String)>, String> {
    /// More is not read.
    const MOST: u64 = 64 << 10;
    let told = |error: std::io::Error| error.to_string();
    let file = memfd_create("output", MemfdFlags::CLOEXEC).map_err(|error| told(error.into()))?;
    let [program, arguments @ ..] = words else { return Err("there is no command".into()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).current_dir("/");
    command.stdout(file.try_clone().map_err(told)?);
    child::own_session(&mut command);
    let child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    let Some(status) = awaited(child, within, true)? else { return Ok(None) };
    let (mut file, mut bytes) = (File::from(file), Vec::new());
    file.rewind().and_then(|()| file.take(MOST).read_to_end(&mut bytes)).map_err(told)?;
    Ok(Some((status, String::from_utf8_lossy(&bytes).into_owned())))
}

fn awaited(mut child: Child, within: Duration, interrupted: bool) -> Result<Option<ExitStatus>, String> {
    let until = Some(Instant::now() + within);
    let pid = Pid::from_child(&child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| error.to_string())?;
    let ended = ends(&pidfd, until, interrupted);
    if ended != Ok(true) {
        // It fails only if nothing is left of the group.
        let _ = kill_process_group(pid, Signal::KILL);
        // One that waits for a disk that does not answer is not waited for.
        if ends(&pidfd, Some(Instant::now() + DYING), false) != Ok(true) {
            return ended.map(|_| None);
        }
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    ended.map(|ended| ended.then_some(status))
}
