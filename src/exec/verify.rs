//! Proves that one place holds of a dataset what another holds: by the digests that both wrote down, and by reading both.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::endpoint::content::{self, Content, Difference, Reading, Summary};
use crate::endpoint::{self, Dataset};
use crate::exec::cursor::{cursor, former};
use crate::exec::transfer::Place;
use crate::exec::{Event, Observe};
use crate::model::{Guid, Recorded, SnapshotName, VersionRef, quoted};
use crate::plan::verify::{Digests, Pair, Side, Wanted, compare};
use crate::{Class, Error, Result};

/// What is to be proven, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Of the source's snapshot of that name alone; else of each that both have.
    pub name: Option<SnapshotName>,
    /// Compare what is in them, too.
    pub content: bool,
    /// Read all of it, whatever was read before.
    pub read_all: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Of what.
    pub source: String,
    /// Against what.
    pub target: String,
    /// Each snapshot that was looked at, in the order of the source's.
    pub snapshots: Vec<Checked>,
    /// Snapshots that only the source has: there is nothing to compare them with.
    pub only_source: Vec<SnapshotName>,
    /// Snapshots that only the target has.
    pub only_target: Vec<SnapshotName>,
    /// Snapshots that only the target has, and that were made writable there: each may have been one that the source has.
    pub altered_target: Vec<SnapshotName>,
    /// Whether contents were compared, and not recorded digests alone.
    pub content_compared: bool,
}

/// Whether the two are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// That they are is proven.
    Same,
    /// They are not.
    Different,
    /// Nothing says that they are not, and it is not proven either.
    Unproven,
}

/// What came of one snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checked {
    /// How the source calls it.
    pub snapshot: SnapshotName,
    /// How the target calls it.
    pub target_snapshot: SnapshotName,
    /// What it is.
    pub guid: Guid,
    /// All in all.
    pub outcome: Outcome,
    /// What the recorded digests say.
    #[serde(flatten)]
    pub digests: Digests,
    /// What reading both says; `None` if that was not asked for.
    pub content: Option<Contents>,
}

/// What reading both sides says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contents {
    /// Both hold the same, file by file.
    Same {
        /// How that of the source is known.
        source: Summary,
        /// How that of the target is known.
        target: Summary,
    },
    /// They differ.
    Different {
        /// How that of the source is known.
        source: Summary,
        /// How that of the target is known.
        target: Summary,
        /// The first paths at which they do.
        differences: Vec<Difference>,
        /// Whether there are others.
        more: bool,
    },
    /// A side has bytes that can not be read as they were written.
    Damaged {
        /// Which one.
        side: Side,
        /// What it says.
        why: String,
    },
    /// A side can not tell.
    Unknown {
        /// Which one.
        side: Side,
        /// Why not.
        why: String,
    },
}

/// Compares the snapshots of two places.
///
/// # Errors
/// A place that can not be reached or has no such dataset; a source without the snapshot; [`endpoint::Error::Interrupted`]. What is found
/// out is no error: see [`Report::outcome`].
pub fn verify(
    from: &Place,
    to: &Place,
    request: &Request,
    state_dir: &Path,
    observe: &dyn Observe,
) -> Result<Report> {
    let (mut source, mut target) = (recorded(from)?, recorded(to)?);
    rename(&mut source, to);
    rename(&mut target, from);
    if let Some(name) = &request.name
        && !source.iter().any(|here| here.version.name == *name)
    {
        return Err(not_found(
            "snapshot",
            format!("{from}@{name}"),
            Some(format!("cowsnap list {}", quoted(from))),
        ));
    }
    let wanted = Wanted { name: request.name.clone(), there: cursor("to", to), back: cursor("to", from) };
    let compared = compare(&source, &target, &wanted);
    let sides = Sides { from, to, request, state_dir, observe };
    let mut snapshots = Vec::new();
    for pair in compared.pairs {
        let content = request.content.then(|| sides.compare(&pair)).transpose()?;
        snapshots.push(checked(pair, content));
    }
    let names = |versions: Vec<VersionRef>| versions.into_iter().map(|version| version.name).collect();
    Ok(Report {
        source: from.to_string(),
        target: to.to_string(),
        snapshots,
        only_source: names(compared.only_source),
        only_target: names(compared.only_target),
        altered_target: names(compared.strays),
        content_compared: request.content,
    })
}

/// What went to `place` as long as that was told by how it is named went there.
fn rename(recorded: &mut [Recorded], place: &Place) {
    let Some(former) = former("to", place) else { return };
    let tags = recorded.iter_mut().flat_map(|of| &mut of.sent).filter_map(|sent| sent.to.as_mut());
    tags.filter(|tag| **tag == former).for_each(|tag| *tag = cursor("to", place));
}

fn recorded(place: &Place) -> Result<Vec<Recorded>> {
    let recorded = match place {
        Place::Here(dataset) => Some(dataset.recorded()?),
        Place::There(peer) => peer.recorded()?,
    };
    recorded.ok_or_else(|| not_found("dataset", place.to_string(), None))
}

fn not_found(what: &'static str, subject: String, hint: Option<String>) -> Error {
    endpoint::Error::NotFound { what, subject, hint }.into()
}

fn checked(pair: Pair, content: Option<Contents>) -> Checked {
    let outcome = match (&pair.digests, &content) {
        (Digests::Differ { .. } | Digests::Altered { .. }, _)
        | (_, Some(Contents::Different { .. } | Contents::Damaged { .. })) => Outcome::Different,
        (_, Some(Contents::Same { .. })) | (Digests::Same { .. }, None) => Outcome::Same,
        _ => Outcome::Unproven,
    };
    let Pair { source, target, digests } = pair;
    Checked {
        snapshot: source.name,
        target_snapshot: target.name,
        guid: source.guid,
        outcome,
        digests,
        content,
    }
}

/// Both places, to read what is in a snapshot there.
struct Sides<'a> {
    from: &'a Place,
    to: &'a Place,
    request: &'a Request,
    state_dir: &'a Path,
    observe: &'a dyn Observe,
}

/// What is known of a snapshot's content at a place.
enum Known<'a> {
    Here(Content),
    There(&'a crate::endpoint::peer::Peer, VersionRef, Summary),
}

impl Known<'_> {
    fn summary(&self) -> &Summary {
        match self {
            Self::Here(content) => &content.summary,
            Self::There(_, _, summary) => summary,
        }
    }

    fn page(&self, dir: &[u8], after: Option<&[u8]>) -> endpoint::Result<content::Page> {
        match self {
            Self::Here(content) => Ok(content::page(&content.lines, dir, after)),
            Self::There(peer, version, _) => peer.entries(version, dir, after),
        }
    }
}

impl Sides<'_> {
    fn compare(&self, pair: &Pair) -> Result<Contents> {
        let subject = format!("{}@{}", self.from, pair.source.name);
        self.observe.observe(Event::Started { op: "verify", subject, total: None });
        let bytes = AtomicU64::new(0);
        let (source, target) = self.both(pair, &bytes);
        self.observe.observe(Event::Finished { bytes: bytes.into_inner() });
        let source = match source {
            Ok(known) => known,
            Err(error) => return told(Side::Source, error),
        };
        let target = match target {
            Ok(known) => known,
            Err(error) => return told(Side::Target, error),
        };
        let summaries = (source.summary().clone(), target.summary().clone());
        if summaries.0.blake3 == summaries.1.blake3 {
            return Ok(Contents::Same { source: summaries.0, target: summaries.1 });
        }
        let compared = content::compare(&mut |dir, after| source.page(dir, after), &mut |dir, after| {
            target.page(dir, after)
        });
        match compared {
            Ok((differences, more)) => {
                Ok(Contents::Different { source: summaries.0, target: summaries.1, differences, more })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Both at once where that are two machines: each has its own disks.
    fn both(
        &self,
        pair: &Pair,
        bytes: &AtomicU64,
    ) -> (endpoint::Result<Known<'_>>, endpoint::Result<Known<'_>>) {
        let source = || self.known(self.from, &pair.source, bytes);
        let target = || self.known(self.to, &pair.target, bytes);
        match (self.from, self.to) {
            (Place::Here(_), Place::Here(_)) => (source(), target()),
            _ => std::thread::scope(|scope| {
                let target = scope.spawn(target);
                let source = source();
                (source, target.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            }),
        }
    }

    fn known<'a>(
        &self,
        place: &'a Place,
        version: &VersionRef,
        bytes: &AtomicU64,
    ) -> endpoint::Result<Known<'a>> {
        match place {
            Place::There(peer) => {
                let summary = peer.manifest(version, self.request.read_all)?;
                Ok(Known::There(peer, version.clone(), summary))
            }
            Place::Here(dataset) => {
                let seen = AtomicU64::new(0);
                let told = |now: u64| {
                    let more = now.saturating_sub(seen.fetch_max(now, Ordering::Relaxed));
                    let all = bytes.fetch_add(more, Ordering::Relaxed) + more;
                    self.observe.observe(Event::Progress { bytes: all });
                    Ok(())
                };
                let reading = Reading { state_dir: self.state_dir, all: self.request.read_all, told: &told };
                reading.of(dataset, version).map(Known::Here)
            }
        }
    }
}

/// What a side's error says of its content; one that says nothing of it ends the work.
fn told(side: Side, error: endpoint::Error) -> Result<Contents> {
    let why = with_causes(&error);
    match error.class() {
        _ if matches!(error, endpoint::Error::Corrupt { what: "conversation", .. }) => Err(error.into()),
        Class::Corrupt => Ok(Contents::Damaged { side, why }),
        Class::Usage | Class::Conflict | Class::Denied => Ok(Contents::Unknown { side, why }),
        Class::Internal | Class::Unreachable | Class::Partial => Err(error.into()),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

impl Report {
    /// Whether neither side has a snapshot.
    pub fn is_empty(&self) -> bool {
        let names = [&self.only_source, &self.only_target, &self.altered_target];
        self.snapshots.is_empty() && names.iter().all(|names| names.is_empty())
    }

    /// `Ok` if all that was asked for is proven.
    ///
    /// # Errors
    /// [`endpoint::Error::Corrupt`] if something differs; [`Error::Unproven`] if nothing does and something is not proven.
    pub fn outcome(&self) -> Result<()> {
        let mut of: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for checked in &self.snapshots {
            let word = match checked.outcome {
                Outcome::Same => continue,
                Outcome::Different => "different",
                Outcome::Unproven => "unproven",
            };
            of.entry(word).or_default().push(format!("@{}", checked.snapshot));
        }
        for name in &self.altered_target {
            of.entry("different").or_default().push(format!("@{name}, which was made writable there"));
        }
        if let Some(names) = of.get("different") {
            let why = format!("{} is not what {} has: {}", self.target, self.source, names.join(", "));
            return Err(endpoint::Error::Corrupt { what: "replica", why, source: None }.into());
        }
        let hint = (!self.content_compared).then(|| {
            format!("cowsnap verify {} --against {} --content", quoted(&self.source), quoted(&self.target))
        });
        match of.get("unproven") {
            Some(names) => Err(Error::Unproven {
                what: format!(
                    "that {} has what {} has is not proven of {}",
                    self.target,
                    self.source,
                    names.join(", ")
                ),
                hint,
            }),
            None if self.snapshots.is_empty() => Err(Error::Unproven {
                what: match self.only_source.as_slice() {
                    [name] => format!("{} has no snapshot @{name} of {}", self.target, self.source),
                    _ => format!("{} and {} have no snapshot in common", self.source, self.target),
                },
                hint: Some(format!("cowsnap replicate {} {}", quoted(&self.source), quoted(&self.target))),
            }),
            None => Ok(()),
        }
    }
}

/// What a peer asked for last, so that it can ask for more of it.
#[derive(Default)]
pub struct Shelf(Option<(String, VersionRef, Content)>);

impl Shelf {
    /// Finds out what `version` of `dataset` holds, and keeps it.
    ///
    /// # Errors
    /// As [`Reading::of`].
    pub fn put(&mut self, dataset: &Dataset, version: &VersionRef, reading: &Reading<'_>) -> Result<Summary> {
        self.0 = None; // Not both in memory.
        let content = reading.of(dataset, version)?;
        let summary = content.summary.clone();
        self.0 = Some((dataset.to_string(), version.clone(), content));
        Ok(summary)
    }

    /// What of it is in `dir`, behind `after`.
    ///
    /// # Errors
    /// [`endpoint::Error::Refused`] for what was not asked for last; [`Error::Usage`] for what is no path.
    pub fn page(
        &self,
        dataset: &Dataset,
        version: &VersionRef,
        dir: &str,
        after: Option<&str>,
    ) -> Result<content::Page> {
        let bad = |why: &'static str| Error::Usage {
            what: format!("a path in a manifest is none: {why}"),
            hint: None,
        };
        let dir = content::unescaped(dir).map_err(bad)?;
        let after = after.map(content::unescaped).transpose().map_err(bad)?;
        let found = self.0.as_ref().filter(|(of, what, _)| *of == dataset.to_string() && what == version);
        let (.., content) = found.ok_or_else(|| endpoint::Error::Refused {
            op: "tell the entries of",
            subject: format!("{dataset}@{}", version.name),
            why: "its manifest was not asked for before".into(),
            hint: None,
        })?;
        Ok(content::page(&content.lines, &dir, after.as_deref()))
    }
}

/// What a dataset has written down; `None` if there is no such dataset.
///
/// # Errors
/// A place that can not be read.
pub(super) fn recorded_here(dataset: &Dataset) -> Result<Option<Vec<Recorded>>> {
    match dataset.recorded() {
        Err(endpoint::Error::NotFound { .. }) => Ok(None),
        recorded => Ok(Some(recorded?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Digest, StreamDigest};

    fn summary() -> Summary {
        Summary {
            blake3: Digest([1; 32]),
            entries: 1,
            bytes: 0,
            read_bytes: 0,
            at: jiff::Timestamp::UNIX_EPOCH,
            upon: None,
            kept: false,
            notes: Vec::new(),
        }
    }

    fn one(digests: &Digests, content: Option<Contents>) -> Checked {
        let version = VersionRef { guid: Guid([1; 16]), name: "s".parse().unwrap() };
        checked(Pair { source: version.clone(), target: version, digests: digests.clone() }, content)
    }

    fn report(snapshots: Vec<Checked>) -> Report {
        let content_compared = snapshots.iter().any(|checked| checked.content.is_some());
        let (source, target) = ("tank/a".into(), "ssh://b/c".into());
        Report {
            source,
            target,
            snapshots,
            only_source: Vec::new(),
            only_target: Vec::new(),
            altered_target: Vec::new(),
            content_compared,
        }
    }

    #[test]
    fn what_is_proven_and_what_differs_decides_the_exit_code() {
        let stream = StreamDigest { blake3: Digest([1; 32]), base: None, len: 1 };
        let same = Digests::Same { stream };
        let differ = Digests::Differ { sent: stream, received: stream };
        let altered = Digests::Altered { side: Side::Target };
        let unknown = Digests::Unknown { why: "so".into() };
        let read = || Some(Contents::Same { source: summary(), target: summary() });
        let other = || {
            Some(Contents::Different {
                source: summary(),
                target: summary(),
                differences: Vec::new(),
                more: false,
            })
        };
        let side = Side::Target;
        let damaged = || Some(Contents::Damaged { side, why: "csum".into() });
        let silent = || Some(Contents::Unknown { side, why: "no key".into() });
        let table = [
            (&same, None, 0),
            (&differ, None, 4),
            (&altered, None, 4),
            (&unknown, None, 7),
            (&same, read(), 0),
            (&unknown, read(), 0),
            (&differ, read(), 4),
            (&altered, read(), 4),
            (&same, other(), 4),
            (&unknown, other(), 4),
            (&same, damaged(), 4),
            (&same, silent(), 7),
            (&unknown, silent(), 7),
        ];
        for (digests, content, code) in table {
            let one = one(digests, content);
            let found =
                report(vec![one.clone()]).outcome().map_or_else(|error| error.class().exit_code(), |()| 0);
            assert_eq!(found, code, "{one:?}");
        }
    }

    #[test]
    fn the_worst_of_several_counts_and_nothing_at_all_is_no_proof() {
        let stream = StreamDigest { blake3: Digest([1; 32]), base: None, len: 1 };
        let (same, unknown) = (Digests::Same { stream }, Digests::Unknown { why: "so".into() });
        let differ = Digests::Differ { sent: stream, received: stream };
        let of = |all: &[&Digests]| report(all.iter().map(|digests| one(digests, None)).collect());
        assert!(of(&[&same, &same]).outcome().is_ok());
        let error = of(&[&same, &unknown]).outcome().unwrap_err();
        assert_eq!(error.class(), Class::Partial);
        assert_eq!(error.hint().unwrap(), "cowsnap verify 'tank/a' --against 'ssh://b/c' --content");
        let error = of(&[&unknown, &differ, &same]).outcome().unwrap_err();
        assert_eq!(error.class(), Class::Corrupt);
        assert_eq!(error.to_string(), "corrupt replica: ssh://b/c is not what tank/a has: @s");
        let error = of(&[]).outcome().unwrap_err();
        assert!(error.to_string().contains("no snapshot in common"), "{error}");
        let strays = Report { altered_target: vec!["x".parse().unwrap()], ..of(&[&same]) };
        let error = strays.outcome().unwrap_err();
        assert!(error.class() == Class::Corrupt && error.to_string().contains("@x, which was"), "{error}");
        let only = Report { only_source: vec!["x".parse().unwrap()], ..of(&[]) };
        assert!(only.outcome().unwrap_err().to_string().contains("has no snapshot @x"));
    }

    #[test]
    fn what_a_side_can_not_tell_is_told_from_what_is_damaged_and_from_what_ends_the_work() {
        let remote =
            |class| endpoint::Error::Remote { place: "b".into(), what: "so".into(), class, hint: None };
        let word = |error| match told(Side::Target, error) {
            Ok(Contents::Damaged { .. }) => "damaged",
            Ok(Contents::Unknown { .. }) => "unknown",
            Ok(_) => "known",
            Err(_) => "ends",
        };
        for (class, wanted) in [
            (Class::Corrupt, "damaged"),
            (Class::Usage, "unknown"),
            (Class::Denied, "unknown"),
            (Class::Conflict, "unknown"),
            (Class::Unreachable, "ends"),
            (Class::Internal, "ends"),
        ] {
            assert_eq!(word(remote(class)), wanted, "{class:?}");
        }
        let strange = endpoint::Error::Corrupt { what: "conversation", why: "x".into(), source: None };
        assert_eq!(word(strange), "ends");
        let io = std::io::Error::from_raw_os_error(libc::EIO);
        assert_eq!(word(endpoint::Error::io("read", "x")(io)), "damaged");
    }
}
