//! A manifest, directory by directory: what two places tell each other to find where they differ.

use serde::{Deserialize, Serialize};

use super::{Line, digest};
use crate::endpoint::beneath::split;
use crate::endpoint::overlay::layer::manifest::Kind;
use crate::model::Digest;

/// No more entries than this are told at once.
pub const MOST_ENTRIES: usize = 1000;

/// Some of what is directly in a directory, in the order of their paths' bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Page {
    /// The first that come behind those that are known.
    pub entries: Vec<Entry>,
    /// Whether there are others behind them.
    pub more: bool,
}

/// An entry of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its line.
    pub line: String,
    /// Of a directory: the blake3 of the lines of all that is below it.
    #[serde(default)]
    pub below: Option<Digest>,
}

/// What of `lines` is directly in `dir` and behind `after`; the empty path is the root, which is itself in nothing and told first.
pub fn page(lines: &[Line], dir: &[u8], after: Option<&[u8]>) -> Page {
    if dir.is_empty() && after.is_none() {
        let root = lines.first().map(|root| Entry { line: root.text(), below: Some(digest(&lines[1..])) });
        return Page { entries: root.into_iter().collect(), more: lines.len() > 1 };
    }
    let (begin, end) = below(lines, dir);
    let mut at = match after {
        Some(after) => behind(lines, after, begin),
        None => begin,
    };
    let mut page = Page::default();
    while at < end {
        let line = &lines[at];
        match split(&line.path).0 == dir {
            true if page.entries.len() == MOST_ENTRIES => {
                page.more = true;
                break;
            }
            true => {
                let inside = (line.kind == Kind::Dir).then(|| below(lines, &line.path));
                let below = inside.map(|(begin, end)| digest(&lines[begin..end]));
                page.entries.push(Entry { line: line.text(), below });
                at += 1;
            }
            // Within a directory that was told of before.
            false => {
                let name = line.path[dir.len() + usize::from(!dir.is_empty())..].split(|&b| b == b'/').next();
                let inner = [dir, if dir.is_empty() { b"" } else { b"/" }, name.unwrap_or_default()].concat();
                at = below(lines, &inner).1.max(at + 1);
            }
        }
    }
    page
}

/// Where the lines begin and end of what is below the directory `dir`, at any depth.
fn below(lines: &[Line], dir: &[u8]) -> (usize, usize) {
    if dir.is_empty() {
        return (1.min(lines.len()), lines.len());
    }
    let (first, last) = ([dir, b"/"].concat(), [dir, b"0"].concat()); // 0 is what comes behind a slash.
    let at = |path: &[u8]| lines.partition_point(|line| line.path.as_slice() < path);
    (at(&first), at(&last))
}

fn behind(lines: &[Line], after: &[u8], begin: usize) -> usize {
    lines.partition_point(|line| line.path.as_slice() <= after).max(begin)
}

/// The lines of a page of `dir` that somebody else told, behind `after`: what could lead elsewhere, or never end, is none.
///
/// # Errors
/// What is wrong with it.
pub fn check(
    page: &Page,
    dir: &[u8],
    after: Option<&[u8]>,
) -> Result<Vec<(Line, Option<Digest>)>, &'static str> {
    if page.entries.len() > MOST_ENTRIES {
        return Err("it has more entries than one has");
    }
    if page.more && page.entries.is_empty() {
        return Err("it is empty, and not the last one");
    }
    let mut last = after.map(<[u8]>::to_vec);
    let mut checked = Vec::with_capacity(page.entries.len());
    for Entry { line, below } in &page.entries {
        let line = Line::of_text(line)?;
        let is_root = line.path.is_empty();
        if is_root != (dir.is_empty() && last.is_none()) || (!is_root && split(&line.path).0 != dir) {
            return Err("it names what is in another directory");
        }
        if last.as_ref().is_some_and(|last| *last >= line.path) {
            return Err("its entries are not in order");
        }
        if below.is_some() != (line.kind == Kind::Dir) {
            return Err("what is below an entry does not fit its type");
        }
        last = Some(line.path.clone());
        checked.push((line, *below));
    }
    Ok(checked)
}
