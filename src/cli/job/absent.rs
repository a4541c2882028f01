//! Programs that a job names and nobody could call: found while there is time to mend it.

use std::path::Path;

use crate::config::{Job, Problem};
use crate::plan::trigger::Ask;
use crate::quiesce;

/// Of its services: each run is refused, as nobody could say whether they run, or start them again.
pub(super) fn of_services(job: &Job) -> Vec<Problem> {
    let services = job.quiesce.iter().flat_map(|quiesce| &quiesce.services).enumerate();
    let found = services.filter_map(|(nth, service)| {
        let error = quiesce::is_known(service).and_then(|()| quiesce::is_callable(service)).err()?;
        placed(job, nth, &error)
    });
    found.collect()
}

/// Of an error that is about what the configuration names: where that is.
pub(super) fn placed(job: &Job, nth: usize, error: &quiesce::Error) -> Option<Problem> {
    let key = match error {
        quiesce::Error::NoProgram { .. } => "process.exe",
        quiesce::Error::NotCallable { key, .. } => key,
        _ => return None,
    };
    let place = job.service_places.get(nth).unwrap_or(&job.place).clone();
    Some(Problem { place, key: format!("job.{}.quiesce.service.{key}", job.name), what: error.to_string() })
}

/// Of what it tells, asks and calls besides: what there is to say of them. A configuration may be written before they are installed.
pub(super) fn of_others(job: &Job) -> Vec<String> {
    let wrong = named(job).into_iter().filter_map(|(key, program)| {
        let why = quiesce::can_be_called(Path::new(program)).err()?;
        Some(format!("{}: job.{}.{key}: {why}", job.place, job.name))
    });
    wrong.collect()
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
