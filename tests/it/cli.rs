//! The contract that scripts rely on, whatever the command: exit codes, where errors go, and how they look.

use std::process::{Command, Output, Stdio};

use clap::CommandFactory;

use crate::ground::{self, ground};

fn cowsnap(args: &[&str]) -> Output {
    let state = tempfile::tempdir().expect("a temporary directory");
    ground::cowsnap(state.path()).args(args).stdin(Stdio::null()).output().expect("the program starts")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("utf-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("utf-8")
}

/// The words that name each command: `["pool", "create"]`.
fn commands() -> Vec<Vec<String>> {
    fn below(command: &clap::Command, words: &[String], all: &mut Vec<Vec<String>>) {
        for sub in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
            let words = [words, &[sub.get_name().to_owned()]].concat();
            all.push(words.clone());
            below(sub, &words, all);
        }
    }
    let mut all = Vec::new();
    below(&cowsnap::cli::Cli::command(), &[], &mut all);
    assert!(all.len() > 20, "only {} commands were found", all.len());
    all
}

#[test]
fn every_command_explains_itself() {
    for words in commands() {
        let args: Vec<_> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let output = cowsnap(&args);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        let text = stdout(&output);
        assert!(text.contains(&format!("Usage: cowsnap {}", words.join(" "))), "{text}");
        let about = text.lines().next().unwrap_or_default();
        assert!(about.len() > 8 && !about.ends_with('.'), "{words:?} is described as {about:?}");
    }
}

#[test]
fn every_option_of_every_command_explains_itself() {
    let mut command = cowsnap::cli::Cli::command();
    command.build();
    for words in commands() {
        let found = words.iter().fold(&command, |c, word| c.find_subcommand(word).expect("it was listed"));
        for argument in found.get_arguments() {
            assert!(argument.get_help().is_some(), "{words:?}: {} has no help", argument.get_id());
        }
    }
}

#[test]
fn what_the_command_line_can_not_mean_is_exit_2_and_leaves_standard_output_alone() {
    let wrong: [&[&str]; 5] =
        [&[], &["frobnicate"], &["--frobnicate"], &["completions", "tcsh"], &["man", "a", "b"]];
    for args in wrong {
        let output = cowsnap(args);
        assert_eq!((output.status.code(), stdout(&output)), (Some(2), ""), "{args:?}");
        assert!(!stderr(&output).is_empty(), "{args:?}");
    }
}

#[test]
fn the_version_is_the_packages() {
    let output = cowsnap(&["--version"]);
    assert_eq!(stdout(&output), format!("cowsnap {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_error_says_what_was_attempted_then_why() {
    let output = cowsnap(&["man", "/dev/null/pages"]);
    assert_eq!(output.status.code(), Some(2));
    let lines: Vec<_> = stderr(&output).lines().collect();
    assert_eq!(lines, ["error: cannot create /dev/null/pages", "caused by: Not a directory (os error 20)"]);
}

#[test]
fn with_json_an_error_is_one_object_on_standard_error() {
    let output = cowsnap(&["--json", "man", "/dev/null/pages"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(2), ""));
    let object: serde_json::Value = serde_json::from_str(stderr(&output)).expect("one object");
    let wanted = serde_json::json!({ "error": {
        "message": "cannot create /dev/null/pages", "causes": ["Not a directory (os error 20)"], "hint": null,
        "class": "usage", "exit_code": 2,
    } });
    assert_eq!(object, wanted);
}

#[test]
fn a_pipe_that_is_closed_early_is_no_error() {
    let mut child = ground::cowsnap(std::env::temp_dir().as_path())
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = cowsnap(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        for words in commands() {
            let last = words.last().expect("a command has a name");
            assert!(stdout(&output).contains(last.as_str()), "{shell} does not complete {words:?}");
        }
    }
}

#[test]
fn the_bash_completions_are_bash() {
    ground::ground!("bash");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let script = folder.path().join("cowsnap");
    std::fs::write(&script, cowsnap(&["completions", "bash"]).stdout).expect("write the script");
    let check = format!(". {} && complete -p cowsnap", script.display());
    let output = ground::run("bash", &["-uc", check.as_str()]);
    assert!(stdout(&output).contains("_cowsnap"), "{}", stdout(&output));
}

#[test]
fn every_command_has_a_man_page_without_errors() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let pages = folder.path().join("new/man1");
    let output = cowsnap(&["man", pages.to_str().expect("utf-8")]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    for words in [vec![vec![]], commands()].concat() {
        let name = [&["cowsnap".to_owned()], words.as_slice()].concat().join("-");
        let page = pages.join(format!("{name}.1"));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{name}.1: {error}"));
        assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{name}.1: {text}");
    }
    ground::ground!("mandoc");
    for page in std::fs::read_dir(&pages).expect("the folder") {
        let page = page.expect("an entry").path();
        let lint = Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(&page).output();
        let lint = lint.expect("mandoc runs");
        assert!(lint.status.success(), "{}: {}", page.display(), stdout(&lint));
    }
}

#[test]
fn a_stream_is_not_awaited_from_a_terminal() {
    ground!("script");
    let verify = format!("{} stream verify -", env!("CARGO_BIN_EXE_cowsnap"));
    let output = std::process::Command::new("script").args(["-qec", &verify, "/dev/null"]).output();
    let output = output.expect("runs");
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(stdout(&output).contains("standard input is a terminal"), "{}", stdout(&output));
}

#[test]
fn a_directory_in_place_of_a_stream_is_a_wrong_name_and_no_defect() {
    assert_eq!(cowsnap(&["stream", "verify", "/"]).status.code(), Some(2));
}

#[test]
fn where_nothing_is_mounted_no_directory_is_asked_for_to_unmount_it() {
    for lazy in [&[][..], &["--lazy"]] {
        let output = cowsnap(&[&["unmount", "/not/there"][..], lazy].concat());
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(stderr(&output), "error: a mount at /not/there does not exist\n");
    }
}

#[test]
fn a_name_of_no_embedded_pool_is_for_zfs_to_know() {
    let state = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_cowsnap"))
        .args(["snapshot", "no-such-pool/a b"])
        .env("COWSNAP_STATE_DIR", state.path())
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let here = std::path::Path::new("/dev/zfs").exists();
    assert_eq!(output.status.code(), Some(if here { 2 } else { 6 }), "{said}");
    assert!(said.contains("no-such-pool"), "{said}");
    if !here {
        assert!(said.contains("zfs: ") && said.contains("cowsnap pool create"), "{said}");
    }
}

#[test]
fn what_can_not_be_said_stops_nothing() {
    let state = tempfile::tempdir().expect("a folder");
    let full = std::fs::File::options().write(true).open("/dev/full").expect("there");
    for words in [&["-vv", "list", "no-such-pool/a"][..], &["--json", "list", "no-such-pool/a"]] {
        let status = Command::new(env!("CARGO_BIN_EXE_cowsnap"))
            .args(words)
            .env("COWSNAP_STATE_DIR", state.path())
            .stderr(full.try_clone().expect("another descriptor"))
            .status()
            .expect("the program starts");
        assert!(matches!(status.code(), Some(2 | 6)), "{words:?}: {status}");
    }
}
