//! What a side that serves allows: which verbs, below which targets.

use std::fmt;
use std::str::FromStr;

use super::message::Request;
use crate::endpoint::Error;
use crate::model::HoldTag;

/// Tags of holds that who brings versions keeps them by begin with this.
const OF_RECEIVER: &str = "cowsnap:from:";
/// Tags of holds that who takes versions away keeps them by begin with this.
const OF_SENDER: &str = "cowsnap:to:";

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// See what is there.
    List,
    /// Take streams out.
    Send,
    /// Bring streams in, and keep what came in.
    Receive,
    /// Keep versions, and keep them no longer.
    Hold,
    /// Destroy versions.
    Destroy,
    /// See what files versions hold, and what these hash to.
    Verify,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::List, Self::Send, Self::Receive, Self::Hold, Self::Destroy, Self::Verify];

    fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Hold => "hold",
            Self::Destroy => "destroy",
            Self::Verify => "verify",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Verb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = Self::ALL.map(Self::as_str).join(", ");
        let found = Self::ALL.into_iter().find(|verb| verb.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is none of {all}"))
    }
}

/// A target below which everything is allowed, and it itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Under(String);

impl Under {
    /// Whether `target` is it or below it, component by component. A path with `.`, `..`, an empty component or cowsnap's own
    /// directory in it is below nothing.
    pub fn contains(&self, target: &str) -> bool {
        let relative = target.strip_prefix('/').unwrap_or(target);
        let strange = |part: &str| matches!(part, "" | "." | ".." | ".cowsnap" | ".cowsnap-trees");
        if target.contains('\0') || relative.split('/').any(strange) {
            return false;
        }
        target.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for Under {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        let under = Self(trimmed.into());
        match under.contains(trimmed) {
            true => Ok(under),
            false => Err(format!("{text:?} is neither a dataset nor an absolute path without . and ..")),
        }
    }
}

impl fmt::Display for Under {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// Which verbs.
    pub verbs: Vec<Verb>,
    /// Below which targets; anywhere if none is named.
    pub under: Vec<Under>,
    /// Nothing that is there may go: whatever the verbs say, nothing is destroyed, and no hold but replication's own is released.
    pub append_only: bool,
    /// What is encrypted may go out readable, if that is asked for and the key is loaded.
    pub plaintext: bool,
}

impl Default for Rights {
    /// All of it, as for somebody with a shell.
    fn default() -> Self {
        Self { verbs: Verb::ALL.to_vec(), under: Vec::new(), append_only: false, plaintext: true }
    }
}

impl Rights {
    /// Whether `request` may be done.
    ///
    /// # Errors
    /// [`Error::Denied`], naming what is not allowed.
    pub fn check(&self, request: &Request) -> Result<(), Error> {
        let Some(target) = request.target() else { return Ok(()) };
        let op = verb_of(request);
        let denied = |lacking: String| Error::Denied {
            op: "serve",
            subject: format!("{op} {target:?}"),
            lacking,
            hint: None,
        };
        if !self.under.is_empty() && !self.under.iter().any(|under| under.contains(target)) {
            let all: Vec<_> = self.under.iter().map(ToString::to_string).collect();
            return Err(denied(format!("this key is for what is under {}", all.join(", "))));
        }
        if self.append_only && takes_away(request) {
            return Err(denied("this key can add and take nothing away".into()));
        }
        let wanted = verbs_for(request);
        match wanted.iter().any(|verb| self.verbs.contains(verb)) {
            true => Ok(()),
            false => {
                let all: Vec<_> = self.verbs.iter().map(ToString::to_string).collect();
                Err(denied(format!("this key is for {}", all.join(", "))))
            }
        }
    }
}

fn verb_of(request: &Request) -> &'static str {
    match request {
        Request::Inventory { .. } | Request::Inside { .. } => "list",
        Request::Hold { .. } => "hold",
        Request::Release { .. } => "release",
        Request::Destroy { .. } => "destroy",
        Request::Send { .. } => "send",
        Request::Receive { .. } => "receive",
        Request::Stream { .. } => "stream",
        Request::Recorded { .. } => "list digests of",
        Request::Manifest { .. } | Request::Entries { .. } => "verify",
    }
}

/// Any of these allows it. Whoever receives or sends keeps, too, what the next transfer builds upon, by tags of its own.
fn verbs_for(request: &Request) -> &'static [Verb] {
    match request {
        Request::Inventory { .. } | Request::Inside { .. } | Request::Recorded { .. } => &Verb::ALL,
        Request::Manifest { .. } | Request::Entries { .. } => &[Verb::Verify],
        Request::Hold { tag, .. } | Request::Release { tag, .. } if tag.as_str().starts_with(OF_RECEIVER) => {
            &[Verb::Hold, Verb::Receive]
        }
        Request::Hold { tag, .. } | Request::Release { tag, .. } if tag.as_str().starts_with(OF_SENDER) => {
            &[Verb::Hold, Verb::Send]
        }
        Request::Hold { .. } | Request::Release { .. } => &[Verb::Hold],
        Request::Destroy { .. } => &[Verb::Destroy],
        Request::Send { .. } => &[Verb::Send],
        Request::Receive { .. } | Request::Stream { .. } => &[Verb::Receive],
    }
}

fn takes_away(request: &Request) -> bool {
    match request {
        Request::Destroy { .. } => true,
        Request::Release { tag, .. } => !is_cursor(tag),
        _ => false,
    }
}

fn is_cursor(tag: &HoldTag) -> bool {
    tag.as_str().starts_with(OF_RECEIVER) || tag.as_str().starts_with(OF_SENDER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: &str, target: &str, tag: &str) -> Request {
        let version = serde_json::json!({ "guid": "00112233445566778899aabbccddeeff", "name": "s" });
        let mut json = serde_json::json!({ "verb": verb, "target": target });
        if !["inventory", "inside"].contains(&verb) {
            json["version"] = version;
        }
        if !tag.is_empty() {
            json["tag"] = tag.into();
        }
        serde_json::from_value(json).unwrap()
    }

    fn rights(verbs: &[Verb], under: &[&str], append_only: bool) -> Rights {
        let under = under.iter().map(|text| text.parse().unwrap()).collect();
        Rights { verbs: verbs.to_vec(), under, append_only, plaintext: false }
    }

    #[test]
    fn below_is_component_by_component() {
        let under: Under = "tank/backups/".parse().unwrap();
        for (target, inside) in [
            ("tank/backups", true),
            ("tank/backups/a", true),
            ("tank/backups/a b/c", true),
            ("tank/backups2", false),
            ("tank", false),
            ("tank/backups/../x", false),
            ("tank/backups/./x", false),
            ("tank/backups//x", false),
            ("tank/backups/", false),
            ("/tank/backups", false),
            ("tank/backups/\0", false),
        ] {
            assert_eq!(under.contains(target), inside, "{target:?}");
        }
        let path: Under = "/srv/b".parse().unwrap();
        assert!(
            path.contains("/srv/b/c") && !path.contains("/srv/b/.cowsnap/x") && !path.contains("/srv/bc")
        );
        for text in ["", "/", "a/../b", "a//b", "."] {
            assert!(text.parse::<Under>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_key_for_receiving_does_that_and_keeps_its_own_cursor() {
        let key = rights(&[Verb::Receive], &["tank/b"], false);
        for (verb, tag, allowed) in [
            ("inventory", "", true),
            ("inside", "", true),
            ("receive", "", true),
            ("hold", "cowsnap:from:x", true),
            ("release", "cowsnap:from:x", true),
            ("hold", "cowsnap:to:x", false),
            ("hold", "cowsnap:job:x", false),
            ("hold", "mine", false),
            ("release", "mine", false),
            ("send", "", false),
            ("destroy", "", false),
        ] {
            assert_eq!(key.check(&request(verb, "tank/b/c", tag)).is_ok(), allowed, "{verb} {tag}");
            assert!(key.check(&request(verb, "tank/c", tag)).is_err(), "{verb} elsewhere");
        }
    }

    #[test]
    fn what_is_in_files_is_told_to_who_may_verify_alone() {
        let asked = |verb: &str, target: &str| {
            let version = serde_json::json!({ "guid": "00112233445566778899aabbccddeeff", "name": "s" });
            let json = match verb {
                "recorded" => serde_json::json!({ "verb": verb, "target": target }),
                "entries" => {
                    serde_json::json!({ "verb": verb, "target": target, "version": version, "dir": "." })
                }
                _ => serde_json::json!({ "verb": verb, "target": target, "version": version }),
            };
            serde_json::from_value::<Request>(json).unwrap()
        };
        for verb in Verb::ALL {
            let key = rights(&[verb], &["tank/b"], true);
            assert!(key.check(&asked("recorded", "tank/b")).is_ok(), "{verb}");
            for what in ["manifest", "entries"] {
                assert_eq!(
                    key.check(&asked(what, "tank/b/c")).is_ok(),
                    verb == Verb::Verify,
                    "{verb} {what}"
                );
                assert!(key.check(&asked(what, "tank/c")).is_err(), "{verb} {what} elsewhere");
            }
        }
        assert!(rights(&[Verb::Verify], &[], false).check(&request("send", "tank/b", "")).is_err());
    }

    #[test]
    fn what_only_adds_takes_nothing_away_whatever_else_it_may() {
        let key = rights(&Verb::ALL, &[], true);
        assert!(key.check(&request("destroy", "tank/b", "")).is_err());
        assert!(key.check(&request("release", "tank/b", "mine")).is_err());
        assert!(key.check(&request("release", "tank/b", "cowsnap:from:x")).is_ok());
        assert!(key.check(&request("receive", "tank/b", "")).is_ok());
        assert!(Rights::default().check(&request("destroy", "tank/b", "")).is_ok());
    }
}
