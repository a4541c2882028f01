//! Builds what reaches a store, from its address and what is known.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{ClientOptions, HeaderMap, HeaderValue, RetryConfig};

use super::pace::Pace;
use super::remote::{Backing, Remote};
use super::wire::{self, Connector};
use super::{Error, Options, Result, runtime};
use crate::model::{StoreKind, StoreUrl};

/// Where Azure's emulator answers if nothing else is said.
const EMULATOR: &str = "http://127.0.0.1:10000";

/// A store at `url`.
pub fn open(url: &StoreUrl, options: &Options) -> Result<Remote> {
    let bad = |why: String| Error::Options { url: url.to_string(), why, hint: None };
    let known = match url.kind() {
        StoreKind::S3 => options.with_profile().map_err(bad)?,
        _ => options.clone(),
    };
    let options = &known;
    let endpoint = match url.kind() == StoreKind::Azure && emulates(options) {
        true => Some(emulator(url, options)?),
        false => endpoint(url, options),
    };
    let connector = connector(url, endpoint.as_deref(), options)?;
    let built = match url.kind() {
        StoreKind::S3 => s3(url, endpoint, options, connector),
        StoreKind::Gcs => gcs(url, endpoint, options, connector),
        StoreKind::Azure => azure(url, endpoint, options, connector),
        StoreKind::Http | StoreKind::Https => web(url, connector),
        StoreKind::Dir => return Err(bad("a directory is not reached over a network".into())),
    };
    let backing = built.map_err(|error| Error::Options {
        url: url.to_string(),
        why: error.to_string(),
        hint: credentials(url.kind()).map(str::to_owned),
    })?;
    let handle = runtime::handle().map_err(|error| bad(error.to_string()))?;
    Ok(Remote::new(url.clone(), backing, handle, options))
}

/// Where the credentials of a provider are said.
fn credentials(kind: StoreKind) -> Option<&'static str> {
    match kind {
        StoreKind::Azure => {
            Some("see AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN")
        }
        StoreKind::Gcs => Some("see GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT"),
        _ => None,
    }
}

/// Whether Azure's emulator is meant.
fn emulates(options: &Options) -> bool {
    let said = options.setting("AZURE_STORAGE_USE_EMULATOR").unwrap_or_default();
    ["1", "true", "on", "yes", "y"].iter().any(|yes| said.eq_ignore_ascii_case(yes))
}

/// Where Azure's emulator answers: `object_store` looks for it there, whatever endpoint it is given.
fn emulator(url: &StoreUrl, options: &Options) -> Result<String> {
    if endpoint(url, options).is_some() {
        let why = "AZURE_STORAGE_USE_EMULATOR and an endpoint exclude each other";
        let hint =
            Some(format!("set AZURITE_BLOB_STORAGE_URL instead; or unset it: --endpoint {EMULATOR}/ACCOUNT"));
        return Err(Error::Options { url: url.to_string(), why: why.into(), hint });
    }
    Ok(options.setting("AZURITE_BLOB_STORAGE_URL").unwrap_or(EMULATOR).to_owned())
}

/// Where the store answers, if not where its provider does.
fn endpoint(url: &StoreUrl, options: &Options) -> Option<String> {
    let names: &[&str] = match url.kind() {
        StoreKind::S3 => &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"],
        StoreKind::Gcs => &["GOOGLE_BASE_URL"],
        StoreKind::Azure => &["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"],
        StoreKind::Http | StoreKind::Https | StoreKind::Dir => &[],
    };
    if url.kind().is_web() {
        return Some(format!("{}://{}", url.kind().scheme(), url.place()));
    }
    let said = options.endpoint.as_deref().or_else(|| names.iter().find_map(|name| options.setting(name)));
    said.map(|endpoint| endpoint.trim_end_matches('/').to_owned())
}

fn connector(url: &StoreUrl, endpoint: Option<&str>, options: &Options) -> Result<Connector> {
    let bad = |why: String, hint: Option<&str>| Error::Options {
        url: url.to_string(),
        why,
        hint: hint.map(str::to_owned),
    };
    let host = endpoint.and_then(host_of);
    if endpoint.is_some() && host.is_none() {
        return Err(bad(
            "the endpoint is no http:// or https:// address".into(),
            Some("--endpoint https://HOST[:PORT]"),
        ));
    }
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let is_loopback = host.is_some_and(is_loopback);
    if is_plain && !is_loopback && !options.allow_http {
        let why = "its endpoint would be talked to in the clear: anybody on the way could read and change what passes";
        return Err(bad(why.into(), Some("use https://, or allow it: --allow-http")));
    }
    let ca = wire::read_ca(options.ca.as_deref())
        .map_err(|error| bad(format!("its certificates can not be read: {error}"), None))?;
    Ok(Connector {
        is_loopback,
        is_plain,
        ca,
        follow: url.kind().is_web(),
        headers: HeaderMap::new(),
        pace: Pace::new(options.bandwidth),
        stall: options.stall,
    })
}

/// The host of `http[s]://HOST[:PORT][/…]`.
fn host_of(endpoint: &str) -> Option<&str> {
    let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"))?;
    let authority = rest.split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => authority.split(':').next()?,
    };
    (!host.is_empty() && !authority.contains('@')).then_some(host)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Tries are counted here, not there.
fn once() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn client_options(is_plain: bool) -> ClientOptions {
    ClientOptions::new().with_allow_http(is_plain)
}

fn s3(
    url: &StoreUrl,
    endpoint: Option<String>,
    options: &Options,
    connector: Connector,
) -> object_store::Result<Backing> {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in &options.settings {
        let key = name.to_ascii_lowercase();
        // The endpoint is composed below; a CA is read here.
        let is_endpoint = key.contains("endpoint") && !key.contains("sts") && !key.contains("metadata");
        if is_endpoint || key == "aws_allow_http" {
            continue;
        }
        if let Ok(key) = key.parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value.reveal());
        }
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    let in_path = options.path_style.unwrap_or(endpoint.is_some() || url.place().contains('.'));
    let endpoint = endpoint.map(|endpoint| match (in_path, endpoint.split_once("://")) {
        (false, Some((scheme, host))) => format!("{scheme}://{}.{host}", url.place()),
        _ => endpoint,
    });
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let builder = builder
        .with_bucket_name(url.place())
        .with_virtual_hosted_style_request(!in_path)
        .with_client_options(client_options(connector.is_plain))
        .with_retry(once())
        .with_http_connector(connector);
    let singly = builder.clone().with_disable_bulk_delete(true).build()?;
    Ok(Backing::new(Arc::new(builder.build()?)).destroying_by(Arc::new(singly)))
}

fn gcs(
    url: &StoreUrl,
    endpoint: Option<String>,
    options: &Options,
    connector: Connector,
) -> object_store::Result<Backing> {
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in &options.settings {
        if let Ok(key) = name.to_ascii_lowercase().parse::<GoogleConfigKey>() {
            builder = builder.with_config(key, value.reveal());
        }
    }
    if let Some(endpoint) = endpoint {
        builder = builder.with_base_url(&endpoint);
    }
    let built = builder
        .with_bucket_name(url.place())
        .with_client_options(client_options(connector.is_plain))
        .with_retry(once())
        .with_http_connector(connector)
        .build()?;
    Ok(Backing::new(Arc::new(built)))
}

fn azure(
    url: &StoreUrl,
    endpoint: Option<String>,
    options: &Options,
    connector: Connector,
) -> object_store::Result<Backing> {
    let mut builder = MicrosoftAzureBuilder::new();
    // As `az` calls them; what stands below goes before.
    for (name, key) in [
        ("AZURE_STORAGE_ACCOUNT", AzureConfigKey::AccountName),
        ("AZURE_STORAGE_KEY", AzureConfigKey::AccessKey),
    ] {
        if let Some(value) = options.setting(name) {
            builder = builder.with_config(key, value);
        }
    }
    for (name, value) in &options.settings {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AzureConfigKey>() {
            builder = builder.with_config(key, value.reveal());
        }
    }
    if let Some(endpoint) = endpoint.filter(|_| !emulates(options)) {
        builder = builder.with_endpoint(endpoint);
    }
    let built = builder
        .with_container_name(url.place())
        .with_client_options(client_options(connector.is_plain))
        .with_retry(once())
        .with_http_connector(connector)
        .build()?;
    Ok(Backing::new(Arc::new(built)))
}

fn web(url: &StoreUrl, connector: Connector) -> object_store::Result<Backing> {
    let mut connector = connector;
    connector.headers = headers(url);
    let base = format!("{}://{}/", url.kind().scheme(), url.place());
    let client = connector.service()?;
    let built = HttpBuilder::new()
        .with_url(&base)
        .with_client_options(client_options(connector.is_plain))
        .with_retry(once())
        .with_http_connector(connector)
        .build()?;
    Ok(Backing::web(Arc::new(built), client, base))
}

/// Who logs in.
fn headers(url: &StoreUrl) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some((name, password)) = url.login() {
        let text = format!("Basic {}", base64(format!("{name}:{password}").as_bytes()));
        if let Ok(mut value) = HeaderValue::from_str(&text) {
            value.set_sensitive(true);
            headers.insert(hyper::header::AUTHORIZATION, value);
        }
    }
    headers
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for some in bytes.chunks(3) {
        let three = [some[0], some.get(1).copied().unwrap_or(0), some.get(2).copied().unwrap_or(0)];
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for digit in 0..4 {
            let known = digit <= some.len();
            text.push(if known { DIGITS[(bits >> (18 - 6 * digit) & 63) as usize].into() } else { '=' });
        }
    }
    text
}
