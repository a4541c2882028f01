//! The program on ZFS, as its user runs it.

use std::process::{Command, Output};

use serde_json::Value;

use super::lab::dataset;
use crate::ground::{ground, run};
use crate::zfs::ground::{Pool, zfs, zpool};

/// The program, with a state directory of its own.
struct Shell {
    pool: Pool,
}

impl Shell {
    fn new() -> Self {
        Self { pool: Pool::new() }
    }

    /// Runs it; `P` at the beginning of an argument, or after a `/`, stands for the pool, `OUT` for a directory outside.
    fn try_run(&self, args: &[&str]) -> Output {
        let outside = self.pool.outside().to_str().expect("utf-8");
        let pool = &self.pool.name;
        let named = |arg: &&str| match arg.strip_prefix("P/") {
            Some(dataset) => format!("{pool}/{dataset}"),
            None => arg.replace("/P/", &format!("/{pool}/")),
        };
        let args = args.iter().map(|arg| named(arg).replace("OUT", outside));
        Command::new(env!("CARGO_BIN_EXE_cowsnap"))
            .args(args)
            .env("COWSNAP_STATE_DIR", self.pool.outside().join("state"))
            .output()
            .expect("the program starts")
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "cowsnap {args:?}: {said}");
        String::from_utf8(output.stdout).expect("utf-8")
    }

    /// Runs it and expects the exit code `code`; what it says.
    fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.try_run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "cowsnap {args:?}: {said}");
        said
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[&["--json"], args].concat())).expect("json")
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.pool.path(file), text).expect("write");
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.pool.path(file)).expect("read")
    }

    /// A dataset with two snapshots, `one` and `two`, and their streams in OUT/one.cs and OUT/two.cs.
    fn with_two(&self, dataset: &str) {
        self.run(&["create", &format!("P/{dataset}")]);
        for (name, base) in [("one", None), ("two", Some("@one"))] {
            self.write(&format!("{dataset}/f"), name);
            let snapshot = format!("P/{dataset}@{name}");
            self.run(&["snapshot", &format!("P/{dataset}"), "--name", name]);
            let mut words = vec!["send", snapshot.as_str()];
            words.extend(base.iter().flat_map(|base| ["--from", base]));
            let file = format!("OUT/{name}.cs");
            words.extend(["-o", &file]);
            self.run(&words);
        }
    }

    fn property(&self, dataset: &str, property: &str) -> String {
        zfs(&["get", "-H", "-o", "value", property, &self.pool.full(dataset)]).trim_end().to_owned()
    }
}

#[test]
fn a_recursive_snapshot_is_one_transaction_without_what_is_excluded() {
    ground!("zfs");
    let shell = Shell::new();
    for dataset in ["P/chain state", "P/chain state/index:1", "P/chain state/cache"] {
        shell.run(&["create", dataset]);
    }
    let taken =
        shell.json(&["snapshot", "-r", "P/chain state", "--exclude", "P/chain state/cache", "--name", "s"]);
    assert_eq!(
        (taken["snapshots"].as_array().map(Vec::len), &taken["spread_us"]),
        (Some(2), &0.into()),
        "{taken}"
    );
    let all = zfs(&["list", "-Hp", "-t", "snapshot", "-o", "createtxg", "-r", &shell.pool.name]);
    let transactions: Vec<_> = all.lines().collect();
    assert!(transactions.len() == 2 && transactions[0] == transactions[1], "{all}");
}

#[test]
fn what_was_sent_to_files_is_received_and_restored_from_them() {
    ground!("zfs");
    let shell = Shell::new();
    shell.with_two("chain state");
    shell.run(&["receive", "P/copy", "OUT/one.cs"]);
    shell.run(&["receive", "P/copy", "OUT/two.cs"]);
    let kept = ["canmount", "readonly", "mounted"].map(|property| shell.property("copy", property));
    assert_eq!(kept, ["noauto", "on", "no"]);
    let said = shell.fails(&["receive", "P/copy", "OUT/two.cs"], 3);
    assert!(said.contains("received before"), "{said}");

    shell.run(&["restore", "OUT/one.cs", "OUT/two.cs", "--to", "P/back"]);
    assert_eq!(shell.read("back/f"), "two");
    shell.write("back/f", "it can be written to");
    let kept = ["canmount", "readonly", "cowsnap:restoring"].map(|property| shell.property("back", property));
    assert_eq!(kept, ["on", "off", "-"]);
    let said = shell.fails(&["restore", "OUT/one.cs", "--to", "P/back"], 3);
    assert!(said.contains("--replace"), "{said}");
}

#[test]
fn a_restore_that_died_between_two_streams_goes_on() {
    ground!("zfs");
    let shell = Shell::new();
    shell.with_two("a");
    // As it stands after the first stream: received, and marked.
    shell.run(&["receive", "P/back", "OUT/one.cs"]);
    zfs(&["set", "cowsnap:restoring=yes", &shell.pool.full("back")]);
    shell.run(&["restore", "OUT/one.cs", "OUT/two.cs", "--to", "P/back"]);
    assert_eq!(
        (shell.read("back/f"), shell.property("back", "cowsnap:restoring")),
        ("two".into(), "-".into())
    );
}

#[test]
fn an_older_one_than_the_files_bring_is_restored_whether_the_newer_one_has_come_or_not() {
    ground!("zfs");
    let shell = Shell::new();
    shell.with_two("a");
    let restore = |to: &str| {
        ["restore", "OUT/one.cs", "OUT/two.cs", "--name", "one", "--to"]
            .map(str::to_owned)
            .into_iter()
            .chain([to.to_owned()])
            .collect::<Vec<_>>()
    };
    let run = |args: Vec<String>| shell.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    run(restore("P/back"));
    assert_eq!((shell.read("back/f"), shell.property("back", "readonly")), ("one".into(), "off".into()));
    // A restore of the newest died when all had come.
    for file in ["OUT/one.cs", "OUT/two.cs"] {
        shell.run(&["receive", "P/later", file]);
    }
    zfs(&["set", "cowsnap:restoring=yes", &shell.pool.full("later")]);
    let args = restore("P/later");
    let output = shell.try_run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert_eq!(shell.read("later/f"), "one");
    let listed = zfs(&["list", "-H", "-o", "name,cowsnap:restoring,readonly", "-r", &shell.pool.name]);
    let later: Vec<_> = listed.lines().filter(|line| line.contains("/later")).collect();
    assert_eq!(later[0], format!("{}\t-\toff", shell.pool.full("later")), "{listed}");
    assert!(later.len() == 2 && later[1].ends_with("\t-\ton"), "{listed}");
    let aside = later[1].split('\t').next().expect("a name");
    assert!(told.contains("had been received before, and is in ") && told.contains(aside), "{told}");
    assert!(shell.run(&["list", aside]).contains("@two"));
    assert!(shell.run(&["list", "P/later"]).contains("@one"));
}

#[test]
fn a_snapshot_is_restored_by_cloning_and_a_live_dataset_goes_back_only_when_asked() {
    ground!("zfs");
    let shell = Shell::new();
    shell.with_two("a");
    let path = shell.run(&["restore", "P/a@one", "--to", "P/look"]);
    assert_eq!((path.trim_end().ends_with("look"), shell.read("look/f")), (true, "one".into()));
    shell.fails(&["restore", "P/a@one", "--to", "P/a"], 3);
    shell.write("a/f", "three");
    let said = shell.run(&["rollback", "P/a@two"]);
    assert!(said.contains("it was is kept as") && !said.contains("newer"), "{said}");
    let done = shell.json(&["restore", "P/a@one", "--to", "P/a", "--replace"]);
    assert_eq!(shell.read("a/f"), "one");
    let aside = done["aside"].as_str().expect("what is newer was set aside").to_owned();
    let listed = shell.run(&["list", &aside]);
    assert!(listed.contains("@two") && listed.contains("@pre-rollback-"), "{listed}");
    shell.run(&["snapshot", "P/a", "--name", "three"]);
    let said = shell.run(&["rollback", "P/a@one"]);
    assert!(said.contains("; what is newer than ") && said.contains("@one is in "), "{said}");
}

#[test]
fn a_damaged_container_leaves_a_partial_that_doctor_names_and_removes() {
    ground!("zfs");
    let shell = Shell::new();
    shell.run(&["create", "P/a"]);
    let noise: String =
        (0..400_000u64).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    shell.write("a/f", &noise);
    shell.run(&["snapshot", "P/a", "--name", "one"]);
    shell.run(&["send", "P/a@one", "-o", "OUT/one.cs"]);
    let file = shell.pool.outside().join("one.cs");
    let mut bytes = std::fs::read(&file).expect("the container");
    let late = bytes.len() * 9 / 10;
    bytes[late] ^= 1;
    std::fs::write(&file, bytes).expect("write");
    shell.fails(&["receive", "P/b", "OUT/one.cs"], 4);
    let listed = shell.json(&["list", "P/b"]);
    assert_eq!(listed["datasets"][0]["snapshots"], serde_json::json!([]), "{listed}");
    assert_eq!(listed["datasets"][0]["partials"].as_array().map(Vec::len), Some(1), "{listed}");
    let said = shell.try_run(&["doctor"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("%partial"), "{said:?}");
    shell.run(&["destroy", "P/b@%partial"]);
    let left = zfs(&["list", "-H", "-o", "name", "-r", &shell.pool.name]);
    assert!(!left.lines().any(|name| name.ends_with("/b")), "{left}");
}

#[test]
fn a_path_names_the_filesystem_that_is_mounted_there() {
    ground!("zfs");
    let shell = Shell::new();
    shell.run(&["create", "P/chain state"]);
    let path = shell.pool.path("chain state");
    let path = path.to_str().expect("utf-8");
    shell.run(&["snapshot", path, "--name", "s"]);
    assert!(shell.run(&["list", "P/chain state"]).contains("@s"));
    std::fs::create_dir(shell.pool.path("chain state/plain")).expect("mkdir");
    // A plain directory in it is none, but may have versions of its own where ZFS can exchange names (2.2).
    let output = shell.try_run(&["snapshot", &format!("{path}/plain"), "--name", "t"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => assert!(shell.run(&["list", &format!("{path}/plain")]).contains("plain@t")),
        Some(3) => assert!(said.contains("can not exchange names") && said.contains("the dataset"), "{said}"),
        code => panic!("{code:?}: {said}"),
    }
    assert!(!shell.run(&["list", "P/chain state"]).contains("@t"));
}

/// A process in a mount namespace of its own, which goes with the value.
struct Elsewhere(std::process::Child);

impl Elsewhere {
    fn new() -> Self {
        let script = "echo ready; exec sleep 600";
        let mut child = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut ready = [0; 6];
        let mut out = child.stdout.take().expect("a pipe");
        std::io::Read::read_exact(&mut out, &mut ready).expect("it is there");
        Self(child)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_in_use_is_not_destroyed_and_keeps_its_snapshots() {
    ground!("zfs");
    let shell = Shell::new();
    let pool = shell.pool.name.clone();
    shell.run(&["snapshot", &pool, "--name", "s"]);
    let said = shell.fails(&["destroy", "--snapshots", &pool], 3);
    assert!(said.contains("the pool itself"), "{said}");

    shell.run(&["create", "P/a b"]);
    shell.run(&["snapshot", "P/a b", "--name", "s"]);
    let beside = shell.pool.outside().join("beside");
    std::fs::create_dir(&beside).expect("made");
    crate::ground::run(
        "mount",
        &["--bind", shell.pool.path("a b").to_str().expect("utf-8"), beside.to_str().expect("utf-8")],
    );
    for dry in [&["--dry-run"][..], &[]] {
        let said = shell.fails(&[&["destroy", "--snapshots", "P/a b"], dry].concat(), 3);
        assert!(said.contains("beside"), "{dry:?}: {said}");
    }
    assert_eq!(shell.property("a b", "mounted"), "yes");
    crate::ground::run("umount", &[beside.to_str().expect("utf-8")]);

    let elsewhere = Elsewhere::new();
    let said = shell.fails(&["destroy", "--snapshots", "P/a b"], 3);
    assert!(said.contains(&format!("namespace of process {}", elsewhere.0.id())), "{said}");
    assert_eq!(shell.property("a b", "mounted"), "yes");
    drop(elsewhere);

    let device = std::path::Path::new("/dev/zvol").join(shell.pool.volume("disk", "64M"));
    shell.run(&["snapshot", "P/disk", "--name", "s"]);
    crate::ground::run("udevadm", &["settle"]);
    let open = std::fs::File::open(&device).expect("a device");
    for dry in [&["--dry-run"][..], &[]] {
        let said = shell.fails(&[&["destroy", "--snapshots", "P/disk"], dry].concat(), 3);
        assert!(said.contains("has its device open"), "{dry:?}: {said}");
    }
    drop(open);

    shell.write("a b/f", "text");
    let open = std::fs::File::open(shell.pool.path("a b/f")).expect("a file");
    let said = shell.fails(&["destroy", "--snapshots", "P/a b", "--dry-run"], 3);
    assert!(said.contains(&format!("the process {} uses", std::process::id())), "{said}");
    shell.fails(&["destroy", "--snapshots", "P/a b"], 3);
    drop(open);

    let all = zfs(&["list", "-Hp", "-t", "snapshot", "-o", "name", "-r", &pool]);
    assert_eq!(all, format!("{pool}@s\n{pool}/a b@s\n{pool}/disk@s\n"));
    shell.run(&["destroy", "--snapshots", "P/a b", "P/disk", "--dry-run"]);
    shell.run(&["destroy", "--snapshots", "P/a b", "P/disk"]);
}

/// What `zpool split` makes has the same datasets with the same guids: only its pool tells it apart.
#[test]
fn a_dataset_of_a_pool_that_was_split_off_is_in_another_place() {
    ground!("zfs");
    let pool = Pool::new();
    let a = dataset(&pool.dataset("a"));
    let [image, other, alt] = ["image", "other", "alt"].map(|name| pool.outside().join(name));
    let [image, other, alt] = [&image, &other, &alt].map(|path| path.to_str().expect("utf-8"));
    run("truncate", &["-s", "1G", other]);
    zpool(&["attach", "-w", &pool.name, image, other]);
    let split = format!("{}-split", pool.name);
    zpool(&["split", "-R", alt, &pool.name, &split]);
    let b = dataset(&format!("{split}/a"));
    let guids = [&a, &b].map(|dataset| dataset.own_guid().expect("read"));
    let places = [&a, &b].map(|dataset| dataset.place_id().expect("read"));
    zpool(&["destroy", "-f", &split]);
    assert_eq!(guids[0], guids[1]);
    assert_ne!(places[0], places[1]);
}
