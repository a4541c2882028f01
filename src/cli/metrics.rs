//! `cowsnap metrics`

use std::path::PathBuf;
use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Result;
use crate::cli::facts::{self, All, Which};
use crate::cli::{Context, output, watched};
use crate::config::Job;
use crate::model::run::{Op, Subject};
use crate::plan::metrics::{Family, Kind, Measured, exposition, families};

/// Tell all that is measured of jobs in the text format of Prometheus, for node_exporter's textfile collector
///
/// Counters begin at 0 before a job has ever run, and no label names a snapshot.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Write it to this file, whole or not at all, for anybody to read; node_exporter wants its name to end in .prom
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    watched::or_late(args.which.timeout(), context, || told(args, context))
}

fn told(args: &Args, context: &Context) -> Result<()> {
    let families = measured(&facts::all(&args.which, false, context)?);
    match &args.output {
        Some(path) => output::replace(path, exposition(&families).as_bytes(), 0o644),
        None => context.print(&object(&families), exposition(&families)),
    }
}

/// What is measured of what was seen.
pub(super) fn measured(all: &All) -> Vec<Family> {
    let jobs = all.jobs.iter().zip(&all.facts);
    let jobs: Vec<_> = jobs.map(|(job, facts)| Measured { facts, subjects: subjects(job) }).collect();
    families(&jobs, env!("CARGO_PKG_VERSION"), Timestamp::now())
}

/// All that a job does.
fn subjects(job: &Job) -> Vec<Subject> {
    let each = |op: Op| job.datasets.iter().map(move |dataset| Subject::of_dataset(op, dataset));
    let mut all = vec![Subject::of_job(Op::Run)];
    all.extend(job.quiesce.as_ref().map(|_| Subject::of_job(Op::Quiesce)));
    all.extend(each(Op::Snapshot));
    all.extend(job.targets.iter().map(|target| Subject::to_target(&target.dataset, &target.to)));
    for it in &job.archives {
        all.extend(
            [Op::Replicate, Op::Verify, Op::VerifyContent]
                .map(|op| Subject::of_target(op, &it.dataset, &it.to)),
        );
        let prune = it.retention.as_ref().map(|_| Subject::of_target(Op::Prune, &it.dataset, &it.to));
        all.extend(prune);
    }
    all.extend(job.retention.iter().flat_map(|_| each(Op::Prune)));
    all.extend(job.drill.as_ref().map(|_| Subject::of_job(Op::Drill)));
    all.extend(job.quiesce.as_ref().map(|_| Subject::of_job(Op::Recover)));
    let is_watched = job.schedule.is_some() || job.trigger.is_some();
    all.extend(is_watched.then(|| Subject::of_job(Op::Due)));
    all.extend(job.trigger.as_ref().map(|_| Subject::of_job(Op::Trigger)));
    for op in [Op::Verify, Op::VerifyContent] {
        all.extend(job.targets.iter().map(|target| Subject::of_target(op, &target.dataset, &target.to)));
    }
    all
}

fn object(families: &[Family]) -> Value {
    let told = |family: &Family| {
        let samples = family.samples.iter().map(|(labels, number)| {
            let labels: serde_json::Map<_, _> = labels
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(key, value)| ((*key).to_owned(), value.clone().into()))
                .collect();
            json!({ "labels": labels, "value": number })
        });
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        json!({ "name": family.name, "type": kind, "help": family.help, "samples": samples.collect::<Vec<_>>() })
    };
    json!({ "metrics": families.iter().map(told).collect::<Vec<_>>() })
}
