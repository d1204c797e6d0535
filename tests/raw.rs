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

/// Ends a socket's connection, so that it can have another.
pub fn disconnect(socket: &Socket) -> io::Result<()> {
    let nowhere = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    // SAFETY: the descriptor is open while `socket` is borrowed, and the kernel reads the size that it is told.
    let result = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            std::ptr::from_ref(&nowhere),
            size_of::<libc::sockaddr>() as libc::socklen_t,
        )
    };
    check(result.into()).map(drop)
}

/// Whether data went with the first packet of a connection, and was taken.
pub fn early_data_was_taken(socket: &impl AsRawFd) -> io::Result<bool> {
    /// `TCPI_OPT_SYN_DATA`
    const SYN_DATA: u8 = 32;
    // SAFETY: zeroes are a valid value of a structure of numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open while `socket` is borrowed, and the kernel writes no more than `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            std::ptr::from_mut(&mut info).cast(),
            &raw mut length,
        )
    };
    check(result.into())?;
    Ok(info.tcpi_options & SYN_DATA != 0)
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
