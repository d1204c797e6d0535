//! The proxy as the agent runs it: sockets made inside a network namespace, steered by the kernel. Needs root, and
//! says so where it is not.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::fakes::*;
use crate::intercept::ListenSpec;
use crate::model::*;
use crate::netns::NetNs;
use crate::proxy::{PodProxy, Settings, Workers};
use crate::sys::socket;

const APP: &str = "127.0.0.1:8080";
const VIP: &str = "203.0.113.5:80";

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let status = Command::new(words.next().unwrap())
        .args(words)
        .status()
        .unwrap();
    assert!(status.success(), "{line}");
}

/// A world with one Service at an address that leads nowhere but to the proxy.
fn world() -> Snapshot {
    let vip: SocketAddr = VIP.parse().unwrap();
    let app: SocketAddr = APP.parse().unwrap();
    let host: Arc<str> = HOST.into();
    let key = ClusterKey {
        host: Arc::clone(&host),
        port: 80,
        subset: None,
    };
    let service = Arc::new(Service {
        host: Arc::clone(&host),
        namespace: "default".into(),
        name: "web".into(),
        addresses: vec![vip.ip()],
        ports: vec![ServicePort {
            number: 80,
            name: "".into(),
            protocol: Protocol::Tcp,
        }],
    });
    let cluster = Cluster {
        key: key.clone(),
        protocol: Protocol::Tcp,
        discovery: Discovery::Listed,
        endpoints: vec![Endpoint::at(app)].into(),
        policy: Arc::default(),
    };
    let mut snapshot = Snapshot::default();
    snapshot
        .common
        .addresses
        .insert(vip.ip(), Arc::clone(&service));
    snapshot.services.insert(host, service);
    snapshot.clusters.insert(key, Arc::new(cluster));
    snapshot
}

#[test]
fn steered_connections_reach_the_app_from_the_right_address() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: network namespaces need root");
        return;
    }
    // The namespace is this thread's own and goes with it.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    run("ip link set lo up");
    run("ip address add 10.9.9.9/32 dev lo");
    run("ip route add default dev lo src 10.9.9.9");
    run(
        "iptables -w -t nat -A OUTPUT -p tcp -d 203.0.113.5 --dport 80 -j REDIRECT --to-ports 15001",
    );
    run(
        "iptables -w -t nat -A OUTPUT -p tcp -d 127.0.0.1 --dport 8080 -m owner ! --uid-owner 1337 -j REDIRECT --to-ports 15006",
    );
    let netns = Arc::new(NetNs::current().unwrap());
    let app = TcpListener::bind(APP).unwrap();
    std::thread::spawn(move || {
        for stream in app.incoming() {
            let stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            Client::over(stream).send(format!("you are {peer}\n"));
        }
    });
    let ports = ListenSpec {
        transparent: false,
        outbound_port: 15001,
        inbound_port: 15006,
    };
    let world = Arc::new(ArcSwap::from_pointee(world()));
    let workers = Workers::start(2, world, Settings::default()).unwrap();
    let handle = workers
        .serve_pod(PodProxy {
            pod: PodId {
                namespace: "default".into(),
                name: "client".into(),
            },
            netns: Arc::clone(&netns),
            listeners: socket::listen(&netns, ports).unwrap(),
            ports,
            source: SourceMode::Sidecar,
        })
        .unwrap();

    let greeting = |address: &str| Client::connect(address.parse().unwrap()).until("\n");
    // Outbound: the proxy's own connection to the endpoint is exempt, as user 1337.
    assert_eq!(greeting(VIP).unwrap(), "you are 127.0.0.1\n");
    // Inbound: the app sees the sidecar's address.
    assert_eq!(greeting(APP).unwrap(), "you are 127.0.0.6\n");
    // Nobody gets at the proxy itself.
    for port in [15001, 15006] {
        let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 1], port)));
        let ended = client.stream.read(&mut [0; 1]);
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    }
    eventually(|| workers.stats().outbound.closed == 2 && workers.stats().inbound.closed == 2);
    let stats = workers.stats();
    assert_eq!((stats.outbound.relayed, stats.inbound.relayed), (1, 1));
    handle.stop();
    eventually(|| std::net::TcpStream::connect("127.0.0.1:15006").is_err());
}
