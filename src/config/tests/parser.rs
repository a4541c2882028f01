//! What is of a wrong kind.

use super::*;

#[test]
fn a_value_of_a_wrong_kind_is_told_with_its_key_and_a_good_one() {
    check_quiesce(
        "[[job.a.quiesce.service]]\npidfile = \"/run/a.pid\"\nstart = \"/usr/bin/node -daemon\"",
        expect![[r#"
            config.toml:6: job.a.quiesce.service.start: invalid type: string "/usr/bin/node -daemon", expected a list; valid is start = ["/usr/bin/node", "-daemon"]
        "#]],
    );
    check_job(
        "retention = { daily = -3 }\nlabels = { tier = 3 }",
        expect![[r#"
        config.toml:4: job.a.retention.daily: a number is needed, or the word "all"; valid is daily = 14
        config.toml:5: job.a.labels.tier: invalid type: integer "3", expected a string; valid is labels = { tier = "gold" }
    "#]],
    );
    check_job(
        "[job.a.check]\nwarn_base_days = -1\nwarn_free = []",
        expect![[r#"
        config.toml:5: job.a.check.warn_base_days: invalid value: integer "-1", expected a whole number; valid is warn_base_days = 7
        config.toml:6: job.a.check.warn_free: a number of 0 to 100 is needed; valid is warn_free = 20
    "#]],
    );
    check_job(
        "retention = 3\ndrill = []\ntarget = \"vault/a\"",
        expect![[r#"
            config.toml:4: job.a.retention: invalid type: integer "3", expected a table; valid is retention = { daily = 14 }
            config.toml:5: job.a.drill: invalid length 0, expected a table; valid is drill = { command = ["/usr/bin/node-cli", "check"] }
            config.toml:6: job.a.target: invalid type: string "vault/a", expected a list; valid is target = [{ to = "vault/node" }]
        "#]],
    );
    // What is no TOML has no keys yet, but is on a line of some table.
    check_job(
        "[job.a.hooks]\non_failure = /bin/mail",
        expect![[r#"
        config.toml:5: job.a.hooks.on_failure: string values must be quoted, expected literal string; valid is on_failure = ["/usr/local/bin/tell"]
    "#]],
    );
    check(
        "[job]\na = 3",
        expect![[r#"
        config.toml:2: job.a: invalid type: integer "3", expected a table; valid is job = { NAME = { datasets = ["tank/node"], crash_consistent = true } }
    "#]],
    );
}

#[test]
fn all_values_of_a_wrong_kind_are_told_at_once() {
    check(
        "tme_zone = \"UTC\"\n[job.a]\ndatasets = \"tank/a\"\ncrash_consistent = \"yes\"\n[[job.a.target]]\nto = \"v/a\"\n[[job.a.target]]\nto = [\"v/b\"]\n[job.b]\nschedule = 3\n[[job.b.quiesce.service]]\nprocess = { argument = \"x\" }\n",
        expect![[r#"
            config.toml:1: unknown field "tme_zone", expected one of "time_zone", "notify", "job"
            config.toml:3: job.a.datasets: invalid type: string "tank/a", expected a list; valid is datasets = ["tank/node"]
            config.toml:4: job.a.crash_consistent: invalid type: string "yes", expected a boolean; valid is crash_consistent = true
            config.toml:8: job.a.target.to: invalid type: list, expected a string; valid is to = "vault/node"
            config.toml:10: job.b.schedule: invalid type: integer "3", expected a string; valid is schedule = "0 2 * * *"
            config.toml:12: job.b.quiesce.service.process: missing field "exe"; valid is process = { exe = "/usr/bin/node", argument = "-datadir=/srv/node" }
        "#]],
    );
}

/// The keys that are known in a table.
fn known(header: &str) -> Vec<String> {
    let said = wrong(&format!("{header}\nno_such_key = 1\n"));
    let (_, list) = said.split_once("expected one of ").unwrap_or_else(|| panic!("{header}: {said}"));
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn of_each_key_there_is_a_good_value_that_is_one() {
    let tables = [
        "",
        "[notify]",
        "[job.a]",
        "[job.a.notify]",
        "[job.a.quiesce]",
        "[[job.a.quiesce.service]]",
        "[[job.a.quiesce.service]]\n[job.a.quiesce.service.process]",
        "[job.a.quiesce.probe]",
        "[job.a.flush]",
        "[job.a.flush.postgres]",
        "[job.a.trigger]",
        "[job.a.trigger.number]",
        "[job.a.trigger.emergency]",
        "[job.a.trigger.emergency.retention]",
        "[job.a.retention]",
        "[[job.a.target]]",
        "[[job.a.archive]]",
        "[[job.a.archive]]\n[job.a.archive.retention]",
        "[job.a.drill]",
        "[job.a.hooks]",
        "[job.a.check]",
    ];
    let mut doubts = Vec::new();
    for header in tables {
        for key in known(header) {
            let said = wrong(&format!("{header}\n{key} = [[1.5]]\n"));
            let is_it = |line: &&str| line.contains(&format!("{key}: "));
            let line = said.lines().find(is_it).unwrap_or_else(|| panic!("{header} {key}: {said}"));
            let (_, example) = line
                .split_once("; valid is ")
                .filter(|(_, example)| example.starts_with(&format!("{key} = ")))
                .unwrap_or_else(|| panic!("{header} {key}: {said}"));
            let loaded = load(&[("config.toml", &format!("{header}\n{example}"))]);
            let said = loaded.err().map(|error| error.to_string()).unwrap_or_default();
            // Other keys are missing, or the value goes with no other one; but it is of the right kind.
            let is_wrong =
                ["valid is", "unknown field", "missing field"].iter().any(|what| said.contains(what));
            assert!(!is_wrong || said.contains("field \"exe\""), "{header} {example}: {said}");
            let of_key = said.lines().filter(|line| line.contains(&format!(".{key}: ")));
            doubts.extend(of_key.filter(|line| !is_of_others(line)).map(|line| format!("{example}: {line}")));
        }
    }
    assert_eq!(doubts, <[String; 0]>::default());
}

/// Whether a value is wrong only by what is, or is not, beside it.
fn is_of_others(line: &str) -> bool {
    let whys = [
        "nothing",
        "is missing",
        "contradicts",
        "without",
        "no retention",
        "of this job",
        "is none of",
        "is for a",
    ];
    whys.iter().any(|why| line.contains(why))
}
