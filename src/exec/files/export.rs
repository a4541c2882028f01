//! A snapshot's files become one file, while whoever writes to the dataset goes on.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use serde::Serialize;

use super::digest;
use crate::endpoint::Dataset;
use crate::endpoint::files::pack::{self, Plan, Subject};
use crate::exec::{Event, Observe};
use crate::model::files::{About, Beside, Choice, End, FORMAT, PUBLIC, Public};
use crate::model::{Digest, Version};
use crate::stream::zst::{self, Failed};
use crate::{Error, Result};

/// What to export, and how.
pub struct Request {
    /// Of what.
    pub dataset: Dataset,
    /// Which of its snapshots.
    pub version: Version,
    /// What the version command said.
    pub says: Option<String>,
    /// What of it.
    pub choice: Choice,
    /// How it is compressed, and whether its pieces get digests.
    pub options: zst::Options,
}

/// What will be exported, opened so that nobody sees it.
pub struct Export {
    request: Request,
    root: OwnedFd,
    plan: Plan,
}

/// What was written.
#[derive(Debug, Clone, Serialize)]
pub struct Exported {
    /// What it says of itself.
    #[serde(flatten)]
    pub about: About,
    /// How many bytes the file has.
    pub file_bytes: u64,
    /// Their blake3.
    pub blake3: Digest,
    /// How many bytes its tar has.
    pub tar_bytes: u64,
    /// The blake3 of each piece of the file, if they were asked for.
    #[serde(skip)]
    pub pieces: Vec<Digest>,
    /// What it says last of itself.
    #[serde(flatten)]
    pub end: End,
}

impl Export {
    /// Opens the snapshot and looks at all that is in it.
    ///
    /// # Errors
    /// What can not be opened or read; a signal.
    pub fn plan(request: Request) -> Result<Self> {
        let root = request.dataset.open_tree(&request.version.id)?;
        let subject = Subject {
            dataset: request.dataset.to_string(),
            version: &request.version,
            says: request.says.clone(),
        };
        let plan = pack::plan(root.as_fd(), &subject, &request.choice)?;
        Ok(Self { request, root, plan })
    }

    /// What the archive will say of itself.
    pub fn about(&self) -> &About {
        &self.plan.about
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// What can not be read or written; a signal. What was written then says at no end that it is whole.
    pub fn write(&self, out: &mut (dyn Write + Send), observe: &dyn Observe) -> Result<Exported> {
        let subject = format!("{}@{}", self.request.dataset, self.request.version.id.name);
        let total = Some(self.plan.about.stored);
        observe.observe(Event::Started { op: "export", subject: subject.clone(), total });
        let mut end = None;
        let written = zst::write(out, &self.request.options, |input| {
            let told = |bytes| observe.observe(Event::Progress { bytes });
            end = Some(pack::pack(self.root.as_fd(), &self.plan, input, &told)?);
            Ok(())
        });
        let written = written.map_err(|failed| match failed {
            Failed::Output(error) => Error::io("write the archive of", subject)(error),
            Failed::Input(error) => Error::Endpoint(error),
        })?;
        observe.observe(Event::Finished { bytes: self.plan.about.stored });
        Ok(Exported {
            about: self.plan.about.clone(),
            file_bytes: written.len,
            blake3: digest(&written.blake3),
            tar_bytes: written.raw_len,
            pieces: written.pieces.iter().map(digest).collect(),
            end: end.expect("what was written whole has an end"),
        })
    }
}

/// What whoever publishes an archive says of it.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// Which chain it is of.
    pub chain: Option<String>,
    /// How far that went.
    pub height: Option<u64>,
    /// What wrote the data.
    pub client: Option<String>,
}

impl Exported {
    /// What stands beside the file, which is called `file`.
    pub fn beside(&self, file: &str, is_compressed: bool) -> Beside {
        Beside {
            about: self.about.clone(),
            file: file.to_owned(),
            compression: if is_compressed { "zstd" } else { "none" }.into(),
            file_bytes: self.file_bytes,
            blake3: self.blake3,
            tar_bytes: self.tar_bytes,
            end: self.end,
        }
    }

    /// What who downloads the file checks.
    pub fn public(&self, file: &str, said: &Said) -> Public {
        Public {
            format: FORMAT,
            kind: PUBLIC.into(),
            file: file.to_owned(),
            bytes: self.file_bytes,
            blake3: self.blake3,
            piece: zst::PIECE,
            pieces: self.pieces.clone(),
            created: Some(self.about.created),
            dataset: Some(self.about.dataset.clone()),
            version: self.about.version.clone(),
            chain: said.chain.clone(),
            height: said.height,
            client: said.client.clone(),
        }
    }
}

/// The longest answer of a command, in bytes.
const MAX_ANSWER: usize = 200;

/// The first line that a command of the shell prints, which was given as `option`.
///
/// # Errors
/// A command that can not be run, fails, or says nothing.
pub fn said_by(option: &'static str, command: &str) -> Result<String> {
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(std::process::Stdio::null()).stderr(std::process::Stdio::inherit());
    let output = shell.output().map_err(Error::io("run", option))?;
    let wrong = |why: String| Error::Usage {
        what: format!("{option} {why}"),
        hint: Some(format!("sh -c {}", crate::model::quoted(command))),
    };
    if !output.status.success() {
        return Err(wrong(format!("failed: {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().trim();
    match line.len() {
        0 => Err(wrong("printed nothing".into())),
        1..=MAX_ANSWER => Ok(line.to_owned()),
        len => Err(wrong(format!("printed a line of {len} bytes, {MAX_ANSWER} are possible"))),
    }
}
