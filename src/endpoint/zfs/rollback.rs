//! Going back: the live dataset is set aside under another name, with every newer snapshot, and a clone of the version takes
//! its place and its older history. Nothing is destroyed.
//!
//! ZFS keeps a history in a line: a dataset that went back can not have newer snapshots.

use jiff::Timestamp;

use crate::endpoint::zfs::aside::Intent;
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::intent::guid_of;
use crate::endpoint::zfs::lock::{Work, try_lock};
use crate::endpoint::zfs::{props, remount};
use crate::endpoint::{Error, History, Result, RollbackRequest, RolledBack};
use crate::model::{SnapshotName, Version, VersionRef, quoted};

impl Dataset {
    pub(super) fn roll_back(&self, version: &VersionRef, request: &RollbackRequest) -> Result<RolledBack> {
        let all = self.to_roll_back(version, request.recursive)?;
        // What could not be mounted again would be live only in name.
        all.iter().try_for_each(|(dataset, _)| dataset.expect_key("roll back"))?;
        let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let mut done = self.roll_back_one(version, request, &now)?;
        for (n, (inner, version)) in all.iter().enumerate().skip(1) {
            let theirs = inner
                .roll_back_one(version, request, &now)
                .map_err(|error| rolled_back_halfway(&done, (n, all.len()), error))?;
            done.kept_inside.extend(kept_names(&theirs));
            done.moved.extend(theirs.moved);
            done.remounted.extend(theirs.remounted);
            done.warnings.extend(theirs.warnings);
        }
        Ok(done)
    }

    /// What goes back when this dataset goes back to `version`: itself, then those inside it that have a version of the
    /// same name, parents first.
    ///
    /// # Errors
    /// [`Error::Refused`] if there are nested datasets and it is not to be `recursive`; a version that can not be read.
    pub fn to_roll_back(&self, version: &VersionRef, recursive: bool) -> Result<Vec<(Self, VersionRef)>> {
        let inside = self.all_inside()?;
        if !inside.is_empty() && !recursive {
            let names: Vec<_> = inside.iter().map(ToString::to_string).collect();
            let why = format!("datasets are inside it: {}", names.join(", "));
            let hint = format!("cowsnap rollback -r {}", quoted(self.at_name(&version.name)));
            return Err(self.refused("roll back", why, Some(hint)));
        }
        let mut all = vec![(self.clone(), version.clone())];
        for inner in inside {
            match inner.version(&version.name) {
                Ok(theirs) => all.push((inner, theirs.id)),
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    fn roll_back_one(
        &self,
        version: &VersionRef,
        request: &RollbackRequest,
        now: &str,
    ) -> Result<RolledBack> {
        self.expect_snapshot(version, "roll back")?;
        let to = self.version(&version.name)?;
        self.check_can_go_back(&to)?;
        let name = self.name().as_str();
        let Some(lock) = try_lock(Work::Rollback, name)? else {
            return Err(self.refused("roll back", "another process is doing so".into(), None));
        };
        let moved = self.nested()?.iter().map(ToString::to_string).collect();
        let intent = Intent {
            dataset: self.name().clone(),
            guid: guid_of(name)?,
            aside: self.name_for_aside(now)?,
            to: version.clone(),
            keep: self.name_to_keep(request, now)?,
            canmount: props::local(name, "canmount")?,
        };
        let mut done = RolledBack { moved, ..RolledBack::default() };
        intent.carry_out(&lock, &mut done)?;
        let aside = Self::by_name(intent.aside);
        done.kept.push(aside.version(&intent.keep)?);
        let is_newer = |other: &Version| other.order > to.order && other.id.name != intent.keep;
        done.newer_aside = aside.inventory()?.versions().iter().any(is_newer);
        done.aside = Some(aside.to_string());
        Ok(done)
    }

    fn check_can_go_back(&self, to: &Version) -> Result<()> {
        if self.name().within_pool().is_none() {
            let why = "it is the pool itself, which can not be set aside".into();
            let hint = format!("cowsnap clone {} {}/NEW", quoted(format!("{self}@…")), quoted(self.name()));
            return Err(self.refused("roll back", why, Some(hint)));
        }
        if self.get("receive_resume_token")? != "-" {
            let hint = format!("cowsnap destroy {}", quoted(format!("{self}@%partial")));
            return Err(self.refused(
                "roll back",
                "a stream was received into it in part".into(),
                Some(hint),
            ));
        }
        remount::check(self, to)
    }

    /// `NAME.before-20261120T020000Z`, then `…-2` and so on.
    fn name_for_aside(&self, now: &str) -> Result<crate::model::DatasetName> {
        let lzc = self.lzc()?;
        let names = (1..).map(|nth| format!("{}.before-{now}{}", self.name(), number(nth)));
        let free = names.into_iter().find(|name| !lzc.exists(name)).expect("the numbers do not end");
        let too_long = |why: crate::model::name::Error| self.refused("roll back", why.to_string(), None);
        free.parse().map_err(too_long)
    }

    fn name_to_keep(&self, request: &RollbackRequest, now: &str) -> Result<SnapshotName> {
        let lzc = self.lzc()?;
        let is_taken = |name: &SnapshotName| lzc.exists(&self.full_name(name));
        if let Some(name) = &request.keep_as {
            return if is_taken(name) { Err(self.taken(name)) } else { Ok(name.clone()) };
        }
        let name = |nth| -> SnapshotName {
            format!("pre-rollback-{now}{}", number(nth))
                .parse()
                .expect("letters, digits and hyphens are a name")
        };
        Ok((1..).map(name).find(|name| !is_taken(name)).expect("the numbers do not end"))
    }
}

fn number(nth: u32) -> String {
    if nth == 1 { String::new() } else { format!("-{nth}") }
}

fn kept_names(done: &RolledBack) -> Vec<String> {
    let aside = done.aside.as_deref().unwrap_or_default();
    done.kept.iter().map(|kept| format!("{aside}@{}", kept.id.name)).collect()
}

fn rolled_back_halfway(done: &RolledBack, (n, of): (usize, usize), error: Error) -> Error {
    let mut kept = kept_names(done);
    kept.extend(done.kept_inside.iter().cloned());
    let what = format!("{n} of {of} datasets rolled back; what they were is kept as {}", kept.join(", "));
    Error::Halfway { what, source: Box::new(error) }
}
