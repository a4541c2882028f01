use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, Result};

/// Larger than what is ever put on it, and always the same, so that it can be written anew below a guest that is up.
const SIZE: u64 = 2 << 30;

/// The second drive: the agent, and files of the host that stand at the same paths in the guest.
#[derive(Clone, Debug)]
pub struct Payload {
    agent: PathBuf,
    files: Vec<PathBuf>,
}

impl Payload {
    /// With that build of `vm-agent`, and nothing else.
    pub fn new(agent: &Path) -> Self {
        Self { agent: agent.into(), files: Vec::new() }
    }

    /// Adds a file or a directory, by its absolute path.
    #[must_use]
    pub fn with(mut self, file: &Path) -> Self {
        self.files.push(file.into());
        self
    }

    /// Writes the drive, in place if it is there.
    ///
    /// # Errors
    /// If a file is missing or `mkfs.ext4` fails.
    pub fn write(&self, image: &Path) -> Result<()> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let staging = image.with_extension(format!("{}.{number}", std::process::id()));
        let written = self.stage(&staging).and_then(|()| make_filesystem(&staging, image));
        let _ = fs::remove_dir_all(&staging);
        written
    }

    fn stage(&self, staging: &Path) -> Result<()> {
        fs::create_dir_all(staging).map_err(Error::host(format!("make {}", staging.display())))?;
        copy(&self.agent, &staging.join("agent"))?;
        for (n, file) in self.files.iter().enumerate() {
            copy(file, &staging.join(n.to_string()))?;
        }
        Ok(())
    }

    /// What the guest runs to have the files at their paths, also after they were written anew.
    pub(crate) fn unpack(&self) -> String {
        let mut script = String::from(
            "set -e; d=/dev/disk/by-id/virtio-payload; ! mountpoint -q /payload || umount /payload; \
             blockdev --flushbufs $d; mount -r $d /payload; ",
        );
        for (n, file) in self.files.iter().enumerate() {
            let folder = quoted(file.parent().unwrap_or(Path::new("/")));
            script += &format!("mkdir -p {folder}; ln -sfn /payload/{n} {}; ", quoted(file));
        }
        script
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-rT").arg("--reflink=auto").args([from, to]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => {
            Err(Error::Program { program: "cp".into(), words: format!("{} was not copied", from.display()) })
        }
        Err(source) => Err(Error::host("start cp")(source)),
    }
}

fn make_filesystem(folder: &Path, image: &Path) -> Result<()> {
    let what = || format!("write {}", image.display());
    // Not truncated first: a guest that is up reads the same file.
    let file =
        File::options().write(true).create(true).truncate(false).open(image).map_err(Error::host(what()))?;
    file.set_len(SIZE).map_err(Error::host(what()))?;
    let output = Command::new("mkfs.ext4")
        .env("PATH", with_sbin())
        .args([
            "-q",
            "-F",
            "-O",
            "^has_journal",
            "-E",
            "nodiscard,lazy_itable_init=1",
            "-m",
            "0",
            "-N",
            "4096",
            "-d",
        ])
        .args([folder, image])
        .output()
        .map_err(|_| Error::Missing { what: "mkfs.ext4".into(), hint: "apt-get install e2fsprogs".into() })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Program { program: "mkfs.ext4".into(), words });
    }
    Ok(())
}

fn with_sbin() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// As one word of a shell.
pub(crate) fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}
