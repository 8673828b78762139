//! The programs and their maps: loaded, filled, pinned, read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;
use lb_common::decap::mss::Finding;
use lb_common::decap::{self, Prefix, Reason};

use super::settings::{Settings, from_prefix, to_prefix};
use crate::failure::{Code, Failure};
use crate::maps::load;
use crate::maps::pins::{Pins, innermost};
use crate::objects;

/// The classifier's name in the object, and what netlink calls the filter.
pub(super) const CLASSIFIER: &str = "weir_mss";
const DECAPSULATOR: &str = "weir_decap";

/// Maps whose contents are settings, by symbol and pin; each load makes its own.
const SETTING_MAPS: [(&str, &str); 3] =
    [("DECAP_VIPS", "vips"), ("DECAP_SOURCES", "sources"), ("DECAP_SETTINGS", "settings")];
/// Maps that outlive a load, by symbol, pin and number of values.
const COUNTER_MAPS: [(&str, &str, usize); 2] =
    [("DECAP_COUNTERS", "counters", Reason::COUNT), ("MSS_COUNTERS", "mss_counters", Finding::COUNT)];

/// The pinned objects of `weir decap`.
#[derive(Clone, Debug)]
pub struct DecapPins {
    /// Those that are laid out as the daemon's.
    pub(super) common: Pins,
}

impl DecapPins {
    /// The pins below `root`, for example `/sys/fs/bpf/weir-decap`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { common: Pins::new(root) }
    }

    /// The pin of the XDP program.
    pub(super) fn decapsulator(&self) -> PathBuf {
        self.common.program()
    }

    /// The pin of the classifier.
    pub(super) fn classifier(&self) -> PathBuf {
        self.common.root().join("mss")
    }

    /// The directory of what runs on the way out.
    pub(super) fn egress_dir(&self) -> PathBuf {
        self.common.root().join("egress")
    }

    /// The pin of what runs on an interface's way out.
    pub(super) fn egress(&self, interface: &str) -> PathBuf {
        self.egress_dir().join(interface.replace('.', ":"))
    }

    /// Makes the directories.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn create(&self) -> io::Result<()> {
        self.common.create()?;
        fs::create_dir_all(self.egress_dir())
    }

    /// Whether anything is attached or pinned.
    pub(super) fn exist(&self) -> Result<bool, Failure> {
        let path = self.common.map("settings");
        path.try_exists().map_err(|error| failed("look at", &path, &error))
    }
}

/// Both programs, loaded over maps with the settings.
pub struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// Loads the programs; counters that are pinned are used on.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn load(pins: &DecapPins, settings: &Settings, mtu: u32) -> Result<Self, Failure> {
        let mut loader = EbpfLoader::new();
        let entries = |count: usize| u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let sources = settings.source_prefixes();
        loader.map_max_entries("DECAP_VIPS", entries(settings.vips.len()));
        loader.map_max_entries("DECAP_SOURCES", entries(sources.len()));
        for (symbol, pin, values) in COUNTER_MAPS {
            let path = pins.common.map(pin);
            if !fits(&path, values) {
                // Of another version of weir: counting starts anew.
                fs::remove_file(&path).map_err(|error| failed("remove", &path, &error))?;
            }
            loader.map_pin_path(symbol, path);
        }
        let ebpf = loader.load(objects::DECAP).map_err(load::ebpf_error)?;
        let mut programs = Self { ebpf };
        programs.decapsulator()?.load().map_err(load::program_error)?;
        programs.classifier()?.load().map_err(load::program_error)?;
        let filled = programs.fill(settings, &sources, settings.numbers(mtu));
        filled.map_err(|error| Failure::new(Code::Failed, format!("fill maps: {}", innermost(&error))))?;
        Ok(programs)
    }

    fn fill(
        &mut self,
        settings: &Settings,
        sources: &[IpNet],
        numbers: decap::Settings,
    ) -> Result<(), MapError> {
        let mut vips: HashMap<_, [u32; 6], u32> = HashMap::try_from(self.map("DECAP_VIPS")?)?;
        for vip in &settings.vips {
            vips.insert(to_prefix(IpNet::from(*vip)).words(), 1, 0)?;
        }
        let mut trie: LpmTrie<_, [u32; 5], u32> = LpmTrie::try_from(self.map("DECAP_SOURCES")?)?;
        for source in sources {
            let [bits, data @ ..] = to_prefix(*source).words();
            trie.insert(&Key::new(bits, data), 1, 0)?;
        }
        let decap::Settings { gue_port, mss_v4, mss_v6, reserved } = numbers;
        let mut settings: Array<_, [u16; 4]> = Array::try_from(self.map("DECAP_SETTINGS")?)?;
        settings.set(0, [gue_port, mss_v4, mss_v6, reserved], 0)
    }

    fn map(&mut self, symbol: &str) -> Result<&mut Map, MapError> {
        self.ebpf.map_mut(symbol).ok_or_else(|| MapError::InvalidName { name: symbol.to_owned() })
    }

    /// The program for frames that come in.
    ///
    /// # Errors
    /// None for the embedded object.
    pub fn decapsulator(&mut self) -> Result<&mut Xdp, Failure> {
        let program = self.ebpf.program_mut(DECAPSULATOR).ok_or_else(|| absent(DECAPSULATOR))?;
        program.try_into().map_err(|error: ProgramError| wrong(&error))
    }

    /// The program for frames that go out.
    ///
    /// # Errors
    /// None for the embedded object.
    pub fn classifier(&mut self) -> Result<&mut SchedClassifier, Failure> {
        let program = self.ebpf.program_mut(CLASSIFIER).ok_or_else(|| absent(CLASSIFIER))?;
        program.try_into().map_err(|error: ProgramError| wrong(&error))
    }

    /// Pins programs and settings in place of those that are pinned.
    pub(super) fn pin(&mut self, pins: &DecapPins) -> Result<(), Failure> {
        for (symbol, name) in SETTING_MAPS {
            let map = self.ebpf.map(symbol).ok_or_else(|| absent(symbol))?;
            in_place(&pins.common, &pins.common.map(name), |next| map.pin(next).map_err(io::Error::other))?;
        }
        let path = pins.decapsulator();
        let program = self.decapsulator()?;
        in_place(&pins.common, &path, |next| program.pin(next).map_err(io::Error::other))?;
        let path = pins.classifier();
        let program = self.classifier()?;
        in_place(&pins.common, &path, |next| program.pin(next).map_err(io::Error::other))
    }
}

/// Pins beside the place and moves there, so that the place is never empty.
pub(super) fn in_place(
    pins: &Pins,
    path: &Path,
    pin: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), Failure> {
    let next = pins.root().join("next");
    // Left by a command that was cut off; absent otherwise.
    let _ = fs::remove_file(&next);
    pin(&next).and_then(|()| fs::rename(&next, path)).map_err(|error| failed("pin", path, &error))
}

/// Whether there is no map pinned here, or one of that many counters.
fn fits(path: &Path, values: usize) -> bool {
    if !path.exists() {
        return true;
    }
    let info = MapData::from_pin(path).ok().and_then(|map| map.info().ok());
    info.is_some_and(|info| info.value_size() == 16 && info.max_entries() as usize == values)
}

/// What the pinned maps say.
pub(super) struct Pinned {
    pub(super) vips: Vec<IpNet>,
    pub(super) sources: Vec<IpNet>,
    pub(super) numbers: decap::Settings,
    /// Packets by name of reason or finding.
    pub(super) counters: Vec<(&'static str, u64)>,
}

impl Pinned {
    /// Reads the pinned maps.
    pub(super) fn read(pins: &DecapPins) -> Result<Self, Failure> {
        let at = |name: &str| pins.common.map(name);
        let open =
            |name: &str| MapData::from_pin(at(name)).map_err(|error| failed("open", &at(name), &error));
        let read = |name: &'static str| move |error: MapError| failed("read", &at(name), &error);
        let (vips, sources, settings) =
            (Map::HashMap(open("vips")?), Map::LpmTrie(open("sources")?), Map::Array(open("settings")?));
        let vips: HashMap<_, [u32; 6], u32> = HashMap::try_from(&vips).map_err(read("vips"))?;
        let vips = vips.keys().collect::<Result<Vec<_>, _>>().map_err(read("vips"))?;
        let sources: LpmTrie<_, [u32; 5], u32> = LpmTrie::try_from(&sources).map_err(read("sources"))?;
        let sources = sources.keys().collect::<Result<Vec<_>, _>>().map_err(read("sources"))?;
        let settings: Array<_, [u16; 4]> = Array::try_from(&settings).map_err(read("settings"))?;
        let [gue_port, mss_v4, mss_v6, reserved] = settings.get(&0, 0).map_err(read("settings"))?;
        let key = |words| from_prefix(Prefix::from_words(words));
        let source = |source: Key<[u32; 5]>| {
            let [family, a, b, c, d] = source.data();
            key([source.prefix_len(), family, a, b, c, d])
        };
        let mut vips: Vec<IpNet> = vips.into_iter().filter_map(key).collect();
        let mut sources: Vec<IpNet> = sources.into_iter().filter_map(source).collect();
        vips.sort();
        sources.sort();
        let reasons = Reason::ALL.iter().map(|reason| reason.name());
        let findings = Finding::ALL.iter().map(|finding| finding.name());
        let mut counters = sums(&Map::PerCpuArray(open("counters")?), reasons).map_err(read("counters"))?;
        let answers = sums(&Map::PerCpuArray(open("mss_counters")?), findings);
        counters.extend(answers.map_err(read("mss_counters"))?);
        let numbers = decap::Settings { gue_port, mss_v4, mss_v6, reserved };
        Ok(Self { vips, sources, numbers, counters })
    }
}

/// Packets under each name, over all CPUs.
fn sums(map: &Map, names: impl Iterator<Item = &'static str>) -> Result<Vec<(&'static str, u64)>, MapError> {
    let map: PerCpuArray<_, [u64; 2]> = PerCpuArray::try_from(map)?;
    let sum = |(index, name)| {
        let values = map.get(&(index as u32), 0)?;
        Ok((name, values.iter().map(|[packets, _]| packets).sum()))
    };
    names.enumerate().map(sum).collect()
}

fn absent(name: &str) -> Failure {
    Failure::new(Code::Failed, format!("the decap object has no `{name}`"))
}

fn wrong(error: &ProgramError) -> Failure {
    Failure::new(Code::Failed, format!("load the decap programs: {}", innermost(error)))
}

pub(super) fn failed(what: &str, path: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::new(Code::Failed, format!("{what} {}: {}", path.display(), innermost(error)))
}
