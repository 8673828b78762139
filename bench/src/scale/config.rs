//! Configs of any size.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// Services of a VIP; the bench's packets know it too.
const PORTS_PER_VIP: u32 = 16;
/// Fewest backends of a pool.
const FEWEST: u32 = 10;

/// The size of a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) services: u32,
    pub(super) backends: u32,
    pub(super) flows_v4: u32,
}

impl Size {
    /// Pools: one for each service, but none with fewer than ten backends.
    pub(super) fn pools(self) -> u32 {
        self.services.min(self.backends / FEWEST).max(1)
    }

    pub(super) fn title(self) -> String {
        format!("{} services, {} backends", self.services, self.backends)
    }
}

/// How backends are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checks {
    None,
    /// The first this many pools by ping, every 100 ms.
    Ping {
        pools: u32,
    },
}

/// A config as text. `weight` is every backend's.
pub(super) fn text(size: Size, checks: Checks, weight: u32) -> String {
    let Size { services, backends, flows_v4 } = size;
    let mut text = format!(
        "interfaces = [\"far\"]\n[limits]\nflows_v4 = {flows_v4}\nflows_v6 = 65536\nservices = {}\nbackends = {}\n\
         maglev_slots = 16_777_216\n",
        services.max(1024),
        backends.max(4096)
    );
    let pools = size.pools();
    for pool in 0..pools {
        let _ = writeln!(text, "[[pool]]\nname = \"pool-{pool}\"\n[[pool.health]]");
        match checks {
            Checks::Ping { pools } if pool < pools => {
                text.push_str("type = \"ping\"\ninterval = \"100ms\"\ntimeout = \"500ms\"\n");
            }
            _ => text.push_str("type = \"none\"\n"),
        }
        for backend in (pool..backends).step_by(pools as usize) {
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 1)) + backend);
            let _ = writeln!(
                text,
                "[[pool.backend]]\nname = \"backend-{backend}\"\naddress = \"{address}\"\nweight = {weight}"
            );
        }
    }
    for service in 0..services {
        let vip = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + service / PORTS_PER_VIP);
        let (port, pool) = (8000 + service % PORTS_PER_VIP, service % pools);
        let _ = writeln!(
            text,
            "[[service]]\nname = \"service-{service}\"\nvip = \"{vip}\"\nport = {port}\nprotocol = \"tcp\"\n\
             mode = \"ipip\"\npool = \"pool-{pool}\"\n[service.timeouts]\ntcp_embryonic = \"1h\""
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_configs_are_valid_and_of_the_size_asked_for() {
        let directory = std::env::temp_dir().join(format!("weir-bench-config-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("weir.toml");
        for (services, backends) in [(10, 10), (10, 1000), (100, 1000)] {
            let size = Size { services, backends, flows_v4: 65_536 };
            std::fs::write(&file, text(size, Checks::Ping { pools: 1 }, 100)).unwrap();
            let config =
                lb_userspace::config::load(&file).map_err(|problems| problems.to_string()).unwrap().config;
            let found: usize = config.pools.values().map(|pool| pool.backends.len()).sum();
            assert_eq!((config.services.len(), found), (services as usize, backends as usize));
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
