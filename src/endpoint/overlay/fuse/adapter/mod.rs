//! The one place that knows the kernel's requests: they become calls of [`Tree`], what these return becomes answers.
//!
//! ```text
//! requests  a function for each request
//! wire      what a request says and what an answer looks like
//! device    where they are read from and written to; linger: waiting awake for the next; company: keeping others awake
//! dirs      directories that are open
//! open      files that are open: which way their data goes
//! helpers   threads for what may take long
//! mounting  mounts and unmounts
//! ```
//!
//! fuser speaks the first word with the kernel, and tells it what to forget.

use std::ffi::OsString;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use fuser::{Config, Filesystem, INodeNo, InitFlags, KernelConfig, Notifier, Session, SessionACL};

use serde::{Deserialize, Serialize};

use super::reset::Outdated;
use super::{Changing, Fallible, Layers, Tree};
use crate::sys::mount::Restrict;

mod company;
mod device;
mod dirs;
mod helpers;
mod linger;
mod mounting;
mod open;
mod requests;
mod wire;

use company::Member;
use device::{Device, Reply};
use dirs::{Dirs, Entries};
use helpers::Helpers;
use linger::Linger;
use mounting::Placed;
pub(super) use mounting::id_at;
use open::Files;
use wire::Request;

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
    placed: Placed,
    /// What serves it; nothing once it is known to be unmounted.
    threads: Option<Vec<JoinHandle<()>>>,
}

/// What a mounted filesystem is spoken to by.
#[derive(Debug, Clone)]
pub struct Handle {
    tree: Arc<Tree>,
    notifier: Notifier,
    device: Arc<Device>,
}

/// Mounts `tree` at `dir` and serves it by threads of this process.
///
/// Requests are answered from when this returns.
pub fn mount(tree: Arc<Tree>, dir: &Path, how: &Mount) -> std::io::Result<Mounted> {
    let passes = Arc::new(OnceLock::new());
    let greeting = Greeting { passthrough: how.passthrough, passes: Arc::clone(&passes) };
    let (placed, device) = Placed::new(dir, how)?;
    let undo = |_: &std::io::Error| drop(placed.detach());
    let session = device.try_clone().and_then(|device| {
        let mut config = Config::default();
        // What the kernel lets through is for us.
        config.acl = SessionACL::All;
        Session::from_fd(greeting, device, SessionACL::All, config)
    });
    let session = session.inspect_err(undo)?;
    let (notifier, teller, dated) = (session.notifier(), session.notifier(), session.notifier());
    let device = Arc::new(Device::new(device));
    let (stale, moved) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("notify".into()).spawn(move || {
        for (parent, name) in moved {
            let name: OsString = name;
            // The kernel may have forgotten it already; then there is nothing to tell.
            let _ = teller.inval_entry(INodeNo(parent), &name);
        }
    })?;
    let shared = Shared {
        tree: Arc::clone(&tree),
        passthrough: passes.get() == Some(&true),
        stale,
        notifier: dated,
        files: Mutex::default(),
        dirs: Mutex::default(),
        frozen: Helpers::new(1),
    };
    let alone = how.threads <= 1;
    let helpers = Helpers::new(if alone { HELPERS } else { 0 });
    let adapter = Arc::new(Adapter { shared: Arc::new(shared), helpers });
    if alone {
        device.do_not_block()?;
    }
    let threads = (0..how.threads.max(1)).map(|_| {
        let (adapter, device) = (Arc::clone(&adapter), Arc::clone(&device));
        let linger = alone.then(Linger::new);
        std::thread::Builder::new().name("serve".into()).spawn(move || adapter.serve(&device, linger))
    });
    let threads = threads.collect::<std::io::Result<_>>()?;
    Ok(Mounted { handle: Handle { tree, notifier, device }, placed, threads: Some(threads) })
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

    /// Unmounts, and waits until the last request is answered. EBUSY: somebody uses it.
    pub fn unmount(mut self) -> std::io::Result<()> {
        self.placed.unmount()?;
        self.threads.take().map_or(Ok(()), join)
    }

    /// Waits until somebody unmounts the filesystem.
    pub fn wait(mut self) -> std::io::Result<()> {
        self.threads.take().map_or(Ok(()), join)
    }
}

fn join(threads: Vec<JoinHandle<()>>) -> std::io::Result<()> {
    let ended: Vec<_> = threads.into_iter().map(JoinHandle::join).collect();
    match ended.iter().all(Result::is_ok) {
        true => Ok(()),
        false => Err(std::io::Error::other("a thread that serves the filesystem panicked")),
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.threads.is_some()
            && let Err(error) = self.placed.detach()
        {
            tracing::debug!(placed = ?self.placed, %error, "not detached");
        }
    }
}

/// FUSE_NOTIFY_INC_EPOCH: all names are looked up again. A header alone: length, code, no request.
const INC_EPOCH: [u8; 16] = [16, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The first word with the kernel: what either side can.
#[derive(Debug)]
struct Greeting {
    /// Whether reads and writes are to go past the process.
    passthrough: bool,
    /// Whether they do.
    passes: Arc<OnceLock<bool>>,
}

impl Filesystem for Greeting {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ];
        for flag in wanted {
            // What the kernel does not know it does without.
            let _ = config.add_capabilities(flag);
        }
        let passes = self.passthrough
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(2).is_ok();
        let _ = self.passes.set(passes);
        if !passes {
            let _ = config.add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        let _ = config.set_max_write(wire::MAX_WRITE);
        let _ = config.set_max_background(64);
        Ok(())
    }
}

/// How many threads do what takes long where one thread serves.
const HELPERS: usize = 4;

struct Adapter {
    shared: Arc<Shared>,
    helpers: Helpers,
}

/// What the threads have that help, too.
struct Shared {
    tree: Arc<Tree>,
    passthrough: bool,
    stale: Sender<(u64, OsString)>,
    notifier: Notifier,
    files: Mutex<Files>,
    dirs: Mutex<Dirs>,
    /// Does the changes that came while the filesystem was frozen, one after the other, once it goes on.
    frozen: Helpers,
}

impl std::ops::Deref for Adapter {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Adapter {
    /// Answers requests until the filesystem is unmounted.
    fn serve(&self, device: &Arc<Device>, mut linger: Option<Linger>) {
        let mut buffer = vec![0; wire::LONGEST];
        let mut company = linger.as_ref().map(|_| Member::new());
        loop {
            let next = device.next(&mut buffer, linger.as_mut());
            if let Some(company) = &mut company {
                company.came(Instant::now());
            }
            let len = match next {
                Ok(Some(len)) => len,
                Ok(None) => return,
                Err(error) => return tracing::error!(%error, "requests can not be read any more"),
            };
            let Ok(request) = Request::parse(&buffer[..len]) else {
                return tracing::error!(len, "a request that is none");
            };
            let reply = Reply::new(device, request.unique);
            if request.op == wire::op::DESTROY {
                return reply.done();
            }
            self.dispatch(request, reply);
        }
    }

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

    /// The entries of a directory: as they are now for who begins, as they were for who goes on.
    fn listing(&self, node: u64, handle: u64, offset: u64) -> Fallible<Arc<Entries>> {
        if offset > 0
            && let Some(entries) = self.dirs().entries(handle)
        {
            return Ok(entries);
        }
        let listed = self.tree.list(node)?;
        // What the kernel knows already it need not be told.
        let told = self.tree.known_names(node) * 4 < listed.len() * 3;
        let entries = Arc::new(Entries { listed, told });
        self.dirs().begin(handle, &entries);
        Ok(entries)
    }

    fn dirs(&self) -> MutexGuard<'_, Dirs> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
