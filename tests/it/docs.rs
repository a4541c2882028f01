//! The documentation is held to what the program does: every command, option and exit code is in it.

use std::path::Path;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
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
