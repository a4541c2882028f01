//! Clones, compared with their base: the same is told of them as of an overlay that keeps its changes apart, and it becomes a layer like any other.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cowsnap::endpoint::Error;
use cowsnap::endpoint::change::Kind;
use cowsnap::endpoint::overlay::Home;
use cowsnap::endpoint::overlay::layer::{self, DiffRequest, Stack, Tree, set_apart};
use cowsnap::exec::overlay::layers::{Commit, commit};
use cowsnap::exec::overlay::{self, Step, Survivors};
use cowsnap::model::overlay::Xattrs;
use rustix::fs::{Mode, OFlags, inotify, mkdirat, openat};
use rustix::io::Errno;

use super::diff::{apply, timeless};
use super::lab::Random;
use super::view::{assert_same, of_kernel};
use crate::ground::{ground, run};
use crate::overlay::killed::killed;
use crate::overlay::lab::{Lab, Process, read, utf8};
use crate::overlay::modes::{Case, NATIVE, assert_nothing_left, subvolume_lab};

const NOTHING_READ: DiffRequest = DiffRequest { content: false };

/// What the base has, beside what every lab's has.
pub const FILL: &str = "
mkdir -p keep/sub old/in/deep gone/x again swap/a swap/b empty
for f in keep/sub/read keep/patched keep/mode keep/touched keep/cut old/in/deep/f old/file gone/x/y again/1 swap/a/1 swap/b/2 \
    over from type second; do echo \"$f\" > $f; done
ln second second-name; ln second third-name; ln keep/cut keep/other-name
ln -s keep link; ln -s keep turned; mkfifo pipe; head -c 300000 /dev/zero | tr '\\0' x > large
touch -d '2020-01-01' keep/* keep/sub/read old/file large
";

/// What a suite does to it.
pub const WRECK: &str = "
cat keep/sub/read > /dev/null; ls -R . > /dev/null
printf patched | dd of=large bs=1 seek=100000 conv=notrunc status=none
printf p > keep/patched; chmod 600 keep/mode; touch -d '2021-02-03' keep/touched; : > keep/cut
chown 12:34 old/file; setfattr -n user.test -v 1 empty
mv old new; echo more >> new/in/deep/f; mv new/in/deep deeper; echo n > new/in/new
mkdir old; echo o > old/file
rm -r gone; rm -r again; mkdir again; echo 2 > again/2
mv swap/a swap/c; mv swap/b swap/a; mv swap/c swap/b
mv from over; rm type; mkdir type; echo t > type/t
rm second; ln third-name fourth-name
rm link; ln -s other link; rm -r turned; echo f > turned; rm pipe; mkfifo pipe; mkdir -p added/below; echo b > added/below/b
rm symlink; mknod null c 1 3; echo gone > short; rm short
mv dir/deep/file moved
";

pub fn in_dir(dir: &Path, script: &str) {
    run("sh", &["-euc", &format!("cd '{}'\n{script}", utf8(dir))]);
}

fn native(lab: &Lab, name: &str) -> PathBuf {
    lab.create(name, &["--mode", "native", "--owner", "none"])
}

#[test]
fn of_a_clone_the_same_changes_are_told_as_of_an_overlay_of_the_kernel() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    in_dir(&lab.base(), FILL);
    let (kernel, native) = (lab.create("kernel", &["--mode", "kernel"]), native(&lab, "native"));
    let told = |name: &str, more: &[&str]| lab.ok(&[&["diff", name], more].concat());
    assert_eq!(told("native", &[]), "");
    in_dir(&kernel, WRECK);
    in_dir(&native, WRECK);
    let lines = told("kernel", &[]);
    assert_eq!(told("native", &[]), lines);
    assert_eq!(told("native", &["--content"]), told("kernel", &["--content"]));
    assert_eq!(lab.json(&["diff", "native"]), lab.json(&["diff", "kernel"]));
    assert_eq!(lab.run(&["diff", "native", "-0"]).stdout, lab.run(&["diff", "kernel", "-0"]).stdout);
    for wanted in [
        "M large  300000\n",
        "R old -> new\n",
        "R old/in/deep -> deeper\n",
        "M deeper/f  14 -> 19\n",
        "R swap/a -> swap/b\n",
        "D gone\n",
        "T type",
        "m keep/mode  10\n",
        "R from -> over  5\n",
    ] {
        assert!(lines.contains(wanted), "{wanted:?} in\n{lines}");
    }
    assert!(!lines.contains("keep/sub"), "what was only read is as it was:\n{lines}");
    lab.ok(&["reset", "native"]);
    assert_eq!(told("native", &[]), "");
    lab.ok(&["destroy", "--all"]);
    assert_nothing_left(&lab);
}

/// What the clone of overlay `ci` was made of.
fn made_of(lab: &Lab) -> PathBuf {
    let generations = fs::read_dir(lab.home_dir().join("overlays/ci/1")).expect("listed");
    let named = generations.filter_map(|entry| fs::read(entry.expect("an entry").path().join("clone")).ok());
    let clone: serde_json::Value = serde_json::from_slice(&named.last().expect("one")).expect("JSON");
    lab.root().join(".cowsnap/overlays").join(clone["origin"].as_str().expect("a name"))
}

fn watch(dir: &Path) -> OwnedFd {
    let watched = inotify::init(inotify::CreateFlags::NONBLOCK).expect("made");
    inotify::add_watch(&watched, dir, inotify::WatchFlags::ACCESS).expect("watched");
    watched
}

fn is_listed(watched: &OwnedFd) -> bool {
    rustix::io::read(watched, &mut [0; 4096]).is_ok()
}

#[test]
fn directories_in_which_nothing_changed_are_not_looked_at() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    in_dir(&lab.base(), "mkdir -p same/below other/below; touch same/below/f other/below/f");
    let at = native(&lab, "ci");
    fs::write(at.join("other/below/f"), "changed").expect("written");
    let made_of = made_of(&lab);
    let watch = |dir: &str| watch(&made_of.join(dir));
    let (other, same, below) = (watch("other/below"), watch("same"), watch("same/below"));
    assert_eq!(lab.ok(&["diff", "ci"]), "M other/below/f  0 -> 7\n");
    assert!(is_listed(&other), "a look is seen");
    assert!(!is_listed(&same) && !is_listed(&below));
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

/// Reading changes when a file was read, and with that its inode.
#[test]
fn what_was_only_read_is_not_looked_at() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    const N_DIRS: usize = 40;
    let fill = "for d in $(seq 1 40); do mkdir d$d; for f in 1 2 3; do echo $f > d$d/$f; touch -ad 2020-01-01 d$d/$f; done; touch -ad 2020-01-01 d$d; done";
    in_dir(&lab.base(), fill);
    let at = native(&lab, "ci");
    let made_of = made_of(&lab);
    in_dir(&at, "ls -R > /dev/null; find . -type f -exec cat {} + > /dev/null");
    for read in ["d1", "d1/1", "d40/3"] {
        let when = |root: &Path| fs::metadata(root.join(read)).expect("there").accessed().expect("known");
        assert_ne!(when(&at), when(&made_of), "{read}: that it was read is written down");
    }
    let watched: Vec<_> = (1..=N_DIRS).map(|number| watch(&made_of.join(format!("d{number}")))).collect();
    let n_listed = || watched.iter().filter(|watched| is_listed(watched)).count();
    assert_eq!((lab.ok(&["diff", "ci"]), n_listed()), (String::new(), 0));
    in_dir(&at, "echo 4 > d7/2");
    assert_eq!((lab.ok(&["diff", "ci"]), n_listed()), ("M d7/2  2\n".to_owned(), 1));
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

/// Writes a file whose path has over 4096 bytes.
fn write_far_below(root: &Path, text: &str) {
    let mut dir: OwnedFd = fs::File::open(root).expect("opened").into();
    let name = "l".repeat(240);
    for _ in 0..20 {
        match mkdirat(&dir, &name, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => made.expect("made"),
        }
        dir = openat(&dir, &name, OFlags::DIRECTORY, Mode::empty()).expect("opened");
    }
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY;
    let file = openat(&dir, "file", flags, Mode::RWXU).expect("created");
    fs::File::from(file).write_all(text.as_bytes()).expect("written");
}

/// The kernel tells at most 4 KiB of what a file is called, and by a number alone that there is more.
#[test]
fn a_change_is_told_by_all_names_of_a_file_and_however_long_its_path_is() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    in_dir(&lab.base(), "echo 1 > first");
    let (n_names, tail) = (120, "n".repeat(60));
    for number in 0..n_names {
        fs::create_dir(lab.base().join(format!("d{number}"))).expect("made");
        fs::hard_link(lab.base().join("first"), lab.base().join(format!("d{number}/{tail}")))
            .expect("linked");
    }
    write_far_below(&lab.base(), "1");
    let (kernel, native) = (lab.create("kernel", &["--mode", "kernel"]), native(&lab, "native"));
    let told = |name: &str| lab.ok(&["diff", name]);
    for at in [&kernel, &native] {
        in_dir(at, "echo changed > first");
    }
    let lines = told("native");
    assert_eq!(lines.lines().filter(|line| line.starts_with("M ")).count(), n_names + 1, "{lines}");
    assert_eq!(lines, told("kernel"));
    lab.ok(&["commit", "native", "layer"]);
    let upon = lab.at("upon");
    lab.ok(&["create", "upon", "--base", "native@layer", "--at", utf8(&upon), "--mode", "kernel"]);
    for number in 0..n_names {
        assert_eq!(read(upon.join(format!("d{number}/{tail}"))), "changed\n");
    }

    lab.ok(&["reset", "native"]);
    write_far_below(&native, "changed");
    let lines = told("native");
    assert!(lines.starts_with("M llll") && lines.lines().count() == 1, "{lines}");
    lab.ok(&["destroy", "--all"]);
    lab.ok(&["destroy", "native@layer"]);
    assert_nothing_left(&lab);
}

/// Without what btrfs tells, both trees are walked; the answer is the same, and it is right.
#[test]
fn a_base_with_a_clones_changes_done_is_what_the_clone_shows() {
    ground!("overlay", "btrfs");
    told_is_what_shows(NATIVE, 8, &["kernel", "fuse"]);
}

pub fn told_is_what_shows(case: Case, seeds: u64, modes: &[&str]) {
    let lab = case.lab();
    let mut kinds = std::collections::BTreeMap::new();
    for seed in 0..seeds {
        let (mut random, mut names) = (Random(seed * 7_368_787 + 1), Vec::new());
        (0..80).for_each(|_| random.act(&lab.base(), &mut names));
        let at = native(&lab, "ci");
        (0..150).for_each(|_| random.act(&at, &mut names));
        let name = "ci".parse().expect("a name");
        let changes = overlay::diff(&lab.home(), &name, None, 1, NOTHING_READ).expect("a diff");
        let tree = |dir: &Path| Tree::base(dir, Xattrs::Trusted).expect("opened");
        let apart = set_apart(&tree(&lab.base()), tree(&at), None).expect("set apart");
        let walked =
            layer::diff(&Stack::new(vec![apart, tree(&lab.base())]), 1, NOTHING_READ).expect("a diff");
        assert_eq!(walked, changes, "seed {seed}");
        let copy = lab.root().join(format!("copy-{seed}"));
        run("cp", &["-aT", utf8(&lab.base()), utf8(&copy)]);
        apply(&changes, &copy, &at);
        assert_same(&timeless(of_kernel(&at)), &timeless(of_kernel(&copy)), &format!("seed {seed}"));
        changes.iter().for_each(|found| *kinds.entry(found.change.kind).or_insert(0) += 1);
        committed_is_what_shows(&lab, &at, seed, modes);
        lab.ok(&["destroy", "ci"]);
    }
    for kind in [Kind::Added, Kind::Modified, Kind::Destroyed, Kind::Renamed, Kind::Metadata, Kind::Retyped] {
        assert!(kinds.contains_key(&kind), "no {kind} among {kinds:?}");
    }
    assert_nothing_left(&lab);
}

/// Overlays of other modes upon the layer show what the clone does.
fn committed_is_what_shows(lab: &Lab, at: &Path, seed: u64, modes: &[&str]) {
    let layer = format!("layer-{seed}");
    lab.ok(&["commit", "ci", &layer]);
    let label = format!("ci@{layer}");
    lab.ok(&["verify", &label]);
    for &mode in modes {
        let upon = lab.at(mode);
        lab.ok(&["create", mode, "--base", &label, "--at", utf8(&upon), "--mode", mode]);
        assert_same(&of_kernel(at), &of_kernel(&upon), &format!("seed {seed} in mode {mode}"));
        lab.ok(&["destroy", mode]);
    }
}

#[test]
fn what_a_clone_changed_becomes_a_layer_that_is_exported_and_imported() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    in_dir(&lab.base(), FILL);
    let at = native(&lab, "ci");
    in_dir(&at, WRECK);
    run("sh", &["-c", &format!("head -c 20000000 /dev/urandom > '{}/random'", utf8(&at))]);
    run("sync", &["-f", utf8(&at)]);
    let told = lab.run(&["commit", "ci", "wrecked"]);
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success() && said.contains("cowsnap overlay reset 'ci' --to 'wrecked'"), "{said}");
    let json = lab.json(&["list", "--layers"]);
    let id = json["layers"][0]["id"].as_str().expect("an id");
    let shared = run("filefrag", &["-v", utf8(&lab.home_dir().join("layers").join(id).join("tree/random"))]);
    let shared = String::from_utf8_lossy(&shared.stdout).into_owned();
    assert!(shared.contains("shared"), "its data is the clone's: {shared}");
    fs::File::options().append(true).open(at.join("over")).expect("it can be written to again");
    assert_eq!(lab.ok(&["verify", "--all"]), "ci@wrecked  sound\n");
    assert!(lab.fails(3, &["commit", "ci", "wrecked"]).contains("ci@wrecked"), "the name is taken");

    let (file, elsewhere, there) =
        (lab.root().join("layer.cow"), lab.root().join("elsewhere"), lab.at("there"));
    lab.ok(&["export", "ci@wrecked", utf8(&file)]);
    let home = ["--home", utf8(&elsewhere)];
    let ok = |args: &[&str]| lab.ok(&[&home, args].concat());
    ok(&["create", "there", "--base", utf8(&lab.base()), "--at", utf8(&there), "--mode", "kernel"]);
    ok(&["import", utf8(&file), "--onto", "there"]);
    ok(&["reset", "there", "--to", "ci@wrecked"]);
    assert_same(&of_kernel(&at), &of_kernel(&there), "imported");
    ok(&["destroy", "there"]);

    // The clone itself goes on upon its base, and another layer is one beside the first.
    lab.ok(&["reset", "ci"]);
    assert_eq!(read(at.join("over")), "over\n");
    fs::write(at.join("file"), "second").expect("written");
    lab.ok(&["commit", "ci", "second"]);
    let upon = lab.at("upon");
    lab.ok(&["create", "upon", "--base", "ci@second", "--at", utf8(&upon), "--mode", "fuse"]);
    assert_same(&of_kernel(&at), &of_kernel(&upon), "the second");
    assert_eq!(lab.ok(&["diff", "upon"]), "");
    lab.ok(&["destroy", "--all"]);
    lab.ok(&["destroy", "ci@wrecked", "ci@second"]);
    assert_nothing_left(&lab);
}

#[test]
fn a_subvolume_in_a_clone_and_a_device_that_looks_like_a_whiteout_are_in_its_layer() {
    ground!("overlay", "btrfs", "fuse");
    let lab = subvolume_lab();
    let at = native(&lab, "ci");
    run("btrfs", &["subvolume", "create", utf8(&at.join("dir/nested"))]);
    in_dir(&at, "echo n > dir/nested/file; mknod none c 0 0; rm symlink");
    let told = "A dir/nested\nA dir/nested/file  2\nA none\nD symlink\n";
    assert_eq!(lab.ok(&["diff", "ci"]), told);
    committed_is_what_shows(&lab, &at, 0, &["fuse"]);
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn a_clone_is_compared_with_what_it_was_made_of_whatever_the_base_became() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    let at = native(&lab, "ci");
    let told = || lab.ok(&["diff", "ci"]);
    // As it was made, and of the clone that waited.
    for round in ["first", "second"] {
        let before = read(lab.base().join("file"));
        fs::write(lab.base().join("dir/deep/file"), format!("the base's {round}")).expect("written");
        fs::write(lab.base().join(round), "n").expect("written");
        fs::remove_file(lab.base().join("symlink"))
            .or_else(|_| fs::write(lab.base().join("symlink"), "s"))
            .expect("changed");
        assert_eq!(told(), "", "{round}");
        fs::write(at.join("file"), "suite's").expect("written");
        assert_eq!(told(), "M dir/link  4 -> 7\nM file  4 -> 7\n", "{round}");
        lab.ok(&["commit", "ci", round]);
        let layer = format!("ci@{round}");
        let upon = lab.at("upon");
        lab.ok(&["create", "upon", "--base", &layer, "--at", utf8(&upon), "--mode", "kernel"]);
        assert_eq!(read(upon.join("file")), "suite's");
        assert_eq!(read(upon.join("dir/deep/file")), format!("the base's {round}"), "it is not in the layer");
        lab.ok(&["destroy", "upon", &layer]);
        // Of the base as it is now.
        lab.ok(&["reset", "ci"]);
        assert_eq!((told(), read(at.join("file"))), (String::new(), before));
        assert!(at.join(round).exists());
        clones(&lab);
        lab.ok(&["reset", "ci"]);
        assert_eq!(told(), "");
    }
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

fn commit_killed(
    verb: &str,
    root: &Path,
    before: &mut dyn FnMut(Step) -> Result<(), Error>,
) -> Result<(), Error> {
    let home = Home::open(&root.join("home"))?;
    let layer = verb.parse().expect("a name");
    let now = jiff::Timestamp::UNIX_EPOCH;
    let wanted = Commit { layer, copy: None, survivors: Survivors::Refuse, now };
    commit(&home, &"ci".parse().expect("a name"), &wanted, before).map(drop)
}

killed!(kill_before, child_that_dies_while_it_works, commit_killed);

#[test]
fn after_a_clones_commit_is_killed_at_any_step_nothing_is_left_of_what_it_looked_at() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    let at = native(&lab, "ci");
    fs::write(at.join("file"), "suite's").expect("written");
    let in_layers = || fs::read_dir(lab.home_dir().join("layers")).expect("listed").count();
    for step in [Step::Freeze, Step::Layer, Step::Name] {
        let before = clones(&lab);
        kill_before(&lab, "killed", step);
        assert_eq!(in_layers(), usize::from(step == Step::Name), "{step:?}: what was being written");
        fs::write(at.join("since"), "x").expect("it can be written to");
        fs::remove_file(at.join("since")).expect("removed");
        let is_left = step != Step::Freeze;
        assert_eq!(clones(&lab).difference(&before).count(), usize::from(is_left), "{step:?}");
        assert_eq!(lab.ok(&["reap"]), "nothing to reap\n");
        assert_eq!(clones(&lab), before, "{step:?}: by reap");
        assert_eq!(in_layers(), 0, "{step:?}");
        kill_before(&lab, "killed", step);
        assert_eq!(lab.ok(&["diff", "ci"]), "M dir/link  4 -> 7\nM file  4 -> 7\n", "{step:?}");
        assert_eq!(clones(&lab), before, "{step:?}: by the next command");
        lab.ok(&["reap"]);
    }
    kill_before(&lab, "killed", Step::Layer);
    lab.ok(&["commit", "ci", "killed"]);
    assert_eq!(lab.ok(&["verify", "--all"]), "ci@killed  sound\n");
    lab.ok(&["destroy", "ci", "ci@killed"]);
    assert_nothing_left(&lab);
}

/// What is in the folder of clones, when the one that waits is there.
fn clones(lab: &Lab) -> BTreeSet<std::ffi::OsString> {
    let spare = lab.home_dir().join("overlays/ci/1/spare");
    let waits = || spare.exists() || (std::thread::sleep(Duration::from_millis(10)), false).1;
    assert!((0..6000).any(|_| waits()), "a clone waits");
    let folder = lab.root().join(".cowsnap/overlays");
    fs::read_dir(folder).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect()
}

#[test]
fn a_clones_layer_is_of_one_instant_whoever_writes_meanwhile_by_whichever_mount() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    let at = native(&lab, "ci");
    fs::write(at.join("file"), "1").expect("written");
    let mut user = Process::new(Command::new("sleep").arg("600").current_dir(&at));
    let why = lab.fails(3, &["commit", "ci", "x"]);
    assert!(why.contains(&format!("sleep ({})", user.pid())), "{why}");
    assert!(why.contains("--force takes what there is at one instant"), "{why}");
    lab.ok(&["commit", "ci", "forced", "--force"]);
    user.end();

    // As a container's copy of the mount: no mount of this namespace is written through.
    let generations = fs::read_dir(lab.root().join(".cowsnap/overlays")).expect("listed");
    let of_shown = |entry: &fs::DirEntry| fs::read(entry.path().join("file")).is_ok_and(|text| text == b"1");
    let elsewhere =
        generations.map(|entry| entry.expect("an entry")).find(of_shown).expect("the clone").path();
    let mut open = fs::File::options().write(true).open(elsewhere.join("file")).expect("opened");
    let wanted = |layer: &str| Commit {
        layer: layer.parse().expect("a name"),
        copy: None,
        survivors: Survivors::Refuse,
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let name = "ci".parse().expect("a name");
    let write = |step: Step| {
        let late = format!("{step:?}");
        fs::write(elsewhere.join("late"), &late).expect("written by the other mount");
        fs::write(at.join("late too"), &late).expect("written by the overlay's");
        fs::remove_file(at.join("dir/deep/file")).or_else(|_| fs::write(at.join("dir/deep/file"), late))
    };
    for at_step in [Step::Freeze, Step::Layer, Step::Name] {
        let failed = commit(&lab.home(), &name, &wanted("x"), &mut |step| match step == at_step {
            true => Err(Error::io("test", "a fault")(std::io::Error::other("fault"))),
            false => Ok(()),
        });
        assert!(failed.is_err(), "{at_step:?}");
        assert_eq!(lab.ok(&["verify", "--all"]), "ci@forced  sound\n", "{at_step:?}");
    }
    commit(&lab.home(), &name, &wanted("x"), &mut |step| {
        if step != Step::Freeze {
            open.write_all(b"late").expect("written through what was open");
            write(step).expect("churned");
        }
        Ok(())
    })
    .expect("committed");
    assert_eq!(lab.ok(&["verify", "--all"]), "ci@x  sound\nci@forced  sound\n");
    let upon = lab.at("upon");
    lab.ok(&["create", "upon", "--base", "ci@x", "--at", utf8(&upon), "--mode", "kernel"]);
    assert_eq!(read(upon.join("file")), "1");
    assert!(!upon.join("late").exists() && !upon.join("late too").exists());
    assert!(upon.join("dir/deep/file").exists());
    assert!(read(at.join("file")).starts_with("late"), "{}", read(at.join("file")));
    lab.create("copies", &["--copies", "2", "--mode", "native"]);
    assert!(lab.fails(3, &["commit", "copies", "x"]).contains("it has 2 copies"));
    drop(open);
    lab.ok(&["destroy", "--all"]);
    lab.ok(&["destroy", "ci@forced", "ci@x"]);
    assert_nothing_left(&lab);
}

#[test]
fn what_a_user_made_of_the_overlays_mount_stays_so() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    let at = native(&lab, "ci");
    run("mount", &["-o", "remount,bind,ro", utf8(&at)]);
    lab.ok(&["commit", "ci", "x"]);
    assert!(fs::write(at.join("file"), "late").is_err(), "it is read-only as before");
    lab.ok(&["destroy", "ci"]);
    lab.ok(&["destroy", "ci@x"]);
    assert_nothing_left(&lab);
}
