//! Socket options and descriptors that no library reaches. With the world's own, all `unsafe` of the tests.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use socket2::Socket;

/// Sets an option that is one int.
pub fn set_int(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the descriptor is open while `socket` is borrowed, and the kernel reads one int from `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result.into()).map(drop)
}

/// Another process's descriptor, as one of our own.
pub fn descriptor_of(pid: u32, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and returns a descriptor that nobody else owns.
    let process = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let process = process as RawFd;
    // SAFETY: the kernel has just returned it, and nothing else owns it.
    let process = unsafe { OwnedFd::from_raw_fd(process) };
    // SAFETY: the call takes integers and returns a descriptor that nobody else owns.
    let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    let copy = check(copy)? as RawFd;
    // SAFETY: the kernel has just returned it, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
