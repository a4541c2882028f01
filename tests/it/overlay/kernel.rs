//! Kernel overlayfs: what shows, what a reset gives back, and who notices it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cowsnap::exec::overlay::reset::{Request, reset};
use cowsnap::exec::overlay::{Survivors, unhindered};

use super::lab::{Lab, Process, read, text, utf8};
use crate::ground::{self, ground};

/// Does to a tree what suites do.
pub(super) fn wreck(tree: &Path) {
    fs::write(tree.join("file"), "changed").expect("written");
    fs::write(tree.join("new"), "new").expect("written");
    fs::remove_dir_all(tree.join("dir/deep")).expect("removed");
    fs::rename(tree.join("dir"), tree.join("renamed")).expect("renamed");
    fs::set_permissions(tree, fs::Permissions::from_mode(0o700)).expect("set");
}

/// Every entry below `tree`: its path, type and mode, and content.
pub(super) fn listing(tree: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("listed") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("there");
            let content = if meta.is_file() { read(&path) } else { String::new() };
            found.push(format!(
                "{} {:o} {content}",
                path.strip_prefix(tree).expect("below").display(),
                meta.mode()
            ));
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    found.push(format!(". {:o}", fs::metadata(tree).expect("there").mode()));
    found.sort();
    found
}

#[test]
fn an_overlay_looks_like_its_base_takes_changes_and_gives_them_back() {
    ground!("overlay");
    let lab = Lab::new();
    fs::set_permissions(lab.base(), fs::Permissions::from_mode(0o1775)).expect("set");
    let as_made = listing(&lab.base());
    let at = lab.create("ci", &[]);
    assert_eq!(listing(&at), as_made);
    for _ in 0..3 {
        wreck(&at);
        assert_ne!(listing(&at), as_made);
        assert_eq!(listing(&lab.base()), as_made, "the base was changed");
        lab.ok(&["reset", "ci"]);
        assert_eq!(listing(&at), as_made);
    }
    assert_eq!(lab.mounts(), std::slice::from_ref(&at));
    wreck(&at);
    lab.ok(&["destroy", "ci"]);
    assert_eq!(listing(&lab.base()), as_made);
    assert!(!at.exists(), "the directory that was made for it goes with it");
    lab.assert_nothing_left();
}

#[test]
fn a_hard_link_stays_one_when_it_is_written_to() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &[]);
    fs::write(at.join("file"), "changed").expect("written");
    assert_eq!(read(at.join("dir/link")), "changed");
    lab.ok(&["destroy", "ci"]);
}

#[test]
fn a_reader_sees_the_old_tree_or_the_new_one_and_never_none() {
    ground!("overlay");
    // Where the kernel can not do it, that is said of each reset.
    let can = ground::lacking("beneath").is_none();
    let lab = Lab::new();
    let at = lab.create("ci", &[]);
    let (done, looks, misses) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let request = Request { copies: None, layers: None, survivors: Survivors::Refuse };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                looks.fetch_add(1, Ordering::Relaxed);
                misses.fetch_add(
                    usize::from(fs::metadata(at.join("dir/deep/file")).is_err()),
                    Ordering::Relaxed,
                );
            }
        });
        for n in 0..200 {
            fs::remove_file(at.join("file")).expect("it is there again");
            let reset = reset(&lab.home(), &"ci".parse().expect("a name"), &request, &mut unhindered);
            let reset = reset.expect("reset");
            assert_eq!(reset.copies[0].atomic, can, "reset {n}");
            assert_eq!(reset.copies[0].generation, n + 2, "an upper was used twice");
        }
        done.store(true, Ordering::Relaxed);
    });
    let (looks, misses) = (looks.into_inner(), misses.into_inner());
    assert!(looks > 200, "it looked {looks} times");
    assert!(misses == 0 || !can, "{misses} of {looks} looks");
    assert_eq!(lab.mounts(), [at]);
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn who_still_uses_the_old_tree_is_named_left_or_killed() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &[]);
    fs::copy("/bin/sleep", at.join("program")).expect("copied");
    let sleep = |dir: &str| {
        let mut command = Command::new("sleep");
        command.arg("600").current_dir(dir);
        command
    };
    let open = fs::File::open(at.join("file")).expect("opened");
    let users = [
        Process::new(&mut sleep(utf8(&at.join("dir")))),
        Process::new(sleep("/").stdin(open)),
        Process::new(Command::new(at.join("program")).arg("600")),
    ];
    let other = Process::new(&mut sleep("/"));
    for command in [&["reset", "ci"][..], &["destroy", "ci"], &["reset", "ci", "--dry-run"]] {
        let said = lab.fails(3, command);
        for (user, how) in users.iter().zip(["its working directory", "/file open", "its program"]) {
            assert!(said.contains(&format!("({}) has ", user.pid())) && said.contains(how), "{said}");
        }
        assert!(!said.contains(&other.pid().to_string()) && said.contains("--kill"), "{said}");
        assert!(at.join("program").exists(), "refused, and changed all the same");
    }
    let left = lab.run(&["reset", "ci", "--force"]);
    assert!(
        left.status.success() && text(&left).contains("left with the old tree: sleep"),
        "{}",
        text(&left)
    );
    assert!(!at.join("program").exists());
    let cwd = fs::read_link(format!("/proc/{}/cwd", users[0].pid())).expect("it runs still");
    assert!(cwd.ends_with("dir"), "{cwd:?}");
    let mut again = Process::new(&mut sleep(utf8(&at)));
    let killed = lab.run(&["reset", "ci", "--kill"]);
    assert!(killed.status.success() && text(&killed).contains("killed: sleep"), "{}", text(&killed));
    assert!(!again.0.wait().expect("ended").success());
    assert!(Path::new(&format!("/proc/{}", other.pid())).exists());
    drop(users);
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn a_command_is_not_killed_that_the_reset_was_started_from() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &[]);
    let output = lab.command(&["reset", "ci", "--kill"]).current_dir(&at).output().expect("it runs");
    assert!(output.status.success(), "its own directory is no reason: {}", text(&output));
    let program = env!("CARGO_BIN_EXE_cowsnap");
    let script = format!("cd '{}' && '{program}' overlay reset ci --kill; exit $?", at.display());
    let output = Command::new("sh")
        .args(["-c", &script])
        .env("COWSNAP_OVERLAY_HOME", lab.home_dir())
        .output()
        .expect("sh runs");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("this command was started from it"), "{}", text(&output));
    lab.ok(&["destroy", "ci"]);
}

#[test]
fn what_is_mounted_inside_is_named() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &[]);
    crate::ground::run("mount", &["-t", "tmpfs", "none", utf8(&at.join("dir"))]);
    let said = lab.fails(3, &["reset", "ci"]);
    assert!(said.contains(&format!("something is mounted at {}/dir", at.display())), "{said}");
    lab.ok(&["reset", "ci", "--force"]);
    assert_eq!(read(at.join("dir/deep/file")), "deep");
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn copies_are_apart_and_are_reset_one_by_one() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.create("ci", &["--copies", "50"]);
    assert_eq!(lab.mounts().len(), 50);
    for copy in [1, 2, 50] {
        fs::write(at.join(format!("{copy}/file")), copy.to_string()).expect("written");
    }
    assert_eq!((read(at.join("3/file")), read(at.join("50/file"))), ("base".into(), "50".into()));
    let done = lab.json(&["reset", "ci", "--copy", "2", "--copy", "50"]);
    assert_eq!(done["reset"][0]["copies"].as_array().map(Vec::len), Some(2));
    let files = [1, 2, 3, 50].map(|copy| read(at.join(format!("{copy}/file"))));
    assert_eq!(files, ["1", "base", "base", "base"]);
    lab.fails(2, &["reset", "ci", "--copy", "51"]);
    lab.ok(&["reset", "--all"]);
    assert_eq!(read(at.join("1/file")), "base");
    lab.ok(&["destroy", "--all"]);
    assert!(!at.exists());
    lab.assert_nothing_left();
}

#[test]
fn what_was_chosen_and_why_is_said_and_a_large_file_is_warned_of_where_a_write_copies_it() {
    ground!("overlay", "loop", "mkfs.xfs", "mkfs.btrfs");
    for (kind, mkfs, shares) in
        [("ext4", &["-q"][..], false), ("xfs", &["-q"], true), ("btrfs", &["-q"], true)]
    {
        let lab = Lab::on(kind, mkfs);
        let large = fs::File::create(lab.base().join("dir/database")).expect("made");
        large.set_len(100 << 20).expect("set");
        drop(large);
        let (base, at) = (lab.base(), lab.at("ci"));
        let output = lab.run(&["create", "ci", "--base", utf8(&base), "--at", utf8(&at), "--mode", "kernel"]);
        assert!(output.status.success(), "{}", text(&output));
        let said = text(&output);
        assert_eq!(said.contains("dir/database has 100 MiB"), !shares, "{kind}: {said}");
        let listed = lab.json(&["list", "ci"]);
        assert_eq!(listed["overlays"][0]["mode"], "kernel", "{kind}");
        wreck(&at);
        lab.ok(&["reset", "ci"]);
        assert_eq!(listing(&at), listing(&base), "{kind}");
        lab.ok(&["destroy", "ci"]);
        lab.assert_nothing_left();
    }
}

#[test]
fn paths_of_any_bytes_and_any_length_are_served() {
    ground!("overlay");
    let lab = Lab::new();
    let names: [&[u8]; 4] = [b"a b:c,d", b"back\\slash:\n", b"\xff\xfe", &[b'x'; 200]];
    for (n, name) in names.iter().enumerate() {
        let odd = Path::new(std::ffi::OsStr::from_bytes(name));
        let deep: PathBuf = lab.root().join("odd").join(odd).join("y".repeat(100));
        let (base, at, home) = (deep.join("base"), deep.join("at"), deep.join("home"));
        fs::create_dir_all(&base).expect("made");
        fs::write(base.join("file"), "base").expect("written");
        let mut command = lab.command(&["--home"]);
        let output =
            command.arg(&home).args(["create", "ci", "--base"]).arg(&base).arg("--at").arg(&at).output();
        let output = output.expect("runs");
        assert!(output.status.success(), "{n}: {}", text(&output));
        fs::write(at.join("file"), "changed").expect("written");
        for command in ["reset", "destroy"] {
            let output = lab.command(&["--home"]).arg(&home).args([command, "ci"]).output().expect("runs");
            assert!(output.status.success(), "{n}: {}", text(&output));
            assert!(command == "destroy" || read(at.join("file")) == "base", "{n}");
        }
    }
    assert_eq!(lab.mounts(), Vec::<PathBuf>::new());
}

#[test]
fn a_durable_overlay_shows_its_changes_again_and_another_does_not_pretend_to() {
    ground!("overlay");
    let lab = Lab::new();
    let (durable, volatile) =
        (lab.create("durable", &["--durable"]), lab.create("volatile", &["--owner", "none"]));
    for at in [&durable, &volatile] {
        fs::write(at.join("file"), "changed").expect("written");
        // What a reboot leaves.
        crate::ground::run("umount", &[at]);
    }
    assert_eq!(lab.ok(&["mount", "durable"]).trim(), utf8(&durable));
    assert_eq!(read(durable.join("file")), "changed");
    assert_eq!(lab.ok(&["mount", "durable"]), "", "it shows already");
    assert!(lab.fails(3, &["mount", "volatile"]).contains("--durable"));
    fs::remove_dir(&volatile).expect("as /run is another after a reboot");
    lab.ok(&["reset", "volatile"]);
    assert_eq!(read(volatile.join("file")), "base");
    assert_eq!(lab.json(&["list", "durable"])["overlays"][0]["owner"], serde_json::Value::Null);
    lab.ok(&["destroy", "--all"]);
    lab.assert_nothing_left();
}

/// Whoever is named together with others that can not go is none of "all": that is asked for to be done together.
#[test]
fn what_of_all_can_not_be_shown_reset_or_destroyed_keeps_no_other_from_it() {
    ground!("overlay");
    let lab = Lab::new();
    let places = ["a", "b", "c"].map(|name| lab.create(name, &[]));
    places.iter().for_each(|at| fs::write(at.join("file"), "changed").expect("written"));
    let files = || places.each_ref().map(|at| read(at.join("file")));
    let user = Process::new(Command::new("sleep").arg("600").current_dir(&places[1]));
    let said = lab.fails(7, &["reset", "--all", "--dry-run"]);
    assert!(said.contains("1 of 3 failed: b: ") && files() == ["changed"; 3], "{said}");
    let said = lab.fails(7, &["reset", "--all"]);
    assert!(said.contains("1 of 3 failed: b: ") && said.contains("its working directory"), "{said}");
    assert_eq!(files(), ["base", "changed", "base"]);
    // What a reboot leaves of those that are not durable.
    crate::ground::run("umount", &[&places[0]]);
    let said = lab.fails(7, &["mount", "--all"]);
    assert!(said.contains("1 of 3 failed: a: "), "{said}");
    lab.fails(3, &["destroy", "c", "b"]);
    assert_eq!(lab.names(), ["a", "b", "c"], "it was looked at only after the first had gone");
    let said = lab.fails(7, &["destroy", "--all", "--dry-run"]);
    assert!(said.contains("1 of 3 failed: b: ") && lab.names().len() == 3, "{said}");
    let said = lab.fails(7, &["destroy", "--all"]);
    assert!(said.contains("1 of 3 failed: b: "), "{said}");
    assert_eq!((lab.names(), read(places[1].join("file"))), (vec!["b".into()], "changed".into()));
    drop(user);
    lab.ok(&["destroy", "--all"]);
    lab.assert_nothing_left();
}

#[test]
fn a_snapshot_is_a_base_too() {
    ground!("overlay", "btrfs");
    let disk = crate::ground::Btrfs::new();
    let chain = disk.subvolume("chain");
    fs::write(chain.join("file"), "old").expect("written");
    let lab = Lab::new();
    let snapshot = format!("{}@before", chain.display());
    let cowsnap = || crate::ground::cowsnap(&disk.outside().join("state"));
    let taken = cowsnap().args(["snapshot", utf8(&chain), "--name", "before"]).output().expect("runs");
    assert!(taken.status.success(), "{}", text(&taken));
    fs::write(chain.join("file"), "new").expect("written");
    let at = lab.at("ci");
    lab.ok(&["create", "ci", "--base", &snapshot, "--at", utf8(&at), "--mode", "kernel"]);
    assert_eq!(read(at.join("file")), "old");
    fs::write(at.join("file"), "changed").expect("written");
    lab.ok(&["reset", "ci"]);
    assert_eq!(read(at.join("file")), "old");
    // After a reboot, neither the base nor the overlay is mounted.
    crate::ground::run("umount", &[&at]);
    crate::ground::run("umount", &[lab.home_dir().join("overlays/ci/base")]);
    lab.ok(&["reset", "ci"]);
    assert_eq!(read(at.join("file")), "old");
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_would_be() {
    ground!("overlay");
    let lab = Lab::new();
    let (base, at) = (lab.base(), lab.at("ci"));
    let create = ["create", "ci", "--base", utf8(&base), "--at", utf8(&at)];
    let said = lab.ok(&[&create[..], &["--dry-run"]].concat());
    assert!(said.contains("would make overlay ci in mode kernel"), "{said}");
    assert!(!at.exists() && lab.names().is_empty());
    lab.ok(&create);
    fs::write(at.join("file"), "changed").expect("written");
    assert_eq!(lab.ok(&["reset", "ci", "--dry-run"]), format!("would reset {}\n", at.display()));
    assert_eq!(lab.ok(&["destroy", "ci", "--dry-run"]), "would destroy ci\n");
    assert_eq!(read(at.join("file")), "changed");
    lab.ok(&["destroy", "ci"]);
}

/// Something in the trash at which whoever destroys it stops, as long as this is there: a record that is a FIFO which nobody writes to.
struct Unending(PathBuf);

impl Unending {
    fn new(lab: &Lab) -> Self {
        let dir = lab.home_dir().join("trash/1");
        fs::create_dir(&dir).expect("mkdir");
        let record = dir.join("overlay.json");
        ground::run("mkfifo", &[utf8(&record)]);
        Self(record)
    }
}

impl Drop for Unending {
    fn drop(&mut self) {
        // Who waits for a writer has had one, and goes on.
        let _ = fs::File::options().read(true).write(true).open(&self.0);
    }
}

/// A command that destroyed in the foreground would end when the FIFO is written to.
#[test]
fn nobody_waits_for_the_trash() {
    ground!("overlay");
    let lab = Lab::new();
    lab.create("ci", &[]);
    lab.create("other", &[]);
    let unending = Unending::new(&lab);
    for args in [&["reset", "ci"][..], &["reset", "--all"], &["commit", "ci", "x"], &["destroy", "ci"]] {
        // A pipe that stays open after the command would hold up whoever reads it to its end.
        let mut child = lab.command(args).stdout(Stdio::piped()).spawn().expect("spawned");
        let mut out = child.stdout.take().expect("piped");
        let (sender, ended) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            std::io::Read::read_to_end(&mut out, &mut Vec::new()).expect("read to its end");
            let _ = sender.send(());
        });
        let ended = ended.recv_timeout(std::time::Duration::from_secs(60));
        if ended.is_err() {
            child.kill().expect("ended");
        }
        let status = child.wait().expect("ended");
        assert!(ended.is_ok(), "{args:?} waits for what is destroyed");
        assert!(status.success(), "{args:?}");
        reader.join().expect("it ends");
        // Somebody does destroy it, and can not get on.
        ground::waits("somebody to empty the trash", || lab.home().is_swept().expect("asked"));
        assert!(unending.0.exists());
    }
    drop(unending);
    lab.ok(&["destroy", "other", "ci@x"]);
    lab.assert_nothing_left();
}

#[test]
fn a_first_step_makes_it_or_gives_it_back() {
    ground!("overlay");
    let lab = Lab::new();
    let at = lab.at("ci");
    let create = |more: &[&str]| {
        let args = ["create", "ci", "--at", utf8(&at), "--or-reset"];
        let mut command = lab.command(&[&args[..], more].concat());
        command.env("COWSNAP_OVERLAY_BASE", lab.base()).env("COWSNAP_OVERLAY_OWNER", "none");
        command.output().expect("it runs")
    };
    for _ in 0..3 {
        let output = create(&[]);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("{}\n", at.display()),
            "{}",
            text(&output)
        );
        assert_eq!(read(at.join("file")), "base");
        fs::write(at.join("file"), "changed").expect("written");
    }
    let elsewhere = lab.at("elsewhere");
    let other = lab.base().join("dir");
    let others = [
        (&["--copies", "2"][..], "number of copies"),
        (&["--mode", "disabled"], "mode"),
        (&["--base", utf8(&other)], "base"),
        (&["--at", utf8(&elsewhere)], "place"),
    ];
    for (more, what) in others {
        let args = match what {
            "place" => lab
                .command(&["create", "ci", "--base", utf8(&lab.base()), "--or-reset", "--at", more[1]])
                .output(),
            _ => Ok(create(more)),
        };
        let output = args.expect("it runs");
        let said = text(&output);
        assert!(output.status.code() == Some(3) && said.contains(&format!("another {what} than")), "{said}");
    }
    let durable = text(&create(&["--durable"]));
    assert!(durable.contains("another durability than"), "{durable}");
    let owner = Process::new(Command::new("sleep").arg("600"));
    let of = || lab.json(&["list", "ci"])["overlays"][0]["owner"]["pid"].clone();
    assert!(create(&["--owner", &owner.pid().to_string()]).status.success());
    assert_eq!(of(), owner.pid());
    let unsaid =
        lab.command(&["create", "ci", "--base", utf8(&lab.base()), "--at", utf8(&at), "--or-reset"]).output();
    assert!(unsaid.expect("it runs").status.success());
    assert_eq!(of(), owner.pid(), "whose it is stays unless that is said");
    assert!(create(&[]).status.success());
    assert!(of().is_null());
    fs::write(at.join("file"), "changed").expect("written");
    let user = Process::new(Command::new("sleep").arg("600").current_dir(&at));
    assert_eq!(create(&[]).status.code(), Some(3));
    drop(user);
    assert_eq!(read(at.join("file")), "changed", "refused, and reset all the same");
    lab.ok(&["destroy", "ci"]);
    // What outlasts a crash does for whoever does not ask for that, and for who does.
    for more in [&["--durable"][..], &["--durable"], &[]] {
        let output = create(more);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(lab.json(&["list", "ci"])["overlays"][0]["durable"], true);
    }
    lab.ok(&["destroy", "ci"]);
    lab.assert_nothing_left();
}
