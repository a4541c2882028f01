//! `cowsnap stream` on ZFS streams, as a process: no kernel, no ZFS.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use cowsnap::stream::container::{Backend, Header, ResumePoint, ZfsFlags, ZfsKind, ZfsStream};
use cowsnap::stream::reader::Reader;
use cowsnap::stream::writer::{self, Options};
use cowsnap::stream::zfs::encode::{self, Encoder};
use cowsnap::stream::zfs::{Begin, ByteOrder, RECORD_LEN};
use expect_test::expect;

use super::{data, one_of_each, sample_begin, stream_of, write};
use crate::ground::cowsnap;

struct Folder(tempfile::TempDir);

impl Folder {
    /// With `raw` and `c`, the container around it, in it.
    fn with(raw: &[u8]) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        folder.write("raw", raw);
        assert_eq!(folder.run(&["wrap", "raw", "-o", "c"]).0, 0);
        folder
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("write");
    }

    fn stream(&self, args: &[&str]) -> Command {
        let mut command = cowsnap(self.0.path());
        command.current_dir(self.0.path()).arg("stream").args(args).stdin(Stdio::null());
        command
    }

    /// The exit code, and what was written to standard output and standard error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.stream(args).output().expect("the program");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().expect("a code"), text(output.stdout), text(output.stderr))
    }

    /// What is printed of `name` when it comes through a pipe.
    fn run_through_pipe(&self, args: &[&str], name: &str) -> String {
        let mut child =
            self.stream(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program");
        let mut input = child.stdin.take().expect("a pipe");
        let bytes = std::fs::read(self.path(name)).expect("a file");
        // Not even the kind can be told from the first bytes that arrive.
        input.write_all(&bytes[..10]).expect("write");
        std::thread::sleep(std::time::Duration::from_millis(50));
        input.write_all(&bytes[10..]).expect("write");
        drop(input);
        let output = child.wait_with_output().expect("the program");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn sample() -> Vec<u8> {
    stream_of(ByteOrder::Little, &one_of_each())
}

/// Without what depends on how well zstd compresses.
fn steady(text: &str) -> String {
    let changes = |line: &&str| !line.starts_with("container ") && !line.starts_with("stream ");
    text.lines().filter(changes).map(|line| line.to_owned() + "\n").collect()
}

#[test]
fn a_raw_stream_is_counted() {
    let folder = Folder::with(&sample());
    let (code, out, _) = folder.run(&["inspect", "raw"]);
    assert_eq!(code, 0);
    expect![[r#"
        raw ZFS stream
        snapshot   tank/my data@a:1 b_
        type       filesystem
        guid       00000000-0000-0000-0123-456789abcdef (81985529216486895)
        base       none: a full stream
        created    2026-05-28T20:26:40Z
        features   embed_data, large_blocks
        resumes    object 7, offset 131072
        stream     6828 bytes, its blocks 133632 bytes when decompressed
        objects    3
        fletcher-4 0000010920dd332d0002eef59fb2ebe705671e19e9d5415ab2d63280d8c6cd81, as END says
                 1 END
                 1 FREE
                 1 FREEOBJECTS
                 3 OBJECT, 376 bytes
                 1 OBJECT_RANGE
                 1 REDACT
                 2 SPILL, 1024 bytes
                 2 WRITE, 596 bytes
                 1 WRITE_BYREF
                 1 WRITE_EMBEDDED, 56 bytes
    "#]]
    .assert_eq(&out);
    assert_eq!(folder.run_through_pipe(&["inspect"], "raw"), out);
    let value = json(&folder.run(&["inspect", "raw", "--json"]).1);
    expect![[r#"
        {
          "base": null,
          "block_bytes": 133632,
          "created": "2026-05-28T20:26:40Z",
          "data_bytes": {
            "END": 0,
            "FREE": 0,
            "FREEOBJECTS": 0,
            "OBJECT": 376,
            "OBJECT_RANGE": 0,
            "REDACT": 0,
            "SPILL": 1024,
            "WRITE": 596,
            "WRITE_BYREF": 0,
            "WRITE_EMBEDDED": 56
          },
          "features": [
            "embed_data",
            "large_blocks"
          ],
          "flags": 12,
          "fletcher4": "0000010920dd332d0002eef59fb2ebe705671e19e9d5415ab2d63280d8c6cd81",
          "guid": "00000000-0000-0000-0123-456789abcdef",
          "kind": "zfs",
          "list": "{resume_object: 7, resume_offset: 131072}",
          "objects": 3,
          "operations": {
            "END": 1,
            "FREE": 1,
            "FREEOBJECTS": 1,
            "OBJECT": 3,
            "OBJECT_RANGE": 1,
            "REDACT": 1,
            "SPILL": 2,
            "WRITE": 2,
            "WRITE_BYREF": 1,
            "WRITE_EMBEDDED": 1
          },
          "snapshot": "tank/my data@a:1 b_",
          "stream_bytes": 6828,
          "type": "filesystem"
        }
    "#]]
    .assert_eq(&format!("{value:#}\n"));
}

#[test]
fn a_stream_of_the_other_byte_order_is_counted_alike() {
    let little = Folder::with(&sample());
    let big = Folder::with(&stream_of(ByteOrder::Big, &one_of_each()));
    let without_sum = |folder: &Folder| {
        let (_, out, _) = folder.run(&["inspect", "raw"]);
        out.lines().filter(|line| !line.starts_with("fletcher-4")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(without_sum(&little), without_sum(&big));
}

#[test]
fn a_container_is_shown_from_its_ends_and_counted_when_asked() {
    let folder = Folder::with(&sample());
    let (code, of_ends, _) = folder.run(&["inspect", "c"]);
    assert_eq!(code, 0);
    expect![[r#"
        backend    zfs, stream version 1
        dataset    tank/my data
        snapshot   a:1 b_
        guid       00000000-0000-0000-0123-456789abcdef
        base       none: a full stream
        created    2026-05-28T20:26:40Z
        type       filesystem
        features   embed_data, large_blocks
        blake3     8201574ac19d831688e86e7b45c22405f664d41cf90b6527d7eb72750640fcf6
        verified   header and trailer; all of it: cowsnap stream verify 'c'
    "#]]
    .assert_eq(&steady(&of_ends));
    let through = folder.run_through_pipe(&["inspect"], "c");
    assert!(
        through.contains("verified   every byte") && through.contains("features   embed_data"),
        "{through}"
    );
    let (_, counted, _) = folder.run(&["inspect", "--count", "c"]);
    let (_, raw, _) = folder.run(&["inspect", "raw"]);
    assert!(
        counted.contains("verified   every byte") && counted.ends_with(raw.trim_start_matches("raw ")),
        "{counted}"
    );
    let value = json(&folder.run(&["inspect", "--count", "--json", "c"]).1);
    assert_eq!((&value["kind"], &value["verified"]), (&"container".into(), &true.into()));
    assert_eq!(value["begin"]["features"], serde_json::json!(["embed_data", "large_blocks"]));
    assert_eq!(value["content"]["operations"]["WRITE"], 2);
    assert_eq!(json(&folder.run(&["inspect", "--json", "c"]).1)["content"], serde_json::Value::Null);
}

#[test]
fn the_operations_of_raw_streams_and_containers_are_listed() {
    let folder = Folder::with(&sample());
    let (code, of_raw, _) = folder.run(&["inspect", "--ops", "raw"]);
    assert_eq!(code, 0);
    expect![[r#"
        BEGIN "tank/my data@a:1 b_" type=filesystem guid=0123456789abcdef from=0000000000000000 features=90000 flags=c list={resume_object: 7, resume_offset: 131072}
        OBJECT object=2 kind=19 block=131072 bonus=168 bonus_kind=44
        OBJECT object=2 kind=19 block=131072 bonus=13 bonus_kind=44
        OBJECT object=2 kind=19 block=131072 bonus=13 bonus_kind=44 raw_bonus=192 levels=1 max_block=9
        FREEOBJECTS first=3 count=29
        WRITE object=2 offset=0 len=512 kind=19
        WRITE object=2 offset=0 len=131072 kind=19 compression=15 compressed=84
        FREE object=2 offset=131072 len=all
        WRITE_BYREF object=2 offset=0 len=512 from=000000000000feed/5/1024
        SPILL object=2 len=512
        SPILL object=2 len=1024 compression=15 compressed=512
        WRITE_EMBEDDED object=2 offset=4096 len=512 compression=15 compressed=51
        OBJECT_RANGE first=32 count=32
        REDACT object=2 offset=0 len=4096
        END checksum=10920dd332d/2eef59fb2ebe7/5671e19e9d5415a/b2d63280d8c6cd81 guid=0123456789abcdef
    "#]].assert_eq(&of_raw);
    assert_eq!(folder.run(&["inspect", "--ops", "c"]), (0, of_raw, String::new()));
    let (_, lines, _) = folder.run(&["inspect", "--ops", "--json", "c"]);
    let second = json(lines.lines().nth(1).expect("a second line"));
    assert_eq!((&second["op"], &second["offset"]), (&"OBJECT".into(), &408.into()));
}

#[test]
fn wrap_says_in_the_header_what_begin_says_and_unwrap_gives_the_stream_back() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let begin = Begin { order, from_guid: 5, ..sample_begin() };
        let mut encoder = Encoder::new(&begin);
        for _ in 0..3 {
            encoder.push(&write(1 << 20, 0, 0), &data(1 << 20));
        }
        let raw = encoder.finish();
        let folder = Folder::with(&raw);
        let reader = Reader::open(File::open(folder.path("c")).expect("open")).expect("a container");
        let header = serde_json::to_value(reader.header()).expect("JSON");
        expect![[r#"
            {
              "backend": "zfs",
              "base": "00000000-0000-0000-0000-000000000005",
              "compressed": false,
              "created": "2026-05-28T20:26:40Z",
              "dataset": "tank/my data",
              "guid": "00000000-0000-0000-0123-456789abcdef",
              "properties": {},
              "snapshot": "a:1 b_",
              "stream_version": 1
            }
        "#]]
        .assert_eq(&format!("{header:#}\n"));
        assert_eq!(folder.run(&["verify", "c"]).0, 0);
        assert_eq!(folder.run(&["unwrap", "c", "-o", "out"]).0, 0);
        assert!(std::fs::read(folder.path("out")).expect("read") == raw);
        let args = ["wrap", "raw", "-o", "d", "--name", "x", "--dataset", "other", "--no-compress"];
        assert_eq!(folder.run(&args).0, 0);
        let reader = Reader::open(File::open(folder.path("d")).expect("open")).expect("a container");
        assert_eq!((reader.header().snapshot.as_str(), &reader.header().dataset[..]), ("x", "other"));
    }
}

#[test]
fn what_is_cut_off_damaged_or_no_single_stream_is_refused() {
    let whole = sample();
    let folder = Folder::with(&whole);
    let mut flipped = whole.clone();
    flipped[3000] ^= 1;
    let mut package = whole.clone();
    package[16..20].copy_from_slice(&[2, 0, 0, 0]);
    let unnamed = Encoder::new(&Begin { to_name: "tank/a".into(), ..sample_begin() }).finish();
    let long = [&whole[..], b"more"].concat();
    let list = [&encode::begin(&Begin { payload_len: 8, ..sample_begin() })[..], &[7; 8]].concat();
    let mut text = String::new();
    for (bytes, inspected) in [
        (&whole[..100], 4),
        (&whole[..3000], 4),
        (&whole[..whole.len() - RECORD_LEN], 4),
        (&flipped, 4),
        (&long, 4),
        (&list, 4),
        (&package, 2),
        (&unnamed, 0),
    ] {
        folder.write("bad", bytes);
        for args in [&["inspect", "bad"][..], &["inspect", "--ops", "bad"]] {
            assert_eq!(folder.run(args).0, inspected, "{args:?}");
        }
        let (code, _, err) = folder.run(&["wrap", "bad", "-o", "out"]);
        text += &format!("{code} {err}");
        assert!(!folder.path("out").exists());
    }
    expect![[r#"
        4 error: corrupt ZFS stream: bad: the ZFS send stream ends at byte 100, within its BEGIN record
        4 error: corrupt ZFS stream: bad: the ZFS send stream ends at byte 3000, within a record
        4 error: corrupt ZFS stream: bad: the ZFS send stream ends at byte 6516, within its records: no END came
        4 error: corrupt ZFS stream: bad: the bytes up to the WRITE record at byte 2856 have another fletcher-4 checksum than it says
        4 error: corrupt ZFS stream: bad: bytes follow the end of the ZFS send stream, at byte 6828
        4 error: corrupt ZFS stream: bad: the list behind the BEGIN record, at byte 312, can not be read
        caused by: the packed list has the unknown encoding 7, endian 7
        2 error: bad is a package of ZFS streams (zfs send -R or -p)
        hint: zfs send without -R and -p makes a stream
        2 error: the stream's BEGIN record gives no snapshot name: the snapshot name in "" is empty
        hint: cowsnap stream wrap --name NAME
    "#]].assert_eq(&text);
    for args in [&["verify", "raw"][..], &["unwrap", "raw"], &["inspect", "--frames", "raw"]] {
        let (code, _, err) = folder.run(args);
        assert_eq!(
            (code, err.contains("a raw ZFS stream") && err.contains("stream wrap")),
            (2, true),
            "{err}"
        );
    }
}

/// A container with what `cowsnap send` says of a ZFS stream.
fn container(folder: &Folder, guid: u64, stream: &[u8]) {
    let header = Header {
        backend: Backend::Zfs,
        dataset: "tank/a".into(),
        snapshot: "b".parse().expect("a name"),
        guid: cowsnap::model::Guid::of_zfs(guid),
        base: None,
        created: jiff::Timestamp::UNIX_EPOCH,
        stream_version: 1,
        compressed: false,
        properties: Default::default(),
        zfs: Some(ZfsStream {
            kind: ZfsKind::Filesystem,
            flags: ZfsFlags { large_blocks: true, embedded: true, ..ZfsFlags::default() },
            features: 0,
            resumes: Some(ResumePoint { object: 7, offset: 131_072 }),
            release: "2.1.11\x1b".into(),
        }),
        place: None,
    };
    let mut file = File::create(folder.path("sent")).expect("create");
    let options = Options { level: None, threads: 1 };
    writer::write(&header, stream, &mut file, &options).expect("write");
}

#[test]
fn what_the_header_says_of_a_zfs_stream_is_shown_and_compared_with_the_stream() {
    let folder = Folder::with(&sample());
    container(&folder, sample_begin().to_guid, &sample());
    let (code, out, _) = folder.run(&["inspect", "sent"]);
    assert_eq!(code, 0);
    expect![[r#"
        backend    zfs, stream version 1
        dataset    tank/a
        snapshot   b
        guid       00000000-0000-0000-0123-456789abcdef
        base       none: a full stream
        created    1970-01-01T00:00:00Z
        type       filesystem
        features   embed_data, large_blocks
        sent as    large-blocks+embedded
        resumes    object 7, offset 131072
        OpenZFS    2.1.11\u{1b}
        blake3     8201574ac19d831688e86e7b45c22405f664d41cf90b6527d7eb72750640fcf6
        verified   header and trailer; all of it: cowsnap stream verify 'sent'
    "#]]
    .assert_eq(&steady(&out));
    for (guid, stream) in [(1, sample()), (sample_begin().to_guid, b"zfs".to_vec()), (1, vec![])] {
        container(&folder, guid, &stream);
        for args in [&["inspect", "sent"][..], &["inspect", "--count", "sent"]] {
            let (code, _, err) = folder.run(args);
            assert_eq!((code, err.contains("corrupt ZFS stream")), (4, true), "{err}");
        }
    }
}

/// Resident memory at its most, in KiB, of a process that runs.
fn peak_of(pid: u32) -> u64 {
    let status =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// 96 MiB in the format's largest blocks: what is held does not grow with them.
#[test]
fn inspecting_takes_no_more_memory_than_it_says() {
    let folder = Folder::with(&sample());
    let mut encoder = Encoder::new(&sample_begin());
    for _ in 0..6 {
        encoder.push(&write(16 << 20, 0, 0), &vec![7; 16 << 20]);
    }
    let stream = encoder.finish();
    let mut child = folder
        .stream(&["inspect", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut input = child.stdin.take().expect("a pipe");
    // All but what a pipe holds has been read when this returns; without an END the program waits.
    input.write_all(&stream[..stream.len() - RECORD_LEN]).expect("write");
    let peak = peak_of(child.id());
    input.write_all(&stream[stream.len() - RECORD_LEN..]).expect("write");
    drop(input);
    let output = child.wait_with_output().expect("the program");
    assert_eq!(json(std::str::from_utf8(&output.stdout).expect("UTF-8"))["block_bytes"], 96 << 20);
    assert!(peak < 32 << 10, "{peak} KiB");
}
