//! The page of overlays, as its reader follows it.

use crate::ground::ground;

#[test]
fn what_the_page_of_overlays_shows_is_so() {
    ground!("overlay");
    crate::docs::run_page("docs/overlays.md");
}
