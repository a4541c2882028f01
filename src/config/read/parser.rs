//! What serde says of a file, in the words of those who write it: which key, and what would be valid there.

use std::ops::Range;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, Deserializer};

use super::RawFile;

/// Something that is no TOML, or has no place here.
pub(super) struct Misread {
    pub span: Range<usize>,
    /// With dots between.
    pub key: String,
    pub what: String,
}

impl Misread {
    /// Whether that key is missing as it was taken away.
    fn follows(&self, earlier: &Self) -> bool {
        let missing = self.what.strip_prefix("missing field \"").and_then(|rest| rest.split('"').next());
        missing.is_some_and(|key| earlier.key == format!("{}.{key}", self.key))
    }
}

/// What is in a file; or all values that are of a wrong kind, and keys that are not known. Of what is no TOML at all, the first.
pub(super) fn raw(text: &str) -> Result<RawFile, Vec<Misread>> {
    let mut table = DeTable::parse(text).map_err(|error| vec![not_toml(text, &error)])?;
    let mut misread = Vec::new();
    loop {
        let error = match RawFile::deserialize(Deserializer::from(table.clone())) {
            Ok(raw) if misread.is_empty() => return Ok(raw),
            Ok(_) => return Err(misread),
            Err(error) => error,
        };
        let span = error.span().unwrap_or(0..0);
        // Without it the next one is found.
        let taken = taken(table.get_mut(), &span);
        let is_over = taken.is_none();
        let wrong = not_valid(span, error, &taken.unwrap_or_default());
        if !misread.iter().any(|earlier| wrong.follows(earlier)) {
            misread.push(wrong);
        }
        if is_over {
            return Err(misread);
        }
    }
}

/// Takes the innermost key away that is there, or whose value is; these are the keys that lead to it.
fn taken(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    for (key, value) in table.iter_mut() {
        let own = vec![key.get_ref().to_string()];
        let of_value = value.span();
        let inside = match value.get_mut() {
            _ if key.span() == *span => None,
            DeValue::Table(inner) => taken(inner, span),
            DeValue::Array(items) => items.iter_mut().find_map(|item| match item.get_mut() {
                DeValue::Table(inner) => taken(inner, span),
                _ => None,
            }),
            _ => None,
        };
        if let Some(keys) = inside {
            return Some([own, keys].concat());
        }
        if key.span() == *span || (of_value.start <= span.start && span.end <= of_value.end) {
            table.remove(own[0].as_str());
            return Some(own);
        }
    }
    None
}

fn not_valid(span: Range<usize>, mut error: toml::de::Error, keys: &[String]) -> Misread {
    let what = in_words(error.message());
    if !what.starts_with("unknown field") {
        return Misread { span, key: keys.join("."), what: with_example(what, keys) };
    }
    error.set_input(None); // Then its text ends with the keys of the table, which it tells in no other way.
    let text = error.to_string();
    let told = text.trim_end().rsplit_once("\nin `").map(|(_, keys)| keys.trim_end_matches('`').to_owned());
    Misread { span, key: told.unwrap_or_default(), what }
}

/// There are no keys yet, but lines.
fn not_toml(text: &str, error: &toml::de::Error) -> Misread {
    let span = error.span().unwrap_or(0..0);
    let before = text.get(..span.start).unwrap_or_default();
    let at = before.rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(at..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let is_plain =
        |key: &&str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    let key = line.split_once('=').map(|(key, _)| key.trim()).filter(is_plain);
    let table = before.lines().rev().map(str::trim).find(|line| line.starts_with('['));
    let table = table.map(|line| line.trim_matches(['[', ']'])).filter(is_plain);
    let what = in_words(error.message());
    if what.starts_with("duplicate") {
        let header = Some(line.trim().trim_matches(['[', ']'])).filter(|_| line.trim().starts_with('['));
        let keys: Vec<_> = match header.filter(is_plain) {
            Some(header) => vec![header],
            None => table.filter(|_| key.is_some()).into_iter().chain(key).collect(),
        };
        let what = "is written twice: leave one of them out".into();
        return Misread { span, key: keys.join("."), what };
    }
    let keys: Vec<_> = key.iter().flat_map(|_| table).chain(key).flat_map(|keys| keys.split('.')).collect();
    let keys: Vec<_> = keys.into_iter().map(str::to_owned).collect();
    let what = with_example(what, &keys);
    Misread { span, key: keys.join("."), what }
}

/// Without the names that things have in this program.
fn in_words(message: &str) -> String {
    let mut text = message.trim_end().replace('`', "\"");
    if let Some((before, name)) = text.split_once("struct Raw") {
        let rest = name.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        let rest = rest.split_once(" with ").map_or(rest, |(rest, _)| rest); // So many elements, which says nothing of a table.
        text = format!("{before}a table{rest}");
    }
    let words = [
        ("sequence", "list"),
        ("a map", "a table"),
        ("expected u32", "expected a whole number"),
        ("expected u64", "expected a whole number"),
        ("expected i64", "expected a whole number"),
    ];
    words.into_iter().fold(text, |text, (theirs, ours)| text.replace(theirs, ours))
}

fn with_example(what: String, keys: &[String]) -> String {
    match example(keys) {
        Some((key, value)) => format!("{what}; valid is {key} = {value}"),
        None => what,
    }
}

/// Of the innermost key of which there is one; a job's name is none.
fn example(keys: &[String]) -> Option<(&str, &'static str)> {
    let is_name = |nth: usize| nth == 1 && keys[0] == "job";
    (0..keys.len()).rev().filter(|&nth| !is_name(nth)).find_map(|nth| {
        let key = keys[nth].as_str();
        let full = nth.checked_sub(1).map(|above| format!("{}.{key}", keys[above]));
        let of = |name: &str| VALID.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let value = full.and_then(|name| of(&name)).or_else(|| of(key))?;
        Some((key, value))
    })
}

/// One good value of each key; of those that mean something else in some table, with its name before it.
#[rustfmt::skip]
const VALID: &[(&str, &str)] = &[
    ("job", r#"{ NAME = { datasets = ["tank/node"], crash_consistent = true } }"#),
    ("time_zone", r#""Europe/Berlin""#),
    ("notify", r#"{ mail = "root" }"#),
    ("command", r#"["/usr/bin/node-cli", "ping"]"#),
    ("ping", r#""https://hc-ping.com/ID""#),
    ("mail", r#""root@example.org""#),
    ("sendmail", r#""/usr/sbin/sendmail""#),
    ("on", r#"["failure", "recovery"]"#),
    ("datasets", r#"["tank/node"]"#),
    ("recursive", "true"),
    ("not_atomic", "true"),
    ("copy", "true"),
    ("crash_consistent", "true"),
    ("labels", r#"{ tier = "gold" }"#),
    ("retention.labels", r#"["keep", "tier=gold"]"#),
    ("schedule", r#""0 2 * * *""#),
    ("overlap", r#""queue""#),
    ("queue_for", r#""1h""#),
    ("quiesce", r#"{ service = [{ unit = "node.service" }] }"#),
    ("service", r#"[{ unit = "node.service" }]"#),
    ("stop_within", r#""15m""#),
    ("start_within", r#""10m""#),
    ("snapshot_within", r#""5m""#),
    ("max_downtime", r#""2m""#),
    ("probe", r#"{ tcp = "127.0.0.1:8333" }"#),
    ("http", r#""http://127.0.0.1:20443/v2/info""#),
    ("tcp", r#""127.0.0.1:8333""#),
    ("unit", r#""node.service""#),
    ("pidfile", r#""/run/node.pid""#),
    ("process", r#"{ exe = "/usr/bin/node", argument = "-datadir=/srv/node" }"#),
    ("exe", r#""/usr/bin/node""#),
    ("argument", r#""-datadir=/srv/node""#),
    ("user", r#""node""#),
    ("container", r#""node""#),
    ("engine", r#""podman""#),
    ("socket", r#""/run/podman/podman.sock""#),
    ("status", r#"["/usr/bin/node-cli", "ping"]"#),
    ("stop", r#"["/usr/bin/node-cli", "stop"]"#),
    ("start", r#"["/usr/bin/node", "-daemon"]"#),
    ("flush", r#"{ sqlite = ["/srv/node/index.db"] }"#),
    ("sqlite", r#"["/srv/node/index.db"]"#),
    ("postgres", r#"{ connection = "port=5432" }"#),
    ("connection", r#""port=5432""#),
    ("method", r#""backup""#),
    ("after", r#"["/usr/bin/node-cli", "resume"]"#),
    ("fsfreeze", r#"["/mnt/guest"]"#),
    ("within", r#""10m""#),
    ("retention.within", r#""36h""#),
    ("trigger", r#"{ written = "10G" }"#),
    ("with_schedule", r#""both""#),
    ("window", r#""2h""#),
    ("written", r#""10G""#),
    ("age", r#""6h""#),
    ("number", r#"{ command = ["/usr/local/bin/recent-count"] }"#),
    ("path", r#""recent.count""#),
    ("at_least", "5000"),
    ("at_most_every", r#""1h""#),
    ("emergency", "{ at_least = 20000 }"),
    ("retention", "{ daily = 14 }"),
    ("last", "3"),
    ("hourly", "24"),
    ("daily", "14"),
    ("weekly", "8"),
    ("monthly", "12"),
    ("yearly", r#""all""#),
    ("names", r#"["release-*"]"#),
    ("min_age", r#""7d""#),
    ("target", r#"[{ to = "vault/node" }]"#),
    ("to", r#""vault/node""#),
    ("archive.to", r#""s3://bucket/node""#),
    ("dataset", r#""tank/node""#),
    ("intermediates", "true"),
    ("bandwidth", r#""20M""#),
    ("level", "9"),
    ("zfs_flags", r#""plain""#),
    ("archive", r#"[{ to = "s3://bucket/node" }]"#),
    ("max_chain", "30"),
    ("max_restore", r#""300%""#),
    ("sign", r#""/etc/cowsnap/node.key""#),
    ("encrypt_to", r#"["/etc/cowsnap/recipients"]"#),
    ("verify_key", r#"["/etc/cowsnap/node.pub"]"#),
    ("verify", r#""5%""#),
    ("verify_every", r#""1d""#),
    ("endpoint", r#""https://s3.example.org""#),
    ("path_style", "true"),
    ("allow_http", "true"),
    ("region", r#""eu-central-1""#),
    ("profile", r#""backup""#),
    ("storage_class", r#""STANDARD_IA""#),
    ("ca", r#""/etc/ssl/own.pem""#),
    ("drill", r#"{ command = ["/usr/bin/node-cli", "check"] }"#),
    ("expect", r#""good""#),
    ("from", r#""ssh://backup/vault/node""#),
    ("into", r#""tank""#),
    ("receive_within", r#""2h""#),
    ("identity", r#"["/etc/cowsnap/identity"]"#),
    ("network", "true"),
    ("scratch", r#"["/var/cache/node"]"#),
    ("hooks", r#"{ on_failure = ["/usr/local/bin/tell"] }"#),
    ("before_snapshot", r#"["/usr/local/bin/prepare"]"#),
    ("after_snapshot", r#"["/usr/local/bin/tell"]"#),
    ("after_replication", r#"["/usr/local/bin/tell"]"#),
    ("on_failure", r#"["/usr/local/bin/tell"]"#),
    ("check", r#"{ warn_age = "36h" }"#),
    ("warn_age", r#""36h""#),
    ("crit_age", r#""3d""#),
    ("warn_replica_age", r#""36h""#),
    ("crit_replica_age", r#""3d""#),
    ("warn_drill_age", r#""8d""#),
    ("crit_drill_age", r#""30d""#),
    ("warn_verify_age", r#""8d""#),
    ("crit_verify_age", r#""30d""#),
    ("warn_base_days", "7"),
    ("crit_base_days", "2"),
    ("warn_chain", "60"),
    ("crit_chain", "120"),
    ("warn_restore", r#""200G""#),
    ("crit_restore", r#""1T""#),
    ("warn_free", "20"),
    ("crit_free", "10"),
];
