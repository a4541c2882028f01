//! Which properties a receive can set, and how the call wants them: numbers and words as numbers, texts as texts.
//!
//! The numbers of words are on disk and never change (kernel-notes/zfs.md); those that mean other things in other releases
//! are not here.

use crate::stream::container::ZfsKind;
use crate::sys::lzc::Prop;

/// What a property's value is.
enum Form {
    /// `off` 0 and `on` 1.
    Switch,
    /// Bytes or a count: digits, a suffix of K, M, G, T or P, `none` for 0.
    Number,
    /// The length of a block in bytes: a power of two, 512 to 16 MiB; or 0 if that means something. The call would take any
    /// number, and what it means then nobody knows.
    Block { zero: bool },
    /// One of these words.
    Words(&'static [(&'static str, u64)]),
    /// One of these, or `gzip-1` … `gzip-9`, `zstd-1` … `zstd-19`.
    Compression,
    /// As it is.
    Text,
}

/// Whose property it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Both,
    Filesystem,
    Volume,
}

/// Whether it may come along from the source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// It only says how data is kept.
    Along,
    /// It could do harm where it arrives (mounted over something, shared, run with rights), or says how much room there is,
    /// which is this place's business.
    Never,
}

struct Known {
    name: &'static str,
    form: Form,
    of: Of,
    comes: Comes,
}

const fn known(name: &'static str, form: Form, of: Of, comes: Comes) -> Known {
    Known { name, form, of, comes }
}

const CACHE: Form = Form::Words(&[("none", 0), ("metadata", 1), ("all", 2)]);

const TABLE: &[Known] = &[
    known("compression", Form::Compression, Of::Both, Comes::Along),
    known(
        "checksum",
        Form::Words(&[
            ("on", 1),
            ("off", 2),
            ("fletcher2", 6),
            ("fletcher4", 7),
            ("sha256", 8),
            ("noparity", 10),
            ("sha512", 11),
            ("skein", 12),
            ("edonr", 13),
            ("blake3", 14),
        ]),
        Of::Both,
        Comes::Along,
    ),
    known("copies", Form::Words(&[("1", 1), ("2", 2), ("3", 3)]), Of::Both, Comes::Along),
    known("sync", Form::Words(&[("standard", 0), ("always", 1), ("disabled", 2)]), Of::Both, Comes::Along),
    known("logbias", Form::Words(&[("latency", 0), ("throughput", 1)]), Of::Both, Comes::Along),
    known("primarycache", CACHE, Of::Both, Comes::Along),
    known("secondarycache", CACHE, Of::Both, Comes::Along),
    known(
        "redundant_metadata",
        Form::Words(&[("all", 0), ("most", 1), ("some", 2), ("none", 3)]),
        Of::Both,
        Comes::Along,
    ),
    known("recordsize", Form::Block { zero: false }, Of::Filesystem, Comes::Along),
    known("special_small_blocks", Form::Block { zero: true }, Of::Filesystem, Comes::Along),
    known("atime", Form::Switch, Of::Filesystem, Comes::Along),
    known("relatime", Form::Switch, Of::Filesystem, Comes::Along),
    known(
        "dnodesize",
        Form::Words(&[
            ("legacy", 0),
            ("auto", 1),
            ("1k", 1024),
            ("2k", 2048),
            ("4k", 4096),
            ("8k", 8192),
            ("16k", 16384),
        ]),
        Of::Filesystem,
        Comes::Along,
    ),
    known("xattr", Form::Words(&[("off", 0), ("dir", 1), ("sa", 2)]), Of::Filesystem, Comes::Along),
    known("acltype", Form::Words(&[("off", 0), ("posix", 1), ("nfsv4", 2)]), Of::Filesystem, Comes::Along),
    known("snapdir", Form::Words(&[("hidden", 0), ("visible", 1)]), Of::Filesystem, Comes::Along),
    known("readonly", Form::Switch, Of::Both, Comes::Never),
    known("reservation", Form::Number, Of::Both, Comes::Never),
    known("refreservation", Form::Number, Of::Both, Comes::Never),
    known("canmount", Form::Words(&[("off", 0), ("on", 1), ("noauto", 2)]), Of::Filesystem, Comes::Never),
    known("mountpoint", Form::Text, Of::Filesystem, Comes::Never),
    known("quota", Form::Number, Of::Filesystem, Comes::Never),
    known("refquota", Form::Number, Of::Filesystem, Comes::Never),
    known("devices", Form::Switch, Of::Filesystem, Comes::Never),
    known("setuid", Form::Switch, Of::Filesystem, Comes::Never),
    known("exec", Form::Switch, Of::Filesystem, Comes::Never),
    known("overlay", Form::Switch, Of::Filesystem, Comes::Never),
    known("sharenfs", Form::Text, Of::Filesystem, Comes::Never),
    known("sharesmb", Form::Text, Of::Filesystem, Comes::Never),
    known(
        "volmode",
        Form::Words(&[("default", 0), ("full", 1), ("geom", 1), ("dev", 2), ("none", 3)]),
        Of::Volume,
        Comes::Never,
    ),
    known("snapdev", Form::Words(&[("hidden", 0), ("visible", 1)]), Of::Volume, Comes::Never),
];

/// The properties that a receive leaves out whatever a source says: what is not known, what is cowsnap's own, and what could
/// do harm. Those of the user's (`com.example:note`) come along.
pub(super) fn comes_along(name: &str, kind: ZfsKind) -> bool {
    match find(name) {
        Some(known) => known.comes == Comes::Along && fits(known, kind),
        None => is_of_user(name),
    }
}

/// Why a source's property that comes along does not with this value, in words.
pub(super) fn why_not_so(name: &str, value: &str) -> Option<&'static str> {
    match (name, value) {
        ("checksum", "off" | "noparity") => Some("damage would not be noticed here"),
        ("sync", "disabled") => Some("what programs have synced would be lost in a crash here"),
        ("redundant_metadata", "none") => Some("damage would cost more here"),
        (name, _) if name.starts_with("org.openzfs.systemd:") => Some("systemd here would act on it"),
        _ => None,
    }
}

/// A property of the user's own, but for cowsnap's. None begins with a hyphen: the programs would take it for an option.
pub(super) fn is_of_user(name: &str) -> bool {
    let is_of_names = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.:".contains(c);
    name.contains(':')
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(is_of_names)
        && !name.starts_with("cowsnap:")
}

/// `value` as the call wants it.
///
/// # Errors
/// Why `name` can not be set so, in words.
pub(super) fn to_call(name: &str, value: &str, kind: ZfsKind) -> Result<Prop, String> {
    if is_of_user(name) {
        return Ok(Prop::Text(value.to_owned()));
    }
    let Some(known) = find(name) else { return Err(format!("{name} can not be set while receiving")) };
    if !fits(known, kind) {
        return Err(format!("a {kind} has no {name}"));
    }
    match &known.form {
        Form::Text => Ok(Prop::Text(value.to_owned())),
        form => form.number(value).map(Prop::Number).ok_or_else(|| format!("{name} can not be {value:?}")),
    }
}

fn find(name: &str) -> Option<&'static Known> {
    TABLE.iter().find(|known| known.name == name)
}

fn fits(known: &Known, kind: ZfsKind) -> bool {
    known.of == Of::Both || (known.of == Of::Volume) == (kind == ZfsKind::Volume)
}

impl Form {
    fn number(&self, value: &str) -> Option<u64> {
        let word =
            |words: &[(&str, u64)]| words.iter().find(|(word, _)| *word == value).map(|(_, number)| *number);
        match self {
            Self::Switch => word(&[("off", 0), ("on", 1)]),
            Self::Words(words) => word(words),
            Self::Number => amount(value),
            Self::Block { zero } => amount(value).filter(|&len| match len {
                0 => *zero,
                len => len.is_power_of_two() && (512..=16 << 20).contains(&len),
            }),
            Self::Compression => {
                let plain = [
                    ("on", 1),
                    ("off", 2),
                    ("lzjb", 3),
                    ("gzip", 10),
                    ("zle", 14),
                    ("lz4", 15),
                    ("zstd", ZSTD),
                ];
                word(&plain).or_else(|| level(value))
            }
            Self::Text => None,
        }
    }
}

const GZIP_1: u64 = 5;
const ZSTD: u64 = 16;

fn level(value: &str) -> Option<u64> {
    let (name, level) = value.split_once('-')?;
    let level: u64 = level.parse().ok().filter(|_| !level.starts_with(['+', '0']))?;
    match name {
        "gzip" if level <= 9 => Some(GZIP_1 - 1 + level),
        "zstd" if level <= 19 => Some(ZSTD | level << 7),
        _ => None,
    }
}

fn amount(value: &str) -> Option<u64> {
    if value == "none" {
        return Some(0);
    }
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match value[digits.len()..].to_ascii_uppercase().trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        _ => return None,
    };
    let number: u64 = digits.parse().ok().filter(|_| !digits.starts_with('+'))?;
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ZfsKind::{Filesystem, Volume};

    fn number(name: &str, value: &str) -> Result<u64, String> {
        match to_call(name, value, Filesystem)? {
            Prop::Number(number) => Ok(number),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_and_amounts_become_numbers() {
        for (name, value, wanted) in [
            ("compression", "gzip-9", 13),
            ("compression", "zstd-3", 400),
            ("compression", "zstd", 16),
            ("recordsize", "1048576", 1 << 20),
            ("recordsize", "1M", 1 << 20),
            ("quota", "none", 0),
            ("special_small_blocks", "0", 0),
            ("quota", "2gb", 2 << 30),
            ("atime", "off", 0),
            ("canmount", "noauto", 2),
        ] {
            assert_eq!(number(name, value), Ok(wanted), "{name}={value}");
        }
    }

    #[test]
    fn what_can_not_be_is_said() {
        for (name, value) in [
            ("compression", "gzip-0"),
            ("compression", "gzip-10"),
            ("compression", "zstd-20"),
            ("compression", "zstd-03"),
            ("compression", "best"),
            ("quota", "1X"),
            ("quota", "99999999P"),
            ("quota", "+1"),
            ("recordsize", "3000"),
            ("recordsize", "0"),
            ("recordsize", "32M"),
            ("special_small_blocks", "3"),
            ("atime", "1"),
        ] {
            assert_eq!(number(name, value), Err(format!("{name} can not be {value:?}")));
        }
        assert_eq!(number("keylocation", "x"), Err("keylocation can not be set while receiving".into()));
        assert_eq!(to_call("atime", "off", Volume), Err("a volume has no atime".into()));
        assert_eq!(to_call("volmode", "dev", Filesystem), Err("a filesystem has no volmode".into()));
        assert_eq!(to_call("volmode", "dev", Volume), Ok(Prop::Number(2)));
        assert!(to_call("cowsnap:flags", "x", Volume).is_err());
    }

    #[test]
    fn what_could_do_harm_does_not_come_along() {
        let harmful = "mountpoint sharenfs sharesmb devices setuid exec overlay keylocation canmount readonly quota cowsnap:x";
        for name in harmful.split(' ') {
            assert!(!comes_along(name, Filesystem), "{name}");
        }
        for name in ["compression", "recordsize", "com.example:note"] {
            assert!(comes_along(name, Filesystem), "{name}");
        }
        assert!(!comes_along("recordsize", Volume) && comes_along("compression", Volume));
    }

    #[test]
    fn a_property_of_the_users_has_a_name_that_no_program_takes_for_an_option() {
        for name in ["com.example:note", "3d:x_y-z", "a:", "org.openzfs.systemd:requires"] {
            assert!(is_of_user(name), "{name}");
        }
        for name in ["-r:x", "-:", ":x", "note", "a:b=c", "a:b c", "a:\u{e9}", "a:b\n", "cowsnap:x", ""] {
            assert!(!is_of_user(name) && !comes_along(name, Filesystem), "{name:?}");
            assert!(to_call(name, "x", Filesystem).is_err(), "{name:?}");
        }
    }

    #[test]
    fn no_property_stands_twice() {
        for (at, known) in TABLE.iter().enumerate() {
            assert!(!TABLE[at + 1..].iter().any(|other| other.name == known.name), "{}", known.name);
        }
    }
}
