//! Pools of a test's own, on sparse files, gone with the test.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::ground::{ground, run, unmount_below};

const PREFIX: &str = "cowsnap-test-";

/// A pool on a sparse file, mounted below a temporary directory.
pub struct Pool {
    /// Of the pool and of its topmost dataset; no other test's.
    pub name: String,
    folder: tempfile::TempDir,
}

impl Pool {
    /// 1 GiB.
    pub fn new() -> Self {
        Self::with("1G", &[])
    }

    /// Of that size, with these arguments to `zpool create`.
    pub fn with(size: &str, arguments: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep_what_killed_tests_left();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let folder =
            tempfile::Builder::new().prefix(&format!("{name}-")).tempdir().expect("a temporary directory");
        let (image, mountpoint) = (text(folder.path().join("image")), text(folder.path().join("mnt")));
        run("truncate", &["-s", size, &image]);
        let mut words = vec!["create", "-o", "cachefile=none", "-m", &mountpoint];
        words.extend(arguments);
        words.extend([name.as_str(), &image]);
        run("zpool", &words);
        Self { name, folder }
    }

    /// The full name of what the pool calls `dataset`.
    pub fn full(&self, dataset: &str) -> String {
        format!("{}/{dataset}", self.name)
    }

    /// Makes the filesystem `dataset`, and those above it; its full name.
    pub fn dataset(&self, dataset: &str) -> String {
        zfs(&["create", "-p", &self.full(dataset)]);
        self.full(dataset)
    }

    /// Makes a sparse volume; its full name.
    pub fn volume(&self, dataset: &str, size: &str) -> String {
        zfs(&["create", "-s", "-p", "-V", size, &self.full(dataset)]);
        self.full(dataset)
    }

    /// Where `dataset` is mounted unless it was told otherwise; where the topmost one is, for an empty name.
    pub fn path(&self, dataset: &str) -> PathBuf {
        self.folder.path().join("mnt").join(dataset)
    }

    /// As `zfs mount -a` at a boot, but of this pool alone: that of another test may be in the midst of something.
    pub fn mount_all(&self) {
        let wanted = "canmount,mounted,keystatus,name";
        for line in zfs(&["list", "-H", "-r", "-t", "filesystem", "-o", wanted, &self.name]).lines() {
            let fields: Vec<_> = line.splitn(4, '\t').collect();
            if let ["on", "no", "-" | "available", name] = fields[..] {
                zfs(&["mount", name]);
            }
        }
    }

    /// A directory beside it, not on it.
    pub fn outside(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        destroy(&self.name, self.folder.path());
    }
}

/// Takes a pool away. What still uses it is detached first.
fn destroy(pool: &str, folder: &Path) {
    unmount_below(folder);
    let output = std::process::Command::new("zpool").args(["destroy", "-f", pool]).output();
    let refused = output.map(|o| String::from_utf8_lossy(&o.stderr).into_owned());
    if let Some(words) = refused.ok().filter(|words| !words.is_empty()) {
        eprintln!("the pool {pool} stays: {words}");
    }
}

/// A test that is killed cleans nothing up: the next one does, for processes that are gone.
fn sweep_what_killed_tests_left() {
    for pool in zpool(&["list", "-H", "-o", "name"]).lines() {
        let owner = pool.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let folder = std::env::temp_dir();
            let of_pool = |entry: &std::fs::DirEntry| {
                entry.file_name().to_string_lossy().starts_with(&format!("{pool}-"))
            };
            let left = std::fs::read_dir(&folder).into_iter().flatten().flatten().find(of_pool);
            let left = left.map_or(folder.join(pool), |entry| entry.path());
            destroy(pool, &left);
            let _ = std::fs::remove_dir_all(left);
        }
    }
}

/// Runs `zfs`, and panics with its words if it fails; what it wrote.
pub fn zfs(arguments: &[&str]) -> String {
    String::from_utf8(run("zfs", arguments).stdout).expect("utf-8")
}

/// Runs `zpool` likewise.
pub fn zpool(arguments: &[&str]) -> String {
    String::from_utf8(run("zpool", arguments).stdout).expect("utf-8")
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("utf-8")
}

#[test]
fn a_pool_goes_with_its_value() {
    ground!("zfs");
    let (name, folder) = {
        let pool = Pool::new();
        assert!(zpool(&["list", "-H", "-o", "name"]).lines().any(|line| line == pool.name));
        // Also while somebody uses it.
        std::fs::write(pool.path("").join("file"), "text").expect("write");
        let _open = std::fs::File::open(pool.path("").join("file")).expect("open");
        (pool.name.clone(), pool.outside().to_owned())
    };
    assert!(!zpool(&["list", "-H", "-o", "name"]).lines().any(|line| line == name), "{name} is still there");
    assert!(!folder.exists());
}

#[test]
fn datasets_may_have_spaces_and_colons_in_their_names() {
    ground!("zfs");
    let pool = Pool::with("512M", &["-O", "compression=off"]);
    let dataset = pool.dataset("chain state/v1:a_b-c.d");
    std::fs::write(pool.path("chain state/v1:a_b-c.d").join("file"), "text").expect("write");
    let snapshot = format!("{dataset}@at noon: 12_00");
    zfs(&["snapshot", &snapshot]);
    let listed = zfs(&["list", "-H", "-t", "snapshot", "-o", "name", "-r", &pool.name]);
    assert_eq!(listed.trim_end(), snapshot);
    assert_eq!(zfs(&["get", "-H", "-o", "value", "compression", &dataset]).trim_end(), "off");
}

#[test]
fn a_volume_is_a_block_device() {
    use std::os::unix::fs::FileTypeExt;
    ground!("zfs");
    let pool = Pool::new();
    let device = Path::new("/dev/zvol").join(pool.volume("disk", "64M"));
    let is_block = || device.metadata().is_ok_and(|m| m.file_type().is_block_device());
    // udev makes the link.
    let appeared = (0..100).any(|_| {
        is_block() || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            false
        }
    });
    assert!(appeared, "{} did not appear", device.display());
}
