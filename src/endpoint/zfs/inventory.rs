//! Reads all versions of a dataset, and of those inside it, in one listing.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::endpoint::details::{Details, Listing, Usage};
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::hidden::{self, Hidden};
use crate::endpoint::zfs::list::{number, rows, text};
use crate::endpoint::zfs::lock::{Work, is_locked};
use crate::endpoint::zfs::{framed, interrupted, labels, program};
use crate::endpoint::{Error, Result};
use crate::model::{Caps, Guid, HoldTag, Inventory, Partial, SnapshotName, Version, VersionKind, VersionRef};
use crate::stream::zfs::resume::Token;
use crate::sys::lzc::Errno;

/// What is asked for of every dataset and version. None of these values can hold a tab or a newline.
const COLUMNS: &str = "name,type,guid,createtxg,creation,userrefs,referenced,used,clones,receive_resume_token,origin,inconsistent";
/// What cowsnap notes, and anybody else can: asked for at the same time, if what is there allows it.
const NOTED: &str = "cowsnap:labels,cowsnap:verified,cowsnap:rollback";

/// One line of the listing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row<'a> {
    name: &'a str,
    kind: &'a str,
    guid: u64,
    createtxg: u64,
    creation: u64,
    userrefs: u64,
    usage: Usage,
    clones: Option<&'a str>,
    token: Option<&'a str>,
    origin: Option<&'a str>,
    is_begun: bool,
    /// What `NOTED` is; `None` if it was not asked for.
    noted: Option<[Option<&'a str>; 3]>,
}

impl<'a> Row<'a> {
    fn of(fields: [&'a str; 12], noted: Option<[&'a str; 3]>) -> Result<Self> {
        let [name, kind, guid, createtxg, creation, userrefs, referenced, used, rest @ ..] = fields;
        let [clones, token, origin, inconsistent] = rest.map(text);
        let or_none = |field: &str| text(field).map_or(Ok(0), number);
        let usage = Usage { referenced: or_none(referenced)?, exclusive: or_none(used)? };
        Ok(Self {
            name,
            kind,
            guid: number(guid)?,
            createtxg: number(createtxg)?,
            creation: number(creation)?,
            userrefs: or_none(userrefs)?,
            usage,
            clones: clones.filter(|clones| !clones.is_empty()),
            token,
            origin,
            is_begun: inconsistent == Some("1"),
            noted: noted.map(|noted| noted.map(text)),
        })
    }

    fn is_dataset(&self) -> bool {
        ["filesystem", "volume"].contains(&self.kind)
    }

    /// The dataset that it is, or is a version of.
    fn of_dataset(&self) -> &'a str {
        self.name.split_once(['@', '#']).map_or(self.name, |(dataset, _)| dataset)
    }

    /// It as a version of `dataset`; `None` for the dataset itself, what is inside it, and a name that cowsnap can not say.
    fn version(&self, dataset: &str) -> Option<Version> {
        let kind = match self.kind {
            "snapshot" => VersionKind::Snapshot,
            "bookmark" => VersionKind::Bookmark,
            _ => return None,
        };
        let name = self.name.strip_prefix(dataset)?.strip_prefix(['@', '#'])?.parse().ok()?;
        Some(version(kind, name, self.guid, self.createtxg, self.creation))
    }
}

/// A version of ZFS.
pub(super) fn version(
    kind: VersionKind,
    name: SnapshotName,
    guid: u64,
    createtxg: u64,
    creation: u64,
) -> Version {
    let seconds = i64::try_from(creation).unwrap_or(0);
    let created = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    Version { id: VersionRef { guid: Guid::of_zfs(guid), name }, kind, order: createtxg, created }
}

/// What was printed, which the rows are of.
#[derive(Debug, Default)]
struct Printed {
    framed: Vec<u8>,
    plain: Vec<u8>,
}

/// What was printed of one dataset.
struct Found<'a> {
    dataset: Dataset,
    own: Row<'a>,
    versions: Vec<Row<'a>>,
}

impl Dataset {
    /// The rows of it, and of every dataset inside it if they are asked for. One program is started for it, two if users' values
    /// make the one's answer doubtful.
    fn rows<'a>(&self, inside: bool, printed: &'a mut Printed) -> Result<Vec<Row<'a>>> {
        printed.framed = self.print(&framed::columns(NOTED, COLUMNS), inside)?;
        match framed::read(&printed.framed) {
            Some(records) => {
                records.into_iter().map(|record| Row::of(record.fixed, Some(record.users))).collect()
            }
            None => {
                printed.plain = self.print(COLUMNS, inside)?;
                rows(&printed.plain)?.into_iter().map(|fields| Row::of(fields, None)).collect()
            }
        }
    }

    fn print(&self, columns: &str, inside: bool) -> Result<Vec<u8>> {
        let depth: &[&str] = if inside { &["-r"] } else { &["-d", "1"] };
        let args = [
            &["list", "-Hp", "-t", "filesystem,volume,snapshot,bookmark"],
            depth,
            &["-o", columns, self.name().as_str()],
        ];
        program::zfs(&args.concat()).map_err(|failure| self.not_listed(failure))
    }

    fn not_listed(&self, failure: program::Failure) -> Error {
        match failure.into_error("list", self) {
            Error::NotFound { .. } => self.no_such_dataset(),
            error => error,
        }
    }

    /// It, and every dataset inside it if they are asked for, each behind the one that it is in.
    fn look<'a>(&self, inside: bool, printed: &'a mut Printed) -> Result<Vec<Found<'a>>> {
        let mut rows = self.rows(inside, printed)?;
        let hidden = Hidden::of(rows.iter().map(|row| row.name))?;
        // What is asked for by its name is shown.
        let own = hidden.has(self.name().as_str());
        // So is what no clone needs yet, or any more: it would be kept in the place of a snapshot of the user.
        rows.retain(|row| own || !hidden.has(row.name));
        let (datasets, versions): (Vec<_>, Vec<_>) = rows.into_iter().partition(Row::is_dataset);
        let mut found = BTreeMap::new();
        for own in datasets.into_iter().filter(|own| inside || own.name == self.name().as_str()) {
            let dataset = match own.name == self.name().as_str() {
                true => self.clone(),
                // What has a name that cowsnap can not say is not cowsnap's to work on.
                false => match own.name.parse() {
                    Ok(name) => Self::by_name(name),
                    Err(_) => continue,
                },
            };
            found.insert(path_of(own.name), Found { dataset, own, versions: Vec::new() });
        }
        for row in versions {
            if let Some(found) = found.get_mut(&path_of(row.of_dataset())) {
                found.versions.push(row);
            }
        }
        Ok(found.into_values().collect())
    }

    /// As [`Self::look`]; what was broken off of them is completed or undone first.
    fn look_settled<'a>(
        &self,
        inside: bool,
        printed: &'a mut Printed,
        again: &'a mut Printed,
    ) -> Result<Vec<Found<'a>>> {
        self.settled()?;
        let found = self.look(inside, printed)?;
        let mut has_changed = false;
        for Found { dataset, own, .. } in &found {
            if own.may_be_broken_off() {
                has_changed |= interrupted::settle(dataset, own.origin)?;
            }
        }
        if has_changed { self.look(inside, again) } else { Ok(found) }
    }

    /// Who holds the snapshot `name`, and since when; nobody, if it went meanwhile.
    ///
    /// A tag of another program's that cowsnap can not say is shown with `_` for what it can not.
    pub(super) fn holds_of(&self, name: &SnapshotName) -> Result<BTreeMap<HoldTag, Timestamp>> {
        let holds = match self.lzc()?.holds(&self.full_name(name)) {
            Ok(holds) => holds,
            Err(failed) if failed.errno == Errno::NotFound => return Ok(BTreeMap::new()),
            Err(failed) => return Err(self.failed("list the holds of", &[])(failed)),
        };
        let said = |(tag, since): (String, u64)| {
            let since = Timestamp::from_second(i64::try_from(since).unwrap_or(0));
            (sayable(&tag), since.unwrap_or(Timestamp::UNIX_EPOCH))
        };
        Ok(holds.into_iter().map(said).collect())
    }

    pub(super) fn read_inventory(&self) -> Result<Inventory> {
        let (mut printed, mut again) = Default::default();
        let found = self.look_settled(false, &mut printed, &mut again)?;
        let found = found.first().ok_or_else(|| self.no_such_dataset())?;
        let mut versions = Vec::new();
        let mut holds = Vec::new();
        for row in &found.versions {
            let Some(version) = row.version(self.name().as_str()) else { continue };
            if row.userrefs > 0 {
                let tags = self.holds_of(&version.id.name)?.into_keys();
                holds.extend(tags.map(|tag| (version.id.clone(), tag)));
            }
            versions.push(version);
        }
        let mut inventory = Inventory::new(self.to_string(), versions, holds);
        inventory.partials = found.partials()?;
        inventory.caps = Caps { atomic_set: true, resume: true, bookmarks: true, encrypted: None };
        Ok(inventory)
    }

    /// All that is known of every version, oldest first. `sizes` cost nothing on ZFS: exclusive is what ZFS calls used.
    ///
    /// # Errors
    /// As [`History::inventory`](crate::endpoint::History::inventory).
    pub fn details(&self, sizes: bool) -> Result<Vec<Details>> {
        let own = self.listings(false, sizes)?.into_iter().next();
        own.map(|own| own.details).ok_or_else(|| self.no_such_dataset())
    }

    /// All that is known of it, and of every dataset inside it if they are asked for, each behind the one that it is in. One program is
    /// started for all of it: more only if something was broken off, or somebody has set what cowsnap sets to what it would not.
    ///
    /// # Errors
    /// As [`Dataset::details`].
    pub fn listings(&self, inside: bool, sizes: bool) -> Result<Vec<Listing<Self>>> {
        let (mut printed, mut again) = Default::default();
        let found = self.look_settled(inside, &mut printed, &mut again)?;
        found.into_iter().map(|found| found.listing(sizes)).collect()
    }

    /// The receives into it that are not finished. The versions are not read for it.
    ///
    /// # Errors
    /// As [`History::inventory`](crate::endpoint::History::inventory), but that there may be nothing yet.
    pub fn partials(&self) -> Result<Vec<Partial>> {
        if !self.settled()?.exists(self.name().as_str()) {
            return Ok(Vec::new());
        }
        match self.get("receive_resume_token")?.as_str() {
            "-" => Ok(Vec::new()),
            token => Ok(vec![partial(token, is_locked(Work::Receive, self.name().as_str())?)]),
        }
    }
}

impl Row<'_> {
    /// Whether a rollback of this dataset may have been broken off.
    fn may_be_broken_off(&self) -> bool {
        let is_said = self.noted.is_none_or(|[.., rollback]| rollback.is_some());
        // It died when the clone was made and its properties were not.
        is_said || self.origin.is_some_and(|origin| origin.starts_with(&format!("{}.before-", self.name)))
    }

    /// It as it is told, without what cowsnap noted.
    fn details(&self, dataset: &Dataset, sizes: bool) -> Result<Option<Details>> {
        let Some(version) = self.version(dataset.name().as_str()) else { return Ok(None) };
        let holds = match self.userrefs {
            0 => BTreeMap::new(),
            _ => dataset.holds_of(&version.id.name)?,
        };
        let clones = self.clones.into_iter().flat_map(|clones| clones.split(','));
        Ok(Some(Details {
            usage: Some(self.usage).filter(|_| sizes && version.kind == VersionKind::Snapshot),
            version,
            labels: BTreeMap::new(),
            holds,
            verified: None,
            clones: hidden::told(clones),
            altered: false,
            was: None,
            writable: false,
        }))
    }
}

impl Found<'_> {
    fn partials(&self) -> Result<Vec<Partial>> {
        match self.own.token {
            Some(token) => {
                let live = is_locked(Work::Receive, self.own.name)?;
                // What a first stream makes is as old as its receive; of what goes on, ZFS does not say it.
                let begun = self.own.is_begun.then(|| i64::try_from(self.own.creation).ok()).flatten();
                let since = begun.and_then(|seconds| Timestamp::from_second(seconds).ok());
                Ok(vec![Partial { since, ..partial(token, live) }])
            }
            None => Ok(Vec::new()),
        }
    }

    fn listing(self, sizes: bool) -> Result<Listing<Dataset>> {
        let partials = self.partials()?;
        let mut details = Vec::new();
        for row in &self.versions {
            let Some(mut told) = row.details(&self.dataset, sizes)? else { continue };
            if let Some(shown) = self.own_notes(row) {
                labels::fill(&self.dataset, &mut told, shown);
            }
            details.push(told);
        }
        if !self.notes_are_the_snapshots_own() {
            let snapshots = details.iter_mut().filter(|told| told.version.kind == VersionKind::Snapshot);
            labels::fill_apart(&self.dataset, &mut snapshots.collect::<Vec<_>>())?;
        }
        details.sort_by_key(|d| (d.version.order, d.version.id.name.clone()));
        Ok(Listing { dataset: self.dataset, is_live: !self.own.is_begun, details, partials })
    }

    /// Whether a value that a snapshot shows is its own: it shows the dataset's, if that has one and the snapshot has none.
    fn notes_are_the_snapshots_own(&self) -> bool {
        matches!(self.own.noted, Some([None, None, _]))
    }

    /// The labels and the digest that were noted on a version itself, as far as this listing tells.
    fn own_notes<'a>(&self, row: &Row<'a>) -> Option<labels::Shown<'a>> {
        let [labels, verified, _] = row.noted?;
        self.notes_are_the_snapshots_own().then_some((labels, verified))
    }
}

/// The parts of a dataset's name: in their order each comes behind the one that it is in.
fn path_of(name: &str) -> Vec<&str> {
    name.split('/').collect()
}

/// What a resume token says that is not finished yet. One that can not be read is shown all the same.
fn partial(token: &str, live: bool) -> Partial {
    let read = Token::decode(token).ok();
    let name = read.as_ref().and_then(|read| read.to_name.rsplit_once('@')?.1.parse().ok());
    Partial {
        name: name.unwrap_or_else(|| "partial".parse().expect("letters are a name")),
        guid: Guid::of_zfs(read.as_ref().map_or(0, |read| read.to_guid)),
        token: token.to_owned(),
        live,
        since: None,
        bytes: read.map(|read| read.bytes),
        base: None,
    }
}

/// `tag`, or what is nearest to it of what cowsnap can say.
fn sayable(tag: &str) -> HoldTag {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:- ".contains(c);
    let plain =
        |tag: &str| tag.chars().map(|c| if allowed(c) { c } else { '_' }).take(200).collect::<String>();
    tag.parse().or_else(|_| plain(tag).parse()).unwrap_or_else(|_| "_".parse().expect("a tag"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::zfs::{aside, meta};

    fn printed(lines: &[(&str, &str, &str)]) -> Vec<u8> {
        let line = |(noted, fixed, again): &(&str, &str, &str)| format!("{noted}\t{fixed}\t{again}\n");
        lines.iter().map(line).collect::<String>().into_bytes()
    }

    fn parse(text: &[u8]) -> Vec<Row<'_>> {
        let records = framed::read(text).expect("records");
        records.into_iter().map(|r| Row::of(r.fixed, Some(r.users)).expect("a row")).collect()
    }

    #[test]
    fn nothing_that_users_write_is_between_the_frames() {
        assert!(!COLUMNS.contains(':'), "{COLUMNS}");
        assert_eq!(NOTED, [meta::LABELS, meta::VERIFIED, aside::INTENT].join(","));
    }

    #[test]
    fn a_row_is_a_version_of_its_dataset_or_none() {
        let text = printed(&[
            ("-\t-\t-", "tank/a b\tfilesystem\t1\t1\t0\t-\t24576\t24576\t-\t-\t-\t0", "-\t-\t-"),
            ("k=v\t-\t-", "tank/a b@s 1\tsnapshot\t42\t7\t60\t2\t24576\t0\ttank/c\t-\t-\t0", "k=v\t-\t-"),
            ("-\t-\t-", "tank/a b#m\tbookmark\t42\t7\t60\t-\t24576\t-\t-\t-\t-\t-", "-\t-\t-"),
        ]);
        let rows = parse(&text);
        let versions: Vec<_> =
            rows.iter().map(|row| row.version("tank/a b").map(|v| (v.kind, v.order))).collect();
        assert_eq!(versions, [None, Some((VersionKind::Snapshot, 7)), Some((VersionKind::Bookmark, 7))]);
        assert_eq!((rows[1].userrefs, rows[1].clones), (2, Some("tank/c")));
        assert!(rows[0].is_dataset() && rows.iter().all(|row| row.of_dataset() == "tank/a b"));
        assert_eq!(rows[1].noted, Some([Some("k=v"), None, None]));
    }

    /// What is told of a snapshot with these labels, if its dataset has those.
    fn own_labels(of_dataset: &str, of_snapshot: &str) -> Option<String> {
        let (dataset, snapshot) = (format!("{of_dataset}\t-\t-"), format!("{of_snapshot}\t-\t-"));
        let text = printed(&[
            (&dataset, "tank/a\tfilesystem\t1\t1\t0\t-\t0\t0\t-\t-\t-\t0", &dataset),
            (&snapshot, "tank/a@s\tsnapshot\t42\t7\t60\t0\t0\t0\t-\t-\t-\t0", &snapshot),
        ]);
        let mut rows = parse(&text);
        let (version, own) = (rows.remove(1), rows.remove(0));
        let found =
            Found { dataset: Dataset::by_name("tank/a".parse().expect("a name")), own, versions: Vec::new() };
        found.own_notes(&version).and_then(|(labels, _)| labels.map(str::to_owned))
    }

    #[test]
    fn what_a_snapshot_may_have_from_its_dataset_is_not_taken_for_its_own() {
        assert_eq!(own_labels("-", "k=v").as_deref(), Some("k=v"));
        assert_eq!(own_labels("-", "-"), None);
        assert_eq!(own_labels("k=v", "k=v"), None, "asked for apart");
        assert_eq!(own_labels("x", "k=v"), None, "asked for apart");
    }

    #[test]
    fn a_dataset_comes_behind_the_one_that_it_is_in() {
        let mut names = ["t/b", "t/a b", "t/a/z", "t/a-1", "t/a", "t"].map(path_of);
        names.sort();
        assert_eq!(names.map(|path| path.join("/")), ["t", "t/a", "t/a/z", "t/a b", "t/a-1", "t/b"]);
    }
}
