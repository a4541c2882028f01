//! Where a daemon is spoken to: sockets of this machine by default.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::Mode;

use crate::{Error, Result, endpoint};

/// An address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket of the file system.
    Unix(PathBuf),
    /// A port.
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            "the absolute path of a socket, or an address and a port: 127.0.0.1:9847, [::1]:9847, 0.0.0.0:9847".into()
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

impl Address {
    /// Whether nobody of another machine reaches it.
    pub fn is_private(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(address) => address.ip().is_loopback(),
        }
    }
}

/// One that is listened at.
pub(super) enum Bound {
    /// A socket of the file system.
    Unix(UnixListener, Socket),
    /// A port.
    Tcp(TcpListener, SocketAddr),
}

/// The file of a socket; it goes with this, unless somebody has put another one there.
pub(super) struct Socket {
    path: PathBuf,
    identity: (u64, u64),
}

impl Bound {
    /// As curl has it.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Unix(_, socket) => socket.path.display().to_string(),
            Self::Tcp(_, address) => format!("http://{address}"),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // It is in the way of nobody if it can not be removed.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Listens there. To be called while no other thread makes files.
///
/// # Errors
/// [`Error::Busy`] if somebody listens there; [`endpoint::Error::Refused`] if something else is there; a folder that can not be written to.
pub(super) fn bind(address: &Address) -> Result<Bound> {
    let bind = || Error::io("listen at", address);
    match address {
        Address::Tcp(at) => {
            let listener = TcpListener::bind(at).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => busy(address),
                _ => bind()(error),
            })?;
            listener.set_nonblocking(true).map_err(bind())?;
            let at = listener.local_addr().map_err(bind())?;
            Ok(Bound::Tcp(listener, at))
        }
        Address::Unix(path) => {
            clear(path, address)?;
            if let Some(folder) = path.parent() {
                let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
                made.map_err(Error::io("make", folder.display()))?;
            }
            // From its first moment on nobody else can speak to it.
            let before = rustix::process::umask(Mode::from_raw_mode(0o177));
            let listener = UnixListener::bind(path);
            rustix::process::umask(before);
            let listener = listener.map_err(bind())?;
            listener.set_nonblocking(true).map_err(bind())?;
            let identity = identity(path).map_err(bind())?;
            Ok(Bound::Unix(listener, Socket { path: path.clone(), identity }))
        }
    }
}

fn busy(address: &Address) -> Error {
    let what = format!("listen at {address}: somebody does already");
    Error::Busy { what, hint: "cowsnap daemon --listen ADDRESS has another one" }
}

/// Removes a socket that nobody listens at any more.
fn clear(path: &Path, address: &Address) -> Result<()> {
    let look = || Error::io("look at", path.display());
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(look()(error)),
        Ok(meta) if meta.file_type().is_socket() => {}
        Ok(_) => {
            return Err(endpoint::Error::Refused {
                op: "listen at",
                subject: path.display().to_string(),
                why: "it is there, and no socket".into(),
                hint: None,
            }
            .into());
        }
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(Error::io("remove", path.display()))
        }
        Err(error) => Err(look()(error)),
        Ok(_) => Err(busy(address)),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn an_address_is_a_path_or_a_port_and_says_who_reaches_it() {
        for (text, is_private) in [
            ("/run/x", true),
            ("127.0.0.1:1", true),
            ("127.8.0.1:1", true),
            ("[::1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
            ("[::ffff:127.0.0.1]:1", false),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!((address.to_string(), address.is_private()), (text.to_owned(), is_private));
        }
        for wrong in ["", "x", "run/x", "127.0.0.1", ":1", "localhost:1", "127.0.0.1:99999"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_socket_that_nobody_listens_at_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a/b/socket");
        let address = Address::Unix(path.clone());
        let first = bind(&address).expect("bound");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert_eq!(bind(&address).map(drop).expect_err("in use").class(), Class::Unreachable);
        drop(first);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).expect("one that is left"));
        let again = bind(&address).expect("replaced");
        // Somebody has taken its place.
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "").expect("written");
        drop(again);
        assert_eq!(bind(&address).map(drop).expect_err("no socket").class(), Class::Conflict);
        let port = bind(&"127.0.0.1:0".parse().expect("an address")).expect("bound");
        let place = port.place().replace("http://", "");
        assert_eq!(
            bind(&place.parse().expect("an address")).map(drop).expect_err("in use").class(),
            Class::Unreachable
        );
    }
}
