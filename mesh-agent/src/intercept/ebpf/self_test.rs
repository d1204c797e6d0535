//! Proves that a pod's connections reach the agent, with a real connection: through the hooks, the mark, the route and
//! the socket lookup, to an address that nothing but a self-test uses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::netns::NetNs;
use crate::sys::socket::{PROXY_MARK, original_destination, set_transparent};

/// Both ends are in the same kernel: this is milliseconds, but for a machine that is badly overloaded.
const PATIENCE: Duration = Duration::from_secs(2);
const PORT: u16 = 15002;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// A socket could not be had.
    #[error("{0}")]
    Socket(&'static str, #[source] io::Error),
    /// The connection went elsewhere, or nowhere.
    #[error("a connection to {0} did not reach the agent")]
    Lost(SocketAddr, #[source] io::Error),
    /// It arrived with another address.
    #[error("a connection to {wanted} arrived as one to {seen}")]
    Changed {
        /// Where it went.
        wanted: SocketAddr,
        /// Where it says it went.
        seen: SocketAddr,
    },
}

/// A listener for the test.
pub fn listener(netns: &NetNs, ipv6: bool) -> Result<Socket, SelfTestError> {
    let make = || -> io::Result<Socket> {
        let (domain, address): (_, IpAddr) = if ipv6 {
            (Domain::IPV6, Ipv6Addr::LOCALHOST.into())
        } else {
            (Domain::IPV4, Ipv4Addr::LOCALHOST.into())
        };
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), None)?;
        set_transparent(&socket, domain)?;
        socket.bind(&SocketAddr::new(address, 0).into())?;
        socket.listen(1)?;
        Ok(socket)
    };
    netns
        .run(make)
        .and_then(|inner| inner)
        .map_err(|e| SelfTestError::Socket("opening a listener", e))
}

/// Connects as a process of the pod would, and waits for the connection at `listener`.
pub fn run(netns: &NetNs, listener: &Socket, ipv6: bool) -> Result<(), SelfTestError> {
    let wanted = SocketAddr::new(address(ipv6), PORT);
    let open = || -> io::Result<Socket> {
        let domain = Domain::for_address(wanted);
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), None)?;
        // The programs of an agent that is gone refuse what the pod opens, but not this.
        socket.set_mark(PROXY_MARK)?;
        Ok(socket)
    };
    let client = netns
        .run(open)
        .and_then(|inner| inner)
        .map_err(|e| SelfTestError::Socket("opening a client", e))?;
    match client.connect(&SockAddr::from(wanted)) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(e) => return Err(SelfTestError::Lost(wanted, e)),
    }
    wait(listener).map_err(|e| SelfTestError::Lost(wanted, e))?;
    let (accepted, _) = listener
        .accept()
        .map_err(|e| SelfTestError::Lost(wanted, e))?;
    let seen = original_destination(&accepted)
        .map_err(|e| SelfTestError::Socket("asking for the destination", e))?;
    if seen == wanted {
        Ok(())
    } else {
        Err(SelfTestError::Changed { wanted, seen })
    }
}

fn address(ipv6: bool) -> IpAddr {
    // The ABI has them as the kernel's words; these are the same addresses.
    if ipv6 {
        Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 8).into()
    } else {
        Ipv4Addr::new(192, 0, 0, 8).into()
    }
}

fn wait(listener: &Socket) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut wanted = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wanted, timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_ebpf::abi::{Address, TEST_ADDRESS4, TEST_ADDRESS6};

    #[test]
    fn the_addresses_are_those_of_the_programs() {
        assert_eq!(Address::from(address(false)), TEST_ADDRESS4);
        assert_eq!(Address::from(address(true)), TEST_ADDRESS6);
    }
}
