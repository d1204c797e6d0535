//! A gateway's clients that speak TLS: which server they ask for, and its handshake with them.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::proxy::connection::{Connection, Scope};
use crate::proxy::http::Boxed;
use crate::proxy::stream::{LAST_WORDS, Stream};
use crate::proxy::tls::{self, ClientHello, TlsFacts, Unusable};
use crate::route::{Opening, Secure};

/// Why no handshake came about.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// Too slow, gone, or no TLS.
    #[error("the client did not begin one")]
    NoHello(#[source] io::Error),
    /// Nobody has the name.
    #[error("no server is called {0:?}")]
    NoServer(Option<String>),
    /// There is nothing to make it with.
    #[error("the server cannot be served")]
    Unusable(#[source] Unusable),
    /// It went wrong.
    #[error("it failed")]
    Failed(#[source] io::Error),
}

/// A client whose TLS is open.
type Opened = (Stream, TlsFacts);

impl Connection {
    /// Serves a client on a port for TLS.
    pub(super) async fn serve_secure(mut self, mut client: Stream, port: u16) {
        let deadline = Instant::now() + self.site.worker.settings.handshake_timeout;
        let hello = tokio::select! {
            biased;
            hello = hello(&mut client, deadline) => hello,
            // Who has said nothing by now may go elsewhere.
            () = self.site.farewell() => return,
        };
        let hello = match hello {
            Ok(hello) => hello,
            Err(refusal) => return self.refuse(client, &refusal),
        };
        let server_name = hello.server_name.as_deref();
        match self.site.route_secure(port, server_name) {
            None => {
                let refusal = Refusal::NoServer(hello.server_name);
                self.refuse(client, &refusal);
            }
            Some(Secure::Beyond(scope)) => {
                let target = self.target(&scope, server_name);
                self.relay(client, &target, None).await;
            }
            Some(Secure::Http(opening, scope)) => {
                if let Some((client, facts)) = self.open(client, &hello, &opening, deadline).await {
                    self.scope = Scope::Routed(scope);
                    self.tls = Some(facts);
                    self.serve_http(client).await;
                }
            }
            Some(Secure::Stream(opening, scope)) => {
                if let Some((client, _)) = self.open(client, &hello, &opening, deadline).await {
                    let target = self.target(&scope, server_name);
                    self.relay(client, &target, None).await;
                }
            }
        }
    }

    /// Shakes hands. `None` where nothing came of it, which is told then.
    async fn open(
        &self,
        client: Stream,
        hello: &ClientHello,
        opening: &Opening,
        deadline: Instant,
    ) -> Option<Opened> {
        let Opening { server, tls } = opening;
        let server = match self.site.worker.tls.servers.get(server, tls) {
            Ok(server) => server,
            Err(error) => {
                self.refuse(client, &Refusal::Unusable(error));
                return None;
            }
        };
        // Boxed, for it is large, and over before anything else begins.
        let shaken: Boxed<_> = {
            let accept = TlsAcceptor::from(server.config(hello)).accept(client);
            Box::pin(timeout_at(deadline, accept.into_fallible()))
        };
        let error = match shaken.await {
            Ok(Ok(stream)) => {
                let facts = TlsFacts::of(stream.get_ref().1, &server.uris);
                return Some((Stream::tls(stream), facts));
            }
            Ok(Err((error, mut client))) => {
                // The alert that says why must not be overtaken by a reset, which is what closing would be if the client
                // had said more.
                let (limit, most) = LAST_WORDS;
                let last = async {
                    client.shutdown().await?;
                    let mut client = client.take(most as u64);
                    tokio::io::copy(&mut client, &mut tokio::io::sink()).await
                };
                let _ = timeout(limit, last).await;
                error
            }
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        self.tell(&Refusal::Failed(error));
        None
    }

    fn refuse(&self, client: Stream, refusal: &Refusal) {
        client.reset_on_close();
        drop(client);
        self.tell(refusal);
    }

    fn tell(&self, refusal: &Refusal) {
        tracing::debug!(
            error = refusal as &dyn std::error::Error,
            peer = %self.peer,
            destination = %self.destination,
            "no handshake came about"
        );
    }
}

/// What the client says first.
async fn hello(client: &mut Stream, deadline: Instant) -> Result<ClientHello, Refusal> {
    let hello = match timeout_at(deadline, tls::peek(client)).await {
        Ok(Ok(Some(hello))) => return Ok(hello),
        Ok(Ok(None)) => io::ErrorKind::InvalidData.into(),
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    Err(Refusal::NoHello(hello))
}
