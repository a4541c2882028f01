//! SIGKILL before every step, and at any time: the next command works, and nothing is lost that was there.

use std::fs;
use std::process::Stdio;
use std::time::Instant;

use cowsnap::endpoint::Error;
use cowsnap::endpoint::overlay::{Home, base, fuse};
use cowsnap::exec::overlay::reset::{Request, reset};
use cowsnap::exec::overlay::{New, Step, Survivors, create, destroy, unhindered};
use cowsnap::model::overlay::Mode;

use super::killed::{killed, mode_called};
use super::lab::{Lab, read, utf8};
use crate::ground::{self, ground};

/// The modes of which this machine has the ground.
fn modes() -> Vec<Mode> {
    let grounds = [("overlay", Mode::Kernel), ("fuse", Mode::Fuse)];
    grounds.into_iter().filter(|(what, _)| ground::lacking(what).is_none()).map(|(_, mode)| mode).collect()
}

fn new(lab_root: &std::path::Path, mode: Mode) -> New {
    New {
        name: "ci".parse().expect("a name"),
        base: base::of_dir(&lab_root.join("base")).expect("a base"),
        at: lab_root.join("mnt/ci"),
        copies: 2,
        mode: Some(mode),
        owner: None,
        durable: false,
        layers: Vec::new(),
        more: Default::default(),
    }
}

fn do_verb(
    verb: &str,
    mode: Mode,
    root: &std::path::Path,
    before: &mut dyn FnMut(Step) -> Result<(), Error>,
) -> Result<(), Error> {
    // This program has no command to serve with.
    fuse::daemon::set_program(env!("CARGO_BIN_EXE_cowsnap").into());
    let home = Home::open(&root.join("home"))?;
    let name = "ci".parse().expect("a name");
    let request = Request { copies: None, layers: None, survivors: Survivors::Refuse };
    match verb {
        "create" => create(&home, &new(root, mode), before).map(drop),
        "reset" => reset(&home, &name, &request, before).map(drop),
        _ => destroy(&home, &name, Survivors::Refuse, before).map(drop),
    }
}

killed!(kill_doing, child_that_dies_while_it_works, |verb, root, die| {
    let (verb, mode) = verb.split_once(' ').expect("a verb and a mode");
    do_verb(verb, mode_called(mode), root, die)
});

fn kill_before(lab: &Lab, mode: Mode, verb: &str, step: Step) {
    kill_doing(lab, &format!("{verb} {mode}"), step);
}

/// What must hold of an overlay that is whole.
fn assert_whole(lab: &Lab, what: &str) {
    for copy in [1, 2] {
        let at = lab.at("ci").join(copy.to_string());
        assert_eq!(read(at.join("file")), "base", "{what}");
        fs::write(at.join("file"), "changed").expect("writable");
        assert_eq!(read(at.join("dir/link")), "changed", "{what}");
    }
    assert_eq!(lab.mounts().len(), 2, "{what}: {:?}", lab.mounts());
    assert_eq!(read(lab.base().join("file")), "base", "{what}: the base was changed");
}

fn create_again(lab: &Lab, mode: Mode) {
    let (base, at) = (lab.base(), lab.at("ci"));
    lab.ok(&[
        "create",
        "ci",
        "--base",
        utf8(&base),
        "--at",
        utf8(&at),
        "--copies",
        "2",
        "--mode",
        mode.as_str(),
    ]);
}

#[test]
fn after_a_maker_is_killed_at_any_step_the_next_create_works() {
    ground!("overlay");
    for mode in modes() {
        for step in Step::CREATE {
            let lab = Lab::new();
            kill_before(&lab, mode, "create", step);
            create_again(&lab, mode);
            assert_whole(&lab, &format!("{step:?}"));
            lab.ok(&["destroy", "ci"]);
            assert!(!lab.at("ci").exists(), "{step:?}: a directory is left");
            lab.assert_nothing_left();
        }
    }
}

#[test]
fn after_a_maker_is_killed_at_any_step_a_reap_leaves_nothing() {
    ground!("overlay");
    for mode in modes() {
        for step in Step::CREATE {
            let lab = Lab::new();
            kill_before(&lab, mode, "create", step);
            lab.ok(&["reap"]);
            assert!(!lab.at("ci").exists(), "{step:?}: a directory is left");
            lab.assert_nothing_left();
        }
    }
}

#[test]
fn after_a_reset_is_killed_at_any_step_the_overlay_is_there_and_can_be_reset() {
    ground!("overlay");
    for mode in modes() {
        for step in Step::RESET {
            let lab = Lab::new();
            do_verb("create", mode, lab.root(), &mut unhindered).expect("made");
            for copy in [1, 2] {
                fs::write(lab.at("ci").join(format!("{copy}/file")), "mine").expect("written");
            }
            kill_before(&lab, mode, "reset", step);
            for copy in [1, 2] {
                let found = read(lab.at("ci").join(format!("{copy}/file")));
                assert!(
                    found == "mine" || found == "base",
                    "{step:?}: neither the old tree nor the new one: {found}"
                );
            }
            assert_eq!(lab.ok(&["reap"]), "nothing to reap\n", "{step:?}");
            lab.ok(&["reset", "ci"]);
            assert_whole(&lab, &format!("{step:?}"));
            for copy in [1, 2] {
                let generations =
                    lab.home().entry(&"ci".parse().expect("a name")).generations(copy).expect("listed");
                assert_eq!(generations.len(), 1, "{step:?}: an old generation is left");
            }
            lab.ok(&["destroy", "ci"]);
            lab.assert_nothing_left();
        }
    }
}

#[test]
fn after_a_destroyer_is_killed_at_any_step_it_can_be_destroyed_reaped_or_made_again() {
    ground!("overlay");
    for mode in modes() {
        for step in Step::DESTROY {
            for next in ["destroy", "reap", "create"] {
                let lab = Lab::new();
                do_verb("create", mode, lab.root(), &mut unhindered).expect("made");
                kill_before(&lab, mode, "destroy", step);
                match next {
                    "destroy" => drop(lab.ok(&["destroy", "ci"])),
                    "reap" if step == Step::Mark => {
                        // Nothing was done yet.
                        assert_eq!(lab.ok(&["reap"]), "nothing to reap\n");
                        lab.ok(&["destroy", "ci"]);
                    }
                    "reap" => {
                        assert_eq!(lab.ok(&["reap"]), "reaped ci: its destroyer was killed\n", "{step:?}")
                    }
                    _ => {
                        if step == Step::Mark {
                            lab.ok(&["destroy", "ci"]);
                        }
                        create_again(&lab, mode);
                        assert_whole(&lab, &format!("{step:?}"));
                        lab.ok(&["destroy", "ci"]);
                    }
                }
                assert!(!lab.at("ci").exists(), "{step:?} {next}: a directory is left");
                lab.assert_nothing_left();
            }
        }
    }
}

#[test]
fn a_verb_that_fails_at_any_step_leaves_nothing_half_made() {
    ground!("overlay");
    for mode in modes() {
        for failing in Step::CREATE {
            let lab = Lab::new();
            let mut fail = |step| match step == failing {
                true => Err(Error::Interrupted { op: "make overlay", subject: "ci".into() }),
                false => Ok(()),
            };
            do_verb("create", mode, lab.root(), &mut fail).expect_err("the step fails");
            assert!(!lab.at("ci").exists(), "{failing:?}: a directory is left");
            lab.assert_nothing_left();
        }
    }
}

/// How many points of a command's time it is killed at.
const POINTS: u32 = 16;

#[test]
fn kill_9_at_any_time_of_any_command_is_survived() {
    ground!("overlay");
    for mode in modes() {
        let lab = Lab::new();
        create_again(&lab, mode);
        let mut deaths = 0;
        for args in [&["reset", "ci"][..], &["destroy", "ci"]] {
            let started = Instant::now();
            lab.ok(args);
            let whole = started.elapsed();
            for point in 0..POINTS {
                if !lab.names().contains(&"ci".to_owned()) {
                    create_again(&lab, mode);
                }
                let mut child =
                    lab.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
                std::thread::sleep(whole * point / POINTS);
                child.kill().expect("killed");
                deaths += usize::from(!child.wait().expect("ended").success());
                lab.ok(&["reap"]);
                match lab.names().is_empty() {
                    true => assert_eq!(lab.mounts(), [""; 0].map(std::path::PathBuf::from)),
                    false => {
                        lab.ok(&["reset", "ci"]);
                        assert_whole(&lab, &format!("{args:?} {point}"));
                    }
                }
            }
        }
        assert!(deaths > 0, "each was done before it was killed");
        lab.ok(&["destroy", "--all"]);
        lab.assert_nothing_left();
    }
}
