//! Layers through the program, on overlays of the kernel as it makes them.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use cowsnap::endpoint::overlay::layer::{LayerRecord, Layers};
use cowsnap::endpoint::{Error, History as _};
use cowsnap::model::overlay::Xattrs;
use cowsnap::model::{Guid, VersionRef};

use crate::ground::{ground, run};
use crate::overlay::lab::{Lab, Process, read, utf8};

#[test]
fn a_diff_tells_what_a_suite_changed_and_a_reset_makes_it_empty() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "kernel"]);
    assert_eq!(lab.ok(&["diff", "ci"]), "");
    fs::write(at.join("dir/deep/file"), "deeper").expect("written");
    fs::rename(at.join("symlink"), at.join("dir/moved")).expect("renamed");
    fs::rename(at.join("dir/deep"), at.join("shallow")).expect("renamed");
    fs::write(at.join("a\nb"), "").expect("written");
    assert_eq!(
        lab.ok(&["diff", "ci"]),
        "A a\\nb  0\nR symlink -> dir/moved\nR dir/deep -> shallow\nM shallow/file  4 -> 6\n"
    );
    let json = lab.json(&["diff", "ci"]);
    let last = json["changes"].as_array().and_then(|all| all.last()).expect("a change");
    assert_eq!((&last["change"], &last["size"]["before"]), (&"M".into(), &4.into()), "{last}");
    let fields = lab.run(&["diff", "ci", "-0"]).stdout;
    assert!(fields.starts_with(b"A\0a\nb\0R\0dir/moved\0symlink\0"), "{}", fields.escape_ascii());
    lab.ok(&["reset", "ci"]);
    assert_eq!(lab.ok(&["diff", "ci"]), "");
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn a_diff_is_of_one_copy_and_of_overlays_that_keep_changes_apart() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "kernel", "--copies", "2"]);
    fs::write(at.join("2/file"), "base").expect("written");
    assert_eq!(lab.ok(&["diff", "ci"]), "");
    assert_eq!(lab.ok(&["diff", "ci", "--copy", "2"]), "M dir/link  4\nM file  4\n", "both of its names");
    assert_eq!(lab.ok(&["diff", "ci", "--copy", "2", "--content"]), "");
    assert!(lab.fails(2, &["diff", "ci", "--copy", "3"]).contains("3 of overlay ci, which has 2"));
    assert!(lab.fails(2, &["diff", "none"]).contains("none"));
    lab.create("same", &["--mode", "disabled"]);
    let why = lab.fails(2, &["diff", "same"]);
    assert!(why.contains("keeps its changes apart") && why.contains("--mode kernel"), "{why}");
    lab.ok(&["destroy", "--all"]);
}

/// The kernel does not show it in the overlay, and a look at the base does not go into it.
#[test]
fn what_is_mounted_in_the_base_is_no_part_of_a_diff() {
    ground!("overlay");
    let lab = Lab::new();
    fs::write(lab.base().join("dir/deep/below"), "hidden").expect("written");
    run("mount", &["-t", "tmpfs", "tmpfs", utf8(&lab.base().join("dir/deep"))]);
    let at = lab.create("ci", &["--mode", "kernel"]);
    fs::rename(at.join("dir"), at.join("renamed")).expect("renamed");
    fs::write(at.join("renamed/deep/below"), "found!").expect("written");
    assert_eq!(lab.ok(&["diff", "ci"]), "R dir -> renamed\nM renamed/deep/below  6\n");
    lab.ok(&["destroy", "ci"]);
}

/// What a layer's file is on disk.
fn in_layer(lab: &Lab, label: &str, path: &str) -> PathBuf {
    let listed = lab.json(&["list", "--layers"]);
    let layers = listed["layers"].as_array().expect("layers");
    let layer = layers.iter().find(|layer| layer["label"] == label).expect("it is listed");
    lab.home_dir().join("layers").join(layer["id"].as_str().expect("an id")).join("tree").join(path)
}

#[test]
fn a_commit_is_what_later_resets_and_overlays_go_back_to() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "kernel"]);
    fs::write(at.join("file"), "seeded").expect("written");
    fs::remove_dir_all(at.join("dir/deep")).expect("removed");
    let told = lab.ok(&["commit", "ci", "seeded"]);
    assert!(told.starts_with("ci@seeded  "), "{told}");
    assert_eq!(read(at.join("file")), "seeded");
    assert_eq!(read(at.join("dir/link")), "seeded", "its other name shows it too");
    assert_eq!(lab.ok(&["diff", "ci"]), "", "nothing was changed since");
    fs::write(at.join("file"), "wrecked").expect("it can be written to again");
    fs::write(at.join("more"), "more").expect("written");
    assert_eq!(lab.ok(&["diff", "ci"]), "M dir/link  6 -> 7\nM file  6 -> 7\nA more  4\n");
    lab.ok(&["reset", "ci"]);
    assert_eq!((read(at.join("file")), at.join("more").exists()), ("seeded".into(), false));

    fs::write(at.join("more"), "more").expect("written");
    lab.ok(&["commit", "ci", "second"]);
    let upon = lab.at("upon");
    lab.ok(&[
        "create",
        "upon",
        "--base",
        "ci@seeded",
        "--at",
        utf8(&upon),
        "--copies",
        "2",
        "--mode",
        "kernel",
    ]);
    assert_eq!((read(upon.join("2/file")), upon.join("2/more").exists()), ("seeded".into(), false));
    assert!(!upon.join("2/dir/deep").exists());
    fs::write(upon.join("2/file"), "mine").expect("written");
    assert_eq!((read(upon.join("1/file")), read(at.join("file"))), ("seeded".into(), "seeded".into()));
    assert_eq!(
        lab.ok(&["run", "--base", "ci@second", "--mode", "kernel", "--", "cat", "file", "more"]),
        "seededmore"
    );

    lab.ok(&["reset", "ci", "--to", "seeded"]);
    assert_eq!((read(at.join("file")), at.join("more").exists()), ("seeded".into(), false));
    lab.ok(&["reset", "ci", "--to", "ci@second"]);
    assert_eq!(read(at.join("more")), "more");
    fs::write(at.join("third"), "3").expect("written");
    assert_eq!(lab.ok(&["diff", "ci", "seeded"]), "A more  4\nA third  1\n");
    assert!(lab.fails(2, &["diff", "ci", "none"]).contains("none in overlay ci"));
    assert!(lab.fails(2, &["reset", "ci", "--to", "none"]).contains("ci@none"));
    lab.ok(&["reset", "ci", "--to-base"]);
    assert_eq!((read(at.join("file")), read(at.join("dir/deep/file"))), ("base".into(), "deep".into()));
    assert_eq!(read(lab.base().join("file")), "base", "the base is as it was");
    lab.ok(&["verify", "--all"]);
    lab.ok(&["destroy", "--all"]);
    assert_eq!(lab.ok(&["destroy", "ci@second", "ci@seeded"]), "");
    lab.assert_nothing_left();
}

#[test]
fn a_commit_while_somebody_could_still_write_is_refused_and_changes_nothing() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "kernel"]);
    let mut user = Process::new(Command::new("sleep").arg("600").current_dir(&at));
    let why = lab.fails(3, &["commit", "ci", "x"]);
    assert!(
        why.contains(&format!("sleep ({})", user.pid())) && why.contains("commit --kill 'ci' 'x'"),
        "{why}"
    );
    let open = fs::File::create(at.join("open")).expect("created");
    let why = lab.fails(3, &["commit", "ci", "x", "--force"]);
    assert!(why.contains("open for writing"), "{why}");
    fs::write(at.join("file"), "still writable").expect("it was given back");
    drop(open);
    let told = lab.run(&["commit", "ci", "x", "--kill"]);
    assert!(told.status.success() && String::from_utf8_lossy(&told.stderr).contains("killed: sleep"));
    user.end();
    assert!(lab.fails(3, &["commit", "ci", "x"]).contains("ci@x"), "the name is taken");
    fs::write(at.join("file"), "still writable").expect("it is not frozen");
    lab.create("copies", &["--copies", "2"]);
    assert!(lab.fails(3, &["commit", "copies", "x"]).contains("it has 2 copies"));
    lab.create("same", &["--mode", "disabled"]);
    assert!(lab.fails(2, &["commit", "same", "x"]).contains("keeps its changes apart"));
    let why = lab
        .fails(6, &["create", "upon", "--base", "ci@x", "--at", utf8(&lab.at("upon")), "--mode", "disabled"]);
    assert!(why.contains("it can not lie on layers"), "{why}");
    lab.ok(&["destroy", "--all"]);
}

#[test]
fn a_layer_that_is_held_used_or_damaged_is_named() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "kernel"]);
    fs::write(at.join("new"), "some data").expect("written");
    lab.ok(&["commit", "ci", "x"]);
    assert!(lab.fails(3, &["destroy", "ci@x"]).contains("overlay ci builds on it"));
    lab.ok(&["destroy", "ci"]);
    lab.ok(&["hold", "release-1", "ci@x"]);
    let why = lab.fails(3, &["destroy", "ci@x"]);
    assert!(why.contains("overlay release 'release-1' 'ci@x'"), "{why}");
    let listed = lab.ok(&["list", "--layers"]);
    assert!(listed.contains("ci@x") && listed.contains("release-1"), "{listed}");
    assert_eq!(lab.ok(&["verify", "ci@x"]), "ci@x  sound\n");
    let file = in_layer(&lab, "ci@x", "new");
    let mtime = fs::metadata(&file).expect("there").modified().expect("a time");
    fs::write(&file, "some dat4").expect("written");
    fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(mtime)).expect("set");
    let why = lab.fails(4, &["verify", "--all"]);
    assert!(why.contains("new: its data changed"), "{why}");
    let record = file.ancestors().nth(2).expect("the layer's directory").join("layer.json");
    let text = read(&record).replace("\"x\"", "\"y\"");
    fs::write(&record, text).expect("written");
    assert!(lab.fails(4, &["verify", "--all"]).contains("its seal does not match"));
    assert!(lab.json(&["list", "--layers"])["damaged"][0].as_str().is_some_and(|why| why.contains("seal")));
    // Others go on.
    lab.create("other", &["--mode", "kernel"]);
    lab.ok(&["reset", "other"]);
    lab.ok(&["destroy", "other"]);
}

#[test]
fn layers_lie_upon_the_base_that_they_were_made_upon() {
    ground!("overlay");
    let lab = Lab::new();
    lab.create("ci", &["--mode", "kernel"]);
    lab.ok(&["commit", "ci", "x"]);
    let (base, at) = (lab.root().join("second base"), lab.at("other"));
    fs::create_dir(&base).expect("mkdir");
    lab.ok(&["create", "other", "--base", utf8(&base), "--at", utf8(&at), "--mode", "kernel"]);
    let why = lab.fails(3, &["reset", "other", "--to", "ci@x"]);
    assert!(why.contains("it was made upon another base"), "{why}");
    lab.ok(&["diff", "other"]);
    // One whose marks are other attributes is not read wrongly.
    let record = in_layer(&lab, "ci@x", "").ancestors().nth(1).expect("its directory").join("layer.json");
    let mut layer = LayerRecord::parse(read(&record).as_bytes()).expect("a record");
    layer.xattrs = Xattrs::User;
    fs::write(&record, layer.to_text()).expect("written");
    let why = lab
        .fails(3, &["create", "upon", "--base", "ci@x", "--at", utf8(&lab.at("upon")), "--mode", "kernel"]);
    assert!(why.contains("its marks are user.overlay.…"), "{why}");
    assert_eq!(lab.names(), ["ci", "other"]);
    lab.ok(&["destroy", "--all"]);
}

#[test]
fn layers_are_versions_to_whoever_prunes() {
    ground!("overlay");
    let lab = Lab::new();
    lab.create("ci", &["--mode", "kernel"]);
    lab.ok(&["commit", "ci", "first"]);
    lab.ok(&["commit", "ci", "second"]);
    lab.ok(&["destroy", "ci"]);
    let layers = Layers::of(&lab.home(), &"ci".parse().expect("a name"));
    let inventory = layers.inventory().expect("listed");
    let names: Vec<_> = inventory.versions().iter().map(|version| version.id.name.to_string()).collect();
    assert_eq!(names, ["first", "second"]);
    let [first, second] = inventory.versions() else { panic!("two") };
    let tag = "keep".parse().expect("a tag");
    layers.hold(&second.id, &tag).expect("held");
    layers.hold(&second.id, &tag).expect("twice is once");
    assert_eq!(layers.inventory().expect("listed").holds(), [(second.id.clone(), tag.clone())]);
    assert!(matches!(layers.destroy(&second.id), Err(Error::Held { .. })));
    assert!(matches!(layers.destroy(&first.id), Err(Error::Refused { .. })), "the second lies on it");
    layers.release(&second.id, &tag).expect("released");
    assert!(matches!(layers.release(&second.id, &tag), Err(Error::NotFound { .. })));
    // They act on identity, and not on a name.
    let reused = VersionRef { guid: Guid([7; 16]), name: second.id.name.clone() };
    let acts = [layers.hold(&reused, &tag), layers.release(&reused, &tag), layers.destroy(&reused)];
    assert!(acts.iter().all(|act| matches!(act, Err(Error::Reused { .. }))), "{acts:?}");
    let gone = VersionRef { guid: Guid([7; 16]), name: "third".parse().expect("a name") };
    assert!(matches!(layers.destroy(&gone), Err(Error::NotFound { .. })));
    assert_eq!(layers.inventory().expect("listed").versions().len(), 2, "nothing was changed");
    let others = Layers::of(&lab.home(), &"other".parse().expect("a name"));
    assert!(others.inventory().expect("listed").versions().is_empty(), "each overlay has its own");
    layers.destroy(&second.id).expect("destroyed");
    layers.destroy(&first.id).expect("destroyed");
    assert!(layers.inventory().expect("listed").versions().is_empty());
}

#[test]
fn a_commit_in_mode_fuse_keeps_the_blocks_that_were_written() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let large: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    fs::write(lab.base().join("large"), &large).expect("written");
    let at = lab.create("ci", &["--mode", "fuse"]);
    let mut expected = large.clone();
    let mut write = |offset: usize, bytes: &[u8]| {
        let file = fs::File::options().write(true).open(at.join("large")).expect("opened");
        file.write_all_at(bytes, offset as u64).expect("written");
        expected[offset..offset + bytes.len()].copy_from_slice(bytes);
        expected.clone()
    };
    let first = write(300_000, b"first");
    fs::rename(at.join("dir"), at.join("moved")).expect("renamed");
    fs::remove_file(at.join("symlink")).expect("removed");
    lab.ok(&["commit", "ci", "first"]);
    assert_eq!(fs::read(at.join("large")).expect("read"), first);
    assert_eq!((read(at.join("moved/deep/file")), lab.ok(&["diff", "ci"])), ("deep".into(), String::new()));
    let second = write(700_000, b"second");
    fs::write(at.join("moved/deep/file"), "deeper").expect("written");
    assert_eq!(lab.ok(&["diff", "ci"]), "M large  1048576\nM moved/deep/file  4 -> 6\n");
    lab.ok(&["commit", "ci", "second"]);
    assert_eq!(fs::read(at.join("large")).expect("read"), second);
    lab.ok(&["reset", "ci", "--to", "first"]);
    assert_eq!(fs::read(at.join("large")).expect("read"), first);
    assert_eq!(read(at.join("moved/deep/file")), "deep");
    assert!(!at.join("symlink").is_symlink() && !at.join("dir").exists());
    let upon = lab.at("upon");
    lab.ok(&["create", "upon", "--base", "ci@second", "--at", utf8(&upon)]);
    assert_eq!(fs::read(upon.join("large")).expect("read"), second);
    assert_eq!(lab.ok(&["verify", "--all"]), "ci@first  sound\nci@second  sound\n");
    assert_eq!(fs::read(lab.base().join("large")).expect("read"), large, "the base is as it was");
    lab.ok(&["destroy", "--all"]);
    lab.ok(&["destroy", "ci@second", "ci@first"]);
    lab.assert_nothing_left();
}

/// Whoever was left with the old tree has descriptors of files that are in a layer now.
#[test]
fn a_file_that_is_open_while_its_layer_is_made_can_not_be_changed_any_more() {
    ground!("fuse", "root");
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", "fuse"]);
    fs::write(at.join("new"), "new").expect("written");
    let open = fs::File::open(at.join("new")).expect("opened");
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
    lab.ok(&["commit", "ci", "x", "--force"]);
    assert_eq!(std::io::read_to_string(&open).expect("it can be read"), "new");
    let changed = [
        open.set_permissions(fs::Permissions::from_mode(0o600)),
        open.set_modified(std::time::UNIX_EPOCH),
        fs::File::options().write(true).open(&path).map(drop),
        fs::File::options().write(true).truncate(true).open(&path).map(drop),
    ];
    assert!(changed.iter().all(Result::is_err), "{changed:?}");
    assert_eq!(lab.ok(&["verify", "ci@x"]), "ci@x  sound\n");
    assert_eq!((read(at.join("new")), lab.ok(&["diff", "ci"])), ("new".into(), String::new()));
    fs::write(at.join("new"), "newer").expect("by its name it can be written to");
    lab.ok(&["verify", "ci@x"]);
    drop(open);
    lab.ok(&["destroy", "ci"]);
}
