//! `cowsnap stream inspect`

use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::content::{self, Counted, count, print_ops};
use super::lines::{Lines, escaped, table};
use super::{len_of, name_of, open, zfs_error};
use crate::cli::Context;
use crate::cli::keys::ReadArgs;
use crate::endpoint;
use crate::exec::announced::{KIND_LEN, raw_kind};
use crate::model::{Guid, quoted};
use crate::stream::container::{self, Backend, Header, Kind, Sealed, VERSION};
use crate::stream::crypt::Envelope;
use crate::stream::reader::{Checks, Frames, Keys, Outline, Reader, Source, Step, trailer_of};
use crate::stream::zfs::{self, Begin, RECORD_LEN};
use crate::sys::interrupt;
use crate::{Error, Result};

/// Show what a container or a raw stream holds
///
/// Of a container in a file, only the header, the trailer and (ZFS) the stream's first record are read and checked; `stream
/// verify` checks all of it. From a pipe, of a raw stream, and with --count, --frames or --ops, all is read and verified. What is encrypted
/// shows what it holds to who has an --identity.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container or raw stream; - for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Read all of it, and count the stream's operations by kind
    #[arg(long, conflicts_with_all = ["ops", "frames"])]
    count: bool,
    /// List the stream's operations, one a line
    #[arg(long, conflicts_with = "frames")]
    ops: bool,
    /// List the container's frames, one a line
    #[arg(long)]
    frames: bool,
    #[command(flatten)]
    keys: ReadArgs,
}

/// What has been read to tell the kind, and the rest.
type Input = Chain<Cursor<Vec<u8>>, BufReader<interrupt::Input<File>>>;

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let name = name_of(&args.file);
    let keys = args.keys.keys()?;
    let mut input = BufReader::with_capacity(1 << 20, open(&args.file)?);
    let mut first = Vec::new();
    (&mut input).take(KIND_LEN).read_to_end(&mut first).map_err(Error::io("read", &name))?;
    let raw = raw_kind(&first);
    let input = Cursor::new(first).chain(input);
    match (args.ops, args.frames, raw) {
        (true, _, Some(backend)) => print_ops(backend, input, &name, context),
        (true, _, None) => {
            let reader = Reader::open_by(input, &keys, 0).map_err(Error::container("inspect", &name))?;
            print_ops(reader.header().backend, reader, &name, context)
        }
        (_, true, _) => print_frames(input, &keys, &name, context),
        (_, _, Some(backend)) => print_raw(backend, input, &name, context),
        _ => print_container(input, args.count, &keys, &name, context),
    }
}

fn print_raw(backend: Backend, input: Input, name: &str, context: &Context) -> Result<()> {
    let mut counted = count(backend, input, name)?;
    counted.json.insert("kind".into(), backend.as_str().into());
    context.print(&counted.json, format!("raw {}", counted.text))
}

/// What is known of a container.
struct Found {
    header: Header,
    outline: Outline,
    recipients: Option<usize>, // If it is encrypted.
    begin: Option<Begin>,      // Of a ZFS stream.
    counted: Option<Counted>,  // If that was asked for.
    verified: bool,            // All of it, not only its ends.
}

fn print_container(input: Input, counts: bool, keys: &Keys, name: &str, context: &Context) -> Result<()> {
    let file = &input.get_ref().1.get_ref().0;
    let found = match len_of(file).filter(|_| !counts) {
        Some(len) => ends(file, len, keys, name)?,
        None => whole(input, counts, keys, name)?,
    };
    context.print(&to_json(&found), to_text(&found, name))
}

/// What the two ends of a file say, checked; nothing between them is read.
fn ends(file: &File, len: u64, keys: &Keys, name: &str) -> Result<Found> {
    let failed = |error| Error::container("inspect", name)(error);
    let start = || BufReader::new(Positioned { file, at: 0 });
    let (source, header, hash) = Source::open(start()).map_err(failed)?;
    let envelope = source.envelope();
    let is_shut = envelope.is_some() && keys.identities.is_empty();
    let checks = match is_shut {
        true => Checks::of_seals(hash, envelope, keys),
        false => Checks::of(hash, envelope, keys).map_err(failed)?,
    };
    let from = len.saturating_sub(container::MAX_TRAILER_LEN as u64 + 1024);
    let mut end = Vec::new();
    let mut rest = Positioned { file, at: from }.take(len - from);
    let read = rest.read_to_end(&mut end);
    read.map_err(|source| failed(container::Error::Read { at: from, source }))?;
    let outline = trailer_of(&end, len, &checks).map_err(failed)?;
    let first = || Frames::open_by(start(), keys).and_then(|mut frames| frames.step()).map_err(failed);
    let begin = match header.backend {
        Backend::Zfs if !is_shut => match first()? {
            Step::Frame(frame) => Some(begin_of(&header, frame.bytes(), name)?),
            Step::End(_) => Some(begin_of(&header, &[], name)?),
        },
        _ => None,
    };
    let recipients = envelope.map(Envelope::recipients);
    Ok(Found { header, outline, recipients, begin, counted: None, verified: false })
}

/// What all of it says, checked.
fn whole(input: Input, counts: bool, keys: &Keys, name: &str) -> Result<Found> {
    let failed = |error| Error::container("inspect", name)(error);
    let mut input = Noted { input, bytes: Vec::new() };
    let recipients = {
        let (source, ..) = Source::open(&mut input).map_err(failed)?;
        source.envelope().map(Envelope::recipients)
    };
    let input = Cursor::new(input.bytes).chain(input.input);
    if recipients.is_some() && keys.identities.is_empty() && !counts {
        let (header, outline) = Reader::outline(input, keys, |_| {}).map_err(failed)?;
        return Ok(Found { header, outline, recipients, begin: None, counted: None, verified: true });
    }
    let mut reader = Reader::open_by(input, keys, 0).map_err(failed)?;
    let header = reader.header().clone();
    let mut first = Vec::new();
    if header.backend == Backend::Zfs {
        let mut record = (&mut reader).take(RECORD_LEN as u64);
        record.read_to_end(&mut first).map_err(|error| super::read_error("inspect", name, error))?;
    }
    let begin = match header.backend {
        Backend::Btrfs | Backend::Overlay => None,
        Backend::Zfs => Some(begin_of(&header, &first, name)?),
    };
    let counted = match counts {
        true => Some(count(header.backend, Cursor::new(first).chain(&mut reader), name)?),
        false => None,
    };
    let Sealed { root, len, frames, container_len } = reader.verify(|_| {}).map_err(failed)?;
    let signers = reader.signers().to_vec();
    let outline = Outline { frames, len, container_len, root: Some(root), signers };
    Ok(Found { header, outline, recipients, begin, counted, verified: true })
}

/// Keeps what is read, to be read once more.
struct Noted<R> {
    input: R,
    bytes: Vec<u8>,
}

impl<R: Read> Read for Noted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(buffer)?;
        self.bytes.extend_from_slice(&buffer[..len]);
        Ok(len)
    }
}

/// The first record of a ZFS stream, of the snapshot that the header names.
fn begin_of(header: &Header, stream: &[u8], name: &str) -> Result<Begin> {
    let failed = |error| zfs_error("inspect", name, error);
    let begin = stream.first_chunk().map_or(Err(zfs::Error::Magic), Begin::parse).map_err(failed)?;
    let guids = (Guid::of_zfs(begin.to_guid), (!begin.is_full()).then(|| Guid::of_zfs(begin.from_guid)));
    match guids == (header.guid, header.base) {
        true => Ok(begin),
        false => Err(Error::Endpoint(endpoint::Error::Corrupt {
            what: "ZFS stream",
            why: format!("{name}: the container's header names another snapshot or base than the stream"),
            source: None,
        })),
    }
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

fn ratio(outline: &Outline) -> f64 {
    outline.len as f64 / outline.container_len as f64
}

fn to_json(found: &Found) -> Value {
    let Found { header, outline, recipients, begin, counted, verified } = found;
    let mut value = json!({
        "kind": "container", "format_version": VERSION, "header": header, "stream_bytes": outline.len,
        "frames": outline.frames, "container_bytes": outline.container_len, "ratio": ratio(outline),
        "blake3": outline.root.map(|root| root.to_hex().to_string()), "verified": verified,
        "signed_by": outline.signers, "recipients": recipients,
    });
    if let Some(begin) = begin {
        value["begin"] = content::json_of(begin).into();
    }
    if let Some(counted) = counted {
        value["content"] = counted.json.clone().into();
    }
    value
}

fn to_text(found: &Found, name: &str) -> String {
    let Found { header, outline, recipients, begin, counted, verified } = found;
    let base = header.base.map_or("none: a full stream".into(), |base| base.to_string());
    let kind = if header.compressed { ", may carry compressed data" } else { "" };
    let mut lines = vec![
        ("container", format!("version {VERSION}, {} bytes", outline.container_len)),
        ("backend", format!("{}, stream version {}{kind}", header.backend, header.stream_version)),
        ("dataset", escaped(&header.dataset)),
        ("snapshot", header.snapshot.to_string()),
        ("guid", header.guid.to_string()),
        ("base", base),
        ("created", header.created.to_string()),
    ];
    if let Some(begin) = begin {
        lines.push(("type", begin.kind.to_string()));
        lines.push(("features", begin.features.to_string()));
    }
    if let Some(zfs) = &header.zfs {
        lines.push(("sent as", zfs.flags.to_string()));
        if let Some(at) = zfs.resumes {
            lines.push(("resumes", format!("object {}, offset {}", at.object, at.offset)));
        }
        if !zfs.release.is_empty() {
            lines.push(("OpenZFS", escaped(&zfs.release)));
        }
    }
    for (key, value) in &header.properties {
        lines.push(("property", format!("{}={}", escaped(key), escaped(value))));
    }
    let frames = format!("{} bytes in {} frames, ratio {:.2}", outline.len, outline.frames, ratio(outline));
    lines.push(("stream", frames));
    if let Some(recipients) = recipients {
        lines.push(("encrypted", format!("for {recipients} recipients")));
    }
    let root = outline.root.map_or("encrypted".into(), |root| root.to_hex().to_string());
    lines.push(("blake3", root));
    lines.extend(outline.signers.iter().map(|signer| ("signed by", signer.to_string())));
    lines.push(match verified {
        true if outline.root.is_none() => ("verified", "every seal".into()),
        true => ("verified", "every byte".into()),
        false => {
            let rest = format!("cowsnap stream verify {}", quoted(name));
            ("verified", format!("header and trailer; all of it: {rest}"))
        }
    });
    let counted = counted.as_ref().map_or("", |counted| &counted.text);
    format!("{}{counted}", table(&lines))
}

fn print_frames(input: Input, keys: &Keys, name: &str, context: &Context) -> Result<()> {
    let failed = |error| Error::container("inspect", name)(error);
    let mut frames = Frames::open_by(input, keys).map_err(failed)?;
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
