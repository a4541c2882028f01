//! Reads ahead of the kernel's send, which reads one block at a time and waits for each.
//!
//! **Invariant:** it only warms the page cache. Whatever fails here, the send is the same, only slower.

use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::sys::btrfs::{self, EXTENT_DATA_KEY, FIRST_FREE_OBJECTID, INODE_ITEM_KEY, Item, SearchKey};
use crate::sys::interrupt;

/// How far ahead of what has been sent it goes, in bytes of stream.
const WINDOW: u64 = 96 << 20;
/// How much is asked for in one call.
const PIECE: u64 = 4 << 20;
/// What an inode costs the stream besides its data (mkfile, rename, chown, chmod, utimes with their paths), roughly.
const INODE_BYTES: u64 = 310;
/// So many files in a row found in the cache mean that all is hot: then only each [`SAMPLE`]th is looked at.
const HOT: u32 = 64;
const SAMPLE: u32 = 32;

/// What is about to be sent.
pub(super) struct Plan {
    /// The root of the snapshot.
    pub subvolume: OwnedFd,
    /// Its id.
    pub id: u64,
    /// The last transaction that the receiver has; 0 in a full send.
    pub since: u64,
    /// Extents go as they lie on disk.
    pub compressed: bool,
}

#[derive(Default)]
struct Shared {
    sent: AtomicU64,
    stop: AtomicBool,
}

/// A prefetcher at work; it ends with its owner.
pub(super) struct Prefetch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Starts to read ahead. `None` where no thread is to be had.
    pub fn start(plan: Plan) -> Option<Self> {
        let shared = Arc::new(Shared::default());
        let walk = Walk { plan, shared: Arc::clone(&shared), charged: 0, file: None, hot: 0, seen: 0 };
        let thread = thread::Builder::new().name("prefetch".into()).spawn(move || walk.run()).ok()?;
        Some(Self { shared, thread: Some(thread) })
    }

    /// Notes that `bytes` more of the stream have been sent.
    pub fn advance(&self, bytes: u64) {
        self.shared.sent.fetch_add(bytes, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join(); // It answers nothing, and its panic would be none of the send's business.
        }
    }
}

/// About how many bytes the stream will be; `None` if that takes longer to find out than anybody should wait.
pub(super) fn estimate(subvolume: BorrowedFd<'_>, id: u64, since: u64, compressed: bool) -> Option<u64> {
    const PATIENCE: Duration = Duration::from_millis(60);
    let start = Instant::now();
    let mut bytes = 0;
    let mut patient = true;
    btrfs::tree_search(subvolume, everything(id, since), |item| {
        match item.key.1 {
            INODE_ITEM_KEY if u64_at(item.data, 8) > Some(since) => bytes += INODE_BYTES,
            EXTENT_DATA_KEY => {
                let extent = Extent::parse(item.data).filter(|extent| extent.generation > since);
                bytes += extent.map_or(0, |extent| if compressed { extent.len_disk } else { extent.len });
            }
            _ => {}
        }
        patient = start.elapsed() < PATIENCE;
        patient
    })
    .ok()?;
    patient.then_some(bytes)
}

/// All inodes and extents of a subvolume in leaves newer than the transaction `since`.
fn everything(id: u64, since: u64) -> SearchKey {
    SearchKey {
        tree: id,
        min: (FIRST_FREE_OBJECTID, INODE_ITEM_KEY, 0),
        max: (u64::MAX - 256, EXTENT_DATA_KEY, u64::MAX),
        min_transid: if since == 0 { 0 } else { since + 1 },
    }
}

struct Walk {
    plan: Plan,
    shared: Arc<Shared>,
    charged: u64,
    file: Option<Inode>,
    hot: u32,
    seen: u32,
}

struct Inode {
    number: u64,
    generation: u64,
    /// Opened with its first extent; `Some(None)` if that failed or is not worth it.
    open: Option<Option<OwnedFd>>,
}

impl Walk {
    fn run(mut self) {
        let _ = interrupt::block_all_in_this_thread();
        let range = everything(self.plan.id, self.plan.since);
        let Ok(subvolume) = self.plan.subvolume.try_clone() else { return };
        let result = btrfs::tree_search(subvolume.as_fd(), range, |item| self.visit(item).is_continue());
        if let Err(error) = result {
            tracing::debug!(%error, "the prefetcher gives up");
        }
    }

    fn visit(&mut self, item: Item<'_>) -> ControlFlow<()> {
        match item.key.1 {
            INODE_ITEM_KEY => self.enter(item),
            EXTENT_DATA_KEY => {
                if let Some(extent) = Extent::parse(item.data).filter(|e| e.generation > self.plan.since) {
                    return self.fetch(item.key.0, item.key.2, &extent);
                }
            }
            _ => {}
        }
        self.keep_distance()
    }

    fn enter(&mut self, item: Item<'_>) {
        const MODE: usize = 52;
        let (Some(generation), Some(mode)) = (u64_at(item.data, 0), u32_at(item.data, MODE)) else { return };
        self.charged += INODE_BYTES;
        let is_file = mode & libc::S_IFMT == libc::S_IFREG;
        self.file = is_file.then_some(Inode { number: item.key.0, generation, open: None });
    }

    fn fetch(&mut self, inode: u64, offset: u64, extent: &Extent) -> ControlFlow<()> {
        let cost = if self.plan.compressed { extent.len_disk } else { extent.len };
        let Some(file) = self.file.as_mut().filter(|file| file.number == inode) else {
            return self.keep_distance();
        };
        let fresh = file.open.is_none();
        let open = file.open.get_or_insert_with(|| {
            self.seen = self.seen.wrapping_add(1);
            if self.hot >= HOT && !self.seen.is_multiple_of(SAMPLE) {
                return None;
            }
            btrfs::open_inode(self.plan.subvolume.as_fd(), self.plan.id, inode, file.generation).ok()
        });
        let Some(fd) = open else {
            self.charged += cost;
            return self.keep_distance();
        };
        if fresh {
            self.hot = if is_cached(fd, offset) { self.hot + 1 } else { 0 };
        }
        let (mut at, end) = (offset, offset + extent.len);
        while at < end {
            let piece = PIECE.min(end - at);
            let _ = fadvise(&*fd, at, NonZeroU64::new(piece), Advice::WillNeed);
            at += piece;
            // The cost in proportion, so that one huge extent does not count at once.
            self.charged += (u128::from(cost) * u128::from(piece) / u128::from(extent.len)) as u64;
            wait(&self.shared, self.charged)?;
        }
        ControlFlow::Continue(())
    }

    fn keep_distance(&self) -> ControlFlow<()> {
        wait(&self.shared, self.charged)
    }
}

/// Waits while it is too far ahead; breaks once the send is over.
fn wait(shared: &Shared, charged: u64) -> ControlFlow<()> {
    loop {
        if shared.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        if charged <= shared.sent.load(Ordering::Relaxed).saturating_add(WINDOW) {
            return ControlFlow::Continue(());
        }
        thread::park();
    }
}

/// Whether the byte at `offset` can be read without waiting for the disk.
fn is_cached(file: &OwnedFd, offset: u64) -> bool {
    let mut byte = [0];
    let read = preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
    !matches!(read, Err(Errno::AGAIN))
}

/// The part of a file extent item that matters here (btrfs_tree.h: btrfs_file_extent_item).
#[derive(Debug, PartialEq, Eq)]
struct Extent {
    generation: u64,
    len: u64,
    len_disk: u64,
}

impl Extent {
    /// `None` for inline data, holes and preallocation: nothing is to be read there.
    fn parse(item: &[u8]) -> Option<Self> {
        const REGULAR: u8 = 1;
        let extent =
            Self { generation: u64_at(item, 0)?, len_disk: u64_at(item, 29)?, len: u64_at(item, 45)? };
        (item[20] == REGULAR && u64_at(item, 21)? != 0 && extent.len > 0).then_some(extent)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(kind: u8, disk: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(7u64.to_le_bytes()); // generation
        bytes.extend(8192u64.to_le_bytes()); // bytes when decompressed
        bytes.extend([0, 0, 0, 0, kind]);
        for field in [disk, 4096, 0, 8192] {
            bytes.extend(field.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn only_extents_with_bytes_on_disk_are_worth_reading() {
        let extent = Extent { generation: 7, len: 8192, len_disk: 4096 };
        assert_eq!(Extent::parse(&item(1, 1 << 20)), Some(extent));
        assert_eq!(Extent::parse(&item(1, 0)), None, "a hole");
        assert_eq!(Extent::parse(&item(2, 1 << 20)), None, "preallocated");
        assert_eq!(Extent::parse(&item(1, 1 << 20)[..40]), None, "inline or cut short");
        assert_eq!(Extent::parse(&[]), None);
    }
}
