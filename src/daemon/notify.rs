//! What systemd, or Podman, is told of a daemon (sd_notify): a datagram each.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::sys::clock;

/// Whoever wants to know.
pub(super) struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    status: String,
    watchdog: Option<Duration>,
    pinged: Option<Instant>,
}

impl Notify {
    /// As the environment says.
    pub(super) fn from_env() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| open(&name).ok());
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&usec| is_ours && usec > 0).map(Duration::from_micros);
        Self { socket, status: String::new(), watchdog, pinged: None }
    }

    /// How often it has to be told that all is well, with room to spare.
    pub(super) fn beat(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 3)
    }

    /// It is ready, with that to say.
    pub(super) fn ready(&mut self, status: &str) {
        self.status = status.to_owned();
        self.tell(&format!("READY=1\nSTATUS={}", line(status)));
    }

    /// It takes up another configuration; [`Notify::ready`] follows.
    pub(super) fn reloading(&self) {
        let since = clock::monotonic().unwrap_or_default().as_micros();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={since}"));
    }

    /// It is about to end.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// What it is doing, if that is new.
    pub(super) fn status(&mut self, status: &str) {
        if self.status != status {
            self.status = status.to_owned();
            self.tell(&format!("STATUS={}", line(status)));
        }
    }

    /// All is well, if it is time to say so.
    pub(super) fn alive(&mut self) {
        let Some(beat) = self.beat() else { return };
        // Whoever calls this waits a beat: half of one must not be too early.
        if self.pinged.is_none_or(|pinged| pinged.elapsed() >= beat / 2) {
            self.pinged = Some(Instant::now());
            self.tell("WATCHDOG=1");
        }
    }

    /// Nobody who listens is waited for: one whose queue is full misses it.
    fn tell(&self, text: &str) {
        if let Some((socket, to)) = &self.socket {
            drop(socket.send_to_addr(text.as_bytes(), to));
        }
    }
}

fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_a_datagram_and_what_is_not_new_is_not_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let listens = UnixDatagram::bind(&path).expect("bound");
        let mut notify = Notify {
            socket: Some(open(path.as_os_str()).expect("there")),
            status: String::new(),
            watchdog: Some(Duration::from_secs(3600)),
            pinged: None,
        };
        let heard = || {
            let mut bytes = [0; 1000];
            let n = listens.recv(&mut bytes).expect("told");
            String::from_utf8(bytes[..n].to_vec()).expect("utf-8")
        };
        notify.ready("one\nREADY=0  job");
        assert_eq!(heard(), "READY=1\nSTATUS=one READY=0 job");
        notify.status("one\nREADY=0  job");
        notify.alive();
        notify.alive();
        notify.status("two");
        assert_eq!((heard().as_str(), heard().as_str()), ("WATCHDOG=1", "STATUS=two"));
        notify.reloading();
        let said = heard();
        let since = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("both");
        assert!(since.parse::<u64>().expect("a number") > 0);
        // Nobody is waited for.
        drop(listens);
        notify.stopping();
        assert!(open("vsock:2:1".as_ref()).is_err());
        let listens = UnixDatagram::bind_addr(
            &SocketAddr::from_abstract_name(path.as_os_str().as_bytes()).expect("a name"),
        );
        let listens = listens.expect("bound");
        let name = ["@", path.to_str().expect("utf-8")].concat();
        notify.socket = Some(open(name.as_ref()).expect("there"));
        notify.stopping();
        let mut bytes = [0; 100];
        let n = listens.recv(&mut bytes).expect("told");
        assert_eq!(&bytes[..n], b"STOPPING=1");
    }
}
