//! Many random operations, one after another, and after each a look at all that must hold.
//!
//! `COWSNAP_SOAK=500` makes so many, `COWSNAP_SEED=7` others. The seed decides what is done, not when the kernel and the other side get
//! to it: the same one is a similar run, not the same.

mod dice;
mod fake;
mod scale;
mod tree;
mod world;

use dice::{Said, operations};
use world::World;

use crate::ground::ground;

/// Replication from one host to another and back into a third place, with everything that goes wrong between them.
#[test]
fn whatever_happens_no_backup_is_wrong_and_the_next_increment_has_its_base() {
    ground!("btrfs", "ip", "ssh", "sshd");
    let n = operations(40);
    let said = Said::new("soak::whatever_happens", n);
    let mut world = World::new(said.dice());
    for nth in 1..=n {
        said.at(nth);
        let what = world.operate();
        eprintln!("{nth:>4} {what}");
        world.look();
    }
    world.settle_all();
    eprintln!("{}", world.counted());
}
