//! With what a store is reached: said by the user, or found in the usual places.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How long a store that does not answer is asked again.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a connection over which nothing comes or goes is waited for.
const STALL: Duration = Duration::from_secs(60);
/// How many requests of one upload go on at once.
const PARALLEL: usize = 4;
/// Where the settings that object stores are given otherwise begin.
const PREFIXES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// With what a store is reached. The default says nothing, and looks nowhere.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the store answers, if not where its provider does: `https://minio.example:9000`.
    pub endpoint: Option<String>,
    /// The region of the bucket.
    pub region: Option<String>,
    /// Whether the bucket stands in the path (`https://HOST/BUCKET`) or before the host; by default in the path where an endpoint is named.
    pub path_style: Option<bool>,
    /// The storage class that new objects get.
    pub storage_class: Option<String>,
    /// A file of certificates (PEM) that are trusted beside the system's.
    pub ca: Option<PathBuf>,
    /// The profile in `~/.aws/credentials` and `~/.aws/config`.
    pub profile: Option<String>,
    /// Talk in the clear to others than this machine.
    pub allow_http: bool,
    /// So many bytes per second, up and down together.
    pub bandwidth: Option<u64>,
    /// How long a store that does not answer is asked again.
    pub patience: Duration,
    /// How long a connection over which nothing comes or goes is waited for.
    pub stall: Duration,
    /// How many requests of one upload go on at once.
    pub parallel: usize,
    /// What else is known, by the names of environment variables.
    pub settings: Vec<(String, Secret)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: None,
            storage_class: None,
            ca: None,
            profile: None,
            allow_http: false,
            bandwidth: None,
            patience: PATIENCE,
            stall: STALL,
            parallel: PARALLEL,
            settings: Vec::new(),
        }
    }
}

impl Options {
    /// What the environment says: the variables that the stores' own programs read.
    pub fn from_env() -> Self {
        Self::from_variables(std::env::vars())
    }

    /// The same, of these variables.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let mut settings: Vec<_> = variables
            .into_iter()
            .filter(|(name, value)| ours(name) && !value.is_empty())
            .map(|(name, value)| (name, Secret(value)))
            .collect();
        settings.sort();
        let mut options = Self { settings, ..Self::default() };
        options.ca = options.setting("AWS_CA_BUNDLE").map(PathBuf::from);
        options.profile = options.setting("AWS_PROFILE").map(str::to_owned);
        options.allow_http =
            options.setting("AWS_ALLOW_HTTP").is_some_and(|v| v.eq_ignore_ascii_case("true") || v == "1");
        options
    }

    /// A setting by the name of its environment variable.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.reveal())
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
