//! Whether a store keeps what archives need: tried out, with objects that are taken away again.

use jiff::Timestamp;

use super::{Archive, Error, GRACE, Result, claim};
use crate::endpoint::store::{Bytes, Probed, Store};
use crate::model::Guid;

/// Below which it is tried.
const PROBE: &str = "probe/";
/// The longest object that is put.
const MAX: u64 = 64;

/// Tries it out: what is put is there, listed, and gone once it was destroyed; and [`Store::probe`].
///
/// # Errors
/// [`Error::Object`] if one of these is not so; what the store says.
pub fn probe(store: &Store) -> Result<Probed> {
    let prefix = format!("{PROBE}{}/", Guid(claim::random()?));
    let key = format!("{prefix}first-!_!.!");
    let outcome = basics(store, &prefix, &key);
    store.destroy_at_last(std::slice::from_ref(&key))?;
    outcome?;
    match store.list(&prefix)?.first() {
        None => Ok(store.probe()?),
        Some(object) => Err(flaw(store, &object.key, "is still there after it was destroyed")),
    }
}

impl Archive {
    /// What was left of trying the store out, longer ago than anybody does: `now` is the store's clock.
    ///
    /// # Errors
    /// What the store says.
    pub fn left_of_probes(&self, now: Timestamp) -> Result<Vec<String>> {
        let left = self.store().list(PROBE)?.into_iter();
        Ok(left
            .filter(|object| now.duration_since(object.modified) > GRACE)
            .map(|object| object.key)
            .collect())
    }
}

fn flaw(store: &Store, key: &str, what: &'static str) -> Error {
    Error::Object { url: store.url().to_string(), key: key.into(), what }
}

/// What is put is there, and listed.
fn basics(store: &Store, prefix: &str, key: &str) -> Result<()> {
    store.put(key, Bytes::from_static(b"1"))?;
    store.put(key, Bytes::from_static(b"22"))?;
    if store.get(key, MAX)?.as_deref() != Some(b"22") {
        return Err(flaw(store, key, "is not what was put there"));
    }
    match store.list(prefix)?.iter().any(|object| object.key == key && object.len == 2) {
        true => Ok(()),
        false => Err(flaw(store, key, "is there and not listed")),
    }
}
