//! Services.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::layout::ForwardWord;

use super::claims::changed_addresses;
use super::error::ApplyError;
use super::labels;
use super::plan::Planner;
use super::stage::Stage;
use super::state::Unused;
use super::write::{ServiceField, Write};
use crate::desired::{Desired, ServiceRecord};

impl Planner<'_> {
    /// Plans the services' records; gives their ids.
    ///
    /// A service whose forwarding changes while ports of its VIP change hands gets a new id: under the old one a packet
    /// could find a port's old owner with its new forwarding.
    pub(super) fn service_records(
        &mut self,
        before: Option<&Desired>,
        desired: &Desired,
    ) -> Result<HashMap<Arc<str>, u16>, ApplyError> {
        let changed = changed_addresses(before, desired);
        let mut ids = HashMap::with_capacity(desired.services.len());
        for (name, record) in &*desired.services {
            let id = self.service(record, desired, &changed)?;
            ids.insert(name.clone(), id);
        }
        Ok(ids)
    }

    fn service(
        &mut self,
        record: &ServiceRecord,
        desired: &Desired,
        changed: &HashSet<IpAddr>,
    ) -> Result<u16, ApplyError> {
        let dangling = || ApplyError::Dangling { service: record.name.to_string() };
        let pool = self.state.pools.get(&record.pool).ok_or_else(dangling)?;
        let table_size = desired.pools.get(&record.pool).ok_or_else(dangling)?.table_size;
        let forward = ForwardWord::new(pool, record.mode, record.on_down, record.track);
        let forward = forward.with_gue_port(record.gue_port).with_scheduler(record.scheduler);
        let forward = if record.has_lists { forward.with_lists() } else { forward };
        let forward = if record.quic.0 == 0 { forward.0 } else { forward.with_quic().0 };
        let id = match self.state.services.get(&record.name) {
            Some(id) => {
                let same = self.maps.services[usize::from(id)].forward.get() == forward;
                if same || !record.addresses.iter().any(|address| changed.contains(address)) {
                    id
                } else {
                    self.stages.push(Stage::Leaving, Write::ServiceInfo { id, info: Box::default() });
                    self.state.retire(self.now_ns, Unused::Service(id));
                    self.state.services.take(record.name.clone())?
                }
            }
            None => self.state.services.take(record.name.clone())?,
        };
        let live = &self.maps.services[usize::from(id)];
        let words = [
            (ServiceField::Timeouts, live.timeouts.get(), record.timeouts.0),
            (ServiceField::Quic, live.quic.get(), record.quic.0),
            (ServiceField::Forward, live.forward.get(), forward),
        ];
        for (field, observed, word) in words {
            if observed != word {
                self.stages.push(Stage::Services, Write::Service { id, field, word });
            }
        }
        let info = labels::service(record, pool, table_size);
        if self.maps.service_info[usize::from(id)] != info {
            self.stages.push(Stage::Services, Write::ServiceInfo { id, info: Box::new(info) });
        }
        Ok(id)
    }
}
