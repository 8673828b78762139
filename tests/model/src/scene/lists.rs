//! The lists that judge the scene's clients.

use std::net::IpAddr;

use lb_common::filter::BuiltList;
use lb_common::layout::{Family, Listed, Lists};

use super::{Scene, client};
use crate::store::Store;

/// Clients that are refused everywhere: this one and its neighbours, four of IPv4 and two of IPv6.
pub const DENIED: u32 = 44;
/// The client that VIPs 1 and 3 refuse.
pub const DENIED_THERE: u32 = 22;
/// VIP 3 lets only clients below this one in.
pub const ALLOWED: u32 = 16;

/// The prefix of a client that has the first so many bits of it.
fn prefix(n: u32, bits: [u8; 2]) -> impl Fn(Family) -> BuiltList {
    move |family| match client(family, n) {
        IpAddr::V4(address) => BuiltList::new(family, [(u32::from(address).into(), bits[0])]),
        IpAddr::V6(address) => BuiltList::new(family, [(address.into(), bits[1])]),
    }
}

/// Gives VIP 0 the list of everywhere, VIP 1 that and one of its own, VIP 3 those and an allow list.
pub(super) fn fill<S: Store>(store: &mut S) {
    let everywhere = prefix(DENIED, [30, 64]);
    let deny = prefix(DENIED_THERE, [32, 128]);
    let allow = prefix(0, [28, 61]);
    let mut line = 1;
    for family in [Family::V4, Family::V6] {
        let lists = [everywhere(family), deny(family), allow(family)];
        for (n, has) in [(0, 1), (1, 2), (3, 3)] {
            let mut named = Lists::default();
            for (which, list) in Listed::ALL.iter().zip(&lists).take(has) {
                named.set_list(*which, list.words(line), list.lines().len() as u32);
                for value in list.lines() {
                    store.filter_line(line, |line| *line = *value);
                    line += 1;
                }
            }
            store.filter_line(line, |line| *line = named);
            store.vip(Scene::vip_id(family, n), |vip| vip.lists.set(line.into()));
            line += 1;
        }
    }
}
