//! What a reader remembers of the latest frames.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::stream::container::Prefix;
use crate::stream::container::tree::Tree;
use crate::stream::parallel::Block;

/// How far back [`Marks`] go, in frames: more than whoever applies a stream lies behind its reader.
const MARKS: usize = 64;
/// The same, for what is in the frames: a few more than wait to be applied.
const BLOCKS: usize = 12;

/// What a stream hashes to up to each of its latest frames, and what is in the very latest, as far as it was verified. Clones show the same
/// stream.
#[derive(Debug, Clone, Default)]
pub struct Marks(Arc<Mutex<Latest>>);

#[derive(Debug, Default)]
struct Latest {
    prefixes: VecDeque<Prefix>,
    blocks: VecDeque<(u64, Arc<Block>)>,
    keeps_blocks: bool,
}

impl Marks {
    /// The first `frames` frames, if they were verified and are not too long past. A last frame that is shorter than others is none of them.
    pub fn at(&self, frames: u64) -> Option<Prefix> {
        self.lock().prefixes.iter().find(|prefix| prefix.frames() == frames).cloned()
    }

    /// What is in a frame, the first of which is 0, if it was verified and not long ago.
    pub fn frame(&self, number: u64) -> Option<impl std::ops::Deref<Target = [u8]> + use<>> {
        let block = self.lock().blocks.iter().find(|(of, _)| *of == number).map(|(_, block)| block.clone());
        block.map(Whole)
    }

    /// From now on they keep what is in frames, too.
    pub(super) fn keep_blocks(&self) {
        self.lock().keeps_blocks = true;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Latest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the frame behind which `tree` is; answers what it no longer keeps.
    pub(super) fn add(&self, tree: &Tree, is_last: bool, block: &Arc<Block>) -> Option<Arc<Block>> {
        let latest = &mut *self.lock();
        if !is_last {
            if latest.prefixes.len() == MARKS {
                latest.prefixes.pop_front();
            }
            latest.prefixes.push_back(tree.prefix());
        }
        if !latest.keeps_blocks {
            return None;
        }
        latest.blocks.push_back((tree.frames() - 1, block.clone()));
        let is_over = latest.blocks.len() > BLOCKS;
        let oldest = if is_over { latest.blocks.pop_front() } else { None };
        oldest.map(|(_, block)| block)
    }
}

/// The bytes of a block that others have, too.
struct Whole(Arc<Block>);

impl std::ops::Deref for Whole {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
