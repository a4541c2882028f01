//! Native clones: a writable snapshot of the base, shown at the copy's place: on btrfs by a bind mount, on ZFS as a mount of its own.
//!
//! What a clone is called and where it is stands in a small file of the generation's directory, written before the clone is
//! made: whoever destroys the directory destroys the clone first. A spare clone is made in the background, so that a reset
//! has not to wait for the filesystem's transaction.
//!
//! On ZFS all clones of an overlay are of one snapshot: the base, or one that is taken of it when the overlay is made, and goes with it.

mod changes;
mod clones;
mod stacks;
mod strays;
mod view;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, StatVfsMountFlags};
use serde::{Deserialize, Serialize};

pub use changes::{Look, look, look_since};
use clones::{Clones, Source};
pub use stacks::{forget_stacks, is_made_of, put_together};
pub use view::{forget_views, views};

use crate::endpoint::btrfs::{is_on_btrfs, is_subvolume};
use crate::endpoint::each::each_by;
use crate::endpoint::overlay::home::random;
use crate::endpoint::overlay::{Entry, Generation, Home, Place, Serve, Swapped, base, ours, shown};
use crate::endpoint::record::{read_record, replace_file_unsynced, sync_folder};
use crate::endpoint::zfs::inside::{Found, Inside};
use crate::endpoint::{Error, Result, btrfs, zfs};
use crate::model::overlay::{Base, BaseKind, Copy, Mode, MountSource, Record, State};
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
    /// What the read-only snapshot of a base that may change is called of which it is made, on btrfs: with that it is compared.
    ///
    /// Of a tree of layers on ZFS, its snapshot, of which clones are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    /// The tree of layers of which it is made, if it is of no base alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made_of: Option<String>,
    /// Its guid, on ZFS, once that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guid: Option<Guid>,
    /// That of its pool: another one may have the name one day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pool: Option<Guid>,
}

impl CloneFile {
    /// The clones among which it is.
    ///
    /// # Errors
    /// A filesystem that is not to be seen; [`Error::Refused`] if it is another pool that is called so now.
    fn among(&self) -> Result<Clones> {
        let clones = Clones::on(self.on.as_path())?;
        if let Clones::Zfs(_) = clones {
            zfs::overlays::expect_pool(&self.on.as_path().display().to_string(), self.pool)?;
        }
        Ok(clones)
    }

    /// What of a tree of layers is cloned and looked at.
    fn tree_name(&self) -> &str {
        self.origin.as_deref().filter(|name| name.contains('@')).unwrap_or(&self.name)
    }

    /// Destroys it, with what is `given_up` of what was made in it, and what was made for it. False: another one is called so, and stays.
    fn destroy(&self, given_up: &[Inside]) -> Result<bool> {
        let among = self.among()?;
        let gone = among.destroy(&self.name, self.guid, given_up)?;
        if let Some(origin) = &self.origin {
            among.destroy(origin, None, &[])?;
        }
        Ok(gone)
    }
}

/// The file in a generation's directory.
const CLONE: &str = "clone";
/// The file beside it that names the snapshot of the clone that a command looks at.
const VIEW: &str = "view";
/// The file beside it that says what was made in the clone and may go with it.
const GIVEN_UP: &str = "given-up";
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
        can_clone(&record.base).map(drop).map_err(|why| refused(record, why))
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
            Some(clone) => clone.among()?.tree(place, &clone.name)?,
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

    fn made_inside(&self, overlay: &Entry, copies: &[&Copy]) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for (_, (clone, inside)) in inside(overlay, copies)? {
            names.extend(inside?.into_iter().map(|inside| format!("{clone}{}", inside.name)));
        }
        Ok(names)
    }

    fn give_up_inside(&self, overlay: &Entry, copies: &[&Copy]) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for (dir, (clone, inside)) in inside(overlay, copies)? {
            let inside = match inside {
                Ok(inside) => inside,
                Err(error) => {
                    tracing::warn!("it stays when the overlay goes: {error}");
                    continue;
                }
            };
            let text = serde_json::to_vec(&inside).expect("its keys are texts");
            replace_file_unsynced(&dir.join(GIVEN_UP), &text)?;
            names.extend(inside.into_iter().map(|inside| format!("{clone}{}", inside.name)));
        }
        Ok(names)
    }

    /// What it shows is looked at as it is at one instant ([`look`]).
    fn freeze(&self, _: &Place<'_>, _: &Generation) -> Result<()> {
        Ok(())
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

/// The clones of these copies in which somebody made something, each with its generation's directory.
fn inside(overlay: &Entry, copies: &[&Copy]) -> Result<Vec<(PathBuf, Found)>> {
    let mut clones = BTreeMap::<PathBuf, Vec<(String, PathBuf)>>::new();
    for copy in copies {
        for number in overlay.generations(copy.number)? {
            let dir = overlay.generation(copy.number, number).dir().to_owned();
            let Some(CloneFile { on, name, .. }) = read(&dir.join(CLONE))? else { continue };
            clones.entry(on.as_path().to_owned()).or_default().push((name, dir));
        }
    }
    let mut found = Vec::new();
    for (on, clones) in clones {
        let names: Vec<_> = clones.iter().map(|(name, _)| name.clone()).collect();
        // On a filesystem that is not to be seen, nothing is destroyed either.
        let Ok(on) = Clones::on(&on) else { continue };
        for (full, inside) in on.inside(&names)? {
            let of_it = clones.iter().find(|(name, _)| full.rsplit('/').next() == Some(name));
            found.extend(of_it.map(|(_, dir)| (dir.clone(), (full.clone(), inside))));
        }
    }
    Ok(found)
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
    let (source, made_of) = Source::of(place.overlay, place.record)?;
    if let Some(tree) = take_spare(place, generation, (&source, &made_of))? {
        return Ok(tree);
    }
    let name = name_of(place.overlay, place.copy.number, generation.number, random()?);
    let mut clone = source.clone_to_be(name, None, made_of)?;
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
fn take_spare(
    place: &Place<'_>,
    generation: &Generation,
    (source, made_of): (&Source, &Option<String>),
) -> Result<Option<Detached>> {
    let file = copy_dir(place.overlay, place.copy.number).join(SPARE);
    let Some(spare) = read(&file)? else { return remove(&file).map(|()| None) };
    // As long as one shows, its pool is there.
    if !Native.is_shown(place)? {
        spare.among()?;
    }
    if spare.made_of != *made_of || spare.transaction != source.transaction()? {
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
    let (source, made_of) = Source::of(overlay, record)?;
    let source = source.checked()?;
    each_by(AT_ONCE, &lacking, |&copy| make_spare(overlay, (&source, &made_of), copy)).map(drop)
}

/// Works without the overlay's lock, which nobody should have to wait for: if the overlay is destroyed meanwhile, the clone goes too.
fn make_spare(overlay: &Entry, (source, made_of): (&Source, &Option<String>), copy: u32) -> Result<()> {
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
    let mut clone = source.clone_to_be(name, transaction, made_of.clone())?;
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
        Err(error) if error.kind() == io::ErrorKind::NotFound => clone.destroy(&[]).map(drop),
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
        let has_none = |copy: &Copy| !copy_dir(&entry, copy.number).join(SPARE).exists();
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
        strays::destroy(home, path, &record)?;
    }
    discard(home, &path.join(VIEW))?;
    discard(home, &path.join(CLONE))?;
    clone_files(path)?.iter().try_for_each(|file| discard(home, file))?;
    clones::discard_origin(path)
}

/// The files in an overlay's directory that name clones, whether they are there or not: in the order in which a name goes from one to
/// another, so that whoever reads them so misses none.
fn clone_files(overlay: &Path) -> Result<Vec<PathBuf>> {
    let copies = numbered(overlay)?;
    let waiting = |name| copies.iter().map(move |copy| copy.join(name));
    let mut files: Vec<_> = waiting(SPARE_MAKING).chain(waiting(SPARE)).collect();
    for copy in &copies {
        let generations = numbered(copy)?.into_iter();
        files.extend(generations.flat_map(|dir| [dir.join(VIEW), dir.join(CLONE)]));
    }
    // What others are made of goes after them.
    files.extend(stacks::files(overlay)?);
    Ok(files)
}

fn numbered(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list", dir.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir.display()))?;
        if entry.file_name().to_str().is_some_and(|name| name.parse::<u64>().is_ok()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Destroys the clone that `file` names, then the file.
fn discard(home: &Home, file: &Path) -> Result<()> {
    let Some(clone) = read(file)? else { return remove(file) };
    let is_ours = MountSource::parse_file_name(&clone.name).is_some_and(|source| source.home == home.id());
    if is_ours {
        let given_up = read_record(&file.with_file_name(GIVEN_UP))?.unwrap_or_default();
        // What can not be read says nothing.
        let given_up: Vec<_> = serde_json::from_slice(&given_up).unwrap_or_default();
        if !clone.destroy(&given_up)? {
            return strays::keep(home, file);
        }
    }
    remove(file)
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

/// What a file says; `None` if there is none, or if it was not on disk yet when the machine crashed.
fn read(file: &Path) -> Result<Option<CloneFile>> {
    let Some(text) = read_record(file)?.filter(|text| !is_lost(text)) else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|error| Error::Corrupt {
        what: "overlay clone",
        why: format!("{}: {error}", file.display()),
        source: None,
    })
}

/// What a crash leaves of a file that was not synced.
fn is_lost(text: &[u8]) -> bool {
    text.iter().all(|&byte| byte == 0)
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
