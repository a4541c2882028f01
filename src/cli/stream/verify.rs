//! `cowsnap stream verify`

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{len_of, name_of, open};
use crate::cli::Context;
use crate::cli::keys::ReadArgs;
use crate::cli::progress::Progress;
use crate::exec::{Event, Observe};
use crate::stream::container::ResumePoint;
use crate::stream::reader::{Keys, Outline, Reader};
use crate::{Error, Result};

/// Read containers to their end and check every byte
///
/// Prints the blake3 of each stream, as `b3sum` of the unwrapped stream would. Damage is named with its frame, its offset in the
/// stream and its offset in the file; the exit code is then 4. Of an encrypted container only the seals are checked unless --identity
/// decrypts it: that no bit of it has changed and no frame is missing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The containers; - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    keys: ReadArgs,
}

/// Runs the subcommand: all files are checked, and the first error is the answer.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let keys = args.keys.keys()?;
    let mut first = Ok(());
    for file in &args.files {
        if let Err(error) = verify(file, &keys, context).and_then(|verified| print(file, &verified, context))
        {
            match first {
                Ok(()) => first = Err(error),
                Err(_) => crate::cli::report(&error, context),
            }
        }
    }
    first
}

struct Verified {
    outline: Outline,
    /// Where the stream goes on, if it is the rest of one that was broken off.
    resumes: Option<ResumePoint>,
}

fn verify(path: &Path, keys: &Keys, context: &Context) -> Result<Verified> {
    let name = name_of(path);
    let input = open(path)?;
    let progress = Progress::new(context);
    progress.observe(Event::Started { op: "verify", subject: name.clone(), total: len_of(&input.0) });
    let mut done = 0;
    let outline = Reader::outline(input, keys, |bytes| {
        done = bytes;
        progress.observe(Event::Progress { bytes });
    });
    progress.observe(Event::Finished { bytes: done });
    let (header, outline) = outline.map_err(Error::container("verify", &name))?;
    let resumes = header.zfs.as_ref().and_then(|zfs| zfs.resumes);
    Ok(Verified { outline, resumes })
}

fn print(path: &Path, verified: &Verified, context: &Context) -> Result<()> {
    let Verified { outline, resumes } = verified;
    if let Some(at) = resumes {
        context.notice(format!(
            "{}: the rest of a stream that was broken off, from object {} offset {} on",
            path.display(),
            at.object,
            at.offset
        ));
    }
    for signer in &outline.signers {
        context.notice(format!("{}: signed by {signer}", path.display()));
    }
    let root = outline.root.map(|root| root.to_hex().to_string());
    if root.is_none() {
        context.notice(format!(
            "{}: it is encrypted, and only its seals were checked; with --identity FILE all of it is",
            path.display()
        ));
    }
    let value = json!({
        "file": path.to_string_lossy(), "blake3": root, "stream_bytes": outline.len,
        "frames": outline.frames, "container_bytes": outline.container_len,
        "resumes": resumes, "signed_by": outline.signers, "decrypted": root.is_some(),
    });
    context.print(&value, format!("{}  {}", root.as_deref().unwrap_or("encrypted"), path.display()))
}
