//! Results in the documents: JSON of a run in `bench/`, and the table of it in a page, between marks.
//!
//! A table is made of the JSON alone, so that `cargo xtask bench tables` can make it again, and a test can tell
//! whether a page says what the committed run does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::report::Report;
use crate::sheet::Sheet;

/// A bench, and the page that has its table.
struct Published {
    bench: &'static str,
    page: &'static str,
    table: fn(&str) -> Result<String>,
}

const PUBLISHED: [Published; 4] = [
    Published { bench: "packet", page: "performance.md", table: |json| read(json, Report::markdown) },
    Published { bench: "live", page: "performance-scale.md", table: |json| read(json, Sheet::markdown) },
    Published { bench: "scale", page: "performance-scale.md", table: |json| read(json, Sheet::markdown) },
    Published { bench: "flood", page: "performance-scale.md", table: |json| read(json, Sheet::markdown) },
];

/// Where a result goes besides the terminal.
#[derive(clap::Args)]
pub(crate) struct Output {
    /// Writes the result to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes the result into this folder's `bench`, and its table into the folder's page.
    #[arg(long)]
    pub(crate) publish: Option<PathBuf>,
}

impl Output {
    /// Writes a result where it was asked for.
    ///
    /// # Errors
    /// A file that cannot be written, a page without marks.
    pub(crate) fn write(&self, bench: &str, result: &impl Serialize) -> Result<()> {
        let json = serde_json::to_string_pretty(result)? + "\n";
        if let Some(path) = &self.json {
            write(path, &json)?;
        }
        let Some(folder) = &self.publish else { return Ok(()) };
        write(&committed(folder, bench), &json)?;
        PUBLISHED.iter().filter(|published| published.bench == bench).try_for_each(|it| it.refresh(folder))
    }
}

/// Writes the tables of the committed results into the pages again.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The documents.
    #[arg(default_value = "docs")]
    folder: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    PUBLISHED.iter().try_for_each(|published| published.refresh(&args.folder))
}

impl Published {
    fn refresh(&self, folder: &Path) -> Result<()> {
        let path = folder.join(self.page);
        write(&path, &self.page(folder)?)
    }

    /// The page with the table of the committed result.
    fn page(&self, folder: &Path) -> Result<String> {
        let text = |path: &Path| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
        let table = (self.table)(&text(&committed(folder, self.bench))?)?;
        let path = folder.join(self.page);
        replace(&text(&path)?, self.bench, &table)
            .with_context(|| format!("{} has no marks for the table of {}", path.display(), self.bench))
    }
}

fn committed(folder: &Path, bench: &str) -> PathBuf {
    folder.join(format!("bench/{bench}.json"))
}

fn read<T: DeserializeOwned>(json: &str, table: impl Fn(&T) -> String) -> Result<String> {
    Ok(table(&serde_json::from_str(json).context("read the result of a run")?))
}

/// Writes a file.
///
/// # Errors
/// As the system has it.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// The page with what stands between the bench's marks replaced by `table`.
fn replace(page: &str, bench: &str, table: &str) -> Option<String> {
    let marks = [format!("<!-- {bench}: written by cargo xtask bench -->\n"), format!("<!-- /{bench} -->")];
    let (before, rest) = page.split_once(&marks[0])?;
    let (_, after) = rest.split_once(&marks[1])?;
    Some([before, &marks[0], table, &marks[1], after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let page = |table: &str| {
            format!("before\n<!-- live: written by cargo xtask bench -->\n{table}<!-- /live -->\nafter")
        };
        assert_eq!(replace(&page("old\n"), "live", "new\n"), Some(page("new\n")));
        assert_eq!(replace(&page("old\n"), "scale", "new\n"), None);
    }

    #[test]
    fn the_pages_say_what_the_committed_runs_do() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        for published in PUBLISHED {
            let page = fs::read_to_string(folder.join(published.page)).expect("a page");
            let told = published.page(&folder).expect("a table");
            assert!(page == told, "{}: run `cargo xtask bench tables`", published.bench);
        }
    }
}
