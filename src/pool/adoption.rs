//! What is written down of an adopted directory: `<state>/adopted/KEY.json`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::registry::{Registry, read_record, replace_file, sync_folder};
use super::swap;
use crate::endpoint::btrfs::Dataset;
use crate::endpoint::{Error, Result};
use crate::model::{DatasetName, PathText, VersionRef, quoted};

/// How far an adoption has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The data is copied and verified in staging; the directory is untouched.
    Copying,
    /// The copy becomes the dataset, the directory is moved aside.
    Committing,
    /// The dataset is mounted at the directory; the old copy is beside it.
    Done,
    /// The old copy is being removed.
    Discarding,
    /// There is no old copy any more.
    Discarded,
}

/// A directory whose data moves, or has moved, into a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adoption {
    /// The directory.
    pub dir: PathBuf,
    /// The dataset.
    pub to: DatasetName,
    /// The directory's inode number before: tells which of the two the old one is.
    pub inode: u64,
    /// How far it has come.
    pub phase: Phase,
    /// The first snapshot, once it was taken.
    pub snapshot: Option<VersionRef>,
    /// When it was begun.
    pub began: jiff::Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    dir: PathText,
    to: DatasetName,
    inode: u64,
    phase: Phase,
    snapshot: Option<VersionRef>,
    began: jiff::Timestamp,
}

const FORMAT: u32 = 1;

impl Adoption {
    /// Where the old copy is put: beside the directory.
    pub fn old(&self) -> PathBuf {
        old_of(&self.dir)
    }

    /// What tells this adoption from others in file names.
    pub(crate) fn key(&self) -> String {
        key_of(&self.dir)
    }

    /// Whether the old data has been moved aside, as the directories themselves tell.
    pub(crate) fn is_moved_aside(&self) -> bool {
        fs::symlink_metadata(self.old()).is_ok_and(|meta| meta.is_dir() && meta.ino() == self.inode)
    }
}

/// Where the old copy of `dir` is put.
pub(super) fn old_of(dir: &Path) -> PathBuf {
    let mut name = OsString::from(dir);
    name.push(".cowsnap-old");
    name.into()
}

/// 32 hexadecimal digits of the path's blake3.
pub(super) fn key_of(dir: &Path) -> String {
    blake3::hash(dir.as_os_str().as_bytes()).to_hex()[..32].to_owned()
}

impl Registry {
    /// What is written down of the directory; `None` if it was not adopted.
    ///
    /// # Errors
    /// A record that can not be read or is none.
    pub fn adoption(&self, dir: &Path) -> Result<Option<Adoption>> {
        self.adoption_by_key(&key_of(dir))
    }

    /// All adopted directories, by key, each or why its record can not be read.
    ///
    /// # Errors
    /// A state directory that can not be read.
    pub fn adoptions(&self) -> Result<Vec<(String, Result<Adoption>)>> {
        let folder = self.state().join("adopted");
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("list", folder.display()))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut keys: Vec<_> = names.filter_map(|n| n.strip_suffix(".json").map(str::to_owned)).collect();
        keys.sort();
        let read = |key: String| self.adoption_by_key(&key).transpose().map(|adoption| (key, adoption));
        Ok(keys.into_iter().filter_map(read).collect())
    }

    /// The directories adopted into pool `name`; records that can not be read are left to `doctor`.
    pub(crate) fn adopted_into(&self, name: &str) -> Result<Vec<Adoption>> {
        let all = self.adoptions()?.into_iter().filter_map(|(_, adoption)| adoption.ok());
        Ok(all.filter(|adoption| adoption.to.pool() == name).collect())
    }

    /// The adoptions into `from`, or into what is nested in it, as they are to be once `from` is called `to`.
    ///
    /// # Errors
    /// [`Error::Refused`] if `to` can not be named as POOL/NAME: the directory could not be mounted again.
    pub fn adoptions_to_follow(&self, from: &Dataset, to: &Dataset) -> Result<Vec<Adoption>> {
        let mut follow = Vec::new();
        for (_, adoption) in self.adoptions()? {
            let Ok(adoption) = adoption else { continue };
            let pool = self.get(adoption.to.pool())?;
            let within = Path::new(adoption.to.within_pool().unwrap_or_default());
            let here = pool.is_some_and(|pool| pool.fsid.0 == from.store().fsid());
            let Some(inside) = within.strip_prefix(from.path()).ok().filter(|_| here) else { continue };
            let new: PathBuf =
                Path::new(adoption.to.pool()).join(to.path()).join(inside).components().collect();
            let name = new.to_str().and_then(|new| new.parse().ok()).ok_or_else(|| Error::Refused {
                op: "rename",
                subject: from.to_string(),
                why: format!("{} was adopted into it, and {to} is no POOL/NAME", adoption.dir.display()),
                hint: None,
            })?;
            follow.push(Adoption { to: name, ..adoption });
        }
        Ok(follow)
    }

    /// Refuses to `op` a dataset that is mounted in the place of an adopted directory, with what ends the adoption.
    ///
    /// # Errors
    /// [`Error::Refused`]; records that can not be read.
    pub fn check_not_in_use(&self, op: &'static str, dataset: &Dataset) -> Result<()> {
        for (_, adoption) in self.adoptions()? {
            let Ok(adoption) = adoption else { continue };
            let Some(pool) = self.get(adoption.to.pool())? else { continue };
            let within = Path::new(adoption.to.within_pool().unwrap_or_default());
            let is_it = pool.fsid.0 == dataset.store().fsid() && within == dataset.path();
            if is_it && swap::is_mounted(&pool, &adoption) {
                let dir = quoted(adoption.dir.display());
                let hint = match adoption.phase {
                    Phase::Discarded => format!("umount {dir}; once it is gone: cowsnap adopt --undo {dir}"),
                    _ => format!("cowsnap adopt --undo {dir}"),
                };
                let why = format!(
                    "it is mounted in the place of {}, which was adopted into it",
                    adoption.dir.display()
                );
                return Err(Error::Refused { op, subject: dataset.to_string(), why, hint: Some(hint) });
            }
        }
        Ok(())
    }

    /// Writes down where adoptions have gone: what [`Registry::adoptions_to_follow`] gave.
    ///
    /// # Errors
    /// A record that can not be written.
    pub fn follow(&self, adoptions: &[Adoption]) -> Result<()> {
        adoptions.iter().try_for_each(|adoption| self.record_adoption(adoption))
    }

    pub(crate) fn adoption_by_key(&self, key: &str) -> Result<Option<Adoption>> {
        let path = self.adoption_path(key);
        let Some(text) = read_record(&path)? else { return Ok(None) };
        let corrupt = |why: String| Error::Corrupt {
            what: "adoption record",
            why: format!("{}: {why}", path.display()),
            source: None,
        };
        let record: Record = serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        if record.format != FORMAT {
            return Err(corrupt(format!("it has format {}; this program knows {FORMAT}", record.format)));
        }
        let Record { dir, to, inode, phase, snapshot, began, .. } = record;
        Ok(Some(Adoption { dir: dir.into(), to, inode, phase, snapshot, began }))
    }

    /// Writes down how far the adoption has come.
    pub(super) fn record_adoption(&self, adoption: &Adoption) -> Result<()> {
        self.make_folder("adopted")?;
        let Adoption { dir, to, inode, phase, snapshot, began } = adoption.clone();
        let dir = dir.as_path().into();
        let record = Record { format: FORMAT, dir, to, inode, phase, snapshot, began };
        let text = serde_json::to_vec_pretty(&record).expect("a record's keys are texts");
        replace_file(&self.adoption_path(&adoption.key()), &text)
    }

    /// Forgets that the directory was adopted.
    pub(super) fn forget_adoption(&self, adoption: &Adoption) -> Result<()> {
        let path = self.adoption_path(&adoption.key());
        fs::remove_file(&path).map_err(Error::io("remove", path.display()))?;
        sync_folder(&self.state().join("adopted"))
    }

    fn adoption_path(&self, key: &str) -> PathBuf {
        self.state().join("adopted").join(format!("{key}.json"))
    }
}
