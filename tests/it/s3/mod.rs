//! A real S3 server on loopback: `s3s` over a folder, with writes serialised, what was asked of it written down, and faults on demand.
//!
//! ```ignore
//! let server = s3::Server::start();
//! server.fault(3, Fault::Status(503));          // the third request from now on
//! let url = server.url("a");                    // s3://bkt/a
//! program.envs(server.env());
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::RwLock;

/// The bucket that there is. Its name is short: the server makes file names of it and the key.
pub const BUCKET: &str = "bkt";
pub const KEY_ID: &str = "AKIDCOWSNAP";
pub const SECRET: &str = "a secret that is shown nowhere";
/// What Google's clients say who they are by.
const TOKEN: &str = "a-token-that-is-shown-nowhere";

/// What was asked of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `GET`, `PUT` …
    pub method: String,
    /// The object's key, with the prefix; empty for what concerns the bucket.
    pub key: String,
    /// What follows the `?`.
    pub query: String,
    /// How long what came with it was said to be.
    pub bytes: u64,
    /// The range that was asked for.
    pub range: Option<String>,
    /// Whether it was to be done only if the key is free.
    pub if_free: bool,
    /// The storage class that was asked for.
    pub class: Option<String>,
}

/// What happens to a request.
#[derive(Clone)]
pub enum Fault {
    /// This status, and nothing is done.
    Status(u16),
    /// It is done, and this is the status nevertheless.
    StatusAfter(u16),
    /// No answer ever comes; nothing is done.
    Hang,
    /// The connection is reset; nothing is done.
    ResetBefore,
    /// It is done, and the connection is reset.
    ResetAfter,
    /// The first half of the answer's body comes, then the connection is reset.
    Truncate,
    /// The first half of the answer's body comes, then nothing.
    Stall,
    /// The answer's body is one byte short, and its header says so.
    Shorter,
    /// The answer's body is one byte longer, and its header says so.
    Longer,
    /// This is called before it is done.
    Before(Arc<dyn Fn() + Send + Sync>),
    /// This is called once it is done, before it is answered.
    After(Arc<dyn Fn() + Send + Sync>),
}

/// What happens to the requests that are such.
type On = (fn(&Asked) -> bool, Fault);

struct Shared {
    service: S3Service,
    serialised: bool,
    google: bool,
    lock: RwLock<()>,
    log: Mutex<Vec<Asked>>,
    number: AtomicU64,
    faults: Mutex<BTreeMap<u64, Fault>>,
    always: Mutex<Option<Fault>>,
    /// What becomes of requests of a kind.
    on: Mutex<Option<On>>,
}

/// A server that ends when it is dropped.
pub struct Server {
    address: SocketAddr,
    ground: tempfile::TempDir,
    shared: Arc<Shared>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// A server whose conditional writes are atomic, as S3's are.
    pub fn start() -> Self {
        Self::begin(true, false)
    }

    /// One that speaks as Google's XML API does: that is S3's but for who one is and for the condition that a key is free.
    pub fn google() -> Self {
        Self::begin(true, true)
    }

    /// The server as it comes: of two that put an object only if its key is free, both may be told that it was.
    pub fn stock() -> Self {
        Self::begin(false, false)
    }

    fn begin(serialised: bool, google: bool) -> Self {
        let ground = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(ground.path().join(BUCKET)).expect("a bucket");
        let mut builder = S3ServiceBuilder::new(FileSystem::new(ground.path()).expect("a filesystem"));
        if !google {
            builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        }
        let shared = Arc::new(Shared {
            service: builder.build(),
            serialised,
            google,
            lock: RwLock::new(()),
            log: Mutex::default(),
            number: AtomicU64::new(0),
            faults: Mutex::default(),
            always: Mutex::default(),
            on: Mutex::default(),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let served = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = accept(listener, served) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        Self { address, ground, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Where objects with this prefix are: `s3://bkt/PREFIX`.
    pub fn url(&self, prefix: &str) -> String {
        let scheme = if self.shared.google { "gs" } else { "s3" };
        format!("{scheme}://{BUCKET}/{prefix}").trim_end_matches('/').into()
    }

    /// Where it answers: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a program has to find in its environment to get there.
    pub fn env(&self) -> Vec<(String, String)> {
        if self.shared.google {
            let set = [("GOOGLE_BASE_URL", self.endpoint()), ("GOOGLE_BEARER_TOKEN", TOKEN.into())];
            return set.map(|(name, value)| (name.into(), value)).into();
        }
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", KEY_ID.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
            ("AWS_REGION", "us-east-1".into()),
        ]
        .map(|(name, value)| (name.into(), value))
        .into()
    }

    /// The same, for the library.
    pub fn options(&self) -> cowsnap::endpoint::store::Options {
        cowsnap::endpoint::store::Options::from_variables(self.env())
    }

    /// A store with this prefix.
    pub fn store(&self, prefix: &str) -> cowsnap::endpoint::store::Store {
        let url = self.url(prefix).parse().expect("an address");
        cowsnap::endpoint::store::Store::open(&url, &self.options()).expect("a store")
    }

    /// Where the objects are, each a file named by its key.
    pub fn files(&self) -> PathBuf {
        self.ground.path().join(BUCKET)
    }

    /// What was asked of it, in the order in which it came.
    pub fn requests(&self) -> Vec<Asked> {
        self.shared.log.lock().expect("a log").clone()
    }

    /// Forgets what was asked, and counts from one again.
    pub fn forget(&self) {
        self.shared.log.lock().expect("a log").clear();
        self.shared.faults.lock().expect("faults").clear();
        *self.shared.always.lock().expect("a fault") = None;
        *self.shared.on.lock().expect("a fault") = None;
        self.shared.number.store(0, Ordering::SeqCst);
    }

    /// Lets the `nth` request go wrong, counted from one and from when it was started or last forgot.
    pub fn fault(&self, nth: u64, fault: Fault) {
        self.shared.faults.lock().expect("faults").insert(nth, fault);
    }

    /// Lets all requests go wrong that are such, until it forgets.
    pub fn fault_on(&self, which: fn(&Asked) -> bool, fault: Fault) {
        *self.shared.on.lock().expect("a fault") = Some((which, fault));
    }

    /// Lets every request go wrong from now on, or none.
    pub fn fault_always(&self, fault: Option<Fault>) {
        *self.shared.always.lock().expect("a fault") = fault;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        tokio::spawn(connection(socket, shared.clone()));
    }
}

/// Serves one connection; one that is to be reset is closed with what lingers thrown away.
async fn connection(socket: TcpStream, shared: Arc<Shared>) {
    let _ = socket.set_nodelay(true);
    let Ok(socket) = socket.into_std() else { return };
    let Ok(same) = socket.try_clone() else { return };
    let Ok(socket) = TcpStream::from_std(socket) else { return };
    let same = Arc::new(same);
    let reset = same.clone();
    let service = service_fn(move |request| {
        let (shared, reset) = (shared.clone(), reset.clone());
        async move {
            let answered = answer(&shared, request).await;
            if answered.is_err() {
                let _ = rustix::net::sockopt::set_socket_linger(&*reset, Some(Duration::ZERO));
            }
            answered.map(|response| response.map(|body| lingering(body, reset)))
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
    drop(same);
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Cut>;

/// The connection is to be reset.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

/// A body at whose error the connection is reset.
fn lingering(body: Body, socket: Arc<std::net::TcpStream>) -> Body {
    body.map_err(move |cut| {
        let _ = rustix::net::sockopt::set_socket_linger(&*socket, Some(Duration::ZERO));
        cut
    })
    .boxed_unsync()
}

async fn answer(shared: &Shared, mut request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    if shared.google {
        let headers = request.headers_mut();
        let known = headers.remove("authorization");
        if headers.remove("x-goog-if-generation-match").is_some_and(|generation| generation == "0") {
            headers.insert("if-none-match", hyper::header::HeaderValue::from_static("*"));
        }
        if known.is_none_or(|known| known != format!("Bearer {TOKEN}")) {
            return Ok(error(401, request).await);
        }
    }
    let asked = asked(&request);
    let number = {
        let mut log = shared.log.lock().expect("a log");
        log.push(asked.clone());
        shared.number.fetch_add(1, Ordering::SeqCst) + 1
    };
    let fault = shared.faults.lock().expect("faults").remove(&number);
    let on = || shared.on.lock().expect("a fault").clone().filter(|(which, _)| which(&asked));
    let fault = fault.or_else(|| on().map(|(_, fault)| fault));
    let fault = fault.or_else(|| shared.always.lock().expect("a fault").clone());
    match &fault {
        Some(Fault::Status(status)) => return Ok(error(*status, request).await),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::ResetBefore) => return Err(Cut),
        Some(Fault::Before(call)) => called(call).await,
        _ => {}
    }
    let response = serve(shared, &asked, request).await?;
    match fault {
        // It has no body.
        _ if asked.method == "HEAD"
            && matches!(fault, Some(Fault::Truncate | Fault::Stall | Fault::Shorter | Fault::Longer)) =>
        {
            Ok(response)
        }
        Some(Fault::StatusAfter(status)) => Ok(made(status)),
        Some(Fault::ResetAfter) => Err(Cut),
        Some(Fault::After(call)) => {
            called(&call).await;
            Ok(response)
        }
        Some(Fault::Truncate) => cut(response, true).await,
        Some(Fault::Stall) => cut(response, false).await,
        Some(Fault::Shorter) => {
            relength(response, |bytes| bytes.truncate(bytes.len().saturating_sub(1))).await
        }
        Some(Fault::Longer) => relength(response, |bytes| bytes.push(b'x')).await,
        _ => Ok(response),
    }
}

/// Calls while others are served.
async fn called(call: &Arc<dyn Fn() + Send + Sync>) {
    let call = call.clone();
    let _ = tokio::task::spawn_blocking(move || call()).await;
}

fn asked(request: &Request<Incoming>) -> Asked {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let path = request.uri().path().trim_start_matches('/');
    Asked {
        method: request.method().to_string(),
        key: path.split_once('/').map_or("", |(_, key)| key).into(),
        query: request.uri().query().unwrap_or_default().into(),
        bytes: header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0),
        range: header("range"),
        if_free: header("if-none-match").is_some(),
        class: header("x-amz-storage-class"),
    }
}

/// Does what is asked. What is put only if its key is free, is put while nothing else is.
async fn serve(shared: &Shared, asked: &Asked, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    let (parts, body) = request.into_parts();
    let body = match asked.if_free {
        // All of it has come before the others wait.
        true => s3s::Body::from(body.collect().await.map_err(|_| Cut)?.to_bytes()),
        false => s3s::Body::from(body),
    };
    let request = Request::from_parts(parts, body);
    let is_read = matches!(request.method(), &Method::GET | &Method::HEAD);
    let response = match (shared.serialised && !is_read, asked.if_free) {
        (true, true) => {
            let _alone = shared.lock.write().await;
            shared.service.call(request).await
        }
        (true, false) => {
            let _among = shared.lock.read().await;
            shared.service.call(request).await
        }
        (false, _) => shared.service.call(request).await,
    };
    Ok(response.map_err(|_| Cut)?.map(|body| body.map_err(|_| Cut).boxed_unsync()))
}

/// An error, once all that came with the request was taken.
async fn error(status: u16, request: Request<Incoming>) -> Response<Body> {
    let _ = request.into_body().collect().await;
    made(status)
}

fn made(status: u16) -> Response<Body> {
    let code = match status {
        503 => "SlowDown",
        403 => "AccessDenied",
        412 => "PreconditionFailed",
        501 => "NotImplemented",
        _ => "InternalError",
    };
    let text =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>made to fail</Message></Error>");
    let body = Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

/// Half of a body, and then no more.
async fn cut(response: Response<Body>, reset: bool) -> Result<Response<Body>, Cut> {
    let (mut parts, body) = response.into_parts();
    let bytes = body.collect().await?.to_bytes();
    parts.headers.insert("content-length", bytes.len().into());
    let half = Frame::data(bytes.slice(..bytes.len() / 2));
    let rest = futures_util::stream::once(async move {
        // What was sent arrives before the reset does.
        tokio::time::sleep(if reset { Duration::from_millis(200) } else { Duration::from_secs(3600) }).await;
        Err(Cut)
    });
    let stream = futures_util::StreamExt::chain(futures_util::stream::iter([Ok(half)]), rest);
    Ok(Response::from_parts(parts, StreamBody::new(stream).boxed_unsync()))
}

/// Another body, of another length, which is said.
async fn relength(
    response: Response<Body>,
    change: impl FnOnce(&mut Vec<u8>),
) -> Result<Response<Body>, Cut> {
    let (mut parts, body) = response.into_parts();
    let mut bytes = body.collect().await?.to_bytes().to_vec();
    change(&mut bytes);
    parts.headers.insert("content-length", bytes.len().into());
    let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::from_parts(parts, body))
}
