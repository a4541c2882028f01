use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Drive, Error, Result};

/// What a disk writes as a whole or not at all, in bytes.
pub const SECTOR: usize = 4096;
/// QEMU asks for no more at once.
const MAX_LENGTH: u32 = 64 << 20;
/// For what the machine had handed over when its power went.
const LIMIT: Duration = Duration::from_secs(30);

/// A disk with a write cache that forgets: what the machine wrote and did not flush may be gone when the power is.
///
/// QEMU reaches it over the NBD protocol. It outlives its machines; what was flushed is in its file.
pub struct VolatileDisk {
    name: String,
    socket: PathBuf,
    inner: Arc<Inner>,
}

struct Inner {
    size: u64,
    medium: Mutex<Medium>,
    line: Mutex<Line>,
    /// Rung when the machine hangs up, and when the disk stops.
    bell: Condvar,
}

#[derive(Default)]
struct Line {
    /// Whether a machine is connected.
    is_busy: bool,
    /// Whether the disk is wanted no more.
    is_over: bool,
    /// How many writes it takes before it stops, if it does.
    stops_after: Option<u64>,
    is_stopped: bool,
}

/// What a power cut did to the sectors that were written and not flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Those that were on the disk all the same, as they were written last.
    pub kept: u64,
    /// Those that are as they were at the last flush, or at a write between that and the last one.
    pub lost: u64,
}

impl VolatileDisk {
    /// A new disk full of zeros. Its file and its socket are in `folder`, and go with it.
    ///
    /// # Errors
    /// If they can not be made. The name of a socket may have 107 bytes.
    pub fn create(name: &str, folder: &Path, bytes: u64) -> Result<Self> {
        let socket = folder.join(format!("{name}.nbd"));
        let path = folder.join(format!("{name}.disk"));
        let what = || format!("make the disk {}", path.display());
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(Error::host(what()))?;
        file.set_len(bytes).and_then(|()| fs::remove_file(&path)).map_err(Error::host(what()))?;
        let listener = UnixListener::bind(&socket).map_err(Error::host(what()))?;
        let medium = Mutex::new(Medium { file, cache: BTreeMap::new() });
        let inner = Inner { size: bytes, medium, line: Mutex::default(), bell: Condvar::new() };
        let inner = Arc::new(inner);
        std::thread::spawn({
            let inner = Arc::clone(&inner);
            move || inner.answer(&listener)
        });
        Ok(Self { name: name.into(), socket, inner })
    }

    /// What is plugged into a machine.
    pub fn drive(&self) -> Drive {
        Drive::served(&self.name, &self.socket)
    }

    /// From the `n`th write on it answers nothing and takes nothing, so that a power cut can be aimed between two writes.
    pub fn stop_after(&self, n: u64) {
        lock(&self.inner.line).stops_after = Some(n);
    }

    /// Waits until it has stopped; whether it did before `limit`.
    pub fn has_stopped(&self, limit: Duration) -> bool {
        let waited = self.inner.bell.wait_timeout_while(lock(&self.inner.line), limit, |l| !l.is_stopped);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_stopped
    }

    /// The power is gone: of each sector that was not flushed, it is left to `seed` whether the disk has it as it was
    /// written last or before, back to what was flushed. To be called once QEMU is dead.
    ///
    /// # Panics
    /// If the machine is still connected after a while.
    pub fn cut(&self, seed: u64) -> Cut {
        let waited = self.inner.bell.wait_timeout_while(lock(&self.inner.line), LIMIT, |l| l.is_busy);
        let (mut line, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "the machine of the disk {} is still on", self.name);
        *line = Line::default();
        drop(line);
        lock(&self.inner.medium).lose(&mut Random(seed))
    }
}

impl Drop for VolatileDisk {
    fn drop(&mut self) {
        lock(&self.inner.line).is_over = true;
        let _ = UnixStream::connect(&self.socket); // Wakes the one who answers.
        let _ = fs::remove_file(&self.socket);
    }
}

/// What is on the disk, and what is in its cache.
struct Medium {
    file: File,
    /// By sector: what was written to it since the last flush, oldest first.
    cache: BTreeMap<u64, Vec<Box<[u8; SECTOR]>>>,
}

impl Medium {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        for (sector, within, part) in parts(offset, buffer.len()) {
            let whole = self.sector(sector)?;
            buffer[part.clone()].copy_from_slice(&whole[within..within + part.len()]);
        }
        Ok(())
    }

    fn sector(&self, sector: u64) -> io::Result<Box<[u8; SECTOR]>> {
        if let Some(newest) = self.cache.get(&sector).and_then(|written| written.last()) {
            return Ok(newest.clone());
        }
        let mut whole = Box::new([0; SECTOR]);
        self.file.read_exact_at(&mut whole[..], sector * SECTOR as u64)?;
        Ok(whole)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        for (sector, within, part) in parts(offset, bytes.len()) {
            let mut whole = match part.len() {
                SECTOR => Box::new([0; SECTOR]),
                _ => self.sector(sector)?,
            };
            whole[within..within + part.len()].copy_from_slice(&bytes[part]);
            self.cache.entry(sector).or_default().push(whole);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        for (sector, written) in std::mem::take(&mut self.cache) {
            let newest = written.last().expect("a sector is in the cache because it was written");
            self.file.write_all_at(&newest[..], sector * SECTOR as u64)?;
        }
        Ok(())
    }

    fn lose(&mut self, random: &mut Random) -> Cut {
        // Sometimes the cache had nearly all on the disk, sometimes nearly nothing.
        let kept_of_16 = random.below(17);
        let mut cut = Cut::default();
        for (sector, written) in std::mem::take(&mut self.cache) {
            if random.below(16) < kept_of_16 {
                cut.kept += 1;
                self.put(sector, written.last().map(|newest| &**newest));
            } else {
                cut.lost += 1;
                let version = random.below(written.len() as u64) as usize;
                self.put(sector, version.checked_sub(1).map(|version| &*written[version]));
            }
        }
        cut
    }

    fn put(&mut self, sector: u64, whole: Option<&[u8; SECTOR]>) {
        if let Some(whole) = whole {
            let put = self.file.write_all_at(&whole[..], sector * SECTOR as u64);
            put.expect("the disk's file takes what is within its size");
        }
    }
}

/// The sectors that a range touches: which, where in it the range begins, and which part of the range that is.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let place = offset + at as u64;
        let within = (place % SECTOR as u64) as usize;
        let end = len.min(at + SECTOR - within);
        let part = at..end;
        at = end;
        (!part.is_empty()).then(|| (place / SECTOR as u64, within, part))
    })
}

/// splitmix64: the same numbers for the same seed.
pub struct Random(pub u64);

impl Random {
    /// The next one, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

// The NBD protocol, as far as QEMU speaks it to a server without extensions: fixed newstyle handshake, simple replies.
const OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const FIXED_NEWSTYLE_NO_ZEROES: u16 = 1 | 2;
const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const GO: u32 = 7;
const ACK: u32 = 1;
const INFO: u32 = 3;
const UNSUPPORTED: u32 = 1 << 31 | 1;
/// The flags are there; flush and forced unit access are understood.
const TRANSMISSION_FLAGS: u16 = 1 | 4 | 8;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const FORCED: u16 = 1;
const INVALID: u32 = 22;
const IO_ERROR: u32 = 5;

impl Inner {
    fn answer(&self, listener: &UnixListener) {
        for machine in listener.incoming() {
            lock(&self.line).is_busy = true;
            // However it ended, the disk is there for the next one.
            let _ = machine.and_then(|machine| self.serve(machine));
            let mut line = lock(&self.line);
            line.is_busy = false;
            self.bell.notify_all();
            if line.is_over {
                return;
            }
        }
    }

    fn serve(&self, mut machine: UnixStream) -> io::Result<()> {
        if !self.shake_hands(&mut machine)? {
            return Ok(());
        }
        let mut from = io::BufReader::with_capacity(1 << 20, machine.try_clone()?);
        while let Some(request) = Request::read(&mut from)? {
            if request.kind == DISCONNECT {
                return Ok(());
            }
            if self.stops_at(&request) {
                self.carry_out(&request, &mut Vec::new())?;
                self.bell.notify_all();
                io::copy(&mut from, &mut io::sink())?;
                return Ok(());
            }
            self.obey(&request, &mut machine)?;
        }
        Ok(())
    }

    fn stops_at(&self, request: &Request) -> bool {
        let mut line = lock(&self.line);
        let Line { stops_after: Some(n), is_stopped, .. } = &mut *line else { return false };
        if request.kind == WRITE {
            *n = n.saturating_sub(1);
            *is_stopped = *n == 0;
        }
        *is_stopped
    }

    /// Whether the machine is to be served after that.
    fn shake_hands(&self, machine: &mut UnixStream) -> io::Result<bool> {
        machine.write_all(b"NBDMAGICIHAVEOPT")?;
        machine.write_all(&FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes())?;
        let client_flags = number::<4>(machine)?;
        loop {
            if number::<8>(machine)? != OPTION {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let (option, len) = (number::<4>(machine)? as u32, number::<4>(machine)?);
            io::copy(&mut machine.take(len), &mut io::sink())?; // Which export: there is one.
            match option {
                GO => {
                    let mut info = vec![0; 2]; // NBD_INFO_EXPORT
                    info.extend(self.size.to_be_bytes());
                    info.extend(TRANSMISSION_FLAGS.to_be_bytes());
                    reply(machine, option, INFO, &info)?;
                    reply(machine, option, ACK, &[])?;
                    return Ok(true);
                }
                EXPORT_NAME => {
                    machine.write_all(&self.size.to_be_bytes())?;
                    machine.write_all(&TRANSMISSION_FLAGS.to_be_bytes())?;
                    let padding = if client_flags & 2 == 0 { 124 } else { 0 };
                    machine.write_all(&vec![0; padding])?;
                    return Ok(true);
                }
                ABORT => {
                    reply(machine, option, ACK, &[])?;
                    return Ok(false);
                }
                _ => reply(machine, option, UNSUPPORTED, &[])?,
            }
        }
    }

    fn obey(&self, request: &Request, machine: &mut UnixStream) -> io::Result<()> {
        let mut answer = Vec::with_capacity(16);
        answer.extend(REPLY.to_be_bytes());
        let mut data = Vec::new();
        let error = match self.carry_out(request, &mut data) {
            Ok(()) => 0,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => INVALID,
            Err(_) => IO_ERROR,
        };
        answer.extend(error.to_be_bytes());
        answer.extend(request.cookie.to_be_bytes());
        if error == 0 {
            answer.extend(data);
        }
        machine.write_all(&answer)
    }

    fn carry_out(&self, request: &Request, data: &mut Vec<u8>) -> io::Result<()> {
        let mut medium = lock(&self.medium);
        let len = u64::from(request.len);
        if request.kind != FLUSH && request.offset.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match request.kind {
            READ => {
                data.resize(request.len as usize, 0);
                medium.read(request.offset, data)
            }
            WRITE => {
                medium.write(request.offset, &request.data)?;
                if request.flags & FORCED != 0 { medium.flush() } else { Ok(()) }
            }
            FLUSH => medium.flush(),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

fn reply(machine: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut reply = OPTION_REPLY.to_be_bytes().to_vec();
    reply.extend(option.to_be_bytes());
    reply.extend(kind.to_be_bytes());
    reply.extend((data.len() as u32).to_be_bytes());
    reply.extend(data);
    machine.write_all(&reply)
}

/// A number of N bytes.
fn number<const N: usize>(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes[8 - N..])?;
    Ok(u64::from_be_bytes(bytes))
}

struct Request {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    len: u32,
    data: Vec<u8>,
}

impl Request {
    /// The next one; `None` if the line ends in front of it, or in it: such a one never reached the disk.
    fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; 28];
        match from.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let mut head = &head[..];
        if number::<4>(&mut head)? != u64::from(REQUEST) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (flags, kind) = (number::<2>(&mut head)? as u16, number::<2>(&mut head)? as u16);
        let (cookie, offset) = (number::<8>(&mut head)?, number::<8>(&mut head)?);
        let len = number::<4>(&mut head)? as u32;
        if len > MAX_LENGTH {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut data = vec![0; if kind == WRITE { len as usize } else { 0 }];
        from.read_exact(&mut data)?;
        Ok(Some(Self { flags, kind, cookie, offset, len, data }))
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine, as far as a disk sees one.
    struct Machine(UnixStream);

    impl Machine {
        fn plug_in(disk: &VolatileDisk) -> Self {
            let mut line = UnixStream::connect(&disk.socket).expect("the disk listens");
            assert_eq!(number::<8>(&mut line).unwrap(), u64::from_be_bytes(*b"NBDMAGIC"));
            assert_eq!(number::<8>(&mut line).unwrap(), OPTION);
            assert_eq!(number::<2>(&mut line).unwrap(), 3);
            line.write_all(&3u32.to_be_bytes()).unwrap();
            let mut machine = Self(line);
            machine.ask_for(8, b""); // Structured replies, which QEMU asks for first.
            assert_eq!(machine.told(), (8, UNSUPPORTED, Vec::new()));
            machine.ask_for(GO, &[0, 0, 0, 0, 0, 0]);
            let (_, kind, info) = machine.told();
            assert_eq!((kind, &info[..2]), (INFO, &[0, 0][..]));
            assert_eq!(info[2..10], disk.inner.size.to_be_bytes());
            assert_eq!(machine.told(), (GO, ACK, Vec::new()));
            machine
        }

        fn ask_for(&mut self, option: u32, data: &[u8]) {
            self.0.write_all(&OPTION.to_be_bytes()).unwrap();
            self.0.write_all(&option.to_be_bytes()).unwrap();
            self.0.write_all(&(data.len() as u32).to_be_bytes()).unwrap();
            self.0.write_all(data).unwrap();
        }

        fn told(&mut self) -> (u32, u32, Vec<u8>) {
            assert_eq!(number::<8>(&mut self.0).unwrap(), OPTION_REPLY);
            let (option, kind) = (number::<4>(&mut self.0).unwrap(), number::<4>(&mut self.0).unwrap());
            let mut data = vec![0; number::<4>(&mut self.0).unwrap() as usize];
            self.0.read_exact(&mut data).unwrap();
            (option as u32, kind as u32, data)
        }

        /// The answer's error, with the data of a read.
        fn request(&mut self, kind: u16, flags: u16, offset: u64, len: u32, data: &[u8]) -> (u64, Vec<u8>) {
            self.send(kind, flags, offset, len, data);
            assert_eq!(number::<4>(&mut self.0).unwrap(), u64::from(REPLY));
            let error = number::<4>(&mut self.0).unwrap();
            assert_eq!(number::<8>(&mut self.0).unwrap(), 77);
            let mut read = vec![0; if kind == READ && error == 0 { len as usize } else { 0 }];
            self.0.read_exact(&mut read).unwrap();
            (error, read)
        }

        fn send(&mut self, kind: u16, flags: u16, offset: u64, len: u32, data: &[u8]) {
            let mut request = REQUEST.to_be_bytes().to_vec();
            request.extend(flags.to_be_bytes());
            request.extend(kind.to_be_bytes());
            request.extend(77u64.to_be_bytes());
            request.extend(offset.to_be_bytes());
            request.extend(len.to_be_bytes());
            request.extend(data);
            self.0.write_all(&request).unwrap();
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            assert_eq!(self.request(WRITE, 0, offset, data.len() as u32, data).0, 0);
        }

        fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
            let (error, data) = self.request(READ, 0, offset, len, &[]);
            assert_eq!(error, 0);
            data
        }

        fn flush(&mut self) {
            assert_eq!(self.request(FLUSH, 0, 0, 0, &[]).0, 0);
        }
    }

    const N_SECTORS: usize = 64;

    fn disk(test: &str) -> (VolatileDisk, PathBuf) {
        let folder = std::env::temp_dir().join(format!("cowsnap-volatile-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        (VolatileDisk::create("d", &folder, (N_SECTORS * SECTOR) as u64).unwrap(), folder)
    }

    /// What the sectors hold after a cut, as a text: each is filled with one letter.
    fn sectors(disk: &VolatileDisk) -> String {
        let all = Machine::plug_in(disk).read(0, (N_SECTORS * SECTOR) as u32);
        let letter = |sector: &[u8]| {
            assert!(sector.iter().all(|b| *b == sector[0]), "a sector is torn");
            if sector[0] == 0 { '.' } else { char::from(sector[0]) }
        };
        all.chunks(SECTOR).map(letter).collect()
    }

    #[test]
    fn what_was_flushed_outlives_a_cut_and_what_was_not_may_be_gone_sector_by_sector() {
        let (disk, folder) = disk("cut");
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let mut machine = Machine::plug_in(&disk);
            machine.write(0, &[b'a'; N_SECTORS * SECTOR]);
            machine.flush();
            machine.write((32 * SECTOR) as u64, &[b'b'; 32 * SECTOR]);
            machine.write((32 * SECTOR) as u64, &[b'c'; 32 * SECTOR]);
            assert_eq!(machine.read((40 * SECTOR) as u64, 2), b"cc", "the machine reads what it wrote");
            drop(machine);
            let cut = disk.cut(seed);
            let after = sectors(&disk);
            assert_eq!(after[..32], "a".repeat(32));
            assert_eq!(cut.kept as usize, after.matches('c').count());
            assert_eq!(cut.kept + cut.lost, 32);
            seen.extend(after[32..].chars());
            seen.extend((cut.lost == 32).then_some('0'));
            assert_eq!(disk.cut(seed), Cut::default(), "what the cut has left is on the disk");
        }
        assert_eq!(seen.into_iter().collect::<String>(), "0abc");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_disk_that_stops_takes_nothing_more_and_works_again_for_the_next_machine() {
        let (disk, folder) = disk("stop");
        let mut machine = Machine::plug_in(&disk);
        machine.write(0, b"one");
        disk.stop_after(2);
        machine.write(SECTOR as u64, b"two");
        machine.flush();
        assert!(!disk.has_stopped(Duration::ZERO));
        machine.send(WRITE, 0, 2 * SECTOR as u64, 5, b"three");
        machine.send(FLUSH, 0, 0, 0, &[]);
        assert!(disk.has_stopped(LIMIT));
        drop(machine);
        let cut = disk.cut(5);
        assert_eq!(cut.kept + cut.lost, 1, "the flush behind the third was never taken");
        let mut machine = Machine::plug_in(&disk);
        assert_eq!((machine.read(0, 3), machine.read(SECTOR as u64, 3)), (b"one".into(), b"two".into()));
        let third = if cut.kept == 1 { *b"three" } else { [0; 5] };
        assert_eq!(machine.read(2 * SECTOR as u64, 5), third);
        drop(machine);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_same_seed_loses_the_same() {
        let lost = |seed| {
            let (disk, folder) = disk("seed");
            let mut machine = Machine::plug_in(&disk);
            machine.write(0, &[b'a'; N_SECTORS * SECTOR]);
            drop(machine);
            disk.cut(seed);
            let after = sectors(&disk);
            fs::remove_dir_all(folder).unwrap();
            after
        };
        assert_eq!(lost(3), lost(3));
        assert_ne!(lost(3), lost(4));
    }

    #[test]
    fn a_forced_write_and_parts_of_sectors_are_kept_and_what_is_beyond_the_end_is_refused() {
        let (disk, folder) = disk("forced");
        let mut machine = Machine::plug_in(&disk);
        machine.write(4000, &[b'x'; 200]);
        assert_eq!(machine.request(WRITE, FORCED, 9000, 4, b"once").0, 0);
        let end = (N_SECTORS * SECTOR) as u64;
        assert_eq!(machine.request(WRITE, 0, end - 2, 4, b"gone").0, u64::from(INVALID));
        assert_eq!(machine.request(READ, 0, u64::MAX, 4, &[]).0, u64::from(INVALID));
        assert_eq!(machine.request(4, 0, 0, 4096, &[]).0, u64::from(INVALID), "it does not trim");
        drop(machine);
        assert_eq!(disk.cut(1), Cut::default());
        let mut machine = Machine::plug_in(&disk);
        assert_eq!(machine.read(3999, 202), [&[0][..], &[b'x'; 200], &[0]].concat());
        assert_eq!(machine.read(9000, 4), b"once");
        drop(machine);
        fs::remove_dir_all(folder).unwrap();
    }
}
