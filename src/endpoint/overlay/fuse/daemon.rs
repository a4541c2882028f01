//! A filesystem's process: it serves the copies of one overlay until they are taken away, and listens on a socket.
//!
//! It leads a session of its own and has no terminal, so that nothing that ends its caller ends it. If it is killed, its mounts
//! answer ENOTCONN until they are detached, and what it wrote is where it wrote it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::adapter::{Handle, Mounted, id_at, mount};
use super::control::{Answer, Control, Request, Stats, View, by_short_path, next, send};
use super::{Errno, Tree};
use crate::sys::{child, memory};

/// The name of the file in an overlay's directory in which its process says what it does.
pub const LOG: &str = "log";
/// How long a mount that was taken away is waited for: as long as something is open there, it goes on.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether a thread has panicked.
const LOOK: Duration = Duration::from_secs(10);

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Names the program whose command `overlay serve` is the process; else it is the running one. The first call counts.
pub fn set_program(program: PathBuf) {
    let _ = PROGRAM.set(program);
}

/// Starts the process for the overlay whose directory is `dir`, in which nothing shows yet. If the connection that is returned
/// ends before something does, the process ends.
///
/// # Errors
/// A program that can not be started, a log that can not be written.
pub fn start(home: &Path, dir: &Path) -> std::io::Result<Control> {
    let program = PROGRAM.get().cloned().map_or_else(std::env::current_exe, Ok)?;
    let (mine, its) = UnixStream::pair()?;
    let log = File::options().create(true).append(true).open(dir.join(LOG))?;
    let mut command = Command::new(program);
    command.args(["-v", "overlay", "--home"]).arg(home).arg("serve").arg(dir).current_dir("/");
    command.stdin(OwnedFd::from(its)).stdout(Stdio::null()).stderr(log);
    child::orphan(&mut command);
    command.spawn()?.wait()?;
    drop(command);
    Control::over(mine)
}

/// One process has open what all who use its trees have: the caller's limit, often 1,024, is for one of them. Nothing here waits by select(2).
fn open_as_many_files_as_may_be() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Serves the overlay whose directory is `dir`, as asked on standard input, a socket, and on the socket in the directory. Returns
/// when nothing shows any more, or when nobody asked for anything.
///
/// # Errors
/// A standard input that is no socket; a directory in which no socket can be made.
pub fn serve(dir: &Path) -> std::io::Result<()> {
    child::close_all_but_standard()?;
    // Each thread that serves has a buffer of 1 MiB, of which it touches little.
    memory::keep_no_large_pieces();
    open_as_many_files_as_may_be()?;
    // The caller's mask is applied by the kernel.
    rustix::process::umask(rustix::fs::Mode::empty());
    let first = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let listener = by_short_path(dir, |path| {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        UnixListener::bind(path)
    })?;
    let service = Arc::new(Service::default());
    end_on_panic(&service);
    Service::converse(&service, first)?;
    let accepting = Arc::clone(&service);
    std::thread::Builder::new().name("control".into()).spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if let Err(error) = Service::converse(&accepting, stream) {
                tracing::warn!(%error, "a connection is not listened to");
            }
        }
    })?;
    service.wait()?;
    tracing::info!("nothing shows any more");
    Ok(())
}

/// A thread that died would leave its callers waiting for ever: the process ends instead, and they get ENOTCONN.
fn end_on_panic(service: &Arc<Service>) {
    let (say, service) = (std::panic::take_hook(), Arc::clone(service));
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        service.broken.store(true, Ordering::Release);
        service.changed.notify_all();
    }));
}

/// What is shown, and who talks.
#[derive(Default)]
struct Service {
    state: Mutex<State>,
    changed: Condvar,
    /// A thread has panicked.
    broken: AtomicBool,
}

#[derive(Default)]
struct State {
    copies: BTreeMap<u32, Shown>,
    /// How many connections there are.
    talks: usize,
    /// How many requests are being answered.
    working: usize,
    /// Whether anything was ever shown.
    began: bool,
    serial: u64,
}

/// A copy that shows.
#[derive(Clone)]
struct Shown {
    handle: Handle,
    at: PathBuf,
    /// The id of its mount; `None` if the kernel does not tell.
    mount: Option<u64>,
    generation: u64,
    serial: u64,
}

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.changed.notify_all();
        changed
    }

    /// Waits until there is nothing more to do, or until it can not be done.
    fn wait(&self) -> std::io::Result<()> {
        let is_broken = || self.broken.load(Ordering::Acquire);
        let busy = |state: &State| {
            !state.copies.is_empty() || state.working > 0 || (!state.began && state.talks > 0)
        };
        let mut state = self.state();
        while busy(&state) && !is_broken() {
            // Whoever panics has no time to take the lock: such a call may be missed, and is looked for.
            let waited = self.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if is_broken() { Err(std::io::Error::other("a thread panicked")) } else { Ok(()) }
    }

    /// Answers a connection's requests in a thread of its own.
    fn converse(service: &Arc<Self>, stream: UnixStream) -> std::io::Result<()> {
        let talking = Arc::clone(service);
        service.change(|state| state.talks += 1);
        let talk = move || {
            talking.talk(&mut BufReader::new(stream));
            talking.change(|state| state.talks -= 1);
        };
        let started = std::thread::Builder::new().name("talk".into()).spawn(talk);
        started.map(drop).inspect_err(|_| service.change(|state| state.talks -= 1))
    }

    fn talk(self: &Arc<Self>, reader: &mut BufReader<UnixStream>) {
        while let Ok(Some(request)) = next::<Request>(reader) {
            self.change(|state| state.working += 1);
            let sent = match request {
                Request::Freeze { copy } => self.freeze(copy, reader),
                request => {
                    let answer = self.answer(request).unwrap_or_else(|error| {
                        tracing::warn!(%error, "refused");
                        error.into()
                    });
                    send(reader.get_ref(), &answer)
                }
            };
            self.change(|state| state.working -= 1);
            if sent.is_err() {
                return;
            }
        }
    }

    fn answer(self: &Arc<Self>, request: Request) -> std::io::Result<Answer> {
        match request {
            Request::Show { copy, generation, view } => self.show(copy, generation, &view)?,
            Request::Reset { copy, generation, layers } => {
                let shown = self.shown(copy)?;
                shown.handle.reset(&layers)?;
                self.now_shows(copy, generation);
            }
            Request::Hide { copy } => self.hide(copy)?,
            Request::Stats { copy } => return Ok(Answer::Stats(self.shown(copy).ok().map(|s| stats(&s)))),
            Request::Freeze { .. } | Request::Thaw => {} // Nothing is frozen.
        }
        Ok(Answer::Done)
    }

    /// ENOENT: it does not show.
    fn shown(&self, copy: u32) -> Result<Shown, Errno> {
        self.state().copies.get(&copy).cloned().ok_or(Errno::NOENT)
    }

    fn now_shows(&self, copy: u32, generation: u64) {
        tracing::info!(copy, generation, "reset");
        self.change(|state| {
            state.copies.entry(copy).and_modify(|shown| shown.generation = generation);
        });
    }

    fn show(self: &Arc<Self>, copy: u32, generation: u64, view: &View) -> std::io::Result<()> {
        let tree = Arc::new(Tree::open(&view.layers, view.options)?);
        let mounted = mount(tree, &view.at, &view.mount)?;
        let (handle, at) = (mounted.handle(), view.at.clone());
        let mount = id_at(&at);
        tracing::info!(copy, generation, at = %at.display(), "shows");
        let serial = self.change(|state| {
            state.began = true;
            state.serial += 1;
            let shown = Shown { handle, at, mount, generation, serial: state.serial };
            state.copies.insert(copy, shown);
            state.serial
        });
        let service = Arc::clone(self);
        let waiting = std::thread::Builder::new().name("mount".into());
        waiting.spawn(move || service.wait_for(mounted, copy, serial)).map(drop)
    }

    /// Until somebody takes the mount away, and nobody uses it any more.
    fn wait_for(&self, mounted: Mounted, copy: u32, serial: u64) {
        if let Err(error) = mounted.wait() {
            tracing::warn!(copy, %error, "its mount ended");
        }
        tracing::info!(copy, "does not show any more");
        self.change(|state| {
            if state.copies.get(&copy).is_some_and(|shown| shown.serial == serial) {
                state.copies.remove(&copy);
            }
        });
    }

    fn hide(&self, copy: u32) -> std::io::Result<()> {
        let Ok(shown) = self.shown(copy) else { return Ok(()) };
        let (at, mount, serial) = (shown.at.clone(), shown.mount, shown.serial);
        drop(shown);
        // What somebody else mounted over it, or in its place, stays.
        if mount.is_none() || id_at(&at) == mount {
            take_down(&at)?;
        }
        let is_there =
            |state: &mut State| state.copies.get(&copy).is_some_and(|shown| shown.serial == serial);
        drop(self.changed.wait_timeout_while(self.state(), PATIENCE, is_there));
        Ok(())
    }

    /// Keeps all changes of a copy waiting until it is told to go on, or the connection ends.
    fn freeze(&self, copy: u32, reader: &mut BufReader<UnixStream>) -> std::io::Result<()> {
        let refuse = |errno: Errno| send(reader.get_ref(), &Answer::from(std::io::Error::from(errno)));
        let shown = match self.shown(copy) {
            Err(errno) => return refuse(errno),
            Ok(shown) => shown,
        };
        let tree = shown.handle.tree();
        let mut frozen = Some(tree.freeze());
        if tree.writers() > 0 {
            // Somebody would go on with what is about to be kept.
            return refuse(Errno::BUSY);
        }
        if let Err(errno) = tree.sync() {
            return refuse(errno);
        }
        tracing::info!(copy, "frozen");
        send(reader.get_ref(), &Answer::Done)?;
        while frozen.is_some() {
            let Some(request) = next::<Request>(reader)? else { break };
            let done = match (request, frozen.take()) {
                (Request::Reset { copy: which, generation, layers }, Some(guard)) if which == copy => {
                    let reset = shown.handle.reset_frozen(&layers, guard);
                    reset.inspect(|()| self.now_shows(copy, generation)).map_err(std::io::Error::from)
                }
                (Request::Thaw, _) => Ok(()),
                (request, guard) => {
                    frozen = guard;
                    Err(std::io::Error::other(format!("copy {copy} is frozen: {request:?}")))
                }
            };
            send(reader.get_ref(), &done.map_or_else(Answer::from, |()| Answer::Done))?;
        }
        tracing::info!(copy, "goes on");
        Ok(())
    }
}

fn stats(shown: &Shown) -> Stats {
    let (tree, generation) = (shown.handle.tree(), shown.generation);
    let pid = std::process::id();
    Stats { pid, generation, nodes: tree.known(), busy: tree.busy(), writers: tree.writers() }
}

/// Detaches whatever of FUSE is mounted at `at`, also if its process is gone; who may not mount asks `fusermount3` for it.
///
/// # Errors
/// What the kernel says; EPERM if there is no `fusermount3` either, or it refuses.
pub fn take_down(at: &Path) -> std::io::Result<()> {
    match crate::sys::mount::unmount_lazily(at) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let asked = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(at).output();
            if asked.is_ok_and(|output| output.status.success()) { Ok(()) } else { Err(error) }
        }
        unmounted => unmounted,
    }
}
