//! `cowsnap daemon`

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use crate::Result;
use crate::cli::facts::{self, Hanging};
use crate::cli::{Context, log, metrics};
use crate::config::Config;
use crate::daemon::listen::Address;
use crate::daemon::{self, Setup, Word};
use crate::plan::metrics::exposition;

/// Call jobs when they are due, where there is neither systemd nor cron: in a container
///
/// Over HTTP it answers /healthz, /metrics, and POST /jobs/NAME/run. SIGHUP has it take up the configuration as it is now; SIGTERM has it wait for the end of
/// the jobs that are at work.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration; `conf.d/*.toml` in the same folder belongs to it
    #[arg(long, env = "COWSNAP_CONFIG", default_value = "/etc/cowsnap/config.toml", value_name = "FILE")]
    config: PathBuf,
    /// Where it listens: the path of a socket, or an address and a port. May be given several times
    #[arg(
        long,
        env = "COWSNAP_LISTEN",
        value_delimiter = ',',
        default_value = "/run/cowsnap/daemon.sock",
        value_name = "ADDRESS"
    )]
    listen: Vec<Address>,
    /// A file with the token that whoever asks over TCP has to have: for a run, and from other machines for all but /healthz
    #[arg(long, env = "COWSNAP_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// How long a disk may take to answer before that is what is told of it; Prometheus waits for ten seconds by default.
const TIMEOUT: u64 = 8;

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<ExitCode> {
    let says = context.clone();
    let say: daemon::Say = Arc::new(move |word: Word| match word {
        Word::Notice(text) => says.notice(text),
        Word::Warning(text) => says.warn(text),
    });
    if daemon::init::is_first() {
        return daemon::init::run(context.state_dir(), &say);
    }
    let (hanging, measuring) = (Hanging::default(), context.clone());
    let measure = move |config: &Config| -> Result<String> {
        let all = facts::all_of(config, &[], TIMEOUT, false, &hanging, &measuring)?;
        Ok(exposition(&metrics::measured(&all)))
    };
    daemon::run(Setup {
        config: args.config,
        state_dir: context.state_dir().to_owned(),
        listen: args.listen,
        token_file: args.token_file,
        arguments: handed_on(context),
        say,
        measure: Arc::new(measure),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What jobs are told as this is.
fn handed_on(context: &Context) -> Vec<OsString> {
    let words = [
        context.quiet.then_some("--quiet"),
        context.json.then_some("--json"),
        (context.log == log::Format::Json).then_some("--log-format=json"),
    ];
    words.into_iter().flatten().map(OsString::from).collect()
}
