//! The home of overlays: records, locks, generations and trash (docs/FORMAT-overlay.md). Nothing is mounted here.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::endpoint::overlay::files::{look_like, spread};
use crate::endpoint::overlay::lock::{Lock, PATIENCE, is_still_at, lock_names, open_lock, wait_for};
use crate::endpoint::overlay::private::{check_is_local, check_owner};
use crate::endpoint::record::{read_damageable, read_record, replace_file, replace_file_unsynced};
use crate::endpoint::{Error, Result};
use crate::model::overlay::{FORMAT, LayerId, Mode, MountSource, OverlayName, Record};
use crate::model::quoted;

/// In a generation's directory: the layers that it was made upon.
pub(super) const LAYERS: &str = "layers.json";
/// In a generation's directory: an empty file while nobody may write to it.
pub(super) const FROZEN: &str = "frozen";

/// A directory that holds overlays and layers. One per user, as a rule.
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
    id: String,
}

/// `home.json`
#[derive(Debug, Serialize, Deserialize)]
struct HomeRecord {
    format: u32,
    id: String,
}

impl Home {
    /// Where the caller's home is if nothing else is said: `/var/lib/cowsnap/overlays` for root, else below
    /// `$XDG_STATE_HOME` or `~/.local/state`. `None` for a user without a home directory.
    pub fn default_dir() -> Option<PathBuf> {
        // Root of a user namespace may not write there.
        let may_write = |path: &str| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
        if rustix::process::geteuid().is_root() && may_write("/var/lib") {
            return Some("/var/lib/cowsnap/overlays".into());
        }
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
        Some(state.join("cowsnap/overlays"))
    }

    /// The home at `dir`, made if there is none.
    ///
    /// # Errors
    /// What the kernel says; [`Error::Corrupt`] for a `home.json` that is none; [`Error::Foreign`] for one of another format; [`Error::Denied`]
    /// for one that is another's, or that others may write to, and for one to be made on a filesystem of several machines.
    pub fn open(dir: &Path) -> Result<Self> {
        if let Some(home) = Self::find(dir)? {
            return Ok(home);
        }
        make_dir(dir)?;
        check_owner(dir)?;
        check_is_local(dir)?;
        let dir = dir.canonicalize().map_err(Error::io("find", dir.display()))?;
        let _lock = lock_names(&dir)?;
        // Another one may have made it meanwhile.
        if Self::find(&dir)?.is_none() {
            for name in ["layers", "overlays", "trash"] {
                make_dir(&dir.join(name))?;
            }
            let record = HomeRecord { format: FORMAT, id: format!("{:016x}", random()?) };
            let text = serde_json::to_vec(&record).expect("its keys are texts");
            replace_file(&dir.join("home.json"), &text)?;
        }
        Self::find(&dir)?.ok_or_else(|| Error::Corrupt {
            what: "overlay home",
            why: format!("{} has no home.json though it was just written", dir.display()),
            source: None,
        })
    }

    /// The home at `dir`; `None` if there is none.
    ///
    /// # Errors
    /// As [`Home::open`].
    pub fn find(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("home.json");
        let Some(text) = read_record(&path)? else { return Ok(None) };
        let record: HomeRecord =
            serde_json::from_slice(&text).map_err(|error| corrupt("overlay home", &path, error))?;
        if record.format != FORMAT {
            return Err(foreign_format(&path, record.format));
        }
        check_owner(dir)?;
        let dir = dir.canonicalize().map_err(Error::io("find", dir.display()))?;
        Ok(Some(Self { dir, id: record.id }))
    }

    /// Where it is, without symbolic links.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What tells it from other homes: 16 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The right to make names in this home and to take them away.
    ///
    /// # Errors
    /// [`Error::Refused`] while another process has it for long.
    pub fn lock(&self) -> Result<Lock> {
        lock_names(&self.dir)
    }

    /// Where layers are, each in a directory of its id.
    pub fn layers(&self) -> PathBuf {
        self.dir.join("layers")
    }

    /// Where the layer of that id is.
    pub fn layer(&self, id: LayerId) -> PathBuf {
        self.layers().join(id.to_string())
    }

    /// The overlay of that name, whether it is there or not.
    pub fn entry(&self, name: &OverlayName) -> Entry {
        Entry { home: self.clone(), dir: self.dir.join("overlays").join(name.as_str()), name: name.clone() }
    }

    /// All overlays, by name; half-made ones too. What has no overlay's name is left out.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let folder = self.dir.join("overlays");
        let mut entries = Vec::new();
        for found in fs::read_dir(&folder).map_err(Error::io("list", folder.display()))? {
            let found = found.map_err(Error::io("list", folder.display()))?.file_name();
            entries.extend(found.to_str().and_then(|name| name.parse().ok()).map(|name| self.entry(&name)));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Makes the overlay that `record` describes, with nothing in it yet, and takes its lock.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is one of that name.
    pub fn announce(&self, record: &Record) -> Result<Locked> {
        let _names = self.lock()?;
        let entry = self.entry(&record.name);
        match fs::DirBuilder::new().mode(0o700).create(&entry.dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::Exists {
                    what: "overlay",
                    subject: record.name.to_string(),
                    hint: Some(format!(
                        "cowsnap overlay reset {0}, or cowsnap overlay destroy {0}",
                        quoted(&record.name)
                    )),
                });
            }
            other => other.map_err(Error::io("make overlay", &record.name))?,
        }
        let path = entry.dir.join("lock");
        let lock = open_lock(&path)?;
        // Whoever lists overlays has the lock for an instant, to see whether another one has it.
        wait_for(&lock, PATIENCE, &|| entry.busy())?;
        if !is_still_at(&lock, &path) {
            // Somebody destroyed the name of which nothing was known yet.
            return Err(entry.busy());
        }
        let locked = Locked { entry, _lock: Lock { _file: lock } };
        locked.write(record)?;
        Ok(locked)
    }

    /// Takes `path`, which is in this home, out of the way at once; [`Home::sweep`] destroys it.
    pub fn discard(&self, path: &Path) -> Result<()> {
        let to = self.dir.join("trash").join(random()?.to_string());
        match fs::rename(path, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::io("discard", path.display())),
        }
    }
}

/// An overlay's directory, whether it is there or not.
#[derive(Debug, Clone)]
pub struct Entry {
    home: Home,
    dir: PathBuf,
    name: OverlayName,
}

impl Entry {
    /// What it is called.
    pub fn name(&self) -> &OverlayName {
        &self.name
    }

    /// The home that it is in.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a mode mounts a base that is not a directory yet.
    pub fn base_dir(&self) -> PathBuf {
        self.dir.join("base")
    }

    /// What a mount of copy `copy` gives as its source; `generation` if that mount shows this one for ever.
    pub fn source(&self, copy: u32, generation: Option<u64>) -> MountSource {
        MountSource { home: self.home.id.clone(), name: self.name.clone(), copy, generation }
    }

    /// What is written down of it; `None` if there is nothing, or there is no such overlay. Of a copy whose generation is not there any
    /// more, the newest one counts: a reset need not write it down.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a record that is none, [`Error::Foreign`] for one of another format.
    pub fn record(&self) -> Result<Option<Record>> {
        let Some(mut record) = self.record_as_written()? else { return Ok(None) };
        for copy in &mut record.copies {
            if !self.generation(copy.number, copy.generation).dir.exists() {
                copy.generation = self.newest_generation(copy.number)?.unwrap_or(copy.generation);
            }
        }
        Ok(Some(record))
    }

    fn record_as_written(&self) -> Result<Option<Record>> {
        let path = self.dir.join("overlay.json");
        let Some(text) = read_damageable(&path, "overlay record")? else { return Ok(None) };
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } =
            serde_json::from_slice(&text).map_err(|error| corrupt("overlay record", &path, error))?;
        if format != FORMAT {
            return Err(foreign_format(&path, format));
        }
        let record: Record =
            serde_json::from_slice(&text).map_err(|error| corrupt("overlay record", &path, error))?;
        if record.name != self.name {
            return Err(corrupt("overlay record", &path, format!("it describes {:?}", record.name.as_str())));
        }
        Ok(Some(record))
    }

    /// Takes the overlay's lock; `None` if there is no such overlay.
    ///
    /// # Errors
    /// [`Error::Refused`] while another process has it for long.
    pub fn lock(&self) -> Result<Option<Locked>> {
        let busy = || self.busy();
        self.lock_within(PATIENCE, busy)
    }

    /// As [`Entry::lock`], and waits for nobody.
    pub fn try_lock(&self) -> Result<Option<Locked>> {
        self.lock_within(Duration::ZERO, || self.busy())
    }

    /// Whether somebody is changing it now.
    pub fn is_locked(&self) -> Result<bool> {
        match self.try_lock() {
            Ok(_) => Ok(false),
            Err(Error::Refused { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn busy(&self) -> Error {
        Error::Refused {
            op: "change overlay",
            subject: self.name.to_string(),
            why: "another process is changing it".into(),
            hint: None,
        }
    }

    fn lock_within(&self, patience: Duration, busy: impl Fn() -> Error) -> Result<Option<Locked>> {
        let path = self.dir.join("lock");
        loop {
            // A directory without a lock is one whose maker died at once: it is locked as any other.
            if !self.dir.is_dir() {
                return Ok(None);
            }
            let file = match open_lock(&path) {
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            wait_for(&file, patience, &busy)?;
            // It may have been destroyed, and another one made, while we waited.
            if is_still_at(&file, &path) {
                return Ok(Some(Locked { entry: self.clone(), _lock: Lock { _file: file } }));
            }
        }
    }

    /// The directory of a generation of copy `copy`.
    pub fn generation(&self, copy: u32, number: u64) -> Generation {
        Generation { dir: self.dir.join(copy.to_string()).join(number.to_string()), number }
    }

    /// The numbers of the generations of copy `copy` that are there, the lowest first.
    pub fn generations(&self, copy: u32) -> Result<Vec<u64>> {
        let folder = self.dir.join(copy.to_string());
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("list", folder.display()))?,
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::io("list", folder.display()))?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// All layers that it lies on, or may lie on: those that the record says, and those that one of its generations was made upon.
    ///
    /// # Errors
    /// As [`Entry::record`].
    pub fn layers(&self) -> Result<Vec<LayerId>> {
        let Some(record) = self.record()? else { return Ok(Vec::new()) };
        let mut layers = record.layers;
        for copy in &record.copies {
            for number in self.generations(copy.number)? {
                layers.extend(self.generation(copy.number, number).layers()?.unwrap_or_default());
            }
        }
        Ok(layers)
    }

    /// The newest generation of copy `copy`: of those that say what they lie on, if there are any, as the record may not say it of the others.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn newest_generation(&self, copy: u32) -> Result<Option<u64>> {
        let numbers = self.generations(copy)?;
        let says = |&&number: &&u64| self.generation(copy, number).dir.join(LAYERS).exists();
        Ok(numbers.iter().rev().find(says).or(numbers.last()).copied())
    }

    /// Takes a generation that is out of sight out of the way; [`Home::sweep`] destroys it.
    pub fn discard(&self, generation: &Generation) -> Result<()> {
        self.home.discard(&generation.dir)
    }

    /// As [`Entry::discard`], but for what is written down in it: which layers it lies on, perhaps, which the record need not say.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn discard_tree(&self, generation: &Generation) -> Result<()> {
        let trees = [generation.upper(), generation.work(), generation.blocks()];
        trees.iter().try_for_each(|tree| self.home.discard(tree))
    }
}

/// An overlay whose lock this process has.
#[derive(Debug)]
pub struct Locked {
    entry: Entry,
    _lock: Lock,
}

impl std::ops::Deref for Locked {
    type Target = Entry;
    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Locked {
    /// Writes the record: after a kill the old one is there or the new one. Over a crash of the machine it lasts where the
    /// overlay is to last: unless it is volatile and has an owner.
    pub fn write(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_vec(record).expect("a record's keys are texts");
        let path = self.dir.join("overlay.json");
        match record.options.volatile && record.owner.is_some() {
            true => replace_file_unsynced(&path, &text),
            false => replace_file(&path, &text),
        }
    }

    /// Writes the record after a reset: not if nothing but generations changed, of an overlay that does not outlast a crash of the machine, in a
    /// mode that shows which one it is. On a busy disk a file that is replaced takes as long as all the rest.
    ///
    /// # Errors
    /// As [`Locked::write`].
    pub fn write_reset(&self, record: &Record) -> Result<()> {
        let shows_it = match record.mode {
            Mode::Kernel | Mode::Squashfs | Mode::Erofs | Mode::Native | Mode::Fuse => true,
            Mode::Reflink | Mode::Copy | Mode::Recreate | Mode::Disabled => false,
        };
        if record.options.volatile && shows_it {
            let Some(mut written) = self.record_as_written()? else { return self.write(record) };
            written.copies.clone_from(&record.copies);
            if written == *record {
                return Ok(());
            }
        }
        self.write(record)
    }

    /// Makes the directory of a generation, whose root looks like that of `root`.
    ///
    /// # Errors
    /// [`Error::Exists`] for a number that is there; what the kernel says.
    pub fn make_generation(&self, copy: u32, number: u64, root: &Path) -> Result<Generation> {
        let generation = self.generation(copy, number);
        let dir = self.dir.join(copy.to_string());
        make_dir(&dir)?;
        spread(&dir);
        let make = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
        make(&generation.dir)
            .and_then(|()| make(&generation.upper()))
            .and_then(|()| make(&generation.work()))
            .and_then(|()| make(&generation.blocks()))
            .map_err(Error::io("make a generation of overlay", &self.name))?;
        look_like(root, &generation.upper()).map_err(Error::io("copy the attributes of", root.display()))?;
        Ok(generation)
    }

    /// Takes the overlay out of the way: nothing of it shows any more. [`Home::sweep`] destroys it.
    pub fn discard_all(self) -> Result<()> {
        self.home.discard(&self.dir)
    }
}

/// A numbered directory that takes the changes of a copy, from one reset to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    dir: PathBuf,
    /// Its number.
    pub number: u64,
}

impl Generation {
    /// A directory that is laid out like one, and no copy's.
    pub(super) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), number: 0 }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was changed, as overlayfs' upper directories have it.
    pub fn upper(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// The layers that it was made upon, the lowest first, where it is not sure that the record says them.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for what is no list of them.
    pub fn layers(&self) -> Result<Option<Vec<LayerId>>> {
        let path = self.dir.join(LAYERS);
        let Some(text) = read_damageable(&path, "overlay record")? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| corrupt("overlay record", &path, error))
    }

    /// Writes down the layers that it is made upon, as `durable` as the overlay is.
    pub fn write_layers(&self, layers: &[LayerId], durable: bool) -> Result<()> {
        let text = serde_json::to_vec(layers).expect("ids are text");
        match durable {
            true => replace_file(&self.dir.join(LAYERS), &text),
            false => replace_file_unsynced(&self.dir.join(LAYERS), &text),
        }
    }

    /// Whether it was frozen and not thawed yet: as long as nobody has the overlay's lock, by a command that was killed.
    pub fn is_frozen(&self) -> bool {
        self.dir.join(FROZEN).exists()
    }

    /// Writes down that it is about to be frozen.
    pub fn mark_frozen(&self) -> Result<()> {
        let path = self.dir.join(FROZEN);
        fs::write(&path, "").map_err(Error::io("write", path.display()))
    }

    /// Forgets what [`Generation::mark_frozen`] wrote.
    pub fn unmark_frozen(&self) -> Result<()> {
        self.forget(FROZEN)
    }

    /// Forgets what [`Generation::write_layers`] wrote, once the record says so too.
    pub fn forget_layers(&self) -> Result<()> {
        self.forget(LAYERS)
    }

    fn forget(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::io("remove", path.display())),
        }
    }

    /// overlayfs' own.
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Maps of files that are there in part.
    pub fn blocks(&self) -> PathBuf {
        self.dir.join("blocks")
    }
}

fn make_dir(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(Error::io("make directory", path.display()))
}

pub(super) fn random() -> Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    let path = "/dev/urandom";
    File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).map_err(Error::io("read", path))?;
    Ok(u64::from_ne_bytes(bytes))
}

fn corrupt(what: &'static str, path: &Path, why: impl std::fmt::Display) -> Error {
    Error::Corrupt { what, why: format!("{}: {why}", path.display()), source: None }
}

fn foreign_format(path: &Path, format: u32) -> Error {
    Error::Foreign {
        subject: path.display().to_string(),
        wanted: "record that this program reads",
        why: format!("it has format {format}, this program knows {FORMAT}"),
        hint: Some("use the version of cowsnap that made it, or a later one".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn record(name: &str) -> Record {
        let text = format!(
            r#"{{"format":1,"name":"{name}","mode":"kernel","why":[],"uid":0,
            "base":{{"kind":"dir","path":"/","identity":"x"}},"layers":[],"copies":[],"owner":null,
            "options":{{"volatile":true,"xattrs":"user"}},"created":"2026-11-21T08:00:00Z","state":"making"}}"#
        );
        serde_json::from_str(&text).expect("a record")
    }

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::open(&folder.path().join("a/home")).expect("made");
        (folder, home)
    }

    #[test]
    fn a_home_is_made_once_and_is_the_same_afterwards() {
        let (folder, home) = home();
        let again = Home::open(home.dir()).expect("opened");
        assert_eq!((again.id(), again.id().len()), (home.id(), 16));
        assert_eq!(fs::metadata(home.dir()).expect("there").mode() & 0o777, 0o700);
        assert!(Home::find(&folder.path().join("none")).expect("looked").is_none());
        fs::write(home.dir().join("home.json"), r#"{"format":2,"id":"x"}"#).expect("written");
        assert!(matches!(Home::open(home.dir()), Err(Error::Foreign { .. })));
        fs::write(home.dir().join("home.json"), "").expect("written");
        assert!(matches!(Home::open(home.dir()), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn what_others_may_write_to_is_no_home() {
        let (_folder, home) = home();
        for mode in [0o720, 0o702, 0o777, 0o1777] {
            fs::set_permissions(home.dir(), fs::Permissions::from_mode(mode)).expect("set");
            let denied = Home::find(home.dir()).expect_err("hostile").to_string();
            assert!(denied.contains("others may write to it"), "{denied}");
        }
        fs::set_permissions(home.dir(), fs::Permissions::from_mode(0o755)).expect("set");
        assert!(Home::find(home.dir()).expect("fine").is_some());
        let other = home.dir().join("other");
        fs::create_dir(&other).expect("made");
        fs::set_permissions(&other, fs::Permissions::from_mode(0o777)).expect("set");
        assert!(matches!(Home::open(&other), Err(Error::Denied { .. })));
        assert_eq!(fs::read_dir(&other).expect("listed").count(), 0, "nothing is made in it");
    }

    #[test]
    fn an_overlay_is_announced_found_and_discarded() {
        let (_folder, home) = home();
        let locked = home.announce(&record("ci")).expect("announced");
        assert!(matches!(home.announce(&record("ci")), Err(Error::Exists { .. })));
        assert!(matches!(home.entry(locked.name()).try_lock(), Err(Error::Refused { .. })));
        assert!(home.entry(locked.name()).is_locked().expect("looked"));
        let names: Vec<_> = home.entries().expect("listed").iter().map(|e| e.name().to_string()).collect();
        assert_eq!(names, ["ci"]);
        assert_eq!(locked.record().expect("read"), Some(record("ci")));
        let entry = home.entry(locked.name());
        locked.discard_all().expect("discarded");
        assert!(entry.lock().expect("looked").is_none() && entry.record().expect("looked").is_none());
        assert_eq!(home.trash().expect("listed").len(), 1);
        home.sweep().expect("swept");
        assert_eq!(home.trash().expect("listed").len(), 0);
    }

    #[test]
    fn whoever_looks_at_overlays_hinders_nobody_who_makes_one() {
        let (_folder, home) = home();
        let ends = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ends.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = home.entry(&"ci".parse().expect("a name")).is_locked();
                }
            });
            let made = (0..100).map(|_| home.announce(&record("ci"))?.discard_all());
            let made: Result<Vec<_>> = made.collect();
            ends.store(true, std::sync::atomic::Ordering::Relaxed);
            made.expect("each one is made");
        });
    }

    #[test]
    fn whoever_waited_for_a_destroyed_overlay_does_not_get_its_lock() {
        let (_folder, home) = home();
        let locked = home.announce(&record("ci")).expect("announced");
        let entry = home.entry(locked.name());
        let waiting = std::thread::spawn(move || entry.lock().expect("waited").is_none());
        std::thread::sleep(Duration::from_millis(30));
        locked.discard_all().expect("discarded");
        assert!(waiting.join().expect("it ends"), "the lock of an overlay that is gone was given out");
    }

    #[test]
    fn a_generation_has_a_root_like_the_bases_and_is_never_made_twice() {
        let (folder, home) = home();
        let base = folder.path().join("base");
        fs::create_dir(&base).expect("made");
        fs::set_permissions(&base, fs::Permissions::from_mode(0o1751)).expect("set");
        let locked = home.announce(&record("ci")).expect("announced");
        let generation = locked.make_generation(3, 7, &base).expect("made");
        let mode = fs::metadata(generation.upper()).expect("there").mode();
        assert_eq!(mode & 0o7777, 0o1751);
        assert!(locked.make_generation(3, 7, &base).is_err());
        locked.make_generation(3, 12, &base).expect("made");
        assert_eq!(locked.generations(3).expect("listed"), [7, 12]);
        assert_eq!(locked.generations(4).expect("listed"), [0; 0]);
        locked.discard(&generation).expect("discarded");
        locked.discard(&generation).expect("discarded twice is discarded");
        assert_eq!(locked.generations(3).expect("listed"), [12]);
    }

    #[test]
    fn a_record_of_another_format_or_name_is_not_taken_for_ours() {
        let (_folder, home) = home();
        let locked = home.announce(&record("ci")).expect("announced");
        let path = locked.dir().join("overlay.json");
        fs::write(&path, r#"{"format":9}"#).expect("written");
        assert!(matches!(locked.record(), Err(Error::Foreign { .. })));
        fs::write(&path, serde_json::to_vec(&record("other")).expect("json")).expect("written");
        assert!(matches!(locked.record(), Err(Error::Corrupt { .. })));
    }
}
