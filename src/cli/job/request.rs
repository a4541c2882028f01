//! `cowsnap job request`

use std::path::Path;

use serde_json::json;

use crate::cli::Context;
use crate::config::{self, Config};
use crate::error::Class;
use crate::exec::request::Requests;
use crate::{Error, Result};

/// Ask for a run of a job by the next `cowsnap job run --due`, whatever its schedule says
///
/// A file in `requests` below the state directory, which goes when there is a snapshot that was begun after it was made.
#[derive(Debug, clap::Args)]
pub(super) struct Request {
    /// Which jobs
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,
}

/// Runs the subcommand.
pub(super) fn run(args: &Request, config: &Path, context: &Context) -> Result<()> {
    known(args, config, context)?;
    let requests = Requests::below(context.state_dir());
    let (mut objects, mut text) = (Vec::new(), String::new());
    for job in &args.jobs {
        let was_open = requests.add(job)?;
        let already = if was_open { " already" } else { "" };
        text += &format!("a run of job {job} is asked for{already}\n");
        let file = requests.path(job).display().to_string();
        objects.push(json!({ "job": job, "file": file, "was_open": was_open }));
    }
    context.print(&json!({ "requests": objects }), text)
}

/// A user who may ask may not be one who may read what root does.
fn known(args: &Request, config: &Path, context: &Context) -> Result<()> {
    match Config::load(config) {
        Ok(config) => Ok(config.chosen(&args.jobs).map(drop)?),
        Err(error) if error.class() == Class::Denied => {
            context.notice(
                "the configuration may not be read, so nobody has looked whether there is such a job",
            );
            match args.jobs.iter().find(|job| !config::is_name(job)) {
                Some(wrong) => {
                    Err(Error::Usage { what: format!("no job can be called {wrong:?}"), hint: None })
                }
                None => Ok(()),
            }
        }
        Err(error) => Err(error.into()),
    }
}
