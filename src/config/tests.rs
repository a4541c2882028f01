use expect_test::{Expect, expect};

use super::*;
use crate::model::Flushed;
use crate::model::flush::Method;

mod archive;
mod check;
mod parser;
mod trigger;

/// What is read from files of these names and texts.
fn load(files: &[(&str, &str)]) -> Result<Config, Error> {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("conf.d")).expect("a folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("written");
    }
    Config::load(&folder.path().join("config.toml"))
}

/// What is said of a file.
fn wrong(text: &str) -> String {
    let Err(Error::Wrong { problems }) = load(&[("config.toml", text)]) else {
        panic!("not refused: {text}")
    };
    let said = problems.iter().map(|problem| {
        let folder = format!("{}/", problem.place.file.parent().expect("a folder").display());
        format!("{problem}\n").replace(&folder, "")
    });
    said.collect()
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&wrong(text));
}

/// A whole job, with these lines in it.
fn job(lines: &str) -> String {
    format!("[job.a]\ndatasets = [\"tank/a\"]\ncrash_consistent = true\n{lines}\n")
}

fn check_job(lines: &str, expected: Expect) {
    check(&job(lines), expected);
}

#[test]
fn a_job_is_what_its_file_says() {
    let text = r#"
time_zone = "Europe/Berlin"
[job.node]
datasets = ["tank/node", "/srv/wallet"]
recursive = true
not_atomic = true
copy = true
crash_consistent = true
labels = { tier = "gold" }
schedule = "0 2 * * *"
[job.node.retention]
last = 3
daily = 7
yearly = "all"
within = "36h"
labels = ["keep", "tier=gold"]
names = ["release-*"]
min_age = "1d"
[[job.node.target]]
dataset = "tank/node"
to = "ssh://backup/vault/node"
intermediates = true
bandwidth = "20M"
level = 9
zfs_flags = "plain"
[[job.node.target]]
dataset = "/srv/wallet"
to = "/mnt/usb/wallet"
"#;
    let config = load(&[("config.toml", text)]).expect("a configuration");
    let job = config.job("node").expect("it is there");
    assert_eq!(
        (job.place.line, job.datasets.as_slice()),
        (3, ["tank/node".into(), "/srv/wallet".into()].as_slice())
    );
    assert!(job.recursive && job.not_atomic && job.copy);
    assert_eq!(job.labels, [("tier".to_owned(), "gold".to_owned())]);
    let schedule = job.schedule.as_ref().expect("a schedule");
    assert_eq!(
        (schedule.to_string().as_str(), schedule.zone().iana_name()),
        ("0 2 * * *", Some("Europe/Berlin"))
    );
    let retention = job.retention.as_ref().expect("a policy");
    assert_eq!(
        (retention.last, retention.per.len(), retention.labels.len(), retention.names.len()),
        (3, 2, 2, 1)
    );
    assert!(
        retention.per.values().any(|&count| count == usize::MAX)
            && retention.within.is_some()
            && retention.min_age.is_some()
    );
    let [first, second] = job.targets.as_slice() else { panic!("two targets") };
    assert_eq!((first.bandwidth, first.level, first.intermediates), (Some(20 << 20), Some(9), true));
    assert_eq!(
        (second.dataset.as_str(), second.to.as_str(), second.level),
        ("/srv/wallet", "/mnt/usb/wallet", None)
    );
    assert!(first.zfs_flags.is_some());
}

#[test]
fn the_folder_beside_the_file_belongs_to_it_and_a_name_is_there_once() {
    let plain = |name: &str, rest: &str| {
        format!(
            "[job.{name}]\ndatasets = [\"tank/{name}\"]\ncrash_consistent = true\nschedule = \"@daily\"\n{rest}"
        )
    };
    let (b, a, c) = (plain("b", ""), plain("a", "time_zone = \"UTC\"\n"), plain("c", ""));
    let main = format!("time_zone = \"Asia/Tokyo\"\n{b}");
    let other = format!("time_zone = \"Europe/Paris\"\n{c}");
    let config = load(&[
        ("config.toml", &main),
        ("conf.d/1.toml", &a),
        ("conf.d/2.toml", &other),
        ("conf.d/.hidden.toml", "nonsense"),
        ("conf.d/README", "nonsense"),
        ("conf.d/3.toml", &plain("d", "")),
    ]);
    let config = config.expect("a configuration");
    let zones: Vec<_> = config
        .jobs
        .iter()
        .map(|job| format!("{} {}", job.name, job.zone.iana_name().expect("a name")))
        .collect();
    assert_eq!(zones, ["a UTC", "b Asia/Tokyo", "c Europe/Paris", "d Asia/Tokyo"]);
    assert_eq!(config.files.len(), 4);
    assert_eq!(config.chosen(&[]).expect("all").len(), 4);
    let one = config.chosen(&["c".into()]).expect("it is there");
    assert_eq!(one[0].place.line, 2);
    let error = config.chosen(&["x".into()]).expect_err("no such job");
    assert_eq!(error.to_string(), "no job is called x; there are: a, b, c, d");
    let Err(Error::Wrong { problems }) = load(&[("conf.d/1.toml", &a), ("conf.d/2.toml", &a)]) else {
        panic!("twice")
    };
    assert!(
        problems[0].to_string().contains("conf.d/2.toml:1: job.a: another job is called so: "),
        "{problems:?}"
    );
    assert!(problems[0].what.ends_with("conf.d/1.toml:1"), "{problems:?}");
}

#[test]
fn no_file_and_one_that_can_not_be_read_are_told_apart() {
    let none = load(&[]).expect_err("there is nothing");
    assert_eq!(none.class(), Class::Usage);
    assert!(none.hint().is_some_and(|hint| hint.starts_with("cowsnap job init")));
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("config.toml")).expect("a folder");
    let unread = Config::load(&folder.path().join("config.toml")).expect_err("a folder");
    assert!(matches!(unread, Error::Read { .. }) && unread.hint().is_none(), "{unread}");
    assert_eq!(unread.class(), Class::Usage);
    let file = folder.path().join("plain");
    fs::write(&file, job("")).expect("written");
    fs::write(folder.path().join("conf.d"), "").expect("written");
    assert!(matches!(Config::load(&file), Err(Error::Read { .. })));
    fs::remove_file(folder.path().join("conf.d")).expect("removed");
    assert_eq!(Config::load(&file).expect("good").jobs.len(), 1);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("changed");
    assert!(Config::load(&file).expect_err("open to all").to_string().contains("chmod o-w"));
}

#[test]
fn what_is_no_toml_and_unknown_keys_are_placed_and_told_what_is_known() {
    check(
        "a = ",
        expect![[r#"
            config.toml:1: a: string values must be quoted, expected literal string
        "#]],
    );
    check(
        "[jobs.a]\n",
        expect![[r#"
        config.toml:1: unknown field "jobs", expected one of "time_zone", "notify", "job"
    "#]],
    );
    check_job(
        "recursiv = true",
        expect![[r#"
            config.toml:4: job.a: unknown field "recursiv", expected one of "datasets", "recursive", "not_atomic", "copy", "crash_consistent", "quiesce", "notify", "flush", "labels", "schedule", "time_zone", "trigger", "overlap", "queue_for", "retention", "target", "archive", "drill", "hooks", "check"
        "#]],
    );
    check_job(
        "recursive = \"yes\"",
        expect![[r#"
            config.toml:4: job.a.recursive: invalid type: string "yes", expected a boolean; valid is recursive = true
        "#]],
    );
    check_job(
        "[job.a.retention]\ndayly = 7",
        expect![[r#"
        config.toml:5: job.a.retention: unknown field "dayly", expected one of "last", "hourly", "daily", "weekly", "monthly", "yearly", "within", "labels", "names", "min_age"
    "#]],
    );
    check_job(
        "[job.a.retention]\n\ndaily = -1",
        expect![[r#"
            config.toml:6: job.a.retention.daily: a number is needed, or the word "all"; valid is daily = 14
        "#]],
    );
    check_job(
        "[[job.a.target]]\nto = \"vault/a\"\nkeep = 3",
        expect![[r#"
        config.toml:6: job.a.target: unknown field "keep", expected one of "to", "dataset", "intermediates", "bandwidth", "level", "zfs_flags"
    "#]],
    );
    check_job(
        "schedule = \"0 2 * * *\"\nschedule = \"0 3 * * *\"",
        expect![[r#"
            config.toml:5: job.a.schedule: is written twice: leave one of them out
        "#]],
    );
    check_job(
        "[job.a.retention]\nlast = 3\n[job.a]\ncopy = true",
        expect![[r#"
            config.toml:6: job.a: is written twice: leave one of them out
        "#]],
    );
    check_job(
        "checks = []",
        expect![[r#"
            config.toml:4: job.a: unknown field "checks", expected one of "datasets", "recursive", "not_atomic", "copy", "crash_consistent", "quiesce", "notify", "flush", "labels", "schedule", "time_zone", "trigger", "overlap", "queue_for", "retention", "target", "archive", "drill", "hooks", "check"
        "#]],
    );
}

#[test]
fn a_bad_value_is_told_what_a_good_one_is() {
    check_job(
        "time_zone = \"Berlin\"\nschedule = \"0 2 * *\"",
        expect![[r#"
            config.toml:4: job.a.time_zone: "Berlin": no such zone is known; one is called CONTINENT/CITY, or UTC
            config.toml:5: job.a.schedule: "0 2 * *" is no schedule (Invalid pattern: Pattern must have 5 fields when seconds are disallowed); valid are five fields (minute, hour, day, month, weekday) such as "0 2 * * *", "*/15 * * * *" or "30 4 * * SUN", or one of @hourly, @daily, @weekly, @monthly, @yearly, or "@every 15m"
        "#]],
    );
    check_job(
        "[job.a.retention]\nlast = 0\ndaily = \"many\"\nwithin = \"6m\"\nnames = [\"a/b\"]\nlabels = [\"=x\"]",
        expect![[r#"
            config.toml:5: job.a.retention.last: 0 keeps nothing: leave the key out
            config.toml:6: job.a.retention.daily: a number is needed, or the word "all"
            config.toml:7: job.a.retention.within: hours are the least here; m is minutes, and mo is months: 36h, 7d, 6mo
            config.toml:8: job.a.retention.names: no snapshot's name holds '/': a pattern is of letters, digits, space and _ . : -, with * and ?
            config.toml:9: job.a.retention.labels: a label is KEY or KEY=VALUE
        "#]],
    );
    check_job(
        "[[job.a.target]]\nto = \"ssh://-x/a\"\nlevel = 99\nbandwidth = \"1\"\nzfs_flags = \"fast\"",
        expect![[r#"
            config.toml:5: job.a.target.to: "ssh://-x/a" is no peer's address: the host's name has letters, digits and ._-, and does not begin with -; valid is ssh://[USER@]HOST[:PORT]/TARGET
            config.toml:6: job.a.target.level: zstd's levels are 1 to 22
            config.toml:7: job.a.target.bandwidth: less than 4K per second brings nothing to its end
            config.toml:8: job.a.target.zfs_flags: "fast" is not what a ZFS stream can be: plain, or of raw, large-blocks, embedded, compressed with + between them
        "#]],
    );
    check(
        "[job.a]\ndatasets = [\n  \"tank/a\",\n  \"./b\",\n  \"ssh://h/tank\",\n  \"tank/a@b\",\n]\n",
        expect![[r#"
            config.toml:1: job.a.crash_consistent: is missing: crash_consistent = true states that nothing is stopped, and that a snapshot may be what a power cut would have left; [job.NAME.quiesce] names what is stopped instead, [job.NAME.flush] what is told to write down what it has in memory
            config.toml:4: job.a.datasets: "./b" is a relative path: a dataset is POOL/NAME, a directory is an absolute path
            config.toml:5: job.a.datasets: ssh://h/tank is on another machine, which takes its snapshots itself; here, POOL/NAME or an absolute path
            config.toml:6: job.a.datasets: "tank/a@b" names a snapshot where a dataset is needed
        "#]],
    );
    check(
        "[job.\"a b\"]\ndatasets = []\ncrash_consistent = false\n",
        expect![[r#"
        config.toml:1: job.a b: a job's name is of letters, digits and _ . -, begins with a letter or digit, and is no longer than 64
        config.toml:2: job.a b.datasets: names nothing: ["POOL/NAME"] or ["/absolute/path"]
        config.toml:3: job.a b.crash_consistent: crash_consistent = true states that nothing is stopped, and that a snapshot may be what a power cut would have left; [job.NAME.quiesce] names what is stopped instead, [job.NAME.flush] what is told to write down what it has in memory
    "#]],
    );
    check(
        "[job.a]\n",
        expect![[r#"
        config.toml:1: job.a.crash_consistent: is missing: crash_consistent = true states that nothing is stopped, and that a snapshot may be what a power cut would have left; [job.NAME.quiesce] names what is stopped instead, [job.NAME.flush] what is told to write down what it has in memory
        config.toml:1: job.a.datasets: is missing: ["POOL/NAME"] or ["/absolute/path"]
    "#]],
    );
}

#[test]
fn what_contradicts_itself_is_refused() {
    check_job(
        "time_zone = \"UTC\"",
        expect![[r#"
        config.toml:4: job.a.time_zone: says nothing without schedule or retention
    "#]],
    );
    check_job(
        "labels = { job = \"b\" }",
        expect![[r#"
        config.toml:4: job.a.labels: every snapshot of a job has the label job=NAME; others need another key
    "#]],
    );
    check_job(
        "[job.a.retention]\nmin_age = \"1d\"",
        expect![[r#"
        config.toml:4: job.a.retention: keeps nothing: at least one of last, hourly, daily, weekly, monthly, yearly, within, labels, names
    "#]],
    );
    check_job(
        "[[job.a.target]]\nintermediates = true\n[[job.a.target]]\nto = \"tank/a\"\n[[job.a.target]]\ndataset = \"tank/x\"\nto = \"v/x\"",
        expect![[r#"
            config.toml:4: job.a.target.to: is missing: "POOL/NAME", "/absolute/path" or "ssh://[USER@]HOST[:PORT]/TARGET"
            config.toml:7: job.a.target.to: tank/a is one of the job's own datasets
            config.toml:9: job.a.target.dataset: tank/x is not of this job: one of tank/a
        "#]],
    );
    check_job(
        "[[job.a.target]]\nto = \"v/a\"\n[[job.a.target]]\nto = \"v/a\"",
        expect![[r#"
        config.toml:1: job.a.target: tank/a is brought to v/a twice
    "#]],
    );
    check(
        "[job.a]\ndatasets = [\"tank/a\", \"tank/b\", \"tank/a\"]\ncrash_consistent = true\n[[job.a.target]]\nto = \"v/a\"\n",
        expect![[r#"
            config.toml:2: job.a.datasets: tank/a is named twice
            config.toml:4: job.a.target.dataset: is missing, as the job has several: one of tank/a, tank/b, tank/a
        "#]],
    );
}

#[test]
fn what_is_one_thing_by_two_spellings_or_would_go_into_itself_is_refused() {
    let one = |datasets: &str, to: &str| {
        format!(
            "[job.a]\ndatasets = {datasets}\ncrash_consistent = true\nrecursive = true\n[[job.a.target]]\nto = \"{to}\"\n"
        )
    };
    check(
        &one(r#"["/a/n"]"#, "/a/x/../n/inside"),
        expect![[r#"
        config.toml:1: job.a.target: /a/x/../n/inside is in /a/n, all of whose datasets the job takes (recursive): it would be brought into itself
    "#]],
    );
    let two = "[job.a.retention]\nlast = 5\n[job.b]\ndatasets = [\"/a/./n/\"]\ncrash_consistent = true\n[job.b.retention]\nlast = 1\n";
    check(
        &format!("{}{two}", one(r#"["/a/n"]"#, "/b")),
        expect![[r#"
        config.toml:9: job.b.retention: job a (config.toml:1) has a retention for /a/./n/ too, and each destroys what only the other keeps: let one of them have all rules
    "#]],
    );
    let spelt = "[job.a]\ndatasets = [\"/a/n\", \"/a/../a/n\"]\ncrash_consistent = true\n";
    check(
        spelt,
        expect![[r#"
        config.toml:1: job.a.datasets: /a/../a/n and /a/n are one dataset
    "#]],
    );
    let to = "[job.b]\ndatasets = [\"/c\"]\ncrash_consistent = true\n[[job.b.target]]\nto = \"/b/\"\n";
    check(
        &format!("{}{to}", one(r#"["/a/n"]"#, "/b")),
        expect![[r#"
        config.toml:7: job.b.target: /b/ is a target of job a (config.toml:1) for /a/n, too: a target is of one dataset
    "#]],
    );
    // One dataset may be brought to one place by two jobs, at different times.
    let same = "[job.b]\ndatasets = [\"/a/n\"]\ncrash_consistent = true\n[[job.b.target]]\nto = \"/b\"\n";
    let config = load(&[("config.toml", &format!("{}{same}", one(r#"["/a/n"]"#, "/b")))]);
    assert_eq!(config.expect("no contradiction").jobs.len(), 2);
}

#[test]
fn two_policies_for_one_dataset_are_refused_as_each_would_destroy_what_the_other_keeps() {
    let two = |recursive: &str, b: &str| {
        format!(
            "{}[job.a.retention]\nlast = 3\n[job.b]\ndatasets = [\"{b}\"]\ncrash_consistent = true\n[job.b.retention]\ndaily = 3\n",
            job(recursive)
        )
    };
    check(
        &two("", "tank/a"),
        expect![[r#"
        config.toml:7: job.b.retention: job a (config.toml:1) has a retention for tank/a too, and each destroys what only the other keeps: let one of them have all rules
    "#]],
    );
    check(
        &two("recursive = true", "tank/a/b"),
        expect![[r#"
        config.toml:7: job.b.retention: job a (config.toml:1) has a retention for tank/a/b too, and each destroys what only the other keeps: let one of them have all rules
    "#]],
    );
    for (recursive, b) in [("", "tank/a/b"), ("recursive = true", "tank/ab"), ("recursive = true", "tank/b")]
    {
        let config = load(&[("config.toml", &two(recursive, b))]);
        assert_eq!(config.expect("no contradiction").jobs.len(), 2);
    }
}

/// A whole job that stops something, with these lines in its table.
fn check_quiesce(lines: &str, expected: Expect) {
    check(&format!("[job.a]\ndatasets = [\"tank/a\"]\n[job.a.quiesce]\n{lines}\n"), expected);
}

#[test]
fn what_is_stopped_is_a_process_or_what_commands_know() {
    let text = r#"
[job.a]
datasets = ["tank/a"]
[job.a.quiesce]
stop_within = "15m"
max_downtime = "30s"
probe = { tcp = "127.0.0.1:8333" }
[[job.a.quiesce.service]]
pidfile = "/run/a.pid"
start = ["/usr/bin/a", "-daemon"]
[[job.a.quiesce.service]]
process = { exe = "/usr/bin/b", argument = "-datadir=/srv/b", user = "b" }
start = ["/usr/bin/b", "-daemon"]
[[job.a.quiesce.service]]
container = "c.1"
engine = "docker"
[[job.a.quiesce.service]]
status = ["/bin/s"]
stop = ["/bin/p"]
start = ["/bin/t"]
"#;
    let config = load(&[("config.toml", text)]).expect("a configuration");
    let quiesce = config.jobs[0].quiesce.as_ref().expect("it is there");
    let told: Vec<_> = quiesce.services.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "the process of /run/a.pid",
            "the process of /usr/bin/b -datadir=/srv/b",
            "container c.1",
            "what /bin/t starts"
        ]
    );
    assert_eq!(
        (
            quiesce.stop_within.as_secs(),
            quiesce.start_within.as_secs(),
            quiesce.max_downtime.map(|t| t.as_secs())
        ),
        (900, 600, Some(30))
    );
    assert_eq!(quiesce.probe.as_ref().map(ToString::to_string).as_deref(), Some("127.0.0.1:8333"));
}

#[test]
fn what_can_not_be_stopped_or_started_is_told() {
    check_quiesce(
        "",
        expect![[r#"
            config.toml:3: job.a.quiesce.service: is missing: a service is unit, or container and engine, or pidfile and start, or process and start, or status, stop and start
        "#]],
    );
    check_quiesce(
        "stop_within = \"10\"\nprobe = { http = \"x\" }\n[[job.a.quiesce.service]]\npidfile = \"a.pid\"\nstart = [\"node\"]",
        expect![[r#"
            config.toml:4: job.a.quiesce.stop_within: a time is a number and ms, s, m or h, of more than 0 and up to 24h: 30s, 10m, 1h30m
            config.toml:5: job.a.quiesce.probe: "x" is no address to get: http://HOST[:PORT][/PATH]
            config.toml:7: job.a.quiesce.service.pidfile: "a.pid" is a relative path: an absolute one is needed
            config.toml:8: job.a.quiesce.service.start: a command is a program's absolute path and its arguments: ["/usr/bin/node", "-daemon"]
        "#]],
    );
    check_quiesce(
        "probe = { }\n[[job.a.quiesce.service]]\npidfile = \"/a.pid\"\n[[job.a.quiesce.service]]\nstop = [\"/a\"]\nstart = []",
        expect![[r#"
            config.toml:4: job.a.quiesce.probe: one of { http = "http://HOST:PORT/PATH" }, { tcp = "HOST:PORT" }, { command = ["/PROGRAM", "ARGUMENT"] }
            config.toml:5: job.a.quiesce.service: a service is unit, or container and engine, or pidfile and start, or process and start, or status, stop and start
            config.toml:9: job.a.quiesce.service.start: a command is a program's absolute path and its arguments: ["/usr/bin/node", "-daemon"]
        "#]],
    );
    check_quiesce(
        "[[job.a.quiesce.service]]\npidfile = \"/a\"\nstart = [\"/b\"]\n[[job.a.quiesce.service]]\npidfile = \"/a\"\nstart = [\"/b\"]",
        expect![[r#"
            config.toml:7: job.a.quiesce.service: is there twice
        "#]],
    );
    check_quiesce(
        "[[job.a.quiesce.service]]\nunit = \"a.service\"\nstart = [\"/b\"]",
        expect![[r#"
            config.toml:4: job.a.quiesce.service: a service is unit, or container and engine, or pidfile and start, or process and start, or status, stop and start
        "#]],
    );
    let units =
        ["a", "a.scope", "a*.service", "a@.service", "a@b.service", "/srv/a.service", ".service", "@.timer"];
    let text = units.map(|name| format!("[[job.a.quiesce.service]]\nunit = \"{name}\"\n")).concat();
    check_quiesce(
        &text,
        expect![[r#"
            config.toml:5: job.a.quiesce.service.unit: "a" is no unit that can be stopped and started: it ends with one of .service, .socket, .timer, .path
            config.toml:7: job.a.quiesce.service.unit: "a.scope" is no unit that can be stopped and started: it ends with one of .service, .socket, .timer, .path
            config.toml:9: job.a.quiesce.service.unit: "a*.service" is no unit's name: `systemd-escape` makes one of a path, and no pattern is read
            config.toml:11: job.a.quiesce.service.unit: "a@.service" is a template: an instance of it is "a@NAME.service"
            config.toml:15: job.a.quiesce.service.unit: "/srv/a.service" is no unit's name: `systemd-escape` makes one of a path, and no pattern is read
            config.toml:17: job.a.quiesce.service.unit: ".service" is no unit's name: `systemd-escape` makes one of a path, and no pattern is read
            config.toml:19: job.a.quiesce.service.unit: "@.timer" is no unit's name
        "#]],
    );
    check(
        "[job.a]\ndatasets = [\"tank/a\"]\ncrash_consistent = true\n[[job.a.quiesce.service]]\npidfile = \"/p\"\nstart = [\"/a\"]\n",
        expect![[r#"
            config.toml:3: job.a.crash_consistent: contradicts quiesce, which stops what writes: leave one of them out
        "#]],
    );
}

#[test]
fn what_is_frozen_is_named_by_where_it_is_mounted() {
    let flush = |lines: &str| format!("[job.a]\ndatasets = [\"tank/a\"]\n[job.a.flush]\n{lines}\n");
    let config = load(&[("config.toml", &flush("within = \"5s\"\nfsfreeze = [\"/mnt/a\", \"/mnt/b\"]"))]);
    let config = config.expect("a configuration");
    let quiesce = config.jobs[0].quiesce.as_ref().expect("it is there");
    assert_eq!(quiesce.frozen(), [Path::new("/mnt/a"), Path::new("/mnt/b")]);
    assert_eq!((quiesce.stop_within.as_secs(), quiesce.goes_on()), (5, true));
    check(
        &flush("fsfreeze = []"),
        expect![[r#"
            config.toml:4: job.a.flush.fsfreeze: names no filesystem: ["/mnt/of/a/disk"]
        "#]],
    );
    check(
        &flush("fsfreeze = [\"/a\", \"/a\"]"),
        expect![[r#"
            config.toml:4: job.a.flush.fsfreeze: is there twice
        "#]],
    );
    check(
        &flush("fsfreeze = [\"a\"]"),
        expect![[r#"
            config.toml:4: job.a.flush.fsfreeze: "a" is a relative path: an absolute one is needed
        "#]],
    );
    let method = |text: &str| {
        let config = load(&[("config.toml", &flush(&format!("postgres = {{ method = \"{text}\" }}")))]);
        config.map(|config| config.jobs[0].flush.clone().expect("there").what)
    };
    for (text, expected) in [("checkpoint", Method::Checkpoint), ("backup", Method::Backup)] {
        let found = method(text).expect("it is right");
        assert!(
            matches!(found, Flushed::Postgres { method: Some(found), .. } if found == expected),
            "{found:?}"
        );
    }
    let said = wrong(&flush("postgres = { method = \"dump\" }"));
    assert!(said.contains("\"dump\" is neither \"checkpoint\" nor \"backup\""), "{said}");
    check(
        &flush("fsfreeze = [\"/a\"]\nafter = [\"/b\"]"),
        expect![[r#"
            config.toml:3: job.a.flush: one of sqlite = ["/path/of/a.db"], postgres = { connection = "port=5432" }, fsfreeze = ["/mnt/of/a/disk"], command = ["/PROGRAM", "ARGUMENT"] with after
        "#]],
    );
}

#[test]
fn hooks_are_commands_each_at_its_moment() {
    let config = load(&[(
        "config.toml",
        &job(
            "[job.a.hooks]\nbefore_snapshot = [\"/bin/a\", \"b\"]\non_failure = [\"/bin/c\"]\nwithin = \"3s\"",
        ),
    )]);
    let hooks = config.expect("a configuration").jobs[0].hooks.clone().expect("they are there");
    let words = |all: &[&str]| Some(all.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    assert_eq!(
        (hooks.before_snapshot, hooks.after_snapshot, hooks.on_failure, hooks.within.as_secs()),
        (words(&["/bin/a", "b"]), None, words(&["/bin/c"]), 3)
    );
    check_job(
        "[job.a.hooks]\nbefore_snapshot = [\"a\"]\nafter_replication = [\"/bin/b\"]\nwithin = \"3\"\n",
        expect![[r#"
            config.toml:5: job.a.hooks.before_snapshot: a command is a program's absolute path and its arguments: ["/usr/bin/node", "-daemon"]
            config.toml:6: job.a.hooks.after_replication: says nothing without a target
            config.toml:7: job.a.hooks.within: a time is a number and ms, s, m or h, of more than 0 and up to 24h: 30s, 10m, 1h30m
        "#]],
    );
    check_job(
        "[job.a.hooks]\nwithin = \"3s\"",
        expect![[r#"
            config.toml:4: job.a.hooks: calls nothing: at least one of before_snapshot, after_snapshot, after_replication, on_failure
        "#]],
    );
    check_job(
        "[job.a.hooks]\nafter = [\"/a\"]",
        expect![[r#"
            config.toml:5: job.a.hooks: unknown field "after", expected one of "before_snapshot", "after_snapshot", "after_replication", "on_failure", "within"
        "#]],
    );
}
