//! Clones that lie on layers: the same is given back, and told, as by an overlay of the kernel upon them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use cowsnap::endpoint::Error;
use cowsnap::endpoint::overlay::Home;
use cowsnap::endpoint::overlay::layer::DiffRequest;
use cowsnap::exec::overlay::layers::{LayerOf, stack_to};
use cowsnap::exec::overlay::reset::{Request, reset};
use cowsnap::exec::overlay::{self, Step, Survivors};

use super::diff::{apply, timeless};
use super::lab::Random;
use super::native::{FILL, WRECK, in_dir};
use super::view::{assert_same, of_kernel};
use crate::ground::{ground, run, waits};
use crate::overlay::killed::killed;
use crate::overlay::lab::{Lab, read, utf8};
use crate::overlay::modes::{Case, NATIVE, assert_nothing_left, subvolume_lab};

const NOTHING_READ: DiffRequest = DiffRequest { content: false };

/// The files that name trees of layers of overlay `ci`.
fn stacks(lab: &Lab) -> BTreeSet<PathBuf> {
    let listed = fs::read_dir(lab.home_dir().join("overlays/ci/stacks"));
    listed.into_iter().flatten().map(|entry| entry.expect("an entry").path()).collect()
}

fn destroy_all(lab: &Lab, layers: &[&str]) {
    lab.ok(&["destroy", "--all"]);
    layers.iter().for_each(|layer| drop(lab.ok(&["destroy", layer])));
    assert_nothing_left(lab);
}

#[test]
fn a_layer_is_given_back_and_told_of_in_each_mode_alike() {
    ground!("overlay", "btrfs");
    given_back_alike(NATIVE);
}

pub fn given_back_alike(case: Case) {
    let mut told = Vec::new();
    for mode in ["kernel", "native"] {
        let lab = case.lab_for_both();
        in_dir(&lab.base(), FILL);
        let at = lab.create("ci", &["--mode", mode, "--owner", "none"]);
        in_dir(&at, WRECK);
        lab.ok(&["commit", "ci", "one"]);
        lab.ok(&["reset", "ci", "--to", "one"]);
        let one = timeless(of_kernel(&at));
        let mut lines = vec![lab.ok(&["diff", "ci", "one"]), lab.ok(&["diff", "ci"])];
        assert_eq!(lines, ["", ""], "{mode}: nothing was changed since");
        in_dir(&at, "echo again > over; mv moved moved-again; rm -r added; mkdir logs; chmod 640 type/t");
        lines.push(lab.ok(&["diff", "ci", "one"]));
        lines.push(lab.ok(&["diff", "ci", "one", "--content"]));
        lab.ok(&["commit", "ci", "two"]);
        let two = timeless(of_kernel(&at));
        lines.push(lab.ok(&["diff", "ci", "one"]));
        lines.push(lab.ok(&["diff", "ci", "two"]));
        lab.ok(&["verify", "--all"]);
        for (to, shows) in [("one", &one), ("two", &two), ("one", &one)] {
            lab.ok(&["reset", "ci", "--to", to]);
            assert_same(shows, &timeless(of_kernel(&at)), &format!("{mode}: {to}"));
            in_dir(&at, "rm -r new; echo x > large");
            lab.ok(&["reset", "ci"]);
            assert_same(shows, &timeless(of_kernel(&at)), &format!("{mode}: {to} again"));
        }
        let upon = lab.json(&["list", "--layers"]);
        lines.push(
            upon["layers"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|layer| layer["entries"].to_string())
                .collect(),
        );
        lab.ok(&["reset", "ci", "--to-base"]);
        assert_eq!(read(at.join("over")), "over\n", "{mode}");
        lines.push(lab.ok(&["diff", "ci"]));
        let why = lab.fails(2, &["diff", "ci", "none"]);
        assert!(why.contains("none"), "{mode}: {why}");
        told.push(lines);
        destroy_all(&lab, &["ci@two", "ci@one"]);
    }
    assert_eq!(told[0], told[1]);
    assert!(told[0][2].contains("M over  5 -> 6\n"), "{}", told[0][2]);
}

#[test]
fn what_a_clone_shows_upon_layers_is_what_the_kernel_shows_upon_them() {
    ground!("overlay", "btrfs");
    shows_as_the_kernel(NATIVE, 12);
}

/// Layers upon layers of random things done, made in both modes in turn.
pub fn shows_as_the_kernel(case: Case, seeds: u64) {
    let lab = case.lab_for_both();
    for seed in 0..seeds {
        let (mut random, mut names) = (Random(seed * 7_368_787 + 3), Vec::new());
        (0..80).for_each(|_| random.act(&lab.base(), &mut names));
        let at = lab.create("ci", &["--mode", "native", "--owner", "none"]);
        let upon = lab.create("upon", &["--mode", "kernel", "--owner", "none"]);
        let mut layers = Vec::new();
        for (number, (name, from)) in [("ci", &at), ("upon", &upon), ("ci", &at)].into_iter().enumerate() {
            (0..60).for_each(|_| random.act(from, &mut names));
            let layer = format!("layer-{number}");
            let context = format!("seed {seed}, {layer} of {name}");
            let shown = of_kernel(from);
            lab.ok(&["commit", name, &layer]);
            layers.insert(0, format!("{name}@{layer}"));
            lab.ok(&["reset", "upon", "--to", &layers[0]]);
            lab.ok(&["reset", "ci", "--to", &layers[0]]);
            assert_same(&of_kernel(&upon), &of_kernel(&at), &context);
            assert_same(&shown, &of_kernel(&at), &context);
        }
        // What differs from a layer below is that which makes it the tree that shows.
        (0..60).for_each(|_| random.act(&at, &mut names));
        let changes = overlay::diff(
            &lab.home(),
            &"ci".parse().expect("a name"),
            Some(&"layer-0".parse().expect("a name")),
            1,
            NOTHING_READ,
        )
        .expect("a diff");
        lab.ok(&["reset", "upon", "--to", "ci@layer-0"]);
        let copy = lab.root().join(format!("copy-{seed}"));
        run("cp", &["-aT", utf8(&upon), utf8(&copy)]);
        apply(&changes, &copy, &at);
        assert_same(&timeless(of_kernel(&at)), &timeless(of_kernel(&copy)), &format!("seed {seed}: told"));
        lab.ok(&["destroy", "ci", "upon"]);
        layers.iter().for_each(|layer| drop(lab.ok(&["destroy", layer])));
        fs::remove_dir_all(&copy).expect("removed");
    }
    assert_nothing_left(&lab);
}

#[test]
fn the_tree_of_a_layer_is_made_once_and_goes_with_the_layer_or_the_overlay() {
    ground!("overlay", "btrfs");
    made_once(NATIVE);
}

pub fn made_once(case: Case) {
    let lab = case.lab();
    let at = lab.create("ci", &["--mode", "native", "--owner", "none"]);
    for layer in ["one", "two"] {
        lab.ok(&["reset", "ci", "--to-base"]);
        fs::write(at.join("file"), layer).expect("written");
        lab.ok(&["commit", "ci", layer]);
    }
    assert_eq!(stacks(&lab), BTreeSet::new(), "none is made before it is needed");
    let text = |stacks: &BTreeSet<PathBuf>| stacks.iter().map(read).collect::<Vec<_>>();
    lab.ok(&["reset", "ci", "--to", "one"]);
    let first = stacks(&lab);
    assert_eq!(first.len(), 1);
    let named = text(&first);
    for _ in 0..3 {
        fs::write(at.join("file"), "changed").expect("written");
        lab.ok(&["reset", "ci"]);
        assert_eq!(read(at.join("file")), "one");
    }
    assert_eq!((stacks(&lab), text(&stacks(&lab))), (first, named), "it is the one that was made");
    lab.ok(&["diff", "ci", "two"]);
    assert_eq!(stacks(&lab).len(), 2);
    assert!(lab.fails(3, &["destroy", "ci@one"]).contains("overlay ci builds on it"));
    lab.ok(&["destroy", "ci@two"]);
    waits("its tree to go", || stacks(&lab).len() == 1);
    lab.ok(&["reset", "ci", "--to-base"]);
    lab.ok(&["destroy", "ci@one"]);
    waits("its tree to go", || stacks(&lab).is_empty());
    assert_eq!(read(at.join("file")), "base");
    destroy_all(&lab, &[]);
}

#[test]
fn a_tree_of_layers_is_made_anew_if_the_base_was_changed() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    let at = lab.create("ci", &["--mode", "native", "--owner", "none"]);
    fs::write(at.join("file"), "layer's").expect("written");
    lab.ok(&["commit", "ci", "one"]);
    lab.ok(&["reset", "ci", "--to", "one"]);
    fs::write(at.join("mine"), "x").expect("written");
    fs::write(lab.base().join("dir/deep/file"), "the base's").expect("written");
    assert_eq!(lab.ok(&["diff", "ci"]), "A mine  1\n", "it is compared with what it was made of");
    lab.ok(&["diff", "ci", "one"]);
    assert_eq!(lab.ok(&["diff", "ci"]), "A mine  1\n", "that is there still");
    lab.ok(&["reset", "ci"]);
    assert_eq!(
        (read(at.join("file")), read(at.join("dir/deep/file"))),
        ("layer's".into(), "the base's".into())
    );
    assert_eq!(lab.ok(&["diff", "ci"]), "");
    waits("the old one to go", || stacks(&lab).len() == 1);
    destroy_all(&lab, &["ci@one"]);
}

#[test]
fn a_clone_lies_on_a_layer_of_blocks_that_are_no_files() {
    ground!("overlay", "btrfs", "fuse", "root");
    let lab = subvolume_lab();
    run("sh", &["-c", &format!("head -c 3000000 /dev/urandom > '{}/random'", utf8(&lab.base()))]);
    let fuse = lab.create("fuse", &["--mode", "fuse", "--owner", "none"]);
    in_dir(
        &fuse,
        "printf patched | dd of=random bs=1 seek=1000000 conv=notrunc status=none; mknod null c 1 3; rm symlink",
    );
    lab.ok(&["commit", "fuse", "patched"]);
    let at = lab.at("upon");
    lab.ok(&["create", "upon", "--base", "fuse@patched", "--at", utf8(&at), "--mode", "native"]);
    assert_same(&of_kernel(&fuse), &of_kernel(&at), "upon the blocks");
    assert_eq!(lab.ok(&["diff", "upon"]), "");
    fs::write(at.join("file"), "more").expect("written");
    assert_eq!(lab.ok(&["diff", "upon", "patched"]), "M dir/link  4\nM file  4\n");
    lab.ok(&["reset", "upon"]);
    assert_eq!(read(at.join("file")), "base");
    destroy_all(&lab, &["fuse@patched"]);
}

#[test]
fn each_of_several_copies_is_committed_by_its_number_and_all_go_back_to_a_layer() {
    ground!("overlay", "btrfs");
    copies_are_committed(NATIVE);
}

pub fn copies_are_committed(case: Case) {
    let lab = case.lab();
    let at = lab.create("ci", &["--mode", "native", "--copies", "3", "--owner", "none"]);
    let of = |copy: u32| at.join(copy.to_string()).join("file");
    (1..=3).for_each(|copy| fs::write(of(copy), copy.to_string()).expect("written"));
    let why = lab.fails(3, &["commit", "ci", "x"]);
    assert!(why.contains("it has 3 copies") && why.contains("--copy N"), "{why}");
    assert!(lab.fails(2, &["commit", "ci", "x", "--copy", "4"]).contains("4 of overlay ci, which has 3"));
    lab.ok(&["commit", "ci", "second", "--copy", "2"]);
    assert_eq!([1, 2, 3].map(|copy| read(of(copy))), ["1", "2", "3"], "they go on");
    lab.ok(&["reset", "ci", "--to", "second"]);
    assert_eq!([1, 2, 3].map(|copy| read(of(copy))), ["2", "2", "2"]);
    fs::write(of(3), "more").expect("written");
    assert_eq!(lab.ok(&["diff", "ci", "second", "--copy", "3"]), lab.ok(&["diff", "ci", "--copy", "3"]));
    lab.ok(&["commit", "ci", "third", "--copy", "3"]);
    lab.ok(&["reset", "ci", "--copy", "3"]);
    assert_eq!(read(of(3)), "2");
    lab.ok(&["reset", "ci", "--to", "third"]);
    assert_eq!([1, 2, 3].map(|copy| read(of(copy))), ["more", "more", "more"]);
    destroy_all(&lab, &["ci@third", "ci@second"]);
}

fn reset_killed(
    verb: &str,
    root: &Path,
    before: &mut dyn FnMut(Step) -> Result<(), Error>,
) -> Result<(), Error> {
    let home = Home::open(&root.join("home"))?;
    let name = "ci".parse().expect("a name");
    let layers = match verb {
        "base" => Vec::new(),
        layer => stack_to(&home, &name, &LayerOf::This(layer.parse().expect("a name")))?,
    };
    let request = Request { copies: None, layers: Some(layers), survivors: Survivors::Refuse };
    reset(&home, &name, &request, before).map(drop)
}

#[test]
fn a_copys_layer_is_what_that_copy_shows_also_when_a_reset_did_not_reach_all_copies() {
    ground!("overlay", "btrfs");
    let lab = subvolume_lab();
    let at = lab.create("ci", &["--mode", "native", "--copies", "2", "--owner", "none"]);
    fs::write(at.join("1/of-layer"), "one").expect("written");
    fs::remove_file(at.join("1/file")).expect("removed");
    lab.ok(&["commit", "ci", "one", "--copy", "1"]);
    let home = Home::open(&lab.home_dir()).expect("a home");
    let name = "ci".parse().expect("a name");
    let one = stack_to(&home, &name, &LayerOf::This("one".parse().expect("a name"))).expect("a layer");
    // Up to the layer, and then back from it.
    for (to, layer, copy) in [(one, "of-1", "1"), (Vec::new(), "of-2", "1"), (Vec::new(), "of-3", "2")] {
        if layer == "of-2" {
            lab.ok(&["reset", "ci", "--to", "one"]);
        }
        if layer != "of-3" {
            let request = Request { copies: None, layers: Some(to), survivors: Survivors::Refuse };
            let mut n_swaps = 0;
            let done = reset(&home, &name, &request, &mut |step| {
                n_swaps += usize::from(matches!(step, Step::Swap));
                match n_swaps {
                    2 => Err(Error::io("swap", "the second copy")(rustix::io::Errno::IO)),
                    _ => Ok(()),
                }
            });
            assert!(done.is_err() && n_swaps == 2, "{done:?}");
        }
        fs::write(at.join(copy).join("own"), layer).expect("written");
        lab.ok(&["commit", "ci", layer, "--copy", copy]);
        let shown = timeless(of_kernel(&at.join(copy)));
        let (base, upon) = (format!("ci@{layer}"), lab.at("upon"));
        let args =
            ["create", "upon", "--base", &base, "--at", utf8(&upon), "--mode", "native", "--owner", "none"];
        lab.ok(&args);
        assert_same(&timeless(of_kernel(&upon)), &shown, layer);
        lab.ok(&["destroy", "upon"]);
    }
    destroy_all(&lab, &["ci@of-3", "ci@of-2", "ci@of-1", "ci@one"]);
}

killed!(kill_before, child_that_dies_while_it_works, reset_killed);

#[test]
fn after_a_reset_of_a_clone_to_a_layer_is_killed_at_any_step_the_next_one_works() {
    ground!("overlay", "btrfs");
    killed_at_any_step(NATIVE);
}

pub fn killed_at_any_step(case: Case) {
    let lab = case.lab();
    for (n, step) in Step::RESET.into_iter().enumerate() {
        let ways = [("one", "one"), ("base", "base")];
        // In the guest, which is slow, up to the layer and back from it in turn.
        let ways = if case.points(2) == 2 { &ways[..] } else { &ways[n % 2..=n % 2] };
        for &(to, shows) in ways {
            let at = lab.create("ci", &["--mode", "native", "--owner", "none"]);
            fs::write(at.join("file"), "one").expect("written");
            lab.ok(&["commit", "ci", "one"]);
            if to == "base" {
                lab.ok(&["reset", "ci", "--to", "one"]);
            }
            kill_before(&lab, to, step);
            let context = format!("{to} {step:?}");
            let is_done = matches!(step, Step::Record | Step::Discard);
            assert_eq!(read(at.join("file")), if is_done { shows } else { "one" }, "{context}");
            lab.ok(&["reap"]);
            // What shows is what it lies on from now on.
            lab.ok(&["reset", "ci"]);
            let before = if to == "one" { "base" } else { "one" };
            assert_eq!(read(at.join("file")), if is_done { shows } else { before }, "{context}");
            assert_eq!(lab.ok(&["diff", "ci"]), "", "{context}");
            lab.ok(&["reset", "ci", "--to", "one"]);
            assert_eq!(
                (read(at.join("file")), lab.ok(&["diff", "ci", "one"])),
                ("one".into(), String::new())
            );
            destroy_all(&lab, &["ci@one"]);
        }
    }
}

#[test]
fn kill_9_while_layers_are_put_together_leaves_nothing_and_the_next_one_does_it() {
    ground!("overlay", "btrfs");
    killed_while_put_together(NATIVE);
}

pub fn killed_while_put_together(case: Case) {
    let lab = case.lab();
    let at = lab.create("ci", &["--mode", "native", "--owner", "none"]);
    in_dir(&at, "mkdir many; for n in $(seq 300); do echo $n > many/$n; done; mv dir elsewhere");
    lab.ok(&["commit", "ci", "one"]);
    let started = Instant::now();
    lab.ok(&["reset", "ci", "--to", "one"]);
    let whole = started.elapsed();
    lab.ok(&["reset", "ci", "--to-base"]);
    // Each has nine commands and three hundred files: in the guest it is two.
    let points = case.points(case.points(10));
    for point in 0..points {
        // As if it had never been made: the layer is another one.
        let layer = format!("layer-{point}");
        in_dir(&at, "mkdir many; for n in $(seq 300); do echo $n > many/$n; done; mv dir elsewhere");
        lab.ok(&["commit", "ci", &layer]);
        lab.ok(&["reset", "ci"]);
        let mut child = lab.command(&["reset", "ci", "--to", &layer]);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        std::thread::sleep(whole * point / points);
        child.kill().expect("killed");
        child.wait().expect("ended");
        lab.ok(&["reap"]);
        lab.ok(&["reset", "ci", "--to", &layer]);
        assert_eq!(read(at.join("many/300")), "300\n", "{point}");
        assert!(at.join("elsewhere/deep/file").exists() && !at.join("dir").exists(), "{point}");
        assert_eq!(lab.ok(&["diff", "ci", &layer]), "", "{point}");
        lab.ok(&["reset", "ci", "--to-base"]);
        lab.ok(&["destroy", &format!("ci@{layer}")]);
        waits("its tree to go", || stacks(&lab).len() <= 1);
    }
    destroy_all(&lab, &["ci@one"]);
}
