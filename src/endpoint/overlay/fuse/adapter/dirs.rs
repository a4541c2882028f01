//! Directories that are open, and how far what is in them has been handed out.

use std::collections::HashMap;
use std::sync::Arc;

use crate::endpoint::overlay::fuse::Listed;

/// A listing as somebody began to read it: positions in it stay what they are.
#[derive(Debug)]
pub(super) struct Entries {
    /// All of them.
    pub listed: Vec<Listed>,
    /// Whether the kernel is to know what they are, as far as it asks for that.
    pub told: bool,
}

/// All that are open.
#[derive(Debug, Default)]
pub(super) struct Dirs {
    last: u64,
    open: HashMap<u64, (u64, Option<Arc<Entries>>)>,
    opens: HashMap<u64, u32>,
}

impl Dirs {
    /// A handle for the node, and whether nobody else has it open.
    ///
    /// Who is alone may have the kernel keep what he reads. A second one may not: the kernel checks at the beginning alone whether what it keeps is
    /// of now, so that he could begin in what is, and go on in what the first one had begun to read before a change.
    pub(super) fn open(&mut self, node: u64) -> (u64, bool) {
        self.last += 1;
        self.open.insert(self.last, (node, None));
        let opens = self.opens.entry(node).or_default();
        *opens += 1;
        (self.last, *opens == 1)
    }

    /// What was begun to be read by this handle; `None` if nothing was, or there is no such handle.
    pub(super) fn entries(&self, handle: u64) -> Option<Arc<Entries>> {
        self.open.get(&handle)?.1.clone()
    }

    /// Reading by this handle begins. One that was closed meanwhile keeps nothing.
    pub(super) fn begin(&mut self, handle: u64, entries: &Arc<Entries>) {
        if let Some((_, begun)) = self.open.get_mut(&handle) {
            *begun = Some(Arc::clone(entries));
        }
    }

    /// The handle is closed.
    pub(super) fn close(&mut self, handle: u64) {
        let Some((node, _)) = self.open.remove(&handle) else { return };
        if let Some(opens) = self.opens.get_mut(&node) {
            *opens -= 1;
            if *opens == 0 {
                self.opens.remove(&node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_opens_what_is_open_is_not_alone_and_reads_what_he_began() {
        let mut dirs = Dirs::default();
        let ((one, is_first), (two, is_second), (other, is_other)) =
            (dirs.open(5), dirs.open(5), dirs.open(6));
        assert_eq!((is_first, is_second, is_other), (true, false, true));
        assert!(one != two && two != other && dirs.entries(one).is_none());
        let entries = Arc::new(Entries { listed: Vec::new(), told: true });
        dirs.begin(one, &entries);
        assert!(dirs.entries(one).is_some() && dirs.entries(two).is_none());
        dirs.close(one);
        dirs.begin(one, &entries);
        assert!(dirs.entries(one).is_none(), "it is closed");
        assert!(!dirs.open(5).1, "the second one is open");
        (1..=4).for_each(|handle| dirs.close(handle));
        dirs.close(one);
        assert!(dirs.open(5).1);
        assert_eq!((dirs.open.len(), dirs.opens.len()), (1, 1));
    }
}
