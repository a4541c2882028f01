//! `cowsnap job` through the program: what a job does, what is due, and what fails of it.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::ground::{self, Btrfs, ground};

mod archive;
mod archive_asked;
mod drill;
mod drill_elsewhere;

/// A filesystem, and the program with a configuration of its own.
pub struct Lab {
    pub fs: Btrfs,
    pub config: PathBuf,
}

impl Lab {
    /// `FS` in the text is the mount point.
    pub fn new(config: &str) -> Self {
        let fs = Btrfs::new();
        let lab = Self { config: fs.outside().join("config.toml"), fs };
        lab.write(config);
        lab
    }

    pub fn write(&self, config: &str) {
        fs::write(&self.config, self.placed(config)).expect("written");
    }

    pub fn placed(&self, text: &str) -> String {
        text.replace("FS", self.fs.path().to_str().expect("utf-8"))
    }

    /// What reaches other machines, if a test puts it there: no real one is looked for.
    pub fn ssh(&self) -> PathBuf {
        self.fs.outside().join("ssh")
    }

    /// Runs, expects that exit code, and answers what was printed and what was said.
    pub fn ends(&self, code: i32, line: &str) -> (String, String) {
        self.ends_in(&[], code, line)
    }

    /// The same, with more in its environment.
    pub fn ends_in(&self, env: &[(String, String)], code: i32, line: &str) -> (String, String) {
        let output = ground::cowsnap(&self.fs.outside().join("state"))
            .args(line.split(' ').map(|word| self.placed(word)))
            .env("COWSNAP_CONFIG", &self.config)
            .env("COWSNAP_SSH", self.ssh())
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .expect("the program starts");
        let [out, err] = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b).into_owned());
        assert_eq!(output.status.code(), Some(code), "cowsnap {line}\n{out}{err}");
        let place = self.placed("FS");
        (out.trim_end().replace(&place, "FS"), err.replace(&place, "FS"))
    }

    pub fn json(&self, code: i32, line: &str) -> Value {
        serde_json::from_str(&self.ends(code, &format!("{line} --json")).0).expect("one JSON object")
    }

    /// The names of a dataset's snapshots, and their labels.
    pub fn snapshots(&self, dataset: &str) -> Vec<(String, Value)> {
        let list = self.json(0, &format!("list FS/{dataset}"));
        let snapshots = list["datasets"][0]["snapshots"].as_array().cloned().unwrap_or_default();
        snapshots
            .iter()
            .map(|s| (s["name"].as_str().expect("a name").to_owned(), s["labels"].clone()))
            .collect()
    }
}

pub const NODE: &str = "
[job.node]
datasets = [\"FS/node\"]
crash_consistent = true
schedule = \"0 0 1 1 *\"
labels = { tier = \"gold\" }
[job.node.retention]
last = 2
names = [\"keep*\"]
[[job.node.target]]
to = \"FS/replica\"
intermediates = true
";

#[test]
fn postgresql_in_a_job_of_several_datasets_is_warned_of_and_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.toml");
    let runs = |args: &[&str]| {
        let output = ground::cowsnap(folder.path()).args(args).env("COWSNAP_CONFIG", &config).output();
        let output = output.expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let write = |datasets: &str, flush: &str| {
        let text = format!("[job.pg]\ndatasets = [{datasets}]\n[job.pg.flush]\n{flush}\n");
        fs::write(&config, text).expect("written");
    };
    let postgres = "postgres = { connection = \"port=5432\", method = \"checkpoint\" }";
    write("\"tank/pg\", \"tank/wal\"", postgres);
    let (text, said) = runs(&["job", "check"]);
    assert!(text.contains("nothing is wrong with pg"), "{text}");
    assert!(said.contains("config.toml:1: job pg: ") && said.contains("one of tank/pg, tank/wal"), "{said}");
    let value: Value = serde_json::from_str(&runs(&["job", "check", "--json"]).0).expect("one object");
    assert_eq!(value["warnings"].as_array().map(Vec::len), Some(1), "{value}");
    assert!(runs(&["job", "explain"]).0.contains("do not lie in one of the datasets alone"));
    for (datasets, flush) in [
        ("\"tank/pg\"", postgres),
        ("\"tank/pg\", \"tank/wal\"", "postgres = { user = \"pg\" }"),
        ("\"tank/pg\", \"tank/wal\"", "sqlite = [\"/srv/a.db\"]"),
    ] {
        write(datasets, flush);
        assert_eq!(runs(&["job", "check"]).1, "", "{datasets} {flush}");
        assert!(!runs(&["job", "explain"]).0.contains("takes none if its data directory"));
    }
}

#[test]
fn every_example_passes_the_check_and_is_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.toml");
    for kind in ["stacks", "loom", "stellar-core", "bitcoin", "postgres"] {
        let run = |args: &[&str]| {
            let output = ground::cowsnap(folder.path()).args(args).env("COWSNAP_CONFIG", &config).output();
            let output = output.expect("the program starts");
            assert!(output.status.success(), "{kind}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("utf-8")
        };
        let example = run(&["job", "init", kind]);
        assert!(example.lines().all(|line| line.len() < 200), "{kind} has long lines");
        // What is commented out is to be right too.
        let uncommented: String = example
            .lines()
            .map(|line| {
                let is_meant = |line: &&str| {
                    line.starts_with('[') || line.starts_with("warn_") || line.contains(" = \"")
                };
                let key = line.strip_prefix("# ").filter(is_meant);
                format!("{}\n", key.unwrap_or(line))
            })
            .collect();
        // So is what is to stand instead of `crash_consistent`.
        let stopped: String = example
            .replacen("\ncrash_consistent = true\n", "\n", 1)
            .lines()
            .map(|line| {
                let key = line.strip_prefix('#').filter(|line| !line.starts_with(' '));
                format!("{}\n", key.unwrap_or(line))
            })
            .collect();
        assert!(stopped.contains("\nunit = \""), "{kind}");
        for text in [&example, &stopped, &uncommented] {
            fs::write(&config, text).expect("written");
            let checked = run(&["job", "check"]);
            assert!(
                checked.starts_with("nothing is wrong with ") && checked.contains(", "),
                "{kind}: {checked}"
            );
        }
        let explained = run(&["job", "explain"]);
        assert!(
            explained.contains("brings ssh://backup/vault/")
                && explained.contains("next: 20")
                && explained.contains("free space a warning below 15 %"),
            "{explained}"
        );
        let objects: Value = serde_json::from_str(&run(&["job", "explain", "--json"])).expect("one object");
        assert_eq!(objects["jobs"][0]["next"].as_array().map(Vec::len), Some(3), "{objects}");
    }
}

/// Every path below a folder, with what its inode and its bytes are.
fn state_of(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).expect("it is there");
        let bytes = if meta.is_file() { fs::read(&path).expect("read") } else { Vec::new() };
        let (mode, inode, changed) = (meta.mode(), meta.ino(), (meta.ctime(), meta.ctime_nsec()));
        found.push(format!("{path:?} {mode:o} {inode} {changed:?} {bytes:?}"));
        if meta.is_dir() {
            open.extend(fs::read_dir(&path).expect("read").map(|entry| entry.expect("an entry").path()));
        }
    }
    found.sort();
    found
}

#[test]
fn the_check_of_a_configuration_touches_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::create_dir_all(folder.join("conf.d")).expect("made");
    fs::create_dir(folder.join("data")).expect("made");
    let (config, data) = (folder.join("config.toml"), folder.join("data").display().to_string());
    // All that a run would call leaves a mark.
    let marks = format!("[\"/bin/touch\", {:?}]", folder.join("mark").display().to_string());
    let right = format!(
        "[notify]\ncommand = {marks}\n[job.node]\ndatasets = [{data:?}]\nschedule = \"* * * * *\"\n[job.node.retention]\nlast = 1\n\
         [job.node.trigger]\nwith_schedule = \"either\"\nnumber = {{ command = {marks} }}\nat_least = 1\n\
         [job.node.hooks]\nbefore_snapshot = {marks}\non_failure = {marks}\n\
         [[job.node.target]]\nto = \"{data}-replica\"\n[[job.node.target]]\nto = \"ssh://nowhere/vault/node\"\n\
         [job.node.quiesce]\nprobe = {{ command = {marks} }}\n\
         [[job.node.quiesce.service]]\nstatus = {marks}\nstop = {marks}\nstart = {marks}\n\
         [job.node.drill]\ncommand = {marks}\n"
    );
    let wrong = right.replace("last = 1", "lost = 1");
    for (text, code) in [(right, 0), (wrong, 2)] {
        fs::write(&config, text).expect("written");
        let before = state_of(folder);
        for line in [&["job", "check"][..], &["--json", "job", "check"]] {
            let output = ground::cowsnap(&folder.join("state"))
                .args(line)
                .env("COWSNAP_CONFIG", &config)
                .env("COWSNAP_SSH", format!("/bin/touch {}", folder.join("mark").display()))
                .output()
                .expect("the program starts");
            assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(state_of(folder), before, "{line:?}");
        }
    }
}

#[test]
fn a_run_takes_a_labelled_snapshot_brings_it_to_its_targets_and_then_prunes() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "snapshot FS/node --name keep-me");
    for n in 0..3 {
        fs::write(lab.fs.path().join("node/file"), n.to_string()).expect("written");
        let done = lab.json(0, "job run node");
        let job = &done["jobs"][0];
        assert_eq!(job["job"], "node", "{done}");
        assert_eq!(job["snapshots"][0]["dataset"], "FS/node", "{done}");
        assert_eq!(
            job["replicated"][0]["moved"].as_array().map(Vec::len),
            Some(if n == 0 { 2 } else { 1 }),
            "{done}"
        );
        assert_eq!(
            job["pruned"][0]["destroyed"].as_array().map(Vec::len),
            Some(usize::from(n == 2)),
            "{done}"
        );
    }
    let here = lab.snapshots("node");
    assert_eq!((here.len(), here[0].0.as_str()), (3, "keep-me"));
    assert_eq!(here[2].1, serde_json::json!({ "job": "node", "tier": "gold" }));
    // What the retention destroyed here was brought there before.
    assert_eq!(lab.snapshots("replica").len(), 4);
}

#[test]
fn only_what_is_due_is_run_and_once() {
    ground!("btrfs");
    let never = "[job.unscheduled]\ndatasets = [\"FS/node\"]\ncrash_consistent = true\n";
    let lab = Lab::new(&format!("{NODE}{never}"));
    lab.ends(0, "create FS/node");
    lab.ends(0, "snapshot FS/node --name by-hand");
    let (foreseen, _) = lab.ends(0, "job run --due --dry-run");
    assert!(
        foreseen.contains("would take FS/node@") && foreseen.contains("then brings FS/replica up to FS/node"),
        "{foreseen}"
    );
    assert_eq!(lab.snapshots("node").len(), 1, "a dry run took one");
    assert_eq!(lab.json(0, "job run --due")["jobs"].as_array().map(Vec::len), Some(1));
    let taken = lab.snapshots("node").len();
    assert_eq!(taken, 2);
    assert_eq!(lab.ends(0, "job run --due"), (String::new(), String::new()));
    assert_eq!(lab.json(0, "job run --due")["jobs"].as_array().map(Vec::len), Some(0));
    assert_eq!(lab.snapshots("node").len(), taken);
    lab.ends(2, "job run");
    lab.ends(2, "job run nobody");
}

#[test]
fn runs_at_the_same_minute_take_one_snapshot() {
    ground!("btrfs");
    let lab = Lab::new("");
    for round in 1..=3 {
        lab.ends(0, &format!("create FS/node{round}"));
        lab.write(&format!(
            "[job.node]\ndatasets = [\"FS/node{round}\"]\ncrash_consistent = true\nschedule = \"0 0 1 1 *\"\n"
        ));
        std::thread::scope(|scope| {
            (0..6).for_each(|_| drop(scope.spawn(|| lab.ends(0, "job run --due"))));
        });
        assert_eq!(lab.snapshots(&format!("node{round}")).len(), 1, "round {round}");
    }
}

#[test]
fn a_job_at_work_is_skipped_when_due_and_exit_5_when_named() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let locks = fs::read_dir(lab.fs.outside().join("state/locks")).expect("it is there").flatten();
    let lock = locks
        .map(|e| e.path())
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("job-")));
    let lock = fs::File::open(lock.expect("one lock of a job")).expect("opened");
    rustix::fs::flock(lock.as_fd(), rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("another process is about to run a job on FS/node"), "{said}");
    // By another name it is the same dataset.
    std::os::unix::fs::symlink(lab.fs.path().join("node"), lab.fs.outside().join("link")).expect("made");
    let link = lab.fs.outside().join("link");
    lab.write(&NODE.replace("[\"FS/node\"]", &format!("[\"{}\"]", link.display())));
    let (_, said) = lab.ends(5, "job run node");
    assert!(said.contains("another process is about to run a job on "), "{said}");
    // A job of another name, which is due: none of the snapshots is its own.
    lab.write(&NODE.replace("job.node", "job.again"));
    let skipped = lab.json(0, "job run --due");
    assert!(skipped["jobs"][0]["skipped"].is_string(), "{skipped}");
    drop(lock);
    assert!(lab.json(0, "job run --due")["jobs"][0]["snapshots"].is_array());
}

#[test]
fn what_fails_after_the_snapshot_is_exit_7_and_keeps_the_rest_from_nothing() {
    ground!("btrfs");
    let lab = Lab::new(&NODE.replace("FS/replica", "FS/no/such/place"));
    lab.ends(0, "create FS/node");
    for _ in 0..3 {
        let (out, said) = lab.ends(7, "job run node");
        assert!(said.contains("job node, FS/node to FS/no/such/place: "), "{out}{said}");
    }
    assert_eq!(lab.snapshots("node").len(), 2, "the retention was not reached");
}

#[test]
fn without_a_snapshot_nothing_else_is_done_and_a_wrong_file_does_nothing_at_all() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    let (_, said) = lab.ends(2, "job run node");
    assert!(said.contains("FS/node"), "{said}");
    assert!(!lab.fs.path().join("replica").exists());
    lab.ends(0, "create FS/node");
    lab.write(&NODE.replace("last = 2", "last = 2\nlost = 3"));
    let (_, said) = lab.ends(2, "job run node");
    assert!(said.contains("config.toml:9: ") && said.contains("lost"), "{said}");
    assert_eq!(lab.snapshots("node").len(), 0);
}
