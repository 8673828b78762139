//! Frames and changes of the tables from arbitrary bytes: what the fuzzer and the property tests run.

use lb_common::reason::Reason;

use crate::check::check;
use crate::choice::{Bytes, Choice};
use crate::generate::frame;
use crate::host::Host;
use crate::nat::answer;
use crate::plain::Plain;
use crate::scene::{Scene, SceneSizes};
use crate::seed;

/// Most steps of one run.
const STEPS: u32 = 64;
/// Bytes before a frame: none, too few and just enough for each outer header, what drivers leave.
const HEADROOM: [usize; 11] = [0, 19, 20, 31, 32, 39, 40, 51, 52, 60, 256];

/// Of the kinds of steps: changes of backends, tables and time; from here on, frames that [`frame`] makes. Between them are
/// frames byte by byte.
const KIND_DISTURB: usize = 0;
const KIND_MADE: usize = 8;

/// Keeps a run of this frame, with all the headroom there is, as a seed.
pub(crate) fn keep(frame: &[u8], reason: Reason) {
    seed::keep("pipeline", reason, &[KIND_MADE as u16 - 2], frame, &[HEADROOM.len() as u16 - 1]);
}

/// Runs what `data` says over the tables of [`Scene`]: frames, some of them given byte by byte, between them changes of
/// backends, tables and time.
///
/// # Errors
/// The first promise that a frame broke.
pub fn replay(data: &[u8]) -> Result<(), String> {
    let mut choice = Bytes(data);
    let mut tables = Plain::new(&SceneSizes::SMALL);
    Scene::fill(&mut tables, &SceneSizes::SMALL.geometry(Scene::START));
    let mut now = Scene::START;
    let mut answers = Vec::new();
    for step in 0..STEPS {
        if choice.is_empty() {
            break;
        }
        let kind = choice.below(16);
        if kind == KIND_DISTURB {
            now = now.plus(choice.below(40) as u32);
            Scene::disturb(&mut tables, choice.word(), now);
            continue;
        }
        let frame = match answers.pop() {
            Some(answer) if kind % 2 == 1 => answer,
            _ if kind < KIND_MADE => choice.frame(),
            _ => frame(&mut choice, step),
        };
        let headroom = choice.pick(&HEADROOM);
        let host = Host::new(tables.slices(), SceneSizes::SMALL.geometry(now));
        let ran = host.run(&frame, headroom);
        let told = |broken| format!("step {step}: {broken}: {:?} of {frame:02x?}", ran.outcome);
        check(&frame, &ran.outcome, &ran.output).map_err(told)?;
        answers.extend(answer(&mut choice, &ran.output));
        if ran.output.len() > frame.len() + headroom {
            return Err(told("grew past the headroom".into()));
        }
        if ran.outcome.reason == Reason::NoHeadroom && headroom >= 60 {
            return Err(told(format!("did not find {headroom} bytes of headroom")));
        }
        let counted: u64 = host.totals().reasons.iter().map(|counter| counter.packets).sum();
        if counted != 1 {
            return Err(told(format!("counted {counted} times")));
        }
    }
    Ok(())
}
