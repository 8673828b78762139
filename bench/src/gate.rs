//! `cargo xtask bench gate`: what must not grow unnoticed, told without trust in the machine's mood.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cases::{ALL, KNOWN, PARSE};
use crate::engine::{Engine, Weir};
use crate::statistics::median;

/// Checks the packet program's size and the known flow's cost against recorded ceilings. Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The recorded ceilings.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/ceilings.json"))]
    ceilings: PathBuf,
}

/// The ceilings, and what was found.
#[derive(Debug, Deserialize, Serialize)]
struct Numbers {
    /// Instructions that the verifier walked through.
    verified_instructions: f64,
    /// The same of the largest program for rare packets.
    verified_instructions_of_a_stage: f64,
    /// Bytes of machine code.
    jited_bytes: f64,
    /// Cost of a known flow's packet (one flow, IPIP) as a multiple of parsing alone.
    known_flow_to_parse: f64,
}

const ROUNDS: u32 = 15;
const PACKETS: u32 = 1 << 18;

pub(crate) fn run(args: &Args) -> Result<()> {
    let path = args.ceilings.display();
    let text = fs::read_to_string(&args.ceilings).with_context(|| format!("read {path}"))?;
    let ceilings: Numbers = serde_json::from_str(&text).with_context(|| format!("read {path}"))?;
    let found = measure()?;
    let lines = [
        ("verified instructions", found.verified_instructions, ceilings.verified_instructions),
        (
            "verified instructions of a stage",
            found.verified_instructions_of_a_stage,
            ceilings.verified_instructions_of_a_stage,
        ),
        ("bytes of machine code", found.jited_bytes, ceilings.jited_bytes),
        ("known flow, multiple of parse only", found.known_flow_to_parse, ceilings.known_flow_to_parse),
    ];
    for (what, found, ceiling) in lines {
        println!("{what}: {found:.1}, ceiling {ceiling}");
    }
    let over: Vec<&str> =
        lines.iter().filter(|(_, found, ceiling)| found > ceiling).map(|(what, ..)| *what).collect();
    if !over.is_empty() {
        bail!(
            "over the ceiling: {}; if it is worth it, raise the ceiling in {path} and say why",
            over.join(", ")
        );
    }
    Ok(())
}

fn measure() -> Result<Numbers> {
    let mut weir = Weir::load("gate", None)?;
    let sizes = weir.sizes()?;
    for (name, verified, jited) in &sizes {
        println!("{name}: {verified} verified instructions, {jited} bytes");
    }
    let ((_, verified, jited), stages) = sizes.split_first().context("find the packet program")?;
    Ok(Numbers {
        verified_instructions: f64::from(*verified),
        verified_instructions_of_a_stage: stages
            .iter()
            .map(|(_, verified, _)| *verified)
            .max()
            .unwrap_or(0)
            .into(),
        jited_bytes: f64::from(*jited),
        known_flow_to_parse: known_flow_to_parse(&mut weir)?,
    })
}

/// The smallest of each round's costs would flatter the larger one: the median of ratios, round by round.
fn known_flow_to_parse(weir: &mut Weir) -> Result<f64> {
    let mut engine = Engine::load()?;
    let (empty, parse, known) = (engine.own("empty")?, engine.own("parse_only")?, weir.fd()?);
    let case = |id: &str| ALL.iter().find(|case| case.id == id).context("find the case");
    let (parse_case, known_case) = (case(PARSE)?, case(KNOWN)?);
    let mut cost = |program, verdict: u32| -> Result<f64> {
        let (to, kind, flows) = (known_case.to, known_case.kind, known_case.flows);
        Ok(engine.batch(program, to, kind, flows, PACKETS, verdict)?.as_secs_f64())
    };
    cost(&known, known_case.verdict)?;
    let ratios: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let empty = cost(&empty, parse_case.verdict)?;
            let parse = cost(&parse, parse_case.verdict)? - empty;
            Ok((cost(&known, known_case.verdict)? - empty) / parse)
        })
        .collect::<Result<_>>()?;
    Ok(median(&ratios))
}
