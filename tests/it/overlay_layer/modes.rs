//! A layer that was committed in one mode is opened in another, and shows the same.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cowsnap::endpoint::overlay::layer::Layer;

use super::lab::Random;
use super::view::{View, assert_same, of_kernel};
use crate::ground::{ground, run};
use crate::overlay::lab::{Lab, read, text, utf8};

const MIB: usize = 1 << 20;

/// On a filesystem that shares no blocks, so that mode fuse copies the blocks that are written to.
fn lab() -> Lab {
    let lab = Lab::on("ext4", &["-q", "-F"]);
    let base = lab.base();
    let bytes: Vec<u8> = (0..MIB as u32).map(|n| (n % 251) as u8).collect();
    for name in ["large", "dir/cut", "dir/deep/moved", "shared", "kept"] {
        fs::write(base.join(name), &bytes).expect("written");
    }
    fs::hard_link(base.join("shared"), base.join("dir/other name")).expect("linked");
    fs::set_permissions(base.join("dir"), fs::Permissions::from_mode(0o2751)).expect("set");
    set_xattr(&base.join("dir/deep"), "of the directory");
    lab
}

fn set_xattr(path: &Path, value: &str) {
    rustix::fs::setxattr(path, "user.test", value.as_bytes(), rustix::fs::XattrFlags::empty()).expect("set");
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(path).expect("opened");
    file.write_all_at(bytes, at).expect("written");
}

fn set_len(path: &Path, len: u64) {
    fs::File::options().write(true).open(path).and_then(|file| file.set_len(len)).expect("set");
}

/// An overlay upon a layer, in a mode.
fn upon(lab: &Lab, name: &str, layer: &str, mode: &str) -> PathBuf {
    let at = lab.at(name);
    lab.ok(&["create", name, "--base", layer, "--at", utf8(&at), "--mode", mode, "--owner", "none"]);
    at
}

/// That a layer shows this in every mode.
fn assert_shows(lab: &Lab, layer: &str, wanted: &View) {
    for mode in ["kernel", "fuse"] {
        let at = upon(lab, "look", layer, mode);
        assert_same(wanted, &of_kernel(&at), &format!("{layer} in mode {mode}"));
        assert_eq!(lab.ok(&["diff", "look"]), "", "{layer} in mode {mode}");
        lab.ok(&["destroy", "look"]);
    }
}

fn layer(lab: &Lab, label: &str) -> Layer {
    let all = Layer::all_and_damaged(&lab.home()).expect("listed").0;
    all.into_iter().find(|layer| layer.label() == label).expect("it is there")
}

/// Writes to one block of large files, in layers one upon another.
fn two_layers(lab: &Lab) -> [View; 2] {
    let at = lab.create("ci", &["--mode", "fuse", "--owner", "none"]);
    patch(&at.join("large"), 300_000, b"first");
    patch(&at.join("dir/other name"), 0, b"through one of its names");
    set_len(&at.join("dir/cut"), 100_000);
    set_len(&at.join("dir/cut"), 2 * MIB as u64);
    patch(&at.join("dir/cut"), 3 * MIB as u64, b"far beyond");
    patch(&at.join("dir/deep/moved"), 70_000, b"and then renamed");
    fs::rename(at.join("dir/deep/moved"), at.join("moved")).expect("renamed");
    fs::rename(at.join("dir"), at.join("renamed")).expect("renamed");
    fs::set_permissions(at.join("large"), fs::Permissions::from_mode(0o4750)).expect("set");
    set_xattr(&at.join("large"), "of the file");
    std::os::unix::fs::chown(at.join("moved"), Some(4711), Some(4712)).expect("given away");
    let first = of_kernel(&at);
    lab.ok(&["commit", "ci", "first"]);
    patch(&at.join("large"), 900_000, b"second");
    patch(&at.join("renamed/cut"), 50_000, b"before the cut");
    fs::remove_file(at.join("symlink")).expect("removed");
    let second = of_kernel(&at);
    lab.ok(&["commit", "ci", "second"]);
    [first, second]
}

#[test]
fn a_layer_of_blocks_is_whole_to_the_kernel() {
    ground!("overlay", "fuse", "root", "loop", "mkfs.ext4");
    let lab = lab();
    let [first, second] = two_layers(&lab);
    assert!(layer(&lab, "ci@first").record().blocks && layer(&lab, "ci@second").record().blocks);
    assert_shows(&lab, "ci@second", &second);
    assert_shows(&lab, "ci@first", &first);
    lab.ok(&["verify", "--all"]);
    // Upon it, overlayfs does what it does upon any layer: also copies of attributes alone, names of one file, a commit.
    let at = upon(&lab, "upon", "ci@second", "kernel");
    fs::set_permissions(at.join("large"), fs::Permissions::from_mode(0o600)).expect("set");
    patch(&at.join("shared"), 500_000, b"by its other name");
    patch(&at.join("moved"), 0, b"by the kernel");
    fs::rename(at.join("kept"), at.join("renamed/kept")).expect("renamed");
    assert_eq!(
        lab.ok(&["diff", "upon"]),
        "m large  1048576\nM moved  1048576\nR kept -> renamed/kept  1048576\nM renamed/other name  1048576\nM shared  1048576\n"
    );
    let third = of_kernel(&at);
    lab.ok(&["commit", "upon", "third"]);
    assert_same(&third, &of_kernel(&at), "after the commit");
    assert_eq!(lab.ok(&["diff", "upon", "second"]).lines().count(), 5);
    assert_shows(&lab, "upon@third", &third);
    // An overlay goes from one to the other.
    lab.ok(&["reset", "upon", "--to", "ci@first"]);
    assert_same(&first, &of_kernel(&at), "reset to the first");
    lab.ok(&["reset", "upon", "--to", "upon@third"]);
    assert_same(&third, &of_kernel(&at), "reset to the third");
    lab.ok(&["destroy", "--all"]);
    lab.ok(&["verify", "--all"]);
    lab.ok(&["destroy", "upon@third", "ci@second", "ci@first"]);
    lab.assert_nothing_left();
}

#[test]
fn what_was_made_whole_is_verified_and_can_be_made_again() {
    ground!("overlay", "fuse", "root", "loop", "mkfs.ext4");
    let lab = lab();
    let [_, second] = two_layers(&lab);
    lab.ok(&["destroy", "ci"]);
    assert_shows(&lab, "ci@second", &second);
    let dir = layer(&lab, "ci@second").dir().to_owned();
    let file = dir.join("whole/tree/large");
    let mtime = file.metadata().expect("there").modified().expect("a time");
    patch(&file, 5, b"X");
    fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(mtime)).expect("set");
    let why = lab.fails(4, &["verify", "ci@second"]);
    assert!(why.contains("whole: large: its data changed"), "{why}");
    fs::write(dir.join("whole/manifest"), "").expect("written");
    let why = lab.fails(4, &["verify", "ci@second"]);
    assert!(why.contains("whole: its manifest is not the one that was written"), "{why}");
    fs::remove_dir_all(dir.join("whole")).expect("removed");
    lab.ok(&["verify", "ci@second"]);
    assert_shows(&lab, "ci@second", &second);
    // A layer that is damaged is not made whole.
    fs::remove_dir_all(dir.join("whole")).expect("removed");
    let blocks = fs::read_dir(dir.join("blocks")).expect("lists").next().expect("a map").expect("an entry");
    patch(&blocks.path(), 24, b"\xff");
    let (at, said) = (lab.at("look"), "ci@second");
    let why = lab.fails(4, &["create", "look", "--base", said, "--at", utf8(&at), "--mode", "kernel"]);
    assert!(why.contains("its data changed") && !dir.join("whole").exists(), "{why}");
    assert_eq!(lab.names(), [""; 0]);
}

fn left_in_layers(lab: &Lab) -> Vec<String> {
    let all = fs::read_dir(lab.home().layers()).expect("lists");
    let names = all.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    names.filter(|name| name.starts_with('.')).collect()
}

#[test]
fn where_there_is_no_room_for_whole_files_nothing_is_left_of_them() {
    ground!("overlay", "fuse", "root", "loop", "mkfs.ext4");
    let lab = lab();
    let [_, second] = two_layers(&lab);
    let filler = lab.root().join("filler");
    let _ = run_any("dd", &["if=/dev/zero", &format!("of={}", utf8(&filler)), "bs=1M"]);
    let filled = filler.metadata().expect("there").len();
    set_len(&filler, filled - 2 * MIB as u64);
    let at = lab.at("full");
    let args = ["create", "full", "--base", "ci@second", "--at", utf8(&at), "--mode", "kernel"];
    let said = lab.fails(3, &args);
    assert!(said.contains("No space left on device"), "{said}");
    let told = text(&lab.run(&[&args[..], &["--dry-run"]].concat()));
    assert!(
        told.contains("layer ci@second has only blocks of some files, which mode kernel can not read"),
        "{told}"
    );
    assert!(!layer(&lab, "ci@second").dir().join("whole").exists());
    assert_eq!((left_in_layers(&lab), lab.names()), (vec![], vec!["ci".to_owned()]));
    fs::remove_file(&filler).expect("removed");
    assert_shows(&lab, "ci@second", &second);
    lab.ok(&["destroy", "ci"]);
}

fn run_any(program: &str, args: &[&str]) -> std::process::Output {
    std::process::Command::new(program).args(args).output().expect("it runs")
}

#[test]
fn whoever_is_killed_while_files_are_made_whole_leaves_nothing_in_the_way() {
    ground!("overlay", "fuse", "root", "loop", "mkfs.ext4");
    let lab = lab();
    let [_, second] = two_layers(&lab);
    let whole = layer(&lab, "ci@second").dir().join("whole");
    let (mut before, mut after) = (0, 0);
    for n in 0..40 {
        let at = lab.at("killed");
        let args = ["create", "killed", "--base", "ci@second", "--at", utf8(&at), "--mode", "kernel"];
        let mut child = lab.command(&args).stdout(std::process::Stdio::null()).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(n * 2));
        child.kill().expect("killed");
        child.wait().expect("waited for");
        match whole.exists() {
            true => after += 1,
            false => before += 1,
        }
        lab.ok(&["verify", "ci@second"]);
        lab.ok(&["reap"]);
        assert_eq!(left_in_layers(&lab), [""; 0], "killed after {} ms", n * 2);
        if lab.names().contains(&"killed".to_owned()) {
            lab.ok(&["destroy", "killed"]);
        }
        let _ = fs::remove_dir_all(&whole);
    }
    assert_shows(&lab, "ci@second", &second);
    assert!(before + after == 40 && before > 0, "{before} times before, {after} times after");
    lab.ok(&["destroy", "ci"]);
}

/// What an overlay within the overlay has for marks is none of the layer's.
#[test]
fn marks_of_an_overlay_within_are_no_marks_of_the_layer() {
    ground!("overlay", "fuse", "root", "loop", "mkfs.ext4");
    let lab = lab();
    let at = lab.create("ci", &["--mode", "kernel", "--owner", "none"]);
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(at.join("dir"), "trusted.overlay.opaque", b"y", flags).expect("set");
    lab.ok(&["commit", "ci", "x"]);
    // Directories are made in a layer for other names of a file, and beside it for files that are made whole.
    patch(&at.join("shared"), 0, b"by its first name");
    let shown = of_kernel(&at);
    lab.ok(&["commit", "ci", "y"]);
    assert_same(&shown, &of_kernel(&at), "after the commit");
    assert_shows(&lab, "ci@y", &shown);
    let at = upon(&lab, "upon", "ci@x", "fuse");
    patch(&at.join("dir/cut"), 300_000, b"patched");
    let shown = of_kernel(&at);
    lab.ok(&["commit", "upon", "z"]);
    assert_shows(&lab, "upon@z", &shown);
}

/// Anything done in one mode, committed, gone on with in the other.
#[test]
fn whatever_is_done_in_one_mode_shows_in_the_other() {
    ground!("overlay", "fuse", "root", "loop", "mkfs.ext4");
    for seed in 1..4 {
        let lab = lab();
        let (mut random, mut names) = (Random(seed * 6007), vec![]);
        (0..50).for_each(|_| random.act(&lab.base(), &mut names));
        names.extend(["large", "shared", "dir/cut", "dir/deep", "dir"].map(PathBuf::from));
        let mut below = utf8(&lab.base()).to_owned();
        for (n, mode) in ["fuse", "kernel", "fuse", "kernel"].into_iter().enumerate() {
            let name = format!("overlay-{n}");
            let at = upon(&lab, &name, &below, mode);
            (0..40).for_each(|_| random.act(&at, &mut names));
            for name in ["large", "shared", "dir/cut"].map(|name| at.join(name)) {
                if name.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                    patch(&name, random.below(MIB) as u64, format!("{seed} {n}").as_bytes());
                }
            }
            let shown = of_kernel(&at);
            lab.ok(&["commit", &name, "done"]);
            assert_same(&shown, &of_kernel(&at), &format!("seed {seed}, {n} after its commit"));
            lab.ok(&["destroy", &name]);
            below = format!("{name}@done");
            assert_shows(&lab, &below, &shown);
        }
        lab.ok(&["verify", "--all"]);
    }
}

/// A user whom the system knows, as fusermount3 wants it.
const USER: &str = "1";

fn as_user(lab: &Lab, script: &str) -> std::process::Output {
    let (root, base, program) = (lab.root(), lab.base(), env!("CARGO_BIN_EXE_cowsnap"));
    for dir in [&base, &lab.home_dir(), &root.join("mnt")] {
        fs::create_dir_all(dir).expect("made");
        run("chown", &["-R", "-h", &format!("{USER}:{USER}"), utf8(dir)]);
    }
    run("chmod", &["o+rx", utf8(root)]);
    let setup = format!(
        "mount -t tmpfs none /mnt && mknod -m 666 /mnt/fuse c 10 229 && mount --bind /mnt/fuse /dev/fuse || exit 99
         exec setpriv --reuid {USER} --regid {USER} --clear-groups sh -c \"$0\""
    );
    std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &setup])
        .arg(format!("set -e\ncowsnap={program}\ncd {}\n{script}", utf8(root)))
        .env("COWSNAP_OVERLAY_HOME", lab.home_dir())
        .output()
        .expect("unshare runs")
}

#[test]
fn an_ordinary_user_commits_in_mode_fuse_and_the_kernel_shows_it_in_a_namespace_of_users() {
    ground!("overlay", "fuse", "root", "loop", "mkfs.ext4", "setpriv", "fusermount3", "userns");
    let lab = lab();
    let script = "
        $cowsnap -q overlay create ci --base base --at mnt/ci --owner none --mode fuse
        printf patched | dd of=mnt/ci/large bs=1 seek=300000 conv=notrunc status=none
        rm -r mnt/ci/dir/deep mnt/ci/symlink; mkdir mnt/ci/dir/deep; echo new > mnt/ci/dir/deep/new; ln mnt/ci/large mnt/ci/hard
        chmod 640 mnt/ci/file
        sha256sum mnt/ci/large; find mnt/ci | sort | cut -d/ -f2-; stat -c '%u %a' mnt/ci/file
        $cowsnap overlay commit ci x
        $cowsnap overlay verify --all
        $cowsnap overlay diff ci
        echo fuse:
        cd mnt/ci; sha256sum large; find . | sort; cd ../..
        echo kernel:
        $cowsnap overlay run --base ci@x --mode kernel -- sh -c 'sha256sum large; find . | sort; echo more > file; id -u'
        echo namespace:
        unshare -rm sh -ec \"
            $cowsnap -q overlay create k --base ci@x --at mnt/k --mode kernel --owner none
            echo more > mnt/k/file; rm mnt/k/dir/deep/new
            $cowsnap overlay commit k y
            cat mnt/k/file; ls -A mnt/k/dir/deep
            $cowsnap overlay verify --all
            $cowsnap overlay destroy k\"
        $cowsnap overlay verify --all
        $cowsnap overlay run --base k@y --mode fuse -- sh -c 'cat file; ls -A dir/deep; sha256sum large'
        mv mnt/ci/dir mnt/ci/renamed; $cowsnap overlay commit ci redirected
        $cowsnap overlay run --base ci@redirected --mode kernel -- true || echo exit code $?
        $cowsnap overlay run --base ci@redirected --mode fuse -- ls renamed
        $cowsnap overlay destroy ci; $cowsnap overlay destroy k@y; $cowsnap overlay destroy ci@redirected; $cowsnap overlay destroy ci@x";
    let output = as_user(&lab, script);
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let part = |from: &str, to: &str| {
        let from = said.find(from).expect(from) + from.len();
        said[from..][..said[from..].find(to).expect(to)].to_owned()
    };
    let (fuse, kernel) = (part("fuse:\n", "kernel:"), part("kernel:\n", "namespace:"));
    assert_eq!(kernel, format!("{fuse}{USER}\n"), "{}", text(&output));
    assert!(fuse.contains("./dir/deep/new") && !fuse.contains("symlink"), "{fuse}");
    assert!(
        part("namespace:\n", "exit code")
            .contains("ci@x  sound\nk@y  sound\nci@x  sound\nk@y  sound\nmore\n"),
        "{}",
        text(&output)
    );
    assert!(text(&output).contains("overlayfs follows for root only"), "{}", text(&output));
    assert!(said.contains("exit code 3"), "{said}");
    assert_eq!(read(lab.base().join("file")), "base");
    assert_eq!(lab.base().join("large").metadata().expect("there").uid().to_string(), USER);
    lab.assert_nothing_left();
}

/// An image below is a base as any other.
#[test]
fn a_commit_upon_an_image_keeps_what_was_changed_of_it() {
    ground!("overlay", "fuse", "root", "loop", "mkfs.ext4", "mksquashfs", "mkfs.erofs");
    for mode in ["squashfs", "erofs"] {
        let lab = lab();
        let at = lab.create("ci", &["--mode", mode, "--owner", "none"]);
        patch(&at.join("large"), 300_000, b"patched");
        fs::rename(at.join("dir"), at.join("renamed")).expect("renamed");
        fs::remove_file(at.join("symlink")).expect("removed");
        let shown = of_kernel(&at);
        lab.ok(&["commit", "ci", "x"]);
        assert_same(&shown, &of_kernel(&at), mode);
        assert_eq!(lab.ok(&["diff", "ci"]), "", "{mode}");
        fs::write(at.join("more"), "more").expect("written");
        lab.ok(&["reset", "ci"]);
        assert_same(&shown, &of_kernel(&at), mode);
        lab.ok(&["reset", "ci", "--to-base"]);
        assert!(at.join("symlink").is_symlink(), "{mode}");
        lab.ok(&["reset", "ci", "--to", "x"]);
        assert_same(&shown, &of_kernel(&at), mode);
        lab.ok(&["verify", "--all"]);
        lab.ok(&["destroy", "ci"]);
        lab.ok(&["destroy", "ci@x"]);
        lab.assert_nothing_left();
    }
}
