//! One process of a run: loads everything, enters the flows, measures in rounds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::ProgramFd;
use lb_common::time::TICK_NS;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::cases::{ALL, Case, Flows, Program, Table};
use crate::engine::{Engine, Weir};
use crate::frame::Kind;

/// Measures in this process; prints one JSON object.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds over all cases.
    #[arg(long)]
    rounds: u32,
    /// Packets of a batch.
    #[arg(long)]
    packets: u32,
    /// Cases by id, separated by commas.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Another build of the object, measured beside.
    #[arg(long)]
    against: Option<PathBuf>,
}

/// Fresh flows that fill a table: two for each place.
const FILL: u32 = 4 << 20;

/// The clock of flow entries moves on within this time; a mark that is twice as old may be taken back.
const TICK: Duration = Duration::from_nanos(TICK_NS);

/// Nanoseconds per packet by case, one for each round.
pub(crate) type Measured = BTreeMap<String, Vec<f64>>;

/// A case with what it runs on.
struct Prepared {
    case: Case,
    /// Name in the result.
    key: String,
    program: ProgramFd,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    stay_on_one_cpu();
    let measured = measure(args)?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// Moving between CPUs would cost what it costs, at random.
fn stay_on_one_cpu() {
    let last = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) - 1;
    let mut set = CpuSet::new();
    set.set(last);
    // Not allowed to choose is no reason not to measure.
    let _ = sched_setaffinity(None, &set);
}

/// The tables of a run.
struct Tables {
    engine: Engine,
    weir: Weir,
}

impl Tables {
    fn load(name: &str, against: Option<&PathBuf>) -> Result<Self> {
        Ok(Self { engine: Engine::load()?, weir: Weir::load(name, against.map(PathBuf::as_path))? })
    }

    fn prepare(&mut self, case: &Case) -> Result<Vec<Prepared>> {
        let own = match case.program {
            Program::Own(name) => self.engine.own(name)?,
            Program::Weir | Program::Other => self.weir.fd()?,
        };
        let mut prepared = vec![Prepared { case: *case, key: case.id.to_owned(), program: own }];
        if case.program == Program::Weir
            && let Ok(program) = self.weir.other_fd()
        {
            // Another build may count otherwise.
            let case = Case { program: Program::Other, reason: None, ..*case };
            prepared.push(Prepared { case, key: format!("{}_other", case.id), program });
        }
        Ok(prepared)
    }

    /// Enters the flows of a case: until all are proven, or until the table is full.
    fn warm(&mut self, prepared: &Prepared) -> Result<()> {
        let case = &prepared.case;
        let first = if case.kind == Kind::Ack { Kind::Syn } else { case.kind };
        let (kinds, packets) = match case.flows {
            Flows::Same(bits) => (vec![first, case.kind, case.kind], 1 << bits),
            Flows::Fresh => (vec![case.kind], FILL),
        };
        for kind in kinds {
            self.engine.batch(&prepared.program, case.to, kind, case.flows, packets, case.verdict).or_else(
                |error| {
                    // The floors tell a SYN apart; they have no flows to enter.
                    if matches!(case.program, Program::Own("parse_only")) {
                        Ok(Duration::ZERO)
                    } else {
                        Err(error)
                    }
                },
            )?;
        }
        Ok(())
    }

    /// As a table is after a minute of a flood: flows that came while it filled are gone from second buckets, and their marks
    /// with them.
    fn settle(&mut self, filling: &[&Prepared]) -> Result<()> {
        sleep(2 * TICK);
        for prepared in filling {
            self.warm(prepared)?;
        }
        self.weir.settle();
        Ok(())
    }

    fn measure(&mut self, prepared: &Prepared, packets: u32) -> Result<f64> {
        let case = &prepared.case;
        let before = case.reason.map_or(0, |reason| self.weir.count(reason));
        let spent =
            self.engine.batch(&prepared.program, case.to, case.kind, case.flows, packets, case.verdict)?;
        self.weir.check(case, before, packets)?;
        Ok(spent.as_secs_f64() * 1e9 / f64::from(packets))
    }
}

/// Both kinds of tables, loaded when a case needs them.
struct Both {
    known: Option<Tables>,
    full: Option<Tables>,
}

impl Both {
    fn of(&mut self, case: &Case, args: &Args) -> Result<&mut Tables> {
        let (tables, name) = match case.table {
            Table::Known => (&mut self.known, "known"),
            Table::Full => (&mut self.full, "full"),
        };
        if tables.is_none() {
            *tables = Some(Tables::load(name, args.against.as_ref())?);
        }
        tables.as_mut().context("load the tables")
    }
}

fn measure(args: &Args) -> Result<Measured> {
    let mut tables = Both { known: None, full: None };
    let mut prepared = Vec::new();
    for case in ALL.iter().filter(|case| args.cases.iter().any(|id| id == case.id)) {
        prepared.extend(tables.of(case, args)?.prepare(case)?);
    }
    // Few flows first: they find their first bucket free, as in a table that holds no more than them.
    let mut order: Vec<&Prepared> =
        prepared.iter().filter(|one| one.case.program != Program::Other).collect();
    order.sort_by_key(|one| one.case.flows.bits());
    for one in order {
        tables.of(&one.case, args)?.warm(one).with_context(|| format!("enter the flows of {}", one.key))?;
    }
    if let Some(full) = &mut tables.full {
        let fills = |one: &&Prepared| one.case.program == Program::Weir && one.case.flows == Flows::Fresh;
        let filling: Vec<&Prepared> = prepared.iter().filter(fills).collect();
        full.settle(&filling)?;
    }
    let mut measured = Measured::new();
    for round in 0..args.rounds {
        // Another first case each time: none has always the same one before it.
        let start = round as usize * 5 % prepared.len().max(1);
        for one in prepared[start..].iter().chain(&prepared[..start]) {
            let cost = tables.of(&one.case, args)?.measure(one, args.packets)?;
            measured.entry(one.key.clone()).or_default().push(cost);
        }
    }
    Ok(measured)
}
