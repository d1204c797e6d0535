//! Protocols beyond plain HTTP/1.1: HTTP/2 with prior knowledge, on either side, and WebSocket.

use std::convert::Infallible;
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_tests::{Pod, World};

use crate::agent::{Agent, MESHED, Mode};
use crate::flows::names::{APP, APP_NET1, CLIENT, CLIENT_NET1, REMOTE, VIP};
use crate::flows::scene::Scene;
use crate::http::read_head;
use crate::manifests::ServiceObject;
use crate::servers::{Background, Server, any, runtime};
use crate::{InMode, Test, in_modes};

/// How long the end of a connection may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// In every mode that has an agent.
pub fn tests() -> Vec<Test> {
    let tests: &[(&str, InMode)] = &[
        ("http2_to_an_http1_server", http2_to_an_http1_server),
        ("http2_to_an_http2_server", http2_to_an_http2_server),
        ("websocket", websocket),
        ("calls_to_the_proxy_itself", calls_to_the_proxy_itself),
    ];
    in_modes("protocols", &MESHED, tests)
}

/// A connection to the proxy's own ports, at whatever address, ends at once: the proxy must not call itself. The addresses
/// of `net1` are the pod's, but no manifest says so.
fn calls_to_the_proxy_itself(mode: Mode) -> Result<()> {
    let scene = Scene::build(mode, &[], true)?;
    let addresses = |pair: (Ipv4Addr, Ipv6Addr)| [IpAddr::from(pair.0), IpAddr::from(pair.1)];
    let own = addresses(CLIENT).into_iter().chain(addresses(CLIENT_NET1));
    let app = addresses(APP).into_iter().chain(addresses(APP_NET1));
    let ways = own
        .map(|ip| (&scene.client, ip))
        .chain(app.map(|ip| (scene.world.node(), ip)));
    for (from, ip) in ways {
        for port in [15001, 15006] {
            let target = SocketAddr::new(ip, port);
            let before = scene.accepted()?;
            let stream = from.run(|| TcpStream::connect_timeout(&target, PATIENCE))?;
            if let Ok(mut stream) = stream {
                stream.set_read_timeout(Some(PATIENCE))?;
                // It is not HTTP, so nobody has an answer to it.
                let _ = stream.write_all(b"\x00\x01\x02\x03");
                let end = stream.read(&mut [0; 16]);
                let ended = match &end {
                    Ok(count) => *count == 0,
                    Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
                };
                ensure!(ended, "{} to {target}: {end:?}", from.name);
            }
            let after = scene.accepted()?;
            let count = (after.outbound + after.inbound) - (before.outbound + before.inbound);
            ensure!(
                count <= 2,
                "{} to {target} became {count} connections",
                from.name
            );
        }
    }
    Ok(())
}

/// The client knows that HTTP/2 is spoken; the server only speaks HTTP/1.1.
fn http2_to_an_http1_server(mode: Mode) -> Result<()> {
    let scene = Scene::build(mode, &[], true)?;
    let stream = dial(&scene.client, SocketAddr::from((VIP.0, 80)))?;
    let answers = ask_http2(stream, "remote-svc", 50)?;
    for (version, server, body) in answers {
        ensure!(version == Version::HTTP_2, "answered in {version:?}");
        ensure!(server == "envoy", "server: {server}");
        ensure!(
            body.contains("\"who\":\"outside\"") && body.contains("GET /hello HTTP/1.1"),
            "{body}"
        );
    }
    expect_one_connection(scene.agent()?)
}

/// A Service port that is named `http2` is spoken to in HTTP/2.
fn http2_to_an_http2_server(mode: Mode) -> Result<()> {
    let scene = Scene::build(mode, &[], true)?;
    let both = vec![VIP.0.into(), VIP.1.into()];
    scene.manifests.service(
        &ServiceObject::new("remote-svc", both, "remote")
            .port("http", 80, 8080)
            .port("http2", 81, 8081),
    )?;
    let _server = http2_server(&scene.world, 8081)?;
    crate::agent::eventually(Duration::from_secs(5), || {
        scene
            .agent()
            .and_then(Agent::status)
            .is_ok_and(|status| status["generation"].as_u64() > Some(1))
    })
    .context("the new port never became live")?;
    let stream = dial(&scene.client, SocketAddr::from((VIP.0, 81)))?;
    for (version, server, body) in ask_http2(stream, "remote-svc:81", 50)? {
        ensure!(version == Version::HTTP_2, "answered in {version:?}");
        ensure!(server == "envoy", "server: {server}");
        ensure!(body == "HTTP/2.0 /hello", "{body}");
    }
    expect_one_connection(scene.agent()?)
}

/// The upgrade passes, then bytes both ways, then the end.
fn websocket(mode: Mode) -> Result<()> {
    let scene = Scene::build(mode, &[], true)?;
    let both = vec![VIP.0.into(), VIP.1.into()];
    scene
        .manifests
        .service(&ServiceObject::new("remote-svc", both, "remote").port("http", 80, 8082))?;
    let _server = Server::start(scene.world.outside(), any(8082), serve_upgrade)?;
    crate::agent::eventually(Duration::from_secs(5), || upgrade(&scene).is_ok())
        .context("the upgrade never worked")?;
    let mut stream = upgrade(&scene)?;
    // A frame as a client masks it; the far end sends its bytes back as they are.
    let frame = b"\x81\x85\x01\x02\x03\x04hello and more bytes that no frame has";
    for _ in 0..100 {
        stream.get_mut().write_all(frame)?;
        let mut back = vec![0; frame.len()];
        stream.read_exact(&mut back)?;
        ensure!(back == frame, "{back:?}");
    }
    stream.get_mut().shutdown(std::net::Shutdown::Write)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    ensure!(rest.is_empty(), "{} bytes too many", rest.len());
    Ok(())
}

fn upgrade(scene: &Scene) -> Result<BufReader<TcpStream>> {
    let mut stream = BufReader::new(dial(&scene.client, SocketAddr::from((VIP.0, 80)))?);
    stream.get_mut().write_all(
        b"GET /chat HTTP/1.1\r\nHost: remote-svc\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )?;
    let (first, headers) = read_head(&mut stream)?.context("no answer")?;
    ensure!(first.starts_with("HTTP/1.1 101 "), "{first} {headers:?}");
    let header = |name: &str| headers.get(name).map_or("", String::as_str);
    ensure!(
        header("upgrade").eq_ignore_ascii_case("websocket"),
        "{headers:?}"
    );
    ensure!(
        header("connection").eq_ignore_ascii_case("upgrade"),
        "{headers:?}"
    );
    ensure!(
        header("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "{headers:?}"
    );
    Ok(stream)
}

/// Agrees to an upgrade that arrived as one, then echoes.
fn serve_upgrade(stream: TcpStream) -> io::Result<String> {
    let mut stream = BufReader::new(stream);
    let Some((_, headers)) = read_head(&mut stream)? else {
        return Ok("fin".to_owned());
    };
    let asked = headers
        .get("upgrade")
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    if !asked {
        stream
            .get_mut()
            .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")?;
        return Ok("not an upgrade".to_owned());
    }
    stream.get_mut().write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    )?;
    let mut writer = stream.get_ref().try_clone()?;
    io::copy(&mut stream, &mut writer)?;
    Ok("fin".to_owned())
}

fn dial(from: &Pod, target: SocketAddr) -> Result<TcpStream> {
    let stream = from
        .run(|| TcpStream::connect_timeout(&target, Duration::from_secs(3)))?
        .with_context(|| format!("connecting to {target}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// All requests went through the agent, on the one connection that was made.
fn expect_one_connection(agent: &Agent) -> Result<()> {
    let accepted = agent.accepted()?;
    ensure!(accepted.outbound == 1, "accepted: {accepted:?}");
    Ok(())
}

/// Sends requests at once, as streams of one connection; version, server header and body of each answer.
fn ask_http2(
    stream: TcpStream,
    host: &str,
    count: usize,
) -> Result<Vec<(Version, String, String)>> {
    runtime()?.block_on(async {
        stream.set_nonblocking(true)?;
        let io = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        let mut asked = Vec::new();
        for _ in 0..count {
            let request =
                Request::get(format!("http://{host}/hello")).body(Empty::<Bytes>::new())?;
            let mut sender = sender.clone();
            asked.push(tokio::spawn(async move {
                sender.ready().await?;
                sender.send_request(request).await
            }));
        }
        let mut answers = Vec::new();
        for answer in asked {
            let response = tokio::time::timeout(Duration::from_secs(10), answer)
                .await
                .context("no answer in time")???;
            ensure!(response.status() == 200, "{response:?}");
            let version = response.version();
            let server = response.headers().get("server");
            let server = server
                .map_or("", |value| value.to_str().unwrap_or_default())
                .to_owned();
            let body = response.into_body().collect().await?.to_bytes();
            answers.push((version, server, String::from_utf8_lossy(&body).into_owned()));
        }
        Ok(answers)
    })
}

/// A server on the machine outside, under the remote pod's address, that speaks nothing but HTTP/2.
fn http2_server(world: &World, port: u16) -> Result<Background> {
    let listener = world
        .outside()
        .run(|| TcpListener::bind((REMOTE.0, port)))??;
    listener.set_nonblocking(true)?;
    Background::start(move || async move {
        let ended = serve_http2(listener).await;
        eprintln!("the HTTP/2 server ended: {ended:?}");
    })
}

async fn serve_http2(listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let answer = |request: Request<Incoming>| async move {
            let text = format!("{:?} {}", request.version(), request.uri().path());
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
        };
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer)),
        );
    }
}
