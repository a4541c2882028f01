//! A layer as one archive: `layer.json`, `manifest`, `blocks/N`, and its entries below `tree/`, in the manifest's order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::data::data_ranges;
use super::manifest::{Data, Kind, Line, Size};
use super::store::Layer;
use super::tree::{Node, Tree};
use crate::endpoint::{Error, Result};
use crate::stream::tar::{Member, Type, Writer};

/// From this many bytes of holes on, a file is archived as a sparse one.
const HOLES_MATTER: u64 = 64 << 10;

/// Writes a layer to `out` as an archive; the same layer gives the same bytes, as long as its files' holes are where they are.
///
/// # Errors
/// [`Error::Corrupt`] if the layer's manifest is damaged or an entry is not there; what the output says, as `io` errors.
pub fn export(layer: &Layer, out: impl Write) -> Result<()> {
    let lines = layer.manifest()?;
    let tree = layer.tree()?;
    let mut export = Export { layer, tree, writer: Writer::new(out), first: HashMap::new() };
    export.whole("layer.json", layer.record().to_text().as_bytes())?;
    export.whole("manifest", &layer.manifest_text()?)?;
    export.blocks(&lines)?;
    lines.iter().try_for_each(|line| export.entry(line))?;
    export.writer.finish().and_then(|mut out| out.flush()).map_err(Error::io("export", layer.label()))
}

struct Export<'a, W> {
    layer: &'a Layer,
    tree: Tree,
    writer: Writer<W>,
    /// The first name of each file that has several.
    first: HashMap<u32, &'a [u8]>,
}

impl<'a, W: Write> Export<'a, W> {
    fn whole(&mut self, name: &str, mut bytes: &[u8]) -> Result<()> {
        let member = Member { size: bytes.len() as u64, ..Member::new(Type::File, name) };
        self.writer.append(&member, &mut bytes).map_err(Error::io("export", self.layer.label()))
    }

    /// The maps that the entries name.
    fn blocks(&mut self, lines: &[Line]) -> Result<()> {
        for number in maps_of(&self.tree, lines)? {
            let path = self.tree.blocks().join(number.to_string());
            let bytes = std::fs::read(&path).map_err(Error::io("read", path.display()))?;
            self.whole(&format!("blocks/{number}"), &bytes)?;
        }
        Ok(())
    }

    fn entry(&mut self, line: &'a Line) -> Result<()> {
        let node = self.node(line)?;
        let mut member = member_of(line, &node);
        let failed = |layer: &Layer| {
            let subject = format!("{} of {}", line.path.escape_ascii(), layer.label());
            Error::io::<_, io::Error>("export", subject)
        };
        if let Some(first) = line.group.and_then(|group| self.first.get(&group)) {
            let link = [&b"tree/"[..], first].concat();
            let member = Member { kind: Type::Hard, link, size: 0, xattrs: BTreeMap::new(), ..member };
            return self.writer.append(&member, &mut io::empty()).map_err(failed(self.layer));
        }
        if let Some(group) = line.group {
            self.first.insert(group, &line.path);
        }
        if line.kind == Kind::Link {
            member.link = self.tree.link(&line.path).map_err(failed(self.layer))?;
        }
        if line.kind != Kind::File || line.data == Data::Metacopy {
            if line.kind == Kind::File {
                member.ranges = Some(Vec::new());
            }
            return self.writer.append(&member, &mut io::empty()).map_err(failed(self.layer));
        }
        let file = self.tree.file(&line.path).map_err(failed(self.layer))?;
        let holes = member.size.saturating_sub(node.stat.st_blocks.unsigned_abs() * 512);
        if holes >= HOLES_MATTER {
            member.ranges = Some(data_ranges(&file, member.size).map_err(failed(self.layer))?);
        }
        let member = member.coarse();
        let ranges = member.ranges.clone().unwrap_or_else(|| std::iter::once(0..member.size).collect());
        let mut data = Ranges::of(file, ranges);
        self.writer.append(&member, &mut data).map_err(failed(self.layer))
    }

    fn node(&self, line: &Line) -> Result<Node> {
        let node = self.tree.node(&line.path).map_err(Error::io("read", line.path.escape_ascii()))?;
        node.ok_or_else(|| self.layer.corrupt(format!("{} is missing", line.path.escape_ascii())))
    }
}

/// The numbers of the maps of blocks that files of a layer have.
pub(super) fn maps_of(tree: &Tree, lines: &[Line]) -> Result<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    for line in lines.iter().filter(|line| line.data == Data::Blocks) {
        let node = tree.node(&line.path).map_err(Error::io("read", line.path.escape_ascii()))?;
        let number = node.and_then(|node| node.blocks()).transpose();
        let why = |bad: &dyn std::fmt::Display| format!("{}: {bad}", line.path.escape_ascii());
        let number = number.map_err(|bad| Error::Corrupt { what: "layer", why: why(&bad), source: None })?;
        numbers.extend(number);
    }
    Ok(numbers)
}

/// What an entry is in an archive.
pub(in crate::endpoint) fn type_of(kind: Kind) -> Type {
    match kind {
        Kind::File => Type::File,
        Kind::Dir => Type::Dir,
        Kind::Link => Type::Symbolic,
        Kind::Block => Type::Block,
        Kind::Char | Kind::Whiteout => Type::Char,
        Kind::Fifo => Type::Fifo,
        Kind::Socket => Type::Socket,
    }
}

fn member_of(line: &Line, node: &Node) -> Member {
    let path = match line.path.is_empty() {
        true => b"tree".to_vec(),
        false => [&b"tree/"[..], &line.path].concat(),
    };
    let (size, device) = match line.size {
        Size::Bytes(size) if line.kind == Kind::File => (size, (0, 0)),
        Size::Device(major, minor) => (0, (major, minor)),
        _ => (0, (0, 0)),
    };
    let is_whiteout = line.kind == Kind::Whiteout;
    Member {
        mode: line.mode,
        uid: line.uid,
        gid: line.gid,
        mtime_ns: line.mtime_ns,
        size,
        device,
        xattrs: if is_whiteout { BTreeMap::new() } else { node.archived() },
        ..Member::new(type_of(line.kind), path)
    }
}

/// Some ranges of a file, one after another.
pub(in crate::endpoint) struct Ranges {
    file: std::fs::File,
    ranges: std::vec::IntoIter<Range<u64>>,
    now: Range<u64>,
}

impl Ranges {
    /// Those of `file`.
    pub(in crate::endpoint) fn of(file: std::fs::File, ranges: Vec<Range<u64>>) -> Self {
        Self { file, ranges: ranges.into_iter(), now: 0..0 }
    }
}

impl Read for Ranges {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            let Some(next) = self.ranges.next() else { return Ok(0) };
            self.now = next;
        }
        let len = (self.now.end - self.now.start).min(buffer.len() as u64) as usize;
        let len = self.file.read_at(&mut buffer[..len], self.now.start)?;
        self.now.start += len as u64;
        Ok(len)
    }
}
