//! HTTP/2 on either side, and on both.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::fakes::*;
use crate::model::Protocol;

type AnyBody = BoxBody<Bytes, Infallible>;

/// An HTTP/2 server that answers with what it was asked, and a trailer.
struct Http2Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Http2Server {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service_fn(echo)),
                );
            }
        });
        Self {
            address,
            connections,
        }
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<AnyBody>, Infallible> {
    assert_eq!(request.version(), Version::HTTP_2);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let about = format!(
        "{} {} {:?}\n",
        request.method(),
        request.uri(),
        request.headers().get("host")
    );
    let connection = request.headers().contains_key("connection");
    let body = request.into_body().collect().await.unwrap();
    let sum = body.trailers().and_then(|t| t.get("x-sum")).cloned();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-out", "2".parse().unwrap());
    if let Some(sum) = sum {
        trailers.insert("x-sum", sum);
    }
    let frames = vec![
        Ok(Frame::data(Bytes::from(about))),
        Ok(Frame::data(body.to_bytes())),
        Ok(Frame::trailers(trailers)),
    ];
    let body = Frames(frames.into_iter());
    Ok(Response::builder()
        .status(if connection { 500 } else { 200 })
        .header("trailer", "x-out, x-sum")
        .body(BodyExt::boxed(body))
        .unwrap())
}

/// A body of frames made beforehand.
struct Frames(std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.next())
    }
}

async fn connect(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<AnyBody> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

fn request(path: &str, frames: Vec<Result<Frame<Bytes>, Infallible>>) -> Request<AnyBody> {
    Request::builder()
        .method("POST")
        .uri(format!("http://web{path}"))
        .header("te", "trailers")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(BodyExt::boxed(Frames(frames.into_iter())))
        .unwrap()
}

fn body_with_trailers() -> Vec<Result<Frame<Bytes>, Infallible>> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    vec![
        Ok(Frame::data(Bytes::from_static(b"hello"))),
        Ok(Frame::trailers(trailers)),
    ]
}

#[tokio::test]
async fn both_sides() {
    let server = Http2Server::start().await;
    let mesh = Plan::outbound(Protocol::Http2, &[server.address]).start();
    let sender = connect(mesh.address).await;
    let asks = (0..50).map(|i| {
        let mut sender = sender.clone();
        tokio::spawn(async move {
            let path = format!("/{i}?q");
            let response = sender
                .send_request(request(&path, body_with_trailers()))
                .await
                .unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["server"], "envoy");
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["x-sum"], "7");
            let text = body.to_bytes();
            assert_eq!(text, format!("POST http://web{path} None\nhello"));
        })
    });
    for ask in asks.collect::<Vec<_>>() {
        ask.await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    assert_eq!(mesh.stats().outbound.requests[2], 50);
}

#[tokio::test]
async fn http1_clients_of_http2_servers() {
    let server = Http2Server::start().await;
    let mesh = Plan::outbound(Protocol::Http2, &[server.address]).start();
    let answer = tokio::task::spawn_blocking(move || {
        let mut client = mesh.client();
        client.send("POST /x HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nConnection: x\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        client.until("x-out: 2\r\n\r\n").unwrap()
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("POST http://web/x None\n") && answer.contains("hello"),
        "{answer}"
    );
}

#[tokio::test]
async fn http2_clients_of_http1_servers() {
    let server = Server::saying("plain");
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.cluster_protocol = Protocol::Http;
    let mesh = plan.start();
    let mut sender = connect(mesh.address).await;
    let response = sender.send_request(request("/x", vec![])).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.version(), Version::HTTP_2);
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "plain"
    );
    let heard = server.heard().remove(0);
    assert!(heard.starts_with("POST /x HTTP/1.1\r\n"), "{heard}");
    assert!(
        heard.contains("host: web\r\n") && heard.contains("cookie: a=1; b=2\r\n"),
        "{heard}"
    );
}

#[tokio::test]
async fn undeclared_ports_speak_the_clients_version() {
    let server = Http2Server::start().await;
    let mesh = Plan::outbound(Protocol::Auto, &[server.address]).start();
    let mut sender = connect(mesh.address).await;
    let response = sender.send_request(request("/x", vec![])).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let inbound = Plan::inbound(Protocol::Auto, server.address).start();
    let mut sender = connect(inbound.address).await;
    let response = sender.send_request(request("/x", vec![])).await.unwrap();
    assert_eq!(response.headers()["server"], "istio-envoy");
}

#[tokio::test]
async fn a_broken_answer_resets_the_stream_alone() {
    let server = Server::start(|client| {
        while let Some(request) = client.request() {
            if request.starts_with("POST /break") {
                client.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab");
                std::thread::sleep(Duration::from_millis(50));
                return;
            }
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut sender = connect(mesh.address).await;
    let broken = sender
        .send_request(request("/break", vec![]))
        .await
        .unwrap();
    assert!(broken.into_body().collect().await.is_err());
    let whole = sender.send_request(request("/fine", vec![])).await.unwrap();
    assert_eq!(whole.into_body().collect().await.unwrap().to_bytes(), "ok");
}

#[tokio::test]
async fn a_refused_stream_is_tried_again() {
    use std::io::{Read, Write};
    // Speaks just enough HTTP/2 to refuse every stream: SETTINGS, then RST_STREAM(REFUSED_STREAM) for each HEADERS.
    let server = Server::start(|client| {
        let mut preface = [0; 24];
        client.stream.read_exact(&mut preface).unwrap();
        client
            .stream
            .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
            .unwrap();
        let mut frame = [0; 9];
        while client.stream.read_exact(&mut frame).is_ok() {
            let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
            client.stream.read_exact(&mut vec![0; length]).unwrap();
            match frame[3] {
                1 => {
                    let id = &frame[5..9];
                    let reset = [&[0, 0, 4, 3, 0][..], id, &[0, 0, 0, 7]].concat();
                    client.stream.write_all(&reset).unwrap();
                }
                4 if frame[4] == 0 => {
                    client
                        .stream
                        .write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0])
                        .unwrap();
                }
                _ => {}
            }
        }
    });
    let good = Http2Server::start().await;
    let mesh = Plan::outbound(Protocol::Http2, &[server.address, good.address]).start();
    let mut sender = connect(mesh.address).await;
    for _ in 0..10 {
        let response = sender.send_request(request("/x", vec![])).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert!(mesh.stats().retries > 0);
    let mesh = Plan::outbound(Protocol::Http2, &[server.address]).start();
    let mut sender = connect(mesh.address).await;
    let response = sender.send_request(request("/x", vec![])).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        text,
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote refused stream reset"
    );
}

/// Speaks just enough HTTP/2 to answer every request with a 200 and nothing more. Notes each ping, which it answers or not, and
/// the end of the connection.
fn pinged(answers: bool) -> Server {
    use std::io::{Read, Write};
    Server::start(move |client| {
        let mut preface = [0; 24];
        client.stream.read_exact(&mut preface).unwrap();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        client.stream.write_all(&settings).unwrap();
        let mut frame = [0; 9];
        while client.stream.read_exact(&mut frame).is_ok() {
            let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
            let mut payload = vec![0; length];
            client.stream.read_exact(&mut payload).unwrap();
            let reply = match (frame[3], frame[4]) {
                // HEADERS: `:status: 200` is the eighth of HPACK's static table.
                (1, _) => [&[0, 0, 1, 1, 5][..], &frame[5..9], &[0x88]].concat(),
                (4, 0) => vec![0, 0, 0, 4, 1, 0, 0, 0, 0],
                (6, 0) => {
                    client.heard("ping");
                    match answers {
                        true => [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &payload].concat(),
                        false => continue,
                    }
                }
                _ => continue,
            };
            client.stream.write_all(&reply).unwrap();
        }
        client.heard("end");
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_servers_are_asked_whether_they_are_there_where_the_policy_says_so() {
    let mesh_to = |server: &Server| {
        let mut plan = Plan::outbound(Protocol::Http2, &[server.address]);
        let often = Duration::from_millis(50);
        plan.policy.pool.http2_keepalive = Some((often, Duration::from_millis(500)));
        plan.start()
    };
    let get = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    let there = pinged(true);
    let mesh = mesh_to(&there);
    assert!(mesh.ask(get).starts_with("HTTP/1.1 200 "));
    eventually(|| there.heard().len() >= 3);
    assert!(there.heard().iter().all(|heard| heard == "ping"));
    assert!(mesh.ask(get).starts_with("HTTP/1.1 200 "));
    assert_eq!(there.accepted(), 1);
    // One that does not say so is left, and the next request has a connection of its own.
    let gone = pinged(false);
    let mesh = mesh_to(&gone);
    assert!(mesh.ask(get).starts_with("HTTP/1.1 200 "));
    eventually(|| gone.heard().last().is_some_and(|heard| heard == "end"));
    assert!(mesh.ask(get).starts_with("HTTP/1.1 200 "));
    assert_eq!(gone.accepted(), 2);
}

#[tokio::test]
async fn draining_lets_streams_end_and_opens_no_more() {
    let server = Http2Server::start().await;
    let mut mesh = Plan::outbound(Protocol::Http2, &[server.address]).start();
    let mut sender = connect(mesh.address).await;
    let running = tokio::spawn(sender.send_request(request("/x", vec![])));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let handle = mesh.handle.take().unwrap();
    let began = std::time::Instant::now();
    handle.drain(Duration::from_secs(5)).await;
    assert!(began.elapsed() < Duration::from_secs(2));
    let response = running.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let late = sender
        .send_request(Request::new(BodyExt::boxed(Full::default())))
        .await;
    assert!(late.is_err());
}

#[tokio::test]
async fn idle_clients_stay() {
    let server = Http2Server::start().await;
    let mesh = Plan::outbound(Protocol::Http2, &[server.address]).start();
    let mut sender = connect(mesh.address).await;
    for _ in 0..2 {
        let response = sender.send_request(request("/x", vec![])).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        // Longer than the head of an HTTP/1 request may take.
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
}
