//! The documentation is held to what the program does: every command, option and exit code is in it.

use std::path::Path;

use crate::ground::ground;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every command below `command` with its full name, the command itself first.
fn commands(command: &clap::Command, name: &str) -> Vec<(String, clap::Command)> {
    let mut all = vec![(name.to_owned(), command.clone())];
    let visible = command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help");
    all.extend(visible.flat_map(|c| commands(c, &format!("{name} {}", c.get_name()))));
    all
}

/// The text between the heading that names `command` and the next heading.
fn section<'a>(document: &'a str, command: &str) -> Option<&'a str> {
    let heading = format!("# `{command}`\n");
    let (_, after) = document.split_once(&heading)?;
    Some(after.split("\n#").next().unwrap_or(after))
}

/// What of `command`, its options and its operands, `document` does not say.
fn undocumented(document: &str, name: &str, command: &clap::Command) -> Vec<String> {
    let Some(section) = section(document, name) else { return vec![format!("no section: {name}")] };
    let arguments = command.get_arguments().filter(|a| !a.is_hide_set());
    let words = arguments.filter_map(|a| match a.get_long() {
        Some("help" | "version") => None,
        Some(long) => Some(format!("--{long}")),
        None => a.get_value_names().map(|names| names[0].to_string()),
    });
    words.filter(|word| !section.contains(word)).map(|word| format!("{name}: {word}")).collect()
}

#[test]
fn every_command_and_option_is_in_cli_md() {
    let text = document("docs/CLI.md");
    let all = commands(&<cowsnap::cli::Cli as clap::CommandFactory>::command(), "cowsnap");
    assert!(all.len() > 20, "only {} commands were found", all.len());
    let missing: Vec<_> = all.iter().flat_map(|(name, command)| undocumented(&text, name, command)).collect();
    assert!(missing.is_empty(), "docs/CLI.md lacks\n{}\n", missing.join("\n"));
}

#[test]
fn an_undocumented_command_or_option_is_noticed() {
    let command =
        clap::Command::new("x").arg(clap::Arg::new("level").long("level")).arg(clap::Arg::new("DIR"));
    assert_eq!(undocumented("# `y`\n--level DIR", "x", &command), ["no section: x"]);
    assert_eq!(undocumented("# `x`\nDIR\n# `y`\n--level", "x", &command), ["x: --level"]);
    assert_eq!(undocumented("# `x`\n--level DIR", "x", &command), [""; 0]);
}

#[test]
fn every_exit_code_is_in_exit_codes_md() {
    use cowsnap::Class::*;
    let text = document("docs/EXIT-CODES.md");
    for class in [Internal, Usage, Conflict, Corrupt, Unreachable, Denied, Partial] {
        let row = format!("| {} | {} |", class.exit_code(), format!("{class:?}").to_lowercase());
        assert!(text.contains(&row), "docs/EXIT-CODES.md has no row that begins {row:?}");
    }
    assert!(text.contains("| 0 | done |"));
}

/// A command of a page, and what the page says that it prints.
#[derive(Debug, PartialEq)]
struct Example {
    command: String,
    output: Vec<String>,
}

/// The commands of a page in their order: `$ ` lines of its `console` blocks, continued where they end in a backslash, and
/// `<!-- run: … -->` lines, which readers do not see and whose output is not looked at. The block behind `<!-- file: NAME -->` is
/// written to that file.
fn examples(page: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let mut in_block = false;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("<!-- file: ").and_then(|rest| rest.strip_suffix(" -->")) {
            found.push(file(name, &mut lines));
            continue;
        }
        let hidden = line.strip_prefix("<!-- run: ").and_then(|rest| rest.strip_suffix(" -->"));
        match (in_block, line) {
            (false, _) if hidden.is_some() => {
                found.extend(hidden.map(|c| Example { command: c.into(), output: vec!["…".into()] }));
            }
            (_, "```console") => in_block = true,
            (_, "```") => in_block = false,
            (true, line) if line.starts_with("$ ") => {
                found.push(Example { command: line[2..].into(), output: Vec::new() });
            }
            (true, line) => {
                let last = found.last_mut().expect("a block begins with a command");
                match last.command.strip_suffix('\\') {
                    Some(begun) if last.output.is_empty() => last.command = format!("{begun}{}", line.trim()),
                    _ => last.output.push(line.into()),
                }
            }
            (false, _) => {}
        }
    }
    found
}

/// The command that writes the next block to a file.
fn file<'a>(name: &str, lines: &mut impl Iterator<Item = &'a str>) -> Example {
    assert!(lines.next().is_some_and(|line| line.starts_with("```")), "no block follows on the name {name}");
    let content: String = lines.take_while(|&line| line != "```").map(|line| format!("{line}\n")).collect();
    let command = format!(
        "mkdir -p \"$(dirname {name})\" && cat >{name} <<'END OF THE FILE'\n{content}END OF THE FILE"
    );
    Example { command, output: Vec::new() }
}

/// What stands on a page before its first section, and these sections of it.
fn sections(page: &str, headings: &[&str]) -> String {
    let mut parts = page.split("\n## ");
    let begin = parts.next().unwrap_or_default().to_owned();
    let parts: Vec<_> = parts.collect();
    headings.iter().fold(begin, |text, heading| {
        let is_it = |part: &&&str| part.strip_prefix(heading).is_some_and(|rest| rest.starts_with('\n'));
        let part = parts.iter().find(is_it).unwrap_or_else(|| panic!("no section {heading}"));
        format!("{text}\n## {part}\n")
    })
}

/// Whether `lines` are what `patterns` say: `…` stands for any text, alone on a line for any lines.
/// Numbers and the width of spaces are not compared.
fn is_as_shown(patterns: &[String], lines: &[&str]) -> bool {
    match (patterns, lines) {
        ([], []) => true,
        ([first, rest @ ..], lines) if first == "…" => {
            (0..=lines.len()).any(|skipped| is_as_shown(rest, &lines[skipped..]))
        }
        ([first, rest @ ..], [line, lines @ ..]) => line_is_as_shown(first, line) && is_as_shown(rest, lines),
        _ => false,
    }
}

fn line_is_as_shown(pattern: &str, line: &str) -> bool {
    let (pattern, line) = (without_numbers(pattern), without_numbers(line));
    let mut rest = line.as_str();
    let parts: Vec<_> = pattern.split('…').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return pattern == line };
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// `text` with single spaces, `#` for every word with a digit in it, and one unit of sizes: they differ from run to run.
fn without_numbers(text: &str) -> String {
    let in_word = |c: char| c.is_alphanumeric() || "._:-".contains(c);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut result = String::new();
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        let end = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
        match &rest[..end] {
            "" => result.push(c),
            "KiB" | "MiB" | "GiB" => result.push('B'),
            word if word.contains(|c: char| c.is_ascii_digit()) => result.push('#'),
            word => result.push_str(word),
        }
        rest = &rest[if end == 0 { c.len_utf8() } else { end }..];
    }
    result
}

/// Where a page's commands run: its own state directory and its own `/srv`, both gone with it.
struct Stage {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
    /// What else the pages call otherwise than it is here.
    also: Vec<(&'static str, String)>,
}

impl Stage {
    fn new() -> Self {
        let folder =
            tempfile::Builder::new().prefix("cowsnap-docs-").tempdir().expect("a temporary directory");
        for name in ["srv", "state", "work"] {
            std::fs::create_dir(folder.path().join(name)).expect("mkdir");
        }
        Self { folder, env: Vec::new(), also: Vec::new() }
    }

    /// (what the pages call it, where it is)
    fn places(&self) -> Vec<(&'static str, String)> {
        let place = |name| self.folder.path().join(name).to_str().expect("utf-8").to_owned();
        let places = [("/var/lib/cowsnap", place("state")), ("/srv/", place("srv") + "/")];
        places.into_iter().chain(self.also.iter().cloned()).collect()
    }

    /// What a page has started, and not stopped as it failed: processes that were given a path of here.
    fn end_what_runs(&self) {
        use rustix::process::{Pid, Signal, kill_process};
        let root = self.folder.path().to_str().expect("utf-8").as_bytes();
        let all = std::fs::read_dir("/proc").expect("read").flatten();
        for pid in all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // Overlays are destroyed below; a guard would start what is ended here.
            let is_ours = line.starts_with(env!("CARGO_BIN_EXE_cowsnap").as_bytes());
            let is_guard = line.windows(11).any(|part| part == b"\0job\0guard\0");
            if (!is_ours || is_guard) && line.windows(root.len()).any(|part| part == root) {
                // It may have ended by itself.
                let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
            }
        }
    }

    /// Runs `command` as a shell does, and returns what a terminal would show.
    fn run(&self, command: &str) -> (bool, String) {
        let places = self.places();
        let placed = places.iter().fold(command.to_owned(), |c, (name, place)| c.replace(name, place));
        let program = Path::new(env!("CARGO_BIN_EXE_cowsnap")).parent().expect("it is in a folder");
        let own = self.folder.path().join("work/bin");
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{}:{path}", own.display(), program.display());
        let output = std::process::Command::new("bash")
            .args(["-o", "pipefail", "-c", &format!("exec 2>&1\n{placed}")])
            .env("PATH", path)
            .env("COWSNAP_STATE_DIR", &places[0].1)
            .env("COWSNAP_OVERLAY_HOME", self.folder.path().join("overlays"))
            .env("COWSNAP_SSH", self.folder.path().join("work/ssh"))
            .env_remove("RUST_LOG")
            .envs(self.env.iter().cloned())
            .current_dir(self.folder.path().join("work"))
            .stdin(std::process::Stdio::null())
            .output()
            .expect("bash runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let shown = places.iter().fold(text, |text, (name, place)| text.replace(place.as_str(), name));
        (output.status.success(), shown)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What a page has left running in the background writes its number down.
        self.run("[ ! -e background.pid ] || kill $(cat background.pid)");
        self.end_what_runs();
        let pools = self.folder.path().join("state/pools");
        for pool in std::fs::read_dir(pools).into_iter().flatten().flatten() {
            let name = pool.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
            self.run(&format!("cowsnap pool destroy {name} --yes"));
        }
        let root = self.folder.path().display();
        self.run("cowsnap overlay destroy --all --force");
        self.run(&format!("grep -o ' {root}[^ ]*' /proc/self/mounts | sort -r | xargs -r umount -l"));
        // A directory that was adopted is immutable until that is undone.
        self.run(&format!("find {root}/srv -xdev -type d -exec chattr -i {{}} +"));
    }
}

/// Runs a page from its top to its end, on a machine where nothing of it exists yet.
pub fn run_page(name: &str) {
    run_page_with(name, &[]);
}

/// As [`run_page`], with these variables in the environment of its commands.
pub fn run_page_with(name: &str, env: &[(&'static str, &'static str)]) {
    run_page_placed(name, env, Vec::new());
}

/// As [`run_page_with`], where this is what some words of the page mean here.
pub fn run_page_placed(name: &str, env: &[(&'static str, &'static str)], also: Vec<(&'static str, String)>) {
    run_page_in(name, env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(), also);
}

fn run_page_in(name: &str, env: Vec<(String, String)>, also: Vec<(&'static str, String)>) {
    let mut stage = Stage::new();
    stage.env = env;
    stage.also = also;
    run_text(name, &document(name), &stage);
}

/// Runs some sections of a page, after what stands before the first one.
pub fn run_sections(name: &str, headings: &[&str]) {
    run_text(name, &sections(&document(name), headings), &Stage::new());
}

fn run_text(name: &str, text: &str, stage: &Stage) {
    let examples = examples(text);
    assert!(!examples.is_empty(), "{name} shows no command");
    for Example { command, output } in examples {
        let (went_well, shown) = stage.run(&command);
        assert!(went_well, "{name}: $ {command}\n{shown}");
        let lines: Vec<_> = shown.lines().collect();
        let patterns: Vec<_> = output.into_iter().collect();
        assert!(
            is_as_shown(&patterns, &lines),
            "{name}: $ {command}\nthe page says\n{}\nthe program says\n{shown}",
            patterns.join("\n")
        );
    }
}

macro_rules! pages {
    ($($test:ident: $page:literal,)+) => {
        $(#[test]
        fn $test() {
            ground!("btrfs", "b3sum", "jq");
            run_page($page);
        })+
    };
}

pages! {
    what_the_readme_shows_is_so: "README.md",
    what_snapshot_a_node_shows_is_so: "docs/snapshot-a-node.md",
    what_send_and_receive_shows_is_so: "docs/send-and-receive.md",
    what_restore_shows_is_so: "docs/restore.md",
    what_replication_shows_is_so: "docs/replication.md",
    what_retention_shows_is_so: "docs/retention.md",
    what_jobs_shows_is_so: "docs/jobs.md",
    what_monitoring_shows_is_so: "docs/monitoring.md",
}

#[test]
fn what_the_daemons_page_shows_is_so() {
    ground!("btrfs", "jq", "curl");
    run_page("docs/daemon.md");
}

#[test]
fn what_bootstrap_shows_is_so() {
    ground!("btrfs", "jq", "curl", "b3sum", "zstd", "python3");
    run_page("docs/bootstrap.md");
}

#[test]
fn what_archives_shows_is_so() {
    ground!("btrfs");
    let server = crate::s3::Server::start();
    run_page_in("docs/archive.md", server.env(), vec![("s3://backups/", server.url("b") + "/")]);
}

#[test]
fn what_trees_shows_is_so() {
    ground!("xfs");
    run_page("docs/trees.md");
}

#[test]
fn examples_are_the_commands_of_console_blocks_with_their_output() {
    let page = "text\n```sh\n$ not this\n```\n<!-- run: true -->\n```console\n$ a \\\n    b\nout\n\n$ c\n```\n$ nor this\n";
    let example = |command: &str, output: &[&str]| Example {
        command: command.into(),
        output: output.iter().map(|line| line.to_string()).collect(),
    };
    assert_eq!(examples(page), [example("true", &["…"]), example("a b", &["out", ""]), example("c", &[])]);
}

#[test]
fn a_named_block_is_a_file_and_sections_are_run_by_themselves() {
    let page = "begin\n## A\n<!-- file: d/x -->\n```sh\n$ no command\n```\n## A b\n```console\n$ b\n```\n## C\nend\n";
    assert_eq!(sections(page, &["C", "A b"]), "begin\n## C\nend\n\n\n## A b\n```console\n$ b\n```\n");
    let stage = Stage::new();
    let commands = examples(&sections(page, &["A"]));
    assert_eq!(commands.len(), 1);
    assert_eq!(stage.run(&commands[0].command), (true, String::new()));
    assert_eq!(stage.run("cat d/x"), (true, "$ no command\n".into()));
}

#[test]
fn a_page_that_shows_what_is_not_so_is_noticed() {
    let is_so = |patterns: &[&str], lines: &[&str]| {
        is_as_shown(&patterns.iter().map(|p| p.to_string()).collect::<Vec<_>>(), lines)
    };
    assert!(is_so(&["a  b", "took … ms", "…", "end"], &["a b", "took 17 ms", "x", "y", "end"]));
    assert!(is_so(&["…"], &[]) && is_so(&["…b…d"], &["abcd"]) && is_so(&[], &[]));
    assert!(!is_so(&["a"], &["b"]) && !is_so(&["a"], &[]) && !is_so(&[], &["a"]));
    assert!(
        !is_so(&["took … ms"], &["took 17 s"]) && !is_so(&["a…b…"], &["ac"]) && !is_so(&["…", "z"], &["a"])
    );
}
