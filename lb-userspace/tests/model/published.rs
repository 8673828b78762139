//! Tables and lists that pools name: no lines that somebody else gets are named, whoever died or wrote in between.

use std::time::Duration;

use lb_common::layout::Span;
use lb_userspace::apply::{Applier, Stored};

use crate::world::{World, limits, pool, web};

/// The lines that pools name as their tables and lists, as first line and end, in order.
fn named(world: &World) -> Vec<(u32, u32)> {
    let spans = world.maps.pools.iter().flat_map(|pool| {
        let (current, previous) = (pool.current.get(), pool.previous.get());
        let previous = if previous == current { 0 } else { previous };
        [current, previous, pool.usable.get()].map(Span)
    });
    let lines = |span: Span| (span.line(), span.line() + span.len().div_ceil(32));
    let mut named: Vec<_> = spans.filter(|span| !span.is_empty()).map(lines).collect();
    named.sort_unstable();
    named
}

#[test]
fn a_list_that_a_writer_from_before_published_is_published_anew() {
    let mut world = World::new(&web(limits(), 40));
    let before = world.applier.slots();
    world.apply(&web(limits(), 41)).unwrap();
    let line = |world: &World| {
        let mut lists = world.maps.pools.iter().map(|pool| Span(pool.usable.get()));
        lists.find(|list| !list.is_empty()).map(Span::line)
    };
    // The thread that detects gets the new writer last; its lines are given up already.
    assert_eq!(before.set_usable("web", &[0, 1, 2]), Stored::Changed);
    let given_up = line(&world);
    let now = world.applier.slots();
    assert_eq!(now.set_usable("web", &[0, 1, 2]), Stored::Changed, "the same backends in lines of its own");
    assert_ne!(line(&world), given_up);
    assert_eq!(now.set_usable("web", &[0, 1, 2]), Stored::Unchanged);
}

#[test]
fn a_table_is_named_once_after_a_daemon_was_killed_between_the_stores_of_both_names() {
    let config = web(limits(), 5);
    let mut world = World::new(&config);
    let pool_record = world.maps.pools.iter().find(|pool| pool.current.get() != 0).unwrap();
    pool_record.previous.set(pool_record.current.get());
    world.applier = Applier::adopt(world.maps.clone(), world.now_ns);
    let mut grown = config;
    for number in 0..12 {
        // Time enough for what is given up to be given to others.
        world.after(Duration::from_secs(400));
        world.tick();
        let name = format!("other-{number}");
        grown.pools.insert(name.clone(), pool(&name, 10 + number, 4));
        world.apply(&grown).unwrap();
        let named = named(&world);
        assert!(named.windows(2).all(|two| two[0].1 <= two[1].0), "{named:?}");
    }
}
