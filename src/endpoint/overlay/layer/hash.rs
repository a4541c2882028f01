//! The hashes of files' data, on all cores, holes skipped.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use blake3::Hash;

use super::data::next_data;
use super::map::BlockMap;
use super::tree::open_file;
use crate::stream::container::FRAME_LEN;
use crate::stream::container::tree::{Leaf, Tree};
use crate::stream::parallel;

/// What is hashed in one go.
const MIB: usize = FRAME_LEN;
/// How many MiB of one file a thread takes at a time.
const PIECE: u64 = 16;

/// A file to be hashed.
#[derive(Debug)]
pub(super) struct Job {
    /// Where it is.
    pub(super) path: Vec<u8>,
    /// Its size in bytes.
    pub(super) size: u64,
    /// How.
    pub(super) how: How,
}

#[derive(Debug)]
pub(super) enum How {
    /// The plain blake3 of the data.
    Plain,
    /// Of the size, and for each MiB that is not all zeros its number and its blake3.
    Sparse,
    /// Of the hash of the map's bytes, and then as `Sparse`, blocks that are not here being zeros.
    Blocks(BlockMap, Hash),
}

/// The hash of each file beneath `root`, in the order of `jobs`.
///
/// # Errors
/// The first file, by number, that can not be read or is shorter than said.
pub(super) fn hash_all(root: BorrowedFd<'_>, jobs: &[Job]) -> Result<Vec<Hash>, (usize, io::Error)> {
    let pieces: Vec<(usize, u64)> = jobs.iter().enumerate().flat_map(pieces_of).collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(pieces.len())));
    let work = || {
        let mut buffer = vec![0; MIB];
        while let Some(&(job, piece)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let hashed = hash_piece(root, &jobs[job], piece, &mut buffer);
            let failed = hashed.is_err();
            done.lock().unwrap_or_else(PoisonError::into_inner).push(((job, piece), hashed));
            if failed {
                next.store(pieces.len(), Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..parallel::threads(0).min(pieces.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(piece, _)| *piece);
    joined(jobs.len(), done)
}

fn pieces_of((number, job): (usize, &Job)) -> impl Iterator<Item = (usize, u64)> {
    let pieces = match job.how {
        How::Plain => job.size.div_ceil(PIECE * MIB as u64).max(1),
        _ => 1,
    };
    (0..pieces).map(move |piece| (number, piece))
}

/// What came of a piece.
enum Hashed {
    Leaves(Vec<Leaf>),
    Whole(Hash),
}

type Done = ((usize, u64), io::Result<Hashed>);

fn joined(jobs: usize, done: Vec<Done>) -> Result<Vec<Hash>, (usize, io::Error)> {
    let mut trees: Vec<Tree> = vec![Tree::default(); jobs];
    let mut whole = vec![None; jobs];
    for ((job, _), hashed) in done {
        match hashed.map_err(|error| (job, error))? {
            Hashed::Leaves(leaves) => leaves.iter().for_each(|leaf| trees[job].push(leaf)),
            Hashed::Whole(hash) => whole[job] = Some(hash),
        }
    }
    Ok(trees.iter().zip(whole).map(|(tree, whole)| whole.unwrap_or_else(|| tree.root())).collect())
}

fn hash_piece(root: BorrowedFd<'_>, job: &Job, piece: u64, buffer: &mut [u8]) -> io::Result<Hashed> {
    let file = open_file(root, &job.path)?;
    match &job.how {
        How::Plain => leaves(&file, job.size, piece * PIECE, buffer).map(Hashed::Leaves),
        How::Sparse => sparse(&file, job.size, blake3::Hasher::new(), None, buffer).map(Hashed::Whole),
        How::Blocks(map, bytes) => {
            let mut hasher = blake3::Hasher::new();
            hasher.update(bytes.as_bytes());
            sparse(&file, job.size, hasher, Some(map), buffer).map(Hashed::Whole)
        }
    }
}

fn leaves(file: &File, size: u64, first: u64, buffer: &mut [u8]) -> io::Result<Vec<Leaf>> {
    let all = size.div_ceil(MIB as u64);
    let mut leaves = Vec::new();
    for number in first..all.min(first + PIECE) {
        let part = part(size, number, buffer);
        file.read_exact_at(part, number * MIB as u64)?;
        leaves.push(Leaf::of(number, part));
    }
    Ok(leaves)
}

fn sparse(
    file: &File,
    size: u64,
    mut hasher: blake3::Hasher,
    map: Option<&BlockMap>,
    buffer: &mut [u8],
) -> io::Result<Hash> {
    hasher.update(&size.to_le_bytes());
    let mut at = 0;
    while let Some(data) = next_data(file, at)?.filter(|&data| data < size) {
        let number = data / MIB as u64;
        at = (number + 1) * MIB as u64;
        let part = part(size, number, buffer);
        file.read_exact_at(part, number * MIB as u64)?;
        map.into_iter().for_each(|map| blank(map, number * MIB as u64, part));
        if part.iter().any(|&byte| byte != 0) {
            hasher.update(&number.to_le_bytes()).update(blake3::hash(part).as_bytes());
        }
    }
    Ok(hasher.finalize())
}

fn part(size: u64, number: u64, buffer: &mut [u8]) -> &mut [u8] {
    let len = (size - number * MIB as u64).min(MIB as u64) as usize;
    &mut buffer[..len]
}

/// Makes zeros of the bytes in blocks that are not here. `at` is where `part` stands in the file.
fn blank(map: &BlockMap, at: u64, part: &mut [u8]) {
    let step = map.block_len().min(MIB as u64) as usize; // Both are powers of two, so no step crosses a block's end.
    for (n, bytes) in part.chunks_mut(step).enumerate() {
        if !map.has((at + (n * step) as u64) / map.block_len()) {
            bytes.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    fn hashes(content: &[(&str, &[u8])], how: impl Fn() -> How) -> Vec<Hash> {
        let folder = tempfile::tempdir().expect("a folder");
        let job = |(name, bytes): &(&str, &[u8])| {
            std::fs::write(folder.path().join(name), bytes).expect("writes");
            Job { path: name.as_bytes().into(), size: bytes.len() as u64, how: how() }
        };
        let jobs: Vec<_> = content.iter().map(job).collect();
        let root = File::open(folder.path()).expect("opens");
        hash_all(root.as_fd(), &jobs).expect("hashes")
    }

    #[test]
    fn plain_hashes_are_those_that_b3sum_gives() {
        let long: Vec<u8> = (0..(18 << 20) + 5).map(|n: u32| (n >> 7) as u8).collect();
        let sizes = [0, 1, MIB, MIB + 1, 2 * MIB, 16 * MIB, 17 * MIB, long.len()];
        let names: Vec<_> = sizes.iter().map(|size| size.to_string()).collect();
        let content: Vec<_> =
            names.iter().zip(sizes).map(|(name, size)| (name.as_str(), &long[..size])).collect();
        let wanted: Vec<_> = sizes.iter().map(|&size| blake3::hash(&long[..size])).collect();
        assert_eq!(hashes(&content, || How::Plain), wanted);
    }

    #[test]
    fn a_sparse_hash_does_not_depend_on_where_the_holes_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let size = (8 << 20) + 100;
        let of = |fill: &dyn Fn(&File)| {
            let path = folder.path().join("f");
            let file = File::create(&path).expect("creates");
            fill(&file);
            file.set_len(size).expect("grows");
            let root = File::open(folder.path()).expect("opens");
            hash_all(root.as_fd(), &[Job { path: b"f".to_vec(), size, how: How::Sparse }]).expect("hashes")[0]
        };
        let holes = of(&|file| file.write_all_at(b"x", 5 << 20).expect("writes"));
        let written = of(&|file| {
            file.write_all_at(&vec![0; 8 << 20], 0).expect("writes");
            file.write_all_at(b"x", 5 << 20).expect("writes");
        });
        assert_eq!(holes, written);
        assert_ne!(holes, of(&|file| file.write_all_at(b"x", (5 << 20) + 1).expect("writes")));
        assert_ne!(holes, of(&|file| file.write_all_at(b"x", 6 << 20).expect("writes")));
    }

    #[test]
    fn what_is_in_blocks_that_are_not_here_does_not_count() {
        let map = |here: &[u64]| {
            let mut map = BlockMap::new(12, 3 * 4096);
            here.iter().for_each(|&block| map.set(block));
            map
        };
        let of = |bytes: &[u8], here: &[u64]| {
            let map = map(here);
            let hash = blake3::hash(&map.to_bytes());
            hashes(&[("f", bytes)], || How::Blocks(map.clone(), hash))[0]
        };
        let (mut a, mut b) = (vec![0; 4 * 4096], vec![0; 4 * 4096]);
        a[4096] = 1;
        b[4096] = 2;
        assert_eq!(of(&a, &[0]), of(&b, &[0]));
        assert_ne!(of(&a, &[1]), of(&b, &[1]));
        assert_ne!(of(&a, &[0]), of(&a, &[0, 2]), "the map counts too");
        b[4096] = 1;
        b[3 * 4096] = 1;
        assert_ne!(of(&a, &[1]), of(&b, &[1]), "what lies beyond the file below is here");
    }
}
