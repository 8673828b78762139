//! Limits of new flows, per source and per service.
//!
//! A source's allowance is a word in a table without keys: bits 44–63 a tag of source and service, 0–43 the time at which
//! it is whole again, in units of 256 ns. A word whose time is over says what no word says, so that nothing need ever be
//! removed. A source without a word takes the one of its line that lacks least: a flood of sources that come once drives
//! out each other and not those that hammer, and who is driven out starts with a whole allowance. Two sources of a line
//! share a word once in a million.
//!
//! CPUs that charge the same word at once may lose one of the charges: more is let in then, never less.

use core::hint::black_box;

use crate::hash;
use crate::layout::{Asked, Charged, Family, LIMITED_SLOTS, Limit, SOURCE_LINES, SOURCE_WAYS, SourceLine};
use crate::reason::Reason;
use crate::tables::Tables;
use crate::trace::Mark;

const TIME_BITS: u32 = 44;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
const UNIT_SHIFT: u32 = 8;
/// Longest period, in nanoseconds: an hour.
pub const MAX_PERIOD_NS: u64 = 3_600_000_000_000;
/// What an allowance can lack at most.
const MOST: u64 = MAX_PERIOD_NS >> UNIT_SHIFT;

/// The upper and the lower half of an address.
type Halves = (u64, u64);

/// Takes a new flow out of the allowances of its source and its service.
///
/// # Errors
/// The reason for which it is not let in.
#[inline(always)]
pub fn charge<T: Tables>(tables: &T, asked: Asked, source: Halves) -> Result<(), Reason> {
    let limit = tables.limit(asked.service()).ok_or(Reason::Inconsistent)?;
    let now_ns = tables.now_ns();
    let charged = outcome(tables, limit, asked, source, now_ns)?;
    tables.trace(Mark::Charged, charged as u32, 0);
    if T::WRITES {
        tables.count_charged(asked.service(), charged);
    }
    match charged {
        Charged::Allowed => Ok(()),
        Charged::Source => Err(Reason::SourceLimited),
        Charged::Total => Err(Reason::TotalLimited),
    }
}

#[inline(always)]
fn outcome<T: Tables>(
    tables: &T,
    limit: &Limit,
    asked: Asked,
    source: Halves,
    now_ns: u64,
) -> Result<Charged, Reason> {
    let interval = limit.source_interval.get();
    if interval != 0 {
        let (source, bits) = prefix(limit, asked.family(), source);
        let key = hash::absorb(hash::absorb(tables.secret(), source.0), source.1);
        let hash = hash::finish(hash::absorb(key, (asked.service() as u64) << 8 | bits as u64));
        let line = tables.source_line(hash as u32 & (SOURCE_LINES - 1)).ok_or(Reason::Inconsistent)?;
        if !charge_source::<T>(line, hash, (interval, limit.source_period.get()), now_ns) {
            if T::WRITES {
                note(tables, hash, source, asked, bits, now_ns);
            }
            return Ok(Charged::Source);
        }
    }
    let interval = limit.total_interval.get();
    if interval != 0 {
        let period = limit.total_period.get();
        let mut whole = limit.total_whole.get().max(now_ns);
        if whole - now_ns > period {
            // Used up under another limit, of a longer period: of this one no more than all can be used.
            whole = now_ns + period;
            if T::WRITES {
                limit.total_whole.set(whole);
            }
        }
        if whole - now_ns + interval > period {
            return Ok(Charged::Total);
        }
        if T::WRITES {
            limit.total_whole.set(whole + interval);
        }
    }
    Ok(Charged::Allowed)
}

/// The first address of the source's prefix, and its leading bits; of an IPv6 address at most 64 count.
#[inline(always)]
fn prefix(limit: &Limit, family: Family, (high, low): Halves) -> (Halves, u32) {
    let prefixes = limit.prefixes.get();
    match family {
        Family::V4 => {
            let bits = prefixes as u32 & 0x3f;
            let other = 32_u32.wrapping_sub(bits) & 63;
            ((0, (low >> other) << other), bits)
        }
        Family::V6 => {
            let bits = (prefixes >> 8) as u32 & 0x7f;
            let other = 64_u32.wrapping_sub(bits) & 63;
            (((high >> other) << other, 0), bits)
        }
    }
}

/// Takes one flow out of a source's allowance; `false` where there is none left.
#[inline(always)]
fn charge_source<T: Tables>(
    line: &SourceLine,
    hash: u64,
    (interval, period): (u64, u64),
    now_ns: u64,
) -> bool {
    let now = now_ns >> UNIT_SHIFT & TIME_MASK;
    let tag = hash >> TIME_BITS;
    // The source's own way, else the one that lacks least. By arithmetic: of branches the verifier would follow all ways
    // to all of them through everything that comes after.
    let mut best = u64::MAX >> 1;
    for way in 0..SOURCE_WAYS {
        let word = line.ways[way & (SOURCE_WAYS - 1)].get();
        let other = word >> TIME_BITS ^ tag;
        let other = black_box((other | other.wrapping_neg()) >> 63);
        let candidate = ((lacks(word, now) + 1) * other) << 3 | way as u64;
        let smaller = black_box(candidate.wrapping_sub(best) >> 63);
        best = best ^ ((best ^ candidate) & smaller.wrapping_neg());
    }
    let way = &line.ways[best as usize & (SOURCE_WAYS - 1)];
    let own = if best >> 3 == 0 { lacks(way.get(), now) } else { 0 };
    // A period of so many flows, each a unit at least.
    let interval = (interval >> UNIT_SHIFT).max(1);
    let period = (period >> UNIT_SHIFT).max(interval);
    let allowed = own + interval <= period;
    // What was used up under another limit, of a longer period, is no more than all of this one.
    let used = if allowed { own + interval } else { own.min(period) };
    if T::WRITES && (allowed || used != own) {
        way.set(tag << TIME_BITS | (now + used) & TIME_MASK);
    }
    allowed
}

/// Units until the word's allowance is whole.
#[inline(always)]
fn lacks(word: u64, now: u64) -> u64 {
    let ahead = (word & TIME_MASK).wrapping_sub(now) & TIME_MASK;
    let sound = black_box(ahead.wrapping_sub(MOST + 1) >> 63);
    ahead & sound.wrapping_neg()
}

/// Notes a source that was refused, for lists. Where records meet, the one with fewer packets gives way in the end.
#[inline(always)]
fn note<T: Tables>(tables: &T, hash: u64, source: Halves, asked: Asked, bits: u32, now_ns: u64) {
    let Some(record) = tables.limited((hash >> 32) as u32 & (LIMITED_SLOTS - 1)) else { return };
    let family = match asked.family() {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    let about = asked.service() as u64 | (bits as u64) << 32 | family << 40;
    let packets = record.packets.get();
    if record.about.get() == about && record.high.get() == source.0 && record.low.get() == source.1 {
        record.packets.set(packets + 1);
    } else if packets > 1 && now_ns.wrapping_sub(record.last_ns.get()) < 1_000_000_000 {
        record.packets.set(packets - 1);
        return;
    } else {
        record.high.set(source.0);
        record.low.set(source.1);
        record.about.set(about);
        record.packets.set(1);
    }
    record.last_ns.set(now_ns);
}
