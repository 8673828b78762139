//! The lists in force: the config's and those of run time, in the form that the packet logic searches.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use lb_common::filter::BuiltList;
use lb_common::layout::{Family, Listed};

use crate::config::model::Config;

/// A list, by family of the VIP's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByFamily {
    v4: Option<Arc<BuiltList>>,
    v6: Option<Arc<BuiltList>>,
}

/// The lists of one VIP alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VipLists {
    deny: ByFamily,
    allow: ByFamily,
}

/// All lists in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    everywhere: ByFamily,
    /// By name of the VIP.
    vips: BTreeMap<String, VipLists>,
}

impl ByFamily {
    /// A list that keeps its prefixes out: a family without any has no list.
    fn deny<'a>(prefixes: impl Iterator<Item = &'a IpNet> + Clone) -> Self {
        let built = |family| {
            let own: Vec<(u128, u8)> = of_family(family, prefixes.clone()).collect();
            (!own.is_empty()).then(|| Arc::new(BuiltList::new(family, own)))
        };
        Self { v4: built(Family::V4), v6: built(Family::V6) }
    }

    /// A list that lets only its prefixes in: with prefixes of one family, nobody of the other.
    fn allow(prefixes: &[IpNet]) -> Self {
        let built = |family| {
            let own = of_family(family, prefixes.iter());
            (!prefixes.is_empty()).then(|| Arc::new(BuiltList::new(family, own)))
        };
        Self { v4: built(Family::V4), v6: built(Family::V6) }
    }

    fn of(&self, address: IpAddr) -> Option<Arc<BuiltList>> {
        if address.is_ipv4() { self.v4.clone() } else { self.v6.clone() }
    }

    /// Takes over what is the same in `before`, so that it is recognised.
    fn share(&mut self, before: &Self) {
        for (own, before) in [(&mut self.v4, &before.v4), (&mut self.v6, &before.v6)] {
            if own == before {
                own.clone_from(before);
            }
        }
    }
}

fn of_family<'a>(
    family: Family,
    prefixes: impl Iterator<Item = &'a IpNet>,
) -> impl Iterator<Item = (u128, u8)> {
    prefixes.filter_map(move |prefix| match (family, prefix) {
        (Family::V4, IpNet::V4(net)) => Some((u32::from(net.network()).into(), net.prefix_len())),
        (Family::V6, IpNet::V6(net)) => Some((u128::from(net.network()), net.prefix_len())),
        _ => None,
    })
}

impl Lists {
    /// The lists of `config` with what is denied at run time, at a VIP or, without one, everywhere. What is as in
    /// `before` is shared with it.
    #[must_use]
    pub fn new<'a>(
        config: &Config,
        denied: impl Iterator<Item = (Option<&'a str>, IpNet)>,
        before: &Self,
    ) -> Self {
        let mut at_run_time: BTreeMap<Option<&str>, Vec<IpNet>> = BTreeMap::new();
        for (vip, prefix) in denied {
            at_run_time.entry(vip).or_default().push(prefix);
        }
        let none = Vec::new();
        let extra = |vip| at_run_time.get(&vip).unwrap_or(&none);
        let mut lists =
            Self { everywhere: ByFamily::deny(config.deny.iter().chain(extra(None))), vips: BTreeMap::new() };
        lists.everywhere.share(&before.everywhere);
        for vip in config.vips.values() {
            let deny = ByFamily::deny(vip.deny.iter().chain(extra(Some(&vip.name))));
            let mut own = VipLists { deny, allow: ByFamily::allow(&vip.allow) };
            if let Some(before) = before.vips.get(&vip.name) {
                own.deny.share(&before.deny);
                own.allow.share(&before.allow);
            }
            if own != VipLists::default() {
                lists.vips.insert(vip.name.clone(), own);
            }
        }
        lists
    }

    /// The lists for an address of a VIP, each at its [`Listed`].
    #[must_use]
    pub fn of(&self, vip: &str, address: IpAddr) -> [Option<Arc<BuiltList>>; 3] {
        let own = self.vips.get(vip);
        let mut lists = [const { None }; 3];
        lists[Listed::DenyEverywhere as usize] = self.everywhere.of(address);
        lists[Listed::Deny as usize] = own.and_then(|own| own.deny.of(address));
        lists[Listed::Allow as usize] = own.and_then(|own| own.allow.of(address));
        lists
    }

    /// Whether a VIP has any list.
    #[must_use]
    pub fn concern(&self, vip: &str) -> bool {
        self.everywhere != ByFamily::default() || self.vips.contains_key(vip)
    }
}
