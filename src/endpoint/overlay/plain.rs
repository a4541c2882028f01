//! Trees of plain files, each whole by itself: clones of all files, copies of them, or what a command makes.
//!
//! A tree is made beside the one that shows, and has its final name when it is complete.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::endpoint::overlay::files::{look_like, remove_tree};
use crate::endpoint::overlay::shown::{self, tree_of};
use crate::endpoint::overlay::{Entry, Generation, Home, Place, Serve, Swapped, base, ours, probe};
use crate::endpoint::tree::{CopyWhole, Watch, copy_whole};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{BaseKind, Mode, Record};
use crate::sys::mount;

/// The option of a record whose trees a command makes: the command, for `sh -c`.
pub const COMMAND: &str = "command";

/// Serves [`Mode::Reflink`], [`Mode::Copy`] and [`Mode::Recreate`].
#[derive(Debug)]
pub struct Plain(Mode);

/// Serves [`Mode::Reflink`].
pub static REFLINK: Plain = Plain(Mode::Reflink);
/// Serves [`Mode::Copy`].
pub static COPY: Plain = Plain(Mode::Copy);
/// Serves [`Mode::Recreate`].
pub static RECREATE: Plain = Plain(Mode::Recreate);

type MakeWatch = dyn Fn(&Path) -> Watch + Send + Sync;

static WATCHED_BY: OnceLock<Box<MakeWatch>> = OnceLock::new();

/// Who is told how far the copy of a tree is, from now on in this process; given the place that the tree is for. The first one
/// counts.
pub fn watch(make: impl Fn(&Path) -> Watch + Send + Sync + 'static) {
    let _ = WATCHED_BY.set(Box::new(make));
}

impl Serve for Plain {
    fn check(&self, home: &Home, record: &Record) -> Result<()> {
        match self.0 {
            Mode::Reflink if probe::can_reflink_base(&record.base, home)? == Some(false) => Err(self.refused(
                record,
                "the base's filesystem and the home's can not share blocks between files".into(),
                Some("cowsnap overlay --home DIR …, with a DIR on the base's filesystem, if that is btrfs or XFS; or --mode copy".into()),
            )),
            Mode::Recreate if command(record).is_none() => {
                Err(self.refused(record, "no command is said that makes it".into(), Some("--command CMD".into())))
            }
            _ if record.layers.is_empty() => Ok(()),
            _ => Err(self.refused(record, "it has layers, which this mode does not put together".into(), None)),
        }
    }

    /// All cores work on one copy; and a command may not be made to run beside itself.
    fn at_once(&self) -> usize {
        1
    }

    fn base(&self, overlay: &Entry, record: &Record) -> Result<PathBuf> {
        base::reach(overlay, record)
    }

    fn show(&self, place: &Place<'_>, generation: &Generation) -> Result<()> {
        // After a start of the machine it is there, with its changes.
        if !tree_of(place, generation).exists() {
            self.make(place, generation)?;
        }
        shown::show_tree(place, generation)
    }

    fn swap(&self, place: &Place<'_>, generation: &Generation) -> Result<Swapped> {
        self.make(place, generation)?;
        shown::replace_by_tree(place, generation)
    }

    fn is_shown(&self, place: &Place<'_>) -> Result<bool> {
        shown::is_shown(place)
    }

    fn changes(&self, place: &Place<'_>, generation: &Generation) -> PathBuf {
        tree_of(place, generation)
    }

    fn freeze(&self, place: &Place<'_>, _: &Generation) -> Result<()> {
        Err(self.refused(
            place.record,
            "its changes are not kept apart from the base".into(),
            Some("cowsnap overlay create … --mode kernel".into()),
        ))
    }

    fn thaw(&self, _: &Place<'_>, _: &Generation) -> Result<()> {
        Ok(())
    }

    fn take_down(&self, place: &Place<'_>) -> Result<()> {
        shown::take_down(place)
    }

    /// Not where a command makes the tree, which may fail for other reasons, and not where the old tree's blocks are the base's, too.
    fn can_give_way(&self, place: &Place<'_>) -> Result<bool> {
        let ([base], Mode::Copy) = (place.lower, self.0) else { return Ok(false) };
        let space = |dir: &Path| rustix::fs::statvfs(dir).map_err(Error::io("examine", dir.display()));
        let found = space(place.overlay.dir())?;
        let there = found.f_bavail.saturating_mul(found.f_frsize).saturating_add(taken_by(place.at())?);
        let needed = taken_by(base)?;
        // What is not of files, and what lies less well in what is left.
        Ok(there >= needed.saturating_add(needed / 16).saturating_add(1 << 20))
    }

    fn give_way(&self, place: &Place<'_>) -> Result<()> {
        match place.record.options.more.contains_key(shown::EXCHANGED) {
            true => shown::take_down(place),
            false => ours::take_down_at(place),
        }
    }

    fn base_down(&self, overlay: &Entry, record: &Record) -> Result<()> {
        base::let_go(overlay, record)
    }
}

impl Plain {
    /// Makes the tree of `generation`, whole or not at all.
    fn make(&self, place: &Place<'_>, generation: &Generation) -> Result<()> {
        let [base] = place.lower else {
            return Err(self.refused(
                place.record,
                "it has layers, which this mode does not put together".into(),
                None,
            ));
        };
        let making = generation.dir().join("making");
        remove_tree(&making).map_err(Error::io("remove", making.display()))?;
        fs::create_dir(&making).map_err(Error::io("make directory", making.display()))?;
        match self.0 {
            Mode::Recreate => self.run(place, base, &making)?,
            mode => self.copy(place, base, &making, mode == Mode::Copy)?,
        }
        if !place.record.options.volatile {
            let synced = File::open(&making).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
            synced.map_err(Error::io("sync", making.display()))?;
        }
        fs::rename(&making, tree_of(place, generation)).map_err(Error::io("rename", making.display()))
    }

    fn copy(&self, place: &Place<'_>, base: &Path, to: &Path, copying: bool) -> Result<()> {
        let failed = || Error::io("open", base.display());
        let opened = File::open(base).map_err(failed())?;
        // A bind of its own has nothing mounted in it. Who may not mount is refused where something is.
        let bare = mount::bind(opened.as_fd()).ok();
        let from = bare.as_ref().map_or(opened.as_fd(), AsFd::as_fd);
        let to_dir = File::open(to).map_err(Error::io("open", to.display()))?;
        let watch = WATCHED_BY.get().map(|make| make(place.at())).unwrap_or_default();
        let how = CopyWhole { label: &base.display().to_string(), copying, watch: &watch };
        copy_whole(from, to_dir.as_fd(), &how).map_err(|error| match error {
            Error::Refused { why, .. } => self.refused(place.record, why, None),
            other => other,
        })
    }

    /// Runs the command in the new tree. What it says goes to standard error.
    fn run(&self, place: &Place<'_>, base: &Path, to: &Path) -> Result<()> {
        let record = place.record;
        let Some(command) = command(record) else {
            return Err(self.refused(record, "no command is said that makes it".into(), None));
        };
        look_like(base, to).map_err(Error::io("copy the attributes of", base.display()))?;
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec >&2\n{command}")]).current_dir(to).stdin(Stdio::null());
        shell.env("COWSNAP_OVERLAY_DIR", to).env("COWSNAP_OVERLAY_AT", place.at());
        shell.env("COWSNAP_OVERLAY_WORKER", place.copy.number.to_string());
        if record.base.kind != BaseKind::None {
            shell.env("COWSNAP_OVERLAY_BASE", base);
        }
        let status = shell.status().map_err(Error::io("start", "sh"))?;
        match status.success() {
            true => Ok(()),
            false => Err(self.refused(
                record,
                format!("the command that makes it ended with {status}: {command}"),
                None,
            )),
        }
    }

    fn refused(&self, record: &Record, why: String, hint: Option<String>) -> Error {
        Error::Refused {
            op: "make",
            subject: format!("overlay {} in mode {}", record.name, self.0),
            why,
            hint,
        }
    }
}

/// How many bytes of disk a tree takes.
fn taken_by(dir: &Path) -> Result<u64> {
    let (mut bytes, mut seen, mut left) = (0, HashSet::new(), vec![dir.to_owned()]);
    while let Some(path) = left.pop() {
        let failed = || Error::io("examine", path.display());
        let meta = fs::symlink_metadata(&path).map_err(failed())?;
        if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        bytes += meta.blocks() * 512;
        if meta.is_dir() {
            let entries = fs::read_dir(&path).map_err(failed())?;
            let paths = entries.map(|entry| entry.map(|entry| entry.path()));
            left.extend(paths.collect::<std::io::Result<Vec<_>>>().map_err(failed())?);
        }
    }
    Ok(bytes)
}

fn command(record: &Record) -> Option<&str> {
    record.options.more.get(COMMAND)?.as_str()
}
