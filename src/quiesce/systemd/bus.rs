//! Calls to systemd over D-Bus: one after another, each answered before the next, none waited for without end.
//!
//! Values are zbus' affair. Its connections are not used: systemd signs what it says at its own socket with a name that they refuse (kernel-notes/systemd.md).

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{LE, to_bytes};
use zbus::{DynamicType, OwnedObjectPath, OwnedVariant, Type};

use crate::error::Class;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "/org/freedesktop/systemd1";
/// Where systemd itself listens, to root alone, whether or not there is a bus.
const PRIVATE: &str = "/run/systemd/private";
/// Where the system's bus is.
const SYSTEM: &str = "/run/dbus/system_bus_socket";
/// There on each machine that systemd has started, and on no other.
const BOOTED: &str = "/run/systemd/system";
/// How long systemd may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// No answer of systemd's is longer.
const MAX_MESSAGE: usize = 16 << 20;
/// Nor a line of what comes before the first.
const MAX_LINE: usize = 1 << 10;
/// The part of a message that has always the same length.
const FIXED: usize = 16;

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Why systemd is of no help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What it means for whoever runs the program.
    pub class: Class,
    /// What is wrong.
    pub why: String,
}

impl Trouble {
    /// Of that kind.
    pub fn new(class: Class, why: impl Into<String>) -> Self {
        Self { class, why: why.into() }
    }

    /// An answer that is none.
    fn garbled(what: impl fmt::Display) -> Self {
        Self::new(Class::Unreachable, format!("systemd's answer can not be read: {what}"))
    }

    /// What systemd, or the bus, says of a call.
    fn said(name: &str, why: String) -> Self {
        match name.rsplit('.').next() {
            Some("AccessDenied" | "AuthFailed" | "InteractiveAuthorizationRequired") => {
                Self::new(Class::Denied, format!("systemd does not permit it: {why}"))
            }
            _ if why.is_empty() => Self::new(Class::Unreachable, name),
            _ => Self::new(Class::Unreachable, why),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl From<Trouble> for String {
    fn from(trouble: Trouble) -> Self {
        trouble.why
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        let class = match error.kind() {
            io::ErrorKind::PermissionDenied => Class::Denied,
            _ => Class::Unreachable,
        };
        match error.kind() {
            io::ErrorKind::WouldBlock => {
                Self::new(class, format!("systemd did not answer within {PATIENCE:?}"))
            }
            _ => Self::new(class, format!("systemd can not be asked: {error}")),
        }
    }
}

/// A connection to systemd.
pub struct Bus {
    stream: UnixStream,
    serial: u32,
}

/// Whether systemd has started this machine.
pub fn is_there() -> bool {
    Path::new(BOOTED).is_dir()
}

/// What goes before the body of a call.
struct Head<'a> {
    path: &'a str,
    interface: &'a str,
    method: &'a str,
    destination: &'a str,
    /// Of the body.
    signature: &'a str,
}

impl Bus {
    /// As root by systemd's own socket, which needs no daemon and no polkit; else, or if that is not there, by the system's bus.
    ///
    /// # Errors
    /// This machine has no systemd; nobody listens.
    pub fn open() -> Result<Self, Trouble> {
        if !is_there() {
            return Err(Trouble::new(Class::Denied, "systemd has not started this machine"));
        }
        if rustix::process::geteuid().is_root()
            && let Ok(bus) = Self::at(PRIVATE)
        {
            return Ok(bus);
        }
        let mut bus = Self::at(SYSTEM)?;
        let bus_itself = Head {
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            method: "Hello",
            destination: "org.freedesktop.DBus",
            signature: "",
        };
        bus.call(&bus_itself, Vec::new())?;
        Ok(bus)
    }

    fn at(path: &str) -> Result<Self, Trouble> {
        let mut stream = crate::sys::socket::connect(path.as_ref())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // Who this is, the kernel says; the number is that in digits, each of them as a byte in hexadecimal.
        let user: String = rustix::process::geteuid()
            .as_raw()
            .to_string()
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        // In one piece: a call that comes together with BEGIN is not looked at by systemd before the next one comes.
        stream.write_all(format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n").as_bytes())?;
        let line = first_line(&mut stream)?;
        if !line.starts_with("OK") {
            return Err(Trouble::new(Class::Denied, format!("{path}: {line}")));
        }
        Ok(Self { stream, serial: 0 })
    }

    /// Calls a method of systemd; `signature` is that of the body.
    ///
    /// # Errors
    /// It refuses, or does not answer.
    pub fn manager<T: DeserializeOwned + Type>(
        &mut self,
        method: &str,
        signature: &str,
        body: &(impl serde::Serialize + DynamicType + ?Sized),
    ) -> Result<T, Trouble> {
        let interface = "org.freedesktop.systemd1.Manager";
        let head = Head { path: MANAGER, interface, method, destination: SYSTEMD, signature };
        let body = encoded(body)?;
        decoded(self.call(&head, body)?)
    }

    /// The object of a unit, which systemd reads from its files if it has not.
    ///
    /// # Errors
    /// As [`Bus::manager`].
    pub fn unit(&mut self, name: &str) -> Result<OwnedObjectPath, Trouble> {
        self.manager("LoadUnit", "s", name)
    }

    /// All properties of one interface of an object, as they were at one instant.
    ///
    /// # Errors
    /// As [`Bus::manager`].
    pub fn properties(&mut self, path: &OwnedObjectPath, interface: &str) -> Result<Properties, Trouble> {
        let head = Head {
            path: path.as_str(),
            interface: "org.freedesktop.DBus.Properties",
            method: "GetAll",
            destination: SYSTEMD,
            signature: "s",
        };
        let body = encoded(format!("{SYSTEMD}.{interface}").as_str())?;
        Ok(Properties(decoded(self.call(&head, body)?)?))
    }

    /// The body of the answer.
    fn call(&mut self, head: &Head<'_>, body: Vec<u8>) -> Result<Vec<u8>, Trouble> {
        self.serial += 1;
        self.stream.write_all(&head.before(&body, self.serial))?;
        loop {
            let message = Message::read(&mut self.stream)?;
            // Between them are signals to all who listen.
            if message.reply_to != Some(self.serial) {
                continue;
            }
            match message.kind {
                ANSWER => return Ok(message.body),
                ERROR => {
                    let why = decoded::<String>(message.body).unwrap_or_default();
                    return Err(Trouble::said(&message.error, why));
                }
                _ => {}
            }
        }
    }
}

fn first_line(stream: &mut UnixStream) -> io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.len() < MAX_LINE && !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

fn encoded(body: &(impl serde::Serialize + DynamicType + ?Sized)) -> Result<Vec<u8>, Trouble> {
    let bytes = to_bytes(Context::new(LE, 0), body).map_err(Trouble::garbled)?;
    Ok(bytes.bytes().to_vec())
}

fn decoded<T: DeserializeOwned + Type>(body: Vec<u8>) -> Result<T, Trouble> {
    let data = Data::new(body, Context::new(LE, 0));
    Ok(data.deserialize().map_err(Trouble::garbled)?.0)
}

impl Head<'_> {
    /// A whole message with that body.
    fn before(&self, body: &[u8], serial: u32) -> Vec<u8> {
        let mut fields = Vec::new();
        for (code, kind, text) in [
            (PATH, b'o', self.path),
            (INTERFACE, b's', self.interface),
            (MEMBER, b's', self.method),
            (DESTINATION, b's', self.destination),
        ] {
            pad(&mut fields, 8);
            fields.extend([code, 1, kind, 0]);
            fields.extend((text.len() as u32).to_le_bytes());
            fields.extend(text.bytes().chain([0]));
        }
        if !self.signature.is_empty() {
            pad(&mut fields, 8);
            fields.extend([SIGNATURE, 1, b'g', 0, self.signature.len() as u8]);
            fields.extend(self.signature.bytes().chain([0]));
        }
        let mut message = vec![b'l', CALL, 0, 1];
        for number in [body.len() as u32, serial, fields.len() as u32] {
            message.extend(number.to_le_bytes());
        }
        message.extend(fields);
        pad(&mut message, 8);
        message.extend(body);
        message
    }
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

/// What came, as far as it is of interest.
struct Message {
    kind: u8,
    reply_to: Option<u32>,
    error: String,
    body: Vec<u8>,
}

impl Message {
    fn read(stream: &mut impl Read) -> Result<Self, Trouble> {
        let mut fixed = [0; FIXED];
        stream.read_exact(&mut fixed)?;
        let number =
            |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]) as usize;
        let (n_body, n_fields) = (number(4), number(12));
        if fixed[0] != b'l' {
            return Err(Trouble::garbled("it is not of this machine's byte order"));
        }
        let n_head = n_fields.next_multiple_of(8);
        if n_body > MAX_MESSAGE || n_head > MAX_MESSAGE {
            return Err(Trouble::garbled(format!("it has {n_head} and {n_body} bytes")));
        }
        let (mut head, mut body) = (vec![0; n_head], vec![0; n_body]);
        stream.read_exact(&mut head)?;
        stream.read_exact(&mut body)?;
        head.truncate(n_fields);
        let mut message = Self { kind: fixed[1], reply_to: None, error: String::new(), body };
        message.understand(&head).ok_or_else(|| Trouble::garbled("its head ends too early"))?;
        Ok(message)
    }

    /// `None`: it is no list of fields.
    fn understand(&mut self, fields: &[u8]) -> Option<()> {
        let mut at = 0usize;
        while at < fields.len() {
            let (code, n_kind) = (*fields.get(at)?, usize::from(*fields.get(at + 1)?));
            let kind = fields.get(at + 2..at + 2 + n_kind)?;
            at += 3 + n_kind;
            let long = |at: usize| Some(u32::from_le_bytes(fields.get(at..at + 4)?.try_into().ok()?));
            match kind {
                b"s" | b"o" => {
                    at = at.next_multiple_of(4);
                    let length = usize::try_from(long(at)?).ok()?;
                    let text = fields.get(at + 4..(at + 4).checked_add(length)?)?;
                    if code == ERROR_NAME {
                        self.error = String::from_utf8_lossy(text).into_owned();
                    }
                    at += 4 + length + 1;
                }
                b"g" => at += usize::from(*fields.get(at)?) + 2,
                b"u" => {
                    at = at.next_multiple_of(4);
                    let number = long(at)?;
                    if code == REPLY_SERIAL {
                        self.reply_to = Some(number);
                    }
                    at += 4;
                }
                _ => return None,
            }
            at = at.next_multiple_of(8);
        }
        Some(())
    }
}

/// What an object says of itself.
pub struct Properties(HashMap<String, OwnedVariant>);

impl Properties {
    /// A text; empty if there is none.
    pub fn text(&self, key: &str) -> String {
        self.0.get(key).and_then(|value| <&str>::try_from(value).ok()).unwrap_or_default().to_owned()
    }

    /// Whether it is so; not if nothing is said.
    pub fn flag(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| bool::try_from(value) == Ok(true))
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Vec<String> {
        self.cloned(key).and_then(|value| Vec::<String>::try_from(value).ok()).unwrap_or_default()
    }

    /// A list of bytes.
    pub fn bytes(&self, key: &str) -> Vec<u8> {
        self.cloned(key).and_then(|value| Vec::<u8>::try_from(value).ok()).unwrap_or_default()
    }

    /// The first of two values: a number, and an object's path.
    pub fn number_of_pair(&self, key: &str) -> u32 {
        let pair = self.cloned(key).and_then(|value| <(u32, OwnedObjectPath)>::try_from(value).ok());
        pair.map_or(0, |(number, _)| number)
    }

    /// The second of two texts.
    pub fn second_text(&self, key: &str) -> String {
        let pair = self.cloned(key).and_then(|value| <(String, String)>::try_from(value).ok());
        pair.map_or(String::new(), |(_, second)| second)
    }

    fn cloned(&self, key: &str) -> Option<OwnedVariant> {
        self.0.get(key)?.try_clone().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head<'static> {
        Head { path: "/a", interface: "b.c", method: "D", destination: "e.f", signature: "s" }
    }

    #[test]
    fn a_call_is_laid_out_as_the_specification_has_it() {
        let body = encoded("xyz").expect("a text");
        let bytes = head().before(&body, 7);
        let told = bytes.escape_ascii().to_string();
        expect_test::expect![[r#"l\x01\x00\x01\x08\x00\x00\x00\x07\x00\x00\x00G\x00\x00\x00\x01\x01o\x00\x02\x00\x00\x00/a\x00\x00\x00\x00\x00\x00\x02\x01s\x00\x03\x00\x00\x00b.c\x00\x00\x00\x00\x00\x03\x01s\x00\x01\x00\x00\x00D\x00\x00\x00\x00\x00\x00\x00\x06\x01s\x00\x03\x00\x00\x00e.f\x00\x00\x00\x00\x00\x08\x01g\x00\x01s\x00\x00\x03\x00\x00\x00xyz\x00"#]].assert_eq(&told);
        let read = Message::read(&mut bytes.as_slice()).expect("a message");
        assert_eq!(
            (read.kind, read.reply_to, decoded::<String>(read.body)),
            (CALL, None, Ok("xyz".to_owned()))
        );
    }

    #[test]
    fn what_is_cut_off_or_damaged_is_an_error_and_no_panic() {
        let bytes = head().before(&encoded("xyz").expect("a text"), 7);
        for n in 0..bytes.len() {
            assert!(Message::read(&mut &bytes[..n]).is_err(), "{n} bytes");
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[n] = value;
                if let Ok(message) = Message::read(&mut damaged.as_slice()) {
                    let _ = decoded::<HashMap<String, OwnedVariant>>(message.body);
                }
            }
        }
    }

    #[test]
    fn what_is_not_permitted_is_told_from_the_rest() {
        let class = |name| Trouble::said(name, "why".into()).class;
        assert_eq!(class("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"), Class::Denied);
        assert_eq!(class("org.freedesktop.DBus.Error.AccessDenied"), Class::Denied);
        assert_eq!(class("org.freedesktop.systemd1.TransactionIsDestructive"), Class::Unreachable);
    }
}
