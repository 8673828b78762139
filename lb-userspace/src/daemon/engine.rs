//! The one writer: every change of config, runtime state, routes or detection becomes desired state and is applied.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use lb_common::layout::HotWord;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::instance::Instance;
use super::network::{Network, record};
use super::place::{self, Place};
use super::slots::Sink;
use super::views::{self, Known, Views};
use super::{changes, report};
use crate::admin::answers::Reloaded;
use crate::apply::{Applier, Summary};
use crate::cli::args::Global;
use crate::config::model::{Config, XdpMode};
use crate::config::{self, Loaded};
use crate::desired::{Desired, Inputs, desired};
use crate::failure::{Code, Failure};
use crate::flows;
use crate::health::{BackendHealth, BackendKey, Health, HealthEvent, Targets};
use crate::maps::attach::{self, Attached};
use crate::maps::load;
use crate::maps::set::MapSet;
use crate::net::preflight::{self, Finding, Severity};
use crate::net::{HopChange, Observed, facts};
use crate::state::overlay::{BackendName, Overlay};
use crate::state::store::SetAside;
use crate::view::status::Interface;

/// Where events come from.
pub(super) struct Feeds {
    pub(super) net: mpsc::Receiver<Observed>,
    pub(super) health: mpsc::UnboundedReceiver<HealthEvent>,
    pub(super) tiers: mpsc::UnboundedReceiver<String>,
}

/// The state of the daemon that changes.
pub(super) struct Engine {
    file: PathBuf,
    place: Place,
    pub(super) config: Config,
    pub(super) config_loaded: Timestamp,
    pub(super) overlay: Overlay,
    set_aside: Vec<SetAside>,
    instance: Instance,
    applier: Applier,
    sink: Sink,
    health: Health,
    network: Network,
    interfaces: BTreeMap<String, Result<Interface, String>>,
    notes: Vec<String>,
}

impl Engine {
    /// Reads the config, looks at the host, takes the maps, attaches, and starts detection.
    pub(super) async fn start(paths: &Global) -> Result<(Self, Feeds), Failure> {
        let file = paths.config.clone();
        let Loaded { config, warnings } = config::load(&file).map_err(invalid)?;
        warnings.0.iter().for_each(|warning| warn!("{warning}"));
        let place = place::take(paths)?;
        let loaded = place.store.load(Timestamp::now())?;
        loaded.set_aside.iter().for_each(|aside| warn!("{}", aside.problem()));
        let (mut network, net) = Network::start().await?;
        let notes = preflight(&config, &network, &place)?;
        let instance = Instance::open(&place.pins, &config.limits)?;
        network.use_ports(load::tx_ports(&instance.pins)?);
        network.resolve(&config);

        let mut applier = Applier::adopt(instance.maps.clone(), flows::now_ns());
        let (tiers_out, tiers) = mpsc::unbounded_channel();
        let known = known_in_maps(instance.predecessor_maps().unwrap_or(&instance.maps));
        let now = Timestamp::now();
        let views = views::views(&config, &loaded.overlay, &known, &HashMap::new(), now);
        let wanted = Arc::new(wanted(&config, &loaded.overlay, &views, &network, now));
        let summary = applier.apply(&wanted, flows::now_ns()).map_err(does_not_fit)?;
        info!("applied the config: {summary:?}");
        instance.carry_over()?;

        let sink = Sink::new(applier.slots(), tiers_out);
        sink.replace(applier.slots(), views);
        let (health_out, health) = mpsc::unbounded_channel();
        let targets = targets(&config, &loaded.overlay, &known, now);
        let runtime = tokio::runtime::Handle::current();
        let detection = Health::start(&targets, Box::new(sink.clone()), health_out, runtime)
            .map_err(|error| Failure::new(Code::Failed, error.to_string()))?;

        let mut engine = Self {
            file,
            place,
            config,
            config_loaded: now,
            overlay: loaded.overlay,
            set_aside: loaded.set_aside,
            instance,
            applier,
            sink,
            health: detection,
            network,
            interfaces: BTreeMap::new(),
            notes,
        };
        engine.attach_all()?;
        engine.instance.take_over()?;
        Ok((engine, Feeds { net, health, tiers }))
    }

    /// The maps.
    pub(super) fn maps(&self) -> Arc<MapSet> {
        self.instance.maps.clone()
    }

    /// The pins.
    pub(super) fn pins(&self) -> crate::maps::pins::Pins {
        self.place.pins.clone()
    }

    /// Attaches to every interface of the config; an interface that is missing or refuses is an error.
    fn attach_all(&mut self) -> Result<(), Failure> {
        self.attach_missing();
        let failures: Vec<&str> =
            self.interfaces.values().filter_map(|state| state.as_ref().err()).map(String::as_str).collect();
        match failures.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(Code::Failed, failures.join("\n"))),
        }
    }

    /// Attaches where the program is not, and takes it off interfaces that left the config.
    fn attach_missing(&mut self) {
        let wanted: Vec<(String, XdpMode)> = self
            .config
            .interfaces
            .iter()
            .map(|interface| (interface.name.clone(), interface.xdp_mode))
            .collect();
        for name in attach::pinned(&self.place.pins).unwrap_or_default() {
            if !wanted.iter().any(|(wanted, _)| *wanted == name) {
                match attach::detach(&self.place.pins, &name) {
                    Ok(()) => info!("{name}: left the config, detached"),
                    Err(error) => warn!("{name}: detach: {error}"),
                }
            }
        }
        self.interfaces.retain(|name, _| wanted.iter().any(|(wanted, _)| wanted == name));
        for (name, mode) in wanted {
            let state = self.attach_one(&name, mode);
            if let Err(problem) = &state
                && self.interfaces.get(&name) != Some(&state)
            {
                warn!("{problem}");
            }
            self.interfaces.insert(name, state);
        }
    }

    fn attach_one(&mut self, name: &str, mode: XdpMode) -> Result<Interface, String> {
        let link = self.network.watch.read().link_named(name).cloned().ok_or_else(|| missing(name))?;
        let program = self.instance.program().map_err(|failure| failure.message)?;
        let attached =
            attach::attach(&self.place.pins, program, &link, mode).map_err(|error| error.to_string())?;
        report::attached(name, attached, mode);
        let mode = match attached {
            Attached::Anew(place) | Attached::Again(place) => place.name(),
            Attached::Kept | Attached::Replaced => {
                link.xdp.first().map_or("", |program| program.place.name())
            }
        };
        Ok(Interface { name: name.to_owned(), mode: mode.to_owned(), attached: true })
    }

    /// Reads the config again; all or nothing.
    pub(super) async fn reload(&mut self) -> Result<Reloaded, Failure> {
        let Loaded { config, warnings } = config::load(&self.file).map_err(invalid)?;
        if config.limits != self.config.limits {
            return Err(Failure::new(
                Code::Refused,
                "[limits] changed: map sizes are fixed while the program runs; nothing was changed. Restart the daemon \
                 to take the new limits: it makes new maps and copies the flows, no packet is lost",
            ));
        }
        let warnings = warnings.0.iter().map(ToString::to_string).collect();
        let changes = changes::between(&self.config, &config);
        if let Some(gone) = config
            .interfaces
            .iter()
            .find(|interface| self.network.watch.read().link_named(&interface.name).is_none())
        {
            return Err(Failure::new(Code::Failed, format!("{}; nothing was changed", missing(&gone.name))));
        }
        let before = std::mem::replace(&mut self.config, config);
        self.network.resolve(&self.config);
        match self.sync().await {
            Ok(_) => {
                self.config_loaded = Timestamp::now();
                self.attach_missing();
                Ok(Reloaded { changes, warnings, ..Reloaded::default() })
            }
            Err(failure) => {
                self.config = before;
                self.network.resolve(&self.config);
                Err(failure)
            }
        }
    }

    /// Puts new runtime changes in force. They are in the state directory already.
    pub(super) async fn set_overlay(&mut self, overlay: Overlay) -> Result<(), Failure> {
        let now = Timestamp::now();
        let before = std::mem::replace(&mut self.overlay, overlay);
        let changed: Vec<BackendName> = self.overlay.differing(&before).cloned().collect();
        for name in changed.iter().filter(|name| file_weight(&self.config, name).is_some()) {
            let BackendName { pool, name: backend } = name;
            let admin = views::admin(&self.overlay, pool, backend, now);
            if admin == views::admin(&before, pool, backend, now) {
                continue;
            }
            // The slot first, then what takes longer.
            let key = BackendKey::new(pool.as_str(), backend.as_str());
            let note = self.overlay.admin(name, now);
            let why = note.map_or("back in service".to_owned(), |change| change.note.reason.clone());
            self.sink.set_admin(&key, views::admin_bits(admin), &why);
            if let Err(error) = self.health.set_admin(key.clone(), admin).await {
                error!("{key}: {error}");
            }
            info!(backend = %key, admin = admin.name(), reason = why, "admin state changed");
        }
        self.sync().await.map(drop)
    }

    /// The file that runtime changes are kept in.
    pub(super) fn save(&self, overlay: &Overlay) -> Result<(), Failure> {
        Ok(self.place.store.save(overlay)?)
    }

    /// Makes maps and detection follow config, runtime changes and routes.
    async fn sync(&mut self) -> Result<Summary, Failure> {
        let now = Timestamp::now();
        let snapshot = self.snapshot().await?;
        let known: HashMap<BackendKey, Known> =
            snapshot.iter().map(|health| (health.key.clone(), Known::from_health(health))).collect();
        let views = views::views(&self.config, &self.overlay, &known, &self.sink.tiers(), now);
        let wanted = Arc::new(wanted(&self.config, &self.overlay, &views, &self.network, now));
        let applier = &mut self.applier;
        let summary =
            tokio::task::block_in_place(|| applier.apply(&wanted, flows::now_ns())).map_err(does_not_fit)?;
        self.sink.replace(self.applier.slots(), views);
        let targets = targets(&self.config, &self.overlay, &HashMap::new(), now);
        self.health
            .update(targets)
            .await
            .map_err(|error| Failure::new(Code::Failed, format!("detection: {error}")))?;
        if summary.writes > 0 {
            info!("applied: {summary:?}");
        }
        Ok(summary)
    }

    /// Detection's state of all backends.
    pub(super) async fn snapshot(&self) -> Result<Vec<BackendHealth>, Failure> {
        self.health.snapshot().await.map_err(|error| Failure::new(Code::Failed, error.to_string()))
    }

    /// Labels and logs a transition; the slot was stored when it was decided.
    pub(super) fn health_changed(&mut self, event: &HealthEvent) {
        self.sink.label(event);
        report::transition(event);
    }

    /// Rebuilds the tables of pools whose tier changed.
    pub(super) async fn tiers_changed(&mut self, pools: &BTreeSet<String>) {
        pools.iter().for_each(|pool| info!(pool, "active tier changed"));
        self.sync_logged().await;
    }

    /// Follows neighbours and links.
    pub(super) fn neighbours_changed(&mut self) {
        let changes = self.network.refresh();
        self.follow_hops(changes);
    }

    /// Follows interfaces, routes and addresses.
    pub(super) async fn routes_changed(&mut self) {
        self.attach_missing();
        let changes = self.network.resolve(&self.config);
        self.follow_hops(changes);
        self.sync_logged().await;
    }

    fn follow_hops(&mut self, changes: Vec<HopChange>) {
        for HopChange { key, to } in changes {
            if let Some(state) = to {
                self.applier.set_next_hop(&key, record(&state));
            }
        }
    }

    async fn sync_logged(&mut self) {
        if let Err(failure) = self.sync().await {
            error!("follow a change: {}", failure.message);
        }
    }

    /// Ends timed runtime changes, takes back ids and regions.
    pub(super) async fn tick(&mut self) {
        let now = Timestamp::now();
        if self.overlay.next_expiry().is_some_and(|expiry| expiry <= now) {
            let mut overlay = self.overlay.clone();
            let config = &self.config;
            let ended = overlay.prune(now, |name| file_weight(config, name));
            ended.iter().for_each(|line| info!("{line}"));
            match self.save(&overlay) {
                Ok(()) => {
                    if let Err(failure) = self.set_overlay(overlay).await {
                        error!("end runtime changes: {}", failure.message);
                    }
                }
                Err(failure) => error!("{}", failure.message),
            }
        }
        let now_ns = flows::now_ns();
        let maps = self.maps();
        let applier = &mut self.applier;
        tokio::task::block_in_place(|| {
            let sweep = applier.wants_sweep().then(|| flows::sweep(&maps, now_ns, &applier.purge(now_ns)));
            applier.tick(now_ns, sweep.as_ref());
        });
    }

    /// Interfaces, for `status`.
    pub(super) fn interfaces(&self) -> Vec<Interface> {
        let state = |(name, state): (&String, &Result<Interface, String>)| match state {
            Ok(interface) => interface.clone(),
            Err(_) => Interface { name: name.clone(), mode: String::new(), attached: false },
        };
        self.interfaces.iter().map(state).collect()
    }

    /// Everything that is wrong and that the maps do not show.
    pub(super) fn problems(&self) -> Vec<String> {
        let interfaces = self.interfaces.values().filter_map(|state| state.as_ref().err().cloned());
        let aside = self.set_aside.iter().map(SetAside::problem);
        interfaces.chain(aside).chain(self.network.problems()).chain(self.notes.iter().cloned()).collect()
    }
}

/// The weight that the config gives a backend.
pub(super) fn file_weight(config: &Config, name: &BackendName) -> Option<u16> {
    config.pools.get(&name.pool)?.backends.get(&name.name).map(|backend| backend.weight)
}

fn wanted(config: &Config, overlay: &Overlay, views: &Views, network: &Network, now: Timestamp) -> Desired {
    let names =
        config.pools.values().flat_map(|pool| pool.backends.values().map(move |backend| (pool, backend)));
    let weights = names.map(|(pool, backend)| {
        let weight = overlay.weight(&BackendName::new(&pool.name, &backend.name), backend.weight, now);
        ((pool.name.clone(), backend.name.clone()), weight)
    });
    let inputs = Inputs {
        config,
        weights: &weights.collect(),
        views: &views.pools,
        egress: &|address, mac| network.egress(config, address, mac),
        next_hop: &|key| network.record(key),
        local: &network.local(config),
    };
    desired(&inputs)
}

fn targets(
    config: &Config,
    overlay: &Overlay,
    known: &HashMap<BackendKey, Known>,
    now: Timestamp,
) -> Targets {
    let mut targets = Targets { pools: config.pools.clone(), ..Targets::default() };
    for pool in targets.pools.values_mut() {
        for backend in pool.backends.values_mut() {
            backend.weight =
                overlay.weight(&BackendName::new(&pool.name, &backend.name), backend.weight, now);
            let key = BackendKey::new(pool.name.as_str(), backend.name.as_str());
            targets.admin.insert(key, views::admin(overlay, &pool.name, &backend.name, now));
        }
    }
    targets.adopted = known.iter().map(|(key, known)| (key.clone(), known.adopted())).collect();
    targets
}

/// What an earlier daemon left in the slots.
fn known_in_maps(maps: &MapSet) -> HashMap<BackendKey, Known> {
    let named =
        maps.backend_info.iter().enumerate().filter(|(_, info)| info.name.len != 0 && info.removed == 0);
    let known = named.filter_map(|(id, info)| {
        let pool = maps.pool_info.get(usize::from(info.pool))?;
        let hot = HotWord(maps.backends.get(id)?.hot.get());
        let key = BackendKey::new(pool.name.as_str(), info.name.as_str());
        Some((key, Known::from_slot(hot, info.since_ms, info.why.as_str())))
    });
    known.collect()
}

/// Looks at the host before anything is changed; refuses where weir must not run.
fn preflight(config: &Config, network: &Network, place: &Place) -> Result<Vec<String>, Failure> {
    let state = network.watch.read();
    let own = attach::own_programs(&place.pins);
    let modes = config.services.values().map(|service| service.mode).collect();
    let plan = preflight::Plan { modes, own_programs: own };
    let mut findings: Vec<Finding> = Vec::new();
    let mut missing_links = Vec::new();
    for interface in &config.interfaces {
        let Some(link) = state.link_named(&interface.name) else {
            missing_links.push(missing(&interface.name));
            continue;
        };
        match facts::gather(link) {
            Ok(facts) => findings.extend(preflight::judge(&facts, interface, &plan)),
            Err(error) => warn!("{}: look at the driver: {error}", interface.name),
        }
    }
    let vips = config.vips.values().flat_map(|vip| vip.addresses.iter().copied());
    let mut notes = Vec::new();
    for owned in crate::net::vip::ownership(&state, vips) {
        if let Some(problem) = owned.problem() {
            info!("{problem}");
            notes.push(problem);
        }
    }
    for finding in findings.iter().filter(|finding| finding.severity < Severity::Refuse) {
        match finding.severity {
            Severity::Warn => warn!("{}; {}", finding.what, finding.remedy),
            _ => info!("{}; {}", finding.what, finding.remedy),
        }
    }
    let refused = findings.iter().filter(|finding| finding.severity == Severity::Refuse);
    let refused = refused.map(|finding| format!("{}; remedy: {}", finding.what, finding.remedy));
    let refused: Vec<String> = missing_links.into_iter().chain(refused).collect();
    match refused.is_empty() {
        true => Ok(notes),
        false => Err(Failure::new(Code::Failed, refused.join("\n"))),
    }
}

fn missing(name: &str) -> String {
    format!("interface {name}: no such interface; `ip link` lists those of this network namespace")
}

fn invalid(problems: config::Problems) -> Failure {
    Failure::new(Code::InvalidConfig, problems.to_string())
}

fn does_not_fit(error: crate::apply::ApplyError) -> Failure {
    Failure::new(Code::Failed, format!("apply the config: {error}; nothing was changed"))
}
