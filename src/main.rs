//! Parse the arguments, run, turn the error into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Err(error) = cowsnap::sys::interrupt::install() {
        // Signals then end the program at once, as they would without a handler.
        tracing::warn!(%error, "cannot handle signals");
    }
    cowsnap::cli::main()
}
