use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};

use crate::{Error, Result};

const RECIPE: &str = include_str!("../build-image");

/// Which ZFS and which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Debian bookworm's: ZFS 2.1 on kernel 6.1.
    Stable,
    /// bookworm-backports': ZFS 2.3 on kernel 6.12.
    Backports,
}

impl Variant {
    /// As the recipe calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Backports => "bpo",
        }
    }
}

/// A disk to boot from, and its kernel. Nothing writes to it: a guest's root is thrown away with the guest.
#[derive(Clone, Debug)]
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// The image of the recipe as it is now: from the cache, or built, which takes minutes, root, and a Debian mirror.
    ///
    /// Of several callers one builds and the others wait for it.
    ///
    /// # Errors
    /// If the host lacks a tool, or the recipe fails; the log's name and end are in the error.
    pub fn ready(variant: Variant) -> Result<Self> {
        let cache = cache();
        let image = Self::at_its_place(variant);
        if image.disk().exists() {
            return Ok(image);
        }
        fs::create_dir_all(&cache).map_err(Error::host(format!("make {}", cache.display())))?;
        let lock = File::create(cache.join(format!("{}.lock", variant.name())))
            .map_err(Error::host("make the cache's lock"))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| Error::host("lock the cache")(e.into()))?;
        if !image.disk().exists() {
            image.build(variant)?;
        }
        Ok(image)
    }

    /// Whether it is in the cache, so that nothing has to be built.
    pub fn is_ready(variant: Variant) -> bool {
        Self::at_its_place(variant).disk().exists()
    }

    fn at_its_place(variant: Variant) -> Self {
        Self { folder: cache().join(format!("{}-{:016x}", variant.name(), hash(RECIPE))) }
    }

    fn build(&self, variant: Variant) -> Result<()> {
        let building = self.folder.with_extension("building");
        let _ = fs::remove_dir_all(&building);
        let log = self.folder.with_extension("log");
        eprintln!("building the guest's image ({}), log: {}", variant.name(), log.display());
        let to = File::create(&log).map_err(Error::host(format!("write {}", log.display())))?;
        let errors = to.try_clone().map_err(Error::host("share the log"))?;
        // It ends with this process: nobody else would wait for it.
        let began = Instant::now();
        let status = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "bash"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("build-image"))
            .arg(variant.name())
            .arg(&building)
            .stdin(Stdio::null())
            .stdout(to)
            .stderr(errors)
            .status()
            .map_err(Error::host("start setpriv"))?;
        if !status.success() {
            let words = tail(&log, 30);
            let _ = fs::remove_dir_all(&building);
            return Err(Error::Program { program: "vm-tests/build-image".into(), words });
        }
        eprintln!("built in {} s", began.elapsed().as_secs());
        fs::rename(&building, &self.folder).map_err(Error::host("put the image into the cache"))?;
        // For scripts: the newest image of a variant, whatever its recipe.
        let newest = self.folder.with_file_name(variant.name());
        let _ = fs::remove_file(&newest);
        let _ = symlink(&self.folder, newest);
        Ok(())
    }

    /// One that a test made up.
    #[cfg(test)]
    pub(crate) fn of_folder(folder: &Path) -> Self {
        Self { folder: folder.into() }
    }

    /// Where it is kept.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The root disk: ext4 without partitions.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.img")
    }

    /// The kernel, as a bootloader takes it.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The C headers of the ZFS libraries that are in the image.
    pub fn headers(&self) -> PathBuf {
        self.folder.join("include")
    }

    /// Package versions and the kernel's release, one a line.
    ///
    /// # Errors
    /// If the image's folder was taken apart.
    pub fn versions(&self) -> Result<String> {
        fs::read_to_string(self.folder.join("versions")).map_err(Error::host("read the image's versions"))
    }
}

/// `COWSNAP_VM_CACHE`, else `cowsnap-vm` in the user's cache directory.
pub(crate) fn cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("COWSNAP_VM_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|c| c.join("cowsnap-vm")))
        .or_else(|| set("HOME").map(|h| h.join(".cache/cowsnap-vm")))
        .unwrap_or_else(|| std::env::temp_dir().join("cowsnap-vm"))
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The last `n` lines of a text file; empty if it can not be read.
pub(crate) fn tail(file: &Path, n: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).replace('\r', "");
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}
