//! Commands that a job calls before and after, each in a session of its own.

use std::time::Duration;

use crate::quiesce::{Error, Result, command};

/// Calls it with this added to its environment, and waits for its end. What it prints is told where errors are. It ends with the run if it may be `interrupted`.
///
/// # Errors
/// [`Error::Hook`]: it ends with something else than 0, takes longer, and is killed with all that is in its group.
pub fn call(
    hook: &'static str,
    words: &[String],
    environment: &[(String, String)],
    within: Duration,
    interrupted: bool,
) -> Result<()> {
    let why = match command::run_told(words, environment, within, interrupted) {
        Ok(Some(ended)) if ended.success() => return Ok(()),
        Ok(Some(ended)) => ended.to_string(),
        Ok(None) => format!("it took longer than {within:?}"),
        Err(why) => why,
    };
    Err(Error::Hook { hook, command: words.join(" "), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_finds_its_environment_and_is_waited_for_no_longer_than_it_may_take() {
        let call = |line: &str, within: Duration| {
            let words = ["/bin/sh", "-c", line].map(str::to_owned);
            call("before_snapshot", &words, &[("COWSNAP_JOB".into(), "a b".into())], within, true)
        };
        let long = Duration::from_secs(600);
        call("[ \"$COWSNAP_JOB\" = 'a b' ]", long).expect("it is there");
        let error = call("exit 3", long).expect_err("it fails").to_string();
        assert_eq!(error, "before_snapshot fails: /bin/sh -c exit 3: exit status: 3");
        let error = call("sleep 600", Duration::from_millis(50)).expect_err("it is killed").to_string();
        assert!(error.contains("it took longer than 50ms"), "{error}");
        // What it leaves behind is not waited for.
        call("sleep 600 & echo $! > /dev/null; kill $!", long).expect("it ends");
    }
}
