//! `cowsnap overlay prune`

use std::path::Path;

use jiff::Timestamp;
use serde_json::json;

use super::{existing, layers, sweep_in_background};
use crate::cli::Context;
use crate::cli::prune::{Errors, Rules, told, told_of};
use crate::cli::table::{Table, size};
use crate::exec::overlay::prune::Seen;
use crate::model::overlay::OverlayName;
use crate::plan::retain::{Reason, Verdict};
use crate::{Error, Result};

/// Destroy the layers that no rule keeps
///
/// The layers of each overlay's name are judged by themselves. A layer stays if any rule keeps it. Always kept, whatever the rules: the
/// newest, what is held, what an overlay or a layer that stays lies on, and what is from the future. Without any rule nothing is destroyed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Layers of which overlays; these need not be there any more
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "NAME")]
    names: Vec<OverlayName>,
    /// All layers of the home
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    rules: Rules,
    /// Say what would go
    #[arg(long)]
    dry_run: bool,
    /// Say of each layer what would become of it, and why; destroys nothing
    #[arg(long)]
    explain: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args, dir: &Path, context: &Context) -> Result<()> {
    let policy = args.rules.policy();
    if policy.is_empty() {
        return Err(Error::Usage {
            what: "no rule says what to keep, so nothing is destroyed".into(),
            hint: Some("cowsnap overlay prune --all --keep-last 3 --keep-daily 7 --dry-run".into()),
        });
    }
    let now = Timestamp::now().to_zoned(args.rules.zone.clone());
    let home = existing(dir)?;
    let seen = Seen::of(&home, (!args.all).then_some(&args.names))?;
    layers::warn_of(&seen.damaged, context);
    let verdicts = seen.verdicts(&policy, &now);
    warn_of_the_future(&seen, &verdicts, context);
    if args.explain {
        return explain(&seen, &verdicts, context);
    }
    seen.expect_word(&policy, &now)?;
    if args.dry_run {
        return foresee(&seen, &verdicts, context);
    }
    let (mut text, mut objects) = (String::new(), Vec::new());
    let mut errors = Errors::of(seen.names().len());
    let done = seen.prune(&home, &policy, &now);
    sweep_in_background(&home, Vec::new());
    for ((name, verdicts), pruned) in seen.names().iter().zip(&verdicts).zip(done) {
        let (line, mut object) = told_of(name.as_str(), verdicts.len(), &pruned);
        object["overlay"] = name.as_str().into();
        object["layers"] = verdicts.len().into();
        text += &line;
        objects.push(object);
        errors.note(name.as_str(), pruned);
    }
    context.print(&json!({ "overlays": objects, "dry_run": false }), text)?;
    errors.outcome()
}

fn warn_of_the_future(seen: &Seen, verdicts: &[Vec<Verdict<'_>>], context: &Context) {
    for (name, verdicts) in seen.names().iter().zip(verdicts) {
        let of_the_future = verdicts.iter().filter(|v| v.kept_by.contains(&Reason::Future));
        let layers: Vec<_> = of_the_future.map(|v| v.version.id.name.to_string()).collect();
        if !layers.is_empty() {
            context.warn(format!("{name}: from the future by their clock, and kept: {}", layers.join(", ")));
        }
    }
}

fn explain(seen: &Seen, verdicts: &[Vec<Verdict<'_>>], context: &Context) -> Result<()> {
    let mut table = Table::new(&["LAYER", "CREATED (UTC)", "VERDICT", "WHY"]);
    let of = |(name, verdicts): (&OverlayName, &Vec<_>)| {
        let layers = told(name.as_str(), verdicts, &mut table);
        json!({ "overlay": name, "layers": layers })
    };
    let objects: Vec<_> = seen.names().iter().zip(verdicts).map(of).collect();
    context.print(&json!({ "overlays": objects, "dry_run": true }), table.to_string())
}

fn foresee(seen: &Seen, verdicts: &[Vec<Verdict<'_>>], context: &Context) -> Result<()> {
    let (mut text, mut objects) = (String::new(), Vec::new());
    for (name, verdicts) in seen.names().iter().zip(verdicts) {
        let going: Vec<_> = verdicts.iter().filter(|v| !v.is_kept()).map(|v| &v.version.id).collect();
        going.iter().for_each(|id| text += &format!("would destroy {name}@{}\n", id.name));
        let bytes: u64 = going.iter().map(|id| seen.bytes_of(id)).sum();
        let n = verdicts.len();
        text += &match going.len() {
            0 => format!("{name}: {n} kept, nothing to destroy\n"),
            of => format!("{name}: {of} of {n} would go; they take {}\n", size(bytes)),
        };
        let names: Vec<_> = going.iter().map(|id| &id.name).collect();
        objects.push(json!({ "overlay": name, "layers": n, "would_destroy": names, "bytes": bytes }));
    }
    context.print(&json!({ "overlays": objects, "dry_run": true }), text)
}
