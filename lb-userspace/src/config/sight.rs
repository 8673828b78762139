//! Pools of which both directions pass weir.

use std::collections::BTreeSet;

use super::model::{Config, Mode, Protocol};

impl Config {
    /// Names of the pools whose backends' answers to SYNs all pass weir: those with a TCP service, and none in another mode
    /// than `nat`.
    #[must_use]
    pub fn answering_pools(&self) -> BTreeSet<String> {
        let connects = |protocol: &Protocol| *protocol != Protocol::Udp;
        let services = self.services.values().filter(|service| service.protocols.iter().any(connects));
        let (translated, direct): (Vec<_>, Vec<_>) = services.partition(|service| service.mode == Mode::Nat);
        let direct: BTreeSet<&str> = direct.iter().map(|service| service.pool.as_str()).collect();
        let pools = translated.iter().map(|service| service.pool.as_str());
        pools.filter(|pool| !direct.contains(pool)).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse;

    #[test]
    fn a_pool_answers_through_weir_where_all_its_tcp_services_are_in_mode_nat() {
        let service = |name: &str, port: u16, protocol: &str, mode: &str, pool: &str| {
            let snat = if mode == "nat" { "snat = [\"10.0.0.1\"]\n" } else { "" };
            format!(
                "[[service]]\nname = \"{name}\"\nvip = \"192.0.2.1\"\nport = {port}\nprotocol = \"{protocol}\"\n\
                 mode = \"{mode}\"\npool = \"{pool}\"\n{snat}"
            )
        };
        let pool = |name: &str| {
            format!(
                "[[pool]]\nname = \"{name}\"\n[[pool.backend]]\nname = \"{name}-1\"\naddress = \"10.0.0.9\"\n\
                 [[pool.health]]\ntype = \"ping\"\n"
            )
        };
        let text = [
            "interfaces = [\"eth0\"]\n".to_owned(),
            service("a", 1, "tcp", "nat", "all"),
            service("b", 2, "tcp", "nat", "all"),
            service("c", 3, "udp", "dsr-l2", "all"),
            service("d", 4, "tcp", "nat", "some"),
            service("e", 5, "tcp", "dsr-l2", "some"),
            service("f", 6, "tcp", "dsr-l2", "none"),
            service("g", 7, "udp", "nat", "datagrams"),
            ["all", "some", "none", "datagrams"].map(pool).concat(),
        ]
        .concat();
        let config = parse(&text, Path::new("weir.toml")).expect("the config is valid").config;
        assert_eq!(config.answering_pools().into_iter().collect::<Vec<_>>(), ["all"]);
    }
}
