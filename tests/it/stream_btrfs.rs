//! The btrfs stream parser: golden bytes, every kind of damage, and the kernel's own streams.

use std::io::{self, Read};

use cowsnap::stream::btrfs::encode::Encoder;
use cowsnap::stream::btrfs::{Command, Compression, Error, Framer, Parser, Time, Verity, Version};
use expect_test::expect;
use proptest::prelude::*;

use crate::ground::{Btrfs, ground, run};

/// Every command as a line of text, then how reading ended.
fn text_of(input: impl Read) -> String {
    let mut parser = Parser::new(input);
    let mut out = String::new();
    loop {
        match parser.next_command() {
            Ok(Some(item)) => out += &format!("{} {}\n", item.offset, item.command),
            Ok(None) => return out + "end of input\n",
            Err(error) => return out + &format!("error: {error}\n"),
        }
    }
}

fn error_of(bytes: &[u8]) -> Error {
    let mut parser = Parser::new(bytes);
    loop {
        match parser.next_command() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no error"),
            Err(error) => return error,
        }
    }
}

const TIME: Time = Time { sec: -2, nsec: 999_999_999 };
const VERITY: Verity<'_> = Verity { algorithm: 1, block_size: 4096, salt: b"s", signature: b"" };

/// One of each command of that version.
fn one_of_each(version: Version) -> Vec<Command<'static>> {
    use Command::*;
    let (uuid, path) = ([7; 16], &b"a/b \n\xff"[..]);
    let mut all = vec![
        Subvol { path, uuid, ctransid: 9 },
        Snapshot { path, uuid, ctransid: 9, clone_uuid: [8; 16], clone_ctransid: 3 },
        Mkfile { path, inode: 257 },
        Mkdir { path, inode: 259 },
        Mknod { path, inode: 259, mode: 0o20644, rdev: 0x103 },
        Mkfifo { path, inode: 259 },
        Mksock { path, inode: 1 },
        Symlink { path, inode: 258, target: b"/etc/passwd" },
        Rename { path, to: b"c" },
        Link { path, target: b"d" },
        Unlink { path },
        Rmdir { path },
        SetXattr { path, name: b"user.x", data: b"\0\x01" },
        RemoveXattr { path, name: b"user.x" },
        Write { path, offset: 1 << 40, data: b"bytes" },
        Clone { path, offset: 1, len: 2, uuid, ctransid: 4, from: b"e", from_offset: 5 },
        Truncate { path, size: u64::MAX },
        Chmod { path: b"", mode: 0o4755 },
        Chown { path, uid: 1, gid: 2 },
        Utimes { path, atime: TIME, mtime: TIME, ctime: TIME, otime: None },
        UpdateExtent { path, offset: 6, size: 7 },
    ];
    if version >= Version::V2 {
        all.extend([
            Utimes { path, atime: TIME, mtime: TIME, ctime: TIME, otime: Some(TIME) },
            Fallocate { path, mode: 3, offset: 8, size: 9 },
            Fileattr { path, flags: 0x40 },
            EncodedWrite {
                path,
                offset: 4096,
                unencoded_file_len: 10,
                unencoded_len: 4096,
                unencoded_offset: 5,
                compression: Compression::Lzo { sector: 4096 },
                encryption: 0,
                data: b"packed",
            },
        ]);
    }
    if version >= Version::V3 {
        all.push(EnableVerity { path, verity: VERITY });
    }
    all
}

fn stream_of(version: Version) -> Vec<u8> {
    let mut encoder = Encoder::new(version);
    for command in one_of_each(version) {
        encoder.push(&command);
    }
    encoder.finish()
}

#[test]
fn every_command_of_every_version_reads_back_as_it_was_written() {
    for version in [Version::V1, Version::V2, Version::V3] {
        let stream = stream_of(version);
        let mut parser = Parser::new(&stream[..]);
        for wanted in one_of_each(version).into_iter().chain([Command::End]) {
            let item = parser.next_command().expect("reads").expect("a command");
            assert_eq!(item.command, wanted);
        }
        assert_eq!(parser.version(), Some(version));
        assert_eq!(parser.next_command().expect("reads"), None);
    }
}

#[test]
fn a_command_prints_as_one_line_with_its_bytes_escaped() {
    expect![[r#"
        17 subvol "a/b \n\xff" uuid=07070707-0707-0707-0707-070707070707 ctransid=9
        69 snapshot "a/b \n\xff" uuid=07070707-0707-0707-0707-070707070707 ctransid=9 base=08080808-0808-0808-0808-080808080808 base_ctransid=3
        153 mkfile "a/b \n\xff" inode=257
        185 mkdir "a/b \n\xff" inode=259
        217 mknod "a/b \n\xff" mode=20644 rdev=0x103
        273 mkfifo "a/b \n\xff" inode=259
        305 mksock "a/b \n\xff" inode=1
        337 symlink "a/b \n\xff" target="/etc/passwd"
        384 rename "a/b \n\xff" to="c"
        409 link "a/b \n\xff" target="d"
        434 unlink "a/b \n\xff"
        454 rmdir "a/b \n\xff"
        474 set_xattr "a/b \n\xff" name="user.x" data="\x00\x01"
        510 remove_xattr "a/b \n\xff" name="user.x"
        540 write "a/b \n\xff" offset=1099511627776 len=5
        579 clone "a/b \n\xff" offset=1 len=2 from="e" from_offset=5 from_uuid=07070707-0707-0707-0707-070707070707 from_ctransid=4
        672 truncate "a/b \n\xff" size=18446744073709551615
        704 chmod "" mode=4755
        730 chown "a/b \n\xff" uid=1 gid=2
        774 utimes "a/b \n\xff" atime=-2.999999999 mtime=-2.999999999 ctime=-2.999999999
        842 update_extent "a/b \n\xff" offset=6 len=7
        886 utimes "a/b \n\xff" atime=-2.999999999 mtime=-2.999999999 ctime=-2.999999999 otime=-2.999999999
        970 fallocate "a/b \n\xff" mode=0x3 offset=8 len=9
        1022 fileattr "a/b \n\xff" flags=0x40
        1054 encoded_write "a/b \n\xff" offset=4096 len=10 compression=lzo/4096 encoded_len=6 unencoded_len=4096 unencoded_offset=5 encryption=0
        1146 enable_verity "a/b \n\xff" algorithm=1 block_size=4096 salt="s" signature=""
        1188 end
        end of input
    "#]]
    .assert_eq(&text_of(&stream_of(Version::V3)[..]));
}

#[test]
fn the_bytes_of_a_small_stream_are_those_that_the_kernel_writes() {
    // The head of what Linux 6.18 sent for a subvolume "s1", with its end command appended.
    let golden = b"btrfs-stream\0\x01\0\0\0\
        \x26\0\0\0\x01\0\xeb\x37\xed\x2c\x0f\0\x02\0s1\x01\0\x10\0\
        \x54\xa2\x15\xaf\xa7\xfe\xbb\x41\xba\x0a\xfd\x0e\0\x72\x58\x9d\x02\0\x08\0\x08\0\0\0\0\0\0\0\
        \0\0\0\0\x15\0\x50\x6c\xc9\x9d";
    let uuid = *b"\x54\xa2\x15\xaf\xa7\xfe\xbb\x41\xba\x0a\xfd\x0e\0\x72\x58\x9d";
    let mut encoder = Encoder::new(Version::V1);
    encoder.push(&Command::Subvol { path: b"s1", uuid, ctransid: 8 });
    assert_eq!(encoder.finish().escape_ascii().to_string(), golden.escape_ascii().to_string());
}

#[test]
fn data_without_a_length_field_runs_to_the_commands_end_in_version_2() {
    let data = vec![b'x'; 200_000];
    let mut encoder = Encoder::new(Version::V2);
    encoder.push(&Command::Write { path: b"f", offset: 3, data: &data });
    let stream = encoder.finish();
    let mut parser = Parser::new(&stream[..]);
    let item = parser.next_command().expect("reads").expect("a command");
    assert_eq!(item.command, Command::Write { path: b"f", offset: 3, data: &data });
}

#[test]
fn a_stream_of_a_newer_version_is_refused_by_that_name() {
    let mut stream = stream_of(Version::V1);
    stream[13] = 4;
    assert!(matches!(error_of(&stream), Error::Version { offset: 0, found: 4 }));
}

#[test]
fn a_command_newer_than_its_stream_is_unknown() {
    let mut encoder = Encoder::new(Version::V2);
    encoder.push(&Command::EnableVerity { path: b"f", verity: VERITY });
    assert!(matches!(
        error_of(&encoder.finish()),
        Error::UnknownCommand { offset: 17, code: 26, version: 2 }
    ));
}

#[test]
fn damage_of_each_kind_is_named_with_its_offset() {
    let with = |code: u16, payload: &[u8]| {
        let mut encoder = Encoder::new(Version::V1);
        encoder.push(&Command::Unlink { path: b"first" }).push_raw(code, payload);
        format!("{}\n", error_of(&encoder.finish()))
    };
    let mut out = String::new();
    out += &with(99, b"");
    out += &with(11, b"");
    out += &with(11, b"\x0f");
    out += &with(11, b"\x0f\0\x05");
    out += &with(11, b"\x0f\0\x05\0four");
    out += &with(11, b"\x0f\0\x01\0f\x0f\0\x01\0f");
    out += &with(11, b"\x63\0\x01\0f");
    out += &with(11, b"\x0f\0\x03\0a\0b");
    out += &with(17, b"\x0f\0\x01\0f\x04\0\x03\0\x01\x02\x03");
    let mut huge = stream_of(Version::V1);
    huge[17..21].copy_from_slice(&u32::MAX.to_le_bytes());
    out += &format!("{}\n", error_of(&huge));
    let mut after = stream_of(Version::V1);
    after.extend(b"btrfs-strean");
    out += &format!("{}\n", error_of(&after));
    out += &format!("{}\n", error_of(b""));
    out += &format!("{}\n", error_of(b"PK\x03\x04"));
    out += &format!("{}\n", error_of(Encoder::new(Version::V1).bytes()));
    expect![[r#"
        the command at byte 36 has number 99, which version 1 does not have
        the unlink command at byte 46 lacks its path
        an attribute of the unlink command runs over its end at byte 46
        an attribute of the unlink command runs over its end at byte 46
        an attribute of the unlink command runs over its end at byte 46
        the unlink command has a second path at byte 51
        the unlink command has an unknown attribute 99 at byte 46
        the path of the unlink command at byte 46 holds a NUL
        the size of the truncate command at byte 46 has the wrong length
        the command at byte 17 claims 4294967295 bytes; at most 65526 are possible
        bytes that are no stream follow the end of the btrfs send stream, at byte 898
        the btrfs send stream ends at byte 0, within its header
        not a btrfs send stream: it does not begin with "btrfs-stream"
        the btrfs send stream ends at byte 17, within its commands: no end command came
    "#]]
    .assert_eq(&out);
}

#[test]
fn streams_may_follow_one_another_and_differ_in_version() {
    let mut both = stream_of(Version::V1);
    both.extend(stream_of(Version::V3));
    let text = text_of(&both[..]);
    assert_eq!(text.matches(" end\n").count(), 2, "{text}");
    assert!(text.ends_with(" end\nend of input\n"), "{text}");
}

#[test]
fn every_truncation_is_an_error() {
    let stream = stream_of(Version::V3);
    for len in 0..stream.len() {
        let error = error_of(&stream[..len]);
        assert!(matches!(error, Error::Truncated { offset, .. } if offset == len as u64), "{len}: {error}");
    }
}

#[test]
fn every_bit_flip_is_an_error() {
    let stream = stream_of(Version::V2);
    let version_2_as_3 = 13 * 8; // The header has no checksum; all that was meant for version 2 is right in version 3.
    for bit in (0..stream.len() * 8).filter(|&bit| bit != version_2_as_3) {
        let mut flipped = stream.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        error_of(&flipped);
    }
}

#[test]
fn an_error_of_the_input_comes_out_with_its_offset() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let stream = stream_of(Version::V1);
    let text = text_of(stream[..100].chain(Broken));
    assert!(text.ends_with("error: cannot read the btrfs send stream at byte 100\n"), "{text}");
}

/// Gives out `bytes` in pieces of these lengths, over and over.
struct Pieces<'a>(&'a [u8], std::iter::Cycle<std::vec::IntoIter<usize>>);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.1.next().expect("endless").min(buffer.len());
        self.0.read(&mut buffer[..len])
    }
}

fn any_code_and_payload() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let attribute = (0u16..38, prop::collection::vec(any::<u8>(), 0..20), any::<bool>()).prop_map(
        |(code, value, right)| {
            let len = if right { value.len() as u16 } else { value.len() as u16 + 7 };
            [&code.to_le_bytes()[..], &len.to_le_bytes(), &value].concat()
        },
    );
    (0u16..30, prop::collection::vec(attribute, 0..6).prop_map(|a| a.concat()))
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), number in 0u32..5) {
        text_of(&bytes[..]);
        let mut with_header = b"btrfs-stream\0".to_vec();
        with_header.extend(number.to_le_bytes());
        with_header.extend(&bytes);
        text_of(&with_header[..]);
    }

    #[test]
    fn no_payload_under_a_right_checksum_makes_it_panic(
        commands in prop::collection::vec(any_code_and_payload(), 0..10),
        version in prop::sample::select(vec![Version::V1, Version::V2, Version::V3]),
    ) {
        let mut encoder = Encoder::new(version);
        for (code, payload) in &commands {
            encoder.push_raw(*code, payload);
        }
        text_of(&encoder.finish()[..]);
    }

    #[test]
    fn how_the_input_is_cut_into_reads_does_not_show(lengths in prop::collection::vec(1usize..400, 1..8)) {
        let stream = stream_of(Version::V3);
        let pieces = Pieces(&stream, lengths.into_iter().cycle());
        prop_assert_eq!(text_of(pieces), text_of(&stream[..]));
    }
}

#[test]
fn the_framer_gives_batches_of_whole_commands_and_uses_buffers_again() {
    let data = [b'x'; 40_000];
    let mut encoder = Encoder::new(Version::V1);
    for offset in 0..100 {
        encoder.push(&Command::Write { path: b"f", offset, data: &data });
    }
    let stream = encoder.finish();
    let mut framer = Framer::new(&stream[..]);
    let (mut spare, mut n_batches, mut n_commands) = (Box::default(), 0, 0);
    while let Some(mut batch) = framer.next_batch(spare).expect("reads") {
        n_batches += 1;
        while batch.next_command().expect("parses").is_some() {
            n_commands += 1;
        }
        spare = batch.into_buffer();
    }
    assert_eq!((n_commands, framer.offset()), (101, stream.len() as u64));
    assert!((4..10).contains(&n_batches), "{n_batches}");
}

#[test]
fn the_kernels_streams_parse_and_progs_dumps_as_many_commands() {
    ground!("btrfs");
    let ground = Btrfs::with("1G", &[], "compress=zstd");
    let source = ground.subvolume("s");
    std::fs::write(source.join("compressible"), vec![b'a'; 400_000]).expect("write");
    std::fs::write(source.join("new\nline"), b"x").expect("write");
    let snapshot = ground.path().join("s1");
    run("btrfs", &["subvolume", "snapshot", "-r", source.to_str().unwrap(), snapshot.to_str().unwrap()]);
    for arguments in [&["--proto", "1"][..], &["--proto", "2"], &["--proto", "2", "--compressed-data"]] {
        let file = ground.outside().join("stream");
        let mut words = vec!["send", "-q", "-f", file.to_str().unwrap()];
        words.extend(arguments);
        words.push(snapshot.to_str().unwrap());
        run("btrfs", &words);
        let text = text_of(&std::fs::read(&file).expect("read")[..]);
        assert!(text.ends_with(" end\nend of input\n"), "{text}");
        assert_eq!(text.contains("encoded_write"), arguments.len() == 3, "{text}");
        let dump = run("btrfs", &["receive", "--dump", "-f", file.to_str().unwrap()]);
        let n_dumped = String::from_utf8_lossy(&dump.stdout).lines().count();
        assert_eq!(text.lines().count(), n_dumped + 2, "{text}"); // The end, and the end of input.
    }
}

#[test]
fn progs_reads_what_the_encoder_writes() {
    ground!("btrfs");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), stream_of(Version::V2)).expect("write");
    let dump = run("btrfs", &["receive", "--dump", "-f", file.path().to_str().expect("utf-8")]);
    let text = String::from_utf8_lossy(&dump.stdout);
    let all = one_of_each(Version::V2);
    let ours: Vec<_> = all.iter().map(Command::name).collect();
    let first_words = text.lines().filter_map(|line| line.split_whitespace().next());
    let theirs: Vec<_> = first_words.filter(|word| !word.contains('/')).collect(); // A clone's newline is not escaped.
    assert_eq!(theirs, ours, "{text}");
}

#[test]
fn writes_that_go_on_in_one_file_are_taken_together_and_nothing_else_is() {
    let write = |path, offset, data| Command::Write { path, offset, data };
    let mut encoder = Encoder::new(Version::V1);
    for command in [
        write(b"a".as_slice(), 0, b"one".as_slice()),
        write(b"a", 3, b"two"),
        write(b"a", 6, b"three"),
        write(b"a", 12, b"after a gap"),
        write(b"b", 23, b"elsewhere"),
        write(b"b", 32, b""),
        write(b"b", u64::MAX, b"at the end of all offsets"),
        write(b"b", 24, b"before"),
        Command::Truncate { path: b"b", size: 30 },
        write(b"b", 30, b"after a truncation"),
    ] {
        encoder.push(&command);
    }
    let bytes = encoder.finish();
    let mut batch = Framer::new(&bytes[..]).next_batch(Box::default()).expect("sound").expect("one batch");
    let mut runs = Vec::new();
    while let Some((first, more)) = batch.next_run().expect("sound") {
        let more: Vec<_> = more.iter().map(|data| String::from_utf8_lossy(data).into_owned()).collect();
        runs.push(format!("{} +{more:?}", first.command.name()));
    }
    let expected = [
        r#"write +["two", "three"]"#,
        "write +[]",
        "write +[]",
        "write +[]",
        "write +[]",
        "write +[]",
        "truncate +[]",
        "write +[]",
        "end +[]",
    ];
    assert_eq!(runs, expected);
}
