//! With what a store is reached: said by the user, or found in the usual places.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::profile::{self, Files};

/// How long a store that does not answer is asked again.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a connection over which nothing comes or goes is waited for.
const STALL: Duration = Duration::from_secs(60);
/// How many requests of one upload go on at once.
const PARALLEL: usize = 4;
/// Where the settings that object stores are given otherwise begin.
const PREFIXES: [&str; 4] = ["AWS_", "AZURE_", "AZURITE_", "GOOGLE_"];

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
    /// Where profiles are; none is looked for without it.
    pub files: Option<Files>,
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
            files: None,
        }
    }
}

impl Options {
    /// What the environment says: the variables that the stores' own programs read.
    pub fn from_env() -> Self {
        // A variable that is no text is none of ours.
        let texts = std::env::vars_os();
        Self::from_variables(
            texts.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// The same, of these variables.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = |name: &str| name == "HOME" || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let mut settings: Vec<_> = variables
            .into_iter()
            .filter(|(name, value)| ours(name) && !value.is_empty())
            .map(|(name, value)| (name, Secret(value)))
            .collect();
        settings.sort();
        let mut options = Self { settings, ..Self::default() };
        let home = options.setting("HOME").map(PathBuf::from);
        let file = |variable, name| {
            let usual = home.as_ref().map(|home| home.join(".aws").join(name));
            options.setting(variable).map(PathBuf::from).or(usual)
        };
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        options.files = credentials
            .zip(file("AWS_CONFIG_FILE", "config"))
            .map(|(credentials, config)| Files { credentials, config });
        options.ca = options.setting("AWS_CA_BUNDLE").map(PathBuf::from);
        let allowed = |value: &str| value.eq_ignore_ascii_case("true") || value == "1";
        options.allow_http = options.setting("AWS_ALLOW_HTTP").is_some_and(allowed);
        options
    }

    /// With what the profile says, where nothing else does. A profile that the user names goes before the environment's credentials.
    ///
    /// # Errors
    /// Why it can not be used.
    pub(super) fn with_profile(&self) -> Result<Self, String> {
        let Some(files) = &self.files else { return Ok(self.clone()) };
        let asked = self.profile.as_deref().or_else(|| self.setting("AWS_PROFILE"));
        let has_keys = self.setting("AWS_ACCESS_KEY_ID").is_some();
        if self.profile.is_none() && has_keys && asked.is_none() {
            return Ok(self.clone());
        }
        let found = profile::settings(files, asked)?;
        let mut options = self.clone();
        let is_key =
            |name: &str| ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].contains(&name);
        if self.profile.is_some() && found.iter().any(|(name, _)| is_key(name)) {
            options.settings.retain(|(name, _)| !is_key(name));
        }
        // The keys of one pair come from one place.
        let keys = options.setting("AWS_ACCESS_KEY_ID").is_none();
        for (name, value) in found {
            if options.setting(&name).is_none() && (keys || !is_key(&name)) {
                options.settings.push((name, value));
            }
        }
        options.ca = options.ca.clone().or_else(|| options.setting("AWS_CA_BUNDLE").map(PathBuf::from));
        Ok(options)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> Options {
        Options::from_variables(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn nothing_secret_is_shown() {
        let options = options(&[("AWS_SECRET_ACCESS_KEY", "hidden"), ("AZURE_STORAGE_SAS_TOKEN", "hidden")]);
        assert!(!format!("{options:?} {:?}", Secret::new("hidden")).contains("hidden"));
        assert_eq!(options.setting("AWS_SECRET_ACCESS_KEY"), Some("hidden"));
    }

    #[test]
    fn the_keys_of_a_pair_come_from_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let (home, aws) = (dir.path().to_str().unwrap(), dir.path().join(".aws"));
        std::fs::create_dir(&aws).unwrap();
        let text = "[default]\naws_access_key_id=A\naws_secret_access_key=S\naws_session_token=T\nregion=r\n[x]\n\
                    aws_access_key_id=B\naws_secret_access_key=U\n";
        std::fs::write(aws.join("credentials"), text).unwrap();
        let keys = |options: &Options| {
            let options = options.with_profile().unwrap();
            let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"];
            names.map(|name| options.setting(name).unwrap_or("-").to_owned()).join(" ")
        };
        let env = [("HOME", home), ("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "F")];
        assert_eq!(keys(&options(&env[..1])), "A S T r");
        assert_eq!(keys(&options(&env)), "E F - -");
        let named = Options { profile: Some("x".into()), ..options(&env) };
        assert_eq!(keys(&named), "B U - -");
        let by_env = options(&[env[0], env[1], env[2], ("AWS_PROFILE", "default")]);
        assert_eq!(keys(&by_env), "E F - r");
        assert!(Options { profile: Some("y".into()), ..options(&env) }.with_profile().is_err());
        assert_eq!(keys(&Options::default()), "- - - -");
    }
}
