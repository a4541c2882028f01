//! `cowsnap metrics`, through the program: what it writes is read strictly, and by promtool where there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::ground::ground;
use crate::job::{Lab, NODE};

/// Samples by name and labels, as Prometheus' documentation of the format has it; panics at what it would refuse.
pub fn parsed(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'), "the last line ends, too");
    let (mut samples, mut types) = (BTreeMap::new(), BTreeMap::new());
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a text");
            assert!(!help.is_empty() && !types.contains_key(name), "{line}: once, and with a text");
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(name == current && ["counter", "gauge"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}: only counters end in _total");
            types.insert(name.to_owned(), kind);
        } else {
            let (name, number) = sample(line);
            assert!(name.starts_with(&current) && types.contains_key(&current), "{line}: not of {current}");
            assert!(samples.insert(name, number).is_none(), "{line}: is there twice");
        }
    }
    samples
}

/// `NAME{KEY="VALUE",…} NUMBER`
fn sample(line: &str) -> (String, f64) {
    let (series, number) = line.rsplit_once(' ').expect("a number behind a blank");
    let name = series.split('{').next().unwrap_or_default();
    assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
    let mut rest = series[name.len()..].strip_prefix('{').map(|rest| rest.strip_suffix('}').expect("}"));
    let mut keys = BTreeSet::new();
    while let Some(labels) = rest.filter(|labels| !labels.is_empty()) {
        let (key, after) = labels.split_once("=\"").expect("a key and a quote");
        assert!(key.chars().all(|c| c.is_ascii_lowercase() || c == '_') && keys.insert(key), "{line}: {key}");
        let mut escaped = false;
        let end = after.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let after = &after[end.expect("the quote is closed") + 1..];
        rest = Some(after.strip_prefix(',').unwrap_or(after));
    }
    (series.to_owned(), number.parse().expect("a number"))
}

pub fn of(samples: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> f64 {
    let mut found = samples.iter().filter(|(series, _)| {
        series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label))
    });
    let first = found.next().unwrap_or_else(|| panic!("no {name} {labels:?} in {samples:#?}"));
    assert!(found.next().is_none(), "{name} {labels:?} is there twice");
    *first.1
}

#[test]
fn counters_begin_at_0_and_tell_what_runs_did() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    let metrics = || parsed(&format!("{}\n", lab.ends(0, "metrics").0));
    let before = metrics();
    let operations = "cowsnap_operations_total";
    let results = before.iter().filter(|(series, _)| series.starts_with(operations));
    assert_eq!(
        results.map(|(_, number)| *number).collect::<Vec<_>>(),
        [0.0; 14],
        "run, snapshot, replicate, prune, verify, verify-content, due"
    );
    for name in ["cowsnap_transferred_bytes_total", "cowsnap_runs_skipped_total"] {
        assert_eq!(of(&before, name, &[]), 0.0);
    }
    for op in ["replicate", "verify", "verify-content"] {
        assert_eq!(of(&before, "cowsnap_verify_failures_total", &[&format!("op=\"{op}\"")]), 0.0);
    }
    assert_eq!(of(&before, "cowsnap_job_state", &["job_name=\"node\""]), 2.0, "it has no snapshot");
    assert!(!before.keys().any(|series| series.starts_with("cowsnap_last_success")), "it never was");
    lab.ends(0, "job run node");
    let after = metrics();
    for op in ["run", "snapshot", "replicate", "prune"] {
        let op = format!("op=\"{op}\"");
        assert_eq!(of(&after, operations, &[&op, "result=\"success\""]), 1.0);
        assert_eq!(of(&after, operations, &[&op, "result=\"failure\""]), 0.0);
        assert!(of(&after, "cowsnap_last_success_timestamp_seconds", &[&op]) > 1.7e9);
    }
    assert!(of(&after, "cowsnap_transferred_bytes_total", &["target="]) > 0.0);
    assert_eq!(of(&after, "cowsnap_target_lag_seconds", &[]), 0.0);
    assert_eq!((of(&after, "cowsnap_job_state", &[]), of(&after, "cowsnap_snapshots", &[])), (0.0, 1.0));
    assert!(!after.keys().any(|series| series.contains("20")), "a snapshot's name is a label: {after:#?}");
    // Once more, no series is new: each run adds to what is there.
    lab.ends(0, "job run node");
    let again = metrics();
    assert_eq!(
        again.keys().filter(|s| !s.contains("failure")).count(),
        after.keys().filter(|s| !s.contains("failure")).count()
    );
    assert_eq!(of(&again, operations, &["op=\"run\"", "result=\"success\""]), 2.0);
}

#[test]
fn a_file_is_replaced_whole_and_anybody_may_read_it() {
    ground!("btrfs");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    let folder = lab.fs.outside().join("textfile");
    fs::create_dir(&folder).expect("made");
    let file = folder.join("cowsnap.prom");
    fs::write(&file, "old").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
    let (out, _) = lab.ends(0, &format!("metrics --output {}", file.display()));
    assert_eq!(out, "");
    assert!(parsed(&fs::read_to_string(&file).expect("read")).len() > 10);
    assert_eq!(file.metadata().expect("there").permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1, "something was left beside it");
    // What can not be looked at is told as such, and not as 0.
    lab.write(&NODE.replace("FS/node", "FS/no\\\\\\\"\\nthing"));
    lab.ends(0, &format!("metrics --output {}", file.display()));
    let samples = parsed(&fs::read_to_string(&file).expect("read"));
    assert_eq!(of(&samples, "cowsnap_dataset_readable", &["thing\"}", "no\\\\\\\"\\nthing"]), 0.0);
    assert!(!samples.keys().any(|series| series.starts_with("cowsnap_snapshots")), "{samples:#?}");
    let kept = fs::read(&file).expect("read");
    lab.write("[job.node]\nlost = 3\n");
    lab.ends(2, &format!("metrics --output {}", file.display()));
    assert_eq!(fs::read(&file).expect("read"), kept, "a configuration that is wrong took the numbers away");
    lab.write(NODE);
    lab.ends(2, &format!("metrics --output {}/no/such/folder.prom", folder.display()));
}

#[test]
fn promtool_finds_nothing_wrong() {
    ground!("btrfs", "promtool");
    let lab = Lab::new(NODE);
    lab.ends(0, "create FS/node");
    lab.ends(0, "job run node");
    let (text, _) = lab.ends(0, "metrics");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().expect("it starts");
    child.stdin.take().expect("piped").write_all(format!("{text}\n").as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every word that begins as our names do.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("cowsnap_")).map(str::to_owned).collect()
}

#[test]
fn the_dashboard_and_the_page_name_what_there_is() {
    let document = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        fs::read_to_string(path).expect("it is there")
    };
    let known: BTreeSet<String> = cowsnap::plan::metrics::names().map(str::to_owned).collect();
    let dashboard = document("docs/grafana.json");
    let object: serde_json::Value = serde_json::from_str(&dashboard).expect("it is JSON");
    let panels = object["panels"].as_array().expect("panels");
    assert!(
        panels.len() > 5 && panels.iter().all(|panel| panel["targets"][0]["expr"].is_string()),
        "{panels:?}"
    );
    let shown = names_in(&dashboard);
    assert!(shown.len() > 8, "{shown:?}");
    // What tells of a failure to come is not left to those who read the page.
    assert!(
        ["failures_in_a_row", "target_base_state"]
            .iter()
            .all(|name| shown.contains(&format!("cowsnap_{name}")))
    );
    assert!(shown.is_subset(&known), "there is no {:?}", shown.difference(&known));
    let told = names_in(&document("docs/monitoring.md"));
    assert_eq!(told, known, "docs/monitoring.md names each once, and no other");
}

#[test]
fn what_is_no_exposition_is_noticed() {
    let head = "# HELP x_total X.\n# TYPE x_total counter\n";
    assert_eq!(parsed(&format!("{head}x_total{{a=\"\\\"b\"}} 1\n")).len(), 1);
    for wrong in ["x_total 1\n", "# HELP x_total X.\n# TYPE x_total gauge\nx_total 1\n"] {
        assert!(std::panic::catch_unwind(|| parsed(wrong)).is_err(), "{wrong}");
    }
    for wrong in
        ["x_total 1", "x_total 1\nx_total 2\n", "x_total{a=\"b} 1\n", "x_total{a=\"b\",a=\"c\"} 1\n", "y 1\n"]
    {
        assert!(std::panic::catch_unwind(|| parsed(&format!("{head}{wrong}"))).is_err(), "{wrong}");
    }
}
