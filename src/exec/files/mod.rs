//! Files of a snapshot to one file and back: `export`, `import`, `fetch` (docs/FORMAT-files.md).

pub mod away;
pub mod export;
pub mod fetch;
pub mod import;
mod part;
pub mod source;

use crate::model::Digest;

fn digest(hash: &blake3::Hash) -> Digest {
    Digest(*hash.as_bytes())
}
