//! What is measured of jobs: from what was seen and written down, to numbers with names.

mod exposition;

use jiff::Timestamp;

pub use exposition::{Family, Kind, Labels, exposition};

use crate::model::JobRecord;
use crate::model::run::{Op, Subject, Tally};
use crate::plan::health::{self, Archive, Base, Facts, Seen, State};

/// Every name, with its kind and what it says.
const NAMES: [(&str, Kind, &str); 32] = [
    ("cowsnap_build_info", Kind::Gauge, "Always 1; its label is the version."),
    (
        "cowsnap_job_state",
        Kind::Gauge,
        "Whether a job is well: 0 ok, 1 warning, 2 critical, 3 unknown, as cowsnap check has it.",
    ),
    ("cowsnap_job_running", Kind::Gauge, "Whether a run of the job is at work."),
    ("cowsnap_job_next_run_timestamp_seconds", Kind::Gauge, "When the job is due next."),
    (
        "cowsnap_job_services_stopped",
        Kind::Gauge,
        "How many services the job has stopped and not started again so far.",
    ),
    ("cowsnap_record_since_timestamp_seconds", Kind::Gauge, "Since when the job's runs are counted."),
    ("cowsnap_runs_skipped_total", Kind::Counter, "Runs that were not begun, as something else was at work."),
    ("cowsnap_runs_unended_total", Kind::Counter, "Runs that were killed."),
    ("cowsnap_operations_total", Kind::Counter, "What was done, by its result."),
    ("cowsnap_last_success_timestamp_seconds", Kind::Gauge, "When it was done last."),
    ("cowsnap_last_failure_timestamp_seconds", Kind::Gauge, "When it failed last."),
    ("cowsnap_failures_in_a_row", Kind::Gauge, "How often it failed since it went well last."),
    ("cowsnap_last_duration_seconds", Kind::Gauge, "How long it took last time."),
    ("cowsnap_duration_seconds_total", Kind::Counter, "How long it took in all."),
    ("cowsnap_last_transferred_bytes", Kind::Gauge, "Bytes that travelled last time."),
    ("cowsnap_transferred_bytes_total", Kind::Counter, "Bytes that travelled in all."),
    (
        "cowsnap_verify_failures_total",
        Kind::Counter,
        "How often bytes were found that are not what they were.",
    ),
    ("cowsnap_last_downtime_seconds", Kind::Gauge, "How long services were down for the last snapshot."),
    ("cowsnap_downtime_seconds_total", Kind::Counter, "How long services were down in all."),
    ("cowsnap_dataset_readable", Kind::Gauge, "Whether a dataset or target could be looked at."),
    ("cowsnap_newest_snapshot_timestamp_seconds", Kind::Gauge, "When the job's newest snapshot was taken."),
    ("cowsnap_snapshots", Kind::Gauge, "How many snapshots of the job there are."),
    ("cowsnap_partial_receives", Kind::Gauge, "Receives that were begun and are not finished."),
    ("cowsnap_free_bytes", Kind::Gauge, "Bytes that can be written where a dataset or target is."),
    ("cowsnap_size_bytes", Kind::Gauge, "How large the filesystem or pool is where a dataset or target is."),
    (
        "cowsnap_target_up_to_timestamp_seconds",
        Kind::Gauge,
        "When the newest snapshot was taken that the target has, too.",
    ),
    (
        "cowsnap_target_base_state",
        Kind::Gauge,
        "What has become of what the target's next increment builds upon: 0 kept, it does not expire; 1 nothing keeps it; 2 gone.",
    ),
    (
        "cowsnap_target_base_days",
        Kind::Gauge,
        "In how many days retention lets that go if nothing is replicated any more; not there if nothing that is known does.",
    ),
    (
        "cowsnap_archive_chain_length",
        Kind::Gauge,
        "How many containers bringing back what was put into the archive last would take.",
    ),
    ("cowsnap_archive_restore_bytes", Kind::Gauge, "How many bytes would be fetched for that."),
    ("cowsnap_archive_restore_requests", Kind::Gauge, "How many objects would be read for that."),
    (
        "cowsnap_archive_verified_up_to_timestamp_seconds",
        Kind::Gauge,
        "When the newest version was taken that was in the archive when all of it was read last and was well.",
    ),
];

/// How far a target is behind its source.
const LAG: (&str, Kind, &str) = (
    "cowsnap_target_lag_seconds",
    Kind::Gauge,
    "How much older what the target has is than what its source has.",
);

/// How long services may be down.
const MAX_DOWNTIME: (&str, Kind, &str) =
    ("cowsnap_job_max_downtime_seconds", Kind::Gauge, "How long the job says that its services may be down.");

/// The names of all that can be told.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().chain([&LAG, &MAX_DOWNTIME]).map(|(name, ..)| *name)
}

/// A job, and what of it is counted from 0 on before it has ever run.
#[derive(Debug, Clone)]
pub struct Measured<'a> {
    /// What was seen of it.
    pub facts: &'a Facts,
    /// All that it does, as it is configured.
    pub subjects: Vec<Subject>,
}

/// All that is measured, in the order of the names.
pub fn families(jobs: &[Measured<'_>], version: &str, now: Timestamp) -> Vec<Family> {
    let mut all = Collected {
        families: NAMES
            .iter()
            .chain([&LAG, &MAX_DOWNTIME])
            .map(|&(name, kind, help)| Family { name, help, kind, samples: Vec::new() })
            .collect(),
    };
    all.add("cowsnap_build_info", vec![("version", version.into())], 1.0);
    for job in jobs {
        all.of_job(job, now);
        all.of_record(job);
        all.of_places(job.facts);
    }
    all.families
}

struct Collected {
    families: Vec<Family>,
}

impl Collected {
    fn add(&mut self, name: &str, labels: Labels, number: f64) {
        let family = self.families.iter_mut().find(|family| family.name == name);
        let family = family.expect("each name is among them");
        // A dataset can be brought to one place by two names; the first one is told.
        if family.samples.iter().all(|(known, _)| *known != labels) {
            family.samples.push((labels, number));
        }
    }

    fn of_job(&mut self, job: &Measured<'_>, now: Timestamp) {
        let facts = job.facts;
        let labels = || vec![("job_name", facts.job.clone())];
        let state = match health::worst(&health::findings(facts, now)) {
            State::Ok => 0.0,
            state => f64::from(state.exit_code()),
        };
        self.add("cowsnap_job_state", labels(), state);
        self.add("cowsnap_job_running", labels(), f64::from(u8::from(facts.is_at_work)));
        if let Some(next) = health::next_run(facts, now) {
            self.add("cowsnap_job_next_run_timestamp_seconds", labels(), seconds(next));
        }
        if let Some(max) = facts.down.max {
            self.add(MAX_DOWNTIME.0, labels(), max.as_secs_f64());
        }
        if let Ok(stopped) = &facts.stopped {
            self.add("cowsnap_job_services_stopped", labels(), stopped.len() as f64);
        }
    }

    /// What was never done is told as 0, so that the first time is seen as an increase. A record that can not be read is not told: it is not 0.
    fn of_record(&mut self, job: &Measured<'_>) {
        let facts = job.facts;
        let Ok(record) = &facts.record else { return };
        let labels = || vec![("job_name", facts.job.clone())];
        // The next run counts it: until then it is known nonetheless.
        let is_killed = |record: &JobRecord| record.running.is_some() && !facts.is_at_work;
        let n_killed = |record: &JobRecord| record.unended.saturating_add(u64::from(is_killed(record)));
        let of_record = record.as_ref().map_or((0, 0), |record| (record.skipped.n, n_killed(record)));
        if let Some(record) = record {
            self.add("cowsnap_record_since_timestamp_seconds", labels(), seconds(record.since));
        }
        self.add("cowsnap_runs_skipped_total", labels(), of_record.0 as f64);
        self.add("cowsnap_runs_unended_total", labels(), of_record.1 as f64);
        for subject in &job.subjects {
            let tally = record.as_ref().and_then(|record| record.tally(subject).cloned());
            self.of_tally(&facts.job, &tally.unwrap_or_else(|| Tally::new(subject.clone())));
        }
    }

    fn of_tally(&mut self, job: &str, tally: &Tally) {
        let Subject { op, dataset, target } = &tally.subject;
        let labels = || -> Labels {
            vec![
                ("job_name", job.into()),
                ("op", op.name().into()),
                ("dataset", dataset.clone().unwrap_or_default()),
                ("target", target.as_ref().or(tally.from.as_ref()).cloned().unwrap_or_default()),
            ]
        };
        for (result, n) in [("success", tally.done), ("failure", tally.failed)] {
            let mut labels = labels();
            labels.push(("result", result.into()));
            self.add("cowsnap_operations_total", labels, n as f64);
        }
        if let Some(time) = tally.last_success {
            self.add("cowsnap_last_success_timestamp_seconds", labels(), seconds(time));
        }
        if let Some(failed) = &tally.last_failure {
            self.add("cowsnap_last_failure_timestamp_seconds", labels(), seconds(failed.at));
        }
        // What was written before that was counted does not say it of what fails.
        if let Some(n) = tally.in_a_row.or_else(|| (!tally.is_failing()).then_some(0)) {
            self.add("cowsnap_failures_in_a_row", labels(), n as f64);
        }
        if tally.done + tally.failed > 0 {
            self.add("cowsnap_last_duration_seconds", labels(), tally.last_ms as f64 / 1000.0);
        }
        self.add("cowsnap_duration_seconds_total", labels(), tally.total_ms as f64 / 1000.0);
        match op {
            Op::Replicate => {
                self.add("cowsnap_last_transferred_bytes", labels(), tally.last_bytes as f64);
                self.add("cowsnap_transferred_bytes_total", labels(), tally.total_bytes as f64);
                self.add("cowsnap_verify_failures_total", labels(), tally.corrupt as f64);
            }
            Op::Quiesce => {
                if let Some(ms) = tally.last_downtime_ms {
                    self.add("cowsnap_last_downtime_seconds", labels(), ms as f64 / 1000.0);
                }
                self.add("cowsnap_downtime_seconds_total", labels(), tally.total_downtime_ms as f64 / 1000.0);
            }
            Op::Verify | Op::VerifyContent => {
                self.add("cowsnap_verify_failures_total", labels(), tally.corrupt as f64);
            }
            Op::Run | Op::Snapshot | Op::Prune | Op::Drill | Op::Recover | Op::Due | Op::Trigger => {}
        }
    }

    fn of_places(&mut self, facts: &Facts) {
        let labels = |place: &str| vec![("job_name", facts.job.clone()), ("dataset", place.to_owned())];
        for (name, seen) in facts.datasets.iter().chain(&facts.nested) {
            self.of_place(&labels(name), seen.as_ref().ok());
            let Ok(seen) = seen else { continue };
            self.add("cowsnap_snapshots", labels(name), seen.snapshots as f64);
            if let Some(newest) = seen.newest {
                self.add("cowsnap_newest_snapshot_timestamp_seconds", labels(name), seconds(newest));
            }
        }
        let of_target = |dataset: &String, to: &String| -> Labels {
            vec![("job_name", facts.job.clone()), ("dataset", dataset.clone()), ("target", to.clone())]
        };
        for health::Directory { dataset, to, space } in &facts.stores {
            self.of_space(&of_target(dataset, to), *space);
        }
        for target in &facts.targets {
            let labels = of_target(&target.dataset, &target.to);
            if let Some(seen) = &target.seen {
                self.of_place(&labels, seen.as_ref().ok());
            }
            // A run that is at work may be about to hold it.
            if let Some(base) = target.base.filter(|_| !facts.is_at_work) {
                self.add("cowsnap_target_base_state", labels.clone(), base_state(base));
            }
            if let Some(days) = target.base_days.filter(|_| !facts.is_at_work) {
                self.add("cowsnap_target_base_days", labels.clone(), days as f64);
            }
            if let Some(archive) = &target.archive {
                self.of_archive(&labels, archive);
            }
            if let Some(lag) = health::lag(target, facts) {
                self.add(LAG.0, labels.clone(), lag.as_secs_f64());
            }
            if let Some(up_to) = target.known_up_to() {
                self.add("cowsnap_target_up_to_timestamp_seconds", labels, seconds(up_to));
            }
        }
    }

    fn of_archive(&mut self, labels: &Labels, archive: &Archive) {
        if let Some(chain) = archive.chain {
            self.add("cowsnap_archive_chain_length", labels.clone(), chain.containers as f64);
            self.add("cowsnap_archive_restore_bytes", labels.clone(), chain.bytes as f64);
            self.add("cowsnap_archive_restore_requests", labels.clone(), chain.requests as f64);
        }
        if let Some(time) = archive.verified_up_to {
            let name = "cowsnap_archive_verified_up_to_timestamp_seconds";
            self.add(name, labels.clone(), seconds(time));
        }
    }

    fn of_place(&mut self, labels: &Labels, seen: Option<&Seen>) {
        self.add("cowsnap_dataset_readable", labels.clone(), f64::from(u8::from(seen.is_some())));
        let Some(seen) = seen else { return };
        for (state, n) in [("stuck", seen.stuck.len()), ("live", seen.live)] {
            let mut labels = labels.clone();
            labels.push(("state", state.into()));
            self.add("cowsnap_partial_receives", labels, n as f64);
        }
        self.of_space(labels, seen.space);
    }

    fn of_space(&mut self, labels: &Labels, space: Option<(u64, u64)>) {
        let Some((free, size)) = space else { return };
        self.add("cowsnap_free_bytes", labels.clone(), free as f64);
        self.add("cowsnap_size_bytes", labels.clone(), size as f64);
    }
}

fn base_state(base: Base) -> f64 {
    match base {
        Base::Held => 0.0,
        Base::Unheld => 1.0,
        Base::Lost => 2.0,
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

#[cfg(test)]
mod tests;
