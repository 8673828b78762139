//! From drafts to one configuration: names looked up, own VIPs made, names unique.
//!
//! What cannot be resolved is left out and has its finding, so that later checks see whole objects.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::draft::Drafts;
use super::findings::Findings;
use super::keys;
use super::model::{Config, Mode, Pool, Scheduler, Service};
use super::pool::PoolDraft;
use super::quic::QuicDraft;
use super::service::{ServiceDraft, VipRef};
use super::source::Place;
use super::vip;

/// Where the objects of a [`Config`] are written, by name.
#[derive(Default)]
pub(crate) struct Places {
    pub(crate) vips: BTreeMap<String, Place>,
    pub(crate) pools: BTreeMap<String, PoolPlaces>,
    pub(crate) services: BTreeMap<String, ServicePlaces>,
    /// One per source of `[tunnel]`.
    pub(crate) tunnel_sources: Vec<Place>,
    /// Every service written, also those left out.
    service_names: BTreeMap<String, Place>,
    /// Names of VIPs by address.
    vip_names: BTreeMap<IpAddr, String>,
}

/// Where a pool is written.
pub(crate) struct PoolPlaces {
    pub(crate) order: usize,
    pub(crate) subject: String,
    pub(crate) place: Place,
    /// Of each check, in the order of [`Pool::checks`].
    pub(crate) checks: Vec<CheckPlaces>,
    pub(crate) backends: BTreeMap<String, BackendPlaces>,
    /// Backends written, valid or not.
    pub(crate) backends_written: usize,
}

/// Where a check is written.
pub(crate) struct CheckPlaces {
    pub(crate) subject: String,
    pub(crate) place: Place,
    /// Where it is told its way; a way of `[defaults]` is told nowhere.
    pub(crate) through: Option<Place>,
}

/// Where a backend is written.
pub(crate) struct BackendPlaces {
    pub(crate) subject: String,
    pub(crate) name: Place,
    pub(crate) address: Place,
    pub(crate) port: Option<Place>,
    pub(crate) server_id: Option<Place>,
}

/// Where a service is written.
pub(crate) struct ServicePlaces {
    pub(crate) order: usize,
    pub(crate) subject: String,
    pub(crate) ports: Place,
    /// The port written first; `None` for any port.
    pub(crate) first_port: Option<u16>,
    pub(crate) mode: Place,
    /// One per entry of `snat`.
    pub(crate) snat: Vec<Place>,
    pub(crate) table_size: Option<Place>,
    pub(crate) scheduler: Option<Place>,
    pub(crate) quic: Option<(QuicDraft, Place)>,
    pub(crate) place: Place,
}

/// Builds the configuration.
pub(crate) fn resolve(drafts: Drafts, findings: &Findings) -> (Config, Places) {
    let mut places = Places { tunnel_sources: drafts.tunnel_sources, ..Places::default() };
    let mut config = Config {
        interfaces: drafts.interfaces,
        gateway_mac: drafts.gateway_mac,
        mtu: drafts.mtu,
        hash_seed: drafts.hash_seed,
        limits: drafts.limits,
        deny: drafts.deny,
        next_program: drafts.next_program,
        tunnel: drafts.tunnel,
        guard: drafts.guard,
        vips: BTreeMap::new(),
        pools: BTreeMap::new(),
        services: BTreeMap::new(),
        events: drafts.events,
        hooks: drafts.hooks,
    };
    add_vips(drafts.vips, &mut config, &mut places, findings);
    for (order, draft) in drafts.pools.into_iter().enumerate() {
        add_pool(draft, order, &mut config, &mut places, findings);
    }
    for (order, draft) in drafts.services.into_iter().enumerate() {
        add_service(draft, order, &drafts.vip_defaults, &mut config, &mut places, findings);
    }
    (config, places)
}

fn add_vips(drafts: Vec<vip::VipDraft>, config: &mut Config, places: &mut Places, findings: &Findings) {
    let mut seen: BTreeMap<IpAddr, Place> = BTreeMap::new();
    for draft in drafts {
        let subject = format!("vip {:?}", draft.vip.name);
        for (address, place) in draft.vip.addresses.iter().zip(&draft.address_places) {
            if let Some(first) = seen.get(address) {
                let message = format!("address {address} is given twice, first at {}", first.brief());
                findings.error(place, &subject, "address", message);
            }
            seen.entry(*address).or_insert_with(|| place.clone());
        }
        let name = draft.vip.name.clone();
        match places.vips.get(&name) {
            Some(first) => duplicate(findings, &draft.place, &subject, first),
            None => {
                for address in &draft.vip.addresses {
                    places.vip_names.entry(*address).or_insert_with(|| name.clone());
                }
                places.vips.insert(name.clone(), draft.place);
                config.vips.insert(name, draft.vip);
            }
        }
    }
}

fn add_pool(draft: PoolDraft, order: usize, config: &mut Config, places: &mut Places, findings: &Findings) {
    if draft.name.is_empty() {
        return;
    }
    if let Some(first) = places.pools.get(&draft.name) {
        let from_service = [&draft.subject, &first.subject].map(|subject| subject.starts_with("service"));
        let own = match from_service {
            // Two services of one name: said of the services.
            [true, true] => return,
            [false, false] => "",
            _ => " (a service's own tables make a pool with the service's name)",
        };
        let message = format!("pool {:?} is given twice, first at {}{own}", draft.name, first.place.brief());
        findings.error(&draft.place, &draft.subject, "name", message);
        return;
    }
    let mut backends = BTreeMap::new();
    let mut backend_places: BTreeMap<String, BackendPlaces> = BTreeMap::new();
    for draft in draft.backends {
        let name = draft.backend.name.clone();
        if let Some(first) = backend_places.get(&name) {
            duplicate(findings, &draft.name_place, &draft.subject, &first.name);
            continue;
        }
        let place = BackendPlaces {
            subject: draft.subject,
            name: draft.name_place,
            address: draft.address_place,
            port: draft.port_place,
            server_id: draft.server_id_place,
        };
        backend_places.insert(name.clone(), place);
        backends.insert(name, draft.backend);
    }
    let checks = draft.checks.into_iter().map(|draft| (draft.places, draft.check));
    let (check_places, checks) = checks.unzip();
    let pool = Pool {
        name: draft.name.clone(),
        tier_takeover_below: draft.settings.tier_takeover_below,
        last_resort: draft.settings.last_resort,
        max_ejected: draft.settings.max_ejected,
        passive_sample: draft.settings.passive_sample,
        passive_excess: draft.settings.passive_excess,
        slow_start: draft.settings.slow_start,
        hold_down: draft.settings.hold_down,
        hold_down_max: draft.settings.hold_down_max,
        checks,
        backends,
    };
    let place = PoolPlaces {
        order,
        subject: draft.subject,
        place: draft.place,
        checks: check_places,
        backends: backend_places,
        backends_written: draft.backends_written,
    };
    places.pools.insert(draft.name.clone(), place);
    config.pools.insert(draft.name, pool);
}

fn add_service(
    draft: ServiceDraft,
    order: usize,
    vip_defaults: &vip::Settings,
    config: &mut Config,
    places: &mut Places,
    findings: &Findings,
) {
    if let Some(first) = places.service_names.get(&draft.name).filter(|_| !draft.name.is_empty()) {
        duplicate(findings, &draft.place, &draft.subject, first);
        return;
    }
    places.service_names.insert(draft.name.clone(), draft.place.clone());
    let vip = draft.vip.and_then(|(vip, place)| {
        look_up_vip(vip, vip_defaults, config, places, &place)
            .map_err(|message| findings.error(&place, &draft.subject, "vip", message))
            .ok()
    });
    let pool = draft.pool.filter(|(name, place)| {
        let known = config.pools.contains_key(name);
        if !known && !name.is_empty() {
            let remedy = did_you_mean(name, config.pools.keys(), "[[pool]]");
            findings.error(place, &draft.subject, "pool", format!("pool {name:?} does not exist{remedy}"));
        }
        known
    });
    let (Some(vip), Some(ports), Some((pool, _))) = (vip, draft.ports, pool) else {
        return;
    };
    if draft.name.is_empty() || draft.protocols.is_empty() {
        return;
    }
    let settings = draft.settings;
    let (mode, mode_place) = settings.mode.unwrap_or((Mode::Ipip, draft.place.clone()));
    let (table_size, table_size_place) = settings.table_size.unzip();
    let (scheduler, scheduler_place) = settings.scheduler.unzip();
    let of_vip = config.vips.get(&vip).and_then(|vip| vip.new_flow_limit);
    let new_flow_limit = match settings.new_flow_limit {
        Some((Some(_), place)) if !settings.track => {
            let message = "new_flow_limit needs track = true: without flow entries every packet would count as a new flow";
            findings.error(&place, &draft.subject, "new_flow_limit", message);
            None
        }
        Some((own, _)) => own,
        None => of_vip.filter(|_| settings.track),
    };
    let (snat, snat_places) = settings.snat.into_iter().unzip();
    let service = Service {
        name: draft.name.clone(),
        vip,
        ports: ports.ports,
        protocols: draft.protocols,
        pool,
        mode,
        snat,
        scheduler: scheduler.unwrap_or(Scheduler::Maglev),
        table_size,
        on_down: settings.on_down,
        quic: Vec::new(),
        track: settings.track,
        timeouts: settings.timeouts,
        new_flow_limit,
    };
    let place = ServicePlaces {
        order,
        subject: draft.subject,
        ports: ports.place,
        first_port: ports.first,
        mode: mode_place,
        snat: snat_places,
        table_size: table_size_place,
        scheduler: scheduler_place,
        quic: settings.quic,
        place: draft.place,
    };
    places.services.insert(draft.name.clone(), place);
    config.services.insert(draft.name, service);
}

/// The name of the VIP that a service means; makes the VIP where an address has none yet.
fn look_up_vip(
    vip: VipRef,
    settings: &vip::Settings,
    config: &mut Config,
    places: &mut Places,
    place: &Place,
) -> Result<String, String> {
    let address = match vip {
        VipRef::Name(name) if config.vips.contains_key(&name) => return Ok(name),
        VipRef::Name(name) => {
            let remedy = did_you_mean(&name, config.vips.keys(), "[[vip]]");
            return Err(format!("vip {name:?} is neither an address nor the name of a [[vip]]{remedy}"));
        }
        VipRef::Address(address) => address,
    };
    match places.vip_names.get(&address).and_then(|name| config.vips.get(name)) {
        Some(owner) if owner.addresses.len() == 1 => Ok(owner.name.clone()),
        Some(owner) => Err(format!(
            "vip {address} is one of several addresses of vip {:?}: name that, or give the address a [[vip]] of its own",
            owner.name
        )),
        None => {
            let name = address.to_string();
            let vip = settings.clone().vip(name.clone(), vec![address]);
            places.vip_names.insert(address, name.clone());
            places.vips.insert(name.clone(), place.clone());
            config.vips.insert(name.clone(), vip);
            Ok(name)
        }
    }
}

fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a String>, table: &str) -> String {
    match keys::nearest(name, known.map(String::as_str)) {
        Some(nearest) => format!(": did you mean {nearest:?}?"),
        None => format!(": add a {table} with that name"),
    }
}

fn duplicate(findings: &Findings, place: &Place, subject: &str, first: &Place) {
    let message = format!("name is given twice, first at {}: choose another", first.brief());
    findings.error(place, subject, "name", message);
}
