//! What kube-proxy does for a NodePort, for the demo: connections to the node's port reach the pod's.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context, Result};

/// Forwards what arrives on `port`, of IPv4 and IPv6, to `target` until it is killed.
pub fn run(port: u16, target: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(("::", port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
        .with_context(|| format!("cannot listen on port {port}"))?;
    for client in listener.incoming() {
        let client = client.context("cannot accept")?;
        thread::spawn(move || {
            // A side that goes away ends the other; there is nobody to tell.
            let _ = join(&client, target);
        });
    }
    Ok(())
}

fn join(client: &TcpStream, target: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| pass(client, &server));
        pass(&server, client);
    });
    Ok(())
}

/// Passes bytes on, and then the end of them: each direction closes on its own.
fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    if io::copy(&mut from, &mut to).is_err() {
        let _ = from.shutdown(Shutdown::Both);
    }
    let _ = to.shutdown(Shutdown::Write);
}
