//! What `cowsnap prune` is told.

use std::ffi::OsString;

use jiff::Span;
use jiff::tz::TimeZone;

use crate::cli::Context;
use crate::cli::peer::Way;
use crate::config::value::{age, bytes, count, span, zone};
use crate::exec::transfer::Place;
use crate::model::Target;
use crate::plan::retain::{LabelPattern, NamePattern, Period, Retention, Schedule};
use crate::{Error, Result};

/// Destroy the snapshots that no rule keeps
///
/// A snapshot stays if any rule keeps it. Always kept, whatever the rules: the newest, what is held, cloned (ZFS) or made writable, and what
/// is from the future. Without any rule nothing is destroyed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// POOL (all of its datasets), POOL/NAME, or an absolute path
    #[arg(required = true, value_name = "TARGET")]
    pub targets: Vec<OsString>,
    #[command(flatten)]
    pub rules: Rules,
    /// Keep what has this label; may be given several times
    #[arg(long, value_name = "KEY[=VALUE]")]
    keep_label: Vec<LabelPattern>,
    /// Keep the newest that this replica or source has too, here or ssh://HOST/TARGET; may be given several times; not with a pool as TARGET
    #[arg(long, value_name = "TARGET")]
    keep_base_with: Vec<OsString>,
    /// Nested datasets too
    #[arg(short, long)]
    pub recursive: bool,
    /// Destroy only until that much is free, the oldest first
    #[arg(long, value_name = "SIZE", value_parser = bytes, conflicts_with_all = ["explain", "simulate"])]
    pub by_space: Option<u64>,
    /// Say what would go
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run, on btrfs: reckon what would be freed; slow, as all extents are looked at
    #[arg(long, requires = "dry_run")]
    pub sizes: bool,
    /// Say of each snapshot what would become of it, and why; destroys nothing
    #[arg(long)]
    pub explain: bool,
    /// Say what there will be on each day of that time; destroys nothing
    #[arg(long, value_name = "TIME", value_parser = span, conflicts_with = "explain")]
    simulate: Option<Span>,
    /// With --simulate: how often snapshots are taken
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = span, requires = "simulate")]
    every: Span,
}

/// The rules that need nothing but names and times.
#[derive(Debug, clap::Args)]
pub struct Rules {
    /// Keep the N newest
    #[arg(long, value_name = "N", value_parser = count)]
    keep_last: Option<usize>,
    /// Keep the newest of each of the N newest hours that have one; `all` for all hours
    #[arg(long, value_name = "N", value_parser = count)]
    keep_hourly: Option<usize>,
    /// The same for days
    #[arg(long, value_name = "N", value_parser = count)]
    keep_daily: Option<usize>,
    /// The same for weeks, which begin on Monday
    #[arg(long, value_name = "N", value_parser = count)]
    keep_weekly: Option<usize>,
    /// The same for months
    #[arg(long, value_name = "N", value_parser = count)]
    keep_monthly: Option<usize>,
    /// The same for years
    #[arg(long, value_name = "N", value_parser = count)]
    keep_yearly: Option<usize>,
    /// Keep what is no older, by that much, than the newest: 36h, 7d, 2w, 3mo, 1y
    #[arg(long, value_name = "TIME", value_parser = age)]
    keep_within: Option<Span>,
    /// Keep what is called so, with * and ?; may be given several times
    #[arg(long, value_name = "PATTERN")]
    keep_name: Vec<NamePattern>,
    /// Destroy nothing that was made less than that ago: 36h, 7d
    #[arg(long, value_name = "TIME", value_parser = age)]
    min_age: Option<Span>,
    /// Whose calendar it is: a zone such as Europe/Berlin, or `local` for this machine's
    #[arg(long = "time-zone", value_name = "ZONE", default_value = "UTC", value_parser = zone)]
    pub zone: TimeZone,
}

impl Rules {
    /// As a policy.
    pub fn policy(&self) -> Retention {
        let counts =
            [self.keep_hourly, self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly];
        let per = Period::ALL.into_iter().zip(counts);
        Retention {
            last: self.keep_last.unwrap_or(0),
            per: per.filter_map(|(period, count)| Some((period, count?))).collect(),
            within: self.keep_within,
            labels: Vec::new(),
            names: self.keep_name.clone(),
            min_age: self.min_age,
        }
    }
}

impl Args {
    /// The rules.
    pub(super) fn policy(&self) -> Retention {
        Retention { labels: self.keep_label.clone(), ..self.rules.policy() }
    }

    /// What is to be simulated.
    pub(super) fn schedule(&self) -> Option<Schedule> {
        self.simulate.map(|horizon| Schedule { horizon, every: self.every })
    }

    /// The other places whose bases are kept.
    ///
    /// # Errors
    /// Several targets, or a whole pool: nobody could say which of its datasets belongs to which place.
    pub(super) fn bases(&self, targets: &[Target], context: &Context) -> Result<Vec<Place>> {
        let is_pool =
            |target: &Target| matches!(target, Target::Dataset(name) if name.within_pool().is_none());
        if !self.keep_base_with.is_empty() && (targets.len() > 1 || targets.iter().any(is_pool)) {
            let what =
                "--keep-base-with goes with one TARGET that is a dataset, and with no whole pool".into();
            let hint = "cowsnap prune POOL/NAME -r --keep-base-with TARGET, once for each dataset".to_owned();
            return Err(Error::Usage { what, hint: Some(hint) });
        }
        let ssh = std::env::var("COWSNAP_SSH").unwrap_or_else(|_| "ssh".into());
        let way = Way { stall: 600, ssh: &ssh, remote: "cowsnap serve", unattended: None };
        self.keep_base_with.iter().map(|text| way.to(&Target::parse(text)?, context)).collect()
    }
}
