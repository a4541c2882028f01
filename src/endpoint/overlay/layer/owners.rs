//! Owners in a manifest are those of the user namespace in which the layer was made; another one has other numbers for them.

use std::collections::HashMap;

use super::manifest::{Kind, Line};
use crate::endpoint::{Error, Result};
use crate::model::ids::{Ids, inside, outside};
use crate::sys::namespace;

/// The user namespace of this process, as a layer has it written down.
pub(super) fn here() -> Result<Option<Ids>> {
    let read = Error::io("read", "the ids of the user namespace");
    let (users, groups) = namespace::id_maps().map_err(read)?;
    let ids = Ids::parse(&users, &groups).ok_or_else(|| Error::Corrupt {
        what: "user namespace",
        why: format!("its maps are {users:?} and {groups:?}"),
        source: None,
    })?;
    Ok((ids != Ids::all()).then_some(ids))
}

/// Makes of the owners of `found`, which this process sees, those that were seen in the namespace `of`. One that this process's namespace does
/// not know is taken for what is `wanted`: whose it is can not be seen.
pub(super) fn as_seen_in(of: Option<&Ids>, found: &mut [Line], wanted: &[Line]) -> Result<()> {
    let here = here()?;
    if here.as_ref() == of {
        return Ok(());
    }
    let owners: HashMap<_, _> = wanted.iter().map(|line| (&line.path, (line.uid, line.gid))).collect();
    let all = Ids::all();
    let (here, there) = (here.as_ref().unwrap_or(&all), of.unwrap_or(&all));
    for line in found.iter_mut().filter(|line| line.kind != Kind::Whiteout) {
        let wanted = owners.get(&line.path).copied().unwrap_or((line.uid, line.gid));
        line.uid = seen(&here.users, &there.users, line.uid, wanted.0);
        line.gid = seen(&here.groups, &there.groups, line.gid, wanted.1);
    }
    Ok(())
}

/// The `id` that this process sees, as it was seen there.
fn seen(here: &[[u32; 3]], there: &[[u32; 3]], id: u32, wanted: u32) -> u32 {
    match outside(here, id) {
        None => wanted,
        Some(without) => match inside(there, without) {
            Some(id) => id,
            // It was of nobody there either.
            None if outside(there, wanted).is_none() => wanted,
            None => id,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::seen;

    #[test]
    fn an_owner_is_the_same_in_another_namespace_unless_it_changed() {
        let (all, rooted) = ([[0, 0, u32::MAX]], [[0, 1000, 1]]);
        assert_eq!(seen(&all, &rooted, 1000, 0), 0, "made within, seen outside");
        assert_eq!(seen(&rooted, &all, 0, 1000), 1000, "made outside, seen within");
        assert_eq!(seen(&rooted, &all, 65_534, 33), 33, "somebody else's: that can not be seen");
        assert_eq!(seen(&all, &rooted, 33, 65_534), 65_534, "nor could it be seen then");
        assert_eq!(seen(&all, &rooted, 33, 0), 33, "it changed");
    }
}
