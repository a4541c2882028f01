//! What addresses a name has, in time: the C library waits for name servers as long as it likes.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::channel;
use std::time::Duration;

/// The addresses of `HOST:PORT`.
///
/// # Errors
/// A name that nobody knows; `TimedOut` if nobody answers within `limit`, and whoever is asked is left to itself.
pub fn resolve(address: &str, limit: Duration) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let name = address.to_owned();
    in_time(limit, move || name.to_socket_addrs().map(Iterator::collect))
}

fn in_time<T: Send + 'static>(
    limit: Duration,
    look_up: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = channel();
    std::thread::Builder::new().name("resolve".into()).spawn(move || sender.send(look_up()))?;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "nobody said in time which address the name has");
    receiver.recv_timeout(limit).unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_never_answers_is_not_waited_for() {
        let (_never, silence) = channel::<()>();
        let error = in_time(Duration::from_millis(50), move || {
            let _ = silence.recv();
            Ok(())
        });
        assert_eq!(error.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
    }

    #[test]
    fn an_address_needs_nobody_and_a_name_has_some() {
        let all = resolve("[::1]:80", Duration::ZERO).expect("it is one");
        assert_eq!(all, ["[::1]:80".parse().expect("it is one")]);
        let all = resolve("localhost:80", Duration::from_secs(60)).expect("it has one");
        assert!(
            all.iter().all(|address| address.ip().is_loopback() && address.port() == 80) && !all.is_empty()
        );
        assert!(resolve("no address", Duration::from_secs(60)).is_err());
    }
}
