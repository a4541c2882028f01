//! Whether overlays can, and should, show clones of a dataset.

use crate::endpoint::Result;
use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::overlays::Clones;
use crate::endpoint::zfs::{list, program};

impl Dataset {
    /// Says why not if no clone of it can be shown.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::endpoint::Error::NotFound); [`Error::Refused`](crate::endpoint::Error::Refused) for a volume;
    /// [`Error::Denied`](crate::endpoint::Error::Denied) without the key of its encryption, or without ZFS.
    pub fn expect_clonable(&self) -> Result<()> {
        self.expect_live()?;
        match self.is_volume()? {
            true => Err(self.refused("clone", "it is a volume, which has no files".into(), None)),
            false => self.expect_key("clone"),
        }
    }

    /// Why no clone is to be made in its pool unless somebody asks for one; `None` if nothing speaks against it.
    ///
    /// # Errors
    /// What `zfs` and `zpool` say.
    pub fn against_clones(&self) -> Result<Option<String>> {
        let pool = self.pool();
        let is_readonly = program::zpool(&["get", "-Hp", "-o", "value", "readonly", pool])
            .map_err(|failure| failure.into_error("read", pool))?;
        if list::value(&is_readonly) == "on" {
            return Ok(Some(format!("the pool {pool} is imported read-only")));
        }
        let clones = Clones::of_pool(pool);
        Ok(clones.is_somebodys()?.then(|| format!("{} is somebody's dataset", clones.folder())))
    }

    /// Why no snapshot of it is to be taken unless somebody asks for one: what it receives next would find one that its source does not
    /// have. `None` if nothing speaks against it.
    ///
    /// # Errors
    /// What `zfs` says.
    pub fn against_snapshots(&self) -> Result<Option<String>> {
        let get = |args: &[&str]| {
            let args = [&["get", "-Hp"], args, &[self.name().as_str()]].concat();
            program::zfs(&args).map_err(|failure| failure.into_error("read", self))
        };
        let because = |what: &str| {
            Some(format!(
                "{what}, and a snapshot of it would be in the way of the next increment: name one that it has"
            ))
        };
        if is_set_readonly(&get(&["-o", "value,source", "readonly"])?)? {
            return Ok(because("the base is set readonly=on, as a replica is"));
        }
        // Which ones, and what they say, may be anything.
        match get(&["-s", "received", "-o", "property", "all"])?.is_empty() {
            true => Ok(None),
            false => Ok(because("the base was received")),
        }
    }
}

/// Whether the property is on, be it on something above; how it happens to be mounted is not meant.
fn is_set_readonly(text: &[u8]) -> Result<bool> {
    Ok(matches!(list::rows::<2>(text)?[..], [["on", source]] if source != "temporary"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_readonly_for_a_while_is_not_set_so() {
        let table = [
            ("on\tlocal\n", true),
            ("on\tinherited from tank/a b\n", true),
            ("on\treceived\n", true),
            ("on\ttemporary\n", false),
            ("off\tdefault\n", false),
        ];
        for (text, expected) in table {
            assert_eq!(is_set_readonly(text.as_bytes()).expect("rows"), expected, "{text}");
        }
    }
}
