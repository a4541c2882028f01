//! `cowsnap archive pull`

use std::ffi::OsString;

use serde_json::json;

use super::{Way, split};
use crate::Result;
use crate::cli::keys::ReadArgs;
use crate::cli::progress::Progress;
use crate::cli::table::size;
use crate::cli::{Context, place};
use crate::exec::archive::pull::{self, Chain, Link};
use crate::model::{Target, quoted};

/// Bring a version back as a snapshot of TARGET, with what is missing there of the chain that it builds upon
///
/// Each part is checked by its digest, each snapshot becomes visible once all of it was. Broken off, the same command goes on after the
/// last snapshot.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The archive, and which version: URL@NAME; the newest without a name
    #[arg(value_name = "URL[@NAME]")]
    source: OsString,
    /// The dataset that gets the snapshots
    target: OsString,
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    keys: ReadArgs,
    /// Say what would be done, and what it takes
    #[arg(long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let to = place::dataset(&Target::parse(&args.target)?, context)?;
    to.backend("receive")?;
    let (url, name) = split(&args.source)?;
    let chain = Chain::find(
        args.way.archive(&url)?.with_keys(args.keys.keys()?),
        name.as_ref(),
        &pull::inventory(&to)?,
        context.state_dir(),
    )?;
    if args.dry_run {
        let value = json!({
            "dry_run": true, "dataset": to.to_string(), "version": chain.version(), "chain": chain.links(), "cost": chain.cost(),
        });
        return context
            .print(&value, cost_lines(&chain, |link| format!("receive {to}@{}", link.version.name)));
    }
    let chain = chain.claimed()?;
    let received = pull::pull(&chain, &to, &Progress::new(context))?;
    let value = json!({
        "dataset": to.to_string(), "version": chain.version(), "received": received, "cost": chain.cost(),
    });
    let name = |name| quoted(format!("{to}@{name}"));
    let text = match received.is_empty() {
        true => format!("{} is there already", name(&chain.version().name)),
        false => received.iter().map(|one| format!("pulled {}\n", name(&one.version.id.name))).collect(),
    };
    context.print(&value, text)
}

/// A line for each container of `chain`, and what all of them take.
pub fn cost_lines(chain: &Chain, step: impl Fn(&Link) -> String) -> String {
    let line =
        |link: &Link| format!("would {}: {} in {} requests\n", step(link), size(link.bytes), link.requests);
    let cost = chain.cost();
    let all = format!("in all {} in {} requests\n", size(cost.bytes), cost.requests);
    chain.links().iter().map(line).collect::<String>() + &all
}
