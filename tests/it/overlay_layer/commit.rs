//! A generation that the kernel wrote becomes a layer, or stays what it was.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cowsnap::endpoint::Error;
use cowsnap::endpoint::overlay::Home;
use cowsnap::endpoint::overlay::home::Generation;
use cowsnap::endpoint::overlay::layer::{CommitRequest, Layer, commit};
use cowsnap::model::overlay::{LayerId, Record, Xattrs};

use super::lab::{Lab, Random, text};
use super::view::{assert_same, of_kernel};
use crate::ground::{ground, run};

pub const OPTIONS: &str = "redirect_dir=on,metacopy=off,index=off";

pub fn record(name: &str, base: &Path) -> Record {
    let text = format!(
        r#"{{"format":1,"name":"{name}","mode":"kernel","why":[],"uid":0,
        "base":{{"kind":"dir","path":{:?},"identity":"x"}},"layers":[],"copies":[],"owner":null,
        "options":{{"volatile":true,"xattrs":"trusted"}},"created":"2026-11-21T08:00:00Z","state":"ready"}}"#,
        base.to_str().expect("text")
    );
    serde_json::from_str(&text).expect("a record")
}

pub fn request(name: &str, base: &Path, parent: Option<LayerId>) -> CommitRequest {
    CommitRequest {
        name: name.parse().expect("a name"),
        overlay: "ci".parse().expect("a name"),
        base: record("ci", base).base,
        parent,
        xattrs: Xattrs::Trusted,
        now: "2026-11-21T08:00:00Z".parse().expect("a time"),
    }
}

/// A home on the lab's filesystem with the overlay `ci` in it, and a generation of it.
pub fn home(lab: &Lab, base: &Path) -> (Home, Generation) {
    let home = Home::open(&lab.path().join("home")).expect("made");
    let overlay = home.announce(&record("ci", base)).expect("announced");
    let generation = overlay.make_generation(1, 1, base).expect("made");
    (home, generation)
}

fn filled(lab: &Lab, base: &Path, seed: u64) -> (Home, Generation, super::view::View) {
    let mut random = Random(seed);
    let mut names = Vec::new();
    (0..40).for_each(|_| random.act(base, &mut names));
    let (home, generation) = home(lab, base);
    let mounted = lab.mount(&[base.to_owned()], Some((&generation.upper(), &generation.work())), OPTIONS);
    (0..80).for_each(|_| random.act(mounted.path(), &mut names));
    let shown = of_kernel(mounted.path());
    drop(mounted);
    (home, generation, shown)
}

#[test]
fn layers_that_are_committed_show_through_the_kernel_what_the_overlay_showed() {
    ground!("overlay", "loop", "mkfs.ext4");
    let lab = Lab::new("ext4");
    let base = lab.dir("base");
    let (home, generation, shown) = filled(&lab, &base, 41);
    let first = commit(&home, &generation, &request("first", &base, None)).expect("committed");
    first.verify().expect("sound");
    assert!(!generation.dir().exists() && !first.dir().join("work").exists());
    let trees = vec![first.tree_dir(), base.clone()];
    assert_same(&shown, &of_kernel(lab.mount(&trees, None, OPTIONS).path()), "the first");

    let overlay = home.entry(&"ci".parse().expect("a name")).lock().expect("locked").expect("there");
    let generation = overlay.make_generation(1, 2, &base).expect("made");
    let mounted = lab.mount(&trees, Some((&generation.upper(), &generation.work())), OPTIONS);
    let (mut random, mut names) = (Random(43), Vec::new());
    (0..60).for_each(|_| random.act(mounted.path(), &mut names));
    let shown = of_kernel(mounted.path());
    drop(mounted);
    let second = commit(&home, &generation, &request("second", &base, Some(first.id()))).expect("committed");
    second.verify().expect("sound");
    let trees = [vec![second.tree_dir()], trees].concat();
    assert_same(&shown, &of_kernel(lab.mount(&trees, None, OPTIONS).path()), "the second");

    let all: Vec<_> = Layer::all_and_damaged(&home).expect("listed").0.iter().map(Layer::label).collect();
    assert_eq!(all, ["ci@first", "ci@second"]);
    let chain: Vec<_> = second.chain(&home).expect("all there").iter().map(Layer::label).collect();
    assert_eq!(chain, ["ci@second", "ci@first"]);
    let again = home.entry(&"ci".parse().expect("a name"));
    assert_eq!(again.generations(1).expect("listed"), [0; 0]);
}

#[test]
fn a_layer_is_kept_while_it_is_held_or_built_upon() {
    ground!("overlay", "loop", "mkfs.ext4");
    let lab = Lab::new("ext4");
    let base = lab.dir("base");
    let (home, generation) = home(&lab, &base);
    let overlay = home.entry(&"ci".parse().expect("a name")).lock().expect("locked").expect("there");
    let first = commit(&home, &generation, &request("first", &base, None)).expect("committed");
    let generation = overlay.make_generation(1, 2, &base).expect("made");
    let taken = commit(&home, &generation, &request("first", &base, None)).expect_err("the name is taken");
    assert!(matches!(taken, Error::Exists { .. }) && generation.upper().exists());
    let second = commit(&home, &generation, &request("second", &base, Some(first.id()))).expect("committed");
    let tag = "release-2.1".parse().expect("a tag");
    second.hold(&home, &tag).expect("held");
    second.hold(&home, &tag).expect("held once more");
    assert_eq!(second.holds().expect("listed"), std::slice::from_ref(&tag));
    assert!(matches!(second.destroy(&home), Err(Error::Held { .. })));
    second.release(&home, &tag).expect("released");
    assert!(matches!(second.release(&home, &tag), Err(Error::NotFound { .. })));
    let refused = first.destroy(&home).expect_err("the second builds on it").to_string();
    assert_eq!(refused, "cannot destroy layer ci@first: layer ci@second builds on it");
    let mut record = record("ci", &base);
    record.layers = vec![first.id(), second.id()];
    overlay.write(&record).expect("written");
    let refused = second.destroy(&home).expect_err("the overlay does").to_string();
    assert_eq!(refused, "cannot destroy layer ci@second: overlay ci builds on it");
    record.layers.clear();
    overlay.write(&record).expect("written");
    second.destroy(&home).expect("destroyed");
    first.destroy(&home).expect("destroyed");
    assert!(Layer::all_and_damaged(&home).expect("listed").0.is_empty());
    assert!(matches!(Layer::open(&home, first.id()), Err(Error::NotFound { .. })));
}

/// What was done to a layer behind its back, and what is said of it.
#[test]
fn what_is_no_longer_what_was_committed_is_named() {
    ground!("overlay", "loop", "mkfs.ext4");
    let lab = Lab::new("ext4");
    let base = lab.dir("base");
    let (home, generation) = home(&lab, &base);
    let upper = generation.upper();
    fs::create_dir(upper.join("d")).expect("mkdir");
    for name in ["a", "b", "d/c"] {
        fs::write(upper.join(name), "data of a file").expect("writes");
    }
    fs::hard_link(upper.join("a"), upper.join("l")).expect("links");
    let layer = commit(&home, &generation, &request("x", &base, None)).expect("committed");
    let tree = layer.tree_dir();
    let flip = |path: PathBuf| {
        let file = fs::File::options().write(true).open(path).expect("opens");
        let metadata = file.metadata().expect("there");
        file.write_all_at(b"X", 3).expect("writes");
        file.set_modified(metadata.modified().expect("a time")).expect("sets");
    };
    let why = || layer.verify().expect_err("it is damaged").to_string();
    let label = format!("corrupt layer: ci@x ({}): ", layer.id());
    layer.verify().expect("sound");
    flip(tree.join("b"));
    assert_eq!(why(), format!("{label}b: its data changed"));
    fs::write(tree.join("b"), "data of a filE").expect("writes");
    assert_eq!(why(), format!("{label}b: its data changed"));
    fs::remove_file(tree.join("d/c")).expect("removes");
    assert_eq!(why(), format!("{label}b: its data changed"));
    fs::remove_file(tree.join("b")).expect("removes");
    assert_eq!(why(), format!("{label}b is missing"));
    fs::write(tree.join("aa"), "").expect("writes");
    assert_eq!(why(), format!("{label}aa was not there"));
    let manifest = layer.dir().join("manifest");
    flip(manifest);
    assert_eq!(why(), format!("{label}its manifest is not the one that was written"));
    flip(layer.dir().join("layer.json"));
    assert!(matches!(Layer::open(&home, layer.id()), Err(Error::Corrupt { .. })));
}

#[test]
fn the_same_tree_has_the_same_manifest() {
    ground!("overlay", "loop", "mkfs.ext4", "mkfs.xfs");
    let manifest = |kind: &str, seed: u64| {
        let lab = Lab::new(kind);
        let base = lab.dir("base");
        let (home, generation) = home(&lab, &base);
        let (mut random, mut names) = (Random(seed), Vec::new());
        let upper = generation.upper();
        (0..120).for_each(|_| random.act(&upper, &mut names));
        run("find", &[text(&upper), "-exec", "touch", "-h", "-d", "@1700000000.000000005", "{}", "+"]);
        let layer = commit(&home, &generation, &request("x", &base, None)).expect("committed");
        fs::read(layer.dir().join("manifest")).expect("reads")
    };
    let first = manifest("ext4", 5);
    assert!(first.split(|&b| b == b'\n').count() > 10);
    assert_eq!(first, manifest("ext4", 5));
    assert_eq!(first, manifest("xfs", 5), "wherever it is");
    assert_ne!(first, manifest("ext4", 6));
}
