//! Maglev tables and lists of usable backends: arrays of backend ids, in regions of whole lines.

/// Ids in a line.
pub const SLOTS_PER_LINE: u32 = 32;

/// One cache line of backend ids.
///
/// A region is written while no pool names it and published by one word of the pool's record.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct MaglevLine {
    /// Backend ids; 0 past the end of a table.
    pub ids: [u16; SLOTS_PER_LINE as usize],
}
