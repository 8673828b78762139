//! Why a desired state cannot be applied; nothing was written then.

use std::fmt;

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the texts below say what each is")]
pub enum Limit {
    Vips,
    VipIndexV4,
    VipIndexV6,
    Services,
    Pools,
    Backends,
    NextHops,
    PortIndex,
    RangeLines,
    Maglev,
    Servers,
    Prefixes,
    Snats,
    NatPorts,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vips => "no free vip id: raise limits.services (there are two addresses for each)",
            Self::VipIndexV4 => "no place in the ipv4 vip index: raise limits.services",
            Self::VipIndexV6 => "no place in the ipv6 vip index: raise limits.services",
            Self::Services => "no free service id: raise limits.services",
            Self::Pools => "no free pool id: raise limits.services (there are two pools for each)",
            Self::Backends => {
                "no free backend id: raise limits.backends (removed backends count until they have drained)"
            }
            Self::NextHops => "no free next hop: raise limits.backends",
            Self::PortIndex => "no place in the port index: raise limits.services",
            Self::RangeLines => "no place for port ranges: raise limits.services",
            Self::Servers => "no place in the index of server ids: raise limits.backends",
            Self::Prefixes => {
                "no place for a list of prefixes: raise limits.prefixes (a new list is made beside the old one)"
            }
            Self::Snats => "no free id for a snat address: use fewer (those whose flows go on count too)",
            Self::NatPorts => {
                "no place for the ports of a snat address: raise limits.nat_ports (addresses that were removed count \
                 until their flows are over)"
            }
            Self::Maglev => {
                "no place for a maglev table: raise limits.maglev_slots (the table before is kept for 10 minutes)"
            }
        })
    }
}

/// Why a desired state cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The maps are too small.
    #[error("{0}")]
    Full(Limit),
    /// A VIP has more port ranges than a packet may look through.
    #[error(
        "vip {vip}: {count} port ranges while the change is made, at most {most}: use fewer ranges, \
         or make the change in two reloads"
    )]
    Ranges {
        /// Name of the VIP.
        vip: String,
        /// Ranges of one protocol or more, old and new together.
        count: usize,
        /// Most ranges.
        most: usize,
    },
    /// Two server ids of one pool have one place in the index.
    #[error("pool {pool}: server_id {id} cannot be told from another of the pool: choose another")]
    ServerId {
        /// Name of the pool.
        pool: String,
        /// The later one, in hexadecimal.
        id: String,
    },
    /// A service names a pool or VIP that is not desired: a defect of weir.
    #[error("service {service}: its pool or vip is not part of the desired state")]
    Dangling {
        /// Name of the service.
        service: String,
    },
}
