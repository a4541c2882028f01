//! What a job does with its archives.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{push, url};
use crate::Result;
use crate::cli::progress::Progress;
use crate::cli::table::size;
use crate::cli::{Context, place};
use crate::config::{self, Job};
use crate::endpoint::archive::{Archive, Error};
use crate::endpoint::store::{Options, Store};
use crate::exec::archive::prune::{self, GRACE};
use crate::exec::archive::push::{Wanted, push as push_to};
use crate::exec::keys;
use crate::model::Target;
use crate::plan::archive::Limits;
use crate::plan::retain::Retention;
use crate::stream::reader::Keys;

/// Puts the newest snapshot into it; what was done, as `archive push` says it, with when the snapshot was taken.
pub(in crate::cli) fn push_of_job(it: &config::Archive, context: &Context) -> Result<(Value, String)> {
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
    let pushed = push_to(&dataset, &opened(it)?, &wanted, &Progress::new(context))?;
    let mut value = json!(pushed);
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

/// Opens it, as it is configured.
pub(in crate::cli) fn opened(it: &config::Archive) -> Result<Archive> {
    let mut options = Options::from_env();
    options.endpoint = it.endpoint.clone().or(options.endpoint);
    options.region = it.region.clone().or(options.region);
    options.profile = it.profile.clone().or(options.profile);
    options.storage_class = it.storage_class.clone().or(options.storage_class);
    options.ca = it.ca.clone().or(options.ca);
    options.path_style = it.path_style.or(options.path_style);
    options.allow_http |= it.allow_http;
    options.bandwidth = it.bandwidth.or(options.bandwidth);
    let store = Store::open(&url(it.to.as_ref())?, &options).map_err(Error::Store)?;
    Ok(Archive::open(store)?)
}
