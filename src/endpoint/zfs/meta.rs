//! What is said about snapshots, as user properties: labels, and the digest that was checked.
//!
//! ```text
//! cowsnap:labels    KEY=VALUE,KEY=VALUE …              by key
//! cowsnap:verified  GUID CREATETXG {"blake3":…,…}      of the snapshot that it is about
//! cowsnap:streams   GUID CREATETXG [{"blake3":…,…},…]  the same, of the streams that it was sent as
//! ```
//!
//! One property has all labels, so that one listing tells them. In all, `%` and two digits stand for `%`, for control characters and, in
//! labels, for a `,` and in keys a `=`: the values hold neither tab nor newline, and none is `-`, which ZFS shows for what is not set.
//!
//! A digest counts only for the snapshot that it names. Its guid alone would not do: a replica of the snapshot has the same one, and may
//! have the property too (`zfs send -p`), though nothing was checked where it was made.

use std::collections::BTreeMap;

use crate::endpoint::Verified;
use crate::model::{SentStream, Version};

/// The property with a snapshot's labels.
pub(super) const LABELS: &str = "cowsnap:labels";
/// The property with the digest that was checked.
pub const VERIFIED: &str = "cowsnap:verified";
/// The property with the digests of the streams that it was sent as.
pub(super) const SENT: &str = "cowsnap:streams";

/// The properties that say `labels`: one, if there are any.
pub(super) fn label_props(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let said: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{}={}", escaped(key, &[',', '=']), escaped(value, &[','])))
        .collect();
    let props = (!said.is_empty()).then(|| (LABELS.to_owned(), said.join(",")));
    props.into_iter().collect()
}

/// The labels that the property says; and, if somebody else has written it, the first of what is no label.
pub(super) fn labels_of_text(text: &str) -> (BTreeMap<String, String>, Option<&str>) {
    let (mut labels, mut strange) = (BTreeMap::new(), None);
    for said in text.split(',') {
        match said.split_once('=') {
            Some((key, value)) => drop(labels.insert(unescape(key), unescape(value))),
            None => strange = strange.or(Some(said)),
        }
    }
    (labels, strange)
}

/// `text` with `%` and two digits for what would break a listing, and for these.
fn escaped(text: &str, these: &[char]) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c == '%' || c.is_ascii_control() || these.contains(&c) {
            true => escaped.push_str(&format!("%{:02x}", u32::from(c))),
            false => escaped.push(c),
        }
    }
    escaped
}

/// What `%` and two digits stand for is put in their place. What is no such thing stays.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let byte = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        match byte {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `verified`, of `version`, as the value of its property.
pub fn verified_as_text(version: &Version, verified: &Verified) -> String {
    let json = serde_json::to_string(verified).expect("its keys are texts");
    whose(version) + &escaped(&json, &[])
}

/// The digest that the property says of `version`; `None` if it is none of ours, or another's.
pub(super) fn verified_of_text(version: &Version, text: &str) -> Option<Verified> {
    serde_json::from_str(&unescape(text.strip_prefix(&whose(version))?)).ok()
}

/// `sent`, of `version`, as the value of its property.
pub(super) fn sent_as_text(version: &Version, sent: &[SentStream]) -> String {
    let json = serde_json::to_string(sent).expect("its keys are texts");
    whose(version) + &escaped(&json, &[])
}

/// The streams that the property says of `version`; none if it is none of ours, or another's.
pub(super) fn sent_of_text(version: &Version, text: &str) -> Vec<SentStream> {
    let own = text.strip_prefix(&whose(version));
    own.and_then(|own| serde_json::from_str(&unescape(own)).ok()).unwrap_or_default()
}

/// What a snapshot keeps under any name, and no other on this machine has.
fn whose(version: &Version) -> String {
    format!("{} {} ", version.id.guid.as_zfs().unwrap_or_default(), version.order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Earlier;
    use crate::model::{Guid, VersionKind, VersionRef};

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_label_is_read_back() {
        let all = labels(&[
            ("release", "2.1"),
            ("Git Commit", "a b:c%20"),
            ("a_b=c+d", "tab\there"),
            ("ä", "line\nbreak\r"),
            ("x", "-"),
            ("y", ""),
            ("z", "ä%2d%"),
            ("_41", "%25"),
            (",", ","),
            ("", "="),
        ]);
        let each = all.iter().map(|(key, value)| labels(&[(key, value)]));
        for labels in each.chain([all.clone()]) {
            let text = &label_props(&labels)[LABELS];
            assert_eq!(labels_of_text(text), (labels, None));
            assert!(text != "-" && !text.contains(['\t', '\n']), "{text:?}");
        }
    }

    #[test]
    fn labels_are_in_a_property_that_a_reader_of_zfs_get_understands() {
        let said = |pairs| label_props(&labels(pairs)).into_iter().collect::<Vec<_>>();
        let text = "by=ann,why=a%2cb = 100%25";
        assert_eq!(said(&[("why", "a,b = 100%"), ("by", "ann")]), [("cowsnap:labels".into(), text.into())]);
        assert!(said(&[]).is_empty());
    }

    #[test]
    fn what_somebody_else_wrote_is_taken_as_it_is() {
        assert_eq!(unescape("100% of it, %zz, %2"), "100% of it, %zz, %2");
        assert_eq!(labels_of_text("a=x\ty,b,$c,d=%09"), (labels(&[("a", "x\ty"), ("d", "\t")]), Some("b")));
        assert_eq!(labels_of_text(""), (labels(&[]), Some("")));
    }

    fn version(guid: u64, order: u64) -> Version {
        let id = VersionRef { guid: Guid::of_zfs(guid), name: "s 1".parse().expect("a name") };
        Version { id, kind: VersionKind::Snapshot, order, created: jiff::Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn a_digest_is_read_back_of_the_snapshot_that_it_is_about() {
        let at = jiff::Timestamp::from_second(1_800_000_000).expect("a time");
        let verified = Verified {
            blake3: "00ff".into(),
            base: None,
            len: 7,
            at,
            earlier: Some(Earlier::Unknown),
            grounded: true,
            from: Some(crate::model::Digest([9; 32])),
            upon: Some(crate::model::Digest([8; 32])),
        };
        let text = verified_as_text(&version(42, 7), &verified);
        assert!(text.starts_with("42 7 {\"blake3\"") && !text.contains(['\t', '\n']), "{text}");
        assert_eq!(verified_of_text(&version(42, 7), &text), Some(verified));
        for other in [version(42, 8), version(43, 7), version(2, 7)] {
            assert_eq!(verified_of_text(&other, &text), None, "{other:?}");
        }
        let sent = SentStream {
            stream: crate::model::StreamDigest { blake3: crate::model::Digest([7; 32]), base: None, len: 1 },
            at,
            to: Some("cowsnap:to:x-1".parse().expect("a tag")),
        };
        let all = vec![sent.clone(), SentStream { to: None, ..sent }];
        let said = sent_as_text(&version(42, 7), &all);
        assert!(!said.contains(['\t', '\n']), "{said}");
        assert_eq!(sent_of_text(&version(42, 7), &said), all);
        assert_eq!(sent_of_text(&version(42, 8), &said), []);
        assert_eq!(sent_of_text(&version(42, 7), "-"), []);
        for foreign in ["-", "{}", "42 7 ", "42 7 {}", text.split_once('{').expect("json").1] {
            assert_eq!(verified_of_text(&version(42, 7), foreign), None, "{foreign}");
        }
    }
}
