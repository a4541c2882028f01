//! What is asked of a web server (WebDAV) beyond what `object_store` asks: only if the key is free, and without knowing the length.

use std::io::Read;

use hyper::{Method, Request};
use object_store::client::{HttpRequestBody, HttpResponse};

use super::judge::Fate;
use super::remote::{Remote, Web};
use super::{Bytes, Cause, Error, Result};

impl Remote {
    /// Puts an object only if nothing is there.
    pub(super) fn put_new_on_web(&self, web: &Web, key: &str, bytes: &Bytes) -> Result<Result<(), Fate>> {
        let op = "write";
        let put = || self.ask(web, Method::PUT, key, Some(bytes.clone()));
        let mut outcome = self.once(op, key, put())?;
        // A conflict (409) may be that a folder is missing, or was until somebody else has made it just now.
        if let Err(Fate::NotFound(_) | Fate::Taken(_)) = &outcome {
            self.make_folders(web, key)?;
            outcome = self.once(op, key, put())?;
        }
        Ok(outcome.map(drop))
    }

    /// Makes the folders above a key.
    fn make_folders(&self, web: &Web, key: &str) -> Result<()> {
        let path = self.path(key)?.to_string();
        let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        let prefix = self.url.prefix().len();
        for end in ends {
            let method = Method::from_bytes(b"MKCOL").unwrap_or(Method::PUT);
            let below = path[..end].get(prefix..).unwrap_or_default().trim_start_matches('/').to_owned();
            let at = if end < prefix { Err(path[..end].to_owned()) } else { Ok(below) };
            // 405: it is there already.
            drop(self.once("make the folder of", key, self.ask_at(web, method, at, None))?);
        }
        Ok(())
    }

    async fn ask(
        &self,
        web: &Web,
        method: Method,
        key: &str,
        body: Option<Bytes>,
    ) -> object_store::Result<HttpResponse> {
        self.ask_at(web, method, Ok(key.to_owned()), body).await
    }

    /// Asks for a key below the prefix, or (`Err`) for a folder above it.
    async fn ask_at(
        &self,
        web: &Web,
        method: Method,
        at: Result<String, String>,
        body: Option<Bytes>,
    ) -> object_store::Result<HttpResponse> {
        let path = match &at {
            Ok(key) if self.url.prefix().is_empty() => key.clone(),
            Ok(key) => format!("{}/{key}", self.url.prefix()),
            Err(above) => above.clone(),
        };
        let mut request = Request::builder().method(method).uri(format!("{}{}", web.base, encode(&path)));
        if let Some(body) = &body {
            request = request
                .header(hyper::header::IF_NONE_MATCH, "*")
                .header(hyper::header::CONTENT_LENGTH, body.len());
        }
        let generic = |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic {
            store: "HTTP",
            source,
        };
        let body = body.map_or_else(HttpRequestBody::empty, HttpRequestBody::from);
        let request = request.body(body).map_err(|error| generic(error.into()))?;
        let response = web.client.execute(request).await.map_err(|error| generic(error.into()))?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(generic(format!("the server answers {}", response.status()).into())),
        }
    }

    /// Refuses what is longer than one part: a web server takes an object in one piece.
    pub(super) fn upload_to_web(
        &self,
        key: &str,
        _first: Bytes,
        _stream: &mut dyn Read,
        _moved: &mut dyn FnMut(u64),
    ) -> Result<u64> {
        let source = Cause("a web server takes an object in one piece, of at most 16 MiB".into());
        Err(Error::Refused { op: "write", subject: self.url.with_key(key), source, hint: None })
    }
}

/// A path in an address: all but letters, digits and `-._~/` percent-encoded.
fn encode(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => text.push(byte.into()),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}
