//! Archives: pushed into a real S3 server and into directories, broken off at every request, raced, pruned.

mod many;
mod push;
mod race;
mod sealed;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use cowsnap::endpoint::archive::{Archive, Charter, Manifest, Writers};
use cowsnap::endpoint::store::{Options, Store};
use cowsnap::model::archive::Stored;
use cowsnap::model::{Guid, StoreUrl};
use serde_json::Value;

use crate::ground::{self, Btrfs};
use crate::s3::Server;

/// A btrfs filesystem, an archive somewhere else, and the program.
struct Ground {
    fs: Btrfs,
    state: PathBuf,
    server: Option<Server>,
    url: String,
}

impl Ground {
    fn on_s3() -> Self {
        let server = Server::start();
        let url = server.url("a");
        Self::with(Some(server), url, Btrfs::new())
    }

    /// On a server that speaks as Google's does.
    fn on_google() -> Self {
        let server = Server::google();
        let url = server.url("a");
        Self::with(Some(server), url, Btrfs::new())
    }

    /// With a filesystem of that size.
    fn large_on_s3(size: &str) -> Self {
        let server = Server::start();
        let url = server.url("a");
        Self::with(Some(server), url, Btrfs::with(size, &[], ""))
    }

    fn on_dir() -> Self {
        let mut ground = Self::with(None, String::new(), Btrfs::new());
        ground.url = format!("file://{}", ground.fs.outside().join("archive").display());
        ground
    }

    fn with(server: Option<Server>, url: String, fs: Btrfs) -> Self {
        let state = fs.outside().join("state");
        let ground = Self { fs, state, server, url };
        ground.run("create FS/d");
        ground
    }

    /// The same filesystem and store, and another archive.
    fn elsewhere(&mut self, name: &str) {
        match &self.server {
            Some(server) => self.url = server.url(name),
            None => self.url = format!("file://{}", self.fs.outside().join(name).display()),
        }
        // As `archive add` makes one, which tries the store out for a hundred requests before.
        let charter = Charter::new(String::new(), Writers::Many).expect("random numbers");
        Archive::create(self.store(), charter).expect("an archive");
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("a server")
    }

    fn command(&self, line: &str) -> Command {
        let mut command = ground::cowsnap(&self.state);
        let fs = self.fs.path();
        let word = |word: &str| word.replace("FS", fs.to_str().expect("utf-8")).replace("URL", &self.url);
        command.args(line.split(' ').map(word));
        command.envs(self.server.iter().flat_map(Server::env));
        command
    }

    fn output(&self, line: &str) -> Output {
        self.command(line).output().expect("the program starts")
    }

    /// Runs, expects that exit code, and answers what was printed and what was said.
    fn ends(&self, code: i32, line: &str) -> (String, String) {
        let output = self.output(line);
        let [out, err] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(output.status.code(), Some(code), "cowsnap {line}\n{out}{err}");
        (out, err)
    }

    fn run(&self, line: &str) -> String {
        self.ends(0, line).0
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(&format!("{line} --json"))).expect("one JSON object")
    }

    fn start(&self, line: &str) -> Child {
        let mut command = self.command(line);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
    }

    /// Writes random bytes to a file of the dataset, and takes a snapshot.
    fn take(&self, name: &str, len: u64) {
        use std::io::Read;
        let mut from = std::fs::File::open("/dev/urandom").expect("random bytes").take(len);
        let path = self.fs.path().join("d").join(format!("of-{name}"));
        let mut to = std::fs::File::create(path).expect("a file");
        std::io::copy(&mut from, &mut to).expect("written");
        self.run(&format!("snapshot FS/d --name {name}"));
    }

    /// The archive, for the library.
    fn archive(&self) -> Archive {
        Archive::open(self.store()).expect("an archive")
    }

    fn store(&self) -> Store {
        let url: StoreUrl = self.url.parse().expect("an address");
        let options = self.server.as_ref().map_or_else(Options::default, Server::options);
        Store::open(&url, &options).expect("a store")
    }

    /// The names of its versions, oldest first, each of which must come back; and nothing that a manifest names is missing.
    fn versions(&self) -> Vec<String> {
        let list = self.json("archive list URL");
        let versions = list["versions"].as_array().expect("versions");
        assert!(versions.iter().all(|version| version["restorable"] == true), "{list}");
        assert_eq!(self.json("archive du URL")["missing_bytes"], 0);
        versions.iter().map(|version| version["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// That a version's content comes back by its chain: each container is put together again, and received.
    fn expect_whole(&self, name: &str, into: &str) {
        let archive = self.archive();
        let chains = cowsnap::plan::archive::Archive::new(archive.listing().expect("listed").stored);
        let wanted =
            chains.stored().iter().find(|stored| stored.version.name.as_str() == name).expect("there");
        for stored in chains.chain(wanted.version.guid, &|_: Guid| false).expect("a chain") {
            let file = self.fs.outside().join("container");
            std::fs::write(&file, container(&archive, stored)).expect("written");
            let mut receive = self.command(&format!("receive FS/{into}"));
            let status = receive.stdin(std::fs::File::open(&file).expect("there")).status().expect("started");
            assert!(status.success(), "{stored}");
        }
        let snap = |of: &str| self.fs.path().join(".cowsnap/datasets").join(of).join("snap").join(name);
        ground::run("diff", &["-r".as_ref(), snap("d").as_os_str(), snap(into).as_os_str()]);
    }

    /// Where the store's objects are files.
    fn files(&self) -> PathBuf {
        match &self.server {
            Some(server) => server.files().join(self.url.rsplit('/').next().expect("a prefix")),
            None => self.url.trim_start_matches("file://").into(),
        }
    }

    /// That nothing is there but the versions and what they need, once all is old and prune has been there.
    fn expect_nothing_left(&self) {
        age(&self.files());
        self.run("archive prune URL --keep-last all");
        let archive = self.archive();
        let mut needed = BTreeSet::from(["archive.json".to_owned()]);
        for stored in archive.listing().expect("listed").stored {
            needed.extend(manifest(&archive, &stored).parts().map(|(part, _)| part.to_string()));
            needed.insert(stored.to_string());
        }
        let there: BTreeSet<_> =
            archive.store().list("").expect("listed").into_iter().map(|o| o.key).collect();
        assert_eq!(there, needed);
    }
}

fn manifest(archive: &Archive, stored: &Stored) -> Manifest {
    archive.manifest(stored).expect("a manifest")
}

fn container(archive: &Archive, stored: &Stored) -> Vec<u8> {
    let manifest = manifest(archive, stored);
    manifest.parts().flat_map(|(part, len)| archive.part(&part, len).expect("a part")).collect()
}

/// Makes all that lies there 30 days older; not manifests, which are never put before their version was made.
fn age(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().expect("a type").is_dir() {
            true if entry.file_name() == "versions" => {}
            true => age(&entry.path()),
            false => {
                let old = SystemTime::now() - Duration::from_secs(30 * 24 * 3600);
                let file = std::fs::File::options().write(true).open(entry.path()).expect("a file");
                file.set_modified(old).expect("a time");
            }
        }
    }
}

/// A process that a fault acts upon, once it is known.
#[derive(Clone, Default)]
struct Victim(Arc<AtomicU32>);

impl Victim {
    fn is(&self, child: &Child) {
        self.0.store(child.id(), Ordering::SeqCst);
    }

    /// Sends it a signal as soon as it is known.
    fn signal(&self, signal: rustix::process::Signal) -> Arc<dyn Fn() + Send + Sync> {
        let victim = self.clone();
        Arc::new(move || {
            while victim.0.load(Ordering::SeqCst) == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let pid = victim.0.load(Ordering::SeqCst).cast_signed();
            let pid = rustix::process::Pid::from_raw(pid).expect("a process");
            rustix::process::kill_process(pid, signal).expect("it is ours");
        })
    }
}

/// Waits for a process, and answers its exit code with what it said.
fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
