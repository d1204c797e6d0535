//! Asks the servers: over UDP, and over TCP where the answer is too long for that.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::proxy::dns::conf::Conf;
use crate::proxy::dns::message::{Kind, Question, Reply};

/// What a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    pub(super) v4: Vec<Ipv4Addr>,
    pub(super) v6: Vec<Ipv6Addr>,
    /// How long that holds, where somebody has said so.
    pub(super) ttl: Option<Duration>,
}

/// Why nothing is known of a name.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No name looks like that.
    #[error("it is no DNS name")]
    Name,
    /// A server cannot say.
    #[error("{server} answers with code {code}")]
    Server {
        /// Which one.
        server: SocketAddr,
        /// `RCODE`.
        code: u8,
    },
    /// A server cannot be asked.
    #[error("asking {server}")]
    Io {
        /// Which one.
        server: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Nobody has answered.
    #[error("no server answers in time")]
    Silence,
}

impl Looked {
    pub(super) fn add(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.v4.push(address),
            IpAddr::V6(address) => self.v6.push(address),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// Looks a name up. An empty answer is one: the servers say that there is nothing.
pub(super) async fn look_up(conf: &Conf, name: &str) -> Result<Looked, Error> {
    let mut failed = None;
    for candidate in conf.candidates(name) {
        let (v4, v6) = tokio::join!(
            ask_all(conf, &candidate, Kind::A),
            ask_all(conf, &candidate, Kind::Aaaa),
        );
        let mut looked = Looked::default();
        for answer in [v4, v6] {
            match answer {
                Ok((addresses, ttl)) => {
                    addresses.into_iter().for_each(|at| looked.add(at));
                    looked.ttl = looked.ttl.into_iter().chain(ttl).min();
                }
                // A name that is no name may become one with a domain behind it.
                Err(error) => failed = Some(error),
            }
        }
        // Half an answer is better than none.
        if !looked.is_empty() {
            return Ok(looked);
        }
    }
    failed.map_or(Ok(Looked::default()), Err)
}

/// Asks one server after the other.
async fn ask_all(
    conf: &Conf,
    name: &str,
    kind: Kind,
) -> Result<(Vec<IpAddr>, Option<Duration>), Error> {
    let mut last = Error::Silence;
    for _ in 0..conf.attempts {
        for server in &conf.servers {
            let question = Question::new(fastrand::u16(..), name, kind).ok_or(Error::Name)?;
            let asked = timeout(conf.timeout, ask(*server, &question)).await;
            match asked {
                Ok(Ok(Reply::Addresses(addresses, ttl))) => return Ok((addresses, ttl)),
                Ok(Ok(Reply::NoSuchName)) => return Ok((Vec::new(), None)),
                Ok(Ok(Reply::Failed(code))) => {
                    last = Error::Server {
                        server: *server,
                        code,
                    };
                }
                Ok(Err(source)) => {
                    last = Error::Io {
                        server: *server,
                        source,
                    };
                }
                Ok(Ok(Reply::Truncated)) | Err(_) => {}
            }
        }
    }
    Err(last)
}

async fn ask(server: SocketAddr, question: &Question) -> io::Result<Reply> {
    match ask_udp(server, question).await? {
        Reply::Truncated => ask_tcp(server, question).await,
        reply => Ok(reply),
    }
}

/// A socket for each question: its port is one more thing that a forger would have to guess.
async fn ask_udp(server: SocketAddr, question: &Question) -> io::Result<Reply> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&question.bytes).await?;
    let mut space = vec![0; 4096];
    loop {
        let length = socket.recv(&mut space).await?;
        // Anything else is not for us.
        if let Ok(reply) = question.read(&space[..length]) {
            return Ok(reply);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &Question) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = Vec::with_capacity(question.bytes.len() + 2);
    // A name has no more than 255 bytes.
    framed.extend_from_slice(&(question.bytes.len() as u16).to_be_bytes());
    framed.extend_from_slice(&question.bytes);
    stream.write_all(&framed).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    let reply = question.read(&answer);
    reply.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "no answer to what was asked"))
}
