//! Rollbacks that were broken off: found, and completed or undone by whoever comes next.

use std::time::Duration;

use crate::endpoint::Result;
use crate::endpoint::zfs::aside::{INTENT, Intent};
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::error::above;
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

    /// Completes or undoes it. Whether anything was changed; nothing is while a living process is doing it.
    ///
    /// # Errors
    /// A step that fails.
    pub fn settle(&self) -> Result<bool> {
        match try_lock(Work::Rollback, self.intent.dataset.as_str())? {
            Some(lock) => self.intent.settle(&lock).map(|()| true),
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

/// Completes or undoes what was broken off of a dataset that is there, if what was written down on it or on the dataset that
/// it is a clone of says so. Whether anything was changed.
pub(super) fn settle(dataset: &Dataset, origin: Option<&str>) -> Result<bool> {
    let name = dataset.name();
    let written = props::local(name.as_str(), INTENT)?;
    let mut intent = written.and_then(|text| serde_json::from_str::<Intent>(&text).ok());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VersionRef;

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
