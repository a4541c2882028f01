//! `sys::lzc` without ZFS: what it hands to the libraries, what it makes of their answers, and life without them.

mod fake;
mod prototypes;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use cowsnap::Class;
use cowsnap::sys::lzc::{self, Errno, Kind, Lzc, Prop, Receive, SendFlags, Unavailable};
use expect_test::expect;

use crate::ground::{self, ground};

/// The stand-in, in the child process; ends the test in the parent.
macro_rules! lzc_on_the_fake {
    ($test:literal) => {{
        ground!("cc");
        let Some(log) = fake::within(concat!("lzc::", $test), fake::libraries, &[]) else { return };
        (lzc::open().expect("the stand-in"), log)
    }};
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

/// What `call` writes to a pipe.
fn sent(call: impl FnOnce(std::os::fd::BorrowedFd<'_>)) -> String {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    call(writer.as_fd());
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("read");
    text
}

#[test]
fn snapshots_and_bookmarks_are_handed_over_as_lists() {
    let (lzc, log) = lzc_on_the_fake!("snapshots_and_bookmarks_are_handed_over_as_lists");
    assert!(lzc.exists("tank/a b@x%y:z"));
    assert!(!lzc.exists("tank/absent"));
    let props = BTreeMap::from([("cowsnap:label".to_owned(), "before it".to_owned())]);
    lzc.snapshot(&names(&["tank/a@x", "tank/b b@x:1"]), &props).unwrap();
    lzc.bookmark(&pairs(&[("tank/a#m", "tank/a@x"), ("tank/a#n", "tank/a#m")])).unwrap();
    lzc.destroy_snapshots(&names(&["tank/a@x"]), false).unwrap();
    lzc.destroy_snapshots(&names(&["tank/a@x"]), true).unwrap();
    lzc.destroy_bookmarks(&names(&["tank/a#m"])).unwrap();
    expect![[r#"
        exists 'tank/a b@x%y:z'
        exists 'tank/absent'
        snapshot {tank/a@x=true, tank/b b@x:1=true} {cowsnap:label='before it'}
        bookmark {tank/a#m='tank/a@x', tank/a#n='tank/a#m'}
        destroy_snaps {tank/a@x=true} 0
        destroy_snaps {tank/a@x=true} 1
        destroy_bookmarks {tank/a#m}
    "#]]
    .assert_eq(&log.take());
}

#[test]
fn datasets_are_named_in_the_right_order() {
    let (lzc, log) = lzc_on_the_fake!("datasets_are_named_in_the_right_order");
    let props = [("canmount".to_owned(), Prop::Number(2)), ("a:b".to_owned(), Prop::Text("c d".into()))];
    lzc.create("tank/a", Kind::Filesystem, &props).unwrap();
    lzc.create("tank/v", Kind::Volume, &[]).unwrap();
    lzc.clone_snapshot("tank/clone", "tank/a@x", &props).unwrap();
    lzc.promote("tank/clone").unwrap();
    lzc.rename("tank/old", "tank/new").unwrap();
    lzc.destroy("tank/a").unwrap();
    lzc.rollback_to("tank/a", "tank/a@x").unwrap();
    lzc.load_key("tank/a", &[1, 2, 255]).unwrap();
    lzc.unload_key("tank/a").unwrap();
    assert_eq!(lzc.space_of_range("tank/a@1", "tank/a@2").unwrap(), 4096);
    expect![[r#"
        create 'tank/a' 2 {canmount=2, a:b='c d'} 0 0
        create 'tank/v' 3 null 0 0
        clone 'tank/clone' 'tank/a@x' {canmount=2, a:b='c d'}
        promote 'tank/clone' 256
        rename 'tank/old' 'tank/new'
        destroy 'tank/a'
        rollback_to 'tank/a' 'tank/a@x'
        load_key 'tank/a' 0 1 2 255
        unload_key 'tank/a'
        snaprange_space 'tank/a@1' 'tank/a@2'
    "#]]
    .assert_eq(&log.take());
}

#[test]
fn holds_are_released_by_lists_within_a_list() {
    let (lzc, log) = lzc_on_the_fake!("holds_are_released_by_lists_within_a_list");
    let holds = pairs(&[("tank/a@x", "a tag"), ("tank/b@x", "a tag")]);
    lzc.hold(&holds, None).unwrap();
    let file = tempfile::tempfile().unwrap();
    lzc.hold(&holds, Some(file.as_fd())).unwrap();
    lzc.release(&pairs(&[("tank/a@x", "1"), ("tank/b@x", "1"), ("tank/a@x", "2")])).unwrap();
    let found = lzc.holds("tank/a@x").unwrap();
    assert_eq!(found, BTreeMap::from([("a tag".into(), 1_700_000_000), ("tag:2".into(), 1_700_000_001)]));
    let mark = lzc.bookmarks("tank/a").unwrap().remove(0);
    assert_eq!((mark.name.as_str(), mark.guid, mark.createtxg, mark.creation), ("mark", 4, 9, 8));
    assert_eq!(mark.ivset_guid, Some(9));
    expect![[r#"
        hold {tank/a@x='a tag', tank/b@x='a tag'} for good
        hold {tank/a@x='a tag', tank/b@x='a tag'} for now
        release {tank/a@x={1, 2}, tank/b@x={1}}
        get_holds 'tank/a@x'
        get_bookmarks 'tank/a' {guid, createtxg, creation, ivsetguid}
    "#]]
    .assert_eq(&log.take());
}

#[test]
fn a_stream_goes_to_the_descriptor_that_was_passed() {
    let (lzc, log) = lzc_on_the_fake!("a_stream_goes_to_the_descriptor_that_was_passed");
    let raw = SendFlags { raw: true, large_block: true, ..SendFlags::default() };
    let plain = SendFlags::default();
    assert_eq!(sent(|fd| lzc.send("tank/a@x", None, fd, plain).unwrap()), "stream");
    assert_eq!(sent(|fd| lzc.send("tank/a@y", Some("tank/a#x"), fd, raw).unwrap()), "stream");
    let at = (7, 1 << 40);
    assert_eq!(sent(|fd| lzc.send_resume("tank/a@x", None, fd, raw, at).unwrap()), "stream");
    assert_eq!(sent(|fd| lzc.send_resume("tank/a@y", Some("tank/a@x"), fd, plain, at).unwrap()), "stream");
    assert_eq!(lzc.send_space("tank/a@x", None, plain).unwrap(), 1 << 40);
    lzc.send_space("tank/a@y", Some("tank/a@x"), raw).unwrap();
    expect![[r#"
        send 'tank/a@x' null 0
        send 'tank/a@y' 'tank/a#x' 10
        send_resume 'tank/a@x' null 10 7 1099511627776
        send_resume 'tank/a@y' 'tank/a@x' 0 7 1099511627776
        send_space 'tank/a@x' null 0
        send_space 'tank/a@y' 'tank/a@x' 10
    "#]]
    .assert_eq(&log.take());
}

/// Receives `input` as `snapshot`, with these local properties.
fn receive(lzc: &Lzc, snapshot: &str, local_props: &[(String, Prop)]) -> Result<lzc::Received, lzc::Failed> {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    std::io::Write::write_all(&mut writer, b"twelve bytes").expect("write");
    drop(writer);
    let mut begin = [0; lzc::BEGIN_LEN];
    begin[..8].copy_from_slice(&0x1122_u64.to_ne_bytes());
    begin[lzc::BEGIN_LEN - 8..].copy_from_slice(&0x3344_u64.to_ne_bytes());
    let received_props = [("a:b".to_owned(), Prop::Text("c".into()))];
    lzc.receive(&Receive {
        snapshot,
        received_props: if local_props.is_empty() { &[] } else { &received_props },
        local_props,
        origin: (!local_props.is_empty()).then_some("tank/o@1"),
        resumable: local_props.is_empty(),
        raw: !local_props.is_empty(),
        fd: reader.as_fd(),
        begin: &begin,
    })
}

#[test]
fn a_receive_is_never_forced_and_is_given_the_begin_record() {
    let (lzc, log) = lzc_on_the_fake!("a_receive_is_never_forced_and_is_given_the_begin_record");
    let received = receive(lzc, "tank/a@x", &[]).unwrap();
    assert_eq!((received.read, received.property_errors.len()), (12, 0));
    let props = [
        ("readonly".to_owned(), Prop::Number(1)),
        ("mountpoint".to_owned(), Prop::Exclude),
        ("err22".to_owned(), Prop::Number(9)),
    ];
    let received = receive(lzc, "tank/a@y", &props).unwrap();
    assert_eq!(received.property_errors, BTreeMap::from([("err22".to_owned(), Errno::Invalid)]));
    let failed = receive(lzc, "tank/rc1040@x", &[]).unwrap_err();
    assert_eq!(
        (failed.op, failed.errno, failed.class()),
        ("receive", Errno::StreamTruncated, Class::Corrupt)
    );
    expect![[r#"
        receive 'tank/a@x' null null 0 0 null force=0 resumable=1 raw=0 begin=1122..3344 cleanup=-1
        receive 'tank/a@y' {a:b='c'} {readonly=1, mountpoint, err22=9} 0 0 'tank/o@1' force=0 resumable=0 raw=1 begin=1122..3344 cleanup=-1
        receive 'tank/rc1040@x' null null 0 0 null force=0 resumable=1 raw=0 begin=1122..3344 cleanup=-1
    "#]]
    .assert_eq(&log.take());
}

#[test]
fn a_failure_says_which_names_failed_and_why() {
    let (lzc, _log) = lzc_on_the_fake!("a_failure_says_which_names_failed_and_why");
    let none = BTreeMap::new();
    let mut said = String::new();
    let mut note = |failed: lzc::Failed| {
        let source = std::error::Error::source(&failed).map(|s| format!(" <- {s}")).unwrap_or_default();
        let rest = if failed.rest_done { " (the rest was done)" } else { "" };
        said += &format!("{:?}: {failed}{source}{rest}\n", failed.errno);
    };
    note(lzc.snapshot(&names(&["rc18/a@x", "tank/b@x"]), &none).unwrap_err());
    note(lzc.snapshot(&names(&["rc17err17/a@x", "rc17err17/b@x", "rc17/c@x"]), &none).unwrap_err());
    note(lzc.destroy_snapshots(&names(&["rc16err16more7/a@x", "rc16/b@x"]), false).unwrap_err());
    note(lzc.bookmark(&pairs(&[("rc1039err1039/a#m", "tank/a@x")])).unwrap_err());
    note(lzc.hold(&pairs(&[("tank/a@x", "t"), ("tank/err2@x", "t")]), None).unwrap_err());
    note(lzc.release(&pairs(&[("tank/err2more3@x", "t")])).unwrap_err());
    note(lzc.promote("rc17/clone").unwrap_err());
    note(lzc.rename("rc16/a", "rc16/b").unwrap_err());
    note(sent_fails(lzc));
    expect![[r#"
        CrossPool: cannot snapshot rc18/a@x and 1 more <- not all in one pool, or not one history: the base is no earlier point of the same dataset
        Exists: cannot snapshot rc17err17/a@x and 2 more: rc17err17/a@x: it exists already, or something that depends on it does; rc17err17/b@x: it exists already, or something that depends on it does
        Busy: cannot destroy rc16err16more7/a@x and 1 more: rc16err16more7/a@x: it is in use: held, mounted, being sent or received, or partly received; and 7 more
        BookmarkSourceNotAncestor: cannot bookmark rc1039err1039/a#m: rc1039err1039/a#m: the bookmark's source is no earlier point of the same dataset
        NotFound: cannot hold tank/a@x and 1 more: tank/err2@x: it does not exist (the rest was done)
        NotFound: cannot release tank/err2more3@x: tank/err2more3@x: it does not exist; and 3 more (the rest was done)
        Exists: cannot promote rc17/clone: taken: it exists already, or something that depends on it does
        Busy: cannot rename rc16/a <- it is in use: held, mounted, being sent or received, or partly received
        NoAccess: cannot send rc13/a@x <- no access: the encryption key is not loaded, or the rights are missing
    "#]]
    .assert_eq(&said);
}

fn sent_fails(lzc: &Lzc) -> lzc::Failed {
    let (_reader, writer) = std::io::pipe().expect("a pipe");
    lzc.send("rc13/a@x", None, writer.as_fd(), SendFlags::default()).unwrap_err()
}

#[test]
fn what_is_no_name_never_reaches_the_library() {
    let (lzc, log) = lzc_on_the_fake!("what_is_no_name_never_reaches_the_library");
    let nul = "tank/a\0b@x";
    let none = BTreeMap::new();
    assert!(!lzc.exists(nul));
    let failed = [
        lzc.snapshot(&names(&["tank/a@x", nul]), &none).unwrap_err(),
        lzc.bookmark(&pairs(&[("tank/a#m", nul)])).unwrap_err(),
        lzc.destroy(nul).unwrap_err(),
        lzc.hold(&pairs(&[("tank/a@x", "a\0tag")]), None).unwrap_err(),
        lzc.send_space("tank/a@x", Some(nul), SendFlags::default()).unwrap_err(),
        // One call can not set two tags of one snapshot: the list would keep the second alone.
        lzc.hold(&pairs(&[("tank/a@x", "1"), ("tank/a@x", "2")]), None).unwrap_err(),
    ];
    assert_eq!(failed.map(|f| f.errno), [Errno::Invalid; 6]);
    let long = format!("tank/{}@x", "a".repeat(256));
    assert_eq!(lzc.snapshot(&[long], &none).unwrap_err().errno, Errno::NameTooLong);
    assert_eq!(log.take(), "");
}

#[test]
fn a_module_that_is_not_loaded_is_told_with_what_loads_it() {
    ground!("cc");
    let test = "lzc::a_module_that_is_not_loaded_is_told_with_what_loads_it";
    let Some(_) = fake::within(test, fake::libraries, &[("FAKE_ZFS_INIT", "2")]) else { return };
    let error = lzc::open().unwrap_err();
    assert!(matches!(&error, Unavailable::Module(why) if why.raw_os_error() == Some(2)), "{error:?}");
    assert_eq!(error.hint(), "modprobe zfs");
    assert_eq!(error.to_string(), "zfs: the kernel module does not answer: cannot open /dev/zfs");
}

#[test]
fn a_library_that_lacks_a_function_is_told_with_its_name() {
    ground!("cc");
    let test = "lzc::a_library_that_lacks_a_function_is_told_with_its_name";
    let Some(_) = fake::within(test, fake::empty_library, &[]) else { return };
    let error = lzc::open().unwrap_err();
    assert_eq!(error.to_string(), "zfs: libzfs_core.so.3 has no libzfs_core_init");
    assert_eq!(error.hint(), "OpenZFS 2.0 or later is needed");
}

#[test]
fn a_library_that_is_broken_is_not_called_absent() {
    let broken =
        |folder: &std::path::Path| std::fs::write(folder.join("libzfs_core.so.3"), "no ELF").unwrap();
    let Some(_) = fake::within("lzc::a_library_that_is_broken_is_not_called_absent", broken, &[]) else {
        return;
    };
    let error = lzc::open().unwrap_err();
    assert_eq!(error.to_string(), "zfs: libzfs_core.so.3 can not be opened");
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("libzfs_core.so.3"), "{why}");
}

#[test]
fn a_machine_without_zfs_is_told_what_to_install() {
    let Err(error) = lzc::open() else {
        return ground::skip("lzc::a_machine_without_zfs_is_told_what_to_install", "ZFS is here");
    };
    let expected = match &error {
        Unavailable::Library { .. } => {
            ["zfs: libzfs_core.so.3 not found", "install OpenZFS: apt-get install zfsutils-linux"]
        }
        Unavailable::Module(_) => {
            ["zfs: the kernel module does not answer: cannot open /dev/zfs", "modprobe zfs"]
        }
        Unavailable::Symbol { .. } => panic!("{error}"),
    };
    assert_eq!([error.to_string(), error.hint()], expected);
}

#[test]
fn the_program_needs_no_library_of_zfs() {
    ground!("readelf");
    let output = ground::run("readelf", &["-d", env!("CARGO_BIN_EXE_cowsnap")]);
    let section = String::from_utf8_lossy(&output.stdout);
    let needed: Vec<_> = section.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(needed.iter().any(|line| line.contains("libc.so.6")), "{section}");
    for word in ["zfs", "nvpair", "zpool", "uutil"] {
        assert!(!section.contains(word), "{section}");
    }
}

#[test]
fn the_program_looks_for_no_library_of_zfs_until_a_zfs_target_is_named() {
    let state = tempfile::tempdir().unwrap();
    let said = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cowsnap"));
        command
            .args(args)
            .env("COWSNAP_STATE_DIR", state.path())
            .env("LD_DEBUG", "libs")
            .stdin(Stdio::null());
        let output = command.output().expect("the program starts");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for args in [&["--version"][..], &["pool", "list"], &["list", "/dev/shm"]] {
        let said = said(args);
        // The dynamic linker's own words are there, or this shows nothing.
        assert!(said.contains("find library=libc.so.6"), "{said}");
        assert!(!said.contains("zfs_core") && !said.contains("nvpair"), "{args:?}: {said}");
    }
}
