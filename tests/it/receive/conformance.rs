//! Trees after our receive equal the source: in full and as increments, v1, v2, v2 compressed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use cowsnap::stream::btrfs::{Command, Parser};
use cowsnap::sys::btrfs::{SendOptions, get_subvol_info, send};
use cowsnap::sys::file::clone_range;

use super::lab::{Lab, WAYS};
use super::mutator::Mutator;
use crate::ground::{ground, run};
use crate::tree_compare::{Also, assert_same};

const HOLES: Also = Also { holes: true, flags: false };

fn put(path: &Path, data: &[u8]) {
    fs::write(path, data).unwrap_or_else(|e| panic!("{path:?}: {e}"));
}

/// Bytes that do not compress away.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn patch(path: &Path, offset: u64, data: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("opens");
    file.write_all_at(data, offset).expect("writes");
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn xattr(path: &Path, name: &str, value: &str) {
    run("setfattr", &["-h", "-n", name, "-v", value, path.to_str().expect("utf-8")]);
}

fn sh(directory: &Path, script: &str) {
    let script = format!("set -e; cd '{}'; {script}", directory.display());
    run("sh", &["-c", &script]);
}

#[test]
fn directories_that_swap_names_while_same_named_files_change() {
    ground!("btrfs");
    Lab::new("", HOLES).check(&[
        &|s| {
            for (dir, seed) in [("a", 1), ("b", 2)] {
                fs::create_dir(s.join(dir)).expect("mkdir");
                for (n, file) in ["f", "g", "h"].into_iter().enumerate() {
                    put(&s.join(dir).join(file), &noise(300_000, seed * 10 + n as u64));
                }
            }
        },
        &|s| {
            sh(s, "mv a t; mv b a; mv t b");
            for (n, path) in ["a/f", "b/f", "a/g", "b/g", "b/h", "a/h"].into_iter().enumerate() {
                patch(&s.join(path), 4096 * n as u64, &noise(9000, n as u64));
            }
        },
        &|s| {
            sh(s, "mv a t; mv b a; mv t b; mkdir a/x; mv b a/x/b; mv a/f a/x/b/n");
            patch(&s.join("a/x/b/f"), 100, b"deep");
            patch(&s.join("a/x/b/n"), 100, b"moved");
        },
    ]);
}

#[test]
fn clones_within_one_file_and_between_files_of_one_stream() {
    ground!("btrfs");
    let share = |from: &Path, at: u64, len: u64, to: &Path, offset: u64| {
        let from = File::open(from).expect("opens");
        let to = OpenOptions::new().write(true).create(true).truncate(false).open(to).expect("opens");
        clone_range(from.as_fd(), at, len, to.as_fd(), offset).expect("clones");
    };
    let mut lab = Lab::new("", HOLES);
    lab.check(&[
        &|s| {
            put(&s.join("one"), &noise(1 << 20, 1));
            rustix::fs::sync();
            share(&s.join("one"), 0, 256 << 10, &s.join("one"), 2 << 20);
            share(&s.join("one"), 128 << 10, 512 << 10, &s.join("two"), 0);
            share(&s.join("one"), 0, 1 << 20, &s.join("three"), 0);
        },
        &|s| {
            share(&s.join("three"), 512 << 10, 128 << 10, &s.join("three"), 0);
            share(&s.join("one"), 0, 4096, &s.join("new"), 8192);
            fs::rename(s.join("two"), s.join("renamed")).expect("renames");
            share(&s.join("renamed"), 0, 64 << 10, &s.join("new"), 64 << 10);
        },
    ]);
    let stream = lab.send(1, None, WAYS[0].1, &[]);
    let mut parser = Parser::new(&stream[..]);
    let mut n_clones = 0;
    while let Some(item) = parser.next_command().expect("parses") {
        n_clones += usize::from(matches!(item.command, Command::Clone { .. }));
    }
    assert!(n_clones >= 2, "the case is about clones, and the kernel sent {n_clones}");
}

#[test]
fn compressed_files_and_clones_of_them_in_an_increment() {
    ground!("btrfs");
    for algorithm in ["zlib", "zstd", "lzo"] {
        let text = |n: usize| format!("line {n} of a log that compresses\n").repeat(20_000).into_bytes();
        Lab::new(&format!("compress-force={algorithm}"), Also::default()).check(&[
            &|s| {
                put(&s.join("a"), &text(1));
                put(&s.join("b"), &noise(200_000, 3));
                put(&s.join("inline"), &text(2)[..1500]);
                put(&s.join("odd"), &text(4)[..131_072 + 777]);
            },
            &|s| {
                sh(s, "cp --reflink=always a c");
                patch(&s.join("a"), 100_000, &text(5)[..50_000]);
                patch(&s.join("odd"), 3, b"x");
                put(&s.join("new"), &text(6));
            },
        ]);
    }
}

#[test]
fn owners_modes_attributes_times_and_special_files() {
    ground!("btrfs", "setcap", "setfacl");
    Lab::new("", HOLES).check(&[
        &|s| {
            put(&s.join("plain"), b"x");
            chown(s.join("plain"), Some(1000), Some(1001)).expect("chown");
            for (name, mode) in [("suid", 0o4755), ("sgid", 0o2711), ("none", 0), ("sticky", 0o1777)] {
                put(&s.join(name), name.as_bytes());
                chown(s.join(name), Some(7), Some(8)).expect("chown");
                chmod(&s.join(name), mode);
            }
            sh(s, "mkfifo fifo; mknod null c 1 3; mknod disk b 259 70000; mkdir d; chmod 2770 d; chown 3:4 d");
            sh(s, "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")' || true");
            symlink("a/target/that/is/nowhere", s.join("link")).expect("symlink");
            symlink("x".repeat(3000), s.join("longlink")).expect("symlink");
            lchown(s.join("link"), Some(5), Some(6)).expect("chown");
            xattr(&s.join("plain"), "user.empty", "");
            xattr(&s.join("plain"), "user.long", &"v".repeat(3000));
            xattr(&s.join("link"), "trusted.on.a.link", "v");
            xattr(&s.join("fifo"), "trusted.on.a.fifo", "v");
            sh(s, "cp /bin/true cap; setcap cap_net_raw+ep cap; setfacl -m u:12:rwx plain; setfacl -d -m g:9:rx d");
            sh(s, "touch -d '1969-01-02 03:04:05.678901234' plain; touch -h -d '2038-02-03 01:02:03.4' link");
            sh(s, "ln plain hard1; mkdir d/e; ln plain d/e/hard2; ln link hardlink; echo in > d/inside");
        },
        &|s| {
            chown(s.join("cap"), Some(20), Some(20)).expect("chown");
            sh(s, "setcap cap_net_raw,cap_sys_time+ep cap; setfattr -x user.long plain; setfacl -b plain");
            for name in ["suid", "sgid"] {
                let mode = fs::metadata(s.join(name)).expect("stat").mode();
                chown(s.join(name), Some(30), Some(31)).expect("chown");
                chmod(&s.join(name), mode & 0o7777); // The same mode as before, so that only the owner is sent.
            }
            sh(s, "rm hard1; ln d/e/hard2 d/hard3; rm null; mkfifo null; chmod 640 disk; touch -d @7.000000001 fifo");
            xattr(&s.join("d"), "user.on.a.dir", "v");
        },
        &|s| {
            sh(s, "printf more >> cap; setcap cap_net_raw+ep cap; printf tail >> suid; chmod 4755 suid");
            sh(s, "chmod 700 .; chown 11:12 .; touch -d @1234567890.123456789 .");
            xattr(s, "user.on.the.root", "v");
        },
        &|s| sh(s, "setcap -r cap; chown 9 cap; rm -r d; echo file > d; touch -d @3 d"),
    ]);
}

#[test]
fn what_directories_hand_down_is_not_what_the_stream_says() {
    ground!("btrfs", "setfacl");
    Lab::new("", HOLES).check(&[
        &|s| {
            sh(s, "mkdir plain; touch plain/before; setfacl -d -m u:33:rwx,m::rwx .; chmod 2775 .; chgrp 44 .");
            sh(s, "mkdir made; echo x > made/f; setfacl -b made/f; mkfifo made/p; setfacl -k made; ln -s x made/l");
            sh(s, "setfattr -n btrfs.compression -v zstd plain; echo y > plain/after; mkdir plain/sub");
            sh(s, "setfattr -x btrfs.compression plain/after; chmod 640 made/f; chown 1:1 made/f");
        },
        &|s| sh(s, "echo z > made/new; setfacl -b made/new; echo q > plain/q; echo r > r; setfacl -b r; mkdir t"),
    ]);
}

#[test]
fn holes_preallocation_and_truncation() {
    ground!("btrfs");
    Lab::new("", Also::default()).check(&[
        &|s| {
            let sparse = File::create(s.join("sparse")).expect("creates");
            sparse.set_len(10 << 20).expect("grows");
            sparse.write_all_at(&noise(5000, 1), 3 << 20).expect("writes");
            sh(s, "fallocate -l 1M pre; touch beyond; fallocate -n -l 2M beyond; printf x >> beyond; truncate -s 77 small");
            put(&s.join("full"), &noise(1 << 20, 2));
        },
        &|s| {
            sh(s, "fallocate -p -o 65536 -l 131072 full; fallocate -z -o 400000 -l 100000 full");
            sh(s, "truncate -s 5M sparse; truncate -s 20M pre; truncate -s 0 small; printf y >> beyond");
            patch(&s.join("pre"), 512 << 10, &noise(4096, 3));
        },
        &|s| sh(s, "truncate -s 12345 full; truncate -s 1M full; fallocate -p -o 0 -l 4096 sparse"),
    ]);
}

#[test]
fn holes_are_where_the_source_has_them() {
    ground!("btrfs");
    Lab::new("", HOLES).check(&[
        &|s| {
            let sparse = File::create(s.join("sparse")).expect("creates");
            sparse.set_len(8 << 20).expect("grows");
            for n in 0..6 {
                sparse.write_all_at(&noise(70_000, n), n << 20).expect("writes");
            }
        },
        &|s| patch(&s.join("sparse"), 7 << 20, &noise(4096, 9)),
    ]);
}

#[test]
fn directories_move_deep_and_change_places_with_their_parents() {
    ground!("btrfs");
    Lab::new("", HOLES).check(&[
        &|s| {
            sh(s, "mkdir -p a/b/c/d/e f/g/h; for x in a a/b a/b/c a/b/c/d f f/g; do echo $x > $x/file; done")
        },
        &|s| sh(s, "mv a/b/c f/g/h/c; mv f/g/h/c/d .; mv a d/e/a; echo n >> d/e/a/file; echo n > d/e/a/new"),
        &|s| sh(s, "mv d/e/a/b b; mv d b/d; mv f b/d/e/f; mv b/d/e/f/g/h/c c; mv b c/b; rm c/b/file"),
        &|s| sh(s, "mkdir t; mv c/b/d/e t/; rm -r c; mv t c; mkdir -p a/b/c; echo again > a/b/c/file"),
    ]);
}

#[test]
fn hundreds_of_directories_one_in_another() {
    ground!("btrfs");
    Lab::new("", HOLES).check(&[
        &|s| sh(s, "p=d; for i in $(seq 400); do p=$p/d; done; mkdir -p $p; echo deep > $p/file"),
        &|s| sh(s, "mkdir e; mv d/d e/; p=e/d; for i in $(seq 390); do p=$p/d; done; echo more > $p/other"),
    ]);
}

#[test]
fn nested_subvolumes_are_left_out() {
    ground!("btrfs");
    Lab::new("", HOLES).check(&[
        &|s| sh(s, "mkdir d; btrfs -q subvolume create d/nested; echo in > d/nested/f; echo out > d/f"),
        &|s| sh(s, "mv d/nested n; echo more > n/g; echo more >> d/f; btrfs -q subvolume create m"),
        &|s| sh(s, "btrfs -q subvolume delete n; mkdir n; echo now a directory > n/f"),
    ]);
}

#[test]
fn names_of_every_byte_and_length() {
    ground!("btrfs");
    let name = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    let long = [b'n'; 255];
    Lab::new("", HOLES).check(&[
        &|s| {
            for byte in (1..=255u8).filter(|&b| b != b'/') {
                put(&s.join(name(&[b'x', byte])), &[byte]);
            }
            let mut dir = s.to_owned();
            for part in [&b"new\nline"[..], b" space %s %20", b"\xff\xfe", b"--help", b"..."] {
                dir.push(name(part));
                fs::create_dir(&dir).expect("mkdir");
                put(&dir.join(name(&long)), part);
            }
            symlink(name(b"\xfftarget\n"), dir.join(name(b"\n"))).expect("symlink");
        },
        &|s| {
            fs::rename(s.join(name(b"new\nline")), s.join(name(b"o257-7-0"))).expect("renames");
            fs::rename(s.join(name(b"x\xff")), s.join(name(b"\xfe\xff"))).expect("renames");
            put(&s.join(name(b"o258-7-0")), b"a name that a sender could choose");
        },
    ]);
}

#[test]
fn renames_in_chains_and_circles() {
    ground!("btrfs");
    Lab::new("", HOLES).check(&[
        &|s| sh(s, "for x in a b c d e; do echo $x > $x; mkdir dir$x; echo $x > dir$x/f; done"),
        &|s| sh(s, "mv a t; mv b a; mv c b; mv t c; mv dira t; mv dirb dira; mv dirc dirb; mv t dirc; echo 1 >> a"),
        &|s| sh(s, "mv dira dirb/; mv dirb dirc/; mv dirc/dirb/dira .; mv dirc dira/; rm b; mv c b; echo x > c"),
        &|s| sh(s, "mv d t; mv e d; mv t e; ln d l1; ln d dird/l2; mv dird dire/; echo 2 >> e; rm d"),
    ]);
}

#[test]
fn a_name_comes_back_as_another_type() {
    ground!("btrfs");
    let next =
        ["echo f > x", "mkdir x; echo i > x/i", "ln -s i x", "mkfifo x", "mknod x c 1 5", "echo g > x"];
    let steps: Vec<_> = next
        .iter()
        .map(|script| move |s: &Path| sh(s, &format!("rm -rf x; {script}; echo {script:?} > y")))
        .collect();
    let steps: Vec<&dyn Fn(&Path)> = steps.iter().map(|step| step as &dyn Fn(&Path)).collect();
    Lab::new("", HOLES).check(&steps);
}

#[test]
fn immutable_and_append_only_files_change_and_stay_so() {
    ground!("btrfs", "chattr");
    let lab_steps: [&dyn Fn(&Path); 3] = [
        &|s| sh(s, "echo a > i; echo b > a; mkdir d; echo c > d/f; echo e > e"),
        &|s| sh(s, "chattr +i i; chattr +a a; chattr +i d/f; chattr +i d; chattr +A e"),
        &|s| sh(s, "chattr -i i d d/f; echo more >> i; echo n > d/n; rm d/f; echo x >> a; chattr +i i d"),
    ];
    let mut lab = Lab::new("", HOLES);
    lab.check(&lab_steps);
    // Version 2 carries the flags of inodes that were there before.
    let flag = |n: usize, name: &str| {
        let file = File::open(lab.target.path().join(format!("v2/s{n}")).join(name)).expect("opens");
        rustix::fs::ioctl_getflags(&file).expect("flags").bits()
    };
    assert_eq!((flag(2, "i") & 0x10, flag(2, "a") & 0x20, flag(2, "d") & 0x10), (0x10, 0x20, 0x10));
    assert_eq!((flag(3, "i") & 0x10, flag(3, "a") & 0x20, flag(3, "d") & 0x10), (0x10, 0x20, 0x10));
    sh(&lab.live(), "chattr -R -i -a .");
}

#[test]
fn hundreds_of_hard_links() {
    ground!("btrfs");
    Lab::new("", HOLES).check(&[
        &|s| sh(s, "mkdir a b; echo x > f; for i in $(seq 300); do ln f a/link-with-a-longish-name-$i; done"),
        &|s| sh(s, "mv a c; for i in $(seq 1 3 300); do mv c/link-with-a-longish-name-$i b/l$i; done; echo y >> f"),
        &|s| sh(s, "rm f; rm c/*0; for i in $(seq 50); do ln b/l1 n$i; done"),
    ]);
}

#[test]
fn random_changes_over_several_increments() {
    ground!("btrfs");
    let seed = std::env::var("COWSNAP_SEED").ok().and_then(|text| text.parse().ok());
    for seed in seed.map_or(vec![1, 2, 3], |seed| vec![seed]) {
        println!("COWSNAP_SEED={seed}");
        let mutator = std::cell::RefCell::new(Mutator::new(seed));
        let step = |s: &Path| mutator.borrow_mut().run(s, 150);
        let options = ["", "compress-force=zstd", "compress-force=lzo"][seed as usize % 3];
        Lab::new(options, Also::default()).check(&[&step, &step, &step, &step, &step]);
    }
}

#[test]
fn clones_come_from_other_received_subvolumes_too() {
    ground!("btrfs");
    let mut lab = Lab::new("", HOLES);
    put(&lab.live().join("a"), &noise(2 << 20, 1));
    lab.snapshot();
    let other = lab.source.subvolume("other");
    sh(&other, "cp --reflink=always ../s/a b; echo own > c");
    let snapshot = lab.source.path().join("o1");
    run("btrfs", &["-q", "subvolume", "snapshot", "-r", other.to_str().unwrap(), snapshot.to_str().unwrap()]);
    let mut shelf = lab.shelf("v1");
    shelf.receive(&lab.send(1, None, WAYS[0].1, &[])[..], "s1").expect("receives");
    let stream = send_by_ioctl(&snapshot, &[&lab.snapshot_path(1)]);
    assert!(stream.len() < 100_000, "the case is about a clone, and {} bytes were sent", stream.len());
    let found = shelf.receive(&stream[..], "o1").expect("receives");
    assert_same(&snapshot, &found, HOLES, "clone from another");
}

/// The kernel's own stream, with `sources` to clone from.
fn send_by_ioctl(snapshot: &Path, sources: &[&Path]) -> Vec<u8> {
    let clone_sources = sources.iter().map(|path| info(path).id).collect();
    let options = SendOptions { clone_sources, ..SendOptions::default() };
    let (mut output, input) = std::io::pipe().expect("a pipe");
    let subvolume = File::open(snapshot).expect("opens");
    let sender = std::thread::spawn(move || send(subvolume.as_fd(), input.as_fd(), &options));
    let mut stream = Vec::new();
    output.read_to_end(&mut stream).expect("reads");
    sender.join().expect("no panic").expect("sends");
    stream
}

#[test]
fn the_result_is_what_the_next_sender_and_receiver_need() {
    ground!("btrfs");
    let mut lab = Lab::new("", HOLES);
    put(&lab.live().join("a"), b"1");
    lab.snapshot();
    put(&lab.live().join("b"), b"2");
    lab.snapshot();
    let mut shelf = lab.shelf("x");
    let first = shelf.receive(&lab.send(1, None, WAYS[0].1, &[])[..], "s1").expect("receives");
    let (sent, received) = (info(&lab.snapshot_path(1)), info(&first));
    assert!(received.readonly);
    assert_eq!((received.received_uuid, received.stransid), (sent.uuid, sent.ctransid));
    assert_eq!(shelf.names(), ["s1"]);
    // Progs takes what we received as a base, and sends what we received on.
    let file = lab.source.outside().join("onward");
    fs::write(&file, lab.send(2, Some(1), WAYS[0].1, &[])).expect("writes");
    run("btrfs", &["-q", "receive", "-f", file.to_str().unwrap(), shelf.path().to_str().unwrap()]);
    assert_same(&lab.snapshot_path(2), &shelf.path().join("s2"), HOLES, "progs on our base");
    run(
        "btrfs",
        &[
            "send",
            "-q",
            "-f",
            file.to_str().unwrap(),
            "-p",
            first.to_str().unwrap(),
            &format!("{}/s2", shelf.path().display()),
        ],
    );
    let mut third = lab.shelf("third");
    third.receive(&lab.send(1, None, WAYS[0].1, &[])[..], "s1").expect("receives");
    let onward = third.receive(&fs::read(&file).expect("reads")[..], "s2").expect("receives");
    assert_same(&lab.snapshot_path(2), &onward, HOLES, "sent onward");
}

fn info(path: &Path) -> cowsnap::sys::btrfs::SubvolInfo {
    get_subvol_info(File::open(path).expect("opens").as_fd()).expect("a subvolume")
}

#[test]
fn fifos_and_read_only_files_take_metadata_without_being_opened() {
    ground!("btrfs");
    // Nothing but regular files is opened: opening this FIFO for writing would wait for ever.
    Lab::new("", HOLES).check(&[&|s| sh(s, "mkfifo p; chown 1:2 p; chmod 600 p"), &|s| {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(s.join("readonly"))
            .expect("creates");
        sh(s, "chown 3 p; chmod 644 p; touch -d @5 p; setfattr -n trusted.x -v y p; mv p q");
    }]);
}

#[test]
fn the_roots_times_stay_where_only_temporary_names_were_made_in_it() {
    ground!("btrfs");
    Lab::new("", HOLES).check(&[
        &|s| sh(s, "mkdir d e; chmod 2755 d; chown :7 d; mkdir d/x e/x; touch d/x/1 e/x/2"),
        &|s| put(&s.join("d/new"), b"in a directory that hands its group down"),
        &|s| sh(s, "mv d/x d/y; mv e/x d/x; mv d/y e/x"),
    ]);
}

#[test]
fn what_the_target_filesystem_hands_down_does_not_reach_what_is_received() {
    ground!("btrfs");
    let mut lab = Lab::new("", Also { holes: true, flags: true });
    sh(&lab.target.path(), "btrfs property set . compression zstd; chown :7 .; chmod 2755 .");
    lab.check(&[&|s| sh(s, "mkdir d; touch f d/g; ln -s f l; mkfifo p"), &|s| {
        sh(s, "mkdir d/e; touch h d/e/i")
    }]);
}
