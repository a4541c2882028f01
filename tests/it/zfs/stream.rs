//! The streams and resume tokens of a real kernel, read by ours and by ZFS's own tools.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cowsnap::stream::container::ZfsFlags;
use cowsnap::stream::zfs::nvlist::Value;
use cowsnap::stream::zfs::resume::Token;
use cowsnap::stream::zfs::{Begin, Feature, Kind, Summary, Walker};

use super::ground::{Pool, zfs};
use crate::ground::{cowsnap, ground, run};
use crate::stream_zfs::oracle::assert_agrees;

/// Blocks over 128 KiB, attributes that do not fit into a dnode, dnodes over 512 bytes.
const OPTIONS: [&str; 4] = ["recordsize=1M", "xattr=sa", "dnodesize=auto", "compression=lz4"];

/// Two snapshots, `@1` and `@2`, of the filesystem `name`, which was made.
fn fill(pool: &Pool, name: &str) {
    let folder = pool.path(name);
    let sh = |script: &str| {
        run("sh", &["-ec", script, "sh", folder.to_str().expect("utf-8")]);
    };
    sh("cd \"$1\"; seq 100000 >text; head -c 2500000 /dev/urandom >noise; printf tiny >tiny; ln -s tiny link
        mkdir d; for i in $(seq 200); do echo $i >d/$i; done; truncate -s 10M hole; printf x >>hole");
    for n in 0..8 {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(folder.join("tiny"), format!("user.{n}"), &[b'a'; 1500], flags)
            .expect("setxattr");
    }
    zfs(&["snapshot", &format!("{}@1", pool.full(name))]);
    sh("cd \"$1\"; rm -r d; truncate -s 1000000 noise; echo more >>text; mv tiny larger");
    zfs(&["snapshot", &format!("{}@2", pool.full(name))]);
}

/// A filesystem with two snapshots; its full name.
fn filesystem(pool: &Pool, name: &str, more: &[&str]) -> String {
    let full = pool.full(name);
    let mut words = vec!["create"];
    for option in OPTIONS.iter().chain(more) {
        words.extend(["-o", option]);
    }
    words.push(&full);
    zfs(&words);
    fill(pool, name);
    full
}

fn encrypted(pool: &Pool, name: &str) -> String {
    let key = pool.outside().join("key");
    std::fs::write(&key, [7; 32]).expect("write");
    let location = format!("keylocation=file://{}", key.display());
    filesystem(pool, name, &["encryption=on", "keyformat=raw", &location])
}

fn send(args: &[&str]) -> Vec<u8> {
    run("zfs", &[&["send"], args].concat()).stdout
}

fn write(pool: &Pool, name: &str, bytes: &[u8]) -> PathBuf {
    let file = pool.outside().join(name);
    std::fs::write(&file, bytes).expect("write");
    file
}

fn number(snapshot: &str, property: &str) -> u64 {
    let value = zfs(&["get", "-H", "-p", "-o", "value", property, snapshot]);
    value.trim_end().parse().expect("a number")
}

/// What `input` makes of a command.
fn feed(command: &mut Command, input: &[u8]) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program");
    let mut pipe = child.stdin.take().expect("a pipe");
    let _ = pipe.write_all(input); // It may stop reading before the end.
    drop(pipe);
    child.wait_with_output().expect("the program")
}

fn receive(args: &[&str], stream: &[u8]) -> Output {
    feed(Command::new("zfs").arg("receive").args(args), stream)
}

/// What BEGIN says is what the snapshots are.
fn check_begin(stream: &[u8], base: Option<&str>, snapshot: &str, kind: Kind) -> Begin {
    let begin = Walker::open(stream).expect("a stream").begin().clone();
    assert_eq!((begin.to_name.as_str(), begin.kind), (snapshot, kind));
    assert_eq!(begin.to_guid, number(snapshot, "guid"));
    assert_eq!(begin.from_guid, base.map_or(0, |base| number(base, "guid")));
    assert_eq!(begin.creation, number(snapshot, "creation"));
    begin.check_receivable().expect("the kernel sends nothing that is not known");
    begin
}

/// Options, base, snapshot, and what BEGIN must say.
type Case<'a> = (&'a [&'a str], Option<&'a str>, &'a str, Kind, &'a [Feature]);

#[test]
fn zstream_says_the_same_of_every_record_of_real_streams() {
    ground!("zfs", "zstream");
    let pool = Pool::new();
    let (plain, secret) = (filesystem(&pool, "my data:a", &[]), encrypted(&pool, "secret"));
    let volume = pool.volume("disk", "32M");
    zfs(&["snapshot", &format!("{volume}@1")]);
    let at = |dataset: &str, n| format!("{dataset}@{n}");
    let mut kinds = BTreeSet::new();
    let (one, two) = (at(&plain, 1), at(&plain, 2));
    let (secret_one, secret_two) = (at(&secret, 1), at(&secret, 2));
    let cases: [Case; 8] = [
        (&[], None, &one, Kind::Filesystem, &[]),
        (
            &["-L", "-e", "-c"],
            None,
            &one,
            Kind::Filesystem,
            &[Feature::LargeBlocks, Feature::EmbedData, Feature::Compressed],
        ),
        (&[], Some(&one), &two, Kind::Filesystem, &[]),
        (&["-L", "-e", "-c"], Some(&one), &two, Kind::Filesystem, &[Feature::LargeBlocks]),
        (&["-w"], None, &secret_one, Kind::Filesystem, &[Feature::Raw]),
        (&["-w"], Some(&secret_one), &secret_two, Kind::Filesystem, &[Feature::Raw]),
        (&[], Some(&secret_one), &secret_two, Kind::Filesystem, &[]),
        (&["-L", "-e", "-c"], None, &at(&volume, 1), Kind::Volume, &[]),
    ];
    for (options, base, snapshot, kind, features) in cases {
        let mut words = options.to_vec();
        words.extend(base.iter().flat_map(|base| ["-i", base]));
        words.push(snapshot);
        let stream = send(&words);
        let begin = check_begin(&stream, base, snapshot, kind);
        for feature in features {
            assert!(begin.features.has(*feature), "{words:?}: {}", begin.features);
        }
        assert!(assert_agrees(&write(&pool, "stream", &stream)) > 3, "{words:?}");
        kinds.extend(Summary::of(&stream[..]).expect("whole").counts.into_keys());
    }
    let all = ["END", "FREE", "FREEOBJECTS", "OBJECT", "OBJECT_RANGE", "SPILL", "WRITE", "WRITE_EMBEDDED"];
    assert_eq!(kinds, BTreeSet::from(all));
}

#[test]
fn a_redacted_stream_is_read() {
    ground!("zfs", "zstream");
    let pool = Pool::new();
    let source = pool.dataset("a"); // ZFS 2.1 redacts none with dnodes over 512 bytes.
    fill(&pool, "a");
    let clone = pool.full("without noise");
    zfs(&["clone", &format!("{source}@1"), &clone]);
    run(
        "dd",
        &[
            "if=/dev/zero",
            &format!("of={}", pool.path("without noise").join("noise").display()),
            "bs=1M",
            "count=1",
            "conv=notrunc",
        ],
    );
    zfs(&["snapshot", &format!("{clone}@s")]);
    zfs(&["redact", &format!("{source}@1"), "book", &format!("{clone}@s")]);
    let stream = send(&["--redact", "book", &format!("{source}@1")]);
    let begin = check_begin(&stream, None, &format!("{source}@1"), Kind::Filesystem);
    assert!(begin.features.has(Feature::Redacted));
    assert_agrees(&write(&pool, "stream", &stream));
    let summary = Summary::of(&stream[..]).expect("whole");
    assert!(summary.counts["REDACT"].records > 0);
    let list = summary.list.expect("what it is redacted against");
    assert_eq!(list.get("redact_snaps"), Some(&Value::Uints(vec![number(&format!("{clone}@s"), "guid")])));
}

#[test]
fn every_change_of_a_real_stream_is_noticed() {
    ground!("zfs");
    let pool = Pool::new();
    let source = filesystem(&pool, "a", &[]);
    let mut stream = send(&["-L", "-e", "-c", &format!("{source}@1")]);
    assert!(Summary::of(&stream[..]).is_ok());
    for n in 0..60 {
        let at = n * (stream.len() - 1) / 59;
        stream[at] ^= 1 << (n % 8);
        assert!(Summary::of(&stream[..]).is_err(), "byte {at}");
        stream[at] ^= 1 << (n % 8);
        assert!(Summary::of(&stream[..at]).is_err(), "{at} bytes");
    }
}

/// The token of a target that got two thirds of a stream.
fn interrupted(stream: &[u8], target: &str) -> String {
    let output = receive(&["-s", target], &stream[..stream.len() * 2 / 3]);
    assert!(!output.status.success(), "it came to an end");
    zfs(&["get", "-H", "-o", "value", "receive_resume_token", target]).trim_end().to_owned()
}

#[test]
fn the_tokens_of_real_receives_are_read_and_ours_are_taken() {
    ground!("zfs");
    let pool = Pool::new();
    let (plain, secret) = (filesystem(&pool, "my data", &[]), encrypted(&pool, "secret"));
    let cases: [(&[&str], &str, &str); 3] = [
        (&["-L", "-e", "-c"], &plain, "large-blocks+embedded+compressed"),
        (&[], &plain, "plain"),
        (&["-w"], &secret, "raw"),
    ];
    for (n, (options, source, flags)) in cases.into_iter().enumerate() {
        let (snapshot, target) = (format!("{source}@1"), pool.full(&format!("target{n}")));
        let stream = send(&[options, &[&snapshot]].concat());
        let text = interrupted(&stream, &target);
        let token = Token::decode(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((token.to_name.as_str(), token.to_guid), (&snapshot[..], number(&snapshot, "guid")));
        assert_eq!((token.from_guid, token.saved), (0, false));
        assert!(token.bytes > 0 && token.bytes < stream.len() as u64, "{token:?}");
        let wanted: ZfsFlags = flags.parse().expect("flags");
        // Raw implies the others, as the kernel sends it.
        assert_eq!((token.flags.raw, token.flags.embedded), (wanted.raw, wanted.embedded), "{token:?}");
        if !wanted.raw {
            assert_eq!(token.flags, wanted, "{token:?}");
        }
        let said = zfs(&["send", "-nvt", &text]);
        for (field, value) in [
            ("object", token.object),
            ("offset", token.offset),
            ("bytes", token.bytes),
            ("toguid", token.to_guid),
        ] {
            let line = format!("{field} = 0x{value:x}");
            assert!(said.lines().any(|found| found.trim() == line), "no {line:?} in {said}");
        }
        let rest = send(&["-t", &text]);
        // Not the same text: zlib packs it in another way.
        assert!(send(&["-t", &token.encode()]) == rest, "the token that we wrote is another one");
        let walker = Walker::open(&rest[..]).expect("a stream");
        assert!(walker.begin().features.has(Feature::Resuming));
        let list = walker.list().expect("where it goes on");
        assert_eq!(list.get("resume_object"), Some(&Value::Uint(token.object)));
        assert_eq!(list.get("resume_offset"), Some(&Value::Uint(token.offset)));
        assert!(Summary::of(&rest[..]).is_ok());
        if Command::new("zstream").output().is_ok() {
            assert_agrees(&write(&pool, "rest", &rest));
        }
        let output = receive(&["-s", &target], &rest);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(number(&format!("{target}@1"), "guid"), token.to_guid);
    }
}

#[test]
fn an_increments_token_names_its_base() {
    ground!("zfs");
    let pool = Pool::new();
    let (source, target) = (filesystem(&pool, "a", &[]), pool.full("b"));
    let (one, two) = (format!("{source}@1"), format!("{source}@2"));
    assert!(receive(&[&target], &send(&[&one])).status.success());
    std::fs::write(pool.path("a").join("noise"), vec![9; 4_000_000]).expect("write");
    let three = format!("{source}@3");
    zfs(&["snapshot", &three]);
    let token = interrupted(&send(&["-i", &one, &three]), &target);
    let token = Token::decode(&token).expect("a token");
    assert_eq!((token.from_guid, token.to_guid), (number(&one, "guid"), number(&three, "guid")));
    assert_ne!(token.to_guid, number(&two, "guid"));
}

#[test]
fn what_was_wrapped_and_unwrapped_is_received() {
    ground!("zfs");
    let pool = Pool::new();
    let source = filesystem(&pool, "a", &[]);
    let (one, two) = (format!("{source}@1"), format!("{source}@2"));
    let target = pool.full("b");
    let cowsnap = |args: &[&str], input: &[u8]| {
        let output = feed(cowsnap(pool.outside()).arg("stream").args(args), input);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    for stream in [send(&["-L", "-c", &one]), send(&["-L", "-c", "-i", &one, &two])] {
        let container = cowsnap(&["wrap"], &stream);
        let inspected = String::from_utf8(cowsnap(&["inspect", "--count"], &container)).expect("utf-8");
        assert!(inspected.contains("as END says") && inspected.contains("large_blocks"), "{inspected}");
        let unwrapped = cowsnap(&["unwrap"], &container);
        assert!(unwrapped == stream);
        let output = receive(&[&target], &unwrapped);
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(number(&format!("{target}@2"), "guid"), number(&two, "guid"));
    assert!(same(&pool.path("a").join("text"), &pool.path("b").join("text")));
}

fn same(a: &Path, b: &Path) -> bool {
    std::fs::read(a).expect("read") == std::fs::read(b).expect("read")
}
