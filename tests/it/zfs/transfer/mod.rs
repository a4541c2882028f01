//! Sending and receiving between datasets of real pools.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use super::ground::{Pool, zfs};
use crate::ground::{self, run, waits};

mod chain;
mod conflict;
mod damage;
mod decisions;
mod errnos;
mod killed;
mod properties;
mod raw;
mod remote;
mod replicate;
mod resume;
mod verify;

/// A dataset that is sent, a place that receives, in one pool.
struct Lab {
    pool: Pool,
    source: String,
    target: String,
}

const SOURCE: &str = "node 1/chain:state";

impl Lab {
    fn new() -> Self {
        let pool = Pool::new();
        let source = pool.dataset(SOURCE);
        Self { target: format!("{}/copy of:it", pool.dataset("backup")), source, pool }
    }

    fn write(&self, file: &str, bytes: &[u8]) {
        fs::write(self.pool.path(SOURCE).join(file), bytes).expect("write");
    }

    /// Takes a snapshot of the source; its full name.
    fn snapshot(&self, name: &str) -> String {
        let full = format!("{}@{name}", self.source);
        zfs(&["snapshot", &full]);
        full
    }

    fn file(&self, name: &str) -> String {
        self.pool.outside().join(name).into_os_string().into_string().expect("utf-8")
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = ground::cowsnap(&self.pool.outside().join("state"));
        command.args(arguments);
        command
    }

    fn cowsnap(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it starts")
    }

    /// Runs it well; what it wrote to standard output.
    fn does(&self, arguments: &[&str]) -> String {
        let output = self.cowsnap(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).expect("utf-8")
    }

    /// Runs it, which must end with that code; what it wrote to standard error.
    fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output = self.cowsnap(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        said(&output)
    }

    /// Sends, with these arguments, to a new file.
    fn send(&self, file: &str, arguments: &[&str]) -> String {
        let file = self.file(file);
        let mut all = vec!["send", "-o", &file];
        all.extend(arguments);
        self.does(&all);
        file
    }

    /// Receives those bytes from standard input.
    fn receive_bytes(&self, arguments: &[&str], bytes: &[u8]) -> Output {
        let mut all = vec!["receive", &self.target];
        all.extend(arguments);
        let mut command = self.command(&all);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let _ = child.stdin.take().expect("piped").write_all(bytes); // It may refuse before the end.
        child.wait_with_output().expect("it ends")
    }

    fn receive(&self, file: &str) {
        self.does(&["receive", &self.target, file]);
    }

    /// The snapshots of a dataset, oldest first; none if it is not there.
    fn snapshots(&self, dataset: &str) -> Vec<String> {
        let args = ["list", "-H", "-t", "snapshot", "-d", "1", "-s", "createtxg", "-o", "name", dataset];
        let output = std::process::Command::new("zfs").args(args).output().expect("zfs");
        let text = String::from_utf8(output.stdout).expect("utf-8");
        text.lines().filter_map(|line| Some(line.split_once('@')?.1.to_owned())).collect()
    }

    /// What is in a snapshot: each file with its bytes.
    fn content(&self, snapshot: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let dir =
            tempfile::Builder::new().prefix("look-").tempdir_in(self.pool.outside()).expect("a directory");
        let path = dir.path().to_str().expect("utf-8");
        run("mount", &["-t", "zfs", "-o", "ro", snapshot, path]);
        let mut files = BTreeMap::new();
        collect(dir.path(), dir.path(), &mut files);
        run("umount", &[path]);
        files
    }

    fn assert_same(&self, name: &str) {
        let (one, other) = (format!("{}@{name}", self.source), format!("{}@{name}", self.target));
        assert!(self.content(&one) == self.content(&other), "{one} and {other} differ");
        let guid = |snapshot: &str| get(snapshot, "guid");
        assert_eq!(guid(&one), guid(&other));
    }
}

fn collect(root: &Path, dir: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry")) {
        match entry.file_type().expect("a type").is_dir() {
            true => collect(root, &entry.path(), files),
            false => {
                let name = entry.path().strip_prefix(root).expect("below").to_owned();
                files.insert(name, fs::read(entry.path()).expect("read"));
            }
        }
    }
}

fn get(name: &str, property: &str) -> String {
    zfs(&["get", "-Hp", "-o", "value", property, name]).trim_end_matches('\n').to_owned()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout))
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
