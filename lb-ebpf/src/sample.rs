//! Copies of sampled frames for `weir capture`: one as the frame arrives, one as it leaves.

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_ktime_get_ns};
use lb_common::capture::{Moment, Sample};
use lb_common::forward::Egress;
use lb_common::packet::Packet as _;
use lb_common::pipeline::Outcome;

use crate::maps::{Build, CAPTURE, CAPTURE_STATE, SAMPLES};
use crate::packet::XdpPacket;

/// Decides whether the frame is sampled, and copies it if so.
#[inline(always)]
pub(crate) fn arrives<B: Build>(packet: &XdpPacket<B>) {
    let Some(state) = CAPTURE_STATE.get_ptr_mut(0) else { return };
    let Some(rules) = CAPTURE.get(0) else { return };
    // SAFETY: the helper has no preconditions.
    let (now, random) = (now_ns(), unsafe { bpf_get_prandom_u32() });
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    // SAFETY: this CPU's own value, alive as long as the program; XDP is not preempted by XDP on one CPU.
    let number = unsafe { (*state).next(packet, rules, random, now, cpu) };
    if number != 0 {
        let interface = packet.ingress();
        tell(
            packet,
            Sample { number, time_ns: now, interface, moment: Moment::Arrives as u32, ..Sample::default() },
        );
    }
}

/// Copies the frame as it leaves, if it was sampled.
#[inline(always)]
pub(crate) fn leaves<B: Build>(packet: &XdpPacket<B>, outcome: &Outcome) {
    let Some(state) = CAPTURE_STATE.get_ptr_mut(0) else { return };
    // SAFETY: as in `arrives`.
    let number = unsafe { (*state).current };
    if number != 0 {
        let interface = match outcome.egress {
            Egress::NONE => 0,
            Egress(port) => port,
        };
        let (moment, reason) = (Moment::Leaves as u32, outcome.reason as u32);
        tell(packet, Sample { number, time_ns: now_ns(), interface, moment, reason, length: 0 });
    }
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn tell<B: Build>(packet: &XdpPacket<B>, sample: Sample) {
    let Some(rules) = CAPTURE.get(0) else { return };
    let length = packet.length() as u32;
    let sample = Sample { length, ..sample };
    // SAFETY: the sample has no padding, and the slice ends with it.
    let bytes = unsafe { core::slice::from_raw_parts((&raw const sample).cast::<u8>(), size_of::<Sample>()) };
    // The upper half of the helper's flags is how much of the frame it appends.
    SAMPLES.output(packet.context(), bytes, length.min(rules.snap as u32));
}
