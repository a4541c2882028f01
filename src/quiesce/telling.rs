//! How far the telling of a service to stop has come: a byte beside the lease, written right before and right after, so that whoever finds the lease of a run that
//! was killed knows whether the service was told.
//!
//! **Invariant:** that is about processes of this start of the machine alone, which is why nothing here waits for a disk.

use std::io;
use std::time::{Duration, Instant};

use crate::model::Service;
use crate::quiesce::lease::{Doing, Entry};
use crate::quiesce::process::{self, Sigterm};
use crate::quiesce::{Leases, container};

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// It was not told.
    Not,
    /// It may have been: whoever wrote that told it next.
    About,
    /// It was.
    Told,
}

impl Telling {
    /// What of it is in the file, after what was there.
    pub fn mark(self) -> &'static [u8] {
        match self {
            Self::Not => b"",
            Self::About => b"?",
            Self::Told => b"!",
        }
    }

    /// Writes it there. That it was told is said even where nothing more can be written.
    ///
    /// # Errors
    /// A full disk, and the like.
    pub fn tell(self, leases: &Leases, service: &Service) -> io::Result<()> {
        match leases.say(service, Doing::Stop, self.mark()) {
            Err(_) if self == Self::Told => leases.close(service, Doing::Stop),
            said => said,
        }
    }

    /// What the file says. One that can not be read says nothing.
    pub fn of(leases: &Leases, service: &Service) -> Self {
        if leases.is_closed(service, Doing::Stop) {
            return Self::Told;
        }
        match leases.said(service, Doing::Stop).as_deref() {
            Ok([]) => Self::Not,
            Ok(said) if said.ends_with(Self::Told.mark()) => Self::Told,
            _ => Self::About,
        }
    }
}

/// What has come of a service that a run, which is not there any more, was about to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was told, and stops.
    Stops,
    /// It may: it is waited for until then, and has not been told if it runs still.
    May(Instant),
    /// It was not.
    Runs,
}

/// What the marks and the service itself say. It has until `asked` to show that it was told.
pub fn fate(leases: &Leases, entry: &Entry, within: Duration, asked: Instant) -> Fate {
    // Whoever comes later waits for the rest of its time alone.
    let gone = entry.since.and_then(process::age).unwrap_or_default();
    let until = asked.min(Instant::now() + within.saturating_sub(gone));
    let telling = Telling::of(leases, &entry.service);
    match (telling, &entry.service, &entry.process) {
        (Telling::Not, ..) => Fate::Runs,
        // An engine that was asked by somebody who is gone may not have heard it all.
        (_, Service::Container { .. }, _) => Fate::May(until),
        (Telling::Told, ..) => Fate::Stops,
        (_, Service::Process { .. } | Service::Program { .. }, Some(process)) => match process.sigterm() {
            Some(Sigterm::Pending) => Fate::Stops,
            Some(Sigterm::Unheard) => Fate::Runs,
            Some(Sigterm::Heard) | None => Fate::May(until),
        },
        _ => Fate::May(until),
    }
}

/// Whether a container that runs when its time is over has been told all the same, as far as anybody can say: one that stops later is not to stay down.
pub fn was_told(entry: &Entry) -> bool {
    let Service::Container { name, socket } = &entry.service else { return false };
    let since = entry.since.and_then(process::age);
    since.is_none_or(|since| container::is_stopping(socket, name, since) != Ok(false))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::quiesce::guard::make_up;
    use crate::quiesce::lease::Stopping;
    use crate::quiesce::process::Process;
    use crate::quiesce::{Error, Lease, command};

    /// A process, and the lease of a run that was killed when it was about to tell it, or had.
    struct Left {
        _folder: tempfile::TempDir,
        leases: Leases,
        child: std::process::Child,
    }

    impl Left {
        fn new(script: &str, within: Duration, marks: Option<&[Telling]>) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let leases = Leases::open(folder.path()).expect("made");
            let ready = folder.path().join("ready");
            let script = format!("{script}; touch {}; while :; do sleep 0.05; done", ready.display());
            let child = command::spawn(&["sh".into(), "-c".into(), script], false, None).expect("it starts");
            let pidfile = folder.path().join("pid");
            fs::write(&pidfile, child.id().to_string()).expect("written");
            let until = Instant::now() + Duration::from_secs(60);
            while !ready.exists() {
                assert!(Instant::now() < until, "it does not begin");
                std::thread::sleep(Duration::from_millis(5));
            }
            let start = vec!["false".into()]; // It is not to be started a second time.
            let service = Service::Process { pidfile, start };
            let process = Process::of(i32::try_from(child.id()).expect("small"));
            let mut entry = Entry::new(service.clone());
            (entry.stopping, entry.process, entry.since) = (Stopping::Marked, process, process::now());
            let left = Self { _folder: folder, leases, child };
            if let Some(marks) = marks {
                drop(left.leases.begin(&service, Doing::Stop).expect("made"));
                for mark in marks {
                    left.leases.say(&service, Doing::Stop, mark.mark()).expect("written");
                }
            }
            let lease = Lease {
                job: "node".into(),
                services: vec![entry],
                stop_within: within,
                start_within: Duration::from_secs(60),
                snapshot_within: None,
                run: None,
                guard: None,
                begun: None,
                failed: None,
                resumed: None,
                boot: process::boot_id(),
            };
            left.leases.write(&lease).expect("written");
            left
        }

        fn entry(&self) -> Entry {
            self.leases.read("node").expect("read").expect("there is one").services.remove(0)
        }

        fn fate(&self, within: Duration) -> Fate {
            fate(&self.leases, &self.entry(), within, Instant::now() + within)
        }

        fn runs(&mut self) -> bool {
            self.child.try_wait().expect("asked").is_none()
        }
    }

    impl Drop for Left {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(300);
    const HEARS: &str = "trap : TERM";

    #[test]
    fn what_was_never_told_is_not_waited_for_and_its_lease_is_over() {
        // Killed before it was about to; and about to, of one that would be dead.
        for (script, marks) in [(HEARS, &[][..]), (":", &[Telling::About][..])] {
            let mut left = Left::new(script, LONG, Some(marks));
            assert_eq!(left.fate(LONG), Fate::Runs, "{script}");
            let began = Instant::now();
            let done = make_up(&left.leases, "node", false).expect("it runs");
            assert!(done.is_some() && began.elapsed() < LONG / 2, "{script}");
            assert!(left.runs() && left.leases.read("node").expect("read").is_none(), "{script}");
        }
    }

    #[test]
    fn what_may_have_been_told_is_waited_for_as_long_as_it_had_by_recover_and_by_a_guard() {
        for (marks, by_guard) in
            [(Some(&[Telling::About][..]), false), (Some(&[Telling::About][..]), true), (None, false)]
        {
            let mut left = Left::new(HEARS, SHORT, marks);
            assert!(matches!(left.fate(LONG), Fate::May(_)));
            make_up(&left.leases, "node", by_guard).expect("it runs");
            assert!(left.runs() && left.leases.read("node").expect("read").is_none());
        }
    }

    #[test]
    fn what_was_told_is_waited_for_until_it_stops() {
        let mut left = Left::new(HEARS, SHORT, Some(&[Telling::About, Telling::Told]));
        assert_eq!(left.fate(LONG), Fate::Stops);
        let error = make_up(&left.leases, "node", false).expect_err("it stops still");
        assert!(matches!(error, Error::StillStopping { .. }), "{error}");
        assert!(left.runs() && left.leases.read("node").expect("read").is_some());
    }

    #[test]
    fn a_signal_that_waits_to_be_heard_was_sent() {
        use rustix::process::{Pid, Signal, kill_process};
        let mut left = Left::new(HEARS, SHORT, Some(&[Telling::About]));
        let pid = Pid::from_child(&left.child);
        kill_process(pid, Signal::STOP).expect("suspended");
        let process = left.entry().process.expect("there is one");
        let until = Instant::now() + Duration::from_secs(60);
        while !process.is_suspended() {
            assert!(Instant::now() < until, "it is not suspended");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(matches!(left.fate(LONG), Fate::May(_)));
        kill_process(pid, Signal::TERM).expect("told");
        assert_eq!(left.fate(LONG), Fate::Stops);
        assert!(left.runs());
    }

    #[test]
    fn what_a_process_does_with_a_signal_is_read_of_the_kernel_s_masks() {
        let status = |pending: &str, shared: &str, blocked: &str, ignored: &str, caught: &str| {
            let text = format!(
                "Name:\tnode\nSigPnd:\t{pending}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n"
            );
            Sigterm::of_status(&text)
        };
        let (none, term, others) = ("0000000000000000", "0000000000004000", "fffffffffffbbaff");
        assert_eq!(status(none, none, others, others, others), Some(Sigterm::Unheard));
        assert_eq!(status(none, none, none, term, none), Some(Sigterm::Unheard));
        assert_eq!(status(none, none, none, none, term), Some(Sigterm::Heard));
        assert_eq!(status(none, none, term, none, none), Some(Sigterm::Heard)); // By a signalfd.
        assert_eq!(status(term, none, none, none, term), Some(Sigterm::Pending));
        assert_eq!(status(none, term, none, none, none), Some(Sigterm::Pending));
        assert_eq!(Sigterm::of_status("Name:\tnode\n"), None);
    }

    #[test]
    fn a_file_says_how_far_it_came() {
        let folder = tempfile::tempdir().expect("a folder");
        let leases = Leases::open(folder.path()).expect("made");
        let service = Service::Process { pidfile: Path::new("/run/node.pid").into(), start: Vec::new() };
        assert_eq!(Telling::of(&leases, &service), Telling::About, "nobody can say");
        let _kept = leases.begin(&service, Doing::Stop).expect("made");
        assert_eq!(Telling::of(&leases, &service), Telling::Not);
        for telling in [Telling::About, Telling::Told] {
            leases.say(&service, Doing::Stop, telling.mark()).expect("written");
            assert_eq!(Telling::of(&leases, &service), telling);
        }
        drop(leases.begin(&service, Doing::Stop).expect("made anew"));
        assert_eq!(Telling::of(&leases, &service), Telling::Not);
        // Nothing more can be written to it.
        let services = fs::read_dir(folder.path().join("leases/services")).expect("read");
        let file = services.filter_map(Result::ok).next().expect("the one").path();
        fs::remove_file(&file).and_then(|()| fs::create_dir(&file)).expect("made");
        for telling in [Telling::About, Telling::Told] {
            assert_eq!(telling.tell(&leases, &service).is_ok(), telling == Telling::Told);
            assert_eq!(Telling::of(&leases, &service), telling);
        }
        drop(folder);
    }
}
