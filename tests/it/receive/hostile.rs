//! Streams that no kernel would send: nothing outside the subvolume changes, nothing blocks, nothing is opened that
//! should not be.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use cowsnap::Class;
use cowsnap::endpoint::Error;
use cowsnap::stream::btrfs::encode::Encoder;
use cowsnap::stream::btrfs::{Command, Compression, Time, Verity, Version};

use super::lab::{Shelf, words_of};
use crate::ground::{Btrfs, ground};
use crate::tree_compare::{Also, describe};

const UUID: [u8; 16] = [1; 16];
const FIRST: Command<'_> = Command::Subvol { path: b"s", uuid: UUID, ctransid: 1 };
const TIME: Time = Time { sec: 1, nsec: 2 };

/// A filesystem with things that a stream must not reach, right beside and above where it is applied.
struct Trap {
    ground: Btrfs,
    shelf: Shelf,
}

impl Trap {
    fn new() -> Self {
        let ground = Btrfs::with("1G", &[], "noatime"); // Comparing reads.
        let outside = ground.path().join("outside");
        fs::create_dir_all(outside.join("dir")).expect("mkdir");
        fs::write(outside.join("secret"), b"secret").expect("writes");
        symlink("secret", outside.join("link")).expect("symlink");
        let shelf = Shelf::new(ground.path().join("shelf"));
        Self { ground, shelf }
    }

    /// Applies these commands and asserts that nothing outside has changed.
    fn spring(&mut self, commands: &[Command<'_>]) -> Result<(), Error> {
        let outside = self.ground.path().join("outside");
        let before = describe(&outside, Also::default());
        let mut encoder = Encoder::new(Version::V3);
        encoder.push(&FIRST);
        for command in commands {
            encoder.push(command);
        }
        let applied = self.shelf.apply(&encoder.finish()[..]);
        assert_eq!(before, describe(&outside, Also::default()), "{} reached out", in_words(commands));
        applied.map(drop)
    }

    fn assert_refused(&mut self, commands: &[Command<'_>]) {
        let Err(error) = self.spring(commands) else { panic!("accepted: {}", in_words(commands)) };
        assert_eq!(error.class(), Class::Corrupt, "{}: {}", in_words(commands), words_of(&error));
        assert!(words_of(&error).contains("of the stream: "), "{}", words_of(&error));
    }
}

fn in_words(commands: &[Command<'_>]) -> String {
    commands.iter().map(|command| format!("{command}; ")).collect()
}

/// Every command with `path` wherever it has one, and harmless things otherwise.
fn every_command(path: &[u8]) -> Vec<Command<'_>> {
    use Command::*;
    let verity = Verity { algorithm: 1, block_size: 4096, salt: b"", signature: b"" };
    let (uuid, ctransid) = (UUID, 1);
    vec![
        Mkfile { path, inode: 1 },
        Mkdir { path, inode: 1 },
        Mknod { path, inode: 1, mode: 0o20600, rdev: 0x103 },
        Mkfifo { path, inode: 1 },
        Mksock { path, inode: 1 },
        Symlink { path, inode: 1, target: b"x" },
        Rename { path, to: b"stolen" },
        Rename { path: b"ok", to: path },
        Link { path, target: b"ok" },
        Link { path: b"stolen", target: path },
        Unlink { path },
        Rmdir { path },
        SetXattr { path, name: b"user.x", data: b"y" },
        RemoveXattr { path, name: b"user.x" },
        Write { path, offset: 0, data: b"pwned" },
        Clone { path, offset: 0, len: 4096, uuid, ctransid, from: b"ok", from_offset: 0 },
        Clone { path: b"ok", offset: 0, len: 3, uuid, ctransid, from: path, from_offset: 0 },
        Truncate { path, size: 0 },
        Chmod { path, mode: 0o4777 },
        Chown { path, uid: 99, gid: 99 },
        Utimes { path, atime: TIME, mtime: TIME, ctime: TIME, otime: None },
        Fallocate { path, mode: 0, offset: 0, size: 8192 },
        Fileattr { path, flags: 1 << 8 },
        EncodedWrite {
            path,
            offset: 0,
            unencoded_file_len: 4096,
            unencoded_len: 4096,
            unencoded_offset: 0,
            compression: Compression::Zlib,
            encryption: 0,
            data: b"x",
        },
        EnableVerity { path, verity },
    ]
}

const OK: Command<'_> = Command::Mkfile { path: b"ok", inode: 257 };

#[test]
fn no_command_takes_a_path_that_leads_out() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let absolute = trap.ground.path().join("outside/secret").into_os_string().into_encoded_bytes();
    let dots = b"../../outside/secret".to_vec();
    let inner_dots = b"d/../../../outside/secret".to_vec();
    let long = vec![b'n'; 256];
    for path in [&absolute[..], &dots, &inner_dots, b"..", b".", b"./ok", b"a//b", b"ok/", &long] {
        for command in every_command(path) {
            trap.assert_refused(&[OK, Command::Mkdir { path: b"d", inode: 258 }, command]);
        }
    }
}

#[test]
fn no_command_follows_a_link_that_the_stream_planted() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let above = b"../../outside";
    let outside = trap.ground.path().join("outside").into_os_string().into_encoded_bytes();
    for target in [&above[..], &outside] {
        let planted = Command::Symlink { path: b"way", inode: 258, target };
        for path in [&b"way/secret"[..], b"way/new", b"way/dir"] {
            for command in every_command(path) {
                trap.assert_refused(&[OK, planted, command]);
            }
        }
    }
}

#[test]
fn a_link_as_the_last_component_is_acted_on_itself_or_refused() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let planted = Command::Symlink { path: b"last", inode: 258, target: b"../../outside/secret" };
    for command in every_command(b"last") {
        // Some are right for a link (its owner, its times, its other names), and `spring` sees to the outside.
        let _ = trap.spring(&[OK, planted, command]);
    }
    let data = Command::Write { path: b"last", offset: 0, data: b"pwned" };
    trap.assert_refused(&[planted, data]);
    trap.assert_refused(&[planted, Command::Chmod { path: b"last", mode: 0o777 }]);
    trap.assert_refused(&[planted, Command::Fileattr { path: b"last/", flags: 0 }]);
}

#[test]
fn a_directory_that_becomes_a_link_is_not_remembered_as_a_directory() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let (mkdir, inside) =
        (Command::Mkdir { path: b"d", inode: 258 }, Command::Mkfile { path: b"d/f", inode: 259 });
    let write = Command::Write { path: b"d/f", offset: 0, data: b"x" };
    let link = Command::Symlink { path: b"d", inode: 260, target: b"../../outside" };
    let away = Command::Rename { path: b"d", to: b"e" };
    trap.assert_refused(&[mkdir, inside, write, away, link, Command::Unlink { path: b"d/secret" }]);
    trap.assert_refused(&[
        mkdir,
        inside,
        write,
        away,
        link,
        Command::Write { path: b"d/secret", offset: 0, data: b"x" },
    ]);
    let remove = [Command::Unlink { path: b"d/f" }, Command::Rmdir { path: b"d" }];
    trap.assert_refused(&[
        mkdir,
        inside,
        remove[0],
        remove[1],
        link,
        Command::Mkfile { path: b"d/new", inode: 261 },
    ]);
}

#[test]
fn fifos_and_devices_are_never_opened() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let nodes = [
        Command::Mkfifo { path: b"node", inode: 258 },
        Command::Mksock { path: b"node", inode: 258 },
        Command::Mknod { path: b"node", inode: 258, mode: 0o20600, rdev: 0x501 }, // A terminal.
        Command::Mkdir { path: b"node", inode: 258 },
    ];
    let (path, uuid, ctransid) = (&b"node"[..], UUID, 1);
    for node in nodes {
        trap.assert_refused(&[node, Command::Write { path, offset: 0, data: b"x" }]);
        trap.assert_refused(&[node, Command::Truncate { path, size: 0 }]);
        let clone =
            Command::Clone { path: b"ok", offset: 0, len: 1, uuid, ctransid, from: path, from_offset: 0 };
        trap.assert_refused(&[OK, node, clone]);
        trap.spring(&[node, Command::Chmod { path, mode: 0o640 }, Command::Chown { path, uid: 1, gid: 2 }])
            .expect("metadata needs no opening");
    }
}

#[test]
fn lengths_and_numbers_that_can_not_be_are_refused() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let (path, uuid, ctransid) = (&b"ok"[..], UUID, 1);
    let clone =
        |len, from_offset| Command::Clone { path, offset: 1, len, uuid, ctransid, from: path, from_offset };
    let encoded = |unencoded_file_len, unencoded_len, unencoded_offset, encryption| Command::EncodedWrite {
        path,
        offset: 0,
        unencoded_file_len,
        unencoded_len,
        unencoded_offset,
        compression: Compression::Zstd,
        encryption,
        data: b"not zstd",
    };
    let commands = [
        Command::Truncate { path, size: u64::MAX },
        Command::Write { path, offset: u64::MAX - 1, data: b"x" },
        Command::Chown { path, uid: u64::from(u32::MAX), gid: 0 },
        Command::Chown { path, uid: 0, gid: 1 << 33 },
        Command::Fallocate { path, mode: 0x40, offset: 0, size: 1 },
        Command::Fallocate { path, mode: 0, offset: u64::MAX, size: u64::MAX },
        Command::UpdateExtent { path, offset: 0, size: 1 },
        Command::Mknod { path: b"n", inode: 2, mode: 0o100_644, rdev: 0 },
        clone(u64::MAX, 7),
        clone(1, u64::MAX),
        clone(100, 0),
        encoded(u64::MAX, u64::MAX, 0, 0),
        encoded(10, 4096, u64::MAX, 0),
        encoded(4097, 4096, 0, 0),
        encoded(10, 1 << 40, 0, 0),
        encoded(4096, 4096, 0, 1),
        FIRST,
    ];
    for command in commands {
        trap.assert_refused(&[OK, command]);
    }
}

#[test]
fn compression_of_a_file_that_the_stream_keeps_from_copy_on_write_is_the_streams_fault() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let path = &b"ok"[..];
    let nocow = Command::Fileattr { path, flags: 1 << 1 };
    let compress = |data| Command::SetXattr { path, name: b"btrfs.compression", data };
    trap.assert_refused(&[OK, nocow, compress(b"zstd")]);
    trap.assert_refused(&[OK, nocow, compress(b"sand")]);
    trap.spring(&[OK, nocow, Command::Fileattr { path, flags: 0 }, compress(b"zstd")]).expect("applies");
    // Where the mount takes none, nothing can be said against the stream.
    let mount = trap.ground.path();
    crate::ground::run("mount", &["-o", "remount,nodatacow", mount.to_str().expect("utf-8")]);
    let error = trap.spring(&[OK, nocow, compress(b"zstd")]).expect_err("refused");
    assert_eq!(error.class(), Class::Conflict, "{}", words_of(&error));
}

#[test]
fn a_stream_that_does_not_begin_with_a_subvolume_makes_nothing() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let mut encoder = Encoder::new(Version::V1);
    encoder.push(&OK);
    let error = trap.shelf.apply(&encoder.finish()[..]).expect_err("no subvolume");
    assert_eq!(error.class(), Class::Corrupt);
    assert!(!trap.shelf.staged().exists());
}

#[test]
fn a_rename_onto_what_is_there_replaces_it_and_a_fused_one_does_too() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let commands = [
        OK,
        Command::Write { path: b"ok", offset: 0, data: b"old" },
        Command::Mkfile { path: b"o258-7-0", inode: 258 },
        Command::Rename { path: b"o258-7-0", to: b"ok" },
        Command::Write { path: b"ok", offset: 0, data: b"n" },
    ];
    trap.spring(&commands).expect("applies");
    assert_eq!(fs::read(trap.shelf.staged().join("ok")).expect("reads"), b"n");
    assert!(!trap.shelf.staged().join("o258-7-0").exists());
}

#[test]
fn a_clone_that_can_not_be_shared_is_copied() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let data: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
    let (uuid, ctransid) = (UUID, 1);
    let clone =
        Command::Clone { path: b"to", offset: 3, len: 10_001, uuid, ctransid, from: b"ok", from_offset: 7 };
    let commands = [
        OK,
        Command::Write { path: b"ok", offset: 0, data: &data },
        Command::Mkfile { path: b"to", inode: 2 },
        clone,
    ];
    trap.spring(&commands).expect("applies");
    let found = fs::read(trap.shelf.staged().join("to")).expect("reads");
    assert_eq!((&found[..3], &found[3..]), (&[0; 3][..], &data[7..10_008]));
}

#[test]
fn encoded_extents_that_the_kernel_does_not_take_are_decoded() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let plain = b"a line that is not of a sector's length\n".repeat(100);
    let data = zstd::stream::encode_all(&plain[..], 3).expect("compresses");
    let write = Command::EncodedWrite {
        path: b"ok",
        offset: 5, // Not aligned.
        unencoded_file_len: 3000,
        unencoded_len: plain.len() as u64,
        unencoded_offset: 40,
        compression: Compression::Zstd,
        encryption: 0,
        data: &data,
    };
    trap.spring(&[OK, write]).expect("applies");
    let found = fs::read(trap.shelf.staged().join("ok")).expect("reads");
    assert_eq!((&found[..5], &found[5..]), (&[0; 5][..], &plain[40..3040]));
}

#[test]
fn verity_of_version_3_is_enabled() {
    ground!("btrfs", "fsverity");
    let mut trap = Trap::new();
    let verity = Verity { algorithm: 1, block_size: 4096, salt: b"salt", signature: b"" };
    let commands = [
        OK,
        Command::Write { path: b"ok", offset: 0, data: &[7; 10_000] },
        Command::EnableVerity { path: b"ok", verity },
        Command::Chown { path: b"ok", uid: 3, gid: 4 },
        Command::Chmod { path: b"ok", mode: 0o640 },
        Command::Utimes { path: b"ok", atime: TIME, mtime: TIME, ctime: TIME, otime: Some(TIME) },
    ];
    if !Path::new("/sys/fs/btrfs/features/verity").exists() {
        let error = trap.spring(&commands).expect_err("this kernel has no fs-verity");
        assert_eq!(error.class(), Class::Denied, "{}", words_of(&error));
        return;
    }
    trap.spring(&commands).expect("applies");
    let path = trap.shelf.staged().join("ok");
    let measured = crate::ground::run("fsverity", &["measure", path.to_str().expect("utf-8")]);
    assert!(measured.stdout.starts_with(b"sha256:"), "{}", String::from_utf8_lossy(&measured.stdout));
    let metadata = fs::metadata(&path).expect("stat");
    assert_eq!((metadata.uid(), metadata.mode() & 0o777, metadata.mtime()), (3, 0o640, 1));
}

#[test]
fn allocation_modes_do_what_fallocate_does() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let path = &b"ok"[..];
    let commands = [
        OK,
        Command::Write { path, offset: 0, data: &[7; 40_000] },
        Command::Fallocate { path, mode: 3, offset: 4096, size: 8192 },
        Command::Fallocate { path, mode: 0x10, offset: 20_480, size: 4096 },
        Command::Fallocate { path, mode: 1, offset: 1 << 20, size: 4096 },
    ];
    trap.spring(&commands).expect("applies");
    let found = fs::read(trap.shelf.staged().join("ok")).expect("reads");
    let zeros = |range: std::ops::Range<usize>| found[range].iter().all(|&b| b == 0);
    assert!(found.len() == 40_000 && zeros(4096..12_288) && zeros(20_480..24_576) && found[24_576] == 7);
}

#[test]
fn a_capability_outlives_a_later_owner_and_later_bytes() {
    ground!("btrfs", "setcap");
    let mut trap = Trap::new();
    // VFS_CAP_REVISION_2, cap_net_raw permitted and effective.
    let data = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (path, name) = (&b"ok"[..], &b"security.capability"[..]);
    let commands = [
        OK,
        Command::SetXattr { path, name, data: &data },
        Command::Chown { path, uid: 5, gid: 5 },
        Command::Write { path, offset: 0, data: b"#!" },
        Command::Mkfile { path: b"other", inode: 3 },
    ];
    trap.spring(&commands).expect("applies");
    let staged: &Path = &trap.shelf.staged().join("ok");
    let found = crate::ground::run("getcap", &[staged.to_str().expect("utf-8")]);
    assert!(String::from_utf8_lossy(&found.stdout).contains("cap_net_raw=ep"));
}

#[test]
fn a_clone_source_that_is_not_here_is_a_conflict_and_no_damage() {
    ground!("btrfs");
    let (path, uuid) = (&b"ok"[..], [9; 16]);
    let clone = Command::Clone { path, offset: 0, len: 1, uuid, ctransid: 1, from: path, from_offset: 0 };
    let error = Trap::new().spring(&[OK, clone]).expect_err("no such source");
    assert_eq!(error.class(), Class::Conflict, "{}", words_of(&error));
    assert!(words_of(&error).contains("09090909-0909"), "{}", words_of(&error));
}

#[test]
fn an_immutable_root_does_not_keep_what_is_staged_for_ever() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let immutable = Command::Fileattr { path: b"", flags: 1 << 6 };
    trap.spring(&[OK, immutable]).expect("applies");
    trap.spring(&[OK]).expect("the one before could be destroyed");
}

#[test]
fn something_is_made_in_an_immutable_directory_of_the_base_that_hands_its_group_down() {
    ground!("btrfs");
    let mut trap = Trap::new();
    let stream = |first, commands: &[Command<'_>]| {
        let mut encoder = Encoder::new(Version::V2);
        encoder.push(&first);
        for command in commands {
            encoder.push(command);
        }
        encoder.finish()
    };
    let (path, inode) = (&b"d"[..], 257);
    let base = [
        Command::Mkdir { path, inode },
        Command::Chown { path, uid: 0, gid: 7 },
        Command::Chmod { path, mode: 0o2755 },
        Command::Fileattr { path, flags: 1 << 6 },
    ];
    trap.shelf.receive(&stream(FIRST, &base)[..], "base").expect("receives");
    let first = Command::Snapshot { path, uuid: [2; 16], ctransid: 2, clone_uuid: UUID, clone_ctransid: 1 };
    let more = [
        Command::Mkfile { path: b"o258-9-0", inode: 258 },
        Command::Rename { path: b"o258-9-0", to: b"d/f" },
        Command::Chown { path: b"d/f", uid: 0, gid: 0 },
    ];
    let found = trap.shelf.receive(&stream(first, &more)[..], "next").expect("receives");
    assert_eq!(fs::metadata(found.join("d/f")).expect("it is there").gid(), 0);
    assert!(fs::write(trap.shelf.path().join("base/d/g"), b"").is_err());
}
