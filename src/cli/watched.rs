//! Looking at jobs in a process of its own: a disk that hangs holds that one, and nobody who waits for this one.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::{Context, report};
use crate::sys::forked::forked;
use crate::{Error, Result};

/// What those who look in threads of their own, and give up in time, need to say so.
const MARGIN: Duration = Duration::from_secs(1);

/// Does `look`, prints what it prints, and answers its exit code; `None` if nothing was heard of it within so many seconds.
///
/// # Errors
/// An interruption; a process that can not be started or was killed; standard output that can not be written to.
pub(super) fn in_time(
    seconds: u64,
    context: &Context,
    look: impl FnOnce() -> Result<u8>,
) -> Result<Option<u8>> {
    let work = || {
        let code = look().unwrap_or_else(|error| {
            report(&error, context);
            error.class().exit_code()
        });
        let _ = io::stdout().flush();
        code
    };
    let limit = Duration::from_secs(seconds) + MARGIN;
    let Some(ended) = forked(limit, work).map_err(Error::io("look at", "jobs"))? else { return Ok(None) };
    let _ = io::stderr().write_all(&ended.errors);
    match io::stdout().write_all(&ended.output).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("write to", "standard output")(error))
        }
        _ => Ok(Some(ended.code)),
    }
}

/// As [`in_time`], for those to whom silence is an error like others.
///
/// # Errors
/// As [`in_time`]; [`Class::Unreachable`](crate::Class) for silence.
pub(super) fn or_late(
    seconds: u64,
    context: &Context,
    look: impl FnOnce() -> Result<()>,
) -> Result<ExitCode> {
    let looked = in_time(seconds, context, || look().map(|()| 0))?;
    looked.map(ExitCode::from).ok_or_else(|| {
        Error::io("look at", "jobs")(io::Error::new(io::ErrorKind::TimedOut, silence(seconds)))
    })
}

/// What is said of it.
pub(super) fn silence(seconds: u64) -> String {
    format!("nothing was heard within {seconds} s: a disk hangs")
}
