//! `cowsnap restore URL@NAME`: from an archive.

use serde_json::json;

use super::{Args, report, report_plain, two_names};
use crate::cli::archive::{cost_lines, split};
use crate::cli::progress::Progress;
use crate::cli::{Context, place};
use crate::exec::archive::pull::{self, Chain};
use crate::exec::restore::{self, Request, Source, Wanted, plain};
use crate::model::{Inventory, Target};
use crate::stream::container::Backend;
use crate::stream::reader::Keys;
use crate::{Error, Result};

/// Restores from the one archive that `args` name.
pub(super) fn run(args: &Args, context: &Context) -> Result<()> {
    let [source] = args.sources.as_slice() else {
        let what = "one version of an archive is restored at a time".into();
        return Err(Error::Usage { what, hint: Some("cowsnap restore URL@NAME --to TARGET".into()) });
    };
    if args.recursive || args.copy {
        let what =
            "an archive holds one dataset, and its streams are received: neither -r nor --copy fits".into();
        return Err(Error::Usage { what, hint: Some("restore each dataset from its archive".into()) });
    }
    let (url, name) = split(source)?;
    if let (Some(first), Some(second)) = (&name, &args.name)
        && first != second
    {
        return Err(Error::Usage { what: two_names(first, Some(second)), hint: None });
    }
    let name = name.or_else(|| args.name.clone());
    let archive = args.way.archive(&url)?.with_keys(args.keys.keys()?);
    let target = Target::parse(&args.to)?;
    if let Target::Path(path) = &target
        && plain::is_elsewhere(path)?
    {
        let chain = Chain::find(archive.clone(), name.as_ref(), &Inventory::default(), context.state_dir())?;
        if chain.backend() == Backend::Btrfs {
            let to = path.clone();
            let wanted = Wanted::Exactly(chain.version().clone());
            let request = plain::Request { to, wanted, replace: args.replace };
            return to_plain(chain, &request, args.dry_run, context);
        }
    }
    let to = place::dataset(&target, context)?;
    to.backend("receive")?;
    let chain = Chain::find(archive, name.as_ref(), &pull::inventory(&to)?, context.state_dir())?;
    let (links, cost) = (chain.links(), chain.cost());
    let wanted = Wanted::Exactly(chain.version().clone());
    let text = cost_lines(&chain, |link| format!("fetch @{}", link.version.name));
    let chain = if args.dry_run { chain } else { chain.claimed()? };
    let source = Source::Streams(Box::new(chain));
    let request =
        Request { source, to, wanted, replace: args.replace, recursive: false, keys: Keys::default() };
    if args.dry_run {
        let steps = restore::explain(&request)?;
        let steps_text: String = steps.iter().map(|step| format!("would {step}\n")).collect();
        let value = json!({ "dry_run": true, "steps": steps, "chain": links, "cost": cost });
        return context.print(&value, text + &steps_text);
    }
    let done = restore::restore(&request, &Progress::new(context))?;
    report(&request, &done, context)
}

fn to_plain(chain: Chain, request: &plain::Request, dry_run: bool, context: &Context) -> Result<()> {
    if dry_run {
        let steps = plain::explain(&chain, request)?;
        let lines: String = steps.iter().map(|step| format!("would {step}\n")).collect();
        let text = cost_lines(&chain, |link| format!("fetch @{}", link.version.name)) + &lines;
        let (links, cost) = (chain.links(), chain.cost());
        let value = json!({ "dry_run": true, "plain": true, "steps": steps, "chain": links, "cost": cost });
        return context.print(&value, text);
    }
    let chain = chain.claimed()?;
    let done = plain::restore(&chain, request, &Progress::new(context))?;
    report_plain(&done, context)
}
