//! A private instance: maps filled from a config, every backend up, no network.
//!
//! The same config and frames give the same answer on every machine: secret and time are fixed, every backend is
//! behind a next hop of its own on the interface that frames come in by, and outer sources that the config does not
//! tell are those of the documentation prefixes (RFC 5737, RFC 3849).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use lb_common::layout::NextHopCopy;
use lb_common::trace::Trace;

use crate::apply::Applier;
use crate::config::model::{Config, Mac};
use crate::desired::{Desired, Egress, HopKey, HopRecord, Inputs};
use crate::failure::{Code, Failure};
use crate::filter::Lists;
use crate::maps::load::{self, Loaded};
use crate::maps::mapping::{Access, Mapping};
use crate::maps::schema;
use crate::maps::set::{MapSet, MapSource as _};
use crate::maps::sizes::Sizes;

const SECRET: u64 = 0x7765_6972_2065_7870;
/// A time at which nothing has expired, past the first tick.
const NOW_NS: u64 = 1 << 42;
/// The loopback interface, by which the kernel lets frames of a test run come in.
const INGRESS: u32 = 1;
const MTU: u16 = 1500;
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

pub(super) struct Instance {
    pub(super) loaded: Loaded,
    pub(super) maps: MapSet,
    pub(super) trace: Mapping<Trace>,
}

pub(super) fn instance(config: &Config) -> Result<Instance, Failure> {
    let sizes = Sizes::of(&config.limits);
    let mut geometry = sizes.geometry(SECRET);
    geometry.fixed_now_ns = NOW_NS;
    let (loaded, maps) = load::load_offline(&sizes, &geometry)?;
    let specs = schema::maps(&sizes);
    let spec = specs.iter().find(|spec| spec.pin == "trace").expect("the schema has the trace");
    let trace = loaded.open(spec, Access::ReadWrite)?;
    load::describe(&maps, &config.limits, geometry);

    let maps = Arc::new(maps);
    let lists = Lists::new(config, std::iter::empty(), &Lists::default());
    let inputs = Inputs {
        config,
        lists: &lists,
        weight: &|_, backend| backend.weight,
        limit: &|service| service.new_flow_limit,
        views: &BTreeMap::new(),
        egress: &|address, mac| Some(egress(config, address, mac)),
        client_mtu: config.mtu.unwrap_or(MTU),
        next_hop: &next_hop,
    };
    let desired = Desired::new(&inputs, &BTreeSet::new());
    let mut applier = Applier::adopt(maps.clone(), NOW_NS);
    applier.apply(&Arc::new(desired), NOW_NS).map_err(|error| {
        Failure::new(Code::Usage, format!("the config does not fit its [limits]: {error}"))
    })?;
    drop(applier);
    let maps = Arc::into_inner(maps).expect("the applier was the other owner");
    Ok(Instance { loaded, maps, trace })
}

fn egress(config: &Config, address: IpAddr, mac: Option<Mac>) -> Egress {
    let mtu = u32::from(config.mtu.unwrap_or(MTU));
    let next_hop = HopKey { ifindex: INGRESS, ip: address, mac: mac.or(config.gateway_mac), mtu };
    let tunnel = config.tunnel.source.iter().find(|net| net.addr().is_ipv4() == address.is_ipv4());
    let (source, entropy_bits) = match (tunnel, address) {
        (Some(net), _) => match (net.max_prefix_len() - net.prefix_len()).min(32) {
            0 => (net.addr(), 0),
            bits => (net.network(), bits),
        },
        (None, IpAddr::V4(_)) => (SOURCE_V4.into(), 0),
        (None, IpAddr::V6(_)) => (SOURCE_V6.into(), 0),
    };
    Egress { next_hop, source, entropy_bits }
}

/// The next hop's address is the configured one, else made from the end of its IP address.
fn next_hop(key: &HopKey) -> HopRecord {
    let made = match key.ip {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            [a, b, c, d]
        }
    };
    let [a, b, c, d] = made;
    let destination = key.mac.map_or([2, 1, a, b, c, d], |mac| mac.0);
    let mut macs = [0; 12];
    let (to, from) = macs.split_at_mut(6);
    to.copy_from_slice(&destination);
    from.copy_from_slice(&OWN_MAC);
    let mtu = u16::try_from(key.mtu).unwrap_or(u16::MAX);
    HopRecord { copy: NextHopCopy { port: INGRESS, mtu, macs, ..NextHopCopy::default() }, resolved: true }
}
