//! Whether what is in an archive is what was put there.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::archive::{self, Archive, Manifest};
use crate::endpoint::each::each_by;
use crate::exec::archive::{Fetch, Seen};
use crate::exec::{Event, Observe};
pub use crate::model::archive::Depth;
use crate::model::archive::{Part, Stored};
use crate::model::{Digest, VersionRef};
use crate::stream::reader::Reader;
use crate::sys::interrupt;
use crate::{Class, Error, Result, endpoint};

/// How many objects are asked for at once.
const AT_ONCE: usize = 4;
/// How many parts the manifests name together that are in memory at once, if it is more than one manifest.
const PARTS: u64 = 200_000;
/// How many missing parts of a container are told one by one; and of how many in all.
const TOLD: (usize, usize) = (100, 10_000);

/// Something that is not as it was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Of which version.
    pub version: VersionRef,
    /// What is wrong, and with what.
    pub what: String,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// How many versions were looked at, each in every way that it is stored.
    pub versions: u64,
    /// How many parts they have.
    pub parts: u64,
    /// How many of them were read.
    pub parts_read: u64,
    /// How many bytes of parts were read.
    pub bytes_read: u64,
    /// Of a sample: which run this was, from 1, and of how many.
    pub run: Option<(u64, u64)>,
    /// When the newest version was made of which every byte was read, and all is well: by this run, or of a sample by as many as it takes.
    pub read_up_to: Option<Timestamp>,
    /// What is not as it was put.
    pub damaged: Vec<Damage>,
}

/// Which run of sampling comes next.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Rotation {
    of: u64,
    next: u64,
    /// When the newest version was made that was there when the first of these runs began, as long as they found nothing.
    #[serde(default)]
    newest: Option<Timestamp>,
}

/// Verifies all that `archive` holds. Which run of sampling this is, is remembered below `state_dir` once it has ended.
///
/// # Errors
/// What the store says, if that speaks of no damage; a state directory that can not be written to. Damage is no error here.
pub fn verify(archive: &Archive, depth: Depth, state_dir: &Path, observe: &dyn Observe) -> Result<Found> {
    let seen = Seen::of(archive)?;
    let stored = seen.chains.stored();
    let (versions, damaged) = (stored.len() as u64, without_way(&seen));
    let newest = seen.chains.versions().last().map(|version| version.created);
    let mut found =
        Found { versions, parts: 0, parts_read: 0, bytes_read: 0, run: None, read_up_to: None, damaged };
    let file = state_dir.join("archives").join(format!("{}.sample", archive.charter().id));
    let mut rotation = match depth {
        Depth::Sample(of) => Some(read_rotation(&file, of)),
        Depth::Quick | Depth::Full => None,
    };
    if rotation.is_some() {
        observe.observe(Event::Started { op: "verify", subject: archive.url(), total: None });
    }
    // A few containers at a time, of which nothing stays: there may be many, and each may have many parts.
    let mut rest = stored;
    while !rest.is_empty() {
        let (some, more) = rest.split_at(few(rest));
        rest = more;
        let manifests = read_manifests(archive, some, &mut found.damaged)?;
        found.parts += manifests.iter().map(|(_, manifest)| manifest.n_parts() as u64).sum::<u64>();
        if depth == Depth::Full {
            for (stored, manifest) in &manifests {
                whole(archive, stored, manifest, &mut found, observe)?;
            }
            continue;
        }
        let there = present(archive, &manifests, &mut found)?;
        if let Some(rotation) = &rotation {
            for ((stored, manifest), there) in manifests.iter().zip(&there) {
                sample(archive, (*stored, manifest), there, rotation, &mut found, observe)?;
            }
        }
    }
    if depth == Depth::Full && found.damaged.is_empty() {
        found.read_up_to = newest;
    }
    if let Some(rotation) = &mut rotation {
        observe.observe(Event::Finished { bytes: found.bytes_read });
        found.run = Some((rotation.next + 1, rotation.of));
        let since = if rotation.next == 0 { newest } else { rotation.newest };
        rotation.newest = since.filter(|_| found.damaged.is_empty());
        rotation.next = (rotation.next + 1) % rotation.of;
        found.read_up_to = rotation.newest.filter(|_| rotation.next == 0);
        write_rotation(&file, rotation).map_err(Error::io("write", file.display()))?;
    }
    found.damaged.sort_by(|a, b| (&a.version, &a.what).cmp(&(&b.version, &b.what)));
    found.damaged.dedup();
    Ok(found)
}

/// Versions that can not be brought back, as something that they build upon is not there.
fn without_way(seen: &Seen) -> Vec<Damage> {
    let versions = seen.chains.versions().into_iter();
    let broken = versions.filter_map(|version| match seen.chains.expect_way(version.id.guid) {
        Ok(()) => None,
        Err(why) => Some(Damage { version: version.id, what: why.to_string() }),
    });
    broken.collect()
}

type Manifests<'a> = Vec<(&'a Stored, Manifest)>;

fn read_manifests<'a>(
    archive: &Archive,
    stored: &'a [Stored],
    damaged: &mut Vec<Damage>,
) -> Result<Manifests<'a>> {
    let answers = ask(stored, |stored| archive.manifest(stored))?;
    let mut manifests = Vec::new();
    for (stored, answer) in stored.iter().zip(answers) {
        match answer {
            Ok(manifest) => manifests.push((stored, manifest)),
            Err(error) => damaged.push(damage(stored, error)?),
        }
    }
    Ok(manifests)
}

/// Asks for several at once; a signal ends it.
fn ask<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I) -> archive::Result<T> + Sync,
) -> Result<Vec<archive::Result<T>>> {
    Ok(each_by(AT_ONCE, items, |item| {
        interrupt::check()
            .map_err(|_| endpoint::Error::Interrupted { op: "verify", subject: "the archive".into() })?;
        Ok(work(item))
    })?)
}

/// What `error` says of `stored`, if it speaks of damage.
fn damage(stored: &Stored, error: archive::Error) -> Result<Damage> {
    match error.class() {
        Class::Corrupt => Ok(Damage { version: stored.version.clone(), what: in_words(&error) }),
        _ => Err(error.into()),
    }
}

fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words += &format!(": {cause}");
        next = cause.source();
    }
    words
}

/// How many of the first are looked at together: where they are long, fewer.
fn few(rest: &[Stored]) -> usize {
    let mut parts = 0;
    let fits = |stored: &&Stored| {
        parts += stored.parts();
        parts <= PARTS
    };
    rest.iter().take(AT_ONCE).take_while(fits).count().max(1)
}

/// Which parts of a container are there, whatever their length: a bit for each.
struct There(Vec<u64>);

impl There {
    fn has(&self, number: usize) -> bool {
        self.0[number / 64] >> (number % 64) & 1 == 1
    }

    fn set(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }
}

/// What a store lists of a container.
struct Listed {
    there: There,
    /// What is said of those that are of another length: of the first of them.
    other: Vec<String>,
    /// And how many more they are.
    more: u64,
}

/// That each part is there and as long as it should be, by what the store lists. Answers what is there of each.
fn present(archive: &Archive, manifests: &Manifests<'_>, found: &mut Found) -> Result<Vec<There>> {
    let answers = ask(manifests, |(stored, manifest)| listed(archive, stored, manifest))?;
    let mut all = Vec::new();
    for ((stored, manifest), answer) in manifests.iter().zip(answers) {
        let Listed { there, other, mut more } = answer?;
        let gone = (0..manifest.n_parts()).filter(|number| !there.has(*number));
        let gone = gone.map(|number| format!("{} is gone", manifest.part(number).0));
        let most = if found.damaged.len() < TOLD.1 { TOLD.0 } else { 1 };
        let mut told = Vec::new();
        for what in other.into_iter().chain(gone) {
            match told.len() < most {
                true => told.push(what),
                false => more += 1,
            }
        }
        if more > 0 {
            told.push(format!("{more} more of its parts are gone, or not as long as they should be"));
        }
        let version = || stored.version.clone();
        found.damaged.extend(told.into_iter().map(|what| Damage { version: version(), what }));
        all.push(there);
    }
    Ok(all)
}

/// What is there of a container, as far as its manifest names it.
fn listed(archive: &Archive, stored: &Stored, manifest: &Manifest) -> archive::Result<Listed> {
    let there = There(vec![0; manifest.n_parts().div_ceil(64)]);
    let mut listed = Listed { there, other: Vec::new(), more: 0 };
    archive.each_part(Some(stored.group()), &mut |part, object| {
        let number = part.number as usize;
        if number >= manifest.n_parts() || manifest.part(number).0 != part {
            return Ok::<_, archive::Error>(());
        }
        listed.there.set(number);
        match manifest.part(number).1 {
            len if len == object.len => {}
            _ if listed.other.len() >= TOLD.0 => listed.more += 1,
            len => listed.other.push(format!("{part} is {} bytes long, not {len}", object.len)),
        }
        Ok(())
    })?;
    Ok(listed)
}

/// Reads the parts whose turn it is.
fn sample(
    archive: &Archive,
    (stored, manifest): (&Stored, &Manifest),
    there: &There,
    rotation: &Rotation,
    found: &mut Found,
    observe: &dyn Observe,
) -> Result<()> {
    let mut due = (0..manifest.n_parts())
        .filter(|number| there.has(*number))
        .map(|number| manifest.part(number))
        .filter(|(part, _)| turn(&part.digest, rotation.of) == rotation.next);
    // A few at a time, so that what was read is told and forgotten.
    loop {
        let some: Vec<(Part, u64)> = due.by_ref().take(AT_ONCE).collect();
        if some.is_empty() {
            return Ok(());
        }
        let answers = ask(&some, |(part, len)| archive.part(part, *len).map(drop))?;
        for ((_, len), answer) in some.iter().zip(answers) {
            found.parts_read += 1;
            found.bytes_read += len;
            if let Err(error) = answer {
                found.damaged.push(damage(stored, error)?);
            }
        }
        observe.observe(Event::Progress { bytes: found.bytes_read });
    }
}

/// In which of so many runs a part is read: its digest is as good as chance, and never another.
fn turn(digest: &Digest, of: u64) -> u64 {
    let first: [u8; 8] = digest.0[..8].try_into().expect("a digest has more bytes");
    u64::from_le_bytes(first) % of
}

/// Reads a container to its end: each part by its digest, each frame, and the stream's root against the manifest's.
fn whole(
    archive: &Archive,
    stored: &Stored,
    manifest: &Manifest,
    found: &mut Found,
    observe: &dyn Observe,
) -> Result<()> {
    let subject = format!("{}@{}", archive.url(), stored.version.name);
    observe.observe(Event::Started { op: "verify", subject: subject.clone(), total: None });
    let read = read_whole(archive, manifest, observe);
    found.parts_read += manifest.n_parts() as u64;
    found.bytes_read += manifest.len();
    let what = match read {
        Ok(None) => None,
        Ok(Some(why)) => Some(why),
        Err(error) => {
            let error = Error::container("verify", subject)(error);
            match error.class() {
                Class::Corrupt => Some(in_words(&error)),
                _ => return Err(error),
            }
        }
    };
    let version = stored.version.clone();
    found.damaged.extend(what.map(|what| Damage { version, what }));
    observe.observe(Event::Finished { bytes: manifest.about().stream.length });
    Ok(())
}

/// What is wrong with a container that is sound by itself.
fn read_whole(
    archive: &Archive,
    manifest: &Manifest,
    observe: &dyn Observe,
) -> Result<Option<String>, crate::stream::container::Error> {
    let mut told = 0;
    let (header, outline) = Reader::outline(Fetch::new(archive, manifest), archive.keys(), |bytes| {
        if bytes - told >= 16 << 20 {
            told = bytes;
            observe.observe(Event::Progress { bytes });
        }
    })?;
    let about = manifest.about();
    if (header.guid, header.base) != (about.guid, about.base) {
        return Ok(Some(format!("its container is that of another version ({})", header.guid)));
    }
    // Neither is known of what is encrypted without a key.
    let root = outline.root.map(|root| Digest(*root.as_bytes())).zip(about.stream.blake3);
    let same = outline.len == about.stream.length && root.is_none_or(|(found, said)| found == said);
    Ok((!same).then(|| "its container holds another stream than its manifest says".into()))
}

fn read_rotation(file: &Path, of: u64) -> Rotation {
    let read: Option<Rotation> = fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    read.filter(|rotation| rotation.of == of && rotation.next < of).unwrap_or(Rotation {
        of,
        next: 0,
        newest: None,
    })
}

fn write_rotation(file: &Path, rotation: &Rotation) -> std::io::Result<()> {
    fs::create_dir_all(file.parent().expect("it is in a directory"))?;
    let new = file.with_extension("new");
    fs::write(&new, serde_json::to_vec(rotation).expect("its keys are texts"))?;
    fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_turn_in_one_run_of_so_many() {
        for of in [1, 3, 20] {
            let mut turns = vec![0; of as usize];
            for n in 0..2000u32 {
                turns[turn(&Digest(*blake3::hash(&n.to_le_bytes()).as_bytes()), of) as usize] += 1;
            }
            assert_eq!(turns.iter().sum::<u32>(), 2000);
            assert!(turns.iter().all(|&n| n > 0 && n < 2 * 2000 / of as u32 + 1), "{turns:?}");
        }
    }

    #[test]
    fn which_run_comes_next_is_remembered_for_that_many_runs_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("archives/x.sample");
        assert_eq!(read_rotation(&file, 20).next, 0);
        write_rotation(&file, &Rotation { of: 20, next: 7, newest: None }).expect("writes");
        assert_eq!((read_rotation(&file, 20).next, read_rotation(&file, 10).next), (7, 0));
        fs::write(&file, "{\"of\":20").expect("writes");
        assert_eq!(read_rotation(&file, 20).next, 0);
    }
}
