//! Who is told of a job's runs.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::{Reader, Text, Texts};
use crate::model::notify::{News, Notify};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNotify {
    command: Option<Texts>,
    ping: Option<Text>,
    mail: Option<Text>,
    sendmail: Option<Text>,
    on: Option<Texts>,
}

impl Reader<'_> {
    pub(super) fn notify(&mut self, raw: Spanned<RawNotify>) -> Notify {
        let span = raw.span();
        let raw = raw.into_inner();
        self.key.push("notify".into());
        if raw.command.is_none() && raw.ping.is_none() && raw.mail.is_none() {
            self.problem(span, "", "tells nobody: one of command, ping, mail at least");
        }
        if let (Some(on), None, None) = (&raw.on, &raw.command, &raw.mail) {
            self.problem(on.span(), "on", "says nothing without command or mail: a ping is told of all");
        }
        if let (Some(sendmail), None) = (&raw.sendmail, &raw.mail) {
            self.problem(sendmail.span(), "sendmail", "says nothing without mail");
        }
        let notify = Notify {
            command: raw.command.and_then(|words| self.command("command", words)),
            ping: raw.ping.and_then(|text| self.parsed("ping", text, url)),
            mail: raw.mail.and_then(|text| self.parsed("mail", text, address)),
            sendmail: raw
                .sendmail
                .and_then(|text| self.parsed("sendmail", text, program))
                .unwrap_or_else(|| "/usr/sbin/sendmail".into()),
            on: raw.on.map_or_else(|| vec![News::Failure, News::Recovery], |on| self.news(on)),
        };
        self.key.pop();
        notify
    }

    fn news(&mut self, on: Texts) -> Vec<News> {
        let span = on.span();
        let read = |text: &str| {
            let found = News::ALL.into_iter().find(|news| news.name() == text);
            found.ok_or_else(|| format!("{text:?} is none of failure, recovery, success"))
        };
        let texts = on.into_inner();
        if texts.is_empty() {
            self.problem(span, "on", "says nothing: some of failure, recovery, success");
        }
        texts.into_iter().filter_map(|text| self.parsed("on", text, read)).collect()
    }
}

fn url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_url = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', '?', '#']));
    // What curl reads more into: lists and ranges.
    let is_plain = text.chars().all(|c| c.is_ascii_graphic() && !"{}[]\"\\^`<>|#".contains(c));
    match is_url && is_plain && text.len() <= 1000 {
        true => Ok(text.into()),
        false => Err("an address is https://HOST/PATH".into()),
    }
}

fn address(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "@._+-=".contains(c);
    let is_address = !text.is_empty() && text.len() <= 254 && text.chars().all(allowed);
    match is_address && !text.starts_with('-') && text.matches('@').count() <= 1 {
        true => Ok(text.into()),
        false => Err("one address is needed: root, or root@example.org".into()),
    }
}

fn program(text: &str) -> Result<String, String> {
    match Path::new(text).is_absolute() {
        true => Ok(text.into()),
        false => Err("a program's absolute path is needed".into()),
    }
}
