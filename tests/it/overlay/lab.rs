//! A base, a home and a place for overlays, and the program on them. Whatever stays mounted goes with the test.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use cowsnap::endpoint::overlay::Home;

use crate::ground;
use crate::zfs::ground::Pool;

pub struct Lab {
    /// On ZFS: the pool whose filesystem `root` is. Goes after what is mounted of it.
    pool: Option<Pool>,
    folder: tempfile::TempDir,
    /// Where base and home are; the folder itself, or a filesystem mounted in it.
    root: PathBuf,
    home: PathBuf,
}

impl Lab {
    /// On the filesystem of the temporary directory.
    pub fn new() -> Self {
        let folder = ground::scratch();
        let root = folder.path().to_owned();
        Self::in_folder(folder, root, None)
    }

    /// On a pool of its own, the base a dataset.
    pub fn on_zfs() -> Self {
        let pool = Pool::new();
        pool.dataset("base");
        Self::in_folder(ground::scratch(), pool.path(""), Some(pool))
    }

    /// With a home beside the filesystem that the base is on.
    pub fn with_home_outside(mut self) -> Self {
        self.home = self.folder.path().join("home");
        self
    }

    /// On a filesystem of its own, made by `mkfs.KIND`.
    pub fn on(kind: &str, mkfs: &[&str]) -> Self {
        let folder = ground::scratch();
        let (image, root) = (folder.path().join("image"), folder.path().join("disk"));
        fs::create_dir(&root).expect("mkdir");
        ground::run("truncate", &["-s".as_ref(), "400M".as_ref(), image.as_os_str()]);
        let args: Vec<_> = mkfs.iter().map(AsRef::as_ref).chain([image.as_os_str()]).collect();
        ground::run(&format!("mkfs.{kind}"), &args);
        let options = ["-t".as_ref(), kind.as_ref(), "-o".as_ref(), "loop".as_ref()];
        ground::run("mount", &[&options[..], &[image.as_os_str(), root.as_os_str()]].concat());
        Self::in_folder(folder, root, None)
    }

    fn in_folder(folder: tempfile::TempDir, root: PathBuf, pool: Option<Pool>) -> Self {
        let lab = Self { pool, folder, home: root.join("home"), root };
        let base = lab.base();
        fs::create_dir_all(base.join("dir/deep")).expect("mkdir");
        fs::write(base.join("file"), "base").expect("written");
        fs::write(base.join("dir/deep/file"), "deep").expect("written");
        fs::hard_link(base.join("file"), base.join("dir/link")).expect("linked");
        std::os::unix::fs::symlink("file", base.join("symlink")).expect("linked");
        lab
    }

    /// The pool that it is on.
    pub fn pool(&self) -> &Pool {
        self.pool.as_ref().expect("a lab on ZFS")
    }

    /// The names of the clones that there are, and of snapshots that were taken for overlays.
    pub fn clones(&self) -> Vec<String> {
        let Some(pool) = &self.pool else {
            let entries = fs::read_dir(self.root.join(".cowsnap/overlays")).into_iter().flatten().flatten();
            return entries.map(|entry| entry.file_name().into_string().expect("utf-8")).collect();
        };
        let all = crate::zfs::ground::zfs(&["list", "-H", "-t", "all", "-o", "name", "-r", &pool.name]);
        let is_ours = |name: &&str| name.contains("/cowsnap-overlays/") || name.contains("@cowsnap-overlay");
        all.lines().filter(is_ours).map(|name| name.rsplit('/').next().expect("a part").to_owned()).collect()
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The image of a lab that is on a filesystem of its own.
    pub fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    pub fn base(&self) -> PathBuf {
        self.root.join("base")
    }

    pub fn home_dir(&self) -> PathBuf {
        self.home.clone()
    }

    /// What a user's test left is this process' own from now on: nobody uses another's.
    fn own_home(&self) {
        let own = rustix::process::geteuid().as_raw();
        if fs::metadata(self.home_dir()).is_ok_and(|meta| meta.uid() != own) {
            std::os::unix::fs::chown(self.home_dir(), Some(own), None).expect("root may");
        }
    }

    pub fn home(&self) -> Home {
        self.own_home();
        Home::find(&self.home_dir()).expect("readable").expect("there")
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join("mnt").join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        self.own_home();
        let mut command = ground::cowsnap(&self.folder.path().join("state"));
        command.arg("overlay").args(args).env("COWSNAP_OVERLAY_HOME", self.home_dir());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("cowsnap runs")
    }

    /// Runs the program and panics unless it does what it is asked; its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        String::from_utf8(output.stdout).expect("utf-8")
    }

    /// Runs the program, panics unless it ends with that exit code; its standard error.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
        String::from_utf8(output.stderr).expect("utf-8")
    }

    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[&["--json"], args].concat())).expect("JSON")
    }

    /// Makes the overlay `name` on the base, at the place of its name.
    pub fn create(&self, name: &str, more: &[&str]) -> PathBuf {
        let (base, at) = (self.base(), self.at(name));
        let base = ["create", name, "--base", utf8(&base), "--at", utf8(&at)];
        self.ok(&[&base[..], more].concat());
        at
    }

    /// The names of the overlays that there are.
    pub fn names(&self) -> Vec<String> {
        let listed = self.json(&["list"]);
        let overlays = listed["overlays"].as_array().expect("a list");
        overlays.iter().map(|overlay| overlay["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// What of this lab's overlays is mounted, its own disk apart.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let mounts = cowsnap::sys::mount::mounts().expect("mountinfo");
        let is_own = |dir: &Path| dir == self.root || dir == self.base();
        let is_ours = |dir: &Path| dir.starts_with(self.folder.path()) || dir.starts_with(&self.root);
        mounts.into_iter().map(|m| m.dir).filter(|dir| is_ours(dir) && !is_own(dir)).collect()
    }

    /// Asserts that, once it is swept, nothing is left but the base.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.names(), [""; 0]);
        assert_eq!(self.mounts(), Vec::<PathBuf>::new());
        assert!(self.sweep(), "{:?}", self.home().trash());
    }

    /// Sweeps until nothing is left in the trash; false if that takes a minute.
    ///
    /// Each time anew, as who finds it locked leaves it be: by another process that is sweeping, or by one that another test is
    /// just starting, and that has the lock's descriptor until it becomes another program.
    pub fn sweep(&self) -> bool {
        let is_swept = || {
            let swept = self.home().sweep();
            // On ZFS, what was used a moment ago is destroyed the next time.
            if self.pool.is_none() {
                swept.expect("swept");
            }
            self.home().trash().expect("listed").is_empty()
        };
        (0..6000).any(|_| is_swept() || (std::thread::sleep(Duration::from_millis(10)), false).1)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        ground::unmount_below(self.folder.path());
    }
}

pub fn text(output: &Output) -> String {
    let lossy = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, lossy(&output.stdout), lossy(&output.stderr))
}

pub fn utf8(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

pub fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// A process that goes with the value.
pub struct Process(pub std::process::Child);

impl Process {
    pub fn new(command: &mut Command) -> Self {
        Self(command.spawn().expect("it starts"))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
