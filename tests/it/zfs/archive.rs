//! Archives of datasets on ZFS, of streams and of files: what went out comes back, in a pool that never saw it too.

use std::fs;
use std::path::{Path, PathBuf};

use super::ground::{Pool, zfs};
use super::lab::{dataset, exists, property, read, snapshots};
use super::line::Line;
use crate::files::lab::{expect_same, fill};
use crate::ground::{self, ground, run, waits};
use crate::peer::lab::noise;

/// A dataset of which three versions are in an archive in a directory: one in full, and two upon it.
fn archived(bytes: usize) -> Line {
    let line = Line::new();
    line.run("create POOL/node");
    line.run("archive add file://OUT/archive POOL/node");
    for n in 0..3 {
        line.write(&format!("node/f{n}"), noise(n, bytes));
        line.write("node/height", n.to_string());
        line.run(&format!("snapshot POOL/node --name s{n}"));
        let pushed = line.json(&format!("archive push POOL/node@s{n} file://OUT/archive"));
        assert_eq!(pushed["base"].is_null(), n == 0, "what changed alone is sent: {pushed}");
    }
    line
}

/// A machine that never saw the source.
fn other_machine() -> Line {
    Line::new()
}

/// An archive's place, for another machine.
fn url(of: &Line) -> String {
    of.placed("file://OUT/archive")
}

/// That a tree of `line` is what the snapshot of that name was.
fn assert_is(source: &Line, name: &str, tree: &Path) {
    let snapshot = source.pool.path(&format!("node/.zfs/snapshot/{name}"));
    run(
        "diff",
        &["-r", "--no-dereference", snapshot.to_str().expect("utf-8"), tree.to_str().expect("utf-8")],
    );
}

/// The files that hold what is in an archive's parts; of the full version alone, or all.
fn parts(line: &Line, is_full_alone: bool) -> Vec<PathBuf> {
    let groups = fs::read_dir(line.pool.outside().join("archive/parts")).expect("parts").flatten();
    // A version that builds upon none has zeros where the other's guid would be.
    let is_full = |name: &str| name.ends_with(&format!(".{}", "0".repeat(32)));
    let groups = groups.filter(|group| !is_full_alone || is_full(&group.file_name().to_string_lossy()));
    groups
        .flat_map(|group| fs::read_dir(group.path()).expect("a group").flatten().map(|part| part.path()))
        .collect()
}

#[test]
fn the_version_in_the_middle_is_restored_in_a_pool_that_never_saw_it_and_the_rest_is_pulled() {
    ground!("zfs");
    let line = archived(300_000);
    let other = other_machine();
    let url = url(&line);
    let dry = other.json(&format!("restore {url}@s1 --to POOL/back --dry-run"));
    assert_eq!(dry["cost"]["requests"], 4, "{dry}");
    assert!(!exists(&other.pool.full("back")));
    let done = other.json(&format!("restore {url}@s1 --to POOL/back"));
    assert_eq!(done["restored"]["version"]["name"], "s1", "{done}");
    assert_is(&line, "s1", &other.pool.path("back"));
    assert_eq!(property(&other.pool.full("back"), "mounted"), "yes");
    other.write("back/mine", "it can be written to");
    // What is live is kept unless that is said.
    other.ends(3, &format!("restore {url}@s2 --to POOL/back"));
    assert_eq!(other.read("back/mine"), "it can be written to");
    // A replica: what is missing of the chain comes, and nothing else.
    let pulled = other.json(&format!("archive pull {url}@s1 POOL/copy"));
    assert_eq!(pulled["received"].as_array().map(Vec::len), Some(2), "{pulled}");
    parts(&line, true).iter().for_each(|part| fs::remove_file(part).expect("it is not read again"));
    let pulled = other.json(&format!("archive pull {url} POOL/copy"));
    assert_eq!(
        (pulled["received"].as_array().map(Vec::len), &pulled["received"][0]["name"]),
        (Some(1), &"s2".into()),
        "{pulled}"
    );
    assert_eq!(snapshots(&other.pool.full("copy")), ["s0", "s1", "s2"]);
    other.run("clone POOL/copy@s2 POOL/look");
    assert_is(&line, "s2", &other.pool.path("look"));
    // Without what it builds upon, nothing comes back, and nothing is left.
    other.ends(4, &format!("restore {url}@s2 --to POOL/never"));
    assert!(!exists(&other.pool.full("never")));
}

#[test]
fn a_pull_that_is_killed_within_a_container_goes_on_with_that_one_and_reads_no_other() {
    ground!("zfs");
    let line = archived(8 << 20);
    let other = other_machine();
    let (url, copy) = (url(&line), other.pool.full("copy"));
    let pull = format!("archive pull {url} POOL/copy");
    let partials = || {
        let listed = other.json("list POOL/copy");
        listed["datasets"][0]["partials"].as_array().expect("a list").clone()
    };
    // In the midst of the first one.
    let mut child = other.start(&pull);
    waits("something of it", || exists(&copy));
    child.kill().expect("killed");
    child.wait().expect("ended");
    // In the midst of a later one.
    let mut child = other.start(&pull);
    waits("the first one", || exists(&copy) && !snapshots(&copy).is_empty());
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert!(!snapshots(&copy).is_empty());
    parts(&line, true).iter().for_each(|part| fs::remove_file(part).expect("it is not read again"));
    other.run(&pull);
    assert_eq!(snapshots(&copy), ["s0", "s1", "s2"]);
    assert_eq!(partials(), [serde_json::Value::Null; 0]);
    other.run("clone POOL/copy@s2 POOL/look");
    assert_is(&line, "s2", &other.pool.path("look"));
}

/// A dataset with 24 MiB of noise, of which two versions are in the archive called so.
fn large(line: &Line, archive: &str, seed: u64) {
    line.run(&format!("create POOL/{archive}"));
    line.run(&format!("archive add file://OUT/{archive} POOL/{archive}"));
    line.write(&format!("{archive}/large"), noise(seed, 24 << 20));
    for n in 0..2 {
        line.write(&format!("{archive}/small"), noise(seed + 1 + n, 100_000));
        line.run(&format!("snapshot POOL/{archive} --name s{n}"));
        line.run(&format!("archive push POOL/{archive}@s{n} file://OUT/{archive}"));
    }
}

/// What a killed reader noted of how the streams of containers go on.
fn notes(of: &Line) -> Vec<PathBuf> {
    let files = fs::read_dir(of.state.join("archives")).into_iter().flatten().flatten();
    let notes = files.map(|file| file.path()).filter(|file| file.extension().is_some_and(|e| e == "notes"));
    notes.collect()
}

#[test]
fn within_a_container_a_pool_goes_on_where_a_restore_was_killed() {
    ground!("zfs");
    let (line, other) = (Line::new(), other_machine());
    large(&line, "node", 7);
    large(&line, "rival", 100);
    let (url, rival) = (line.placed("file://OUT/node"), line.placed("file://OUT/rival"));
    let killed = |command: &str| {
        let mut child = other.start(command);
        waits("a note", || !notes(&other).is_empty());
        child.kill().expect("killed");
        child.wait().expect("ended");
    };
    let partials = |of: &str| other.json(&format!("list POOL/{of}"))["datasets"][0]["partials"].clone();
    // Where it stopped, and what was noted, tell where to go on.
    killed(&format!("archive pull {url}@s0 POOL/copy"));
    waits("the kernel's end", || partials("copy")[0]["token"].is_string());
    let done = other.json(&format!("archive pull {url} POOL/copy"));
    let earlier = |n: usize| done["received"][n]["earlier"].as_str();
    assert_eq!([earlier(0), earlier(1)], [Some("unknown"), None], "{done}");
    assert!(notes(&other).is_empty(), "nobody needs them any more");
    assert_eq!(partials("copy"), serde_json::json!([]));
    other.run("clone POOL/copy@s0 POOL/look");
    let snapshot = line.pool.path("node/.zfs/snapshot/s0");
    run("diff", &["-r", snapshot.to_str().expect("utf-8"), other.pool.path("look").to_str().expect("utf-8")]);
    // Without a note, all of it is read, and what is there is still not written again.
    killed(&format!("restore {url} --to POOL/back"));
    waits("the kernel's end", || partials("back")[0]["token"].is_string());
    notes(&other).iter().for_each(|file| fs::write(file, "no note").expect("written"));
    other.run(&format!("restore {url} --to POOL/back"));
    let snapshot = line.pool.path("node/.zfs/snapshot/s1");
    run("diff", &["-r", snapshot.to_str().expect("utf-8"), other.pool.path("back").to_str().expect("utf-8")]);
    // What a restore began of something else is in nobody's way; what somebody receives is.
    killed(&format!("restore {url} --to POOL/third"));
    waits("the kernel's end", || partials("third")[0]["token"].is_string());
    other.run(&format!("restore {rival} --to POOL/third"));
    let snapshot = line.pool.path("rival/.zfs/snapshot/s1");
    run(
        "diff",
        &["-r", snapshot.to_str().expect("utf-8"), other.pool.path("third").to_str().expect("utf-8")],
    );
    assert_eq!(property(&other.pool.full("copy"), "cowsnap:pulling"), "-");
    assert!(notes(&other).is_empty(), "those of what was given up for another one are gone");
    killed(&format!("archive pull {url}@s0 POOL/given"));
    waits("the kernel's end", || partials("given")[0]["token"].is_string());
    other.run("destroy POOL/given@%partial");
    assert!(notes(&other).is_empty(), "nobody goes on with what was given up");
    // What somebody received in part of the same snapshot may be all that there is of it.
    let file = line.pool.outside().join("s0");
    line.run("send POOL/node@s0 -o OUT/s0");
    let sent = fs::read(&file).expect("read");
    fs::write(&file, &sent[..sent.len() * 3 / 4]).expect("written");
    other.ends(4, &format!("receive POOL/fourth {}", file.display()));
    for wanted in ["@s0", "@s1"] {
        let (_, said) = other.ends(3, &format!("archive pull {url}{wanted} POOL/fourth"));
        assert!(said.contains("%partial"), "{said}");
    }
    assert!(partials("fourth")[0]["token"].is_string());
}

#[test]
fn a_part_that_is_damaged_becomes_no_snapshot_in_a_pool() {
    ground!("zfs");
    let line = archived(300_000);
    let other = other_machine();
    let url = url(&line);
    for (n, part) in parts(&line, false).into_iter().enumerate() {
        let good = fs::read(&part).expect("read");
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        fs::write(&part, bad).expect("written");
        let to = format!("back{n}");
        let (_, said) = other.ends(4, &format!("restore {url} --to POOL/{to}"));
        let name = part.file_name().expect("a name").to_string_lossy();
        assert!(said.contains(name.rsplit('-').next().expect("one")), "the part is named: {said}");
        let to = other.pool.full(&to);
        // What came before it is there for the next one, and shows nowhere.
        assert!(!exists(&to) || (property(&to, "mounted") == "no" && snapshots(&to).len() < 3));
        fs::write(&part, good).expect("written");
    }
    other.run(&format!("restore {url} --to POOL/back0"));
    assert_is(&line, "s2", &other.pool.path("back0"));
}

#[test]
fn streams_of_btrfs_become_a_plain_tree_in_a_directory_on_zfs() {
    ground!("zfs", "btrfs");
    let line = Line::new();
    let disk = ground::Btrfs::new();
    let live = disk.path().join("d");
    let live = live.to_str().expect("utf-8");
    line.run(&format!("create {live}"));
    line.run(&format!("archive add file://OUT/archive {live}"));
    for n in 0..2 {
        fs::write(disk.path().join(format!("d/f{n}")), noise(n, 200_000)).expect("written");
        line.run(&format!("snapshot {live} --name s{n}"));
        line.run(&format!("archive push {live}@s{n} file://OUT/archive"));
    }
    line.run("create POOL/other");
    let to = line.pool.path("other/node");
    let done = line.json(&format!("restore file://OUT/archive@s1 --to {}", to.display()));
    assert_eq!(done["plain"], true, "{done}");
    run("diff", &["-r", live, to.to_str().expect("utf-8")]);
    // A dataset can not be made of them.
    line.ends(2, "restore file://OUT/archive@s1 --to POOL/never");
    assert!(!exists(&line.pool.full("never")));
}

/// A pool with a dataset in which there is one of everything, and the snapshot `s` of it.
fn filled() -> Line {
    let line = Line::new();
    for set in ["acltype=posix", "xattr=sa"] {
        zfs(&["set", set, &line.pool.name]);
    }
    line.run("create POOL/chain");
    fill(&line.pool.path("chain"));
    line.run("snapshot POOL/chain --name s");
    line
}

#[test]
fn what_was_exported_of_a_dataset_is_imported_as_another_one() {
    ground!("zfs", "setfacl", "setfattr");
    let line = filled();
    fs::remove_file(line.pool.path("chain/blocks/again")).expect("what is exported is the snapshot");
    let exported = line.json("export POOL/chain@s OUT/a.tar.zst");
    assert_eq!(exported["exported"]["dataset"], "POOL/chain", "{exported}");
    assert_eq!(line.run("import OUT/a.tar.zst --to POOL/new --dry-run").split(' ').next(), Some("would"));
    assert!(!exists(&line.pool.full("new")));
    let said = line.run("import OUT/a.tar.zst --to POOL/new --snapshot first");
    assert!(said.contains("POOL/new") && said.contains("POOL/chain@s"), "{said}");
    let new = line.pool.full("new");
    assert_eq!(snapshots(&new), ["first"]);
    assert_eq!([property(&new, "mounted"), property(&new, "canmount")], ["yes", "on"]);
    expect_same(&line.pool.path("chain/.zfs/snapshot/s"), &line.pool.path("new"));
    let sparse = fs::metadata(line.pool.path("new/sparse")).expect("there");
    assert!(std::os::unix::fs::MetadataExt::blocks(&sparse) * 512 < 8 << 20, "the hole was filled");
    // It is a dataset like any other: what is exported of it is the same again.
    line.write("new/more", "x");
    line.run("snapshot POOL/new --name second");
    line.run("export POOL/new@first OUT/b.tar.zst");
    line.run("import OUT/b.tar.zst --to POOL/again");
    expect_same(&line.pool.path("chain/.zfs/snapshot/s"), &line.pool.path("again"));
    // What is there is never written to.
    line.ends(3, "import OUT/a.tar.zst --to POOL/new");
    assert_eq!(read(&dataset(&new), "more").as_deref(), Some("x"));
    line.ends(3, "export POOL/chain@s OUT/a.tar.zst");
}

#[test]
fn an_import_that_is_killed_or_of_what_is_damaged_leaves_no_dataset() {
    ground!("zfs", "setfacl", "setfattr");
    let line = filled();
    let new = line.pool.full("new");
    line.run("export POOL/chain@s OUT/a.tar.zst");
    let file = line.pool.outside().join("a.tar.zst");
    let good = fs::read(&file).expect("read");
    let cut = good[..good.len() / 2].to_vec();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for bad in [cut, flipped] {
        fs::write(&file, bad).expect("written");
        line.ends(4, "import OUT/a.tar.zst --to POOL/new");
        assert!(!exists(&new));
    }
    // From a pipe that never ends, so that it is killed in the midst.
    fs::write(&file, &good).expect("written");
    let pipe = line.pool.outside().join("pipe");
    run("mkfifo", &[&pipe]);
    let mut child = line.start("import OUT/pipe --to POOL/new");
    let mut to = fs::File::options().write(true).open(&pipe).expect("it reads");
    std::io::Write::write_all(&mut to, &good[..good.len() / 2]).expect("written");
    waits("something of it", || exists(&new));
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert_eq!(property(&new, "mounted"), "no", "nobody takes it for what it is to become");
    drop(to);
    line.run("import OUT/a.tar.zst --to POOL/new");
    expect_same(&line.pool.path("chain"), &line.pool.path("new"));
    assert_eq!(line.all(), ["POOL", "POOL/chain", "POOL/chain@s", "POOL/new"]);
}

#[test]
fn a_dataset_that_can_not_keep_what_is_in_an_archive_is_not_made() {
    ground!("zfs", "setfacl", "setfattr");
    let (line, poor) = (filled(), Pool::new());
    line.run("export POOL/chain@s OUT/a.tar.zst");
    zfs(&["set", "acltype=off", &poor.name]);
    let to = poor.full("new");
    // The machine lacks what is needed: nothing is dropped on the way without a word.
    let (_, said) = line.ends(6, &format!("import OUT/a.tar.zst --to {to}"));
    assert!(said.contains("system.posix_acl_access") && said.contains("acltype=posix"), "{said}");
    assert!(!exists(&to));
    zfs(&["set", "acltype=posix", &poor.name]);
    line.run(&format!("import OUT/a.tar.zst --to {to}"));
    expect_same(&line.pool.path("chain"), &poor.path("new"));
}
