//! Why a target can not take a stream, with what speaks for it, and what would help.

use std::fmt;

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::error::above;
use crate::endpoint::{Error, ReceiveRequest, Result};
use crate::model::{Guid, Inventory, Partial, SnapshotName, Version, VersionKind, quoted};
use crate::stream::zfs::resume::Token;
use crate::sys::lzc::{Errno, Failed};

/// What happened to a dataset since one of its snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// That snapshot.
    pub base: SnapshotName,
    /// Its newer snapshots, oldest first.
    pub newer: Vec<SnapshotName>,
    /// How many bytes were written to it; `None` if that is not known.
    pub written: Option<u64>,
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        write!(f, "@{}", self.base)?;
        let mut names: Vec<_> = self.newer.iter().take(SHOWN).map(|name| format!("@{name}")).collect();
        if self.newer.len() > SHOWN {
            names.push(format!("{} more", self.newer.len() - SHOWN));
        }
        if !names.is_empty() {
            write!(f, "; it has {}", names.join(", "))?;
        }
        match self.written {
            Some(bytes) => write!(f, "; {bytes} bytes were written to it"),
            None => Ok(()),
        }
    }
}

impl Since {
    /// Whether an increment can not follow: something was written, or it is raw and `base` is not the newest.
    pub(super) fn is_one(&self, raw: bool) -> bool {
        self.written.is_some_and(|written| written > 0) || (raw && !self.newer.is_empty())
    }
}

/// What happened to `target` since `base`.
pub(super) fn since(target: &Dataset, inventory: &Inventory, base: &Version) -> Result<Since> {
    let is_newer = |version: &&Version| version.kind == VersionKind::Snapshot && version.order > base.order;
    let newer = inventory.versions().iter().filter(is_newer).map(|version| version.id.name.clone()).collect();
    let written = target.get(&format!("written@{}", base.id.name))?.parse().ok();
    Ok(Since { base: base.id.name.clone(), newer, written })
}

/// That `target` went another way.
pub(super) fn diverged(target: &Dataset, since: Since) -> Error {
    let hint = format!(
        "cowsnap receive --keep-conflict {} sets what is there aside, with all of it, and receives in its place",
        quoted(target)
    );
    Error::Diverged { op: "receive", subject: target.to_string(), since: Box::new(since), hint: Some(hint) }
}

/// That a full stream was sent to a dataset that is there.
pub(super) fn dataset_there(target: &Dataset, inventory: &Inventory) -> Error {
    let snapshots = snapshots_of(inventory);
    let (has, from) = match (snapshots.len(), snapshots.last()) {
        (n, Some(newest)) => {
            let newest = &newest.id.name;
            let from = format!(
                "send the increment upon a snapshot that is here, --from '@{newest}' if the source has it; or "
            );
            (format!("with {n} snapshots, the newest @{newest}"), from)
        }
        _ => ("without a snapshot".into(), String::new()),
    };
    let why = format!("a full stream makes a new dataset, and this one is there {has}");
    let hint = format!("{from}cowsnap receive --keep-conflict {} sets it aside", quoted(target));
    target.refused("receive", why, Some(hint))
}

/// That the base of an increment is not here.
pub(super) fn without_base(target: &Dataset, inventory: &Inventory, base: Guid) -> Error {
    let is_marked = inventory.by_guid(base).is_some(); // as a bookmark: its content is gone
    let why = match is_marked {
        true => format!("it builds upon the snapshot {base}, of which only a bookmark is left here"),
        false => format!("it builds upon the snapshot {base}, which is not here"),
    };
    let hint = match snapshots_of(inventory).last() {
        Some(newest) => format!("send it from one that is here: --from '@{}'", newest.id.name),
        None => "send it in full, without --from".into(),
    };
    target.refused("receive", why, Some(hint))
}

/// That the snapshot from which what was sent had been cloned is nowhere in the pool.
pub(super) fn without_origin(target: &Dataset, base: Guid) -> Error {
    let why = format!("it makes a clone of the snapshot {base}, which is not in the pool {}", target.pool());
    let hint = "receive first what it was cloned from, or send it in full, without --from".to_owned();
    target.refused("receive", why, Some(hint))
}

fn snapshots_of(inventory: &Inventory) -> Vec<&Version> {
    inventory.versions().iter().filter(|version| version.kind == VersionKind::Snapshot).collect()
}

/// That something was received in part, and this is not its rest. Whoever asks has the right to receive: no cowsnap is
/// receiving it now.
pub(super) fn partial_there(target: &Dataset, partial: &Partial) -> Error {
    let name = Token::decode(&partial.token).map_or_else(|_| partial.name.to_string(), |token| token.to_name);
    let hint = format!(
        "cowsnap send --resume {} SOURCE brings the rest; cowsnap destroy {} gives it up",
        partial.token,
        quoted(format!("{target}@%partial"))
    );
    target.refused("receive", format!("{name} was received into it in part"), Some(hint))
}

/// What the kernel said to a stream, in view of what is there.
pub(super) fn said(target: &Dataset, request: &ReceiveRequest, failed: Failed) -> Error {
    match told(target, request, &failed) {
        Ok(Some(error)) => error,
        // What is there can not be read: then what the kernel said is all there is to say.
        Ok(None) | Err(_) => by_errno(target, failed),
    }
}

fn told(target: &Dataset, request: &ReceiveRequest, failed: &Failed) -> Result<Option<Error>> {
    use crate::endpoint::History;
    let wanted = matches!(
        failed.errno,
        Errno::Modified | Errno::NoBase | Errno::Exists | Errno::Busy | Errno::ResumeExists
    );
    if !wanted {
        return Ok(None);
    }
    let inventory = target.inventory()?;
    let base = request.base.unwrap_or(Guid::NIL);
    Ok(match failed.errno {
        Errno::Modified => match inventory.by_guid(base) {
            Some(base) => Some(diverged(target, since(target, &inventory, base)?)),
            None => Some(without_base(target, &inventory, base)),
        },
        Errno::NoBase => Some(without_base(target, &inventory, base)),
        Errno::Exists => match inventory.by_name(&request.name) {
            Some(_) => Some(target.taken(&request.name)),
            None => Some(dataset_there(target, &inventory)),
        },
        _ => inventory.partials.first().map(|partial| partial_there(target, partial)),
    })
}

fn by_errno(target: &Dataset, failed: Failed) -> Error {
    let (subject, why) = (target.to_string(), failed.errno.to_string());
    let refused = |why: &str, hint: &str| target.refused("receive", why.into(), Some(hint.into()));
    match failed.errno {
        Errno::NotFound => target.no_place(),
        Errno::Checksum | Errno::StreamTruncated => Error::Corrupt { what: "ZFS stream", why, source: None },
        Errno::NoAccess => Error::Denied {
            op: "receive",
            subject,
            lacking: "its encryption key is not loaded, which only a raw stream does without".into(),
            hint: Some(format!("zfs load-key {}", quoted(target.name()))),
        },
        Errno::WrongParent => refused(&why, "receive into a filesystem"),
        Errno::BaseIvsetMissing | Errno::BaseIvsetMismatch => refused(
            &why,
            "a chain is raw from its first stream to its last: send it in full, into another dataset",
        ),
        Errno::LargeBlockMismatch => refused(&why, "send it with large blocks, as the streams before it"),
        Errno::Invalid => refused(
            "the kernel can not join the stream to what is there: a raw stream and another, or embedded blocks and an \
             encrypted dataset",
            "a chain is raw from its first stream to its last; without embedded blocks it can go onto an encrypted dataset",
        ),
        _ => {
            let name = target.name().as_str();
            let rights = [("receive,mount,create,canmount,readonly,userprop", above(name))];
            target.failed("receive", &rights)(failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since(newer: usize, written: Option<u64>) -> Since {
        let newer = (1..=newer).map(|n| format!("n{n}").parse().expect("a name")).collect();
        Since { base: "s".parse().expect("a name"), newer, written }
    }

    #[test]
    fn the_evidence_is_shown() {
        let written = since(0, Some(4096)).to_string();
        assert_eq!(written, "@s; 4096 bytes were written to it");
        let both = since(7, Some(0)).to_string();
        assert_eq!(both, "@s; it has @n1, @n2, @n3, @n4, @n5, 2 more; 0 bytes were written to it");
        assert_eq!(since(1, None).to_string(), "@s; it has @n1");
        let error = diverged(&Dataset::by_name("tank/a b".parse().expect("a name")), since(1, None));
        assert_eq!(error.to_string(), "cannot receive tank/a b: it went another way since @s; it has @n1");
        assert_eq!(error.class(), crate::Class::Conflict);
        assert!(
            error.hint().is_some_and(|hint| hint.starts_with("cowsnap receive --keep-conflict 'tank/a b' "))
        );
    }

    #[test]
    fn a_raw_stream_needs_the_newest_and_another_one_an_untouched_dataset() {
        assert!(!since(0, Some(0)).is_one(true) && !since(3, Some(0)).is_one(false));
        assert!(since(1, Some(0)).is_one(true) && since(0, Some(1)).is_one(false));
    }
}
