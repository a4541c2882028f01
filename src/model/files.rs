//! File archives: what one says of itself, and which paths are left out of it (docs/FORMAT-files.md).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Digest, Guid, SnapshotName};

/// The version of the format.
pub const FORMAT: u32 = 1;
/// What an archive says it is.
pub const KIND: &str = "cowsnap-files";
/// What the description for downloads says it is.
pub const PUBLIC: &str = "cowsnap-public";
/// In what context a description for downloads is signed.
pub const SIGN_CONTEXT: &str = "cowsnap public 1";
/// The directory in an archive that holds what it says of itself.
pub const OWN_DIR: &str = ".cowsnap-export";
/// The longest description that is read, in bytes.
pub const MAX_DESCRIPTION: u64 = 64 << 20;

/// How many paths that are left out an archive names, and of how many bytes: the rest is counted.
const MAX_NAMED: (usize, usize) = (10_000, 4 << 20);

/// Whether a path is below [`OWN_DIR`], or that itself.
pub fn is_own_path(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').next() == Some(OWN_DIR.as_bytes())
}

/// What an archive says first of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The version of the format.
    pub format: u32,
    /// [`KIND`].
    pub kind: String,
    /// Of what.
    pub dataset: String,
    /// Which of its snapshots.
    pub snapshot: SnapshotName,
    /// By what that is known.
    pub guid: Guid,
    /// When it was taken.
    pub created: Timestamp,
    /// What the version command said.
    pub version: Option<String>,
    /// How many entries follow.
    pub entries: u64,
    /// How many bytes of files' data follow.
    pub stored: u64,
    /// How many bytes all files have, holes included.
    pub bytes: u64,
    /// What is not in it.
    pub left_out: Vec<LeftOut>,
    /// How many more are not in it than `left_out` names.
    #[serde(default, skip_serializing_if = "is_none")]
    pub n_left_out_more: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

/// As many as an archive names, and how many more there are.
pub fn named(mut left_out: Vec<LeftOut>) -> (Vec<LeftOut>, u64) {
    let (most, max_bytes) = MAX_NAMED;
    let mut bytes = 0;
    let fits = left_out.iter().take(most).take_while(|left| {
        bytes += left.path.len() + left.why.len();
        bytes <= max_bytes
    });
    let n = fits.count();
    let more = (left_out.len() - n) as u64;
    left_out.truncate(n);
    (left_out, more)
}

/// Something that is not in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// What.
    pub path: String,
    /// Why.
    pub why: String,
}

/// What an archive says last of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The blake3 of its manifest.
    pub manifest: Digest,
    /// That of all that is no file's data.
    pub headers: Digest,
}

/// What stands beside an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// What it says first of itself.
    #[serde(flatten)]
    pub about: About,
    /// Its name.
    pub file: String,
    /// `zstd` or `none`.
    pub compression: String,
    /// How many bytes the file has.
    pub file_bytes: u64,
    /// Their blake3.
    pub blake3: Digest,
    /// How many bytes its tar has.
    pub tar_bytes: u64,
    /// What it says last of itself.
    #[serde(flatten)]
    pub end: End,
}

/// What who downloads an archive checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Public {
    /// The version of the format.
    pub format: u32,
    /// [`PUBLIC`].
    pub kind: String,
    /// The archive's name.
    pub file: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// Their blake3.
    pub blake3: Digest,
    /// How many bytes each of `pieces` has, but for the last.
    pub piece: u64,
    /// The blake3 of each piece.
    pub pieces: Vec<Digest>,
    /// When the snapshot was taken.
    pub created: Option<Timestamp>,
    /// Of what.
    #[serde(default)]
    pub dataset: Option<String>,
    /// What the version command said.
    #[serde(default)]
    pub version: Option<String>,
    /// Which chain it is of.
    #[serde(default)]
    pub chain: Option<String>,
    /// How far that went.
    #[serde(default)]
    pub height: Option<u64>,
    /// What wrote the data.
    #[serde(default)]
    pub client: Option<String>,
}

impl Public {
    /// What makes it one that nobody can have written in earnest.
    ///
    /// # Errors
    /// Which that is.
    pub fn check(&self) -> Result<(), String> {
        if self.kind != PUBLIC || self.format != FORMAT {
            return Err(format!("it is of the kind {:?}, format {}", self.kind, self.format));
        }
        if !(64 << 10..=1 << 30).contains(&self.piece) {
            return Err(format!("its pieces have {} bytes", self.piece));
        }
        match self.pieces.len() as u64 == self.bytes.div_ceil(self.piece) {
            true => Ok(()),
            false => Err(format!("it has {} pieces of {} bytes", self.pieces.len(), self.bytes)),
        }
    }
}

/// Patterns of what is left out unless somebody asks for it: what makes a node this one and no other, and what can spend.
pub const DEFAULT_EXCLUDES: [&str; 28] = [
    "nodekey",
    "node_key.json",
    "node_key",
    "node-key*",
    "nodekey*",
    "priv_validator_key.json",
    "priv_validator_state.json",
    "wallet.dat",
    "wallets/**",
    "keystore/**",
    "keyring-*/**",
    "secrets/**",
    "*.key",
    "*.pem",
    "*.seed",
    "*seed*.txt",
    "jwt.hex",
    "jwtsecret",
    "identity.secret",
    ".cookie",
    "validator-keypair*",
    "id_ed25519*",
    "id_rsa*",
    "hsm_secret",
    "*.macaroon",
    "wallet.db",
    "*-keypair.json",
    "validator_keys/**",
];

/// A file of that name is left out if it holds [`KEY_IN_CONFIG`], unless somebody asks for it: kubo's has the node's key in it.
const CONFIG: &[u8] = b"config";
/// What makes a configuration one with a key in it.
pub const KEY_IN_CONFIG: &[u8] = b"PrivKey";
/// Longer ones are no configurations.
pub const MAX_CONFIG: u64 = 1 << 20;

/// A pattern of paths: `*` and `?` within a name, `**` over several; one that begins with `/` is of the whole path, any other of its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    parts: Vec<Vec<u8>>,
    ignores_case: bool,
}

impl Pattern {
    /// Reads one.
    pub fn new(text: &str) -> Self {
        let trimmed = text.trim_end_matches('/');
        let (anchored, rest) = match trimmed.strip_prefix('/') {
            Some(rest) => (true, rest),
            None => (false, trimmed),
        };
        let parts = rest.split('/').map(|part| part.as_bytes().to_vec());
        let any = (!anchored).then(|| b"**".to_vec());
        Self { text: text.to_owned(), parts: any.into_iter().chain(parts).collect(), ignores_case: false }
    }

    /// One for which great letters are as small ones.
    fn of_any_case(text: &str) -> Self {
        Self { ignores_case: true, ..Self::new(text) }
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is of `path`.
    pub fn is_of(&self, path: &[u8]) -> bool {
        let small = self.ignores_case.then(|| path.to_ascii_lowercase());
        let path = small.as_deref().unwrap_or(path);
        let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        matches(&self.parts, &names)
    }

    /// Whether it is of `path` or of a directory above it.
    pub fn is_of_or_above(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        ends.chain([path.len()]).any(|end| self.is_of(&path[..end]))
    }
}

/// As wildcards go over a list: where it does not fit, the last `**` takes one more. Time is at most the product of both lengths.
fn matches(parts: &[Vec<u8>], names: &[&[u8]]) -> bool {
    let (mut part, mut name) = (0, 0);
    let mut last: Option<(usize, usize)> = None;
    // `**` at the end is of what is inside, not of the directory itself.
    while name < names.len() {
        match parts.get(part) {
            Some(any) if any == b"**" && part + 1 == parts.len() => return true,
            Some(any) if any == b"**" => {
                last = Some((part, name));
                part += 1;
            }
            Some(one) if is_like(one, names[name]) => (part, name) = (part + 1, name + 1),
            _ => match last {
                None => return false,
                Some((any, taken)) => {
                    last = Some((any, taken + 1));
                    (part, name) = (any + 1, taken + 1);
                }
            },
        }
    }
    part == parts.len()
}

fn is_like(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut last: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                last = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => (p, n) = (p + 1, n + 1),
            _ => match last {
                None => return false,
                Some((star, taken)) => {
                    last = Some((star, taken + 1));
                    (p, n) = (star + 1, taken + 1);
                }
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Which paths are in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choice {
    /// What is left out, and why.
    excludes: Vec<(Pattern, &'static str)>,
    includes: Vec<Pattern>,
    has_defaults: bool,
}

impl Choice {
    /// All but what `excludes` and, if `defaults`, [`DEFAULT_EXCLUDES`] name and `includes` do not.
    pub fn new(excludes: &[String], includes: &[String], defaults: bool) -> Self {
        let of_defaults =
            DEFAULT_EXCLUDES.iter().filter(|_| defaults).map(|text| (Pattern::of_any_case(text), "default"));
        let given = excludes.iter().map(|text| (Pattern::new(text), "--exclude"));
        let includes = includes.iter().map(|text| Pattern::new(text)).collect();
        Self { excludes: given.chain(of_defaults).collect(), includes, has_defaults: defaults }
    }

    /// Why `path` is left out; `None` if it is not.
    pub fn why_not(&self, path: &[u8]) -> Option<String> {
        let (pattern, why) = self.excludes.iter().find(|(pattern, _)| pattern.is_of_or_above(path))?;
        (!self.is_wanted(path)).then(|| format!("{why}: {}", pattern.text()))
    }

    fn is_wanted(&self, path: &[u8]) -> bool {
        self.includes.iter().any(|pattern| pattern.is_of_or_above(path))
    }

    /// Whether the file at `path`, of so many bytes, is to be looked into: with [`KEY_IN_CONFIG`] in it, it is left out.
    pub fn looks_into(&self, path: &[u8], bytes: u64) -> bool {
        let name = path.rsplit(|&byte| byte == b'/').next();
        self.has_defaults && name == Some(CONFIG) && bytes < MAX_CONFIG && !self.is_wanted(path)
    }
}

/// The line of a manifest for a file, as `b3sum` prints it.
pub fn manifest_line(hash: &blake3::Hash, path: &[u8]) -> Vec<u8> {
    let has_special = path.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r'));
    let mut line = Vec::with_capacity(path.len() + 68);
    if has_special {
        line.push(b'\\');
    }
    line.extend(hash.to_hex().as_bytes());
    line.extend(b"  ");
    for &byte in path {
        match byte {
            b'\\' => line.extend(b"\\\\"),
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            other => line.push(other),
        }
    }
    line.push(b'\n');
    line
}

/// A path as text that tells it from any other.
pub fn path_text(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        text += &chunk.valid().replace('\\', "\\\\");
        chunk.invalid().iter().for_each(|byte| text += &format!("\\x{byte:02X}"));
    }
    text
}

/// The name of an archive: DATASET-VERSION-DATE and what its format ends in; of a path, its last name. What no file name should have is a `-`.
pub fn file_name(dataset: &str, version: Option<&str>, created: Timestamp, ending: &str) -> String {
    let clean = |text: &str| -> String {
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '+' | '-');
        text.chars().map(|c| if plain(c) { c } else { '-' }).collect()
    };
    let date = created.strftime("%Y%m%dT%H%M%SZ");
    let dataset = match dataset.starts_with('/') {
        true => dataset.trim_end_matches('/').rsplit('/').next().unwrap_or_default(),
        false => dataset,
    };
    let dataset = clean(dataset);
    let dataset = dataset.trim_start_matches(['.', '-']);
    match version {
        Some(version) => format!("{dataset}-{}-{date}{ending}", clean(version)),
        None => format!("{dataset}-{date}{ending}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_of_what_it_says() {
        let table = [
            ("nodekey", "geth/nodekey", true),
            ("nodekey", "nodekey", true),
            ("nodekey", "nodekeys", false),
            ("*.key", "a/b/c.key", true),
            ("*.key", "c.key/x", false),
            ("keystore/**", "a/keystore/UTC--1", true),
            ("keystore/**", "keystore/x/y", true),
            ("keystore/**", "keystore", false),
            ("/keystore/**", "a/keystore/x", false),
            ("/a/*/c", "a/b/c", true),
            ("/a/*/c", "a/b/b/c", false),
            ("/a/**/c", "a/b/b/c", true),
            ("**/x", "x", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaa", false),
            ("dir/", "x/dir", true),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(Pattern::new(pattern).is_of(path.as_bytes()), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_included_is_not_left_out_and_a_directory_takes_what_is_in_it_along() {
        let choice = Choice::new(&["cache".into()], &["public.pem".into()], true);
        let why = |path: &str| choice.why_not(path.as_bytes());
        assert_eq!(why("cache/a/b").as_deref(), Some("--exclude: cache"));
        assert_eq!(why("node/server.pem").as_deref(), Some("default: *.pem"));
        assert_eq!(why("node/public.pem"), None);
        for path in
            ["lightning/hsm_secret", "data/Admin.Macaroon", "a/ID_RSA", "Validator_Keys/keystore.json"]
        {
            assert!(why(path).is_some_and(|why| why.starts_with("default: ")), "{path}");
        }
        assert_eq!(why("Cache/a"), None, "what somebody names is named exactly");
        assert!(choice.looks_into(b"ipfs/config", 5000) && !choice.looks_into(b"ipfs/config.toml", 5000));
        assert!(!Choice::new(&[], &["ipfs/config".into()], true).looks_into(b"ipfs/config", 5000));
        assert_eq!(why("blocks/blk0.dat"), None);
        assert_eq!(Choice::new(&[], &[], false).why_not(b"nodekey"), None);
    }

    #[test]
    fn of_what_is_left_out_so_much_is_named_that_a_description_can_be_read() {
        let left = |len: usize| LeftOut { path: "\u{1}".repeat(len), why: "default: *.key".into() };
        assert_eq!(named(vec![left(9); 3]), (vec![left(9); 3], 0));
        let (some, more) = named(vec![left(9); 20_000]);
        assert_eq!((some.len(), more), (10_000, 10_000));
        let (some, more) = named(vec![left(4000); 9_000]);
        assert_eq!(some.len() as u64 + more, 9_000);
        let written = serde_json::to_vec_pretty(&some).expect("its keys are texts");
        assert!((written.len() as u64) < MAX_DESCRIPTION / 2, "{}", written.len());
    }

    #[test]
    fn names_of_any_bytes_are_one_line_and_one_text() {
        let hash = blake3::hash(b"");
        assert_eq!(manifest_line(&hash, b"a b"), format!("{}  a b\n", hash.to_hex()).into_bytes());
        assert_eq!(manifest_line(&hash, b"a\nb\\"), format!("\\{}  a\\nb\\\\\n", hash.to_hex()).into_bytes());
        assert_eq!(path_text(b"a\xFF\\x"), "a\\xFF\\\\x");
    }

    #[test]
    fn a_file_is_called_after_what_is_in_it() {
        let created: Timestamp = "2026-11-20T02:00:00Z".parse().expect("a time");
        let name = |dataset, version| file_name(dataset, version, created, ".tar.zst");
        assert_eq!(name("tank/chain", Some("v27.1 (x)")), "tank-chain-v27.1--x--20261120T020000Z.tar.zst");
        assert_eq!(name("/srv/chain", None), "chain-20261120T020000Z.tar.zst");
    }
}
