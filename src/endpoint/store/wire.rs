//! The way to a store: requests as `object_store` makes them, and what is remembered of their answers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Once;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http_body_util::BodyExt;
use hyper::body::Bytes;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::{ClientOptions, HeaderMap};

use super::pace::{Incoming, Outgoing, Pace, Progress};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How much of an answer that is an error is read.
const MAX_ERROR: usize = 64 << 10;

/// What was wrong with a request.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// The store answered with an error.
    Answer {
        /// The HTTP status.
        status: u16,
        /// `NoSuchKey` …, or nothing.
        code: String,
        /// What it says, or nothing.
        message: String,
    },
    /// No answer came, or only a part of it.
    Transport {
        /// What happened.
        what: String,
    },
}

tokio::task_local! {
    /// The last trouble of what this task does.
    static LAST: RefCell<Option<Trouble>>;
}

/// Does `work`, and answers what was wrong with its last request that went wrong.
pub async fn watched<F: Future>(work: F) -> (F::Output, Option<Trouble>) {
    LAST.scope(RefCell::new(None), async {
        let output = work.await;
        (output, LAST.with(|last| last.borrow_mut().take()))
    })
    .await
}

/// Takes note of what was wrong with a request of this task, if anything was.
pub(super) fn remember(trouble: impl Into<Option<Trouble>>) {
    if let Some(trouble) = trouble.into() {
        let _ = LAST.try_with(|last| *last.borrow_mut() = Some(trouble));
    }
}

/// Adds what comes to `bytes`, and answers them with whether it was no more than makes `most` of them.
pub(super) async fn collect(
    mut stream: BoxStream<'static, object_store::Result<Bytes>>,
    mut bytes: Vec<u8>,
    most: u64,
) -> (Vec<u8>, object_store::Result<bool>) {
    while let Some(piece) = stream.next().await {
        match piece {
            Err(error) => return (bytes, Err(error)),
            Ok(piece) if bytes.len() as u64 + piece.len() as u64 > most => return (bytes, Ok(false)),
            Ok(piece) => bytes.extend_from_slice(&piece),
        }
    }
    (bytes, Ok(true))
}

/// Makes connections.
#[derive(Debug, Clone)]
pub struct Connector {
    /// Only this machine is talked to.
    pub is_loopback: bool,
    /// In the clear.
    pub is_plain: bool,
    /// Certificates beside the system's, as PEM.
    pub ca: Vec<u8>,
    /// Whether to go where a server sends us.
    pub follow: bool,
    /// What every request says besides.
    pub headers: HeaderMap,
    /// How fast.
    pub pace: Pace,
    /// How long nothing may come or go.
    pub stall: Duration,
}

impl Connector {
    /// A client as this says.
    pub fn client(&self) -> reqwest::Result<reqwest::Client> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Lost if there is one already, which serves as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let redirects = if self.follow {
            reqwest::redirect::Policy::limited(5)
        } else {
            reqwest::redirect::Policy::none()
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("cowsnap/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .redirect(redirects)
            .connect_timeout(CONNECT)
            .https_only(!self.is_plain)
            .default_headers(self.headers.clone())
            .tcp_nodelay(true);
        if self.is_loopback {
            builder = builder.no_proxy();
        }
        let more = reqwest::tls::Certificate::from_pem_bundle(&self.ca)?;
        // Reading the system's takes longer than a request.
        builder = match self.is_plain && !self.follow {
            true => builder.tls_certs_only(more),
            false => builder.tls_certs_merge(more),
        };
        builder.build()
    }

    /// The same, as `object_store` takes it.
    pub fn service(&self) -> object_store::Result<HttpClient> {
        let client = self
            .client()
            .map_err(|error| object_store::Error::Generic { store: "HTTP", source: error.into() })?;
        Ok(HttpClient::new(Service { client, pace: self.pace.clone(), stall: self.stall }))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let key = object_store::ClientConfigKey::AllowHttp;
        // Where credentials are got on machines of the providers, which is in the clear.
        let is_plain =
            self.is_plain || options.get_config_value(&key).is_some_and(|allowed| allowed == "true");
        Self { is_plain, ..self.clone() }.service()
    }
}

/// Reads a file of certificates.
pub fn read_ca(path: Option<&Path>) -> std::io::Result<Vec<u8>> {
    path.map_or(Ok(Vec::new()), std::fs::read)
}

#[derive(Debug)]
struct Service {
    client: reqwest::Client,
    pace: Pace,
    stall: Duration,
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for Service {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> Answer<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let response = self.send(request).await.inspect_err(|error| remember(lost(error)))?;
            match response.status().is_client_error() || response.status().is_server_error() {
                true => refused(response).await,
                false => Ok(response),
            }
        })
    }
}

impl Service {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, mut body) = request.into_parts();
        let url = parts.uri.to_string().parse().map_err(|_| unusable("the address is none"))?;
        let mut pieces = VecDeque::new();
        while let Some(frame) = body.frame().await {
            pieces.extend(frame?.into_data().ok().filter(|piece| !piece.is_empty()));
        }
        let progress = Progress::new();
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        if !pieces.is_empty() {
            let body = Outgoing::new(pieces, self.pace.clone(), progress.clone());
            *request.body_mut() = Some(reqwest::Body::wrap(body));
        }
        let response = tokio::select! {
            response = self.client.execute(request) => response,
            stalled = progress.stalled(self.stall) => return Err(stalled),
        };
        let response =
            response.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error.without_url()))?;
        let (parts, body) = hyper::Response::<reqwest::Body>::from(response).into_parts();
        let (pace, patience) = (self.pace.clone(), self.stall);
        let body = Incoming { body: Box::pin(body), pace, patience, pause: None, alarm: None };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

fn unusable(why: &'static str) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, std::io::Error::other(why))
}

/// What happened on the way, in one line without addresses, which may hold what is secret.
pub fn lost(error: &(dyn std::error::Error + 'static)) -> Trouble {
    let mut what = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !what.iter().any(|known: &String| known.contains(&text)) {
            what.push(text);
        }
        next = error.source();
    }
    Trouble::Transport { what: what.pop().unwrap_or_default() }
}

/// Reads an answer that is an error, remembers it, and hands it on.
async fn refused(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let mut body = std::pin::pin!(body.bytes_stream());
    let mut bytes = Vec::new();
    while let Some(Ok(more)) = futures_util::StreamExt::next(&mut body).await {
        if bytes.len() + more.len() > MAX_ERROR {
            break;
        }
        bytes.extend_from_slice(&more);
    }
    let text = String::from_utf8_lossy(&bytes);
    let message = element(&text, "Message").unwrap_or_default();
    // Azure's stands in a header, too, where an answer has no body.
    let header = parts.headers.get("x-ms-error-code").and_then(|value| value.to_str().ok());
    let code = element(&text, "Code").or_else(|| header.map(str::to_owned)).unwrap_or_default();
    remember(Trouble::Answer { status: parts.status.as_u16(), code, message });
    let body = http_body_util::Full::new(Bytes::from(bytes)).map_err(|never| match never {});
    Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
}

/// What stands in the first line of the first such element.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    let first = inner.trim().lines().next().unwrap_or_default();
    Some(first.chars().filter(|c| !c.is_control()).take(300).collect())
}

/// Whether a cut connection or the like is behind `error`.
pub fn transport(error: &(dyn std::error::Error + 'static)) -> Option<Trouble> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Decode => None,
                _ => Some(lost(http)),
            };
        }
        next = error.source();
    }
    None
}
