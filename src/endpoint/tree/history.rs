//! The versions of a tree: read, held, released, destroyed.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::endpoint::dir::rename_new;
use crate::endpoint::tree::about::About;
use crate::endpoint::tree::dataset::Dataset;
use crate::endpoint::tree::home;
use crate::endpoint::tree::staging::Staging;
use crate::endpoint::{Error, History, Result};
use crate::model::{HoldTag, Inventory, VersionRef, quoted};
use crate::sys::mount;

impl History for Dataset {
    fn inventory(&self) -> Result<Inventory> {
        let Some(home) = self.home()? else {
            self.expect_live()?;
            return Ok(Inventory::new(self.to_string(), Vec::new(), Vec::new()));
        };
        let (mut versions, mut holds) = (Vec::new(), Vec::new());
        for name in home.names()? {
            let Some((_, about)) = self.try_find_in(&home, &name)? else { continue };
            let version = about.version(name);
            holds.extend(about.holds.into_keys().map(|tag| (version.id.clone(), tag)));
            versions.push(version);
        }
        Ok(Inventory::new(self.to_string(), versions, holds))
    }

    fn hold(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        self.describe(version, |about| {
            about.holds.entry(tag.clone()).or_insert_with(Timestamp::now);
            Ok(())
        })
    }

    fn release(&self, version: &VersionRef, tag: &HoldTag) -> Result<()> {
        self.describe(version, |about| match about.holds.remove(tag) {
            Some(_) => Ok(()),
            None => Err(Error::NotFound {
                what: "hold",
                subject: format!("{tag} of {}", self.at_name(&version.name)),
                hint: Some(format!("cowsnap holds {}", quoted(self.at_name(&version.name)))),
            }),
        })
    }

    fn destroy(&self, version: &VersionRef) -> Result<()> {
        let store = self.base().store()?.ok_or_else(|| self.no_such(&version.name))?;
        let home = self.locked(&store)?.ok_or_else(|| self.no_such(&version.name))?;
        let (_, about) = self.expect_in(&home, version)?;
        let subject = self.at_name(&version.name);
        if !about.holds.is_empty() {
            return Err(Error::Held { subject, tags: about.holds.keys().map(ToString::to_string).collect() });
        }
        if let Some(at) = self.mounted_at(version)? {
            let why = format!("it is mounted at {}", at.display());
            let hint = Some(format!("cowsnap unmount {}", quoted(at.display())));
            return Err(Error::Refused { op: "destroy", subject, why, hint });
        }
        // Its name goes in one step, and with it the version; the files go after, or when the store is next opened.
        let staging = Staging::new(&store)?;
        let name = OsStr::new(version.name.as_str());
        rename_new((home.snap(), name), (staging.fd(), OsStr::new("destroyed")))
            .and_then(|()| rustix::fs::fsync(home.snap()))
            .map_err(Error::io("destroy", subject))?;
        drop(staging);
        home.remove_if_empty(&store, &self.key())?;
        drop(store);
        self.base().remove_if_empty();
        Ok(())
    }
}

impl Dataset {
    /// Changes what is said of `version`, on disk.
    fn describe(&self, version: &VersionRef, change: impl FnOnce(&mut About) -> Result<()>) -> Result<()> {
        let store = self.base().store()?.ok_or_else(|| self.no_such(&version.name))?;
        let home = self.locked(&store)?.ok_or_else(|| self.no_such(&version.name))?;
        let (dir, before) = self.expect_in(&home, version)?;
        let mut after = before.clone();
        change(&mut after)?;
        match after == before {
            true => Ok(()),
            false => after.write(dir.as_fd(), &self.at_name(&version.name)),
        }
    }

    /// Where `version` is mounted, if it is.
    fn mounted_at(&self, version: &VersionRef) -> Result<Option<PathBuf>> {
        let failed = || Error::io("read", "the table of mounts");
        let id = mount::mount_id(self.base().fd()).map_err(failed())?;
        let mounts = mount::mounts().map_err(failed())?;
        let Some(ours) = mounts.iter().find(|m| m.id == id) else { return Ok(None) };
        let Ok(inside) = self.store_dir().strip_prefix(&ours.dir).map(Path::to_owned) else {
            return Ok(None);
        };
        let snap = ours.root.join(inside).join(home::path_of(&self.key())).join("snap");
        let root = snap.join(version.name.as_str());
        let found = mounts.iter().find(|m| m.device == ours.device && m.root.starts_with(&root));
        Ok(found.map(|m| m.dir.clone()))
    }
}
