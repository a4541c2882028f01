//! Downloads over HTTP. Async inside, one runtime for each client; what others see waits.

use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::Once;
use std::time::{Duration, Instant};

use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Response, StatusCode};
use tokio::runtime::Runtime;

use crate::endpoint::{Error, Result};
use crate::error::Class;
use crate::sys::interrupt;

/// How often it is looked whether the work was asked to stop.
const GLANCE: Duration = Duration::from_millis(100);
/// How often a server may send on to another place.
const MOST_REDIRECTS: usize = 10;

/// The names of what is in signed URLs of S3, Google's, Azure's and Cloudfront's, in small letters.
const OF_SIGNATURES: [&str; 14] = [
    "signature",
    "expires",
    "awsaccesskeyid",
    "googleaccessid",
    "key-pair-id",
    "policy",
    "sig",
    "se",
    "st",
    "sp",
    "sv",
    "sr",
    "spr",
    "sip",
];

/// What a server says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// How many bytes it has, if it says so.
    pub len: Option<u64>,
    /// By what one state of it is told from another, if it says so.
    pub state: State,
    /// Whether it gives parts of it.
    pub has_ranges: bool,
}

/// By what a server tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Its ETag.
    pub etag: Option<String>,
    /// When it was changed.
    pub modified: Option<String>,
}

impl State {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self { etag: text(ETAG), modified: text(LAST_MODIFIED) }
    }

    /// What a request for a part names: weak tags are not of bytes.
    fn condition(&self) -> Option<&str> {
        let etag = self.etag.as_deref().filter(|etag| !etag.starts_with("W/"));
        etag.or(self.modified.as_deref())
    }

    /// Whether both say so much that they must be of one state, or say nothing.
    fn is_that_of(&self, other: &Self) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
        same(&self.etag, &other.etag) && same(&self.modified, &other.modified)
    }
}

/// Who downloads.
pub struct Client {
    runtime: Runtime,
    client: reqwest::Client,
    patience: Duration,
}

/// An URL as it may be shown: without what is secret in it.
pub fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            path.map_or_else(|| format!("{scheme}://{host}"), |path| format!("{scheme}://{host}/{path}"))
        }
        None => url.to_owned(),
    }
}

/// What tells URLs apart that differ behind their question marks, but for signatures, which are others each time.
pub fn query_digest(url: &str) -> Option<String> {
    let (_, query) = url.split('#').next()?.split_once('?')?;
    let is_of_signature = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.starts_with("x-amz-") || name.starts_with("x-goog-") || OF_SIGNATURES.contains(&name.as_str())
    };
    let kept = query.split('&').filter(|part| !is_of_signature(part.split('=').next().unwrap_or_default()));
    let kept = kept.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&");
    (!kept.is_empty()).then(|| blake3::hash(kept.as_bytes()).to_hex()[..16].to_owned())
}

fn remote(url: &str, what: impl Into<String>, class: Class, hint: Option<&str>) -> Error {
    Error::Remote { place: shown(url), what: what.into(), class, hint: hint.map(Into::into) }
}

impl Client {
    /// One that waits for a server's next bytes no longer than `patience`.
    ///
    /// # Errors
    /// [`Error::Denied`] where TLS can not be set up.
    pub fn new(patience: Duration) -> Result<Self> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Somebody else's is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Error::io("begin", "a download"))?;
        let client = reqwest::Client::builder()
            .user_agent(concat!("cowsnap/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::limited(MOST_REDIRECTS))
            .connect_timeout(patience)
            .build();
        let client = client.map_err(|error| Error::Denied {
            op: "begin",
            subject: "a download".into(),
            lacking: format!("the machine's certificates: {}", in_full(&error)),
            hint: Some("apt install ca-certificates, or SSL_CERT_FILE=FILE".into()),
        })?;
        Ok(Self { runtime, client, patience })
    }

    /// All of a small file; `None` if there is none.
    ///
    /// # Errors
    /// One that is longer than `max`; what the server says.
    pub fn small(&self, url: &str, max: u64) -> Result<Option<Vec<u8>>> {
        self.runtime.block_on(async {
            let mut response = self.get(url, &HeaderMap::new()).await?;
            if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::GONE) {
                return Ok(None);
            }
            good(url, &response)?;
            let mut bytes = Vec::new();
            while let Some(chunk) = self.chunk(url, &mut response).await? {
                bytes.extend_from_slice(&chunk);
                if bytes.len() as u64 > max {
                    let what = format!("it is longer than the {max} bytes that it can have");
                    return Err(remote(url, what, Class::Corrupt, None));
                }
            }
            Ok(Some(bytes))
        })
    }

    /// What the server says of a file.
    ///
    /// # Errors
    /// What the server says: that there is none is [`Class::Usage`].
    pub fn head(&self, url: &str) -> Result<Head> {
        self.runtime.block_on(async {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, "bytes=0-0".parse().expect("it is plain text"));
            let response = self.get(url, &headers).await?;
            let state = State::of(response.headers());
            match response.status() {
                StatusCode::PARTIAL_CONTENT => {
                    let (_, len) = part(url, &response)?;
                    Ok(Head { len: Some(len), state, has_ranges: true })
                }
                // Of nothing, there is no first byte.
                StatusCode::RANGE_NOT_SATISFIABLE => Ok(Head { len: Some(0), state, has_ranges: false }),
                _ => {
                    good(url, &response)?;
                    Ok(Head { len: length(&response), state, has_ranges: false })
                }
            }
        })
    }

    /// Hands the bytes of `range` to `take`, in order, if the file is still of that `state`: all of them or an error.
    ///
    /// # Errors
    /// What the server says, or `take`; fewer or more bytes than that; [`Class::Conflict`] if the file is another one by now.
    pub fn range(
        &self,
        url: &str,
        range: Range<u64>,
        state: &State,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.runtime.block_on(async {
            let mut headers = HeaderMap::new();
            let bytes = format!("bytes={}-{}", range.start, range.end - 1);
            headers.insert(RANGE, bytes.parse().expect("it is plain text"));
            if let Some(Ok(condition)) = state.condition().map(str::parse) {
                headers.insert(IF_RANGE, condition);
            }
            let mut response = self.get(url, &headers).await?;
            if response.status() == StatusCode::OK || response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
                return Err(changed(url));
            }
            good(url, &response)?;
            if !State::of(response.headers()).is_that_of(state) {
                return Err(changed(url));
            }
            if part(url, &response)?.0 != range {
                return Err(remote(url, "it gives another part than it was asked for", Class::Corrupt, None));
            }
            self.body(url, &mut response, Some(range.end - range.start), take).await
        })
    }

    /// Hands all bytes of the file to `take`, in order.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub fn whole(&self, url: &str, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.runtime.block_on(async {
            let mut response = self.get(url, &HeaderMap::new()).await?;
            good(url, &response)?;
            let len = length(&response);
            self.body(url, &mut response, len, take).await
        })
    }

    async fn body(
        &self,
        url: &str,
        response: &mut Response,
        len: Option<u64>,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut came = 0;
        while let Some(chunk) = self.chunk(url, response).await? {
            came += chunk.len() as u64;
            if len.is_some_and(|len| came > len) {
                return Err(remote(url, "it gives more than it was asked for", Class::Corrupt, None));
            }
            take(&chunk)?;
        }
        match len.filter(|len| came < *len) {
            Some(len) => Err(remote(url, format!("it gave {came} bytes of {len}"), Class::Unreachable, None)),
            None => Ok(()),
        }
    }

    async fn get(&self, url: &str, headers: &HeaderMap) -> Result<Response> {
        let request = self.client.get(url).headers(headers.clone()).header(ACCEPT_ENCODING, "identity");
        self.attentively(url, request.send()).await
    }

    async fn chunk(&self, url: &str, response: &mut Response) -> Result<Option<hyper::body::Bytes>> {
        self.attentively(url, response.chunk()).await
    }

    /// Waits as long as patience lasts, or until a signal comes.
    async fn attentively<T>(&self, url: &str, what: impl Future<Output = reqwest::Result<T>>) -> Result<T> {
        let mut what = pin!(what);
        let begun = Instant::now();
        loop {
            if let Ok(done) = tokio::time::timeout(GLANCE, &mut what).await {
                return done.map_err(|error| of_reqwest(url, &error));
            }
            if interrupt::pending().is_some() {
                return Err(Error::Interrupted { op: "download", subject: shown(url) });
            }
            if begun.elapsed() > self.patience {
                let what = format!("nothing came for {} s", self.patience.as_secs());
                return Err(remote(url, what, Class::Unreachable, None));
            }
        }
    }
}

fn changed(url: &str) -> Error {
    let what = "the file is another one than when the download began";
    remote(url, what, Class::Conflict, Some("run it again: nothing of what came before is believed"))
}

fn of_reqwest(url: &str, error: &reqwest::Error) -> Error {
    let class = match error {
        error if error.is_builder() => Class::Usage,
        error if error.is_redirect() => Class::Usage,
        _ => Class::Unreachable,
    };
    remote(url, in_full(error), class, None)
}

/// An error of the library with its causes, without the URL, which may hold what is secret.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        texts.push(cause.to_string());
        next = cause.source();
    }
    match texts.is_empty() {
        true => "it can not be read".into(),
        false => texts.join(": "),
    }
}

/// What is no answer with bytes is an error.
fn good(url: &str, response: &Response) -> Result<()> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let class = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Class::Denied,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Class::Unreachable,
        status if status.is_server_error() => Class::Unreachable,
        _ => Class::Usage,
    };
    Err(remote(url, format!("the server says {status}"), class, None))
}

fn length(response: &Response) -> Option<u64> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Which bytes an answer has, and of how many.
fn part(url: &str, response: &Response) -> Result<(Range<u64>, u64)> {
    let header = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let parsed = header.and_then(|text| {
        let (range, len) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (from, to) = range.split_once('-')?;
        let (from, to): (u64, u64) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        let len: u64 = len.trim().parse().ok()?;
        (from <= to && to < len).then_some((from..to + 1, len))
    });
    parsed.ok_or_else(|| {
        let what = format!("it does not say which part it gives: {:?}", header.unwrap_or_default());
        remote(url, what, Class::Corrupt, None)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_in_a_url_is_not_shown() {
        for (url, expected) in [
            ("https://user:word@host:1/a/b?X-Amz-Signature=1#x", "https://host:1/a/b"),
            ("http://host", "http://host"),
            ("http://host/a@b", "http://host/a@b"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }

    #[test]
    fn urls_are_told_apart_by_their_queries_but_not_by_their_signatures() {
        let digest = |query: &str| query_digest(&format!("https://host/file{query}"));
        assert_eq!(digest(""), None);
        assert_eq!(digest("?X-Amz-Signature=1&X-Amz-Date=2#x"), None);
        assert_eq!(digest("?id=1&sig=abc"), digest("?id=1&sig=def"));
        assert_ne!(digest("?id=1"), digest("?id=2"));
        assert!(digest("?id=1").is_some());
    }

    #[test]
    fn weak_tags_are_no_condition() {
        let state = |etag: &str| State { etag: Some(etag.into()), modified: Some("then".into()) };
        assert_eq!(state("\"a\"").condition(), Some("\"a\""));
        assert_eq!(state("W/\"a\"").condition(), Some("then"));
        assert!(!state("\"a\"").is_that_of(&state("\"b\"")));
        assert!(state("\"a\"").is_that_of(&State::default()));
    }
}
