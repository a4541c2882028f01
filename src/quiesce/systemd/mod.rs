//! Units of systemd ([kernel-notes](../../../kernel-notes/systemd.md)).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use zbus::OwnedObjectPath;

use crate::error::Class;
use crate::quiesce::service::eventually;
use crate::quiesce::systemd::bus::Bus;

mod bus;
mod cgroup;
mod scope;

pub use bus::Trouble;
pub use scope::{is_a_service, leave};

/// What takes other units down with a unit that is stopped, by what those are called in its properties.
const STOPPED_ALONG: [&str; 5] = ["RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"];

/// What is to be known of a unit.
#[derive(Debug, Clone)]
struct Seen {
    /// Its own name, and not another one of it.
    id: String,
    /// `loaded`, or what is wrong.
    load: String,
    load_error: String,
    active: String,
    sub: String,
    has_job: bool,
    /// Of its last start.
    invocation: Vec<u8>,
    /// How that ended.
    result: String,
    /// Whether its conditions were met then.
    is_wanted: bool,
    /// Who stops with it.
    along: Vec<String>,
    can_stop: bool,
    can_start: bool,
    is_transient: bool,
    /// If it is down, though not whether it has processes.
    group: String,
}

/// What it does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Runs,
    Down,
    /// Neither: a moment later it is one of them.
    Between(String),
}

impl Seen {
    fn of(name: &str) -> Result<Self, Trouble> {
        let mut bus = Bus::open()?;
        let path = bus.unit(name)?;
        let unit = bus.properties(&path, "Unit")?;
        let own = interface(name).map(|interface| bus.properties(&path, interface)).transpose()?;
        let own = |key| own.as_ref().map(|own| own.text(key)).unwrap_or_default();
        Ok(Self {
            id: unit.text("Id"),
            load: unit.text("LoadState"),
            load_error: unit.second_text("LoadError"),
            active: unit.text("ActiveState"),
            sub: unit.text("SubState"),
            has_job: unit.number_of_pair("Job") != 0,
            invocation: unit.bytes("InvocationID"),
            result: own("Result"),
            is_wanted: unit.flag("ConditionResult"),
            along: STOPPED_ALONG.iter().flat_map(|key| unit.texts(key)).collect(),
            can_stop: unit.flag("CanStop") && !unit.flag("RefuseManualStop"),
            can_start: unit.flag("CanStart") && !unit.flag("RefuseManualStart"),
            is_transient: unit.flag("Transient"),
            group: own("ControlGroup"),
        })
    }

    fn state(&self) -> Result<State, Trouble> {
        let Self { active, sub, .. } = self;
        Ok(match active.as_str() {
            "active" | "reloading" | "refreshing" if !self.has_job => State::Runs,
            "inactive" | "failed" if !self.has_job => match self.left_behind()?.as_slice() {
                [] => State::Down,
                left => State::Between(format!("it has ended, and left behind {}", processes(left))),
            },
            _ if self.has_job => {
                State::Between(format!("it is {active} ({sub}), and systemd is about to change that"))
            }
            _ => State::Between(format!("it is {active} ({sub})")),
        })
    }

    /// Processes of a unit that is down.
    fn left_behind(&self) -> Result<Vec<i32>, Trouble> {
        // Of the root of all groups, everybody would be.
        if self.group.trim_matches('/').is_empty() {
            return Ok(Vec::new());
        }
        let told = |error| Trouble::new(Class::Unreachable, format!("its processes: {error}"));
        cgroup::processes(&self.group).map_err(told)
    }

    fn is_stopping(&self) -> bool {
        self.active == "deactivating"
    }

    /// It has ended by itself, and is started again only later, if at all.
    fn has_ended(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed") && !self.has_job
            || self.sub.starts_with("auto-restart")
    }

    /// Why it is not to be stopped, be it up or down.
    fn is_unfit(&self, name: &str) -> Option<Trouble> {
        let wrong = |why: String| Some(Trouble::new(Class::Usage, why));
        match self.load.as_str() {
            "loaded" if self.id != name => wrong(format!("it is another name of {}: use that", self.id)),
            "loaded" => None,
            "not-found" => wrong("systemd knows no such unit".into()),
            "masked" => wrong("it is masked".into()),
            other if self.load_error.is_empty() => wrong(format!("systemd could not load it: {other}")),
            other => wrong(format!("systemd could not load it: {other}: {}", self.load_error)),
        }
    }
}

/// That of what a unit of that type has beside a state, if that is of interest.
fn interface(name: &str) -> Option<&'static str> {
    match name.rsplit_once('.')?.1 {
        "service" => Some("Service"),
        "socket" => Some("Socket"),
        _ => None,
    }
}

fn processes(pids: &[i32]) -> String {
    let told: Vec<_> = pids.iter().take(5).map(|pid| format!("process {pid}")).collect();
    let more = if pids.len() > told.len() { ", and more" } else { "" };
    format!("{}{more}", told.join(", "))
}

/// Whether it runs.
///
/// # Errors
/// It is about to start or to stop; systemd does not answer.
pub fn runs(name: &str) -> Result<bool, String> {
    match Seen::of(name)?.state()? {
        State::Runs => Ok(true),
        State::Down => Ok(false),
        State::Between(why) => Err(why),
    }
}

/// Whether it has ended by itself: it is down, or waits to be started once more.
pub fn has_ended(name: &str) -> bool {
    Seen::of(name).is_ok_and(|seen| seen.has_ended())
}

/// That it has left no process behind if it has ended.
///
/// # Errors
/// Which.
pub fn left_behind(name: &str) -> Result<(), String> {
    match Seen::of(name).and_then(|seen| Ok((seen.has_ended(), seen.state()?))) {
        Ok((true, State::Between(why))) => Err(why),
        _ => Ok(()),
    }
}

/// That a unit which was told to stop was not killed instead: what it had not written would be lost.
///
/// # Errors
/// It was, or crashed; systemd does not answer.
pub fn has_ended_by_itself(name: &str) -> Result<(), String> {
    let seen = Seen::of(name)?;
    let why = match seen.result.as_str() {
        "timeout" => "systemd killed it, as it took longer than its TimeoutStopSec",
        "watchdog" => "systemd killed it, as it gave its watchdog no sign",
        "oom-kill" => "the kernel killed it for want of memory",
        "core-dump" => "it crashed",
        "signal" => "it was killed by a signal",
        // Also with an exit code: many end so that were asked to by a signal.
        _ => return Ok(()),
    };
    Err(format!("{why}: what it had not written is lost"))
}

/// What is another one after each start; empty if it was never started, or that is forgotten.
pub fn invocation(name: &str) -> Result<Vec<u8>, String> {
    let all = Seen::of(name)?.invocation;
    Ok(if all.iter().all(|&byte| byte == 0) { Vec::new() } else { all })
}

/// That a unit can be stopped and started again as if nothing had been, if it runs, with no other one but those that are `named`.
///
/// # Errors
/// Why not.
pub fn check(name: &str, named: &BTreeSet<&str>) -> Result<(), Trouble> {
    let seen = Seen::of(name)?;
    if let Some(trouble) = seen.is_unfit(name) {
        return Err(trouble);
    }
    if seen.state()? == State::Down {
        return Ok(());
    }
    let conflict = |why: String| Err(Trouble::new(Class::Conflict, why));
    if seen.is_transient {
        return conflict("it is transient: nobody could start it again".into());
    }
    if !seen.can_stop || !seen.can_start {
        return conflict("it refuses to be stopped or started by hand".into());
    }
    let others = stopped_along(&seen, named)?;
    if !others.is_empty() {
        return conflict(format!(
            "{} would stop with it, and stay down: name it as a service of the job, too, before {name}",
            others.into_iter().collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(())
}

/// The units, not `named`, that are up and that systemd stops with this one.
fn stopped_along(unit: &Seen, named: &BTreeSet<&str>) -> Result<BTreeSet<String>, Trouble> {
    let (mut found, mut met) = (BTreeSet::new(), BTreeSet::from([unit.id.clone()]));
    let mut left = unit.along.clone();
    while let Some(name) = left.pop() {
        if !met.insert(name.clone()) {
            continue;
        }
        let seen = Seen::of(&name)?;
        if matches!(seen.active.as_str(), "inactive" | "failed") {
            continue;
        }
        left.extend(seen.along);
        if !named.contains(name.as_str()) {
            found.insert(name);
        }
    }
    Ok(found)
}

/// Has it stopped, which takes its time; nothing that systemd is about to do is taken back for it.
///
/// # Errors
/// Nothing was done.
pub fn ask_to_stop(name: &str) -> Result<(), Trouble> {
    Bus::open()?.manager::<OwnedObjectPath>("StopUnit", "ss", &(name, "fail")).map(drop)
}

/// Has it started, behind a stop that goes on still, and instead of one that has not begun.
///
/// # Errors
/// systemd refuses, or does not answer.
pub fn ask_to_start(name: &str) -> Result<(), Trouble> {
    let has_failed = Seen::of(name)?.active == "failed";
    let mut bus = Bus::open()?;
    if has_failed {
        // It may have been started too often for systemd's taste.
        let _ = bus.manager::<()>("ResetFailedUnit", "s", name);
    }
    bus.manager::<OwnedObjectPath>("StartUnit", "ss", &(name, "replace")).map(drop)
}

/// Waits while it stops. `Ok(false)`: it does still when the time is over.
///
/// # Errors
/// None: what can not be found out now is asked again.
pub fn has_stopped(name: &str, until: Option<Instant>) -> Result<bool, String> {
    eventually(until, false, || Ok(Seen::of(name).is_ok_and(|seen| !seen.is_stopping())))
}

/// Waits until it runs, after [`ask_to_start`].
///
/// # Errors
/// It does not, and why.
pub fn comes_up(name: &str, within: Duration) -> Result<(), String> {
    let mut last = "systemd did not answer".to_owned();
    let runs = eventually(Some(Instant::now() + within), false, || {
        let seen = match Seen::of(name) {
            Ok(seen) => seen,
            Err(trouble) => {
                last = trouble.why;
                return Ok(false);
            }
        };
        match seen.state() {
            Ok(State::Runs) => return Ok(true),
            Ok(State::Between(why))
                if !matches!(seen.active.as_str(), "inactive" | "failed") || seen.has_job =>
            {
                last = why;
                return Ok(false);
            }
            _ => {}
        }
        Err(match seen.result.as_str() {
            _ if !seen.is_wanted => "a condition of it is not met".into(),
            "" | "success" => format!("it is {} ({})", seen.active, seen.sub),
            result => format!("it is {} ({result})", seen.active),
        })
    })?;
    if runs { Ok(()) } else { Err(format!("within {within:?} it did not run: {last}")) }
}
