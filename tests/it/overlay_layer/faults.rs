//! SIGKILL before every step of a commit and of a reset to a layer: what was changed is in the overlay or in a layer below it.

use std::fs;
use std::path::Path;

use cowsnap::endpoint::Error;
use cowsnap::endpoint::overlay::Home;
use cowsnap::exec::overlay::layers::{Commit, LayerOf, commit, stack_to};
use cowsnap::exec::overlay::reset::{Request, reset};
use cowsnap::exec::overlay::{Step, Survivors};
use cowsnap::model::overlay::OverlayName;

use crate::ground::{ground, run};
use crate::overlay::killed::killed;
use crate::overlay::lab::{Lab, read, utf8};

fn do_verb(verb: &str, root: &Path, before: &mut dyn FnMut(Step) -> Result<(), Error>) -> Result<(), Error> {
    let home = Home::open(&root.join("home"))?;
    let name: OverlayName = "ci".parse().expect("a name");
    let now = "2026-11-21T08:00:00Z".parse().expect("a time");
    match verb {
        "commit" => {
            let layer = "killed".parse().expect("a name");
            commit(&home, &name, &Commit { layer, copy: None, survivors: Survivors::Refuse, now }, before)
                .map(drop)
        }
        "plainly" => {
            let request = Request { copies: None, layers: None, survivors: Survivors::Refuse };
            reset(&home, &name, &request, before).map(drop)
        }
        to => {
            let layers = stack_to(&home, &name, &LayerOf::This(to.parse().expect("a name")))?;
            let request = Request { copies: None, layers: Some(layers), survivors: Survivors::Refuse };
            reset(&home, &name, &request, before).map(drop)
        }
    }
}

killed!(kill_before, child_that_dies_while_it_works, do_verb);

/// An overlay with the layer `first` below it, in which `more` was written since.
fn seeded(mode: &str) -> Lab {
    let lab = Lab::new();
    let at = lab.create("ci", &["--mode", mode, "--owner", "none"]);
    fs::write(at.join("file"), "first").expect("written");
    lab.ok(&["commit", "ci", "first"]);
    fs::write(at.join("more"), "more").expect("written");
    lab
}

fn layers(lab: &Lab) -> Vec<String> {
    let listed = lab.json(&["list", "--layers"]);
    let layers = listed["layers"].as_array().expect("a list");
    layers.iter().map(|layer| layer["name"].as_str().expect("a name").to_owned()).collect()
}

fn kill_commits(mode: &str) {
    for step in Step::COMMIT {
        for next in ["again", "another", "reset"] {
            let lab = seeded(mode);
            kill_before(&lab, "commit", step);
            let at = lab.at("ci");
            assert_eq!(
                (read(at.join("file")), read(at.join("more"))),
                ("first".into(), "more".into()),
                "{step:?}"
            );
            assert_eq!(lab.ok(&["reap"]), "nothing to reap\n", "{step:?}");
            let written = fs::write(at.join("since"), "x").and_then(|()| fs::remove_file(at.join("since")));
            written.unwrap_or_else(|error| panic!("after {step:?}, it can be written to: {error}"));
            assert_eq!(lab.ok(&["diff", "ci", "first"]), "A more  4\n", "{step:?}");
            let is_done = layers(&lab).contains(&"killed".to_owned());
            assert_eq!(is_done, matches!(step, Step::Name | Step::Record), "{step:?}");
            match next {
                "again" => drop(lab.ok(&["commit", "ci", "killed"])),
                "another" => drop(lab.ok(&["commit", "ci", "another"])),
                _ => drop(lab.ok(&["reset", "ci"])),
            }
            let kept = next != "reset" || is_done;
            assert_eq!(at.join("more").exists(), kept, "{step:?} {next}");
            fs::write(at.join("after"), "x").expect("it can be written to");
            lab.ok(&["reset", "ci"]);
            assert_eq!(
                (at.join("after").exists(), at.join("more").exists()),
                (false, kept),
                "{step:?} {next}"
            );
            lab.ok(&["verify", "--all"]);
            lab.ok(&["destroy", "ci"]);
            let mut all = layers(&lab);
            all.reverse();
            all.iter().for_each(|name| drop(lab.ok(&["destroy", &format!("ci@{name}")])));
            lab.assert_nothing_left();
        }
    }
}

#[test]
fn after_a_commit_is_killed_at_any_step_nothing_is_lost_and_the_next_one_works() {
    ground!("overlay");
    kill_commits("kernel");
}

#[test]
fn after_a_commit_in_mode_fuse_is_killed_at_any_step_nothing_is_lost_and_the_next_one_works() {
    ground!("fuse", "root");
    kill_commits("fuse");
}

/// What is written after the kill is in the overlay and not in the layer.
#[test]
fn a_commit_that_was_killed_takes_in_nothing_that_was_written_since() {
    ground!("overlay", "fuse", "root");
    for mode in ["kernel", "fuse"] {
        let lab = seeded(mode);
        kill_before(&lab, "commit", Step::Name);
        fs::write(lab.at("ci").join("more"), "since").expect("it can be written to");
        assert_eq!(lab.ok(&["diff", "ci"]), "M more  4 -> 5\n", "{mode}");
        lab.ok(&["verify", "ci@killed"]);
        let why = lab.fails(3, &["commit", "ci", "killed"]);
        assert!(why.contains("ci@killed exists already"), "{why}");
        lab.ok(&["reset", "ci"]);
        assert_eq!(read(lab.at("ci").join("more")), "more");
        lab.ok(&["destroy", "ci"]);
    }
}

/// Nothing says in `layers/` that a name is about to be taken by a commit, once that was killed.
#[test]
fn a_commit_that_was_killed_is_finished_also_if_an_import_took_its_name() {
    ground!("overlay", "fuse", "root");
    let lab = seeded("kernel");
    let (home, at, file) = (lab.root().join("elsewhere"), lab.at("elsewhere"), lab.root().join("layer.cow"));
    let (base, home, at, file) = (lab.base(), utf8(&home), utf8(&at), utf8(&file));
    let there = |args: &[&str]| lab.ok(&[&["--home", home], args].concat());
    there(&["create", "ci", "--base", utf8(&base), "--at", at, "--mode", "kernel", "--owner", "none"]);
    there(&["commit", "ci", "x"]);
    there(&["export", "ci@x", file]);
    there(&["destroy", "ci"]);
    kill_before(&lab, "commit", Step::Name);
    lab.ok(&["import", file, "--as", "ci@killed"]);
    assert_eq!(lab.ok(&["diff", "ci"]), "");
    let names = layers(&lab);
    let other = names.iter().find(|name| name.starts_with("killed-")).expect("under another name");
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(read(lab.at("ci").join("more")), "more");
    lab.ok(&["reset", "ci", "--to", "first"]);
    assert!(!lab.at("ci").join("more").exists());
    lab.ok(&["reset", "ci", "--to", other]);
    assert_eq!(read(lab.at("ci").join("more")), "more");
    lab.ok(&["verify", "--all"]);
    lab.ok(&["destroy", "ci"]);
}

/// The image of a filesystem that is still mounted is what a power cut leaves of it.
#[test]
fn what_was_committed_imported_or_made_whole_outlives_a_power_cut() {
    ground!("overlay", "fuse", "root", "loop", "mkfs.ext4");
    cut_the_power_of("ext4", &["-q", "-F"], "loop");
}

#[test]
fn what_was_committed_imported_or_made_whole_outlives_a_power_cut_on_xfs() {
    ground!("overlay", "fuse", "root", "xfs");
    // The copy has the identity of what is still mounted. Without shared blocks, there are files in part.
    cut_the_power_of("xfs", &["-q", "-m", "reflink=0"], "loop,nouuid");
}

#[test]
fn what_was_committed_imported_or_made_whole_outlives_a_power_cut_on_btrfs() {
    ground!("overlay", "fuse", "root", "btrfs");
    cut_the_power_of("btrfs", &["-q"], "loop");
}

fn cut_the_power_of(kind: &str, mkfs: &[&str], options: &str) {
    let lab = Lab::on(kind, mkfs);
    let noise: Vec<u8> = (0..4 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    fs::write(lab.base().join("large"), &noise).expect("written");
    let after_a_cut = || {
        let (image, copy) = (lab.image(), lab.image().with_file_name("copy"));
        let disk = lab.image().with_file_name("after the cut");
        fs::copy(image, &copy).expect("copied");
        fs::create_dir_all(&disk).expect("made");
        run("mount", &["-t", kind, "-o", options, utf8(&copy), utf8(&disk)]);
        let said = lab.ok(&["--home", utf8(&disk.join("home")), "verify", "--all"]);
        let whole = fs::read_dir(disk.join("home/layers")).expect("lists").any(|layer| {
            let layer = layer.expect("an entry").path();
            assert!(layer.join("layer.json").is_file(), "{}", layer.display());
            fs::read(layer.join("whole/tree/large"))
                .is_ok_and(|bytes| bytes != noise && bytes.len() == noise.len())
        });
        run("umount", &[utf8(&disk)]);
        (said, whole)
    };
    // btrfs clones a file of which something is written.
    let in_parts = kind != "btrfs";
    let at = lab.create("ci", &["--mode", "fuse", "--owner", "none"]);
    fs::write(at.join("new"), &noise).expect("written");
    let file = fs::File::options().write(true).open(at.join("large")).expect("opened");
    std::os::unix::fs::FileExt::write_all_at(&file, b"patched", 3 << 20).expect("written");
    drop(file);
    lab.ok(&["commit", "ci", "x"]);
    assert_eq!(after_a_cut(), ("ci@x  sound\n".into(), false));
    let upon = lab.at("upon");
    lab.ok(&["create", "upon", "--base", "ci@x", "--at", utf8(&upon), "--mode", "kernel", "--owner", "none"]);
    assert_eq!(after_a_cut(), ("ci@x  sound\n".into(), in_parts));
    fs::write(upon.join("newer"), &noise).expect("written");
    lab.ok(&["commit", "upon", "y"]);
    assert_eq!(after_a_cut(), ("ci@x  sound\nupon@y  sound\n".into(), in_parts));
    let file = lab.root().with_file_name("layer.cow");
    lab.ok(&["export", "upon@y", utf8(&file)]);
    lab.ok(&["destroy", "upon"]);
    lab.ok(&["destroy", "upon@y"]);
    lab.ok(&["import", utf8(&file), "--as", "upon@z"]);
    assert_eq!(after_a_cut(), ("ci@x  sound\nupon@z  sound\n".into(), in_parts));
    lab.ok(&["destroy", "ci"]);
}

#[test]
fn after_a_reset_to_a_layer_is_killed_at_any_step_what_shows_is_known_for_what_it_is() {
    ground!("overlay");
    for step in Step::RESET {
        let lab = seeded("kernel");
        lab.ok(&["commit", "ci", "second"]);
        kill_before(&lab, "first", step);
        let at = lab.at("ci");
        let is_back = !at.join("more").exists();
        assert_eq!(is_back, matches!(step, Step::Record | Step::Discard), "{step:?}");
        assert_eq!(lab.ok(&["diff", "ci"]), "", "{step:?}");
        if is_back {
            // What shows lies on it, whatever is written down.
            lab.fails(3, &["destroy", "ci@first"]);
        }
        fs::write(at.join("third"), "3").expect("written");
        lab.ok(&["commit", "ci", "third"]);
        assert_eq!((read(at.join("third")), at.join("more").exists()), ("3".into(), !is_back), "{step:?}");
        lab.ok(&["reset", "ci"]);
        assert_eq!((read(at.join("third")), at.join("more").exists()), ("3".into(), !is_back), "{step:?}");
        lab.ok(&["destroy", "ci"]);
    }
}

/// What only a generation says of the layers is said by the next one until the record says it.
#[test]
fn a_reset_that_is_killed_after_a_killed_commit_forgets_no_layer() {
    ground!("overlay", "fuse", "root");
    for (mode, step) in ["kernel", "fuse"].into_iter().flat_map(|mode| Step::RESET.map(|step| (mode, step))) {
        let lab = seeded(mode);
        kill_before(&lab, "commit", Step::Record);
        kill_before(&lab, "plainly", step);
        let at = lab.at("ci");
        fs::write(at.join("third"), "3").expect("written");
        lab.ok(&["commit", "ci", "third"]);
        let listed = lab.json(&["list", "--layers"]);
        let layers = listed["layers"].as_array().expect("a list");
        let named = |name: &str| layers.iter().find(|layer| layer["name"] == name).expect("it is there");
        assert_eq!(named("third")["parent"], named("killed")["id"], "{mode} {step:?}");
        lab.ok(&["reset", "ci"]);
        assert_eq!((read(at.join("more")), read(at.join("third"))), ("more".into(), "3".into()));
        lab.ok(&["destroy", "ci"]);
    }
}

#[test]
fn a_commit_that_fails_at_any_step_leaves_a_tree_that_can_be_written_to() {
    ground!("overlay", "fuse", "root");
    for (mode, failing) in
        ["kernel", "fuse"].into_iter().flat_map(|mode| Step::COMMIT.map(|step| (mode, step)))
    {
        let lab = seeded(mode);
        let mut fail = |step| match step == failing {
            true => Err(Error::Interrupted { op: "commit overlay", subject: "ci".into() }),
            false => Ok(()),
        };
        do_verb("commit", lab.root(), &mut fail).expect_err("the step fails");
        fs::write(lab.at("ci").join("more"), "more and more").expect("written");
        lab.ok(&["diff", "ci"]);
        let is_done = matches!(failing, Step::Name | Step::Record);
        assert_eq!(layers(&lab).len(), 1 + usize::from(is_done), "{mode} {failing:?}");
        lab.ok(&["destroy", "ci"]);
    }
}
