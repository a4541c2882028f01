//! What becomes of a snapshot, with the reasons.

use std::fmt;

use super::{Bucket, LabelPattern, NamePattern, Period};
use crate::model::{HoldTag, SnapshotName, Version};

/// Whether a snapshot stays, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// Which one.
    pub version: &'a Version,
    /// Why it stays; nothing if it goes.
    pub kept_by: Vec<Reason<'a>>,
    /// The rules that do not keep it, and why.
    pub missed: Vec<Missed<'a>>,
}

impl Verdict<'_> {
    /// Whether it stays.
    pub fn is_kept(&self) -> bool {
        !self.kept_by.is_empty()
    }
}

impl fmt::Display for Verdict<'_> {
    /// Its reasons, those that decide it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<_> = match self.is_kept() {
            true => self.kept_by.iter().map(ToString::to_string).collect(),
            false => self.missed.iter().map(ToString::to_string).collect(),
        };
        match reasons.is_empty() {
            true => f.write_str("no rule keeps it"),
            false => f.write_str(&reasons.join("; ")),
        }
    }
}

/// Why a snapshot stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason<'a> {
    /// It is the newest: that one always stays.
    Newest,
    /// Somebody holds it.
    Held(Vec<&'a HoldTag>),
    /// It is the newest that this dataset and each of these have in common.
    Base(&'a [String]),
    /// It is the newest that was sent by each of these tags of replication, and the bookmark that says so is not enough to come back by.
    Sent(Vec<&'a str>),
    /// These clones depend on it.
    Cloned(&'a [String]),
    /// These lie on it: it is a layer.
    Below(Vec<String>),
    /// It was made writable: what is in it now may be nowhere else.
    Writable,
    /// By its clock it is not made yet. Nobody can say how old it is.
    Future,
    /// Nobody knows yet whether it is good.
    Unconfirmed,
    /// It is younger than the least age.
    Young,
    /// It is one of the newest; the newest is the first.
    Last(usize),
    /// It is hardly older than the newest.
    Within,
    /// It is the newest in this bucket.
    Per(Bucket),
    /// It has such a label.
    Label(&'a LabelPattern),
    /// It is called so.
    Name(&'a NamePattern),
}

impl Reason<'_> {
    /// One word for it, that does not change.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Held(_) => "held",
            Self::Base(_) => "base",
            Self::Sent(_) => "sent",
            Self::Cloned(_) => "cloned",
            Self::Below(_) => "below",
            Self::Writable => "writable",
            Self::Future => "future",
            Self::Unconfirmed => "unconfirmed",
            Self::Young => "min-age",
            Self::Last(_) => "last",
            Self::Within => "within",
            Self::Per(bucket) => bucket.period().rule(),
            Self::Label(_) => "label",
            Self::Name(_) => "name",
        }
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("the newest"),
            Self::Held(tags) => write!(f, "held by {}", join(tags)),
            Self::Base(with) => write!(f, "the base with {}", join(with)),
            Self::Sent(tags) => write!(f, "the newest sent by {}", join(tags)),
            Self::Cloned(clones) => write!(f, "cloned to {}", join(clones)),
            Self::Below(users) => write!(f, "below {}", join(users)),
            Self::Writable => f.write_str("it was made writable"),
            Self::Future => f.write_str("from the future"),
            Self::Unconfirmed => f.write_str("not known to be good yet"),
            Self::Young => f.write_str("younger than min-age"),
            Self::Last(nth) => write!(f, "last {nth}"),
            Self::Within => f.write_str("within"),
            Self::Per(bucket) => write!(f, "{} {bucket}", self.rule()),
            Self::Label(label) => write!(f, "label {label}"),
            Self::Name(name) => write!(f, "name {name}"),
        }
    }
}

/// Why a rule does not keep a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed<'a> {
    /// Newer ones are as many as are to be kept.
    NotLast {
        /// As many.
        of: usize,
    },
    /// A newer one is in the same bucket.
    Outdone {
        /// Which bucket.
        bucket: Bucket,
        /// Which one.
        by: &'a SnapshotName,
    },
    /// As many buckets are newer as are to be kept.
    Beyond {
        /// How long buckets are.
        period: Period,
        /// As many.
        of: usize,
    },
    /// It is older than that.
    NotWithin,
}

impl fmt::Display for Missed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLast { of } => write!(f, "not among the last {of}"),
            Self::Outdone { bucket, by } => {
                write!(f, "@{by} is {} {bucket}", bucket.period().rule())
            }
            Self::Beyond { period, of } => write!(f, "beyond {of} {}", period.rule()),
            Self::NotWithin => f.write_str("not within"),
        }
    }
}

fn join(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
