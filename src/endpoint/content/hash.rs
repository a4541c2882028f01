//! The hashes of files' bytes, on all cores, a bounded part of them in memory.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use super::Told;
use super::reuse::{self, Earlier};
use super::scan::Found;
use crate::endpoint::each::each;
use crate::endpoint::overlay::layer::manifest::{Kind, Line, Size, escaped};
use crate::endpoint::{Error, Result, beneath};
use crate::stream::container::FRAME_LEN;
use crate::stream::container::tree::{Leaf, Tree};

/// What is hashed in one go.
const MIB: u64 = FRAME_LEN as u64;
/// How many MiB of one file are one piece of work.
const PIECE: u64 = 4;
/// How many pieces are begun before the hashes of all are put together.
const BATCH: usize = 1024;

/// Lines with their hashes, and how many bytes were read for them.
pub(super) struct Hashed {
    pub(super) lines: Vec<Line>,
    pub(super) read_bytes: u64,
    /// Whether a file was not read, as its hash was known.
    pub(super) reused: bool,
}

struct Job {
    at: usize, // The first of `found` that it is of.
    size: u64,
}

/// Hashes what is in the files of `found`, which are beneath `root`; those that did not change since `earlier` are not read.
///
/// # Errors
/// A file that can not be read, or is shorter than it should be; [`Error::Interrupted`].
pub(super) fn hash(
    root: BorrowedFd<'_>,
    mut found: Vec<Found>,
    earlier: Option<Earlier<'_>>,
    told: &Told<'_>,
) -> Result<Hashed> {
    if let Some(earlier) = earlier {
        let kept = reuse::unchanged(&found, earlier);
        found.iter_mut().zip(kept).filter(|(found, _)| found.line.kind == Kind::File).for_each(
            |(found, hash)| {
                found.line.hash = hash;
            },
        );
    }
    let reused = found.iter().any(|found| found.line.kind == Kind::File && found.line.hash.is_some());
    let (jobs, job_of_group) = jobs(&found);
    let read = AtomicU64::new(0);
    let note = |bytes| told(read.fetch_add(bytes, Ordering::Relaxed) + bytes);
    let mut pieces = jobs
        .iter()
        .enumerate()
        .flat_map(|(n, job)| (0..job.size.div_ceil(PIECE * MIB).max(1)).map(move |piece| (n, piece)));
    let mut trees = vec![Tree::default(); jobs.len()];
    loop {
        let batch: Vec<_> = pieces.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        let done = each(&batch, |&(n, piece)| {
            leaves(root, &found[jobs[n].at].line.path, jobs[n].size, piece * PIECE, &note)
        })?;
        for ((n, _), leaves) in batch.into_iter().zip(done) {
            leaves.iter().for_each(|leaf| trees[n].push(leaf));
        }
    }
    for (job, tree) in jobs.iter().zip(trees) {
        found[job.at].line.hash = Some(tree.root());
    }
    // The other names of a file have its hash.
    for at in 0..found.len() {
        if let (Kind::File, None, Some(group)) =
            (found[at].line.kind, found[at].line.hash, found[at].line.group)
        {
            found[at].line.hash = found[job_of_group[&group]].line.hash;
        }
    }
    let lines = found.into_iter().map(|found| found.line).collect();
    Ok(Hashed { lines, read_bytes: read.into_inner(), reused })
}

/// The files to be read, one with several names once; and where the first name of each such stands.
fn jobs(found: &[Found]) -> (Vec<Job>, std::collections::HashMap<u32, usize>) {
    let mut first_of = std::collections::HashMap::new();
    let mut jobs = Vec::new();
    for (at, found) in found.iter().enumerate() {
        let Line { kind: Kind::File, hash: None, size: Size::Bytes(size), group, .. } = found.line else {
            continue;
        };
        if let Some(group) = group
            && *first_of.entry(group).or_insert(at) != at
        {
            continue;
        }
        jobs.push(Job { at, size });
    }
    (jobs, first_of)
}

fn leaves(root: BorrowedFd<'_>, path: &[u8], size: u64, first: u64, note: &Told<'_>) -> Result<Vec<Leaf>> {
    let failed = |error: std::io::Error| Error::io("read", escaped(path))(error);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(beneath::open(root, path, flags).map_err(|errno| failed(errno.into()))?);
    let last = size.div_ceil(MIB).min(first + PIECE);
    let mut buffer = vec![0; (size - (first * MIB).min(size)).min(MIB) as usize];
    let mut leaves = Vec::with_capacity(last.saturating_sub(first) as usize);
    for number in first..last {
        let part = &mut buffer[..(size - number * MIB).min(MIB) as usize];
        file.read_exact_at(part, number * MIB).map_err(failed)?;
        leaves.push(Leaf::of(number, part));
        note(part.len() as u64)?;
    }
    Ok(leaves)
}
