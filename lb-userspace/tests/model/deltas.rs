//! A state of which some pools were made anew is applied like the same state made anew as a whole.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::layout::ServerId;
use lb_userspace::apply::{Applier, ApplyError, Limit, Summary, Write};
use lb_userspace::config::model::{Backend, Config, Limits};
use lb_userspace::desired::Desired;
use proptest::prelude::*;

use crate::world::{World, backend, config, desired, limits, pool, port, service, vip, with_inputs};

const POOLS: usize = 4;
const BACKENDS: u8 = 5;

/// A change of one pool.
#[derive(Clone, Debug)]
enum Edit {
    Weight(u8, u16),
    Tier(u8, u8),
    Remove(u8),
    /// A backend at one of two addresses.
    Put(u8, u8),
    /// What connection IDs call a backend; two may have the same.
    ServerId(u8, Option<u8>),
    /// Takes the pool and its service away, or brings them back.
    Toggle,
}

fn edit() -> impl Strategy<Value = (usize, Edit)> {
    let backend = 0..BACKENDS;
    let edit = prop_oneof![
        4 => (backend.clone(), prop::sample::select(vec![0u16, 1, 50, 100])).prop_map(|(b, w)| Edit::Weight(b, w)),
        1 => (backend.clone(), 0u8..2).prop_map(|(b, tier)| Edit::Tier(b, tier)),
        2 => backend.clone().prop_map(Edit::Remove),
        2 => (backend.clone(), 0u8..2).prop_map(|(b, address)| Edit::Put(b, address)),
        2 => (backend, prop::option::of(0u8..8)).prop_map(|(b, id)| Edit::ServerId(b, id)),
        1 => Just(Edit::Toggle),
    ];
    (0..POOLS, edit)
}

fn name(number: usize) -> String {
    format!("p{number}")
}

fn add(config: &mut Config, number: usize) {
    let name = name(number);
    config.pools.insert(name.clone(), pool(&name, number as u8, BACKENDS.into()));
    config.services.insert(name.clone(), service(&name, "v", port(8000 + number as u16), &name));
}

/// Whether pools have other backends, or services changed: then the whole state is made anew.
fn change(config: &mut Config, number: usize, edit: &Edit) -> bool {
    let pool = name(number);
    if matches!(edit, Edit::Toggle) {
        match config.pools.remove(&pool) {
            Some(_) => drop(config.services.remove(&pool)),
            None => add(config, number),
        }
        return true;
    }
    let Some(of) = config.pools.get_mut(&pool) else { return false };
    let key = |backend: u8| format!("b-{backend:03}");
    match *edit {
        Edit::Weight(b, weight) => of.backends.entry(key(b)).and_modify(|of| of.weight = weight),
        Edit::Tier(b, tier) => of.backends.entry(key(b)).and_modify(|of| of.tier = tier),
        Edit::ServerId(b, id) => of.backends.entry(key(b)).and_modify(|of| {
            of.server_ids = id.iter().map(|id| ServerId::new(&[0xc0, *id]).unwrap()).collect();
        }),
        Edit::Put(b, address) => {
            let address = IpAddr::from([10, number as u8, 7 + address, b + 1]);
            let as_before = of.backends.remove(&key(b)).unwrap_or_else(|| backend(&key(b), address));
            of.backends.entry(key(b)).or_insert(Backend { address, ..as_before });
            return true;
        }
        Edit::Remove(b) => {
            of.backends.remove(&key(b));
            return true;
        }
        Edit::Toggle => return true,
    };
    false
}

/// What one applier does, and in which order. Where in its line an entry of an index goes is free (and so is whether the line
/// overflows, and how many writes that takes), and the order in which services lose their names.
fn applied(world: &mut World, desired: &Arc<Desired>) -> (Result<Summary, ApplyError>, Vec<Write>) {
    let mut writes = Vec::new();
    let result = world.applier.apply_stepwise(desired, world.now_ns, &mut |write| {
        if !matches!(write, Write::Entry { .. } | Write::Overflow { .. } | Write::ServiceInfo { .. }) {
            writes.push(write.clone());
        }
    });
    (result.map(|summary| Summary { writes: writes.len(), ..summary }), writes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn pools_made_anew_are_written_as_if_everything_were(
        lines in 300u32..700,
        steps in prop::collection::vec((prop::collection::vec(edit(), 1..4), 0u64..2), 1..12),
    ) {
        // Tables of changes that follow each other closely do not always fit beside those before: then nothing changes.
        // Ids are enough for all: which of those that were given back comes next is free, too.
        let limits = Limits { maglev_slots: lines * 32, services: 64, backends: 1024, ..limits() };
        let mut config = config(limits);
        config.vips.insert("v".into(), vip("v", &["198.51.100.10", "2001:db8::10"]));
        (0..POOLS).for_each(|number| add(&mut config, number));
        let [mut whole, mut parts] = [World::new(&config), World::new(&config)];
        for (edits, ticks) in steps {
            let mut next = config.clone();
            let changes: Vec<bool> =
                edits.iter().map(|(number, edit)| change(&mut next, *number, edit)).collect();
            let anew = desired(&next);
            let in_part = match changes.contains(&true) {
                true => desired(&next),
                false => {
                    let names: Vec<String> = edits.iter().map(|(number, _)| name(*number)).collect();
                    let now = parts.applier.applied().unwrap().clone();
                    Arc::new(with_inputs(&next, &BTreeMap::new(), |inputs| {
                        now.with_pools(inputs, names.iter().map(String::as_str))
                    }))
                }
            };
            let (one, two) = (applied(&mut whole, &anew), applied(&mut parts, &in_part));
            prop_assert_eq!(&one.0, &two.0);
            prop_assert!(one.1 == two.1, "other writes: {:?}", two.0);
            if one.0.is_ok() {
                config = next;
                // One that knows nothing but the maps plans everything, and finds nothing to do. The flag of a line whose
                // overflow went with a backend that had left stays until the index is planned again: it costs a look.
                let mut other = Applier::adopt(parts.maps.clone(), parts.now_ns);
                let mut missed = 0;
                let result = other.apply_stepwise(&in_part, parts.now_ns, &mut |write| {
                    missed += usize::from(!matches!(write, Write::Overflow { word: 0, .. }));
                });
                match result {
                    Ok(_) => prop_assert_eq!(missed, 0),
                    // It takes places of its own for lists that it may have to publish.
                    Err(full) => prop_assert_eq!(full, ApplyError::Full(Limit::Maglev)),
                }
            } else {
                prop_assert!(one.1.is_empty());
            }
            for world in [&mut whole, &mut parts] {
                world.after_ticks(ticks * 200);
            }
            prop_assert_eq!(whole.tick(), parts.tick());
        }
    }
}
