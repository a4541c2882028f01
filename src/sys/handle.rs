//! What the kernel knows a file by, whatever it is called: `name_to_handle_at`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

const MAX_HANDLE: usize = 128;

#[repr(C)]
struct FileHandle {
    len: u32,
    kind: i32,
    bytes: [u8; MAX_HANDLE],
}

/// The type and the bytes of the handle of `name` in `dir`; links are not followed.
///
/// EOPNOTSUPP: the filesystem has none.
pub fn file_handle(dir: impl AsFd, name: &[u8]) -> io::Result<(i32, Vec<u8>)> {
    let name = CString::new(name)?;
    let mut handle = FileHandle { len: MAX_HANDLE as u32, kind: 0, bytes: [0; MAX_HANDLE] };
    let mut mount: libc::c_int = 0;
    // SAFETY: `name`, `handle` and `mount` outlive the call, which writes at most the `len` bytes that `handle` has room for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            &raw mut handle,
            &raw mut mount,
            0,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((handle.kind, handle.bytes[..handle.len as usize].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_file_have_one_handle() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a", "c"] {
            std::fs::write(folder.path().join(name), "x").expect("writes");
        }
        std::fs::hard_link(folder.path().join("a"), folder.path().join("b")).expect("links");
        let dir = std::fs::File::open(folder.path()).expect("opens");
        let of = |name: &str| match file_handle(&dir, name.as_bytes()) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => None,
            other => Some(other.expect("a handle")),
        };
        let Some(a) = of("a") else { return };
        assert_eq!(of("b"), Some(a.clone()));
        assert_ne!(of("c"), Some(a));
        assert_eq!(file_handle(&dir, b"none").expect_err("nothing").raw_os_error(), Some(libc::ENOENT));
    }
}
