//! What is stopped for a snapshot, and how it is known to run.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is stopped while a snapshot is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quiesce {
    /// In the order in which they are stopped; started in reverse.
    pub services: Vec<Service>,
    /// How long each may take to stop.
    pub stop_within: Duration,
    /// How long each may take to start, and the probe to answer.
    pub start_within: Duration,
    /// How long all may be down, for the snapshot alone, before they are started though it is not there.
    pub snapshot_within: Option<Duration>,
    /// What answers when all is well.
    pub probe: Option<Probe>,
    /// A longer time down is warned of.
    pub max_downtime: Option<Duration>,
}

impl Quiesce {
    /// Whether nothing is stopped: what writes is told, and goes on.
    pub fn goes_on(&self) -> bool {
        self.services.iter().any(|service| matches!(service, Service::Hook { .. } | Service::Frozen { .. }))
    }

    /// Where the filesystems are mounted to which nobody writes meanwhile.
    pub fn frozen(&self) -> Vec<&Path> {
        let frozen = self.services.iter().filter_map(|service| match service {
            Service::Frozen { place } => Some(place.as_path()),
            _ => None,
        });
        frozen.collect()
    }
}

/// Something that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// A unit of systemd.
    Unit {
        /// With its type: `bitcoind.service`.
        name: String,
    },
    /// A process that SIGTERM stops.
    Process {
        /// Holds its number while it runs.
        pidfile: PathBuf,
        /// A command that starts it.
        start: Vec<String>,
    },
    /// A process that SIGTERM stops, known by the program it runs.
    Program {
        /// Its file.
        exe: PathBuf,
        /// It was given that.
        argument: Option<String>,
        /// Whose it is; anybody's if that is not said.
        #[serde(default)]
        user: Option<String>,
        /// A command that starts it.
        start: Vec<String>,
    },
    /// A container.
    Container {
        /// What its engine calls it.
        name: String,
        /// Where its engine is asked.
        socket: PathBuf,
    },
    /// Something that goes on, and is told before a snapshot and after it.
    Hook {
        /// Tells it before.
        before: Vec<String>,
        /// Tells it after, whatever has happened; empty if nothing has to.
        after: Vec<String>,
    },
    /// A filesystem that goes on, and is written to by nobody while the snapshot is taken.
    Frozen {
        /// Where it is mounted.
        place: PathBuf,
    },
    /// Something that commands know.
    Commands {
        /// Ends with 0 while it runs, with 1 to 3 while it does not; anything else is an error.
        status: Vec<String>,
        /// Stops it.
        stop: Vec<String>,
        /// Starts it.
        start: Vec<String>,
    },
}

/// Of systemd's types of units, those that can be stopped and started again.
const TYPES: [&str; 4] = ["service", "socket", "timer", "path"];
/// What systemd allows.
const MAX_UNIT: usize = 255;

impl Service {
    /// The unit of that name, with its type.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_unit(name: &str) -> Result<Self, String> {
        let types = || TYPES.map(|kind| format!(".{kind}")).join(", ");
        let Some((stem, kind)) = name.rsplit_once('.').filter(|(_, kind)| TYPES.contains(kind)) else {
            return Err(format!(
                "{name:?} is no unit that can be stopped and started: it ends with one of {}",
                types()
            ));
        };
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if stem.is_empty() || !stem.chars().all(is_allowed) || name.len() > MAX_UNIT {
            return Err(format!(
                "{name:?} is no unit's name: `systemd-escape` makes one of a path, and no pattern is read"
            ));
        }
        match stem.split_once('@') {
            Some(("", _)) => Err(format!("{name:?} is no unit's name")),
            Some((of, "")) => {
                Err(format!("{name:?} is a template: an instance of it is \"{of}@NAME.{kind}\""))
            }
            _ => Ok(Self::Unit { name: name.into() }),
        }
    }

    /// Its name, if it is a unit.
    pub fn unit(&self) -> Option<&str> {
        match self {
            Self::Unit { name } => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit { name } => name.fmt(f),
            Self::Process { pidfile, .. } => write!(f, "the process of {}", pidfile.display()),
            Self::Program { exe, argument: None, .. } => write!(f, "the process of {}", exe.display()),
            Self::Program { exe, argument: Some(argument), .. } => {
                write!(f, "the process of {} {argument}", exe.display())
            }
            Self::Container { name, .. } => write!(f, "container {name}"),
            Self::Hook { before, .. } => write!(f, "what {} tells", before.join(" ")),
            Self::Frozen { place } => write!(f, "the filesystem at {}", place.display()),
            Self::Commands { start, .. } => write!(f, "what {} starts", start.join(" ")),
        }
    }
}

/// What answers when all is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A GET that is answered with 2xx.
    Http {
        /// `HOST:PORT`.
        address: String,
        /// From the first `/` on.
        path: String,
    },
    /// `HOST:PORT`, where somebody listens.
    Tcp(String),
    /// A command that ends with 0.
    Command(Vec<String>),
}

impl Probe {
    /// Of `http://HOST[:PORT][/PATH]`.
    ///
    /// # Errors
    /// What is valid.
    pub fn http(url: &str) -> Result<Self, String> {
        let wrong = || format!("{url:?} is no address to get: http://HOST[:PORT][/PATH]");
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { host.to_owned() } else { format!("{host}:80") };
        let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
        if host.is_empty() || host.starts_with(':') || host.contains('@') || !is_plain(rest) {
            return Err(wrong());
        }
        Ok(Self::Http { address, path: if path.is_empty() { "/".into() } else { path.into() } })
    }

    /// Of `HOST:PORT`.
    ///
    /// # Errors
    /// What is valid.
    pub fn tcp(text: &str) -> Result<Self, String> {
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(text.into()))
            }
            _ => Err(format!("{text:?} is no address to connect to: HOST:PORT")),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { address, path } => write!(f, "http://{address}{path}"),
            Self::Tcp(address) => address.fmt(f),
            Self::Command(command) => command.join(" ").fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart_or_refused() {
        for (url, told) in [
            ("http://127.0.0.1:20443/v2/info", "http://127.0.0.1:20443/v2/info"),
            ("http://node", "http://node:80/"),
            ("http://[::1]:80/x", "http://[::1]:80/x"),
        ] {
            assert_eq!(Probe::http(url).map(|probe| probe.to_string()), Ok(told.into()));
        }
        for wrong in
            ["https://a/", "a:80", "http://", "http://:80/", "http://u@h/", "http://a/\r\nX: y", "http://a b"]
        {
            assert!(Probe::http(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Probe::tcp("[::1]:22").map(|probe| probe.to_string()), Ok("[::1]:22".into()));
        for wrong in ["a", ":22", "a:", "a:99999"] {
            assert!(Probe::tcp(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Probe::Command(vec!["a".into(), "b".into()]).to_string(), "a b");
    }

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn hook() -> Service {
        Service::Hook { before: words("db pause"), after: words("db resume") }
    }

    #[test]
    fn a_service_is_called_by_what_stops_it() {
        let start = || words("node -d");
        let program = |argument: Option<&str>| Service::Program {
            exe: "/usr/bin/node".into(),
            argument: argument.map(str::to_owned),
            user: None,
            start: start(),
        };
        let table = [
            (Service::Unit { name: "a.service".into() }, "a.service"),
            (Service::Process { pidfile: "/run/a.pid".into(), start: start() }, "the process of /run/a.pid"),
            (program(None), "the process of /usr/bin/node"),
            (program(Some("-conf=/etc/a")), "the process of /usr/bin/node -conf=/etc/a"),
            (Service::Container { name: "node".into(), socket: "/run/docker.sock".into() }, "container node"),
            (hook(), "what db pause tells"),
            (Service::Frozen { place: "/mnt/a".into() }, "the filesystem at /mnt/a"),
            (Service::Commands { status: start(), stop: start(), start: start() }, "what node -d starts"),
        ];
        for (service, told) in table {
            assert_eq!(service.to_string(), told);
        }
    }

    #[test]
    fn a_unit_is_one_that_can_be_stopped_and_started_again() {
        for name in ["node.service", "a-b_c:d.e.timer", "node@main.service", "x\\x2d1.socket", "p.path"] {
            let unit = Service::of_unit(name).expect(name);
            assert_eq!((unit.unit(), unit.to_string().as_str()), (Some(name), name));
        }
        let long = format!("{}.service", "n".repeat(MAX_UNIT - ".service".len() + 1));
        for (name, why) in [
            ("node", "it ends with one of .service, .socket, .timer, .path"),
            ("node.mount", "it ends with one of .service"),
            (".service", "is no unit's name: `systemd-escape`"),
            ("*.service", "no pattern is read"),
            ("a b.service", "is no unit's name"),
            ("/etc/a.service", "is no unit's name"),
            (&long, "is no unit's name"),
            ("@a.service", "\"@a.service\" is no unit's name"),
            ("node@.service", "is a template: an instance of it is \"node@NAME.service\""),
        ] {
            let error = Service::of_unit(name).expect_err(name);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn only_what_is_told_and_not_stopped_goes_on() {
        let unit = || Service::Unit { name: "a.service".into() };
        let goes_on = |services| {
            let within = Duration::from_secs(1);
            let quiesce = Quiesce {
                services,
                stop_within: within,
                start_within: within,
                snapshot_within: None,
                probe: None,
                max_downtime: None,
            };
            let frozen = quiesce.frozen().into_iter().map(Path::to_owned).collect::<Vec<_>>();
            (quiesce.goes_on(), frozen)
        };
        let none = Vec::<PathBuf>::new;
        assert_eq!(goes_on(vec![hook()]), (true, none()));
        assert_eq!((goes_on(vec![unit()]), goes_on(Vec::new())), ((false, none()), (false, none())));
        let frozen = || Service::Frozen { place: "/mnt/a".into() };
        assert_eq!(goes_on(vec![frozen()]), (true, vec!["/mnt/a".into()]));
        assert_eq!((hook().unit(), unit().unit()), (None, Some("a.service")));
    }
}
