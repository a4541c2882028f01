//! Properties of datasets: read alone, set, and carried from a dataset to the one that takes its place.

use crate::endpoint::zfs::dataset::get;
use crate::endpoint::zfs::error::not_permitted;
use crate::endpoint::zfs::{list, program};
use crate::endpoint::{Error, Result};

/// What is not carried along: it is set otherwise, moves by itself, or says what the content is.
const NOT_CARRIED: [&str; 5] = ["canmount", "mountpoint", "keylocation", "volsize", "volmode"];

/// The value that was set on `name` itself; `None` if it has its value from elsewhere.
pub(super) fn local(name: &str, property: &str) -> Result<Option<String>> {
    let text = program::zfs(&["get", "-Hp", "-o", "value", "-s", "local,received", property, name])
        .map_err(|failure| failure.into_error("read", name))?;
    Ok((!text.is_empty()).then(|| list::value(&text)))
}

/// The value that was set on `name` itself by somebody here: neither inherited nor received.
pub(super) fn set_here(name: &str, property: &str) -> Result<Option<String>> {
    let text = program::zfs(&["get", "-Hp", "-o", "value", "-s", "local", property, name])
        .map_err(|failure| failure.into_error("read", name))?;
    Ok((!text.is_empty()).then(|| list::value(&text)))
}

/// Sets a property.
pub(super) fn set(name: &str, property: &str, value: &str) -> Result<()> {
    let assignment = format!("{property}={value}");
    change(name, property, &["set", &assignment, name])
}

/// Takes away what was set on `name` itself.
pub(super) fn clear(name: &str, property: &str) -> Result<()> {
    change(name, property, &["inherit", property, name])
}

fn change(name: &str, property: &str, args: &[&str]) -> Result<()> {
    program::zfs(args).map(drop).map_err(|failure| {
        let right = if property.contains(':') { "userprop" } else { property };
        match failure.into_error("set a property of", name) {
            Error::Denied { op, subject, .. } => not_permitted(op, subject, &[(right, name)]),
            error => error,
        }
    })
}

/// Sets on `to` what was set on `from` itself. What can not be set is told: (property, why).
pub(super) fn carry(from: &str, to: &str, but: &[&str]) -> Result<Vec<(String, Error)>> {
    let args = ["get", "-Hp", "-o", "property", "-s", "local,received", "all", from];
    let text = program::zfs(&args).map_err(|failure| failure.into_error("read", from))?;
    let mut left = Vec::new();
    for [property] in list::rows::<1>(&text)? {
        if NOT_CARRIED.contains(&property) || but.contains(&property) {
            continue;
        }
        if property.starts_with('-') {
            continue; // The programs would take it for an option.
        }
        let value = get(from, property).map_err(|failure| failure.into_error("read", from))?;
        if let Err(error) = set(to, property, &value) {
            left.push((property.to_owned(), error));
        }
    }
    Ok(left)
}
