//! Which versions rules count: those whose manifest is what its key promises.
//!
//! Who can only put objects can put keys that look like versions. If they counted, real ones would go for them.

use std::collections::{BTreeMap, BTreeSet};

use crate::Result;
use crate::endpoint::archive::{Archive, Error};
use crate::endpoint::store;
use crate::model::archive::Stored;

/// How many manifests are read at once.
const AT_ONCE: usize = 8;
/// How much memory they may take together: where they are long, fewer are read at once.
const MEMORY: u64 = 96 << 20;
/// How much a part takes of it, in bytes: its line, and what is read of that.
const A_PART: u64 = 128;

/// What is known of manifests; by their keys.
#[derive(Debug, Default)]
pub struct Checked {
    sound: BTreeSet<String>,
    /// Those that count for nothing, and why.
    wrong: BTreeMap<String, String>,
}

impl Checked {
    /// These count for nothing, whatever they say: they are said to be made after they were put.
    pub(super) fn pass_over(&mut self, ahead: &[Stored]) {
        let why = "it is said to be made more than a day after it was put";
        self.wrong.extend(ahead.iter().map(|stored| (stored.to_string(), why.into())));
    }

    /// Why this one does not count, if it does not.
    pub(super) fn why(&self, stored: &Stored) -> Option<&str> {
        self.wrong.get(&stored.to_string()).map(String::as_str)
    }

    /// Reads the manifests of those that were not read yet. Whether one of them is not what it should be.
    ///
    /// # Errors
    /// What the store says.
    pub(super) fn look(&mut self, archive: &Archive, counted: &[Stored]) -> Result<bool> {
        let unread: Vec<&Stored> =
            counted.iter().filter(|stored| !self.sound.contains(&stored.to_string())).collect();
        let read = |some: &[&Stored]| -> Result<Vec<(String, Option<String>)>> {
            some.iter().map(|stored| Ok((stored.to_string(), flaw(archive, stored)?))).collect()
        };
        let largest = unread.iter().map(|stored| stored.parts()).max().unwrap_or(0);
        let at_once = (MEMORY / (largest * A_PART).max(1)).clamp(1, AT_ONCE as u64) as usize;
        let share = unread.len().div_ceil(at_once).max(1);
        let read: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = unread.chunks(share).map(|some| scope.spawn(move || read(some))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a store's calls do not panic")).collect()
        });
        let mut found = false;
        for some in read {
            for (key, flaw) in some? {
                match flaw {
                    None => drop(self.sound.insert(key)),
                    Some(why) => {
                        found = true;
                        self.wrong.insert(key, why);
                    }
                }
            }
        }
        Ok(found)
    }
}

/// What is wrong with a manifest.
fn flaw(archive: &Archive, stored: &Stored) -> Result<Option<String>> {
    match archive.manifest(stored) {
        Ok(_) => Ok(None),
        Err(Error::Manifest { source, .. }) => Ok(Some(format!("its manifest can not be used: {source}"))),
        Err(Error::Object { what, .. }) => Ok(Some(format!("its manifest {what}"))),
        Err(Error::Store(store::Error::TooLong { .. })) => Ok(Some("its manifest is too long".into())),
        Err(error) => Err(error.into()),
    }
}
