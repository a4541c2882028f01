//! `cowsnap stream inspect`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{len_of, name_of, open, stream_error};
use crate::cli::Context;
use crate::model::quoted;
use crate::stream::btrfs::{Command, MAGIC as BTRFS_MAGIC, Parser};
use crate::stream::container::{self, Backend, Header, Kind, Sealed, VERSION};
use crate::stream::reader::{Frames, Reader, Source, Step, trailer_of};
use crate::sys::interrupt;
use crate::{Error, Result};

/// Show what a container or a raw btrfs stream holds
///
/// Of a file, only the header and the trailer of a container are read and checked; `stream verify` checks all of it. From a pipe,
/// and with --frames or --ops, all is read and verified.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container or raw stream; - for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// List the stream's operations, one a line
    #[arg(long, conflicts_with = "frames")]
    ops: bool,
    /// List the container's frames, one a line
    #[arg(long)]
    frames: bool,
}

type Input = BufReader<interrupt::Input<File>>;

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let name = name_of(&args.file);
    let mut input = BufReader::with_capacity(1 << 20, open(&args.file)?);
    let raw = input.fill_buf().map_err(Error::io("read", &name))?.starts_with(BTRFS_MAGIC);
    match (args.ops, args.frames) {
        (true, _) if raw => print_ops(Parser::new(input), &name, context),
        (true, _) => print_container_ops(input, &name, context),
        (_, true) => print_frames(input, &name, context),
        _ if raw => print_raw(Parser::new(input), &name, context),
        _ => print_container(input, &name, context),
    }
}

fn print_container(input: Input, name: &str, context: &Context) -> Result<()> {
    let failed = |error| Error::container("inspect", name)(error);
    let (header, sealed, verified) = match len_of(&input.get_ref().0) {
        Some(len) => {
            let (header, sealed) = ends(&input.get_ref().0, len).map_err(failed)?;
            (header, sealed, false)
        }
        None => {
            let mut reader = Reader::open(input).map_err(failed)?;
            let sealed = reader.verify(|_| {}).map_err(failed)?;
            (reader.header().clone(), sealed, true)
        }
    };
    context.print(&to_json(&header, &sealed, verified), to_text(&header, &sealed, verified, name))
}

/// What the two ends of a file say: header and trailer, checked; nothing between them is read.
fn ends(file: &File, len: u64) -> container::Result<(Header, Sealed)> {
    let (_, header, key) = Source::open(BufReader::new(Positioned { file, at: 0 }))?;
    let from = len.saturating_sub(container::MAX_TRAILER_LEN as u64 + 1024);
    let mut end = Vec::new();
    let mut rest = Positioned { file, at: from }.take(len - from);
    rest.read_to_end(&mut end).map_err(|source| container::Error::Read { at: from, source })?;
    Ok((header, trailer_of(&end, len, &key)?))
}

/// Reads a file without moving its offset.
struct Positioned<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buffer, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

fn ratio(sealed: &Sealed) -> f64 {
    sealed.len as f64 / sealed.container_len as f64
}

fn to_json(header: &Header, sealed: &Sealed, verified: bool) -> Value {
    json!({
        "kind": "container", "format_version": VERSION, "header": header, "stream_bytes": sealed.len,
        "frames": sealed.frames, "container_bytes": sealed.container_len, "ratio": ratio(sealed),
        "blake3": sealed.root.to_hex().as_str(), "verified": verified,
    })
}

fn to_text(header: &Header, sealed: &Sealed, verified: bool, name: &str) -> String {
    let base = header.base.map_or("none: a full stream".into(), |base| base.to_string());
    let kind = if header.compressed { ", may carry compressed data" } else { "" };
    let mut lines = vec![
        ("container", format!("version {VERSION}, {} bytes", sealed.container_len)),
        ("backend", format!("{}, stream version {}{kind}", header.backend, header.stream_version)),
        ("dataset", escaped(&header.dataset)),
        ("snapshot", header.snapshot.to_string()),
        ("guid", header.guid.to_string()),
        ("base", base),
        ("created", header.created.to_string()),
    ];
    for (key, value) in &header.properties {
        lines.push(("property", format!("{}={}", escaped(key), escaped(value))));
    }
    let frames = format!("{} bytes in {} frames, ratio {:.2}", sealed.len, sealed.frames, ratio(sealed));
    lines.push(("stream", frames));
    lines.push(("blake3", sealed.root.to_hex().to_string()));
    lines.push(match verified {
        true => ("verified", "every byte".into()),
        false => {
            let rest = format!("cowsnap stream verify {}", quoted(name));
            ("verified", format!("header and trailer; all of it: {rest}"))
        }
    });
    lines.iter().fold(String::new(), |mut text, (key, value)| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{key:<10} {value}");
        text
    })
}

/// Without what would move a terminal's cursor.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

/// Standard output for many lines. A pipe that was closed ends it, and is no error.
struct Lines(BufWriter<io::StdoutLock<'static>>);

impl Lines {
    fn new() -> Self {
        Self(BufWriter::with_capacity(64 << 10, io::stdout().lock()))
    }

    /// Prints a line; `false` if nobody reads on.
    fn print(&mut self, line: impl std::fmt::Display) -> Result<bool> {
        still_read(writeln!(self.0, "{line}"))
    }

    fn finish(mut self) -> Result<()> {
        still_read(self.0.flush()).map(drop)
    }
}

fn still_read(written: io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::io("write to", "standard output")(error)),
    }
}

fn print_frames(input: Input, name: &str, context: &Context) -> Result<()> {
    let failed = |error| Error::container("inspect", name)(error);
    let mut frames = Frames::open(input).map_err(failed)?;
    let mut lines = Lines::new();
    loop {
        let frame = match frames.step().map_err(failed)? {
            Step::Frame(frame) => frame,
            Step::End(_) => return lines.finish(),
        };
        let kind = if frame.kind == Kind::Stored { "stored" } else { "zstd" };
        let (place, len, payload) = (frame.place, frame.bytes().len(), frame.payload_len);
        let value = json!({
            "frame": place.frame, "offset": place.offset, "at": place.at, "kind": kind, "bytes": len,
            "payload_bytes": payload,
        });
        let text =
            format!("{:>8} offset={} at={} {kind} {len} -> {payload}", place.frame, place.offset, place.at);
        if !lines.print(if context.json { value.to_string() } else { text })? {
            return Ok(());
        }
        frames.recycle(frame);
    }
}

fn print_container_ops(input: Input, name: &str, context: &Context) -> Result<()> {
    let reader = Reader::open(input).map_err(Error::container("inspect", name))?;
    match reader.header().backend {
        Backend::Btrfs => print_ops(Parser::new(reader), name, context),
        other => {
            let what = format!("the operations of {other} streams can not be listed");
            Err(Error::Usage { what, hint: None })
        }
    }
}

fn print_ops(mut parser: Parser<impl Read>, name: &str, context: &Context) -> Result<()> {
    let mut lines = Lines::new();
    while let Some(item) = parser.next_command().map_err(|error| stream_error("inspect", name, error))? {
        let more = match context.json {
            true => lines.print(json!({
                "offset": item.offset, "op": item.command.name(), "text": item.command.to_string(),
            }))?,
            false => lines.print(item.command)?,
        };
        if !more {
            return Ok(());
        }
    }
    lines.finish()
}

fn print_raw(mut parser: Parser<impl Read>, name: &str, context: &Context) -> Result<()> {
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
    let value =
        json!({ "kind": "btrfs", "stream_version": version, "subvolumes": subvolumes, "operations": counts });
    let mut text = subvolumes.join("\n");
    for (op, count) in &counts {
        // Writing to a String does not fail.
        let _ = write!(text, "\n{count:>10} {op}");
    }
    context.print(&value, format!("raw btrfs stream, version {version}\n{text}"))
}
