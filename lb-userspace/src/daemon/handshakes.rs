//! What the data plane counts of backends' handshakes.

use std::sync::Arc;
use std::time::Duration;

use lb_common::layout::HandshakeStep;

use super::engine::Engine;
use super::operations::Daemon;
use crate::apply::SlotWriter;
use crate::health::Health;
use crate::health::passive::{Handshakes, Sight};
use crate::maps::counters::CounterMaps;

/// Backends that the probe thread is handed at once, if their pools are no larger: it has probes to send in between.
const BATCH: usize = 256;
/// How often handshakes are compared.
const PERIOD: Duration = Duration::from_secs(1);

impl Engine {
    /// Totals of a backend's handshakes since the maps were made; `None` without such a backend.
    pub(super) fn handshakes_of(&self, pool: &str, backend: &str) -> Option<Handshakes> {
        let id = self.applier.slots().id(pool, backend)?;
        Some(totals(&self.instance.counters, id))
    }

    /// What is seen of the handshakes of a pool.
    pub(super) fn sight_of(&self, pool: &str) -> Sight {
        if self.config.answering_pools().contains(pool) { Sight::Both } else { Sight::Clients }
    }

    /// Reads the number of new TCP flows that a backend was sent, again and again.
    pub(super) fn new_flow_counter(&self, pool: &str, backend: &str) -> impl FnMut() -> u64 + Send + 'static {
        let id = self.applier.slots().id(pool, backend);
        let counters = self.counters();
        move || id.map_or(0, |id| counters.handshakes(id.into()).of(HandshakeStep::Opened))
    }

    /// What a comparison of handshakes takes.
    fn comparison(&self) -> Comparison {
        let compared = self.config.pools.values().filter(|pool| pool.passive_sample > 0);
        Comparison {
            pools: compared.map(|pool| pool.name.clone()).collect(),
            slots: self.applier.slots(),
            counters: self.counters(),
            health: self.health.clone(),
        }
    }
}

/// Handshakes that are to be compared: with thousands of backends reading them takes a while, and no change has to wait
/// for it. What leaves meanwhile keeps its id for longer than that.
struct Comparison {
    /// Pools whose backends are compared.
    pools: Vec<String>,
    slots: SlotWriter,
    counters: Arc<CounterMaps>,
    health: Health,
}

impl Comparison {
    fn make(&self) {
        let mut read = Vec::new();
        for pool in &self.pools {
            read.extend(self.slots.ids(pool).map(|(key, id)| (key, totals(&self.counters, id))));
            if read.len() >= BATCH {
                self.health.compare_handshakes(std::mem::take(&mut read));
            }
        }
        self.health.compare_handshakes(read);
    }
}

/// Compares backends' handshakes, about once a second, as long as the runtime lives.
pub(super) async fn compare(daemon: Arc<Daemon>) {
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        let comparison = daemon.engine().await.comparison();
        tokio::task::block_in_place(|| comparison.make());
    }
}

fn totals(counters: &CounterMaps, id: u16) -> Handshakes {
    let steps = counters.handshakes(id.into());
    Handshakes {
        opened: steps.of(HandshakeStep::Opened),
        repeated: steps.of(HandshakeStep::Repeated),
        completed: steps.of(HandshakeStep::Completed),
        answered: steps.of(HandshakeStep::Answered),
        refused: steps.of(HandshakeStep::Refused),
        reset: steps.of(HandshakeStep::Reset),
    }
}
