//! `cowsnap stream`: work on stream files without a kernel.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::Path;

use clap::Subcommand;

use crate::cli::Context;
use crate::cli::progress::Progress;
use crate::endpoint;
use crate::exec::{Event, Observe};
use crate::stream::{btrfs, container, zfs};
use crate::sys::interrupt;
use crate::{Error, Result};

mod content;
mod inspect;
mod lines;
mod unwrap;
mod verify;
mod wrap;

/// Work on stream files without a kernel
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Verify(verify::Args),
    Wrap(wrap::Args),
    Unwrap(unwrap::Args),
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    match args.command {
        Command::Inspect(args) => inspect::run(args, context),
        Command::Verify(args) => verify::run(args, context),
        Command::Wrap(args) => wrap::run(args, context),
        Command::Unwrap(args) => unwrap::run(args, context),
    }
}

/// How an input is called in messages.
pub(crate) fn name_of(path: &Path) -> String {
    match path.as_os_str() == "-" {
        true => "standard input".into(),
        false => path.display().to_string(),
    }
}

/// The file of that name, or standard input for `-`. A signal wakes its reader up.
pub(crate) fn open(path: &Path) -> Result<interrupt::Input<File>> {
    let file = match path.as_os_str() == "-" {
        true if io::stdin().is_terminal() => {
            let what = "standard input is a terminal, from which no stream comes".into();
            return Err(Error::Usage { what, hint: Some("name a file, or pipe a stream in".into()) });
        }
        true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        false => interrupt::open_to_read(path),
    };
    file.map(interrupt::Input).map_err(Error::io("open", name_of(path)))
}

/// How long a file is; `None` for what has no length of its own.
fn len_of(file: &File) -> Option<u64> {
    file.metadata().ok().filter(|meta| meta.is_file()).map(|meta| meta.len())
}

/// What went wrong with reading a container's stream, or the parser that reads it.
fn stream_error(op: &'static str, subject: &str, error: btrfs::Error) -> Error {
    match error {
        btrfs::Error::Io { source, .. } => read_error(op, subject, source),
        btrfs::Error::Version { .. } => {
            Error::container(op, subject)(container::Error::NeedsNewer { what: error.to_string() })
        }
        _ => Error::Endpoint(endpoint::Error::Corrupt {
            what: "btrfs stream",
            why: format!("{subject}: {error}"),
            source: None,
        }),
    }
}

/// The same of a ZFS stream.
fn zfs_error(op: &'static str, subject: &str, error: zfs::Error) -> Error {
    match error {
        zfs::Error::Io { source, .. } => read_error(op, subject, source),
        zfs::Error::Compound => Error::Usage {
            what: format!("{subject} is a package of ZFS streams (zfs send -R or -p)"),
            hint: Some("zfs send without -R and -p makes a stream".into()),
        },
        _ => {
            let why = format!("{subject}: {error}");
            let source = match error {
                zfs::Error::List { source } => Some(source.into()),
                _ => None,
            };
            Error::Endpoint(endpoint::Error::Corrupt { what: "ZFS stream", why, source })
        }
    }
}

/// The container's error within `error` if there is one.
fn read_error(op: &'static str, subject: &str, error: io::Error) -> Error {
    match container::Error::from_io(error) {
        Ok(error) => Error::container(op, subject)(error),
        Err(error) => Error::io(op, subject)(error),
    }
}

/// Shows how much of an input has been read.
struct Watched<'a, R> {
    input: R,
    progress: &'a Progress,
    bytes: u64,
}

impl<'a, R> Watched<'a, R> {
    fn new(input: R, op: &'static str, subject: &str, total: Option<u64>, progress: &'a Progress) -> Self {
        progress.observe(Event::Started { op, subject: subject.into(), total });
        Self { input, progress, bytes: 0 }
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(buffer)?;
        self.bytes += len as u64;
        self.progress.observe(match len {
            0 => Event::Finished { bytes: self.bytes },
            _ => Event::Progress { bytes: self.bytes },
        });
        Ok(len)
    }
}
