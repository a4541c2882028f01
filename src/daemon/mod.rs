//! `cowsnap daemon`: jobs are called when they are due, where there is neither systemd nor cron ([ADR 10](../../docs/adr/0010-daemon.md)).
//!
//! It decides nothing: in every minute it calls `cowsnap job run --due JOB` for each job, as a timer would, and that is a process of its own.
//!
//! **Invariant:** nothing here opens a dataset. What hangs, crashes or leaks while it looks at disks is another process, or a thread that nobody waits for
//! without end.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, RwLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::Config;
use crate::quiesce::{self, By};
use crate::sys::interrupt;
use crate::{Error, Result};

pub mod init;
pub mod listen;

mod child;
mod copy;
mod health;
mod http;
mod measure;
mod notify;
mod supervisor;
mod taking;
mod token;

use child::Child;
use health::Status;
use listen::Address;
use supervisor::Supervisor;
use token::Token;

/// What is told to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// What goes its way.
    Notice(String),
    /// What is not as it should be.
    Warning(String),
}

/// Tells it.
pub type Say = Arc<dyn Fn(Word) + Send + Sync>;

/// Tells all that is measured of the jobs of a configuration, as Prometheus reads it. It may hang.
pub type Measure = Arc<dyn Fn(&Config) -> Result<String> + Send + Sync>;

/// What a daemon is to do.
pub struct Setup {
    /// The configuration.
    pub config: PathBuf,
    /// Where pools are registered, and everything else is.
    pub state_dir: PathBuf,
    /// Where it is spoken to.
    pub listen: Vec<Address>,
    /// Where the token is that is asked for.
    pub token_file: Option<PathBuf>,
    /// What each job is called with before `job run`.
    pub arguments: Vec<OsString>,
    /// Who tells people.
    pub say: Say,
    /// Who measures.
    pub measure: Measure,
}

/// What the supervisor hears of.
enum Message {
    /// A signal came.
    Signal(i32),
    /// A job's process is over.
    Ended { job: String, how: child::Ended },
    /// What was to be taken up is read.
    Read(Box<taking::Read>),
    /// Somebody wants that job to be called now.
    Call(String),
    /// Somebody wants to know how things are.
    Status(tokio::sync::oneshot::Sender<Status>),
    /// Nobody can speak to it any more.
    Deaf(String),
}

/// The token, which may become another one.
type Tokens = Arc<RwLock<Option<Token>>>;

/// Is the daemon until it is told to end, and its jobs have.
///
/// # Errors
/// [`Error::Busy`] if there is one with that state directory already; an address that can not be used; a configuration or a token that can not, and nothing sound
/// from before to go by. A second signal to end.
pub fn run(setup: Setup) -> Result<()> {
    let (tell, heard) = channel();
    hear_signals(&tell)?;
    let _lock = only_one(&setup.state_dir)?;
    // While no other thread makes files, or processes: it would share the mask that new sockets are made with.
    let bound =
        private(&setup).and_then(|()| setup.listen.iter().map(listen::bind).collect::<Result<Vec<_>>>());
    // Whatever becomes of the configuration, and of where it is to listen.
    let recover = recover(&setup, &tell)?;
    let bound = match bound {
        Ok(bound) => bound,
        Err(error) => {
            if recover.is_some() {
                taking::wait_for_recovery(&heard);
            }
            return Err(error);
        }
    };
    let mut beginning = taking::beginning(&setup, &tell, &heard, recover.is_some())?;
    let tokens: Tokens = Arc::new(RwLock::new(beginning.token.take()));
    for bound in &bound {
        (setup.say)(Word::Notice(format!("listens at {}", bound.place())));
    }
    let door = http::Door::new(&setup, tell.clone(), tokens.clone());
    let _sockets: Vec<_> = http::open(bound, door, &tell)?;
    Supervisor::new(setup, beginning, recover, tokens, tell, heard).run()
}

/// Where other machines can ask, a token is asked for.
fn private(setup: &Setup) -> Result<()> {
    match setup.listen.iter().find(|address| !address.is_private()) {
        Some(far) if setup.token_file.is_none() => Err(Error::Usage {
            what: format!("{far} is not this machine's alone, so who asks there has to have a token"),
            hint: Some("cowsnap daemon --token-file FILE".into()),
        }),
        _ => Ok(()),
    }
}

/// As a job's name; no job is called so.
const RECOVER: &str = "job recover";

/// Begins to start what was left stopped and nobody sees to, if there is anything.
fn recover(setup: &Setup, tell: &Sender<Message>) -> Result<Option<Child>> {
    let mut command = child::this_program();
    command.args(&setup.arguments).arg("--state-dir").arg(&setup.state_dir);
    command.args(["job", "recover", "--config"]).arg(&setup.config).arg("--");
    if let Ok(left) = quiesce::left(&setup.state_dir) {
        let nobodys: Vec<_> =
            left.into_iter().filter(|left| left.by == By::Nobody).map(|left| left.job).collect();
        if nobodys.is_empty() {
            return Ok(None);
        }
        command.args(nobodys);
    }
    Child::begin(RECOVER, command, || true, None, tell).map(Some)
}

/// From here on a signal is a message.
fn hear_signals(tell: &Sender<Message>) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(Error::io("take over", "signals"))?;
    let early = interrupt::release().filter(|early| early.signal != SIGHUP);
    // Nobody hears only when all is over.
    early.into_iter().for_each(|early| drop(tell.send(Message::Signal(early.signal))));
    let tell = tell.clone();
    spawn("signals", move || signals.forever().for_each(|signal| drop(tell.send(Message::Signal(signal)))))
}

/// Held as long as it is there: no other daemon has these jobs.
fn only_one(state_dir: &Path) -> Result<OwnedFd> {
    use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
    std::fs::create_dir_all(state_dir).map_err(Error::io("make", state_dir.display()))?;
    let path = state_dir.join("daemon.lock");
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC;
    let lock = open(&path, flags, Mode::RUSR | Mode::WUSR);
    let lock = lock.map_err(|error| Error::io("open", path.display())(error.into()))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Busy {
            what: format!("call the jobs of {}: another daemon", state_dir.display()),
            hint: "one is enough for all jobs of a configuration",
        }),
        Err(error) => Err(Error::io("lock", path.display())(error.into())),
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map(drop).map_err(Error::io("start", format!("a thread for {name}")))
}

/// An error with all its causes, in one line.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
