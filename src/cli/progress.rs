//! The progress bar: rate and ETA on a terminal for anything over a second, quiet in pipes.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::Context;
use crate::cli::log::Format;
use crate::endpoint::tree::Watch;
use crate::exec::{Event, Observe};

/// Shows events to a person.
pub struct Progress {
    shown: bool,
    log: Format,
    state: Mutex<State>,
}

struct State {
    bar: ProgressBar,
    since: Instant,
}

/// The bar that is on the terminal.
static ON_TERMINAL: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn on_terminal() -> MutexGuard<'static, Option<ProgressBar>> {
    ON_TERMINAL.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Says a line on standard error, above the bar if there is one.
pub fn say(line: &str) {
    match &*on_terminal() {
        Some(bar) => bar.suspend(|| crate::cli::say(line)),
        None => crate::cli::say(line),
    }
}

impl Progress {
    /// A bar on standard error if that is a terminal; otherwise warnings only.
    pub fn new(context: &Context) -> Self {
        let shown = std::io::stderr().is_terminal() && !context.quiet && context.log == Format::Text;
        let state = State { bar: ProgressBar::hidden(), since: Instant::now() };
        Self { shown, log: context.log, state: Mutex::new(state) }
    }
}

/// Who shows how far the files of a plain directory are copied.
pub fn watch(context: &Context, op: &'static str, subject: String) -> Watch {
    let progress = Progress::new(context);
    let begun = AtomicBool::new(false);
    Watch::new(move |bytes, total| {
        if !begun.swap(true, Ordering::Relaxed) {
            progress.observe(Event::Started { op, subject: subject.clone(), total: Some(total) });
        }
        progress.observe(Event::Progress { bytes });
        if bytes >= total {
            progress.observe(Event::Finished { bytes });
        }
    })
}

impl Observe for Progress {
    fn observe(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match event {
            Event::Started { op, subject, total } if self.shown => {
                state.bar = bar(total);
                state.bar.set_message(format!("{op} {subject}"));
                *on_terminal() = Some(state.bar.clone());
                state.since = Instant::now();
            }
            Event::Progress { bytes } if self.shown => {
                if state.bar.is_hidden() && state.since.elapsed() > Duration::from_secs(1) {
                    state.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
                }
                state.bar.set_position(bytes);
            }
            Event::Finished { .. } => {
                state.bar.finish_and_clear();
                *on_terminal() = None;
            }
            Event::Warning { text } => {
                let line = self.log.line("WARN", &format!("warning: {text}"), &text);
                state.bar.suspend(|| crate::cli::say(line));
            }
            Event::Started { .. } | Event::Progress { .. } => {}
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} ETA {eta}",
        None => "{msg} {spinner} {bytes} {binary_bytes_per_sec} {elapsed}",
    };
    let style = ProgressStyle::with_template(template).expect("the template is a constant that parses");
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    bar.set_draw_target(ProgressDrawTarget::hidden());
    bar.with_style(style)
}
