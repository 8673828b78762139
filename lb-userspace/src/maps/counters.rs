//! Maps that the packet program counts in, and the interfaces that it may send by.

use std::io;

use aya::maps::{Map, MapData, PerCpuArray, xdp::DevMapHash};
use lb_common::layout::{Charges, Counter, Handshakes, Refusals};

use super::pins::{PinError, Pins, innermost};

/// Packets and bytes per CPU: the counters that a start takes over into new maps.
pub struct PacketCounters {
    reasons: PerCpuArray<MapData, [u64; 2]>,
    services: PerCpuArray<MapData, [u64; 2]>,
    backends: PerCpuArray<MapData, [u64; 2]>,
}

/// Per-CPU counters of the packet program.
pub struct CounterMaps {
    packets: PacketCounters,
    handshakes: PerCpuArray<MapData, [u64; 8]>,
    refusals: PerCpuArray<MapData, [u64; 4]>,
    charges: PerCpuArray<MapData, [u64; 4]>,
    limited: PerCpuArray<MapData, [u64; 5]>,
}

/// A source that one CPU limited, as [`lb_common::layout::Limited`] tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the parts of `Limited`")]
pub struct LimitedSource {
    pub high: u64,
    pub low: u64,
    pub service: u32,
    pub bits: u8,
    pub family: u8,
    pub packets: u64,
    pub last_ns: u64,
}

/// Which counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterKind {
    /// By reason.
    Reasons,
    /// By service id.
    Services,
    /// By backend id.
    Backends,
}

impl PacketCounters {
    /// Opens the pinned counters.
    ///
    /// # Errors
    /// Where one cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self, PinError> {
        Ok(Self {
            reasons: per_cpu(pins, "reason_counters")?,
            services: per_cpu(pins, "service_counters")?,
            backends: per_cpu(pins, "backend_counters")?,
        })
    }

    fn map(&self, kind: CounterKind) -> &PerCpuArray<MapData, [u64; 2]> {
        match kind {
            CounterKind::Reasons => &self.reasons,
            CounterKind::Services => &self.services,
            CounterKind::Backends => &self.backends,
        }
    }

    /// The sum over all CPUs of the counter with this index; zero for one that does not exist.
    #[must_use]
    pub fn sum(&self, kind: CounterKind, index: u32) -> Counter {
        let values = self.map(kind).get(&index, 0);
        values.map_or(Counter::default(), |values| {
            values.iter().fold(Counter::default(), |sum, [packets, bytes]| Counter {
                packets: sum.packets + packets,
                bytes: sum.bytes + bytes,
            })
        })
    }

    /// Sets a counter: `value` on the first CPU, zero on the others.
    ///
    /// # Errors
    /// Where the kernel refuses the write.
    pub fn set(&mut self, kind: CounterKind, index: u32, value: Counter) -> io::Result<()> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let mut values = vec![[0, 0]; cpus];
        values[0] = [value.packets, value.bytes];
        let values = aya::maps::PerCpuValues::try_from(values)?;
        let map = match kind {
            CounterKind::Reasons => &mut self.reasons,
            CounterKind::Services => &mut self.services,
            CounterKind::Backends => &mut self.backends,
        };
        map.set(index, values, 0).map_err(io::Error::other)
    }
}

impl CounterMaps {
    /// Opens the pinned counters.
    ///
    /// # Errors
    /// Where one cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self, PinError> {
        Ok(Self {
            packets: PacketCounters::open(pins)?,
            handshakes: per_cpu(pins, "backend_handshakes")?,
            refusals: per_cpu(pins, "refusals")?,
            charges: per_cpu(pins, "charges")?,
            limited: per_cpu(pins, "limited")?,
        })
    }

    /// The sum over all CPUs of the counter with this index; zero for one that does not exist.
    #[must_use]
    pub fn sum(&self, kind: CounterKind, index: u32) -> Counter {
        self.packets.sum(kind, index)
    }

    /// The sums of all counters, by index.
    #[must_use]
    pub fn sums(&self, kind: CounterKind) -> Vec<Counter> {
        (0..self.packets.map(kind).len()).map(|index| self.sum(kind, index)).collect()
    }

    /// The sum over all CPUs of a backend's handshakes; zero for an id that does not exist.
    #[must_use]
    pub fn handshakes(&self, backend: u32) -> Handshakes {
        Handshakes { steps: sum_each(&self.handshakes, backend) }
    }

    /// The sum over all CPUs of the packets of a VIP that its lists refused; zero for an id that does not exist.
    #[must_use]
    pub fn refusals(&self, vip: u32) -> Refusals {
        Refusals { packets: sum_each(&self.refusals, vip) }
    }

    /// The sum over all CPUs of what became of a service's new flows; zero for an id that does not exist.
    #[must_use]
    pub fn charges(&self, service: u32) -> Charges {
        Charges { packets: sum_each(&self.charges, service) }
    }

    /// What every CPU knows of sources that were limited.
    #[must_use]
    pub fn limited(&self) -> Vec<LimitedSource> {
        let slots = (0..self.limited.len()).filter_map(|slot| self.limited.get(&slot, 0).ok());
        let records: Vec<[u64; 5]> =
            slots.flat_map(|values| values.iter().copied().collect::<Vec<_>>()).collect();
        let read = |[high, low, about, packets, last_ns]: [u64; 5]| LimitedSource {
            high,
            low,
            service: about as u32,
            bits: (about >> 32) as u8,
            family: (about >> 40) as u8,
            packets,
            last_ns,
        };
        records.into_iter().map(read).filter(|record| record.family != 0).collect()
    }
}

/// The sums over all CPUs of several counts; zero for an index that does not exist.
fn sum_each<const N: usize>(map: &PerCpuArray<MapData, [u64; N]>, index: u32) -> [u64; N]
where
    [u64; N]: aya::Pod,
{
    map.get(&index, 0).map_or([0; N], |values| {
        values.iter().fold([0; N], |sum, one| std::array::from_fn(|place| sum[place] + one[place]))
    })
}

/// Opens a pinned map of one value per CPU.
fn per_cpu<T: aya::Pod>(pins: &Pins, name: &str) -> Result<PerCpuArray<MapData, T>, PinError> {
    let path = pins.map(name);
    let error =
        |error: &dyn std::error::Error| PinError::Open { path: path.clone(), cause: innermost(error) };
    let map = MapData::from_pin(&path).map_err(|cause| error(&cause))?;
    PerCpuArray::try_from(Map::PerCpuArray(map)).map_err(|cause| error(&cause))
}

/// Opens the pinned map of interfaces that frames may leave by.
///
/// # Errors
/// Where it cannot be opened.
pub fn tx_ports(pins: &Pins) -> Result<DevMapHash<MapData>, PinError> {
    let path = pins.map("tx_ports");
    let error =
        |error: &dyn std::error::Error| PinError::Open { path: path.clone(), cause: innermost(error) };
    let map = MapData::from_pin(&path).map_err(|cause| error(&cause))?;
    DevMapHash::try_from(Map::DevMapHash(map)).map_err(|cause| error(&cause))
}
