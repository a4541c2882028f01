//! Sends a version as a container, or as the filesystem's own stream.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use crate::endpoint::{self, Endpoint, Outgoing, SendRequest};
use crate::exec::meter::Meter;
use crate::exec::{Event, Observe};
use crate::model::{Guid, Inventory, SnapshotName};
use crate::stream::container::{self, Backend, Header, Prefix};
use crate::stream::fan::{self, Branch, Taker};
use crate::stream::writer::{self, Protection};
use crate::sys::interrupt;
use crate::{Error, Result};

/// What the bytes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A container, compressed and verifiable.
    Container(writer::Options),
    /// Exactly what the filesystem makes.
    Raw,
}

/// What to send, in which form.
#[derive(Debug)]
pub struct Job<'a> {
    /// The source's versions; the request's are among them.
    pub inventory: &'a Inventory,
    /// Whose stream it is.
    pub backend: Backend,
    /// What to send.
    pub request: &'a SendRequest,
    /// In which form.
    pub form: Form,
    /// What the receiver has of it already: only the rest is written, which is a container for nobody else.
    pub behind: Option<&'a Prefix>,
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sent {
    /// Whose version.
    pub dataset: String,
    /// Its name.
    pub snapshot: SnapshotName,
    /// Its identity.
    pub guid: Guid,
    /// What the stream builds upon; `None` if it is full.
    pub base: Option<Guid>,
    /// Bytes of the filesystem's stream.
    pub stream_bytes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// The plain blake3 of the filesystem's stream, hexadecimal.
    pub blake3: String,
    /// How long it took.
    pub seconds: f64,
}

/// Sends to `out`, flushed at the end. After an error, `out` holds what no reader takes for whole.
///
/// # Errors
/// What the endpoint says; a container that can not carry it; an output that fails;
/// [`endpoint::Error::Interrupted`] after a signal.
pub fn send(
    source: &dyn Endpoint,
    job: &Job<'_>,
    out: impl Write + Send,
    observe: &dyn Observe,
) -> Result<Sent> {
    send_protected(source, job, &Protection::default(), out, observe)
}

/// As [`send()`], a container that is encrypted and signed as `protection` says.
///
/// # Errors
/// As [`send()`]; a raw stream or the rest of a container, which can be neither.
pub fn send_protected(
    source: &dyn Endpoint,
    job: &Job<'_>,
    protection: &Protection,
    out: impl Write + Send,
    observe: &dyn Observe,
) -> Result<Sent> {
    if !protection.is_none() && (job.form == Form::Raw || job.behind.is_some()) {
        let what = "only a whole container can be encrypted or signed".into();
        return Err(Error::Usage { what, hint: None });
    }
    sent(source, job, observe, |header, stream| match job.form {
        Form::Container(options) => {
            let sealed = match job.behind {
                Some(prefix) => writer::write_rest(header, stream, prefix, out, &options)?,
                None => writer::write_protected(header, stream, out, &options, protection)?,
            };
            Ok((sealed.len, sealed.container_len, sealed.root))
        }
        Form::Raw => copy_hashed(stream, out),
    })
}

/// Sends a container to all of `branches`, each behind what it has: the source is read once. What `job` says of form and beginning is not
/// looked at.
///
/// # Errors
/// As [`send()`]; an output that fails is a broken pipe, once all have.
pub fn send_to_all<T: Taker + Send>(
    source: &dyn Endpoint,
    job: &Job<'_>,
    branches: Vec<Branch<T>>,
    options: &writer::Options,
    observe: &dyn Observe,
) -> Result<Sent> {
    sent(source, job, observe, |header, stream| {
        let sealed = fan::write(header, stream, branches, options)?;
        Ok((sealed.len, sealed.container_len, sealed.root))
    })
}

type Stream<'a> = Meter<'a, Box<dyn Read + Send>>;

fn sent<'a>(
    source: &dyn Endpoint,
    job: &Job<'_>,
    observe: &'a dyn Observe,
    write: impl FnOnce(&Header, Stream<'a>) -> Result<(u64, u64, blake3::Hash), container::Error>,
) -> Result<Sent> {
    let start = Instant::now();
    let version = &job.request.version;
    let subject = format!("{}@{}", job.inventory.dataset, version.name);
    let created = created(job, &subject)?;
    let outgoing = source.send(job.request)?;
    let header = header(job, created, &outgoing);
    observe.observe(Event::Started { op: "send", subject: subject.clone(), total: outgoing.estimate });
    let stream = Meter::new(outgoing.stream, observe);
    let (len, written, root) = write(&header, stream).map_err(|error| failed(&subject, error))?;
    observe.observe(Event::Finished { bytes: len });
    Ok(Sent {
        dataset: header.dataset,
        snapshot: header.snapshot,
        guid: header.guid,
        base: header.base,
        stream_bytes: len,
        written_bytes: written,
        blake3: root.to_hex().to_string(),
        seconds: at_least_a_tick(start.elapsed()),
    })
}

/// Seconds, never so few that a rate could not be told from them.
fn at_least_a_tick(elapsed: Duration) -> f64 {
    elapsed.max(Duration::from_micros(1)).as_secs_f64()
}

fn created(job: &Job<'_>, subject: &str) -> Result<Timestamp> {
    let version = job.inventory.by_guid(job.request.version.guid);
    version.map(|version| version.created).ok_or_else(|| {
        endpoint::Error::NotFound { what: "snapshot", subject: subject.into(), hint: None }.into()
    })
}

fn header(job: &Job<'_>, created: Timestamp, outgoing: &Outgoing) -> Header {
    let SendRequest { version, base, stream_version, compressed, .. } = job.request;
    let zfs = outgoing.zfs.clone();
    Header {
        backend: job.backend,
        dataset: job.inventory.dataset.clone(),
        snapshot: version.name.clone(),
        guid: version.guid,
        base: base.as_ref().map(|base| base.guid),
        created,
        stream_version: (*stream_version).max(if *compressed { 2 } else { 1 }),
        compressed: zfs.as_ref().map_or(*compressed, |zfs| zfs.flags.compressed),
        properties: outgoing.properties.clone(),
        zfs,
        place: outgoing.place,
    }
}

/// Copies and hashes: bytes read, bytes written, their blake3.
fn copy_hashed(
    mut stream: impl Read,
    mut out: impl Write,
) -> Result<(u64, u64, blake3::Hash), container::Error> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; container::FRAME_LEN];
    let mut at = 0;
    loop {
        let len = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(container::Error::Read { at, source }),
        };
        out.write_all(&buffer[..len]).map_err(|source| container::Error::Write { at, source })?;
        hasher.update(&buffer[..len]);
        at += len as u64;
    }
    out.flush().map_err(|source| container::Error::Write { at, source })?;
    Ok((at, at, hasher.finalize()))
}

/// Says what a failed transfer comes from: a signal, the sender, the output, or else the container.
fn failed(subject: &str, error: container::Error) -> Error {
    if interrupt::pending().is_some() {
        return endpoint::Error::Interrupted { op: "send", subject: subject.into() }.into();
    }
    match error {
        container::Error::Read { at, source } => match source.downcast::<endpoint::Error>() {
            Ok(of_the_sender) => of_the_sender.into(),
            Err(source) => Error::container("send", subject)(container::Error::Read { at, source }),
        },
        container::Error::Write { source, .. } => Error::io("write the stream of", subject)(source),
        other => Error::container("send", subject)(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_stream_is_copied_as_it_is_and_hashed() {
        let stream = vec![7; 3 << 20];
        let mut out = Vec::new();
        let (read, written, root) = copy_hashed(&stream[..], &mut out).unwrap();
        assert!(out == stream);
        assert_eq!((read, written, root), (3 << 20, 3 << 20, blake3::hash(&stream)));
    }

    #[test]
    fn what_the_sender_says_is_not_wrapped_in_what_the_container_says() {
        let denied = endpoint::Error::Io {
            op: "send",
            subject: "x@y".into(),
            source: io::Error::from_raw_os_error(libc::EPERM),
        };
        let error = failed("x@y", container::Error::Read { at: 0, source: io::Error::other(denied) });
        assert_eq!(error.class(), crate::Class::Denied);
        assert_eq!(error.to_string(), "cannot send x@y");
    }
}
