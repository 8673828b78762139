//! The one writer: every change of config, runtime state, routes or detection becomes desired state and is applied.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::attachments::Attachments;
use super::changes;
use super::filters;
use super::host::{preflight, refuse_lost_tags, refuse_own_ports};
use super::in_force::{InForce, bring_into_force, detection_failed, does_not_fit};
use super::instance::Instance;
use super::journal::{self, Journal};
use super::network::{Network, record};
use super::overlay::end_changes;
use super::place::{self, Place};
use super::rollouts::Rollouts;
use super::slots::{Others, Sink};
use super::stored::Stored;
use super::views::Known;
use super::wanted::Wanted;
use crate::admin::answers::Reloaded;
use crate::apply::{Applier, SlotWriter, Summary};
use crate::cli::args::Global;
use crate::config::model::Config;
use crate::config::{self, Loaded};
use crate::events::History;
use crate::failure::{Code, Failure};
use crate::filter::Lists;
use crate::flows;
use crate::health::{BackendHealth, GuardEvent, GuardStatus, Health, HealthEvent, Prepared, Which};
use crate::maps::counters::CounterMaps;
use crate::maps::next_program::{self, NextProgram};
use crate::maps::pins::Pins;
use crate::maps::set::MapSet;
use crate::net::{HopChange, Observed, TooBig, path_mtu};
use crate::state::overlay::Overlay;
use crate::state::store::SetAside;
use crate::view::status::Interface;

/// Where events come from.
pub(super) struct Feeds {
    pub(super) net: mpsc::Receiver<Observed>,
    pub(super) paths: mpsc::Receiver<TooBig>,
    pub(super) health: mpsc::UnboundedReceiver<HealthEvent>,
    pub(super) tiers: mpsc::UnboundedReceiver<String>,
    pub(super) guard: mpsc::UnboundedReceiver<GuardEvent>,
}

/// The state of the daemon that changes.
pub(super) struct Engine {
    file: PathBuf,
    pub(super) place: Place,
    pub(super) config: Config,
    pub(super) config_loaded: Timestamp,
    pub(super) overlay: Overlay,
    /// Of config and overlay.
    pub(super) lists: Lists,
    set_aside: Vec<SetAside>,
    pub(super) instance: Instance,
    pub(super) applier: Applier,
    pub(super) sink: Sink,
    pub(super) health: Health,
    network: Network,
    attachments: Attachments,
    journal: Journal,
    pub(super) rollouts: Rollouts,
}

impl Engine {
    /// Reads the config, looks at the host, opens what detection needs, takes the maps, attaches, and starts detection.
    /// Where that fails, what ran before runs on.
    pub(super) async fn start(paths: &Global) -> Result<(Self, Feeds), Failure> {
        let started = Self::start_in_place(paths).await;
        if started.is_err() {
            // Holds nothing unless weir ran here before; then it stays.
            let _ = fs::remove_dir(&paths.bpffs);
        }
        started
    }

    async fn start_in_place(paths: &Global) -> Result<(Self, Feeds), Failure> {
        let file = paths.config_file().to_owned();
        let Loaded { config, warnings } = config::load(&file).map_err(invalid)?;
        warnings.0.iter().for_each(|warning| warn!("{warning}"));
        let place = place::take(paths)?;
        let mut loaded = place.store.load(Timestamp::now())?;
        loaded.set_aside.iter().for_each(|aside| warn!("{}", aside.problem()));
        let ended = end_changes(&mut loaded.overlay, &config, Timestamp::now());
        let (mut network, net) = Network::start().await?;
        preflight(&config, &network, &place)?;
        refuse_own_ports(&config, &network)?;

        let mut instance = Instance::open(&place.pins, &config.limits)?;
        let recorder = journal::open(&place, &config)?;
        let rollouts = Rollouts::load(place.store.directory(), Timestamp::now());
        let mut attachments = Attachments::new(place.pins.clone(), recorder.clone());
        let now = Timestamp::now();
        let lists = filters::lists(&config, &loaded.overlay, &Lists::default(), now);
        let (tiers_out, tiers) = mpsc::unbounded_channel();
        let (guard_out, guard) = mpsc::unbounded_channel();
        let (health_out, health) = mpsc::unbounded_channel();
        let open = |applier: &Applier, targets| {
            let sink = Sink::new(applier.slots(), tiers_out, guard_out);
            let runtime = tokio::runtime::Handle::current();
            let detection = Health::open(targets, Box::new(sink.clone()), health_out, runtime)?;
            Ok((sink, detection))
        };
        let in_force = bring_into_force(
            (&config, &lists),
            (&loaded.overlay, &rollouts),
            &mut network,
            &mut instance,
            &mut attachments,
            now,
            open,
        );
        let InForce { applier, views, known, sink, detection } = in_force.inspect_err(|_| {
            attachments.undo();
            instance.abandon();
        })?;

        if ended && let Err(error) = place.store.save(&loaded.overlay) {
            // They have ended all the same; the next start reads them once more.
            error!("{error}");
        }
        sink.replace(applier.slots(), &views, Others::Gone);
        let wanted = Wanted {
            config: &config,
            overlay: &loaded.overlay,
            lists: &lists,
            network: &network,
            rollouts: &rollouts,
            now,
        };
        let state = wanted.state(&Which::All, &known, &sink.tiers(&Which::All), &attachments.interfaces());
        let journal = Journal::new(recorder, state);
        let adopted = known.iter().map(|(key, known)| (key.clone(), known.adopted())).collect();
        let detection = detection.start(adopted).map_err(|error| detection_failed(&error))?;

        let engine = Self {
            file,
            place,
            config,
            config_loaded: now,
            overlay: loaded.overlay,
            lists,
            set_aside: loaded.set_aside,
            instance,
            applier,
            sink,
            health: detection,
            network,
            attachments,
            journal,
            rollouts,
        };
        engine.tell_carriers();
        let paths = path_mtu::watch().unwrap_or_else(|error| {
            warn!("open raw socket for ICMP errors about packets in tunnels: {error}; grant CAP_NET_RAW, or set `mtu`");
            mpsc::channel(1).1
        });
        Ok((engine, Feeds { net, paths, health, tiers, guard }))
    }

    /// Where the instance's objects are pinned.
    pub(super) fn pins(&self) -> Pins {
        self.place.pins.clone()
    }

    /// The maps.
    pub(super) fn maps(&self) -> Arc<MapSet> {
        self.instance.maps.clone()
    }

    /// The counters, which live as long as the daemon whatever becomes of their pins.
    pub(super) fn counters(&self) -> Arc<CounterMaps> {
        self.instance.counters.clone()
    }

    /// What happened here.
    pub(super) fn history(&self) -> History {
        History::new(self.journal.recorder.clone(), self.place.store.directory().to_owned())
    }

    /// Records what happens.
    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Attaches where the program is not, and takes it off interfaces that left the config.
    fn follow_interfaces(&mut self) {
        self.attachments.detach_others(&self.config.interfaces);
        self.attachments.attach(&self.config.interfaces, &mut self.instance, &self.network);
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
        refuse_lost_tags(&config, &self.network)?;
        refuse_own_ports(&config, &self.network)?;
        let warnings = warnings.0.iter().map(ToString::to_string).collect();
        let changes = changes::between(&self.config, &config);
        let lists = filters::lists(&config, &self.overlay, &self.lists, Timestamp::now());
        let before = std::mem::replace(&mut self.config, config);
        let lists_before = std::mem::replace(&mut self.lists, lists);
        self.network.resolve(&self.config);
        if let Err(failure) = self.take_over(&before).await {
            (self.config, self.lists) = (before, lists_before);
            self.follow_interfaces();
            self.network.resolve(&self.config);
            // Next hops may have moved meanwhile, and sockets are open for checks that are not run.
            self.sync_logged(&Which::All).await;
            return Err(failure);
        }
        self.config_loaded = Timestamp::now();
        self.end_changes(self.config_loaded).await;
        self.follow_interfaces();
        self.tell_carriers();
        self.journal.recorder.configure(self.config.events.max_bytes, &self.config.hooks);
        Ok(Reloaded { changes, warnings, ..Reloaded::default() })
    }

    /// Brings the config into force in place of the one before; first whatever can refuse.
    async fn take_over(&mut self, before: &Config) -> Result<(), Failure> {
        let refused = |error| Failure::new(Code::Failed, format!("{error}; nothing was changed"));
        let prepared = self.health.prepare(self.wanted(Timestamp::now()).targets()).await.map_err(refused)?;
        let next_program = next_program::find(&self.instance.pins, self.config.next_program.as_deref())?;
        self.attachments.attach_added(
            &before.interfaces,
            &self.config.interfaces,
            &mut self.instance,
            &self.network,
        )?;
        next_program.put()?;
        let followed = self.follow(&Which::All, Some(prepared), Stored::decided_now()).await;
        if followed.is_err() {
            let former = next_program::find(&self.instance.pins, before.next_program.as_deref());
            if let Err(error) = former.and_then(NextProgram::put) {
                error!("{error}");
            }
        }
        followed.map(drop)
    }

    /// The writer of the slots in force, which knows the backends' ids.
    pub(super) fn slots(&self) -> SlotWriter {
        self.sink.writer()
    }

    /// Makes maps and detection follow config, runtime changes and routes; of all pools, or of some where nothing else
    /// has changed and these have the backends that they had.
    pub(super) async fn sync(&mut self, which: &Which, stored: Stored) -> Result<Summary, Failure> {
        self.follow(which, None, stored).await
    }

    /// Everything that has a say besides detection, at this time.
    fn wanted(&self, now: Timestamp) -> Wanted<'_> {
        let Self { config, overlay, lists, network, rollouts, .. } = self;
        Wanted { config, overlay, lists, network, rollouts, now }
    }

    /// As [`Engine::sync`]; where detection has prepared itself already, with what it prepared.
    async fn follow(
        &mut self,
        which: &Which,
        prepared: Option<Prepared>,
        mut stored: Stored,
    ) -> Result<Summary, Failure> {
        let now = stored.at;
        let snapshot = self.snapshot(which.clone()).await?;
        let known = snapshot.iter().map(|health| (health.key.clone(), Known::from_health(health))).collect();
        let wanted = self.wanted(now);
        let views = wanted.views(which, &known, &self.sink.tiers(which));
        let desired = Arc::new(wanted.desired(which, &views, self.applier.applied()));
        let applier = &mut self.applier;
        let summary =
            tokio::task::block_in_place(|| applier.apply(&desired, flows::now_ns())).map_err(does_not_fit)?;
        match which {
            Which::All => {
                self.sink.replace(self.applier.slots(), &views, Others::Gone);
                let prepared = match prepared {
                    Some(prepared) => Ok(prepared),
                    None => self.health.prepare(self.wanted(now).targets()).await,
                };
                let prepared = prepared.map_err(|error| detection_failed(&error))?;
                self.health.update(prepared).await.map_err(|error| detection_failed(&error))?;
            }
            Which::Pools(_) => self.sink.replace(self.applier.slots(), &views, Others::Unchanged),
        }
        stored.rest();
        let state =
            self.wanted(now).state(which, &known, &self.sink.tiers(which), &self.attachments.interfaces());
        self.journal.settle(which, state, &stored);
        if *which == Which::All {
            self.network.give_up_ports();
        }
        if summary.writes > 0 {
            info!("applied: {summary:?}");
        }
        Ok(summary)
    }

    /// Detection's state of backends.
    pub(super) async fn snapshot(&self, which: Which) -> Result<Vec<BackendHealth>, Failure> {
        self.health.snapshot(which).await.map_err(|error| detection_failed(&error))
    }

    /// Rebuilds the tables of pools whose tier changed.
    pub(super) async fn tiers_changed(&mut self, pools: BTreeSet<String>) {
        pools.iter().for_each(|pool| info!(pool, "active tier changed"));
        self.sync_logged(&Which::Pools(pools)).await;
    }

    /// What the guard against weir's own trouble is at.
    pub(super) async fn guard(&self) -> Result<GuardStatus, Failure> {
        self.health.guard().await.map_err(|error| detection_failed(&error))
    }

    /// Tells detection which of the interfaces towards backends have no carrier.
    fn tell_carriers(&self) {
        self.health.set_lost_carriers(self.network.lost_carriers());
    }

    /// Follows neighbours and links.
    pub(super) fn neighbours_changed(&mut self) {
        self.tell_carriers();
        let changes = self.network.refresh();
        self.follow_hops(changes);
        self.network.give_up_ports();
        let silent = self.network.newly_silent();
        if !silent.is_empty() {
            self.health.doubt_neighbours(silent);
        }
    }

    /// Follows interfaces, routes and addresses.
    pub(super) async fn routes_changed(&mut self) {
        self.follow_interfaces();
        self.follow_paths().await;
    }

    /// Follows what routers say of packets to backends.
    pub(super) async fn paths_told(&mut self, said: impl IntoIterator<Item = TooBig>) {
        let mut narrower = false;
        for said in said {
            if self.network.narrow(&self.config, said) {
                let TooBig { to, mtu, from, .. } = said;
                info!("path to backend {to}: takes packets of {mtu} bytes, says {from}");
                narrower = true;
            }
        }
        if narrower {
            self.follow_paths().await;
        }
    }

    async fn follow_paths(&mut self) {
        let changes = self.network.resolve(&self.config);
        self.tell_carriers();
        self.follow_hops(changes);
        self.sync_logged(&Which::All).await;
    }

    fn follow_hops(&mut self, changes: Vec<HopChange>) {
        for HopChange { key, to } in changes {
            if let Some(state) = to {
                self.applier.set_next_hop(&key, record(&state));
            }
        }
    }

    async fn sync_logged(&mut self, which: &Which) {
        if let Err(failure) = self.sync(which, Stored::decided_now()).await {
            error!("follow a change: {}", failure.message);
        }
    }

    /// Ends timed runtime changes, takes back ids and regions.
    pub(super) async fn tick(&mut self) {
        let now = Timestamp::now();
        if self.overlay.next_expiry().is_some_and(|expiry| expiry <= now) {
            self.end_changes(now).await;
        }
        if self.network.widen() {
            self.follow_paths().await;
        }
        self.end_denials(now).await;
        self.end_limits(now).await;
        // The kernel does not tell when a link is detached or a pin removed.
        self.follow_interfaces();
        let now_ns = flows::now_ns();
        let maps = self.maps();
        let applier = &mut self.applier;
        tokio::task::block_in_place(|| {
            let sweep = applier.wants_sweep().then(|| flows::sweep(&maps, now_ns, &applier.purge(now_ns)));
            flows::nat::give_back(&maps, lb_common::time::Tick::from_ns(now_ns));
            applier.tick(now_ns, sweep.as_ref());
        });
    }

    /// Interfaces, for `status`.
    pub(super) fn interfaces(&self) -> Vec<Interface> {
        self.attachments.interfaces()
    }

    /// Everything that is wrong and that the maps do not show.
    pub(super) fn problems(&self) -> Vec<String> {
        let aside = self.set_aside.iter().filter(|aside| aside.path.exists()).map(SetAside::problem);
        let modes = self.attachments.other_modes(&self.config.interfaces);
        let problems = self.attachments.problems().chain(modes).chain(aside).chain(self.network.problems());
        problems.chain(self.journal.recorder.problems()).collect()
    }

    /// What an operator should know and that is not wrong.
    pub(super) fn notes(&self) -> Vec<String> {
        self.network.notes(&self.config)
    }
}

pub(super) fn invalid(problems: config::Problems) -> Failure {
    Failure::new(Code::InvalidConfig, problems.to_string())
}
