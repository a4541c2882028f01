//! The secrets of encrypted pushes that are not done: with the same secret the same parts are made, so what was broken off goes on.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::endpoint::archive::Archive;
use crate::model::archive::Group;
use crate::stream::crypt::{Encryption, Recipient};
use crate::{Error, Result};

/// How old a secret is of a push that nobody goes on with.
const OLD: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The longest file of a secret, in bytes.
const MAX_LEN: u64 = 256 << 10;

/// The secret of a push that goes on; kept by who pushes, until it is done.
pub struct Unfinished {
    path: PathBuf,
    /// With what the container is encrypted.
    pub encryption: Encryption,
}

impl Unfinished {
    /// What an earlier push of the same container to the same recipients has left, or a new one. It is on the disk when this returns.
    ///
    /// # Errors
    /// A state directory that can not be written; too many recipients.
    pub fn begin(state_dir: &Path, archive: &Archive, group: Group, to: &[Recipient]) -> Result<Self> {
        let folder = state_dir.join("unfinished");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(Error::io("create", folder.display()))?;
        // Other recipients are another container.
        let mut name = blake3::Hasher::new_derive_key("cowsnap unfinished push 1");
        name.update(&archive.charter().id.0).update(group.to_string().as_bytes());
        to.iter().for_each(|recipient| {
            name.update(recipient.to_string().as_bytes()).update(b"\n");
        });
        let path = folder.join(name.finalize().to_hex().as_str());
        if let Some(encryption) = read(&path)? {
            return Ok(Self { path, encryption });
        }
        let encryption =
            Encryption::to(to).map_err(|error| Error::Usage { what: error.to_string(), hint: None })?;
        write(&folder, &path, &encryption.to_secret_bytes())?;
        Ok(Self { path, encryption })
    }

    /// The version is there: nobody goes on with it any more.
    pub fn done(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, file = %self.path.display(), "the secret of a push that is done stays");
        }
        self.path.parent().into_iter().for_each(sweep);
    }
}

/// Takes away what nobody has gone on with for longer than parts are kept for it.
fn sweep(folder: &Path) {
    let is_old = |entry: &fs::DirEntry| {
        let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        age.is_some_and(|age| age > OLD)
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten().filter(is_old) {
        drop(fs::remove_file(entry.path()));
    }
}

/// What is damaged, or of another's, is nothing.
fn read(path: &Path) -> Result<Option<Encryption>> {
    let mut bytes = Vec::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path.display())(error)),
    };
    file.take(MAX_LEN).read_to_end(&mut bytes).map_err(Error::io("read", path.display()))?;
    let Some((own, digest)) = bytes.split_last_chunk::<32>() else { return Ok(None) };
    Ok(Encryption::from_secret_bytes(own).filter(|_| blake3::hash(own) == *digest))
}

fn write(folder: &Path, path: &Path, secret: &[u8]) -> Result<()> {
    let new = folder.join(format!(".new-{}", std::process::id()));
    let written = || -> io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(secret)?;
        file.write_all(blake3::hash(secret).as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    };
    written().map_err(|error| {
        drop(fs::remove_file(&new));
        Error::io("write", path.display())(error)
    })
}
