//! Messages with a file descriptor beside them, over unix sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// Sends a message as a whole, with a descriptor beside it, and says that nothing more comes.
pub fn send(stream: &UnixStream, message: &[u8], descriptor: Option<&impl AsFd>) -> io::Result<()> {
    let descriptors: Vec<_> = descriptor
        .iter()
        .map(|descriptor| descriptor.as_fd().as_raw_fd())
        .collect();
    let beside = [ControlMessage::ScmRights(&descriptors)];
    let beside = if descriptors.is_empty() {
        &[][..]
    } else {
        &beside
    };
    let parts = [IoSlice::new(message)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<UnixAddr>(stream.as_raw_fd(), &parts, beside, flags, None)?;
    if let Some(rest) = message.get(sent..) {
        io::Write::write_all(&mut &*stream, rest)?;
    }
    stream.shutdown(std::net::Shutdown::Write)
}

/// Receives a message of at most `limit` bytes up to its end, and the descriptor that came beside it. More descriptors than
/// one are closed.
#[expect(unsafe_code, reason = "nix hands descriptors over as numbers")]
pub fn receive(stream: &UnixStream, limit: usize) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut message = vec![0; limit];
    let mut length = 0;
    let mut descriptor = None;
    loop {
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 4]);
        let mut parts = [IoSliceMut::new(&mut message[length..])];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received =
            recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        for beside in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = beside {
                for number in descriptors {
                    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
                    let owned = unsafe { OwnedFd::from_raw_fd(number) };
                    descriptor.get_or_insert(owned);
                }
            }
        }
        let bytes = received.bytes;
        length += bytes;
        if bytes == 0 {
            message.truncate(length);
            return Ok((message, descriptor));
        }
        if length == limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message has more than {limit} bytes"),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptor() {
        let (here, there) = UnixStream::pair().expect("a pair");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "inside").expect("written");
        let opened = File::open(file.path()).expect("opened");
        send(&here, b"hello", Some(&opened)).expect("sent");
        let (message, descriptor) = receive(&there, 100).expect("received");
        assert_eq!(message, b"hello");
        let mut text = String::new();
        let mut file = File::from(descriptor.expect("a descriptor"));
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "inside");
    }

    #[test]
    fn a_message_that_is_too_long_is_an_error() {
        let (here, there) = UnixStream::pair().expect("a pair");
        send(&here, &[0; 100], None::<&File>).expect("sent");
        assert!(receive(&there, 100).is_err());
        let (here, there) = UnixStream::pair().expect("a pair");
        send(&here, &[0; 99], None::<&File>).expect("sent");
        let (message, descriptor) = receive(&there, 100).expect("received");
        assert_eq!((message.len(), descriptor.is_none()), (99, true));
    }
}
