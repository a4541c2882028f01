//! How a store of objects is reached: options that all commands share which use one.

use std::path::PathBuf;

use clap::Args;

use crate::config::value::bandwidth;
use crate::endpoint::store::Options;
use crate::{Error, Result};

/// How a store of objects is reached, where its address and the environment do not say.
#[derive(Debug, Clone, Default, Args)]
pub struct StoreArgs {
    /// Where the store answers, if not where its provider does: https://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// The region of the bucket
    #[arg(long)]
    pub region: Option<String>,
    /// Name the bucket in the path (true) or before the host (false); with an endpoint, in the path
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub path_style: Option<bool>,
    /// The storage class that new objects get
    #[arg(long, value_name = "CLASS")]
    pub storage_class: Option<String>,
    /// A file of certificates (PEM) that are trusted beside the system's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The profile in ~/.aws/credentials and ~/.aws/config
    #[arg(long)]
    pub profile: Option<String>,
    /// Talk in the clear (http://) to others than this machine
    #[arg(long)]
    pub allow_http: bool,
    /// So many bytes per second at most, up and down together: 10M
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    pub bandwidth: Option<u64>,
}

impl StoreArgs {
    /// Refuses what is said of a store where there is none.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the option.
    pub fn refuse(&self, what: &str) -> Result<()> {
        match self.bandwidth {
            Some(_) => Err(of_no_store("--bandwidth", what)),
            None => self.refuse_but_bandwidth(what),
        }
    }

    /// The same, where a bandwidth may be said.
    ///
    /// # Errors
    /// As [`StoreArgs::refuse`].
    pub fn refuse_but_bandwidth(&self, what: &str) -> Result<()> {
        let said = [
            ("--endpoint", self.endpoint.is_some()),
            ("--region", self.region.is_some()),
            ("--path-style", self.path_style.is_some()),
            ("--storage-class", self.storage_class.is_some()),
            ("--ca", self.ca.is_some()),
            ("--profile", self.profile.is_some()),
            ("--allow-http", self.allow_http),
        ];
        match said.into_iter().find(|(_, is_said)| *is_said) {
            Some((option, _)) => Err(of_no_store(option, what)),
            None => Ok(()),
        }
    }

    /// What they say, over what the environment says.
    pub fn options(&self) -> Options {
        let env = Options::from_env();
        Options {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            storage_class: self.storage_class.clone(),
            ca: self.ca.clone().or_else(|| env.ca.clone()),
            profile: self.profile.clone(),
            allow_http: self.allow_http || env.allow_http,
            bandwidth: self.bandwidth,
            ..env
        }
    }
}

fn of_no_store(option: &str, what: &str) -> Error {
    Error::Usage { what: format!("{option} is for stores, and {what} is none"), hint: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        store: StoreArgs,
    }

    #[test]
    fn options_say_how_a_store_is_reached() {
        let said = Program::parse_from([
            "x",
            "--endpoint",
            "https://h:1",
            "--region",
            "r",
            "--path-style=false",
            "--storage-class",
            "STANDARD_IA",
            "--ca",
            "/ca.pem",
            "--profile",
            "p",
            "--bandwidth",
            "10M",
            "--allow-http",
        ]);
        let options = said.store.options();
        assert_eq!(options.endpoint.as_deref(), Some("https://h:1"));
        assert_eq!(
            (options.path_style, options.bandwidth, options.allow_http),
            (Some(false), Some(10 << 20), true)
        );
        assert_eq!(Program::parse_from(["x", "--path-style"]).store.path_style, Some(true));
        assert_eq!(Program::parse_from(["x"]).store.options().endpoint, None);
    }
}
