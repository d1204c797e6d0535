//! Sockets inside a pod's network namespace: the listeners that steered connections arrive at, the connections that
//! the proxy opens on the pod's behalf, and where an accepted connection was headed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use mesh_ebpf::abi::{AGENT_MARK, FAST_MARK, FAST_PRIORITY};

use crate::intercept::{ListenSpec, PodListeners};
use crate::netns::NetNs;

/// The mark on every connection that the proxy opens, so that the connect hooks let it pass. Istio's ambient mode uses
/// the same number.
pub const PROXY_MARK: u32 = 0x539;

/// The mark on a connection from the proxy to the app that bears the client's own address. A policy route keeps both
/// directions of it on the loopback device.
pub const PRESERVE_MARK: u32 = 0x111;

/// Where the proxy serves its own pod from, as Istio's sidecar does.
pub const SIDECAR4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// The same over IPv6. Unlike 127/8 it does not exist by itself.
pub const SIDECAR6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// User and group that the proxy's sockets belong to, as the nat chains expect.
pub const PROXY_ID: u32 = 1337;

/// From which address the proxy connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The pod's, as routing has it.
    Pod,
    /// 127.0.0.6 or ::6: the proxy serving its own pod.
    Sidecar,
    /// The address of the client that is being served.
    Client(IpAddr),
}

/// Which way the bytes of a connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By TCP.
    Anywhere,
    /// The server is an application of this node and is spoken to in HTTP without TLS: in the eBPF mode they may do without
    /// TCP where applications take part in that.
    Application,
    /// The agent itself accepts the connection, for another pod of this node: in the eBPF mode nobody needs TCP.
    Agent,
}

/// Opens the listeners of a pod.
pub fn listen(netns: &NetNs, spec: ListenSpec) -> io::Result<PodListeners> {
    netns.run(|| {
        let v4 = |port| listener(Domain::IPV4, port, spec.transparent);
        let v6 = |port| match listener(Domain::IPV6, port, spec.transparent) {
            Ok(listener) => Ok(Some(listener)),
            // The namespace has no IPv6, or it is switched off there.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        };
        let listeners = PodListeners {
            outbound4: v4(spec.outbound_port)?,
            outbound6: v6(spec.outbound_port)?,
            inbound4: v4(spec.inbound_port)?,
            inbound6: v6(spec.inbound_port)?,
        };
        if spec.transparent {
            // What they accept inherits it.
            SockRef::from(&listeners.inbound4).set_mark(AGENT_MARK)?;
            if let Some(inbound6) = &listeners.inbound6 {
                SockRef::from(inbound6).set_mark(AGENT_MARK)?;
            }
        }
        Ok(listeners)
    })?
}

/// A non-blocking socket that is ready to `connect` to `destination` from inside `netns`, exempt from steering.
pub fn upstream(
    netns: &NetNs,
    destination: SocketAddr,
    source: Source,
    reach: Reach,
) -> io::Result<Socket> {
    let fast = match reach {
        Reach::Anywhere => 0,
        Reach::Application => FAST_MARK,
        Reach::Agent => AGENT_MARK,
    };
    netns.run(|| {
        let domain = Domain::for_address(destination);
        // A connection with the client's address is not the proxy's own in the chains' eyes: for user 1337 they would
        // send it round to the inbound listener again.
        let socket = match source {
            Source::Client(_) => {
                Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?
            }
            Source::Pod | Source::Sidecar => {
                as_proxy(|| Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP)))?
            }
        };
        socket.set_tcp_nodelay(true)?;
        match source {
            Source::Pod => socket.set_mark(PROXY_MARK | fast)?,
            Source::Sidecar => {
                socket.set_mark(PROXY_MARK | fast)?;
                let address = match destination {
                    SocketAddr::V4(_) => IpAddr::V4(SIDECAR4),
                    SocketAddr::V6(_) => IpAddr::V6(SIDECAR6),
                };
                bind_address(&socket, address)?;
            }
            Source::Client(address) => {
                socket.set_mark(PRESERVE_MARK | fast)?;
                // An address of the pod's own can be had without more: the pod calls itself. The answers to it seem to
                // come in on the interface that has the address, so a socket bound to another would not get them.
                if bind_address(&socket, address).is_err() {
                    socket.bind_device(Some(b"lo"))?;
                    set_transparent(&socket, domain)?;
                    bind_address(&socket, address)?;
                }
            }
        }
        Ok(socket)
    })?
}

/// Which address the proxy's connections to `destination` would have inside `netns`, as the routes there say. Nothing is
/// sent.
pub fn source_towards(netns: &NetNs, destination: SocketAddr) -> io::Result<IpAddr> {
    netns.run(|| {
        let domain = Domain::for_address(destination);
        let socket = as_proxy(|| Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)))?;
        socket.set_mark(PROXY_MARK)?;
        own_towards(&socket, destination)
    })?
}

/// Which address other processes' connections to `destination` have in the namespace of the calling thread.
pub fn others_source_towards(destination: SocketAddr) -> io::Result<IpAddr> {
    let domain = Domain::for_address(destination);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    own_towards(&socket, destination)
}

/// The address that the routes give a socket of UDP. Nothing is sent.
fn own_towards(socket: &Socket, destination: SocketAddr) -> io::Result<IpAddr> {
    socket.connect(&destination.into())?;
    let own = socket.local_addr()?.as_socket();
    let own = own.ok_or_else(|| io::Error::other("not an IP socket"))?;
    Ok(own.ip().to_canonical())
}

/// Lets what is written to an accepted connection take the short way to an application of this node, in the eBPF mode: it
/// speaks HTTP.
pub fn permit_fast_path(accepted: impl AsFd) -> io::Result<()> {
    set_option(
        accepted.as_fd(),
        libc::SOL_SOCKET,
        libc::SO_PRIORITY,
        FAST_PRIORITY as libc::c_int,
    )
}

/// Whether `splice` sees all that comes on a connection: not where the other end may hand bytes over.
pub fn splice_sees(stream: impl AsFd) -> bool {
    // The kernel's answer is final once the connection is open; one that says something else by it is copied.
    getsockopt(&stream, sockopt::Priority).is_ok_and(|priority| priority == 0)
}

/// Where an accepted connection was headed: what conntrack remembers (iptables mode), otherwise the socket's own
/// address, which the eBPF mode leaves as the client wrote it. IPv4 addresses in IPv6 clothes are undressed.
pub fn original_destination(accepted: impl AsFd) -> io::Result<SocketAddr> {
    let socket = SockRef::from(&accepted);
    let from_conntrack = socket
        .original_dst_v4()
        .ok()
        .or_else(|| socket.original_dst_v6().ok());
    let address = match from_conntrack {
        Some(address) => address,
        None => socket.local_addr()?,
    };
    let address = address
        .as_socket()
        .ok_or_else(|| io::Error::other("not an IP socket"))?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn listener(domain: Domain, port: u16, transparent: bool) -> io::Result<TcpListener> {
    let socket = as_proxy(|| Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP)))?;
    socket.set_reuse_address(true)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    let address: IpAddr = match (domain == Domain::IPV6, transparent) {
        (false, true) => Ipv4Addr::LOCALHOST.into(),
        (false, false) => Ipv4Addr::UNSPECIFIED.into(),
        (true, true) => Ipv6Addr::LOCALHOST.into(),
        (true, false) => Ipv6Addr::UNSPECIFIED.into(),
    };
    if transparent {
        set_transparent(&socket, domain)?;
    }
    socket.bind(&SocketAddr::new(address, port).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Binds to an address and leaves the port to `connect`, so that one port can serve many destinations.
fn bind_address(socket: &Socket, address: IpAddr) -> io::Result<()> {
    set_flag(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT)?;
    socket.bind(&SocketAddr::new(address, 0).into())
}

/// Lets a socket have addresses that are not this machine's.
pub(crate) fn set_transparent(socket: &Socket, domain: Domain) -> io::Result<()> {
    if domain == Domain::IPV6 {
        set_flag(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT)
    } else {
        socket.set_ip_transparent_v4(true)
    }
}

fn set_flag(socket: &Socket, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    set_option(socket.as_fd(), level, option, 1)
}

#[expect(unsafe_code, reason = "socket2 has no setter for these options")]
fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the option reads one int from `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether this process can make sockets that are the proxy's in the chains' eyes. Where it cannot, its connections would be
/// sent back to it without end: to change the user takes `CAP_SETUID` and `CAP_SETGID`, and the kernel says nothing.
pub fn makes_sockets_of_the_proxy() -> io::Result<bool> {
    let make = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    // What `fstat` tells is fixed at `socket()` too.
    let file = nix::sys::stat::fstat(as_proxy(make)?)?;
    Ok((file.st_uid, file.st_gid) == (PROXY_ID, PROXY_ID))
}

/// Runs `create` with the thread's file-system user and group set to the proxy's: what `xt_owner` compares is the
/// owner of the socket's file, fixed at `socket()`.
fn as_proxy<T>(create: impl FnOnce() -> T) -> T {
    use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
    struct Restore(Uid, Gid);
    impl Drop for Restore {
        fn drop(&mut self) {
            setfsuid(self.0);
            setfsgid(self.1);
        }
    }
    // The group first: without root as its file-system user the thread may no longer change it.
    let group = setfsgid(Gid::from_raw(PROXY_ID));
    let _restore = Restore(setfsuid(Uid::from_raw(PROXY_ID)), group);
    create()
}
