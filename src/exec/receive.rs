//! Receives a container or a raw stream into a dataset, and takes down what was verified.

use std::io::{self, Cursor, Read};
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

use crate::endpoint::{self, Arrived, Dataset, Earlier, ReceiveRequest, Verified, btrfs, zfs};
use crate::exec::announced::{self, Announced};
use crate::exec::meter::Meter;
use crate::exec::{Event, Observe};
use crate::model::{Dates, Guid, SnapshotName, Version};
use crate::stream::container::{self, Backend, Sealed};
use crate::stream::reader::{Keys, Reader};
use crate::stream::sign::{PublicKey, Untrusted};
use crate::sys::interrupt::{self, Bell};
use crate::{Error, Result};

/// What was received.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Received {
    /// Where.
    pub dataset: String,
    /// What it is now.
    #[serde(flatten)]
    pub version: Version,
    /// What was set aside for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aside: Option<String>,
    /// What its dataset was made as a clone of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// What it builds upon; `None` if it was full.
    pub base: Option<Guid>,
    /// Bytes of the filesystem's stream.
    pub stream_bytes: u64,
    /// The plain blake3 of the filesystem's stream, hexadecimal.
    pub blake3: String,
    /// Whether that digest came with the stream and was right. A raw stream brings none.
    pub verified: bool,
    /// If that was the rest of a stream: how what came before it was checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earlier: Option<Earlier>,
    /// Who signed its container: each signature matches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signed_by: Vec<PublicKey>,
    /// How long it took.
    pub seconds: f64,
}

/// A stream whose beginning has been looked at.
pub struct Incoming {
    announced: Announced,
    body: Body,
    source: String,
    options: zfs::ReceiveOptions,
    bell: Option<Bell>,
    kept: Option<btrfs::Kept>,
    keep_every: Option<u64>,
    dates: Option<Dates>,
    must_be_signed: bool,
}

enum Body {
    Container(Box<Reader>),
    Raw(Box<dyn Read + Send>),
}

impl Incoming {
    /// Looks at the beginning of `input`, which errors call `source`. `name` goes before what the stream says.
    ///
    /// # Errors
    /// Bytes that are neither a container nor a raw stream of btrfs or ZFS; a raw stream whose snapshot's name can not be
    /// one here.
    pub fn open(input: impl Read + Send + 'static, source: &str, name: Option<SnapshotName>) -> Result<Self> {
        Self::open_by(input, source, name, &Keys::default())
    }

    /// As [`Self::open`], with what decrypts the container and says whose it must be: if none of the trusted signed it, nothing of it
    /// becomes visible, and nothing stays.
    ///
    /// # Errors
    /// As [`Self::open`]; a container that `keys` do not decrypt; if it must be signed, also a raw stream, or a container that is only the
    /// rest of a stream: nobody signed what came before it.
    pub fn open_by(
        input: impl Read + Send + 'static,
        source: &str,
        name: Option<SnapshotName>,
        keys: &Keys,
    ) -> Result<Self> {
        let mut input = input;
        let mut first = Vec::new();
        (&mut input)
            .take(announced::KIND_LEN)
            .read_to_end(&mut first)
            .map_err(|error| read_failed(source, error))?;
        match announced::raw_kind(&first) {
            Some(_) if keys.trusted.is_some() => {
                Err(container_failed(source, container::Error::Untrusted(Untrusted::Unsigned)))
            }
            Some(kind) => Self::open_raw(kind, first, input, source, name),
            None => Self::open_container(Cursor::new(first).chain(input), source, name, keys),
        }
    }

    /// The rest of a container, behind what is kept of it at its target.
    ///
    /// # Errors
    /// Bytes that are no container.
    pub fn resume(
        input: impl Read + Send + 'static,
        source: &str,
        name: Option<SnapshotName>,
        kept: btrfs::Kept,
    ) -> Result<Self> {
        let reader =
            Reader::resume(input, &kept.prefix()).map_err(|error| container_failed(source, error))?;
        Ok(Self { kept: Some(kept), ..Self::of_container(reader, source, name)? })
    }

    /// The rest of a container of ZFS, from the frame on in which `note` is; to [go on](Self::going_on) behind it.
    ///
    /// # Errors
    /// Bytes that are no container.
    pub fn behind(
        input: impl Read + Send + 'static,
        source: &str,
        name: Option<SnapshotName>,
        note: &zfs::Note,
    ) -> Result<Self> {
        let reader = Reader::resume(input, note.prefix()).map_err(|error| container_failed(source, error))?;
        Self::of_container(reader, source, name)
    }

    fn open_container(
        input: impl Read + Send + 'static,
        source: &str,
        name: Option<SnapshotName>,
        keys: &Keys,
    ) -> Result<Self> {
        let reader = Reader::open_by(input, keys, 0).map_err(|error| container_failed(source, error))?;
        let must_be_signed = keys.trusted.is_some();
        if must_be_signed && reader.header().zfs.as_ref().is_some_and(|zfs| zfs.resumes.is_some()) {
            let why = "it is the rest of a stream, and who signed the beginning can not be told".into();
            let hint = Some("send all of it once more, signed".into());
            return Err(endpoint::Error::Refused { op: "receive", subject: source.into(), why, hint }.into());
        }
        Ok(Self { must_be_signed, ..Self::of_container(reader, source, name)? })
    }

    fn of_container(reader: Reader, source: &str, name: Option<SnapshotName>) -> Result<Self> {
        let header = reader.header();
        let announced = Announced {
            container: true,
            backend: header.backend,
            dataset: Some(header.dataset.clone()),
            snapshot: name.unwrap_or_else(|| header.snapshot.clone()),
            guid: header.guid,
            base: header.base,
            created: Some(header.created),
        };
        Ok(Self {
            announced,
            body: Body::Container(Box::new(reader)),
            source: source.into(),
            options: Default::default(),
            bell: None,
            kept: None,
            keep_every: None,
            dates: None,
            must_be_signed: false,
        })
    }

    fn open_raw(
        kind: Backend,
        mut first: Vec<u8>,
        mut input: impl Read + Send + 'static,
        source: &str,
        name: Option<SnapshotName>,
    ) -> Result<Self> {
        let more = (&mut input).take(announced::first_len(kind)).read_to_end(&mut first);
        more.map_err(|error| read_failed(source, error))?;
        let announced = Announced::by_raw(kind, &first, source, name)?;
        let body = Body::Raw(Box::new(Cursor::new(first).chain(input)));
        let options = Default::default();
        let (source, bell, kept) = (source.into(), None, None);
        let (keep_every, dates, must_be_signed) = (None, None, false);
        Ok(Self { announced, body, source, options, bell, kept, keep_every, dates, must_be_signed })
    }

    /// What it says that it is.
    pub fn announced(&self) -> &Announced {
        &self.announced
    }

    /// To be received like this, where the target is ZFS.
    #[must_use]
    pub fn with(self, options: zfs::ReceiveOptions) -> Self {
        Self { options, ..self }
    }

    /// Keeping on btrfs what has come after each so many bytes of stream, so that it can [go on](Self::resume).
    #[must_use]
    pub fn keeping(self, every: u64) -> Self {
        Self { keep_every: Some(every), ..self }
    }

    /// Going on, where the target is ZFS, with what a receive of it that was broken off has left, and leaving the same if it is broken off.
    #[must_use]
    pub fn going_on(mut self, go_on: zfs::GoOn) -> Self {
        self.options.keep_no_partial = false;
        self.options.go_on = Some(go_on);
        self
    }

    /// Believing no date but these.
    #[must_use]
    pub fn dated(self, dates: Dates) -> Self {
        Self { dates: Some(dates), ..self }
    }

    /// With the bell that ends its input's wait for more.
    #[must_use]
    pub fn until(self, bell: Bell) -> Self {
        Self { bell: Some(bell), ..self }
    }

    /// Whether `target` is of the filesystem that it was sent by.
    ///
    /// # Errors
    /// [`endpoint::Error::Foreign`] if not.
    pub fn expect_for(&self, target: &Dataset) -> Result<()> {
        let Self { announced, source, .. } = self;
        let backend = target.backend("receive")?;
        if announced.backend == backend {
            return Ok(());
        }
        let of = announced.dataset.as_deref().unwrap_or("a dataset").escape_debug();
        let subject = format!("the stream of {of}@{} in {source}", announced.snapshot);
        let why = format!("it was sent by {}, and {target} is on {backend}", announced.backend);
        let hint = Some(match announced.backend {
            Backend::Overlay => "cowsnap overlay import FILE".into(),
            sent_by => format!("receive it into a {sent_by} dataset"),
        });
        let wanted = match backend {
            Backend::Btrfs => "btrfs stream",
            Backend::Zfs => "ZFS stream",
            Backend::Overlay => "layer",
        };
        Err(endpoint::Error::Foreign { subject, wanted, why, hint }.into())
    }

    /// Hands its bytes to `take`, which reads them to their end; those of a container once each of them was verified. What is done is called
    /// `subject`.
    ///
    /// # Errors
    /// As [`Incoming::receive`].
    pub fn hand_to<T>(
        self,
        subject: &str,
        observe: &dyn Observe,
        take: impl FnOnce(&mut dyn Read) -> endpoint::Result<T>,
    ) -> Result<T> {
        let Self { body, source, .. } = self;
        observe.observe(Event::Started { op: "restore", subject: subject.into(), total: None });
        let mut stream = match body {
            Body::Container(reader) => Meter::new(reader as Box<dyn Read + Send>, observe),
            Body::Raw(stream) => Meter::new(stream, observe),
        };
        let taken = take(&mut stream).map_err(|error| failed(subject, &source, error))?;
        observe.observe(Event::Finished { bytes: stream.passed() });
        Ok(taken)
    }

    /// Applies it to `target`. Nothing becomes visible there before all of it was checked.
    ///
    /// # Errors
    /// What `target` says; a stream that is not what it was; [`endpoint::Error::Interrupted`] after a signal.
    pub fn receive(self, target: &Dataset, observe: &dyn Observe) -> Result<Received> {
        let start = Instant::now();
        self.expect_for(target)?;
        let Self { announced, body, source, mut options, bell, kept, keep_every, dates, must_be_signed } =
            self;
        // What is kept of a stream that was broken off would be gone on from, and nobody signed it.
        options.keep_no_partial |= must_be_signed;
        let keep = match &body {
            Body::Container(reader) => {
                keep_every.map(|every| btrfs::Keeping { marks: reader.marks(), every })
            }
            Body::Raw(_) => None,
        };
        let (created, undue) = created(&announced, dates);
        if let Some(text) = undue {
            observe.observe(Event::Warning { text });
        }
        let request = ReceiveRequest { bell, keep, created, dates, ..request(&announced, &body, options) };
        let subject = format!("{target}@{}", request.name);
        observe.observe(Event::Started { op: "receive", subject: subject.clone(), total: None });
        let (arrived, checked) = match body {
            Body::Container(reader) => receive_verified(*reader, kept, target, &request, observe),
            Body::Raw(stream) => receive_raw(stream, target, &request, observe),
        }
        .map_err(|error| failed(&subject, &source, error))?;
        observe.observe(Event::Finished { bytes: checked.len });
        for text in arrived.warnings {
            observe.observe(Event::Warning { text });
        }
        Ok(Received {
            dataset: target.to_string(),
            version: arrived.version,
            aside: arrived.aside,
            origin: arrived.origin,
            base: announced.base,
            stream_bytes: checked.len,
            blake3: checked.root.to_hex().to_string(),
            verified: checked.by_container,
            earlier: arrived.earlier,
            signed_by: checked.signed_by,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// When it was made, as far as that is believed, and what is to be said if it is not. What ZFS makes of a stream has the date that is in it:
/// there it is refused, where the stream itself is read.
fn created(announced: &Announced, dates: Option<Dates>) -> (Option<Timestamp>, Option<String>) {
    let (Some(said), Some(dates)) = (announced.created, dates) else { return (announced.created, None) };
    match dates.check(said) {
        Err(undue) if announced.backend == Backend::Btrfs => {
            let text = format!(
                "@{}: {undue}; it is dated when it was received, as this key can only add",
                announced.snapshot
            );
            (Some(Timestamp::now()), Some(text))
        }
        _ => (Some(said), None),
    }
}

fn request(announced: &Announced, body: &Body, options: zfs::ReceiveOptions) -> ReceiveRequest {
    let header = match body {
        Body::Container(reader) => Some(reader.header()),
        Body::Raw(_) => None,
    };
    ReceiveRequest {
        name: announced.snapshot.clone(),
        guid: Some(announced.guid),
        base: announced.base,
        properties: header.map(|header| header.properties.clone()).unwrap_or_default(),
        stream: header.and_then(|header| header.zfs.clone()),
        place: header.and_then(|header| header.place),
        created: announced.created,
        dates: None,
        is_verified: header.is_some(),
        zfs: options,
        keep: None,
        bell: None,
    }
}

/// The digest of what was applied.
struct Checked {
    root: blake3::Hash,
    len: u64,
    by_container: bool,
    signed_by: Vec<PublicKey>,
}

fn receive_verified(
    reader: Reader,
    kept: Option<btrfs::Kept>,
    target: &Dataset,
    request: &ReceiveRequest,
    observe: &dyn Observe,
) -> Result<(Arrived, Checked), endpoint::Error> {
    let mut stream = Meter::new(reader, observe);
    let arrived = target.receive_checked(request, kept, &mut stream, |stream| {
        let &Sealed { root, len, .. } = sealed(stream.inner());
        let (blake3, at) = (root.to_hex().to_string(), Timestamp::now());
        Some(Verified {
            blake3,
            base: request.base,
            len,
            at,
            earlier: None,
            grounded: request.base.is_none(),
            from: None,
            upon: None,
        })
    })?;
    let &Sealed { root, len, .. } = sealed(stream.inner());
    let signed_by = stream.inner().signers().to_vec();
    Ok((arrived, Checked { root, len, by_container: true, signed_by }))
}

fn sealed(reader: &Reader) -> &Sealed {
    reader.sealed().expect("a receive reads to the end, which there is not before the trailer")
}

fn receive_raw(
    stream: Box<dyn Read + Send>,
    target: &Dataset,
    request: &ReceiveRequest,
    observe: &dyn Observe,
) -> Result<(Arrived, Checked), endpoint::Error> {
    let mut stream = Hashing { inner: Meter::new(stream, observe), hasher: blake3::Hasher::new() };
    let arrived = target.receive_checked(request, None, &mut stream, |_| None)?;
    let (root, len) = (stream.hasher.finalize(), stream.hasher.count());
    Ok((arrived, Checked { root, len, by_container: false, signed_by: Vec::new() }))
}

struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buf)?;
        self.hasher.update(&buf[..len]);
        Ok(len)
    }
}

fn interrupted(subject: &str) -> Error {
    endpoint::Error::Interrupted { op: "receive", subject: subject.into() }.into()
}

fn read_failed(source: &str, error: io::Error) -> Error {
    match interrupt::is_interrupt(&error) {
        true => interrupted(source),
        false => Error::io("read", source)(error),
    }
}

fn container_failed(source: &str, error: container::Error) -> Error {
    match error {
        container::Error::Read { source: cause, .. } if interrupt::is_interrupt(&cause) => {
            interrupted(source)
        }
        error => Error::container("receive", source)(error),
    }
}

/// Says what a failed receive comes from: a signal, the container, or else the target.
fn failed(subject: &str, source: &str, error: endpoint::Error) -> Error {
    if interrupt::pending().is_some() {
        return interrupted(subject);
    }
    match error {
        endpoint::Error::Io { op, subject, source: cause } => match container::Error::from_io(cause) {
            Ok(of_the_container) => container_failed(source, of_the_container),
            Err(cause) => endpoint::Error::Io { op, subject, source: cause }.into(),
        },
        other => other.into(),
    }
}
