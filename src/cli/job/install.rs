//! `cowsnap job install` and `uninstall`

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::cli::Context;
use crate::config::Config;
use crate::exec::install::{self, Became, Wanted};
use crate::{Error, Result};

/// Have jobs called every minute, and what they had stopped started when the machine starts
///
/// Writes units of systemd, a timer for each job or a daemon for all, or a file for cron. What is there and was not written by it is not touched.
#[derive(Debug, clap::Args)]
#[group(id = "kind", required = true, multiple = false, args = ["systemd", "daemon", "cron"])]
pub(super) struct Install {
    #[command(flatten)]
    by: By,
}

/// Take away what `cowsnap job install` has written, and nothing else; needs no configuration
#[derive(Debug, clap::Args)]
#[group(id = "kind", required = true, multiple = false, args = ["systemd", "daemon", "cron"])]
pub(super) struct Uninstall {
    #[command(flatten)]
    by: By,
}

/// Who calls jobs.
#[derive(Debug, clap::Args)]
struct By {
    /// By timers of systemd
    #[arg(long)]
    systemd: bool,
    /// By `cowsnap daemon`, which systemd starts
    #[arg(long)]
    daemon: bool,
    /// By cron
    #[arg(long)]
    cron: bool,
    /// Where, instead of /etc/systemd/system or /etc/cron.d; then systemd is not told of it
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Say what would be written, with all that is in it, or removed
    #[arg(long)]
    dry_run: bool,
}

impl By {
    fn dir(&self) -> PathBuf {
        let usual = if self.cron { "/etc/cron.d" } else { "/etc/systemd/system" };
        self.dir.clone().unwrap_or_else(|| usual.into())
    }

    /// Whether systemd is there to be told.
    fn is_told(&self) -> bool {
        !self.cron && self.dir.is_none() && !self.dry_run && Path::new("/run/systemd/system").exists()
    }
}

const SERVICE: &str = "cowsnap-job@.service";
const TIMER: &str = "cowsnap-job@.timer";
const DAEMON: &str = "cowsnap-daemon.service";
const RECOVER: &str = "cowsnap-recover.service";
const TIMERS: &str = "timers.target.wants";
const BOOT: &str = "multi-user.target.wants";
const CRON: &str = "cowsnap-jobs";

/// Runs the subcommand.
pub(super) fn install(args: &Install, config: &Path, context: &Context) -> Result<()> {
    let by = &args.by;
    let jobs: Vec<_> = Config::load(config)?.jobs.into_iter().map(|job| job.name).collect();
    let paths = Paths::of(config, context)?;
    let wanted = match (by.systemd, by.daemon) {
        (true, _) => units(&by.dir(), &jobs, &paths),
        (_, true) => daemon(&by.dir(), &paths),
        _ => vec![crontab(&by.dir(), &paths)],
    };
    let became = install::install(&wanted, by.dry_run)?;
    // Timers of jobs that are no more.
    let mut gone = if by.systemd { timers(&by.dir())? } else { Vec::new() };
    gone.retain(|path| !wanted.iter().any(|wanted| wanted.path() == path));
    if by.is_told() && !gone.is_empty() {
        systemctl("stop", &gone)?;
    }
    if !by.dry_run {
        install::remove(&gone)?;
    }
    if by.is_told() {
        systemctl("daemon-reload", &[])?;
        was_well(&gone);
        systemctl("start", &called_by(by)?)?;
    }
    let all = wanted.iter().zip(&became).map(|(wanted, became)| (wanted.path(), *became, wanted.text()));
    told(all.chain(gone.iter().map(|path| (path.as_path(), Became::Removed, None))), by, context)
}

/// Runs the subcommand.
pub(super) fn uninstall(args: &Uninstall, context: &Context) -> Result<()> {
    let by = &args.by;
    let dir = by.dir();
    let found = match by.cron {
        true => install::ours(&dir, |name| name == CRON, &[])?,
        // What has them called goes first; what is there for both goes with the last of them.
        false => {
            let other = if by.systemd { daemons(&dir)? } else { timers(&dir)? };
            let recover: &[&str] = if other.is_empty() { &[RECOVER] } else { &[] };
            let its: &[&str] = if by.systemd { &[SERVICE, TIMER] } else { &[DAEMON] };
            let boot = install::ours(&dir.join(BOOT), |name| recover.contains(&name), recover)?;
            let files = install::ours(&dir, |name| [its, recover].concat().contains(&name), &[])?;
            [called_by(by)?, boot, files].concat()
        }
    };
    if by.is_told() {
        systemctl("stop", &called_by(by)?)?;
    }
    if !by.dry_run {
        install::remove(&found)?;
    }
    if by.is_told() && !found.is_empty() {
        systemctl("daemon-reload", &[])?;
        was_well(&found);
    }
    told(found.iter().map(|path| (path.as_path(), Became::Removed, None)), by, context)
}

/// The links by which jobs are called; none of cron.
fn called_by(by: &By) -> Result<Vec<PathBuf>> {
    match (by.systemd, by.daemon) {
        (true, _) => timers(&by.dir()),
        (_, true) => daemons(&by.dir()),
        _ => Ok(Vec::new()),
    }
}

fn daemons(dir: &Path) -> Result<Vec<PathBuf>> {
    install::ours(&dir.join(BOOT), |name| name == DAEMON, &[DAEMON])
}

/// The links that have systemd call jobs.
fn timers(dir: &Path) -> Result<Vec<PathBuf>> {
    let is_timer = |name: &str| name.starts_with("cowsnap-job@") && name.ends_with(".timer");
    install::ours(&dir.join(TIMERS), is_timer, &[TIMER])
}

fn told<'a>(
    all: impl Iterator<Item = (&'a Path, Became, Option<String>)>,
    by: &By,
    context: &Context,
) -> Result<()> {
    let (mut objects, mut text) = (Vec::new(), String::new());
    for (path, became, content) in all {
        let word = match became {
            Became::Written => "written",
            Became::Unchanged => "unchanged",
            Became::Removed => "removed",
        };
        let would = if by.dry_run && became != Became::Unchanged { "would be " } else { "" };
        text += &format!("{}: {would}{word}\n", path.display());
        let content = content.filter(|_| by.dry_run && became == Became::Written);
        text.extend(content.iter().flat_map(|content| content.lines()).map(|line| format!("    {line}\n")));
        objects.push(json!({ "file": path.display().to_string(), "became": word, "text": content }));
    }
    if objects.is_empty() {
        context.notice(format!("nothing of cowsnap job install is in {}", by.dir().display()));
    }
    context.print(&json!({ "files": objects, "dry_run": by.dry_run }), text)
}

/// What units and lines of cron name.
struct Paths {
    program: String,
    state_dir: String,
    config: String,
}

impl Paths {
    fn of(config: &Path, context: &Context) -> Result<Self> {
        let program = std::env::current_exe().map_err(Error::io("find", "this program"))?;
        let whole = |path: &Path| std::path::absolute(path).map_err(Error::io("find", path.display()));
        Ok(Self {
            program: plain(program)?,
            state_dir: plain(whole(context.state_dir())?)?,
            config: plain(whole(config)?)?,
        })
    }

    fn put_into(&self, text: &str) -> String {
        text.replace("/usr/bin/cowsnap", &self.program)
            .replace("/var/lib/cowsnap", &self.state_dir)
            .replace("/etc/cowsnap/config.toml", &self.config)
    }
}

/// A path that means itself to systemd, to cron and to a shell, each of which reads others in ways of its own.
fn plain(path: PathBuf) -> Result<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/_.-+@:,=".contains(c);
    match path.to_str().filter(|path| path.chars().all(allowed)) {
        Some(path) => Ok(path.to_owned()),
        None => Err(Error::Usage {
            what: format!(
                "{:?}: systemd and cron are given paths of letters, digits and /_.-+@:,= alone, which mean the same to both",
                path
            ),
            hint: None,
        }),
    }
}

fn units(dir: &Path, jobs: &[String], paths: &Paths) -> Vec<Wanted> {
    let mut all = vec![
        file(dir, SERVICE, include_str!("../../../packaging/systemd/cowsnap-job@.service"), paths),
        file(dir, TIMER, include_str!("../../../packaging/systemd/cowsnap-job@.timer"), paths),
    ];
    all.extend(recover(dir, paths));
    all.extend(jobs.iter().map(|job| link(dir, TIMERS, &format!("cowsnap-job@{job}.timer"), TIMER)));
    all
}

fn daemon(dir: &Path, paths: &Paths) -> Vec<Wanted> {
    let text = include_str!("../../../packaging/systemd/cowsnap-daemon.service");
    let mut all = vec![file(dir, DAEMON, text, paths)];
    all.extend(recover(dir, paths));
    all.push(link(dir, BOOT, DAEMON, DAEMON));
    all
}

fn recover(dir: &Path, paths: &Paths) -> [Wanted; 2] {
    let text = include_str!("../../../packaging/systemd/cowsnap-recover.service");
    [file(dir, RECOVER, text, paths), link(dir, BOOT, RECOVER, RECOVER)]
}

fn file(dir: &Path, name: &str, text: &str, paths: &Paths) -> Wanted {
    Wanted::File { path: dir.join(name), text: paths.put_into(text) }
}

fn link(dir: &Path, folder: &str, name: &str, to: &str) -> Wanted {
    Wanted::Link { path: dir.join(folder).join(name), to: Path::new("..").join(to) }
}

/// All jobs by one line: cron waits for none of the minutes before.
fn crontab(dir: &Path, paths: &Paths) -> Wanted {
    let text = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
        @reboot root /usr/bin/cowsnap --state-dir /var/lib/cowsnap job recover --config /etc/cowsnap/config.toml\n\
        * * * * * root /usr/bin/cowsnap --quiet --state-dir /var/lib/cowsnap job run --due --config /etc/cowsnap/config.toml\n";
    Wanted::File { path: dir.join(CRON), text: paths.put_into(text) }
}

/// A service that failed is one for as long as systemd knows it, also when it is called no more. Nothing fails of this: most have not failed.
fn was_well(gone: &[PathBuf]) {
    let names = gone.iter().filter_map(|path| path.file_name()?.to_str());
    let services = names.map(|name| name.replace(".timer", ".service"));
    let services: Vec<_> = services.filter(|name| !name.contains("@.")).collect();
    for service in services {
        let _ = Command::new("systemctl").args(["reset-failed", &service]).output();
    }
}

fn systemctl(verb: &str, links: &[PathBuf]) -> Result<()> {
    let units: Vec<_> = links.iter().filter_map(|path| path.file_name()).collect();
    if units.is_empty() && verb != "daemon-reload" {
        return Ok(());
    }
    let run = || Error::io("tell systemd of it: run", format!("systemctl {verb}"));
    let output = Command::new("systemctl").arg(verb).args(units).output().map_err(run())?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(run()(std::io::Error::other(format!("{}: {said}", output.status))))
        }
    }
}
