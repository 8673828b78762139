//! Ways out to the backends: routes, next hops, the ports that frames may leave by.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use aya::maps::MapData;
use aya::maps::xdp::DevMapHash;
use ipnet::IpNet;
use lb_common::layout::NextHopCopy;
use tracing::warn;

use crate::config::model::{Config, Mac, Mode};
use crate::desired::{Egress as DesiredEgress, HopRecord};
use crate::failure::{Code, Failure};
use crate::health::Tunnelled;
use crate::net::snapshot::{Link, NeighbourKey, Resolution};
use crate::net::{
    Egress, HopChange, HopKey, NeighbourKeeper, NetWatch, NextHopState, NextHops, Observed, Overrides,
    PathMtus, RouteLookup, TooBig, resolve, vip,
};

/// Where no interface tells.
const MTU: u16 = 1500;

/// How often the whole network state is read again.
const RESYNC: Duration = Duration::from_secs(30);

/// Addresses that nobody has (RFC 5737, RFC 3849): the kernel sends to them by its default routes.
const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 0)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 0)),
];

/// The host's network as far as backends are concerned.
pub(super) struct Network {
    pub(super) watch: NetWatch,
    lookup: RouteLookup,
    keeper: NeighbourKeeper,
    hops: NextHops,
    ways: BTreeMap<IpAddr, Result<Egress, String>>,
    /// The ways by the default routes, one per family that has one.
    default_ways: Vec<Egress>,
    /// What routers said of the paths.
    paths: PathMtus,
    tx_ports: Option<DevMapHash<MapData>>,
    ports: BTreeSet<u32>,
    /// Neighbours in use that do not answer.
    silent: BTreeSet<NeighbourKey>,
    /// Interfaces that answers to clients may leave by, in mode `nat`.
    towards_clients: BTreeSet<u32>,
}

impl Network {
    pub(super) async fn start() -> Result<(Self, tokio::sync::mpsc::Receiver<Observed>), Failure> {
        let failed = |error: std::io::Error| Failure::new(Code::Failed, format!("open netlink: {error}"));
        let (watch, observed) = NetWatch::start(RESYNC).await.map_err(failed)?;
        let lookup = RouteLookup::open().map_err(failed)?;
        let keeper = NeighbourKeeper::open(&watch.read()).map_err(failed)?;
        let network = Self {
            watch,
            lookup,
            keeper,
            hops: NextHops::default(),
            ways: BTreeMap::new(),
            default_ways: Vec::new(),
            paths: PathMtus::default(),
            tx_ports: None,
            ports: BTreeSet::new(),
            silent: BTreeSet::new(),
            towards_clients: BTreeSet::new(),
        };
        Ok((network, observed))
    }

    /// The map of ports of the program in use.
    pub(super) fn use_ports(&mut self, map: DevMapHash<MapData>) {
        self.tx_ports = Some(map);
        self.ports.clear();
    }

    /// Asks the kernel for the ways to all backends of the config. Frames may still leave by the ports of the ways before:
    /// see [`Network::give_up_ports`].
    pub(super) fn resolve(&mut self, config: &Config) -> Vec<HopChange> {
        let addresses: BTreeSet<IpAddr> = config
            .pools
            .values()
            .flat_map(|pool| pool.backends.values())
            .map(|backend| backend.address)
            .collect();
        let vips: BTreeSet<IpAddr> =
            config.vips.values().flat_map(|vip| vip.addresses.iter().copied()).collect();
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        let (found, default) = tokio::task::block_in_place(|| {
            let found = resolve(&mut self.lookup, &self.watch, &vips, &addresses);
            (found, resolve(&mut self.lookup, &self.watch, &vips, &ELSEWHERE))
        });
        if let Ok(default) = default {
            self.default_ways = default.into_iter().filter_map(Result::ok).collect();
        }
        match found {
            Ok(found) => {
                let ways = found.into_iter().map(|way| way.map_err(|error| error.to_string()));
                let ways = addresses.into_iter().zip(ways);
                let narrowed = |way: Egress, to| {
                    let mtu = way.mtu_towards_backends(&config.interfaces, config.mtu);
                    Egress { mtu: self.paths.of(to, mtu), ..way }
                };
                self.ways = ways.map(|(to, way)| (to, way.map(|way| narrowed(way, to)))).collect();
            }
            // The ways known before stay in use.
            Err(error) => warn!("ask the kernel for routes: {error}"),
        }
        let used = config.pools.values().flat_map(|pool| pool.backends.values());
        let used: Vec<(Egress, Overrides)> = used
            .filter_map(|backend| {
                let way = self.ways.get(&backend.address)?.as_ref().ok()?;
                Some((way.clone(), Overrides::new(config, backend.mac, way)))
            })
            .collect();
        self.towards_clients = self.attached(config).map(|link| link.ifindex).collect();
        let changes = self.hops.replace(&self.watch.read(), used, Instant::now());
        self.follow();
        changes
    }

    /// Looks at neighbours and links again.
    pub(super) fn refresh(&mut self) -> Vec<HopChange> {
        let changes = self.hops.refresh(&self.watch.read(), Instant::now());
        self.follow();
        changes
    }

    /// Lets the kernel keep the neighbours in use fresh, and the program send by the ports in use.
    fn follow(&mut self) {
        let wanted = self.hops.neighbours();
        match self.keeper.keep(&self.watch.read(), &wanted) {
            Ok(errors) => errors.iter().for_each(|error| warn!("keep neighbour: {error:?}")),
            Err(error) => warn!("keep neighbours: {error}"),
        }
        let used = self.used_ports();
        let Some(map) = &mut self.tx_ports else { return };
        for port in &used {
            // Again even where it is known: a re-created device with the same number is another device.
            if let Err(error) = map.insert(*port, *port, None, 0) {
                warn!("allow frames to leave by interface {port}: {error}");
            }
        }
        self.ports.extend(used);
    }

    /// Lets frames leave by the ports in use alone, once no table names another.
    pub(super) fn give_up_ports(&mut self) {
        let used = self.used_ports();
        let Some(map) = &mut self.tx_ports else { return };
        for port in self.ports.difference(&used) {
            // Fails where the device is gone, and its entry with it.
            let _ = map.remove(*port);
        }
        self.ports = used;
    }

    fn used_ports(&self) -> BTreeSet<u32> {
        let used = self.hops.iter().filter_map(|(_, state)| match state {
            NextHopState::Resolved(hop) => Some(hop.ifindex).filter(|port| *port != 0),
            NextHopState::Unresolved { .. } => None,
        });
        used.chain(self.towards_clients.iter().copied()).collect()
    }

    /// The desired way to a backend; `None` without a route.
    pub(super) fn egress(&self, config: &Config, address: IpAddr, mac: Option<Mac>) -> Option<DesiredEgress> {
        let way = self.ways.get(&address)?.as_ref().ok()?;
        let next_hop = HopKey::new(way, Overrides::new(config, mac, way));
        let net = source(config, address, way);
        let entropy_bits = (net.max_prefix_len() - net.prefix_len()).min(32);
        let source = if entropy_bits == 0 { net.addr() } else { net.network() };
        Some(DesiredEgress { next_hop, source, entropy_bits })
    }

    /// Takes a router's word about a packet that weir may have sent; whether the path to a backend is narrower than
    /// was known, so that the ways are to be resolved again.
    pub(super) fn narrow(&mut self, config: &Config, said: TooBig) -> bool {
        let Some(Ok(way)) = self.ways.get(&said.to) else { return false };
        let tunnelled =
            config.services.values().filter(|service| matches!(service.mode, Mode::Ipip | Mode::Gue));
        let mut pools = tunnelled.filter_map(|service| config.pools.get(&service.pool));
        let is_tunnelled = pools.any(|pool| pool.backends.values().any(|backend| backend.address == said.to));
        let own = source(config, said.to, way).contains(&said.source);
        let mtu = way.mtu;
        is_tunnelled && own && self.paths.take(said, mtu, Instant::now())
    }

    /// Forgets what routers said too long ago; whether the ways are to be resolved again.
    pub(super) fn widen(&mut self) -> bool {
        self.paths.expire(Instant::now())
    }

    /// Neighbours that vouch for the ways to the backends: those of the config, else the routers in use and the default
    /// routers behind the same links.
    pub(super) fn witnesses(&self, config: &Config) -> Vec<IpAddr> {
        if let Some(configured) = &config.guard.gateway {
            return configured.clone();
        }
        let ways = || self.ways.values().filter_map(|way| way.as_ref().ok());
        let links: BTreeSet<u32> = ways().map(|way| way.ifindex).collect();
        let default = self.default_ways.iter().filter(|way| links.contains(&way.ifindex));
        let routers: BTreeSet<IpAddr> = ways().chain(default).filter_map(|way| way.gateway).collect();
        routers.into_iter().collect()
    }

    /// The link that the route to each backend's address names. Its carrier tells of those below it: a VLAN's follows its
    /// port's, a bond loses it with the last of its ports.
    pub(super) fn links(&self) -> HashMap<IpAddr, u32> {
        let ways = self.ways.iter().filter_map(|(address, way)| Some((*address, way.as_ref().ok()?)));
        ways.filter(|(_, way)| !way.is_local()).map(|(address, way)| (address, way.route_ifindex)).collect()
    }

    /// What the services send to each backend's address inside tunnels.
    pub(super) fn tunnels(&self, config: &Config) -> HashMap<IpAddr, Tunnelled> {
        let mut tunnels: HashMap<IpAddr, Tunnelled> = HashMap::new();
        for service in
            config.services.values().filter(|service| matches!(service.mode, Mode::Ipip | Mode::Gue))
        {
            let vips = config.vips.get(&service.vip).into_iter().flat_map(|vip| &vip.addresses);
            let backends =
                config.pools.get(&service.pool).into_iter().flat_map(|pool| pool.backends.values());
            for address in backends.map(|backend| backend.address) {
                let Some(Ok(way)) = self.ways.get(&address) else { continue };
                let to_backend = tunnels.entry(address).or_insert_with(|| Tunnelled {
                    source: source(config, address, way),
                    gue_port: config.tunnel.gue_port,
                    vips: BTreeSet::new(),
                });
                to_backend.vips.extend(vips.clone());
            }
        }
        tunnels
    }

    /// The backends whose neighbour has stopped answering since the last look, each with that neighbour.
    pub(super) fn newly_silent(&mut self) -> Vec<(IpAddr, IpAddr)> {
        let silent: BTreeSet<NeighbourKey> = {
            let state = self.watch.read();
            let failed = |key: &NeighbourKey| {
                state.neighbour(*key).is_some_and(|it| it.resolution == Resolution::Failed)
            };
            self.hops.neighbours().into_iter().filter(failed).collect()
        };
        let before = std::mem::replace(&mut self.silent, silent);
        let ways = self.ways.iter().filter_map(|(address, way)| Some((*address, way.as_ref().ok()?)));
        let fell = |way: &Egress| {
            let key = (way.route_ifindex, way.next_hop_ip);
            self.silent.contains(&key) && !before.contains(&key)
        };
        ways.filter(|(_, way)| fell(way)).map(|(address, way)| (address, way.next_hop_ip)).collect()
    }

    /// Names of the links towards backends that have no carrier.
    pub(super) fn lost_carriers(&self) -> Vec<String> {
        let links: BTreeSet<u32> =
            self.ways.values().filter_map(|way| way.as_ref().ok()).map(|way| way.ifindex).collect();
        let state = self.watch.read();
        let links = links.iter().filter_map(|ifindex| state.link(*ifindex));
        links.filter(|link| !link.carrier).map(|link| link.name.clone()).collect()
    }

    /// The record of a next hop.
    pub(super) fn record(&self, key: &HopKey) -> HopRecord {
        self.hops.get(key).map(record).unwrap_or_default()
    }

    /// The interfaces of the config that exist, where a service is in mode `nat`.
    fn attached(&self, config: &Config) -> impl Iterator<Item = Link> + use<> {
        let state = self.watch.read();
        let translates = config.services.values().any(|service| service.mode == Mode::Nat);
        let names = config.interfaces.iter().filter(|_| translates);
        let links = names.filter_map(|interface| state.link_named(&interface.name).cloned());
        links.collect::<Vec<_>>().into_iter()
    }

    /// Largest IP packet that every interface sends to a client.
    pub(super) fn client_mtu(&self, config: &Config) -> u16 {
        let links = self.attached(config).map(|link| u16::try_from(link.mtu).unwrap_or(u16::MAX));
        config.mtu.or_else(|| links.min()).unwrap_or(MTU)
    }

    /// VIPs, and addresses that mode `nat` sends from, that are addresses of the host.
    pub(super) fn local(&self, config: &Config) -> BTreeSet<IpAddr> {
        let vips = config.vips.values().flat_map(|vip| vip.addresses.iter().copied());
        let snats = config.services.values().flat_map(|service| &service.snat);
        let vips = vips.chain(snats.map(|snat| snat.address));
        let state = self.watch.read();
        vip::ownership(&state, vips).filter(vip::VipOwnership::is_local).map(|owned| owned.vip).collect()
    }

    /// What is worth knowing, in words: VIPs that have to be routed here, paths narrower than their routes say.
    pub(super) fn notes(&self, config: &Config) -> Vec<String> {
        let vips = config.vips.values().flat_map(|vip| vip.addresses.iter().copied());
        let state = self.watch.read();
        let owned = vip::ownership(&state, vips).filter_map(|owned| owned.note());
        owned.chain(self.paths.notes()).collect()
    }

    /// What keeps packets from reaching backends, in words.
    pub(super) fn problems(&self) -> Vec<String> {
        let ways = self.ways.values().filter_map(|way| way.as_ref().err().cloned());
        let hops = self.hops.iter().filter_map(|(key, state)| match state {
            NextHopState::Unresolved { why, .. } => Some(format!("next hop {}: {why}", key.ip)),
            NextHopState::Resolved(_) => None,
        });
        ways.chain(hops).collect()
    }
}

/// The sources of outer headers towards `address`: those of the config, else the way's.
fn source(config: &Config, address: IpAddr, way: &Egress) -> IpNet {
    let mut configured = config.tunnel.source.iter();
    let configured = configured.find(|net| net.addr().is_ipv4() == address.is_ipv4());
    configured.copied().unwrap_or_else(|| IpNet::from(way.source))
}

/// A next hop as the maps have it.
pub(super) fn record(state: &NextHopState) -> HopRecord {
    match state {
        NextHopState::Resolved(hop) => {
            let mut macs = [0; 12];
            let (to, from) = macs.split_at_mut(6);
            to.copy_from_slice(&hop.dst_mac.0);
            from.copy_from_slice(&hop.src_mac.0);
            let mtu = u16::try_from(hop.mtu).unwrap_or(u16::MAX);
            let mut copy = NextHopCopy { port: hop.ifindex, mtu, macs, ..NextHopCopy::default() };
            for (place, tag) in copy.tags.iter_mut().zip(&hop.vlans) {
                let ([a, b], [c, d]) = (tag.protocol.to_be_bytes(), tag.id.to_be_bytes());
                *place = [a, b, c, d];
                copy.tag_count += 1;
            }
            HopRecord { copy, resolved: true }
        }
        NextHopState::Unresolved { .. } => HopRecord::default(),
    }
}
