//! What is told of files of several names (hard links): the same in all modes that tell anything.

use std::fs;
use std::path::Path;

use super::lab::Lab;
use super::modes::subvolume_lab;
use crate::ground::ground;

/// What is done, and what is told of it. The base has a file as `one`, `d/two` and `three`, one as `x` and `d/y`, and `lonely`.
type Case = (&'static str, fn(&Path) -> std::io::Result<()>, &'static str);

const CASES: [Case; 9] = [
    (
        "written to by one name: all of them show it",
        |at| fs::write(at.join("one"), "longer"),
        "M d/two  4 -> 6\nM one  4 -> 6\nM three  4 -> 6\n",
    ),
    (
        "written to, and as long as it was",
        |at| fs::write(at.join("d/two"), "othe"),
        "M d/two  4\nM one  4\nM three  4\n",
    ),
    ("a new name", |at| fs::hard_link(at.join("lonely"), at.join("new")), "A new  6\n"),
    ("one more name", |at| fs::hard_link(at.join("x"), at.join("z")), "A z  1\n"),
    ("a name less", |at| fs::remove_file(at.join("d/y")), "D d/y  1\n"),
    ("one name renamed", |at| fs::rename(at.join("x"), at.join("xx")), "R x -> xx  1\n"),
    ("the only name renamed", |at| fs::rename(at.join("lonely"), at.join("d/l")), "R lonely -> d/l  6\n"),
    (
        "a new name, and the old one goes",
        |at| {
            fs::hard_link(at.join("lonely"), at.join("new")).and_then(|()| fs::remove_file(at.join("lonely")))
        },
        "R lonely -> new  6\n",
    ),
    (
        "another mode",
        |at| fs::set_permissions(at.join("x"), std::os::unix::fs::PermissionsExt::from_mode(0o600)),
        "m d/y  1\nm x  1\n",
    ),
];

fn base(lab: &Lab) {
    let base = lab.base();
    for entry in fs::read_dir(&base).expect("listed") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => fs::remove_dir_all(path).expect("removed"),
            false => fs::remove_file(path).expect("removed"),
        }
    }
    fs::create_dir(base.join("d")).expect("made");
    for (name, text, links) in
        [("one", "four", &["d/two", "three"][..]), ("x", "1", &["d/y"]), ("lonely", "lonely", &[])]
    {
        fs::write(base.join(name), text).expect("written");
        links.iter().for_each(|link| fs::hard_link(base.join(name), base.join(link)).expect("linked"));
    }
}

fn all_told_as_they_are(lab: &Lab, mode: &str) {
    base(lab);
    let at = lab.create("ci", &["--mode", mode]);
    for (what, act, expected) in CASES {
        act(&at).unwrap_or_else(|error| panic!("{mode}: {what}: {error}"));
        assert_eq!(lab.ok(&["diff", "ci"]), expected, "{mode}: {what}");
        let read = lab.ok(&["diff", "--content", "ci"]);
        assert_eq!(read, expected, "{mode}: {what}, with the data read");
        lab.ok(&["reset", "ci"]);
    }
    lab.ok(&["destroy", "ci"]);
}

#[test]
fn names_of_one_file_are_told_alike_in_mode_kernel() {
    ground!("overlay", "root");
    let lab = Lab::new();
    all_told_as_they_are(&lab, "kernel");
    lab.assert_nothing_left();
}

#[test]
fn names_of_one_file_are_told_alike_in_mode_kernel_where_blocks_are_shared() {
    ground!("overlay", "xfs");
    let lab = Lab::on("xfs", &["-q", "-m", "reflink=1"]);
    all_told_as_they_are(&lab, "kernel");
    lab.assert_nothing_left();
}

#[test]
fn names_of_one_file_are_told_alike_in_mode_fuse() {
    ground!("fuse", "root");
    let lab = Lab::new();
    all_told_as_they_are(&lab, "fuse");
    super::fuse::assert_nothing_left(&lab);
}

#[test]
fn names_of_one_file_are_told_alike_in_mode_native() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    all_told_as_they_are(&lab, "native");
    super::modes::assert_nothing_left(&lab);
}
