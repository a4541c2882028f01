//! The kernel's end: requests are read from it, answers written to it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;

use super::linger::Linger;
use super::wire::{Answer, header};
use crate::endpoint::overlay::fuse::Errno;
use crate::sys::fuse;

/// The device of one mounted filesystem.
#[derive(Debug)]
pub(super) struct Device(OwnedFd);

impl Device {
    pub(super) fn new(device: OwnedFd) -> Self {
        Self(device)
    }

    /// Reads the next request, for which a thread that is alone lingers. `None`: the filesystem is unmounted.
    pub(super) fn next(&self, buffer: &mut [u8], linger: Option<&mut Linger>) -> io::Result<Option<usize>> {
        let awake = linger.map_or(Ok(None), |linger| linger.find(|| self.try_next(buffer)))?;
        loop {
            let len = match awake {
                Some(len) => return Ok(len),
                None => rustix::io::read(&self.0, &mut *buffer),
            };
            match len {
                Ok(len) => return Ok(Some(len)),
                Err(Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None).or_else(ignore_interrupt)?;
                }
                // The one who asked was interrupted meanwhile, or we were.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(Errno::NODEV) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads the next request, if there is one. `Some(None)`: the filesystem is unmounted.
    fn try_next(&self, buffer: &mut [u8]) -> io::Result<Option<Option<usize>>> {
        match rustix::io::read(&self.0, buffer) {
            Ok(len) => Ok(Some(Some(len))),
            Err(Errno::AGAIN | Errno::NOENT | Errno::INTR) => Ok(None),
            Err(Errno::NODEV) => Ok(Some(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// From now on, who reads does not wait for a request. Whoever has the same descriptor does not, either.
    pub(super) fn do_not_block(&self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.0)?;
        Ok(rustix::fs::fcntl_setfl(&self.0, flags | OFlags::NONBLOCK)?)
    }

    /// Has the kernel read and write `file` itself.
    pub(super) fn back(self: &Arc<Self>, file: BorrowedFd<'_>) -> io::Result<Backing> {
        let id = fuser::BackingId::create_raw(self.0.as_fd(), file)?;
        Ok(Backing { device: Arc::downgrade(self), id })
    }

    /// Writes an answer. The kernel has no use for it if the one who asked was interrupted.
    fn write(&self, parts: &[IoSlice<'_>]) {
        if let Err(error) = rustix::io::writev(&self.0, parts)
            && error != Errno::NOENT
        {
            tracing::debug!(%error, "not answered");
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn ignore_interrupt(error: Errno) -> Result<usize, Errno> {
    if error == Errno::INTR { Ok(0) } else { Err(error) }
}

/// A file that the kernel reads and writes itself, until this is dropped and nobody has it open.
#[derive(Debug)]
pub(super) struct Backing {
    device: Weak<Device>,
    pub id: u32,
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Some(device) = self.device.upgrade()
            && let Err(error) = fuse::close_backing(device.as_fd(), self.id)
        {
            tracing::debug!(%error, "a backing file is kept");
        }
    }
}

/// The one answer that a request gets. Who drops it answers EIO.
pub(super) struct Reply {
    device: Option<Arc<Device>>,
    unique: u64,
}

impl Reply {
    pub(super) fn new(device: &Arc<Device>, unique: u64) -> Self {
        Self { device: Some(Arc::clone(device)), unique }
    }

    pub(super) fn error(mut self, error: Errno) {
        self.fail(error);
    }

    fn fail(&mut self, error: Errno) {
        if let Some(device) = self.device.take() {
            device.write(&[IoSlice::new(&header(16, error.raw_os_error(), self.unique))]);
        }
    }

    /// What has nothing to say but that it is done.
    pub(super) fn done(self) {
        self.answer(Answer::new());
    }

    pub(super) fn answer(mut self, answer: Answer) {
        if let Some(device) = self.device.take() {
            device.write(&[IoSlice::new(&answer.sealed(self.unique, 0))]);
        }
    }

    pub(super) fn data(mut self, data: &[u8]) {
        if let Some(device) = self.device.take() {
            let head = Answer::new().sealed(self.unique, data.len());
            device.write(&[IoSlice::new(&head), IoSlice::new(data)]);
        }
    }

    /// The kernel does not wait for an answer to this request.
    pub(super) fn leave_unanswered(mut self) {
        self.device = None;
    }

    /// Has the kernel read and write `file` itself.
    pub(super) fn back(&self, file: BorrowedFd<'_>) -> io::Result<Backing> {
        self.device.as_ref().ok_or(io::ErrorKind::NotConnected)?.back(file)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.fail(Errno::IO);
    }
}
