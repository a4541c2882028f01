//! What was noted of containers that were received in part (`archives/ID.DIGEST.notes` and `.marks` below the state directory): it goes with what was
//! received, or once nobody has gone on for long. Nothing depends on it: without it more is read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::endpoint::{self, zfs};
use crate::model::{Digest, Guid};

/// How old notes are with which nobody goes on.
const OLD: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Takes away what was noted of that container, by whichever archive: what was received of it was given up.
pub fn forget(state_dir: &Path, container: &str) {
    for noted in noted(state_dir).filter(|noted| noted.container == container) {
        noted.take_away();
    }
}

/// Takes away what [`old`] finds; answers how many files went.
pub fn sweep(state_dir: &Path) -> usize {
    old(state_dir).iter().filter(|noted| noted.take_away()).count()
}

/// What was noted and has not been added to for 30 days, by nobody who is at it, and of no container of which a receive can still go on in a pool. Where
/// that can not be asked, nothing.
pub fn old(state_dir: &Path) -> Vec<Noted> {
    old_by(state_dir, SystemTime::now(), zfs::containers_in_part)
}

fn old_by(
    state_dir: &Path,
    now: SystemTime,
    in_part: impl FnOnce() -> endpoint::Result<BTreeSet<String>>,
) -> Vec<Noted> {
    let is_old = |noted: &Noted| {
        let changed = fs::symlink_metadata(&noted.path).and_then(|meta| meta.modified()).ok();
        changed.and_then(|changed| now.duration_since(changed).ok()).is_some_and(|age| age > OLD)
    };
    let mut old: Vec<Noted> = noted(state_dir).filter(is_old).collect();
    if old.is_empty() {
        return old;
    }
    match in_part() {
        Ok(needed) => old.retain(|noted| !needed.contains(&noted.container)),
        Err(error) => {
            tracing::debug!(%error, "old notes of receives stay");
            old.clear();
        }
    }
    old
}

/// A file of notes of one container.
#[derive(Debug)]
pub struct Noted {
    path: PathBuf,
    container: String,
}

impl Noted {
    /// Whether it is gone now: not if somebody writes to it.
    fn take_away(&self) -> bool {
        let is_free = File::open(&self.path).is_ok_and(|file| file.try_lock().is_ok());
        is_free && fs::remove_file(&self.path).is_ok()
    }
}

fn noted(state_dir: &Path) -> impl Iterator<Item = Noted> {
    let entries = fs::read_dir(state_dir.join("archives")).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let name = entry.file_name();
        let fields: Vec<&str> = name.to_str()?.split('.').collect();
        let [id, container, "notes" | "marks"] = fields[..] else { return None };
        id.parse::<Guid>().ok()?;
        container.parse::<Digest>().ok()?;
        Some(Noted { path: entry.path(), container: container.to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn name(container: u8, kind: &str) -> String {
        format!("{}.{}.{kind}", Guid([1; 16]), Digest([container; 32]))
    }

    /// Two old files of each of the containers 1 and 2, a young one of 3, and what is none of these.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let of = dir.path().join("archives");
        fs::create_dir(&of).expect("a folder");
        let old = ["notes", "marks"].into_iter().flat_map(|kind| [name(1, kind), name(2, kind)]);
        for name in old.chain(["x.sample".into(), "x.y.notes".into()]) {
            let file = File::create(of.join(name)).expect("a file");
            file.set_modified(SystemTime::now() - 31 * DAY).expect("a time");
        }
        File::create(of.join(name(3, "notes"))).expect("a file");
        dir
    }

    fn there(dir: &tempfile::TempDir) -> BTreeSet<String> {
        let entries = fs::read_dir(dir.path().join("archives")).expect("a folder").flatten();
        entries.map(|entry| entry.file_name().to_str().expect("a text").to_owned()).collect()
    }

    fn sweep_but(dir: &tempfile::TempDir, in_part: endpoint::Result<BTreeSet<String>>) {
        let old = old_by(dir.path(), SystemTime::now(), || in_part);
        old.iter().for_each(|noted| _ = noted.take_away());
    }

    #[test]
    fn what_nobody_goes_on_with_goes_and_what_a_pool_still_has_in_part_stays() {
        let dir = folder();
        let all = there(&dir);
        let unknown = endpoint::Error::io("ask", "a pool")(std::io::Error::other("no answer"));
        sweep_but(&dir, Err(unknown));
        assert_eq!(there(&dir), all, "nobody knows what is needed");
        sweep_but(&dir, Ok([Digest([2; 32]).to_string()].into()));
        let left: BTreeSet<String> =
            all.into_iter().filter(|file| ![name(1, "notes"), name(1, "marks")].contains(file)).collect();
        assert_eq!(there(&dir), left);
    }

    #[test]
    fn what_somebody_writes_to_stays() {
        let dir = folder();
        let path = dir.path().join("archives").join(name(1, "notes"));
        let writes = File::options().append(true).open(path).expect("there");
        writes.lock().expect("locked");
        sweep_but(&dir, Ok(BTreeSet::new()));
        assert!(there(&dir).contains(&name(1, "notes")) && !there(&dir).contains(&name(1, "marks")));
    }

    #[test]
    fn what_is_given_up_needs_no_notes() {
        let dir = folder();
        let all = there(&dir);
        forget(dir.path(), &Digest([3; 32]).to_string());
        assert_eq!(there(&dir), all.into_iter().filter(|file| *file != name(3, "notes")).collect());
    }
}
