//! Where objects are kept: `s3://BUCKET/PREFIX` and its like.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest address that is read, in bytes.
const MAX_LEN: usize = 4096;

/// A place for objects: a bucket and what all its keys begin with, a folder of a web server, or a directory.
///
/// Shown without its password.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreUrl {
    kind: StoreKind,
    place: String,  // Bucket, container or HOST[:PORT]; nothing for a directory.
    prefix: String, // Invariant: segments with one `/` between them, none of them empty, `.` or `..`.
    login: Option<(String, String)>,
    dir: PathBuf, // Absolute, of a directory; else nothing.
}

/// Who keeps the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreKind {
    /// S3 and what speaks like it.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// A web server, in the clear.
    Http,
    /// A web server, over TLS.
    Https,
    /// A directory here.
    Dir,
}

impl StoreKind {
    /// What its addresses begin with.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
            Self::Http => "http",
            Self::Https => "https",
            Self::Dir => "file",
        }
    }

    fn of(scheme: &str) -> Option<Self> {
        [Self::S3, Self::Gcs, Self::Azure, Self::Http, Self::Https, Self::Dir]
            .into_iter()
            .find(|kind| kind.scheme() == scheme)
    }

    /// Whether it is a web server.
    pub fn is_web(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// A text that is no store's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no store's address: {why}")]
pub struct BadStoreUrl {
    /// The text, without a password.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl StoreUrl {
    /// Whether `text` means to be one: it begins with `s3://` or the like.
    pub fn is_one(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| StoreKind::of(scheme).is_some())
    }

    /// A directory of this machine.
    ///
    /// # Errors
    /// [`BadStoreUrl`] if the path is not absolute, or goes upwards.
    pub fn directory(dir: &Path) -> Result<Self, BadStoreUrl> {
        let bad = |why| BadStoreUrl { text: dir.display().to_string(), why };
        if !dir.is_absolute() {
            return Err(bad("a directory is named by an absolute path: file:///DIR"));
        }
        if dir.components().any(|part| part == Component::ParentDir) {
            return Err(bad("a directory is named without '..'"));
        }
        let dir = dir.components().collect();
        Ok(Self { kind: StoreKind::Dir, place: String::new(), prefix: String::new(), login: None, dir })
    }

    /// Who keeps the objects.
    pub fn kind(&self) -> StoreKind {
        self.kind
    }

    /// The bucket, container, or `HOST[:PORT]`; empty for a directory.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What all keys begin with, without a `/` at its ends; empty for a directory.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The directory, if it is one.
    pub fn dir(&self) -> Option<&Path> {
        (self.kind == StoreKind::Dir).then_some(&self.dir)
    }

    /// Who logs in at a web server: name and password.
    pub fn login(&self) -> Option<(&str, &str)> {
        self.login.as_ref().map(|(name, password)| (name.as_str(), password.as_str()))
    }

    /// The folder that holds it and its last name: a file as an object of its store. `None` if nothing is above.
    pub fn parent(&self) -> Option<(Self, String)> {
        if self.kind == StoreKind::Dir {
            let name = self.dir.file_name()?.to_str()?.to_owned();
            return Some((Self { dir: self.dir.parent()?.into(), ..self.clone() }, name));
        }
        let (above, name) = self.prefix.rsplit_once('/').unwrap_or(("", &self.prefix));
        (!name.is_empty()).then(|| (Self { prefix: above.into(), ..self.clone() }, name.into()))
    }

    /// How an object of it is shown: its key below the prefix.
    pub fn with_key(&self, key: &str) -> String {
        let mut text = self.to_string();
        if !key.is_empty() {
            text.push_str(if text.ends_with('/') { "" } else { "/" });
            text.push_str(key);
        }
        text
    }
}

impl FromStr for StoreUrl {
    type Err = BadStoreUrl;

    fn from_str(text: &str) -> Result<Self, BadStoreUrl> {
        let bad = |why| BadStoreUrl { text: without_password(text), why };
        if text.len() > MAX_LEN {
            return Err(BadStoreUrl { text: text.chars().take(64).collect(), why: "it is too long" });
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let kind = StoreKind::of(scheme)
            .ok_or_else(|| bad("it begins with s3://, gs://, az://, https://, http:// or file:///"))?;
        if kind == StoreKind::Dir {
            return Self::directory(Path::new(rest));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) if kind.is_web() => (Some(login_of(login).map_err(bad)?), place),
            _ => (None, authority),
        };
        check_place(kind, place).map_err(bad)?;
        let path = if kind.is_web() { decode(path).map_err(bad)? } else { path.to_owned() };
        let prefix = prefix_of(&path).map_err(bad)?;
        Ok(Self { kind, place: place.into(), prefix, login, dir: PathBuf::new() })
    }
}

/// `USER:PASSWORD`, each percent-encoded.
fn login_of(text: &str) -> Result<(String, String), &'static str> {
    let (name, password) = text.split_once(':').unwrap_or((text, ""));
    Ok((decode(name)?, decode(password)?))
}

fn check_place(kind: StoreKind, place: &str) -> Result<(), &'static str> {
    if place.is_empty() {
        return Err(if kind.is_web() { "no host is named" } else { "no bucket is named" });
    }
    let more = if kind.is_web() { "-._:[]%" } else { "-._" };
    let sound = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
    match place.chars().all(sound) && !place.starts_with(['-', '.']) {
        true => Ok(()),
        false if kind.is_web() => Err("the host has letters, digits and -._"),
        false => Err("a bucket's name has letters, digits and -._"),
    }
}

fn prefix_of(path: &str) -> Result<String, &'static str> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return Ok(String::new());
    }
    for segment in path.split('/') {
        match segment {
            "" => return Err("there is nothing between two '/'"),
            "." | ".." => return Err("'.' and '..' name nothing in a store"),
            _ if segment.chars().any(char::is_control) => return Err("it holds control characters"),
            _ if segment.contains(['?', '#', '@']) => return Err("it holds one of ? # @"),
            _ => {}
        }
    }
    Ok(path.into())
}

/// Takes the percent-encoding away.
fn decode(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, more)) = rest.split_first() {
        rest = more;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = more.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or("two hexadecimal digits follow a '%'")?);
        rest = &more[2..];
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8")
}

/// `text` as it may be shown: what stands between the scheme and the last `@` before the path is left out.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.into() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{path}"),
        None => text.into(),
    }
}

impl TryFrom<String> for StoreUrl {
    type Error = BadStoreUrl;
    fn try_from(text: String) -> Result<Self, BadStoreUrl> {
        text.parse()
    }
}

impl From<StoreUrl> for String {
    fn from(url: StoreUrl) -> Self {
        url.to_string()
    }
}

/// Without name and password.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            StoreKind::Dir => write!(f, "file://{}", self.dir.display()),
            kind if self.prefix.is_empty() => write!(f, "{}://{}", kind.scheme(), self.place),
            kind => write!(f, "{}://{}/{}", kind.scheme(), self.place, self.prefix),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_who_keeps_it_the_place_and_what_keys_begin_with() {
        for (text, kind, place, prefix) in [
            ("s3://bucket", StoreKind::S3, "bucket", ""),
            ("s3://bucket/", StoreKind::S3, "bucket", ""),
            ("s3://my.bucket-1/a/b c/", StoreKind::S3, "my.bucket-1", "a/b c"),
            ("gs://bucket/a%20b", StoreKind::Gcs, "bucket", "a%20b"),
            ("az://container/a", StoreKind::Azure, "container", "a"),
            ("https://host.example:8443/dav/a%20b", StoreKind::Https, "host.example:8443", "dav/a b"),
            ("http://[::1]:80/x", StoreKind::Http, "[::1]:80", "x"),
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!((url.kind(), url.place(), url.prefix()), (kind, place, prefix), "{text}");
            assert!(StoreUrl::is_one(text) && url.dir().is_none());
        }
        let url: StoreUrl = "file:///srv/archive/".parse().unwrap();
        assert_eq!((url.kind(), url.dir()), (StoreKind::Dir, Some(Path::new("/srv/archive"))));
        assert_eq!(url.to_string(), "file:///srv/archive");
        assert!(!StoreUrl::is_one("ssh://h/tank") && !StoreUrl::is_one("/srv"));
    }

    #[test]
    fn a_password_is_kept_and_never_shown() {
        let url: StoreUrl = "https://me:s%40cret@host/a".parse().unwrap();
        assert_eq!(url.login(), Some(("me", "s@cret")));
        let shown = format!("{url} {url:?} {}", serde_json::to_string(&url).unwrap());
        assert!(!shown.contains("cret"), "{shown}");
        let error = "https://me:secret@host/a/../b".parse::<StoreUrl>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }

    #[test]
    fn what_names_no_place_or_leads_out_of_it_is_refused() {
        for text in [
            "",
            "s3:",
            "s3://",
            "s3:///a",
            "s3://b/../c",
            "s3://b/./c",
            "s3://b//c",
            "s3://b/a\n",
            "s3://b/a@1",
            "s3://b d/a",
            "s3://me@b/a",
            "gs://-b",
            "http://h/a?b",
            "http://h/a#b",
            "http://h/%2e%2e/a",
            "http://h/%zz",
            "http://h/%ff",
            "file://a/b",
            "file:///a/../b",
            "ftp://h/a",
            "https://",
            "https://a b/c",
        ] {
            assert!(text.parse::<StoreUrl>().is_err(), "{text}");
        }
        assert!(format!("s3://b/{}", "a".repeat(MAX_LEN)).parse::<StoreUrl>().is_err());
    }

    #[test]
    fn an_object_is_shown_below_its_place_and_a_file_lies_in_its_folder() {
        let url: StoreUrl = "s3://b/x/y".parse().unwrap();
        assert_eq!(url.with_key("z"), "s3://b/x/y/z");
        let (above, name) = url.parent().unwrap();
        assert_eq!((above.to_string().as_str(), name.as_str()), ("s3://b/x", "y"));
        assert!("s3://b".parse::<StoreUrl>().unwrap().parent().is_none());
        let (above, name) = StoreUrl::directory(Path::new("/a/b")).unwrap().parent().unwrap();
        assert_eq!((above.to_string().as_str(), name.as_str()), ("file:///a", "b"));
        assert_eq!(StoreUrl::directory(Path::new("/")).unwrap().with_key("a"), "file:///a");
    }
}
