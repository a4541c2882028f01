//! `cowsnap stream verify`

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{len_of, name_of, open};
use crate::cli::Context;
use crate::cli::progress::Progress;
use crate::exec::{Event, Observe};
use crate::stream::container::{ResumePoint, Sealed};
use crate::stream::reader::Reader;
use crate::{Error, Result};

/// Read containers to their end and check every byte
///
/// Prints the blake3 of each stream, as `b3sum` of the unwrapped stream would. Damage is named with its frame, its offset in the
/// stream and its offset in the file; the exit code is then 4.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The containers; - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Runs the subcommand: all files are checked, and the first error is the answer.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let mut first = Ok(());
    for file in &args.files {
        if let Err(error) = verify(file, context).and_then(|verified| print(file, &verified, context)) {
            match first {
                Ok(()) => first = Err(error),
                Err(_) => crate::cli::report(&error, context),
            }
        }
    }
    first
}

struct Verified {
    sealed: Sealed,
    /// Where the stream goes on, if it is the rest of one that was broken off.
    resumes: Option<ResumePoint>,
}

fn verify(path: &Path, context: &Context) -> Result<Verified> {
    let name = name_of(path);
    let input = open(path)?;
    let progress = Progress::new(context);
    progress.observe(Event::Started { op: "verify", subject: name.clone(), total: len_of(&input.0) });
    let mut reader = Reader::open(input).map_err(Error::container("verify", &name))?;
    let sealed = reader.verify(|bytes| progress.observe(Event::Progress { bytes }));
    progress.observe(Event::Finished { bytes: reader.verified() });
    let sealed = sealed.map_err(Error::container("verify", &name))?;
    let resumes = reader.header().zfs.as_ref().and_then(|zfs| zfs.resumes);
    Ok(Verified { sealed, resumes })
}

fn print(path: &Path, verified: &Verified, context: &Context) -> Result<()> {
    let Verified { sealed, resumes } = verified;
    if let Some(at) = resumes {
        context.notice(format!(
            "{}: the rest of a stream that was broken off, from object {} offset {} on",
            path.display(),
            at.object,
            at.offset
        ));
    }
    let root = sealed.root.to_hex();
    let value = json!({
        "file": path.to_string_lossy(), "blake3": root.as_str(), "stream_bytes": sealed.len,
        "frames": sealed.frames, "container_bytes": sealed.container_len,
        "resumes": resumes,
    });
    context.print(&value, format!("{root}  {}", path.display()))
}
