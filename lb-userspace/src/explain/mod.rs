//! `weir explain`: one packet through the loaded program, in a variant that says what it did.
//!
//! The program runs by `BPF_PROG_TEST_RUN`, so the answer is the kernel's, not a second opinion. Against the running
//! instance the variant writes nothing but its trace, which is emptied again; with a config it has maps of its own.

mod answer;
mod capture_file;
mod flow_frame;
mod offline;
mod runner;
mod steps;

pub use answer::{Explained, ExplainedFrames, Frames, Step};
pub use capture_file::{CaptureError, frames_of};
pub use flow_frame::{Flag, FlowFrame, FrameError, Transport, from_hex, to_hex};
pub use runner::{Explainer, FRAME_LENGTHS};
