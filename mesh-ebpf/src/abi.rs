//! Map keys and values, names and marks, shared by the kernel and the agent.
//!
//! Everything here is integers in a fixed order without padding, so that both sides see the same bytes. Whoever changes
//! a layout, a name or the meaning of a number changes [`ABI_VERSION`] and [`ABI_SYMBOL`] too.

/// The version of this contract. It is part of [`ABI_SYMBOL`] and of the path that the agent pins under.
pub const ABI_VERSION: u32 = 3;

/// A read-only global of the object that the agent sets to 1 at load. An object of another version lacks the symbol, so
/// it cannot be loaded by mistake; programs that nobody armed let everything pass.
pub const ABI_SYMBOL: &str = "MESH_ABI_3";
/// The read-only global with the pod that an instance of [`PROGRAM_LOOKUP`] serves.
pub const GLOBAL_POD: &str = "MESH_POD";
/// The read-only global that says what the kernel can do: a sum of `KERNEL_*`.
pub const GLOBAL_KERNEL: &str = "MESH_KERNEL";

/// `sk_lookup` shows the interface that a connection came in on (Linux 5.17).
pub const KERNEL_INGRESS: u32 = 1;
/// A connect hook can choose the error that the application sees (Linux 5.18).
pub const KERNEL_RETVAL: u32 = 2;
/// Connections within the node take the fast path: see [`crate::pair`].
pub const KERNEL_FAST_PATH: u32 = 4;
/// Also those that have an application at one end.
pub const KERNEL_FAST_APPLICATIONS: u32 = 8;
/// The sum of all `KERNEL_*`.
pub const KERNEL_ALL: u32 = 15;

/// Netns cookie → pod index.
pub const MAP_PODS: &str = "MESH_PODS";
/// Pod index → [`Policy`].
pub const MAP_POLICIES: &str = "MESH_POLICIES";
/// [`AddressKey`] → 1 for the pod's own addresses.
pub const MAP_ADDRESSES: &str = "MESH_ADDRESSES";
/// [`PortKey`] → a sum of `PORT_*`.
pub const MAP_PORTS: &str = "MESH_PORTS";
/// [`CidrKey`], longest prefix first → 1, or 0 for a route that is not excluded.
pub const MAP_CIDRS: &str = "MESH_CIDRS";
/// [`OwnerKey`] → 1 for users and groups that are the proxy's own.
pub const MAP_OWNERS: &str = "MESH_OWNERS";
/// [`InterfaceKey`] → a sum of `INTERFACE_*`.
pub const MAP_INTERFACES: &str = "MESH_INTERFACES";
/// [`slot`] → listening socket.
pub const MAP_LISTENERS: &str = "MESH_LISTENERS";
/// [`crate::decide::Reason`] → how often, per CPU.
pub const MAP_STATS: &str = "MESH_STATS";
/// [`leg_slot`] → socket, for the sockets of the fast path.
pub const MAP_LEGS: &str = "MESH_LEGS";
/// Pair → [`crate::pair::Pair`].
pub const MAP_PAIRS: &str = "MESH_PAIRS";
/// The pairs that nobody has, as a stack.
pub const MAP_FREE: &str = "MESH_FREE";
/// [`crate::pair::Handshake`] → [`crate::pair::Waiting`], from when one end is connected until the other is.
pub const MAP_WAITING: &str = "MESH_WAITING";
/// Pair → 1, from when one end is gone until the other is.
pub const MAP_GONE: &str = "MESH_GONE";
/// Socket → [`crate::pair::Leg`].
pub const MAP_LEG: &str = "MESH_LEG";
/// [`crate::pair::Tally`] → how much, per CPU.
pub const MAP_TALLY: &str = "MESH_TALLY";

/// The connect hook for `AF_INET` sockets.
pub const PROGRAM_CONNECT4: &str = "mesh_connect4";
/// The connect hook for `AF_INET6` sockets.
pub const PROGRAM_CONNECT6: &str = "mesh_connect6";
/// The socket lookup; one instance per pod.
pub const PROGRAM_LOOKUP: &str = "mesh_lookup";
/// Counts the connections that pods establish.
pub const PROGRAM_SOCK_OPS: &str = "mesh_sock_ops";
/// Hands what a socket of the fast path sends to the other end.
pub const PROGRAM_SEND: &str = "mesh_send";
/// Counts what a socket of the fast path has sent.
pub const PROGRAM_SENT: &str = "mesh_sent";
/// The tracepoint of the kernel that [`PROGRAM_SENT`] watches (Linux 6.3).
pub const TRACEPOINT_SENT: &str = "sock_send_length";
/// Counts what a socket of the fast path has read.
pub const PROGRAM_READ: &str = "mesh_read";
/// The tracepoint of the kernel that [`PROGRAM_READ`] watches (Linux 6.3).
pub const TRACEPOINT_READ: &str = "sock_recv_length";

/// How many pods fit into [`MAP_LISTENERS`].
pub const MAX_PODS: u32 = 1024;
/// How many connections can be on the fast path at a time; the others go by TCP.
pub const MAX_PAIRS: u32 = 32768;

/// The bit that a steered connection carries in its mark. It lies outside of the twelve bits that Istio looks at, and
/// of those that Kubernetes, Cilium and Calico use in the node's namespace; the application's other bits stay.
pub const CAPTURE_MARK: u32 = 0x1000_0000;
/// The mark of the proxy's own connections, within [`MARK_MASK`].
pub const PROXY_MARK: u32 = 0x539;
/// The mark of connections that the proxy opens with the client's address, within [`MARK_MASK`].
pub const PRESERVE_MARK: u32 = 0x111;
/// The bits of a mark that [`PROXY_MARK`] and [`PRESERVE_MARK`] are compared in.
pub const MARK_MASK: u32 = 0xfff;

/// The bit in the mark of a connection of the proxy's own that says: the server is an application of this node and is
/// spoken to in HTTP without TLS, so the fast path may be taken where applications take part.
pub const FAST_MARK: u32 = 0x2000_0000;
/// The bit in the mark of a connection of the proxy's own that says: the agent itself accepts it, for another pod of this
/// node. What the agent accepts for a pod bears it as well, for the listener does.
pub const AGENT_MARK: u32 = 0x4000_0000;
/// The `SO_PRIORITY` of an accepted connection that says the same of the client. The mark would do as well, but a change of
/// it has the kernel look for a route again.
pub const FAST_PRIORITY: u32 = 6;
/// The `SO_PRIORITY` that the kernel gives a socket of the proxy's own as it enters the fast path. The proxy needs to know:
/// `splice` does not see what is handed over. Device queues treat this one as they treat 0.
pub const LEG_PRIORITY: u32 = 8;

/// The inbound port that is never steered: Istio's tunnel.
pub const TUNNEL_PORT: u16 = 15008;
/// The loopback interface has this index in every network namespace.
pub const LOOPBACK_INTERFACE: u32 = 1;

/// Listener for what the pod opens, IPv4. Add 1 for IPv6.
pub const LISTENER_OUTBOUND: u32 = 0;
/// Listener for what is opened to the pod, IPv4. Add 1 for IPv6.
pub const LISTENER_INBOUND: u32 = 2;
/// Listener of a self-test under way, IPv4. Add 1 for IPv6.
pub const LISTENER_TEST: u32 = 4;
/// Slots per pod.
pub const LISTENERS_PER_POD: u32 = 6;

/// The address that self-tests connect to: RFC 7600's dummy address, which no route leads to.
pub const TEST_ADDRESS4: Address = Address::v4([192, 0, 0, 8]);
/// The same for IPv6, from RFC 6666's discard prefix.
pub const TEST_ADDRESS6: Address =
    Address::v6([0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x08]);

/// Connections that the pod opens are steered.
pub const POLICY_OUTBOUND: u32 = 1;
/// Connections to the pod are steered.
pub const POLICY_INBOUND: u32 = 1 << 1;
/// There are IPv6 listeners.
pub const POLICY_IPV6: u32 = 1 << 2;
/// Every outbound address is included.
pub const POLICY_ALL_OUTBOUND: u32 = 1 << 3;
/// Every inbound port is included, but for the excluded ones.
pub const POLICY_ALL_INBOUND: u32 = 1 << 4;
/// [`MAP_INTERFACES`] has entries for this pod.
pub const POLICY_INTERFACES: u32 = 1 << 5;
/// The pod's connections may take the fast path.
pub const POLICY_FAST_PATH: u32 = 1 << 6;

/// Refuse while the agent is gone.
pub const FAIL_REFUSE: u32 = 0;
/// Let pass while the agent is gone.
pub const FAIL_OPEN: u32 = 1;
/// Let wait while the agent is gone.
pub const FAIL_HOLD: u32 = 2;

/// The port is excluded.
pub const PORT_EXCLUDED: u32 = 1;
/// The port is included.
pub const PORT_INCLUDED: u32 = 2;
/// The node asks there whether the pod is well.
pub const PORT_PROBED: u32 = 4;

/// Neither direction is steered on the interface.
pub const INTERFACE_EXCLUDED: u32 = 1;
/// What enters here counts as outbound.
pub const INTERFACE_VIRTUAL: u32 = 2;

/// [`PortKey::direction`] of what the pod opens.
pub const OUTBOUND: u16 = 0;
/// [`PortKey::direction`] of what is opened to the pod.
pub const INBOUND: u16 = 1;

/// [`CidrKey::kind`]: an excluded IPv4 range. Add 1 for IPv6.
pub const CIDR_EXCLUDED: u32 = 0;
/// [`CidrKey::kind`]: an included IPv4 range. Add 1 for IPv6.
pub const CIDR_INCLUDED: u32 = 2;
/// [`CidrKey::kind`]: an IPv4 route; the value says whether it leaves by an excluded interface. Add 1 for IPv6.
pub const CIDR_ROUTE: u32 = 4;
/// [`CidrKey::kind`]: an IPv4 address of the node. Add 1 for IPv6.
pub const CIDR_PROBER: u32 = 6;
/// How many bits of a [`CidrKey`] stand before the address.
pub const CIDR_KEY_BITS: u32 = 64;

/// [`OwnerKey::kind`] of a user.
pub const OWNER_USER: u32 = 0;
/// [`OwnerKey::kind`] of a group.
pub const OWNER_GROUP: u32 = 1;

/// An IP address in network byte order, IPv4 as `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The sixteen bytes, as the kernel hands them out: four words whose bytes are in network order.
    pub words_be: [u32; 4],
}

/// How a pod is steered.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// A sum of `POLICY_*`.
    pub flags: u32,
    /// One of `FAIL_*`.
    pub on_agent_loss: u32,
}

/// An address of a pod. The index is part of the key: a pod that takes over the address of another is not it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressKey {
    /// Pod index.
    pub pod: u32,
    /// The address.
    pub address: Address,
}

/// A port with a rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortKey {
    /// Pod index.
    pub pod: u32,
    /// In host order.
    pub port: u16,
    /// [`OUTBOUND`] or [`INBOUND`].
    pub direction: u16,
}

/// The data of a key of the prefix trie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CidrKey {
    /// Pod index.
    pub pod: u32,
    /// `CIDR_*`, by family: a prefix of IPv6 must not match IPv4 in IPv6 clothes.
    pub kind: u32,
    /// The address.
    pub address: Address,
}

/// A user or group with a rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerKey {
    /// Pod index.
    pub pod: u32,
    /// [`OWNER_USER`] or [`OWNER_GROUP`].
    pub kind: u32,
    /// The number.
    pub id: u32,
}

/// An interface with a rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceKey {
    /// Pod index.
    pub pod: u32,
    /// Interface index in the pod's namespace.
    pub interface: u32,
}

const _: () = {
    assert!(size_of::<Address>() == 16);
    assert!(size_of::<Policy>() == 8);
    assert!(size_of::<AddressKey>() == 20);
    assert!(size_of::<PortKey>() == 8);
    assert!(size_of::<CidrKey>() == 24);
    assert!(size_of::<OwnerKey>() == 12);
    assert!(size_of::<InterfaceKey>() == 8);
};

/// Where a listener of a pod lies in [`MAP_LISTENERS`].
#[inline(always)]
pub const fn slot(pod: u32, listener: u32, ipv6: bool) -> u32 {
    pod * LISTENERS_PER_POD + listener + ipv6 as u32
}

/// Where a socket of a pair lies in [`MAP_LEGS`]: side 0 is the one that connected, side 1 the one that accepted.
#[inline(always)]
pub const fn leg_slot(pair: u32, side: u32) -> u32 {
    pair * 2 + side
}

// === impl Address ===

impl Address {
    /// From the bytes of an IPv4 address.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self::v4_be(u32::from_ne_bytes(bytes))
    }

    /// From an IPv4 address as the kernel hands it out.
    #[inline(always)]
    pub const fn v4_be(word_be: u32) -> Self {
        Self {
            words_be: [0, 0, 0xffff_u32.to_be(), word_be],
        }
    }

    /// From the bytes of an IPv6 address.
    pub const fn v6(b: [u8; 16]) -> Self {
        Self {
            words_be: [
                u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
                u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
                u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
                u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
            ],
        }
    }

    /// The sixteen bytes.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 16] {
        let [a, b, c, d] = self.words_be;
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.to_ne_bytes(), b.to_ne_bytes());
        let ([c0, c1, c2, c3], [d0, d1, d2, d3]) = (c.to_ne_bytes(), d.to_ne_bytes());
        [
            a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
        ]
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.words_be[0] == 0 && self.words_be[1] == 0 && self.words_be[2] == 0xffff_u32.to_be()
    }

    /// Whether it stays on the machine by itself: 127/8, `::1`, and the unspecified address, which `connect` takes for
    /// the loopback address.
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        let [a, b, c, d] = self.words_be;
        if self.is_v4() {
            u32::from_be(d) >> 24 == 127 || d == 0
        } else {
            a == 0 && b == 0 && c == 0 && u32::from_be(d) <= 1
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
mod host {
    use super::{Address, AddressKey, CidrKey, InterfaceKey, OwnerKey, Policy, PortKey};
    use crate::pair::{Handshake, Leg, Pair, Waiting};
    use core::net::IpAddr;

    impl From<IpAddr> for Address {
        fn from(address: IpAddr) -> Self {
            match address {
                IpAddr::V4(v4) => Self::v4(v4.octets()),
                IpAddr::V6(v6) => Self::v6(v6.octets()),
            }
        }
    }

    macro_rules! plain {
        ($($name:ty),+) => {$(
            #[expect(unsafe_code, reason = "aya asks for this promise before it copies a value to the kernel")]
            // SAFETY: the type is `repr(C)`, made of integers alone, and without padding (asserted by its size above).
            unsafe impl aya::Pod for $name {}
        )+};
    }
    plain!(
        Address,
        AddressKey,
        PortKey,
        CidrKey,
        OwnerKey,
        InterfaceKey,
        Policy,
        Handshake,
        Waiting,
        Leg,
        Pair
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    #[test]
    fn addresses_are_told_apart() {
        for (text, v4, loopback) in [
            ("127.0.0.1", true, true),
            ("127.255.255.255", true, true),
            ("128.0.0.1", true, false),
            ("0.0.0.0", true, true),
            ("1.0.0.127", true, false),
            ("::", false, true),
            ("::1", false, true),
            ("::2", false, false),
            ("::ffff:127.0.0.1", true, true),
            ("::ffff:0:127.0.0.1", false, false),
            ("1::1", false, false),
            ("7f00::", false, false),
        ] {
            let ip: IpAddr = text.parse().expect("an address");
            let address = Address::from(ip);
            assert_eq!(address.is_v4(), v4, "{text}");
            assert_eq!(address.is_loopback(), loopback, "{text}");
            let v6 = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            assert_eq!(address.bytes(), v6.octets());
        }
    }

    #[test]
    fn slots_do_not_overlap() {
        let last = slot(3, LISTENER_TEST, true);
        assert_eq!(last + 1, slot(4, LISTENER_OUTBOUND, false));
        assert_eq!(
            slot(MAX_PODS - 1, LISTENER_TEST, true) + 1,
            MAX_PODS * LISTENERS_PER_POD
        );
    }
}
