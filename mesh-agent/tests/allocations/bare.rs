//! The least that a proxy on hyper can do: a server's connection whose requests go out on one client's connection.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};

/// Serves clients on a thread of its own.
pub fn start(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("a setting");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        LocalSet::new().block_on(&runtime, async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            loop {
                let (client, _) = listener.accept().await.expect("a client");
                spawn_local(serve(client, server));
            }
        });
    });
    address
}

async fn serve(client: TcpStream, server: SocketAddr) {
    let upstream = TcpStream::connect(server).await.expect("a server");
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(upstream))
        .await
        .expect("a connection");
    spawn_local(connection.with_upgrades());
    let sender = Rc::new(RefCell::new(sender));
    let service = service_fn(move |request| pass(Rc::clone(&sender), request));
    let server = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .max_buf_size(64 * 1024)
        .max_headers(100)
        .serve_connection(TokioIo::new(client), service)
        .with_upgrades();
    // Ends with the client's connection.
    let _ = server.await;
}

async fn pass(
    sender: Rc<RefCell<SendRequest<Incoming>>>,
    request: Request<Incoming>,
) -> Result<Response<Incoming>, Infallible> {
    let sent = sender.borrow_mut().try_send_request(request);
    Ok(sent.await.expect("a response"))
}
