//! The side that asks: a dataset on another machine.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::aside;
use super::line::{DataOut, Line, Patience};
use super::message::{Ready, Refusal, Request, Said, Sending, Sent, Taken};
use crate::endpoint::any::check_relative;
use crate::endpoint::{Dataset, Error, History, Result};
use crate::error::Class;
use crate::model::{Guid, HoldTag, Inventory, PeerAddress, VersionRef};
use crate::stream::container::{Backend, Prefix};
use crate::stream::wire::Kind;
use crate::sys::child;
use crate::sys::interrupt::{self, Timely};

/// How a peer is reached.
#[derive(Debug, Clone)]
pub struct Ssh {
    /// The program and its first arguments: `ssh` with what it is configured to do; for a target on this machine, what serves.
    pub program: Vec<String>,
    /// What is run there.
    pub remote: String,
    /// How long to wait for it.
    pub patience: Patience,
    /// Nobody is asked for a password, it is given up if it does not connect in that time, and it ends with the thread that connects; `None`: as it is configured.
    pub unattended: Option<Duration>,
    /// Hears what the program prints for a person: a line each, with who it is of, and nothing in it that acts on a terminal.
    pub hear: fn(&str),
}

impl Default for Ssh {
    /// What is printed is logged.
    fn default() -> Self {
        Self {
            program: vec!["ssh".into()],
            remote: "cowsnap serve".into(),
            patience: Patience::default(),
            unattended: None,
            hear: |line| tracing::warn!("{line}"),
        }
    }
}

impl Ssh {
    /// The command for that peer. Nothing of the target is in it.
    fn command(&self, address: &PeerAddress) -> Command {
        let (program, first) = self.program.split_first().expect("a program has a name");
        let mut command = Command::new(program);
        command.args(first);
        if !address.is_aside() {
            command.arg("-T");
            if let Some(within) = self.unattended {
                let seconds = within.as_secs().max(1);
                command.args(["-o", "BatchMode=yes", "-o", &format!("ConnectTimeout={seconds}")]);
            }
            if let Some(port) = address.port() {
                command.arg("-p").arg(port.to_string());
            }
            command.arg("--").arg(address.login()).arg(&self.remote);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.unattended.is_some() {
            // Without a terminal, what it starts can not ask there either.
            child::own_session(&mut command);
            child::bind(&mut command, &[]);
        }
        command
    }
}

/// `ssh`, or who serves on this machine: ended with the value, or left to itself if the kernel does not let it end.
struct Running {
    child: Child,
    listener: JoinHandle<()>,
    /// Whether it was given up, as nothing moved for too long.
    hangs: Arc<AtomicBool>,
    /// Whether a stream to it was cut, so that it makes durable what has come of that.
    keeps: AtomicBool,
    /// How long it is given for that.
    to_keep: Duration,
}

/// How long to wait for who has nothing to do any more.
const GRACE: Duration = Duration::from_secs(2);
/// How often to look again.
const NAP: Duration = Duration::from_millis(20);
/// How many times to look whether all was heard of a program that has ended: another may still have its standard error.
const LAST_WORDS: usize = 10;

impl Running {
    /// Hands on what the program prints for a person, as long as it does.
    fn new(mut child: Child, host: &str, hear: fn(&str)) -> Result<Self> {
        let (said, name) = (child.stderr.take(), host.to_owned());
        let listen = move || {
            if let Some(said) = said {
                aside::hand_on(&name, said, hear);
            }
        };
        match std::thread::Builder::new().name("listen".into()).spawn(listen) {
            Ok(listener) => Ok(Self {
                child,
                listener,
                hangs: Arc::default(),
                keeps: AtomicBool::new(false),
                to_keep: Duration::ZERO,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(Error::io("listen to", host)(error))
            }
        }
    }

    fn end(&mut self) {
        // Others may use its connection: it is ended only if it does not end by itself, now that nothing more is said.
        if self.ends_within(GRACE) || self.is_keeping() && self.has_kept() {
            return;
        }
        let _ = self.child.kill();
        // Who waits for a disk that hangs does not end: that is not waited for.
        if !self.ends_within(GRACE) {
            tracing::warn!("process {} waits within the kernel and does not end", self.child.id());
        }
    }

    fn is_keeping(&self) -> bool {
        self.keeps.load(Ordering::Relaxed) && !self.hangs.load(Ordering::Relaxed)
    }

    /// Whether it ends once it has made durable what had come, which may be much to write.
    fn has_kept(&mut self) -> bool {
        tracing::warn!("what has come is made durable at the target; one more signal ends that at once");
        self.ends_within(self.to_keep)
    }

    fn ends_within(&mut self, limit: Duration) -> bool {
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begun.elapsed() >= limit {
                return false;
            }
            std::thread::sleep(NAP);
        }
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
        for _ in 0..LAST_WORDS {
            if self.listener.is_finished() {
                return;
            }
            std::thread::sleep(NAP);
        }
    }
}

/// What is known here of a dataset that another process works on, whether it is there yet or not.
#[derive(Clone)]
struct StandsFor {
    lasting_name: (String, String),
    backend: Option<Backend>,
}

/// A dataset on another machine, or on this one in the hands of another process. Clones share one connection.
#[derive(Clone)]
pub struct Peer {
    address: PeerAddress,
    by: Arc<Ssh>,
    line: Line,
    stands_for: Option<StandsFor>,
    ssh: Arc<Running>,
}

impl Peer {
    /// Connects, and finds `cowsnap serve` there.
    ///
    /// # Errors
    /// [`Error::Denied`] without `ssh`, or if something else answers; [`Error::Remote`] if nobody does.
    pub fn connect(address: &PeerAddress, ssh: &Ssh) -> Result<Self> {
        let with = address.whom().to_owned();
        let mut child = ssh.command(address).spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Denied {
                op: "talk to",
                subject: with.clone(),
                lacking: format!("{} is not installed", ssh.program[0]),
                hint: (!address.is_aside()).then(|| "apt install openssh-client".into()),
            },
            _ => Error::io("run", &ssh.program[0])(error),
        })?;
        let piped = "it was asked to be piped";
        let (input, output) = (child.stdout.take().expect(piped), child.stdin.take().expect(piped));
        let mut running = Running::new(child, &with, ssh.hear)?;
        let Patience { silence, stall, frame, .. } = ssh.patience;
        let input = Timely::new(File::from(OwnedFd::from(input)), Some(silence));
        let output = Timely::new(File::from(OwnedFd::from(output)), stall);
        let line = Line::new(&with, input, output, ssh.patience)?;
        (running.hangs, running.to_keep) = (line.hanging(), stall.unwrap_or(frame));
        line.greet()?;
        let (address, by) = (address.clone(), Arc::new(ssh.clone()));
        Ok(Self { address, by, line, stands_for: None, ssh: Arc::new(running) })
    }

    /// The same dataset over a new connection: an error in the midst of a stream ends one.
    ///
    /// # Errors
    /// As [`Peer::connect`].
    pub fn again(&self) -> Result<Self> {
        let stands_for = self.stands_for.clone();
        Ok(Self { stands_for, ..Self::connect(&self.address, &self.by)? })
    }

    /// The same, which is `dataset` of this machine in the hands of another process.
    #[must_use]
    pub fn standing_for(self, dataset: &Dataset) -> Self {
        let backend = dataset.backend("replicate").ok();
        Self { stands_for: Some(StandsFor { lasting_name: dataset.lasting_name(), backend }), ..self }
    }

    /// As [`Dataset::lasting_name`], if that is known.
    pub fn lasting_name(&self) -> Option<(String, String)> {
        self.stands_for.as_ref().map(|known| known.lasting_name.clone())
    }

    /// Whose streams it sends and receives, there or not, if that is known without asking.
    pub fn backend(&self) -> Option<Backend> {
        self.stands_for.as_ref().and_then(|known| known.backend)
    }

    /// The id of the process that reaches it.
    pub fn process(&self) -> u32 {
        self.ssh.child.id()
    }

    /// The same connection, and another dataset there.
    ///
    /// # Errors
    /// A target that is none.
    pub fn with_target(&self, target: &str) -> Result<Self, crate::model::BadAddress> {
        Ok(Self { address: self.address.with_target(target)?, stands_for: None, ..self.clone() })
    }

    /// The dataset that is called `relative` below this one, over the same connection.
    ///
    /// # Errors
    /// [`Error::Refused`] for a name that could lead elsewhere.
    pub fn below(&self, relative: &Path) -> Result<Self> {
        check_relative(self.address.to_string(), relative)?;
        let refused = |why: String| Error::Refused {
            op: "look at",
            subject: format!("{relative:?} below {}", self.address),
            why,
            hint: None,
        };
        let text = relative.to_str().ok_or_else(|| refused("a peer is told names that are text".into()))?;
        let target = format!("{}/{text}", self.address.target());
        self.with_target(&target).map_err(|error| refused(error.to_string()))
    }

    /// Refuses a name of a dataset inside that would act on a terminal. It is the peer's word, and no dataset of ours.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn expect_printable(&self, name: &Path) -> Result<()> {
        if !name.to_string_lossy().contains(char::is_control) {
            return Ok(());
        }
        let why = "a peer's name with control characters in it is not taken over".into();
        Err(Error::Refused {
            op: "look at",
            subject: format!("{name:?} below {}", self.address),
            why,
            hint: None,
        })
    }

    /// How the datasets inside are called behind this one's name, parents first; as the peer says it.
    ///
    /// # Errors
    /// What the peer says.
    pub fn inside(&self) -> Result<Vec<String>> {
        self.ask_soon(&Request::Inside { target: self.target() })
    }

    /// Where it is.
    pub fn address(&self) -> &PeerAddress {
        &self.address
    }

    pub(super) fn target(&self) -> String {
        self.address.target().to_owned()
    }

    pub(super) fn ask<T: serde::de::DeserializeOwned>(&self, request: &Request) -> Result<T> {
        self.say(request)?;
        self.heard()
    }

    /// What is answered to what may be hours of work elsewhere. Here, where only targets are worked on aside, it is none: what takes longer
    /// than a frame may is a disk that hangs, though the process says that it is there.
    fn heard<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        match self.address.is_aside() {
            true => self.line.heard_soon(),
            false => self.line.heard(),
        }
    }

    /// Whether it was given up, as nothing moved for too long.
    pub fn hangs(&self) -> bool {
        self.line.hangs()
    }

    /// As [`Peer::ask`], where the answer is no work.
    fn ask_soon<T: serde::de::DeserializeOwned>(&self, request: &Request) -> Result<T> {
        self.say(request)?;
        self.line.heard_soon()
    }

    fn say(&self, request: &Request) -> Result<()> {
        self.line.say(Kind::Request, request).map_err(|error| self.line.refusal().unwrap_or(error))
    }

    /// What is there; `None` if there is no such dataset.
    ///
    /// # Errors
    /// What the peer says.
    pub fn said(&self) -> Result<Option<(Inventory, Backend)>> {
        let said: Option<Said> = self.ask_soon(&Request::Inventory { target: self.target() })?;
        Ok(said.map(|said| {
            let backend = said.backend;
            (said.into_inventory(self.address.to_string()), backend)
        }))
    }

    /// Asks to bring `version` here: what was received in part there.
    ///
    /// # Errors
    /// What the peer says; [`Error::Exists`] if it has it.
    pub fn offer(&self, version: &VersionRef, base: Option<Guid>) -> Result<Offered<'_>> {
        let request = Request::Receive { target: self.target(), version: version.clone(), base };
        let Ready { prefix } = self.ask(&request)?;
        Ok(Offered { peer: self, prefix, begun: AtomicBool::new(false) })
    }

    /// Asks for a version: the container, from its beginning or from behind `behind`.
    ///
    /// # Errors
    /// What the peer says.
    pub fn fetch(&self, request: &Request) -> Result<Fetched> {
        let Sending { behind, estimate } = self.ask(request)?;
        Ok(Fetched { behind, estimate, line: self.line.clone() })
    }
}

/// A peer that waits for a stream.
pub struct Offered<'a> {
    peer: &'a Peer,
    /// What of it is there already.
    pub prefix: Option<Prefix>,
    begun: AtomicBool,
}

impl Drop for Offered<'_> {
    /// A peer that waits for what does not come is told so.
    fn drop(&mut self) {
        if !self.begun.load(Ordering::Relaxed) {
            let message = "nothing is sent".into();
            let refusal = Refusal { class: Class::Unreachable, message, causes: Vec::new(), hint: None };
            // It is gone if that can not be said.
            let _ = self.peer.line.say(Kind::Refusal, &refusal);
        }
    }
}

impl Offered<'_> {
    /// Sends what `write` writes: from behind the prefix, or from the beginning. If `write` fails before it has written anything,
    /// the peer waits on, and this can be called again.
    ///
    /// # Errors
    /// The peer's own reason if it has one, else that of `write`.
    pub fn send<T, E: Reason>(
        &self,
        behind: bool,
        write: impl FnOnce(&mut Begun) -> Result<T, E>,
    ) -> Result<(T, Taken), E> {
        let sent = self.send_all(behind, write);
        let is_cut = sent.is_err() && self.begun.load(Ordering::Relaxed);
        // Elsewhere it goes on by itself.
        self.peer.ssh.keeps.store(is_cut && self.peer.address.is_aside(), Ordering::Relaxed);
        sent
    }

    fn send_all<T, E: Reason>(
        &self,
        behind: bool,
        write: impl FnOnce(&mut Begun) -> Result<T, E>,
    ) -> Result<(T, Taken), E> {
        let line = &self.peer.line;
        let mut out = Begun { out: line.data_out(), line, behind, begun: &self.begun, cut: false };
        match write(&mut out) {
            Ok(written) => {
                out.end().map_err(|error| self.reason(E::from(error)))?;
                Ok((written, self.peer.heard()?))
            }
            Err(error) if !self.begun.load(Ordering::Relaxed) => Err(error),
            Err(error) => {
                let error = if out.cut { self.reason(error) } else { error };
                // The peer must not wait for what does not come; it is gone if that can not be said.
                let _ = line.say(Kind::Refusal, &error.refusal());
                Err(error)
            }
        }
    }

    /// What the peer said before it went, if that is why `error` happened.
    fn reason<E: Reason>(&self, error: E) -> E {
        if interrupt::pending().is_some() {
            return error;
        }
        self.peer.line.refusal().map_or(error, E::from)
    }
}

/// Why a stream ended: what can be told to a peer, and what a peer can tell.
pub trait Reason: From<Error> {
    /// As the peer is told.
    fn refusal(&self) -> Refusal;
}

/// Takes the bytes of a stream. That it begins is said before the first of them.
pub struct Begun<'a> {
    out: DataOut,
    line: &'a Line,
    behind: bool,
    begun: &'a AtomicBool,
    cut: bool, // The peer takes no more.
}

impl Begun<'_> {
    fn begin(&mut self) -> Result<()> {
        if !self.begun.swap(true, Ordering::Relaxed) {
            self.line.say(Kind::Request, &Request::Stream { behind: self.behind })?;
        }
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.begin()?;
        self.out.end()
    }
}

impl Write for Begun<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.begin().map_err(io::Error::other).and_then(|()| self.out.write(buf));
        self.cut |= written.is_err();
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.cut |= flushed.is_err();
        flushed
    }
}

/// A container that arrives.
pub struct Fetched {
    /// Whether it begins behind what was here.
    pub behind: bool,
    /// About how many bytes the whole stream will be.
    pub estimate: Option<u64>,
    line: Line,
}

impl Fetched {
    /// Its bytes.
    pub fn stream(&self) -> impl Read + Send + use<> {
        self.line.data()
    }

    /// What the peer says at the end: to be called once the stream was read to its end.
    ///
    /// # Errors
    /// What the peer says.
    pub fn end(self) -> Result<Sent> {
        self.line.heard()
    }
}

impl History for Peer {
    fn inventory(&self) -> Result<Inventory> {
        let said = self.said()?.map(|(inventory, _)| inventory);
        said.ok_or_else(|| Error::NotFound { what: "dataset", subject: self.address.to_string(), hint: None })
    }

    fn hold(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        self.ask_soon(&Request::Hold { target: self.target(), version: version.clone(), tag: tag.clone() })
    }

    fn release(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        self.ask_soon(&Request::Release { target: self.target(), version: version.clone(), tag: tag.clone() })
    }

    fn destroy(&self, version: &VersionRef) -> Result<()> {
        self.ask(&Request::Destroy { target: self.target(), version: version.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_target_reaches_the_other_shell() {
        let address: PeerAddress = "ssh://me@h:2222//srv/$(x) `y`".parse().unwrap();
        let command = Ssh::default().command(&address);
        let args: Vec<_> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
        assert_eq!(args, ["-T", "-p", "2222", "--", "me@h", "cowsnap serve"]);
    }
}
