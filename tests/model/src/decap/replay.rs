//! Frames at a backend from arbitrary bytes: what the fuzzer and the property tests run.

use lb_common::decap::Reason;
use lb_common::decap::mss::Finding;
use lb_common::layout::Counter;

use super::{Backend, answer, check_answer, check_incoming, incoming};
use crate::choice::{Bytes, Choice};
use crate::seed;

/// Most steps of one run.
const STEPS: u32 = 64;

/// Of the kinds of steps, of which odd ones go out: frames byte by byte.
const KIND_IN: usize = 0;
const KIND_OUT: usize = 1;

/// Keeps a run of a frame that comes in as a seed.
pub(super) fn keep_incoming(frame: &[u8], reason: Reason) {
    seed::keep("decap", reason, &[KIND_IN as u16], frame, &[]);
}

/// The same of one that goes out.
pub(super) fn keep_outgoing(frame: &[u8], finding: Option<Finding>) {
    seed::keep("decap", finding, &[KIND_OUT as u16], frame, &[]);
}

/// Runs what `data` says: frames that come in or go out, some of them given byte by byte.
///
/// # Errors
/// The first promise that a frame broke.
pub fn replay_decap(data: &[u8]) -> Result<(), String> {
    let mut choice = Bytes(data);
    for step in 0..STEPS {
        if choice.is_empty() {
            break;
        }
        let backend = Backend::default();
        let kind = choice.below(8);
        let frame = match kind {
            KIND_IN | KIND_OUT => choice.frame(),
            2 | 3 => answer(&mut choice),
            _ => incoming(&mut choice),
        };
        let told = |broken: String| format!("step {step}: {broken}: {frame:02x?}");
        if kind % 2 == 1 {
            let (finding, output) = backend.outgoing(&frame);
            check_answer(&frame, finding, &output).map_err(told)?;
            expect_counted(&backend.findings(), finding.map_or(0, |_| 1)).map_err(told)?;
        } else {
            let (reason, output) = backend.incoming(&frame);
            check_incoming(&frame, reason, &output)
                .map_err(|broken| told(format!("{reason:?}: {broken}")))?;
            expect_counted(&backend.reasons(), 1).map_err(told)?;
        }
    }
    Ok(())
}

fn expect_counted(counters: &[Counter], expected: u64) -> Result<(), String> {
    let counted: u64 = counters.iter().map(|counter| counter.packets).sum();
    if counted == expected { Ok(()) } else { Err(format!("counted {counted} times")) }
}
