//! `cowsnap overlay list`

use std::path::Path;

use serde_json::{Value, json};

use super::value_of;
use crate::Result;
use crate::cli::Context;
use crate::cli::table::Table;
use crate::endpoint::overlay::Home;
use crate::exec::overlay::{Listed, list};
use crate::model::overlay::OverlayName;
use crate::plan::overlay::reap::Verdict;

/// List overlays: mode, base, where they show, whose they are
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these
    #[arg(value_name = "NAME")]
    names: Vec<OverlayName>,
    /// List layers instead, each after what it builds upon
    #[arg(long, conflicts_with = "names")]
    layers: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, dir: &Path, context: &Context) -> Result<()> {
    let home = Home::find(dir)?;
    if args.layers {
        let (values, table, damaged) = super::layers::list(home.as_ref())?;
        super::layers::warn_of(&damaged, context);
        let damaged: Vec<_> = damaged.iter().map(|damaged| damaged.error.to_string()).collect();
        return context.print(
            &json!({ "home": dir.display().to_string(), "layers": values, "damaged": damaged }),
            table,
        );
    }
    let mut listed = home.as_ref().map(list).transpose()?.unwrap_or_default();
    if let Some(missing) = args.names.iter().find(|name| !listed.iter().any(|found| found.name == **name)) {
        let (what, subject) = ("overlay", missing.to_string());
        return Err(crate::endpoint::Error::NotFound { what, subject, hint: None }.into());
    }
    listed.retain(|found| args.names.is_empty() || args.names.contains(&found.name));
    let values: Vec<_> = listed.iter().map(value).collect();
    let value = json!({ "home": dir.display().to_string(), "overlays": values });
    let mut table = Table::new(&["NAME", "MODE", "BASE", "AT", "COPIES", "OWNER", "STATE"]);
    listed.iter().for_each(|found| table.row(row(found)));
    context.print(&value, table.to_string())
}

fn value(listed: &Listed) -> Value {
    let mut value = match &listed.record {
        Some(record) => value_of(record),
        None => json!({ "name": listed.name }),
    };
    let (reapable, why) = of_verdict(listed.verdict);
    value["mounted"] = json!(listed.mounted);
    value["reapable"] = reapable.into();
    value["because"] = why.into();
    value["damage"] = json!(listed.damage);
    value
}

fn row(listed: &Listed) -> Vec<String> {
    let (_, why) = of_verdict(listed.verdict);
    let Some(record) = &listed.record else {
        let dash = || "-".to_owned();
        return vec![listed.name.to_string(), dash(), dash(), dash(), dash(), dash(), why.into()];
    };
    let base = match &record.base.version {
        Some(version) => format!("{}@{}", record.base.path.as_path().display(), version.name),
        None => record.base.path.as_path().display().to_string(),
    };
    let at = match record.copies.as_slice() {
        [only] => only.at().display().to_string(),
        [first, ..] => format!("{}/…", first.at().parent().unwrap_or(first.at()).display()),
        [] => "-".into(),
    };
    let owner = record.owner.as_ref().map_or_else(|| "none".into(), |owner| owner.pid.to_string());
    let n_copies = record.copies.len().to_string();
    let state = match listed.verdict {
        Verdict::Keep(_)
            if listed.mounted.is_empty() && record.mode != crate::model::overlay::Mode::Disabled =>
        {
            "not mounted"
        }
        _ => why,
    };
    vec![listed.name.to_string(), record.mode.to_string(), base, at, n_copies, owner, state.into()]
}

fn of_verdict(verdict: Verdict) -> (bool, &'static str) {
    match verdict {
        Verdict::Keep(why) => (false, why.as_str()),
        Verdict::Reap(why) => (true, why.as_str()),
    }
}
