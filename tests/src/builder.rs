//! What a lab consists of, and how it comes up.
#![forbid(unsafe_code)]

use std::{fs::File, sync::Arc, thread, time::Instant};

use anyhow::{Result, ensure};

use crate::{
    backend::{Attachment, Backend},
    claim::Claim,
    gate::Gates,
    host::Host,
    lab::Lab,
    plan::{self, Addresses, BEHIND_GATEWAY, CLIENTS, DIRECT, FRONT, GATEWAY, ROUTED, UPLINK, VIPS},
    process::Spawner,
    topology::{End, Topology, complete_checksums},
    web::{Web, WebServer},
};

/// What a lab consists of.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    direct: u8,
    routed: u8,
    clients: u8,
    client_addresses: u8,
    vips: u8,
    web: Web,
    client_mtu: u16,
    inside_mtu: u16,
}

impl Default for LabBuilder {
    fn default() -> Self {
        Self {
            direct: 2,
            routed: 0,
            clients: 1,
            client_addresses: 1,
            vips: 1,
            web: Web::default(),
            client_mtu: 1500,
            inside_mtu: 1600,
        }
    }
}

impl LabBuilder {
    /// Sets the number of backends on the segment of weir's `eth1` (default 2).
    pub fn direct(mut self, backends: u8) -> Self {
        self.direct = backends;
        self
    }

    /// Sets the number of backends behind the router (default 0).
    pub fn routed(mut self, backends: u8) -> Self {
        self.routed = backends;
        self
    }

    /// Sets the number of clients (default 1, at most 6).
    pub fn clients(mut self, clients: u8) -> Self {
        self.clients = clients;
        self
    }

    /// Sets the number of source addresses of each client (default 1, at most 40).
    pub fn client_addresses(mut self, addresses: u8) -> Self {
        self.client_addresses = addresses;
        self
    }

    /// Sets the number of VIPs, each with an address of both families (default 1, at most 200).
    pub fn vips(mut self, vips: u8) -> Self {
        self.vips = vips;
        self
    }

    /// Sets what the backends' web servers serve.
    pub fn web(mut self, web: Web) -> Self {
        self.web = web;
        self
    }

    /// Sets the MTU between clients and the edge router (default 1500).
    pub fn client_mtu(mut self, mtu: u16) -> Self {
        self.client_mtu = mtu;
        self
    }

    /// Sets the MTU of every other segment (default 1600: a full packet of a client fits into a tunnel).
    pub fn inside_mtu(mut self, mtu: u16) -> Self {
        self.inside_mtu = mtu;
        self
    }

    /// Builds the lab and starts the web servers. Prints the time it took.
    pub fn start(self) -> Result<Lab> {
        let begin = Instant::now();
        ensure!(self.clients <= 6, "a lab has at most 6 clients");
        ensure!(self.client_addresses <= plan::CLIENT_STEP, "a client has at most 40 addresses");
        ensure!(self.vips <= 200 && self.direct <= 200 && self.routed <= 200, "at most 200 of a kind");
        Lab::sweep_stale()?;
        let lab = self.build()?;
        lab.backends.iter().try_for_each(Backend::launch)?;
        lab.backends.iter().try_for_each(Backend::wait_ready)?;
        eprintln!(
            "lab {}: {} clients, {} direct and {} routed backends, ready after {:?}",
            lab.name(),
            self.clients,
            self.direct,
            self.routed,
            begin.elapsed()
        );
        Ok(lab)
    }

    fn build(&self) -> Result<Lab> {
        let claim = Claim::new()?;
        let spawner = Arc::new(Spawner::new());
        let vips: Vec<Addresses> = (0..self.vips).map(plan::vip).collect();
        let mut topology = Topology::new(claim.name());
        let mut hosts: Vec<(String, Vec<Addresses>)> = Vec::new();

        topology.router("edge");
        topology.bridge("edge", "clients", CLIENTS, GATEWAY, self.client_mtu);
        topology.bridge("edge", "direct", DIRECT, GATEWAY, self.inside_mtu);
        // Answers to spoofed sources end here, silently.
        topology.line("edge", "route add blackhole 0.0.0.0/0");
        topology.line("edge", "route add blackhole ::/0");
        self.wire_weir(&mut topology);
        self.wire_router(&mut topology);
        for client in 0..self.clients {
            hosts.push(self.wire_client(&mut topology, client));
        }
        let backends: Vec<_> = (0..self.direct)
            .map(|index| (Attachment::Direct, index))
            .chain((0..self.routed).map(|index| (Attachment::Routed, index)))
            .map(|(attachment, index)| {
                (attachment, self.wire_backend(&mut topology, attachment, index, &vips))
            })
            .collect();

        let namespaces = topology.build()?;
        let host = |name: &str, addresses: Vec<Addresses>| {
            Host::new(name, namespaces[name].clone(), addresses, spawner.clone())
        };
        let names =
            |of: Attachment| backends.iter().filter(move |(a, _)| *a == of).map(|(_, (n, _))| n.clone());
        let peers = ["to-weir".to_owned(), "weir-direct".to_owned()];
        let edge_gates =
            Gates::attach(&namespaces["edge"], &peers, &names(Attachment::Direct).collect::<Vec<_>>())?;
        let router_gates =
            Gates::attach(&namespaces["router"], &[], &names(Attachment::Routed).collect::<Vec<_>>())?;
        // Attaching an XDP program turns GRO on.
        namespaces["edge"].run(|| peers.iter().try_for_each(|peer| complete_checksums(peer)))?;

        let big = claim.directory().join("big");
        File::create(&big)?.set_len(self.web.big_bytes)?;
        let make = |(attachment, (name, address)): &(Attachment, (String, Addresses))| -> Result<Backend> {
            let gate = match attachment {
                Attachment::Direct => edge_gates.gate(name)?,
                Attachment::Routed => router_gates.gate(name)?,
            };
            let web = WebServer::new(claim.directory().join(name), name, &self.web, &big)?;
            let bpffs = claim.bpffs().join(format!("decap-{name}"));
            Backend::new(host(name, vec![*address]), *attachment, web, gate, bpffs, &vips)
        };
        // The verifier checks one program for each backend: that takes most of the set-up time.
        let backends = thread::scope(|scope| {
            let threads: Vec<_> = backends.iter().map(|backend| scope.spawn(|| make(backend))).collect();
            let joined = threads.into_iter().map(|thread| thread.join().expect("set-up does not panic"));
            joined.collect::<Result<Vec<Backend>>>()
        })?;
        let weir = host("weir", vec![FRONT.host(BEHIND_GATEWAY), DIRECT.host(BEHIND_GATEWAY)]);
        let edge = host("edge", [CLIENTS, FRONT, DIRECT, UPLINK].map(|at| at.host(GATEWAY)).to_vec());
        let router = host("router", vec![UPLINK.host(BEHIND_GATEWAY), ROUTED.host(GATEWAY)]);
        let clients = hosts.into_iter().map(|(name, addresses)| host(&name, addresses)).collect();
        Ok(Lab { backends, clients, weir, edge, router, vips, _gates: [edge_gates, router_gates], claim })
    }

    fn wire_weir(&self, topology: &mut Topology) {
        topology.host("weir");
        let eth0 = End { host: "weir", device: "eth0", mac: Some(FRONT.mac(BEHIND_GATEWAY)) };
        topology.veth(
            eth0,
            End { host: "edge", device: "to-weir", mac: Some(FRONT.mac(GATEWAY)) },
            self.inside_mtu,
        );
        topology.address("edge", "to-weir", FRONT.host(GATEWAY));
        topology.address("weir", "eth0", FRONT.host(BEHIND_GATEWAY));
        let eth1 = End { host: "weir", device: "eth1", mac: Some(DIRECT.mac(BEHIND_GATEWAY)) };
        topology.veth(eth1, End { host: "edge", device: "weir-direct", mac: None }, self.inside_mtu);
        topology.port("edge", "weir-direct", "direct");
        topology.address("weir", "eth1", DIRECT.host(BEHIND_GATEWAY));
        topology.route("weir", None, FRONT.host(GATEWAY));
        topology.route("edge", Some(VIPS), FRONT.host(BEHIND_GATEWAY));
    }

    fn wire_router(&self, topology: &mut Topology) {
        topology.router("router");
        topology.bridge("router", "routed", ROUTED, GATEWAY, self.inside_mtu);
        let uplink = End { host: "router", device: "uplink", mac: Some(UPLINK.mac(BEHIND_GATEWAY)) };
        let far = End { host: "edge", device: "to-router", mac: Some(UPLINK.mac(GATEWAY)) };
        topology.veth(uplink, far, self.inside_mtu);
        topology.address("edge", "to-router", UPLINK.host(GATEWAY));
        topology.address("router", "uplink", UPLINK.host(BEHIND_GATEWAY));
        topology.route("router", None, UPLINK.host(GATEWAY));
        topology.route("edge", Some(ROUTED), UPLINK.host(BEHIND_GATEWAY));
    }

    fn wire_client(&self, topology: &mut Topology, index: u8) -> (String, Vec<Addresses>) {
        let name = format!("client-{}", index + 1);
        let first = plan::FIRST_CLIENT + index * plan::CLIENT_STEP;
        topology.host(&name);
        let eth0 = End { host: &name, device: "eth0", mac: Some(CLIENTS.mac(first)) };
        topology.veth(eth0, End { host: "edge", device: &name, mac: None }, self.client_mtu);
        topology.port("edge", &name, "clients");
        let addresses: Vec<_> =
            (first..first + self.client_addresses).map(|number| CLIENTS.host(number)).collect();
        addresses.iter().for_each(|address| topology.address(&name, "eth0", *address));
        topology.route(&name, None, CLIENTS.host(GATEWAY));
        (name, addresses)
    }

    fn wire_backend(
        &self,
        topology: &mut Topology,
        attachment: Attachment,
        index: u8,
        vips: &[Addresses],
    ) -> (String, Addresses) {
        let (kind, segment, switch) = match attachment {
            Attachment::Direct => ("direct", DIRECT, "edge"),
            Attachment::Routed => ("routed", ROUTED, "router"),
        };
        let name = format!("{kind}-{}", index + 1);
        let number = plan::FIRST_BACKEND + index;
        topology.host(&name);
        let eth0 = End { host: &name, device: "eth0", mac: Some(segment.mac(number)) };
        topology.veth(eth0, End { host: switch, device: &name, mac: None }, self.inside_mtu);
        topology.port(switch, &name, kind);
        topology.address(&name, "eth0", segment.host(number));
        vips.iter().for_each(|vip| topology.vip(&name, *vip));
        topology.route(&name, None, segment.host(GATEWAY));
        (name, segment.host(number))
    }
}
