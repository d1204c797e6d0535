//! Connections over pipes, with a clock that jumps.

use std::future::Future;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

use super::*;

const LIMITS: Limits = Limits {
    idle_per_key: 8,
    idle_for: Duration::from_secs(3600),
    streams: 8,
    requests: None,
    age: None,
    pings: None,
};

fn test<F: Future<Output = ()>>(test: impl FnOnce(Rc<Host>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let address = "10.0.0.1:80".parse().unwrap();
    let host = Rc::new(Host::new(address, Version::Http1, LIMITS));
    LocalSet::new().block_on(&runtime, test(host));
}

/// A connection whose server answers every request, and the other end of which tells when it has ended.
async fn connection(host: &Rc<Host>) -> (Lease, tokio::task::JoinHandle<()>) {
    let (near, mut far) = Stream::pipe(1024);
    let place = host.place(None);
    let lease = host.adopt(near, place).await.unwrap();
    let served = tokio::task::spawn_local(async move {
        let mut space = [0; 1024];
        while let Ok(1..) = far.read(&mut space).await {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            far.write_all(answer).await.unwrap();
        }
    });
    (lease, served)
}

async fn exchange(lease: &mut Lease) {
    let request = http::Request::new(RequestBody::Empty);
    let response = lease.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[test]
fn idle_connections_stay_as_long_as_they_may() {
    test(|host| async move {
        let (mut lease, served) = connection(&host).await;
        exchange(&mut lease).await;
        lease.give_back();
        tokio::time::sleep(Duration::from_secs(100)).await;
        host.sweep(|by_cluster| by_cluster);
        assert!(host.is_in_use());
        // Its pod is gone: it need not be kept so long.
        host.sweep(|_| Duration::from_secs(90));
        served.await.unwrap();
        tokio::task::yield_now().await;
        assert!(!host.is_in_use());
    });
}

#[test]
fn who_has_waited_longest_comes_first() {
    test(|host| async move {
        let (mut lease, _served) = connection(&host).await;
        exchange(&mut lease).await;
        let order = Rc::<RefCell<Vec<u32>>>::default();
        let waiting: Vec<_> = (0..5)
            .map(|n| {
                let (host, order) = (Rc::clone(&host), Rc::clone(&order));
                tokio::task::spawn_local(async move {
                    let mut lease = host.wait().await.expect("a connection");
                    assert!(lease.is_reused());
                    order.borrow_mut().push(n);
                    exchange(&mut lease).await;
                    lease.give_back();
                })
            })
            .collect();
        tokio::task::yield_now().await;
        // One of them gives up while it waits, another when it is its turn.
        waiting[1].abort();
        tokio::task::yield_now().await;
        lease.give_back();
        waiting[0].abort();
        for (n, waiting) in waiting.into_iter().enumerate() {
            assert_eq!(waiting.await.is_ok(), n > 1, "{n}");
        }
        assert_eq!(*order.borrow(), [2, 3, 4]);
    });
}

#[test]
fn a_connection_that_ends_calls_the_next() {
    test(|host| async move {
        let (lease, _served) = connection(&host).await;
        let waiting = tokio::task::spawn_local({
            let host = Rc::clone(&host);
            async move { host.wait().await.is_none() }
        });
        tokio::task::yield_now().await;
        assert!(!host.has_none());
        drop(lease);
        assert!(waiting.await.unwrap());
        assert!(host.has_none());
    });
}
