//! What differs between two configs, for people.

use std::collections::BTreeMap;

use crate::config::model::Config;

/// One line for each thing that was added, removed or changed.
pub(super) fn between(before: &Config, after: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    differences("vip", &before.vips, &after.vips, &mut lines);
    differences("service", &before.services, &after.services, &mut lines);
    for (name, pool) in &after.pools {
        let Some(old) = before.pools.get(name) else { continue };
        differences(&format!("pool {name}: backend"), &old.backends, &pool.backends, &mut lines);
        let same_rest =
            { crate::config::model::Pool { backends: old.backends.clone(), ..pool.clone() } == *old };
        if !same_rest {
            lines.push(format!("pool {name} changed"));
        }
    }
    let missing = BTreeMap::new();
    for (name, pool) in after.pools.iter().filter(|(name, _)| !before.pools.contains_key(*name)) {
        lines.push(format!("pool {name} added"));
        differences(&format!("pool {name}: backend"), &missing, &pool.backends, &mut lines);
    }
    let removed = before.pools.keys().filter(|name| !after.pools.contains_key(*name));
    lines.extend(removed.map(|name| format!("pool {name} removed")));
    let rest = |config: &Config| {
        (config.interfaces.clone(), config.gateway_mac, config.mtu, config.hash_seed, config.tunnel.clone())
    };
    if rest(before) != rest(after) {
        lines.push("interfaces, MTU, MACs, seed or tunnel changed".to_owned());
    }
    if before.next_program != after.next_program {
        lines.push("next_program changed".to_owned());
    }
    if before.deny != after.deny {
        lines.push("deny changed".to_owned());
    }
    if (before.events, &before.hooks) != (after.events, &after.hooks) {
        lines.push("events or hooks changed".to_owned());
    }
    lines
}

fn differences<T: PartialEq>(
    kind: &str,
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
    lines: &mut Vec<String>,
) {
    for (name, value) in after {
        match before.get(name) {
            None => lines.push(format!("{kind} {name} added")),
            Some(old) if old != value => lines.push(format!("{kind} {name} changed")),
            Some(_) => {}
        }
    }
    lines.extend(
        before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("{kind} {name} removed")),
    );
}
