//! Pipes that carry bytes from one connection to another without a copy: the kernel hands on the pages that they lie in.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// How much a pipe is asked to hold: what any user may ask for, by default (`fs.pipe-max-size`).
const WANTED: usize = 1024 * 1024;

/// A pipe that holds less is no gain. A user who has many is given such ones (`fs.pipe-user-pages-soft`).
const LEAST: usize = 64 * 1024;

/// A pipe, and how much is in it.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    capacity: usize,
    held: usize,
}

impl Pipe {
    /// Makes one, as large as this user may have. Fails where that is too small to be of use.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Whoever may not have a larger one keeps what it is.
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(WANTED as libc::c_int));
        let capacity = usize::try_from(fcntl(&writer, FcntlArg::F_GETPIPE_SZ)?).unwrap_or(0);
        if capacity < LEAST {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Self {
            reader,
            writer,
            capacity,
            held: 0,
        })
    }

    /// How much is in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes what has come on a connection, as much as there is room for. The pipe must be empty: what would block is then
    /// the connection. 0 is the end of the stream, or urgent data that the kernel stops before.
    pub fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "filling is for empty pipes");
        self.held = splice(from, None, &self.writer, None, self.capacity, flags())?;
        Ok(self.held)
    }

    /// Sends what is in it on a connection, as much as that takes. There must be something.
    pub fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        debug_assert_ne!(self.held, 0, "an empty pipe blocks");
        let sent = splice(&self.reader, None, to, None, self.held, flags())?;
        self.held = self.held.saturating_sub(sent);
        Ok(sent)
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let other = listener.accept().unwrap().0;
        for end in [&one, &other] {
            end.set_nonblocking(true).unwrap();
        }
        (one, other)
    }

    #[test]
    fn carries_bytes_and_says_what_blocks() {
        let ((mut client, from), (to, mut server)) = (pair(), pair());
        let mut pipe = Pipe::new().unwrap();
        let empty = pipe.fill(&from).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"hello").unwrap();
        assert_eq!((pipe.fill(&from).unwrap(), pipe.held()), (5, 5));
        assert_eq!((pipe.drain(&to).unwrap(), pipe.held()), (5, 0));
        let mut heard = [0; 9];
        assert_eq!(server.read(&mut heard).unwrap(), 5);
        assert_eq!(&heard[..5], b"hello");
        drop(client);
        assert_eq!(pipe.fill(&from).unwrap(), 0);
    }
}
