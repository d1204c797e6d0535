//! A relay, and when it takes a pipe.

use std::net::{Ipv6Addr, TcpListener};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Both ends of a connection, the first of which is relayed.
fn pair() -> (Stream, TcpStream) {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let one = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let [one, other] = [one, listener.accept().unwrap().0].map(|end| {
        end.set_nonblocking(true).unwrap();
        TcpStream::from_std(end).unwrap()
    });
    (Stream::tcp(one), other)
}

#[tokio::test]
async fn a_direction_with_much_to_move_takes_a_pipe() {
    let ((client, mut sender), (server, mut reader)) = (pair(), pair());
    let pipes = Rc::new(Pipes::new(true));
    let mut relay = Relay::new(client, server, Rc::clone(&pipes), Duration::from_secs(60));
    let (mut sent, piece) = (0, vec![1; 256 * 1024]);
    // Until nobody takes any more.
    loop {
        tokio::select! {
            biased;
            n = sender.write(&piece) => sent += n.unwrap(),
            ended = relay.run() => panic!("{ended:?}"),
            () = sleep(Duration::from_millis(300)) => break,
        }
    }
    let held = relay.up.pipe.as_ref().map(|pipe| pipe.held());
    assert!(held.is_some_and(|held| held > 0), "{held:?} of {sent}");
    assert!(relay.down.pipe.is_none());
    sender.shutdown().await.unwrap();
    let mut heard = Vec::new();
    let reading = async {
        reader.read_to_end(&mut heard).await.unwrap();
        drop(reader);
    };
    let (ended, ()) = tokio::join!(relay.run(), reading);
    ended.unwrap();
    assert_eq!(heard.len(), sent);
    assert!(relay.up.pipe.is_none() && relay.down.pipe.is_none());
}
