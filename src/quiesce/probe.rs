//! Whether something answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::model::Probe;
use crate::quiesce::command;
use crate::sys::resolve::resolve;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came instead of an answer.
pub fn ask(probe: &Probe) -> Result<(), String> {
    match probe {
        Probe::Tcp(address) => connect(address).map(drop),
        Probe::Http { address, path } => get(address, path),
        Probe::Command(words) => match command::run(words, PATIENCE, false)? {
            None => Err(format!("it took longer than {PATIENCE:?}")),
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(status.to_string()),
        },
    }
}

fn connect(address: &str) -> Result<TcpStream, String> {
    let mut last = "the name has no address".to_owned();
    for address in resolve(address, PATIENCE).map_err(|error| error.to_string())? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

fn get(address: &str, path: &str) -> Result<(), String> {
    let mut stream = connect(address)?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: cowsnap\r\nConnection: close\r\n\r\n");
    let asked = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| {
        stream.set_write_timeout(Some(PATIENCE))?;
        // At once: who answers before it has read everything may cut the connection.
        stream.write_all(request.as_bytes())
    });
    asked.map_err(|error| error.to_string())?;
    let mut line = Vec::new();
    // "HTTP/1.1 200" is all that is read.
    stream.take(12).read_to_end(&mut line).map_err(|error| error.to_string())?;
    match line.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..)) {
        Some([b'2', _, _]) => Ok(()),
        _ => Err(format!("the answer begins with {:?}", String::from_utf8_lossy(&line))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// An address where one question is answered so.
    fn served(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody asks");
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(answer.as_bytes()).expect("answered");
        });
        address
    }

    #[test]
    fn only_2xx_is_an_answer() {
        let get =
            |answer| ask(&Probe::http(&format!("http://{}/v2/info", served(answer))).expect("an address"));
        assert_eq!(get("HTTP/1.1 200 OK\r\n\r\nhello"), Ok(()));
        assert_eq!(get("HTTP/1.0 204 No\r\n\r\n"), Ok(()));
        assert!(get("HTTP/1.1 503 Later\r\n\r\n").is_err_and(|why| why.contains("503")));
        assert!(get("SSH-2.0-x\r\n").is_err());
        assert!(get("").is_err());
    }

    #[test]
    fn who_listens_is_there_and_who_does_not_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        assert_eq!(ask(&Probe::Tcp(address.clone())), Ok(()));
        drop(listener);
        assert!(ask(&Probe::Tcp(address)).is_err());
        let command = |word: &str| ask(&Probe::Command(vec![word.into()]));
        assert_eq!(command("true"), Ok(()));
        assert!(command("false").is_err() && command("/no/such/program").is_err());
    }
}
