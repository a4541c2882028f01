//! What can not be of several things that are each right by themselves.

use crate::config::{Job, Problem, Replica};

/// Jobs, and parts of them, that work against one another.
pub(super) fn contradictions(jobs: &[Job]) -> Vec<Problem> {
    let mut found = Vec::new();
    for (nth, job) in jobs.iter().enumerate() {
        found.extend(twice(&job.targets).map(|replica| {
            problem(job, "target", format!("{} is brought to {} twice", replica.dataset, replica.to))
        }));
        let archives = job.archives.iter().enumerate();
        let again = archives.filter(|(nth, it)| job.archives[..*nth].iter().any(|other| other.to == it.to));
        found.extend(again.map(|(_, it)| {
            problem(job, "archive", format!("{} is named twice: an archive is of one dataset", it.to))
        }));
        for other in &jobs[nth + 1..] {
            let rival = job.archives.iter().find(|it| other.archives.iter().any(|its| its.to == it.to));
            found.extend(rival.map(|it| {
                let what = format!("{} is an archive of job {} ({}), too", it.to, job.name, job.place);
                problem(
                    other,
                    "archive",
                    format!("{what}: an archive is of one dataset, and has one retention"),
                )
            }));
            found.extend(rival_retention(job, other));
        }
    }
    found
}

fn problem(job: &Job, key: &str, what: String) -> Problem {
    Problem { place: job.place.clone(), key: format!("job.{}.{key}", job.name), what }
}

fn twice(replicas: &[Replica]) -> impl Iterator<Item = &Replica> {
    let same = |a: &Replica, b: &Replica| a.dataset == b.dataset && a.to == b.to;
    let is_again = move |nth: usize| replicas[..nth].iter().any(|other| same(other, &replicas[nth]));
    (0..replicas.len()).filter(move |&nth| is_again(nth)).map(|nth| &replicas[nth])
}

/// Two policies for one dataset: what one keeps the other destroys.
fn rival_retention(job: &Job, other: &Job) -> Option<Problem> {
    job.retention.as_ref().and(other.retention.as_ref())?;
    let pairs = job.datasets.iter().flat_map(|a| other.datasets.iter().map(move |b| (a, b)));
    let mut shared = pairs.filter(|(a, b)| {
        a == b || (job.recursive && is_inside(b, a)) || (other.recursive && is_inside(a, b))
    });
    let (a, b) = shared.next()?;
    let inner = if is_inside(a, b) { a } else { b };
    Some(problem(
        other,
        "retention",
        format!(
            "job {} ({}) has a retention for {inner} too, and each destroys what only the other keeps: let one of them have all rules",
            job.name, job.place
        ),
    ))
}

fn is_inside(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
}
