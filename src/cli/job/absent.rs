//! Programs that a job names and nobody could call: what it tells, asks and calls besides its services.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::Job;
use crate::plan::trigger::Ask;

/// What there is to say of them. A configuration may be written before they are installed.
pub(super) fn absent(job: &Job) -> Vec<String> {
    let absent = named(job).into_iter().filter(|(_, program)| !can_be_called(Path::new(program)));
    absent
        .map(|(key, program)| {
            let (place, name) = (&job.place, &job.name);
            format!("{place}: job.{name}.{key}: {program} is not there, or no program that can be called")
        })
        .collect()
}

/// Each by its key.
fn named(job: &Job) -> Vec<(&'static str, &str)> {
    let mut all = Vec::new();
    if let Some(notify) = &job.notify {
        all.push(("notify.command", notify.command.as_ref().and_then(|words| words.first())));
        all.push(("notify.sendmail", notify.mail.as_ref().map(|_| &notify.sendmail)));
    }
    if let Some(hooks) = &job.hooks {
        let each = [
            ("hooks.before_snapshot", &hooks.before_snapshot),
            ("hooks.after_snapshot", &hooks.after_snapshot),
            ("hooks.after_replication", &hooks.after_replication),
            ("hooks.on_failure", &hooks.on_failure),
        ];
        all.extend(each.map(|(key, words)| (key, words.as_ref().and_then(|words| words.first()))));
    }
    let source = job.trigger.as_ref().and_then(|trigger| trigger.number.as_ref());
    if let Some(Ask::Command(words)) = source.map(|source| &source.ask) {
        all.push(("trigger.number", words.first()));
    }
    all.into_iter().filter_map(|(key, program)| Some((key, program?.as_str()))).collect()
}

fn can_be_called(program: &Path) -> bool {
    fs::metadata(program).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
