use std::path::PathBuf;
use std::time::Duration;

/// Why a machine could not be made, started or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host lacks something.
    #[error("{what} is missing: {hint}")]
    Missing {
        /// A program or a file.
        what: String,
        /// What would bring it.
        hint: String,
    },
    /// A step on the host failed.
    #[error("cannot {what}")]
    Host {
        /// What was attempted, on what.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A program on the host failed.
    #[error("{program} failed: {words}")]
    Program {
        /// Which one.
        program: String,
        /// The end of what it said.
        words: String,
    },
    /// It never answered.
    #[error(
        "the guest did not boot: {why}\n---- its console ----\n{console}\n---- what QEMU said ----\n{qemu}"
    )]
    NoBoot {
        /// That it ended, or that the time was up.
        why: String,
        /// The end of its console.
        console: String,
        /// What QEMU wrote.
        qemu: String,
    },
    /// QEMU ended, or the agent's line is closed.
    #[error("the guest is gone; the end of its console ({}):\n{tail}", console.display())]
    Gone {
        /// Where its console was written to.
        console: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// It did not answer in time.
    #[error("the guest did not {what} within {} s; the end of its console ({}):\n{tail}", limit.as_secs(), console.display())]
    Hung {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
        /// Where its console was written to.
        console: PathBuf,
        /// The last lines of it.
        tail: String,
    },
}

/// What this crate answers with.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn host(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Host { what, source }
    }
}
