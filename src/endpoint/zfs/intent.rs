//! What is written down of work in hand, as far as it can be believed.
//!
//! Whoever may set properties of one dataset can write anything there. So what is found is acted on only if it is set on
//! the datasets themselves, names only what cowsnap itself would make, the dataset that goes aside is the one that was
//! meant, by its guid, and what is there fits it. What does not hold is told, and left alone.

use serde::de::DeserializeOwned;

use crate::endpoint::Result;
use crate::endpoint::zfs::error::lzc;
use crate::endpoint::zfs::{list, program, props};
use crate::model::{DatasetName, Guid};

/// A property that says what is going on, and is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strange {
    /// The dataset that it is set on.
    pub dataset: String,
    /// The property's name.
    pub property: &'static str,
}

/// A dataset as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) guid: Guid,
    /// `-` if it is no clone.
    pub(super) origin: String,
    /// What the property that was asked for is set to on it.
    pub(super) says: Option<String>,
}

impl Seen {
    /// Looks at the dataset `name` and its `property`; `None` if there is none.
    ///
    /// # Errors
    /// A property that can not be read.
    pub(super) fn of(name: &str, property: &str) -> Result<Option<Self>> {
        let lzc = lzc(name)?;
        let look = || {
            let (guid, origin) = (guid_of(name)?, get(name, "origin")?);
            Ok(Self { guid, origin, says: props::set_here(name, property)? })
        };
        match lzc.exists(name).then(look) {
            Some(Err(_)) if !lzc.exists(name) => Ok(None), // It went, or was renamed, meanwhile.
            seen => seen.transpose(),
        }
    }

    /// Whether it says just this.
    pub(super) fn says<T: DeserializeOwned + PartialEq>(&self, what: &T) -> bool {
        self.says.as_deref().and_then(read::<T>).is_some_and(|said| said == *what)
    }
}

fn get(name: &str, property: &str) -> Result<String> {
    super::dataset::get(name, property).map_err(|failure| failure.into_error("read", name))
}

/// By what a dataset is known whatever it is called.
///
/// # Errors
/// A property that can not be read.
pub(super) fn guid_of(name: &str) -> Result<Guid> {
    Ok(Guid::of_zfs(list::number(&get(name, "guid")?)?))
}

/// The text of a property as what it says, if it says anything.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// Whether `name` is one that cowsnap makes for what stands beside `dataset` for a while: `DATASET.WORD-…`.
pub(super) fn is_beside(name: &DatasetName, dataset: &DatasetName, word: &str) -> bool {
    let rest = name.as_str().strip_prefix(dataset.as_str());
    let rest = rest.and_then(|rest| rest.strip_prefix('.')?.strip_prefix(word)?.strip_prefix('-'));
    dataset.within_pool().is_some() && rest.is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
}

/// The datasets on which `property` is set, with its value: of all that `which`, arguments of `zfs get`, names.
pub(super) fn carriers(
    property: &'static str,
    which: &[&str],
) -> Result<Vec<(String, String)>, program::Failure> {
    let (options, names): (Vec<&str>, Vec<&str>) = which.iter().partition(|word| word.starts_with('-'));
    let mut args = vec!["get", "-Hp"];
    args.extend(options);
    args.extend(["-t", "filesystem,volume", "-s", "local", "-o", "name", property]);
    args.extend(names);
    let text = program::zfs(&args)?;
    let mut found = Vec::new();
    for name in String::from_utf8_lossy(&text).lines() {
        // Each alone: a value may hold newlines, and whole lines of somebody's making.
        let value = match program::zfs(&["get", "-Hp", "-o", "value", "-s", "local", property, name]) {
            Err(_) if crate::sys::lzc::open().is_ok_and(|lzc| !lzc.exists(name)) => continue, // It went meanwhile.
            value => value?,
        };
        if !value.is_empty() {
            found.push((name.to_owned(), list::value(&value)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_cowsnap_makes_are_beside_a_dataset() {
        let is = |name: &str, of: &str| {
            is_beside(&name.parse().expect("a name"), &of.parse().expect("a name"), "before")
        };
        assert!(is("tank/a b:c.before-20261120T020000Z-2", "tank/a b:c"));
        for name in ["tank/a", "tank/victim", "tank/a.before", "tank/a.before-", "tank/a.conflict-x"] {
            assert!(
                name.ends_with('-') && name.parse::<DatasetName>().is_err() || !is(name, "tank/a"),
                "{name}"
            );
        }
        assert!(!is("tank/a.before-x/victim", "tank/a") && !is("tank/b.before-x", "tank/a"));
        assert!(!is("tank.before-x", "tank"), "that is another pool");
    }
}
