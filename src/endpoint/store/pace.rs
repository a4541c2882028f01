//! How fast bytes go, and whether they go at all.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind};
use tokio::time::Sleep;

/// How far ahead of its rate anybody may be when more is to move.
const BURST: Duration = Duration::from_millis(100);
/// How much moves at once.
const PIECE: usize = 256 << 10;

/// So many bytes per second in the long run, for all that have a clone of it together.
#[derive(Debug, Clone)]
pub struct Pace(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    rate: u64,
    due: Mutex<Instant>, // When all that has moved would have moved at that rate.
}

impl Pace {
    /// Without a rate, as fast as it goes.
    pub fn new(rate: Option<u64>) -> Self {
        Self(rate.map(|rate| Arc::new(Shared { rate: rate.max(1), due: Mutex::new(Instant::now()) })))
    }

    /// How long to wait before more may move, and how much then.
    fn next(&self) -> (Duration, usize) {
        let Some(shared) = &self.0 else { return (Duration::ZERO, PIECE) };
        let due = *shared.due.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = due.saturating_duration_since(Instant::now()).saturating_sub(BURST);
        (ahead, ((shared.rate as f64 * BURST.as_secs_f64()) as usize).clamp(1, PIECE))
    }

    fn moved(&self, len: usize) {
        let Some(shared) = &self.0 else { return };
        let mut due = shared.due.lock().unwrap_or_else(PoisonError::into_inner);
        // What was not used is lost: a pause earns no burst afterwards.
        *due = due.max(Instant::now()) + Duration::from_secs_f64(len as f64 / shared.rate as f64);
    }
}

/// Nothing moved for too long.
#[derive(Debug, thiserror::Error)]
#[error("nothing came or went for {} s", .0.as_secs_f32())]
pub struct Stalled(Duration);

/// When something last moved.
#[derive(Debug, Clone)]
pub struct Progress(Arc<(Instant, AtomicU64)>);

impl Progress {
    pub fn new() -> Self {
        Self(Arc::new((Instant::now(), AtomicU64::new(0))))
    }

    fn touch(&self) {
        self.0.1.store(self.0.0.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        self.0.0.elapsed().saturating_sub(Duration::from_millis(self.0.1.load(Ordering::Relaxed)))
    }

    /// Ends once nothing has moved for so long.
    pub async fn stalled(&self, patience: Duration) -> HttpError {
        while let Some(left) = patience.checked_sub(self.idle()).filter(|left| !left.is_zero()) {
            tokio::time::sleep(left).await;
        }
        HttpError::new(HttpErrorKind::Timeout, Stalled(patience))
    }
}

/// What goes out, piece by piece.
pub struct Outgoing {
    pieces: std::collections::VecDeque<Bytes>,
    left: u64,
    pace: Pace,
    progress: Progress,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Outgoing {
    pub fn new(pieces: std::collections::VecDeque<Bytes>, pace: Pace, progress: Progress) -> Self {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces, left, pace, progress, pause: None }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.progress.touch();
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
                self.progress.touch();
            }
            let (wait, most) = self.pace.next();
            if !wait.is_zero() {
                self.pause = Some(Box::pin(tokio::time::sleep(wait.min(Duration::from_secs(1)))));
                continue;
            }
            let Some(first) = self.pieces.front_mut() else { return Poll::Ready(None) };
            let piece = first.split_to(first.len().min(most));
            if first.is_empty() {
                self.pieces.pop_front();
            }
            if piece.is_empty() {
                continue;
            }
            self.left -= piece.len() as u64;
            self.pace.moved(piece.len());
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}

/// What comes in; an error once nothing comes for too long.
pub struct Incoming<B> {
    pub body: Pin<Box<B>>,
    pub pace: Pace,
    pub patience: Duration,
    pub pause: Option<Pin<Box<Sleep>>>,
    pub alarm: Option<Pin<Box<Sleep>>>,
}

impl<B: Body<Data = Bytes>> Body for Incoming<B>
where
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let (wait, _) = self.pace.next();
            if wait.is_zero() {
                break;
            }
            self.pause = Some(Box::pin(tokio::time::sleep(wait.min(Duration::from_secs(1)))));
        }
        if let Poll::Ready(frame) = self.body.as_mut().poll_frame(cx) {
            self.alarm = None;
            if let Some(Ok(frame)) = &frame {
                self.pace.moved(frame.data_ref().map_or(0, Bytes::len));
            }
            return Poll::Ready(
                frame.map(|f| f.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))),
            );
        }
        let patience = self.patience;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(alarm.as_mut().poll(cx));
        self.alarm = None;
        Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, Stalled(patience)))))
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
