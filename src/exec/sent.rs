//! Writes down what a version was sent as, where the version is: so that what a target received can be held against it.

use jiff::Timestamp;

use crate::Class;
use crate::endpoint::Dataset;
use crate::exec::send::Sent;
use crate::exec::transfer::{Moved, Place};
use crate::exec::{Event, Observe};
use crate::model::{HoldTag, SentStream, StreamDigest, VersionRef};

/// Notes the stream that `version` of `dataset` was sent as, and the tag that stands for where it went, if that is known.
///
/// The stream has been sent: where this can not be written, it is said, and no more. Who may not write there at all has nothing to be
/// told of.
pub fn note(
    dataset: &Dataset,
    version: &VersionRef,
    stream: StreamDigest,
    to: Option<HoldTag>,
    observe: &dyn Observe,
) {
    let sent = SentStream { stream, at: Timestamp::now(), to };
    let Err(error) = dataset.note_sent(version, sent) else { return };
    let text = format!(
        "the digest of {dataset}@{} is not kept with it, for verify to compare: {error}",
        version.name
    );
    match error.class() {
        Class::Denied => tracing::info!("{text}"),
        _ => observe.observe(Event::Warning { text }),
    }
}

/// The stream that was brought from one place to another, which `to` stands for. A peer notes what it sends by itself.
pub fn note_moved(from: &Place, moved: &Moved, to: &HoldTag, observe: &dyn Observe) {
    let (Place::Here(dataset), Ok(blake3)) = (from, moved.blake3.parse()) else { return };
    let version = VersionRef { guid: moved.guid, name: moved.snapshot.clone() };
    let stream = StreamDigest { blake3, base: moved.base, len: moved.stream_bytes };
    note(dataset, &version, stream, Some(to.clone()), observe);
}

/// The stream that was sent to who knows where.
pub fn note_sent(dataset: &Dataset, sent: &Sent, observe: &dyn Observe) {
    let Ok(blake3) = sent.blake3.parse() else { return };
    let version = VersionRef { guid: sent.guid, name: sent.snapshot.clone() };
    note(dataset, &version, StreamDigest { blake3, base: sent.base, len: sent.stream_bytes }, None, observe);
}
