//! Profiles of Amazon's tools: `~/.aws/credentials` and `~/.aws/config`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Secret;

/// The longest such file that is read, in bytes.
const MAX_LEN: u64 = 1 << 20;

/// Where the two files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Usually `~/.aws/credentials`.
    pub credentials: PathBuf,
    /// Usually `~/.aws/config`.
    pub config: PathBuf,
}

/// Settings by the names of environment variables.
pub type Settings = Vec<(String, Secret)>;

/// What a profile says; nothing if neither file is there and none was asked for.
pub fn settings(files: &Files, asked: Option<&str>) -> Result<Settings, String> {
    let name = asked.unwrap_or("default");
    let (config, credentials) = (read(&files.config)?, read(&files.credentials)?);
    let section = if name == "default" { name.to_owned() } else { format!("profile {name}") };
    let mut values = parse(&config, &[&section, name]);
    values.extend(parse(&credentials, &[name]));
    if values.is_empty() {
        return match asked {
            Some(name) => Err(format!(
                "there is no profile {name:?} in {} or {}",
                files.credentials.display(),
                files.config.display()
            )),
            None => Ok(Vec::new()),
        };
    }
    translate(values)
}

fn read(path: &Path) -> Result<String, String> {
    match std::fs::metadata(path) {
        Err(_) => return Ok(String::new()),
        Ok(meta) if meta.len() > MAX_LEN => return Err(format!("{} is too long", path.display())),
        Ok(_) => {}
    }
    std::fs::read_to_string(path).map_err(|error| format!("{} can not be read: {error}", path.display()))
}

/// The values of the sections with one of these names. What is indented below a key belongs to it, and is named `key.name`.
fn parse(text: &str, sections: &[&str]) -> BTreeMap<String, String> {
    let (mut values, mut inside, mut above) = (BTreeMap::new(), false, String::new());
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = bare.strip_prefix('[') {
            let name =
                name.split(']').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
            inside = sections.contains(&name.as_str());
            above.clear();
            continue;
        }
        let Some((key, value)) = bare.split_once('=').filter(|_| inside) else { continue };
        let (key, value) =
            (key.trim().to_ascii_lowercase(), value.split(" #").next().unwrap_or_default().trim());
        let is_nested = line.starts_with([' ', '\t']) && !above.is_empty();
        let name = if is_nested { format!("{above}.{key}") } else { key.clone() };
        if !is_nested {
            above = key;
        }
        if !value.is_empty() {
            values.insert(name, value.to_owned());
        }
    }
    values
}

/// The same settings as variables of the environment.
fn translate(mut values: BTreeMap<String, String>) -> Result<Settings, String> {
    if let Some(s3) = values.remove("s3.endpoint_url") {
        values.insert("endpoint_url".into(), s3);
    }
    if !values.contains_key("aws_access_key_id") {
        if let Some(command) = values.remove("credential_process") {
            values.extend(ask(&command)?);
        } else if values.contains_key("source_profile") || values.contains_key("sso_session") {
            let why = "this profile's credentials come from another profile's role or from SSO, which is not known here";
            return Err(format!("{why}: export them, or name a credential_process"));
        }
    }
    const NAMES: [(&str, &str); 9] = [
        ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
        ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
        ("aws_session_token", "AWS_SESSION_TOKEN"),
        ("region", "AWS_REGION"),
        ("endpoint_url", "AWS_ENDPOINT_URL"),
        ("ca_bundle", "AWS_CA_BUNDLE"),
        ("web_identity_token_file", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        ("role_arn", "AWS_ROLE_ARN"),
        ("role_session_name", "AWS_ROLE_SESSION_NAME"),
    ];
    let known =
        |(key, name): &(&str, &str)| values.get(*key).map(|v| ((*name).to_owned(), Secret::new(v.as_str())));
    Ok(NAMES.iter().filter_map(known).collect())
}

/// What a profile's program answers. Nothing that it prints is shown.
fn ask(command: &str) -> Result<BTreeMap<String, String>, String> {
    let failed = |why: String| format!("the profile's credential_process {why}");
    let output =
        Command::new("/bin/sh").args(["-c", command]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.map_err(|error| failed(format!("can not be started: {error}")))?;
    if !output.status.success() {
        return Err(failed(format!("failed: {}", output.status)));
    }
    let json: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|_| failed("answers what is no JSON".into()))?;
    let mut values = BTreeMap::new();
    for (from, to) in [
        ("AccessKeyId", "aws_access_key_id"),
        ("SecretAccessKey", "aws_secret_access_key"),
        ("SessionToken", "aws_session_token"),
    ] {
        if let Some(value) = json.get(from).and_then(serde_json::Value::as_str) {
            values.insert(to.to_owned(), value.to_owned());
        }
    }
    match values.len() >= 2 {
        true => Ok(values),
        false => Err(failed("answers without AccessKeyId and SecretAccessKey".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::quoted;

    fn files(credentials: &str, config: &str) -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { credentials: dir.path().join("credentials"), config: dir.path().join("config") };
        std::fs::write(&files.credentials, credentials).unwrap();
        std::fs::write(&files.config, config).unwrap();
        (dir, files)
    }

    fn shown(settings: Result<Settings, String>) -> String {
        match settings {
            Ok(settings) => settings.iter().map(|(n, v)| format!("{n}={}\n", v.reveal())).collect(),
            Err(why) => why,
        }
    }

    #[test]
    fn a_profile_is_read_from_both_files() {
        let (_dir, files) = files(
            "[default]\naws_access_key_id = A\naws_secret_access_key=S=/+\n# no\n[ other ]\naws_access_key_id=B\n\
             aws_secret_access_key=T\naws_session_token=K\n",
            "[default]\nregion = eu-west-1\n\n[profile other]\nregion=us-west-2 # here\nendpoint_url=https://all\ns3 =\n  \
             endpoint_url = https://s3.example:9000\n  max_concurrent_requests = 3\nca_bundle=/ca.pem\n[profile none]\n",
        );
        assert_eq!(
            shown(settings(&files, None)),
            "AWS_ACCESS_KEY_ID=A\nAWS_SECRET_ACCESS_KEY=S=/+\nAWS_REGION=eu-west-1\n"
        );
        assert_eq!(
            shown(settings(&files, Some("other"))),
            "AWS_ACCESS_KEY_ID=B\nAWS_SECRET_ACCESS_KEY=T\nAWS_SESSION_TOKEN=K\nAWS_REGION=us-west-2\n\
             AWS_ENDPOINT_URL=https://s3.example:9000\nAWS_CA_BUNDLE=/ca.pem\n"
        );
        assert!(shown(settings(&files, Some("nobody"))).starts_with("there is no profile \"nobody\" in "));
    }

    #[test]
    fn a_profile_without_files_is_an_error_only_if_it_was_asked_for() {
        let files = Files { credentials: "/nothing/credentials".into(), config: "/nothing/config".into() };
        assert_eq!(settings(&files, None), Ok(Vec::new()));
        assert!(settings(&files, Some("default")).is_err());
    }

    #[test]
    fn a_program_may_give_the_credentials_and_is_not_quoted() {
        let answer = r#"{"Version":1,"AccessKeyId":"A","SecretAccessKey":"hidden","SessionToken":"K"}"#;
        let (_dir, good) = files("", &format!("[default]\ncredential_process = echo {}\n", quoted(answer)));
        assert_eq!(
            shown(settings(&good, None)),
            "AWS_ACCESS_KEY_ID=A\nAWS_SECRET_ACCESS_KEY=hidden\nAWS_SESSION_TOKEN=K\n"
        );
        for (command, why) in [
            ("echo hidden", "answers what is no JSON"),
            ("echo {}", "answers without AccessKeyId and SecretAccessKey"),
            ("echo hidden; exit 3", "failed: exit status: 3"),
        ] {
            let (_dir, bad) = files("", &format!("[default]\ncredential_process = {command}\n"));
            assert_eq!(shown(settings(&bad, None)), format!("the profile's credential_process {why}"));
        }
    }

    #[test]
    fn what_is_not_known_here_is_said() {
        let (_dir, files) = files("", "[profile a]\nrole_arn=x\nsource_profile=b\n");
        assert!(shown(settings(&files, Some("a"))).contains("not known here"));
    }
}
