//! Archives that lie, lead out, or are cut off: nothing of them is left.

use std::fs;
use std::io::Read;
use std::path::Path;

use cowsnap::stream::tar::{Member, Reader, Type, Writer};

use super::lab::{Lab, noise, text};
use crate::ground::{ground, run};

/// What is in an archive.
type Entries = Vec<(Member, Vec<u8>)>;

fn file(path: &str, len: u64) -> Member {
    Member { size: len, ..Member::new(Type::File, path) }
}

fn link(path: &str, to: &str) -> Member {
    Member { link: to.into(), ..Member::new(Type::Symbolic, path) }
}

fn tar(at: &Path, members: &[Member]) {
    let mut writer = Writer::new(fs::File::create(at).expect("create"));
    for member in members {
        let data = vec![b'x'; member.stored() as usize];
        writer.append(member, &mut &data[..]).expect("written");
    }
    writer.finish().expect("written");
}

#[test]
fn no_path_leads_out_of_what_is_made() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.ground.subvolume("chain");
    let victim = lab.ground.path().join("victim");
    fs::create_dir(&victim).expect("mkdir");
    fs::write(victim.join("f"), "mine").expect("write");
    let out = text(&victim).to_owned();
    let hard = |path: &str, to: &str| Member { link: to.into(), ..Member::new(Type::Hard, path) };
    let cases: Vec<(&str, Vec<Member>)> = vec![
        ("above", vec![file("../victim/f", 3)]),
        ("within", vec![Member::new(Type::Dir, "a"), file("a/../../victim/f", 3)]),
        ("absolute", vec![file(&format!("{out}/f"), 3)]),
        ("a link to a directory", vec![link("l", &out), file("l/f", 3)]),
        ("a relative link", vec![link("l", "../victim"), file("l/new", 3)]),
        ("a link to a file", vec![link("f", &format!("{out}/f")), hard("g", "f/x")]),
        ("a hard link above", vec![hard("g", "../victim/f")]),
        ("a hard link absolute", vec![hard("g", &format!("{out}/f"))]),
        ("a hard link through a link", vec![link("l", &out), hard("g", "l/f")]),
        ("dots", vec![file("a/./b", 3)]),
        ("an empty name", vec![file("a//b", 3)]),
        ("a hard link to what is not there", vec![hard("g", "nothing")]),
        ("a hard link to the root", vec![hard("g", ".")]),
    ];
    for (n, (name, members)) in cases.iter().enumerate() {
        let archive = lab.out(&format!("{n}.tar"));
        tar(&archive, members);
        let to = lab.ground.path().join("to");
        let (code, said) = lab.bad(&["import", text(&archive), "--to", text(&to), "--unverified"]);
        assert_eq!(code, 4, "{name}: {said}");
        assert!(!to.exists(), "{name}");
        assert_eq!(fs::read(victim.join("f")).expect("there"), b"mine", "{name}");
        assert_eq!(victim.read_dir().expect("there").count(), 1, "{name}");
    }
    lab.expect_nothing_left(&["victim"]);
}

#[test]
fn a_link_that_is_overwritten_is_not_followed() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.ground.subvolume("chain");
    let victim = lab.out("victim");
    fs::write(&victim, "mine").expect("write");
    let archive = lab.out("a.tar");
    tar(&archive, &[link("f", text(&victim)), file("f", 5)]);
    let to = lab.ground.path().join("to");
    lab.good(&["import", text(&archive), "--to", text(&to), "--unverified"]);
    assert_eq!(fs::read(&victim).expect("there"), b"mine");
    assert_eq!(fs::read(to.join("f")).expect("there"), b"xxxxx");
}

#[test]
fn what_somebody_else_wrote_gets_no_devices_and_no_rights_of_root_unless_that_is_said() {
    ground!("btrfs");
    let lab = Lab::new();
    lab.ground.subvolume("chain");
    let device = Member { device: (1, 3), ..Member::new(Type::Char, "null") };
    let mut able = Member { mode: 0o755, ..file("able", 1) };
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    able.xattrs.insert(b"security.capability".to_vec(), capability.to_vec());
    let rest = [
        Member { mode: 0o6755, ..file("su", 1) },
        Member { mode: 0o2775, ..Member::new(Type::Dir, "shared") },
        able,
        file("plain", 1),
    ];
    let (with, without) = (lab.out("with.tar"), lab.out("without.tar"));
    tar(&with, &[&[device], &rest[..]].concat());
    tar(&without, &rest);
    let to = |name: &str| lab.ground.path().join(name);
    let import = |file: &Path, name: &str, more: &[&str]| {
        let to = to(name);
        lab.run(&[&["import", text(file), "--to", text(&to), "--unverified"], more].concat())
    };
    let refused = import(&with, "refused", &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(3) && said.contains("--privileged"), "{said}");
    assert!(!to("refused").exists());
    let mode = |name: &str, of: &str| {
        std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(to(name).join(of)).expect("there").permissions(),
        ) & 0o7777
    };
    let can = |name: &str| {
        let file = to(name).join("able");
        let out = run("getfattr", &["-d", "-m", "security", text(&file)]).stdout;
        String::from_utf8_lossy(&out).contains("capability")
    };
    let dropped = import(&without, "dropped", &[]);
    let said = String::from_utf8_lossy(&dropped.stderr).into_owned();
    assert!(dropped.status.success() && said.contains("were dropped: 2"), "{said}");
    assert_eq!((mode("dropped", "su"), mode("dropped", "shared"), can("dropped")), (0o755, 0o2775, false));
    assert!(import(&with, "kept", &["--privileged"]).status.success());
    assert_eq!((mode("kept", "su"), mode("kept", "shared"), can("kept")), (0o6755, 0o2775, true));
    assert!(to("kept").join("null").symlink_metadata().is_ok());
}

/// The members of a tar with their bytes.
fn members_of(tar: &[u8]) -> Entries {
    let mut reader = Reader::new(tar);
    let mut all = Vec::new();
    while let Some(member) = reader.entry().expect("it is whole") {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).expect("it is whole");
        all.push((member, data));
    }
    all
}

fn written(members: &[(Member, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (member, data) in members {
        writer.append(member, &mut &data[..]).expect("written");
    }
    writer.finish().expect("written")
}

fn small(lab: &Lab) -> Vec<u8> {
    let live = lab.ground.subvolume("chain");
    fs::create_dir(live.join("d")).expect("mkdir");
    fs::write(live.join("d/one"), noise(1500, 1)).expect("write");
    fs::write(live.join("two"), "two").expect("write");
    std::os::unix::fs::symlink("two", live.join("link")).expect("symlink");
    lab.snapshot("s");
    fs::read(lab.export("a.tar", &["--format", "tar"])).expect("read")
}

#[test]
fn an_archive_that_is_cut_off_at_any_block_is_corrupt_and_leaves_nothing() {
    ground!("btrfs");
    let lab = Lab::new();
    let whole = small(&lab);
    let to = lab.ground.path().join("to");
    // Without the last block it has one block of zeros less than it should: that is seen too.
    for end in (0..whole.len()).step_by(512).chain([1, 700, whole.len() - 1]) {
        let cut = lab.out("cut.tar");
        fs::write(&cut, &whole[..end]).expect("write");
        let (code, said) = lab.bad(&["import", text(&cut), "--to", text(&to)]);
        assert!(code == 4 || (code == 3 && end == 0), "{end}: {code} {said}");
        assert!(!to.exists(), "{end}");
    }
    lab.expect_nothing_left(&[]);
    let zst = fs::read(lab.export("a.tar.zst", &[])).expect("read");
    for end in [0, 3, 4, 100, zst.len() / 2, zst.len() - 40] {
        let cut = lab.out("cut.tar.zst");
        fs::write(&cut, &zst[..end]).expect("write");
        let (code, said) = lab.bad(&["import", text(&cut), "--to", text(&to)]);
        assert!(code == 4 || (code == 3 && end == 0), "{end}: {code} {said}");
    }
    lab.expect_nothing_left(&[]);
}

#[test]
fn a_changed_byte_anywhere_is_noticed() {
    ground!("btrfs");
    let lab = Lab::new();
    let whole = small(&lab);
    let to = lab.ground.path().join("to");
    for at in (0..whole.len()).step_by(211) {
        let mut changed = whole.clone();
        changed[at] ^= 0x04;
        let file = lab.out("changed.tar");
        fs::write(&file, &changed).expect("write");
        let output = lab.run(&["import", text(&file), "--to", text(&to)]);
        assert!(matches!(output.status.code(), Some(3 | 4)), "byte {at}: {output:?}");
        assert!(!to.exists(), "byte {at}");
    }
    lab.expect_nothing_left(&[]);
}

#[test]
fn an_archive_that_was_put_together_otherwise_is_corrupt() {
    ground!("btrfs");
    let lab = Lab::new();
    let members = members_of(&small(&lab));
    let at =
        |path: &str| members.iter().position(|(member, _)| member.path == path.as_bytes()).expect("there");
    let changed = |change: &dyn Fn(&mut Entries)| {
        let mut members = members.clone();
        change(&mut members);
        written(&members)
    };
    let (two, one, link, end) = (at("two"), at("d/one"), at("link"), at(".cowsnap-export/end.json"));
    assert_eq!(written(&members).len(), written(&members_of(&written(&members))).len());
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("other bytes", changed(&|members| members[two].1 = b"TWO".to_vec())),
        ("another mode", changed(&|members| members[two].0.mode = 0o6777)),
        ("another owner", changed(&|members| members[one].0.uid = 77)),
        ("another time", changed(&|members| members[one].0.mtime_ns += 1)),
        ("another link", changed(&|members| members[link].0.link = b"/etc/shadow".to_vec())),
        (
            "an attribute",
            changed(&|members| {
                members[one].0.xattrs.insert(b"user.more".to_vec(), vec![1, 2, 3]);
            }),
        ),
        ("another name", changed(&|members| members[two].0.path = b"three".to_vec())),
        ("one less", changed(&|members| drop(members.remove(link)))),
        ("one more", changed(&|members| members.insert(end, (file("more", 1), b"x".to_vec())))),
        ("one twice", changed(&|members| members.insert(two, members[two].clone()))),
        ("no end", changed(&|members| drop(members.pop()))),
        ("something behind its end", changed(&|members| members.push((file("more", 1), b"x".to_vec())))),
        (
            "a bomb",
            changed(&|members| {
                let bomb = Member { ranges: Some(Vec::new()), ..file("bomb", 1 << 50) };
                members.insert(two, (bomb, Vec::new()));
            }),
        ),
        (
            "more bytes",
            changed(&|members| {
                members[two] = (file("two", 1 << 20), vec![0; 1 << 20]);
            }),
        ),
    ];
    let to = lab.ground.path().join("to");
    for (name, bytes) in cases {
        let file = lab.out("changed.tar");
        fs::write(&file, bytes).expect("write");
        let (code, said) = lab.bad(&["import", text(&file), "--to", text(&to)]);
        assert_eq!(code, 4, "{name}: {said}");
        assert!(!to.exists(), "{name}");
    }
    lab.expect_nothing_left(&[]);
}

#[test]
fn another_file_than_the_one_beside_which_the_manifest_stands_is_corrupt() {
    ground!("btrfs");
    let lab = Lab::new();
    small(&lab);
    let good = lab.export("good.tar.zst", &[]);
    fs::write(lab.live().join("two"), "another").expect("write");
    lab.good(&["snapshot", text(&lab.live()), "--name", "t"]);
    let other = lab.out("other.tar.zst");
    lab.good(&["export", &format!("{}@t", text(&lab.live())), text(&other)]);
    let to = lab.ground.path().join("to");
    let manifest = lab.out("good.tar.zst.manifest.json");
    let (code, said) = lab.bad(&["import", text(&other), "--to", text(&to), "--manifest", text(&manifest)]);
    assert!(code == 4 && said.contains("were to come"), "{said}");
    lab.good(&["import", text(&good), "--to", text(&to), "--manifest", text(&manifest)]);
    lab.expect_nothing_left(&["to"]);
}

#[test]
fn a_disk_that_fills_up_leaves_nothing() {
    ground!("btrfs", "xfs");
    let lab = Lab::new();
    let live = lab.ground.subvolume("chain");
    (0..4).for_each(|n| fs::write(live.join(format!("f{n}")), noise(60 << 20, n)).expect("write"));
    lab.snapshot("s");
    let file = lab.export("a.tar.zst", &[]);
    let full = crate::ground::Plain::with("ext4", "mkfs.ext4", &["-q", "-F"], "100M");
    let to = full.path().join("new");
    let (code, said) = lab.bad(&["import", text(&file), "--to", text(&to)]);
    assert!(code == 3 && said.contains("No space left"), "{code} {said}");
    assert_eq!(super::lab::names(&full.path()), ["lost+found"]);
    let (code, said) =
        lab.bad(&["export", &format!("{}@s", text(&live)), text(&full.path().join("a.tar.zst"))]);
    assert!(code == 3 && said.contains("No space left"), "{code} {said}");
    assert_eq!(super::lab::names(&full.path()), ["lost+found"]);
    run("true", &[""; 0]);
}
