//! Files in a store: written while they are made, and read by ranges, ahead of who needs them.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::endpoint;
use crate::endpoint::store::{Bytes, Cause, Error as StoreError, Object, Options, Put, Store};
use crate::model::StoreUrl;
use crate::sys::interrupt;
use crate::{Error, Result};

/// How much is on its way from who writes to who uploads: so many blocks of a mebibyte.
const IN_FLIGHT: usize = 4;
const BLOCK: usize = 1 << 20;
/// How much of an object is asked for at once, and how many such pieces are on their way, or waiting to be read.
const PIECE: u64 = 8 << 20;
const AHEAD: usize = 4;
/// How often a wait looks whether it was asked to end.
const LOOK: Duration = Duration::from_millis(200);

/// A file in a store, be it there or not.
#[derive(Debug, Clone)]
pub struct Away {
    store: Store,
    key: String,
}

impl Away {
    /// What is at `url`.
    ///
    /// # Errors
    /// An address that names a store and nothing in it; a store that can not be reached so.
    pub fn at(url: &StoreUrl, options: &Options) -> Result<Self> {
        let Some((folder, key)) = url.parent() else {
            let what = format!("{url} names no file in it");
            return Err(Error::Usage { what, hint: Some(format!("{url}/NAME")) });
        };
        Ok(Self { store: Store::open(&folder, options)?, key })
    }

    /// What is called `name` in the folder at `url`.
    ///
    /// # Errors
    /// A store that can not be reached so.
    pub fn below(url: &StoreUrl, name: String, options: &Options) -> Result<Self> {
        Ok(Self { store: Store::open(url, options)?, key: name })
    }

    /// What is beside it, and is called as it is and this.
    #[must_use]
    pub fn with(&self, ending: &str) -> Self {
        Self { store: self.store.clone(), key: format!("{}{ending}", self.key) }
    }

    /// How it is called.
    pub fn name(&self) -> &str {
        &self.key
    }

    /// Where it is.
    pub fn url(&self) -> String {
        self.store.url().with_key(&self.key)
    }

    /// It without its bytes; `None` if it is not there.
    ///
    /// # Errors
    /// What the store says.
    pub fn head(&self) -> Result<Option<Object>, StoreError> {
        match self.store.head(&self.key) {
            // Who may only write may list.
            Err(denied @ StoreError::Denied { .. }) => self.listed().map_err(|_| denied),
            head => head,
        }
    }

    fn listed(&self) -> Result<Option<Object>, StoreError> {
        let mut found = None;
        self.store.list_each("", &mut |object| {
            if object.key == self.key {
                found = Some(object);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Nothing is there.
    ///
    /// # Errors
    /// [`endpoint::Error::Exists`] if something is; what the store says.
    pub fn expect_free(&self) -> Result<()> {
        match self.head()? {
            None => Ok(()),
            Some(_) => Err(self.exists().into()),
        }
    }

    fn exists(&self) -> endpoint::Error {
        let hint = Some("destroy it first, or choose another name".into());
        endpoint::Error::Exists { what: "object", subject: self.url(), hint }
    }

    /// Puts `bytes` there, where nothing is.
    ///
    /// # Errors
    /// Something that is there; what the store says.
    pub fn put(&self, bytes: Vec<u8>) -> Result<()> {
        match self.store.put_new(&self.key, Bytes::from(bytes))? {
            Put::Done => Ok(()),
            Put::Taken => Err(self.exists().into()),
        }
    }

    /// Takes away what was put, also when a signal came.
    pub fn take_away(&self) {
        // What stays is told of by who puts it anew.
        let _ = self.store.destroy_at_last(std::slice::from_ref(&self.key));
    }

    /// All of a small one; `None` if it is not there.
    ///
    /// # Errors
    /// One that is longer than `max`; what the store says.
    pub fn small(&self, max: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(&self.key, max)
    }

    /// These bytes of it.
    ///
    /// # Errors
    /// One that is not there, or ends before; what the store says.
    pub fn range(&self, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.store.get_range(&self.key, range)
    }

    /// Makes it of what `write` writes, in parts that go while it writes. Until all is written there is nothing under its name, and after an
    /// error nothing at all.
    ///
    /// # Errors
    /// Those of `write`; what the store says; something that is there by then.
    pub fn write<T>(&self, write: impl FnOnce(&mut (dyn Write + Send)) -> Result<T>) -> Result<T> {
        let (to, from) = sync_channel(IN_FLIGHT);
        let (written, sent) = thread::scope(|scope| {
            let upload = scope.spawn(|| {
                let mut incoming = Incoming { away: self, from, block: Vec::new(), at: 0, over: false };
                let sent = self.store.upload(&self.key, &mut incoming, &mut |_| {});
                if sent.is_err() && incoming.over {
                    // Nobody knows what came of its last request; before that, its name was free.
                    self.take_away();
                }
                sent
            });
            let mut outgoing = Outgoing { to, block: Vec::with_capacity(BLOCK) };
            let written = write(&mut outgoing).and_then(|done| {
                outgoing.end().map_err(Error::io("write", self.url()))?;
                Ok(done)
            });
            drop(outgoing);
            (written, upload.join().expect("an upload does not panic"))
        });
        match (written, sent) {
            (Ok(done), Ok(_)) => Ok(done),
            // Where the one ended because the other had, the other tells why.
            (Err(error), Ok(_) | Err(StoreError::Source { .. })) => Err(error),
            (Ok(_), Err(StoreError::Source { source, .. })) if is_taken(&source) => Err(self.exists().into()),
            (_, Err(error)) => Err(error.into()),
        }
    }

    /// Reads it from its beginning.
    ///
    /// # Errors
    /// One that is not there; what the store says.
    pub fn open(&self) -> Result<Ahead> {
        let Some(object) = self.head()? else {
            let what = "the object";
            return Err(StoreError::NotFound { op: "read", subject: self.url(), what }.into());
        };
        let away = self.clone();
        Ok(Ahead { away, object, next: 0, ahead: VecDeque::new(), current: Vec::new(), at: 0 })
    }
}

/// Something was put there while this was written.
fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists
}

/// Some of what is written, or its end.
enum Block {
    Bytes(Vec<u8>),
    End,
}

/// The side of who writes.
struct Outgoing {
    to: SyncSender<Block>,
    block: Vec<u8>,
}

impl Outgoing {
    fn hand_over(&mut self) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        self.to.send(Block::Bytes(block)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// All was written. Who is dropped without it has left off.
    fn end(&mut self) -> io::Result<()> {
        self.hand_over()?;
        self.to.send(Block::End).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK {
            self.hand_over()?;
        }
        let len = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The side of who uploads.
struct Incoming<'a> {
    away: &'a Away,
    from: Receiver<Block>,
    block: Vec<u8>,
    at: usize,
    over: bool,
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() && !self.over {
            match self.from.recv() {
                Ok(Block::Bytes(block)) => (self.block, self.at) = (block, 0),
                Ok(Block::End) => {
                    // An upload in parts knows no condition: somebody may have been faster.
                    if self.away.head()?.is_some() {
                        return Err(io::ErrorKind::AlreadyExists.into());
                    }
                    self.over = true;
                }
                // Not the end: who wrote has failed.
                Err(_) => return Err(io::Error::other("it was left off")),
            }
        }
        let len = buffer.len().min(self.block.len() - self.at);
        buffer[..len].copy_from_slice(&self.block[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// Reads an object, several pieces of it ahead. Its `io::Error`s hold the store's.
pub struct Ahead {
    away: Away,
    object: Object,
    next: u64,
    ahead: VecDeque<Receiver<Result<Vec<u8>, StoreError>>>,
    current: Vec<u8>,
    at: usize,
}

impl Ahead {
    fn look_ahead(&mut self) -> io::Result<()> {
        while self.ahead.len() < AHEAD && self.next < self.object.len {
            let range = self.next..(self.next + PIECE).min(self.object.len);
            self.next = range.end;
            let (sender, receiver) = sync_channel(1);
            let away = self.away.clone();
            // Who reads no further drops the receiver; what is on its way then is thrown away.
            let fetch = move || drop(sender.send(away.range(range)));
            thread::Builder::new().name("fetch".into()).spawn(fetch)?;
            self.ahead.push_back(receiver);
        }
        Ok(())
    }

    /// Makes `current` the next piece; `false` at the end.
    fn next(&mut self) -> io::Result<bool> {
        (self.current, self.at) = (Vec::new(), 0);
        self.look_ahead()?;
        let Some(first) = self.ahead.pop_front() else {
            expect_same(&self.away, &self.object)?;
            return Ok(false);
        };
        self.current = loop {
            interrupt::check()?;
            match first.recv_timeout(LOOK) {
                Ok(piece) => break piece?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("a thread that fetched a piece has ended"));
                }
            }
        };
        Ok(true)
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            if !self.next()? {
                return Ok(0);
            }
        }
        let len = buffer.len().min(self.current.len() - self.at);
        buffer[..len].copy_from_slice(&self.current[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// What was read piece by piece is of one object, `before`.
///
/// # Errors
/// [`changed`]; what the store says.
pub(super) fn expect_same(away: &Away, before: &Object) -> Result<(), StoreError> {
    match away.head()?.as_ref() == Some(before) {
        true => Ok(()),
        false => Err(changed(away)),
    }
}

/// Something else was put there meanwhile.
pub(super) fn changed(away: &Away) -> StoreError {
    let (source, hint) = (Cause("it was put anew while it was read".into()), Some("read it again".into()));
    StoreError::Refused { op: "read", subject: away.url(), source, hint }
}
