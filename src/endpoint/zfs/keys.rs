//! Encryption keys: whether what is to become live can be read.

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::{list, program};
use crate::endpoint::{Error, Result};
use crate::model::quoted;

impl Dataset {
    /// Says why not if it is encrypted and its key is not loaded.
    ///
    /// # Errors
    /// [`Error::Denied`] with the command that loads it.
    pub(super) fn expect_key(&self, op: &'static str) -> Result<()> {
        match locked_by(self.name().as_str())? {
            None => Ok(()),
            Some(root) => Err(Error::Denied {
                op,
                subject: self.to_string(),
                lacking: "it is encrypted, and its key is not loaded".into(),
                hint: Some(format!("zfs load-key {}", quoted(root))),
            }),
        }
    }
}

/// The dataset whose key is not loaded and would unlock `name`.
///
/// # Errors
/// A dataset that can not be read.
pub(super) fn locked_by(name: &str) -> Result<Option<String>> {
    let text = program::zfs(&["get", "-Hp", "-o", "value", "keystatus,encryptionroot", name])
        .map_err(|failure| failure.into_error("read", name))?;
    let rows = list::rows::<1>(&text)?;
    Ok(match rows.as_slice() {
        [["unavailable"], [root]] => Some((*root).to_owned()),
        _ => None,
    })
}

/// Promotes a clone as `promote` does. A clone that becomes an encryption root by it has the key, which then counts as not
/// loaded, as ZFS keeps it under the one that was the root: it is loaded anew where that needs nobody, else that is told.
///
/// # Errors
/// Those of `promote`; a dataset that can not be read.
pub(super) fn kept_over<T>(clone: &str, promote: impl FnOnce() -> Result<T>) -> Result<Option<String>> {
    let was_locked = locked_by(clone)?.is_some();
    promote()?;
    if was_locked { Ok(None) } else { loaded_anew(clone) }
}

/// Loads the key of what became an encryption root, whose key was loaded before. That it can not be is told.
///
/// # Errors
/// A dataset that can not be read.
pub(super) fn loaded_anew(promoted: &str) -> Result<Option<String>> {
    match locked_by(promoted)? {
        Some(root) if program::zfs(&["load-key", &root]).is_err() => {
            let how = quoted(&root);
            Ok(Some(format!(
                "the key of {root} counts as not loaded: zfs load-key {how} before it is mounted anew"
            )))
        }
        _ => Ok(None),
    }
}
