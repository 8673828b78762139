//! `cargo xtask demo`: a tour of weir in under a minute.
//!
//! A lab of network namespaces comes up, weir starts, and real HTTP requests flow through it to real servers. Then
//! things go wrong on purpose. In the end every promise is checked against what was measured; a broken one is an
//! exit code of 1.
#![forbid(unsafe_code)]

use std::{
    io::IsTerminal as _,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;
use crossterm::event::{self, KeyCode, KeyModifiers};
use weir_tests::{Family, Get, Lab, Load, Rate, Shot, any_port};

mod board;
mod journal;
mod record;
mod report;
mod sampler;
mod screen;
mod story;
mod verdict;

use board::{Board, Picture};
use record::Record;
use sampler::Sampler;
use story::Story;

/// The config of the tour.
const CONFIG: &str = include_str!("weir.toml");
/// How often the screen is drawn.
const REDRAW: Duration = Duration::from_millis(100);
/// The exit code of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Shows weir at work: load, a killed server, a frozen host, a drain, a restarted daemon. Needs root.
#[derive(Parser)]
#[command(name = "cargo xtask demo --", bin_name = "cargo xtask demo --")]
struct Args {
    /// Requests a second.
    #[arg(long, default_value_t = 1200, value_parser = clap::value_parser!(u32).range(50..=3000))]
    rate: u32,
    /// Prints plain lines, also on a terminal.
    #[arg(long)]
    plain: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let stop = watch_signals()?;
    println!("bringing up the lab: 1 client, weir's host, 2 routers, 6 hosts with nginx");
    let lab = Lab::builder().direct(3).routed(3).client_addresses(4).start()?;
    println!("starting weir");
    let weir = lab.weir(CONFIG)?;
    let names: Vec<&str> = lab.backends().iter().map(|backend| backend.name()).collect();
    let board = Board::new(&names);
    let load = Load::start_each(lab.client(), requests(&lab), Rate { per_second: args.rate, threads: 24 });
    let sampler = Sampler::new(&board, &load, &weir);
    let mut story = Story { lab: &lab, weir, board: &board, stop, record: Record::default() };
    let ended = AtomicBool::new(false);
    let played = thread::scope(|scope| {
        let show = scope.spawn(|| match !args.plain && std::io::stdout().is_terminal() {
            true => on_screen(&board, sampler, stop, &ended),
            false => in_lines(&board, sampler, &ended),
        });
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story.play()));
        ended.store(true, Ordering::Relaxed);
        let shown = show.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let played = played.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        played.and(shown)
    });
    if stop.load(Ordering::Relaxed) {
        println!("interrupted; the lab is removed");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if let Err(error) = played {
        eprintln!("--- the end of weir's log ---\n{}", tail(&story.weir.log()));
        return Err(error);
    }
    let shots = load.stop();
    story.count()?;
    Ok(conclude(&story.record, &shots))
}

/// Requests of both families, from several addresses.
fn requests(lab: &Lab) -> Vec<Get> {
    let of = |family| {
        let target = (lab.vip().of(family), 80).into();
        lab.client().addresses().iter().map(move |from| Get::new(target).from(any_port(*from, target)))
    };
    of(Family::V4).zip(of(Family::V6)).flat_map(|(v4, v6)| [v4, v6]).collect()
}

/// The first SIGINT or SIGTERM sets the flag, so that everything is cleaned up.
fn watch_signals() -> Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let (mut interrupt, mut terminate) = runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        Ok::<_, std::io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    })?;
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        });
        STOP.store(true, Ordering::Relaxed);
    });
    Ok(&STOP)
}

fn on_screen(board: &Board, mut sampler: Sampler, stop: &AtomicBool, ended: &AtomicBool) -> Result<()> {
    // Its panic hook gives the terminal back, too.
    let mut terminal = ratatui::try_init().context("take the terminal")?;
    let shown = (|| {
        while !ended.load(Ordering::Relaxed) {
            sampler.look()?;
            let picture: Picture = board.lock().clone();
            terminal.draw(|frame| screen::draw(frame, &picture))?;
            if event::poll(REDRAW)? && wants_end(&event::read()?) {
                stop.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    })();
    if shown.is_err() {
        stop.store(true, Ordering::Relaxed);
    }
    ratatui::restore();
    shown
}

fn wants_end(event: &event::Event) -> bool {
    let event::Event::Key(key) = event else { return false };
    key.code == KeyCode::Char('q')
        || key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL)
}

fn in_lines(board: &Board, mut sampler: Sampler, ended: &AtomicBool) -> Result<()> {
    let (mut printed, mut rounds) = (0, 0_u32);
    loop {
        let last = ended.load(Ordering::Relaxed);
        sampler.look()?;
        let picture: Picture = board.lock().clone();
        for event in picture.events.iter().skip(printed - picture.forgotten.min(printed)) {
            println!("{:>6.2}  {}", event.at.as_secs_f64(), event.text);
        }
        printed = picture.forgotten + picture.events.len();
        if rounds.is_multiple_of(20) && rounds > 0 {
            let rates = picture.rows.iter().map(|row| format!("  {} {}", row.name, row.rate));
            println!("        {}/s:{}", picture.rate, rates.collect::<String>());
        }
        if last {
            return Ok(());
        }
        rounds += 1;
        thread::sleep(REDRAW);
    }
}

/// Prints what happened and what it means.
fn conclude(record: &Record, shots: &[Shot]) -> ExitCode {
    println!("\n{}", report::text(record, shots));
    let promises = verdict::promises(record, shots);
    println!("PROMISES\n{}", report::promises(&promises));
    match promises.iter().filter(|promise| promise.outcome.is_err()).count() {
        0 => {
            println!("every promise was kept");
            ExitCode::SUCCESS
        }
        broken => {
            println!("{broken} of {} promises broken", promises.len());
            ExitCode::FAILURE
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
