//! A dataset that was received beside another takes its place; the other is set aside under a name that says why, with all
//! that it holds but what is inside it.
//!
//! What is meant is written down as a property of the dataset that comes, before its first byte. Who finds it later, whole
//! and not in place, does the rest: what it takes the place of is lost at no instant.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::error::above;
use crate::endpoint::zfs::flags::CHAIN;
use crate::endpoint::zfs::lock::{Locked, Work, is_locked, try_lock};
use crate::endpoint::zfs::{keys, list, program, props};
use crate::endpoint::{Arrived, Error, Result};
use crate::model::DatasetName;

/// The property of a dataset that comes: whose place it is to take.
pub(super) const INTENT: &str = "cowsnap:arriving";

/// Who takes whose place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    dataset: DatasetName,
    aside: DatasetName,
    incoming: DatasetName,
}

impl Exchange {
    /// Chooses names that are free.
    ///
    /// # Errors
    /// [`Error::Refused`] for a pool, which can not be set aside, or a name that gets too long.
    pub(super) fn of(target: &Dataset) -> Result<Self> {
        if target.name().within_pool().is_none() {
            return Err(target.refused("set aside", "it is the pool itself".into(), None));
        }
        let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let free = |word: &str| -> Result<DatasetName> {
            let lzc = target.lzc()?;
            let number = |nth| if nth == 1 { String::new() } else { format!("-{nth}") };
            let mut names = (1..).map(|nth| format!("{}.{word}-{now}{}", target.name(), number(nth)));
            let name = names.find(|name| !lzc.exists(name)).expect("the numbers do not end");
            name.parse()
                .map_err(|why: crate::model::name::Error| target.refused("set aside", why.to_string(), None))
        };
        Ok(Self { dataset: target.name().clone(), aside: free("conflict")?, incoming: free("incoming")? })
    }

    /// Whose place is taken.
    pub fn dataset(&self) -> &DatasetName {
        &self.dataset
    }

    /// The name under which what was there is, or will be, set aside.
    pub fn aside(&self) -> &DatasetName {
        &self.aside
    }

    /// Does what is left to do of one that died. Whether anything was changed; nothing is while a living process receives
    /// into the dataset.
    ///
    /// # Errors
    /// A step that fails.
    pub fn settle(&self) -> Result<bool> {
        let Some(lock) = try_lock(Work::Receive, self.dataset.as_str())? else { return Ok(false) };
        self.settle_alone(&lock).map(|()| true)
    }

    fn settle_alone(&self, _lock: &Locked) -> Result<()> {
        let mut warnings = Vec::new();
        self.complete(&mut warnings)?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(())
    }

    /// What comes.
    pub(super) fn incoming(&self) -> Dataset {
        Dataset::by_name(self.incoming.clone())
    }

    /// As the value of a property.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("its keys are texts")
    }

    /// Puts what came, which is whole, in its place.
    ///
    /// # Errors
    /// A step that fails: the next receive, or whoever looks for the dataset, does the rest.
    pub(super) fn carry_out(&self, arrived: &mut Arrived) -> Result<()> {
        self.complete(&mut arrived.warnings)?;
        arrived.aside = Some(self.aside.to_string());
        Ok(())
    }

    /// What is left to do. Done again, it does what was not done.
    fn complete(&self, warnings: &mut Vec<String>) -> Result<()> {
        let (new, old) = (self.incoming(), Dataset::by_name(self.aside.clone()));
        let target = Dataset::by_name(self.dataset.clone());
        let [name, aside, incoming] = [&self.dataset, &self.aside, &self.incoming].map(DatasetName::as_str);
        let lzc = target.lzc()?;
        if lzc.exists(incoming) {
            let origin = new.get("origin")?;
            if [name, aside].iter().any(|of| origin.starts_with(&format!("{of}@"))) {
                // The older history goes along with the name.
                let rights = [("promote,mount", above(name))];
                let promote =
                    || lzc.promote(incoming).map_err(target.failed("promote what came for", &rights));
                warnings.extend(keys::kept_over(incoming, promote)?);
            }
            let rights = [("rename,mount,create", above(name))];
            if !lzc.exists(aside) {
                lzc.rename(name, aside).map_err(target.failed("set aside", &rights))?;
            }
            lzc.rename(incoming, name).map_err(target.failed("put in place what came for", &rights))?;
        }
        for inner in old.nested()? {
            let rest = inner.name().as_str().strip_prefix(aside).unwrap_or_default().to_owned();
            lzc.rename(inner.name().as_str(), &format!("{name}{rest}"))
                .map_err(inner.failed("move back", &[]))?;
        }
        for (property, why) in props::carry(aside, name, &["readonly", CHAIN, INTENT])? {
            warnings.push(format!("{property} of {name} is not what it was: {why}"));
        }
        props::clear(name, INTENT)
    }
}

/// Completes the exchange of `target` that was broken off, if there is one.
///
/// # Errors
/// A listing or a step that fails.
pub(super) fn settle(target: &Dataset, lock: &Locked) -> Result<()> {
    of(target)?.iter().try_for_each(|exchange| exchange.settle_alone(lock))
}

/// The exchanges of all pools, or below the dataset `within`, that died when what comes was whole.
///
/// # Errors
/// A listing that fails.
pub fn exchanges(within: Option<&str>) -> Result<Vec<Exchange>> {
    let mut args = vec!["-r"];
    args.extend(within);
    let all = found(&args).map_err(|failure| failure.into_error("list", within.unwrap_or("ZFS")))?;
    let mut died = Vec::new();
    for exchange in all {
        if !is_locked(Work::Receive, exchange.dataset.as_str())? && is_whole(&exchange)? {
            died.push(exchange);
        }
    }
    Ok(died)
}

/// As [`settle`], of a dataset that is not there. Waits for one that is being done.
///
/// # Errors
/// As [`settle`].
pub(super) fn settle_absent(target: &Dataset) -> Result<()> {
    let (name, lzc) = (target.name().as_str(), target.lzc()?);
    if target.name().within_pool().is_none() || !lzc.exists(above(name)) || of(target)?.is_empty() {
        return Ok(());
    }
    for _ in 0..100 {
        if let Some(lock) = try_lock(Work::Receive, name)? {
            return settle(target, &lock);
        }
        if lzc.exists(name) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The exchanges of `target` that are not done, and could be.
fn of(target: &Dataset) -> Result<Vec<Exchange>> {
    let parent = above(target.name().as_str());
    let all = found(&["-d1", parent]).map_err(|failure| failure.into_error("list", parent))?;
    let mut mine = Vec::new();
    for exchange in all.into_iter().filter(|exchange| exchange.dataset == *target.name()) {
        if is_whole(&exchange)? {
            mine.push(exchange);
        }
    }
    Ok(mine)
}

/// Whether what comes, or has come, is there with its snapshot.
fn is_whole(exchange: &Exchange) -> Result<bool> {
    let incoming = exchange.incoming();
    match incoming.is_begun() {
        Ok(begun) => Ok(!begun),
        Err(Error::NotFound { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

fn found(which: &[&str]) -> Result<Vec<Exchange>, program::Failure> {
    let mut args = vec!["get", "-Hp"];
    args.extend(which.iter().filter(|word| word.starts_with('-')));
    args.extend(["-t", "filesystem,volume", "-s", "local", "-o", "name,value", INTENT]);
    args.extend(which.iter().filter(|word| !word.starts_with('-')));
    Ok(found_in(&program::zfs(&args)?))
}

fn found_in(text: &[u8]) -> Vec<Exchange> {
    let text = String::from_utf8_lossy(text);
    let of_line = |line: &str| {
        let [row] = list::rows_with_text::<2>(line.as_bytes()).ok()?.try_into().ok()?;
        let [name, value]: [&str; 2] = row;
        let exchange: Exchange = serde_json::from_str(value).ok()?;
        // Somebody may have copied the property to where it does not belong.
        let belongs = name == exchange.incoming.as_str() || name == exchange.dataset.as_str();
        belongs.then_some(exchange)
    };
    text.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_is_read_back_from_a_listing_and_only_where_it_belongs() {
        let exchange = Exchange {
            dataset: "tank/a b:c".parse().expect("a name"),
            aside: "tank/a b:c.conflict-20261120T020000Z".parse().expect("a name"),
            incoming: "tank/a b:c.incoming-20261120T020000Z".parse().expect("a name"),
        };
        let text = exchange.to_text();
        assert!(!text.contains(['\t', '\n']) && text.len() < 8192);
        let listing =
            format!("{}\t{text}\ntank/x\t{text}\ntank/y\tforeign words\ntank\t-\n", exchange.incoming);
        assert_eq!(found_in(listing.as_bytes()), [exchange]);
    }
}
