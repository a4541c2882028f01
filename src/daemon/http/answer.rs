//! The answers.

use std::path::PathBuf;
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
use tokio::time::timeout;

use crate::daemon::health::Status;
use crate::daemon::http::route::{Origin, Refused, Route, Who, admitted, route};
use crate::daemon::measure::Measured;
use crate::daemon::{Message, Setup, Tokens, whole};
use crate::exec::record::Records;
use crate::exec::request::Requests;
use crate::{Error, Result};

/// How many look at the state directory at once. It may be on a disk that hangs.
pub(super) const MAX_LOOKING: usize = 4;
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
        })
    }

    /// To one request.
    pub(super) async fn answer(&self, request: Request<Incoming>, origin: Origin) -> Answer {
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
        match route {
            Route::Nothing => refusal(
                StatusCode::NOT_FOUND,
                "there is /healthz, /metrics, /jobs, /jobs/NAME and /jobs/NAME/run",
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
            Route::Health => {
                let code =
                    if status.reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                object(code, &status.object(who == Who::Known))
            }
            Route::Metrics => self.metrics(status).await,
            Route::Job(name) | Route::Run(name) if status.config.job(name).is_err() => {
                refusal(StatusCode::NOT_FOUND, &format!("no job is called {name}"))
            }
            Route::Job(name) => self.job(name).await,
            Route::Run(_) if status.is_stopping => {
                refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is about to end")
            }
            Route::Run(name) => self.run(name).await,
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
                let answer = Response::new(Full::from(text.to_string()));
                with(answer, CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")
            }
            Some(Err(why)) => refusal(StatusCode::SERVICE_UNAVAILABLE, &why),
            None => refusal(StatusCode::SERVICE_UNAVAILABLE, "what is measured does not answer in time"),
        }
    }

    async fn job(&self, name: &str) -> Answer {
        let (job, state_dir) = (name.to_owned(), self.state_dir.clone());
        let looked = self.look(move || {
            let found = Records::of(&state_dir).read(&job)?;
            let is_asked_for = Requests::below(&state_dir).is_open(&job)?;
            let record = found.record.as_ref();
            Ok(json!({
                "job": job, "is_at_work": found.is_at_work, "is_asked_for": is_asked_for,
                "last_run": record.and_then(|record| record.last_run.as_ref()),
                "unended": record.map_or(0, |record| record.unended),
                "skipped": record.map_or(0, |record| record.skipped.n), "damage": found.damage,
            }))
        });
        looked.await.map_or_else(|answer| answer, |told| object(StatusCode::OK, &told))
    }

    /// It is on the disk when it is accepted: a daemon that is killed now does it when it is back.
    async fn run(&self, name: &str) -> Answer {
        let (job, state_dir) = (name.to_owned(), self.state_dir.clone());
        let looked = self.look(move || {
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

    /// Has a thread look at the state directory.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T, Answer> {
        let late = || refusal(StatusCode::SERVICE_UNAVAILABLE, "the state directory does not answer in time");
        let place = self.looking.clone().try_acquire_owned().map_err(|_| late())?;
        let looking = tokio::task::spawn_blocking(move || {
            let _place = place;
            look()
        });
        match timeout(PATIENCE, looking).await {
            Ok(Ok(Ok(found))) => Ok(found),
            Ok(Ok(Err(error))) => Err(failed(&error)),
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

fn failed(error: &Error) -> Answer {
    let code = match error.class() {
        crate::Class::Unreachable | crate::Class::Conflict => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refusal(code, &whole(error))
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
