//! What is known of the parts of a stream that came before its rest.
//!
//! A receive that is broken off and had verified each byte before it was applied says so with the resume token that it
//! leaves. Whoever goes on from another token, as after a process that was killed or another program, does not know.

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::props;
use crate::endpoint::{Earlier, Result};

/// The property of a dataset: the blake3 of the resume token up to which each byte was verified.
const VERIFIED_UP_TO: &str = "cowsnap:partial";

fn digest(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

/// How what was received up to `token` was checked.
///
/// # Errors
/// A property that can not be read.
pub(super) fn before(target: &Dataset, token: &str) -> Result<Earlier> {
    let known = props::local(target.name().as_str(), VERIFIED_UP_TO)?;
    Ok(if known == Some(digest(token)) { Earlier::Verified } else { Earlier::Unknown })
}

/// Writes down that all up to `token` was verified. Where that can not be, it is not known later.
pub(super) fn were_verified(target: &Dataset, token: &str) {
    if let Err(error) = props::set(target.name().as_str(), VERIFIED_UP_TO, &digest(token)) {
        tracing::debug!("{error}");
    }
}

/// Forgets it, once the rest has come.
pub(super) fn forget(target: &Dataset) {
    if let Err(error) = props::clear(target.name().as_str(), VERIFIED_UP_TO) {
        tracing::debug!("{error}");
    }
}
