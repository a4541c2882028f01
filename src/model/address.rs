//! Where a peer is: `ssh://[USER@]HOST[:PORT]/TARGET`.

use std::ffi::OsStr;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::Target;

/// A target on another machine, reached by `ssh`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerAddress {
    login: String, // Invariant: `[USER@]HOST`, which `ssh` takes for neither an option nor anything else; nothing for this machine.
    port: Option<u16>,
    target: String, // Invariant: a `Target` that is not remote.
}

/// A text that is no peer's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no peer's address: {why}")]
pub struct BadAddress {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl PeerAddress {
    /// A target on this machine that another process works on; shown as the target alone.
    ///
    /// # Errors
    /// [`BadAddress`] if it is none.
    pub fn aside(target: &str) -> Result<Self, BadAddress> {
        Self { login: String::new(), port: None, target: String::new() }.with_target(target)
    }

    /// Whether it is on this machine.
    pub fn is_aside(&self) -> bool {
        self.login.is_empty()
    }

    /// Whom errors speak of: who logs in where, or the target on this machine.
    pub fn whom(&self) -> &str {
        if self.is_aside() { &self.target } else { &self.login }
    }

    /// Who logs in where, as `ssh` is told: `[USER@]HOST`.
    pub fn login(&self) -> &str {
        &self.login
    }

    /// The port, if it is not for `ssh` to choose.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The target, as the peer calls it.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The same peer, and another target there.
    ///
    /// # Errors
    /// [`BadAddress`] if it is none.
    pub fn with_target(&self, target: &str) -> Result<Self, BadAddress> {
        let target = local(target).map_err(|why| BadAddress { text: target.into(), why })?;
        Ok(Self { target, ..self.clone() })
    }
}

impl FromStr for PeerAddress {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = |why: String| BadAddress { text: text.into(), why };
        let rest = text.strip_prefix("ssh://").ok_or_else(|| bad("it does not begin with ssh://".into()))?;
        let (authority, target) = rest
            .split_once('/')
            .ok_or_else(|| bad("no target follows the host: ssh://HOST/TARGET".into()))?;
        let (login, port) = split_port(authority).map_err(|why| bad(why.into()))?;
        check_login(login).map_err(|why| bad(why.into()))?;
        let target = local(target).map_err(bad)?;
        Ok(Self { login: login.replace(['[', ']'], ""), port, target })
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    let host = authority.rfind('@').map_or(authority, |at| &authority[at + 1..]);
    let colon = match host.rfind(']') {
        Some(end) => host[end..].find(':').map(|at| end + at),
        None if host.matches(':').count() > 1 => return Err("an IPv6 address stands in [brackets]"),
        None => host.find(':'),
    };
    let Some(colon) = colon else { return Ok((authority, None)) };
    let port = host[colon + 1..].parse::<u16>().ok().filter(|&port| port != 0);
    let login = &authority[..authority.len() - host.len() + colon];
    port.map(|port| (login, Some(port))).ok_or("a port is a number from 1 to 65535")
}

/// Refuses what `ssh` would take for an option or a shell for more than a word.
fn check_login(login: &str) -> Result<(), &'static str> {
    let (user, host) = match login.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, login),
    };
    let is_word = |text: &str, more: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    if user.is_some_and(|user| !is_word(user, "._-+@\\")) {
        return Err("the user's name has letters, digits and ._-+@\\, and does not begin with -");
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let sound = match bare {
        Some(address) => is_word(address, ":.%_-"),
        None => is_word(host, "._-"),
    };
    sound.then_some(()).ok_or("the host's name has letters, digits and ._-, and does not begin with -")
}

fn local(target: &str) -> Result<String, String> {
    match Target::parse(OsStr::new(target)).map_err(|error| error.to_string())? {
        Target::Remote(_) => Err("the target on a peer is one of its own".into()),
        _ if target.contains('@') => Err("a target is no snapshot: it has no @".into()),
        _ => Ok(target.into()),
    }
}

impl TryFrom<String> for PeerAddress {
    type Error = BadAddress;
    fn try_from(text: String) -> Result<Self, BadAddress> {
        text.parse()
    }
}

impl From<PeerAddress> for String {
    fn from(address: PeerAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_aside() {
            return f.write_str(&self.target);
        }
        let host = self.login.rfind('@').map_or(0, |at| at + 1);
        let (user, host) = self.login.split_at(host);
        match host.contains(':') {
            true => write!(f, "ssh://{user}[{host}]")?,
            false => write!(f, "ssh://{user}{host}")?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "/{}", self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_who_logs_in_where_and_what_is_meant_there() {
        for (text, login, port, target) in [
            ("ssh://backup/tank/a", "backup", None, "tank/a"),
            ("ssh://me@backup:2222/tank/a b", "me@backup", Some(2222), "tank/a b"),
            ("ssh://h//srv/chain", "h", None, "/srv/chain"),
            ("ssh://me@[fe80::1%eth0]:22/tank", "me@fe80::1%eth0", Some(22), "tank"),
            ("ssh://[::1]/tank", "::1", None, "tank"),
            ("ssh://a@corp@host.example/tank", "a@corp@host.example", None, "tank"),
        ] {
            let address: PeerAddress = text.parse().unwrap();
            assert_eq!((address.login(), address.port(), address.target()), (login, port, target));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn the_same_peer_has_other_targets_and_an_address_is_written_as_text() {
        let address: PeerAddress = "ssh://me@h:22/tank/a".parse().unwrap();
        assert_eq!(address.with_target("/srv/b").unwrap().to_string(), "ssh://me@h:22//srv/b");
        assert_eq!(address.with_target("tank/../b").unwrap_err().text, "tank/../b");
        let json = serde_json::to_string(&address).unwrap();
        assert_eq!(json, r#""ssh://me@h:22/tank/a""#);
        assert_eq!(serde_json::from_str::<PeerAddress>(&json).unwrap(), address);
        assert!(serde_json::from_str::<PeerAddress>(r#""ssh://-x/tank""#).is_err());
    }

    #[test]
    fn what_another_process_here_works_on_is_shown_as_it_is_called_here() {
        let aside = PeerAddress::aside("/srv/b").unwrap();
        assert!(aside.is_aside() && aside.to_string() == "/srv/b" && aside.whom() == "/srv/b");
        assert_eq!(aside.with_target("tank/c").unwrap(), PeerAddress::aside("tank/c").unwrap());
        assert!(PeerAddress::aside("tank/c@d").is_err() && PeerAddress::aside("ssh://h/tank").is_err());
        let there: PeerAddress = "ssh://me@h//srv/b".parse().unwrap();
        assert!(!there.is_aside() && there.whom() == "me@h");
    }

    #[test]
    fn nothing_in_an_address_is_an_option_or_a_word_to_a_shell() {
        for text in [
            "ssh://-oProxyCommand=x/tank",
            "ssh://-l@h/tank",
            "ssh://u@-h/tank",
            "ssh://h;x/tank",
            "ssh://h x/tank",
            "ssh://$(x)/tank",
            "ssh:///tank",
            "ssh://@h/tank",
            "ssh://h",
            "ssh://h/",
            "ssh://h:0/tank",
            "ssh://h:99999/tank",
            "ssh://h:/tank",
            "ssh://::1/tank",
            "ssh://h/tank@now",
            "ssh://h/../etc",
            "ssh://h/ssh://g/tank",
            "tank/a",
        ] {
            assert!(text.parse::<PeerAddress>().is_err(), "{text}");
        }
    }
}
