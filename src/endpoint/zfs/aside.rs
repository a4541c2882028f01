//! A dataset on its way aside, and its clone on the way to its place: the steps, and what becomes of them if they are broken
//! off.
//!
//! What is meant is written down as a property of the dataset before the first step; it goes along with the dataset's new
//! name. Who finds it later looks at what is there: nothing has another name yet, then it is forgotten; the dataset is
//! aside and nothing is in its place, then it gets its name back; a clone is in its place, then the rest is done.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::error::{above, lzc};
use crate::endpoint::zfs::lock::{Locked, Work, is_locked, try_lock};
use crate::endpoint::zfs::{mounted, program, props, remount};
use crate::endpoint::{Error, Result, RolledBack};
use crate::model::{DatasetName, SnapshotName, VersionRef, quoted};
use crate::sys::lzc::{Errno, Prop};

/// The property that says what is going on: of the dataset on its way, and of its clone.
pub(super) const INTENT: &str = "cowsnap:rollback";
/// The property that says, of what was set aside, whose place it had.
const ASIDE: &str = "cowsnap:aside";
/// The property that says, of the snapshot that keeps what is replaced, under which name that is set aside.
const KEPT: &str = "cowsnap:kept";
/// Space that is reserved for the dataset in place, and not for the one aside too.
const RESERVATIONS: [&str; 2] = ["reservation", "refreservation"];
/// `canmount=noauto`
const NOAUTO: u64 = 2;

/// What is to become of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intent {
    /// Which goes back.
    pub(super) dataset: DatasetName,
    /// The name under which it is set aside.
    pub(super) aside: DatasetName,
    /// To which version.
    pub(super) to: VersionRef,
    /// The name of the snapshot that keeps its content.
    pub(super) keep: SnapshotName,
    /// What its `canmount` was set to, if it was.
    pub(super) canmount: Option<String>,
}

/// What was set on a dataset before it was set aside, to be set again if it gets its place back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Was {
    of: DatasetName,
    props: BTreeMap<String, Option<String>>,
}

impl Intent {
    /// Does it. What fails before the clone is in its place is undone.
    pub(super) fn carry_out(&self, dataset: &Dataset, lock: &Locked, done: &mut RolledBack) -> Result<()> {
        let name = self.dataset.as_str();
        let text = serde_json::to_string(self).expect("its keys are texts");
        props::set(name, INTENT, &text)?;
        let begun = self.exchange(dataset, &text).and_then(|()| self.complete(done));
        begun.map_err(|error| match self.settle(lock) {
            Ok(_) => error,
            Err(also) => Error::Halfway {
                what: format!(
                    "{dataset} is not rolled back, and what it was is kept as {}: {also}",
                    self.aside
                ),
                source: Box::new(error),
            },
        })
    }

    fn exchange(&self, dataset: &Dataset, text: &str) -> Result<()> {
        let lzc = dataset.lzc()?;
        let (name, aside) = (self.dataset.as_str(), self.aside.as_str());
        let parent = above(name);
        let rights = [
            ("rollback,snapshot,rename,clone,promote,mount,canmount,userprop", name),
            ("create,mount", parent),
        ];
        let failed = || dataset.failed("roll back", &rights);
        let volume = dataset.is_volume()?;
        let mountpoint = if volume { None } else { props::local(name, "mountpoint")? };
        let kept = BTreeMap::from([(KEPT.to_owned(), aside.to_owned())]);
        lzc.snapshot(&[dataset.full_name(&self.keep)], &kept).map_err(failed())?;
        lzc.rename(name, aside).map_err(failed())?;
        if !volume {
            props::set(aside, "canmount", "noauto")?;
        }
        // The clone has what it needs not to be mounted by anybody else from its first moment on.
        let mut own = vec![(INTENT.to_owned(), Prop::Text(text.to_owned()))];
        own.extend(mountpoint.map(|dir| ("mountpoint".to_owned(), Prop::Text(dir))));
        own.extend((!volume).then(|| ("canmount".to_owned(), Prop::Number(NOAUTO))));
        lzc.clone_snapshot(name, &format!("{aside}@{}", self.to.name), &own).map_err(failed())
    }

    /// What is left to do once the clone is there. Done again, it does what was not done.
    fn complete(&self, done: &mut RolledBack) -> Result<()> {
        let (new, old) = (Dataset::by_name(self.dataset.clone()), Dataset::by_name(self.aside.clone()));
        let (name, aside) = (self.dataset.as_str(), self.aside.as_str());
        let lzc = new.lzc()?;
        let volume = new.is_volume()?;
        let was = self.make_room(aside)?;
        for (property, why) in props::carry(aside, name, &[INTENT, ASIDE])? {
            done.warnings.push(format!("{property} of {name} is not what it was: {why}"));
        }
        for (property, value) in was.props.iter().filter(|(property, _)| property.as_str() != "canmount") {
            if let Some(value) = value
                && let Err(why) = props::set(name, property, value)
            {
                done.warnings.push(format!("{property} of {name} is not what it was: {why}"));
            }
        }
        if new.get("origin")?.starts_with(&format!("{aside}@")) {
            lzc.promote(name).map_err(new.failed("promote", &[("promote,mount", name)]))?;
        }
        for inner in old.nested()? {
            let rest = inner.name().as_str().strip_prefix(aside).unwrap_or_default().to_owned();
            let back = format!("{name}{rest}");
            lzc.rename(inner.name().as_str(), &back).map_err(inner.failed("move back", &[]))?;
        }
        self.copy_bookmarks(&new, &old, done)?;
        if !volume {
            props::set_or_clear(name, "canmount", self.canmount.as_deref())?;
            remount::exchange(aside, name, done)?;
        }
        if has_delegated(aside) {
            let how = format!("zfs allow {}", quoted(aside));
            done.warnings
                .push(format!("who may do what with it is not taken over: {how} shows what was granted"));
        }
        let was = serde_json::to_string(&was).expect("its keys are texts");
        props::set(aside, ASIDE, &was)?;
        props::clear(aside, INTENT)?;
        props::clear(name, INTENT)
    }

    /// Gives up what is reserved for the dataset aside, and answers what it was.
    fn make_room(&self, aside: &str) -> Result<Was> {
        let before = props::local(aside, ASIDE)?.and_then(|text| serde_json::from_str::<Was>(&text).ok());
        if let Some(before) = before.filter(|before| before.of == self.dataset) {
            return Ok(before); // It was broken off after this.
        }
        let mut props = BTreeMap::from([("canmount".to_owned(), self.canmount.clone())]);
        for property in RESERVATIONS {
            if let Some(value) = props::local(aside, property)? {
                props.insert(property.to_owned(), Some(value));
            }
        }
        let was = Was { of: self.dataset.clone(), props };
        props::set(aside, ASIDE, &serde_json::to_string(&was).expect("its keys are texts"))?;
        for property in was.props.keys().filter(|property| property.as_str() != "canmount") {
            props::set(aside, property, "none")?;
        }
        Ok(was)
    }

    /// Bookmarks of what came before the version are of both histories.
    fn copy_bookmarks(&self, new: &Dataset, old: &Dataset, done: &mut RolledBack) -> Result<()> {
        let lzc = new.lzc()?;
        let newest = new.version(&self.to.name)?.order;
        let marks = lzc.bookmarks(old.name().as_str()).map_err(old.failed("list the bookmarks of", &[]))?;
        for mark in marks.iter().filter(|mark| mark.createtxg <= newest) {
            let [to, from] = [new, old].map(|dataset| format!("{}#{}", dataset.name(), mark.name));
            match lzc.bookmark(&[(to.clone(), from)]) {
                Err(failed) if failed.errno != Errno::Exists => {
                    done.warnings.push(format!("the bookmark {to} is left with {old}: {}", failed.errno));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Completes or undoes what was broken off, by what is there. Whether anything was changed.
    fn settle(&self, _lock: &Locked) -> Result<bool> {
        let (name, aside) = (self.dataset.as_str(), self.aside.as_str());
        let lzc = lzc(name)?;
        match (lzc.exists(name), lzc.exists(aside)) {
            (true, true) => {
                let mut done = RolledBack::default();
                self.complete(&mut done)?;
                done.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                Ok(true)
            }
            (false, true) => self.undo().map(|()| true),
            (true, false) => {
                self.forget_kept();
                props::clear(name, INTENT).map(|()| false)
            }
            (false, false) => Ok(false),
        }
    }

    fn undo(&self) -> Result<()> {
        let old = Dataset::by_name(self.aside.clone());
        let (name, aside) = (self.dataset.as_str(), self.aside.as_str());
        if !old.is_volume()? {
            props::set_or_clear(aside, "canmount", self.canmount.as_deref())?;
        }
        let rights = [("rename,mount", aside), ("create,mount", above(name))];
        old.lzc()?.rename(aside, name).map_err(old.failed("give its name back to", &rights))?;
        self.forget_kept();
        props::clear(name, INTENT)?;
        mounted::mount_all_meant(&Dataset::by_name(self.dataset.clone()))
    }

    /// Destroys the snapshot of a content that was not replaced after all, and no other of that name.
    fn forget_kept(&self) {
        let kept = format!("{}@{}", self.dataset, self.keep);
        let Ok(lzc) = lzc(&kept) else { return };
        let is_ours = || matches!(props::local(&kept, KEPT), Ok(Some(aside)) if aside == self.aside.as_str());
        if lzc.exists(&kept)
            && is_ours()
            && let Err(failed) = lzc.destroy_snapshots(&[kept], false)
        {
            tracing::warn!("{failed}");
        }
    }
}

/// A rollback that was broken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupted {
    intent: Intent,
}

impl Interrupted {
    /// The dataset that was to go back, by name.
    pub fn dataset(&self) -> &DatasetName {
        &self.intent.dataset
    }

    /// The name under which it is, or would have been, set aside.
    pub fn aside(&self) -> &DatasetName {
        &self.intent.aside
    }

    /// Whether a living process is doing it.
    ///
    /// # Errors
    /// A socket that can not be made.
    pub fn is_live(&self) -> Result<bool> {
        is_locked(Work::Rollback, self.intent.dataset.as_str())
    }

    /// Completes or undoes it. Whether anything was changed; nothing is while a living process is doing it.
    ///
    /// # Errors
    /// A step that fails.
    pub fn settle(&self) -> Result<bool> {
        match try_lock(Work::Rollback, self.intent.dataset.as_str())? {
            Some(lock) => self.intent.settle(&lock),
            None => Ok(false),
        }
    }
}

/// The rollbacks of all pools, or below the dataset `within`, that were broken off or are being done.
///
/// # Errors
/// A listing that fails.
pub fn interrupted(within: Option<&str>) -> Result<Vec<Interrupted>> {
    let mut args = vec!["-r"];
    args.extend(within);
    let found = intents(&args).map_err(|failure| failure.into_error("list", within.unwrap_or("ZFS")))?;
    let mut found: Vec<_> = found.into_iter().map(|(_, intent)| Interrupted { intent }).collect();
    found.sort_by(|a, b| a.intent.aside.cmp(&b.intent.aside));
    found.dedup();
    Ok(found)
}

/// What is written down on datasets themselves, with the name of the dataset that it is on.
fn intents(which: &[&str]) -> Result<Vec<(String, Intent)>, program::Failure> {
    let mut args = vec!["get", "-Hp", "-t", "filesystem,volume", "-s", "local", "-o", "name,value", INTENT];
    args.splice(1..1, which.iter().copied().filter(|word| word.starts_with('-')));
    args.extend(which.iter().copied().filter(|word| !word.starts_with('-')));
    let text = program::zfs(&args)?;
    Ok(intents_in(&String::from_utf8_lossy(&text)))
}

fn intents_in(text: &str) -> Vec<(String, Intent)> {
    let of_line = |line: &str| {
        let (name, value) = line.split_once('\t')?;
        let intent: Intent = serde_json::from_str(value).ok()?;
        // Somebody may have copied the property to where it does not belong.
        let belongs = name == intent.dataset.as_str() || name == intent.aside.as_str();
        belongs.then(|| (name.to_owned(), intent))
    };
    text.lines().filter_map(of_line).collect()
}

/// Completes or undoes what was broken off of a dataset that is there, if its property `rollback` or that of the dataset
/// that it is a clone of says so. Whether anything was changed.
pub(super) fn settle(dataset: &Dataset, rollback: Option<&str>, origin: Option<&str>) -> Result<bool> {
    let name = dataset.name();
    let mut intent = rollback.and_then(|text| serde_json::from_str::<Intent>(text).ok());
    // It died when the clone was made and its properties were not.
    if intent.is_none()
        && let Some((of, _)) = origin.and_then(|origin| origin.split_once('@'))
        && of.starts_with(&format!("{name}.before-"))
    {
        intent = props::local(of, INTENT)?.and_then(|text| serde_json::from_str(&text).ok());
    }
    match intent.filter(|intent| intent.dataset == *name) {
        Some(intent) => Interrupted { intent }.settle(),
        None => Ok(false),
    }
}

/// Gives a dataset its name back that a rollback which was broken off took from it. Waits for one that is being done.
pub(super) fn settle_absent(dataset: &Dataset) -> Result<()> {
    let name = dataset.name();
    let parent = above(name.as_str());
    let lzc = dataset.lzc()?;
    if parent == name.as_str() || !lzc.exists(parent) {
        return Ok(());
    }
    let found = intents(&["-d1", parent]).map_err(|failure| failure.into_error("list", parent))?;
    let Some((_, intent)) = found.into_iter().find(|(_, intent)| intent.dataset == *name) else {
        return Ok(());
    };
    let interrupted = Interrupted { intent };
    for _ in 0..100 {
        if lzc.exists(name.as_str()) || interrupted.settle()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Sets again what was set on a dataset before it was set aside, if it has its old name now.
pub(super) fn take_back_in(dataset: &Dataset) -> Result<()> {
    let name = dataset.name().as_str();
    let was = props::local(name, ASIDE)?.and_then(|text| serde_json::from_str::<Was>(&text).ok());
    let Some(was) = was.filter(|was| was.of == *dataset.name()) else { return Ok(()) };
    for (property, value) in &was.props {
        if property != "canmount" || !dataset.is_volume()? {
            props::set_or_clear(name, property, value.as_deref())?;
        }
    }
    props::clear(name, ASIDE)?;
    mounted::mount_if_meant(dataset)
}

/// Whether rights were granted on the dataset itself.
fn has_delegated(name: &str) -> bool {
    let shown = program::zfs(&["allow", name]).unwrap_or_default();
    String::from_utf8_lossy(&shown)
        .lines()
        .any(|line| line.starts_with(&format!("---- Permissions on {name} -")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent() -> Intent {
        Intent {
            dataset: "tank/a b:c".parse().expect("a name"),
            aside: "tank/a b:c.before-20261120T020000Z".parse().expect("a name"),
            to: VersionRef { guid: crate::model::Guid::of_zfs(7), name: "s 1".parse().expect("a name") },
            keep: "kept".parse().expect("a name"),
            canmount: None,
        }
    }

    #[test]
    fn what_is_written_down_is_read_back_from_a_listing() {
        let text = serde_json::to_string(&intent()).expect("json");
        assert!(!text.contains(['\t', '\n']) && text.len() < 8192);
        let found = intents_in(&format!("tank/a b:c\t{text}\ntank/x\t{text}\ntank/y\tforeign words\n"));
        assert_eq!(found, [("tank/a b:c".to_owned(), intent())]);
    }
}
