//! What the calls of the library answer when they refuse, without cowsnap's own checks before them.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use cowsnap::sys::lzc::{self, BEGIN_LEN, Errno, Receive, SendFlags};

use super::super::ground::zfs;
use super::{Lab, get, noise};
use crate::ground::{ground, run};

fn flags() -> SendFlags {
    SendFlags { embedded: true, large_block: true, compressed: true, ..SendFlags::default() }
}

/// Receives a raw stream, all of it, or less.
fn receive(stream: &[u8], snapshot: &str, raw: bool, resumable: bool) -> Result<(), Errno> {
    let begin: &[u8; BEGIN_LEN] = stream.first_chunk().expect("a stream");
    let mut rest = tempfile::tempfile().expect("a file");
    rest.write_all(&stream[BEGIN_LEN..]).expect("written");
    rest.seek(SeekFrom::Start(0)).expect("a file");
    let what = Receive {
        snapshot,
        received_props: &[],
        local_props: &[],
        origin: None,
        resumable,
        raw,
        fd: rest.as_fd(),
        begin,
    };
    lzc::open().expect("ZFS").receive(&what).map(drop).map_err(|failed| failed.errno)
}

#[test]
fn refusals_to_receive_have_the_numbers_that_are_told_from_one_another() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 300_000));
    let raw = |file: &str, args: &[&str]| {
        let mut all = vec!["--raw"];
        all.extend(args);
        fs::read(lab.send(file, &all)).expect("read")
    };
    let full = raw("full", &[&lab.snapshot("one")]);
    lab.write("g", b"more");
    let second = raw("second", &["-i", &lab.snapshot("two")]);
    let third = raw("third", &["-i", &lab.snapshot("three")]);
    let at = |name: &str| format!("{}@{name}", lab.target);

    assert_eq!(
        receive(&second, &at("two"), false, false),
        Err(Errno::NotFound),
        "an increment without a dataset"
    );
    assert_eq!(receive(&full, &lab.pool.full("no/where@one"), false, false), Err(Errno::NotFound));
    let cut = receive(&full[..full.len() / 2], &at("one"), false, false);
    assert_eq!(cut, Err(Errno::StreamTruncated), "not resumable: cut off");
    assert!(!lzc::open().expect("ZFS").exists(&lab.target));
    // All but END: nothing is left.
    let cut = receive(&full[..full.len() - BEGIN_LEN], &at("one"), false, false);
    assert_eq!(cut, Err(Errno::StreamTruncated), "without END");
    assert!(!lzc::open().expect("ZFS").exists(&lab.target));
    let mut damaged = full.clone();
    damaged[full.len() / 2] ^= 1;
    assert_eq!(receive(&damaged, &at("one"), false, false), Err(Errno::Checksum));
    assert_eq!(receive(&full, &at("one"), false, false), Ok(()));
    assert_eq!(receive(&full, &at("one"), false, false), Err(Errno::Exists), "the dataset is there");
    assert_eq!(receive(&third, &at("three"), false, false), Err(Errno::NoBase));
    // In part, resumable: then nothing else is received.
    let cut = receive(&second[..second.len() - BEGIN_LEN], &at("two"), false, true);
    assert_eq!(cut, Err(Errno::StreamTruncated), "resumable: cut off");
    assert!(
        lzc::open().expect("ZFS").exists(&format!("{}/%recv", lab.target)),
        "the hidden clone can be asked for"
    );
    assert_eq!(get(&lab.target, "receive_resume_token").split('-').count(), 4);
    // The kernel's number of its own for it is not what is answered here, by 2.1 and 2.3.
    let another = receive(&second, &at("two"), false, true);
    assert!(matches!(another, Err(Errno::Busy | Errno::ResumeExists)), "{another:?}");
    lzc::open().expect("ZFS").destroy(&format!("{}/%recv", lab.target)).expect("it is given up so");
    assert_eq!(get(&lab.target, "receive_resume_token"), "-");
    // What was written since.
    let dir = lab.file("seen here");
    zfs(&["set", &format!("mountpoint={dir}"), &lab.target]);
    // From 2.2 on that mounts it.
    if get(&lab.target, "mounted") == "no" {
        zfs(&["mount", &lab.target]);
    }
    fs::write(format!("{dir}/x"), "local").expect("written");
    assert_eq!(receive(&second, &at("two"), false, false), Err(Errno::Modified));
    zfs(&["rollback", &at("one")]);
    assert_eq!(receive(&second, &at("two"), false, false), Ok(()));
    zfs(&["unmount", &lab.target]);
    let volume = lab.pool.volume("disk", "16M");
    assert_eq!(receive(&full, &format!("{volume}/x@one"), false, false), Err(Errno::WrongParent));
}

/// What the library answers that reads the BEGIN record by itself: a call, and whether its argument `raw` is set.
fn receive_by_itself(call: &str, raw: bool, snapshot: &str, stream: &str) -> i32 {
    const SCRIPT: &str = r#"
import ctypes, os, sys
call, raw, snapshot, stream = sys.argv[1:]
core = ctypes.CDLL("libzfs_core.so.3")
assert core.libzfs_core_init() == 0
fd = os.open(stream, os.O_RDONLY)
print(getattr(core, call)(snapshot.encode(), None, None, 0, int(raw), fd))
"#;
    let raw = u8::from(raw).to_string();
    let output = run("python3", &["-c", SCRIPT, call, &raw, snapshot, stream]).stdout;
    String::from_utf8(output).expect("utf-8").trim().parse().expect("a number")
}

/// Why cowsnap reads it and hands it over (kernel-notes/zfs.md, "BEGIN passed by the caller"): without, nobody sees what stands
/// behind it, and which of two ioctls is taken goes by the flags alone.
#[test]
fn without_a_begin_record_the_library_fails_on_streams_that_have_a_list_behind_it() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 300_000));
    let one = lab.snapshot("one");
    let key = lab.file("key");
    fs::write(&key, "a long passphrase").expect("written");
    let secret = lab.pool.full("secret");
    let keylocation = format!("keylocation=file://{key}");
    zfs(&["create", "-o", "encryption=on", "-o", "keyformat=passphrase", "-o", &keylocation, &secret]);
    zfs(&["snapshot", &format!("{secret}@one")]);
    let sent = |file: &str, args: &[&str]| {
        let path = lab.file(file);
        fs::write(&path, run("zfs", &[&["send"], args].concat()).stdout).expect("written");
        path
    };
    let (plain, raw) = (sent("plain", &[&one]), sent("raw", &["-w", &format!("{secret}@one")]));
    let at = |name: &str| format!("{}@one", lab.pool.full(&format!("backup/{name}")));
    // A checksum that is wrong, for 2.1; 2.3 sees an argument that is.
    const REFUSED: &[i32] = &[libc::EBADE, libc::EINVAL];
    for (nth, (call, flag, stream, wanted)) in [
        ("lzc_receive", false, &plain, &[0][..]),
        ("lzc_receive", false, &raw, REFUSED),
        ("lzc_receive", true, &raw, &[0]),
        ("lzc_receive_resumable", false, &raw, &[0]),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = receive_by_itself(call, flag, &at(&format!("n {nth}")), stream);
        assert!(wanted.contains(&answer), "{call}, raw {flag}, of {stream}: {answer}");
    }
    // Handed over, it is seen what it is, whatever the flags say.
    let stream = fs::read(&raw).expect("read");
    assert_eq!(receive(&stream, &at("handed over"), false, false), Ok(()));
    // The rest of what was broken off.
    let whole = fs::read(&plain).expect("read");
    for (name, call, wanted) in [("rest", "lzc_receive_resumable", 0), ("lost", "lzc_receive", libc::EINVAL)]
    {
        assert_eq!(receive(&whole[..whole.len() / 2], &at(name), false, true), Err(Errno::StreamTruncated));
        let target = lab.pool.full(&format!("backup/{name}"));
        let rest = sent(name, &["-t", &get(&target, "receive_resume_token")]);
        assert_eq!(receive_by_itself(call, false, &at(name), &rest), wanted, "{call}");
    }
    assert_eq!(lab.snapshots(&lab.pool.full("backup/rest")), ["one"]);
}

#[test]
fn refusals_to_send_have_the_numbers_that_are_told_from_one_another() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 300_000));
    let one = lab.snapshot("one");
    let two = lab.snapshot("two");
    let lzc = lzc::open().expect("ZFS");
    let send = |snapshot: &str, from: Option<&str>, flags| {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        std::thread::scope(|scope| {
            let sender =
                scope.spawn(move || lzc.send(snapshot, from, writer.as_fd(), flags).map_err(|f| f.errno));
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).expect("read");
            sender.join().expect("no panic").map(|()| bytes.len())
        })
    };
    let sent = send(&two, Some(&one), flags());
    assert!(sent.is_ok_and(|len| len >= 2 * BEGIN_LEN), "{sent:?}");
    assert_eq!(send(&format!("{}@none", lab.source), None, flags()), Err(Errno::NotFound));
    assert_eq!(send(&one, Some(&two), flags()), Err(Errno::CrossPool), "the base is newer");
    let other = lab.pool.dataset("other");
    zfs(&["snapshot", &format!("{other}@x")]);
    assert_eq!(send(&two, Some(&format!("{other}@x")), flags()), Err(Errno::CrossPool), "another dataset's");
    // The reader goes away.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let gone = lzc.send(&one, None, writer.as_fd(), flags()).map_err(|failed| failed.errno);
    assert_eq!(gone, Err(Errno::BrokenPipe));
}

/// Which kinds of descriptor 2.1 writes to is taken down in kernel-notes/zfs.md; cowsnap gives it pipes.
#[test]
fn a_stream_goes_to_a_pipe_and_a_file() {
    ground!("zfs");
    let lab = Lab::new();
    lab.write("f", &noise(1, 100_000));
    let one = lab.snapshot("one");
    let lzc = lzc::open().expect("ZFS");
    let mut file = tempfile::tempfile().expect("a file");
    let to_file = lzc.send(&one, None, file.as_fd(), flags()).map_err(|failed| failed.errno);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("a file");
    file.read_to_end(&mut bytes).expect("read");
    println!("to a file: {to_file:?}, {} bytes", bytes.len());
    let (mut ours, theirs) = UnixStream::pair().expect("sockets");
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        ours.read_to_end(&mut bytes).map(|_| bytes)
    });
    let to_socket = lzc.send(&one, None, theirs.as_fd(), flags()).map_err(|failed| failed.errno);
    drop(theirs);
    let from_socket = reading.join().expect("no panic").expect("read");
    println!("to a socket: {to_socket:?}, {} bytes", from_socket.len());
    let null = fs::OpenOptions::new().write(true).open("/dev/null").expect("a device");
    println!(
        "to /dev/null: {:?}",
        lzc.send(&one, None, null.as_fd(), flags()).map_err(|failed| failed.errno)
    );
    let raw = fs::read(lab.send("raw", &[&one, "--raw"])).expect("read");
    assert!(to_file.is_ok() && bytes == raw, "{to_file:?}");
}
