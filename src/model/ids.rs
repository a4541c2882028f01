//! Ids of users and groups as a user namespace has them, and as they are outside of it.

use serde::{Deserialize, Serialize};

/// The maps of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// Of users: the first id inside, the first one outside, how many.
    pub users: Vec<[u32; 3]>,
    /// Of groups, likewise.
    pub groups: Vec<[u32; 3]>,
}

impl Ids {
    /// Those of the namespace that has all ids, as they are.
    pub fn all() -> Self {
        Self { users: vec![[0, 0, u32::MAX]], groups: vec![[0, 0, u32::MAX]] }
    }

    /// Reads `/proc/PID/uid_map` and `gid_map`; `None` for what is none.
    pub fn parse(users: &str, groups: &str) -> Option<Self> {
        Some(Self { users: map(users)?, groups: map(groups)? })
    }
}

fn map(text: &str) -> Option<Vec<[u32; 3]>> {
    let line = |line: &str| {
        let numbers: Vec<u32> =
            line.split_whitespace().map(|number| number.parse().ok()).collect::<Option<_>>()?;
        numbers.try_into().ok()
    };
    text.lines().map(line).collect()
}

/// What the namespace's `id` is outside; `None` if it has none of that number.
pub fn outside(map: &[[u32; 3]], id: u32) -> Option<u32> {
    map.iter().find_map(|&[inside, outside, count]| moved(id, inside, outside, count))
}

/// What the outer `id` is in the namespace; `None` if that does not know it.
pub fn inside(map: &[[u32; 3]], id: u32) -> Option<u32> {
    map.iter().find_map(|&[inside, outside, count]| moved(id, outside, inside, count))
}

fn moved(id: u32, from: u32, to: u32, count: u32) -> Option<u32> {
    let nth = id.checked_sub(from).filter(|&nth| nth < count)?;
    to.checked_add(nth)
}

#[cfg(test)]
mod tests {
    use super::{Ids, inside, map as parsed, outside};

    #[test]
    fn ids_go_out_and_come_back() {
        let map =
            parsed("         0       1000          1\n         1     100000      65536\n").expect("a map");
        for (within, without) in [(0, 1000), (1, 100_000), (65_536, 165_535)] {
            assert_eq!((outside(&map, within), inside(&map, without)), (Some(without), Some(within)));
        }
        assert_eq!((outside(&map, 65_537), inside(&map, 0), inside(&map, 1001)), (None, None, None));
        assert_eq!(outside(&[[0, u32::MAX, 2]], 1), None);
        assert_eq!((parsed("0 0"), parsed("0 0 x"), parsed("")), (None, None, Some(vec![])));
    }

    #[test]
    fn maps_are_read_of_users_and_groups_or_not_at_all() {
        let ids = Ids::parse("0 1000 1\n", "0 100 1\n1 100000 65536\n").expect("maps");
        assert_eq!((ids.users, ids.groups), (vec![[0, 1000, 1]], vec![[0, 100, 1], [1, 100_000, 65_536]]));
        for (users, groups) in [("0 0", "0 0 1"), ("0 0 1", "0 0 -1"), ("0 0 1", "0 0 4294967296")] {
            assert_eq!(Ids::parse(users, groups), None, "{users:?} {groups:?}");
        }
    }

    #[test]
    fn who_has_all_ids_has_them_as_they_are() {
        let all = Ids::all();
        for id in [0, 1000, u32::MAX - 1] {
            assert_eq!((outside(&all.users, id), inside(&all.groups, id)), (Some(id), Some(id)));
        }
        // That one is nobody's: it says "no id" to the kernel.
        assert_eq!((outside(&all.users, u32::MAX), inside(&all.groups, u32::MAX)), (None, None));
    }
}
