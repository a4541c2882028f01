//! Files that have jobs called, by systemd or cron: written, and taken away again, and nobody else's.
//!
//! **Invariant:** nothing is replaced or removed that does not say by its first line, or of a link by what it leads to, that it was made here.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::{Error, Result, endpoint};

/// How each file begins.
pub const MARK: &str = "# Written by cowsnap job install, and taken away by cowsnap job uninstall.";

/// Something that is to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A file of this text below [`MARK`].
    File {
        /// Where.
        path: PathBuf,
        /// What is in it.
        text: String,
    },
    /// A link, which has systemd call what it leads to.
    Link {
        /// Where.
        path: PathBuf,
        /// To what, from there.
        to: PathBuf,
    },
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became {
    /// It is new, or another one than before.
    Written,
    /// It was so already.
    Unchanged,
    /// It is gone.
    Removed,
}

impl Wanted {
    /// Where it is to be.
    pub fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } | Self::Link { path, .. } => path,
        }
    }

    /// What is in it.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::File { text, .. } => Some(format!("{MARK}\n{text}")),
            Self::Link { .. } => None,
        }
    }

    /// Whether it is there already.
    ///
    /// # Errors
    /// [`endpoint::Error::Refused`] if something else is there, of somebody else.
    fn is_there(&self) -> Result<bool> {
        let path = self.path();
        let Some(found) = Found::at(path)? else { return Ok(false) };
        match (self, &found) {
            (Self::File { text, .. }, Found::File(found)) if found == text => Ok(false), // Printed by `job unit`.
            (Self::File { .. }, Found::File(found)) if found.starts_with(MARK) => {
                Ok(Some(found) == self.text().as_ref())
            }
            (Self::Link { to, .. }, Found::Link(found)) if found.file_name() == to.file_name() => {
                Ok(found == to)
            }
            _ => Err(endpoint::Error::Refused {
                op: "replace",
                subject: path.display().to_string(),
                why: "it was not made by cowsnap job install".into(),
                hint: Some(
                    "move it away, or leave it and put only what it lacks beside it (--dry-run shows what)"
                        .into(),
                ),
            }
            .into()),
        }
    }

    /// Whole or not at all, and on the disk.
    fn write(&self) -> Result<()> {
        let path = self.path();
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(Error::io("make", folder.display()))?;
        let new = beside(path);
        match fs::remove_file(&new) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(Error::io("remove", new.display()))?,
        }
        let made = match self {
            Self::Link { to, .. } => symlink(to, &new),
            Self::File { .. } => File::create_new(&new).and_then(|mut file| {
                file.set_permissions(Permissions::from_mode(0o644))?;
                file.write_all(self.text().unwrap_or_default().as_bytes())?;
                file.sync_all()
            }),
        };
        let written = made.and_then(|()| fs::rename(&new, path)).and_then(|()| sync(folder));
        written.map_err(Error::io("write", path.display()))
    }
}

/// Neither systemd nor cron reads what is called so.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

fn sync(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::fsync(File::open(folder)?.as_fd())?)
}

/// What is at a path.
enum Found {
    File(String),
    Link(PathBuf),
    Else,
}

impl Found {
    fn at(path: &Path) -> Result<Option<Self>> {
        let look = || Error::io("look at", path.display());
        let meta = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            meta => meta.map_err(look())?,
        };
        if meta.is_symlink() {
            return Ok(Some(Self::Link(fs::read_link(path).map_err(look())?)));
        }
        if !meta.is_file() || meta.len() > 1 << 20 {
            return Ok(Some(Self::Else));
        }
        let bytes = fs::read(path).map_err(look())?;
        Ok(Some(String::from_utf8(bytes).map_or(Self::Else, Self::File)))
    }
}

/// Makes all that is `wanted`, or nothing if one of it is somebody else's; with `dry_run` it is only looked at.
///
/// # Errors
/// [`endpoint::Error::Refused`]; a directory that can not be written to.
pub fn install(wanted: &[Wanted], dry_run: bool) -> Result<Vec<Became>> {
    let are_there = wanted.iter().map(Wanted::is_there).collect::<Result<Vec<_>>>()?;
    for (wanted, is_there) in wanted.iter().zip(&are_there) {
        if !is_there && !dry_run {
            wanted.write()?;
        }
    }
    let became = |is_there| if is_there { Became::Unchanged } else { Became::Written };
    Ok(are_there.into_iter().map(became).collect())
}

/// What was made here of `names` in `folder`, in this order: files that begin with [`MARK`], and links to one of `to`.
///
/// # Errors
/// A directory that can not be read.
pub fn ours(folder: &Path, is_named: impl Fn(&str) -> bool, to: &[&str]) -> Result<Vec<PathBuf>> {
    let read = || Error::io("read", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(read())?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(read())?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        // What a killed one left under its other name, too.
        let whole = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new")).unwrap_or(&name);
        if !is_named(whole) {
            continue;
        }
        let is_ours = match Found::at(&path)? {
            Some(Found::File(text)) => text.starts_with(MARK) || whole != name,
            Some(Found::Link(leads)) => {
                leads.file_name().is_some_and(|leads| to.iter().any(|to| leads == *to))
            }
            _ => false,
        };
        found.extend(is_ours.then_some(path));
    }
    found.sort();
    Ok(found)
}

/// Takes away what [`ours`] found.
///
/// # Errors
/// A directory that can not be written to.
pub fn remove(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(Error::io("remove", path.display()))?,
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        sync(folder).map_err(Error::io("sync", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn what_is_somebody_elses_is_neither_replaced_nor_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let file = |name: &str, text: &str| Wanted::File { path: at(name), text: text.into() };
        let link = Wanted::Link { path: at("wants/x@a.timer"), to: "../x@.timer".into() };
        let wanted = [file("x@.timer", "one\n"), link.clone()];
        assert_eq!(install(&wanted, true).expect("looked at"), [Became::Written; 2]);
        assert!(!at("x@.timer").exists());
        assert_eq!(install(&wanted, false).expect("made"), [Became::Written; 2]);
        assert_eq!(fs::read_to_string(at("wants/x@a.timer")).expect("read"), format!("{MARK}\none\n"));
        assert_eq!(install(&wanted, false).expect("there"), [Became::Unchanged; 2]);
        let other = [file("x@.timer", "two\n"), link];
        assert_eq!(install(&other, false).expect("made"), [Became::Written, Became::Unchanged]);
        // What `job unit` has printed is cowsnap's, whoever wrote it down.
        fs::write(at("printed"), "unit\n").expect("written");
        assert_eq!(install(&[file("printed", "unit\n")], false).expect("made"), [Became::Written]);
        // One that is somebody else's keeps all of them from being written.
        fs::write(at("theirs"), "mine\n").expect("written");
        symlink("/dev/null", at("masked")).expect("made");
        fs::create_dir(at("folder")).expect("made");
        for name in ["theirs", "masked", "folder"] {
            let error = install(&[file("new", "x"), file(name, "x")], false).expect_err(name);
            assert_eq!(error.class(), Class::Conflict, "{error}");
            assert!(!at("new").exists());
        }
        fs::write(at(".x@b.timer.new"), "half").expect("written");
        let found = ours(folder.path(), |_| true, &["x@.timer"]).expect("read");
        assert_eq!(found, [at(".x@b.timer.new"), at("printed"), at("x@.timer")]);
        let links = ours(&at("wants"), |_| true, &["x@.timer"]).expect("read");
        remove(&[found, links].concat()).expect("removed");
        assert!(at("theirs").exists() && at("masked").is_symlink() && !at("x@.timer").exists());
        assert!(ours(&at("nowhere"), |_| true, &[]).expect("nothing").is_empty());
    }
}
