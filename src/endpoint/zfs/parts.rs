//! What is known of the parts of a stream that came before its rest.
//!
//! A receive that is broken off and had verified each byte before it was applied says so with the resume token that it
//! leaves. Whoever goes on from another token, as after a process that was killed or another program, does not know.

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::props;
use crate::endpoint::{Earlier, Result};
use crate::model::Digest;

/// The property of a dataset: the blake3 of the resume token up to which each byte was verified, and where all of them came from.
const VERIFIED_UP_TO: &str = "cowsnap:partial";

/// What is known of what came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before {
    /// How it was checked.
    pub earlier: Earlier,
    /// The place that all of it came from; `None` if that is not known.
    pub from: Option<Digest>,
}

fn digest(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

/// What the property says of `token`.
fn told(known: &str, token: &str) -> Before {
    let (verified, from) = known.split_once(' ').unwrap_or((known, ""));
    match verified == digest(token) {
        true => Before { earlier: Earlier::Verified, from: from.parse().ok() },
        false => Before { earlier: Earlier::Unknown, from: None },
    }
}

/// What is known of what was received up to `token`.
///
/// # Errors
/// A property that can not be read.
pub(super) fn before(target: &Dataset, token: &str) -> Result<Before> {
    let known = props::local(target.name().as_str(), VERIFIED_UP_TO)?;
    Ok(told(&known.unwrap_or_default(), token))
}

/// Writes down that all up to `token` was verified, and where it came from. Where that can not be, it is not known later.
pub(super) fn were_verified(target: &Dataset, token: &str, from: Option<Digest>) {
    if let Err(error) = props::set(target.name().as_str(), VERIFIED_UP_TO, &said(token, from)) {
        tracing::debug!("{error}");
    }
}

fn said(token: &str, from: Option<Digest>) -> String {
    from.map_or(digest(token), |from| format!("{} {from}", digest(token)))
}

/// Forgets it, once the rest has come.
pub(super) fn forget(target: &Dataset) {
    if let Err(error) = props::clear(target.name().as_str(), VERIFIED_UP_TO) {
        tracing::debug!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_a_token_is_known_of_that_token_alone() {
        for from in [None, Some(Digest([7; 32]))] {
            let text = said("1-abc", from);
            assert_eq!(told(&text, "1-abc"), Before { earlier: Earlier::Verified, from });
            assert_eq!(told(&text, "1-abd"), Before { earlier: Earlier::Unknown, from: None });
        }
        assert_eq!(told("", "1-abc").earlier, Earlier::Unknown);
        assert_eq!(told(&(digest("1-abc") + " no digest"), "1-abc").from, None);
    }
}
