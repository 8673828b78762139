//! The program on the interfaces: attached where the config says, followed where they come and go, undone where a
//! start fails.

use std::collections::BTreeMap;

use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use tracing::{info, warn};

use super::instance::Instance;
use super::journal;
use super::network::Network;
use super::report;
use crate::config::model;
use crate::events::Recorder;
use crate::failure::{Code, Failure};
use crate::maps::attach::{self, Attached, Captures};
use crate::maps::pins::Pins;
use crate::view::status::Interface;

/// Where the program is attached, and why it is not elsewhere.
pub(super) struct Attachments {
    pins: Pins,
    interfaces: BTreeMap<String, Result<Interface, String>>,
    /// What was done to which interface since the start.
    done: Vec<(String, Attached)>,
    recorder: Recorder,
}

impl Attachments {
    pub(super) fn new(pins: Pins, recorder: Recorder) -> Self {
        Self { pins, interfaces: BTreeMap::new(), done: Vec::new(), recorder }
    }

    /// Attaches to all of `wanted`, where the program is not; refusals are kept for `status`.
    pub(super) fn attach(&mut self, wanted: &[model::Interface], instance: &mut Instance, network: &Network) {
        for interface in wanted {
            let state = self.attach_one(interface, instance, network);
            if let Err(problem) = &state
                && self.interfaces.get(&interface.name) != Some(&state)
            {
                warn!("{problem}");
                let event = journal::interface(&interface.name, "detached").because(problem.as_str());
                self.recorder.record(event);
            }
            self.interfaces.insert(interface.name.clone(), state);
        }
    }

    /// Attaches to all of `wanted`; one that is missing or refuses is an error.
    pub(super) fn attach_all(
        &mut self,
        wanted: &[model::Interface],
        instance: &mut Instance,
        network: &Network,
    ) -> Result<(), Failure> {
        for interface in wanted {
            let state = self.attach_one(interface, instance, network);
            let attached = state.map_err(|problem| Failure::new(Code::Failed, problem))?;
            self.interfaces.insert(interface.name.clone(), Ok(attached));
        }
        Ok(())
    }

    /// Attaches to those of `wanted` that `before` has not; one that is missing or refuses is an error, and then the
    /// program is on none of them.
    pub(super) fn attach_added(
        &mut self,
        before: &[model::Interface],
        wanted: &[model::Interface],
        instance: &mut Instance,
        network: &Network,
    ) -> Result<(), Failure> {
        let known = |name: &str| before.iter().any(|interface| interface.name == name);
        let added: Vec<_> = wanted.iter().filter(|interface| !known(&interface.name)).cloned().collect();
        let attached = self.attach_all(&added, instance, network);
        attached.map_err(|failure| {
            self.detach_others(before);
            Failure::new(failure.code, format!("{failure}; nothing was changed"))
        })
    }

    fn attach_one(
        &mut self,
        interface: &model::Interface,
        instance: &mut Instance,
        network: &Network,
    ) -> Result<Interface, String> {
        let (name, mode) = (&interface.name, interface.xdp_mode);
        if !instance.pins.exist() {
            let root = self.pins.root().display();
            return Err(format!(
                "interface {name}: what was pinned in {root} was removed while weir ran (`weir detach --force`?); \
                 restart weir to attach it again"
            ));
        }
        let link = network.watch.read().link_named(name).cloned().ok_or_else(|| missing(name))?;
        let new_maps = instance.predecessor_maps().is_some();
        let captures = if new_maps { Captures::End } else { Captures::Stay };
        let program = instance.program().map_err(|failure| failure.message)?;
        let attached = attach::attach(&self.pins, program, &link, mode, captures);
        let attached = attached.map_err(|error| error.to_string())?;
        report::attached(name, attached, mode);
        if let Attached::Anew(place) | Attached::Again(place) = attached {
            self.recorder.record(journal::interface(name, "attached").with("mode", place.name()));
        }
        if attached != Attached::Kept {
            self.done.push((name.clone(), attached));
        }
        let mode = match attached {
            Attached::Anew(place) | Attached::Again(place) => place.name(),
            // As it was; at a start, as the kernel shows it.
            Attached::Kept | Attached::Replaced => match self.interfaces.get(name) {
                Some(Ok(known)) => &known.mode,
                _ => link.xdp.first().map_or("", |program| program.place.name()),
            },
        };
        Ok(Interface { name: name.clone(), mode: mode.to_owned(), attached: true })
    }

    /// Interfaces where the program runs in another mode than the one wanted: a link keeps the mode that it was made in.
    pub(super) fn other_modes(&self, wanted: &[model::Interface]) -> impl Iterator<Item = String> {
        wanted.iter().filter_map(|interface| {
            let wanted = interface.xdp_mode.required()?;
            let running = &self.interfaces.get(&interface.name)?.as_ref().ok()?.mode;
            (!running.is_empty() && running != wanted).then(|| {
                format!(
                    "interface {}: the program runs in {running} mode, not in {wanted} mode as the config says: that takes \
                     a moment without it; `weir detach --force`, then start weir again",
                    interface.name
                )
            })
        })
    }

    /// Takes the program off interfaces that are not wanted.
    pub(super) fn detach_others(&mut self, wanted: &[model::Interface]) {
        let wanted = |name: &str| wanted.iter().any(|interface| interface.name == name);
        for name in attach::pinned(&self.pins).unwrap_or_default().iter().filter(|name| !wanted(name)) {
            match attach::detach(&self.pins, name) {
                Ok(()) => {
                    info!("{name}: not in the config, detached");
                    self.recorder.record(journal::interface(name, "detached").because("not in the config"));
                }
                Err(error) => warn!("{name}: detach: {error}"),
            }
        }
        self.interfaces.retain(|name, _| wanted(name));
    }

    /// Puts interfaces back to what they were before this start. The program that was pinned then still is.
    pub(super) fn undo(&mut self) {
        for (name, attached) in std::mem::take(&mut self.done) {
            let undone = match attached {
                Attached::Kept => Ok(()),
                Attached::Anew(_) | Attached::Again(_) => attach::detach(&self.pins, &name),
                Attached::Replaced => Xdp::from_pin(self.pins.program(), XdpAttachType::Interface)
                    .map_err(std::io::Error::other)
                    .and_then(|mut program| attach::put_back(&self.pins, &mut program, &name)),
            };
            if let Err(error) = undone {
                warn!("{name}: put back what ran before: {error}");
            }
        }
    }

    /// Interfaces, for `status`.
    pub(super) fn interfaces(&self) -> Vec<Interface> {
        let state = |(name, state): (&String, &Result<Interface, String>)| match state {
            Ok(interface) => interface.clone(),
            Err(_) => Interface { name: name.clone(), mode: String::new(), attached: false },
        };
        self.interfaces.iter().map(state).collect()
    }

    /// Why the program is not on an interface.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.interfaces.values().filter_map(|state| state.as_ref().err().cloned())
    }
}

pub(super) fn missing(name: &str) -> String {
    format!("interface {name}: no such interface; `ip link` lists those of this network namespace")
}
