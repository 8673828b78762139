//! `weir explain`.

use super::args::{Form, Global};
use super::explain_args::ExplainArgs;
use super::host::Host;
use super::output::Output;
use super::run::block_on;
use crate::admin::client::Client;
use crate::explain::{Explained, Frames, frames_of, from_hex, to_hex};
use crate::failure::{Code, Failure};
use crate::maps::pins::Pins;

/// Frames that one request of the admin API carries, far below what a body may hold.
const FRAMES_A_REQUEST: usize = 8;

/// Explains the frames that the arguments tell, in order.
pub(super) fn run(
    host: &impl Host,
    client: &Client,
    paths: &Global,
    args: &ExplainArgs,
    output: &mut Output<'_, '_>,
) -> Result<(), Failure> {
    let frames = frames(args)?;
    if frames.len() > 1 && output.form == Form::Json {
        let message =
            "-o json is one document, and these are several packets: use -o jsonl, one document a line";
        return Err(Failure::new(Code::Usage, message));
    }
    if let Some(config) = &paths.config {
        if args.interface.is_some() {
            let message =
                "--interface with --config: a private instance has no interfaces; leave one of them out";
            return Err(Failure::new(Code::Usage, message));
        }
        return host.explain_offline(config, &frames, &mut |explained| output.data(&explained));
    }
    let pins = Pins::new(&paths.bpffs);
    if pins.exist() && !pins.explain().exists() {
        output.message("loading the program that explains; it stays for later ones");
    }
    for frames in frames.chunks(FRAMES_A_REQUEST) {
        let request = Frames {
            frames: frames.iter().map(|frame| to_hex(frame)).collect(),
            interface: args.interface.clone(),
        };
        let explained: Vec<Explained> = match block_on(client.explain(&request)) {
            Ok(answer) => answer.explained,
            Err(failure) if failure.code == Code::Unreachable => {
                let explained = host.explain_pinned(&paths.bpffs, &request);
                let code = |error: &Failure| if pins.exist() { error.code } else { failure.code };
                explained
                    .map_err(|error| Failure::new(code(&error), format!("{failure}; {error}")))?
                    .explained
            }
            Err(failure) => return Err(failure),
        };
        explained.iter().try_for_each(|explained| output.data(explained))?;
    }
    Ok(())
}

fn frames(args: &ExplainArgs) -> Result<Vec<Vec<u8>>, Failure> {
    let usage = |error: &dyn std::error::Error| Failure::new(Code::Usage, error.to_string());
    if let Some(flow) = args.flow()? {
        return Ok(vec![flow.frame().map_err(|error| usage(&error))?]);
    }
    if let Some(file) = &args.pcap {
        let frames = frames_of(file).map_err(|error| usage(&error))?;
        return match frames.is_empty() {
            true => Err(Failure::new(Code::Usage, format!("{}: no packets", file.display()))),
            false => Ok(frames),
        };
    }
    args.packet.iter().map(|text| from_hex(text).map_err(|error| usage(&error))).collect()
}
