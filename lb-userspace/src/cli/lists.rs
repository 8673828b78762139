//! Lists: from the daemon, or from the pinned maps when it does not answer.

use std::path::Path;

use super::host::{Host, Pinned};
use super::output::Output;
use super::run::block_on;
use crate::admin::client::Client;
use crate::failure::{Code, Failure};
use crate::view::backends::Backends;
use crate::view::filter::{BackendFilter, FlowFilter, ServiceFilter};
use crate::view::flows::Flows;
use crate::view::from_maps::{self, FlowCounts};
use crate::view::services::Services;
use crate::view::status::Status;

/// Where lists come from.
pub(super) struct Lists<'a, H> {
    pub(super) host: &'a H,
    pub(super) client: &'a Client,
    pub(super) bpffs: &'a Path,
}

impl<H: Host> Lists<'_, H> {
    /// The status page. Without the daemon, that is its first problem.
    pub(super) fn status(&self) -> Result<Status, Failure> {
        let (unreachable, pinned) = match block_on(self.client.status()) {
            Err(failure) if failure.code == Code::Unreachable => self.pinned(failure)?,
            answer => return answer,
        };
        let counts = self.counts(&pinned);
        let interfaces = pinned.interfaces.clone();
        let mut status = from_maps::status(&pinned.maps, &pinned.counters, &counts, interfaces);
        status.problems.insert(0, unreachable.message);
        Ok(status)
    }

    pub(super) fn services(
        &self,
        filter: &ServiceFilter,
        output: &mut Output<'_, '_>,
    ) -> Result<Services, Failure> {
        let pinned = match block_on(self.client.services(filter)) {
            Err(failure) if failure.code == Code::Unreachable => self.instead(failure, output)?,
            answer => return answer,
        };
        filter.apply(from_maps::services(&pinned.maps, &pinned.counters, &self.counts(&pinned)))
    }

    pub(super) fn backends(
        &self,
        filter: &BackendFilter,
        output: &mut Output<'_, '_>,
    ) -> Result<Backends, Failure> {
        let pinned = match block_on(self.client.backends(filter)) {
            Err(failure) if failure.code == Code::Unreachable => self.instead(failure, output)?,
            answer => return answer,
        };
        filter.apply(from_maps::backends(&pinned.maps, &pinned.counters, &self.counts(&pinned)))
    }

    pub(super) fn flows(&self, filter: &FlowFilter, output: &mut Output<'_, '_>) -> Result<Flows, Failure> {
        let pinned = match block_on(self.client.flows(filter)) {
            Err(failure) if failure.code == Code::Unreachable => self.instead(failure, output)?,
            answer => return answer,
        };
        from_maps::flows(&pinned.maps, self.host.flow_rows(&pinned.maps), filter)
    }

    fn counts(&self, pinned: &Pinned) -> FlowCounts {
        FlowCounts::of(&pinned.maps, self.host.flow_rows(&pinned.maps))
    }

    /// The pinned maps, and a word on stderr about why they are read.
    fn instead(&self, unreachable: Failure, output: &mut Output<'_, '_>) -> Result<Pinned, Failure> {
        let (unreachable, pinned) = self.pinned(unreachable)?;
        output.message(&format!("{unreachable}; this is read from the pinned maps"));
        Ok(pinned)
    }

    fn pinned(&self, unreachable: Failure) -> Result<(Failure, Pinned), Failure> {
        match self.host.pinned(self.bpffs) {
            Ok(pinned) => Ok((unreachable, pinned)),
            Err(error) => Err(Failure::new(Code::Unreachable, format!("{unreachable}; {error}"))),
        }
    }
}
