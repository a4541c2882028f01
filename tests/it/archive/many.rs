//! Versions of many parts, and many versions: what each of them takes of memory. Nothing is pushed: manifests are put, and files that are as long as parts.

use std::fs::{File, create_dir_all, write};
use std::path::Path;

use cowsnap::endpoint::archive::{About, Archive, Charter, Manifest, Piece, Stream, Writers};
use cowsnap::endpoint::store::{Options, Store};
use cowsnap::model::archive::PART_LEN;
use cowsnap::model::{Digest, Guid, StoreUrl};
use cowsnap::stream::container::Backend;
use tempfile::TempDir;

use super::push::peak;
use crate::ground;

/// An archive in a directory, without a dataset.
struct Lab {
    scratch: TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { scratch: ground::scratch() };
        let charter = Charter::new("d".into(), Writers::Many).expect("random numbers");
        create_dir_all(lab.dir()).expect("a folder");
        Archive::create(lab.store(), charter).expect("an archive");
        lab
    }

    fn dir(&self) -> std::path::PathBuf {
        self.scratch.path().join("archive")
    }

    fn url(&self) -> String {
        format!("file://{}", self.dir().display())
    }

    fn store(&self) -> Store {
        let url: StoreUrl = self.url().parse().expect("an address");
        Store::open(&url, &Options::default()).expect("a store")
    }

    fn archive(&self) -> Archive {
        Archive::open(self.store()).expect("an archive")
    }

    /// Puts the manifest of a full version that is made of so many parts, and answers it.
    fn put(&self, number: u32, n_parts: u32) -> Manifest {
        let mut guid = Guid([7; 16]);
        guid.0[..4].copy_from_slice(&number.to_be_bytes());
        let about = About {
            backend: Backend::Btrfs,
            dataset: "d".into(),
            snapshot: format!("v{number}").parse().expect("a name"),
            guid,
            base: None,
            created: jiff::Timestamp::from_second(1_700_000_000 + i64::from(number)).expect("a time"),
            stream: Stream { length: 1, blake3: None },
            labels: Default::default(),
            encryption: None,
            more: Default::default(),
        };
        let digest = |n: u32| Digest(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let pieces = (0..n_parts).map(|n| Piece { len: PART_LEN, digest: digest(n) });
        let manifest = Manifest::new(about, pieces).expect("a manifest");
        // Not by the program, which has each of them on the disk before it goes on.
        let path = self.dir().join(manifest.stored().to_string());
        create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
        write(path, manifest.to_bytes()).expect("written");
        manifest
    }

    /// Makes its parts: files that are as long, and hold nothing.
    fn fill(&self, manifest: &Manifest) {
        let mut made = None;
        for (part, len) in manifest.parts() {
            let path = self.dir().join(part.to_string());
            let folder = path.parent().expect("it is in a folder").to_owned();
            if made.as_ref() != Some(&folder) {
                create_dir_all(&folder).expect("a folder");
                made = Some(folder);
            }
            File::create(path).expect("a file").set_len(len).expect("as long");
        }
    }

    /// The most memory that it takes, in KiB.
    fn takes(&self, line: &str) -> u64 {
        let url = self.url();
        let mut command = ground::cowsnap(&self.scratch.path().join("state"));
        command.args(line.split(' ').map(|word| word.replace("URL", &url)));
        let (out, err) = (std::process::Stdio::null(), std::process::Stdio::piped());
        peak(command.stdout(out).stderr(err).spawn().expect("the program starts"))
    }

    fn is_there(&self, manifest: &Manifest) -> bool {
        let group = manifest.part(0).0.group.to_string();
        Path::exists(&self.dir().join(group))
    }
}

#[test]
fn a_part_takes_less_than_200_bytes_of_memory_of_who_verifies_counts_and_prunes() {
    // Enough to be at it for longer than between two looks at it.
    const FEW: u32 = 20_000;
    const MANY: u32 = 100_000;
    let (few, many) = (Lab::new(), Lab::new());
    let of_few = few.put(1, FEW);
    few.fill(&of_few);
    few.fill(&few.put(2, 1));
    let of_many = many.put(1, MANY);
    many.fill(&of_many);
    many.fill(&many.put(2, 1));
    for line in ["archive verify URL --quick", "archive du URL", "archive prune URL --keep-last 1"] {
        let (with_few, with_many) = (few.takes(line), many.takes(line));
        let each = with_many.saturating_sub(with_few) * 1024 / u64::from(MANY - FEW);
        println!("{line}: {each} bytes for each part");
        assert!(with_few > 0 && each < 200, "{line}: {with_few} KiB, {with_many} KiB: {each} bytes each");
    }
    assert!(!few.is_there(&of_few) && !many.is_there(&of_many), "they were destroyed");
    assert_eq!(many.archive().parts(None).expect("listed").len(), 1);
}

#[test]
fn a_version_takes_less_than_2_kib_of_memory_and_twice_that_in_a_table() {
    const FEW: u32 = 2_000;
    const MANY: u32 = 8_000;
    let with = |n: u32| {
        let lab = Lab::new();
        (1..=n).for_each(|number| lab.fill(&lab.put(number, 1)));
        lab
    };
    let (few, many) = (with(FEW), with(MANY));
    let prune = |n: u32| format!("archive prune URL --keep-last {}", n - 10);
    let lines =
        ["archive list URL", "archive list URL --json", "archive verify URL --quick", "archive du URL"];
    let lines = lines.map(|line| (line.to_owned(), line.to_owned())).into_iter();
    for (of_few, of_many) in lines.chain([(prune(FEW), prune(MANY))]) {
        let (with_few, with_many) = (few.takes(&of_few), many.takes(&of_many));
        let each = with_many.saturating_sub(with_few) * 1024 / u64::from(MANY - FEW);
        println!("{of_many}: {each} bytes for each version");
        assert!(
            with_few > 0 && each < if of_many.ends_with("list URL") { 4096 } else { 2048 },
            "{of_many}: {with_few} KiB, {with_many} KiB: {each} bytes each"
        );
    }
    assert_eq!(many.archive().listing().expect("listed").stored.len(), MANY as usize - 10);
}

#[test]
fn of_many_parts_that_are_gone_the_first_are_named_and_the_others_counted() {
    let lab = Lab::new();
    lab.put(1, 5_000);
    let mut command = ground::cowsnap(&lab.scratch.path().join("state"));
    let output = command.args(["archive", "verify", &lab.url(), "--quick", "--json"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(4));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let damaged = said["found"]["damaged"].as_array().expect("a list");
    let counted =
        |one: &&serde_json::Value| one["what"].as_str().is_some_and(|what| what.starts_with("4900 more"));
    assert_eq!((damaged.len(), damaged.iter().filter(counted).count()), (101, 1), "{:?}", damaged.first());
}

#[test]
fn a_manifest_that_is_longer_than_its_key_promises_is_not_read() {
    let lab = Lab::new();
    let manifest = lab.put(1, 1);
    let junk = vec![b'x'; 3 << 20];
    lab.store().put(&manifest.stored().to_string(), junk.into()).expect("put");
    let mut command = ground::cowsnap(&lab.scratch.path().join("state"));
    let output = command.args(["archive", "verify", &lab.url(), "--quick"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("3145728 bytes long, of at most"), "{said}");
}
