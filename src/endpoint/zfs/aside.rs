//! A dataset on its way aside, and its clone on the way to its place.
//!
//! What is meant is written down as a property of the dataset before the first step; it goes along with the dataset's new
//! name. Who finds it later looks at what is there: nothing has another name yet, then it is forgotten; the dataset is
//! aside and nothing is in its place, then it gets its name back; a clone is in its place, then the rest is done, or if
//! that can not be, the clone goes and the dataset gets its name back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::error::{above, lzc, not_permitted, of_errno};
use crate::endpoint::zfs::intent::{Seen, is_beside};
use crate::endpoint::zfs::lock::Locked;
use crate::endpoint::zfs::was::{ASIDE, Was, set_canmount, take_back_in};
use crate::endpoint::zfs::{exchange, keys, mounted, program, props, remount};
use crate::endpoint::{Error, Result, RolledBack};
use crate::model::{DatasetName, Guid, SnapshotName, VersionRef, quoted};
use crate::sys::lzc::{Errno, Lzc, Prop};

/// The property that says what is going on: of the dataset on its way, and of its clone.
pub(super) const INTENT: &str = "cowsnap:rollback";
/// The property that says, of the snapshot that keeps what is replaced, under which name that is set aside.
const KEPT: &str = "cowsnap:kept";
/// What an ordinary user needs to have a dataset that is not mounted go back, and this undone if it fails.
const RIGHTS: &str = "snapshot,rename,clone,promote,create,destroy,mount,canmount,mountpoint,userprop";
/// `canmount=noauto`
const NOAUTO: u64 = 2;

/// What is to become of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intent {
    /// Which goes back.
    pub(super) dataset: DatasetName,
    /// What it is known by under either name.
    pub(super) guid: Guid,
    /// The name under which it is set aside.
    pub(super) aside: DatasetName,
    /// To which version.
    pub(super) to: VersionRef,
    /// The name of the snapshot that keeps its content.
    pub(super) keep: SnapshotName,
    /// What its `canmount` was set to, if it was.
    pub(super) canmount: Option<String>,
}

/// How far a rollback has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Everything has its name.
    Meant,
    /// The dataset is aside, and nothing is in its place.
    Aside,
    /// A clone is in its place.
    Cloned,
    /// Only the clone says so any more.
    Done,
}

impl Intent {
    /// What can be believed of a text that was found.
    pub(super) fn read(text: &str) -> Option<Self> {
        let intent: Self = super::intent::read(text)?;
        is_beside(&intent.aside, &intent.dataset, "before").then_some(intent)
    }

    /// How far it has come by what is there; `None` if that does not fit it.
    ///
    /// # Errors
    /// A property that can not be read.
    pub(super) fn stage(&self) -> Result<Option<Stage>> {
        let seen = |name: &DatasetName| Seen::of(name.as_str(), INTENT);
        Ok(self.stage_of(seen(&self.dataset)?.as_ref(), seen(&self.aside)?.as_ref()))
    }

    fn stage_of(&self, in_place: Option<&Seen>, aside: Option<&Seen>) -> Option<Stage> {
        let is_old = |seen: &Seen| seen.guid == self.guid && seen.says(self);
        match (in_place, aside) {
            (Some(old), None) => is_old(old).then_some(Stage::Meant),
            (None, Some(old)) => is_old(old).then_some(Stage::Aside),
            (Some(new), Some(old)) => {
                let is_clone = new.origin == format!("{}@{}", self.aside, self.to.name);
                let is_promoted = old.origin == format!("{}@{}", self.dataset, self.to.name);
                match (new.says(self), is_old(old)) {
                    (true, true) => (is_clone || is_promoted).then_some(Stage::Cloned),
                    // It died when the clone was made and its properties were not.
                    (false, true) => (is_clone && new.says.is_none()).then_some(Stage::Cloned),
                    (true, false) => (is_promoted && old.says.is_none()).then_some(Stage::Done),
                    (false, false) => None,
                }
            }
            (None, None) => None,
        }
    }

    /// Does it. What fails before the clone has the history is undone.
    pub(super) fn carry_out(&self, _lock: &Locked, done: &mut RolledBack) -> Result<()> {
        let text = self.to_text();
        props::set(self.dataset.as_str(), INTENT, &text).map_err(|error| match error {
            Error::Denied { op, subject, .. } => {
                not_permitted(op, subject, &[(RIGHTS, above(self.dataset.as_str()))])
            }
            error => error,
        })?;
        let begun = self.exchange(&text).and_then(|()| self.complete(done));
        begun.map_err(|error| match self.give_up() {
            Ok(()) => error,
            Err(also) => Error::Halfway {
                what: format!(
                    "{} is rolled back in part, and what it was is kept as {}: {also}; cowsnap doctor --fix goes on",
                    self.dataset, self.aside
                ),
                source: Box::new(error),
            },
        })
    }

    fn to_text(&self) -> String {
        serde_json::to_string(self).expect("its keys are texts")
    }

    fn in_place(&self) -> Dataset {
        Dataset::by_name(self.dataset.clone())
    }

    fn set_aside(&self) -> Dataset {
        Dataset::by_name(self.aside.clone())
    }

    fn lzc(&self) -> Result<&'static Lzc> {
        lzc(&self.dataset)
    }

    /// The dataset goes aside, and a clone is made in its place. Nothing is mounted otherwise yet.
    fn exchange(&self, text: &str) -> Result<()> {
        let (lzc, dataset) = (self.lzc()?, self.in_place());
        let (name, aside) = (self.dataset.as_str(), self.aside.as_str());
        // What is granted on the dataset itself goes aside with it.
        let rights = [(RIGHTS, above(name))];
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
        let (lzc, new, old) = (self.lzc()?, self.in_place(), self.set_aside());
        let (name, aside) = (self.dataset.as_str(), self.aside.as_str());
        if props::set_here(name, INTENT)?.is_none() {
            props::set(name, INTENT, &self.to_text())?;
        }
        // First what may fail: up to here the clone can go again.
        if self.has_no_history_yet()? {
            let promote = || lzc.promote(name).map_err(|failed| self.not_promoted(failed.errno));
            done.warnings.extend(keys::kept_over(name, promote)?);
        } else if !mounted::mounts_of(aside)?.is_empty() {
            // It died before the key was loaded anew, which was loaded: what has the same key is mounted still.
            done.warnings.extend(keys::loaded_anew(name)?);
        }
        let was = Was::write_down(aside, &self.dataset, self.canmount.as_deref())?;
        let mut left = props::carry(aside, name, &[INTENT, ASIDE, exchange::INTENT, exchange::GIVES_WAY])?;
        left.extend(was.reserve(name));
        let told = |(property, why)| format!("{property} of {name} is not what it was: {why}");
        done.warnings.extend(left.into_iter().map(told));
        for inner in old.nested()? {
            let rest = inner.name().as_str().strip_prefix(aside).unwrap_or_default().to_owned();
            let rights = [("rename,mount", aside), ("create,mount", name)];
            lzc.rename(inner.name().as_str(), &format!("{name}{rest}"))
                .map_err(inner.failed("move back", &rights))?;
        }
        if !new.is_volume()? {
            set_canmount(name, self.canmount.as_deref())?;
            remount::exchange(aside, name, done)?;
        }
        if has_delegated(aside) {
            let how = format!("zfs allow {}", quoted(aside));
            done.warnings
                .push(format!("who may do what with it is not taken over: {how} shows what was granted"));
        }
        props::clear(aside, INTENT)?;
        props::clear(name, INTENT)
    }

    fn has_no_history_yet(&self) -> Result<bool> {
        Ok(self.in_place().get("origin")?.starts_with(&format!("{}@", self.aside)))
    }

    fn not_promoted(&self, errno: Errno) -> Error {
        let name = self.dataset.as_str();
        if errno == Errno::Busy {
            let why =
                "a snapshot of it is used: it is being sent, or mounted where this process does not see it";
            let hint = format!("wait for that to end; findmnt -A -t zfs; cowsnap holds {}", quoted(name));
            return self.in_place().refused("roll back", why.into(), Some(hint));
        }
        of_errno("promote", name.into(), &[(RIGHTS, above(name))], errno)
    }

    /// Completes or undoes what was broken off, by what is there. Whether anything was: nothing is if that does not fit.
    pub(super) fn settle(&self, _lock: &Locked) -> Result<bool> {
        match self.stage()? {
            None => return Ok(false),
            Some(Stage::Meant | Stage::Aside) => self.give_up()?,
            Some(Stage::Cloned) => {
                let mut done = RolledBack::default();
                if let Err(error) = self.complete(&mut done) {
                    tracing::warn!("{error}");
                    self.give_up()?;
                }
                done.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            }
            Some(Stage::Done) => props::clear(self.dataset.as_str(), INTENT)?,
        }
        // A boot in between mounted neither the one nor the other.
        mounted::mount_all_meant(&self.in_place()).map(|()| true)
    }

    /// The dataset gets its name back, unless the clone has its history by now.
    fn give_up(&self) -> Result<()> {
        let lzc = self.lzc()?;
        let (name, aside) = (self.dataset.as_str(), self.aside.as_str());
        match (lzc.exists(name), lzc.exists(aside)) {
            (true, true) if self.has_no_history_yet()? => {
                lzc.destroy(name).map_err(self.in_place().failed("take back", &[("destroy,mount", name)]))?;
                self.give_name_back()
            }
            (true, true) => Err(self.in_place().refused(
                "undo the rollback of",
                "it has its history already".into(),
                None,
            )),
            (false, true) => self.give_name_back(),
            (true, false) => {
                self.forget_kept();
                props::clear(name, INTENT)
            }
            (false, false) => Ok(()),
        }
    }

    fn give_name_back(&self) -> Result<()> {
        let old = self.set_aside();
        let (name, aside) = (self.dataset.as_str(), self.aside.as_str());
        if !old.is_volume()? {
            set_canmount(aside, self.canmount.as_deref())?;
        }
        let rights = [("rename,mount", aside), ("create,mount", above(name))];
        self.lzc()?.rename(aside, name).map_err(old.failed("give its name back to", &rights))?;
        self.forget_kept();
        take_back_in(&self.in_place())?;
        props::clear(name, INTENT)
    }

    /// Destroys the snapshot of a content that was not replaced after all, and no other of that name; nor one whose
    /// content was written to since, whatever is said of it.
    fn forget_kept(&self) {
        let kept = format!("{}@{}", self.dataset, self.keep);
        let Ok(lzc) = lzc(&kept) else { return };
        let is_ours =
            || matches!(props::set_here(&kept, KEPT), Ok(Some(aside)) if aside == self.aside.as_str());
        let is_unchanged =
            || matches!(self.in_place().get(&format!("written@{}", self.keep)).as_deref(), Ok("0"));
        if lzc.exists(&kept)
            && is_ours()
            && is_unchanged()
            && let Err(failed) = lzc.destroy_snapshots(&[kept], false)
        {
            tracing::warn!("{failed}");
        }
    }
}

/// Whether rights were granted on the dataset itself.
fn has_delegated(name: &str) -> bool {
    let shown = program::zfs(&["allow", name]).unwrap_or_default();
    let heading = format!("---- Permissions on {name} -");
    String::from_utf8_lossy(&shown).lines().any(|line| line.starts_with(&heading))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent() -> Intent {
        Intent {
            dataset: "tank/u".parse().expect("a name"),
            guid: Guid::of_zfs(7),
            aside: "tank/u.before-then".parse().expect("a name"),
            to: VersionRef { guid: Guid::of_zfs(8), name: "s".parse().expect("a name") },
            keep: "kept".parse().expect("a name"),
            canmount: None,
        }
    }

    fn seen(guid: u64, origin: &str, says: Option<&Intent>) -> Seen {
        Seen { guid: Guid::of_zfs(guid), origin: origin.into(), says: says.map(Intent::to_text) }
    }

    #[test]
    fn a_text_that_names_what_cowsnap_would_not_make_is_not_believed() {
        let sound = intent();
        assert_eq!(Intent::read(&sound.to_text()), Some(sound.clone()));
        for aside in
            ["tank/victim", "tank/u", "tank/u.before-x/y", "tank/victim.before-x", "tank/u.conflict-x"]
        {
            let forged = Intent { aside: aside.parse().expect("a name"), ..sound.clone() };
            assert_eq!(Intent::read(&forged.to_text()), None, "{aside}");
        }
        assert_eq!(Intent::read("foreign words"), None);
    }

    #[test]
    fn each_step_of_a_rollback_is_known_by_what_is_there() {
        let (intent, clone, promoted) = (intent(), "tank/u.before-then@s", "tank/u@s");
        let old = seen(7, "-", Some(&intent));
        assert_eq!(intent.stage_of(Some(&old), None), Some(Stage::Meant));
        assert_eq!(intent.stage_of(None, Some(&old)), Some(Stage::Aside));
        for says in [None, Some(&intent)] {
            assert_eq!(intent.stage_of(Some(&seen(9, clone, says)), Some(&old)), Some(Stage::Cloned));
        }
        let new = seen(9, "-", Some(&intent));
        assert_eq!(intent.stage_of(Some(&new), Some(&seen(7, promoted, Some(&intent)))), Some(Stage::Cloned));
        assert_eq!(intent.stage_of(Some(&new), Some(&seen(7, promoted, None))), Some(Stage::Done));
    }

    #[test]
    fn what_is_said_on_one_dataset_alone_or_of_another_is_not_acted_on() {
        let (intent, clone) = (intent(), "tank/u.before-then@s");
        let other = Intent { canmount: Some("on".into()), ..intent.clone() };
        let (none, old) = (seen(7, "-", None), seen(7, "-", Some(&intent)));
        let of_another = seen(6, "-", Some(&intent));
        assert_eq!(intent.stage_of(Some(&of_another), None), None);
        assert_eq!(intent.stage_of(None, Some(&of_another)), None);
        assert_eq!(intent.stage_of(None, Some(&none)), None);
        for (new, old) in [
            (seen(9, "-", Some(&intent)), none.clone()),
            (seen(9, clone, Some(&intent)), none),
            (seen(9, "-", Some(&intent)), old.clone()),
            (seen(9, "-", None), old.clone()),
            (seen(9, clone, Some(&other)), old),
            (seen(9, clone, Some(&intent)), of_another),
        ] {
            assert_eq!(intent.stage_of(Some(&new), Some(&old)), None, "{new:?} {old:?}");
        }
    }
}
