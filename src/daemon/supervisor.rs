//! Who calls jobs.
//!
//! **Invariant:** of each job there is one process of ours at most, and none is killed: it is asked to end, once.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use signal_hook::consts::SIGHUP;

use crate::config::Config;
use crate::daemon::child::{Child, Ended, this_program};
use crate::daemon::health::{Reason, Status};
use crate::daemon::notify::Notify;
use crate::daemon::taking::{self, Beginning, Read};
use crate::daemon::{Message, RECOVER, Setup, Tokens, Word, whole};
use crate::exec::record::Records;
use crate::exec::request::Requests;
use crate::plan::beat;
use crate::sys::interrupt::Interrupted;
use crate::{Error, Result};

/// How long the clock is trusted to go on evenly.
const TRUST: Duration = Duration::from_secs(5);
/// A process that is there for longer does more than to see that nothing is due.
const LOOKING: Duration = Duration::from_secs(2);

/// What a run of a job ends with that has failed, as [`crate::error::Class`] has it. Who ends with 1 or 2 may not have come to be one: that is in its record.
const OUTCOMES: std::ops::RangeInclusive<i32> = 3..=7;

/// Why a job is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It may be due.
    Minute,
    /// Somebody wants it now, and has written that down.
    Asked,
}

/// All that it knows.
pub(super) struct Supervisor {
    setup: Setup,
    config: Arc<Config>,
    file: std::path::PathBuf,
    tokens: Tokens,
    tell: Sender<Message>,
    heard: Receiver<Message>,
    notify: Notify,
    children: BTreeMap<String, Child>,
    /// When jobs were called last.
    called: Option<Timestamp>,
    stopping: bool,
    /// Why what was to be taken up last was not.
    not_taken: Option<Reason>,
    /// Since when what is to be taken up is read.
    reading: Option<Instant>,
    /// It may have become another one meanwhile.
    is_to_read_again: bool,
    /// Jobs that could not be called last time, and why.
    not_called: BTreeMap<String, String>,
    /// How often in a row a job's process has failed.
    failed: BTreeMap<String, u32>,
    deaf: Option<String>,
}

impl Supervisor {
    pub(super) fn new(
        setup: Setup,
        beginning: Beginning,
        recover: Option<Child>,
        tokens: Tokens,
        tell: Sender<Message>,
        heard: Receiver<Message>,
    ) -> Self {
        Self {
            setup,
            config: Arc::new(beginning.taken.config),
            file: beginning.taken.file,
            tokens,
            tell,
            heard,
            notify: Notify::from_env(),
            children: recover.into_iter().map(|child| (RECOVER.to_owned(), child)).collect(),
            called: None,
            stopping: false,
            not_taken: beginning.not_taken,
            reading: beginning.reading,
            is_to_read_again: false,
            not_called: BTreeMap::new(),
            failed: BTreeMap::new(),
            deaf: None,
        }
    }

    /// Until it is told to end, and all jobs have.
    pub(super) fn run(mut self) -> Result<()> {
        self.notify.ready(&self.says());
        loop {
            let now = Timestamp::now();
            if !self.stopping && beat::is_time(self.called, now) {
                self.called = Some(now);
                self.call_all();
            }
            self.notify.status(&self.says());
            self.notify.alive();
            let most = self.notify.beat().map_or(TRUST, |beat| beat.min(TRUST));
            match self.heard.recv_timeout(beat::wait(now, most)) {
                Ok(message) => self.hear(message)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if self.stopping && self.children.is_empty() {
                return Ok(());
            }
        }
    }

    fn hear(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Signal(SIGHUP) => self.take_up(),
            Message::Signal(signal) => self.stop(signal)?,
            Message::Read(read) => self.taken_up(*read),
            Message::Ended { job, how } if job == RECOVER => self.recovered(&how),
            Message::Ended { job, how } => self.ended(&job, how),
            Message::Call(job) => self.call_now(&job),
            // Whoever asked may be gone.
            Message::Status(to) => drop(to.send(self.status())),
            Message::Deaf(why) => {
                (self.setup.say)(Word::Warning(format!("nobody is listened to any more: {why}")));
                self.deaf = Some(why);
            }
        }
        Ok(())
    }

    fn call_all(&mut self) {
        let names: Vec<_> = self.config.jobs.iter().map(|job| job.name.clone()).collect();
        for name in &names {
            if !self.children.contains_key(name) {
                self.call(name, Why::Minute);
            }
        }
        self.not_called.retain(|name, _| names.contains(name));
        self.failed.retain(|name, _| names.contains(name));
    }

    /// Somebody wants it, and has written that down: a process that has looked already is followed by another one.
    fn call_now(&mut self, name: &str) {
        match self.children.get_mut(name) {
            Some(child) => child.is_wanted_again = true,
            None if self.stopping || self.config.job(name).is_err() => {}
            None => self.call(name, Why::Asked),
        }
    }

    fn call(&mut self, name: &str, why: Why) {
        let mut command = this_program();
        command.args(&self.setup.arguments).arg("--state-dir").arg(&self.setup.state_dir);
        command.args(["job", "run", "--config"]).arg(&self.file);
        let (requests, job) = (Requests::below(&self.setup.state_dir), name.to_owned());
        // What was asked for is not kept waiting as what was stopped for nothing is, and is left alone if a run has begun to do it meanwhile.
        let is_wanted = move || why == Why::Minute || requests.is_new(&job).unwrap_or(true);
        command.args((why == Why::Minute).then_some("--due")).args(["--", name]);
        let record = Records::of(&self.setup.state_dir).path(name);
        match Child::begin(name, command, is_wanted, Some(record), &self.tell) {
            Ok(child) => drop(self.children.insert(name.to_owned(), child)),
            Err(error) => self.could_not_be_called(name, whole(&error)),
        }
    }

    fn could_not_be_called(&mut self, name: &str, why: String) {
        if self.not_called.get(name) != Some(&why) {
            (self.setup.say)(Word::Warning(format!("job {name} could not be called: {why}")));
        }
        self.not_called.insert(name.to_owned(), why);
    }

    fn ended(&mut self, name: &str, how: Ended) {
        let is_wanted_again = self.children.remove(name).is_some_and(|child| child.is_wanted_again);
        match how {
            Ended::Exit(0) => drop(self.failed.remove(name)),
            Ended::Unwanted => {}
            _ if self.stopping => {}
            _ => {
                let n_failed = self.failed.entry(name.to_owned()).or_default();
                *n_failed = n_failed.saturating_add(1);
            }
        }
        match how {
            Ended::Never(why) => return self.could_not_be_called(name, why),
            Ended::Killed(signal) => {
                let signal = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                (self.setup.say)(Word::Warning(format!("job {name}: its process was ended by {signal}")));
                self.not_called.remove(name);
            }
            Ended::Unwanted => {}
            // It has said itself what was wrong, and written it down: that is the backup's state.
            Ended::Failed(_) => drop(self.not_called.remove(name)),
            Ended::Exit(code) if code == 0 || OUTCOMES.contains(&code) => drop(self.not_called.remove(name)),
            Ended::Exit(code) => {
                self.could_not_be_called(name, format!("its process has ended with exit code {code}"))
            }
        }
        // Of what it was asked for, it does what no run has begun: what a run has failed of is left to the next minute.
        if is_wanted_again {
            self.call_now(name);
        }
    }

    /// What was left stopped runs again, or it was said why not.
    fn recovered(&mut self, how: &Ended) {
        self.children.remove(RECOVER);
        if *how != Ended::Exit(0) {
            (self.setup.say)(Word::Warning("what a run has left stopped could not be started yet".into()));
        }
    }

    /// Has the configuration, and the token, read as they are now.
    fn take_up(&mut self) {
        if self.stopping {
            return;
        }
        if self.reading.is_some() {
            self.is_to_read_again = true;
            return;
        }
        self.notify.reloading();
        match taking::begin(&self.setup, false, &self.tell) {
            Ok(()) => self.reading = Some(Instant::now()),
            Err(error) => self.is_not_taken(&error),
        }
    }

    /// Takes up what was read, or keeps what was there before.
    fn taken_up(&mut self, read: Read) {
        self.reading = None;
        if self.stopping {
            return;
        }
        if std::mem::take(&mut self.is_to_read_again) {
            return self.take_up();
        }
        match read.whole() {
            Ok((taken, token)) => {
                self.config = Arc::new(taken.config);
                self.file = taken.file;
                *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = token;
                self.not_taken = None;
                // What is new may be due for long.
                self.called = None;
                let names: Vec<_> = self.config.jobs.iter().map(|job| job.name.as_str()).collect();
                let names = if names.is_empty() { "no job".to_owned() } else { names.join(", ") };
                (self.setup.say)(Word::Notice(format!("another configuration is taken up: {names}")));
                self.notify.ready(&self.says());
            }
            Err(error) => self.is_not_taken(&error),
        }
    }

    fn is_not_taken(&mut self, error: &Error) {
        let details = whole(error);
        let kept = "the configuration from before is kept, as what is there now can not be used";
        (self.setup.say)(Word::Warning(format!("{kept}: {details}")));
        self.not_taken = Some(Reason { what: kept, details });
        self.notify.ready(&self.says());
    }

    /// Asks all jobs to end, and waits; whoever asks twice does not want that.
    fn stop(&mut self, signal: i32) -> Result<()> {
        if self.stopping {
            let left: Vec<_> = self.children.keys().map(String::as_str).collect();
            let stopped = Interrupted { signal };
            return Err(Error::io("wait for the end of", left.join(", "))(stopped.into()));
        }
        self.stopping = true;
        self.notify.stopping();
        for child in self.children.values_mut() {
            child.is_wanted_again = false;
            child.end();
        }
        Ok(())
    }

    fn status(&self) -> Status {
        let mut reasons: Vec<_> = self.not_taken.iter().cloned().collect();
        if self.reading.is_some_and(|since| since.elapsed() > taking::PATIENCE) {
            let details = self.setup.config.display().to_string();
            reasons.push(Reason { what: "what is to be taken up does not answer", details });
        }
        let is_current = reasons.is_empty();
        let not_called = self.not_called.iter().map(|(name, why)| format!("{name}: {why}"));
        let details = not_called.collect::<Vec<_>>().join("; ");
        if !details.is_empty() {
            reasons.push(Reason { what: "a job could not be called", details });
        }
        if self.stopping {
            reasons.push(Reason { what: "it is about to end", details: self.at_work(Duration::ZERO) });
        }
        let (config, failed) = (self.config.clone(), self.failed.clone());
        Status { config, reasons, is_current, failed, is_stopping: self.stopping }
    }

    fn at_work(&self, for_longer_than: Duration) -> String {
        let is_one = |child: &Child| child.since.elapsed() >= for_longer_than;
        let names = self.children.iter().filter(|(_, child)| is_one(child)).map(|(name, _)| name.as_str());
        names.collect::<Vec<_>>().join(", ")
    }

    /// In one line.
    fn says(&self) -> String {
        if self.stopping {
            return format!("waits for the end of {}", self.at_work(Duration::ZERO));
        }
        let n = self.config.jobs.len();
        let mut text = format!("{n} {}", if n == 1 { "job" } else { "jobs" });
        let at_work = self.at_work(LOOKING);
        if !at_work.is_empty() {
            text += &format!("; at work: {at_work}");
        }
        for reason in self.status().reasons {
            text += &format!("; {}: {}", reason.what, reason.details);
        }
        text.extend(self.deaf.iter().map(|why| format!("; nobody is listened to any more: {why}")));
        text
    }
}
