//! Rollbacks that were broken off: found, and completed or undone by whoever comes next.

use std::time::Duration;

use crate::endpoint::Result;
use crate::endpoint::zfs::aside::{INTENT, Intent};
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::error::above;
use crate::endpoint::zfs::intent::{Seen, Strange, carriers};
use crate::endpoint::zfs::lock::{Work, is_locked, try_lock};
use crate::endpoint::zfs::{program, props};
use crate::model::DatasetName;

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

    /// Completes or undoes it. Whether anything was changed; nothing is while a living process is doing it, nor if what is
    /// there does not fit it.
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
    let mut found = Vec::new();
    for (_, intent) in everywhere(within)? {
        if let Some(intent) = intent
            && (is_locked(Work::Rollback, intent.dataset.as_str())? || intent.stage()?.is_some())
        {
            found.push(Interrupted { intent });
        }
    }
    found.sort_by(|a, b| a.intent.aside.cmp(&b.intent.aside));
    found.dedup();
    Ok(found)
}

/// What says so of a rollback, and is not one that was broken off: nobody acts on it.
///
/// # Errors
/// A listing that fails.
pub fn strange(within: Option<&str>) -> Result<Vec<Strange>> {
    let mut found = Vec::new();
    for (dataset, intent) in everywhere(within)? {
        let is_sound = match intent {
            Some(intent) => is_locked(Work::Rollback, intent.dataset.as_str())? || intent.stage()?.is_some(),
            None => false,
        };
        if !is_sound && Seen::of(&dataset, INTENT)?.is_some_and(|seen| seen.says.is_some()) {
            found.push(Strange { dataset, property: INTENT });
        }
    }
    Ok(found)
}

fn everywhere(within: Option<&str>) -> Result<Vec<(String, Option<Intent>)>> {
    let mut args = vec!["-r"];
    args.extend(within);
    intents(&args).map_err(|failure| failure.into_error("list", within.unwrap_or("ZFS")))
}

/// What is written down on datasets themselves, with the name of the dataset that it is on.
fn intents(which: &[&str]) -> Result<Vec<(String, Option<Intent>)>, program::Failure> {
    let found = carriers(INTENT, which)?;
    Ok(found.into_iter().map(|(name, value)| read(name, &value)).collect())
}

/// What a property says that is set on the dataset `name`, if it belongs there: somebody may have copied it.
fn read(name: String, value: &str) -> (String, Option<Intent>) {
    let belongs = |intent: &Intent| name == intent.dataset.as_str() || name == intent.aside.as_str();
    let intent = Intent::read(value).filter(belongs);
    (name, intent)
}

/// Completes or undoes what was broken off of a dataset that is there, if its properties or those of the dataset that it is
/// a clone of say so. Whether anything was changed.
pub(super) fn settle(dataset: &Dataset, origin: Option<&str>) -> Result<bool> {
    let name = dataset.name();
    let mut intent = props::set_here(name.as_str(), INTENT)?.and_then(|text| Intent::read(&text));
    // It died when the clone was made and its properties were not.
    if intent.is_none()
        && let Some((of, _)) = origin.and_then(|origin| origin.split_once('@'))
        && of.starts_with(&format!("{name}.before-"))
    {
        intent = props::set_here(of, INTENT)?.and_then(|text| Intent::read(&text));
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
    let mut mine = found.into_iter().filter_map(|(on, intent)| intent.filter(|it| it.aside.as_str() == on));
    let Some(intent) = mine.find(|intent| intent.dataset == *name) else { return Ok(()) };
    let interrupted = Interrupted { intent };
    for _ in 0..100 {
        let is_live = interrupted.is_live()?;
        if lzc.exists(name.as_str()) || interrupted.settle()? || !is_live {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VersionRef;

    fn intent() -> Intent {
        Intent {
            dataset: "tank/a b:c".parse().expect("a name"),
            guid: crate::model::Guid::of_zfs(6),
            aside: "tank/a b:c.before-20261120T020000Z".parse().expect("a name"),
            to: VersionRef { guid: crate::model::Guid::of_zfs(7), name: "s 1".parse().expect("a name") },
            keep: "kept".parse().expect("a name"),
            canmount: None,
        }
    }

    #[test]
    fn what_is_written_down_is_read_back_and_only_where_it_belongs() {
        let text = serde_json::to_string(&intent()).expect("json");
        assert!(!text.contains(['\t', '\n']) && text.len() < 8192);
        for name in ["tank/a b:c", "tank/a b:c.before-20261120T020000Z"] {
            assert_eq!(read(name.into(), &text), (name.into(), Some(intent())));
        }
        assert_eq!(read("tank/x".into(), &text), ("tank/x".into(), None));
        assert_eq!(read("tank/a b:c".into(), "foreign words").1, None);
    }
}
