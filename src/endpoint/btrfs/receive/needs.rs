//! What an increment reads of versions that are there before it, for who has only one tree and changes that.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use super::fault::{Fault, of_stream};
use crate::endpoint::Result;
use crate::stream::btrfs::{Command, Parser};

/// How many files a stream may read, so that it can not fill the memory.
const MOST: usize = 1 << 19;
/// How many bytes their paths may have together.
const MOST_BYTES: usize = 64 << 20;

/// Of which version (uuid and ctransid), which file, and all that lies between the first and the last byte that is read.
pub type Needs = BTreeMap<(([u8; 16], u64), Vec<u8>), Range<u64>>;

/// Reads `stream`, of one subvolume, to its end.
///
/// # Errors
/// As [`super::apply`] for a stream that is damaged.
pub fn needs(stream: &mut dyn Read) -> Result<Needs> {
    let mut parser = Parser::new(stream);
    let (mut needs, mut own, mut bytes) = (Needs::new(), None, 0);
    while let Some(item) = parser.next_command().map_err(of_stream)? {
        match item.command {
            Command::Subvol { uuid, ctransid, .. } | Command::Snapshot { uuid, ctransid, .. } => {
                own = Some((uuid, ctransid));
            }
            Command::Clone { uuid, ctransid, from, from_offset, len, .. }
                if own != Some((uuid, ctransid)) =>
            {
                let end = from_offset.saturating_add(len);
                let range = needs.entry(((uuid, ctransid), from.to_vec())).or_insert_with(|| {
                    bytes += from.len();
                    from_offset..end
                });
                *range = range.start.min(from_offset)..range.end.max(end);
                if needs.len() > MOST || bytes > MOST_BYTES {
                    let why = "it clones from more files than can be remembered";
                    return Err(Fault::Hostile(why).at(item.offset, &item.command));
                }
            }
            _ => {}
        }
    }
    Ok(needs)
}
