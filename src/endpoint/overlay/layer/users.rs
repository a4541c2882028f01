//! What builds on a layer, also where a record is damaged; and layers of which can not be read what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::store::{Layer, holds_in};
use crate::endpoint::overlay::home::{Entry, Home};
use crate::endpoint::overlay::ours;
use crate::endpoint::record::read_record;
use crate::endpoint::{Error, Result};
use crate::model::overlay::{LayerId, LayerName, OverlayName};
use crate::model::quoted;

/// A layer of which can not be read what it is, or not by this version of the program. What its record still says is believed where that
/// keeps something.
#[derive(Debug)]
pub struct Damaged {
    /// Its identity, as its directory is called.
    pub id: LayerId,
    /// What is wrong with it.
    pub error: Error,
    dir: PathBuf,
    says: Value,
}

impl Damaged {
    /// The layer `id` of `home`, which can be read no better than `error` says; `None` if it is gone.
    ///
    /// # Errors
    /// An error that says nothing of the layer.
    pub(super) fn unless_gone(home: &Home, id: LayerId, error: Error) -> Result<Option<Self>> {
        let dir = home.layer(id);
        let error = match error {
            Error::NotFound { .. } if !dir.exists() => return Ok(None),
            Error::NotFound { .. } => {
                let why = format!("{} is not there", dir.join("layer.json").display());
                Error::Corrupt { what: "layer", why, source: None }
            }
            Error::Corrupt { .. } | Error::Foreign { .. } => error,
            other => return Err(other),
        };
        Ok(Some(Self { id, error, says: said(&dir.join("layer.json")), dir }))
    }

    /// The layer `id` of `home`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; [`Error::Refused`] if it can be read what it is; [`Error::Foreign`] if a later version of the
    /// program can.
    pub fn open(home: &Home, id: LayerId) -> Result<Self> {
        let gone = || Error::NotFound {
            what: "layer",
            subject: id.to_string(),
            hint: Some("cowsnap overlay list --layers".into()),
        };
        match Layer::open(home, id) {
            Ok(layer) => Err(Error::Refused {
                op: "destroy damaged layer",
                subject: id.to_string(),
                why: format!("it can be read what it is, {}", layer.label()),
                hint: Some(format!("cowsnap overlay destroy {}", quoted(layer.label()))),
            }),
            Err(error @ Error::Foreign { .. }) => Err(error),
            Err(error) => Self::unless_gone(home, id, error)?.ok_or_else(gone),
        }
    }

    /// Whether a later version of the program can read what it is.
    pub fn is_foreign(&self) -> bool {
        matches!(self.error, Error::Foreign { .. })
    }

    /// Whether it may lie on any layer, and is needed: something lies on it that `users` knows, or it is held.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn may_need_any(&self, users: &Users) -> Result<bool> {
        let says_it = self.parent().is_some() || self.says.get("parent").is_some_and(Value::is_null);
        Ok(!says_it && (users.of(self.id).next().is_some() || !holds_in(&self.dir)?.is_empty()))
    }

    /// Destroys it, and its holds with it: nobody could release them.
    ///
    /// # Errors
    /// [`Error::Refused`] while something builds on it; as [`Damaged::open`], as it is looked at again.
    pub fn destroy(&self, home: &Home) -> Result<()> {
        let _lock = home.lock()?;
        self.check_destroy(home)?;
        home.discard(&self.dir)
    }

    /// Whether it could be destroyed now, and is still damaged.
    ///
    /// # Errors
    /// As [`Damaged::open`] and [`Damaged::destroy`].
    pub fn check_destroy(&self, home: &Home) -> Result<()> {
        Self::open(home, self.id)?;
        check_unused(home, self.id, &self.id.to_string())
    }

    /// Whether it says that it has this name; `None` if it says nothing of that.
    pub(super) fn says_name(&self, overlay: &OverlayName, name: &LayerName) -> Option<bool> {
        let says = |key| self.says.get(key)?.as_str();
        Some((says("overlay")?, says("name")?) == (overlay.as_str(), name.as_str()))
    }

    /// It as what builds on others.
    pub fn as_user(&self) -> User {
        match self.is_foreign() {
            true => User::Foreign(self.id),
            false => User::Damaged(self.id),
        }
    }

    /// The layer that it says it builds on.
    pub fn parent(&self) -> Option<LayerId> {
        self.says.get("parent")?.as_str()?.parse().ok()
    }
}

/// What a record says, right or wrong; nothing if it makes no sense.
fn said(path: &Path) -> Value {
    let text = read_record(path).ok().flatten();
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Something that builds on a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// This layer: `OVERLAY@LAYER`.
    Layer(String),
    /// A damaged layer.
    Damaged(LayerId),
    /// A layer that a later version of the program made.
    Foreign(LayerId),
    /// An overlay.
    Overlay(OverlayName),
    /// An overlay that may show again, and of which can not be read what it lies on.
    Unreadable(OverlayName),
}

impl User {
    /// What does away with it.
    fn destroyed_by(&self) -> String {
        if let Self::Foreign(id) = self {
            return format!("use the version of cowsnap that made layer {id}, or a later one");
        }
        let (option, name) = match self {
            Self::Layer(label) => ("", quoted(label)),
            Self::Damaged(id) | Self::Foreign(id) => ("--damaged ", quoted(id)),
            Self::Overlay(name) | Self::Unreadable(name) => ("", quoted(name)),
        };
        format!("cowsnap overlay destroy {option}{name}")
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(label) => write!(f, "layer {label}"),
            Self::Damaged(id) => write!(f, "the damaged layer {id}"),
            Self::Foreign(id) => write!(f, "layer {id}, which a later version made,"),
            Self::Overlay(name) => write!(f, "overlay {name}"),
            Self::Unreadable(name) => write!(f, "overlay {name}, whose record can not be read, perhaps"),
        }
    }
}

/// What builds on the layers of a home, read at one time.
#[derive(Debug, Default)]
pub struct Users {
    of: BTreeMap<LayerId, Vec<User>>,
    of_all: Vec<User>,
}

impl Users {
    /// Reads it.
    ///
    /// # Errors
    /// What can not be read, but for records that are damaged: what they say is believed.
    pub fn read(home: &Home) -> Result<Self> {
        let (layers, damaged) = Layer::all_and_damaged(home)?;
        let mut users = Self::default();
        for layer in &layers {
            users.put(layer.record().parent, User::Layer(layer.label()));
        }
        for layer in &damaged {
            users.put(layer.parent(), layer.as_user());
        }
        for entry in home.entries()? {
            users.put_overlay(&entry)?;
        }
        Ok(users)
    }

    /// What builds on the layer `id`, or perhaps does.
    pub fn of(&self, id: LayerId) -> impl Iterator<Item = &User> {
        self.of.get(&id).into_iter().flatten().chain(&self.of_all)
    }

    fn put(&mut self, on: impl IntoIterator<Item = LayerId>, user: User) {
        for layer in on.into_iter().collect::<BTreeSet<_>>() {
            self.of.entry(layer).or_default().push(user.clone());
        }
    }

    fn put_overlay(&mut self, entry: &Entry) -> Result<()> {
        let user = User::Overlay(entry.name().clone());
        let may_show_again = match entry.layers() {
            Ok(layers) => {
                self.put(layers, user);
                return Ok(());
            }
            // What has no record that can be read shows as long as it is mounted, and never again.
            Err(Error::Corrupt { .. }) => {
                ours::all(entry.home())?.iter().any(|mounted| mounted.source.name == *entry.name())
            }
            // A later version of this program reads it.
            Err(Error::Foreign { .. }) => true,
            Err(error) => return Err(error),
        };
        match said(&entry.dir().join("overlay.json")).get("layers").and_then(|layers| layers.as_array()) {
            Some(layers) => self.put(layers.iter().filter_map(|layer| layer.as_str()?.parse().ok()), user),
            None if may_show_again => self.of_all.push(User::Unreadable(entry.name().clone())),
            None => {}
        }
        Ok(())
    }
}

/// That nothing builds on the layer `id`, which is called `label`.
///
/// # Errors
/// [`Error::Refused`], naming what does.
pub(super) fn check_unused(home: &Home, id: LayerId, label: &str) -> Result<()> {
    let users = Users::read(home)?;
    let users: Vec<_> = users.of(id).collect();
    let Some(first) = users.first() else { return Ok(()) };
    Err(Error::Refused {
        op: "destroy layer",
        subject: label.to_owned(),
        why: match users.len() {
            1 => format!("{first} builds on it"),
            n => format!("{first} and {} more build on it", n - 1),
        },
        hint: Some(first.destroyed_by()),
    })
}
