//! Where datasets are mounted, and how they are taken down and put up again where their properties say.

use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::{keys, list, program};
use crate::endpoint::{Error, Result};
use crate::model::quoted;
use crate::sys::mount::{self, MountInfo};

/// The mounts of ZFS that this process sees, in the order in which they were made.
pub(super) fn mounts() -> Result<Vec<MountInfo>> {
    let mut mounts = mount::mounts().map_err(Error::io("read", "the table of mounts"))?;
    mounts.retain(|info| info.kind == "zfs");
    Ok(mounts)
}

/// The mounts of the filesystem or snapshot called `name`.
pub(super) fn mounts_of(name: &str) -> Result<Vec<MountInfo>> {
    Ok(mounts()?.into_iter().filter(|info| info.source == Path::new(name)).collect())
}

/// Where the whole of the filesystem called `name` can be seen.
pub(super) fn seen_at(name: &str) -> Result<Option<PathBuf>> {
    Ok(mounts_of(name)?.into_iter().rfind(|info| info.root == Path::new("/")).map(|info| info.dir))
}

/// A filesystem or volume, and where its properties say that it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Meant {
    name: String,
    /// Whether it is to be mounted without being asked for.
    automatic: bool,
    dir: Option<PathBuf>, // None: of a volume, or it is nobody's business but fstab's, or nowhere.
}

/// What the properties of `name` and, if `below`, of what is inside it say, parents first.
fn meant(name: &str, below: bool) -> Result<Vec<Meant>, program::Failure> {
    let depth = if below { "255" } else { "0" };
    let args =
        ["list", "-Hp", "-t", "filesystem,volume", "-d", depth, "-o", "name,canmount,mountpoint", name];
    Ok(meant_by(&String::from_utf8_lossy(&program::zfs(&args)?)))
}

/// A mountpoint may hold anything, a newline too: what is no row is left out, and then is not mounted.
fn meant_by(text: &str) -> Vec<Meant> {
    let of_line = |line: &str| {
        let [row] = list::rows_with_text::<3>(line.as_bytes()).ok()?.try_into().ok()?;
        let [name, canmount, dir]: [&str; 3] = row;
        let dir = dir.starts_with('/').then(|| PathBuf::from(dir));
        Some(Meant { name: name.to_owned(), automatic: canmount == "on", dir })
    };
    text.lines().filter_map(of_line).collect()
}

/// Mounts a filesystem that was just made where its properties say. Where the user may not mount, or it fails, it stays
/// unmounted with a warning: the filesystem itself is there.
pub(super) fn mount_if_meant(dataset: &Dataset) -> Result<()> {
    let name = dataset.name().as_str();
    let meant = meant(name, false).map_err(|failure| failure.into_error("read", dataset))?;
    if meant.iter().any(|meant| meant.automatic && meant.dir.is_some()) {
        mount_or_warn(name);
    }
    Ok(())
}

/// Mounts a dataset and what is inside it where their properties say, as far as they are not mounted. What is mounted inside
/// one that is not is mounted anew: it would be hidden.
pub(super) fn mount_all_meant(dataset: &Dataset) -> Result<()> {
    let name = dataset.name().as_str();
    let meant = meant(name, true).map_err(|failure| failure.into_error("read", dataset))?;
    let automatic: Vec<_> = meant.iter().filter(|meant| meant.automatic).collect();
    for (n, outer) in automatic.iter().enumerate() {
        let Some(dir) = &outer.dir else { continue };
        if !mounts_of(&outer.name)?.is_empty() {
            continue;
        }
        let is_inside = |inner: &&&Meant| inner.dir.as_ref().is_some_and(|inner| inner.starts_with(dir));
        for inner in automatic[n + 1..].iter().filter(is_inside).rev() {
            if !mounts_of(&inner.name)?.is_empty() {
                unmount(&inner.name, "mount", dataset)?;
            }
        }
        mount_or_warn(&outer.name);
    }
    Ok(())
}

fn mount_or_warn(name: &str) {
    if !geteuid().is_root() {
        tracing::warn!("{name} is not mounted: only root can; zfs mount {}", quoted(name));
        return;
    }
    if let Err(failure) = program::zfs(&["mount", name]) {
        match keys::locked_by(name) {
            Ok(Some(root)) => {
                let (root, name) = (quoted(root), quoted(name));
                tracing::warn!(
                    "{name} is not mounted, as its key is not loaded: zfs load-key {root}; zfs mount {name}"
                );
            }
            _ => tracing::warn!("{name} is not mounted: {}", cause_of(failure.into_error("mount", name))),
        }
    }
}

fn cause_of(error: Error) -> String {
    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Filesystems that were unmounted because their names change or they go, to be put back if they stay.
#[derive(Debug)]
pub(super) struct Down {
    base: String,
    names: Vec<String>, // Parents first.
}

impl Down {
    /// Unmounts a dataset, with what is inside it, from where its properties say. Mounts elsewhere stay; they follow a
    /// dataset whose name changes.
    ///
    /// # Errors
    /// [`Error::Refused`] if something uses one; [`Error::Denied`] for whoever may not unmount.
    pub(super) fn take(dataset: &Dataset, op: &'static str) -> Result<Self> {
        let base = dataset.name().as_str().to_owned();
        let mounts = mounts()?;
        let is_up = |meant: &Meant| {
            let dir = meant.dir.as_deref();
            mounts.iter().any(|info| info.source == Path::new(&meant.name) && Some(info.dir.as_path()) == dir)
        };
        let meant = meant(&base, true).map_err(|failure| failure.into_error("list", dataset))?;
        let up: Vec<_> = meant.into_iter().filter(is_up).map(|meant| meant.name).collect();
        if !up.is_empty() && !geteuid().is_root() {
            return Err(Error::Denied {
                op,
                subject: dataset.to_string(),
                lacking: format!("{} is mounted, and only root can unmount", up[0]),
                hint: Some("run it as root".into()),
            });
        }
        let mut down = Self { base, names: Vec::new() };
        for name in up.into_iter().rev() {
            if let Err(error) = unmount(&name, op, dataset) {
                down.names.reverse();
                down.put_back();
                return Err(error);
            }
            down.names.push(name);
        }
        down.names.reverse();
        Ok(down)
    }

    /// Mounts them again.
    pub(super) fn put_back(&self) {
        self.names.iter().for_each(|name| mount_or_warn(name));
    }

    /// Mounts them again, now that the dataset is called otherwise.
    pub(super) fn put_back_as(&self, new: &Dataset) {
        for name in &self.names {
            let rest = name.strip_prefix(&self.base).unwrap_or_default();
            mount_or_warn(&format!("{}{rest}", new.name()));
        }
    }
}

fn unmount(name: &str, op: &'static str, dataset: &Dataset) -> Result<()> {
    let Err(failure) = program::zfs(&["unmount", name]) else { return Ok(()) };
    let Ok(Some(dir)) = seen_at(name) else { return Ok(()) }; // Another was faster.
    match failure {
        program::Failure::Said(words) => {
            let hint = Some(format!("fuser -vm {}", quoted(dir.display())));
            Err(dataset.refused(op, format!("{name} can not be unmounted: {words}"), hint))
        }
        missing => Err(missing.into_error(op, dataset)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_filesystems_are_to_be_mounted_is_read() {
        let text = "tank\ton\t/tank\ntank/a b:c\tnoauto\t/srv/a b\tc\ntank/vol\t-\t-\ntank/old\ton\tlegacy\nrest of a name\n";
        let shown: Vec<_> = meant_by(text)
            .into_iter()
            .map(|m| format!("{} {} {:?}", m.name, m.automatic, m.dir.map(|dir| dir.display().to_string())))
            .collect();
        assert_eq!(
            shown,
            [
                r#"tank true Some("/tank")"#,
                r#"tank/a b:c false Some("/srv/a b\tc")"#,
                "tank/vol false None",
                "tank/old true None",
            ]
        );
    }
}
