//! The configuration and the token are read by a thread of its own: the disk that they are on may not answer, and jobs are called all the same.

use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use signal_hook::consts::SIGHUP;

use crate::daemon::copy::{self, Taken};
use crate::daemon::health::Reason;
use crate::daemon::token::Token;
use crate::daemon::{Message, RECOVER, Setup, Word, spawn, whole};
use crate::sys::interrupt::Interrupted;
use crate::{Error, Result};

/// After that time what is read is said not to answer; where there is a copy, it is gone by meanwhile.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What was read.
pub(super) struct Read {
    /// Nothing is taken if the token can not be, too, unless it is to be taken all the same.
    taken: Option<Result<Taken>>,
    token: Result<Option<Token>>,
}

impl Read {
    /// All of it, or why not.
    pub(super) fn whole(self) -> Result<(Taken, Option<Token>)> {
        let (token, none) =
            (self.token?, || Error::io("read", "the configuration")(ErrorKind::NotFound.into()));
        Ok((self.taken.ok_or_else(none)??, token))
    }
}

/// Has it read; the answer is a [`Message::Read`]. The configuration is taken `without_token`, too, if that is so.
///
/// # Errors
/// There can be no more threads.
pub(super) fn begin(setup: &Setup, without_token: bool, tell: &Sender<Message>) -> Result<()> {
    let (config, state_dir) = (setup.config.clone(), setup.state_dir.clone());
    let (token_file, tell) = (setup.token_file.clone(), tell.clone());
    spawn("configuration", move || {
        let token = token_file.as_deref().map(Token::read).transpose();
        let taken = (token.is_ok() || without_token).then(|| copy::take(&config, &state_dir));
        // Nobody hears only when all is over.
        drop(tell.send(Message::Read(Box::new(Read { taken, token }))));
    })
}

/// What a daemon goes by from its first moment on.
pub(super) struct Beginning {
    pub taken: Taken,
    pub token: Option<Token>,
    /// Why it is not what is there now.
    pub not_taken: Option<Reason>,
    /// Since when it is read, and does not answer.
    pub reading: Option<Instant>,
}

/// What is there, or else the copy of what was sound last. What else is heard meanwhile is heard again. A daemon that can not be begun waits for the end of what
/// starts what is stopped, if that `recovers`.
///
/// # Errors
/// What is there can not be used, and there is no copy.
pub(super) fn beginning(
    setup: &Setup,
    tell: &Sender<Message>,
    heard: &Receiver<Message>,
    recovers: bool,
) -> Result<Beginning> {
    let before = copy::last(&setup.config, &setup.state_dir);
    let since = Instant::now();
    begin(setup, before.is_some(), tell)?;
    let mut other = Vec::new();
    let read = loop {
        // Where there is nothing to go by, there is nothing else to do.
        let most =
            if before.is_some() { PATIENCE.saturating_sub(since.elapsed()) } else { Duration::from_secs(60) };
        match heard.recv_timeout(most) {
            Ok(Message::Read(read)) => break Some(*read),
            Ok(Message::Signal(signal)) if before.is_none() && signal != SIGHUP => {
                return Err(Error::io("read", setup.config.display())(Interrupted { signal }.into()));
            }
            Ok(message) => other.push(message),
            Err(RecvTimeoutError::Timeout) if before.is_none() => {}
            Err(_) => break None,
        }
    };
    let beginning = chosen(setup, read, before, since);
    if beginning.is_err() && recovers && !other.iter().any(is_its_end) {
        wait_for_recovery(heard);
    }
    // Nobody hears only when all is over.
    other.into_iter().for_each(|message| drop(tell.send(message)));
    beginning
}

fn is_its_end(message: &Message) -> bool {
    matches!(message, Message::Ended { job, .. } if job == RECOVER)
}

/// A daemon that can not be begun ends when what was stopped is started: in a container nothing outlives it.
pub(super) fn wait_for_recovery(heard: &Receiver<Message>) {
    while !heard.recv().is_ok_and(|message| is_its_end(&message)) {}
}

fn chosen(setup: &Setup, read: Option<Read>, before: Option<Taken>, since: Instant) -> Result<Beginning> {
    let Some(before) = before else {
        let none = || Error::io("read", setup.config.display())(ErrorKind::TimedOut.into());
        let (taken, token) = read.ok_or_else(none)?.whole()?;
        return Ok(Beginning { taken, token, not_taken: None, reading: None });
    };
    let (taken, token, what, details, reading) = match read {
        None => (before, None, LATE, setup.config.display().to_string(), Some(since)),
        Some(Read { taken, token }) => match (taken, token) {
            (Some(Ok(taken)), Ok(token)) => {
                return Ok(Beginning { taken, token, not_taken: None, reading: None });
            }
            (Some(Ok(taken)), Err(error)) => (taken, None, TOKENLESS, whole(&error), None),
            (Some(Err(error)), token) => (before, token.ok().flatten(), COPY, whole(&error), None),
            (None, token) => (before, token.ok().flatten(), COPY, String::new(), None),
        },
    };
    (setup.say)(Word::Warning(format!("{what}: {details}")));
    Ok(Beginning { taken, token, not_taken: Some(Reason { what, details }), reading })
}

const LATE: &str = "jobs are called by a copy of the configuration that was sound last, as what is there now does not answer";
const COPY: &str = "jobs are called by a copy of the configuration that was sound last, as what is there now can not be used";
const TOKENLESS: &str = "nobody has the token, as its file can not be used";
