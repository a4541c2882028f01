//! The one place that knows fuser: requests of the kernel become calls of [`Tree`], answers become replies.
//!
//! `requests` has a function for each request, `words` what the two sides call the same things.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLockWriteGuard};

use fuser::{BackingId, Config, FileHandle, INodeNo, MountOption, Notifier, Session, SessionACL};

use serde::{Deserialize, Serialize};

use super::reset::Outdated;
use super::{Changing, Errno, Fallible, Layers, Listed, Opened, Tree};
use crate::sys::mount::Restrict;

mod helpers;
mod linger;
mod requests;
mod words;

use helpers::Helpers;
use linger::Linger;

/// How the filesystem is mounted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    /// What mountinfo names as its source.
    pub source: String,
    /// Whether other users may use it. Needs root, or `user_allow_other` in /etc/fuse.conf.
    pub others: bool,
    /// Whether reads and writes of files that lie in one piece go past this process (root, kernel 6.9).
    pub passthrough: bool,
    /// How many requests are served at a time. One thread alone lingers, and has helpers for what takes long.
    pub threads: usize,
    /// What may not be done on it, whoever mounts it. Without root it forbids devices and set-user-id anyway.
    pub restrict: Restrict,
}

/// A mounted filesystem. When this is dropped, its mount is detached: who has something open there goes on with it, as long as
/// this process is there.
#[derive(Debug)]
pub struct Mounted {
    handle: Handle,
    at: PathBuf,
    session: Option<fuser::BackgroundSession>,
}

/// What a mounted filesystem is spoken to by.
#[derive(Debug, Clone)]
pub struct Handle {
    tree: Arc<Tree>,
    notifier: Notifier,
    device: Arc<OwnedFd>,
}

/// Mounts `tree` at `dir` and serves it by threads of this process.
///
/// Requests are answered from when this returns.
pub fn mount(tree: Arc<Tree>, dir: &Path, how: &Mount) -> std::io::Result<Mounted> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(how.source.clone()),
        MountOption::Subtype("cowsnap".into()),
        MountOption::DefaultPermissions,
    ];
    let restrict = how.restrict;
    config.mount_options.extend((!restrict.nodev).then_some(MountOption::Dev));
    config.mount_options.extend((!restrict.nosuid).then_some(MountOption::Suid));
    config.mount_options.extend(restrict.noexec.then_some(MountOption::NoExec));
    config.acl = if how.others { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(how.threads.max(1));
    let (stale, moved) = std::sync::mpsc::channel();
    let (alone, linger) = (how.threads <= 1, Arc::new(Linger::default()));
    let shared = Shared {
        tree: Arc::clone(&tree),
        passthrough: how.passthrough.into(),
        stale,
        files: Mutex::default(),
        dirs: Mutex::default(),
        frozen: Helpers::new(1),
    };
    let helpers = Helpers::new(if alone { HELPERS } else { 0 });
    let adapter = Adapter { shared: Arc::new(shared), linger: Arc::clone(&linger), helpers };
    let session = Session::new(adapter, dir, &config)?;
    let (device, notifier) = (Arc::new(session.as_fd().try_clone_to_owned()?), session.notifier());
    if alone {
        linger.begin(device.try_clone()?);
    }
    let session = session.spawn()?;
    let teller = session.notifier();
    std::thread::Builder::new().name("notify".into()).spawn(move || {
        for (parent, name) in moved {
            let name: OsString = name;
            // The kernel may have forgotten it already; then there is nothing to tell.
            let _ = teller.inval_entry(INodeNo(parent), &name);
        }
    })?;
    let at = dir.to_owned();
    Ok(Mounted { handle: Handle { tree, notifier, device }, at, session: Some(session) })
}

impl Handle {
    /// The filesystem.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Exchanges the layers, and has the kernel forget what was in the old ones.
    ///
    /// Whoever looks afterwards sees the new ones; what is open stays what it was.
    pub fn reset(&self, layers: &Layers) -> Fallible<()> {
        self.reset_frozen(layers, self.tree.freeze())
    }

    /// As [`Handle::reset`], of a filesystem that is frozen; it goes on with the new layers.
    pub fn reset_frozen(&self, layers: &Layers, frozen: RwLockWriteGuard<'_, ()>) -> Fallible<()> {
        let outdated = self.tree.reset_frozen(layers, &frozen)?;
        drop(frozen);
        self.forget(&outdated);
        Ok(())
    }

    /// The kernel answers ENOENT for what it has forgotten itself.
    fn forget(&self, outdated: &Outdated) {
        for (parent, name) in &outdated.names {
            let _ = self.notifier.inval_entry(INodeNo(*parent), name);
        }
        for number in &outdated.nodes {
            let _ = self.notifier.inval_inode(INodeNo(*number), 0, 0);
        }
        // Kernel 6.16; others say EINVAL, and what was invalidated above is all that changed.
        let _ = rustix::io::write(&self.device, &INC_EPOCH);
    }
}

impl Mounted {
    /// What it is spoken to by.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Exchanges the layers: see [`Handle::reset`].
    pub fn reset(&self, layers: &Layers) -> Fallible<()> {
        self.handle.reset(layers)
    }

    /// Unmounts, and waits until the last request is answered.
    pub fn unmount(mut self) -> std::io::Result<()> {
        match self.session.take() {
            Some(session) => session.umount_and_join(),
            None => Ok(()),
        }
    }

    /// Waits until somebody unmounts the filesystem.
    pub fn wait(mut self) -> std::io::Result<()> {
        match self.session.take() {
            Some(session) => session.join(),
            None => Ok(()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && let Err(error) = super::take_down(&self.at)
        {
            tracing::debug!(at = %self.at.display(), %error, "not detached");
            drop(session);
        }
    }
}

/// FUSE_NOTIFY_INC_EPOCH: all names are looked up again. A header alone: length, code, no request.
const INC_EPOCH: [u8; 16] = [16, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// How the kernel reads and writes a node while it is open.
struct Flow {
    /// The file that it goes to past this process, if it does.
    backing: Option<Arc<BackingId>>,
    /// Whether the file was in the upper layer.
    upper: bool,
    opens: u32,
}

/// How many threads do what takes long where one thread serves.
const HELPERS: usize = 4;

struct Adapter {
    shared: Arc<Shared>,
    linger: Arc<Linger>,
    helpers: Helpers,
}

/// What the threads have that help, too.
struct Shared {
    tree: Arc<Tree>,
    passthrough: AtomicBool,
    stale: Sender<(u64, OsString)>,
    files: Mutex<Files>,
    dirs: Mutex<HashMap<u64, Arc<Vec<Listed>>>>,
    /// Does the changes that came while the filesystem was frozen, one after the other, once it goes on.
    frozen: Helpers,
}

impl std::ops::Deref for Adapter {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

#[derive(Default)]
struct Files {
    next: u64,
    open: HashMap<u64, Opened>,
    flows: HashMap<u64, Flow>,
}

/// What an open file is answered with.
struct Answer {
    handle: FileHandle,
    backing: Option<Arc<BackingId>>,
}

impl Adapter {
    /// Changes something: at once, or, if the filesystem is frozen, as soon as it goes on; who only looks does not wait for that.
    fn change(&self, act: impl FnOnce(&Shared, &Changing<'_>) + Send + 'static) {
        Shared::change(&self.shared, act);
    }
}

impl Shared {
    /// See [`Adapter::change`].
    fn change(this: &Arc<Self>, act: impl FnOnce(&Self, &Changing<'_>) + Send + 'static) {
        match this.tree.try_change() {
            Some(change) => act(this, &change),
            None => {
                let shared = Arc::clone(this);
                this.frozen.run(move || act(&shared, &shared.tree.change()));
            }
        }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, handle: FileHandle) -> Fallible<Opened> {
        self.files().open.get(&handle.0).cloned().ok_or(Errno::BADF)
    }

    /// Opens a node the way in which it is open already; to write to it, within a `change`.
    ///
    /// ESTALE: it is open past this process in a layer below, and was copied up since; the kernel looks its name up again and
    /// finds the new node.
    fn open_node(
        &self,
        number: u64,
        change: Option<&Changing<'_>>,
        back: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> std::io::Result<BackingId>,
    ) -> Fallible<Answer> {
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
        Ok(self.enter(&mut files, file, upper, back))
    }

    /// Takes an open file in.
    fn enter(
        &self,
        files: &mut Files,
        file: Opened,
        upper: bool,
        back: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> std::io::Result<BackingId>,
    ) -> Answer {
        let flow = files.flows.entry(file.number).or_insert_with(|| {
            let backing = self.passthrough.load(Ordering::Relaxed).then(|| file.whole(back)).flatten();
            // Where the kernel refuses, all goes through this process.
            Flow { backing: backing.and_then(Result::ok).map(Arc::new), upper, opens: 0 }
        });
        flow.opens += 1;
        let backing = flow.backing.clone();
        files.next += 1;
        let handle = files.next;
        files.open.insert(handle, file);
        Answer { handle: FileHandle(handle), backing }
    }

    fn close(&self, handle: FileHandle) {
        let mut files = self.files();
        let Some(file) = files.open.remove(&handle.0) else { return };
        if let Some(flow) = files.flows.get_mut(&file.number) {
            flow.opens -= 1;
            if flow.opens == 0 {
                files.flows.remove(&file.number);
            }
        }
        drop(files);
        self.tree.release(&file);
    }

    fn listing(&self, node: u64, handle: FileHandle, offset: u64) -> Fallible<Arc<Vec<Listed>>> {
        let mut dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        if offset > 0
            && let Some(listing) = dirs.get(&handle.0)
        {
            return Ok(Arc::clone(listing));
        }
        let listing = Arc::new(self.tree.list(node)?);
        dirs.insert(handle.0, Arc::clone(&listing));
        Ok(listing)
    }
}
