//! Whole transfers, each way.

use cowsnap::Class;
use cowsnap::endpoint::History;
use cowsnap::exec::transfer::Place;

use super::lab::{Lab, bring, full, noise, upon};
use crate::ground::ground;

#[test]
fn a_version_and_its_increment_arrive_each_way() {
    ground!("btrfs");
    for way in ["here to here", "here to there", "there to here", "there to there"] {
        let lab = Lab::new();
        lab.write("a", &noise(1, 3_000_000));
        let one = lab.snapshot("one");
        lab.write("b", &noise(2, 100_000));
        let two = lab.snapshot("two");
        let serve = lab.serve("");
        let from = if way.starts_with("here") { Place::Here(lab.from()) } else { lab.source_peer(&serve) };
        let to = if way.ends_with("here") { Place::Here(lab.to()) } else { lab.target_peer(&serve) };
        assert!(to.look().unwrap().0.versions().is_empty());
        let moved = bring(&from, &to, &full(&one)).unwrap_or_else(|error| panic!("{way}: {error:?}"));
        assert!(moved.stream_bytes > 3_000_000 && moved.resumed_bytes == 0, "{way}: {moved:?}");
        let moved = bring(&from, &to, &upon(&two, &one)).unwrap();
        assert!((100_000..1_000_000).contains(&moved.stream_bytes), "{way}: {moved:?}");
        lab.expect_same(&one);
        lab.expect_same(&two);
        assert_eq!(to.look().unwrap().0.versions().len(), 2);
        assert_eq!(lab.left(), Vec::<String>::new(), "{way}");
    }
}

#[test]
fn a_peer_keeps_and_destroys_what_it_is_asked_to() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", b"some");
    let one = lab.snapshot("one");
    let there = lab.source_peer(&lab.serve(""));
    let tag = "cowsnap:x".parse().unwrap();
    there.hold(&one.id, &tag).unwrap();
    let held = there.destroy(&one.id).unwrap_err();
    assert_eq!(held.class(), Class::Conflict);
    assert!(held.to_string().contains("held by cowsnap:x"), "{held}");
    assert_eq!(there.inventory().unwrap().holds().len(), 1);
    there.release(&one.id, &tag).unwrap();
    there.destroy(&one.id).unwrap();
    assert!(lab.from().inventory().unwrap().versions().is_empty());
    let gone = bring(&there, &Place::Here(lab.to()), &full(&one)).unwrap_err();
    assert_eq!(gone.class(), Class::Usage, "{gone:?}");
    assert!(there.inventory().is_ok(), "a request that fails does not end the conversation");
}

#[test]
fn who_may_only_receive_below_one_place_can_do_nothing_else() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", &noise(1, 100_000));
    let (one, two) = (lab.snapshot("one"), lab.snapshot("two"));
    let under = lab.target.path();
    let serve = lab.serve(&format!("--allow receive --under '{}' --append-only", under.display()));
    let (from, to) = (Place::Here(lab.from()), lab.target_peer(&serve));
    bring(&from, &to, &full(&one)).unwrap();
    let denied = |error: cowsnap::Error| {
        assert_eq!(error.class(), Class::Denied, "{error:?}");
        error.to_string()
    };
    assert!(denied(to.destroy(&one.id).unwrap_err().into()).contains("take nothing away"));
    let elsewhere = bring(&from, &lab.peer(&lab.source.path().join("x"), &serve), &full(&two)).unwrap_err();
    assert!(denied(elsewhere).contains("is for what is under"));
    let up = lab.peer(&under.join("../up"), &serve);
    assert!(denied(bring(&from, &up, &full(&two)).unwrap_err()).contains("is for what is under"));
    std::os::unix::fs::symlink(lab.source.path(), under.join("link")).unwrap();
    let through = lab.peer(&under.join("link/copy"), &serve);
    assert!(denied(bring(&from, &through, &full(&two)).unwrap_err()).contains("symbolic link"));
    let out = bring(&to, &Place::Here(lab.from()), &full(&one)).unwrap_err();
    assert!(denied(out).contains("is for receive"));
    assert_eq!(lab.to().inventory().unwrap().versions().len(), 1);
}

/// A filesystem in memory, unmounted with the value.
struct Fast(std::path::PathBuf);

impl Fast {
    fn new(outside: &std::path::Path) -> Self {
        let at = outside.join("fast");
        std::fs::create_dir(&at).unwrap();
        crate::ground::run("mount", &["-t", "tmpfs", "none", at.to_str().unwrap()]);
        Self(at)
    }
}

impl Drop for Fast {
    fn drop(&mut self) {
        crate::ground::run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

/// A local user of the target exchanges a directory for a link, over and over: nothing behind the link is ever served.
#[test]
fn a_directory_that_is_exchanged_for_a_link_leads_nowhere_else() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.write("a", b"secret");
    lab.snapshot("one");
    // Where an exchange takes microseconds: on btrfs the moment between two looks is hardly ever met.
    let fast = Fast::new(lab.source.outside());
    let under = &fast.0;
    let (door, trap) = (under.join("door"), under.join("trap"));
    std::fs::create_dir(&door).unwrap();
    std::os::unix::fs::symlink(lab.source.path(), &trap).unwrap();
    let serve = lab.serve(&format!("--allow list,receive --under '{}'", under.display()));
    // Through the link it would be the source.
    let there = lab.peer(&door.join("data"), &serve);
    let (swapping, swaps) =
        (std::sync::atomic::AtomicBool::new(true), std::sync::atomic::AtomicUsize::new(0));
    let (mut seen, mut denied, mut nothing) = (0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while swapping.load(std::sync::atomic::Ordering::Relaxed) {
                rustix::fs::renameat_with(rustix::fs::CWD, &door, rustix::fs::CWD, &trap, flags).unwrap();
                swaps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        let until = std::time::Instant::now() + std::time::Duration::from_secs(4);
        while std::time::Instant::now() < until {
            match there.look() {
                Ok((inventory, _)) if inventory.versions().is_empty() => nothing += 1,
                Ok(_) => seen += 1,
                Err(_) => denied += 1,
            }
        }
        swapping.store(false, std::sync::atomic::Ordering::Relaxed);
    });
    let swaps = swaps.into_inner();
    assert!(swaps > 100 && denied > 10, "{swaps} swaps, {denied} denied, {nothing} found nothing");
    assert_eq!(seen, 0, "of {denied} denied and {nothing} that found nothing, with {swaps} swaps");
}

#[test]
fn what_answers_and_is_no_cowsnap_is_quoted_and_nobody_is_unreachable() {
    ground!("btrfs");
    let lab = Lab::new();
    let address = "ssh://there/tank/a".parse().unwrap();
    let connect = |remote: &str| {
        let ssh = lab.ssh(remote);
        cowsnap::endpoint::peer::Peer::connect(&address, &ssh).err().expect("it fails")
    };
    let error = connect("echo Welcome to the machine; cat");
    assert_eq!(error.class(), Class::Denied);
    assert!(error.to_string().contains("Welcome to the machine"), "{error}");
    assert_eq!(connect("exit 255").class(), Class::Unreachable);
    let mut missing = lab.ssh("x");
    missing.program = vec!["/nonexistent/ssh".into()];
    let error = cowsnap::endpoint::peer::Peer::connect(&address, &missing).err().expect("it fails");
    assert_eq!(error.class(), Class::Denied);
}
