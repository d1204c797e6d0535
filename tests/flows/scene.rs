//! The stage that every row runs on: two pods of this node, one of another, Services, the outside, and in the meshed
//! modes a real agent.

use anyhow::{Context, Result};
use mesh_tests::{Interface, Pod, PodOptions, World, WorldOptions};

use super::names::{APP, APP_NET1, APP_VIP, CLIENT, CLIENT_NET1, OUTSIDE_B, REMOTE, SELF_VIP, VIP};
use super::table::Place;
use crate::agent::{Accepted, Agent, Mode};
use crate::http;
use crate::manifests::{Manifests, PodObject, ServiceObject};
use crate::servers::Server;

/// Dropped from the top: the agent first, the world last.
#[derive(Debug)]
pub struct Scene {
    /// The agent; there is none in mode `none`.
    pub agent: Option<Agent>,
    _servers: Vec<Server>,
    /// What the agent reads.
    pub manifests: Manifests,
    /// The client's Pod object, to edit.
    pub client_object: PodObject,
    /// The app's.
    pub app_object: PodObject,
    pub client: Pod,
    pub app: Pod,
    pub world: World,
}

impl Scene {
    /// Everything up and ready, with these annotations on both pods.
    pub fn build(mode: Mode, annotations: &[(&str, &str)], enrolled: bool) -> Result<Self> {
        let world = World::new(WorldOptions::default())?;
        for address in [REMOTE, OUTSIDE_B] {
            world.add_outside_address(address.0.into())?;
            world.add_outside_address(address.1.into())?;
        }
        let client = world.pod("client", pod_options(CLIENT, CLIENT_NET1))?;
        let app = world.pod("app", pod_options(APP, APP_NET1))?;
        let servers = start_servers(&world, &client, &app)?;
        let manifests = Manifests::new()?;
        write_services(&manifests)?;
        let object = |pod: &Pod| {
            annotations
                .iter()
                .fold(PodObject::local(pod), |object, (key, value)| {
                    object.annotation(key, value)
                })
                .enrol(enrolled)
        };
        let (client_object, app_object) = (object(&client), object(&app));
        manifests.pod(&client_object)?;
        manifests.pod(&app_object)?;
        let agent = match mode {
            Mode::None => None,
            Mode::IptablesNft | Mode::IptablesLegacy | Mode::Ebpf => {
                Some(Agent::start(&world, manifests.path(), mode)?)
            }
        };
        Ok(Self {
            agent,
            _servers: servers,
            manifests,
            client_object,
            app_object,
            client,
            app,
            world,
        })
    }

    /// The pod, or whatever else, that a flow starts from.
    pub fn place(&self, place: Place) -> &Pod {
        match place {
            Place::Client => &self.client,
            Place::Outside => self.world.outside(),
            Place::Node => self.world.node(),
        }
    }

    /// The agent, in a mode that has one.
    pub fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("there is no agent")
    }

    /// What the agent has accepted; without an agent nothing.
    pub fn accepted(&self) -> Result<Accepted> {
        self.agent
            .as_ref()
            .map_or(Ok(Accepted::default()), Agent::accepted)
    }
}

fn pod_options(
    eth0: (std::net::Ipv4Addr, std::net::Ipv6Addr),
    net1: (std::net::Ipv4Addr, std::net::Ipv6Addr),
) -> PodOptions {
    PodOptions {
        ipv4: Some(eth0.0),
        ipv6: Some(eth0.1),
        interfaces: vec![Interface {
            name: "net1".to_owned(),
            ipv4: net1.0,
            ipv6: net1.1,
        }],
    }
}

/// Echo servers everywhere. Those of the machine outside serve its external addresses and the remote pod's alike, and
/// tell by their own address which they are.
fn start_servers(world: &World, client: &Pod, app: &Pod) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for port in [80, 81, 443, 3306, 9000] {
        servers.push(Server::echo(world.outside(), "outside", port)?);
    }
    servers.push(http::serve(world.outside(), "outside", 8080, None)?);
    servers.push(Server::echo(client, "client", 9000)?);
    servers.push(Server::echo(client, "client", 15008)?);
    servers.push(Server::echo(app, "app", 9000)?);
    servers.push(Server::echo(app, "app", 9001)?);
    servers.push(http::serve(app, "app", 8080, None)?);
    Ok(servers)
}

fn write_services(manifests: &Manifests) -> Result<()> {
    let both = |pair: (std::net::Ipv4Addr, std::net::Ipv6Addr)| vec![pair.0.into(), pair.1.into()];
    manifests.pod(&PodObject::remote("remote", both(REMOTE)))?;
    for (name, vip, app) in [
        ("remote-svc", VIP, "remote"),
        ("self-svc", SELF_VIP, "client"),
        ("app-svc", APP_VIP, "app"),
    ] {
        let service = ServiceObject::new(name, both(vip), app)
            .port("http", 80, 8080)
            .port("tcp-echo", 9000, 9000)
            .port("tcp-banner", 2525, 2525);
        manifests.service(&service)?;
    }
    let headless = ServiceObject::headless("remote-headless", "remote");
    manifests.service(
        &headless
            .port("http-direct", 8080, 8080)
            .port("tcp-direct", 443, 443),
    )
}
