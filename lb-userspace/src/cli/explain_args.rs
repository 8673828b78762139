//! Options of `weir explain`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::explain::{Flag, FlowFrame, Transport};
use crate::failure::{Code, Failure};

/// What to explain.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// Source of the packet: 203.0.113.9:51000, [2001:db8::1]:51000.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        requires = "to",
        required_unless_present_any = ["packet", "pcap"],
        conflicts_with_all = ["packet", "pcap"]
    )]
    from: Option<String>,
    /// Destination of the packet.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "from", conflicts_with_all = ["packet", "pcap"])]
    to: Option<String>,
    /// What it carries.
    #[arg(long, value_enum, default_value_t, conflicts_with_all = ["packet", "pcap"])]
    protocol: Transport,
    #[arg(
        long,
        value_name = "FLAGS",
        value_enum,
        value_delimiter = ',',
        conflicts_with_all = ["packet", "pcap"],
        help = "TCP control bits, several with commas [default: syn]"
    )]
    flags: Vec<Flag>,
    /// VLAN id; twice for two tags, the outer one first.
    #[arg(long, value_name = "ID", conflicts_with_all = ["packet", "pcap"])]
    vlan: Vec<u16>,
    /// The interface that it comes in by [default: the first one]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// A whole Ethernet frame; several are run in order.
    #[arg(long, value_name = "HEX", conflicts_with = "pcap")]
    pub packet: Vec<String>,
    /// The frames of a pcap or pcapng file, in order.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
}

impl ExplainArgs {
    /// The packet that is told by its flow, if one is.
    ///
    /// # Errors
    /// An address that is none.
    pub(super) fn flow(&self) -> Result<Option<FlowFrame>, Failure> {
        let (Some(from), Some(to)) = (&self.from, &self.to) else { return Ok(None) };
        let flags = match (self.protocol, self.flags.as_slice()) {
            (Transport::Tcp, []) => vec![Flag::Syn],
            (Transport::Tcp, flags) => flags.to_vec(),
            (_, []) => Vec::new(),
            (other, _) => {
                let other =
                    other.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
                let message = format!("--flags are of tcp, and --protocol is {other}: leave one of them out");
                return Err(Failure::new(Code::Usage, message));
            }
        };
        Ok(Some(FlowFrame {
            from: self.end("--from", from)?,
            to: self.end("--to", to)?,
            transport: self.protocol,
            flags,
            vlans: self.vlan.clone(),
        }))
    }

    fn end(&self, option: &str, text: &str) -> Result<SocketAddr, Failure> {
        let port_needed = self.protocol != Transport::Icmp;
        let without = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match (text.parse(), without) {
            (Ok(end), _) => Ok(end),
            (Err(_), Ok(address)) if !port_needed => Ok(SocketAddr::new(address, 0)),
            _ => Err(Failure::new(
                Code::Usage,
                format!("{option} {text:?}: write 203.0.113.9:51000 or [2001:db8::1]:51000"),
            )),
        }
    }
}
