//! Whether what is in an archive is what was put there.

use std::collections::{HashMap, HashSet};
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
use crate::model::{Digest, Guid, VersionRef};
use crate::stream::reader::Reader;
use crate::sys::interrupt;
use crate::{Class, Error, Result, endpoint};

/// How many objects are asked for at once.
const AT_ONCE: usize = 4;

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
    for some in stored.chunks(AT_ONCE) {
        let manifests = read_manifests(archive, some, &mut found.damaged)?;
        found.parts += manifests.iter().map(|(_, manifest)| manifest.pieces().len() as u64).sum::<u64>();
        if depth == Depth::Full {
            for (stored, manifest) in &manifests {
                whole(archive, stored, manifest, &mut found, observe)?;
            }
            continue;
        }
        let gone = present(archive, &manifests, &mut found)?;
        if let Some(rotation) = &rotation {
            sample(archive, &manifests, &gone, rotation, &mut found, observe)?;
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
    let broken = versions.filter_map(|version| match seen.chains.chain(version.id.guid, &|_: Guid| false) {
        Ok(_) => None,
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

/// That each part is there and as long as it should be, by what the store lists. Answers what is gone.
fn present(archive: &Archive, manifests: &Manifests<'_>, found: &mut Found) -> Result<HashSet<Part>> {
    let listed = ask(manifests, |(stored, _)| archive.parts(Some(stored.group())))?;
    let mut gone = HashSet::new();
    for ((stored, manifest), listed) in manifests.iter().zip(listed) {
        let there: HashMap<Part, u64> =
            listed?.into_iter().map(|(part, object)| (part, object.len)).collect();
        for (part, len) in manifest.parts() {
            let what = match there.get(&part) {
                Some(listed) if *listed == len => continue,
                Some(listed) => format!("{part} is {listed} bytes long, not {len}"),
                None => {
                    gone.insert(part);
                    format!("{part} is gone")
                }
            };
            found.damaged.push(Damage { version: stored.version.clone(), what });
        }
    }
    Ok(gone)
}

/// Reads the parts whose turn it is.
fn sample(
    archive: &Archive,
    manifests: &Manifests<'_>,
    gone: &HashSet<Part>,
    rotation: &Rotation,
    found: &mut Found,
    observe: &dyn Observe,
) -> Result<()> {
    let due: Vec<_> = manifests
        .iter()
        .flat_map(|(stored, manifest)| manifest.parts().map(move |(part, len)| (*stored, part, len)))
        .filter(|(_, part, _)| turn(&part.digest, rotation.of) == rotation.next && !gone.contains(part))
        .collect();
    // A few at a time, so that what was read is told and forgotten.
    for some in due.chunks(AT_ONCE) {
        let answers = ask(some, |(_, part, len)| archive.part(part, *len).map(drop))?;
        for ((stored, _, len), answer) in some.iter().zip(answers) {
            found.parts_read += 1;
            found.bytes_read += len;
            if let Err(error) = answer {
                found.damaged.push(damage(stored, error)?);
            }
        }
        observe.observe(Event::Progress { bytes: found.bytes_read });
    }
    Ok(())
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
    found.parts_read += manifest.pieces().len() as u64;
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
