//! Servers inside pods: real sockets, a thread for each connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::Pod;
use serde_json::json;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::sync::oneshot;

/// No connection of a test may keep a thread for longer than this.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A listener and the thread that accepts from it; dropping it closes the listener.
#[must_use = "the server stops when this is dropped"]
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
    /// How the connections that it served ended, in the order in which they did.
    endings: Arc<Mutex<Vec<String>>>,
}

/// What serves asynchronously, on a thread of its own until it is dropped.
#[must_use = "the server stops when this is dropped"]
#[derive(Debug)]
pub struct Background {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Runs what `serve` makes, and what that spawns.
    pub fn start<F>(serve: impl FnOnce() -> F + Send + 'static) -> Result<Self>
    where
        F: Future<Output = ()>,
    {
        let runtime = runtime()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve() => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A runtime of the calling thread.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime")
}

impl Server {
    /// Listens on `address` inside `pod`; on `[::]` for both families. What `serve` returns is kept in `endings`.
    pub fn start<S>(pod: &Pod, address: SocketAddr, serve: S) -> Result<Self>
    where
        S: Fn(TcpStream) -> io::Result<String> + Send + Sync + 'static,
    {
        Self::prepared(pod, address, |_| Ok(()), serve)
    }

    /// The same, with a listening socket that `prepare` has seen before it was bound.
    pub fn prepared<S>(
        pod: &Pod,
        address: SocketAddr,
        prepare: fn(&Socket) -> io::Result<()>,
        serve: S,
    ) -> Result<Self>
    where
        S: Fn(TcpStream) -> io::Result<String> + Send + Sync + 'static,
    {
        let listener = pod
            .run(|| listen(address, prepare))?
            .with_context(|| format!("listening on {address} in {}", pod.name))?;
        let endings = Arc::new(Mutex::new(Vec::new()));
        let accepting = {
            let listener = listener.try_clone().context("duplicating a listener")?;
            let endings = Arc::clone(&endings);
            std::thread::spawn(move || accept(&listener, &Arc::new(serve), &endings))
        };
        Ok(Self {
            listener,
            accepting: Some(accepting),
            endings,
        })
    }

    /// Answers the first line of a connection with who it is and what it sees, then echoes until the end.
    pub fn echo(pod: &Pod, who: &'static str, port: u16) -> Result<Self> {
        Self::start(pod, any(port), move |stream| echo(stream, who))
    }

    /// How its connections ended so far.
    pub fn endings(&self) -> Vec<String> {
        self.endings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // On a listener this wakes `accept` with an error; it has no other way to end.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

/// Every address of both families.
pub fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from([0u16; 8]), port)
}

/// What an echo server tells about a connection, in one line of JSON.
pub fn introduction(stream: &TcpStream, who: &str) -> io::Result<String> {
    let canonical = |address: SocketAddr| {
        SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
    };
    Ok(json!({
        "who": who,
        "local": canonical(stream.local_addr()?),
        "peer": canonical(stream.peer_addr()?),
    })
    .to_string())
}

/// Reads a line, introduces itself, echoes; returns how the connection ended.
fn echo(stream: TcpStream, who: &str) -> io::Result<String> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok("fin".to_owned());
    }
    writeln!(writer, "{}", introduction(reader.get_ref(), who)?)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok("fin".to_owned()),
            n => writer.write_all(&buffer[..n])?,
        }
    }
}

/// Names the way a connection ended when reading from it failed.
pub fn ending(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "rst".to_owned(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "timeout".to_owned(),
        _ => error.to_string(),
    }
}

fn listen(address: SocketAddr, prepare: fn(&Socket) -> io::Result<()>) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn accept<S>(listener: &TcpListener, serve: &Arc<S>, endings: &Arc<Mutex<Vec<String>>>)
where
    S: Fn(TcpStream) -> io::Result<String> + Send + Sync + 'static,
{
    while let Ok((stream, _)) = listener.accept() {
        let (serve, endings) = (Arc::clone(serve), Arc::clone(endings));
        let thread = std::thread::Builder::new().stack_size(128 * 1024);
        let spawned = thread.spawn(move || {
            let result = stream
                .set_read_timeout(Some(PATIENCE))
                .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
                .and_then(|()| serve(stream));
            let ended = result.unwrap_or_else(|e| ending(&e));
            endings
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(ended);
        });
        if let Err(e) = spawned {
            eprintln!("a server could not start a thread: {e}");
        }
    }
}
