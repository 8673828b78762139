//! `cargo xtask bench failover`: how long a failed backend still gets new connections.
//!
//! Each trial lets one backend of the lab fail in a stated way while new connections arrive at a steady pace, and takes
//! the time from just before the failure to the last new connection that was sent to it, as the switch port in front
//! of it saw that. HAProxy stands in the same lab: blocks of its trials alternate with blocks of weir's, and whoever is
//! not measured is stopped meanwhile. A trial in which the sender was held up is repeated, because it could only
//! flatter.

mod chart;
mod closings;
mod haproxy;
mod ledger;
mod link;
mod passive;
mod rows;
mod stage;
mod trial;

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, iter};

use anyhow::{Context as _, Result, bail};

use ledger::Ledger;
use rows::{MATCHES, Match};

/// Measures how fast failed backends leave. Needs root, nginx, lighttpd and haproxy.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Undisturbed trials of each row.
    #[arg(long, default_value_t = 100)]
    trials: usize,
    /// Repeats a trial in which the sender was held up for more milliseconds than this: only a noisy machine needs more.
    #[arg(long, default_value_t = 1)]
    gap_ms: u64,
    /// Only these rows, by the beginnings of their ids, separated by commas; those of one match come together.
    #[arg(long, visible_alias = "only", value_delimiter = ',')]
    rows: Vec<String>,
    /// Prints the ids of all rows and ends.
    #[arg(long)]
    list: bool,
    /// Writes the result to this file; rows that stand there and are not measured now are kept.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Adds to `bench/failover.json` in this folder, draws `bench/failover.svg`, and writes the table into its
    /// `failover.md`.
    #[arg(long)]
    publish: Option<PathBuf>,
}

/// What the table stands between in `failover.md`.
const MARKS: (&str, &str) = ("<!-- failover: written by cargo xtask bench -->\n", "<!-- /failover -->");

/// Measures, prints and writes.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.list {
        MATCHES.iter().flat_map(Match::ids).for_each(|id| println!("{id}"));
        return Ok(());
    }
    let chosen = chosen(&args.rows)?;
    let mut ledger = Ledger::new()?;
    for one in chosen {
        for row in
            stage::play(one, args.trials, Duration::from_millis(args.gap_ms)).with_context(|| one.title())?
        {
            println!("{}", row.line());
            ledger.add(row);
        }
        // What has been measured is kept if a later row fails.
        if let Some(path) = &args.json {
            ledger.merged(path)?.write(path)?;
        }
        if let Some(folder) = &args.publish {
            publish(&ledger, folder)?;
        }
    }
    print!("\n{}", ledger.table());
    Ok(())
}

/// The matches with a row that was asked for.
fn chosen(wanted: &[String]) -> Result<Vec<&'static Match>> {
    let has = |one: &Match, prefix: &str| one.ids().any(|id| id.starts_with(prefix));
    if let Some(unknown) = wanted.iter().find(|prefix| !MATCHES.iter().any(|one| has(one, prefix))) {
        bail!("no row begins with `{unknown}`; `--list` prints them");
    }
    let all = iter::once(String::new()).take(usize::from(wanted.is_empty()));
    let prefixes: Vec<String> = wanted.iter().cloned().chain(all).collect();
    Ok(MATCHES.iter().filter(|one| prefixes.iter().any(|prefix| has(one, prefix))).collect())
}

fn publish(ledger: &Ledger, folder: &Path) -> Result<()> {
    let json = folder.join("bench/failover.json");
    let all = ledger.merged(&json)?;
    all.write(&json)?;
    write(&folder.join("bench/failover.svg"), &chart::draw(&all))?;
    let page = folder.join("failover.md");
    let text = fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
    let replaced = replace_table(&text, &all.markdown())
        .with_context(|| format!("{} has no place for the table ({})", page.display(), MARKS.0.trim()))?;
    write(&page, &replaced)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// The page with what stands between the marks replaced by `table`.
fn replace_table(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(MARKS.0)?;
    let (_, after) = rest.split_once(MARKS.1)?;
    Some([before, MARKS.0, table, MARKS.1, after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_the_beginnings_of_their_ids() {
        let ids = |wanted: &[&str]| -> Vec<&str> {
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            chosen(&wanted).unwrap().into_iter().flat_map(Match::ids).collect()
        };
        assert_eq!(ids(&["killed-tcp-2"]), ["killed-tcp-2ms", "killed-haproxy-2ms"]);
        assert_eq!(ids(&[]).len(), MATCHES.iter().flat_map(Match::ids).count());
        assert!(chosen(&["nothing".to_owned()]).is_err());
    }

    #[test]
    fn ids_are_unique() {
        let mut ids: Vec<_> = MATCHES.iter().flat_map(Match::ids).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
