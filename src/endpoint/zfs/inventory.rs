//! Reads all versions of a dataset in one listing.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::endpoint::Result;
use crate::endpoint::details::{Details, Usage};
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::list::{number, rows, text};
use crate::endpoint::zfs::lock::{Work, is_locked};
use crate::endpoint::zfs::{interrupted, labels, program};
use crate::model::{Caps, Guid, HoldTag, Inventory, Partial, SnapshotName, Version, VersionKind, VersionRef};
use crate::stream::zfs::resume::Token;
use crate::sys::lzc::Errno;

/// What is asked for of every version, and of the dataset itself. None of these values can hold a tab or a newline: what users
/// write themselves ([`noted`](super::noted)) is asked for apart, or it could add rows here.
const COLUMNS: &str =
    "name,type,guid,createtxg,creation,userrefs,referenced,used,clones,receive_resume_token,origin";

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
}

impl<'a> Row<'a> {
    fn of(fields: [&'a str; 11]) -> Result<Self> {
        let [name, kind, guid, createtxg, creation, userrefs, referenced, used, rest @ ..] = fields;
        let [clones, token, origin] = rest.map(text);
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
        })
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

/// All that a listing said of a dataset.
struct Listing {
    details: Vec<Listed>,
    partials: Vec<Partial>,
}

struct Listed {
    details: Details,
    userrefs: u64,
}

impl Dataset {
    fn listing(&self) -> Result<Listing> {
        self.settled()?;
        let name = self.name().as_str();
        let kinds = "filesystem,volume,snapshot,bookmark";
        let args = ["list", "-Hp", "-t", kinds, "-d", "1", "-s", "createtxg", "-o", COLUMNS, name];
        let listed = || program::zfs(&args).map_err(|failure| self.not_listed(failure));
        let text = listed()?;
        let rows = parse(&text)?;
        let own = rows.iter().find(|row| row.name == name);
        if let Some(own) = own
            && interrupted::settle(self, own.origin)?
        {
            let text = listed()?;
            return self.read(&parse(&text)?);
        }
        self.read(&rows)
    }

    fn not_listed(&self, failure: program::Failure) -> crate::endpoint::Error {
        match failure.into_error("list", self) {
            crate::endpoint::Error::NotFound { .. } => self.no_such_dataset(),
            error => error,
        }
    }

    fn read(&self, rows: &[Row<'_>]) -> Result<Listing> {
        let name = self.name().as_str();
        let own = rows.iter().find(|row| row.name == name);
        let partials = match own.and_then(|row| row.token) {
            Some(token) => vec![partial(token, is_locked(Work::Receive, name)?)],
            None => Vec::new(),
        };
        let listed = |row: &Row<'_>| {
            let version = row.version(name)?;
            let clones = row.clones.into_iter().flat_map(|clones| clones.split(','));
            let details = Details {
                version,
                labels: BTreeMap::new(),
                holds: BTreeMap::new(),
                verified: None,
                clones: clones.map(str::to_owned).collect(),
                altered: false,
                writable: false,
                usage: Some(row.usage),
            };
            Some(Listed { details, userrefs: row.userrefs })
        };
        let mut details: Vec<_> = rows.iter().filter_map(listed).collect();
        for held in details.iter_mut().filter(|listed| listed.userrefs > 0) {
            held.details.holds = self.holds_of(&held.details.version.id.name)?;
        }
        Ok(Listing { details, partials })
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
        let listing = self.listing()?;
        let versions = listing.details.iter().map(|listed| listed.details.version.clone()).collect();
        let of = |listed: &Listed| {
            let id = listed.details.version.id.clone();
            listed.details.holds.keys().map(move |tag| (id.clone(), tag.clone())).collect::<Vec<_>>()
        };
        let holds = listing.details.iter().flat_map(of).collect();
        let mut inventory = Inventory::new(self.to_string(), versions, holds);
        inventory.partials = listing.partials;
        inventory.caps = Caps { atomic_set: true, resume: true, bookmarks: true };
        Ok(inventory)
    }

    /// All that is known of every version, oldest first. `sizes` cost nothing on ZFS: exclusive is what ZFS calls used.
    ///
    /// # Errors
    /// As [`History::inventory`](crate::endpoint::History::inventory).
    pub fn details(&self, sizes: bool) -> Result<Vec<Details>> {
        let listed = self.listing()?.details;
        let mut details: Vec<_> = listed.into_iter().map(|listed| listed.details).collect();
        labels::fill(self, &mut details)?;
        for details in &mut details {
            details.usage = details.usage.filter(|_| sizes && details.version.kind == VersionKind::Snapshot);
        }
        details.sort_by_key(|d| (d.version.order, d.version.id.name.clone()));
        Ok(details)
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

fn parse(text: &[u8]) -> Result<Vec<Row<'_>>> {
    rows::<11>(text)?.into_iter().map(Row::of).collect()
}

/// What a resume token says that is not finished yet. One that can not be read is shown all the same.
fn partial(token: &str, live: bool) -> Partial {
    let read = Token::decode(token).ok();
    let name = read.as_ref().and_then(|read| read.to_name.rsplit_once('@')?.1.parse().ok());
    Partial {
        name: name.unwrap_or_else(|| "partial".parse().expect("letters are a name")),
        guid: Guid::of_zfs(read.map_or(0, |read| read.to_guid)),
        token: token.to_owned(),
        live,
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

    #[test]
    fn nothing_that_users_write_is_in_the_listing_of_versions() {
        assert!(!COLUMNS.contains(':'), "{COLUMNS}");
    }

    #[test]
    fn a_row_is_a_version_of_its_dataset_or_none() {
        let text = b"tank/a b\tfilesystem\t1\t1\t0\t-\t24576\t24576\t-\t-\t-\n\
            tank/a b@s 1\tsnapshot\t42\t7\t60\t2\t24576\t0\ttank/c\t-\t-\n\
            tank/a b#m\tbookmark\t42\t7\t60\t-\t24576\t-\t-\t-\t-\n";
        let rows = parse(text).expect("rows");
        let versions: Vec<_> =
            rows.iter().map(|row| row.version("tank/a b").map(|v| (v.kind, v.order))).collect();
        assert_eq!(versions, [None, Some((VersionKind::Snapshot, 7)), Some((VersionKind::Bookmark, 7))]);
        assert_eq!((rows[1].userrefs, rows[1].clones), (2, Some("tank/c")));
    }
}
