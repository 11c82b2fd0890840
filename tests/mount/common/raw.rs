//! System calls that no safe library has: file handles, and the kernel's own asynchronous I/O.

use std::ffi::{CString, c_long};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A page of memory that a device could write to.
#[repr(align(4096))]
pub(crate) struct Page(pub(crate) [u8; 4096]);

fn checked(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A file's handle, as NFS servers and backup tools keep it.
#[expect(unsafe_code, reason = "no library has it")]
pub(crate) fn file_handle(path: &Path) -> io::Result<Vec<u8>> {
    /// `struct file_handle` with the longest handle that there is.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        handle: [u8; 128],
    }
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut handle = Handle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount_id = 0;
    // SAFETY: the path ends in 0, and there is room for as many bytes as the structure says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw mut handle,
            &raw mut mount_id,
            0,
        )
    };
    checked(result).map(|_| handle.handle[..handle.bytes as usize].to_vec())
}

/// Writes a page by io_submit(2), and waits by io_getevents(2) until it is written.
#[expect(unsafe_code, reason = "no library has it")]
pub(crate) fn write_by_aio(file: &File, offset: u64, page: &Page) -> io::Result<usize> {
    /// `struct iocb`, on little-endian machines.
    #[repr(C)]
    #[derive(Default)]
    struct Request {
        data: u64,
        key: u32,
        flags: u32,
        opcode: u16,
        priority: i16,
        file: u32,
        buffer: u64,
        length: u64,
        offset: i64,
        reserved: u64,
        more_flags: u32,
        eventfd: u32,
    }
    /// `struct io_event`.
    #[repr(C)]
    #[derive(Default)]
    struct Event {
        data: u64,
        request: u64,
        result: i64,
        result2: i64,
    }
    const PWRITE: u16 = 1;
    let mut context: libc::c_ulong = 0;
    let mut request = Request {
        opcode: PWRITE,
        file: file.as_raw_fd().try_into().unwrap(),
        buffer: page.0.as_ptr() as u64,
        length: page.0.len() as u64,
        offset: offset.try_into().unwrap(),
        ..Request::default()
    };
    let mut event = Event::default();
    // SAFETY: page, request and event live until the kernel has answered: this returns after that.
    unsafe {
        checked(libc::syscall(libc::SYS_io_setup, 1, &raw mut context))?;
        let mut requests = [&raw mut request];
        checked(libc::syscall(libc::SYS_io_submit, context, 1, requests.as_mut_ptr()))?;
        let none: *const libc::timespec = std::ptr::null();
        checked(libc::syscall(libc::SYS_io_getevents, context, 1, 1, &raw mut event, none))?;
        checked(libc::syscall(libc::SYS_io_destroy, context))?;
    }
    usize::try_from(event.result).map_err(|_| io::Error::from_raw_os_error(-event.result as i32))
}
