//! Layers as containers: out of one home and into another, and what is refused on the way.

use std::fs;
use std::io::{self, Cursor, Read};
use std::path::Path;

use cowsnap::endpoint::Error;
use cowsnap::endpoint::overlay::Home;
use cowsnap::endpoint::overlay::layer::manifest::{self, Data, Kind, Line, Size};
use cowsnap::endpoint::overlay::layer::{ImportRequest, Layer, LayerRecord, Onto, commit, export, import};
use cowsnap::model::Guid;
use cowsnap::model::overlay::{Base, Xattrs};
use cowsnap::stream::container::{Backend, Header};
use cowsnap::stream::reader::{Frames, Reader, Step};
use cowsnap::stream::tar::{self, Member, Type, Writer};
use cowsnap::stream::writer;

use super::commit::{OPTIONS, home, record, request};
use super::lab::{Lab, Random};
use super::view::{assert_same, of_kernel};
use crate::ground::ground;

fn everywhere(_: &Base) -> cowsnap::endpoint::Result<bool> {
    Ok(true)
}

fn nowhere(_: &Base) -> cowsnap::endpoint::Result<bool> {
    Ok(false)
}

fn plain() -> ImportRequest {
    ImportRequest { id: None, xattrs: Xattrs::Trusted, onto: None, overlay: None, name: None }
}

/// A layer of random changes, with what it shows upon its base.
fn made(lab: &Lab, base: &Path, seed: u64) -> (Home, Layer, super::view::View) {
    let (mut random, mut names) = (Random(seed), Vec::new());
    (0..40).for_each(|_| random.act(base, &mut names));
    let (home, generation) = home(lab, base);
    let mounted = lab.mount(&[base.to_owned()], Some((&generation.upper(), &generation.work())), OPTIONS);
    (0..80).for_each(|_| random.act(mounted.path(), &mut names));
    let sparse = fs::File::create(mounted.path().join("sparse")).expect("creates");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"far out", 200 << 20).expect("writes");
    sparse.set_len(300 << 20).expect("grows");
    let socket = std::os::unix::net::UnixListener::bind(mounted.path().join("socket"));
    drop((sparse, socket));
    let shown = of_kernel(mounted.path());
    drop(mounted);
    let layer = commit(&home, &generation, &request("x", base, None)).expect("committed");
    (home, layer, shown)
}

fn archived(layer: &Layer) -> Vec<u8> {
    let mut archive = Vec::new();
    export(layer, &mut archive).expect("exported");
    archive
}

fn manifest_of(layer: &Layer) -> Vec<u8> {
    fs::read(layer.dir().join("manifest")).expect("reads")
}

fn other(lab: &Lab) -> Home {
    Home::open(&lab.path().join("other")).expect("made")
}

fn assert_nothing_left(home: &Home) {
    let left: Vec<_> =
        fs::read_dir(home.layers()).expect("lists").map(|e| e.expect("an entry").path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_layer_that_is_imported_elsewhere_is_the_same_layer() {
    ground!("overlay", "loop", "mkfs.ext4", "mkfs.xfs");
    let (lab, elsewhere) = (Lab::new("ext4"), Lab::new("xfs"));
    let base = lab.dir("base");
    let (home, layer, shown) = made(&lab, &base, 77);
    let archive = archived(&layer);
    assert!(archive.len() < 4 << 20, "the holes are not in it: {} bytes", archive.len());
    assert_eq!(archive, archived(&layer), "it is the same each time");
    let there = other(&elsewhere);
    let found = import(&there, Cursor::new(&archive), &plain(), &everywhere).expect("imported");
    assert_eq!((found.id(), manifest_of(&found)), (layer.id(), manifest_of(&layer)));
    found.verify().expect("sound");
    let trees = [found.tree_dir(), base.clone()];
    assert_same(&shown, &of_kernel(elsewhere.mount(&trees, None, OPTIONS).path()), "imported");
    let sparse = fs::metadata(found.tree_dir().join("sparse")).expect("there");
    assert!(std::os::unix::fs::MetadataExt::blocks(&sparse) * 512 < 10 << 20, "its holes are holes again");
    for home in [&home, &there] {
        let again = import(home, Cursor::new(&archive), &plain(), &everywhere).expect_err("it is there");
        assert!(matches!(again, Error::Exists { .. }), "{again}");
        let named = ImportRequest { name: Some("other".parse().expect("a name")), ..plain() };
        let again =
            import(home, Cursor::new(&archive), &named, &everywhere).expect_err("by another name too");
        assert!(matches!(again, Error::Exists { .. }), "{again}");
    }
}

#[test]
fn marks_are_put_into_the_namespace_of_where_they_go() {
    ground!("overlay", "loop", "mkfs.ext4");
    let lab = Lab::new("ext4");
    let base = lab.dir("base");
    fs::create_dir(base.join("d")).expect("mkdir");
    fs::write(base.join("d/x"), "x").expect("writes");
    let (home, generation) = home(&lab, &base);
    let mounted =
        lab.mount(std::slice::from_ref(&base), Some((&generation.upper(), &generation.work())), OPTIONS);
    fs::remove_dir_all(mounted.path().join("d")).expect("removes");
    fs::create_dir(mounted.path().join("d")).expect("mkdir");
    drop(mounted);
    let layer = commit(&home, &generation, &request("x", &base, None)).expect("committed");
    let there = other(&lab);
    let request = ImportRequest { xattrs: Xattrs::User, ..plain() };
    let found = import(&there, Cursor::new(archived(&layer)), &request, &everywhere).expect("imported");
    assert_eq!(manifest_of(&found), manifest_of(&layer));
    found.verify().expect("sound");
    let shown = of_kernel(lab.mount(&[found.tree_dir(), base], None, "userxattr").path());
    assert!(shown.contains_key(b"d".as_slice()) && !shown.contains_key(b"d/x".as_slice()));
}

#[test]
fn a_layer_without_what_it_builds_upon_is_refused_unless_it_is_put_upon_something() {
    ground!("overlay", "loop", "mkfs.ext4");
    let lab = Lab::new("ext4");
    let base = lab.dir("base");
    let (home, generation) = home(&lab, &base);
    let first = commit(&home, &generation, &request("first", &base, None)).expect("committed");
    let overlay = home.entry(&"ci".parse().expect("a name")).lock().expect("locked").expect("there");
    let generation = overlay.make_generation(1, 2, &base).expect("made");
    let second = commit(&home, &generation, &request("second", &base, Some(first.id()))).expect("committed");
    let there = other(&lab);
    let refused =
        import(&there, Cursor::new(archived(&second)), &plain(), &everywhere).expect_err("no parent");
    assert!(
        refused.to_string().contains(&format!("the layer {} below it is not here", first.id())),
        "{refused}"
    );
    assert_eq!(refused.class(), cowsnap::Class::Conflict);
    let refused = import(&there, Cursor::new(archived(&first)), &plain(), &nowhere).expect_err("no base");
    assert!(refused.to_string().contains("is not here, or is another one"), "{refused}");
    assert_nothing_left(&there);
    let onto = Onto { base: record("ci", &base).base, parent: None };
    let request =
        ImportRequest { onto: Some(onto), name: Some("renamed".parse().expect("a name")), ..plain() };
    let found = import(&there, Cursor::new(archived(&second)), &request, &nowhere).expect("imported");
    assert_eq!((found.label().as_str(), found.record().parent), ("ci@renamed", None));
    let again = ImportRequest { name: request.name.clone(), ..plain() };
    let taken =
        import(&there, Cursor::new(archived(&first)), &again, &everywhere).expect_err("the name is taken");
    assert!(matches!(taken, Error::Exists { .. }), "{taken}");
    assert_eq!(Layer::all_and_damaged(&there).expect("listed").0.len(), 1);
    import(&there, Cursor::new(archived(&first)), &plain(), &everywhere).expect("imported");
}

/// Else the kernel would be given zeros for what a layer has not.
#[test]
fn whether_a_layer_has_files_in_part_is_told_from_its_entries_and_not_from_what_is_said_of_it() {
    ground!("fuse", "root", "loop", "mkfs.ext4");
    let lab = crate::overlay::lab::Lab::on("ext4", &["-q", "-F"]);
    fs::write(lab.base().join("large"), vec![7; 1 << 20]).expect("written");
    let at = lab.create("ci", &["--mode", "fuse", "--owner", "none"]);
    let large = fs::File::options().write(true).open(at.join("large")).expect("opened");
    std::os::unix::fs::FileExt::write_all_at(&large, b"patched", 500_000).expect("written");
    drop(large);
    lab.ok(&["commit", "ci", "x"]);
    lab.ok(&["destroy", "ci"]);
    let layers = Layer::all_and_damaged(&lab.home()).expect("listed").0;
    let (layer, archive) = (&layers[0], archived(&layers[0]));
    assert!(layer.record().blocks);
    let (mut reader, mut writer) = (tar::Reader::new(archive.as_slice()), Writer::new(Vec::new()));
    while let Some(member) = reader.entry().expect("sound") {
        if member.path == b"layer.json" {
            let lie = LayerRecord { blocks: false, entries: 1, ..layer.record().clone() }.to_text();
            let member = Member { size: lie.len() as u64, ..member };
            writer.append(&member, &mut lie.as_bytes()).expect("written");
        } else {
            writer.append(&member, &mut reader).expect("written");
        }
    }
    let there = Home::open(&lab.root().join("there")).expect("made");
    let archive = writer.finish().expect("written");
    let found = import(&there, Cursor::new(archive), &plain(), &everywhere).expect("imported");
    assert_eq!((found.record().blocks, found.record().entries), (true, layer.record().entries));
}

/// An archive of these entries, with a manifest and a layer.json that fit it.
fn forged(lines: &[Line], members: &[(Member, Vec<u8>)]) -> Vec<u8> {
    let text = manifest::to_text(lines);
    let json = format!(
        r#"{{"format":1,"id":"000102030405060708090a0b0c0d0e0f","name":"evil","parent":null,"overlay":"ci",
        "base":{{"kind":"none","path":"","identity":"none"}},"created":"2026-11-21T08:00:00Z","xattrs":"trusted",
        "blocks":false,"entries":1,"bytes":0,"manifest":"{}"}}"#,
        blake3::hash(text.as_bytes()).to_hex()
    );
    let record: LayerRecord = serde_json::from_str(&json).expect("a record");
    let mut writer = Writer::new(Vec::new());
    for (name, text) in [("layer.json", record.to_text()), ("manifest", text)] {
        let member = Member { size: text.len() as u64, ..Member::new(Type::File, name) };
        writer.append(&member, &mut text.as_bytes()).expect("written");
    }
    for (member, data) in members {
        writer.append(member, &mut data.as_slice()).expect("written");
    }
    writer.finish().expect("written")
}

fn line(kind: Kind, path: &str) -> Line {
    Line {
        kind,
        data: Data::Plain,
        opaque: false,
        redirect: false,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        size: match kind {
            Kind::File => Size::Bytes(4),
            Kind::Link => Size::Bytes(7),
            _ => Size::None,
        },
        hash: match kind {
            Kind::File => Some(blake3::hash(b"evil")),
            Kind::Link => Some(blake3::hash(b"outside")),
            _ => None,
        },
        xattrs: None,
        group: None,
        path: path.into(),
    }
}

fn member(kind: Type, path: &str) -> (Member, Vec<u8>) {
    let size = if kind == Type::File { 4 } else { 0 };
    let link = if kind == Type::Symbolic { b"outside".to_vec() } else { Vec::new() };
    let data = if kind == Type::File { b"evil".to_vec() } else { Vec::new() };
    (Member { size, link, ..Member::new(kind, path) }, data)
}

#[test]
fn an_archive_that_would_lead_out_is_refused_and_nothing_of_it_is_left() {
    ground!("root");
    let folder = tempfile::tempdir().expect("a folder");
    let home = Home::open(&folder.path().join("home")).expect("made");
    let root = || (line(Kind::Dir, ""), member(Type::Dir, "tree"));
    let refused = |lines: &[Line], members: &[(Member, Vec<u8>)], why: &str| {
        let error = import(&home, Cursor::new(forged(lines, members)), &plain(), &everywhere).expect_err(why);
        let text = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(text.contains(why), "{why}: {text}");
        assert_nothing_left(&home);
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1, "{why}: something is outside");
        error
    };
    let (root_line, root_member) = root();
    for path in ["../evil", "/tmp/evil", "a/../../evil", ".."] {
        let lines = [root_line.clone(), line(Kind::File, path)];
        let members = [root_member.clone(), member(Type::File, &format!("tree/{path}"))];
        let error = refused(
            &lines,
            &members,
            if path.starts_with('/') { "an absolute path" } else { "a . or .. in a path" },
        );
        assert_eq!(error.class(), cowsnap::Class::Corrupt);
        // The same in the archive alone, where the manifest names something else.
        let lines = [root_line.clone(), line(Kind::File, "good")];
        refused(&lines, &members, "where good belongs");
    }
    // Through a link: the manifest can not say it, and the archive is not asked.
    let lines = [root_line.clone(), line(Kind::Link, "l"), line(Kind::File, "l/evil")];
    let members = [root_member.clone(), member(Type::Symbolic, "tree/l"), member(Type::File, "tree/l/evil")];
    refused(&lines, &members, "its path is in no directory of the layer");
    let lines = [root_line.clone(), line(Kind::Dir, "l"), line(Kind::File, "l/evil")];
    refused(&lines, &members, "its type changed");
    // Names twice.
    let twice = [root_line.clone(), line(Kind::File, "f"), line(Kind::File, "f")];
    let members = [root_member.clone(), member(Type::File, "tree/f"), member(Type::File, "tree/f")];
    refused(&twice, &members, "out of order");
    refused(&[root_line.clone(), line(Kind::File, "f"), line(Kind::File, "g")], &members, "where g belongs");
    refused(&twice[..2], &members, "there is more in the archive");
    refused(&[root_line.clone(), root_line.clone()], &members[..1], "out of order");
    let map = || member(Type::File, "blocks/1");
    let maps = [map(), map(), root_member.clone(), member(Type::File, "tree/f")];
    refused(&twice[..2], &maps, "is no map of blocks");
    refused(&twice[..2], &maps[1..], "belongs to no file");
    for path in ["blocks/../../evil", "blocks//evil", "blocks/01", "blocks/+1", "blocks/1/2"] {
        let members = [member(Type::File, path), root_member.clone(), member(Type::File, "tree/f")];
        refused(&twice[..2], &members, "map");
    }
    // Where another name of a file is said to lead is not asked either.
    let named = |path| Line { group: Some(1), ..line(Kind::File, path) };
    let mut hard = member(Type::Hard, "tree/g");
    hard.0.link = b"/etc/passwd".to_vec();
    let members = [root_member.clone(), member(Type::File, "tree/f"), hard];
    let archive = forged(&[root_line.clone(), named("f"), named("g")], &members);
    let linked = import(&home, Cursor::new(archive), &plain(), &everywhere).expect("two names of one file");
    assert_eq!(fs::read(linked.tree_dir().join("g")).expect("read"), b"evil");
    linked.destroy(&home).expect("destroyed");
    // Lengths.
    let long = Line { size: Size::Bytes(u64::MAX), ..line(Kind::File, "f") };
    let sparse = Member { size: u64::MAX, ranges: Some(Vec::new()), ..Member::new(Type::File, "tree/f") };
    refused(&[root_line.clone(), long], &[root_member.clone(), (sparse, Vec::new())], "f");
    for size in [1 << 43, i64::MAX as u64] {
        let zeros = Line { size: Size::Bytes(size), ..line(Kind::File, "f") };
        let sparse = Member { size, ranges: Some(Vec::new()), ..Member::new(Type::File, "tree/f") };
        // It would be read for hours.
        refused(
            &[root_line.clone(), zeros],
            &[root_member.clone(), (sparse, Vec::new())],
            "it is another file",
        );
    }
    let lines = [root_line.clone(), line(Kind::File, "f")];
    refused(&lines, std::slice::from_ref(&root_member), "f is missing from the archive");
    let more = [root_member.clone(), member(Type::File, "tree/f"), member(Type::File, "tree/g")];
    refused(&lines, &more, "there is more in the archive than in the manifest");
    let mut other = member(Type::File, "tree/f");
    other.1 = b"else".to_vec();
    refused(&lines, &[root_member.clone(), other], "f: its data changed");
    let mut marked = member(Type::File, "tree/f");
    marked.0.xattrs.insert(b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec());
    refused(&lines, &[root_member, marked], "its extended attributes changed");
}

fn contained(archive: &[u8], layer: &Layer) -> Vec<u8> {
    contained_as(archive, layer.id().0, layer.record().created)
}

fn contained_as(archive: &[u8], guid: Guid, created: jiff::Timestamp) -> Vec<u8> {
    let header = Header {
        backend: Backend::Overlay,
        dataset: "ci".into(),
        snapshot: "x".parse().expect("a name"),
        guid,
        base: None,
        created,
        stream_version: 1,
        compressed: false,
        properties: Default::default(),
        zfs: None,
        place: None,
    };
    let mut out = Vec::new();
    writer::write(&header, archive, &mut out, &writer::Options::default()).expect("written");
    out
}

#[test]
fn a_container_that_is_cut_off_or_changed_anywhere_leaves_nothing() {
    ground!("root");
    let folder = tempfile::tempdir().expect("a folder");
    let base = folder.path().join("base");
    fs::create_dir(&base).expect("mkdir");
    let home = Home::open(&folder.path().join("home")).expect("made");
    let overlay = home.announce(&record("ci", &base)).expect("announced");
    let generation = overlay.make_generation(1, 1, &base).expect("made");
    fs::create_dir(generation.upper().join("d")).expect("mkdir");
    fs::write(generation.upper().join("d/f"), "some data").expect("writes");
    let layer = commit(&home, &generation, &request("x", &base, None)).expect("committed");
    let container = contained(&archived(&layer), &layer);
    let there = Home::open(&folder.path().join("there")).expect("made");
    let of = |bytes: Vec<u8>| -> Result<Layer, String> {
        let reader = Reader::open(Cursor::new(bytes)).map_err(|error| error.to_string())?;
        import(&there, reader, &plain(), &everywhere).map_err(|error| error.to_string())
    };
    let step = (container.len() / 60).max(1);
    for at in (0..container.len()).step_by(step).chain([container.len() - 1]) {
        of(container[..at].to_vec()).expect_err("cut off");
        let mut changed = container.clone();
        changed[at] ^= 1 << (at % 8);
        of(changed).expect_err("changed");
        assert_nothing_left(&there);
    }
    of(container).expect("sound").verify().expect("sound");
}

/// What was read of the bytes so far.
struct Counting(Cursor<Vec<u8>>, std::rc::Rc<std::cell::Cell<usize>>);

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.0.read(buffer)?;
        self.1.set(self.1.get() + len);
        Ok(len)
    }
}

/// Where the records of a container end.
fn ends_of_records(container: &[u8]) -> Vec<usize> {
    let at = std::rc::Rc::new(std::cell::Cell::new(0));
    let input = Counting(Cursor::new(container.to_vec()), std::rc::Rc::clone(&at));
    let mut frames = Frames::open(input).expect("sound");
    let mut ends = vec![at.get()];
    while let Step::Frame(frame) = frames.step().expect("sound") {
        frames.recycle(frame);
        ends.push(at.get());
    }
    ends
}

#[test]
fn a_file_that_is_no_layer_or_not_all_of_one_is_refused_with_exit_code_4_and_leaves_nothing() {
    ground!("overlay");
    let lab = crate::overlay::lab::Lab::new();
    let at = lab.create("ci", &["--mode", "kernel"]);
    let noise: Vec<u8> = (0..3 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    fs::write(at.join("noise"), noise).expect("written");
    lab.ok(&["commit", "ci", "x"]);
    let (whole, file) = (lab.root().join("whole.cow"), lab.root().join("layer.cow"));
    let paths = (whole.to_str().expect("text"), file.to_str().expect("text"));
    lab.ok(&["export", "ci@x", paths.0, "--no-compress"]);
    lab.ok(&["destroy", "ci"]);
    lab.ok(&["destroy", "ci@x"]);
    let refused = |bytes: &[u8]| {
        fs::write(&file, bytes).expect("written");
        let said = lab.fails(4, &["import", paths.1]);
        assert_nothing_left(&lab.home());
        said
    };
    let container = fs::read(&whole).expect("read");
    let ends = ends_of_records(&container);
    assert!(ends.len() > 3, "{ends:?}");
    for end in ends {
        for len in [end - 1, end, end + 1] {
            refused(&container[..len]);
        }
    }
    refused(&[&container[..], b"more"].concat());
    refused(b"");
    refused(b"neither a container nor anything else");
    // A container as sound as any, of entries that would lead out.
    let root = (line(Kind::Dir, ""), member(Type::Dir, "tree"));
    let lines = [root.0, line(Kind::File, "../evil")];
    let archive = forged(&lines, &[root.1, member(Type::File, "tree/../evil")]);
    let guid = "000102030405060708090a0b0c0d0e0f".parse().expect("a guid");
    let said = refused(&contained_as(&archive, guid, "2026-11-21T08:00:00Z".parse().expect("a time")));
    assert!(said.contains("a . or .. in a path"), "{said}");
    let said = refused(&contained_as(b"", guid, "2026-11-21T08:00:00Z".parse().expect("a time")));
    assert!(said.contains("the layer's archive at byte 0"), "{said}");
    fs::write(&file, &container).expect("written");
    assert_eq!(lab.ok(&["import", paths.1]), "ci@x\n");
    lab.ok(&["verify", "--all"]);
}

#[test]
fn a_layer_for_some_eyes_only_and_by_whom_one_trusts_is_imported_with_their_keys_alone() {
    ground!("overlay");
    let lab = crate::overlay::lab::Lab::new();
    let at = lab.create("ci", &["--mode", "kernel"]);
    fs::write(at.join("seeded"), "a secret that is nowhere to be read").expect("written");
    lab.ok(&["commit", "ci", "x"]);
    let path = |name: &str| lab.root().join(name).to_str().expect("text").to_owned();
    for (name, kind) in [("sign", "sign"), ("other", "sign"), ("id", "encrypt"), ("stranger", "encrypt")] {
        let output = crate::ground::cowsnap(&lab.root().join("state"))
            .args(["keygen", &path(name), "--kind", kind])
            .output()
            .expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let file = path("layer.cow");
    let (sign, to) = (path("sign"), path("id.pub"));
    lab.ok(&["export", "ci@x", &file, "--no-compress", "--sign", &sign, "--encrypt-to", &to]);
    let bytes = fs::read(&file).expect("read");
    assert!(!bytes.windows(8).any(|window| window == b"a secret"), "it is there to be read");
    lab.ok(&["destroy", "ci"]);
    lab.ok(&["destroy", "ci@x"]);
    let (id, stranger) = (path("id"), path("stranger"));
    let (key, other) = (path("sign.pub"), path("other.pub"));
    let refused = [
        (2, vec!["import", &file]),
        (6, vec!["import", &file, "--identity", &stranger]),
        (4, vec!["import", &file, "--identity", &id, "--verify-key", &other]),
    ];
    for (code, args) in refused {
        lab.fails(code, &args);
        assert_nothing_left(&lab.home());
    }
    assert_eq!(lab.ok(&["import", &file, "--identity", &id, "--verify-key", &key]), "ci@x\n");
    lab.ok(&["verify", "--all"]);
    // What nobody signed is believed by nobody who asks for a signature.
    let plain = path("plain.cow");
    lab.ok(&["export", "ci@x", &plain]);
    lab.ok(&["destroy", "ci@x"]);
    lab.fails(4, &["import", &plain, "--verify-key", &key]);
    assert_nothing_left(&lab.home());
    lab.ok(&["import", &plain]);
}

/// Bytes, and then an error.
struct Breaking(Cursor<Vec<u8>>);

impl Read for Breaking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::other("the line is dead")),
            len => Ok(len),
        }
    }
}

#[test]
fn a_whole_archive_whose_stream_fails_at_the_very_end_makes_no_layer() {
    ground!("overlay", "loop", "mkfs.ext4");
    let lab = Lab::new("ext4");
    let base = lab.dir("base");
    let (_home, layer, _) = made(&lab, &base, 5);
    let there = other(&lab);
    let archive = archived(&layer);
    let broken =
        import(&there, Breaking(Cursor::new(archive.clone())), &plain(), &everywhere).expect_err("it broke");
    assert!(
        std::error::Error::source(&broken).is_some_and(|why| why.to_string().contains("the line is dead"))
    );
    assert_nothing_left(&there);
    // What a killed import left is taken away by the next one.
    fs::create_dir_all(there.layers().join(".staging-1/tree")).expect("mkdir");
    import(&there, Cursor::new(archive), &plain(), &everywhere).expect("imported");
    assert_eq!(fs::read_dir(there.layers()).expect("lists").count(), 1);
}

#[test]
fn gnu_tar_reads_an_archive_that_was_written() {
    ground!("tar");
    let folder = crate::ground::scratch();
    let file = |path: &str, size: u64| Member { size, ..Member::new(Type::File, path) };
    let sparse = Member { ranges: Some(vec![4096..8192, 1 << 30..(1 << 30) + 3]), ..file("sparse", 1 << 40) };
    let mut writer = Writer::new(Vec::new());
    for (member, data) in [
        (file("plain", 4), &b"data"[..]),
        (Member { link: b"plain".to_vec(), ..Member::new(Type::Hard, "hard") }, b""),
        (Member { link: vec![b'x'; 300], ..Member::new(Type::Symbolic, "link") }, b""),
        (Member { device: (0, 0), ..Member::new(Type::Char, "gone") }, b""),
        (Member::new(Type::Socket, "socket"), b""),
        (sparse, &[9; 4099]),
    ] {
        writer.append(&member, &mut &*data).expect("written");
    }
    fs::write(folder.path().join("a.tar"), writer.finish().expect("written")).expect("written");
    let tar = |args: &[&str]| {
        let output = std::process::Command::new("tar").args(args).current_dir(folder.path()).output();
        let output = output.expect("tar runs");
        assert!(output.status.success(), "{}", output.stderr.escape_ascii());
        output.stdout.escape_ascii().to_string()
    };
    let listed = tar(&["tvf", "a.tar"]);
    for text in ["crw-------", "hrw-------", "1099511627776", " plain\\n", "link -> xxx"] {
        assert!(listed.contains(text), "{text}: {listed}");
    }
    tar(&["xf", "a.tar", "plain", "sparse", "link"]);
    let sparse = fs::File::open(folder.path().join("sparse")).expect("extracted");
    assert_eq!(sparse.metadata().expect("there").len(), 1 << 40);
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&sparse, &mut byte, (1 << 30) + 2).expect("reads");
    assert_eq!(byte, [9]);
}
