//! What can not be of several things that are each right by themselves.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::config::{Job, Problem, Replica};

/// Jobs, and parts of them, that work against one another.
pub(super) fn contradictions(jobs: &[Job]) -> Vec<Problem> {
    let mut found = Vec::new();
    for (nth, job) in jobs.iter().enumerate() {
        found.extend(spelt_twice(job));
        found.extend(inside_itself(job));
        found.extend(rival_target(job, job));
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
            found.extend(rival_target(job, other));
        }
    }
    found
}

fn problem(job: &Job, key: &str, what: String) -> Problem {
    Problem { place: job.place.clone(), key: format!("job.{}.{key}", job.name), what }
}

fn twice(replicas: &[Replica]) -> impl Iterator<Item = &Replica> {
    let again = |a: &Replica, b: &Replica| same(&a.dataset, &b.dataset) && same(&a.to, &b.to);
    let is_again = move |nth: usize| replicas[..nth].iter().any(|other| again(other, &replicas[nth]));
    (0..replicas.len()).filter(move |&nth| is_again(nth)).map(|nth| &replicas[nth])
}

/// Two policies for one dataset: what one keeps the other destroys.
fn rival_retention(job: &Job, other: &Job) -> Option<Problem> {
    job.retention.as_ref().and(other.retention.as_ref())?;
    let pairs = job.datasets.iter().flat_map(|a| other.datasets.iter().map(move |b| (a, b)));
    let mut shared = pairs.filter(|(a, b)| {
        same(a, b) || (job.recursive && is_inside(b, a)) || (other.recursive && is_inside(a, b))
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

/// One dataset by two spellings: each run would take two snapshots of it.
fn spelt_twice(job: &Job) -> Option<Problem> {
    let mut met = BTreeMap::new();
    job.datasets.iter().find_map(|dataset| {
        let other = met.insert(place(dataset), dataset).filter(|&other| other != dataset)?;
        Some(problem(job, "datasets", format!("{dataset} and {other} are one dataset")))
    })
}

/// A target that the next run would take a snapshot of, and bring into itself.
fn inside_itself(job: &Job) -> Option<Problem> {
    let within = |to: &str| job.datasets.iter().find(|dataset| job.recursive && is_inside(to, dataset));
    job.targets.iter().find_map(|replica| {
        let dataset = within(&replica.to)?;
        let what = format!("{} is in {dataset}, all of whose datasets the job takes (recursive): it would be brought into itself", replica.to);
        Some(problem(job, "target", what))
    })
}

/// One place for two datasets: it can only follow one of them.
fn rival_target(job: &Job, other: &Job) -> Option<Problem> {
    let pairs = job.targets.iter().flat_map(|a| other.targets.iter().map(move |b| (a, b)));
    let mut shared = pairs.filter(|(a, b)| same(&a.to, &b.to) && !same(&a.dataset, &b.dataset));
    let (a, b) = shared.next()?;
    Some(problem(
        other,
        "target",
        format!(
            "{} is a target of job {} ({}) for {}, too: a target is of one dataset",
            b.to, job.name, job.place, a.dataset
        ),
    ))
}

fn same(one: &str, other: &str) -> bool {
    place(one) == place(other)
}

/// What a name means, whichever way it is spelt; nothing is looked up.
fn place(name: &str) -> PathBuf {
    let mut place = PathBuf::new();
    for part in Path::new(name.trim_end_matches('/')).components() {
        match part {
            Component::ParentDir if name.starts_with('/') => drop(place.pop()),
            part => place.push(part),
        }
    }
    place
}

fn is_inside(inner: &str, outer: &str) -> bool {
    let (inner, outer) = (place(inner), place(outer));
    inner != outer && inner.starts_with(outer)
}
