//! Flows as lists show them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::table::{Align, Table};
use super::{Api, Render, duration, number};

/// The document of `weir flows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    /// Version mark.
    pub api: Api,
    /// At most as many as were asked for, in no order.
    pub flows: Vec<Flow>,
    /// How many live flows match.
    pub total: u64,
}

/// A live flow entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Source address.
    pub client: IpAddr,
    /// Source port.
    pub client_port: u16,
    /// Destination address.
    pub vip: IpAddr,
    /// Destination port.
    pub port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Service that claims the destination; empty where none does any more.
    pub service: String,
    /// Pool of the backend; empty, as `backend` is, where the entry's backend is gone.
    #[serde(default)]
    pub pool: String,
    /// Name of the backend.
    pub backend: String,
    /// `embryonic`, `young`, `proven` or `closing`.
    pub state: String,
    /// Time since its last refresh, in steps of 4.3 s.
    pub idle_s: u64,
}

impl Flow {
    /// `pool/name` of the backend; empty where it is gone.
    fn full_name(&self) -> String {
        match self.backend.as_str() {
            "" => String::new(),
            backend => format!("{}/{backend}", self.pool),
        }
    }
}

impl Render for Flows {
    fn render(&self, _now: Timestamp) -> String {
        let mut table = Table::new(&[
            ("CLIENT", Align::Left),
            ("VIP", Align::Left),
            ("PROTOCOL", Align::Left),
            ("SERVICE", Align::Left),
            ("BACKEND", Align::Left),
            ("STATE", Align::Left),
            ("IDLE", Align::Right),
        ]);
        for flow in &self.flows {
            table.row([
                SocketAddr::new(flow.client, flow.client_port).to_string().into(),
                SocketAddr::new(flow.vip, flow.port).to_string().into(),
                flow.protocol.as_str().into(),
                flow.service.as_str().into(),
                flow.full_name().into(),
                flow.state.as_str().into(),
                duration(Duration::from_secs(flow.idle_s)).into(),
            ]);
        }
        let mut text = table.render();
        let shown = self.flows.len() as u64;
        if shown < self.total {
            text.push_str(&format!(
                "{} of {} flows; --limit 0 shows all\n",
                number(shown),
                number(self.total)
            ));
        }
        text
    }
}
