//! Verbs that are killed before one of their steps: by this binary, started again for one of its ignored tests.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cowsnap::endpoint::Error;
use cowsnap::exec::overlay::Step;
use cowsnap::model::overlay::Mode;

use super::lab::{Lab, text};

const DIES: &str = "COWSNAP_TEST_DIES_BEFORE";
const ROOT: &str = "COWSNAP_TEST_ROOT";

/// Has the ignored test `child` of the module `module` do `verb`, and die before `step`.
pub fn kill_before(module: &str, child: &str, lab: &Lab, verb: &str, step: Step) {
    let (_, module) = module.split_once("::").expect("a module of this binary");
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--ignored", "--exact", &format!("{module}::{child}")])
        .env(DIES, format!("{step:?} {verb}"))
        .env(ROOT, lab.root())
        .output()
        .expect("this binary runs");
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    assert_eq!(signal, Some(9), "{verb} {step:?}: {}", text(&output));
}

/// What such a test is: does the verb that it was started for, with what kills it; nothing if it was not started by [`kill_before`].
pub fn die_doing(
    act: impl FnOnce(&str, &Path, &mut dyn FnMut(Step) -> Result<(), Error>) -> Result<(), Error>,
) {
    let Ok(dies) = std::env::var(DIES) else { return };
    let (step, verb) = dies.split_once(' ').expect("a step and a verb");
    let root = std::env::var_os(ROOT).expect("set");
    let mut die = |before: Step| {
        if format!("{before:?}") == step {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("kills itself");
            std::thread::sleep(Duration::from_secs(60));
        }
        Ok(())
    };
    act(verb, root.as_ref(), &mut die).expect("done");
}

/// The mode of that name.
pub fn mode_called(name: &str) -> Mode {
    Mode::ALL.into_iter().find(|known| known.as_str() == name).expect("a mode")
}

/// The child of this module's tests, called `$child`, and `$kill`, which starts it: `$act` is what it does.
macro_rules! killed {
    ($kill:ident, $child:ident, $act:expr) => {
        #[test]
        #[ignore = "is started by a verb that is killed"]
        fn $child() {
            $crate::overlay::killed::die_doing($act);
        }

        fn $kill(lab: &$crate::overlay::lab::Lab, verb: &str, step: cowsnap::exec::overlay::Step) {
            $crate::overlay::killed::kill_before(module_path!(), stringify!($child), lab, verb, step);
        }
    };
}

pub(crate) use killed;
