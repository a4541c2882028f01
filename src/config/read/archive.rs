//! An archive that a job's snapshots are put into.

use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::quiesce::absolute;
use super::{RawRetention, Reader, Text};
use crate::config::{Archive, value};
use crate::model::archive::Depth;
use crate::stream::sign::PublicKey;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawArchive {
    to: Option<Text>,
    dataset: Option<Text>,
    retention: Option<Spanned<RawRetention>>,
    max_chain: Option<Spanned<u64>>,
    max_restore: Option<Text>,
    bandwidth: Option<Text>,
    level: Option<Spanned<i64>>,
    sign: Option<Text>,
    #[serde(default)]
    encrypt_to: Vec<Text>,
    #[serde(default)]
    verify_key: Vec<Text>,
    verify: Option<Text>,
    verify_every: Option<Text>,
    endpoint: Option<Text>,
    path_style: Option<bool>,
    #[serde(default)]
    allow_http: bool,
    region: Option<Text>,
    profile: Option<Text>,
    storage_class: Option<Text>,
    ca: Option<Text>,
}

impl Reader<'_> {
    pub(super) fn archive(&mut self, raw: Spanned<RawArchive>, datasets: &[String]) -> Option<Archive> {
        let span = raw.span();
        self.key.push("archive".into());
        let archive = self.archive_fields(&span, raw.into_inner(), datasets);
        self.key.pop();
        archive
    }

    fn archive_fields(
        &mut self,
        span: &Range<usize>,
        raw: RawArchive,
        datasets: &[String],
    ) -> Option<Archive> {
        let dataset = self.source(span, raw.dataset, datasets);
        let retention = raw.retention.map(|raw| self.retention(raw));
        let level = self.level(raw.level);
        let bandwidth = raw.bandwidth.and_then(|text| self.parsed("bandwidth", text, value::bandwidth));
        let max_restore = raw.max_restore.and_then(|text| self.parsed("max_restore", text, restore));
        let max_chain = raw.max_chain.and_then(|most| {
            let valid = Some(*most.get_ref()).filter(|most| *most > 0);
            if valid.is_none() {
                self.problem(most.span(), "max_chain", "a chain has at least the full one: 1 or more");
            }
            valid
        });
        let mut file = |key: &str, text: Option<Text>| text.and_then(|text| self.parsed(key, text, absolute));
        let (sign, ca) = (file("sign", raw.sign), file("ca", raw.ca));
        let endpoint = raw.endpoint.and_then(|text| self.parsed("endpoint", text, endpoint));
        let encrypt_to = raw.encrypt_to.into_iter();
        let encrypt_to = encrypt_to.filter_map(|text| self.parsed("encrypt_to", text, recipient)).collect();
        let verify_key = raw.verify_key.into_iter();
        let verify_key = verify_key.filter_map(|text| self.parsed("verify_key", text, signer)).collect();
        if let (None, Some(every)) = (&raw.verify, &raw.verify_every) {
            self.problem(every.span(), "verify_every", "says nothing without verify");
        }
        let verify = raw.verify.and_then(|text| self.parsed("verify", text, reading));
        let verify_every = raw.verify_every.and_then(|text| self.parsed("verify_every", text, value::span));
        let Some(to) = raw.to else {
            self.problem(span.clone(), "to", format!("is missing: {VALID}"));
            return None;
        };
        let to = self.parsed("to", to, store)?;
        let word = |text: Option<Text>| text.map(Spanned::into_inner);
        Some(Archive {
            dataset: dataset?,
            to,
            retention,
            max_chain,
            max_restore,
            bandwidth,
            level,
            sign,
            encrypt_to,
            verify_key,
            verify,
            verify_every,
            endpoint,
            path_style: raw.path_style,
            allow_http: raw.allow_http,
            region: word(raw.region),
            profile: word(raw.profile),
            storage_class: word(raw.storage_class),
            ca,
        })
    }
}

const VALID: &str =
    "\"s3://BUCKET/PREFIX\", \"gs://BUCKET/PREFIX\", \"az://CONTAINER/PREFIX\" or \"file:///DIRECTORY\"";

fn store(text: &str) -> Result<String, String> {
    match text.parse::<crate::model::StoreUrl>() {
        Ok(url) if url.login().is_some() => Err("credentials do not stand in an address".into()),
        Ok(url) => Ok(url.to_string()),
        Err(error) => Err(format!("{error}; valid is {VALID}")),
    }
}

/// `300%`: how many percent of the full one.
fn restore(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<u64>().ok());
    number
        .filter(|percent| *percent >= 100)
        .ok_or_else(|| format!("{text:?}: in percent of the chain's full one, at least \"100%\""))
}

/// `quick`, `full`, or a share of the parts.
fn reading(text: &str) -> Result<Depth, String> {
    match text {
        "quick" => Ok(Depth::Quick),
        "full" => Ok(Depth::Full),
        _ => value::sample(text).map(Depth::Sample).map_err(|_| {
            format!("{text:?}: valid is \"quick\", \"full\", or a share that is read each time, as \"5%\"")
        }),
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains('@') => Ok(text.into()),
        Some(host) if host.contains('@') => Err("credentials do not stand in an address".into()),
        _ => Err(format!("{text:?} is no server's address: https://HOST[:PORT]")),
    }
}

/// A recipient, or the absolute path of a file with some.
fn recipient(text: &str) -> Result<String, String> {
    if text.starts_with("age1") && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(text.into());
    }
    absolute(text).map(|path: PathBuf| path.display().to_string()).map_err(|_| {
        format!("{text:?} is neither a recipient (age1…) nor the absolute path of a file with recipients")
    })
}

/// A key that signs, its public half, or the absolute path of a file with some.
fn signer(text: &str) -> Result<String, String> {
    if text.parse::<PublicKey>().is_ok() {
        return Ok(text.into());
    }
    absolute(text)
        .map(|path: PathBuf| path.display().to_string())
        .map_err(|_| "it is neither a public key nor the absolute path of a file with some".into())
}
