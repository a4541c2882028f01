//! Clones that nothing speaks of any more: what named them was lost in a crash of the machine.
//!
//! **Invariant:** one is destroyed only by whoever could read all that may speak of it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use super::clones::Clones;
use super::{CLONE, VIEW, clone_files, is_lost, read};
use crate::endpoint::overlay::Home;
use crate::endpoint::overlay::home::random;
use crate::endpoint::record::read_record;
use crate::endpoint::{Error, Result};
use crate::model::overlay::{MountSource, OverlayName, Record};
use crate::model::quoted;

/// The directory of a home that has what named clones whose names others have now.
const FOREIGN: &str = "foreign";

/// Destroys the clones of overlays of that name that nothing speaks of. `dir` is what such an overlay left.
///
/// # Errors
/// What can not be read, or destroyed.
pub(super) fn destroy(home: &Home, dir: &Path, record: &Record) -> Result<()> {
    let clones = match Clones::of_overlay(dir, record) {
        // The base is gone: then it is not known where they would be.
        Err(error @ (Error::NotFound { .. } | Error::Foreign { .. } | Error::Io { .. })) => {
            tracing::debug!(overlay = %record.name, %error, "not looked for clones that nothing speaks of");
            return Ok(());
        }
        other => other?,
    };
    // Looked for in this order: whoever makes a clone writes its name down first.
    let found = clones.names()?;
    let is_of_it = |name: &&String| {
        MountSource::parse_file_name(name)
            .is_some_and(|source| source.home == home.id() && source.name == record.name)
    };
    if !found.iter().any(|name| is_of_it(&name)) {
        return Ok(());
    }
    let known = known(home, &record.name)?;
    let strays = found.iter().filter(is_of_it).filter(|name| !known.contains(*name));
    strays.into_iter().try_for_each(|name| clones.destroy(name, None, &[]).map(drop))
}

/// The clones of which something speaks, be it what is to be destroyed itself: those go by what is said of them.
///
/// # Errors
/// What can not be read; [`Error::Refused`] if an overlay of that name is there and does not say all.
fn known(home: &Home, overlay: &OverlayName) -> Result<HashSet<String>> {
    let mut known = HashSet::new();
    let mut note = |file: &Path| -> Result<()> {
        known.extend(read(file)?.into_iter().flat_map(|clone| [Some(clone.name), clone.origin]).flatten());
        Ok(())
    };
    for file in clone_files(home.entry(overlay).dir())? {
        if read_record(&file)?.is_some_and(|text| is_lost(&text)) {
            return Err(not_known(overlay, &file));
        }
        note(&file)?;
    }
    // What goes out of use comes here: afterwards, so that nothing is missed.
    for path in home.trash()? {
        note(&path.join(VIEW))?;
        note(&path.join(CLONE))?;
        clone_files(&path)?.iter().try_for_each(|file| note(file))?;
    }
    for file in entries(&home.dir().join(FOREIGN))? {
        note(&file)?;
    }
    // A tree of layers whose place another one took meanwhile has a name that was not there before.
    super::stacks::files(home.entry(overlay).dir())?.iter().try_for_each(|file| note(file))?;
    Ok(known)
}

fn not_known(overlay: &OverlayName, file: &Path) -> Error {
    Error::Refused {
        op: "destroy what nothing speaks of of overlay",
        subject: overlay.to_string(),
        why: format!(
            "it has clones of which it is not known any more what they are called: {} is empty",
            file.display()
        ),
        hint: Some(format!("cowsnap overlay reset {0}; cowsnap overlay reap", quoted(overlay))),
    }
}

/// Keeps what named a clone whose name another one has: whoever comes again knows that this one is not to go.
pub(super) fn keep(home: &Home, file: &Path) -> Result<()> {
    let dir = home.dir().join(FOREIGN);
    match fs::create_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io("make directory", dir.display())(error));
        }
        _ => {}
    }
    let to = dir.join(random()?.to_string());
    fs::rename(file, to).map_err(Error::io("rename", file.display()))
}

fn entries(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let found = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list", dir.display()))?,
    };
    let paths = found.map(|entry| entry.map(|entry| entry.path()));
    paths.collect::<io::Result<_>>().map_err(Error::io("list", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::overlay::native::{CloneFile, GIVEN_UP, discard, write};

    fn clone(name: &str) -> CloneFile {
        CloneFile {
            on: Path::new("tank").into(),
            name: name.into(),
            transaction: None,
            origin: None,
            made_of: None,
            guid: None,
            pool: None,
        }
    }

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::open(&folder.path().join("home")).expect("made");
        (folder, home)
    }

    #[test]
    fn a_clone_is_known_wherever_it_is_named() {
        let (_folder, home) = home();
        let ci: OverlayName = "ci".parse().expect("a name");
        let overlay = home.entry(&ci).dir().to_owned();
        let named = [
            (overlay.join("1"), "spare", "waits"),
            (overlay.join("1"), "spare.making", "is made"),
            (overlay.join("1/7"), "clone", "shows"),
            (home.dir().join("trash/4711"), "clone", "was reset"),
            (home.dir().join("trash/4712/2/9"), "clone", "was destroyed"),
        ];
        for (dir, file, name) in &named {
            fs::create_dir_all(dir).expect("made");
            write(&dir.join(file), &clone(name)).expect("written");
        }
        let file = home.dir().join("trash/4711/other");
        write(&file, &clone("is another's")).expect("written");
        keep(&home, &file).expect("kept");
        let mut all: Vec<_> = known(&home, &ci).expect("all is read").into_iter().collect();
        all.sort();
        assert_eq!(all, ["is another's", "is made", "shows", "waits", "was destroyed", "was reset"]);
    }

    #[test]
    fn who_can_not_read_all_that_may_speak_of_a_clone_destroys_none() {
        let (_folder, home) = home();
        let ci: OverlayName = "ci".parse().expect("a name");
        let dir = home.entry(&ci).dir().join("1/7");
        fs::create_dir_all(&dir).expect("made");
        // Lost in a crash, of an overlay that is there.
        fs::write(dir.join("clone"), [0; 64]).expect("written");
        assert!(matches!(known(&home, &ci), Err(Error::Refused { .. })));
        fs::write(dir.join("clone"), "{\"on\":").expect("written");
        assert!(matches!(known(&home, &ci), Err(Error::Corrupt { .. })));
        fs::remove_file(dir.join("clone")).expect("removed");
        fs::create_dir(dir.join("clone")).expect("made");
        assert!(known(&home, &ci).is_err(), "it is no file");
        fs::remove_dir(dir.join("clone")).expect("removed");
        assert!(known(&home, &ci).expect("all is read").is_empty());
        // In the trash, what was lost in a crash is to go.
        let trash = home.dir().join("trash/4711");
        fs::create_dir(&trash).expect("made");
        fs::write(trash.join("clone"), "").expect("written");
        assert!(known(&home, &ci).expect("all is read").is_empty());
        fs::write(trash.join("clone"), "x").expect("written");
        assert!(matches!(known(&home, &ci), Err(Error::Corrupt { .. })));
        assert!(matches!(discard(&home, &trash.join("clone")), Err(Error::Corrupt { .. })));
        assert!(trash.join("clone").exists() && !trash.join(GIVEN_UP).exists());
    }
}
