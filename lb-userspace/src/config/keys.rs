//! Every key of every table: what the reader knows, and what `[defaults]` may hold.

/// The top level.
pub(crate) const TOP: &[&str] = &[
    "interfaces",
    "interface",
    "xdp_mode",
    "gateway_mac",
    "mtu",
    "hash_seed",
    "include",
    "limits",
    "tunnel",
    "guard",
    "defaults",
    "deny",
    "next_program",
    "metrics",
    "events",
    "hook",
    "vip",
    "pool",
    "service",
];

/// The top level of an included file.
pub(crate) const INCLUDED: &[&str] = &["vip", "pool", "service"];

/// `[[interface]]`.
pub(crate) const INTERFACE: &[&str] = &["name", "xdp_mode", "mtu", "gateway_mac"];

/// `[limits]`.
pub(crate) const LIMITS: &[&str] =
    &["flows_v4", "flows_v6", "services", "backends", "maglev_slots", "prefixes", "nat_ports"];

/// An entry of `snat` with a range of ports.
pub(crate) const SNAT: &[&str] = &["address", "ports"];

/// `[tunnel]`.
pub(crate) const TUNNEL: &[&str] = &["source", "gue_port"];

/// `[guard]`.
pub(crate) const GUARD: &[&str] = &["panic_threshold", "freeze_max", "gateway"];

/// `[events]`.
pub(crate) const EVENTS: &[&str] = &["max_bytes"];

/// `[[hook]]`.
pub(crate) const HOOK: &[&str] = &["name", "exec", "url", "kinds", "timeout", "queue"];

/// `hash_seed = { file = … }`, `deny = { file = … }`.
pub(crate) const FILE: &[&str] = &["file"];

/// `[[vip]]`.
pub(crate) const VIP: &[&str] =
    &["name", "address", "icmp_echo", "allow", "deny", "new_flow_limit", "unmatched"];

/// `new_flow_limit = { … }`.
pub(crate) const NEW_FLOW_LIMIT: &[&str] = &["per_source", "prefix_v4", "prefix_v6", "total"];

/// `[[pool]]`.
pub(crate) const POOL: &[&str] = &[
    "name",
    "tier_takeover_below",
    "last_resort",
    "max_ejected",
    "passive_sample",
    "passive_excess",
    "slow_start",
    "hold_down",
    "hold_down_max",
    "health",
    "backend",
];

/// `[[pool.health]]`.
pub(crate) const HEALTH: &[&str] = &[
    "type",
    "port",
    "interval",
    "timeout",
    "rise",
    "fall",
    "through",
    "path",
    "host",
    "expect_status",
    "expect_body",
    "connect_timeout",
    "tls_timeout",
    "first_byte_timeout",
    "tls_name",
    "insecure",
    "ca_file",
    "send",
    "expect",
    "query",
    "query_type",
    "expect_rcode",
    "expect_answer",
    "command",
];

/// Keys of `[[pool.health]]` that `type = "http"` and `"https"` have.
pub(crate) const HTTP: &[&str] =
    &["path", "host", "expect_status", "expect_body", "connect_timeout", "first_byte_timeout"];

/// Keys of `[[pool.health]]` that only `type = "https"` has.
pub(crate) const TLS: &[&str] = &["tls_name", "insecure", "ca_file", "tls_timeout"];

/// Keys of `[[pool.health]]` that only `type = "udp"` has.
pub(crate) const UDP: &[&str] = &["send", "expect"];

/// Keys of `[[pool.health]]` that only `type = "dns"` has.
pub(crate) const DNS: &[&str] = &["query", "query_type", "expect_rcode", "expect_answer"];

/// Keys of `[[pool.health]]` that only `type = "exec"` has.
pub(crate) const EXEC: &[&str] = &["command"];

/// `send = { hex = … }`.
pub(crate) const HEX: &[&str] = &["hex"];

/// `[[pool.backend]]`.
pub(crate) const BACKEND: &[&str] =
    &["name", "address", "port", "weight", "tier", "host", "mac", "server_id"];

/// `[[service]]`.
pub(crate) const SERVICE: &[&str] = &[
    "name",
    "vip",
    "port",
    "ports",
    "protocol",
    "pool",
    "mode",
    "snat",
    "scheduler",
    "table_size",
    "on_down",
    "quic_cid",
    "track",
    "timeouts",
    "new_flow_limit",
    "health",
    "backend",
];

/// `quic_cid = { config_id = … }`.
pub(crate) const QUIC: &[&str] = &["config_id", "server_id_length"];

/// `[service.timeouts]`.
pub(crate) const TIMEOUTS: &[&str] = &["tcp_embryonic", "tcp_established", "tcp_closing", "udp"];

/// `[defaults]`: the keys of vip, pool, health and service tables, without those that tell one
/// table from another. `port` is the service's: a check's port follows from it.
pub(crate) const DEFAULTS: &[&str] = &[
    // vip
    "icmp_echo",
    "allow",
    "deny",
    "new_flow_limit",
    "unmatched",
    // pool
    "tier_takeover_below",
    "last_resort",
    "max_ejected",
    "passive_sample",
    "passive_excess",
    "slow_start",
    "hold_down",
    "hold_down_max",
    "health",
    // health
    "type",
    "interval",
    "timeout",
    "rise",
    "fall",
    "through",
    "path",
    "host",
    "expect_status",
    "expect_body",
    "connect_timeout",
    "tls_timeout",
    "first_byte_timeout",
    "tls_name",
    "insecure",
    "ca_file",
    "send",
    "expect",
    "query",
    "query_type",
    "expect_rcode",
    "expect_answer",
    "command",
    // service
    "vip",
    "port",
    "ports",
    "protocol",
    "pool",
    "mode",
    "snat",
    "scheduler",
    "table_size",
    "on_down",
    "quic_cid",
    "track",
    "timeouts",
];

/// The top level of `decap.toml`.
pub(crate) const DECAP: &[&str] = &["interface", "vip", "source", "gue_port", "mss", "mode"];

/// Tables by name, for the hint that a key belongs elsewhere.
const TABLES: &[(&str, &[&str])] = &[
    ("[limits]", LIMITS),
    ("[tunnel]", TUNNEL),
    ("[guard]", GUARD),
    ("[events]", EVENTS),
    ("[service.timeouts]", TIMEOUTS),
    ("[[service]]", SERVICE),
    ("[[pool]]", POOL),
    ("[[pool.health]]", HEALTH),
    ("[[pool.backend]]", BACKEND),
    ("[[vip]]", VIP),
    ("[[interface]]", INTERFACE),
    ("[[hook]]", HOOK),
    ("the top level", TOP),
];

/// What to do about a key that a table does not have.
pub(crate) fn remedy(unknown: &str, known: &[&str]) -> String {
    if let Some(nearest) = nearest(unknown, known.iter().copied()) {
        return format!("did you mean `{nearest}`?");
    }
    if known == INCLUDED && TOP.contains(&unknown) {
        return "included files hold [[vip]], [[pool]] and [[service]] only; move it to the main file"
            .to_owned();
    }
    if let Some((table, _)) = TABLES.iter().find(|(_, keys)| keys.contains(&unknown)) {
        return format!("it is a key of {table}");
    }
    format!("known keys: {}", known.join(", "))
}

/// The candidate that a misspelt word most likely means.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let similarity = |candidate: &str| {
        // An abbreviation shares its beginning: `prot` is nearer to `protocol` than to `port`.
        let prefix = word.len() >= 3 && (candidate.starts_with(word) || word.starts_with(candidate));
        // Swapped letters weigh too much in short words.
        let typing_error = word.len() >= 3 && strsim::osa_distance(word, candidate) == 1;
        let floor = match (prefix, typing_error) {
            (true, _) => 1.0,
            (false, true) => 0.99,
            (false, false) => 0.0,
        };
        strsim::jaro_winkler(word, candidate).max(floor)
    };
    let mut best = None;
    for candidate in candidates {
        let score = similarity(candidate);
        if score >= 0.8 && best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}
