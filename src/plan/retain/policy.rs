//! What a user wants kept.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Span;

use super::Period;
use crate::model::name::is_of_names;

/// Which snapshots to keep. A snapshot that any rule keeps is kept; rules never take anything from one another.
#[derive(Debug, Clone, Default)]
pub struct Retention {
    /// That many newest ones.
    pub last: usize,
    /// In each of the that many newest buckets which have a snapshot, the newest one.
    pub per: BTreeMap<Period, usize>,
    /// All that are not older, by that much, than the newest one.
    pub within: Option<Span>,
    /// All that have such a label.
    pub labels: Vec<LabelPattern>,
    /// All that are called so.
    pub names: Vec<NamePattern>,
    /// Whatever was made less than that before now. No rule by itself: what is older is left to the others.
    pub min_age: Option<Span>,
}

impl Retention {
    /// Whether no rule keeps anything: then nobody has said yet what is to be kept.
    pub fn is_empty(&self) -> bool {
        self.last == 0
            && self.per.values().all(|&count| count == 0)
            && self.within.is_none()
            && self.labels.is_empty()
            && self.names.is_empty()
    }

    /// Whether all rules are of labels and names, so that a misspelt word keeps nothing.
    pub fn is_of_words(&self) -> bool {
        let others = Self { labels: Vec::new(), names: Vec::new(), ..self.clone() };
        others.is_empty() && !self.is_empty()
    }
}

/// Names that look like this: `*` stands for any text, `?` for any one character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(String);

/// A text that no snapshot's name can look like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPattern {
    /// Nothing.
    #[error("a pattern of nothing is like no name; * is like all")]
    Empty,
    /// A character that is in no name.
    #[error(
        "no snapshot's name holds {0:?}: a pattern is of letters, digits, space and _ . : -, with * and ?"
    )]
    Character(char),
}

impl FromStr for NamePattern {
    type Err = NoPattern;

    fn from_str(text: &str) -> Result<Self, NoPattern> {
        if text.is_empty() {
            return Err(NoPattern::Empty);
        }
        match text.chars().find(|&c| !is_of_names(c) && c != '*' && c != '?') {
            Some(c) => Err(NoPattern::Character(c)),
            None => Ok(Self(text.into())),
        }
    }
}

impl NamePattern {
    /// Whether `name` looks like it.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        let mut star = None; // Where the last `*` is, and how far what it stands for reaches.
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(&c) if c == b'?' || c == name[n] => (p, n) = (p + 1, n + 1),
                _ => {
                    let Some((at, reach)) = star else { return false };
                    star = Some((at, reach + 1));
                    (p, n) = (at + 1, reach + 1);
                }
            }
        }
        pattern[p..].iter().all(|&c| c == b'*')
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Labels that look like this: `KEY`, whatever its value, or `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelPattern {
    key: String,
    value: Option<String>,
}

impl LabelPattern {
    /// Whether one of `labels` looks like it.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let found = labels.get(&self.key);
        found.is_some_and(|found| self.value.as_ref().is_none_or(|value| value == found))
    }
}

/// A label without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a label is KEY or KEY=VALUE")]
pub struct NoKey;

impl FromStr for LabelPattern {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        match key.is_empty() {
            true => Err(NoKey),
            false => Ok(Self { key: key.into(), value }),
        }
    }
}

impl fmt::Display for LabelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}
