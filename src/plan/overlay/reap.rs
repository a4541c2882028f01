//! What may be reaped: overlays whose owner is gone, and what killed commands left. Never anybody else's.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::model::overlay::{MountSource, OverlayName, Owner, Record, State};

/// Where and when it is looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// This start of the machine.
    pub boot: String,
    /// What process ids mean here.
    pub namespace: u64,
    /// The pid namespaces in which there are processes, if all processes of the machine are to be seen from here.
    pub namespaces: Option<BTreeSet<u64>>,
}

/// What was seen of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What it is called.
    pub name: OverlayName,
    /// Whether somebody is changing it.
    pub locked: bool,
    /// What is written down of it.
    pub record: Written,
    /// When the process that has the owner's id here started; `None` if there is none.
    pub started: Option<u64>,
}

/// What is written down of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Nothing: its maker was killed at once.
    Nothing,
    /// Something that can not be read, and why.
    Unreadable(String),
    /// This.
    Record(Box<Record>),
}

/// Whether an overlay is reaped, with the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep(Kept),
    /// It goes.
    Reap(Reaped),
}

/// Why an overlay stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Somebody is changing it.
    InUse,
    /// Its owner is there.
    OwnerAlive,
    /// It has no owner: it is kept until it is destroyed.
    Ownerless,
    /// Its owner's process id means another process here, and whether that one is there is not to be seen.
    OwnerElsewhere,
    /// Its record can not be read.
    Unreadable,
}

/// Why an overlay goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    /// No such process is there.
    OwnerGone,
    /// Nobody is left of the pid namespace that its owner was in.
    NamespaceGone,
    /// Its owner was in another pid namespace, nothing shows it any more, and somebody makes another one of its name.
    ShownNowhere,
    /// Its owner's id was given to another process.
    OwnerReplaced,
    /// The machine was started again since.
    OtherBoot,
    /// Whoever made it was killed before it was there.
    HalfMade,
    /// Whoever destroyed it was killed before it was gone.
    HalfDestroyed,
}

impl Kept {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InUse => "somebody is changing it",
            Self::OwnerAlive => "its owner is there",
            Self::Ownerless => "it is kept until it is destroyed",
            Self::OwnerElsewhere => {
                "its owner is in another pid namespace, which is not to be seen from here"
            }
            Self::Unreadable => "its record can not be read",
        }
    }
}

impl Reaped {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OwnerGone => "its owner is gone",
            Self::NamespaceGone => "its owner is gone, with all of its pid namespace",
            Self::ShownNowhere => "its owner was in another pid namespace, and nothing shows it any more",
            Self::OwnerReplaced => "its owner is gone, and another process has its id",
            Self::OtherBoot => "the machine was started again since",
            Self::HalfMade => "its maker was killed",
            Self::HalfDestroyed => "its destroyer was killed",
        }
    }
}

/// Whether the overlay goes.
pub fn verdict(seen: &Seen, here: &Here) -> Verdict {
    if seen.locked {
        return Verdict::Keep(Kept::InUse);
    }
    let record = match &seen.record {
        Written::Nothing => return Verdict::Reap(Reaped::HalfMade),
        Written::Unreadable(_) => return Verdict::Keep(Kept::Unreadable),
        Written::Record(record) => record,
    };
    match record.state {
        State::Making => Verdict::Reap(Reaped::HalfMade),
        State::Destroying => Verdict::Reap(Reaped::HalfDestroyed),
        State::Ready => match &record.owner {
            None => Verdict::Keep(Kept::Ownerless),
            Some(owner) => of_owner(owner, seen.started, here),
        },
    }
}

fn of_owner(owner: &Owner, started: Option<u64>, here: &Here) -> Verdict {
    if owner.boot != here.boot {
        return Verdict::Reap(Reaped::OtherBoot);
    }
    if owner.namespace != here.namespace {
        return match &here.namespaces {
            Some(there) if !there.contains(&owner.namespace) => Verdict::Reap(Reaped::NamespaceGone),
            _ => Verdict::Keep(Kept::OwnerElsewhere),
        };
    }
    match started {
        None => Verdict::Reap(Reaped::OwnerGone),
        // Where a time namespace is taken into account, a tick may be lost.
        Some(start) if start.abs_diff(owner.start) > 1 => Verdict::Reap(Reaped::OwnerReplaced),
        Some(_) => Verdict::Keep(Kept::OwnerAlive),
    }
}

/// A mount of this home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Whose it says it is.
    pub source: MountSource,
    /// Where.
    pub dir: PathBuf,
}

/// The mounts that belong to no overlay: of a name that there is none of, or of a copy that it does not have. `overlays` are all
/// that there are, with their records; one without is left alone. Where a mount is makes no difference: somebody may have bound a
/// tree to another place, or the kernel carried it along to where the place shows a second time.
pub fn stray<'a>(mounts: &'a [Mounted], overlays: &[(OverlayName, Option<Record>)]) -> Vec<&'a Mounted> {
    let belongs = |mounted: &&Mounted| {
        let found = overlays.iter().find(|(name, _)| *name == mounted.source.name);
        let has = |record: &Record| record.copy(mounted.source.copy).is_some();
        found.is_some_and(|(_, record)| record.as_ref().is_none_or(has))
    };
    mounts.iter().filter(|mounted| !belongs(mounted)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: &str, owner: &str) -> Record {
        let text = format!(
            r#"{{"format":1,"name":"ci","mode":"kernel","why":[],"uid":0,
            "base":{{"kind":"dir","path":"/","identity":"x"}},"layers":[],"copies":[{{"number":1,"at":"/m","generation":1}}],
            "owner":{owner},"options":{{"volatile":true,"xattrs":"user"}},"created":"2026-11-21T08:00:00Z","state":"{state}"}}"#
        );
        serde_json::from_str(&text).expect("a record")
    }

    const OWNER: &str = r#"{"pid":7,"start":100,"boot":"b","namespace":1}"#;

    fn seen(record: Written, started: Option<u64>) -> Seen {
        Seen { name: "ci".parse().expect("a name"), locked: false, record, started }
    }

    fn written(state: &str, owner: &str) -> Written {
        Written::Record(Box::new(record(state, owner)))
    }

    #[test]
    fn only_what_has_lost_its_owner_or_its_maker_goes() {
        use Verdict::{Keep, Reap};
        let here = |boot: &str, namespace| Here { boot: boot.into(), namespace, namespaces: None };
        let seeing =
            |there: &[u64]| Here { namespaces: Some(there.iter().copied().collect()), ..here("b", 2) };
        let table = [
            (seen(written("ready", OWNER), Some(100)), here("b", 1), Keep(Kept::OwnerAlive)),
            (seen(written("ready", OWNER), None), here("b", 1), Reap(Reaped::OwnerGone)),
            (seen(written("ready", OWNER), Some(102)), here("b", 1), Reap(Reaped::OwnerReplaced)),
            (seen(written("ready", OWNER), Some(101)), here("b", 1), Keep(Kept::OwnerAlive)),
            (seen(written("ready", OWNER), Some(100)), here("c", 1), Reap(Reaped::OtherBoot)),
            (seen(written("ready", OWNER), None), here("b", 2), Keep(Kept::OwnerElsewhere)),
            (seen(written("ready", OWNER), None), seeing(&[1, 2]), Keep(Kept::OwnerElsewhere)),
            (seen(written("ready", OWNER), Some(100)), seeing(&[2]), Reap(Reaped::NamespaceGone)),
            (seen(written("ready", "null"), None), here("c", 2), Keep(Kept::Ownerless)),
            (seen(written("making", OWNER), Some(100)), here("b", 1), Reap(Reaped::HalfMade)),
            (seen(written("destroying", "null"), None), here("b", 1), Reap(Reaped::HalfDestroyed)),
            (seen(Written::Nothing, None), here("b", 1), Reap(Reaped::HalfMade)),
            (seen(Written::Unreadable("x".into()), None), here("b", 1), Keep(Kept::Unreadable)),
        ];
        for (seen, here, wanted) in table {
            assert_eq!(verdict(&seen, &here), wanted, "{seen:?}");
            let locked = Seen { locked: true, ..seen };
            assert_eq!(verdict(&locked, &here), Keep(Kept::InUse), "whoever changes it is left alone");
        }
    }

    #[test]
    fn every_reason_says_of_whom_it_speaks() {
        let kept = [Kept::InUse, Kept::OwnerAlive, Kept::Ownerless, Kept::OwnerElsewhere, Kept::Unreadable];
        let words = [
            "somebody is changing it",
            "its owner is there",
            "it is kept until it is destroyed",
            "its owner is in another pid namespace, which is not to be seen from here",
            "its record can not be read",
        ];
        assert_eq!(kept.map(Kept::as_str), words);
        let reaped = [
            Reaped::OwnerGone,
            Reaped::NamespaceGone,
            Reaped::ShownNowhere,
            Reaped::OwnerReplaced,
            Reaped::OtherBoot,
            Reaped::HalfMade,
            Reaped::HalfDestroyed,
        ];
        let words = [
            "its owner is gone",
            "its owner is gone, with all of its pid namespace",
            "its owner was in another pid namespace, and nothing shows it any more",
            "its owner is gone, and another process has its id",
            "the machine was started again since",
            "its maker was killed",
            "its destroyer was killed",
        ];
        assert_eq!(reaped.map(Reaped::as_str), words);
    }

    #[test]
    fn a_mount_is_stray_if_no_overlay_has_it() {
        let mounted = |source: &str, dir: &str| Mounted {
            source: MountSource::parse(source).expect("a source"),
            dir: dir.into(),
        };
        let mounts = [
            mounted("cowsnap:h:ci/1/3", "/m"),
            mounted("cowsnap:h:ci/1/4", "/m"),
            mounted("cowsnap:h:ci/2/1", "/m"),
            mounted("cowsnap:h:ci/1/1", "/elsewhere"),
            mounted("cowsnap:h:gone/1/1", "/g"),
            mounted("cowsnap:h:unreadable/1/1", "/u"),
        ];
        let overlays = [
            ("ci".parse().expect("a name"), Some(record("ready", "null"))),
            ("unreadable".parse().expect("a name"), None),
        ];
        let stray: Vec<_> = stray(&mounts, &overlays).iter().map(|m| m.dir.display().to_string()).collect();
        assert_eq!(stray, ["/m", "/g"]);
        assert_eq!(super::stray(&mounts, &overlays)[0].source.copy, 2);
    }
}
