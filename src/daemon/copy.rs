//! The configuration that a daemon goes by: a copy of the one that was found to be sound, so that one that is broken, or half written, reaches no job.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::{Error, Result};

/// One that is gone by.
pub(super) struct Taken {
    /// What is in it.
    pub config: Config,
    /// The copy, for who is called.
    pub file: PathBuf,
}

/// Takes the configuration at `path`, if it is sound, below `state_dir`. The one before is kept for who has been called with it a moment ago; older ones go.
///
/// # Errors
/// All that is wrong in it, of the files where people wrote it; a state directory that can not be written to.
pub(super) fn take(path: &Path, state_dir: &Path) -> Result<Taken> {
    let files = Config::load(path)?.files;
    let folder = state_dir.join("daemon");
    private(&folder)?;
    let known = generations(&folder)?;
    let last = known.iter().max().copied();
    let new = folder.join(named(last.map_or(1, |last| last + 1)));
    // Whoever was killed has left it.
    let half = folder.join("half");
    remove(&half)?;
    // What has become another one meanwhile is not taken. Under its name it is whole.
    let taken = copied(path, &files, &half).and_then(|copy| {
        Config::load(&copy)?;
        fs::rename(&half, &new).map_err(Error::io("rename", half.display()))?;
        File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(Error::io("sync", folder.display()))?;
        of(path, &new)
    });
    let is_old = |number: &u64| Some(*number) != last;
    for number in known.into_iter().filter(is_old) {
        remove(&folder.join(named(number)))?;
    }
    if taken.is_err() {
        remove(&half)?;
        remove(&new)?;
    }
    taken
}

/// The one that was taken last of that `path`, if it is there and sound.
pub(super) fn last(path: &Path, state_dir: &Path) -> Option<Taken> {
    let folder = state_dir.join("daemon");
    let mut known = generations(&folder).ok()?;
    known.sort_unstable();
    let is_its = |copy: &PathBuf| fs::read(copy.join(ORIGIN)).is_ok_and(|origin| origin == absolute(path));
    let mut all = known.into_iter().rev().map(|number| folder.join(named(number))).filter(is_its);
    all.find_map(|copy| of(path, &copy).ok())
}

fn of(path: &Path, copy: &Path) -> Result<Taken> {
    let file = copy.join(name(path));
    Ok(Taken { config: Config::load(&file)?, file })
}

/// Where it says of which file it is a copy: another one's is not gone by.
const ORIGIN: &str = ".origin";

fn absolute(path: &Path) -> Vec<u8> {
    std::path::absolute(path).unwrap_or_else(|_| path.into()).into_os_string().into_vec()
}

fn name(path: &Path) -> &OsStr {
    path.file_name().unwrap_or("config.toml".as_ref())
}

/// The files where `path` and its `conf.d` are to be in `new`.
fn copied(path: &Path, files: &[PathBuf], new: &Path) -> Result<PathBuf> {
    private(&new.join("conf.d"))?;
    let copy = new.join(name(path));
    for file in files {
        let to = match (file == path, file.file_name()) {
            (false, Some(name)) => new.join("conf.d").join(name),
            _ => copy.clone(),
        };
        written(&to, &fs::read(file).map_err(Error::io("read", file.display()))?)?;
    }
    written(&new.join(ORIGIN), &absolute(path))?;
    for folder in [&new.join("conf.d"), new] {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(Error::io("sync", folder.display()))?;
    }
    Ok(copy)
}

/// It is on the disk then. It may hold what is nobody's business, such as an address to ping.
fn written(to: &Path, bytes: &[u8]) -> Result<()> {
    let file = File::options().create_new(true).write(true).mode(0o600).open(to);
    let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(Error::io("write", to.display()))
}

fn private(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(Error::io("make", folder.display()))
}

fn named(number: u64) -> String {
    format!("config-{number}")
}

fn generations(folder: &Path) -> Result<Vec<u64>> {
    let read = || Error::io("read", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(read())? {
        let name = entry.map_err(read())?.file_name();
        let number: Option<u64> = name.to_str().and_then(|name| name.strip_prefix("config-")?.parse().ok());
        found.extend(number);
    }
    Ok(found)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(Error::io("remove", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const JOB: &str = "[job.NAME]\ndatasets = [\"tank/a\"]\ncrash_consistent = true\n";

    fn jobs(taken: &Taken) -> Vec<&str> {
        taken.config.jobs.iter().map(|job| job.name.as_str()).collect()
    }

    #[test]
    fn what_is_sound_is_copied_and_what_is_not_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, state) = (folder.path().join("jobs.toml"), folder.path().join("state"));
        assert!(take(&path, &state).is_err(), "there is none");
        fs::create_dir(folder.path().join("conf.d")).expect("made");
        fs::write(folder.path().join("conf.d/b.toml"), JOB.replace("NAME", "b")).expect("written");
        assert_eq!(jobs(&take(&path, &state).expect("sound")), ["b"]);
        fs::write(&path, JOB.replace("NAME", "a")).expect("written");
        let first = take(&path, &state).expect("sound");
        assert_eq!(jobs(&first), ["a", "b"]);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&first.file), mode(&state.join("daemon"))), (0o600, 0o700));
        fs::write(&path, "[job.a]\nlost = 3\n").expect("written");
        let wrong = take(&path, &state).map(drop).expect_err("wrong").to_string();
        assert!(wrong.contains("/jobs.toml:") && !wrong.contains("/state/"), "{wrong}");
        assert_eq!(Config::load(&first.file).expect("as it was").jobs.len(), 2);
        // Two are kept, however often.
        for name in ["c", "d", "e"] {
            fs::write(&path, JOB.replace("NAME", name)).expect("written");
            assert_eq!(jobs(&take(&path, &state).expect("sound")), ["b", name]);
        }
        assert_eq!(fs::read_dir(state.join("daemon")).expect("read").count(), 2);
        // It is gone by when there is another daemon and what is there now is broken; a file of another place has none.
        fs::write(&path, "[job.e]\nlost = 3\n").expect("written");
        assert_eq!(last(&path, &state).as_ref().map(jobs), Some(vec!["b", "e"]));
        assert!(last(&folder.path().join("other.toml"), &state).is_none());
        // Half a copy is none, and in nobody's way.
        fs::create_dir(state.join("daemon/half")).expect("made");
        fs::write(state.join("daemon/half/jobs.toml"), JOB.replace("NAME", "half")).expect("written");
        assert_eq!(last(&path, &state).as_ref().map(jobs), Some(vec!["b", "e"]));
        fs::write(&path, JOB.replace("NAME", "f")).expect("written");
        assert_eq!(jobs(&take(&path, &state).expect("sound")), ["b", "f"]);
        assert_eq!(fs::read_dir(state.join("daemon")).expect("read").count(), 2);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("changed");
        assert!(take(&path, &state).is_err(), "anybody may write to it");
    }
}
