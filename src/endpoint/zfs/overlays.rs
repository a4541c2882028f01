//! Writable clones that are no datasets of anybody's: what overlays show (docs/FORMAT-overlay.md). They lie in a filesystem of their own,
//! `POOL/cowsnap-overlays`, are mounted by overlays alone, and no listing shows them.
//!
//! **Invariant:** nothing is destroyed but what has its mark set on itself, and is still what was made, by its guid and its pool's as far as they
//! are known; and nothing that somebody made in it, unless that was asked for by its guid ([`inside`]).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::endpoint::zfs::dataset::{self, Dataset};
use crate::endpoint::zfs::error::{failed, lzc};
use crate::endpoint::zfs::inside::{self, Found, Inside};
use crate::endpoint::zfs::{known, list, pools, program, props};
use crate::endpoint::{Error, Result};
use crate::model::overlay::MountSource;
use crate::model::{Guid, VersionRef, quoted};
use crate::stream::container::ZfsKind;
use crate::sys::lzc::{Errno, Kind, Prop};
use crate::sys::mount::{self, Detached, Restrict};

/// The filesystem of a pool that holds the clones.
pub(super) const FOLDER: &str = "cowsnap-overlays";
/// What the snapshots are called that were taken for overlays, up to digits that are nobody else's.
pub(super) const SNAPSHOT: &str = "cowsnap-overlay:";
/// What the snapshots of clones are called that are taken to be looked at, up to digits that are nobody else's.
pub(super) const VIEW: &str = "cowsnap-view:";
/// The property that says what is an overlay's: on the folder, on each clone, on each snapshot that was taken for one.
pub(super) const MARK: &str = "cowsnap:overlay";
/// What it says on the folder.
pub(super) const IS_FOLDER: &str = "folder";
/// What keeps programs that take snapshots of everything from clones: zfs-auto-snapshot, and what goes by its word.
const AUTO_SNAPSHOT: (&str, &str) = ("com.sun:auto-snapshot", "false");
/// `canmount=noauto`
const NOAUTO: u64 = 2;

/// How a clone keeps its files: not its origin's, but of what it lies in, unless it is said.
const KEPT_AS: [&str; 10] = [
    "acltype",
    "xattr",
    "atime",
    "relatime",
    "recordsize",
    "compression",
    "dnodesize",
    "sync",
    "logbias",
    "primarycache",
];

/// How long ZFS may take to answer what is asked of it: a pool that hangs does not.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How often, and after what pause, a clone is destroyed again that is busy: whoever has just let go of it may not be done.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// What clones are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// `DATASET@NAME`
    snapshot: String,
    /// Its guid; `None` while it is to be taken.
    guid: Option<Guid>,
    /// What it is marked with if it was taken for an overlay, and goes with it.
    mark: Option<String>,
    /// How its dataset keeps files.
    kept_as: BTreeMap<String, String>,
    /// The guid of its pool: another one may have the name one day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pool: Option<Guid>,
}

impl Origin {
    /// The snapshot `version` of `dataset`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reused`].
    pub fn of_snapshot(dataset: &Dataset, version: &VersionRef) -> Result<Self> {
        let snapshot = dataset.expect_snapshot(version, "clone")?;
        let pool = Some(dataset.pool_guid()?);
        Ok(Self { snapshot, guid: Some(version.guid), mark: None, kept_as: kept_as(dataset)?, pool })
    }

    /// A snapshot of `dataset` that is to be taken, and marked so. `random` is in its name.
    ///
    /// # Errors
    /// A dataset that can not be read.
    pub fn to_be_taken(dataset: &Dataset, mark: String, random: u64) -> Result<Self> {
        let snapshot = format!("{}@{SNAPSHOT}{random:016x}", dataset.name());
        let pool = Some(dataset.pool_guid()?);
        Ok(Self { snapshot, guid: None, mark: Some(mark), kept_as: kept_as(dataset)?, pool })
    }

    /// Takes the snapshot, unless it is there already.
    ///
    /// # Errors
    /// What ZFS says.
    pub fn take(&mut self) -> Result<()> {
        let (Some(mark), None) = (&self.mark, self.guid) else { return Ok(()) };
        let said = BTreeMap::from([(MARK.to_owned(), mark.clone())]);
        let taken = lzc(&self.snapshot)?.snapshot(std::slice::from_ref(&self.snapshot), &said);
        taken.map_err(failed("take the snapshot", &self.snapshot, &[]))?;
        self.guid = guid(&self.snapshot)?;
        Ok(())
    }

    /// What the snapshot is called now; `None` if it is gone. Who renames its dataset, or takes that back to an earlier version, renames it.
    fn present_name(&self) -> Result<Option<String>> {
        let Some(meant) = self.guid else {
            return Ok(lzc(&self.snapshot)?.exists(&self.snapshot).then(|| self.snapshot.clone()));
        };
        if guid(&self.snapshot)? == Some(meant) {
            return Ok(Some(self.snapshot.clone()));
        }
        let args = ["list", "-Hp", "-t", "snapshot", "-r", "-o", "name,guid", self.pool()];
        let text = program::zfs_within(&args, PATIENCE)
            .map_err(|failure| failure.into_error("list", self.pool()))?;
        let has_guid = |guid: &str| list::number(guid).is_ok_and(|guid| Guid::of_zfs(guid) == meant);
        for [name, _] in list::rows::<2>(&text)?.into_iter().filter(|[_, guid]| has_guid(guid)) {
            // A replica in the same pool has the guid, and not the mark.
            if self.mark.is_none() || props::set_here(name, MARK)? == self.mark {
                return Ok(Some(name.to_owned()));
            }
        }
        Ok(None)
    }

    /// Destroys the snapshot if it was taken for an overlay; at once, or with the last clone of it.
    ///
    /// # Errors
    /// What ZFS says; a pool that is not there.
    pub fn destroy(&self) -> Result<()> {
        let Some(mark) = &self.mark else { return Ok(()) };
        let lzc = with_pool(&self.snapshot)?;
        expect_pool(self.pool(), self.pool)?;
        let Some(name) = self.present_name()? else { return Ok(()) };
        if !is_made_by_us(&name, mark, self.guid)? {
            return Ok(());
        }
        lzc.destroy_snapshots(std::slice::from_ref(&name), true).map_err(failed("destroy", &name, &[]))
    }

    /// Whether it was taken for an overlay.
    pub fn was_taken(&self) -> bool {
        self.mark.is_some()
    }

    /// The snapshot `view` of one of these clones of it, to make others of; `None` if there is none.
    ///
    /// # Errors
    /// What `zfs` says.
    pub fn of_view(&self, clones: &Clones, view: &str) -> Result<Option<Self>> {
        let snapshot = clones.full(view);
        let Some(guid) = guid(&snapshot)? else { return Ok(None) };
        Ok(Some(Self { snapshot, guid: Some(guid), mark: None, ..self.clone() }))
    }

    /// Mounts it, which was [checked](Self::checked), where nobody sees it, to be read.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(&self) -> Result<Detached> {
        mounted(&self.snapshot, Restrict { readonly: true, ..Restrict::default() })
    }

    /// The pool that it is in.
    pub fn pool(&self) -> &str {
        pool_of(&self.snapshot)
    }

    /// The guid of that pool, if it was written down.
    pub fn pool_guid(&self) -> Option<Guid> {
        self.pool
    }

    /// It, by what the snapshot is called now. One program is started for it, and another one if that is not what it was called.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is gone; [`Error::Refused`] if another pool has its pool's name.
    pub fn checked(self) -> Result<Self> {
        expect_pool(self.pool(), self.pool)?;
        match self.present_name()? {
            Some(snapshot) => Ok(Self { snapshot, ..self }),
            None => Err(Error::NotFound {
                what: "snapshot",
                subject: self.snapshot,
                hint: Some("cowsnap overlay destroy …, and make it anew".into()),
            }),
        }
    }

    /// What a clone of it is made with.
    fn props(&self, mark: &str) -> Vec<(String, Prop)> {
        let known = self.kept_as.iter().filter_map(|(name, value)| {
            Some((name.clone(), known::to_call(name, value, ZfsKind::Filesystem).ok()?))
        });
        let own = [
            (MARK.to_owned(), Prop::Text(mark.to_owned())),
            auto_snapshot(),
            ("canmount".to_owned(), Prop::Number(NOAUTO)),
            ("readonly".to_owned(), Prop::Number(0)),
        ];
        own.into_iter().chain(known).collect()
    }
}

/// The clones of one pool.
#[derive(Debug)]
pub struct Clones {
    folder: String,
}

impl Clones {
    /// Those of the pool `pool`, whether it is there or not.
    pub fn of_pool(pool: &str) -> Self {
        Self { folder: format!("{pool}/{FOLDER}") }
    }

    /// Makes the folder, unless there is one.
    ///
    /// # Errors
    /// [`Error::Refused`] if somebody's dataset has its name.
    pub fn prepare(&self) -> Result<()> {
        let lzc = with_pool(&self.folder)?;
        if !lzc.exists(&self.folder) {
            let props = [
                (MARK.to_owned(), Prop::Text(IS_FOLDER.to_owned())),
                auto_snapshot(),
                ("canmount".to_owned(), Prop::Number(0)),
                ("mountpoint".to_owned(), Prop::Text("none".to_owned())),
            ];
            match lzc.create(&self.folder, Kind::Filesystem, &props) {
                Err(why) if why.errno == Errno::Exists => {} // Somebody else made it meanwhile.
                other => other.map_err(failed("make", &self.folder, &[]))?,
            }
        }
        match self.is_somebodys()? {
            false => Ok(()),
            true => Err(Error::Refused {
                op: "keep clones in",
                subject: self.folder.clone(),
                why: "it is somebody's dataset".into(),
                hint: Some(format!("zfs rename {} NEW", quoted(&self.folder))),
            }),
        }
    }

    /// Whether a dataset of somebody's has the folder's name, be it one that came with its properties from another pool.
    pub(super) fn is_somebodys(&self) -> Result<bool> {
        let is_there = lzc(&self.folder)?.exists(&self.folder);
        Ok(is_there && props::set_here(&self.folder, MARK)?.as_deref() != Some(IS_FOLDER))
    }

    /// The filesystem that they lie in.
    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    /// What the clones are called, and what else lies in the folder.
    ///
    /// # Errors
    /// What `zfs` says; a pool that is not there.
    pub fn names(&self) -> Result<Vec<String>> {
        if !with_pool(&self.folder)?.exists(&self.folder) {
            return Ok(Vec::new());
        }
        let found = listed(&["-t", "filesystem", "-d", "1"], &self.folder)?;
        let inside = format!("{}/", self.folder);
        Ok(found.iter().filter_map(|name| name.strip_prefix(&inside)).map(str::to_owned).collect())
    }

    /// Makes the clone `name` of `origin`, which was [checked](Origin::checked). It is there as a whole, with its mark, or not at all.
    ///
    /// # Errors
    /// What ZFS says.
    pub fn make(&self, name: &str, origin: &Origin) -> Result<()> {
        let props = origin.props(&mark_of(name));
        let made = lzc(name)?.clone_snapshot(&self.full(name), &origin.snapshot, &props);
        made.map_err(|why| match why.errno {
            // Room is made for it.
            Errno::NoSpace => {
                Error::io("clone", &origin.snapshot)(io::Error::from(io::ErrorKind::StorageFull))
            }
            Errno::QuotaExceeded => {
                Error::io("clone", &origin.snapshot)(io::Error::from(io::ErrorKind::QuotaExceeded))
            }
            _ => failed("clone", &origin.snapshot, &[])(why),
        })
    }

    /// By what the clone `name` is known whatever it is called; `None` if there is none.
    ///
    /// # Errors
    /// What `zfs` says.
    pub fn guid(&self, name: &str) -> Result<Option<Guid>> {
        guid(&self.full(name))
    }

    /// Mounts the clone `name` where nobody sees it; `None` if there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(&self, name: &str) -> Result<Option<Detached>> {
        let full = self.full(name);
        if !with_pool(&full)?.exists(&full) {
            return Ok(None);
        }
        mounted(&full, Restrict { readonly: name.contains('@'), ..Restrict::default() }).map(Some)
    }

    /// Takes the snapshot `name` of the clone `clone`, to be looked at; false if there is no such clone.
    ///
    /// # Errors
    /// What ZFS says.
    pub fn take_view(&self, name: &str, clone: &str) -> Result<bool> {
        let full = self.full(name);
        let said = BTreeMap::from([(MARK.to_owned(), mark_of(name))]);
        let lzc = with_pool(&full)?;
        if !lzc.exists(&self.full(clone)) {
            return Ok(false);
        }
        let taken = lzc.snapshot(std::slice::from_ref(&full), &said);
        taken.map(|()| true).map_err(failed("take the snapshot", &full, &[]))
    }

    /// What the snapshot of the clone `clone` is called that is looked at, with these digits.
    pub fn name_of_view(clone: &str, random: u64) -> String {
        format!("{clone}@{VIEW}{random:016x}")
    }

    /// Gives the clone `name` another one; false if there is none.
    ///
    /// # Errors
    /// What ZFS says.
    pub fn rename(&self, name: &str, new: &str) -> Result<bool> {
        match lzc(name)?.rename(&self.full(name), &self.full(new)) {
            Err(why) if why.errno == Errno::NotFound => Ok(false),
            other => other.map(|()| true).map_err(failed("rename", self.full(name), &[])),
        }
    }

    /// What somebody made in these clones, with the clone that it is in; nothing of a clone that is not there.
    ///
    /// # Errors
    /// What `zfs` says.
    pub fn inside(&self, names: &[String]) -> Result<Vec<Found>> {
        let lzc = lzc(&self.folder)?;
        let there: Vec<_> =
            names.iter().map(|name| self.full(name)).filter(|full| lzc.exists(full)).collect();
        let found = inside::of(&self.folder, &there)?.into_iter();
        Ok(found.filter(|(_, inside)| !inside.as_ref().is_ok_and(Vec::is_empty)).collect())
    }

    /// Destroys the clone `name`, with what was made in it if that is among what is `given_up`; one that is not there is gone. False: it is
    /// another one by its mark or guid, and stays.
    ///
    /// # Errors
    /// [`Error::Refused`] while it is mounted anywhere, if it was promoted, and if something else was made in it; a pool that is not there.
    pub fn destroy(&self, name: &str, guid: Option<Guid>, given_up: &[Inside]) -> Result<bool> {
        let full = self.full(name);
        let lzc = with_pool(&full)?;
        if !lzc.exists(&full) {
            return Ok(true);
        }
        if !is_made_by_us(&full, &mark_of(name), guid)? {
            return Ok(false);
        }
        if name.contains('@') {
            let gone = lzc.destroy_snapshots(std::slice::from_ref(&full), true);
            return gone.map(|()| true).map_err(failed("destroy", &full, &[]));
        }
        for attempt in 1.. {
            let why = match lzc.destroy(&full) {
                Err(why) if why.errno != Errno::NotFound => why,
                _ => return Ok(true),
            };
            if attempt == TRIES || !matches!(why.errno, Errno::Busy | Errno::Exists) {
                return Err(failed("destroy", &full, &[])(why));
            }
            if attempt == 1 {
                inside::destroy(&self.folder, &full, given_up)?;
            }
            std::thread::sleep(PAUSE);
        }
        unreachable!("the attempts end")
    }

    fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }
}

/// That the pool called so is the one that was meant.
///
/// # Errors
/// [`Error::Refused`] if another one has the name now; [`Error::NotFound`] if none has.
pub fn expect_pool(pool: &str, meant: Option<Guid>) -> Result<()> {
    let Some(meant) = meant else { return Ok(()) };
    with_pool(pool)?;
    let found = pools::guid_of(pool)?;
    match found == meant {
        true => Ok(()),
        false => Err(Error::Refused {
            op: "use the pool",
            subject: pool.to_owned(),
            why: format!(
                "it is another one than when the overlay was made: its guid is {found}, and was {meant}"
            ),
            hint: Some(format!("zpool import {meant} {}", quoted(pool))),
        }),
    }
}

fn mounted(full: &str, restrict: Restrict) -> Result<Detached> {
    mount::detached_as("zfs", Path::new(full), &[], restrict).map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES) => Error::Refused {
            op: "mount",
            subject: full.to_owned(),
            why: "the key of its encryption is not loaded".into(),
            hint: Some(format!("zfs load-key -r {}", quoted(pool_of(full)))),
        },
        _ => crate::endpoint::mounted::not_allowed(error, "mount", full),
    })
}

fn auto_snapshot() -> (String, Prop) {
    let (name, value) = AUTO_SNAPSHOT;
    (name.to_owned(), Prop::Text(value.to_owned()))
}

/// Whether what is called so has this mark set on itself, and is what was made.
fn is_made_by_us(full: &str, mark: &str, made: Option<Guid>) -> Result<bool> {
    let args = ["get", "-Hp", "-o", "property,value,source", &format!("guid,{MARK}"), full];
    let text = program::zfs_within(&args, PATIENCE).map_err(|failure| failure.into_error("read", full))?;
    let is_ours = is_as_made(&text, mark, made);
    if !is_ours {
        tracing::warn!("{full} is not what was made under this name, and stays");
    }
    Ok(is_ours)
}

/// What `zfs get` says of guid and mark. A mark that is a text of several lines or columns is none of ours.
fn is_as_made(text: &[u8], mark: &str, made: Option<Guid>) -> bool {
    let Ok(rows) = list::rows::<3>(text) else { return false };
    let [["guid", guid, _], [MARK, found, "local"]] = rows[..] else { return false };
    let is_it = made.is_none_or(|made| list::number(guid).is_ok_and(|guid| Guid::of_zfs(guid) == made));
    found == mark && is_it
}

fn guid(full: &str) -> Result<Option<Guid>> {
    if !lzc(full)?.exists(full) {
        return Ok(None);
    }
    let text = dataset::get(full, "guid").map_err(|failure| failure.into_error("read", full))?;
    Ok(Some(Guid::of_zfs(list::number(&text)?)))
}

fn kept_as(dataset: &Dataset) -> Result<BTreeMap<String, String>> {
    let name = dataset.name().as_str();
    let text = program::zfs(&["get", "-Hp", "-o", "property,value", &KEPT_AS.join(","), name])
        .map_err(|failure| failure.into_error("read", dataset))?;
    let rows = list::rows::<2>(&text)?.into_iter();
    Ok(rows.map(|[property, value]| (property.to_owned(), value.to_owned())).collect())
}

fn listed(which: &[&str], name: &str) -> Result<Vec<String>> {
    let args = [&["list", "-Hp", "-o", "name"], which, &[name]].concat();
    let text = program::zfs_within(&args, PATIENCE).map_err(|failure| failure.into_error("list", name))?;
    Ok(list::rows::<1>(&text)?.iter().map(|[name]| (*name).to_owned()).collect())
}

/// The library, once the pool of `name` is there: what is in one that is not imported is not gone.
fn with_pool(name: &str) -> Result<&'static crate::sys::lzc::Lzc> {
    let lzc = lzc(name)?;
    match lzc.exists(pool_of(name)) {
        true => Ok(lzc),
        false => Err(Error::NotFound {
            what: "pool",
            subject: pool_of(name).to_owned(),
            hint: Some("zpool import; zpool list".into()),
        }),
    }
}

fn pool_of(name: &str) -> &str {
    name.split(['/', '@']).next().unwrap_or(name)
}

/// What says on a clone whose it is, whichever generation it becomes: its home, its overlay, and digits of its own.
pub(super) fn mark_of(name: &str) -> String {
    let digits = name.rsplit(':').next().unwrap_or_default();
    MountSource::parse_file_name(name)
        .map_or_else(|| name.to_owned(), |source| format!("{}:{}:{digits}", source.home, source.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_of_a_clone_is_the_same_whichever_generation_it_becomes() {
        let name = |generation| format!("cowsnap:0123456789abcdef:ci:1:{generation}:00000000000000ff");
        assert_eq!(mark_of(&name(0)), "0123456789abcdef:ci:00000000000000ff");
        assert_eq!(mark_of(&name(0)), mark_of(&name(7)));
    }

    #[test]
    fn only_what_has_the_mark_on_itself_and_the_guid_is_what_was_made() {
        let (guid, text) = (Some(Guid::of_zfs(7)), "guid\t7\t-\ncowsnap:overlay\tm\tlocal\n");
        assert!(is_as_made(text.as_bytes(), "m", guid) && is_as_made(text.as_bytes(), "m", None));
        assert!(
            !is_as_made(text.as_bytes(), "n", guid)
                && !is_as_made(text.as_bytes(), "m", Some(Guid::of_zfs(8)))
        );
        for other in [
            "guid\t7\t-\ncowsnap:overlay\tm\tinherited from tank\n",
            "guid\t7\t-\ncowsnap:overlay\tm\treceived\n",
            "guid\t7\t-\ncowsnap:overlay\t-\t-\n",
            "guid\t7\t-\ncowsnap:overlay\tx\tlocal\ncowsnap:overlay\tm\tlocal\n",
            "",
        ] {
            assert!(!is_as_made(other.as_bytes(), "m", guid), "{other}");
        }
    }

    #[test]
    fn a_clone_keeps_files_as_its_base_does_and_is_marked_from_its_first_moment() {
        let kept = [("acltype", "posix"), ("recordsize", "16384"), ("xattr", "on"), ("atime", "off")];
        let origin = Origin {
            snapshot: "tank/a@s".into(),
            guid: None,
            mark: None,
            kept_as: kept.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            pool: None,
        };
        let props: BTreeMap<_, _> = origin.props("m").into_iter().collect();
        let number = |name: &str| props.get(name).cloned();
        assert_eq!(number("cowsnap:overlay"), Some(Prop::Text("m".into())));
        assert_eq!(number("com.sun:auto-snapshot"), Some(Prop::Text("false".into())));
        assert_eq!(number("acltype"), Some(Prop::Number(1)));
        assert_eq!(number("recordsize"), Some(Prop::Number(16384)));
        assert_eq!((number("canmount"), number("readonly")), (Some(Prop::Number(2)), Some(Prop::Number(0))));
        // The word means another thing in another version, and what is not said is the version's own.
        assert_eq!(number("xattr"), None);
        assert_eq!(origin.pool(), "tank");
    }
}
