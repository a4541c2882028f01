//! Overlays: what they are called, how they are served, who owns them, and what is written down of one.
//!
//! The JSON is that of docs/FORMAT-overlay.md.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::name::Error as NameError;
use crate::model::{Guid, PathText, VersionRef};

/// The longest name of an overlay or a layer, in bytes.
pub const MAX_NAME_LEN: usize = 100;
/// The version of the record that this program reads and writes.
pub const FORMAT: u32 = 1;

fn check_name(what: &'static str, text: &str) -> Result<(), NameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if text.is_empty() {
        return Err(NameError::Empty { what, text: text.into() });
    }
    if text.len() > MAX_NAME_LEN {
        return Err(NameError::TooLong { what, len: text.len(), max: MAX_NAME_LEN });
    }
    if text == "." || text == ".." {
        return Err(NameError::Dots { what, text: text.into() });
    }
    match text.chars().find(|&c| !allowed(c)) {
        Some(found) => Err(NameError::OverlayCharacter { what, text: text.into(), found }),
        None => Ok(()),
    }
}

macro_rules! overlay_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text; also a file's name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name($what, text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

overlay_name! {
    /// What an overlay is called: 1 to 100 of `[A-Za-z0-9_.-]`, not `.` or `..`.
    OverlayName, "overlay name"
}
overlay_name! {
    /// What a layer is called; the same alphabet.
    LayerName, "layer name"
}

/// A layer's identity: the same on every machine that has it. 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Guid", into = "String")]
pub struct LayerId(pub Guid);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for LayerId {
    type Err = crate::model::version::BadGuid;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl From<Guid> for LayerId {
    fn from(guid: Guid) -> Self {
        Self(guid)
    }
}

impl From<LayerId> for String {
    fn from(id: LayerId) -> String {
        id.to_string()
    }
}

/// How an overlay's tree is made and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A writable clone of a btrfs or ZFS snapshot.
    Native,
    /// Kernel overlayfs.
    Kernel,
    /// Our copy-on-write filesystem, through FUSE.
    Fuse,
    /// Reflink clones of all files.
    Reflink,
    /// Copies of all files.
    Copy,
    /// A squashfs image under kernel overlayfs.
    Squashfs,
    /// An EROFS image under kernel overlayfs.
    Erofs,
    /// A command makes the tree anew each time.
    Recreate,
    /// The base itself: no isolation, a reset changes nothing.
    Disabled,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 9] = [
        Self::Native,
        Self::Kernel,
        Self::Fuse,
        Self::Reflink,
        Self::Copy,
        Self::Squashfs,
        Self::Erofs,
        Self::Recreate,
        Self::Disabled,
    ];

    /// Whether it can lie on layers, and what was changed can be told and become one.
    pub fn has_layers(self) -> bool {
        self == Self::Native || self.keeps_changes_apart()
    }

    /// Whether what was changed is kept apart from the base, in the format of layers.
    pub fn keeps_changes_apart(self) -> bool {
        matches!(self, Self::Kernel | Self::Fuse | Self::Squashfs | Self::Erofs)
    }

    /// As the command line and the record have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Kernel => "kernel",
            Self::Fuse => "fuse",
            Self::Reflink => "reflink",
            Self::Copy => "copy",
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Recreate => "recreate",
            Self::Disabled => "disabled",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whose overlay it is: it goes when that process is gone.
///
/// A process id alone is reused; with the time of its start, and the boot, it is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The process' id.
    pub pid: u32,
    /// When it started, in clock ticks since the machine started: field 22 of `/proc/PID/stat`.
    pub start: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// The inode number of its `/proc/PID/ns/pid`: elsewhere, `pid` means another process.
    pub namespace: u64,
}

/// What an overlay lies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// What sort of thing.
    pub kind: BaseKind,
    /// Its directory or file; the mount point of a snapshot's dataset.
    pub path: PathText,
    /// Which snapshot, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionRef>,
    /// Tells it from other bases: layers made upon one are refused upon another.
    pub identity: String,
}

/// What sort of thing a base is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseKind {
    /// A directory that nobody changes while overlays lie on it.
    Dir,
    /// A snapshot of btrfs or ZFS.
    Snapshot,
    /// A squashfs or EROFS image.
    Image,
    /// Nothing: an empty tree.
    None,
}

/// One of an overlay's trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// 1, 2, 3 …
    pub number: u32,
    /// Where it shows.
    pub at: PathText,
    /// Which of its generations shows. It grows, and no number is used twice.
    pub generation: u64,
}

impl Copy {
    /// Where it shows.
    pub fn at(&self) -> &Path {
        self.at.as_path()
    }
}

/// Which extended attributes carry the marks of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Xattrs {
    /// `trusted.overlay.`: root's.
    Trusted,
    /// `user.overlay.`: in user namespaces.
    User,
}

impl Xattrs {
    /// What their names begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }
}

/// What an overlay was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Nothing is synced: after a crash of the machine the changes are not to be trusted.
    pub volatile: bool,
    /// Which attributes its layers are marked with.
    pub xattrs: Xattrs,
    /// What only one mode knows, by name.
    #[serde(default, flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

/// How far an overlay is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Being made; if nobody has its lock, its maker died.
    Making,
    /// There.
    Ready,
    /// Being destroyed; if nobody has its lock, its destroyer died.
    Destroying,
}

/// What is written down of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// Its name.
    pub name: OverlayName,
    /// How it is served.
    pub mode: Mode,
    /// Why this mode.
    pub why: Vec<String>,
    /// Who made it.
    pub uid: u32,
    /// What it lies on.
    pub base: Base,
    /// The layers between the base and the changes, the lowest first.
    pub layers: Vec<LayerId>,
    /// Its trees.
    pub copies: Vec<Copy>,
    /// Whose it is; `None` keeps it until it is destroyed.
    pub owner: Option<Owner>,
    /// What it was made with.
    pub options: Options,
    /// When it was made.
    pub created: Timestamp,
    /// How far it is made.
    pub state: State,
    /// Directories that were made for it and go with it if they are empty, the innermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<PathText>,
}

impl Record {
    /// The copy of that number.
    pub fn copy(&self, number: u32) -> Option<&Copy> {
        self.copies.iter().find(|copy| copy.number == number)
    }
}

/// Where copy `number` of `of` shows: `at` itself if there is one copy, else a directory of that number in it.
pub fn place_of_copy(at: &Path, number: u32, of: u32) -> PathBuf {
    if of == 1 { at.to_owned() } else { at.join(number.to_string()) }
}

/// The source that a mount of ours shows: `cowsnap:HOME-ID:NAME/COPY`, with `/GENERATION` behind it where each generation
/// is a mount of its own. It finds the mount though its record is gone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MountSource {
    /// The identity of the home, 16 hexadecimal digits.
    pub home: String,
    /// Which overlay.
    pub name: OverlayName,
    /// Which of its copies.
    pub copy: u32,
    /// Which of that one's generations, where a mount shows one for ever.
    pub generation: Option<u64>,
}

impl fmt::Display for MountSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cowsnap:{}:{}/{}", self.home, self.name, self.copy)?;
        self.generation.map_or(Ok(()), |generation| write!(f, "/{generation}"))
    }
}

impl MountSource {
    /// The same as one name of a file: what a tree is called that is bound to its place, as the kernel tells a bound mount by
    /// the path of its root.
    pub fn as_file_name(&self) -> String {
        self.to_string().replace('/', ":")
    }

    /// What a file's name says, whatever stands behind it after a further colon; `None` if it is none of ours.
    pub fn parse_file_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("cowsnap:")?.split(':');
        let (home, name, copy) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?, parts.next()?);
        let (copy, generation) = (copy.parse().ok()?, Some(parts.next()?.parse().ok()?));
        Some(Self { home, name, copy, generation })
    }

    /// What a mount's source says; `None` if the mount is not ours.
    pub fn parse(source: &str) -> Option<Self> {
        let (home, rest) = source.strip_prefix("cowsnap:")?.split_once(':')?;
        let mut parts = rest.split('/');
        let (name, copy) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let generation = parts.next().map(str::parse).transpose().ok()?;
        parts.next().is_none().then(|| Self { home: home.into(), name, copy, generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_of_a_small_alphabet() {
        for text in ["ci", "a.b-c_d", "0", "...", &"x".repeat(MAX_NAME_LEN)] {
            assert_eq!(text.parse::<OverlayName>().expect("a name").as_str(), text);
        }
        let table = [
            ("", r#"the overlay name in "" is empty"#),
            ("..", r#"".." can not be a overlay name: a component may not be . or .."#),
            ("a b", r#"the overlay name "a b" holds ' '; allowed are letters, digits and _ . -"#),
            ("a/b", r#"the overlay name "a/b" holds '/'; allowed are letters, digits and _ . -"#),
        ];
        for (text, message) in table {
            assert_eq!(text.parse::<OverlayName>().expect_err("no name").to_string(), message);
        }
        assert!("x".repeat(MAX_NAME_LEN + 1).parse::<LayerName>().is_err());
    }

    #[test]
    fn a_mode_is_called_on_the_command_line_what_its_record_says() {
        for mode in Mode::ALL {
            let json = serde_json::to_string(&mode).expect("serialises");
            assert_eq!(json, format!("\"{mode}\""));
            assert_eq!(serde_json::from_str::<Mode>(&json).expect("parses"), mode);
        }
        let with_layers: Vec<_> =
            Mode::ALL.into_iter().filter(|mode| mode.has_layers()).map(Mode::as_str).collect();
        assert_eq!(with_layers, ["native", "kernel", "fuse", "squashfs", "erofs"]);
    }

    #[test]
    fn marks_are_roots_or_a_users() {
        assert_eq!(
            [Xattrs::Trusted, Xattrs::User].map(Xattrs::prefix),
            ["trusted.overlay.", "user.overlay."]
        );
    }

    #[test]
    fn a_mount_says_whose_it_is() {
        let name: OverlayName = "ci".parse().expect("a name");
        for (generation, text) in
            [(None, "cowsnap:0123456789abcdef:ci/7"), (Some(3), "cowsnap:0123456789abcdef:ci/7/3")]
        {
            let source =
                MountSource { home: "0123456789abcdef".into(), name: name.clone(), copy: 7, generation };
            assert_eq!(source.to_string(), text);
            assert_eq!(MountSource::parse(text), Some(source.clone()));
            let file = source.as_file_name();
            assert!(!file.contains('/'));
            let of_generation = generation.is_some().then_some(source);
            assert_eq!(MountSource::parse_file_name(&file), of_generation);
            assert_eq!(MountSource::parse_file_name(&format!("{file}:5f")), of_generation.filter(|_| true));
        }
        let bad = [
            "overlay",
            "cowsnap:",
            "cowsnap:x:ci",
            "cowsnap:x:ci/seven",
            "cowsnap:x:a b/1",
            "cowsnap:x:ci/1/2/3",
        ];
        for text in bad {
            assert_eq!(MountSource::parse(text), None);
        }
    }

    #[test]
    fn a_layers_id_is_32_digits_without_hyphens() {
        let id: LayerId = "0123456789abcdef0123456789abcdef".parse().expect("an id");
        assert_eq!(id.to_string(), "0123456789abcdef0123456789abcdef");
        let json = serde_json::to_string(&id).expect("serialises");
        assert_eq!(json, r#""0123456789abcdef0123456789abcdef""#);
        assert_eq!(serde_json::from_str::<LayerId>(&json).expect("parses"), id);
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let text = r#"{"format":1,"name":"ci","mode":"kernel","why":["it is cheap"],"uid":0,
            "base":{"kind":"dir","path":"/srv/base","identity":"dir:1:2"},"layers":[],
            "copies":[{"number":1,"at":"/mnt/ci","generation":7}],
            "owner":{"pid":4711,"start":123456,"boot":"b","namespace":4026531836},
            "options":{"volatile":true,"xattrs":"trusted","image":"/x.squashfs"},
            "created":"2026-11-21T08:00:00Z","state":"ready"}"#;
        let record: Record = serde_json::from_str(text).expect("a record");
        assert_eq!(record.options.more["image"], "/x.squashfs");
        assert_eq!(record.copy(1).map(Copy::at), Some(Path::new("/mnt/ci")));
        let again = serde_json::to_string(&record).expect("serialises");
        assert_eq!(serde_json::from_str::<Record>(&again).expect("parses"), record);
    }

    #[test]
    fn one_copy_is_at_the_place_and_several_are_in_it() {
        assert_eq!(place_of_copy(Path::new("/m"), 1, 1), Path::new("/m"));
        assert_eq!(place_of_copy(Path::new("/m"), 2, 3), Path::new("/m/2"));
    }
}
