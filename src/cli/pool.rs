//! `cowsnap pool`

use std::path::PathBuf;

use serde_json::json;

use crate::cli::Context;
use crate::cli::failures::Failures;
use crate::cli::progress::Progress;
use crate::model::{DatasetName, quoted};
use crate::pool::size::human;
use crate::pool::{self, Registry};
use crate::sys::interrupt;
use crate::{Error, Result, endpoint};

/// Embedded pools: a sparse file, a loop device, btrfs
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(Create),
    List(List),
    Grow(Grow),
    /// Mount pools and the directories adopted into them
    Mount(Which),
    /// Unmount pools and the directories adopted into them
    Unmount(Which),
    Destroy(Destroy),
    /// Print the systemd unit that mounts all pools when the machine starts
    Unit,
}

/// Make a pool and mount it
#[derive(Debug, clap::Args)]
struct Create {
    /// What its datasets' names begin with
    name: DatasetName,
    /// How large it may become; the file takes only what is written
    #[arg(long, default_value = "20G", value_parser = size, value_name = "SIZE")]
    size: u64,
    /// Where the file goes [default: images/ in the state directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print what would be made
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Show pools, how full they are, and what their files take
#[derive(Debug, clap::Args)]
struct List {
    /// Which; all if none is named
    names: Vec<String>,
}

/// Make a pool larger while it is in use
#[derive(Debug, clap::Args)]
struct Grow {
    /// Which
    name: String,
    /// How large it may become then
    #[arg(value_parser = size)]
    size: u64,
    /// Print what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Which
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,
    /// All that are registered
    #[arg(long)]
    all: bool,
    /// Print what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Destroy a pool with all that is in it
#[derive(Debug, clap::Args)]
struct Destroy {
    /// Which
    name: String,
    /// Do it; without this, nothing is destroyed
    #[arg(long)]
    yes: bool,
    /// Print what would go
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Runs the subcommand.
pub fn run(args: Args, context: &Context) -> Result<()> {
    let registry = Registry::open(context.state_dir())?;
    match args.command {
        Command::Create(args) => create(&args, &registry, context),
        Command::List(args) => list(&args, &registry, context),
        Command::Grow(args) => grow(&args, &registry, context),
        Command::Mount(args) => each(&args, &registry, context, &MOUNT),
        Command::Unmount(args) => each(&args, &registry, context, &UNMOUNT),
        Command::Destroy(args) => destroy(&args, &registry, context),
        Command::Unit => print_unit(include_str!("../../packaging/systemd/cowsnap-pools.service"), context),
    }
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    pool::size::parse(text).ok_or_else(|| format!("{text:?} is no size; 512M, 20G and 1.5T are"))
}

fn create(args: &Create, registry: &Registry, context: &Context) -> Result<()> {
    let new = pool::New { name: args.name.clone(), size: args.size, folder: args.dir.clone() };
    let made = match args.dry_run {
        true => pool::plan(registry, &new)?,
        false => pool::create(registry, &new, &Progress::new(context), &mut |_| {
            interrupt::check().map_err(endpoint::Error::io("make pool", &new.name))
        })?,
    };
    let value = json!({
        "pool": made.name, "image": made.image.display().to_string(), "size": args.size, "fsid": made.fsid,
        "mountpoint": made.mountpoint.display().to_string(), "options": made.options, "dry_run": args.dry_run,
    });
    let verb = if args.dry_run { "would make" } else { "made" };
    let text = format!(
        "{verb} pool {}: up to {} in {}, mounted at {}",
        made.name,
        human(args.size),
        made.image.display(),
        made.mountpoint.display()
    );
    context.print(&value, text)
}

fn list(args: &List, registry: &Registry, context: &Context) -> Result<()> {
    let names = if args.names.is_empty() { registry.names()? } else { args.names.clone() };
    let mut statuses = Vec::new();
    let mut failed = Failures::default();
    for name in &names {
        match registry.expect(name) {
            Ok(found) => statuses.push(pool::status(&found)),
            Err(error) => failed.add(name, error),
        }
    }
    context.print(&json!({ "pools": statuses }), table(&statuses))?;
    failed.into_result("read pools", names.len())
}

fn table(statuses: &[pool::Status]) -> String {
    if statuses.is_empty() {
        return "no pools; make one: cowsnap pool create NAME".into();
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["POOL", "SIZE", "USED", "FREE", "ON DISK", "DATASETS", "MOUNTED AT", "IMAGE"]);
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), human);
    for s in statuses {
        let at = if s.mounted { s.mountpoint.as_str() } else { "-" };
        let datasets = s.datasets.map_or_else(|| "-".into(), |n| n.to_string());
        let sizes = [size(s.size), size(s.used), size(s.free), size(s.image_bytes), datasets];
        table.add_row(
            [std::slice::from_ref(&s.name), sizes.as_slice(), &[at.into(), s.image.clone()]].concat(),
        );
    }
    table.lines().map(|line| format!("{}\n", line.trim())).collect()
}

fn grow(args: &Grow, registry: &Registry, context: &Context) -> Result<()> {
    let size = match args.dry_run {
        true => pool::check_growth(&registry.expect(&args.name)?, args.size)?,
        false => pool::grow(registry, &args.name, args.size)?,
    };
    let verb = if args.dry_run { "would have" } else { "has" };
    let value = json!({ "pool": args.name, "size": size, "dry_run": args.dry_run });
    context.print(&value, format!("pool {} {verb} {}", args.name, human(size)))
}

fn destroy(args: &Destroy, registry: &Registry, context: &Context) -> Result<()> {
    let found = registry.expect(&args.name)?;
    let loss = pool::loss(registry, &found)?;
    if !args.yes && !args.dry_run {
        return Err(endpoint::Error::Refused {
            op: "destroy pool",
            subject: args.name.clone(),
            why: format!("{} would go", loss.summary()),
            hint: Some(format!(
                "cowsnap pool destroy {0} --dry-run, then cowsnap pool destroy {0} --yes",
                quoted(&args.name)
            )),
        }
        .into());
    }
    if !args.dry_run {
        pool::destroy(registry, &args.name)?;
    }
    let verb = if args.dry_run { "would destroy" } else { "destroyed" };
    let value = json!({ "pool": args.name, "destroyed": loss, "dry_run": args.dry_run });
    context.print(&value, format!("{verb} pool {}: {}\n{}", args.name, loss.summary(), loss.details()))
}

/// What [`each`] does to a pool, and how that is called.
struct Verb {
    act: fn(&Registry, &str) -> endpoint::Result<bool>,
    op: &'static str,
    done: &'static str,
    was: &'static str,
    wanted: bool,
}

const MOUNT: Verb =
    Verb { act: pool::mount, op: "mount pools", done: "mounted", was: "was mounted", wanted: true };
const UNMOUNT: Verb = Verb {
    act: pool::unmount,
    op: "unmount pools",
    done: "unmounted",
    was: "was not mounted",
    wanted: false,
};

fn each(args: &Which, registry: &Registry, context: &Context, verb: &Verb) -> Result<()> {
    let names = if args.all { registry.names()? } else { args.names.clone() };
    let mut results = Vec::new();
    let mut failed = Failures::default();
    for name in &names {
        let outcome = match args.dry_run {
            true => registry.expect(name).map(|pool| pool.is_mounted() != verb.wanted),
            false => (verb.act)(registry, name),
        };
        match outcome {
            Ok(changed) => results.push((name, changed)),
            Err(error) => failed.add(name, error),
        }
    }
    let would = if args.dry_run { "would be " } else { "" };
    let lines = results.iter().map(|(name, changed)| match changed {
        true => format!("{name}: {would}{}\n", verb.done),
        false => format!("{name}: {}\n", verb.was),
    });
    let text: String = lines.collect();
    let values: Vec<_> =
        results.iter().map(|(name, changed)| json!({ "pool": name, "changed": changed })).collect();
    context.print(&json!({ "pools": values, "dry_run": args.dry_run }), text)?;
    failed.into_result(verb.op, names.len())
}

/// Prints a unit of systemd, with this program and this state directory in it.
pub(super) fn print_unit(text: &str, context: &Context) -> Result<()> {
    let program = std::env::current_exe().map_err(Error::io("find", "this program"))?;
    let state = std::path::absolute(context.state_dir()).map_err(Error::io("find", "the state directory"))?;
    let text = text
        .replace("/usr/bin/cowsnap", &program.display().to_string())
        .replace("/var/lib/cowsnap", &state.display().to_string());
    context.print(&json!({ "unit": text }), &text)
}
