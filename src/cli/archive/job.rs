//! What a job does with its archives.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{push, url, verify};
use crate::cli::job::recorded::{archive_up_to, archive_verified_at, own_archive_verified};
use crate::cli::progress::Progress;
use crate::cli::table::size;
use crate::cli::{Context, place};
use crate::config::{self, Job};
use crate::endpoint;
use crate::endpoint::archive::{Archive, Error as ArchiveError};
use crate::endpoint::store::{Options, Store};
use crate::exec::archive::prune::{self, GRACE};
use crate::exec::archive::push::{Wanted, push as push_to};
use crate::exec::archive::verify::{Depth, Found, verify as verify_all};
use crate::exec::keys;
use crate::model::{Target, run};
use crate::plan::archive::Limits;
use crate::plan::retain::Retention;
use crate::stream::reader::Keys;
use crate::{Error, Result};

/// Puts the newest snapshot into it; what was done, as `archive push` says it, with when the snapshot was taken.
pub(in crate::cli) fn push_of_job(
    job: &Job,
    it: &config::Archive,
    context: &Context,
) -> Result<(Value, String)> {
    let dataset = place::dataset(&Target::parse(it.dataset.as_ref())?, context)?;
    let signers = it.sign.as_ref().map(|path| keys::signing_key(path)).transpose()?;
    let wanted = Wanted {
        limits: Limits { containers: it.max_chain, percent: it.max_restore },
        level: it.level,
        signers: signers.into_iter().collect(),
        recipients: keys::recipients(&it.encrypt_to)?,
        state_dir: context.state_dir().to_owned(),
        ..Wanted::default()
    };
    let known = archive_up_to(job, it, context);
    let pushed = push_to(&dataset, &opened(it)?, &wanted, &Progress::new(context))?;
    let lost = known.filter(|_| pushed.is_first).map(|known| {
        let to = &it.to;
        format!("{to} had what was put there up to {known:.0}, and nothing any more that can be brought back: it is begun anew, in full")
    });
    lost.iter().for_each(|lost| context.warn(format!("job {}: {lost}", job.name)));
    let mut value = json!(pushed);
    value["warnings"] = lost.into_iter().collect();
    value["created"] = json!(dataset.version(&pushed.snapshot)?.created);
    Ok((value, push::told(&pushed)))
}

/// Destroys there what `policy` does not keep.
pub(in crate::cli) fn prune_of_job(
    job: &Job,
    it: &config::Archive,
    policy: &Retention,
    context: &Context,
) -> Result<(Value, String)> {
    let now = Timestamp::now().to_zoned(job.zone.clone());
    let wanted = prune::Wanted { policy: policy.clone(), now, grace: GRACE };
    let keys = Keys { trusted: keys::trusted(&it.verify_key)?, ..Keys::default() };
    let pruned = prune::prune(&opened(it)?.with_keys(keys), &wanted)?;
    for (version, why) in &pruned.passed {
        context.notice(format!("{}@{} is not counted, and stays: {why}", it.to, version.name));
    }
    for spared in &pruned.spared {
        context.notice(format!("{}@{} stays: somebody uses it", it.to, spared.name));
    }
    let gone = pruned.destroyed.len();
    let text = format!("{}: {} kept", it.to, pruned.n_versions - gone);
    let text = match gone {
        0 => text,
        gone => format!("{text}, {gone} destroyed, {} freed", size(pruned.bytes)),
    };
    match pruned.stopped {
        Some(error) => Err(error),
        None => Ok((json!({ "archive": it.to, "destroyed": pruned.destroyed, "bytes": pruned.bytes }), text)),
    }
}

/// Reads of it what it is configured to, if that is due: what came of it is written down. What was found, as `archive verify` says it.
pub(in crate::cli) fn verify_of_job(
    job: &Job,
    it: &config::Archive,
    context: &Context,
) -> Result<Option<(Value, String)>> {
    let Some(depth) = it.verify.filter(|_| is_due(job, it, context)) else { return Ok(None) };
    let began = Instant::now();
    let done = read(it, depth, context);
    let error = done.as_ref().err().or(done.as_ref().ok().and_then(|(_, damaged)| damaged.as_ref()));
    if error.is_none_or(|error| !matches!(error, Error::Endpoint(endpoint::Error::Interrupted { .. }))) {
        let read_up_to = done.as_ref().ok().and_then(|(found, _)| found.read_up_to);
        let depth = run::Depth { content: true, all: depth == Depth::Full, inside: true };
        own_archive_verified(job, it, (depth, read_up_to), began.elapsed(), error, context);
    }
    match done? {
        (_, Some(damaged)) => Err(damaged),
        (found, None) => {
            let text = format!("{}: {}", it.to, verify::text(&found));
            Ok(Some((json!({ "archive": it.to, "verified": found }), text)))
        }
    }
}

/// What was found, and the error that it is if something is damaged.
fn read(it: &config::Archive, depth: Depth, context: &Context) -> Result<(Found, Option<Error>)> {
    let keys = Keys { trusted: keys::trusted(&it.verify_key)?, ..Keys::default() };
    let archive = opened(it)?.with_keys(keys);
    let found = verify_all(&archive, depth, context.state_dir(), &Progress::new(context))?;
    let damaged = (!found.damaged.is_empty()).then(|| verify::damaged(&archive.url(), &found).into());
    Ok((found, damaged))
}

/// A run that comes a little early is not left to the next one.
fn is_due(job: &Job, it: &config::Archive, context: &Context) -> bool {
    let (Some(every), Some(last)) = (it.verify_every, archive_verified_at(job, it, context)) else {
        return true;
    };
    let now = Timestamp::now();
    let Ok(next) = last.to_zoned(job.zone.clone()).checked_add(every) else { return true };
    let period = next.timestamp().duration_since(last);
    // A clock that was ahead keeps nobody from it.
    last > now || now.duration_since(last) >= period - period / 10
}

/// Opens it, as it is configured.
pub(in crate::cli) fn opened(it: &config::Archive) -> Result<Archive> {
    opened_with(it, Options::from_env())
}

/// The same, for who has no longer than `left`.
pub(in crate::cli) fn opened_within(it: &config::Archive, left: Duration) -> Result<Archive> {
    // Why a store did not answer is to be heard before that is over.
    let patience = left.mul_f64(0.8);
    opened_with(it, Options { patience, stall: patience, ..Options::from_env() })
}

fn opened_with(it: &config::Archive, mut options: Options) -> Result<Archive> {
    options.endpoint = it.endpoint.clone().or(options.endpoint);
    options.region = it.region.clone().or(options.region);
    options.profile = it.profile.clone().or(options.profile);
    options.storage_class = it.storage_class.clone().or(options.storage_class);
    options.ca = it.ca.clone().or(options.ca);
    options.path_style = it.path_style.or(options.path_style);
    options.allow_http |= it.allow_http;
    options.bandwidth = it.bandwidth.or(options.bandwidth);
    let store = Store::open(&url(it.to.as_ref())?, &options).map_err(ArchiveError::Store)?;
    Ok(Archive::open(store)?)
}
