//! Two instances agree.

use std::collections::BTreeMap;

use lb_common::layout::BackendState;
use lb_userspace::apply::Applier;
use lb_userspace::desired::{BackendView, PoolView};

use crate::frames::Kind;
use crate::world::{World, client, limits, maps, pool, web};

#[test]
fn instances_with_the_same_config_seed_and_health_pick_the_same_backend_names() {
    let config = web(limits(), 20);
    let one = World::new(&config);
    // The other came to its config by detours: other ids, another secret.
    let mut other = World::empty(&config.limits);
    other.maps = maps(&config.limits, 99);
    other.applier = Applier::adopt(other.maps.clone(), other.now_ns);
    let mut detour = config.clone();
    detour.pools.insert("aaa".into(), pool("aaa", 9, 30));
    detour.pools.get_mut("web").unwrap().backends.retain(|name, _| name.ends_with('7'));
    other.apply(&detour).unwrap();
    other.apply(&config).unwrap();
    assert_ne!(one.applier.slots().id("web", "b-000"), other.applier.slots().id("web", "b-000"));

    let mut view = PoolView::all_up(&[(0, 100); 20]);
    for (position, state) in [
        (3, BackendState::Draining),
        (4, BackendState::Suspect),
        (5, BackendState::Down),
        (6, BackendState::DownSoft),
    ] {
        view.backends[position] = BackendView { state, ..BackendView::up() };
        view.usable.retain(|usable| *usable != position as u32);
    }
    view.backends[9].admit = 300;
    let mut names = BTreeMap::new();
    for world in [&one, &other] {
        world.applier.slots().publish("web", &view);
    }
    for number in 0..10_000 {
        let packet = client(number, if number % 2 == 0 { Kind::Syn } else { Kind::Udp });
        let (_, name) = one.to(&packet);
        assert_eq!(other.to(&packet).1, name, "{packet:?}");
        *names.entry(name).or_insert(0) += 1;
    }
    assert_eq!(names.len(), 16, "{names:?}");
}
