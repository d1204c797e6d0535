//! A blocking conversation with the kernel's routing tables, in the namespace that the socket was made in.

use std::io;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::NetNs;

/// The kernel answers at once; a longer silence is a fault that should not hang the agent.
const PATIENCE: Duration = Duration::from_secs(5);

/// The kernel never puts more than this into one read of a dump.
const BUFFER: usize = 64 * 1024;

/// A netlink socket of the family `NETLINK_ROUTE`.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens one in `netns`.
    pub fn open(netns: &NetNs) -> io::Result<Self> {
        let socket = netns.run(|| {
            Socket::new(
                Domain::from(libc::AF_NETLINK),
                Type::RAW,
                Some(Protocol::from(libc::NETLINK_ROUTE)),
            )
        })??;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Asks for a change and waits for the kernel's word on it.
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)?;
        self.receive(|_| {})
    }

    /// Asks for a table and returns what is in it.
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_DUMP)?;
        let mut entries = Vec::new();
        self.receive(|entry| entries.push(entry))?;
        Ok(entries)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes)?;
        Ok(())
    }

    /// Reads until the answer to the last request is complete.
    fn receive(&mut self, mut entry: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = io::Read::read(&mut &self.socket, &mut buffer)?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                let packet = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(io::Error::other)?;
                let consumed = (packet.header.length as usize).next_multiple_of(4);
                rest = rest.get(consumed.max(16)..).unwrap_or_default();
                if packet.header.sequence_number != self.sequence {
                    continue;
                }
                match packet.payload {
                    NetlinkPayload::InnerMessage(message) => entry(message),
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(()),
                            Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}
