//! What is in a raw stream, or in the one that a container carries: counted, or operation by operation.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Read;

use serde_json::{Map, Value, json};

use super::lines::{Lines, escaped, table};
use super::{read_error, stream_error, zfs_error};
use crate::cli::Context;
use crate::model::Guid;
use crate::stream::btrfs::{Command, Parser};
use crate::stream::container::Backend;
use crate::stream::tar;
use crate::stream::zfs::nvlist::{self, List};
use crate::stream::zfs::{Begin, Located, Summary, Walker};
use crate::{Error, Result, endpoint};

/// What was counted: as members of a JSON object, and as text.
pub struct Counted {
    pub json: Map<String, Value>,
    pub text: String,
}

/// Reads a stream to its end.
pub fn count(backend: Backend, input: impl Read, name: &str) -> Result<Counted> {
    match backend {
        Backend::Btrfs => count_btrfs(input, name),
        Backend::Zfs => Summary::of(input).map_err(|error| zfs_error("inspect", name, error)).map(of_zfs),
        Backend::Overlay => count_layer(input, name),
    }
}

fn count_layer(input: impl Read, name: &str) -> Result<Counted> {
    let mut archive = tar::Reader::new(input);
    let (mut entries, mut bytes) = (0_u64, 0_u64);
    while let Some(member) = archive.entry().map_err(|error| tar_error(name, error))? {
        entries += u64::from(member.path.starts_with(b"tree"));
        bytes += member.stored();
    }
    let text =
        format!("layer of an overlay, as a tar archive\n{entries:>10} entries\n{bytes:>10} bytes of data");
    Ok(Counted { json: object(json!({ "entries": entries, "bytes": bytes })), text })
}

fn print_layer_ops(input: impl Read, name: &str, context: &Context) -> Result<()> {
    let mut archive = tar::Reader::new(input);
    let mut lines = Lines::new();
    loop {
        let offset = archive.position();
        let Some(member) = archive.entry().map_err(|error| tar_error(name, error))? else { break };
        let path = member.path.escape_ascii();
        if !print_op(&mut lines, offset, member.kind.name(), path, context)? {
            return Ok(());
        }
    }
    lines.finish()
}

fn tar_error(name: &str, error: tar::Error) -> Error {
    match error {
        tar::Error::Read { source, .. } => read_error("inspect", name, source),
        bad => endpoint::Error::Corrupt { what: "layer", why: format!("{name}: {bad}"), source: None }.into(),
    }
}

fn count_btrfs(input: impl Read, name: &str) -> Result<Counted> {
    let mut parser = Parser::new(input);
    let mut subvolumes = Vec::new();
    let mut counts = BTreeMap::<&str, u64>::new();
    let mut version = 0;
    while let Some(item) = parser.next_command().map_err(|error| stream_error("inspect", name, error))? {
        *counts.entry(item.command.name()).or_default() += 1;
        if let Command::Subvol { .. } | Command::Snapshot { .. } = item.command {
            subvolumes.push(item.command.to_string());
        }
        version = parser.version().map_or(version, |version| version.number());
    }
    let counted: String = counts.iter().map(|(op, count)| format!("\n{count:>10} {op}")).collect();
    let text = format!("btrfs stream, version {version}\n{}{counted}", subvolumes.join("\n"));
    let json = object(json!({ "stream_version": version, "subvolumes": subvolumes, "operations": counts }));
    Ok(Counted { json, text })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

fn of_zfs(summary: Summary) -> Counted {
    let mut lines = lines_of(&summary.begin);
    if let Some((object, offset)) = summary.list.as_ref().and_then(resume_point) {
        lines.push(("resumes", format!("object {object}, offset {offset}")));
    }
    let (bytes, blocks) = (summary.stream_bytes, summary.block_bytes);
    lines.push(("stream", format!("{bytes} bytes, its blocks {blocks} bytes when decompressed")));
    lines.push(("objects", summary.objects().to_string()));
    let [a, b, c, d] = summary.checksum;
    let checksum = format!("{a:016x}{b:016x}{c:016x}{d:016x}");
    lines.push(("fletcher-4", format!("{checksum}, as END says")));
    let counts = summary.counts.iter();
    let counted: String = counts
        .map(|(name, count)| match count.data_bytes {
            0 => format!("{:>10} {name}\n", count.records),
            bytes => format!("{:>10} {name}, {bytes} bytes\n", count.records),
        })
        .collect();
    let mut json = json_of(&summary.begin);
    let operations: BTreeMap<_, _> =
        summary.counts.iter().map(|(name, count)| (*name, count.records)).collect();
    let data: BTreeMap<_, _> = summary.counts.iter().map(|(name, count)| (*name, count.data_bytes)).collect();
    json.extend(object(json!({
        "list": summary.list.as_ref().map(ToString::to_string), "stream_bytes": bytes, "block_bytes": blocks,
        "objects": summary.objects(), "operations": operations, "data_bytes": data, "fletcher4": checksum,
    })));
    Counted { json, text: format!("ZFS stream\n{}{}", table(&lines), counted.trim_end_matches('\n')) }
}

/// Where a stream goes on that was broken off.
fn resume_point(list: &List) -> Option<(u64, u64)> {
    let number = |name| match list.get(name) {
        Some(nvlist::Value::Uint(number)) => Some(*number),
        _ => None,
    };
    Some((number("resume_object")?, number("resume_offset")?))
}

/// What a ZFS stream is, line by line.
fn lines_of(begin: &Begin) -> Vec<(&'static str, String)> {
    let guid = |guid: u64| format!("{} ({guid})", Guid::of_zfs(guid));
    let created =
        begin.created().map_or_else(|| format!("{} seconds", begin.creation), |time| time.to_string());
    vec![
        ("snapshot", escaped(&begin.to_name)),
        ("type", begin.kind.to_string()),
        ("guid", guid(begin.to_guid)),
        ("base", if begin.is_full() { "none: a full stream".into() } else { guid(begin.from_guid) }),
        ("created", created),
        ("features", begin.features.to_string()),
    ]
}

/// What a ZFS stream is, as members of a JSON object.
pub fn json_of(begin: &Begin) -> Map<String, Value> {
    object(json!({
        "snapshot": begin.to_name, "type": begin.kind, "guid": Guid::of_zfs(begin.to_guid),
        "base": (!begin.is_full()).then(|| Guid::of_zfs(begin.from_guid)),
        "created": begin.created(), "features": begin.features.names(), "flags": begin.flags.0,
    }))
}

/// Prints a stream's operations, one a line.
pub fn print_ops(backend: Backend, input: impl Read, name: &str, context: &Context) -> Result<()> {
    match backend {
        Backend::Btrfs => print_btrfs_ops(Parser::new(input), name, context),
        Backend::Zfs => print_zfs_ops(input, name, context),
        Backend::Overlay => print_layer_ops(input, name, context),
    }
}

fn print_btrfs_ops(mut parser: Parser<impl Read>, name: &str, context: &Context) -> Result<()> {
    let mut lines = Lines::new();
    while let Some(item) = parser.next_command().map_err(|error| stream_error("inspect", name, error))? {
        if !print_op(&mut lines, item.offset, item.command.name(), item.command, context)? {
            return Ok(());
        }
    }
    lines.finish()
}

fn print_zfs_ops(input: impl Read, name: &str, context: &Context) -> Result<()> {
    let failed = |error| zfs_error("inspect", name, error);
    let mut walker = Walker::open(input).map_err(failed)?;
    let mut lines = Lines::new();
    let begin = begin_line(&walker);
    let mut more = print_op(&mut lines, 0, "BEGIN", begin, context)?;
    while more {
        let Some(Located { offset, record, .. }) = walker.next_record().map_err(failed)? else {
            return lines.finish();
        };
        more = print_op(&mut lines, offset, record.name(), record, context)?;
    }
    Ok(())
}

fn begin_line<R: Read>(walker: &Walker<R>) -> String {
    let begin = walker.begin();
    let list = walker.list().map_or(String::new(), |list| format!(" list={list}"));
    format!(
        "BEGIN \"{}\" type={} guid={:016x} from={:016x} features={:x} flags={:x}{list}",
        begin.to_name.escape_debug(),
        begin.kind,
        begin.to_guid,
        begin.from_guid,
        begin.features.bits(),
        begin.flags.0,
    )
}

/// Prints one; `false` if nobody reads on.
fn print_op(lines: &mut Lines, offset: u64, op: &str, text: impl Display, context: &Context) -> Result<bool> {
    match context.json {
        true => lines.print(json!({ "offset": offset, "op": op, "text": text.to_string() })),
        false => lines.print(text),
    }
}
