//! People and services are told of a job's runs. What fails of that is said, and changes nothing else.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::model::notify::{Channel, Message, News, Notify, curl_config, ping_url};
use crate::sys::child;

/// How long the programs may take that tell somebody, all together.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long what was killed may take to end.
const DYING: Duration = Duration::from_secs(2);

/// How often they are looked at.
const PIECE: Duration = Duration::from_millis(10);

/// The program that calls addresses: it can be ended while it looks up a name.
const CURL: &str = "curl";

/// What is told of all, and not by [`Channel`].
const PING: &str = "ping";

/// How much is kept of what a program says.
const MOST_SAID: usize = 4096;

/// How much of it is told.
const MOST_TOLD: usize = 400;

/// A start that is being told, while the run goes on.
#[derive(Debug)]
pub struct Starting(Result<Telling, String>);

/// What came of telling somebody.
#[derive(Debug, Default)]
pub struct Heard {
    /// What failed of it.
    pub failed: Vec<String>,
    /// Who has heard it.
    pub told: Vec<Channel>,
    /// The ping was answered.
    pub pinged: bool,
}

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

/// Tells all that are to know at once: these `people`, and who is pinged, unless `pings` says not to.
pub fn tell(
    notify: &Notify,
    starting: Option<Starting>,
    message: &Message,
    people: &[Channel],
    pings: bool,
) -> Heard {
    // What is told of the start is told first.
    let mut done = all_ended(starting.into_iter().map(|Starting(telling)| (PING, telling)).collect());
    let mut all = Vec::new();
    if let Some(ping) = notify.ping.as_ref().filter(|_| pings) {
        let which = if message.news == News::Failure { "fail" } else { "" };
        all.push((PING, call(&ping_url(ping, which), &message.body())));
    }
    let people = people.iter().filter_map(|&whom| Some((whom.name(), tells(notify, whom, message)?)));
    all.extend(people);
    let all = all_ended(all);
    let pinged = all.iter().any(|(what, done)| *what == PING && done.is_ok());
    done.extend(all);
    let has_heard = |whom: &Channel| done.iter().any(|(what, done)| *what == whom.name() && done.is_ok());
    Heard {
        pinged,
        told: Channel::ALL.into_iter().filter(has_heard).collect(),
        failed: done
            .into_iter()
            .filter_map(|(what, done)| Some(format!("{what}: {}", done.err()?)))
            .collect(),
    }
}

/// `None` if nobody is told that way.
fn tells(notify: &Notify, whom: Channel, message: &Message) -> Option<Result<Telling, String>> {
    match whom {
        Channel::Command => {
            let [program, arguments @ ..] = notify.command.as_deref()? else { return None };
            let mut command = Command::new(program);
            command.args(arguments).envs(message.environment());
            Some(Telling::begin(command, &message.body(), false))
        }
        Channel::Mail => {
            let mut command = Command::new(&notify.sendmail);
            command.args(["-t", "-oi"]);
            Some(Telling::begin(command, &message.mail(notify.mail.as_ref()?), false))
        }
    }
}

/// Twice more where nobody answers, or too much is asked of who does. An answer from elsewhere is none: it is not gone after.
fn call(url: &str, body: &str) -> Result<Telling, String> {
    let mut curl = Command::new(CURL);
    // First of all, root's own ~/.curlrc is not read.
    curl.args(["--disable", "--silent", "--show-error", "--fail"]);
    curl.args(["--proto", "=http,https", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{stderr}\\n%{http_code}"]);
    curl.args(["--connect-timeout", "5", "--max-time", "8", "--retry", "2", "--retry-delay", "1"]);
    curl.args(["--retry-connrefused", "--config", "-"]);
    Telling::begin(curl, &curl_config(url, body), true)
}

/// A program at work that tells somebody.
#[derive(Debug)]
struct Telling {
    child: Child,
    said: Vec<u8>,
    ended: Option<ExitStatus>,
    is_call: bool,
}

impl Telling {
    /// Starts it, in a session of its own, with `input` as what it reads. The last line that a call says is the answer's code.
    fn begin(mut command: Command, input: &str, is_call: bool) -> Result<Self, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let of_it = |error: io::Error| format!("{program}: {error}");
        command.current_dir("/");
        // A guard has all signals blocked.
        child::own_session(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(of_it)?;
        let stderr = child.stderr.as_ref().expect("it is a pipe");
        rustix::io::ioctl_fionbio(stderr, true).map_err(|error| of_it(error.into()))?;
        let mut stdin = child.stdin.take().expect("it is a pipe");
        // Less than a pipe holds: nobody is waited for. Who does not read it need not.
        match stdin.write_all(input.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(of_it(error)),
            _ => Ok(Self { child, said: Vec::new(), ended: None, is_call }),
        }
    }

    /// Takes what it says, so that it can go on, and sees whether it has ended.
    fn look(&mut self) -> io::Result<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        // After that, all that it said is there. What it has started may have the pipe still, and say more.
        let Some(stderr) = self.child.stderr.as_mut() else { return Ok(self.ended.is_some()) };
        let mut piece = [0; 4096];
        for _ in 0..64 {
            match stderr.read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    let room = MOST_SAID.saturating_sub(self.said.len()).min(n);
                    self.said.extend_from_slice(&piece[..room]);
                }
            }
        }
        Ok(self.ended.is_some())
    }

    /// What came of it.
    fn outcome(&self) -> Result<(), String> {
        let Some(status) = self.ended else {
            return Err(format!("it took longer than {} s", PATIENCE.as_secs()));
        };
        let said = String::from_utf8_lossy(&self.said);
        let (said, code) = match said.trim_end().rsplit_once('\n') {
            Some((said, code)) if self.is_call => (said.to_owned(), code.to_owned()),
            _ => (said.to_string(), String::new()),
        };
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let said: String = said.chars().take(MOST_TOLD).collect();
        match status.success() {
            false if said.is_empty() => Err(status.to_string()),
            false => Err(format!("{status}: {said}")),
            true if self.is_call && !code.starts_with('2') => Err(format!("the answer is {code}")),
            true => Ok(()),
        }
    }

    fn kill(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let dead = Instant::now() + DYING;
        while self.child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < dead {
            std::thread::sleep(PIECE);
        }
    }
}

/// Waits for the ends of all at once, and kills those that take too long.
fn all_ended(all: Vec<(&'static str, Result<Telling, String>)>) -> Vec<(&'static str, Result<(), String>)> {
    let until = Instant::now() + PATIENCE;
    let mut all = all;
    loop {
        // All of them: none is to wait until another one lets it say what it has to.
        let looked = all.iter_mut().filter_map(|(_, telling)| telling.as_mut().ok());
        let n_at_work = looked.filter_map(|telling| telling.look().ok()).filter(|is_over| !is_over).count();
        if n_at_work == 0 || Instant::now() >= until {
            break;
        }
        std::thread::sleep(PIECE);
    }
    let outcome = |telling: Result<Telling, String>| {
        let mut telling = telling?;
        if telling.ended.is_none() {
            telling.kill();
        }
        telling.outcome()
    };
    all.into_iter().map(|(what, telling)| (what, outcome(telling))).collect()
}
