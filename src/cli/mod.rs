//! The command line: one file per subcommand: arguments, one call, print.
//!
//! **Invariant:** `println!` and its kin stand nowhere else in the library.

use std::error::Error as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{Class, Error, Result};

mod adopt;
mod archive;
mod asked;
mod check;
mod clone;
mod completions;
mod create;
mod daemon;
mod destroy;
mod diff;
mod doctor;
mod drill;
mod export;
mod facts;
mod failures;
mod fetch;
mod hold;
mod holds;
mod import;
mod job;
mod keygen;
pub mod keys;
mod list;
pub mod log;
mod man;
mod metrics;
mod mount;
pub mod output;
mod overlay;
mod peer;
pub mod place;
mod pool;
pub mod progress;
mod prune;
mod receive;
mod release;
mod rename;
mod replicate;
mod restore;
mod rollback;
mod send;
mod serve;
mod snapshot;
mod spool;
mod status;
pub mod store;
mod stream;
pub mod table;
mod unmount;
mod verify;
mod watched;

/// Copy-on-write snapshots of data directories: taken in milliseconds, shipped as what changed, proven by blake3,
/// restored by mounting.
#[derive(Debug, Parser)]
#[command(name = "cowsnap", version, max_term_width = 110)]
pub struct Cli {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Print what is done, and how (twice: in detail); RUST_LOG chooses exactly
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Print neither progress nor notices
    #[arg(short, long, global = true)]
    quiet: bool,
    /// How standard error is written: for people, or one JSON object a line
    #[arg(long, global = true, env = "COWSNAP_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    log_format: log::Format,
    /// Where pools are registered and mounted
    #[arg(
        long,
        global = true,
        env = "COWSNAP_STATE_DIR",
        default_value = "/var/lib/cowsnap",
        value_name = "DIR"
    )]
    state_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Adopt(adopt::Args),
    Archive(Box<archive::Args>),
    Check(Box<check::Args>),
    Clone(clone::Args),
    Completions(completions::Args),
    Create(create::Args),
    Daemon(daemon::Args),
    Destroy(destroy::Args),
    Diff(diff::Args),
    Doctor(doctor::Args),
    Drill(drill::Args),
    Export(Box<export::Args>),
    Fetch(Box<fetch::Args>),
    Hold(hold::Args),
    Holds(holds::Args),
    Import(import::Args),
    Job(job::Args),
    Keygen(keygen::Args),
    List(list::Args),
    Man(man::Args),
    Metrics(metrics::Args),
    Mount(mount::Args),
    Overlay(overlay::Args),
    Pool(pool::Args),
    Prune(Box<prune::Args>),
    Receive(receive::Args),
    Release(release::Args),
    Rename(rename::Args),
    Replicate(replicate::Args),
    Restore(restore::Args),
    Rollback(rollback::Args),
    Send(send::Args),
    Serve(serve::Args),
    Snapshot(snapshot::Args),
    Status(status::Args),
    Stream(stream::Args),
    Unmount(unmount::Args),
    Verify(verify::Args),
}

/// What every subcommand is given.
#[derive(Debug, Clone)]
pub struct Context {
    /// Print JSON.
    pub json: bool,
    /// Print neither progress nor notices.
    pub quiet: bool,
    /// How standard error is written.
    pub log: log::Format,
    /// Where pools are registered and mounted.
    pub state_dir: PathBuf,
}

impl Context {
    /// Where pools are registered and mounted.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Prints `value` as one line of JSON, or `text` as it is.
    ///
    /// # Errors
    /// Standard output that can not be written; a closed pipe is none.
    pub fn print(&self, value: &impl serde::Serialize, text: impl AsRef<str>) -> Result<()> {
        let mut line = match self.json {
            true => serde_json::to_string(value).expect("the value's keys are texts"),
            false => text.as_ref().trim_end_matches('\n').to_owned(),
        };
        if line.is_empty() {
            return Ok(());
        }
        line.push('\n');
        match io::stdout().lock().write_all(line.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(Error::io("write to", "standard output")),
        }
    }

    /// Tells a person what is not as it was asked for: on standard error, when quiet too.
    pub fn warn(&self, text: impl AsRef<str>) {
        let text = text.as_ref();
        say(self.log.line("WARN", &format!("warning: {text}"), text));
    }

    /// Tells a person something that is not the result: on standard error, and not when quiet.
    pub fn notice(&self, text: impl AsRef<str>) {
        if !self.quiet {
            say(self.log.line("INFO", text.as_ref(), text.as_ref()));
        }
    }
}

/// What to say when the `n`-th of several things, counted from 0, went wrong: with none done, just the error.
fn halfway(n: usize, of: usize, done: &str, error: impl Into<Error>) -> Error {
    match n {
        0 => error.into(),
        _ => Error::Halfway { what: format!("{n} of {of} {done}"), source: Box::new(error.into()) },
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && is_check() => {
            let (code, text) = check::unreadable(&usage(&error));
            println!("{text}");
            return code;
        }
        Err(error) if error.use_stderr() && std::env::args_os().any(|arg| arg == "--json") => {
            report_as_json(&usage(&error), Vec::new());
            return ExitCode::from(Class::Usage.exit_code());
        }
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Class::Usage.exit_code() } else { 0 });
        }
    };
    log::begin(cli.verbose, cli.log_format);
    let context = Context { json: cli.json, quiet: cli.quiet, log: cli.log_format, state_dir: cli.state_dir };
    match dispatch(cli.command, &context) {
        Ok(code) => code,
        Err(error) => {
            report(&error, &context);
            ExitCode::from(error.class().exit_code())
        }
    }
}

fn dispatch(command: Command, context: &Context) -> Result<ExitCode> {
    let done = match command {
        Command::Check(args) => return check::run(&args, context),
        Command::Metrics(args) => return metrics::run(&args, context),
        Command::Status(args) => return status::run(&args, context),
        Command::Daemon(args) => return daemon::run(args, context),
        Command::Overlay(args) => return overlay::run(args, context),
        Command::Serve(args) => return serve::run(args, context),
        Command::Adopt(args) => adopt::run(args, context),
        Command::Archive(args) => archive::run(*args, context),
        Command::Clone(args) => clone::run(args, context),
        Command::Completions(args) => completions::run(args, context),
        Command::Create(args) => create::run(args, context),
        Command::Destroy(args) => destroy::run(args, context),
        Command::Diff(args) => diff::run(args, context),
        Command::Doctor(args) => doctor::run(args, context),
        Command::Drill(args) => drill::run(args, context),
        Command::Export(args) => export::run(&args, context),
        Command::Fetch(args) => fetch::run(&args, context),
        Command::Hold(args) => hold::run(args, context),
        Command::Holds(args) => holds::run(args, context),
        Command::Import(args) => import::run(&args, context),
        Command::Job(args) => job::run(args, context),
        Command::Keygen(args) => keygen::run(&args, context),
        Command::List(args) => list::run(args, context),
        Command::Man(args) => man::run(args, context),
        Command::Mount(args) => mount::run(args, context),
        Command::Pool(args) => pool::run(args, context),
        Command::Prune(args) => prune::run(*args, context),
        Command::Receive(args) => receive::run(args, context),
        Command::Release(args) => release::run(args, context),
        Command::Rename(args) => rename::run(args, context),
        Command::Replicate(args) => replicate::run(args, context),
        Command::Restore(args) => restore::run(args, context),
        Command::Rollback(args) => rollback::run(args, context),
        Command::Send(args) => send::run(args, context),
        Command::Snapshot(args) => snapshot::run(args, context),
        Command::Stream(args) => stream::run(args, context),
        Command::Unmount(args) => unmount::run(args, context),
        Command::Verify(args) => verify::run(&args, context),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// `error: …`, then `caused by: …` lines, then at most one `hint: …`; as one JSON object on standard error with `--json`.
fn report(error: &Error, context: &Context) {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    if context.json || context.log == log::Format::Json {
        return report_as_json(error, causes);
    }
    let say = |text: String| say(table::printable_lines(&text));
    say(format!("error: {error}"));
    for cause in causes {
        say(format!("caused by: {cause}"));
    }
    if let Some(hint) = error.hint() {
        say(format!("hint: {hint}"));
    }
}

fn report_as_json(error: &Error, causes: Vec<String>) {
    let object = serde_json::json!({ "error": {
        "message": error.to_string(), "causes": causes, "hint": error.hint(),
        "class": error.class().name(), "exit_code": error.class().exit_code(),
    } });
    say(object);
}

/// Whether `cowsnap check` is meant, whose exit codes are Nagios'.
fn is_check() -> bool {
    let mut words = std::env::args_os().skip(1);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--state-dir" | "--log-format") => drop(words.next()),
            Some(option) if option.starts_with('-') => {}
            other => return other == Some("check"),
        }
    }
    false
}

/// A line on standard error. Where that can not be written, as a log's disk is full or whoever read it is gone, the work goes on.
pub(crate) fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A command line that can not be read.
fn usage(error: &clap::Error) -> Error {
    let text = error.to_string();
    let what = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    Error::Usage { what, hint: Some("cowsnap --help".into()) }
}
