//! The number that the kernel gives a network namespace: never reused until the next boot, unlike its inode.

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

use crate::netns::NetNs;

/// The cookie of a namespace, as BPF programs see it. Needs Linux 5.14.
#[expect(unsafe_code, reason = "socket2 has no getter for SO_NETNS_COOKIE")]
pub fn netns_cookie(netns: &NetNs) -> io::Result<u64> {
    let socket = netns.run(|| Socket::new(Domain::UNIX, Type::DGRAM, None))??;
    let mut cookie: u64 = 0;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes into `cookie`, which has that many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}
