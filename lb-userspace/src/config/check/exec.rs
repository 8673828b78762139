//! Keys of `exec` checks.

use std::path::PathBuf;

use crate::config::model::ExecCheck;
use crate::config::reader::Table;

/// Reads an `exec` check.
pub(super) fn exec(table: &Table<'_>) -> ExecCheck {
    let node = table.required("command", "command = [\"/usr/local/bin/check\"]");
    let words = node.as_ref().map(|node| node.items()).unwrap_or_default();
    let words = words.iter().filter_map(|word| {
        let text = word.string("a list of texts: a program and its arguments")?;
        if text.contains('\0') {
            word.fail("must not contain a zero byte");
        }
        Some(text.to_owned())
    });
    let mut words: Vec<String> = words.collect();
    let program = match words.is_empty() {
        true => PathBuf::new(),
        false => PathBuf::from(words.remove(0)),
    };
    if let Some(node) = node.filter(|_| !program.is_absolute()) {
        node.fail("must begin with a program's absolute path: there is no shell and no search path");
    }
    ExecCheck { program, arguments: words }
}
