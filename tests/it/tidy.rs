//! The house rules that a compiler does not know: who may use whom, and where what may stand.
//!
//! Each rule is a function of a file's path and text, so that `every_rule_can_fail` feeds it what it must refuse.

use std::path::Path;

/// Who may use whom, never back: (module, the modules below it). `Class` is the one word that all share.
const BELOW: [(&str, &[&str]); 11] = [
    ("model", &[]),
    ("plan", &["model"]),
    ("stream", &["model", "Class"]),
    ("sys", &["Class"]),
    ("endpoint", &["stream", "model", "sys", "Class"]),
    ("exec", &["plan", "endpoint", "stream", "model", "sys", "error", "Class", "Error", "Result"]),
    ("pool", &["exec", "plan", "endpoint", "stream", "model", "sys", "error", "Class", "Error", "Result"]),
    ("config", &["pool", "plan", "stream", "model", "Class"]),
    ("quiesce", &["plan", "model", "sys", "error", "Class"]),
    (
        "daemon",
        &[
            "config", "quiesce", "exec", "plan", "endpoint", "model", "sys", "error", "Class", "Error",
            "Result",
        ],
    ),
    ("error", &["config", "quiesce", "endpoint", "stream", "model", "plan", "sys", "Class"]),
];

/// What may not stand where, and why.
struct Rule {
    within: &'static str,
    except: &'static str,
    words: &'static str,
    why: &'static str,
}

const RULES: [Rule; 11] = [
    Rule {
        within: "src/model/ src/plan/",
        except: "",
        words: "std::fs std::net std::process std::env std::thread Instant SystemTime now( rustix:: nix:: libc::",
        why: "nouns and decisions have no clock, file, process or network",
    },
    Rule {
        within: "src/stream/",
        except: "",
        words: "std::fs std::net std::process std::env rustix:: nix:: libc::",
        why: "streams are Read and Write; never a path or a kernel",
    },
    Rule { within: "src/", except: "src/sys/", words: "unsafe", why: "unsafe stands only in sys" },
    Rule {
        within: "src/",
        except: "src/cli/",
        words: "println! print! eprintln! eprint! dbg! io::stdout io::stderr",
        why: "only the command line prints",
    },
    Rule {
        within: "src/",
        except: "src/main.rs",
        words: "process::exit process::abort",
        why: "only main ends the process",
    },
    Rule {
        within: "src/ tests/",
        except: "",
        words: "#[allow #![allow",
        why: "#[expect(.., reason)] instead",
    },
    Rule {
        within: "src/",
        except: "src/sys/lzc/",
        words: "libzetta libnv nvpair_sys libzetta_zfs_core_sys",
        why: "OpenZFS is called in sys::lzc alone",
    },
    Rule {
        within: "src/",
        except: "src/endpoint/overlay/fuse/adapter/",
        words: "fuser",
        why: "fuser is behind one adapter",
    },
    Rule {
        within: "src/",
        except: "",
        words: "ZfsOpen3 DelegatingZfsEngine ZpoolOpen3 libzetta::zpool CreateDatasetRequest lzc_initialize \
                lzc_send_progress libzfs_core_fini",
        why: "docs/adr/0003-zfs-calls.md",
    },
    Rule { within: "src/", except: "", words: "todo! unimplemented! unwrap()", why: "unfinished" },
    Rule { within: "src/", except: "", words: "super::super::", why: "a path around the layers" },
];

const MAX_LINES: usize = 700;

/// What `text` at `path` does against the rules.
fn violations(path: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let mut found = Vec::new();
    let is_below = |folders: &str| folders.split_whitespace().any(|folder| path.starts_with(folder));
    for Rule { words, why, .. } in RULES.iter().filter(|r| is_below(r.within) && !is_below(r.except)) {
        let guilty = words.split_whitespace().filter(|word| holds_word(&code, word));
        found.extend(guilty.map(|word| format!("{path}: {word}: {why}")));
    }
    let module = path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
    if let Some((_, below)) = BELOW.iter().find(|(name, _)| path.starts_with("src/") && *name == module) {
        let beyond =
            crate_paths(&code).into_iter().filter(|used| used != module && !below.contains(&used.as_str()));
        found.extend(beyond.map(|used| format!("{path}: crate::{used}: {module} may not use it")));
    }
    for mark in [concat!("TO", "DO"), concat!("FIX", "ME")] {
        if text.contains(mark) {
            found.push(format!("{path}: {mark}: what is left to do is an issue, not a comment"));
        }
    }
    if path.starts_with("src/")
        && path != "src/model/quoted.rs"
        && text.split("'{'").any(|t| t.contains("'{"))
    {
        found.push(format!("{path}: '{{}}': a name that may hold a quote: model::quoted makes it one word"));
    }
    if text.lines().count() >= MAX_LINES {
        found.push(format!("{path}: {} lines: split it", text.lines().count()));
    }
    found
}

/// Whether `word` stands in `code` and is not part of a longer one.
fn holds_word(code: &str, word: &str) -> bool {
    let longer = |c: char| c.is_alphanumeric() || c == '_';
    let stands_alone = |at: usize| {
        let ends = !word.ends_with(longer) || !code[at + word.len()..].starts_with(longer);
        !code[..at].ends_with(longer) && ends
    };
    code.match_indices(word).any(|(at, _)| stands_alone(at))
}

/// `text` without its unit tests, comments and what stands in quotes.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    let mut code = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '\'' if rest.starts_with("'\"'") => 3,
            'r' if rest.starts_with("r#\"") => rest.find("\"#").map_or(rest.len(), |end| end + 2),
            '"' => end_of_quote(rest),
            _ => 0,
        };
        if skipped == 0 {
            code.push(c);
        }
        rest = &rest[skipped.max(c.len_utf8())..];
    }
    code
}

/// Where the quoted text that `rest` begins with is over.
fn end_of_quote(rest: &str) -> usize {
    let mut escaped = true; // The opening quote is not the closing one.
    for (at, c) in rest.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// The first name of every `crate::…` path, those in braces too; `error::Class` and what gives one count as `Class`.
fn crate_paths(code: &str) -> Vec<String> {
    let code: String = code
        .replace("error::Class", "Class")
        .replace("error::class_of_io", "Class")
        .split_whitespace()
        .collect();
    let mut names = Vec::new();
    for after in code.split("crate::").skip(1) {
        let Some(group) = after.strip_prefix('{') else {
            names.push(first_name(after));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (at, c) in group.char_indices() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                _ if start => {
                    names.push(first_name(&group[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    names
}

fn first_name(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Every Rust file below `folder`: its path from the package's root, and its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the package") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                found.push((name, std::fs::read_to_string(&path).expect("a text")));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_sources_keep_the_house_rules() {
    let files: Vec<_> = ["src", "tests"].into_iter().flat_map(sources).collect();
    assert!(files.len() > 50, "only {} files were found", files.len());
    let found: Vec<_> =
        files.iter().filter(|(p, _)| p != "tests/it/tidy.rs").flat_map(|(p, t)| violations(p, t)).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// The properties that constants of these files name, as often as they do.
fn properties<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let named = |line: &'a str| line.contains("const ").then(|| line.split_once("= \"cowsnap:")).flatten();
    texts.flat_map(str::lines).filter_map(named).map(|(_, rest)| rest.trim_end_matches("\";")).collect()
}

/// Two meanings of one property overwrite each other: how a chain was sent was lost so once.
#[test]
fn each_property_of_zfs_has_one_meaning() {
    let twice = |mut named: Vec<&str>| {
        named.sort_unstable();
        named.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].to_owned())
    };
    let made_up = "pub const A: &str = \"cowsnap:sent\";\nconst B: &str = \"cowsnap:sent\";";
    assert_eq!(twice(properties([made_up].into_iter())), Some("sent".to_owned()));
    let sources = sources("src/endpoint/zfs");
    let named = properties(sources.iter().map(|(_, text)| text.as_str()));
    assert!(named.len() > 8, "{named:?}");
    assert_eq!(twice(named), None);
}

#[test]
fn every_rule_can_fail() {
    let mark = concat!("// TO", "DO: later");
    let long = "\n".repeat(MAX_LINES);
    let bad = [
        ("src/model/name.rs", "use std::fs::File;"),
        ("src/model/version.rs", "let now = Timestamp::now();"),
        ("src/model/version.rs", "use crate::stream::reader;"),
        ("src/plan/retain.rs", "let at = std::time::Instant::now();"),
        ("src/plan/retain.rs", "use crate::{model::Guid, endpoint::Error};"),
        ("src/plan/retain.rs", "use crate::{model::{Guid, Version}, exec};"),
        ("src/stream/reader.rs", "use std::fs;"),
        ("src/stream/reader.rs", "fn f() -> crate::endpoint::Error {}"),
        ("src/stream/reader.rs", "use crate::Error;"),
        ("src/sys/pipe.rs", "use crate::model::Guid;"),
        ("src/sys/lzc/mod.rs", "use libzetta::zfs::ZfsOpen3;"),
        ("src/endpoint/zfs/dataset.rs", "use libzetta::zfs::ZfsLzc;"),
        ("src/endpoint/overlay/fuse/tree.rs", "use fuser::INodeNo;"),
        ("src/endpoint/btrfs/send.rs", "use crate::exec::Event;"),
        ("src/endpoint/btrfs/send.rs", "use crate::{Class, Result};"),
        ("src/endpoint/mod.rs", "unsafe { call() }"),
        ("src/exec/send.rs", "use crate::cli::Context;"),
        ("src/exec/send.rs", r#"println!("{}", 1);"#),
        ("src/pool.rs", "std::process::exit(1);"),
        ("src/cli/send.rs", "std::process::exit(1);"),
        ("src/cli/send.rs", "#[allow(dead_code)]"),
        ("tests/it/send.rs", "#[allow(dead_code)]"),
        ("src/cli/send.rs", "todo!()"),
        ("src/model/name.rs", "use super::super::endpoint;"),
        ("src/cli/send.rs", r#"format!("umount '{}'", at.display())"#),
        ("src/cli/send.rs", mark),
        ("src/cli/send.rs", &long),
    ];
    for (path, text) in bad {
        assert!(!violations(path, text).is_empty(), "{path} was let through: {text}");
    }
    let good = [
        ("src/model/name.rs", "use crate::model::version::Guid; // not std::fs"),
        (
            "src/endpoint/mod.rs",
            r#"use crate::{error::Class, model::Guid, sys}; let s = "unsafe \" println!";"#,
        ),
        ("src/sys/btrfs.rs", "unsafe { call() }"),
        ("src/exec/send.rs", "#[cfg(test)]\nmod tests {\n println!() }"),
        ("src/cli/send.rs", "println!()"),
        ("src/cli/send.rs", "text.split('{')"),
    ];
    for (path, text) in good {
        assert_eq!(violations(path, text), [""; 0], "{path} was refused: {text}");
    }
}
