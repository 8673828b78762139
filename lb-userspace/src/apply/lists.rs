//! The lists that judge sources.
//!
//! A list is written where nothing names it, then a line that names a VIP's lists, then the VIP's word: a packet sees the
//! old lists or the new ones. A list that several VIPs have is there once. What an earlier daemon published is not
//! recognised: the first plan replaces it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use lb_common::filter::BuiltList;
use lb_common::layout::{Listed, Lists};

use super::error::{ApplyError, Limit};
use super::lines::{Lines, Region};
use super::plan::Planner;
use super::stage::Stage;
use super::state::Unused;
use super::write::{VipField, Write};
use crate::desired::Desired;
use crate::maps::set::MapSet;

/// Each at its [`Listed`].
type Wanted = [Option<Arc<BuiltList>>; 3];

/// What lines of lists are used for.
#[derive(Clone)]
pub(super) struct Filters {
    lines: Lines,
    /// Lists that VIPs have.
    lists: Vec<(Arc<BuiltList>, Region)>,
    /// By VIP id: the line that names its lists, and them where they are known.
    vips: HashMap<u16, (Region, Option<Wanted>)>,
    /// Lists of an earlier daemon.
    adopted: Vec<Region>,
}

impl Filters {
    /// What the VIPs name.
    pub(super) fn recover(maps: &MapSet) -> Self {
        let mut lines = Lines::new(maps.filters.len(), Limit::Prefixes);
        // Line 0 is never used.
        lines.occupy(Region { line: 0, lines: 1 });
        let (mut vips, mut adopted) = (HashMap::new(), HashSet::new());
        for (id, vip) in maps.vips.iter().enumerate() {
            let line = vip.lists.get() as u32;
            let Some(lists) = maps.filters.get(line as usize).filter(|_| line != 0) else { continue };
            let own = Region { line, lines: 1 };
            lines.occupy(own);
            vips.insert(id as u16, (own, None));
            adopted.extend(Listed::ALL.iter().map(|which| lists.region(*which)));
        }
        let adopted: Vec<Region> = adopted
            .into_iter()
            .filter(|(_, lines)| *lines > 0)
            .map(|(line, lines)| Region { line, lines })
            .collect();
        adopted.iter().for_each(|region| lines.occupy(*region));
        Self { lines, lists: Vec::new(), vips, adopted }
    }

    /// Takes a region back.
    pub(super) fn free(&mut self, region: Region) {
        self.lines.free(region);
    }

    /// Forgets a VIP; gives the line that named its lists.
    pub(super) fn forget(&mut self, vip: u16) -> Option<Region> {
        self.vips.remove(&vip).map(|(line, _)| line)
    }
}

impl Planner<'_> {
    /// Plans the lists of all VIPs; `new` are ids of those that no packet finds yet.
    pub(super) fn source_lists(&mut self, desired: &Desired, new: &HashSet<u16>) -> Result<(), ApplyError> {
        for (address, record) in &*desired.vips {
            let Some(id) = self.state.vips.get(address) else { continue };
            let stage = if new.contains(&id) { Stage::NewVips } else { Stage::Policy };
            self.vip_lists(id, &record.lists, stage)?;
        }
        let Filters { lists, vips, adopted, .. } = Arc::make_mut(&mut self.state.filters);
        let named: HashSet<*const BuiltList> = vips
            .values()
            .filter_map(|(_, wanted)| wanted.as_ref())
            .flatten()
            .flatten()
            .map(Arc::as_ptr)
            .collect();
        let mut unused = std::mem::take(adopted);
        lists.retain(|(list, region)| {
            let kept = named.contains(&Arc::as_ptr(list));
            if !kept {
                unused.push(*region);
            }
            kept
        });
        for region in unused {
            self.state.retire(self.now_ns, Unused::FilterLines(region));
        }
        Ok(())
    }

    fn vip_lists(&mut self, id: u16, wanted: &Wanted, stage: Stage) -> Result<(), ApplyError> {
        let none = wanted.iter().all(Option::is_none);
        match self.state.filters.vips.get(&id) {
            None if none => {
                if self.maps.vips[usize::from(id)].lists.get() != 0 {
                    self.stages.push(stage, Write::Vip { id, field: VipField::Lists, word: 0 });
                }
                return Ok(());
            }
            Some((_, Some(known))) if known == wanted => return Ok(()),
            _ => {}
        }
        if let Some(line) = Arc::make_mut(&mut self.state.filters).forget(id) {
            self.state.retire(self.now_ns, Unused::FilterLines(line));
        }
        let word = if none { 0 } else { self.write_lists(id, wanted)?.into() };
        self.stages.push(stage, Write::Vip { id, field: VipField::Lists, word });
        Ok(())
    }

    /// Plans lists and the line that names them; gives the line.
    fn write_lists(&mut self, id: u16, wanted: &Wanted) -> Result<u32, ApplyError> {
        let mut lists = Lists::default();
        let mut known = wanted.clone();
        for (which, list) in Listed::ALL.iter().zip(&mut known) {
            let Some(list) = list else { continue };
            let region = self.list(list)?;
            lists.set_list(*which, list.words(region.line), region.lines);
        }
        let filters = Arc::make_mut(&mut self.state.filters);
        let line = filters.lines.take(1)?;
        filters.vips.insert(id, (line, Some(known)));
        self.stages.push(Stage::Lists, Write::Lists { line: line.line, lists });
        Ok(line.line)
    }

    /// The region of a list, which becomes the one that is there already.
    fn list(&mut self, list: &mut Arc<BuiltList>) -> Result<Region, ApplyError> {
        let filters = Arc::make_mut(&mut self.state.filters);
        if let Some((placed, region)) = filters.lists.iter().find(|(placed, _)| placed == list) {
            *list = placed.clone();
            return Ok(*region);
        }
        let region = filters.lines.take(list.lines().len() as u32)?;
        filters.lists.push((list.clone(), region));
        self.stages.push(Stage::Lists, Write::List { line: region.line, list: list.clone() });
        Ok(region)
    }
}
