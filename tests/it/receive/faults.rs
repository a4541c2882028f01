//! A receive that fails, anywhere, leaves nothing but what is staged.

use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cowsnap::Class;
use cowsnap::endpoint::Error;
use cowsnap::stream::btrfs::encode::Encoder;
use cowsnap::stream::btrfs::{Command, Parser, Version};

use super::lab::{Lab, Shelf, WAYS, words_of};
use crate::ground::{self, Btrfs, ground};
use crate::tree_compare::{Also, assert_same};

const FIRST: Command<'_> = Command::Subvol { path: b"s", uuid: [1; 16], ctransid: 1 };

/// Fails once `left` bytes have been read.
struct FailsAfter<R> {
    inner: R,
    left: usize,
}

impl<R: Read> Read for FailsAfter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::from_raw_os_error(libc::ECONNRESET));
        }
        let wanted = buffer.len().min(self.left);
        let n = self.inner.read(&mut buffer[..wanted])?;
        self.left -= n;
        Ok(n)
    }
}

fn some_changes(lab: &mut Lab) {
    let s = lab.live();
    for n in 0..20 {
        fs::create_dir_all(s.join(format!("d{}", n % 3))).expect("mkdir");
        fs::write(s.join(format!("d{}/f{n}", n % 3)), vec![n as u8; 5000]).expect("writes");
    }
    lab.snapshot();
    fs::rename(s.join("d0"), s.join("d9")).expect("renames");
    fs::write(s.join("d1/f1"), b"changed").expect("writes");
    lab.snapshot();
}

#[test]
fn a_stream_that_breaks_off_at_any_command_leaves_no_snapshot_and_its_base_as_it_was() {
    ground!("btrfs");
    let mut lab = Lab::new("", Also::default());
    some_changes(&mut lab);
    let mut shelf = lab.shelf("x");
    shelf.receive(&lab.send(1, None, WAYS[0].1, &[])[..], "s1").expect("receives");
    let increment = lab.send(2, Some(1), WAYS[0].1, &[]);
    let mut offsets = vec![0, 5];
    let mut parser = Parser::new(&increment[..]);
    while let Some(item) = parser.next_command().expect("parses") {
        offsets.extend([item.offset as usize, item.offset as usize + 7]);
    }
    for left in offsets {
        let failing = FailsAfter { inner: Cursor::new(&increment), left };
        let error = shelf.receive(failing, "s2").expect_err("the stream fails");
        assert_eq!(error.class(), Class::Unreachable, "{}", words_of(&error));
        let error = shelf.receive(&increment[..left], "s2").expect_err("the stream ends");
        assert_eq!(error.class(), Class::Corrupt, "{}", words_of(&error));
        assert_eq!(shelf.names(), ["s1"]);
    }
    assert_same(&lab.snapshot_path(1), &shelf.path().join("s1"), Also::default(), "the base");
    let found = shelf.receive(&increment[..], "s2").expect("receives after all that");
    assert_same(&lab.snapshot_path(2), &found, Also::default(), "the increment");
}

#[test]
fn an_error_after_the_end_command_still_stops_the_receive() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let mut shelf = Shelf::new(ground.path().join("x"));
    let mut encoder = Encoder::new(Version::V1);
    encoder.push(&FIRST);
    let stream = encoder.finish();
    let trailer_is_wrong = FailsAfter { left: stream.len(), inner: Cursor::new(&stream) };
    let error = shelf.receive(trailer_is_wrong, "s").expect_err("the container's trailer is wrong");
    assert!(matches!(error, Error::Io { op: "read", .. }), "{}", words_of(&error));
    assert!(shelf.names().is_empty());
}

#[test]
fn a_missing_base_is_a_conflict_that_names_it() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let mut shelf = Shelf::new(ground.path().join("x"));
    let mut encoder = Encoder::new(Version::V1);
    let (uuid, clone_uuid) = ([1; 16], [0xab; 16]);
    encoder.push(&Command::Snapshot { path: b"s", uuid, ctransid: 5, clone_uuid, clone_ctransid: 4 });
    let error = shelf.receive(&encoder.finish()[..], "s").expect_err("there is no base");
    assert_eq!(error.class(), Class::Conflict);
    assert!(words_of(&error).contains("abababab-abab-abab-abab-abababababab"), "{}", words_of(&error));
    assert!(!shelf.staged().exists());
}

#[test]
fn a_second_subvolume_in_the_stream_is_refused() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let mut shelf = Shelf::new(ground.path().join("x"));
    let mut encoder = Encoder::new(Version::V1);
    encoder.push(&FIRST);
    let stream = encoder.finish();
    let error = shelf.receive([&stream[..], &stream].concat().as_slice(), "s").expect_err("two");
    assert_eq!(error.class(), Class::Conflict, "{}", words_of(&error));
}

#[test]
fn a_full_filesystem_is_named_with_path_and_offset() {
    ground!("btrfs");
    let ground = Btrfs::with("120M", &["-M"], "");
    let mut shelf = Shelf::new(ground.path().join("x"));
    let mut encoder = Encoder::new(Version::V2);
    encoder.push(&FIRST).push(&Command::Mkfile { path: b"big", inode: 257 });
    let mut noise = vec![0; 400_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    for n in 0..600 {
        encoder.push(&Command::Write { path: b"big", offset: n * 400_000, data: &noise });
    }
    let error = shelf.receive(&encoder.finish()[..], "s").expect_err("it is full");
    assert_eq!(error.class(), Class::Conflict, "{}", words_of(&error));
    let words = words_of(&error);
    assert!(words.contains("of the stream: write \"big\"") && words.contains("No space"), "{words}");
    assert!(error.hint().is_some());
    assert!(shelf.names().is_empty());
}

#[test]
fn ten_thousand_levels_of_directory_neither_overflow_a_stack_nor_take_for_ever() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let mut shelf = Shelf::new(ground.path().join("x"));
    let mut encoder = Encoder::new(Version::V1);
    encoder.push(&FIRST);
    let path = b"d/".repeat(10_000);
    for depth in 1..10_000 {
        encoder.push(&Command::Mkdir { path: &path[..depth * 2 - 1], inode: 256 + depth as u64 });
    }
    encoder.push(&Command::Chmod { path: &path[..9_999 * 2 - 1], mode: 0o711 });
    let applied = shelf.apply(&encoder.finish()[..]).expect("applies");
    let mut fd = applied.subvolume;
    for _ in 1..10_000 {
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        fd = rustix::fs::openat(&fd, "d", flags, rustix::fs::Mode::empty()).expect("one more level");
    }
    assert_eq!(rustix::fs::fstat(&fd).expect("stat").st_mode & 0o777, 0o711);
}

#[test]
fn a_flood_of_files_and_open_directories_stays_within_the_limit_of_descriptors() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let mut shelf = Shelf::new(ground.path().join("x"));
    let mut encoder = Encoder::new(Version::V1);
    encoder.push(&FIRST);
    for n in 0..2000u64 {
        let (dir, temporary) = (format!("d{n}"), format!("o{n}-7-0"));
        encoder.push(&Command::Mkdir { path: dir.as_bytes(), inode: n });
        encoder.push(&Command::Mkfile { path: temporary.as_bytes(), inode: n });
        if n % 2 == 0 {
            let to = format!("{dir}/f");
            encoder.push(&Command::Rename { path: temporary.as_bytes(), to: to.as_bytes() });
        }
    }
    let found = shelf.receive(&encoder.finish()[..], "s").expect("receives");
    let count = |path: &Path| fs::read_dir(path).expect("lists").count();
    assert_eq!((count(&found), count(&found.join("d4")), count(&found.join("d5"))), (3000, 1, 0));
}

#[test]
fn an_error_of_applying_is_told_though_the_source_stalls() {
    ground!("btrfs");
    let ground = Btrfs::new();
    let state = ground.outside().join("state");
    let mut noise = vec![0; 30_000];
    let mut encoder = Encoder::new(Version::V1);
    encoder.push(&FIRST).push(&Command::Mkfile { path: b"there", inode: 257 });
    encoder.push(&Command::Write { path: b"not there", offset: 0, data: b"x" });
    for n in 0..100 {
        blake3::Hasher::new().update(&[n as u8]).finalize_xof().fill(&mut noise);
        encoder.push(&Command::Write { path: b"there", offset: n * 30_000, data: &noise });
    }
    let (raw, container) = (ground.outside().join("raw"), ground.outside().join("container"));
    fs::write(&raw, encoder.finish()).expect("writes");
    let wrap = ["stream", "wrap", "-o"].map(Path::new);
    let wrapped = ground::cowsnap(&state).args(wrap).args([&container, &raw]).status().expect("it starts");
    assert!(wrapped.success());
    for file in [raw, container] {
        let mut command = ground::cowsnap(&state);
        command.args([Path::new("receive"), &ground.path().join("target"), Path::new("-")]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut source = child.stdin.take().expect("a pipe");
        // It may be gone before it has read all of this.
        let _ = source.write_all(&fs::read(&file).expect("reads")[..2_000_000]);
        for _ in 0..6000 {
            if child.try_wait().expect("wait").is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(child.try_wait().expect("wait").is_some(), "{file:?}: it waits for more");
        drop(source);
        let output = child.wait_with_output().expect("it ended");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("write \"not there\""), "{said}");
    }
}
