//! What a machine's snapshots are to be: jobs, from `config.toml` and `conf.d/*.toml` beside it ([ADR 7](../../docs/adr/0007-jobs.md)).
//!
//! **Invariant:** what is not understood, or contradicts itself, is an error with file, line, key and what would be valid. Nothing is ignored.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Span;
use jiff::tz::TimeZone;

use crate::error::Class;
use crate::model::archive::Depth;
use crate::model::{Flush, Notify, Quiesce, quoted};
use crate::plan::health::{Promise, Thresholds};
use crate::plan::retain::Retention;
use crate::plan::schedule::Schedule;
use crate::plan::trigger::{Combined, Trigger};
use crate::stream::container::ZfsFlags;

mod agree;
mod read;
#[cfg(test)]
mod tests;
pub mod value;

pub use read::is_name;

/// All jobs of a machine.
#[derive(Debug, Clone)]
pub struct Config {
    /// The files that were read, in this order.
    pub files: Vec<PathBuf>,
    /// The jobs, by their names.
    pub jobs: Vec<Job>,
}

/// What is to be done for some datasets.
#[derive(Debug, Clone)]
pub struct Job {
    /// What it is called: letters, digits and `_ . -`.
    pub name: String,
    /// Where it is written.
    pub place: Place,
    /// Its datasets: texts that a target can be read from.
    pub datasets: Vec<String>,
    /// Nested datasets too.
    pub recursive: bool,
    /// Datasets that can not be of one instant may be taken one after another.
    pub not_atomic: bool,
    /// Of plain directories: copy what can not share blocks.
    pub copy: bool,
    /// What is stopped for a snapshot, or told of it; without it nothing is.
    pub quiesce: Option<Quiesce>,
    /// Where each of its services is written; none of what is no service.
    pub service_places: Vec<Place>,
    /// What writes down what it has in memory before a snapshot.
    pub flush: Option<Flush>,
    /// Who is told of its runs.
    pub notify: Option<Notify>,
    /// Labels of its snapshots, beside `job`.
    pub labels: Vec<(String, String)>,
    /// When it is due.
    pub schedule: Option<Schedule>,
    /// What else makes it due.
    pub trigger: Option<Trigger>,
    /// What becomes of a run while another one is at work.
    pub overlap: Overlap,
    /// Whose calendar it is.
    pub zone: TimeZone,
    /// What is kept; without it nothing is destroyed.
    pub retention: Option<Retention>,
    /// What is brought up to the datasets.
    pub targets: Vec<Replica>,
    /// What its snapshots are put into.
    pub archives: Vec<Archive>,
    /// How a restore of it is rehearsed.
    pub drill: Option<Drill>,
    /// What is called at which moment of its runs.
    pub hooks: Option<Hooks>,
    /// From when on it is not well, where that is not as usual.
    pub check: Option<Thresholds>,
}

/// What is called at which moment of a run: of each a program's absolute path and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Before anything is stopped; if it fails there is no snapshot.
    pub before_snapshot: Option<Vec<String>>,
    /// Once there is a snapshot, and what was stopped runs.
    pub after_snapshot: Option<Vec<String>>,
    /// Once all targets were tried.
    pub after_replication: Option<Vec<String>>,
    /// Last of all, if something failed.
    pub on_failure: Option<Vec<String>>,
    /// How long each may take.
    pub within: Duration,
}

/// How it is found out whether a snapshot would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drill {
    /// Says so by ending with 0: a program and its arguments.
    pub command: Vec<String>,
    /// A line that it has to say.
    pub expect: Option<String>,
    /// How long it may take.
    pub within: Duration,
    /// The target or archive whose newest snapshot is taken; without it the job's own.
    pub from: Option<String>,
    /// Of a target on another machine, and of an archive: in what its snapshot is received, to be discarded afterwards.
    pub into: Option<Received>,
    /// Who it is run as; without it root.
    pub user: Option<String>,
    /// Whether it has the machine's network.
    pub network: bool,
    /// Directories that it finds empty, and may write to.
    pub scratch: Vec<PathBuf>,
}

/// How a snapshot from another machine is received for a rehearsal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The dataset, pool or directory in which it gets a dataset of its own.
    pub into: String,
    /// How long it may take.
    pub within: Option<Duration>,
    /// Of an archive: files with identities that decrypt it.
    pub identity: Vec<PathBuf>,
    /// Of an archive: keys, or files with some, one of which must have signed it; nobody has to without any.
    pub verify_key: Vec<String>,
}

/// What becomes of a run while another one is at work on one of its datasets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// It is left to another minute.
    Skip,
    /// It waits, so long at most.
    Queue(Duration),
}

/// Another place that a dataset is brought to.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Which of the job's datasets.
    pub dataset: String,
    /// To where: a target here, or `ssh://…`.
    pub to: String,
    /// Every version between, not the newest alone.
    pub intermediates: bool,
    /// At most so many bytes per second.
    pub bandwidth: Option<u64>,
    /// zstd's level.
    pub level: Option<i32>,
    /// How ZFS makes the stream.
    pub zfs_flags: Option<ZfsFlags>,
}

/// An archive in an object store that the snapshots of a dataset are put into.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Which of the job's datasets.
    pub dataset: String,
    /// The store: `s3://…`, as it stands there.
    pub to: String,
    /// What is kept there; without it nothing is destroyed there.
    pub retention: Option<Retention>,
    /// After how many containers the next one is full.
    pub max_chain: Option<u64>,
    /// The next one is full once a restore would read more than so many percent of the chain's full one.
    pub max_restore: Option<u64>,
    /// At most so many bytes per second.
    pub bandwidth: Option<u64>,
    /// zstd's level.
    pub level: Option<i32>,
    /// The key that it is signed with.
    pub sign: Option<PathBuf>,
    /// Whom it is encrypted to: recipients, or files with some.
    pub encrypt_to: Vec<String>,
    /// Whose signatures its retention and what verifies it believe; all versions count if there are none. Keys, or files with some.
    pub verify_key: Vec<String>,
    /// How much of it is read after each run to which it is due; nothing is without it.
    pub verify: Option<Depth>,
    /// How long after that it is not due; it is at each run without it.
    pub verify_every: Option<Span>,
    /// The server.
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path.
    pub path_style: Option<bool>,
    /// Whether it may be talked to in the clear.
    pub allow_http: bool,
    /// Its region.
    pub region: Option<String>,
    /// Whose credentials.
    pub profile: Option<String>,
    /// How it is kept there.
    pub storage_class: Option<String>,
    /// The certificates that its server is known by.
    pub ca: Option<PathBuf>,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Its line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// Of which key, with dots: `job.chain.retention.last`; nothing where the file is no TOML.
    pub key: String,
    /// What, and what would be valid.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.place, self.what),
            key => write!(f, "{}: {key}: {}", self.place, self.what),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that can not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No file at all.
    #[error("there is no configuration: neither {} nor conf.d/*.toml beside it", path.display())]
    None {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Files that can not be used as they are.
    #[error("{}", list(problems))]
    Wrong {
        /// All that is wrong, in the order of files and lines.
        problems: Vec<Problem>,
    },
    /// A job that nobody wrote.
    #[error("no job is called {name}; there are: {}", known.join(", "))]
    NoJob {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Error {
    /// What it means for whoever runs the program.
    pub fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::InvalidData => Class::Usage,
            Self::Read { source, .. } => Class::of_io(source),
            Self::None { .. } | Self::Wrong { .. } | Self::NoJob { .. } => Class::Usage,
        }
    }

    /// The command that would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::None { path } => {
                Some(format!("cowsnap job init bitcoin > {} writes an example", quoted(path.display())))
            }
            _ => None,
        }
    }
}

impl Job {
    /// When there is to be a run: at each time of its schedule, but not where a threshold has to be reached, too; and before its snapshot is older
    /// than a trigger allows.
    pub fn promised(&self) -> Promise {
        let trigger = self.trigger.as_ref();
        let is_due = trigger.is_none_or(|trigger| trigger.combined == Combined::Either);
        Promise {
            schedule: self.schedule.clone().filter(|_| is_due),
            age: trigger.and_then(|trigger| trigger.most_age(self.schedule.is_some())),
        }
    }
}

impl Config {
    /// Reads `path` and `conf.d/*.toml` in the same folder, in the order of their names. Either may be missing.
    ///
    /// # Errors
    /// Neither is there; a file that can not be read; everything that is wrong in them, at once where possible.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let mut texts = Vec::new();
        for file in files(path)? {
            let read = |source| Error::Read { path: file.clone(), source };
            let meta = fs::metadata(&file).map_err(read)?;
            texts.push((fs::read_to_string(&file).map_err(read)?, meta.permissions().mode(), file));
        }
        if texts.is_empty() {
            return Err(Error::None { path: path.into() });
        }
        let mut problems = Vec::new();
        for (_, mode, file) in &texts {
            if mode & 0o002 != 0 {
                let place = Place { file: file.clone(), line: 1 };
                let what = "anybody may write to this file, which says what root does: chmod o-w".into();
                problems.push(Problem { place, key: String::new(), what });
            }
        }
        let texts: Vec<_> = texts.iter().map(|(text, _, file)| (file.as_path(), text.as_str())).collect();
        let jobs = read::jobs(path, &texts, &mut problems);
        problems.extend(agree::contradictions(&jobs));
        let nth = |file: &Path| texts.iter().position(|(known, _)| *known == file);
        problems.sort_by_key(|problem| (nth(&problem.place.file), problem.place.line));
        match problems.is_empty() {
            true => Ok(Self { files: texts.iter().map(|(file, _)| file.to_path_buf()).collect(), jobs }),
            false => Err(Error::Wrong { problems }),
        }
    }

    /// The job of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn job(&self, name: &str) -> Result<&Job, Error> {
        self.jobs.iter().find(|job| job.name == name).ok_or_else(|| Error::NoJob {
            name: name.into(),
            known: self.jobs.iter().map(|job| job.name.clone()).collect(),
        })
    }

    /// These jobs, in this order; all of them if none is named.
    ///
    /// # Errors
    /// One that there is not.
    pub fn chosen(&self, names: &[String]) -> Result<Vec<&Job>, Error> {
        match names {
            [] => Ok(self.jobs.iter().collect()),
            names => names.iter().map(|name| self.job(name)).collect(),
        }
    }
}

/// `path`, if it is there, and what is in `conf.d` beside it.
fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder.join("conf.d");
    let mut found = Vec::new();
    match fs::read_dir(&folder) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(|source| Error::Read { path: folder.clone(), source })?.path();
                let is_hidden =
                    entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if entry.extension().is_some_and(|e| e == "toml") && !is_hidden {
                    found.push(entry);
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::Read { path: folder, source }),
    }
    found.sort();
    match path.symlink_metadata() {
        Ok(_) => found.insert(0, path.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::Read { path: path.into(), source }),
    }
    Ok(found)
}
