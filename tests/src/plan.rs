//! The lab's addresses, in one place.
//!
//! ```text
//!  client-1 … client-N          clients  203.0.113.0/24   2001:db8:c::/64
//!      └──────┬──────┘                                     VIPs routed to weir:
//!           edge ────── weir    front    10.0.0.0/24      fd00::/64
//!           │  │         │               (weir: eth0)      198.51.100.0/24  2001:db8::/64
//!           │  └──┬──────┘      direct   10.0.1.0/24      fd00:1::/64
//!           │     │                      (weir: eth1)
//!           │  direct-1 … direct-N
//!         router                uplink   10.0.3.0/24      fd00:3::/64
//!           │
//!       routed-1 … routed-M     routed   10.0.2.0/24      fd00:2::/64
//! ```
//!
//! Host numbers are the same in both families: the decimal digits of the IPv4 host part are the
//! hexadecimal digits of the IPv6 one (`10.0.1.12`, `fd00:1::12`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, for tests that hold for either.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// One host's pair of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// The address of a family.
    pub const fn of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        }
    }
}

/// A layer-2 segment: a /24 and a /64.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    v4: [u8; 3],
    v6: [u16; 4],
    /// The fifth byte of the MAC addresses on it.
    mac: u8,
}

/// Clients and the edge router.
pub const CLIENTS: Segment = Segment { v4: [203, 0, 113], v6: [0x2001, 0xdb8, 0xc, 0], mac: 0xc };
/// The edge router and weir's `eth0`.
pub const FRONT: Segment = Segment { v4: [10, 0, 0], v6: [0xfd00, 0, 0, 0], mac: 0 };
/// Weir's `eth1`, the directly attached backends and the edge router.
pub const DIRECT: Segment = Segment { v4: [10, 0, 1], v6: [0xfd00, 1, 0, 0], mac: 1 };
/// The backends behind the router.
pub const ROUTED: Segment = Segment { v4: [10, 0, 2], v6: [0xfd00, 2, 0, 0], mac: 2 };
/// The edge router and the router.
pub const UPLINK: Segment = Segment { v4: [10, 0, 3], v6: [0xfd00, 3, 0, 0], mac: 3 };
/// VIPs: on no segment, routed to weir, and on `lo` of each backend. `lb-ebpf/src/lab.rs` knows them too.
pub const VIPS: Segment = Segment { v4: [198, 51, 100], v6: [0x2001, 0xdb8, 0, 0], mac: 0xff };

/// The port of backends to which a proxy of the lab sends connections on: witnessed as if they went to a VIP.
pub const RELAYED_PORT: u16 = 8081;
/// The router's number on a segment: the edge's everywhere but on `ROUTED`, where it is the router's.
pub const GATEWAY: u8 = 1;
/// Weir's number on `FRONT` and `DIRECT`, and the router's on `UPLINK`.
pub const BEHIND_GATEWAY: u8 = 2;
/// The first of the VIPs.
pub const FIRST_VIP: u8 = 10;
/// The first of the backends on their segment.
pub const FIRST_BACKEND: u8 = 11;
/// The first address of the first client; the next client's come `CLIENT_STEP` later.
pub const FIRST_CLIENT: u8 = 10;
/// The most source addresses a client has.
pub const CLIENT_STEP: u8 = 40;

impl Segment {
    /// The addresses with a host number.
    pub const fn host(&self, number: u8) -> Addresses {
        let [a, b, c] = self.v4;
        let [e, f, g, h] = self.v6;
        let digits = ((number as u16 / 100) << 8) | ((number as u16 / 10 % 10) << 4) | (number as u16 % 10);
        Addresses { v4: Ipv4Addr::new(a, b, c, number), v6: Ipv6Addr::new(e, f, g, h, 0, 0, 0, digits) }
    }

    /// The locally administered MAC address of a host number.
    pub const fn mac(&self, number: u8) -> [u8; 6] {
        [2, 0, 0, 0, self.mac, number]
    }

    /// The IPv4 prefix and the IPv6 prefix.
    pub fn prefixes(&self) -> [String; 2] {
        let Addresses { v4, v6 } = self.host(0);
        [format!("{v4}/24"), format!("{v6}/64")]
    }
}

/// The addresses of the VIP with an index from 0.
pub const fn vip(index: u8) -> Addresses {
    VIPS.host(FIRST_VIP + index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_numbers_read_the_same_in_both_families() {
        let twelve = DIRECT.host(112);
        assert_eq!(twelve.v4.to_string(), "10.0.1.112");
        assert_eq!(twelve.v6.to_string(), "fd00:1::112");
        assert_eq!(vip(0).v6.to_string(), "2001:db8::10");
        assert_eq!(VIPS.prefixes(), ["198.51.100.0/24", "2001:db8::/64"]);
    }
}
