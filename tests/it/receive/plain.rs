//! Streams of btrfs as plain trees on ext4 and XFS: equal to the source, in every way and increment by increment; nothing outside changes.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use cowsnap::Class;
use cowsnap::endpoint::plain::{Staging, Target};
use cowsnap::endpoint::{Error, Result, btrfs::receive::Needs};
use cowsnap::model::{Guid, VersionRef};
use cowsnap::stream::btrfs::encode::Encoder;
use cowsnap::stream::btrfs::{Command, Parser, Version};
use cowsnap::sys::file::clone_range;

use super::lab::{Lab, WAYS, words_of};
use super::mutator::Mutator;
use crate::ground::{Plain, ground, run};
use crate::tree_compare::{Also, assert_same, describe};

const HOLES: Also = Also { holes: true, flags: false };

/// A plain tree in the making.
pub struct Tree {
    path: PathBuf,
    ground: Plain,
}

impl Tree {
    fn of(ground: Plain) -> Self {
        let mount = ground.path();
        // Comparing reads.
        run("mount", &["-o", "remount,noatime", mount.to_str().expect("utf-8")]);
        Self { path: mount.join("t"), ground }
    }

    /// What is made is equal to what it is to be, but for its name.
    fn made(&self) -> PathBuf {
        self.ground.path().join(".t.cowsnap-restoring/tree")
    }

    fn apply(&self, stream: &[u8]) -> Result<Vec<String>> {
        let target = Target::open(&self.path)?;
        let mut staging = match Staging::find(&target)? {
            Some(staging) => staging,
            None => Staging::new(&target)?,
        };
        let (version, base) = first_of(stream);
        let needs = if base { staging.prepare(&mut &stream[..])? } else { Needs::new() };
        staging.apply(&version, &needs, &mut &stream[..])?;
        assert_eq!(staging.holds(), Some(&version));
        Ok(staging.lacks().iter().map(|lack| lack.what.clone()).collect())
    }
}

/// What a stream brings, and whether upon a base.
fn first_of(stream: &[u8]) -> (VersionRef, bool) {
    let mut parser = Parser::new(stream);
    let (uuid, base) = match parser.next_command().expect("parses").expect("a command").command {
        Command::Subvol { uuid, .. } => (uuid, false),
        Command::Snapshot { uuid, .. } => (uuid, true),
        other => panic!("it begins with {other}"),
    };
    (VersionRef { guid: Guid(uuid), name: "s".parse().expect("a name") }, base)
}

/// Sends after each step, in every way, and compares what becomes of it on ext4 and on XFS with the snapshot.
fn check(options: &str, also: Also, steps: &[&dyn Fn(&Path)]) -> Vec<String> {
    let mut lab = Lab::new(options, also);
    let trees = [Plain::ext4(), Plain::xfs(), Plain::ext4()].map(Tree::of);
    let mut lacks = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        step(&lab.live());
        let n = lab.snapshot();
        for (tree, (way, words)) in trees.iter().zip(WAYS) {
            let stream = lab.send(n, (at > 0).then(|| n - 1), words, &[]);
            let told =
                tree.apply(&stream).unwrap_or_else(|error| panic!("{way}, s{n}: {}", words_of(&error)));
            lacks.extend(told);
            assert_same(&lab.snapshot_path(n), &tree.made(), also, &format!("{way}, s{n}, plain"));
            assert!(!tree.ground.path().join(".t.cowsnap-restoring/base").exists());
        }
    }
    lacks.sort();
    lacks.dedup();
    lacks
}

fn sh(directory: &Path, script: &str) {
    let script = format!("set -e; cd '{}'; {script}", directory.display());
    run("sh", &["-c", &script]);
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn random_changes_and_clones_become_the_same_plain_tree() {
    ground!("btrfs", "ext4", "xfs");
    let seed = std::env::var("COWSNAP_SEED").ok().and_then(|text| text.parse().ok());
    for seed in seed.map_or(vec![11, 12], |seed| vec![seed]) {
        println!("COWSNAP_SEED={seed}");
        let mutator = std::cell::RefCell::new(Mutator::new(seed));
        let step = |s: &Path| mutator.borrow_mut().run(s, 120);
        let options = ["", "compress-force=zstd"][seed as usize % 2];
        check(options, Also::default(), &[&step, &step, &step, &step]);
    }
}

#[test]
fn a_clone_of_what_the_base_had_is_right_though_the_file_changed_moved_and_went() {
    ground!("btrfs", "ext4", "xfs");
    let share = |from: &Path, at: u64, len: u64, to: &Path, offset: u64| {
        let from = File::open(from).expect("opens");
        let to = OpenOptions::new().write(true).create(true).truncate(false).open(to).expect("opens");
        clone_range(from.as_fd(), at, len, to.as_fd(), offset).expect("clones");
    };
    check(
        "",
        Also::default(),
        &[
            &|s| {
                for name in ["changed", "moved", "gone", "swapped"] {
                    fs::write(s.join(name), noise(1 << 20, name.len() as u64)).expect("writes");
                }
                sh(s, "mkdir d; mv gone d/gone; sync");
            },
            &|s| {
                share(&s.join("changed"), 0, 512 << 10, &s.join("from-changed"), 0);
                share(&s.join("moved"), 256 << 10, 512 << 10, &s.join("from-moved"), 4096);
                share(&s.join("d/gone"), 0, 1 << 20, &s.join("from-gone"), 0);
                share(&s.join("swapped"), 128 << 10, 128 << 10, &s.join("changed"), 768 << 10);
                let changed = OpenOptions::new().write(true).open(s.join("changed")).expect("opens");
                changed.write_all_at(&noise(300_000, 9), 0).expect("writes");
                sh(
                    s,
                    "rm d/gone; mv moved d/elsewhere; mv swapped t; mv from-moved swapped; mv t from-moved",
                );
            },
            &|s| sh(s, "cp --reflink=always from-gone again; truncate -s 4096 from-gone; rm changed; mv d e"),
        ],
    );
}

#[test]
fn owners_modes_attributes_times_links_and_special_files_are_in_a_plain_tree_too() {
    ground!("btrfs", "ext4", "xfs", "setcap", "setfacl");
    check(
        "",
        HOLES,
        &[
            &|s| {
                sh(
                    s,
                    "echo x > plain; chown 1000:1001 plain; for m in 4755 2711 000; do echo $m > m$m; chown 7:8 m$m; chmod $m m$m; done",
                );
                sh(
                    s,
                    "mkfifo fifo; mknod null c 1 3; mknod disk b 259 70000; mkdir d; chmod 2770 d; chown 3:4 d; mkdir sticky; chmod 1777 sticky",
                );
                sh(
                    s,
                    "ln -s a/target/that/is/nowhere link; chown -h 5:6 link; setfattr -n user.empty -v '' plain; setfattr -h -n trusted.l -v v link",
                );
                sh(
                    s,
                    "cp /bin/true cap; setcap cap_net_raw+ep cap; setfacl -m u:12:rwx plain; setfacl -d -m g:9:rx d; echo in > d/inside",
                );
                sh(
                    s,
                    "touch -d '1969-01-02 03:04:05.678901234' plain; touch -h -d '2038-01-03 01:02:03.4' link; ln plain d/hard; ln link hardlink",
                );
                sh(
                    s,
                    "truncate -s 9M sparse; printf x | dd of=sparse bs=1 seek=3000000 conv=notrunc status=none",
                );
            },
            &|s| {
                sh(
                    s,
                    "chown 20:20 cap; setcap cap_net_raw,cap_sys_time+ep cap; setfacl -b plain; for m in m4755 m2711; do chown 30:31 $m; done",
                );
                sh(
                    s,
                    "chmod 4755 m4755; chmod 2711 m2711; rm null; mkfifo null; chmod 640 disk; touch -d @7.000000001 fifo; chmod 700 .; chown 11:12 .",
                );
                sh(
                    s,
                    "setfattr -n user.on.the.root -v v .; setfattr -n user.on.a.dir -v v d; printf more >> cap; setcap cap_net_raw+ep cap",
                );
            },
            &|s| {
                sh(
                    s,
                    "setcap -r cap; rm -r d; echo file > d; touch -d @3 d; touch -d @1234567890.123456789 .",
                )
            },
        ],
    );
}

#[test]
fn names_links_and_directories_change_places_in_a_plain_tree_too() {
    ground!("btrfs", "ext4", "xfs");
    check(
        "",
        Also::default(),
        &[
            &|s| {
                sh(
                    s,
                    "mkdir -p a/b/c/d/e f/g/h; for x in a a/b a/b/c a/b/c/d f f/g; do echo $x > $x/file; done; for i in $(seq 300); do ln a/file f/l$i; done",
                )
            },
            &|s| {
                sh(
                    s,
                    "mv a/b/c f/g/h/c; mv f/g/h/c/d .; mv a d/e/a; echo n >> d/e/a/file; mv f/l1 one; rm f/l2* ; printf x > \"$(printf 'new\\nline')\"",
                )
            },
            &|s| {
                sh(
                    s,
                    "mv d/e/a/b b; mv d b/d; mv f b/d/e/f; rm -r b/d/e/f/g; mkdir d; echo again > d/file; mv one d/o257-7-0",
                )
            },
        ],
    );
}

#[test]
fn flags_come_back_and_what_another_filesystem_lacks_is_told() {
    ground!("btrfs", "ext4", "xfs", "chattr");
    let mut lab = Lab::new("", Also::default());
    let steps: [&dyn Fn(&Path); 3] = [
        &|s| {
            sh(
                s,
                "echo a > i; echo b > a; mkdir d p; echo c > d/f; echo e > e; touch n; setfattr -n btrfs.compression -v zstd p",
            )
        },
        &|s| sh(s, "chattr +i i; chattr +a a; chattr +i d/f; chattr +i d; chattr +A e; chattr +C n"),
        &|s| sh(s, "chattr -i i d d/f; echo more >> i; echo n > d/n; rm d/f; echo x >> a; chattr +i i d"),
    ];
    for make in [Plain::ext4, Plain::xfs] {
        let tree = Tree::of(make());
        let first = lab.snapshot() + 1;
        let mut told = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            step(&lab.live());
            let n = lab.snapshot();
            told = tree.apply(&lab.send(n, (at > 0).then(|| n - 1), WAYS[1].1, &[])).expect("applies");
        }
        let flags = |name: &str| {
            let file = File::open(tree.made().join(name)).expect("opens");
            rustix::fs::ioctl_getflags(&file).expect("flags").bits()
        };
        assert_eq!(
            (flags("i") & 0x10, flags("a") & 0x20, flags("d") & 0x10, flags("e") & 0x80),
            (0x10, 0x20, 0x10, 0x80)
        );
        assert_eq!(fs::read(tree.made().join("a")).expect("reads"), b"b\nx\n");
        assert!(told.iter().any(|what| what == "btrfs.compression"), "{told:?}");
        assert!(told.iter().any(|what| what.contains("NOCOW")), "{told:?}");
        // What is locked is cleared away nevertheless.
        let target = Target::open(&tree.path).expect("opens");
        Staging::find(&target).expect("finds").expect("it is there").clear().expect("clears");
        assert_eq!(
            fs::read_dir(tree.ground.path())
                .expect("lists")
                .filter(|e| e.as_ref().is_ok_and(|e| e.file_name() != "lost+found"))
                .count(),
            0
        );
        sh(&lab.live(), "chattr -R -i -a .; rm -rf *");
        let _ = first;
    }
}

/// A tree with things beside it that a stream must not reach.
struct Trap {
    tree: Tree,
}

impl Trap {
    fn new() -> Self {
        let tree = Tree::of(Plain::ext4());
        let outside = tree.ground.path().join("outside");
        fs::create_dir_all(outside.join("dir")).expect("mkdir");
        fs::write(outside.join("secret"), b"secret").expect("writes");
        symlink("secret", outside.join("link")).expect("symlink");
        Self { tree }
    }

    fn spring(&self, commands: &[Command<'_>]) -> Result<(), Error> {
        let outside = self.tree.ground.path().join("outside");
        let before = describe(&outside, Also::default());
        let mut encoder = Encoder::new(Version::V3);
        encoder.push(&Command::Subvol { path: b"s", uuid: [1; 16], ctransid: 1 });
        for command in commands {
            encoder.push(command);
        }
        let target = Target::open(&self.tree.path)?;
        if let Some(left) = Staging::find(&target)? {
            left.clear()?;
        }
        let applied = self.tree.apply(&encoder.finish());
        assert_eq!(before, describe(&outside, Also::default()));
        applied.map(drop)
    }
}

#[test]
fn no_path_and_no_planted_link_leads_out_of_a_plain_tree() {
    ground!("ext4");
    let trap = Trap::new();
    let absolute = trap.tree.ground.path().join("outside/secret").into_os_string().into_encoded_bytes();
    let ok = Command::Mkfile { path: b"ok", inode: 257 };
    let planted = Command::Symlink { path: b"way", inode: 258, target: b"../../outside" };
    let last = Command::Symlink { path: b"last", inode: 259, target: b"../../outside/secret" };
    let paths = [
        &absolute[..],
        b"../../outside/secret",
        b"..",
        b".",
        b"ok/../../x",
        b"way/secret",
        b"way/dir",
        b"a//b",
    ];
    for path in paths {
        let (uuid, ctransid) = ([1; 16], 1);
        let commands = [
            Command::Mkfile { path, inode: 1 },
            Command::Mkdir { path, inode: 1 },
            Command::Rename { path: b"ok", to: path },
            Command::Rename { path, to: b"stolen" },
            Command::Link { path: b"stolen", target: path },
            Command::Unlink { path },
            Command::Write { path, offset: 0, data: b"pwned" },
            Command::Clone { path: b"ok", offset: 0, len: 3, uuid, ctransid, from: path, from_offset: 0 },
            Command::Truncate { path, size: 0 },
            Command::Chmod { path, mode: 0o4777 },
            Command::Chown { path, uid: 99, gid: 99 },
            Command::SetXattr { path, name: b"user.x", data: b"y" },
            Command::Fileattr { path, flags: 1 << 6 },
        ];
        for command in commands {
            let error = trap.spring(&[ok, planted, last, command]).expect_err("it leads out");
            assert_eq!(error.class(), Class::Corrupt, "{command}: {}", words_of(&error));
        }
    }
    for command in [
        Command::Write { path: b"last", offset: 0, data: b"pwned" },
        Command::Chmod { path: b"last", mode: 0o777 },
        Command::Truncate { path: b"last", size: 0 },
    ] {
        trap.spring(&[last, command]).expect_err("a link is not followed");
    }
}

#[test]
fn an_increment_does_not_read_beyond_its_base() {
    ground!("ext4");
    let tree = Trap::new().tree;
    let full = |encoder: &mut Encoder| {
        encoder.push(&Command::Subvol { path: b"s", uuid: [1; 16], ctransid: 1 });
        encoder.push(&Command::Symlink { path: b"way", inode: 258, target: b"../../outside" });
        encoder.push(&Command::Mkfifo { path: b"fifo", inode: 259 });
        encoder.push(&Command::Mkfile { path: b"ok", inode: 260 });
    };
    let mut encoder = Encoder::new(Version::V1);
    full(&mut encoder);
    tree.apply(&encoder.finish()).expect("applies");
    let before = describe(&tree.made(), Also::default());
    for from in [&b"way/secret"[..], b"../../outside/secret", b"/etc/passwd", b"fifo", b"way", b"nowhere"] {
        let mut encoder = Encoder::new(Version::V1);
        let (clone_uuid, clone_ctransid) = ([1; 16], 1);
        encoder.push(&Command::Snapshot {
            path: b"s",
            uuid: [2; 16],
            ctransid: 5,
            clone_uuid,
            clone_ctransid,
        });
        encoder.push(&Command::Clone {
            path: b"ok",
            offset: 0,
            len: 3,
            uuid: clone_uuid,
            ctransid: 1,
            from,
            from_offset: 0,
        });
        let error = tree.apply(&encoder.finish()).expect_err("its base has no such file");
        assert_eq!(error.class(), Class::Corrupt, "{}", words_of(&error));
        assert_eq!(
            before,
            describe(&tree.made(), Also::default()),
            "it was looked at before anything changed"
        );
    }
}

#[test]
fn no_name_takes_anothers_place_in_a_plain_tree() {
    ground!("ext4");
    let trap = Trap::new();
    let dir = Command::Mkdir { path: b"d", inode: 257 };
    let handing_down = Command::Chmod { path: b"d", mode: 0o2755 };
    let (first, second) = (
        Command::Mkfile { path: b"o258-1-0", inode: 258 },
        Command::Mkfile { path: b"o259-1-0", inode: 259 },
    );
    let (one, two) = (
        Command::Rename { path: b"o258-1-0", to: b"d/a" },
        Command::Rename { path: b"o259-1-0", to: b"d/a" },
    );
    // Made in place, renamed afterwards, linked; also where the directory hands something down.
    for commands in [
        &[dir, first, one, second, two][..],
        &[dir, first, second, one, two],
        &[dir, handing_down, first, one, second, two],
        &[dir, first, one, second, Command::Link { path: b"d/a", target: b"o259-1-0" }],
    ] {
        let error = trap.spring(commands).expect_err("one of the two would be lost");
        assert_eq!(error.class(), Class::Corrupt, "{}", words_of(&error));
    }
}

#[test]
fn a_staging_directory_that_somebody_else_has_made_is_not_taken_over() {
    use std::os::unix::fs::{PermissionsExt, chown};

    ground!("ext4");
    let tree = Trap::new().tree;
    let mut encoder = Encoder::new(Version::V1);
    encoder.push(&Command::Subvol { path: b"s", uuid: [1; 16], ctransid: 1 });
    tree.apply(&encoder.finish()).expect("applies");
    let target = Target::open(&tree.path).expect("opens");
    let staging = tree.ground.path().join(".t.cowsnap-restoring");
    let find = || Staging::find(&target).map(|found| found.is_some());
    assert!(find().expect("it is ours"));
    for (path, closed) in [(staging.clone(), 0o700), (staging.join("state"), 0o600)] {
        chown(&path, Some(1234), None).expect("chown");
        assert_eq!(find().expect_err("another's").class(), Class::Conflict);
        chown(&path, Some(0), None).expect("chown");
        fs::set_permissions(&path, fs::Permissions::from_mode(closed | 0o022)).expect("chmod");
        assert_eq!(find().expect_err("others write").class(), Class::Conflict);
        fs::set_permissions(&path, fs::Permissions::from_mode(closed)).expect("chmod");
    }
    assert!(find().expect("it is ours"));
}

#[test]
fn what_was_applied_without_looking_who_signed_it_is_not_believed_later() {
    ground!("ext4");
    let keys = |all: &[&str]| all.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    let tree = Trap::new().tree;
    let stream = |n: u8| {
        let mut encoder = Encoder::new(Version::V1);
        match n {
            1 => encoder.push(&Command::Subvol { path: b"s", uuid: [1; 16], ctransid: 1 }),
            n => encoder.push(&Command::Snapshot {
                path: b"s",
                uuid: [n; 16],
                ctransid: 1,
                clone_uuid: [n - 1; 16],
                clone_ctransid: 1,
            }),
        };
        encoder.finish()
    };
    let target = Target::open(&tree.path).expect("opens");
    let apply = |n: u8, trusted: Option<Vec<String>>| {
        let mut staging = match Staging::find(&target).expect("looks") {
            Some(staging) => staging,
            None => Staging::new(&target).expect("made"),
        };
        staging.trusting(trusted);
        let stream = stream(n);
        staging.apply(&first_of(&stream).0, &Needs::new(), &mut &stream[..]).expect("applies");
    };
    let was = |by: &[&str]| {
        let staging = Staging::find(&target).expect("looks").expect("there");
        staging.was_signed_by(&keys(by))
    };
    apply(1, Some(keys(&["a"])));
    assert!(was(&["a", "b"]) && !was(&["b"]));
    apply(2, Some(keys(&["b"])));
    assert!(was(&["a", "b"]) && !was(&["b"]) && !was(&["a"]));
    apply(3, None);
    assert!(!was(&["a", "b"]));
}
