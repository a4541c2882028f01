//! What is said about snapshots, as user properties: labels, and the digest that was checked.
//!
//! A label is the property `cowsnap:label:KEY`, so that `zfs get` shows it; `cowsnap:labels` lists the keys, so that one
//! listing tells whether there are any. ZFS allows few characters in a property's name and shows `-` for one that is not
//! set: what does not fit is written in other characters, and read back.

use std::collections::BTreeMap;

use crate::endpoint::Verified;

/// The property that lists the keys of a snapshot's labels.
pub(super) const LABELS: &str = "cowsnap:labels";
/// The property with the digest that was checked, as JSON.
pub const VERIFIED: &str = "cowsnap:verified";

/// The properties that say `labels`.
pub(super) fn label_props(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut props: BTreeMap<_, _> =
        labels.iter().map(|(key, value)| (label_prop(&key_as_name(key)), escaped(value))).collect();
    if !labels.is_empty() {
        let keys: Vec<_> = labels.keys().map(|key| key_as_name(key)).collect();
        props.insert(LABELS.into(), keys.join(","));
    }
    props
}

/// The property of the label whose key is written `name`.
pub(super) fn label_prop(name: &str) -> String {
    format!("cowsnap:label:{name}")
}

/// ZFS allows no longer names of properties.
const MAX_NAME_LEN: usize = 255;

/// The keys that `cowsnap:labels` lists, as they are written in names of properties; and, if somebody else has written it, the
/// first of the rest, which can be no part of such a name.
pub(super) fn names_of_labels(listed: &str) -> (Vec<&str>, Option<&str>) {
    let is_name = |name: &&str| {
        name.bytes().all(|byte| is_plain(byte) || byte == b'_') && label_prop(name).len() <= MAX_NAME_LEN
    };
    let (names, strange): (Vec<_>, Vec<_>) =
        listed.split(',').filter(|name| !name.is_empty()).partition(is_name);
    (names, strange.first().copied())
}

/// Whether a key's byte can be in the name of a property as it is.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-:".contains(&byte)
}

/// `key` in the characters that the name of a property may hold: what is none of them is a `_` and two digits.
fn key_as_name(key: &str) -> String {
    let mut name = String::new();
    for byte in key.bytes() {
        match is_plain(byte) {
            true => name.push(char::from(byte)),
            false => name.push_str(&format!("_{byte:02x}")),
        }
    }
    name
}

/// The key that was written as `name`.
pub(super) fn key_of_name(name: &str) -> String {
    unescaped(name, b'_')
}

/// `value` without characters that would break a listing, and not `-`, which says that there is none.
pub(super) fn escaped(value: &str) -> String {
    if value == "-" {
        return "%2d".into();
    }
    let mut text = String::new();
    for c in value.chars() {
        match c {
            '%' => text.push_str("%25"),
            c if c.is_ascii_control() => text.push_str(&format!("%{:02x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// The value that was written as `text`.
pub(super) fn unescape(text: &str) -> String {
    unescaped(text, b'%')
}

/// What `mark` and two digits stand for is put in their place. What is no such thing stays.
fn unescaped(text: &str, mark: u8) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let byte = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        match byte {
            Some(byte) if first == mark => {
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

/// `verified` as the value of its property.
pub fn verified_as_text(verified: &Verified) -> String {
    escaped(&serde_json::to_string(verified).expect("its keys are texts"))
}

/// The digest that the property says; `None` if it is none of ours.
pub(super) fn verified_of_text(text: &str) -> Option<Verified> {
    serde_json::from_str(&unescape(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Earlier;

    #[test]
    fn every_label_is_read_back() {
        for (key, value) in [
            ("release", "2.1"),
            ("Git Commit", "a b:c%20"),
            ("a_b=c+d", "tab\there"),
            ("ä", "line\nbreak\r"),
            ("x", "-"),
            ("y", ""),
            ("z", "ä%2d%"),
            ("_41", "%25"),
            (",", ","),
        ] {
            let labels = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            let props = label_props(&labels);
            let (names, strange) = names_of_labels(&props[LABELS]);
            assert_eq!((names.len(), strange), (1, None), "{key}");
            let text = &props[&label_prop(names[0])];
            assert_eq!((key_of_name(names[0]).as_str(), unescape(text).as_str()), (key, value));
            assert!(text != "-" && !text.contains(['\t', '\n']), "{text:?}");
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ":._-".contains(c);
            assert!(props.keys().all(|name| name.chars().all(allowed)), "{props:?}");
        }
    }

    #[test]
    fn labels_are_in_properties_that_a_reader_of_zfs_get_understands() {
        let labels = [("release", "2.1"), ("by", "ann")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let props = label_props(&BTreeMap::from(labels));
        let props: Vec<_> = props.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(props, ["cowsnap:label:by=ann", "cowsnap:label:release=2.1", "cowsnap:labels=by,release"]);
        assert!(label_props(&BTreeMap::new()).is_empty());
    }

    #[test]
    fn what_somebody_else_wrote_is_taken_as_it_is() {
        assert_eq!(unescape("100% of it, %zz, %2"), "100% of it, %zz, %2");
        assert_eq!(verified_of_text("-"), None);
        assert_eq!(verified_of_text("{}"), None);
    }

    #[test]
    fn a_digest_is_read_back() {
        let at = jiff::Timestamp::from_second(1_800_000_000).expect("a time");
        let verified =
            Verified { blake3: "00ff".into(), base: None, len: 7, at, earlier: Some(Earlier::Unknown) };
        let text = verified_as_text(&verified);
        assert!(!text.contains(['\t', '\n']) && text != "-");
        assert_eq!(verified_of_text(&text), Some(verified));
    }
}
