//! What `zstream dump` of OpenZFS says of a stream, and what we say: record by record.
//!
//! It needs no kernel module. Streams of a real kernel are compared in the guest (`zfs::stream`), made-up ones here.

use std::io::BufReader;
use std::path::Path;
use std::process::Command;

use cowsnap::stream::zfs::encode::Encoder;
use cowsnap::stream::zfs::nvlist::encode;
use cowsnap::stream::zfs::{Begin, ByteOrder, Located, Record, Summary, Walker};

use super::{one_of_each, sample_begin};
use crate::ground::{ground, skip};

/// A line of `zstream dump -v`: the record's name, and its fields by the names that it gives them.
#[derive(Debug, PartialEq)]
struct Line {
    name: String,
    fields: Vec<(String, String)>,
}

impl Line {
    /// `NAME key = value key = value`; a key may hold spaces.
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split(" = ");
        let (name, mut key) = parts.next()?.split_once(' ')?;
        let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        if name.is_empty() || !is_name(name) || line.starts_with("BEGIN") {
            return None;
        }
        let mut fields = Vec::new();
        for part in parts {
            let (value, next) = part.split_once(' ').unwrap_or((part, ""));
            fields.push((key.to_owned(), value.to_owned()));
            key = next;
        }
        Some(Self { name: name.to_owned(), fields })
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }
}

/// What `zstream` must say of a record.
fn expected(item: &Located) -> Vec<(&'static str, String)> {
    let s = |number: u64| number.to_string();
    match item.record {
        Record::Object {
            object,
            kind,
            bonus_kind,
            block_len,
            bonus_len,
            dnode_slots,
            flags,
            raw_bonus_len,
            indirect_shift,
            levels,
            block_pointers,
            max_block,
            checksum: _,
            compression: _,
        } => vec![
            ("object", s(object)),
            ("type", s(kind.into())),
            ("bonustype", s(bonus_kind.into())),
            ("blksz", s(block_len.into())),
            ("bonuslen", s(bonus_len.into())),
            ("dn_slots", s(dnode_slots.into())),
            ("raw_bonuslen", s(raw_bonus_len.into())),
            ("flags", s(flags.into())),
            ("maxblkid", s(max_block)),
            ("indblkshift", s(indirect_shift.into())),
            ("nlevels", s(levels.into())),
            ("nblkptr", s(block_pointers.into())),
        ],
        Record::FreeObjects { first, count } => vec![("firstobj", s(first)), ("numobjs", s(count))],
        Record::Write { object, kind, offset, len, checksum, flags, compression, compressed_len } => vec![
            ("object", s(object)),
            ("type", s(kind.into())),
            ("checksum type", s(checksum.into())),
            ("compression type", s(compression.into())),
            ("flags", s(flags.into())),
            ("offset", s(offset)),
            ("logical_size", s(len)),
            ("compressed_size", s(compressed_len)),
            ("payload_size", s(item.data_len)),
        ],
        // It prints the length with a sign.
        Record::Free { object, offset, len } => {
            vec![("object", s(object)), ("offset", s(offset)), ("length", (len as i64).to_string())]
        }
        Record::End { checksum: [a, b, c, d], .. } => vec![("checksum", format!("{a:x}/{b:x}/{c:x}/{d:x}"))],
        Record::WriteByRef { object, offset, len, from_guid, from_object, from_offset } => vec![
            ("object", s(object)),
            ("offset", s(offset)),
            ("length", s(len)),
            ("refguid", format!("{from_guid:x}")),
            ("refobject", s(from_object)),
            ("refoffset", s(from_offset)),
        ],
        Record::Spill { object, len, flags, compression, compressed_len } => vec![
            ("block for object", s(object)),
            ("length", s(len)),
            ("flags", s(flags.into())),
            ("compression type", s(compression.into())),
            ("compressed_size", s(compressed_len)),
            ("payload_size", s(item.data_len)),
        ],
        Record::WriteEmbedded { object, offset, len, compression, kind, block_len, stored_len } => vec![
            ("object", s(object)),
            ("offset", s(offset)),
            ("length", s(len)),
            ("comp", s(compression.into())),
            ("etype", s(kind.into())),
            ("lsize", s(block_len.into())),
            ("psize", s(stored_len.into())),
        ],
        Record::ObjectRange { first, count, flags } => {
            vec![("firstobj", s(first)), ("numslots", s(count)), ("flags", s(flags.into()))]
        }
        Record::Redact { object, offset, len } => {
            vec![("object", s(object)), ("offset", s(offset)), ("length", s(len))]
        }
    }
}

fn check_begin(dump: &str, begin: &Begin) {
    let kind = format!("{:?}", begin.kind);
    for (key, value) in [
        ("hdrtype", "1".into()),
        ("features", format!("{:x}", begin.features.bits())),
        ("creation_time", format!("{:x}", begin.creation)),
        ("type", if kind == "Filesystem" { "2".into() } else { "3".into() }),
        ("flags", format!("0x{:x}", begin.flags.0)),
        ("toguid", format!("{:x}", begin.to_guid)),
        ("fromguid", format!("{:x}", begin.from_guid)),
        ("toname", begin.to_name.clone()),
        ("payloadlen", begin.payload_len.to_string()),
    ] {
        let line = format!("\t{key} = {value}");
        assert!(dump.lines().any(|found| found == line), "no line {line:?} in\n{dump}");
    }
}

/// Compares what both say of the stream in `file`; how many records there are, without BEGIN.
pub fn assert_agrees(file: &Path) -> usize {
    let open = || BufReader::new(std::fs::File::open(file).expect("a stream"));
    let mut walker = Walker::open(open()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    // Of the other byte order, zstream 2.1 compares checksums that it has not swapped.
    let options = if walker.begin().order == ByteOrder::Little { "-v" } else { "-vC" };
    let output = Command::new("zstream").args(["dump", options]).arg(file).output().expect("zstream");
    let dump = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {}{said}", file.display(), output.status);
    check_begin(&dump, walker.begin());
    let mut lines = dump.lines().filter_map(Line::parse);
    let mut n = 0;
    while let Some(item) = walker.next_record().unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    {
        let line = lines.next().unwrap_or_else(|| panic!("no line for {}", item.record));
        assert_eq!(line.name, item.record.name(), "record {n} at byte {}", item.offset);
        for (key, value) in expected(&item) {
            assert_eq!(line.get(key), Some(&value[..]), "{key} of record {n}, {}: {line:?}", item.record);
        }
        n += 1;
    }
    assert_eq!(lines.next(), None, "more records than we know of");
    check_summary(&dump, &Summary::of(open()).expect("it was walked"));
    n
}

fn check_summary(dump: &str, summary: &Summary) {
    let has =
        |line: String| assert!(dump.lines().any(|found| found.trim() == line), "no {line:?} in\n{dump}");
    let len = summary.stream_bytes;
    has(format!("Total stream length = {len} (0x{len:x})"));
    for (name, count) in &summary.counts {
        // 2.1 counts these and does not show them.
        if !matches!(*name, "OBJECT_RANGE" | "REDACT") {
            has(format!("Total DRR_{name} records = {} ({} bytes)", count.records, count.data_bytes));
        }
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let file = folder.join(name);
    std::fs::write(&file, bytes).expect("write");
    file
}

#[test]
fn zstream_says_the_same_of_every_record() {
    ground!("zstream");
    let folder = tempfile::tempdir().expect("a folder");
    for order in [ByteOrder::Little, ByteOrder::Big] {
        // In XDR, for it can not unpack a native list of the other byte order.
        let mut encoder =
            Encoder::with_packed(&Begin { order, ..sample_begin() }, &encode::xdr(&super::sample_list()));
        one_of_each().iter().for_each(|(record, data)| encoder.push(record, data));
        let file = write(folder.path(), "stream", &encoder.finish());
        assert_eq!(assert_agrees(&file), one_of_each().len() + 1);
    }
}

/// The library that packs and unpacks lists for ZFS reads those that we pack.
#[test]
fn zstream_unpacks_the_lists_that_we_pack() {
    ground!("zstream");
    let folder = tempfile::tempdir().expect("a folder");
    let list = super::nvlist::sample();
    for packed in [encode::native(&list, ByteOrder::Little), encode::xdr(&list)] {
        let bytes = Encoder::with_packed(&sample_begin(), &packed).finish();
        let file = write(folder.path(), "stream", &bytes);
        let output = Command::new("zstream").args(["dump", "-v"]).arg(&file).output().expect("zstream");
        let dump = String::from_utf8_lossy(&output.stdout);
        for line in [
            "flag = 1",
            "yes = 1",
            "uint = 0xffffffffffffffff",
            "text = tank/a b",
            "bytes = 0x01 0x02 0xff",
            "uints = 0x1 0xffffffffffffffff",
            "list = (embedded nvlist)",
            "(end lists[1])",
        ] {
            assert!(dump.lines().any(|found| found.trim() == line), "no {line:?} in\n{dump}");
        }
    }
}

/// Streams that somebody has: all files in the folder `COWSNAP_ZFS_STREAMS`.
#[test]
fn zstream_says_the_same_of_the_streams_in_a_folder() {
    ground!("zstream");
    let Some(folder) = std::env::var_os("COWSNAP_ZFS_STREAMS") else {
        return skip("stream_zfs::oracle", "COWSNAP_ZFS_STREAMS names no folder with ZFS streams");
    };
    let files: Vec<_> =
        Path::new(&folder).read_dir().expect("a folder").map(|e| e.expect("a file").path()).collect();
    assert!(!files.is_empty());
    for file in files {
        println!("{}: {} records", file.display(), assert_agrees(&file));
    }
}
