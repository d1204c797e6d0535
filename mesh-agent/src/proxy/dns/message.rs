//! Questions and answers on the wire (RFC 1035, 4), as far as addresses need them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Which kind of address is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    A,
    Aaaa,
}

/// A question, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) bytes: Vec<u8>,
    kind: Kind,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The name stands for these, or for nothing of that kind. How long that holds, where there is any.
    Addresses(Vec<IpAddr>, Option<Duration>),
    /// There is no such name.
    NoSuchName,
    /// The answer did not fit.
    Truncated,
    /// The server cannot or will not say.
    Failed(u8),
}

/// What was received is no answer to the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoReply;

const HEADER: usize = 12;
const CLASS_IN: u16 = 1;
const CNAME: u16 = 5;

impl Kind {
    fn code(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
        }
    }
}

impl Question {
    /// Asks for a name without its last dot. `None` where no such name can be.
    pub(super) fn new(id: u16, name: &str, kind: Kind) -> Option<Self> {
        let mut bytes = Vec::with_capacity(HEADER + name.len() + 6);
        bytes.extend_from_slice(&id.to_be_bytes());
        // Somebody else is to do the searching.
        bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        if name.len() > 253 {
            return None;
        }
        for label in name.split('.') {
            let length = u8::try_from(label.len()).ok()?;
            if !(1..=63).contains(&length) || !label.is_ascii() {
                return None;
            }
            bytes.push(length);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend_from_slice(&kind.code().to_be_bytes());
        bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
        Some(Self { bytes, kind })
    }

    /// Reads the answer. Whose name each record bears is not looked at: a server that searches for us answers with the
    /// way to the address and the address.
    pub(super) fn read(&self, bytes: &[u8]) -> Result<Reply, NoReply> {
        let mut reader = Reader { bytes, at: 0 };
        let (id, flags) = (reader.u16()?, reader.u16()?);
        let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        let asked = reader.take(self.bytes.len() - HEADER)?;
        let own = id.to_be_bytes() == self.bytes[..2] && flags & 0x8000 != 0 && counts[0] == 1;
        if !own || !asked.eq_ignore_ascii_case(&self.bytes[HEADER..]) {
            return Err(NoReply);
        }
        match flags & 0xf {
            0 => {}
            3 => return Ok(Reply::NoSuchName),
            // It cannot be more than four bits.
            code => return Ok(Reply::Failed(code as u8)),
        }
        if flags & 0x0200 != 0 {
            return Ok(Reply::Truncated);
        }
        let (mut addresses, mut ttl) = (Vec::new(), None);
        for _ in 0..counts[1] {
            reader.name()?;
            let (kind, class) = (reader.u16()?, reader.u16()?);
            let holds = reader.u32()?;
            let length = reader.u16()?;
            let data = reader.take(usize::from(length))?;
            let address = match (kind, class == CLASS_IN) {
                (kind, true) if kind == self.kind.code() => address(data).ok_or(NoReply)?,
                (CNAME, true) => {
                    ttl = shorter(ttl, holds);
                    continue;
                }
                _ => continue,
            };
            ttl = shorter(ttl, holds);
            addresses.push(address);
        }
        Ok(Reply::Addresses(addresses, ttl))
    }
}

fn address(data: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(data) {
        return Some(IpAddr::V4(Ipv4Addr::from(v4)));
    }
    let v6 = <[u8; 16]>::try_from(data).ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(v6)))
}

/// The highest bit makes no sense, and is none (RFC 2181, 8).
fn shorter(ttl: Option<Duration>, seconds: u32) -> Option<Duration> {
    let seconds = if seconds >> 31 == 1 { 0 } else { seconds };
    let holds = Duration::from_secs(u64::from(seconds));
    Some(ttl.map_or(holds, |ttl| ttl.min(holds)))
}

/// Walks through a message and never beyond its end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], NoReply> {
        let end = self.at.checked_add(length).ok_or(NoReply)?;
        let taken = self.bytes.get(self.at..end).ok_or(NoReply)?;
        self.at = end;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, NoReply> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, NoReply> {
        let (high, low) = (self.u16()?, self.u16()?);
        Ok(u32::from(high) << 16 | u32::from(low))
    }

    /// Passes a name over, without following where it points.
    fn name(&mut self) -> Result<(), NoReply> {
        loop {
            match self.take(1)?[0] {
                0 => return Ok(()),
                pointer @ 0xc0.. => {
                    let _ = pointer;
                    self.take(1)?;
                    return Ok(());
                }
                length @ ..0x40 => {
                    self.take(usize::from(length))?;
                }
                _ => return Err(NoReply),
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer to a question, with records of `(type, ttl, data)`.
    pub(in crate::proxy) fn answer(
        question: &[u8],
        code: u8,
        records: &[(u16, u32, Vec<u8>)],
    ) -> Vec<u8> {
        let mut bytes = question.to_vec();
        bytes[2] = 0x81;
        bytes[3] = 0x80 | code;
        bytes[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        for (kind, ttl, data) in records {
            bytes.extend_from_slice(&[0xc0, 12]);
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
            bytes.extend_from_slice(&ttl.to_be_bytes());
            bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
            bytes.extend_from_slice(data);
        }
        bytes
    }

    fn ask(kind: Kind) -> Question {
        Question::new(0x1234, "web.example", kind).unwrap()
    }

    #[test]
    fn asks() {
        let expected = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x07example\x00\x00\x1c\x00\x01";
        assert_eq!(ask(Kind::Aaaa).bytes, expected);
        let long = "a.".repeat(127);
        for name in ["", ".", "a..b", ".a", "ä", &"x".repeat(64), &long] {
            assert_eq!(Question::new(1, name, Kind::A), None, "{name}");
        }
        assert!(Question::new(1, &"x".repeat(63), Kind::A).is_some());
    }

    #[test]
    fn reads_addresses() {
        let question = ask(Kind::A);
        let check = |code, records: &[(u16, u32, Vec<u8>)], expected| {
            let answer = answer(&question.bytes, code, records);
            assert_eq!(question.read(&answer), expected, "{records:?}");
        };
        let addresses = |list: &[&str], ttl: Option<u64>| {
            let list = list.iter().map(|at| at.parse().unwrap()).collect();
            Ok(Reply::Addresses(list, ttl.map(Duration::from_secs)))
        };
        check(0, &[], addresses(&[], None));
        check(
            0,
            &[(1, 60, vec![10, 0, 0, 1])],
            addresses(&["10.0.0.1"], Some(60)),
        );
        check(
            0,
            &[
                (CNAME, 5, b"\x05other\xc0\x10".to_vec()),
                (1, 60, vec![10, 0, 0, 2]),
                (1, 60, vec![10, 0, 0, 1]),
                (46, 1, vec![0; 40]),
            ],
            addresses(&["10.0.0.2", "10.0.0.1"], Some(5)),
        );
        check(0, &[(28, 60, vec![0; 16])], addresses(&[], None));
        check(
            0,
            &[(1, u32::MAX, vec![1; 4])],
            addresses(&["1.1.1.1"], Some(0)),
        );
        check(0, &[(1, 60, vec![1; 5])], Err(NoReply));
        check(3, &[], Ok(Reply::NoSuchName));
        check(2, &[], Ok(Reply::Failed(2)));
        let six = ask(Kind::Aaaa);
        let bytes = answer(&six.bytes, 0, &[(28, 9, vec![0xfd; 16])]);
        assert_eq!(
            six.read(&bytes),
            addresses(&["fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd"], Some(9))
        );
    }

    #[test]
    fn knows_its_own_answers() {
        let question = ask(Kind::A);
        let good = answer(&question.bytes, 0, &[(1, 60, vec![10, 0, 0, 1])]);
        assert!(question.read(&good).is_ok());
        let mut truncated = good.clone();
        truncated[2] |= 2;
        assert_eq!(question.read(&truncated), Ok(Reply::Truncated));
        for at in [0, 1, 5, 14, 25] {
            let mut other = good.clone();
            other[at] ^= 1;
            assert_eq!(question.read(&other), Err(NoReply), "{at}");
        }
        assert_eq!(question.read(&question.bytes), Err(NoReply));
        for length in 0..good.len() {
            assert_eq!(question.read(&good[..length]), Err(NoReply), "{length}");
        }
    }

    proptest! {
        #[test]
        fn takes_whatever_comes(mut bytes in prop::collection::vec(any::<u8>(), 0..600), own: bool) {
            let question = ask(Kind::A);
            if own {
                let mut whole = question.bytes.clone();
                whole[2] = 0x80;
                whole[7] = 200;
                whole.append(&mut bytes);
                bytes = whole;
            }
            if let Ok(Reply::Addresses(addresses, _)) = question.read(&bytes) {
                prop_assert!(addresses.len() <= 200);
            }
        }
    }
}
