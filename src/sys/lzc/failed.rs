//! A call that failed: which, on what, why, and what of several names each failed with.

use std::collections::BTreeMap;
use std::fmt;

use super::Errno;
use super::nvlist::Value;
use crate::error::Class;

/// The entry of an error list that says how many others did not fit.
const MORE: &str = "N_MORE_ERRORS";

/// A call of OpenZFS that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What was attempted: `snapshot`, `receive` …
    pub op: &'static str,
    /// On what: a name, or the first name and how many others.
    pub subject: String,
    /// Why. Where several names failed, why the first of them did.
    pub errno: Errno,
    /// Why each of several names failed. For [`promote`](super::Lzc::promote): the snapshot's name that is
    /// taken.
    pub per_name: BTreeMap<String, Errno>,
    /// How many names failed beside those in `per_name`: the kernel lists only so many.
    pub more: u32,
    /// What is not in `per_name` was done: the call itself succeeded. Otherwise nothing was.
    pub rest_done: bool,
}

impl Failed {
    /// The call `op` on one name answered `errno`.
    pub(super) fn new(op: &'static str, subject: impl Into<String>, errno: Errno) -> Self {
        let subject = subject.into();
        Self { op, subject, errno, per_name: BTreeMap::new(), more: 0, rest_done: false }
    }

    /// The call `op` on several names answered `rc` and a list of errors; `Ok` if that means that nothing failed.
    pub(super) fn check_list<'a>(
        op: &'static str,
        names: impl ExactSizeIterator<Item = &'a str>,
        rc: i32,
        errors: BTreeMap<String, Value>,
    ) -> Result<(), Self> {
        if rc == 0 && errors.is_empty() {
            return Ok(());
        }
        let listed = Self::listed(op, subject(names), errors);
        Err(match rc {
            0 => Self { rest_done: true, ..listed },
            rc => Self { errno: Errno::from_raw(rc), ..listed },
        })
    }

    /// The call `op` answered this list of errors, and nothing was done.
    pub(super) fn listed(op: &'static str, subject: String, errors: BTreeMap<String, Value>) -> Self {
        let (per_name, more) = read(errors);
        let first = per_name.values().next().copied().unwrap_or(Errno::Other(0));
        Self { per_name, more, ..Self::new(op, subject, first) }
    }

    /// What it means for whoever runs the program.
    pub fn class(&self) -> Class {
        self.errno.class()
    }
}

/// An error list's numbers by name, and how many more there were.
fn read(errors: BTreeMap<String, Value>) -> (BTreeMap<String, Errno>, u32) {
    let mut per_name = BTreeMap::new();
    let mut more = 0;
    for (name, value) in errors {
        match value {
            Value::Int32(n) if name == MORE => more = u32::try_from(n).unwrap_or(0),
            Value::Int32(raw) => drop(per_name.insert(name, Errno::from_raw(raw))),
            _ => drop(per_name.insert(name, Errno::Other(0))),
        }
    }
    (per_name, more)
}

/// The first of `names`, and how many others there are.
pub(super) fn subject<'a>(mut names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let others = names.len().saturating_sub(1);
    let first = names.next().unwrap_or("nothing");
    match others {
        0 => first.to_owned(),
        n => format!("{first} and {n} more"),
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.op, self.subject)?;
        for (n, (name, errno)) in self.per_name.iter().enumerate() {
            write!(f, "{} {name}: {errno}", if n == 0 { ":" } else { ";" })?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The list says it already.
        self.per_name.is_empty().then_some(&self.errno as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(&str, i32)]) -> BTreeMap<String, Value> {
        entries.iter().map(|(name, raw)| ((*name).to_owned(), Value::Int32(*raw))).collect()
    }

    fn check(rc: i32, entries: &[(&str, i32)]) -> Result<(), Failed> {
        Failed::check_list("hold", ["tank/a@x", "tank/b@x"].into_iter(), rc, list(entries))
    }

    #[test]
    fn a_list_of_errors_is_read_even_when_the_call_returns_0() {
        assert_eq!(check(0, &[]), Ok(()));
        let failed = check(0, &[("tank/b@x", libc::ENOENT)]).unwrap_err();
        assert_eq!(failed.errno, Errno::NotFound);
        assert!(failed.rest_done);
        assert_eq!(failed.to_string(), "cannot hold tank/a@x and 1 more: tank/b@x: it does not exist");
    }

    #[test]
    fn errors_that_did_not_fit_are_counted() {
        let failed = check(libc::EEXIST, &[("tank/a@x", libc::EEXIST), (MORE, 7)]).unwrap_err();
        assert_eq!((failed.per_name.len(), failed.more, failed.rest_done), (1, 7, false));
        assert!(failed.to_string().ends_with("; and 7 more"), "{failed}");
        let failed = check(0, &[(MORE, 2)]).unwrap_err();
        assert_eq!((failed.per_name.len(), failed.more), (0, 2));
    }

    #[test]
    fn a_call_that_failed_as_a_whole_has_its_reason_as_the_source() {
        let failed = check(1040, &[]).unwrap_err();
        assert_eq!(failed.to_string(), "cannot hold tank/a@x and 1 more");
        let source = std::error::Error::source(&failed).unwrap();
        assert_eq!(source.to_string(), "the stream ends too early");
    }
}
