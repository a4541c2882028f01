//! What is measured, for whoever asks: by one thread at a time, whose answer counts for some seconds. A disk that hangs holds up that thread alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::Config;
use crate::daemon::{Measure, spawn, whole};

/// What came of it.
pub(super) type Answer = Result<Arc<str>, Arc<str>>;

/// How long an answer counts.
const FRESH: Duration = Duration::from_secs(2);
/// How long somebody who asks is let wait: Prometheus has gone after ten by default.
const PATIENCE: Duration = Duration::from_secs(9);

/// Asked by many.
pub(super) struct Measured {
    measure: Measure,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<(Instant, Answer)>,
    at_work: Option<watch::Receiver<Option<Answer>>>,
}

impl Measured {
    pub(super) fn new(measure: Measure) -> Self {
        Self { measure, state: Mutex::default() }
    }

    /// What there is, or will be soon; `None` if it takes too long.
    pub(super) async fn get(self: &Arc<Self>, config: &Arc<Config>) -> Option<Answer> {
        let mut wait = match self.begun(config) {
            Ok(wait) => wait,
            Err(answer) => return Some(answer),
        };
        let answer = tokio::time::timeout(PATIENCE, wait.wait_for(Option::is_some)).await.ok()?;
        Some(match answer {
            Ok(answer) => answer.clone().unwrap_or_else(|| Err("nothing".into())),
            Err(_) => Err("whoever measured has not come to an end".into()),
        })
    }

    /// Who is at it; or an answer, if there is one already.
    fn begun(self: &Arc<Self>, config: &Arc<Config>) -> Result<watch::Receiver<Option<Answer>>, Answer> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wait) = &state.at_work {
            return Ok(wait.clone());
        }
        if let Some((when, answer)) = &state.last
            && when.elapsed() < FRESH
        {
            return Err(answer.clone());
        }
        let (tell, wait) = watch::channel(None);
        let (its, config) = (self.clone(), config.clone());
        let begun = spawn("metrics", move || {
            let _over = Over(&its);
            let answer = (its.measure)(&config).map(Arc::from).map_err(|error| Arc::from(whole(&error)));
            its.state.lock().unwrap_or_else(PoisonError::into_inner).last =
                Some((Instant::now(), answer.clone()));
            // Whoever wanted it may be gone.
            drop(tell.send(Some(answer)));
        });
        match begun {
            Ok(()) => state.at_work = Some(wait.clone()),
            Err(error) => return Err(Err(whole(&error).into())),
        }
        Ok(wait)
    }
}

/// From then on there may be another thread, even if this one has panicked.
struct Over<'a>(&'a Measured);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).at_work = None;
    }
}
