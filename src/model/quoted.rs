//! Names in commands that a user may paste into a shell.

/// `name` as one word of a POSIX shell, whatever is in it.
pub fn quoted(name: impl std::fmt::Display) -> String {
    format!("'{}'", name.to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_the_name_that_was_quoted() {
        for name in ["tank/a@b", "it's", "'", "a b$c`d`\\", "'; false '"] {
            let script = format!("printf %s {}", quoted(name));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("a shell");
            assert_eq!(String::from_utf8_lossy(&output.stdout), name);
        }
        assert_eq!(quoted("tank/a"), "'tank/a'");
    }
}
