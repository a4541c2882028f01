//! An archive with a chain of versions in it, put there by the library, and a fresh filesystem to bring them back to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cowsnap::endpoint::archive::{About, Archive, Charter, Manifest, Piece, Stream, Writers};
use cowsnap::endpoint::store::{Bytes, Options, Store};
use cowsnap::model::archive::{PART_LEN, Part};
use cowsnap::model::{Digest, StoreUrl};
use cowsnap::stream::reader::Reader;

use crate::ground::{Btrfs, cowsnap};
use crate::tree_compare::{Also, assert_same};

pub struct Lab {
    pub source: Btrfs,
    pub target: Btrfs,
}

impl Lab {
    /// A dataset with `n` snapshots, each of which adds so many bytes that do not compress, and their containers in files.
    pub fn new(n: u8, bytes: usize) -> Self {
        let source = Btrfs::with("4G", &[], "");
        let live = source.subvolume("s");
        let lab = Self { source, target: Btrfs::with("4G", &[], "") };
        for n in 1..=n {
            let mut noise = vec![0; bytes];
            blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut noise);
            fs::write(live.join(format!("f{n}")), noise).expect("writes");
            fs::write(live.join("height"), n.to_string()).expect("writes");
            lab.good(&["snapshot", &lab.live(), "--name", &format!("s{n}")]);
            let (snapshot, file, from) = (format!("{}@s{n}", lab.live()), lab.file(n), format!("s{}", n - 1));
            let mut words = vec!["send", &snapshot, "-o", &file];
            if n > 1 {
                words.extend(["--from", &from]);
            }
            lab.good(&words);
        }
        lab
    }

    pub fn live(&self) -> String {
        text(&self.source.path().join("s"))
    }

    pub fn file(&self, n: u8) -> String {
        text(&self.source.outside().join(format!("s{n}.cow")))
    }

    /// The dataset that versions are brought back to.
    pub fn to(&self) -> String {
        text(&self.target.path().join("back"))
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = cowsnap(self.source.outside());
        command.args(words).stdin(Stdio::null());
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("runs")
    }

    pub fn good(&self, words: &[&str]) -> Output {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", errors(&output));
        output
    }

    /// The directory of an archive of files.
    pub fn dir(&self) -> PathBuf {
        self.source.outside().join("archive")
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("file://{}", self.dir().display())
    }

    /// Puts the first `n` containers into an archive in a directory.
    pub fn archive(&self, n: u8) -> Archive {
        fs::create_dir_all(self.dir()).expect("mkdir");
        let url: StoreUrl = self.url().parse().expect("an address");
        let store = Store::open(&url, &Options::default()).expect("opens");
        self.fill(&store, n)
    }

    /// Puts the first `n` containers into an archive at `store`.
    pub fn fill(&self, store: &Store, n: u8) -> Archive {
        let charter = Charter::new(self.live(), Writers::Many).expect("made");
        let archive = Archive::create(store.clone(), charter).expect("made");
        (1..=n).for_each(|n| put(&archive, Path::new(&self.file(n))));
        archive
    }

    /// That the live dataset which was restored is what snapshot `n` was.
    pub fn assert_is(&self, n: u8, at: &Path) {
        let look = self.source.path().join("look");
        fs::create_dir_all(&look).expect("mkdir");
        self.good(&["mount", &format!("{}@s{n}", self.live()), &text(&look)]);
        assert_same(&look, at, Also::default(), "restored");
        self.good(&["unmount", &text(&look)]);
    }

    /// The snapshots of what was brought back.
    pub fn snapshots(&self) -> Vec<String> {
        let output = self.run(&["list", &self.to(), "--json"]);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let all = said["datasets"][0]["snapshots"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect()
    }
}

/// Puts one container.
pub fn put(archive: &Archive, file: &Path) {
    let bytes = fs::read(file).expect("reads");
    let mut reader = Reader::open(std::io::Cursor::new(bytes.clone())).expect("a container");
    std::io::copy(&mut reader, &mut std::io::sink()).expect("sound");
    let (header, sealed) = (reader.header().clone(), reader.sealed().expect("read to its end"));
    let pieces: Vec<Piece> = bytes
        .chunks(PART_LEN as usize)
        .map(|part| Piece { len: part.len() as u64, digest: Digest(*blake3::hash(part).as_bytes()) })
        .collect();
    let about = About {
        backend: header.backend,
        dataset: header.dataset.clone(),
        snapshot: header.snapshot.clone(),
        guid: header.guid,
        base: header.base,
        created: header.created,
        stream: Stream { length: sealed.len, blake3: Some(Digest(*sealed.root.as_bytes())) },
        labels: Default::default(),
        encryption: None,
        more: Default::default(),
    };
    let manifest = Manifest::new(about, pieces).expect("a manifest");
    for ((part, _), bytes) in manifest.parts().zip(bytes.chunks(PART_LEN as usize)) {
        archive.store().put(&part.to_string(), Bytes::copy_from_slice(bytes)).expect("puts");
    }
    archive.commit(&manifest).expect("commits");
}

/// The parts of an archive, by key.
pub fn parts(archive: &Archive) -> Vec<(Part, u64)> {
    let mut parts: Vec<_> =
        archive.parts(None).expect("lists").into_iter().map(|(part, object)| (part, object.len)).collect();
    parts.sort_by_key(|(part, _)| (part.group.base.is_some(), *part)); // The full one first: there are two at most.
    parts
}

pub fn text(path: &Path) -> String {
    path.to_str().expect("utf-8").to_owned()
}

pub fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", errors(output)))
}
