//! Outer headers come from addresses that no receiver of them has.

use std::net::IpAddr;

use crate::config::findings::Findings;
use crate::config::model::{Config, Mode};
use crate::config::resolve::Places;

/// Warns of sources of tunnels that are addresses of their receivers, whose kernels take such packets for forged ones. It
/// works all the same where `weir decap` opens the tunnels, and where the backend is the host itself.
pub(crate) fn validate(config: &Config, places: &Places, findings: &Findings) {
    let tunnelled =
        || config.services.values().filter(|service| matches!(service.mode, Mode::Ipip | Mode::Gue));
    let vips = || tunnelled().filter_map(|service| config.vips.get(&service.vip));
    let backends = || {
        let pools = tunnelled().filter_map(|service| config.pools.get(&service.pool));
        pools.flat_map(|pool| pool.backends.values())
    };
    for (source, at) in config.tunnel.source.iter().zip(&places.tunnel_sources) {
        let holds = |address: &IpAddr| source.contains(address);
        let vip = vips().find(|vip| vip.addresses.iter().any(holds));
        let owner = match (vip, backends().find(|backend| holds(&backend.address))) {
            (Some(vip), _) => format!("vip {:?}", vip.name),
            (None, Some(backend)) => format!("backend {:?}", backend.name),
            (None, None) => continue,
        };
        let verb = if source.prefix_len() == source.max_prefix_len() { "is" } else { "holds" };
        let shown = if verb == "is" { source.addr().to_string() } else { source.to_string() };
        let message = format!(
            "source {shown} {verb} an address of {owner}: a backend that has it takes such packets for forged ones \
             unless `weir decap` opens them; give an address that only this host has"
        );
        findings.warning(at, "[tunnel]", "source", message);
    }
}
