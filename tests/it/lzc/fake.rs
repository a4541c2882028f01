//! A stand-in for OpenZFS' libraries, so that what the calls hand over can be read where there is no ZFS.
//!
//! The dynamic linker reads `LD_LIBRARY_PATH` once, at a process' start: a test runs itself again in a child that has it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Set in the child, to the file in which the stand-in writes down each call.
const LOG: &str = "FAKE_ZFS_LOG";

/// What the stand-in was handed, a line for each call.
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// The lines since the last time.
    pub fn take(&self) -> String {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        std::fs::write(&self.path, "").expect("empty the log");
        text
    }
}

/// In the child: the log. In the parent: `None`, after the child has run the test named `test` and passed.
///
/// `arrange` prepares the folder in which the child's dynamic linker looks first; `env` is more for its environment.
pub fn within(test: &str, arrange: impl FnOnce(&Path), env: &[(&str, &str)]) -> Option<Log> {
    if let Some(path) = std::env::var_os(LOG) {
        return Some(Log { path: path.into() });
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    arrange(folder.path());
    let mut search = folder.path().as_os_str().to_owned();
    if let Some(inherited) = std::env::var_os("LD_LIBRARY_PATH") {
        search.push(":");
        search.push(inherited);
    }
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(LOG, folder.path().join("log"))
        .env("LD_LIBRARY_PATH", search)
        .envs(env.iter().copied())
        .output()
        .expect("run this program again");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "in the child:\n{said}");
    None
}

/// Both stand-ins, built. An installed libnvpair is taken over our own: its lists are the real ones.
pub fn libraries(folder: &Path) {
    let source = |name| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/lzc").join(name);
    let nvpair = folder.join("libnvpair.so.3");
    build(&nvpair, &[&source("nvpair.c")]);
    build(&folder.join("libzfs_core.so.3"), &[&source("zfs_core.c"), &nvpair]);
    if nvpair_sys::load().is_ok() {
        std::fs::remove_file(&nvpair).expect("remove the stand-in");
    }
}

/// A `libzfs_core.so.3` without a single function.
pub fn empty_library(folder: &Path) {
    std::fs::write(folder.join("empty.c"), "").expect("write");
    build(&folder.join("libzfs_core.so.3"), &[&folder.join("empty.c")]);
}

fn build(library: &Path, sources: &[&Path]) {
    let name = library.file_name().expect("a name").to_string_lossy();
    let output = Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
        .arg(library)
        .arg(format!("-Wl,-soname,{name}"))
        .args(sources)
        .output()
        .expect("cc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
