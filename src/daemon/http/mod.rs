//! What a daemon answers over HTTP/1.1: how it is, what is measured, and a run that is asked for.
//!
//! **Invariant:** one request, one answer, and the connection is over; each has its time, its bytes and its place among few. Nothing here waits for a disk
//! but a thread of its own.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::daemon::listen::{Bound, Socket};
use crate::daemon::{Message, spawn};
use crate::{Error, Result};

mod answer;
mod route;

pub(super) use answer::Door;
use route::Origin;

/// How many are spoken with at each address at once. Others wait until one has gone.
const MAX_CONNECTIONS: usize = 32;
/// How long the first lines of a request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long all of it may take, with the answer.
const LIMIT: Duration = Duration::from_secs(30);
/// No request's first lines are longer, nor are there more of them.
const MAX_HEAD: usize = 16 << 10;
const MAX_LINES: usize = 64;

/// Listens from now on, in a thread of its own. The answer is what goes with the daemon.
///
/// # Errors
/// There are no descriptors, or no threads, any more.
pub(super) fn open(bound: Vec<Bound>, door: Arc<Door>, tell: &Sender<Message>) -> Result<Vec<Socket>> {
    let begin = || Error::io("begin to listen at", "sockets");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(answer::MAX_LOOKING)
        .build()
        .map_err(begin())?;
    let mut sockets = Vec::new();
    {
        let _inside = runtime.enter();
        for bound in bound {
            match bound {
                Bound::Tcp(listener, at) => {
                    let origin = if at.ip().is_loopback() { Origin::Loopback } else { Origin::Far };
                    let listener = TcpListener::from_std(listener).map_err(begin())?;
                    runtime.spawn(each(Listener::Tcp(listener), origin, door.clone()));
                }
                Bound::Unix(listener, socket) => {
                    let listener = UnixListener::from_std(listener).map_err(begin())?;
                    runtime.spawn(each(Listener::Unix(listener), Origin::Unix, door.clone()));
                    sockets.push(socket);
                }
            }
        }
    }
    let tell = tell.clone();
    spawn("http", move || {
        // It does not end; if it does, that is told.
        let _told = Told(tell);
        runtime.block_on(std::future::pending::<()>());
    })?;
    Ok(sockets)
}

/// Tells that nobody is listened to any more.
struct Told(Sender<Message>);

impl Drop for Told {
    fn drop(&mut self) {
        // Nobody hears only when all is over.
        drop(self.0.send(Message::Deaf("its thread has ended".into())));
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Both ways of somebody.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Whoever comes, as long as there is a place.
async fn each(listener: Listener, origin: Origin, door: Arc<Door>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // It is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok(stream) => {
                let speaking = speak(stream, origin, door.clone());
                tokio::spawn(async move {
                    // Whoever is late, or speaks something else, has gone.
                    drop(timeout(LIMIT, speaking).await);
                    drop(place);
                });
            }
            // There are no descriptors left, say: there will be.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

fn speak(
    stream: Box<dyn Stream>,
    origin: Origin,
    door: Arc<Door>,
) -> impl Future<Output = hyper::Result<()>> {
    let service = service_fn(move |request| {
        let door = door.clone();
        async move { Ok::<_, std::convert::Infallible>(door.answer(request, origin).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .max_headers(MAX_LINES)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
}
