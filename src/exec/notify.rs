//! People and services are told of a job's runs. What fails of that is said, and changes nothing else.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::model::notify::{Message, News, Notify, curl_config, ping_url};

/// How long a program may take that tells somebody.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long what was killed may take to end.
const DYING: Duration = Duration::from_secs(2);

/// The program that calls addresses: it can be ended while it looks up a name.
const CURL: &str = "curl";

/// A start that is being told, while the run goes on.
#[derive(Debug)]
pub struct Starting(Result<Child, String>);

/// What this machine is called.
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".into() } else { name.trim().into() }
}

/// Tells the ping that a run begins, and does not wait.
pub fn start(notify: &Notify) -> Option<Starting> {
    let ping = notify.ping.as_ref()?;
    Some(Starting(call(&ping_url(ping, "start"), "")))
}

/// Tells all that are to know; `is_told` says whether the command and the mail are. Answers what failed of it.
pub fn tell(notify: &Notify, starting: Option<Starting>, message: &Message, is_told: bool) -> Vec<String> {
    // What is told of the start is told first.
    let started = starting.map_or(Ok(()), |Starting(child)| child.and_then(ended)).map_err(of("ping"));
    let mut done = vec![started];
    if let Some(ping) = &notify.ping {
        let which = if message.news == News::Failure { "fail" } else { "" };
        done.push(call(&ping_url(ping, which), &message.body()).and_then(ended).map_err(of("ping")));
    }
    if is_told {
        if let Some([program, arguments @ ..]) = notify.command.as_deref() {
            let mut command = Command::new(program);
            command.args(arguments).envs(message.environment());
            done.push(run(command, &message.body()).and_then(ended).map_err(of("command")));
        }
        if let Some(to) = &notify.mail {
            let mut command = Command::new(&notify.sendmail);
            command.args(["-t", "-oi"]);
            done.push(run(command, &message.mail(to)).and_then(ended).map_err(of("mail")));
        }
    }
    done.into_iter().filter_map(Result::err).collect()
}

fn of(what: &'static str) -> impl Fn(String) -> String {
    move |why| format!("{what}: {why}")
}

/// Twice more where nobody answers, or too much is asked of who does.
fn call(url: &str, body: &str) -> Result<Child, String> {
    let mut curl = Command::new(CURL);
    // First of all, root's own ~/.curlrc is not read.
    curl.args([
        "--disable",
        "--silent",
        "--show-error",
        "--fail",
        "--proto",
        "=http,https",
        "--output",
        "/dev/null",
    ]);
    curl.args(["--connect-timeout", "5", "--max-time", "8", "--retry", "2", "--retry-delay", "1"]);
    curl.args(["--retry-connrefused", "--config", "-"]);
    run(curl, &curl_config(url, body))
}

/// Starts it, in a group of its own, with `input` as what it reads.
fn run(mut command: Command, input: &str) -> Result<Child, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.process_group(0).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    let mut stdin = child.stdin.take().expect("it is a pipe");
    // Less than a pipe holds: nobody is waited for. Who does not read it need not.
    match stdin.write_all(input.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("{program}: {error}")),
        _ => Ok(child),
    }
}

/// Waits for its end, kills it when it takes too long, and says why it failed.
fn ended(mut child: Child) -> Result<(), String> {
    let group = Pid::from_child(&child);
    let until = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
            None => {
                let _ = kill_process_group(group, Signal::KILL);
                let dead = Instant::now() + DYING;
                while child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < dead {
                    std::thread::sleep(Duration::from_millis(10));
                }
                return Err(format!("it took longer than {} s", PATIENCE.as_secs()));
            }
        }
    };
    match status.success() {
        true => Ok(()),
        false => Err(format!("{status}{}", said(&mut child))),
    }
}

/// The beginning of what it said, as far as that is there: what it has started may have the pipe still.
fn said(child: &mut Child) -> String {
    use std::io::Read;
    let Some(stderr) = child.stderr.as_mut() else { return String::new() };
    let mut bytes = [0; 400];
    let is_set = rustix::io::ioctl_fionbio(&*stderr, true);
    let n = is_set.ok().and_then(|()| stderr.read(&mut bytes).ok()).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..n]);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { text } else { format!(": {text}") }
}
