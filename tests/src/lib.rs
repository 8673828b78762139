//! The lab: a small network of real hosts for end-to-end tests, the demo and benches.
//!
//! Clients, routers, weir's host and backends are network namespaces joined by veths (see [`plan`] for
//! the drawing and every address). Backends run nginx, carry the VIPs on `lo`, and run `weir decap`.
//! Each lab has names of its own, so that several run at once, and removes what it made when dropped.
//!
//! ```no_run
//! use weir_tests::{Family, Get, Lab, Load, Rate};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::builder().direct(3).routed(2).start()?;
//! let weir = lab.weir("interfaces = [\"eth0\", \"eth1\"]\n…")?;
//! let vip = (lab.vip().of(Family::V4), 80).into();
//! let load = Load::start(lab.client(), Get::new(vip), Rate::per_second(500));
//! let killed = lab.backend("direct-1").kill();
//! // … then compare `killed` with `lab.backend("direct-1").witness()?.last_syn`.
//! let failed = load.stop().iter().filter(|shot| shot.failed()).count();
//! # Ok(())
//! # }
//! ```
//!
//! Root is needed, and `ip`, `ethtool`, `nginx` and `curl`. The `weir` binary is the one built beside the
//! running executable; `WEIR_BIN` names another.

mod backend;
mod builder;
mod claim;
mod config;
mod connect_load;
mod distribution;
mod download;
pub mod frame;
mod gate;
mod host;
mod http;
mod lab;
mod load;
mod netns;
mod observe;
mod paced;
mod ping;
pub mod plan;
mod process;
mod replug;
mod syn_load;
mod topology;
mod web;
mod weir;

pub use backend::{Attachment, Backend, Decap};
pub use builder::LabBuilder;
pub use config::{Limits, config};
pub use connect_load::ConnectLoad;
pub use distribution::Distribution;
pub use download::{Download, Downloads};
pub use gate::{Witness, monotonic};
pub use host::Host;
pub use http::{Get, HttpError, Response, Stage, any_port, source_port, url};
pub use lab::{Lab, STEP_LIMIT, eventually};
pub use load::{Load, Rate, Shot};
pub use netns::Netns;
pub use observe::PinnedLink;
pub use paced::{Paced, hurry};
pub use plan::{Addresses, Family, RELAYED_PORT};
pub use process::Process;
pub use replug::{Foreign, Interface, PassingProgram, pin_program};
pub use syn_load::{SynLoad, answer_without_memory};
pub use web::{Access, Program, Scheduling, Web};
pub use weir::{Wait, WeirOptions, WeirProc};
