//! What a diff says is done to a copy of what is below, and that is then what the kernel shows.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cowsnap::endpoint::change::Kind;
use cowsnap::endpoint::overlay::layer::{DiffRequest, Difference, diff};
use cowsnap::model::overlay::Xattrs;

use super::lab::{Lab, Made, Random, text};
use super::view::{View, assert_same, of_kernel};
use crate::ground::{ground, run};

fn at(root: &Path, path: &[u8]) -> PathBuf {
    if path == b"." { root.to_owned() } else { root.join(OsStr::from_bytes(path)) }
}

/// Does to `copy` what `changes` say, taking new data and attributes from `new`.
pub fn apply(changes: &[Difference], copy: &Path, new: &Path) {
    let aside = copy.with_extension("aside");
    fs::create_dir_all(&aside).expect("mkdir");
    // What goes and what moves is named as it was: from the inside out, so that no name changes meanwhile.
    let mut leaving: Vec<(&[u8], Option<usize>)> = Vec::new();
    for (n, found) in changes.iter().enumerate() {
        match (&found.change.kind, &found.change.from) {
            (Kind::Destroyed, _) => leaving.push((&found.change.path, None)),
            (Kind::Renamed, Some(from)) => leaving.push((from, Some(n))),
            _ => {}
        }
    }
    leaving.sort_by_key(|(path, _)| std::cmp::Reverse(path.iter().filter(|&&b| b == b'/').count()));
    for (path, to) in leaving {
        let path = at(copy, path);
        match to {
            Some(n) => fs::rename(&path, aside.join(n.to_string())).expect("moves"),
            None if path.is_dir() && !path.is_symlink() => fs::remove_dir_all(&path).expect("removes"),
            None => fs::remove_file(&path).unwrap_or_else(|e| panic!("{path:?}: {e}")),
        }
    }
    for (n, found) in changes.iter().enumerate() {
        let (from, to) = (at(new, &found.change.path), at(copy, &found.change.path));
        match found.change.kind {
            Kind::Destroyed => {}
            Kind::Renamed => fs::rename(aside.join(n.to_string()), &to).expect("moves"),
            _ => {
                let is_dir = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
                if !(is_dir(&from) && is_dir(&to)) {
                    run("rm", &[OsStr::new("-rf"), OsStr::new("--"), to.as_os_str()]);
                }
                if is_dir(&from) {
                    // The directory itself, not what is in it.
                    fs::create_dir_all(&to).expect("mkdir");
                    copy_attributes(&from, &to);
                } else {
                    run("cp", &[OsStr::new("-aT"), OsStr::new("--"), from.as_os_str(), to.as_os_str()]);
                }
            }
        }
    }
}

/// Gives the directory `to` the owner, mode and attributes of `from`.
fn copy_attributes(from: &Path, to: &Path) {
    let metadata = fs::metadata(from).expect("there");
    std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid())).expect("chown");
    fs::set_permissions(to, metadata.permissions()).expect("chmod");
    let mut value = [0; 100];
    let _ = rustix::fs::removexattr(to, "user.test");
    if let Ok(len) = rustix::fs::getxattr(from, "user.test", &mut value[..]) {
        rustix::fs::setxattr(to, "user.test", &value[..len], rustix::fs::XattrFlags::empty()).expect("sets");
    }
}

/// Without the times of directories, which no diff tells.
pub fn timeless(mut view: View) -> View {
    for line in view.values_mut().filter(|line| line.starts_with("Directory")) {
        let words: Vec<_> =
            line.split(' ').enumerate().filter(|(n, _)| *n != 3).map(|(_, word)| word).collect();
        *line = words.join(" ");
    }
    view
}

fn check(kind: &str, options: &str, seeds: std::ops::Range<u64>) {
    let mut kinds = std::collections::BTreeMap::new();
    let lab = Lab::new(kind);
    for seed in seeds {
        let made = Made::new(&lab, &seed.to_string(), 3, options, &mut Random(seed * 104_729 + 1));
        for (from, n) in [(0, 1), (0, 2), (0, 3), (1, 1)] {
            let context = format!("{kind} {options} seed {seed} from {from} upper {n}");
            let changes = diff(&made.stack(from), n, DiffRequest::default()).expect("a diff");
            let copy = lab.path().join(format!("{seed}/copy-{from}-{n}"));
            let below = made.mount(&lab, from + n);
            run("cp", &["-aT", text(below.path()), text(&copy)]);
            drop(below);
            let now = made.mount(&lab, from);
            apply(&changes, &copy, now.path());
            assert_same(&timeless(of_kernel(now.path())), &timeless(of_kernel(&copy)), &context);
            changes.iter().for_each(|found| *kinds.entry(found.change.kind).or_insert(0) += 1);
            // What is the same is not told if the data is read.
            let exact = diff(&made.stack(from), n, DiffRequest { content: true }).expect("a diff");
            assert!(exact.len() <= changes.len(), "{context}");
        }
    }
    for kind in [Kind::Added, Kind::Modified, Kind::Destroyed, Kind::Renamed, Kind::Metadata, Kind::Retyped] {
        assert!(kinds.contains_key(&kind), "no {kind} among {kinds:?}");
    }
}

#[test]
fn what_is_below_with_the_changes_done_is_what_shows() {
    ground!("overlay", "loop", "mkfs.ext4");
    check("ext4", "redirect_dir=on,metacopy=off,index=off", 0..5);
}

#[test]
fn what_is_below_with_the_changes_done_is_what_shows_where_data_stays_below() {
    ground!("overlay", "loop", "mkfs.xfs");
    check("xfs", "redirect_dir=on,metacopy=on,index=off", 10..14);
}

/// The lines of a diff of what `act` does to a small base.
fn lines(options: &str, request: DiffRequest, act: impl Fn(&Path)) -> String {
    let lab = Lab::new("ext4");
    let base = lab.dir("base");
    fs::create_dir_all(base.join("d/e")).expect("mkdir");
    for (path, bytes) in [("d/e/f", "fff"), ("d/g", "g"), ("h", "hello"), ("i", "i")] {
        fs::write(base.join(path), bytes).expect("writes");
    }
    let (upper, work) = (lab.dir("upper"), lab.dir("work"));
    let mounted = lab.mount(std::slice::from_ref(&base), Some((&upper, &work)), options);
    act(mounted.path());
    drop(mounted);
    let made = Made { trees: vec![upper, base], xattrs: Xattrs::Trusted, options: options.into() };
    let found = diff(&made.stack(0), 1, request).expect("a diff");
    let line = |found: &Difference| {
        let Difference { change, before, after } = found;
        let from = change.from.as_ref().map_or(String::new(), |from| format!("{} > ", from.escape_ascii()));
        let size = |size: &Option<u64>| size.map_or("-".into(), |size| size.to_string());
        format!("{} {from}{} {} {}", change.kind, change.path.escape_ascii(), size(before), size(after))
    };
    found.iter().map(line).collect::<Vec<_>>().join(", ")
}

const REDIRECTS: &str = "redirect_dir=on,metacopy=off,index=off";

#[test]
fn each_sort_of_change_has_its_letter_and_its_sizes() {
    ground!("overlay", "loop", "mkfs.ext4");
    let of = |act: &dyn Fn(&Path)| lines(REDIRECTS, DiffRequest::default(), act);
    let write = |root: &Path, path: &str, bytes: &str| fs::write(root.join(path), bytes).expect("writes");
    let rename = |root: &Path, a: &str, b: &str| fs::rename(root.join(a), root.join(b)).expect("renames");
    assert_eq!(of(&|_| ()), "");
    assert_eq!(of(&|root| write(root, "new", "1234")), "A new - 4");
    assert_eq!(of(&|root| write(root, "h", "bye")), "M h 5 3");
    assert_eq!(of(&|root| fs::remove_file(root.join("h")).expect("removes")), "D h 5 -");
    assert_eq!(of(&|root| fs::remove_dir_all(root.join("d")).expect("removes")), "D d - -");
    assert_eq!(of(&|root| rename(root, "h", "d/j")), "R h > d/j 5 5");
    assert_eq!(of(&|root| rename(root, "d", "n")), "R d > n - -");
    assert_eq!(of(&|root| rename(root, "h", "i")), "D i 1 -, R h > i 5 5");
    let both = |root: &Path| {
        rename(root, "d/e", "k");
        rename(root, "d", "n");
        write(root, "k/f", "ffff");
    };
    assert_eq!(of(&both), "R d/e > k - -, M k/f 3 4, R d > n - -");
    let swap = |root: &Path| {
        rename(root, "h", "x");
        rename(root, "i", "h");
        rename(root, "x", "i");
    };
    assert_eq!(of(&swap), "R i > h 1 1, R h > i 5 5");
    let retype = |root: &Path| {
        fs::remove_file(root.join("h")).expect("removes");
        fs::create_dir(root.join("h")).expect("mkdir");
        write(root, "h/x", "");
    };
    assert_eq!(of(&retype), "T h 5 -, A h/x - 0");
    let chmod =
        |root: &Path| fs::set_permissions(root.join("h"), fs::Permissions::from_mode(0o4711)).expect("chmod");
    assert_eq!(of(&chmod), "m h 5 5");
    let again = |root: &Path| {
        fs::remove_dir_all(root.join("d")).expect("removes");
        fs::create_dir(root.join("d")).expect("mkdir");
        write(root, "d/g", "new");
    };
    assert_eq!(of(&again), "D d/e - -, M d/g 1 3");
}

#[test]
fn what_was_touched_and_is_the_same_is_told_unless_the_data_is_read() {
    ground!("overlay", "loop", "mkfs.ext4");
    let touch = |root: &Path| drop(fs::File::options().append(true).open(root.join("h")).expect("opens"));
    let rewrite = |root: &Path| fs::write(root.join("h"), "hello").expect("writes");
    let chmod = |root: &Path| {
        rewrite(root);
        fs::set_permissions(root.join("h"), fs::Permissions::from_mode(0o600)).expect("chmod");
    };
    let content = DiffRequest { content: true };
    assert_eq!(lines(REDIRECTS, DiffRequest::default(), touch), "M h 5 5");
    assert_eq!(lines(REDIRECTS, DiffRequest::default(), rewrite), "M h 5 5");
    assert_eq!(lines(REDIRECTS, content, touch), "");
    assert_eq!(lines(REDIRECTS, content, rewrite), "");
    assert_eq!(lines(REDIRECTS, content, chmod), "m h 5 5");
    assert_eq!(
        lines(REDIRECTS, content, |root| fs::write(root.join("h"), "hallo").expect("writes")),
        "M h 5 5"
    );
}
