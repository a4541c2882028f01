//! A version brought into an archive: in full, or as what changed since the newest that both have.
//!
//! Nothing is written down here. What was broken off has left parts, and the same stream makes the same parts: those that are
//! there are not sent again. The manifest is put last, and commits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::parts::Place;
use super::unfinished::Unfinished;
use crate::endpoint::archive::{About, Archive, Claim, Error, Manifest, Stream};
use crate::endpoint::store::Put;
use crate::endpoint::{self, Dataset, History, SendRequest, zfs};
use crate::exec::send::{Form, Job, Sent, send_protected};
use crate::exec::sent::note;
use crate::exec::{Event, Observe};
use crate::model::archive::{Group, MAX_LEN, MAX_NAME, Stored};
use crate::model::run::{Chain, There};
use crate::model::{
    Digest, Guid, HoldTag, Inventory, SnapshotName, StreamDigest, Version, VersionKind, VersionRef, quoted,
};
use crate::plan::archive::{Archive as Chains, Limits, Push, Why};
use crate::stream::crypt::Recipient;
use crate::stream::sign::SigningKey;
use crate::stream::writer::{self, Protection};
use crate::sys::interrupt;
use crate::{Class, Result};

/// The most threads that compress: what each needs is counted in what a push may take of memory.
const THREADS: usize = 8;
/// How long it is waited for somebody who destroys what was left of the same version.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the tags begin with by which datasets keep what archives have of them.
pub const MARK: &str = "cowsnap:to:archive-";
const NAP: Duration = Duration::from_millis(500);
/// For how long everybody believes a claim that was put once: until then, what is built upon stays.
const YOUNG: Duration = Duration::from_secs(600);

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Which version; the newest snapshot if none is named.
    pub version: Option<SnapshotName>,
    /// When a chain ends.
    pub limits: Limits,
    /// In full, whatever there is.
    pub full: bool,
    /// Whatever is there of it: all parts are put over, and the manifest.
    pub repair: bool,
    /// What is said of it.
    pub labels: BTreeMap<String, String>,
    /// zstd's level; the default if none is said.
    pub level: Option<i32>,
    /// Who signs it.
    pub signers: Vec<SigningKey>,
    /// For whom it is encrypted; everybody can read it if there are none.
    pub recipients: Vec<Recipient>,
    /// Where the secret of an encrypted push is kept until it is done.
    pub state_dir: PathBuf,
}

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pushed {
    /// Into which archive.
    pub archive: String,
    /// Whose version.
    pub dataset: String,
    /// Its name.
    pub snapshot: SnapshotName,
    /// Its identity.
    pub guid: Guid,
    /// Whether it was there before.
    pub was_there: bool,
    /// What it builds upon there; `None` if it is full.
    pub base: Option<VersionRef>,
    /// Why it is full, if it is.
    pub full_because: Option<&'static str>,
    /// Whether the archive has no version that can be brought back.
    #[serde(skip)]
    pub is_first: bool,
    /// About how many bytes the filesystem's stream will have, before it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate_bytes: Option<u64>,
    /// What was sent.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Done>,
    /// What bringing it back from there takes now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<Chain>,
    /// Where it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub there: Option<There>,
}

/// How much was sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Done {
    /// Bytes of the filesystem's stream.
    pub stream_bytes: u64,
    /// Bytes of the container.
    pub container_bytes: u64,
    /// How many parts it has.
    pub parts: u64,
    /// How many of them were not there yet.
    pub sent_parts: u64,
    /// How many bytes these have.
    pub sent_bytes: u64,
    /// The plain blake3 of the filesystem's stream, hexadecimal.
    pub blake3: String,
    /// How long it took.
    pub seconds: f64,
}

/// Says what a push would do. Nothing is put, nothing held.
///
/// # Errors
/// As [`push`], as far as is known beforehand.
pub fn foretell(from: &Dataset, archive: &Archive, wanted: &Wanted) -> Result<Pushed> {
    let source = Source::look(from, wanted)?;
    let chains = Chains::new(archive.listing()?.stored);
    let choice = source.choose(archive, &chains, wanted, false)?;
    let mut pushed = source.pushed(archive, &choice);
    if let Choice::Send { base, .. } = &choice {
        pushed.estimate_bytes = source.estimate(base.as_ref())?;
        expect_room(from, &source.version, pushed.estimate_bytes)?;
    }
    Ok(pushed)
}

/// Brings a version into an archive. One that is there already is not an error, and nothing is sent.
///
/// # Errors
/// A version that is not there; [`endpoint::Error::Refused`] if the archive has versions, none of which is here as well, and nobody said in full; what
/// the dataset or the store says. Whatever ends it, the next push goes on with what is there.
pub fn push(from: &Dataset, archive: &Archive, wanted: &Wanted, observe: &dyn Observe) -> Result<Pushed> {
    let mut avoided = BTreeSet::new();
    let begun = Instant::now();
    loop {
        interrupt::check().map_err(|_| interrupted(from))?;
        let source = Source::look(from, wanted)?;
        let mut stored = archive.listing()?.stored;
        let there: BTreeSet<Guid> = stored.iter().map(|stored| stored.version.guid).collect();
        stored.retain(|stored| !avoided.contains(&stored.version.guid));
        let chains = Chains::new(stored);
        let choice = source.choose(archive, &chains, wanted, !avoided.is_empty())?;
        let before = chains.cost(source.version.guid);
        let Choice::Send { base, .. } = &choice else {
            source.keep(archive, there, observe);
            let guid = source.version.guid;
            let way = chains.way(guid).or_else(|| chains.ways(guid).next());
            let (restore, there) = (before.map(Chain::from), way.map(|way| there_of(archive, way)));
            return Ok(Pushed { restore, there, ..source.pushed(archive, &choice) });
        };
        if source.may_be_long() {
            expect_room(from, &source.version, source.estimate(base.as_ref())?)?;
        }
        let kept = Kept::new(&source, archive, base.as_ref())?;
        let group =
            Group { guid: source.version.guid, base: base.as_ref().map(|base| base.there.version.guid) };
        let claim = archive.claim_push(group)?;
        match obstacle(archive, &claim, group, base.as_ref())? {
            None => {
                let (done, stored) = source.send(archive, (group, base.as_ref()), &claim, wanted, observe)?;
                drop(claim);
                kept.stays();
                source.keep(archive, there, observe);
                let below = base.as_ref().and_then(|base| chains.cost(base.there.version.guid));
                let own = below.unwrap_or_default().and_of(done.container_bytes, done.parts);
                let restore = Some(before.map_or(own, |before| before.min(own)).into());
                let is_there = Some(there_of(archive, &stored));
                let pushed = source.pushed(archive, &choice);
                return Ok(Pushed { sent: Some(done), restore, there: is_there, ..pushed });
            }
            Some(Obstacle::Base(guid)) => drop(avoided.insert(guid)),
            Some(Obstacle::Parts) if begun.elapsed() < PATIENCE => std::thread::sleep(NAP),
            Some(Obstacle::Parts) => {
                let version = source.version;
                return Err(Error::Going { url: archive.url(), version }.into());
            }
        }
    }
}

/// That a manifest has room for all parts, as far as that is known before anything is sent. How much of it zstd saves is not.
fn expect_room(from: &impl Display, version: &VersionRef, estimate: Option<u64>) -> Result<()> {
    let Some(bytes) = estimate.filter(|bytes| *bytes > MAX_LEN) else { return Ok(()) };
    Err(endpoint::Error::Refused {
        op: "push",
        subject: format!("{from}@{}", version.name),
        why: format!(
            "its stream has about {} TiB, and a version in an archive has {} TiB at most",
            bytes >> 40,
            MAX_LEN >> 40
        ),
        hint: Some("split the dataset".into()),
    }
    .into())
}

/// What somebody else is destroying.
enum Obstacle {
    /// What was to be built upon.
    Base(Guid),
    /// Parts of the same version.
    Parts,
}

/// Looks, with the claim put, whether what is built upon stays.
fn obstacle(archive: &Archive, claim: &Claim, group: Group, base: Option<&Base>) -> Result<Option<Obstacle>> {
    let others = archive.claims(claim)?;
    if let Some(base) = base {
        let going = others.is_going(base.there.group());
        // Who was done before the claim was put has left no claim, and no manifest.
        if going || !archive.has(&base.there)? {
            return Ok(Some(Obstacle::Base(base.there.version.guid)));
        }
    }
    Ok(others.is_going(group).then_some(Obstacle::Parts))
}

/// What to push, as it was looked at.
struct Source<'a> {
    from: &'a Dataset,
    inventory: Inventory,
    version: VersionRef,
}

/// A version that both have.
struct Base {
    here: VersionRef,
    there: Stored,
}

enum Choice {
    There,
    Send { base: Option<Base>, why: Option<Why> },
}

impl<'a> Source<'a> {
    fn look(from: &'a Dataset, wanted: &Wanted) -> Result<Self> {
        from.backend("archive")?;
        let inventory = from.inventory()?;
        let found = match &wanted.version {
            Some(name) => inventory.by_name_and_kind(name, VersionKind::Snapshot),
            None => {
                let confirmed = |version: &&crate::model::Version| !version.id.name.is_unconfirmed();
                let mut snapshots =
                    inventory.versions().iter().rev().filter(|v| v.kind == VersionKind::Snapshot);
                snapshots.find(confirmed)
            }
        };
        let Some(version) = found.map(|version| version.id.clone()) else {
            from.expect_live()?;
            let subject = match &wanted.version {
                Some(name) => format!("{from}@{name}"),
                None => format!("of {from}"),
            };
            let hint = Some(format!("cowsnap list {}", quoted(from)));
            return Err(endpoint::Error::NotFound { what: "snapshot", subject, hint }.into());
        };
        if !Stored::has_room_for(&version.name) {
            return Err(endpoint::Error::Refused {
                op: "push",
                subject: format!("{from}@{}", version.name),
                why: format!("its name does not fit into an object's key: {MAX_NAME} bytes at most, 2 for a space or a colon"),
                hint: Some("cowsnap rename gives it a shorter one".into()),
            }
            .into());
        }
        Ok(Self { from, inventory, version })
    }

    /// How to push it. Without a base in common, in full only if that `may_be`, or somebody said so.
    fn choose(&self, archive: &Archive, chains: &Chains, wanted: &Wanted, may_be: bool) -> Result<Choice> {
        let guid = self.version.guid;
        let is_full = |way: &Stored| way.base.is_none();
        if wanted.full {
            let is_there = !wanted.repair && chains.ways(guid).any(is_full);
            return Ok(if is_there { Choice::There } else { Choice::Send { base: None, why: None } });
        }
        let of_others;
        let chains = match wanted.repair {
            false => chains,
            true => {
                let way = chains.way(guid).or_else(|| chains.ways(guid).next());
                let stored = chains.stored().iter().filter(|stored| stored.version.guid != guid);
                of_others = Chains::new(stored.cloned().collect());
                match way.map(|way| way.base) {
                    Some(None) => return Ok(Choice::Send { base: None, why: None }),
                    // The same again, if that can be.
                    Some(Some(base)) => match self.base(&of_others, base) {
                        None => &of_others,
                        base => return Ok(Choice::Send { base, why: None }),
                    },
                    None => &of_others,
                }
            }
        };
        match chains.push(&self.inventory, &self.version, wanted.limits) {
            Push::There => Ok(Choice::There),
            Push::Full(Why::NoBase) if !may_be => Err(self.no_base(archive)),
            Push::Full(why) => Ok(Choice::Send { base: None, why: Some(why) }),
            // The plan chose among what both have and can be brought back.
            Push::Increment(base) => Ok(Choice::Send { base: self.base(chains, base.guid), why: None }),
        }
    }

    /// What both have of a version that can be brought back.
    fn base(&self, chains: &Chains, guid: Guid) -> Option<Base> {
        let here = self.inventory.by_guid(guid).map(|version| version.id.clone());
        here.zip(chains.way(guid).cloned()).map(|(here, there)| Base { here, there })
    }

    fn no_base(&self, archive: &Archive) -> crate::Error {
        let command =
            format!("cowsnap archive push {}@{} {} --full", self.from, self.version.name, archive.url());
        endpoint::Error::Refused {
            op: "push",
            subject: format!("{}@{}", self.from, self.version.name),
            why: format!(
                "{} holds versions, and none that is older and still here to build upon",
                archive.url()
            ),
            hint: Some(format!("{command} sends all of it")),
        }
        .into()
    }

    fn pushed(&self, archive: &Archive, choice: &Choice) -> Pushed {
        let (base, why) = match choice {
            Choice::Send { base: Some(base), .. } => (Some(base.there.version.clone()), None),
            Choice::Send { base: None, why } => (None, Some(why.map_or("it was asked for", reason))),
            Choice::There => (None, None),
        };
        Pushed {
            archive: archive.url(),
            dataset: self.from.to_string(),
            snapshot: self.version.name.clone(),
            guid: self.version.guid,
            was_there: matches!(choice, Choice::There),
            base,
            full_because: why,
            is_first: matches!(choice, Choice::Send { why: Some(Why::First), .. }),
            estimate_bytes: None,
            sent: None,
            restore: None,
            there: None,
        }
    }

    /// Whether it is worth asking how long the stream will be, before it is sent.
    fn may_be_long(&self) -> bool {
        self.from.space().is_ok_and(|(_, all)| all > MAX_LEN / 16)
    }

    /// About how many bytes the filesystem's stream will have.
    fn estimate(&self, base: Option<&Base>) -> Result<Option<u64>> {
        Ok(self.from.estimate(&self.request(base.map(|base| &base.here)))?)
    }

    fn request(&self, base: Option<&VersionRef>) -> SendRequest {
        SendRequest {
            version: self.version.clone(),
            base: base.cloned(),
            clone_sources: Vec::new(),
            stream_version: 0,
            compressed: false,
            zfs: zfs::SendOptions::default(),
        }
    }

    /// Sends the parts, and puts the manifest.
    fn send(
        &self,
        archive: &Archive,
        (group, base): (Group, Option<&Base>),
        claim: &Claim,
        wanted: &Wanted,
        observe: &dyn Observe,
    ) -> Result<(Done, Stored)> {
        let begun = Instant::now();
        let place = match wanted.repair {
            true => Place::blind(archive, group),
            false => Place::look(archive, group)?,
        };
        let unfinished = match wanted.recipients.as_slice() {
            [] => None,
            to => Some(Unfinished::begin(&wanted.state_dir, archive, group, to)?),
        };
        let encryption = unfinished.as_ref().map(|unfinished| unfinished.encryption.clone());
        let protection = Protection { encryption, signers: wanted.signers.clone() };
        let request = self.request(base.map(|base| &base.here));
        let options = writer::Options {
            level: Some(wanted.level.unwrap_or(writer::DEFAULT_LEVEL)),
            threads: std::thread::available_parallelism().map_or(1, usize::from).min(THREADS),
        };
        let job = Job {
            inventory: &self.inventory,
            backend: self.from.backend("archive")?,
            request: &request,
            form: Form::Container(options),
            behind: None,
        };
        let (sent, mut parts) =
            place.send(|out| send_protected(self.from, &job, &protection, out, observe))?;
        let digests = (std::mem::take(&mut parts.digests), parts.last);
        let manifest = self.manifest(archive, &sent, digests, &job, wanted)?;
        // Others may have ceased to believe it, if it is not as young as when it was put: then what it builds upon may be gone.
        let base_of_old = base.filter(|_| begun.elapsed() > YOUNG);
        if let Some(base) = base_of_old.filter(|base| !archive.has(&base.there).unwrap_or(true)) {
            return Err(Error::Going { url: archive.url(), version: base.there.version.clone() }.into());
        }
        claim.check()?;
        match wanted.repair {
            true => self.commit_again(archive, &manifest, observe)?,
            false => self.commit(archive, &manifest)?,
        }
        if let Some(unfinished) = unfinished {
            unfinished.done();
        }
        self.note(archive, &sent, observe);
        let done = Done {
            stream_bytes: sent.stream_bytes,
            container_bytes: manifest.len(),
            parts: manifest.n_parts() as u64,
            sent_parts: parts.parts,
            sent_bytes: parts.bytes,
            blake3: sent.blake3,
            seconds: begun.elapsed().max(Duration::from_micros(1)).as_secs_f64(),
        };
        Ok((done, manifest.stored()))
    }

    fn commit(&self, archive: &Archive, manifest: &Manifest) -> Result<()> {
        if archive.commit(manifest)? == Put::Taken {
            // Some say so of what they do not have: a folder is missing, or something else is done there.
            if !archive.has(&manifest.stored())? {
                return Err(Error::Untold { url: archive.url(), version: self.version.clone() }.into());
            }
            tracing::info!(version = %self.version, "somebody else has put it meanwhile");
        }
        Ok(())
    }

    /// In place of what is there of the same container. Who can not destroy leaves it.
    fn commit_again(&self, archive: &Archive, manifest: &Manifest, observe: &dyn Observe) -> Result<()> {
        archive.commit_over(manifest)?;
        let own = manifest.stored();
        let before = archive.listing()?.stored.into_iter();
        let before = before.filter(|stored| stored.group() == own.group() && *stored != own);
        match archive.destroy(&before.map(|stored| stored.to_string()).collect::<Vec<_>>()) {
            Err(Error::Store(error)) if error.class() == Class::Denied => {
                let text = format!("{}: the manifest that was there before stays: {error}", self.version);
                observe.observe(Event::Warning { text });
                Ok(())
            }
            destroyed => Ok(destroyed?),
        }
    }

    fn manifest(
        &self,
        archive: &Archive,
        sent: &Sent,
        (digests, last): (Vec<Digest>, u64),
        job: &Job<'_>,
        wanted: &Wanted,
    ) -> Result<Manifest> {
        let created = self.inventory.by_guid(self.version.guid).map(|version| version.created);
        let about = About {
            backend: job.backend,
            dataset: sent.dataset.clone(),
            snapshot: self.version.name.clone(),
            guid: self.version.guid,
            base: sent.base,
            created: created.expect("it is of this inventory"),
            stream: Stream {
                length: sent.stream_bytes,
                blake3: wanted
                    .recipients
                    .is_empty()
                    .then(|| sent.blake3.parse().expect("a digest is written as one is read")),
            },
            labels: wanted.labels.clone(),
            encryption: (!wanted.recipients.is_empty()).then(|| "age".into()),
            more: serde_json::Map::new(),
        };
        let key = format!("of @{}", self.version.name);
        let manifest = Manifest::of(about, digests, last).and_then(|mut manifest| {
            wanted.signers.iter().try_for_each(|key| manifest.sign(key))?;
            Ok(manifest)
        });
        Ok(manifest.map_err(|source| Error::Manifest { url: archive.url(), key, source })?)
    }

    fn note(&self, archive: &Archive, sent: &Sent, observe: &dyn Observe) {
        if let Ok(blake3) = sent.blake3.parse() {
            let stream = StreamDigest { blake3, base: sent.base, len: sent.stream_bytes };
            note(self.from, &self.version, stream, Some(tag(archive)), observe);
        }
    }

    /// Keeps here the newest that the archive has, and lets go of those before. `there` were before this push. What is there is there: what goes wrong is
    /// said, and no more.
    fn keep(&self, archive: &Archive, there: BTreeSet<Guid>, observe: &dyn Observe) {
        if let Err(error) = self.turn(archive, there)
            && error.class() != Class::Denied
        {
            let text = format!("{}: what the next push builds upon may not be kept: {error}", self.from);
            observe.observe(Event::Warning { text });
        }
    }

    fn turn(&self, archive: &Archive, mut there: BTreeSet<Guid>) -> Result<()> {
        there.insert(self.version.guid);
        let (inventory, tag) = (self.from.inventory()?, tag(archive));
        // What was just put is there. That is not known of a newer one, which may have gone while this one was sent.
        if newest_of(&inventory, &there).is_some_and(|newest| newest.id != self.version) {
            there = archive.listing()?.stored.iter().map(|stored| stored.version.guid).collect();
        }
        let Some(newest) = newest_of(&inventory, &there) else { return Ok(()) };
        self.from.hold(&newest.id, &tag)?;
        // What somebody else brings there meanwhile is newer, and kept by him.
        let older = inventory.versions().iter().take_while(|version| version.id != newest.id);
        let older: BTreeSet<&VersionRef> = older.map(|version| &version.id).collect();
        for (held, _) in inventory.holds().iter().filter(|(held, by)| *by == tag && older.contains(held)) {
            match self.from.release(held, &tag) {
                Err(endpoint::Error::NotFound { .. }) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The newest snapshot that is among these.
pub(super) fn newest_of<'a>(inventory: &'a Inventory, there: &BTreeSet<Guid>) -> Option<&'a Version> {
    let mut snapshots = inventory.versions().iter().filter(|v| v.kind == VersionKind::Snapshot);
    snapshots.rfind(|version| there.contains(&version.id.guid))
}

/// What is held here while it is sent; let go again if that fails.
struct Kept<'a> {
    from: &'a Dataset,
    tag: HoldTag,
    held: Vec<VersionRef>,
}

impl<'a> Kept<'a> {
    fn new(source: &Source<'a>, archive: &Archive, base: Option<&Base>) -> Result<Self> {
        let mut kept = Self { from: source.from, tag: tag(archive), held: Vec::new() };
        let base = base.and_then(|base| source.inventory.snapshot_of(base.here.guid));
        for version in base.map(|base| &base.id).into_iter().chain([&source.version]) {
            if source.inventory.holds_of(version).any(|by| *by == kept.tag) {
                continue;
            }
            source.from.hold(version, &kept.tag)?;
            kept.held.push(version.clone());
        }
        Ok(kept)
    }

    /// They are there now: who keeps what is decided anew.
    fn stays(mut self) {
        self.held.clear();
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        for version in &self.held {
            if let Err(error) = self.from.release(version, &self.tag) {
                tracing::warn!(%version, %error, "a hold stays");
            }
        }
    }
}

/// The tag by which a dataset keeps what the archive has of it.
pub fn tag(archive: &Archive) -> HoldTag {
    let id = archive.charter().id.to_string().replace('-', "");
    format!("{MARK}{}", &id[..12]).parse().expect("its characters are allowed and it is short")
}

fn there_of(archive: &Archive, stored: &Stored) -> There {
    There { archive: archive.charter().id, manifest: stored.to_string() }
}

fn reason(why: Why) -> &'static str {
    match why {
        Why::First => "it is the first",
        Why::NoBase => "nothing that both have is older",
        Why::Chain => "the chain would be longer than it may be",
        Why::Cost => "bringing it back would cost more than it may",
    }
}

fn interrupted(from: &Dataset) -> endpoint::Error {
    endpoint::Error::Interrupted { op: "push", subject: from.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_manifest_has_no_room_for_is_refused_before_anything_is_sent() {
        let version = VersionRef { guid: Guid([1; 16]), name: "s0".parse().expect("a name") };
        let asked = |estimate| expect_room(&"tank/large", &version, estimate);
        for fits in [None, Some(0), Some(64 << 40)] {
            asked(fits).expect("it may fit");
        }
        let refused = asked(Some((66 << 40) + 1)).expect_err("too long");
        assert_eq!(refused.class(), Class::Conflict);
        let said = refused.to_string();
        assert!(
            said.contains("tank/large@s0") && said.contains("66 TiB") && said.contains("64 TiB"),
            "{said}"
        );
    }
}
