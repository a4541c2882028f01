//! Who is told what of a job's runs, and in which words.

use serde::Serialize;

use crate::model::run::Failure;

/// What a run came to, for whoever is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum News {
    /// It failed.
    Failure,
    /// It went well, and the one before had not.
    Recovery,
    /// It went well.
    Success,
}

impl News {
    /// All, as they are written.
    pub const ALL: [Self; 3] = [Self::Failure, Self::Recovery, Self::Success];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Recovery => "recovery",
            Self::Success => "success",
        }
    }
}

/// By what people are told, each of which has its own memory of that: that a mail was taken tells nobody who reads what the command says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// The command.
    Command,
    /// The mail.
    Mail,
}

impl Channel {
    /// All.
    pub const ALL: [Self; 2] = [Self::Command, Self::Mail];

    /// As it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Mail => "mail",
        }
    }
}

/// Who is told of runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// A program's absolute path and its arguments.
    pub command: Option<Vec<String>>,
    /// An address that is called at the start, at the end, and with `/fail`.
    pub ping: Option<String>,
    /// An address of mail.
    pub mail: Option<String>,
    /// What takes the mail.
    pub sendmail: String,
    /// Of what the command and the mail are told; a ping is told of all.
    pub on: Vec<News>,
}

/// What is said of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Of which job.
    pub job: String,
    /// On which machine.
    pub host: String,
    /// What it came to.
    pub news: News,
    /// Why it failed, or the one before.
    pub failure: Option<Failure>,
    /// When it began and ended.
    pub began: String,
    /// When it ended.
    pub ended: String,
    /// How long it took.
    pub seconds: f64,
    /// How many bytes travelled.
    pub bytes: u64,
    /// How long services were down.
    pub downtime_ms: Option<u64>,
    /// How long they may be down, as the job says.
    pub max_downtime_ms: Option<u64>,
    /// What is told, if it is not of a run that is over: `can not tell whether it is due`.
    pub what: Option<String>,
}

impl Message {
    /// In a line.
    pub fn subject(&self) -> String {
        let of_run = match self.news {
            News::Failure => "FAILED",
            News::Recovery => "is well again",
            News::Success => "is done",
        };
        let what = self.what.as_deref().unwrap_or(of_run);
        one_line(&format!("cowsnap on {}: job {} {what}", self.host, self.job))
    }

    /// In some lines.
    pub fn body(&self) -> String {
        let mut text = format!("{}\n\nbegan {}, ended {}\n", self.subject(), self.began, self.ended);
        if let Some(Failure { class, text: why }) = &self.failure {
            let of = match (self.news, &self.what) {
                (News::Failure, _) => "it failed",
                (_, None) => "the run before it had failed",
                (_, Some(_)) => "it had failed",
            };
            text += &format!("{of} ({class}): {}\n", one_line(why));
        }
        if self.bytes > 0 {
            text += &format!("{} bytes travelled\n", self.bytes);
        }
        if let Some(ms) = self.downtime_ms {
            let max = self.max_downtime_ms.filter(|max| ms > *max);
            let more = max.map(|max| format!(", and max_downtime is {max} ms")).unwrap_or_default();
            text += &format!("services were down for {ms} ms{more}\n");
        }
        text + "\ncowsnap status says more.\n"
    }

    /// What a command finds in its environment.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let failure = self.failure.clone().unwrap_or_else(|| Failure::new("", ""));
        vec![
            ("COWSNAP_JOB", self.job.clone()),
            ("COWSNAP_HOST", one_line(&self.host)),
            ("COWSNAP_RESULT", self.news.name().into()),
            ("COWSNAP_CLASS", failure.class),
            ("COWSNAP_MESSAGE", one_line(&failure.text)),
            ("COWSNAP_BEGAN", self.began.clone()),
            ("COWSNAP_ENDED", self.ended.clone()),
            ("COWSNAP_SECONDS", format!("{:.3}", self.seconds)),
            ("COWSNAP_BYTES", self.bytes.to_string()),
            ("COWSNAP_DOWNTIME_MS", self.downtime_ms.map(|ms| ms.to_string()).unwrap_or_default()),
        ]
    }

    /// The mail to `to`, an address that was checked.
    pub fn mail(&self, to: &str) -> String {
        format!(
            "To: {to}\nSubject: {}\nAuto-Submitted: auto-generated\nMIME-Version: 1.0\n\
             Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{}",
            ascii(&self.subject()),
            self.body()
        )
    }
}

/// Without what ends a line, or a text in C.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A header's own characters.
fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

/// Whether who reads the command and the mail is told of this run: of the first of several failures of one kind, and of one once a day. What fails every
/// night does not at the same second: a day is over a little earlier.
pub fn is_new(told: Option<(&str, i64)>, class: &str, now: i64) -> bool {
    const DAY: i64 = 20 * 60 * 60;
    told.is_none_or(|(last, at)| last != class || now - at >= DAY || now < at)
}

/// `ping`, for the start (`start`), a failure (`fail`), or (nothing) for what went well.
pub fn ping_url(ping: &str, which: &str) -> String {
    let (path, query) = ping.split_once('?').map_or((ping, None), |(path, query)| (path, Some(query)));
    let path = match which {
        "" => path.to_owned(),
        which => format!("{}/{which}", path.trim_end_matches('/')),
    };
    query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"))
}

/// What curl reads as its configuration: an address that it calls, and what it says there. Nobody sees either among the processes.
pub fn curl_config(url: &str, body: &str) -> String {
    let quoted = |text: &str| {
        let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("\"{}\"", escaped.replace(|c: char| c.is_control(), " "))
    };
    format!(
        "url = {}\ndata-raw = {}\nheader = \"Content-Type: text/plain; charset=utf-8\"\n",
        quoted(url),
        quoted(body)
    )
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn message(text: &str) -> Message {
        Message {
            job: "node".into(),
            host: "host\r\nBcc: x@y".into(),
            news: News::Failure,
            failure: Some(Failure::new("conflict", text)),
            began: "a".into(),
            ended: "b".into(),
            seconds: 1.5,
            bytes: 3,
            downtime_ms: None,
            max_downtime_ms: None,
            what: None,
        }
    }

    #[test]
    fn nothing_that_is_said_ends_a_header_or_an_environment_s_text() {
        let mail = message("no\r\n.\r\nBcc: x@y\0\u{85}").mail("root@localhost");
        let (headers, body) = mail.split_once("\n\n").expect("a blank line");
        assert_eq!(headers.lines().count(), 6, "{headers}");
        assert!(!headers.contains("\nBcc") && !body.contains("\nBcc") && !body.contains("\n.\n"), "{mail}");
        assert!(mail.is_ascii() && body.contains("it failed (conflict): no"), "{mail}");
        for (key, value) in message("a\nb\0c").environment() {
            assert!(key.starts_with("COWSNAP_") && !value.contains(['\0', '\n']), "{key}={value}");
        }
    }

    #[test]
    fn a_ping_has_its_word_before_its_query() {
        let ping = "https://hc.example/ping/1?rid=2";
        assert_eq!(ping_url(ping, "start"), "https://hc.example/ping/1/start?rid=2");
        assert_eq!(
            (ping_url(ping, "").as_str(), ping_url("http://x/y/", "fail").as_str()),
            (ping, "http://x/y/fail")
        );
    }

    #[test]
    fn what_curl_reads_is_three_lines_whatever_is_said() {
        let config = curl_config("http://x/\"\nupload-file = \"/etc/shadow", "a\"b\\c\nd\r\ne");
        assert_eq!(config.lines().count(), 3, "{config}");
        assert!(config.contains("data-raw = \"a\\\"b\\\\c\\nd \\ne\""), "{config}");
    }

    #[test]
    fn a_failure_is_told_once_a_day_and_when_it_is_another() {
        let day = 20 * 60 * 60;
        assert!(is_new(None, "usage", 0) && is_new(Some(("corrupt", 0)), "usage", 1));
        assert!(!is_new(Some(("usage", 0)), "usage", day - 1) && is_new(Some(("usage", 0)), "usage", day));
        assert!(is_new(Some(("usage", 1000)), "usage", 0), "the clock was ahead");
        // Every night at two, and a little earlier than the night before.
        assert!(is_new(Some(("usage", 7205)), "usage", 24 * 60 * 60 + 7201));
    }

    #[test]
    fn a_downtime_that_was_too_long_is_said() {
        let of = |max| Message { downtime_ms: Some(45_000), max_downtime_ms: Some(max), ..message("") };
        assert!(of(30_000).body().contains("down for 45000 ms, and max_downtime is 30000 ms\n"));
        assert!(of(45_000).body().contains("down for 45000 ms\n"));
    }

    #[test]
    fn what_is_said_depends_on_what_it_came_to() {
        let said = |news, bytes, downtime_ms| {
            let message = Message {
                news,
                bytes,
                downtime_ms,
                host: "h".into(),
                failure: (news != News::Success).then(|| Failure::new("unreachable", "no route")),
                ..message("")
            };
            message.body()
        };
        expect![[r#"
            cowsnap on h: job node FAILED

            began a, ended b
            it failed (unreachable): no route

            cowsnap status says more.
        "#]]
        .assert_eq(&said(News::Failure, 0, None));
        expect![[r#"
            cowsnap on h: job node is well again

            began a, ended b
            the run before it had failed (unreachable): no route
            3 bytes travelled

            cowsnap status says more.
        "#]]
        .assert_eq(&said(News::Recovery, 3, None));
        expect![[r#"
            cowsnap on h: job node is done

            began a, ended b
            services were down for 250 ms

            cowsnap status says more.
        "#]]
        .assert_eq(&said(News::Success, 0, Some(250)));
    }

    #[test]
    fn what_is_no_run_is_told_in_its_own_words() {
        let message = Message {
            host: "h".into(),
            news: News::Recovery,
            what: Some("can tell again whether it is due".into()),
            ..message("no route")
        };
        assert_eq!(message.subject(), "cowsnap on h: job node can tell again whether it is due");
        assert!(message.body().contains("\nit had failed (conflict): no route\n"), "{}", message.body());
    }

    #[test]
    fn a_command_finds_all_of_it_in_its_environment() {
        let told = |message: &Message| {
            let pairs = message.environment().into_iter();
            pairs.map(|(key, value)| format!("{key}={value}\n")).collect::<String>()
        };
        expect![[r#"
            COWSNAP_JOB=node
            COWSNAP_HOST=host  Bcc: x@y
            COWSNAP_RESULT=failure
            COWSNAP_CLASS=conflict
            COWSNAP_MESSAGE=a b
            COWSNAP_BEGAN=a
            COWSNAP_ENDED=b
            COWSNAP_SECONDS=1.500
            COWSNAP_BYTES=3
            COWSNAP_DOWNTIME_MS=
        "#]]
        .assert_eq(&told(&message("a\nb")));
        let well = Message { news: News::Success, failure: None, downtime_ms: Some(250), ..message("") };
        let told = told(&well);
        for line in ["COWSNAP_RESULT=success\n", "COWSNAP_CLASS=\n", "COWSNAP_DOWNTIME_MS=250\n"] {
            assert!(told.contains(line), "{told}");
        }
    }

    #[test]
    fn channels_are_called_as_the_configuration_does() {
        assert_eq!(Channel::ALL.map(Channel::name), ["command", "mail"]);
    }

    #[test]
    fn news_are_called_as_they_are_written() {
        for news in News::ALL {
            assert_eq!(serde_json::to_string(&news).expect("text"), format!("{:?}", news.name()));
        }
    }
}
