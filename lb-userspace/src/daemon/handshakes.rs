//! What the data plane counts of backends' handshakes.

use lb_common::layout::HandshakeStep;

use super::engine::Engine;
use crate::health::BackendKey;
use crate::health::passive::{Handshakes, Sight};

impl Engine {
    /// Totals of a backend's handshakes since the maps were made; `None` without such a backend.
    pub(super) fn handshakes_of(&self, pool: &str, backend: &str) -> Option<Handshakes> {
        let id = self.applier.slots().id(pool, backend)?;
        let steps = self.instance.counters.handshakes(id.into());
        Some(Handshakes {
            opened: steps.of(HandshakeStep::Opened),
            repeated: steps.of(HandshakeStep::Repeated),
            completed: steps.of(HandshakeStep::Completed),
            answered: steps.of(HandshakeStep::Answered),
            refused: steps.of(HandshakeStep::Refused),
            reset: steps.of(HandshakeStep::Reset),
        })
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

    /// Totals of the handshakes of backends that are compared.
    pub(super) fn handshake_totals(&self) -> Vec<(BackendKey, Handshakes)> {
        let compared = self.config.pools.values().filter(|pool| pool.passive_sample > 0);
        let backends = compared.flat_map(|pool| pool.backends.keys().map(move |name| (pool, name)));
        let totals = backends.filter_map(|(pool, name)| {
            let totals = self.handshakes_of(&pool.name, name)?;
            Some((BackendKey::new(pool.name.as_str(), name.as_str()), totals))
        });
        tokio::task::block_in_place(|| totals.collect())
    }
}
