//! Builds streams: for tests, and for whoever needs a stream that no kernel would send.

use super::command::{Command, Time};
use super::wire::{Attribute, COMMAND_LEN, Code, MAGIC, Version, checksum};

/// Appends commands to a stream in memory. It checks nothing: hostile streams are what it is for.
#[derive(Debug, Clone)]
pub struct Encoder {
    version: Version,
    bytes: Vec<u8>,
}

impl Encoder {
    /// Begins a stream with its header.
    pub fn new(version: Version) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(version.number().to_le_bytes());
        Self { version, bytes }
    }

    /// Appends a command.
    ///
    /// # Panics
    /// If an attribute is longer than its 16-bit length can say.
    pub fn push(&mut self, command: &Command<'_>) -> &mut Self {
        let mut payload = Payload { version: self.version, bytes: Vec::new() };
        payload.command(command);
        self.push_raw(command.code() as u16, &payload.bytes)
    }

    /// Appends a command of any number with any payload, under a right length and checksum.
    pub fn push_raw(&mut self, code: u16, payload: &[u8]) -> &mut Self {
        let mut command = Vec::with_capacity(COMMAND_LEN + payload.len());
        command.extend((payload.len() as u32).to_le_bytes());
        command.extend(code.to_le_bytes());
        command.extend([0; 4]);
        command.extend(payload);
        let crc = checksum(&command);
        command[6..10].copy_from_slice(&crc.to_le_bytes());
        self.bytes.extend(command);
        self
    }

    /// The stream so far, without an end command.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The stream with its end command.
    pub fn finish(mut self) -> Vec<u8> {
        self.push(&Command::End);
        self.bytes
    }
}

impl Command<'_> {
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Subvol { .. } => Code::Subvol,
            Self::Snapshot { .. } => Code::Snapshot,
            Self::Mkfile { .. } => Code::Mkfile,
            Self::Mkdir { .. } => Code::Mkdir,
            Self::Mknod { .. } => Code::Mknod,
            Self::Mkfifo { .. } => Code::Mkfifo,
            Self::Mksock { .. } => Code::Mksock,
            Self::Symlink { .. } => Code::Symlink,
            Self::Rename { .. } => Code::Rename,
            Self::Link { .. } => Code::Link,
            Self::Unlink { .. } => Code::Unlink,
            Self::Rmdir { .. } => Code::Rmdir,
            Self::SetXattr { .. } => Code::SetXattr,
            Self::RemoveXattr { .. } => Code::RemoveXattr,
            Self::Write { .. } => Code::Write,
            Self::Clone { .. } => Code::Clone,
            Self::Truncate { .. } => Code::Truncate,
            Self::Chmod { .. } => Code::Chmod,
            Self::Chown { .. } => Code::Chown,
            Self::Utimes { .. } => Code::Utimes,
            Self::End => Code::End,
            Self::UpdateExtent { .. } => Code::UpdateExtent,
            Self::Fallocate { .. } => Code::Fallocate,
            Self::Fileattr { .. } => Code::Fileattr,
            Self::EncodedWrite { .. } => Code::EncodedWrite,
            Self::EnableVerity { .. } => Code::EnableVerity,
        }
    }

    /// The path that the command is about; `None` for the end.
    pub fn path(&self) -> Option<&[u8]> {
        match self {
            Self::End => None,
            Self::Subvol { path, .. }
            | Self::Snapshot { path, .. }
            | Self::Mkfile { path, .. }
            | Self::Mkdir { path, .. }
            | Self::Mknod { path, .. }
            | Self::Mkfifo { path, .. }
            | Self::Mksock { path, .. }
            | Self::Symlink { path, .. }
            | Self::Rename { path, .. }
            | Self::Link { path, .. }
            | Self::Unlink { path }
            | Self::Rmdir { path }
            | Self::SetXattr { path, .. }
            | Self::RemoveXattr { path, .. }
            | Self::Write { path, .. }
            | Self::Clone { path, .. }
            | Self::Truncate { path, .. }
            | Self::Chmod { path, .. }
            | Self::Chown { path, .. }
            | Self::Utimes { path, .. }
            | Self::UpdateExtent { path, .. }
            | Self::Fallocate { path, .. }
            | Self::Fileattr { path, .. }
            | Self::EncodedWrite { path, .. }
            | Self::EnableVerity { path, .. } => Some(path),
        }
    }
}

struct Payload {
    version: Version,
    bytes: Vec<u8>,
}

impl Payload {
    fn put(&mut self, attribute: Attribute, value: &[u8]) {
        self.bytes.extend((attribute as u16).to_le_bytes());
        if attribute != Attribute::Data || self.version == Version::V1 {
            let len = u16::try_from(value.len()).expect("an attribute has at most 65535 bytes");
            self.bytes.extend(len.to_le_bytes());
        }
        self.bytes.extend(value);
    }

    fn put_u64(&mut self, attribute: Attribute, value: u64) {
        self.put(attribute, &value.to_le_bytes());
    }

    fn put_u32(&mut self, attribute: Attribute, value: u32) {
        self.put(attribute, &value.to_le_bytes());
    }

    fn put_time(&mut self, attribute: Attribute, time: Time) {
        let mut bytes = time.sec.to_le_bytes().to_vec();
        bytes.extend(time.nsec.to_le_bytes());
        self.put(attribute, &bytes);
    }

    fn command(&mut self, command: &Command<'_>) {
        if let Some(path) = command.path() {
            self.put(Attribute::Path, path);
        }
        match *command {
            Command::Subvol { .. } | Command::Snapshot { .. } => self.first(command),
            Command::Write { .. }
            | Command::Clone { .. }
            | Command::Truncate { .. }
            | Command::UpdateExtent { .. }
            | Command::Fallocate { .. }
            | Command::EncodedWrite { .. }
            | Command::EnableVerity { .. } => self.data(command),
            Command::Chmod { .. }
            | Command::Chown { .. }
            | Command::Utimes { .. }
            | Command::Fileattr { .. }
            | Command::SetXattr { .. }
            | Command::RemoveXattr { .. } => self.meta(command),
            _ => self.name(command),
        }
    }

    fn first(&mut self, command: &Command<'_>) {
        if let Command::Subvol { uuid, ctransid, .. } | Command::Snapshot { uuid, ctransid, .. } = *command {
            self.put(Attribute::Uuid, &uuid);
            self.put_u64(Attribute::Ctransid, ctransid);
        }
        if let Command::Snapshot { clone_uuid, clone_ctransid, .. } = *command {
            self.put(Attribute::CloneUuid, &clone_uuid);
            self.put_u64(Attribute::CloneCtransid, clone_ctransid);
        }
    }

    fn name(&mut self, command: &Command<'_>) {
        if let Command::Mkfile { inode, .. }
        | Command::Mkdir { inode, .. }
        | Command::Mknod { inode, .. }
        | Command::Mkfifo { inode, .. }
        | Command::Mksock { inode, .. }
        | Command::Symlink { inode, .. } = *command
        {
            self.put_u64(Attribute::Inode, inode);
        }
        match *command {
            Command::Mknod { mode, rdev, .. } => {
                self.put_u64(Attribute::Rdev, rdev);
                self.put_u64(Attribute::Mode, mode);
            }
            Command::Symlink { target, .. } | Command::Link { target, .. } => {
                self.put(Attribute::PathLink, target);
            }
            Command::Rename { to, .. } => self.put(Attribute::PathTo, to),
            _ => {}
        }
    }

    fn meta(&mut self, command: &Command<'_>) {
        match *command {
            Command::Chmod { mode, .. } => self.put_u64(Attribute::Mode, mode),
            Command::Chown { uid, gid, .. } => {
                self.put_u64(Attribute::Uid, uid);
                self.put_u64(Attribute::Gid, gid);
            }
            Command::Utimes { atime, mtime, ctime, otime, .. } => {
                self.put_time(Attribute::Atime, atime);
                self.put_time(Attribute::Mtime, mtime);
                self.put_time(Attribute::Ctime, ctime);
                if let Some(otime) = otime {
                    self.put_time(Attribute::Otime, otime);
                }
            }
            Command::Fileattr { flags, .. } => self.put_u64(Attribute::Fileattr, flags),
            Command::SetXattr { name, data, .. } => {
                self.put(Attribute::XattrName, name);
                self.put(Attribute::XattrData, data);
            }
            Command::RemoveXattr { name, .. } => self.put(Attribute::XattrName, name),
            _ => {}
        }
    }

    fn data(&mut self, command: &Command<'_>) {
        match *command {
            Command::Write { offset, data, .. } => {
                self.put_u64(Attribute::FileOffset, offset);
                self.put(Attribute::Data, data);
            }
            Command::Clone { offset, len, uuid, ctransid, from, from_offset, .. } => {
                self.put_u64(Attribute::FileOffset, offset);
                self.put_u64(Attribute::CloneLen, len);
                self.put(Attribute::CloneUuid, &uuid);
                self.put_u64(Attribute::CloneCtransid, ctransid);
                self.put(Attribute::ClonePath, from);
                self.put_u64(Attribute::CloneOffset, from_offset);
            }
            Command::Truncate { size, .. } => self.put_u64(Attribute::Size, size),
            Command::UpdateExtent { offset, size, .. } => {
                self.put_u64(Attribute::FileOffset, offset);
                self.put_u64(Attribute::Size, size);
            }
            Command::Fallocate { mode, offset, size, .. } => {
                self.put_u32(Attribute::FallocateMode, mode);
                self.put_u64(Attribute::FileOffset, offset);
                self.put_u64(Attribute::Size, size);
            }
            Command::EnableVerity { verity, .. } => {
                self.put(Attribute::VerityAlgorithm, &[verity.algorithm]);
                self.put_u32(Attribute::VerityBlockSize, verity.block_size);
                self.put(Attribute::VeritySalt, verity.salt);
                self.put(Attribute::VeritySignature, verity.signature);
            }
            _ => self.encoded(command),
        }
    }

    fn encoded(&mut self, command: &Command<'_>) {
        let Command::EncodedWrite {
            offset,
            unencoded_file_len,
            unencoded_len,
            unencoded_offset,
            compression,
            encryption,
            data,
            ..
        } = *command
        else {
            return;
        };
        self.put_u64(Attribute::FileOffset, offset);
        self.put_u64(Attribute::UnencodedFileLen, unencoded_file_len);
        self.put_u64(Attribute::UnencodedLen, unencoded_len);
        self.put_u64(Attribute::UnencodedOffset, unencoded_offset);
        self.put_u32(Attribute::Compression, compression.number());
        self.put_u32(Attribute::Encryption, encryption);
        self.put(Attribute::Data, data);
    }
}
