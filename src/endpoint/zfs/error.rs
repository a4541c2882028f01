//! What a call of ZFS failed with, in the words of every backend.

use rustix::process::geteuid;

use crate::endpoint::{Error, Result};
use crate::error::Class;
use crate::model::quoted;
use crate::sys::lzc::{self, Errno, Failed, Lzc, Unavailable};

/// The library and the module.
///
/// # Errors
/// [`Error::Denied`] with what is missing; `subject` is what was named.
pub(super) fn lzc(subject: impl ToString) -> Result<&'static Lzc> {
    lzc::open().map_err(|why| unavailable(&why, subject.to_string()))
}

fn unavailable(why: &Unavailable, subject: String) -> Error {
    let cause = match why {
        Unavailable::Module(cause) => format!(": {cause}"),
        Unavailable::Library { .. } | Unavailable::Symbol { .. } => String::new(),
    };
    Error::Denied { op: "reach", subject, lacking: format!("{why}{cause}"), hint: Some(why.hint()) }
}

/// Rights that an ordinary user needs, and on which datasets: (`destroy,mount`, `tank/a`).
pub(super) type Rights<'a> = [(&'a str, &'a str)];

/// As an error: `op` was attempted on `subject`, for which `rights` are needed.
pub(super) fn failed(
    op: &'static str,
    subject: impl ToString,
    rights: &Rights<'_>,
) -> impl Fn(Failed) -> Error {
    let subject = subject.to_string();
    move |failed| of_errno(op, subject.clone(), rights, failed.errno)
}

/// As [`failed`], of the reason alone.
pub(super) fn of_errno(op: &'static str, subject: String, rights: &Rights<'_>, errno: Errno) -> Error {
    match errno {
        Errno::NotFound => Error::NotFound { what: "dataset", subject, hint: None },
        Errno::Exists => Error::Exists { what: "dataset", subject, hint: None },
        Errno::NotPermitted => not_permitted(op, subject, rights),
        Errno::NoSpace | Errno::QuotaExceeded => Error::Refused {
            op,
            subject,
            why: errno.to_string(),
            hint: Some("zfs list -o space shows what takes it; destroy what is no longer needed".into()),
        },
        Errno::ReadOnly => Error::Denied { op, subject, lacking: errno.to_string(), hint: None },
        _ if errno.class() == Class::Conflict => {
            Error::Refused { op, subject, why: errno.to_string(), hint: None }
        }
        source => Error::Zfs { op, subject, source },
    }
}

/// That the user lacks rights.
pub(super) fn not_permitted(op: &'static str, subject: String, rights: &Rights<'_>) -> Error {
    let lacking = "the right to do so is missing".to_owned();
    let hint = match geteuid().is_root() {
        true => None,
        false => Some(allow(&user(geteuid().as_raw()), rights)),
    };
    Error::Denied { op, subject, lacking, hint }
}

/// The commands that grant `rights` to `user`.
fn allow(user: &str, rights: &Rights<'_>) -> String {
    let grant = |(rights, dataset): &(&str, &str)| format!("zfs allow {user} {rights} {}", quoted(dataset));
    rights.iter().map(grant).collect::<Vec<_>>().join("; ")
}

/// The name of a user; the number of one without a name in the local table.
fn user(id: u32) -> String {
    let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_in(&table, id).unwrap_or_else(|| id.to_string())
}

/// `root:x:0:0:root:/root:/bin/bash` (passwd(5)).
fn name_in(table: &str, id: u32) -> Option<String> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}

/// The name of the dataset above `name`; of a pool, its own.
pub(super) fn above(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(above, _)| above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_class() {
        let class = |errno| of_errno("clone", "tank/a b:c".into(), &[], errno).class();
        for (errno, wanted) in [
            (Errno::NotFound, Class::Usage),
            (Errno::Exists, Class::Conflict),
            (Errno::Busy, Class::Conflict),
            (Errno::CrossPool, Class::Conflict),
            (Errno::NoSpace, Class::Conflict),
            (Errno::NotPermitted, Class::Denied),
            (Errno::ReadOnly, Class::Denied),
            (Errno::Unsupported, Class::Denied),
            (Errno::TryAgain, Class::Unreachable),
            (Errno::Checksum, Class::Corrupt),
            (Errno::Invalid, Class::Usage),
            (Errno::Other(4711), Class::Internal),
        ] {
            assert_eq!(class(errno), wanted, "{errno:?}");
        }
    }

    #[test]
    fn the_reason_is_told_once() {
        let error = of_errno("rename", "tank/a b:c".into(), &[], Errno::Invalid);
        assert_eq!(error.to_string(), "cannot rename tank/a b:c");
        let cause = std::error::Error::source(&error).expect("a cause");
        assert_eq!(cause.to_string(), Errno::Invalid.to_string());
    }

    #[test]
    fn the_line_that_grants_the_rights_can_be_pasted() {
        let rights = [("clone", "tank/a b:c"), ("create,mount", "tank")];
        assert_eq!(
            allow("ann", &rights),
            "zfs allow ann clone 'tank/a b:c'; zfs allow ann create,mount 'tank'"
        );
    }

    #[test]
    fn a_user_is_found_by_number() {
        let table = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh\nbroken\n";
        assert_eq!(name_in(table, 1000).as_deref(), Some("ann"));
        assert_eq!(name_in(table, 0).as_deref(), Some("root"));
        assert_eq!(name_in(table, 1), None);
    }

    #[test]
    fn what_stands_above_a_dataset() {
        assert_eq!((above("tank/a b/c"), above("tank")), ("tank/a b", "tank"));
    }
}
