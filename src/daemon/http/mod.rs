//! What a daemon answers over HTTP/1.1: how it is, what is measured, and a run that is asked for.
//!
//! **Invariant:** one request, one answer, and the connection is over; each has its time, its bytes and its place among few, and who has asked for nothing yet keeps
//! nobody from one. Nothing here waits for a disk but a thread of its own.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::daemon::listen::{Bound, Socket};
use crate::daemon::{Message, spawn};
use crate::{Error, Result};

mod answer;
mod route;

pub(super) use answer::Door;
use route::Origin;

/// How many are spoken with at each address at once. If there is one more, whoever has been there for longest and has not asked for anything yet has to go.
const MAX_CONNECTIONS: usize = 64;
/// What is told to one more if all have asked for something.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
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

/// One that is spoken with.
struct Guest {
    task: AbortHandle,
    has_asked: Arc<AtomicBool>,
}

/// All at an address, those who came first before others.
#[derive(Default)]
struct Guests(VecDeque<Guest>);

impl Guests {
    /// Whether there is a place for one more: who has asked for nothing may have lost his.
    fn has_place(&mut self) -> bool {
        self.0.retain(|guest| !guest.task.is_finished());
        if self.0.len() < MAX_CONNECTIONS {
            return true;
        }
        let idle = self.0.iter().position(|guest| !guest.has_asked.load(Ordering::Relaxed));
        let gone = idle.and_then(|nth| self.0.remove(nth));
        gone.map(|guest| guest.task.abort()).is_some()
    }
}

/// Whoever comes.
async fn each(listener: Listener, origin: Origin, door: Arc<Door>) {
    let mut guests = Guests::default();
    loop {
        match listener.accept().await {
            Ok(stream) if guests.has_place() => {
                let has_asked = Arc::new(AtomicBool::new(false));
                let speaking = speak(stream, origin, door.clone(), has_asked.clone());
                // Whoever is late, or speaks something else, has gone.
                let task = tokio::spawn(async move { drop(timeout(LIMIT, speaking).await) }).abort_handle();
                guests.0.push_back(Guest { task, has_asked });
            }
            // It is said at once or not at all.
            Ok(mut stream) => {
                let said = poll_fn(|context| Pin::new(&mut stream).poll_write(context, FULL));
                drop(timeout(Duration::from_millis(1), said).await);
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
    has_asked: Arc<AtomicBool>,
) -> impl Future<Output = hyper::Result<()>> {
    let service = service_fn(move |request| {
        let (door, has_asked) = (door.clone(), has_asked.clone());
        async move { Ok::<_, std::convert::Infallible>(door.answer(request, origin, &has_asked).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .max_headers(MAX_LINES)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
}
