//! Parse the arguments, run, turn the error into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    cowsnap::cli::main()
}
