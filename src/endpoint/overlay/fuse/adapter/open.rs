//! Files that are open: which way their data goes, and what follows from that for what the kernel is told of them.
//!
//! While a node is open, its data goes one way for all: past this process to one backing file, or through it and the kernel's page cache
//! (kernel-notes/fuse.md).

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, MutexGuard, PoisonError};

use fuser::INodeNo;

use super::Shared;
use super::device::Backing;
use super::wire::{Lasting, Way};
use crate::endpoint::overlay::fuse::{Changing, Errno, Fallible, Opened};

/// How much of a file the kernel is given before it asks: a multiple of every page's size.
const GIVEN: u64 = 512 << 10;

/// What a file is open for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    /// Only so can it be mapped to be written to.
    ReadWrite,
}

/// How the kernel reads and writes a node while it is open.
#[derive(Debug)]
struct Flow {
    /// The file that it goes to past this process, if it does.
    backing: Option<Arc<Backing>>,
    /// Whether the file was in the upper layer.
    upper: bool,
    opens: u32,
    /// How often of these it is open in a way in which it can be mapped to be written to.
    mappable: u32,
}

/// All that is open.
#[derive(Debug, Default)]
pub(super) struct Files {
    next: u64,
    open: HashMap<u64, (Opened, Access)>,
    flows: HashMap<u64, Flow>,
}

/// How an open file is known to the kernel.
#[derive(Debug)]
pub(super) struct Entered {
    pub handle: u64,
    backing: Option<Arc<Backing>>,
    keeps_cache: bool,
}

impl Entered {
    /// Which way its data goes.
    pub(super) fn way(&self) -> Way {
        match &self.backing {
            Some(backing) => Way::Past(backing.id),
            None => Way::Through { keeps_cache: self.keeps_cache },
        }
    }
}

impl Shared {
    pub(super) fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn file(&self, handle: u64) -> Fallible<Opened> {
        self.files().open.get(&handle).map(|(file, _)| file.clone()).ok_or(Errno::BADF)
    }

    /// How long what the kernel is told of a node stays true.
    pub(super) fn lasting(&self, number: u64) -> Lasting {
        if !self.passthrough {
            return Lasting::Long;
        }
        match self.files().flows.get(&number) {
            Some(Flow { backing: Some(_), mappable: 1.., .. }) => Lasting::Not,
            _ => Lasting::Long,
        }
    }

    /// Opens a node the way in which it is open already; to write to it, within a `change`.
    ///
    /// ESTALE: it is open past this process in a layer below, and was copied up since; the kernel looks its name up again and
    /// finds the new node.
    pub(super) fn open_node(
        &self,
        number: u64,
        access: Access,
        change: Option<&Changing<'_>>,
        back: impl FnOnce(BorrowedFd<'_>) -> std::io::Result<Backing>,
    ) -> Fallible<Entered> {
        let mut files = self.files();
        let file = match change {
            Some(change) => change.open_writable(number)?,
            None => self.tree.open_file(number, false)?,
        };
        let upper = self.tree.is_upper(number)?;
        if let Some(flow) = files.flows.get(&number)
            && flow.backing.is_some()
            && flow.upper != upper
        {
            self.tree.release(&file);
            let places = self.tree.part(number)?;
            places.into_iter().for_each(|place| drop(self.stale.send(place)));
            return Err(Errno::STALE);
        }
        let is_first = self.passthrough && !upper && !files.flows.contains_key(&number);
        let entered = self.enter(&mut files, file.clone(), access, upper, back);
        if is_first && entered.backing.is_none() && self.tree.is_first_read(number) {
            self.give(&file);
        }
        if access == Access::ReadWrite && entered.backing.is_some() {
            // What the kernel knows of it already would last: see `lasting`. It has the node, as it waits for this answer.
            let _ = self.notifier.inval_inode(INodeNo(number), -1, 0);
        }
        Ok(entered)
    }

    /// Gives the kernel the data of a small file with the answer to who opens it, as most who do read it: READ would be another round trip.
    ///
    /// **Invariant:** nobody else has the file open. Else a page of it may be locked by who waits for READ, and this waits for him.
    fn give(&self, file: &Opened) {
        let len = file.size().unwrap_or(0).min(GIVEN);
        let data = file.read_from_memory(len as usize, 0).filter(|data| !data.is_empty());
        if let Some(data) = data {
            // It asks for what it was not given.
            let _ = self.notifier.store(INodeNo(file.number), 0, &data);
        }
    }

    /// Takes an open file in.
    pub(super) fn enter(
        &self,
        files: &mut Files,
        file: Opened,
        access: Access,
        upper: bool,
        back: impl FnOnce(BorrowedFd<'_>) -> std::io::Result<Backing>,
    ) -> Entered {
        let mut keeps_cache = true;
        let flow = files.flows.entry(file.number).or_insert_with(|| {
            let is_past = self.passthrough
                && (upper || file.size().is_none_or(|len| len > self.tree.options.through_up_to));
            let backing = if is_past { file.whole(back) } else { None };
            // Where the kernel refuses, all goes through this process; what was written past it is not in the page cache.
            keeps_cache = !matches!(backing, Some(Err(_)));
            Flow { backing: backing.and_then(Result::ok).map(Arc::new), upper, opens: 0, mappable: 0 }
        });
        flow.opens += 1;
        flow.mappable += u32::from(access == Access::ReadWrite);
        let backing = flow.backing.clone();
        files.next += 1;
        let handle = files.next;
        files.open.insert(handle, (file, access));
        Entered { handle, backing, keeps_cache }
    }

    pub(super) fn close(&self, handle: u64) {
        let mut files = self.files();
        let Some((file, access)) = files.open.remove(&handle) else { return };
        if let Some(flow) = files.flows.get_mut(&file.number) {
            flow.opens -= 1;
            flow.mappable -= u32::from(access == Access::ReadWrite);
            if flow.opens == 0 {
                files.flows.remove(&file.number);
            }
        }
        drop(files);
        self.tree.release(&file);
    }
}
