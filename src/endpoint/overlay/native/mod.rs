//! Native clones: a writable snapshot of the base, shown at the copy's place: on btrfs by a bind mount, on ZFS as a mount of its own.
//!
//! What a clone is called and where it is stands in a small file of the generation's directory, written before the clone is
//! made: whoever destroys the directory destroys the clone first. A spare clone is made in the background, so that a reset
//! has not to wait for the filesystem's transaction.
//!
//! On ZFS all clones of an overlay are of one snapshot: the base, or one that is taken of it when the overlay is made, and goes with it.

mod clones;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, StatVfsMountFlags};
use serde::{Deserialize, Serialize};

use clones::{Clones, Source};

use crate::endpoint::btrfs::{is_on_btrfs, is_subvolume};
use crate::endpoint::each::each_by;
use crate::endpoint::overlay::home::random;
use crate::endpoint::overlay::{Entry, Generation, Home, Place, Serve, Swapped, base, ours, shown};
use crate::endpoint::record::{read_record, replace_file_unsynced, sync_folder};
use crate::endpoint::{Error, Result, btrfs, zfs};
use crate::model::overlay::{Base, BaseKind, Mode, MountSource, Record, State};
use crate::model::{Guid, PathText, quoted};
use crate::sys::mount::Detached;
use crate::sys::namespace;

/// Serves [`Mode::Native`].
#[derive(Debug)]
pub struct Native;

/// Which clone a generation has, or waits to be one's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CloneFile {
    /// A path on its filesystem, or the name of its pool.
    on: PathText,
    /// What it is called there.
    name: String,
    /// The base's last transaction when it was made, on btrfs: what was changed since is not in it.
    transaction: Option<u64>,
    /// Its guid, on ZFS, once that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guid: Option<Guid>,
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
    if let Some(dataset) = clones::dataset_of(base).map_err(|error| error.to_string())? {
        return dataset.expect_clonable().map(|()| "ZFS".into()).map_err(|error| error.to_string());
    }
    // One that was received need not be there, but for its snapshots.
    let there = match base.kind {
        BaseKind::Snapshot => path.ancestors().find(|dir| dir.exists()).unwrap_or(path),
        _ => path,
    };
    if !is_on_btrfs(there).unwrap_or(false) {
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

/// Why no clone of the base is made unless somebody asks for one: it could not be made, or would be in somebody's way. `None` if nothing
/// speaks against it.
pub fn against(base: &Base) -> Option<String> {
    let against = |dataset: &zfs::Dataset| match dataset.against_clones()? {
        None if base.kind == BaseKind::Dir => dataset.against_snapshots(),
        other => Ok(other),
    };
    let found =
        clones::dataset_of(base).and_then(|dataset| dataset.map_or(Ok(None), |dataset| against(&dataset)));
    found.unwrap_or_else(|error| Some(error.to_string()))
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
        if record.state == State::Making {
            clones::prepare(overlay, record, random()?)?;
            if record.copies.len() > 1 {
                // At once: their transactions are one then.
                make_spares(overlay, record)?;
            }
        }
        Ok(dir)
    }

    fn show(&self, place: &Place<'_>, generation: &Generation) -> Result<()> {
        // After a start of the machine it is there, with its changes.
        let there = match read(&generation.dir().join(CLONE))? {
            Some(clone) => Clones::on(clone.on.as_path())?.tree(place, &clone.name)?,
            None => None,
        };
        let tree = match there {
            Some(tree) => tree,
            None if place.record.state == State::Making => make(place, generation)?,
            // Another one would be shown in the place of its changes, and what names them would be gone.
            None => {
                return Err(Error::NotFound {
                    what: "clone with the changes of overlay",
                    subject: place.record.name.to_string(),
                    hint: Some(format!(
                        "to begin anew: cowsnap overlay reset {}",
                        quoted(&place.record.name)
                    )),
                });
            }
        };
        shown::attach(place, &tree)
    }

    fn swap(&self, place: &Place<'_>, generation: &Generation) -> Result<Swapped> {
        shown::replace(place, &make(place, generation)?)
    }

    fn changes(&self, place: &Place<'_>, generation: &Generation) -> PathBuf {
        let clone = read(&generation.dir().join(CLONE)).ok().flatten();
        let found = clone.and_then(|clone| Clones::on(clone.on.as_path()).ok()?.path(&clone.name));
        // Once it is mounted again, it is there.
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

/// Makes the clone of `generation`, or takes the spare one. What names it outlasts a crash of the machine if what is changed in it does.
fn make(place: &Place<'_>, generation: &Generation) -> Result<Detached> {
    let tree = make_or_take(place, generation)?;
    if !place.record.options.volatile {
        let file = generation.dir().join(CLONE);
        let synced = File::open(&file).and_then(|file| file.sync_all());
        synced.map_err(Error::io("sync", file.display()))?;
        sync_folder(generation.dir())?;
        sync_folder(&copy_dir(place.overlay, place.copy.number))?;
    }
    Ok(tree)
}

fn make_or_take(place: &Place<'_>, generation: &Generation) -> Result<Detached> {
    let [_] = place.lower else {
        return Err(refused(place.record, "it has layers, which this mode does not put together".into()));
    };
    let source = Source::of(place.overlay, place.record)?;
    if let Some(tree) = take_spare(place, generation, &source)? {
        return Ok(tree);
    }
    let name = name_of(place.overlay, place.copy.number, generation.number, random()?);
    let mut clone = CloneFile { on: source.on()?, name, transaction: None, guid: None };
    let source = source.checked()?;
    write(&generation.dir().join(CLONE), &clone)?;
    source.make(&clone)?;
    clone.guid = source.guid(&clone)?;
    if clone.guid.is_some() {
        write(&generation.dir().join(CLONE), &clone)?;
    }
    opened(place, &clone)
}

/// A kill leaves the clone named somewhere: in the file of the spare, or, before it has another name, in that of the generation.
fn take_spare(place: &Place<'_>, generation: &Generation, source: &Source) -> Result<Option<Detached>> {
    let file = copy_dir(place.overlay, place.copy.number).join(SPARE);
    let Some(spare) = read(&file)? else { return Ok(None) };
    if spare.transaction != source.transaction()? {
        discard(place.overlay.home(), &file)?;
        return Ok(None);
    }
    let own = generation.dir().join(CLONE);
    let (_, suffix) = spare.name.rsplit_once(':').unwrap_or_default();
    let name = format!(
        "{}:{suffix}",
        place.overlay.source(place.copy.number, Some(generation.number)).as_file_name()
    );
    if name == spare.name {
        fs::rename(&file, &own).map_err(Error::io("rename", file.display()))?;
        let tree = Clones::on(spare.on.as_path())?.tree(place, &name)?;
        return if tree.is_some() { Ok(tree) } else { remove(&own).map(|()| None) };
    }
    let clone = CloneFile { name, ..spare.clone() };
    write(&own, &clone)?;
    let taken = Clones::on(spare.on.as_path())?.rename(&spare.name, &clone.name)?;
    remove(&file)?;
    if !taken {
        remove(&own)?;
        return Ok(None);
    }
    opened(place, &clone).map(Some)
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
    let source = Source::of(overlay, record)?.checked()?;
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
    let name = name_of(overlay, copy, source.generation_of_spare(overlay, copy)?, random()?);
    let mut clone = CloneFile { on: source.on()?, name, transaction, guid: None };
    write(&making, &clone)?;
    source.make(&clone)?;
    clone.guid = source.guid(&clone)?;
    if clone.guid.is_some() {
        write(&making, &clone)?;
    }
    // What was changed while it was made may be in it or not.
    let is_of_now = source.transaction()? == transaction;
    if !is_of_now {
        return discard(overlay.home(), &making);
    }
    match fs::rename(&making, &spare) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Clones::on(clone.on.as_path())?.destroy(&clone.name, clone.guid).map(drop)
        }
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
            && record.state == State::Ready
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
    // An overlay's own directory: after a crash of the machine, a file may not say what it said.
    if let Some(text) = read_record(&path.join("overlay.json"))?
        && let Ok(record) = serde_json::from_slice::<Record>(&text)
        && record.mode == Mode::Native
    {
        destroy_strays(home, path, &record)?;
    }
    discard(home, &path.join(CLONE))?;
    clone_files(path).iter().try_for_each(|file| discard(home, file))?;
    clones::discard_origin(path)
}

/// Destroys the clones of overlays of that name that nothing speaks of.
fn destroy_strays(home: &Home, dir: &Path, record: &Record) -> Result<()> {
    let Ok(scratch) = Clones::of_overlay(dir, record) else { return Ok(()) };
    // Looked for in this order: whoever makes a clone writes its name down first.
    let found = scratch.names()?;
    // What the files in `dir` name goes by what they say of it.
    let mut files = [clone_files(home.entry(&record.name).dir()), clone_files(dir)].concat();
    files.extend(files.clone().iter().map(|file| foreign(file)));
    let known: Vec<_> = files.iter().filter_map(|file| Some(read(file).ok()??.name)).collect();
    let is_stray = |name: &&String| {
        MountSource::parse_file_name(name)
            .is_some_and(|source| source.home == home.id() && source.name == record.name)
            && !known.contains(name)
    };
    found.iter().filter(is_stray).try_for_each(|name| scratch.destroy(name, None).map(drop))
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
        let gone = Clones::on(clone.on.as_path())?.destroy(&clone.name, clone.guid)?;
        if !gone {
            // Whoever comes again knows that it is not to go.
            return fs::rename(file, foreign(file)).map_err(Error::io("rename", file.display()));
        }
    }
    remove(file)
}

/// Where the file goes of a clone whose name is another one's.
fn foreign(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".foreign");
    name.into()
}

fn name_of(overlay: &Entry, copy: u32, generation: u64, random: u64) -> String {
    format!("{}:{random:016x}", overlay.source(copy, Some(generation)).as_file_name())
}

fn copy_dir(overlay: &Entry, copy: u32) -> PathBuf {
    overlay.dir().join(copy.to_string())
}

fn opened(place: &Place<'_>, clone: &CloneFile) -> Result<Detached> {
    let gone = || Error::NotFound { what: "clone", subject: clone.name.clone(), hint: None };
    Clones::on(clone.on.as_path())?.tree(place, &clone.name)?.ok_or_else(gone)
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
