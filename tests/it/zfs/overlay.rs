//! Overlays of mode native on ZFS: what every mode promises, and what is ZFS' own.

use std::fs;
use std::path::Path;
use std::process::Output;

use cowsnap::endpoint::History;
use cowsnap::endpoint::zfs::all_of_pool;

use super::ground::{Pool, zfs, zpool};
use super::lab::{dataset, exists, name, property, snap, snapshots};
use crate::ground::{self, ground, waits};
use crate::overlay::lab::{Lab, read, text, utf8};
use crate::overlay::modes::{self, NATIVE_ZFS, assert_nothing_left};
use crate::overlay::native::{self, create, spare};
use crate::overlay_layer::native::told_is_what_shows as told_of_clones;
use crate::overlay_layer::stacks;

/// Each as a test of its own: what holds of clones whichever filesystem makes them.
macro_rules! shared {
    ($($test:ident: $check:path),+ $(,)?) => {
        $(#[test]
        fn $test() {
            ground!("zfs");
            $check(NATIVE_ZFS);
        })+
    };
}

shared! {
    a_tree_looks_like_its_base_takes_changes_and_gives_them_back:
        modes::a_tree_looks_like_its_base_takes_changes_and_gives_them_back,
    a_reader_never_sees_an_empty_tree_where_the_kernel_can: modes::a_reader_never_sees_an_empty_tree,
    copies_are_apart: modes::copies_are_apart,
    who_uses_it_is_named: modes::who_uses_it_is_named,
    a_command_of_its_own_has_one: modes::a_command_of_its_own_has_one,
    after_a_create_is_killed_at_any_step_the_next_one_works: modes::after_a_create_is_killed,
    after_a_reset_is_killed_at_any_step_the_next_one_works: modes::after_a_reset_is_killed,
    after_a_destroy_is_killed_at_any_step_it_is_finished: modes::after_a_destroy_is_killed,
    kill_9_at_any_time_is_survived: modes::kill_9_at_any_time_is_survived,
    a_snapshot_is_cloned_and_is_not_changed: native::of_a_snapshot,
    a_clone_whose_file_was_lost_in_a_crash_goes_with_its_overlay: native::with_lost_files,
    what_is_told_of_a_clone_is_what_it_shows_and_so_does_its_layer: told_is_what_shows,
    a_layer_is_given_back_and_told_of_as_by_the_kernel: stacks::given_back_alike,
    what_a_clone_shows_upon_layers_is_what_the_kernel_shows_upon_them: shows_as_the_kernel,
    the_tree_of_a_layer_is_made_once_and_goes_with_the_layer_or_the_overlay: stacks::made_once,
    each_of_several_copies_is_committed_by_its_number_and_all_go_back_to_a_layer: stacks::copies_are_committed,
    after_a_reset_to_a_layer_is_killed_at_any_step_the_next_one_works: stacks::killed_at_any_step,
    kill_9_while_layers_are_put_together_leaves_nothing: stacks::killed_while_put_together,
    kill_9_of_a_create_leaves_nothing: native::killed_while_it_is_made,
    kill_9_of_what_makes_clones_in_the_background_leaves_none: native::killed_in_the_background,
}

fn shows_as_the_kernel(case: modes::Case) {
    stacks::shows_as_the_kernel(case, 1);
}

fn told_is_what_shows(case: modes::Case) {
    told_of_clones(case, 4, &["kernel"]);
}

#[test]
fn what_shows_snapshots_is_no_part_of_a_diff() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    zfs(&["set", "snapdir=visible", &lab.pool().name]);
    create(&lab, utf8(&lab.base()), &["--mode", "native"]);
    let at = lab.at("ci");
    assert!(
        fs::read_dir(&at).expect("listed").flatten().any(|entry| entry.file_name() == ".zfs"),
        "it is listed"
    );
    fs::rename(at.join("dir"), at.join("renamed")).expect("renamed");
    fs::write(at.join("renamed/deep/file"), "deeper").expect("written");
    assert_eq!(lab.ok(&["diff", "ci"]), "R dir -> renamed\nM renamed/deep/file  4 -> 6\n");
    lab.ok(&["commit", "ci", "x"]);
    assert_eq!(lab.ok(&["verify", "--all"]), "ci@x  sound\n");
    lab.ok(&["destroy", "ci", "ci@x"]);
    assert_nothing_left(&lab);
}

fn cowsnap(lab: &Lab, args: &[&str]) -> Output {
    ground::cowsnap(&lab.home_dir().join("state")).args(args).output().expect("it runs")
}

fn ok(lab: &Lab, args: &[&str]) -> String {
    let output = cowsnap(lab, args);
    assert!(output.status.success(), "{args:?} {}", text(&output));
    String::from_utf8(output.stdout).expect("utf-8")
}

fn refused(lab: &Lab, args: &[&str]) -> String {
    let output = cowsnap(lab, args);
    assert_eq!(output.status.code(), Some(3), "{args:?} {}", text(&output));
    text(&output)
}

/// The dataset that shows at `dir`.
fn shown_at(dir: &Path) -> String {
    let mounts = cowsnap::sys::mount::mounts().expect("mountinfo");
    let found = mounts.into_iter().rfind(|m| m.dir == dir).expect("something is mounted there");
    found.source.into_os_string().into_string().expect("utf-8")
}

#[test]
fn it_is_chosen_where_the_base_can_be_cloned_and_else_it_is_said_why_not() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    let base = lab.base();
    let made = create(&lab, utf8(&base), &[]);
    let why = made["overlay"]["why"].to_string();
    assert!(
        made["overlay"]["mode"] == "native" && why.contains("on ZFS, which clones it in one call"),
        "{made}"
    );
    lab.ok(&["destroy", "ci"]);
    let at = lab.at("ci");
    let volume = lab.pool().volume("disk", "64M");
    zfs(&["snapshot", &format!("{volume}@s")]);
    for (base, why) in [
        (utf8(&base.join("dir")).to_owned(), "a plain directory inside the filesystem"),
        (format!("{volume}@s"), "it is a volume"),
    ] {
        let said = lab.fails(6, &["create", "ci", "--base", &base, "--at", utf8(&at), "--mode", "native"]);
        assert!(said.contains(why), "{said}");
    }
    assert_nothing_left(&lab);
}

#[test]
fn it_is_taken_only_if_asked_for_where_it_can_not_be_made_or_would_be_in_somebodys_way() {
    ground!("zfs");
    let pool = Pool::new();
    let lab = Lab::new();
    let (base, dir, at) = (pool.dataset("base"), pool.path("base"), lab.at("ci"));
    zfs(&["snapshot", &format!("{base}@s")]);
    let of_snapshot = format!("{base}@s");
    let auto = |base: &str| {
        text(&lab.run(&["--json", "create", "ci", "--base", base, "--at", utf8(&at), "--dry-run"]))
    };
    let is_native = |base: &str| assert!(auto(base).contains("clones it in one call"), "{}", auto(base));
    let is_not = |base: &str, why: &str| {
        let said = auto(base);
        assert!(said.contains("not native: ") && said.contains(why), "{said}");
    };
    let asked = ["create", "ci", "--at", utf8(&at), "--mode", "native", "--base"];
    is_native(utf8(&dir));
    is_native(&of_snapshot);
    assert!(!exists(&pool.full("cowsnap-overlays")), "nothing is made to see whether it can be");
    let import = |more: &[&str]| {
        zpool(&["export", &pool.name]);
        let from = ["-o", "cachefile=none", "-d", utf8(pool.outside()), &pool.name];
        zpool(&[&["import"], more, &from].concat());
    };
    import(&["-o", "readonly=on"]);
    is_not(utf8(&dir), "is imported read-only");
    is_not(&of_snapshot, "is imported read-only");
    import(&[]);
    // A replica: one of its own snapshots is in nobody's way.
    zfs(&["set", "readonly=on", &base]);
    is_not(utf8(&dir), "the base is set readonly=on");
    is_native(&of_snapshot);
    lab.ok(&[&asked[..], &[utf8(&dir)]].concat());
    fs::write(at.join("file"), "written").expect("what was asked for is made, and can be written to");
    lab.ok(&["destroy", "ci"]);
    zfs(&["inherit", "readonly", &base]);
    is_native(utf8(&dir));
    zfs(&["set", "compression=lz4", &base]);
    let copied = format!("zfs send -p {of_snapshot} | zfs receive {}", pool.full("replica"));
    ground::run("sh", &["-c", &copied]);
    is_not(utf8(&pool.path("replica")), "the base was received");
    is_native(&format!("{}@s", pool.full("replica")));
    // The folder is somebody's, be it that its mark came with a stream.
    waits("the clones to go", || {
        let _ = lab.home().sweep();
        lab.home().trash().expect("listed").is_empty()
    });
    zfs(&["inherit", "cowsnap:overlay", &pool.full("cowsnap-overlays")]);
    is_not(&of_snapshot, "/cowsnap-overlays is somebody's dataset");
    let said = lab.fails(3, &[&asked[..], &[&of_snapshot]].concat());
    assert!(said.contains("it is somebody's dataset"), "{said}");
    assert!(exists(&pool.full("cowsnap-overlays")));
}

#[test]
fn a_clone_waits_for_the_next_reset_under_the_name_that_it_will_have() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    create(&lab, utf8(&lab.base()), &[]);
    let at = lab.at("ci");
    for generation in 2..4 {
        let waiting = spare(&lab);
        assert!(waiting.contains(&format!(":ci:1:{generation}:")), "{waiting}");
        lab.ok(&["reset", "ci"]);
        assert!(shown_at(&at).ends_with(&waiting), "{} and not {waiting}", shown_at(&at));
        fs::write(at.join("file"), "changed").expect("written");
    }
    // A reset that was killed took the number: the clone gets another name.
    let waiting = spare(&lab);
    fs::create_dir(lab.home_dir().join("overlays/ci/1/9")).expect("mkdir");
    lab.ok(&["reset", "ci"]);
    let (_, digits) = waiting.rsplit_once(':').expect("a name");
    assert!(shown_at(&at).ends_with(&format!(":ci:1:10:{digits}")), "{}", shown_at(&at));
    assert_eq!(read(at.join("file")), "base");
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn what_overlays_make_is_nobodys_dataset_and_no_snapshot_of_the_base() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    let pool = &lab.pool().name;
    create(&lab, utf8(&lab.base()), &["--copies", "2"]);
    assert_eq!(snapshots(&lab.pool().full("base")).len(), 1, "the oracle sees it");
    let seen: Vec<_> = all_of_pool(pool).expect("listed").iter().map(ToString::to_string).collect();
    assert_eq!(seen, [pool.clone(), lab.pool().full("base")]);
    let inside = dataset(pool).all_inside().expect("listed");
    assert_eq!(inside.iter().map(ToString::to_string).collect::<Vec<_>>(), [lab.pool().full("base")]);
    let base = dataset(&lab.pool().full("base"));
    assert_eq!(base.inventory().expect("read").versions(), []);
    let listed = ok(&lab, &["--json", "list", "-r", pool]);
    assert!(!listed.contains("cowsnap-overlay"), "{listed}");
    ok(&lab, &["doctor"]);
    // Nor is one that has no clone yet, or none any more.
    let digits = "0".repeat(32);
    let taken = lab.pool().full(&format!("base@cowsnap-overlay:{digits}"));
    zfs(&["snapshot", "-o", &format!("cowsnap:overlay=x:ci:{digits}"), &taken]);
    assert_eq!(base.inventory().expect("read").versions(), []);
    zfs(&["destroy", &taken]);
    // What a user calls so is shown: it has no mark.
    snap(&base, "cowsnap-overlay:mine");
    assert_eq!(base.inventory().expect("read").versions().len(), 1);
    let other = Pool::new();
    other.dataset("cowsnap-overlays/mine");
    assert_eq!(all_of_pool(&other.name).expect("listed").len(), 3);
    // Also in a folder that is one.
    lab.pool().dataset("cowsnap-overlays/mine");
    assert_eq!(all_of_pool(pool).expect("listed").len(), 3);
    zfs(&["destroy", &lab.pool().full("cowsnap-overlays/mine")]);
    lab.ok(&["destroy", "ci"]);
    zfs(&["destroy", &lab.pool().full("base@cowsnap-overlay:mine")]);
    assert_nothing_left(&lab);
}

#[test]
fn what_an_overlay_lies_on_stays_and_it_is_said_which_one_that_is() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    let base = lab.pool().full("base");
    for snapshot in ["one", "two"] {
        ok(&lab, &["snapshot", &base, "--name", snapshot]);
    }
    let one = format!("{base}@one");
    create(&lab, &one, &["--copies", "2"]);
    let said = refused(&lab, &["destroy", &one]);
    assert!(
        said.contains("overlay ci lies on it") && said.contains("cowsnap overlay destroy 'ci'"),
        "{said}"
    );
    let said = refused(&lab, &["destroy", "--snapshots", &base]);
    assert!(said.contains("overlay ci lies on its snapshot one"), "{said}");
    let said = ok(&lab, &["prune", &base, "--keep-last", "1", "--explain"]);
    assert!(said.contains("cloned to overlay ci"), "{said}");
    ok(&lab, &["prune", &base, "--keep-last", "1"]);
    assert_eq!(snapshots(&base), ["one", "two"]);
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
    ok(&lab, &["prune", &base, "--keep-last", "1"]);
    assert_eq!(snapshots(&base), ["two"]);
    // The snapshot that was taken for one is no reason to lose the others.
    create(&lab, utf8(&lab.base()), &[]);
    let said = refused(&lab, &["destroy", "--snapshots", &base]);
    assert!(
        said.contains("overlay ci lies on it") && said.contains("cowsnap overlay destroy 'ci'"),
        "{said}"
    );
    assert_eq!(snapshots(&base).len(), 2);
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
    assert_eq!(snapshots(&base), ["two"]);
}

#[test]
fn a_clone_that_is_used_waits_for_its_last_user() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    create(&lab, utf8(&lab.base()), &[]);
    let at = lab.at("ci");
    let old = shown_at(&at);
    let used = fs::File::open(at.join("file")).expect("opened");
    lab.ok(&["reset", "ci", "--force"]);
    spare(&lab);
    let _ = lab.home().sweep();
    assert!(exists(&old), "somebody has a file of it open");
    assert_eq!(read(at.join("file")), "base");
    drop(used);
    waits("the old clone to go", || {
        let _ = lab.home().sweep();
        !exists(&old)
    });
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn what_somebody_made_in_a_clone_goes_with_it_only_if_it_is_given_up() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    let made = create(&lab, utf8(&lab.base()), &[]);
    assert_eq!(made["overlay"]["mode"], "native", "{made}");
    let clone = shown_at(&lab.at("ci"));
    zfs(&["create", &format!("{clone}/theirs")]);
    zfs(&["snapshot", "-r", &format!("{clone}@theirs")]);
    let all = ["@theirs", "/theirs", "/theirs@theirs"].map(|inside| format!("{clone}{inside}"));
    for args in [&["reset", "ci", "--kill"][..], &["destroy", "ci"]] {
        let said = lab.fails(3, args);
        assert!(all.iter().all(|name| said.contains(name)) && said.contains("--force"), "{args:?} {said}");
    }
    // Nor does it go with its owner.
    let record = lab.home_dir().join("overlays/ci/overlay.json");
    let dead = r#""owner":{"pid":4000000,"start":1,"boot":"another","namespace":1}"#;
    fs::write(&record, read(&record).replace(r#""owner":null"#, dead)).expect("written");
    let said = lab.fails(7, &["reap"]);
    assert!(said.contains(&all[0]), "{said}");
    assert!(all.iter().all(|name| exists(name)) && lab.names() == ["ci"]);
    let said = text(&lab.run(&["reset", "ci", "--force"]));
    assert!(all.iter().all(|name| said.contains(name)), "what goes is named: {said}");
    waits("the old clone to go", || {
        let _ = lab.home().sweep();
        !exists(&clone)
    });
    // What is made after the last look at it stays too, with the clone; what is taken of a whole pool is nobody's.
    let (clone, waiting) = (shown_at(&lab.at("ci")), spare(&lab));
    zfs(&["snapshot", "-r", &format!("{}@daily", lab.pool().name)]);
    lab.ok(&["reset", "ci"]);
    waits("the clone to go that a snapshot of the pool was taken of", || {
        let _ = lab.home().sweep();
        !exists(&clone)
    });
    assert!(shown_at(&lab.at("ci")).ends_with(&waiting));
    let late = format!("{}@late", lab.pool().full(&format!("cowsnap-overlays/{}", spare(&lab))));
    zfs(&["snapshot", &late]);
    lab.ok(&["destroy", "ci"]);
    let said = lab.fails(7, &["reap"]);
    assert!(said.contains(&late) && said.contains("zfs destroy -r"), "{said}");
    assert!(exists(&late));
    zfs(&["destroy", &late]);
    zfs(&["destroy", "-r", &format!("{}@daily", lab.pool().name)]);
    assert_nothing_left(&lab);
}

#[test]
fn a_clone_that_was_promoted_keeps_the_history_that_it_has_been_given() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    // Its base is a clone itself: it has an origin still when it has that one's history.
    snap(&dataset(&lab.pool().full("base")), "zero");
    let base = lab.pool().full("second");
    zfs(&["clone", "-o", "mountpoint=none", &lab.pool().full("base@zero"), &base]);
    for name in ["one", "two", "three"] {
        snap(&dataset(&base), name);
    }
    create(&lab, &format!("{base}@three"), &["--mode", "native"]);
    let clone = shown_at(&lab.at("ci"));
    ground::run("umount", &[utf8(&lab.home_dir().join("overlays/ci/base"))]);
    let is_shown = || all_of_pool(&lab.pool().name).expect("listed").iter().any(|d| d.to_string() == clone);
    assert!(!is_shown());
    zfs(&["promote", &clone]);
    assert!(is_shown(), "it has their history now");
    assert_eq!(dataset(&clone).inventory().expect("read").versions().len(), 3);
    // What is younger than the clone is not worth less.
    zfs(&["snapshot", &format!("{clone}@four")]);
    for args in [&["reset", "ci"][..], &["destroy", "ci"]] {
        let said = lab.fails(3, args);
        assert!(said.contains(&clone) && said.contains("it was promoted"), "{args:?} {said}");
    }
    lab.ok(&["destroy", "ci", "--force"]);
    let _ = lab.home().sweep();
    assert_eq!(snapshots(&clone), ["one", "two", "three", "four"]);
    // Nobody waits for what sweeps in the background: who reaps is told.
    let said = lab.fails(7, &["reap"]);
    assert!(said.contains(&clone) && said.contains("it was promoted"), "{said}");
    zfs(&["destroy", &format!("{clone}@four")]);
    zfs(&["promote", &base]);
    let reaped = lab.json(&["reap"]);
    assert_eq!(reaped["stuck"], serde_json::json!([]), "{reaped}");
    assert!(!exists(&clone));
    assert_eq!(snapshots(&base), ["one", "two", "three"]);
    assert_nothing_left(&lab);
}

#[test]
fn another_pool_of_that_name_is_left_alone() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    create(&lab, utf8(&lab.base()), &["--durable"]);
    let (at, waiting) = (lab.at("ci"), lab.pool().full(&format!("cowsnap-overlays/{}", spare(&lab))));
    let clone = shown_at(&at);
    ground::run("umount", &[utf8(&at)]);
    // Everything in it is the same as in the one that it was, as after zpool split.
    zpool(&["reguid", &lab.pool().name]);
    for args in [&["mount", "ci"][..], &["reset", "ci"]] {
        let said = lab.fails(3, args);
        assert!(said.contains("it is another one than when the overlay was made"), "{args:?} {said}");
    }
    assert!(lab.mounts().is_empty());
    lab.ok(&["destroy", "ci"]);
    let said = lab.fails(7, &["reap"]);
    assert!(said.contains("it is another one than when the overlay was made"), "{said}");
    assert!(exists(&clone) && exists(&waiting));
    assert_eq!(snapshots(&lab.pool().full("base")).len(), 1);
    // The way out that the page names.
    for path in lab.home().trash().expect("listed") {
        fs::remove_dir_all(path).expect("removed");
    }
    assert_nothing_left_in_home(&lab);
}

fn assert_nothing_left_in_home(lab: &Lab) {
    assert_eq!((lab.names(), lab.mounts()), (vec![], vec![]));
    assert_eq!(lab.ok(&["reap"]), "nothing to reap\n");
}

#[test]
fn what_is_listed_while_clones_come_and_go_is_no_failure() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    create(&lab, utf8(&lab.base()), &["--copies", "2"]);
    snap(&dataset(&lab.pool().full("base")), "one");
    let ends = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(std::sync::atomic::Ordering::Relaxed) {
                lab.ok(&["reset", "ci"]);
            }
        });
        let done: Vec<_> =
            (0..6).map(|_| cowsnap(&lab, &["prune", "-r", &lab.pool().name, "--keep-last", "3"])).collect();
        ends.store(true, std::sync::atomic::Ordering::Relaxed);
        done.iter().for_each(|output| assert!(output.status.success(), "{}", text(output)));
    });
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn a_base_that_was_renamed_is_found_again_and_let_go() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    create(&lab, utf8(&lab.base()), &[]);
    spare(&lab);
    let (base, renamed) = (lab.pool().full("base"), lab.pool().full("renamed"));
    ok(&lab, &["rename", &base, &renamed]);
    lab.ok(&["destroy", "ci"]);
    ok(&lab, &["rename", &renamed, &base]);
    assert_nothing_left(&lab);
    assert_eq!(snapshots(&base), [""; 0]);
}

#[test]
fn modes_that_bind_trees_know_them_on_zfs_too() {
    ground!("zfs");
    for mode in ["copy", "reflink", "native"] {
        let lab = NATIVE_ZFS.lab();
        let at = lab.at("ci");
        let output =
            lab.run(&["create", "ci", "--base", utf8(&lab.base()), "--at", utf8(&at), "--mode", mode]);
        if mode == "reflink" && !output.status.success() {
            continue; // This ZFS shares no blocks.
        }
        assert!(output.status.success(), "{}", text(&output));
        fs::write(at.join("file"), "changed").expect("written");
        assert!(!lab.ok(&["list"]).contains("not mounted"), "{mode}");
        lab.ok(&["reset", "ci"]);
        assert_eq!(read(at.join("file")), "base", "{mode}");
        lab.ok(&["destroy", "ci"]);
        assert_nothing_left(&lab);
    }
}

#[test]
fn nothing_is_destroyed_that_is_not_what_was_made() {
    ground!("zfs");
    // What is called so, and what is marked so, too.
    for is_marked in [false, true] {
        let lab = NATIVE_ZFS.lab();
        create(&lab, utf8(&lab.base()), &[]);
        let waiting = lab.pool().full(&format!("cowsnap-overlays/{}", spare(&lab)));
        let mark = format!("cowsnap:overlay={}", property(&waiting, "cowsnap:overlay"));
        zfs(&["rename", &waiting, &lab.pool().full("aside")]);
        zfs(&["create", "-o", if is_marked { &mark } else { "user:note=mine" }, &waiting]);
        lab.ok(&["destroy", "ci"]);
        waits("the trash to be empty", || {
            let _ = lab.home().sweep();
            lab.home().trash().expect("listed").is_empty()
        });
        assert!(exists(&waiting), "marked: {is_marked}");
        zfs(&["destroy", &waiting]);
        zfs(&["destroy", &lab.pool().full("aside")]);
        assert_nothing_left(&lab);
    }
    // Nor is it taken for one that nothing speaks of, once the generation is gone that named it.
    let lab = NATIVE_ZFS.lab();
    create(&lab, utf8(&lab.base()), &[]);
    let clone = shown_at(&lab.at("ci"));
    let mark = format!("cowsnap:overlay={}", property(&clone, "cowsnap:overlay"));
    let used = fs::File::open(lab.at("ci").join("file")).expect("opened");
    lab.ok(&["reset", "ci", "--force"]);
    let home = lab.home();
    let trash = home.lock_trash().expect("whoever destroys it gives up");
    zfs(&["rename", &clone, &lab.pool().full("aside")]);
    zfs(&["create", "-o", &mark, &clone]);
    drop((used, trash));
    for args in [&["sweep"][..], &["destroy", "ci"]] {
        lab.ok(args);
        waits("the trash to be empty", || {
            let _ = lab.home().sweep();
            lab.home().trash().expect("listed").is_empty()
        });
        assert!(exists(&clone), "{args:?}");
    }
    zfs(&["destroy", &clone]);
    zfs(&["destroy", &lab.pool().full("aside")]);
    assert_nothing_left(&lab);
}

#[test]
fn a_clone_keeps_files_as_its_base_does() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    let base = lab.pool().full("base");
    for set in ["acltype=posix", "recordsize=16k", "atime=off", "compression=off"] {
        zfs(&["set", set, &base]);
    }
    create(&lab, utf8(&lab.base()), &[]);
    let clone = shown_at(&lab.at("ci"));
    for what in ["acltype", "recordsize", "atime", "compression"] {
        assert_eq!(property(&clone, what), property(&base, what), "{what}");
    }
    assert_eq!(property(&clone, "com.sun:auto-snapshot"), "false");
    assert_eq!([property(&clone, "mountpoint"), property(&clone, "canmount")], ["none", "noauto"]);
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn many_copies_are_made_reset_and_destroyed() {
    ground!("zfs");
    const COPIES: usize = 24;
    let lab = NATIVE_ZFS.lab();
    create(&lab, utf8(&lab.base()), &["--copies", "24"]);
    let file = |copy: usize| lab.at("ci").join(format!("{copy}/file"));
    for copy in 1..=COPIES {
        assert_eq!(read(file(copy)), "base");
        fs::write(file(copy), "changed").expect("written");
    }
    lab.ok(&["reset", "ci"]);
    assert!((1..=COPIES).all(|copy| read(file(copy)) == "base"));
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn a_durable_one_shows_again_with_its_changes() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    create(&lab, utf8(&lab.base()), &["--durable"]);
    let at = lab.at("ci");
    fs::write(at.join("file"), "kept").expect("written");
    ground::run("umount", &[utf8(&at)]);
    assert!(!at.join("file").exists());
    lab.ok(&["mount", "ci"]);
    assert_eq!(read(at.join("file")), "kept");
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
}

#[test]
fn an_encrypted_base_is_cloned_with_its_key_and_else_it_is_said_what_is_lacking() {
    ground!("zfs");
    let lab = NATIVE_ZFS.lab();
    let (key, secret) = (lab.pool().outside().join("key"), lab.pool().full("secret"));
    fs::write(&key, [7; 32]).expect("written");
    let location = format!("keylocation=file://{}", key.display());
    let dir = lab.pool().outside().join("secret");
    let at = format!("mountpoint={}", dir.display());
    zfs(&["create", "-o", "encryption=on", "-o", "keyformat=raw", "-o", &location, "-o", &at, &secret]);
    fs::write(dir.join("file"), "secret").expect("written");
    snap(&dataset(&secret), "s");
    let base = format!("{secret}@{}", name("s"));
    create(&lab, &base, &["--mode", "native"]);
    assert_eq!(read(lab.at("ci").join("file")), "secret");
    lab.ok(&["reset", "ci"]);
    lab.ok(&["destroy", "ci"]);
    assert_nothing_left(&lab);
    zfs(&["unmount", &secret]);
    zfs(&["unload-key", &secret]);
    let at = lab.at("ci");
    let said = lab.fails(6, &["create", "ci", "--base", &base, "--at", utf8(&at), "--mode", "native"]);
    assert!(said.contains("its key is not loaded"), "{said}");
}
