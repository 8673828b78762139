//! Lists of prefixes: written out, in files, or both.

use ipnet::IpNet;

use super::keys;
use super::reader::{Node, Table};
use super::source;
use crate::filter::{self, Prefixes};

/// Reads the list under `key`: prefixes and `{ file = "…" }`, one or an array. Missing is empty.
pub(crate) fn read(table: &Table<'_>, key: &'static str) -> Prefixes {
    let Some(node) = table.value(key) else { return Prefixes::default() };
    let mut prefixes = Vec::new();
    for node in node.items() {
        if node.is_table() {
            prefixes.extend(from_file(&node).unwrap_or_default());
        } else if let Some(text) = node.string("a prefix or { file = \"…\" }") {
            match filter::parse(text) {
                Ok(prefix) => prefixes.push(prefix),
                Err(problem) => node.fail(format_args!("has a bad entry: {problem}")),
            }
        }
    }
    prefixes.into_iter().collect()
}

/// Reads an allow list: one whose files hold nothing would let everybody in.
pub(crate) fn read_allow(table: &Table<'_>) -> Prefixes {
    let prefixes = read(table, "allow");
    if let Some(node) = table.value("allow")
        && prefixes.is_empty()
        && node.items().iter().any(Node::is_table)
    {
        node.fail(
            "has no prefix in its files, and an empty list lets everybody in; leave it out, or add prefixes",
        );
    }
    prefixes
}

/// The prefixes of a file: one a line, with comments from `#` on.
fn from_file(node: &Node<'_>) -> Option<Vec<IpNet>> {
    let table = node.table(format!("{} file", node.key), keys::FILE)?;
    let file = table.required("file", "file = \"prefixes.txt\"")?;
    let path = file.place.source.sibling(file.string("a path")?);
    let text =
        source::read_text(&path).map_err(|cause| file.fail(format_args!("cannot be used: {cause}"))).ok()?;
    let mut prefixes = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        match filter::parse(entry) {
            Ok(prefix) => prefixes.push(prefix),
            Err(problem) => {
                // One is enough to find what the file is instead of a list.
                file.fail(format_args!("cannot be used: {}:{}: {problem}", path.display(), number + 1));
                return None;
            }
        }
    }
    Some(prefixes)
}
