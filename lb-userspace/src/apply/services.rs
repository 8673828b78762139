//! Services.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::layout::{ForwardWord, Limit, SnatWord};

use super::claims::changed_addresses;
use super::error::ApplyError;
use super::labels;
use super::plan::Planner;
use super::stage::Stage;
use super::state::Unused;
use super::write::{ServiceField, Write};
use crate::config::model::{NewFlowLimit, Rate};
use crate::desired::{Desired, ServiceRecord};

/// The words of a limit: interval and period of a source and of all, leading bits.
fn limit_words(limit: Option<&NewFlowLimit>) -> [u64; 5] {
    let Some(limit) = limit else { return [0; 5] };
    let rate = |rate: Option<Rate>| {
        rate.map_or([0; 2], |rate| {
            let period = rate.period.as_nanos() as u64;
            [(period / rate.flows).max(1), period]
        })
    };
    let ([source, source_period], [total, total_period]) = (rate(limit.per_source), rate(limit.total));
    [source, source_period, total, total_period, u64::from(limit.prefix_v4) | u64::from(limit.prefix_v6) << 8]
}

fn observed_limit(limit: &Limit) -> [u64; 5] {
    [
        &limit.source_interval,
        &limit.source_period,
        &limit.total_interval,
        &limit.total_period,
        &limit.prefixes,
    ]
    .map(|word| word.get())
}

impl Planner<'_> {
    /// Plans the services' records; gives their ids. `new` are VIP ids that no packet finds yet.
    ///
    /// A service whose forwarding changes while ports of its VIP change hands gets a new id: under the old one a packet
    /// could find a port's old owner with its new forwarding.
    pub(super) fn service_records(
        &mut self,
        before: Option<&Desired>,
        desired: &Desired,
        new: &HashSet<u16>,
    ) -> Result<HashMap<Arc<str>, u16>, ApplyError> {
        let changed = changed_addresses(before, desired);
        let mut ids = HashMap::with_capacity(desired.services.len());
        for (name, record) in &*desired.services {
            let id = self.service(record, desired, &changed, new)?;
            ids.insert(name.clone(), id);
        }
        Ok(ids)
    }

    fn service(
        &mut self,
        record: &ServiceRecord,
        desired: &Desired,
        changed: &HashSet<IpAddr>,
        new: &HashSet<u16>,
    ) -> Result<u16, ApplyError> {
        let dangling = || ApplyError::Dangling { service: record.name.to_string() };
        let pool = self.state.pools.get(&record.pool).ok_or_else(dangling)?;
        let table_size = desired.pools.get(&record.pool).ok_or_else(dangling)?.table_size;
        let forward = ForwardWord::new(pool, record.mode, record.on_down, record.track);
        let forward = forward.with_gue_port(record.gue_port).with_scheduler(record.scheduler);
        let forward = if record.has_lists { forward.with_lists() } else { forward };
        let forward = if record.quic.0 == 0 { forward } else { forward.with_quic() };
        let forward = if record.limit.is_some() { forward.with_limit() } else { forward }.0;
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
        let snat = |v4: bool| {
            let of_family = record.snat.iter().filter(|address| address.is_ipv4() == v4);
            SnatWord::new(of_family.filter_map(|address| self.snat_id(desired, *address))).0
        };
        // What comes back to such an address is taken for a stray until its VIP's record is written.
        let unknown = |v4: bool| {
            let of_family = record.snat.iter().filter(|address| address.is_ipv4() == v4);
            let mut vips = of_family.filter_map(|address| self.state.vips.get(address));
            vips.any(|vip| new.contains(&vip) || self.maps.vips[usize::from(vip)].snat.get() == 0)
        };
        let words = [
            (ServiceField::SnatV4, live.snat_v4.get(), snat(true), unknown(true)),
            (ServiceField::SnatV6, live.snat_v6.get(), snat(false), unknown(false)),
        ];
        for (field, observed, word, unknown) in
            words.into_iter().filter(|(_, observed, word, _)| observed != word)
        {
            // What has none yet gets one with its mode; what gives up its last keeps it until the mode is another.
            let late = word == 0 || observed != 0 && unknown;
            let stage = if late { Stage::ServiceSnats } else { Stage::Services };
            self.stages.push(stage, Write::Service { id, field, word });
        }
        let words = [
            (ServiceField::Timeouts, live.timeouts.get(), record.timeouts.0),
            (ServiceField::Quic, live.quic.get(), record.quic.0),
            (ServiceField::Forward, live.forward.get(), forward),
        ];
        let limit = limit_words(record.limit.as_ref());
        if observed_limit(&self.maps.limits[usize::from(id)]) != limit {
            self.stages.push(Stage::Services, Write::Limit { id, words: limit });
        }
        // After the limit, which packets ask for by the word.
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
