//! Native clones: a writable snapshot of the base, bound to the copy's place.
//!
//! What a clone is called and where it is stands in a small file of the generation's directory, written before the clone is
//! made: whoever destroys the directory destroys the clone first. A spare clone is made in the background, so that a reset
//! has not to wait for the filesystem's transaction.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, StatVfsMountFlags};
use serde::{Deserialize, Serialize};

use crate::endpoint::btrfs::scratch::Scratch;
use crate::endpoint::btrfs::{is_on_btrfs, is_subvolume};
use crate::endpoint::each::each_by;
use crate::endpoint::overlay::home::random;
use crate::endpoint::overlay::{Entry, Generation, Home, Place, Serve, Swapped, base, ours, shown};
use crate::endpoint::record::{read_record, replace_file_unsynced};
use crate::endpoint::{Dataset, Error, Result, btrfs};
use crate::model::PathText;
use crate::model::overlay::{Base, BaseKind, Mode, MountSource, Record};
use crate::sys::btrfs::get_subvol_info;
use crate::sys::namespace;

/// Serves [`Mode::Native`].
#[derive(Debug)]
pub struct Native;

/// Which clone a generation has, or waits to be one's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CloneFile {
    /// A path on its filesystem.
    on: PathText,
    /// What it is called there.
    name: String,
    /// The base's last transaction when it was made: what was changed since is not in it.
    transaction: Option<u64>,
}

/// The file in a generation's directory.
const CLONE: &str = "clone";
/// The file in a copy's directory that names the clone to be used next, and what it is called until that is there.
const SPARE: &str = "spare";
const SPARE_MAKING: &str = "spare.making";

/// How many clones are made at a time: each waits for a transaction.
const AT_ONCE: usize = 16;

/// The filesystem that can clone the base in one call; else why not.
pub fn can_clone(base: &Base) -> Result<String, String> {
    if !rustix::process::geteuid().is_root() || namespace::has_users_of_its_own() {
        return Err("only root may clone and mount a whole filesystem's part".into());
    }
    let path = base.path.as_path();
    match base.kind {
        BaseKind::Dir | BaseKind::Snapshot => {}
        BaseKind::Image | BaseKind::None => return Err("the base is neither on btrfs nor on ZFS".into()),
    }
    if !path.is_absolute() {
        return Err("clones of ZFS snapshots are not served yet".into());
    }
    if !is_on_btrfs(path).unwrap_or(false) {
        return Err("the base is neither on btrfs nor on ZFS".into());
    }
    if base.kind == BaseKind::Dir {
        if !is_subvolume(path).unwrap_or(false) {
            return Err("the base is a directory and no subvolume".into());
        }
        let nested = btrfs::Dataset::at(path)
            .and_then(|dataset| dataset.nested())
            .map_err(|error| error.to_string())?;
        if let Some(nested) = nested.first() {
            return Err(format!("the subvolume {nested} lies in the base, and would be left out"));
        }
    }
    match rustix::fs::statvfs(path).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
        && base.kind == BaseKind::Dir
    {
        true => Err("the base's filesystem is mounted read-only".into()),
        false => Ok("btrfs".into()),
    }
}

impl Serve for Native {
    fn check(&self, _: &Home, record: &Record) -> Result<()> {
        can_clone(&record.base).map_err(|why| refused(record, why))?;
        match record.layers.is_empty() {
            true => Ok(()),
            false => Err(refused(record, "it has layers, which this mode does not put together".into())),
        }
    }

    fn base(&self, overlay: &Entry, record: &Record) -> Result<PathBuf> {
        let dir = base::reach(overlay, record)?;
        if record.state == crate::model::overlay::State::Making && record.copies.len() > 1 {
            // At once: their transactions are one then.
            make_spares(overlay, record)?;
        }
        Ok(dir)
    }

    fn show(&self, place: &Place<'_>, generation: &Generation) -> Result<()> {
        // After a start of the machine it is there, with its changes.
        let there = match read(&generation.dir().join(CLONE))? {
            Some(clone) => Scratch::of(clone.on.as_path())?.open(&clone.name)?,
            None => None,
        };
        let tree = there.map_or_else(|| make(place, generation), Ok)?;
        shown::attach(place, &shown::bound(place, tree)?)
    }

    fn swap(&self, place: &Place<'_>, generation: &Generation) -> Result<Swapped> {
        let tree = make(place, generation)?;
        shown::replace(place, &shown::bound(place, tree)?)
    }

    fn changes(&self, place: &Place<'_>, generation: &Generation) -> PathBuf {
        let found = read(&generation.dir().join(CLONE)).ok().flatten().and_then(|clone| {
            let on = Scratch::of(clone.on.as_path()).ok()?.mounted_at().ok()?;
            Some(on.join(crate::endpoint::btrfs::store::STORE_DIR).join("overlays").join(clone.name))
        });
        found.unwrap_or_else(|| place.at().to_owned())
    }

    fn freeze(&self, place: &Place<'_>, _: &Generation) -> Result<()> {
        Err(refused(place.record, "its changes are not kept apart from the base".into()))
    }

    fn thaw(&self, _: &Place<'_>, _: &Generation) -> Result<()> {
        Ok(())
    }

    fn take_down(&self, place: &Place<'_>) -> Result<()> {
        ours::take_down(place)
    }

    fn base_down(&self, overlay: &Entry, record: &Record) -> Result<()> {
        base::let_go(overlay, record)
    }
}

/// Makes the clone of `generation`, or takes the spare one.
fn make(place: &Place<'_>, generation: &Generation) -> Result<OwnedFd> {
    let [_] = place.lower else {
        return Err(refused(place.record, "it has layers, which this mode does not put together".into()));
    };
    let source = Source::of(place.record)?;
    if let Some(tree) = take_spare(place, generation, &source)? {
        return Ok(tree);
    }
    let name = name_of(place.overlay, place.copy.number, generation.number, random()?);
    let clone = CloneFile { on: source.on()?, name, transaction: None };
    write(&generation.dir().join(CLONE), &clone)?;
    source.scratch.make(&clone.name, source.root.as_fd())?;
    opened(&source.scratch, &clone.name)
}

/// Renamed before the file of the spare goes: a kill leaves it named somewhere.
fn take_spare(place: &Place<'_>, generation: &Generation, source: &Source) -> Result<Option<OwnedFd>> {
    let file = copy_dir(place.overlay, place.copy.number).join(SPARE);
    let Some(spare) = read(&file)? else { return Ok(None) };
    if spare.transaction != Some(source.transaction()?) {
        discard(place.overlay.home(), &file)?;
        return Ok(None);
    }
    let (_, suffix) = spare.name.rsplit_once(':').unwrap_or_default();
    let name = format!(
        "{}:{suffix}",
        place.overlay.source(place.copy.number, Some(generation.number)).as_file_name()
    );
    let clone = CloneFile { name, ..spare.clone() };
    write(&generation.dir().join(CLONE), &clone)?;
    let taken = source.scratch.rename(&spare.name, &clone.name)?;
    remove(&file)?;
    if !taken {
        remove(&generation.dir().join(CLONE))?;
        return Ok(None);
    }
    opened(&source.scratch, &clone.name).map(Some)
}

/// The base, opened to be cloned.
struct Source {
    scratch: Scratch,
    root: OwnedFd,
}

impl Source {
    fn of(record: &Record) -> Result<Self> {
        let base = &record.base;
        let path = base.path.as_path();
        let root = match &base.version {
            Some(version) => match crate::endpoint::path::named(path)? {
                Dataset::Btrfs(dataset) => dataset.open_version(version)?,
                other => return Err(refused(record, format!("{other} is not on btrfs"))),
            },
            None => File::open(path).map_err(Error::io("open", path.display()))?.into(),
        };
        Ok(Self { scratch: Scratch::of(path)?, root })
    }

    fn on(&self) -> Result<PathText> {
        Ok(self.scratch.mounted_at()?.as_path().into())
    }

    /// The transaction of the last change of its content.
    fn transaction(&self) -> Result<u64> {
        Ok(get_subvol_info(self.root.as_fd()).map_err(Error::io("read", "a subvolume"))?.ctransid)
    }
}

/// Makes spare clones for the copies of an overlay that have none.
///
/// # Errors
/// What can not be cloned or written.
pub fn make_spares(overlay: &Entry, record: &Record) -> Result<()> {
    let numbers = record.copies.iter().map(|copy| copy.number);
    let lacking: Vec<_> = numbers.filter(|&copy| !copy_dir(overlay, copy).join(SPARE).exists()).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let source = Source::of(record)?;
    each_by(AT_ONCE, &lacking, |&copy| make_spare(overlay, &source, copy)).map(drop)
}

/// Works without the overlay's lock, which nobody should have to wait for: if the overlay is destroyed meanwhile, the clone goes too.
fn make_spare(overlay: &Entry, source: &Source, copy: u32) -> Result<()> {
    let dir = copy_dir(overlay, copy);
    match fs::create_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()), // It was destroyed.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(Error::io("make directory", dir.display()))?,
    }
    let folder = File::open(&dir).map_err(Error::io("open", dir.display()))?;
    if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(()); // Somebody is making it.
    }
    let (making, spare) = (dir.join(SPARE_MAKING), dir.join(SPARE));
    discard(overlay.home(), &making)?;
    if spare.exists() {
        return Ok(());
    }
    let transaction = source.transaction()?;
    let name = name_of(overlay, copy, 0, random()?);
    let clone = CloneFile { on: source.on()?, name, transaction: Some(transaction) };
    write(&making, &clone)?;
    source.scratch.make(&clone.name, source.root.as_fd())?;
    // What was changed while it was made may be in it or not.
    let is_of_now = source.transaction()? == transaction;
    if !is_of_now {
        return discard(overlay.home(), &making);
    }
    match fs::rename(&making, &spare) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => source.scratch.destroy(&clone.name),
        other => other.map_err(Error::io("rename", making.display())),
    }
}

/// The overlays of the home that lack a spare clone.
///
/// # Errors
/// A home that can not be read.
pub fn without_spares(home: &Home) -> Result<Vec<(Entry, Record)>> {
    let mut lacking = Vec::new();
    for entry in home.entries()? {
        let Ok(Some(record)) = entry.record() else { continue };
        let has_none =
            |copy: &crate::model::overlay::Copy| !copy_dir(&entry, copy.number).join(SPARE).exists();
        if record.mode == Mode::Native
            && record.state == crate::model::overlay::State::Ready
            && !is_of_one_command(&record)
            && record.copies.iter().any(has_none)
        {
            lacking.push((entry, record));
        }
    }
    Ok(lacking)
}

/// What is never reset needs no spare.
fn is_of_one_command(record: &Record) -> bool {
    record.name.as_str().starts_with("run-")
}

/// Destroys the clones of which something in `path` says where they are: a generation's directory, or an overlay's.
///
/// # Errors
/// A clone that can not be destroyed: its filesystem is not to be seen, say.
pub(super) fn destroy_clones_in(home: &Home, path: &Path) -> Result<()> {
    if !path.is_dir() {
        return Ok(());
    }
    discard(home, &path.join(CLONE))?;
    clone_files(path).iter().try_for_each(|file| discard(home, file))?;
    // An overlay's own directory: after a crash of the machine, a file may not say what it said.
    let Ok(Some(text)) = read_record(&path.join("overlay.json")) else { return Ok(()) };
    match serde_json::from_slice::<Record>(&text) {
        Ok(record) if record.mode == Mode::Native => destroy_strays(home, &record),
        _ => Ok(()),
    }
}

/// Destroys the clones of overlays of that name that nothing speaks of.
fn destroy_strays(home: &Home, record: &Record) -> Result<()> {
    let Ok(scratch) = Scratch::of(record.base.path.as_path()) else { return Ok(()) };
    // Looked for in this order: whoever makes a clone writes its name down first.
    let found = scratch.names()?;
    let files = clone_files(home.entry(&record.name).dir());
    let known: Vec<_> = files.iter().filter_map(|file| Some(read(file).ok()??.name)).collect();
    let is_stray = |name: &&String| {
        MountSource::parse_file_name(name)
            .is_some_and(|source| source.home == home.id() && source.name == record.name)
            && !known.contains(name)
    };
    found.iter().filter(is_stray).try_for_each(|name| scratch.destroy(name))
}

/// The files in an overlay's directory that name clones, whether they are there or not.
fn clone_files(overlay: &Path) -> Vec<PathBuf> {
    let of_copy = |copy: PathBuf| {
        let generations = numbered(&copy).into_iter().map(|generation| generation.join(CLONE));
        [copy.join(SPARE), copy.join(SPARE_MAKING)].into_iter().chain(generations).collect::<Vec<_>>()
    };
    numbered(overlay).into_iter().flat_map(of_copy).collect()
}

fn numbered(dir: &Path) -> Vec<PathBuf> {
    let is_number = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u64>().is_ok())
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(is_number).collect()
}

/// Destroys the clone that `file` names, then the file.
fn discard(home: &Home, file: &Path) -> Result<()> {
    let clone = match read(file) {
        // It was not on disk yet when the machine crashed.
        Err(Error::Corrupt { .. }) => return remove(file),
        other => other?,
    };
    let Some(clone) = clone else { return Ok(()) };
    let is_ours = MountSource::parse_file_name(&clone.name).is_some_and(|source| source.home == home.id());
    if is_ours {
        Scratch::of(clone.on.as_path())?.destroy(&clone.name)?;
    }
    remove(file)
}

fn name_of(overlay: &Entry, copy: u32, generation: u64, random: u64) -> String {
    format!("{}:{random:016x}", overlay.source(copy, Some(generation)).as_file_name())
}

fn copy_dir(overlay: &Entry, copy: u32) -> PathBuf {
    overlay.dir().join(copy.to_string())
}

fn opened(scratch: &Scratch, name: &str) -> Result<OwnedFd> {
    let gone = || Error::NotFound { what: "clone", subject: name.into(), hint: None };
    scratch.open(name)?.ok_or_else(gone)
}

fn read(file: &Path) -> Result<Option<CloneFile>> {
    let Some(text) = read_record(file)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|error| Error::Corrupt {
        what: "overlay clone",
        why: format!("{}: {error}", file.display()),
        source: None,
    })
}

fn write(file: &Path, clone: &CloneFile) -> Result<()> {
    replace_file_unsynced(file, &serde_json::to_vec(clone).expect("its keys are texts"))
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", file.display())(error))
        }
        _ => Ok(()),
    }
}

fn refused(record: &Record, why: String) -> Error {
    Error::Refused {
        op: "make",
        subject: format!("overlay {} in mode native", record.name),
        why,
        hint: Some("cowsnap overlay create … --mode kernel".into()),
    }
}
