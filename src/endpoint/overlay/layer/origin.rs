//! Which file a copied one was copied from: the kernel keeps a handle of it in the mark `overlay.origin`.

use std::os::fd::AsFd;

use super::tree::Tree;
use crate::endpoint::beneath;
use crate::sys::handle::file_handle;

/// What the kernel knows a file by, whatever it is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Handle {
    kind: i32,
    bytes: Vec<u8>,
}

/// The mark in which mode fuse keeps the same: what is in the kernel's own would be followed by the kernel.
pub(super) const OWN: &str = "cowsnap.origin";

/// What [`OWN`] says of a copy of `name` in `dir`; `None` if its filesystem gives no handle.
pub(in crate::endpoint::overlay) fn mark_of(dir: impl AsFd, name: &[u8]) -> Option<Vec<u8>> {
    let (kind, bytes) = file_handle(dir, name).ok()?;
    Handle { kind, bytes }.as_mark()
}

/// Where the handle begins: behind version, magic, length, flags, type and the filesystem's uuid (`struct ovl_fb`).
const HANDLE_AT: usize = 21;
const MAGIC: u8 = 0xfb;

impl Handle {
    /// That in a mark; `None` if the kernel that made it knew none.
    pub(super) fn in_mark(mark: &[u8]) -> Option<Self> {
        let (head, bytes) = mark.split_at_checked(HANDLE_AT)?;
        let sound = head[0] == 0 && head[1] == MAGIC && usize::from(head[2]) == mark.len();
        sound.then(|| Self { kind: i32::from(head[4]), bytes: bytes.to_vec() })
    }
}

impl Handle {
    /// As a mark has it, of no filesystem in particular: for a layer that is nowhere on disk.
    pub(super) fn as_mark(&self) -> Option<Vec<u8>> {
        let len = u8::try_from(HANDLE_AT + self.bytes.len()).ok()?;
        let mut mark = vec![0, MAGIC, len, 0, u8::try_from(self.kind).ok()?];
        mark.resize(HANDLE_AT, 0);
        mark.extend(&self.bytes);
        Some(mark)
    }
}

/// The handle of what is at `path`; `None` if its filesystem gives none.
pub(super) fn handle_of(tree: &Tree, path: &[u8]) -> Option<Handle> {
    let (dir, name) = beneath::split(path);
    let dir = beneath::open_dir(tree.root(), dir).ok()?;
    let (kind, bytes) = file_handle(&dir, name).ok()?;
    Some(Handle { kind, bytes })
}
