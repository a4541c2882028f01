//! What was kept of a PostgreSQL server that was in backup mode while the snapshots were taken, put into the trees of a drill: without it the server
//! may start on them, and be damaged.
//!
//! **Invariant:** nothing is written but below a tree of the drill: whose tree it is may have put links there.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, openat, readlinkat, unlinkat};
use rustix::io::Errno;

use super::{Error, Result, beneath};
use crate::model::Guid;

/// In the folder of what was kept: the identities of the snapshots, a line each.
pub const PARTS: &str = "snapshots";
/// In the same folder: where the server's data was.
pub const DATA: &str = "data_directory";

/// The most that is read of a file that is not the log's.
const MAX_TEXT: u64 = 1 << 20;

/// A folder of what was kept.
#[derive(Debug, Clone)]
pub struct Backup {
    dir: PathBuf,
}

/// A tree, and where it shows to the command.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// Where it is.
    pub tree: &'a Path,
    /// Where it shows.
    pub at: &'a Path,
}

impl Backup {
    /// What was kept in `folder` for one of these snapshots; `None` if nothing was.
    ///
    /// # Errors
    /// A folder that can not be read.
    pub fn of(folder: &Path, snapshots: &[Guid]) -> Result<Option<Self>> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("list", folder.display()))?,
        };
        for entry in entries {
            let dir = entry.map_err(Error::io("list", folder.display()))?.path();
            let Some(parts) = bytes(&dir.join(PARTS))? else { continue };
            let is_of = |part: &[u8]| snapshots.iter().any(|guid| guid.to_string().as_bytes() == part);
            if parts.split(|&byte| byte == b'\n').any(is_of) && dir.join("backup_label").exists() {
                return Ok(Some(Self { dir }));
            }
        }
        Ok(None)
    }

    /// Puts it where the server looks for it, in whichever of `trees` its data is; where that shows to the command.
    ///
    /// # Errors
    /// [`Error::Refused`] if its data, or its log, is in none of them; what can not be written.
    pub fn put(&self, trees: &[Shown<'_>]) -> Result<PathBuf> {
        let (place, at) = self.data(trees)?;
        let data = place.open()?;
        let owner = fstat(&data).map_err(Error::io("read", at.display()))?;
        let put = Put { owner: (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid)) };
        remove(&data, "postmaster.pid").map_err(Error::io("remove", at.join("postmaster.pid").display()))?;
        for name in ["backup_label", "tablespace_map"] {
            let from = self.dir.join(name);
            if from.exists() {
                put.copy(&from, &data, name)?;
            }
        }
        let log = self.log(&data, &at, trees)?;
        let kept = self.dir.join("pg_wal");
        for entry in fs::read_dir(&kept).map_err(Error::io("list", kept.display()))? {
            let entry = entry.map_err(Error::io("list", kept.display()))?;
            if let Some(name) = entry.file_name().to_str() {
                put.copy(&entry.path(), &log, name)?;
            }
        }
        Ok(at)
    }

    /// The tree and the path in it that the server's data is at, and where that shows.
    fn data<'a>(&self, trees: &[Shown<'a>]) -> Result<(Place<'a>, PathBuf)> {
        let said = bytes(&self.dir.join(DATA))?.map(|said| PathBuf::from(OsStr::from_bytes(&said)));
        let found = match &said {
            Some(at) => Place::of(trees, at).map(|place| (place, at.clone())),
            // Of before that was written down.
            None => trees.iter().find_map(|shown| {
                let place = Place { tree: shown.tree, path: PathBuf::new() };
                place.holds("PG_VERSION").then(|| (place, shown.at.to_owned()))
            }),
        };
        found.filter(|(place, _)| place.holds("PG_VERSION")).ok_or_else(|| {
            let data = said.as_ref().map_or("the server's data".into(), |said| said.display().to_string());
            refused(&self.dir, format!("{data} is in none of the snapshots"))
        })
    }

    /// The directory of the log, which may be in another tree.
    fn log(&self, data: &OwnedFd, at: &Path, trees: &[Shown<'_>]) -> Result<OwnedFd> {
        let log = match readlinkat(data, "pg_wal", Vec::new()) {
            Ok(target) => straight(&at.join(Path::new(OsStr::from_bytes(target.as_bytes())))),
            // A directory of its own, or a place at which another tree shows.
            Err(_) => at.join("pg_wal"),
        };
        let place = Place::of(trees, &log).ok_or_else(|| {
            refused(
                &self.dir,
                format!("pg_wal leads to {}, which is in none of the snapshots", log.display()),
            )
        })?;
        place.open()
    }
}

/// A directory in a tree.
struct Place<'a> {
    tree: &'a Path,
    path: PathBuf,
}

impl<'a> Place<'a> {
    /// What shows at `at`: of trees within one another, the inner one's.
    fn of(trees: &[Shown<'a>], at: &Path) -> Option<Self> {
        if at.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        let shown = trees.iter().filter(|shown| at.starts_with(shown.at));
        let shown = shown.max_by_key(|shown| shown.at.components().count())?;
        Some(Self { tree: shown.tree, path: at.strip_prefix(shown.at).ok()?.to_owned() })
    }

    fn open(&self) -> Result<OwnedFd> {
        let root = File::open(self.tree).map_err(Error::io("open", self.tree.display()))?;
        beneath::open_dir(root.as_fd(), self.path.as_os_str().as_bytes())
            .map_err(Error::io("open", self.tree.join(&self.path).display()))
    }

    fn holds(&self, name: &str) -> bool {
        let there = |dir: OwnedFd| rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        self.open().is_ok_and(there)
    }
}

/// A path without `..`, of which the directories are no links.
fn straight(path: &Path) -> PathBuf {
    let mut straight = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(straight.pop()),
            other => straight.push(other),
        }
    }
    straight
}

struct Put {
    owner: (Uid, Gid),
}

impl Put {
    /// Makes `name` in `dir` what the file `from` is, and the server's; whatever is there goes.
    fn copy(&self, from: &Path, dir: &OwnedFd, name: &str) -> Result<()> {
        let failed = || Error::io("put in place", from.display());
        let errno = |errno: Errno| failed()(errno.into());
        let mut source = File::open(from).map_err(failed())?;
        remove(dir, name).map_err(errno)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut to = File::from(openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(errno)?);
        io::copy(&mut source, &mut to).map_err(failed())?;
        let (uid, gid) = self.owner;
        fchown(&to, Some(uid), Some(gid)).map_err(errno)?;
        fchmod(&to, Mode::RUSR | Mode::WUSR).map_err(errno)
    }
}

fn remove(dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_TEXT).read_to_end(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(|_| Some(text)).map_err(Error::io("read", path.display())),
    }
}

fn refused(dir: &Path, why: String) -> Error {
    Error::Refused {
        op: "rehearse with the backup_label of",
        subject: dir.display().to_string(),
        why,
        hint: Some("name all datasets of the server in the job".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// What was kept of a server whose data was at /srv/db/data, and the trees of its snapshots.
    fn lab() -> (tempfile::TempDir, PathBuf, Guid) {
        let folder = tempfile::tempdir().expect("a folder");
        let guid = Guid([7; 16]);
        let kept = folder.path().join("backups/x");
        let made = ["backups/x/pg_wal", "db/data", "wal/log"];
        made.iter().for_each(|dir| fs::create_dir_all(folder.path().join(dir)).expect("made"));
        let files = [
            ("backups/x/snapshots", format!("other\n{guid}\n")),
            ("backups/x/data_directory", "/srv/db/data".into()),
            ("backups/x/backup_label", "label".into()),
            ("backups/x/pg_wal/0001", "log".into()),
            ("db/data/PG_VERSION", "17".into()),
            ("db/data/postmaster.pid", "1".into()),
        ];
        files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).expect("written"));
        (folder, kept, guid)
    }

    fn put(folder: &Path, guid: Guid) -> Result<PathBuf> {
        let backup = Backup::of(&folder.join("backups"), &[guid]).expect("read").expect("kept");
        let (db, wal) = (folder.join("db"), folder.join("wal"));
        let shown =
            [(&db, "/srv/db"), (&wal, "/srv/wal")].map(|(tree, at)| Shown { tree, at: Path::new(at) });
        backup.put(&shown)
    }

    #[test]
    fn what_was_kept_is_put_beside_the_data_and_the_log_wherever_that_lies() {
        for log in ["/srv/wal/log", "../../wal/log"] {
            let (folder, _, guid) = lab();
            symlink(log, folder.path().join("db/data/pg_wal")).expect("linked");
            assert_eq!(put(folder.path(), guid).expect("put"), Path::new("/srv/db/data"), "{log}");
            let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect("there");
            assert_eq!((read("db/data/backup_label"), read("wal/log/0001")), ("label".into(), "log".into()));
            assert!(!folder.path().join("db/data/postmaster.pid").exists());
            assert!(Backup::of(&folder.path().join("backups"), &[Guid([8; 16])]).expect("read").is_none());
        }
        assert!(Backup::of(Path::new("/nowhere"), &[Guid([7; 16])]).expect("none").is_none());
    }

    #[test]
    fn nothing_is_written_where_a_link_of_the_servers_leads_out() {
        let (folder, kept, guid) = lab();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).expect("made");
        symlink(&outside, folder.path().join("db/data/pg_wal")).expect("linked");
        symlink(outside.join("label"), folder.path().join("db/data/backup_label")).expect("linked");
        let why = put(folder.path(), guid).expect_err("it leads out").to_string();
        assert!(why.contains("which is in none of the snapshots"), "{why}");
        // A directory of the log's tree that is a link.
        fs::remove_file(folder.path().join("db/data/pg_wal")).expect("removed");
        symlink("/srv/wal/far", folder.path().join("db/data/pg_wal")).expect("linked");
        symlink(&outside, folder.path().join("wal/far")).expect("linked");
        put(folder.path(), guid).expect_err("it is a link");
        assert_eq!(fs::read_dir(&outside).expect("listed").count(), 0);
        fs::write(kept.join(DATA), "/srv/elsewhere").expect("written");
        let why = put(folder.path(), guid).expect_err("nobody has it").to_string();
        assert!(why.contains("/srv/elsewhere is in none of the snapshots"), "{why}");
    }
}
