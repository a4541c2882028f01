//! The answers.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE,
};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::daemon::health::Status;
use crate::daemon::http::route::{Origin, Refused, Route, Who, admitted, route};
use crate::daemon::measure::Measured;
use crate::daemon::{Message, Setup, Tokens, whole};
use crate::exec::record::Records;
use crate::exec::request::Requests;
use crate::{Error, Result};

/// How many look at the state directory at once. It may be on a disk that hangs. Others wait for their turn.
pub(super) const MAX_LOOKING: usize = 4;
/// How many may wait for a disk at once: there are places for who asks how the daemon is, too.
const MAX_WAITING: usize = 32;
/// How long whoever asks waits for the supervisor, or for the state directory.
const PATIENCE: Duration = Duration::from_secs(5);
/// No request has to say more than its first lines.
const MAX_BODY: usize = 4 << 10;

/// Who answers.
pub(in crate::daemon) struct Door {
    state_dir: PathBuf,
    tell: Sender<Message>,
    tokens: Tokens,
    measured: Arc<Measured>,
    looking: Arc<Semaphore>,
    waiting: Semaphore,
}

type Answer = Response<Full<Bytes>>;

impl Door {
    pub(in crate::daemon) fn new(setup: &Setup, tell: Sender<Message>, tokens: Tokens) -> Arc<Self> {
        Arc::new(Self {
            state_dir: setup.state_dir.clone(),
            tell,
            tokens,
            measured: Arc::new(Measured::new(setup.measure.clone())),
            looking: Arc::new(Semaphore::new(MAX_LOOKING)),
            waiting: Semaphore::new(MAX_WAITING),
        })
    }

    /// To one request. It `is_asked` once it is there, with all that it says.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        origin: Origin,
        is_asked: &AtomicBool,
    ) -> Answer {
        let (head, body) = request.into_parts();
        let route = route(&head.method, head.uri.path());
        let who = {
            let token = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
            admitted(&route, origin, &head.headers, token.as_ref())
        };
        let who = match who {
            Ok(who) => who,
            Err(Refused::Unknown) => {
                let answer =
                    refusal(StatusCode::UNAUTHORIZED, "a token is asked for, and another one than that");
                return with(answer, WWW_AUTHENTICATE, "Bearer");
            }
            Err(Refused::NoToken) => {
                return refusal(StatusCode::FORBIDDEN, "nobody may do that here: there is no --token-file");
            }
        };
        if let Err(answer) = listened_to(body).await {
            return answer;
        }
        is_asked.store(true, Ordering::Relaxed);
        match route {
            Route::Nothing => refusal(
                StatusCode::NOT_FOUND,
                "there is /healthz, /livez, /metrics, /jobs, /jobs/NAME and /jobs/NAME/run",
            ),
            Route::Otherwise(allowed) => {
                let answer = refusal(StatusCode::METHOD_NOT_ALLOWED, &format!("{allowed} would do"));
                with(answer, ALLOW, allowed)
            }
            route => match self.status().await {
                Some(status) => self.of(&route, &status, who).await,
                None => {
                    refusal(StatusCode::SERVICE_UNAVAILABLE, "nobody calls jobs any more: the daemon hangs")
                }
            },
        }
    }

    async fn of(&self, route: &Route<'_>, status: &Status, who: Who) -> Answer {
        match *route {
            Route::Life => object(StatusCode::OK, &json!({ "ok": true })),
            Route::Health => {
                let code =
                    if status.reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                object(code, &status.object(who == Who::Known))
            }
            Route::Job(name) | Route::Run(name) if status.config.job(name).is_err() => {
                refusal(StatusCode::NOT_FOUND, &format!("no job is called {name}"))
            }
            Route::Run(_) if status.is_stopping => {
                refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is about to end")
            }
            _ => match self.waiting.try_acquire() {
                Ok(_place) => self.looked_up(route, status, who).await,
                Err(_) => refusal(StatusCode::SERVICE_UNAVAILABLE, "too many wait for an answer already"),
            },
        }
    }

    /// What takes a disk.
    async fn looked_up(&self, route: &Route<'_>, status: &Status, who: Who) -> Answer {
        match *route {
            Route::Metrics => self.metrics(status).await,
            Route::Job(name) => self.job(name, who).await,
            Route::Run(name) => self.run(name, who).await,
            _ => {
                let jobs = status.config.jobs.iter();
                let told = jobs.map(|job| json!({ "job": job.name, "see": format!("/jobs/{}", job.name) }));
                object(StatusCode::OK, &json!({ "jobs": told.collect::<Vec<_>>() }))
            }
        }
    }

    /// How the supervisor is; `None` if it says nothing.
    async fn status(&self) -> Option<Status> {
        let (tell, told) = oneshot::channel();
        self.tell.send(Message::Status(tell)).ok()?;
        timeout(PATIENCE, told).await.ok()?.ok()
    }

    async fn metrics(&self, status: &Status) -> Answer {
        match self.measured.get(&status.config).await {
            Some(Ok(text)) => {
                let answer = Response::new(Full::from(format!("{text}{}", status.measured())));
                with(answer, CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")
            }
            Some(Err(why)) => refusal(StatusCode::SERVICE_UNAVAILABLE, &why),
            None => refusal(StatusCode::SERVICE_UNAVAILABLE, "what is measured does not answer in time"),
        }
    }

    /// Why something failed may tell names, paths and what a server has said: that is for who may know.
    async fn job(&self, name: &str, who: Who) -> Answer {
        let (job, state_dir) = (name.to_owned(), self.state_dir.clone());
        let looked = self.look(who, move || {
            let found = Records::of(&state_dir).read(&job)?;
            let is_asked_for = Requests::below(&state_dir).is_open(&job)?;
            let record = found.record.as_ref();
            let mut last_run = json!(record.and_then(|record| record.last_run.as_ref()));
            let mut damage = found.damage;
            if who != Who::Known {
                last_run
                    .pointer_mut("/failure")
                    .and_then(Value::as_object_mut)
                    .and_then(|f| f.remove("text"));
                damage = damage.map(|_| "the record is damaged".to_owned());
            }
            Ok(json!({
                "job": job, "is_at_work": found.is_at_work, "is_asked_for": is_asked_for,
                "last_run": last_run,
                "unended": record.map_or(0, |record| record.unended),
                "skipped": record.map_or(0, |record| record.skipped.n), "damage": damage,
            }))
        });
        looked.await.map_or_else(|answer| answer, |told| object(StatusCode::OK, &told))
    }

    /// It is on the disk when it is accepted: a daemon that is killed now does it when it is back.
    async fn run(&self, name: &str, who: Who) -> Answer {
        let (job, state_dir) = (name.to_owned(), self.state_dir.clone());
        let looked = self.look(who, move || {
            let is_at_work = Records::of(&state_dir).read(&job)?.is_at_work;
            let was_open = if is_at_work { None } else { Some(Requests::below(&state_dir).add(&job)?) };
            Ok(was_open)
        });
        let see = format!("/jobs/{name}");
        match looked.await {
            Err(answer) => answer,
            Ok(None) => {
                let told = json!({ "error": format!("job {name} is at work already"), "see": see });
                object(StatusCode::CONFLICT, &told)
            }
            Ok(Some(was_open)) => {
                // If nobody hears, it is done in the next minute.
                drop(self.tell.send(Message::Call(name.into())));
                let told = json!({ "job": name, "was_open": was_open, "see": see });
                with(object(StatusCode::ACCEPTED, &told), LOCATION, &see)
            }
        }
    }

    /// Has a thread look at the state directory, when it is its turn.
    async fn look<T: Send + 'static>(
        &self,
        who: Who,
        look: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T, Answer> {
        let late = || refusal(StatusCode::SERVICE_UNAVAILABLE, "the state directory does not answer in time");
        let until = Instant::now() + PATIENCE;
        let turn = timeout_at(until, self.looking.clone().acquire_owned()).await;
        let Ok(Ok(place)) = turn else { return Err(late()) };
        let looking = tokio::task::spawn_blocking(move || {
            let _place = place;
            look()
        });
        match timeout_at(until, looking).await {
            Ok(Ok(Ok(found))) => Ok(found),
            Ok(Ok(Err(error))) => Err(failed(&error, who)),
            Ok(Err(_)) => Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, "whoever looked has panicked")),
            Err(_) => Err(late()),
        }
    }
}

/// What a request says is not needed, and is not long.
async fn listened_to(body: Incoming) -> Result<(), Answer> {
    let long =
        || refusal(StatusCode::PAYLOAD_TOO_LARGE, &format!("no request says more than {MAX_BODY} bytes"));
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(long());
    }
    match timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(long()),
        Ok(Err(_)) => Err(refusal(StatusCode::BAD_REQUEST, "what is said is no request")),
        Err(_) => Err(refusal(StatusCode::REQUEST_TIMEOUT, "what is said does not come to an end")),
    }
}

fn failed(error: &Error, who: Who) -> Answer {
    let code = match error.class() {
        crate::Class::Unreachable | crate::Class::Conflict => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    match who {
        Who::Known => refusal(code, &whole(error)),
        Who::Anybody => refusal(code, "the state directory can not be read"),
    }
}

fn refusal(code: StatusCode, why: &str) -> Answer {
    object(code, &json!({ "error": why }))
}

fn object(code: StatusCode, value: &Value) -> Answer {
    let mut answer = Response::new(Full::from(format!("{value}\n")));
    *answer.status_mut() = code;
    with(with(answer, CONTENT_TYPE, "application/json"), CACHE_CONTROL, "no-store")
}

fn with(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}
