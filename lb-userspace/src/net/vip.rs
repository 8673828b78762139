//! Which VIPs are addresses of the host.
//!
//! Receives the state and the VIPs; decides nothing itself: `unmatched = "auto"` and `status` do. A VIP that is
//! no address of the host has to be routed to it. Whether the router does so cannot be seen from here.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::snapshot::NetState;

/// Where a VIP is configured on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipOwnership {
    /// The VIP.
    pub vip: IpAddr,
    /// Names of the links that have it as an address; empty when it is no address of the host.
    pub links: Vec<String>,
}

impl VipOwnership {
    /// Whether the host's stack takes packets to the VIP as its own.
    #[must_use]
    pub fn is_local(&self) -> bool {
        !self.links.is_empty()
    }

    /// What an operator has to know, where the VIP is no address of the host.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let vip = self.vip;
        let prefix = if vip.is_ipv4() { 32 } else { 128 };
        (!self.is_local()).then(|| {
            format!(
                "vip {vip}: not an address of this host, so nobody answers ARP or ND for it here: route \
                 {vip}/{prefix} to this host, or add it (`ip address add {vip}/{prefix} dev lo`)"
            )
        })
    }
}

/// Says of each VIP whether it is an address of the host.
pub fn ownership<'a>(
    net: &'a NetState,
    vips: impl IntoIterator<Item = IpAddr> + 'a,
) -> impl Iterator<Item = VipOwnership> + 'a {
    vips.into_iter().map(|vip| {
        let holders = net.addresses().filter(|address| address.ip == vip);
        let links = holders.filter_map(|address| net.link(address.ifindex));
        VipOwnership { vip, links: links.map(|link| link.name.clone()).collect() }
    })
}
