//! The pages of overlays, as their reader follows them.

use crate::ground::ground;

#[test]
fn what_the_page_of_overlays_shows_is_so() {
    ground!("overlay");
    crate::docs::run_page("docs/overlays.md");
}

#[test]
fn seven_nodes_are_staged_once_and_wrecked_often() {
    ground!("overlay");
    crate::docs::run_page_with("docs/overlay-example.md", &[("MIB", "28")]);
}

macro_rules! recipes {
    ($($test:ident: $($heading:literal)+, $($tool:literal)*;)+) => {
        $(#[test]
        fn $test() {
            ground!("overlay" $(, $tool)*);
            crate::docs::run_sections("docs/overlay-recipes.md", &[$($heading),+]);
        })+
    };
}

recipes! {
    pytest_has_a_tree_for_each_worker: "pytest", "pytest-3";
    nextest_has_a_tree_for_each_slot: "cargo-nextest", "cargo-nextest";
    go_has_a_tree_for_each_package: "Go", "go";
    node_has_a_tree: "Node", "node";
    jobs_of_github_and_gitlab_have_a_tree_for_each_suite: "GitHub Actions" "GitLab", "/usr/bin/python3";
    postgresql_has_its_data_directory_back: "PostgreSQL", "runuser" "pg_ctlcluster";
}
