//! Writing access to the tables, wherever they are.

use lb_common::layout::{
    Backend, FilterLine, IndexLine, Limit, Load, MaglevLine, NatAddress, NatLine, NatPort, NextHop, Pool,
    RangeLine, ServerIds, Service, Vip, VipLineV6,
};

macro_rules! store {
    ($($(#[$doc:meta])* $name:ident: $value:ty;)*) => {
        /// The tables that the control plane fills. An index past a table's end is a defect of the test and panics.
        pub trait Store {
            $($(#[$doc])* fn $name(&mut self, index: u32, change: impl FnOnce(&mut $value));)*
        }
    };
}

store! {
    /// Changes a line of the IPv4 VIP index.
    vip_line_v4: IndexLine;
    /// Changes a line of the IPv6 VIP index.
    vip_line_v6: VipLineV6;
    /// Changes a line of the port index.
    port_line: IndexLine;
    /// Changes a line of port ranges.
    range_line: RangeLine;
    /// Changes a VIP.
    vip: Vip;
    /// Changes a service.
    service: Service;
    /// Changes a pool.
    pool: Pool;
    /// Changes a line of backend ids.
    maglev_line: MaglevLine;
    /// Changes a backend.
    backend: Backend;
    /// Changes a backend's load.
    load: Load;
    /// Changes a line of the server index.
    server_line: IndexLine;
    /// Changes a backend's server ids.
    server_ids: ServerIds;
    /// Changes a next hop.
    next_hop: NextHop;
    /// Changes a line of lists.
    filter_line: FilterLine;
    /// Changes a service's limits.
    limit: Limit;
    /// Changes an address that mode `nat` sends from.
    nat_address: NatAddress;
    /// Changes a port of such an address.
    nat_port: NatPort;
    /// Changes a line of the index of translated flows.
    nat_line: NatLine;
}
