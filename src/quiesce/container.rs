//! Containers, by the engine that has them: Podman or Docker, which speak the same of them.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use crate::quiesce::http::{Answer, ask};
use crate::quiesce::process::Process;
use crate::quiesce::service::{Stop, eventually};

/// Both know it.
const VERSION: &str = "/v1.40";
/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long Podman is to wait until it kills. It is not to: who is late is waited for by the guard. It takes no -1.
const NEVER: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// What a process ends with, as an engine tells it, that was ended by SIGKILL.
const KILLED: i64 = 128 + 9;

/// What is read of what an engine says of a container.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    #[serde(default)]
    name: String,
    state: State,
    #[serde(default)]
    host_config: HostConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: String,
    #[serde(default)]
    pid: i32,
    #[serde(default)]
    exit_code: i64,
    #[serde(default)]
    started_at: String,
}

impl Inspected {
    /// An engine takes the beginning of an id, too: of another container.
    fn expect_name(&self, name: &str) -> Result<(), String> {
        let found = self.name.trim_start_matches('/');
        match found.is_empty() || found == name || self.id == name {
            true => Ok(()),
            false => {
                Err(format!("no container is called {name}: its engine takes that for the id of {found}"))
            }
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    auto_remove: bool,
}

#[derive(Deserialize)]
struct Complaint {
    message: String,
}

impl Answer {
    fn complaint(&self) -> String {
        let said = serde_json::from_slice(&self.body).map(|Complaint { message }| message);
        let said = said.unwrap_or_else(|_| String::from_utf8_lossy(&self.body).chars().take(200).collect());
        format!("its engine answers {}: {}", self.status, said.trim())
    }
}

fn inspect(socket: &Path, name: &str) -> Result<Inspected, String> {
    let path = format!("{VERSION}/containers/{name}/json");
    let found: Inspected = get(socket, &path)?;
    found.expect_name(name).map(|()| found)
}

fn get<T: serde::de::DeserializeOwned>(socket: &Path, path: &str) -> Result<T, String> {
    let until = Instant::now() + PATIENCE;
    match ask(socket, "GET", path, until, false, &mut || ())? {
        None => Err(format!("{} does not answer within {PATIENCE:?}", socket.display())),
        Some(Answer { status: 200, body }) => {
            serde_json::from_slice(&body).map_err(|error| format!("{}: {error}", socket.display()))
        }
        Some(answer) => Err(answer.complaint()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Engine {
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    #[serde(default)]
    name: String,
}

fn is_podman(socket: &Path) -> Result<bool, String> {
    let engine: Engine = get(socket, &format!("{VERSION}/version"))?;
    Ok(engine.components.iter().any(|component| component.name.contains("Podman")))
}

/// What an engine is told of when it is to kill: never. Docker before 25 kills also when who asked is gone, unless it is told -1.
fn patience(socket: &Path) -> Result<String, String> {
    Ok(if is_podman(socket)? { NEVER.as_secs().to_string() } else { "-1".into() })
}

/// Whether it runs.
///
/// # Errors
/// There is none of that name, or it is neither running nor not: it is paused, or being restarted.
pub fn runs(socket: &Path, name: &str) -> Result<bool, String> {
    match inspect(socket, name)?.state.status.as_str() {
        "running" => Ok(true),
        "exited" | "stopped" | "created" | "configured" | "initialized" | "dead" => Ok(false),
        other => Err(format!("it is {other}")),
    }
}

/// Its first process.
///
/// # Errors
/// There is no container of that name, or one that is gone once it is stopped.
pub fn process(socket: &Path, name: &str) -> Result<Option<Process>, String> {
    let Inspected { state, host_config, .. } = inspect(socket, name)?;
    match host_config.auto_remove {
        true => Err("it would be removed once it has stopped (--rm), and can not be started again".into()),
        false => Ok((state.pid > 1).then(|| Process::of(state.pid)).flatten()),
    }
}

/// Stops it by the signal that it wants, and waits until it has ended. It is not killed when the time is over.
///
/// # Errors
/// The engine can not, or had to kill it; a signal came.
pub fn stop(
    socket: &Path,
    name: &str,
    process: Option<&Process>,
    within: Duration,
    sent: &mut dyn FnMut(),
) -> Result<Stop, String> {
    let until = Instant::now() + within;
    // By its id: a name that is nobody's any more could be the beginning of another one's.
    let id = inspect(socket, name)?.id;
    let path = format!("{VERSION}/containers/{id}/stop?t={}", patience(socket)?);
    match ask(socket, "POST", &path, until, true, sent)? {
        None => return Ok(Stop::Late),
        Some(Answer { status: 200..300 | 304, .. }) => {}
        Some(answer) => return Ok(Stop::Refused(answer.complaint())),
    }
    let is_gone = || -> Result<bool, String> {
        match process {
            Some(process) => Ok(process.open()?.is_none()),
            None => Ok(true),
        }
    };
    if !eventually(Some(until), true, || Ok(runs(socket, name) == Ok(false) && is_gone()?))? {
        return Ok(Stop::Late);
    }
    match inspect(socket, name)?.state.exit_code {
        KILLED => Err("it was killed: what it had not written is lost".into()),
        _ => Ok(Stop::Down),
    }
}

/// Whether one that runs was told to stop in that time, and has not yet. Podman says so itself; Docker tells of each signal, of as many events as it remembers.
///
/// # Errors
/// It can not be found out, also as the engine does not remember so much.
pub fn is_stopping(socket: &Path, name: &str, since: Duration) -> Result<bool, String> {
    /// What was told since then may have been written down a moment earlier.
    const SLACK: Duration = Duration::from_secs(2);
    let Inspected { id, state, .. } = inspect(socket, name)?;
    if state.status == "stopping" {
        return Ok(true);
    }
    if is_podman(socket)? {
        return Ok(false);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    let from = now.saturating_sub(since).saturating_sub(SLACK);
    // What was told before it was started was told another process.
    let started = state.started_at.parse::<jiff::Timestamp>().ok();
    let started = started
        .and_then(|started| Duration::try_from(started.duration_since(jiff::Timestamp::UNIX_EPOCH)).ok());
    let from = from.max(started.unwrap_or_default());
    // {"container":["ID"],"event":["kill"]}
    let which = format!("&filters=%7B%22container%22%3A%5B%22{id}%22%5D%2C%22event%22%3A%5B%22kill%22%5D%7D");
    if has_events(socket, from, now, &which)? {
        return Ok(true);
    }
    // Docker keeps the last 256 alone, and none when it is started again: of what comes before it has to know something.
    match has_events(socket, Duration::from_secs(1), from, "")? {
        true => Ok(false),
        false => Err("its engine does not remember as much as that".into()),
    }
}

/// Whether an engine tells of anything of that time.
fn has_events(socket: &Path, from: Duration, until: Duration, which: &str) -> Result<bool, String> {
    let time = |time: Duration| format!("{}.{:09}", time.as_secs(), time.subsec_nanos());
    let path = format!("{VERSION}/events?since={}&until={}{which}", time(from), time(until));
    match ask(socket, "GET", &path, Instant::now() + PATIENCE, false, &mut || ())? {
        None => Err(format!("{} does not answer within {PATIENCE:?}", socket.display())),
        Some(Answer { status: 200, body }) => Ok(!body.trim_ascii().is_empty()),
        Some(answer) => Err(answer.complaint()),
    }
}

/// Starts it, and waits until it runs.
///
/// # Errors
/// It does not.
pub fn start(socket: &Path, name: &str, within: Duration) -> Result<(), String> {
    let until = Instant::now() + within;
    // The engine may be starting itself.
    let mut last = "its engine does not answer".to_owned();
    let mut path = None;
    eventually(Some(until), false, || {
        if path.is_none() {
            match inspect(socket, name) {
                Ok(found) => path = Some(format!("{VERSION}/containers/{}/start", found.id)),
                Err(why) => last = why,
            }
        }
        let Some(path) = &path else { return Ok(false) };
        match ask(socket, "POST", path, until, false, &mut || ()) {
            Ok(Some(Answer { status: 200..300 | 304, .. })) => Ok(true),
            Ok(Some(answer)) => Err(answer.complaint()),
            Ok(None) => Ok(false),
            Err(why) => {
                last = why;
                Ok(false)
            }
        }
    })?;
    match eventually(Some(until), false, || Ok(runs(socket, name) == Ok(true)))? {
        true => Ok(()),
        false => {
            Err(format!("it does not run within {within:?}: {}", runs(socket, name).err().unwrap_or(last)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use super::*;

    /// An engine that answers these in turn, each with its status.
    fn engine_of(
        folder: &Path,
        answers: Vec<(u16, String)>,
    ) -> (PathBuf, std::thread::JoinHandle<Vec<String>>) {
        let socket = folder.join("socket");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("bound");
        let serves = move || {
            let serve = |(status, body): (u16, String)| {
                let (mut stream, _) = listener.accept().expect("somebody asks");
                let mut buffer = [0; 4096];
                let n = stream.read(&mut buffer).expect("a question");
                let length = body.len();
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).expect("answered");
                let question = String::from_utf8_lossy(&buffer[..n]).into_owned();
                question.lines().next().unwrap_or_default().to_owned()
            };
            answers.into_iter().map(serve).collect()
        };
        (socket, std::thread::spawn(serves))
    }

    fn state(status: &str, code: i64) -> (u16, String) {
        (200, format!(r#"{{"Id":"a","State":{{"Status":"{status}","Pid":0,"ExitCode":{code}}}}}"#))
    }

    #[test]
    fn what_an_engine_says_is_yes_or_no_or_neither() {
        let folder = tempfile::tempdir().expect("a folder");
        let ask = |answer| {
            let (socket, engine) = engine_of(folder.path(), vec![answer]);
            let said = runs(&socket, "node");
            assert_eq!(engine.join().expect("asked"), ["GET /v1.40/containers/node/json HTTP/1.1"]);
            said
        };
        assert_eq!(ask(state("running", 0)), Ok(true));
        assert_eq!(ask(state("exited", 0)), Ok(false));
        assert_eq!(ask(state("paused", 0)), Err("it is paused".into()));
        let named = |name: &str| {
            (
                200,
                format!(
                    r#"{{"Id":"node5","Name":"{name}","State":{{"Status":"running","Pid":7,"ExitCode":0}}}}"#
                ),
            )
        };
        assert_eq!(ask(named("/node")), Ok(true));
        assert!(ask(named("/other")).is_err_and(|why| why.contains("for the id of other")));
        let none = (404, r#"{"message":"no such container"}"#.to_owned());
        assert_eq!(ask(none), Err("its engine answers 404: no such container".into()));
        assert!(ask((200, "{".into())).is_err());
        let removed = r#"{"Id":"a","State":{"Status":"running","Pid":1},"HostConfig":{"AutoRemove":true}}"#;
        let (socket, engine) = engine_of(folder.path(), vec![(200, removed.into())]);
        assert!(process(&socket, "node").is_err_and(|why| why.contains("--rm")));
        engine.join().expect("asked");
    }

    #[test]
    fn one_that_was_killed_has_not_stopped_well() {
        let folder = tempfile::tempdir().expect("a folder");
        for (code, expected) in [(0, true), (137, false)] {
            let version = |name: &str| (200, format!(r#"{{"Components":[{{"Name":"{name}"}}]}}"#));
            let (engine_name, t) = if code == 0 { ("Podman Engine", "2592000") } else { ("Engine", "-1") };
            let ended = || state("exited", code);
            let answers =
                vec![state("running", 0), version(engine_name), (204, String::new()), ended(), ended()];
            let (socket, engine) = engine_of(folder.path(), answers);
            let mut n_sent = 0;
            let done = stop(&socket, "node", None, Duration::from_secs(60), &mut || n_sent += 1);
            assert_eq!((done == Ok(Stop::Down), n_sent), (expected, 1), "{done:?}");
            let asked = engine.join().expect("asked");
            assert!(asked[2].starts_with(&format!("POST /v1.40/containers/a/stop?t={t} ")), "{asked:?}");
        }
    }

    #[test]
    fn one_that_was_told_is_known_by_its_state_or_by_what_its_engine_tells_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let running = |started: &str| {
            let state = format!(r#"{{"Status":"running","Pid":7,"ExitCode":0,"StartedAt":"{started}"}}"#);
            (200, format!(r#"{{"Id":"a","State":{state}}}"#))
        };
        let ask = |answers| {
            let (socket, engine) = engine_of(folder.path(), answers);
            let said = is_stopping(&socket, "node", Duration::from_secs(3));
            (said, engine.join().expect("asked"))
        };
        let told = || (200, r#"{"status":"kill","id":"a"}"#.to_owned());
        let nothing = || (200, "\n".to_owned());
        let engine = |name: &str| (200, format!(r#"{{"Components":[{{"Name":"{name}"}}]}}"#));
        let docker = || engine("Engine");
        assert_eq!(ask(vec![state("stopping", 0)]).0, Ok(true));
        assert_eq!(ask(vec![running(""), engine("Podman Engine")]).0, Ok(false));
        assert_eq!(ask(vec![running(""), docker(), told()]).0, Ok(true));
        // It was started a moment ago: what came before is not about this one.
        let earlier = (200, r#"{"status":"create","id":"b"}"#.to_owned());
        let (said, asked) =
            ask(vec![running("2100-01-02T03:04:05.000000007Z"), docker(), nothing(), earlier]);
        assert_eq!(said, Ok(false));
        assert!(asked[2].contains("/events?since=4102542245.000000007&until="), "{asked:?}");
        assert!(asked[3].contains("/events?since=1.000000000&until=4102542245.000000007 "), "{asked:?}");
        // It was started again itself, or so much has happened since: it may have forgotten that.
        assert!(ask(vec![running(""), docker(), nothing(), nothing()]).0.is_err());
        assert!(ask(vec![running(""), docker(), (500, "{}".into())]).0.is_err());
    }

    #[test]
    fn one_is_started_by_its_own_id_and_no_other_one_whose_id_begins_like_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let answers = vec![state("exited", 0), (204, String::new()), state("running", 0)];
        let (socket, engine) = engine_of(folder.path(), answers);
        start(&socket, "node", Duration::from_secs(60)).expect("it runs");
        assert!(engine.join().expect("asked")[1].starts_with("POST /v1.40/containers/a/start "));
        let other = r#"{"Id":"node5","Name":"/other","State":{"Status":"exited"}}"#;
        let (socket, engine) = engine_of(folder.path(), vec![(200, other.into()); 3]);
        let error = start(&socket, "node", Duration::ZERO).expect_err("it is another one");
        assert!(error.contains("for the id of other"), "{error}");
        assert!(engine.join().expect("asked").iter().all(|asked| asked.starts_with("GET ")));
    }
}
