//! Keys of `exec` checks.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::model::ExecCheck;
use crate::config::reader::{Node, Table};

/// Reads an `exec` check.
pub(super) fn exec(table: &Table<'_>) -> ExecCheck {
    let node = table.required("command", "command = [\"/usr/local/bin/check\"]");
    node.map_or_else(ExecCheck::default, |node| command(&node))
}

/// Reads `command`.
pub(super) fn command(node: &Node<'_>) -> ExecCheck {
    let words = node.items();
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
    if !program.is_absolute() {
        node.fail("must begin with a program's absolute path: there is no shell and no search path");
    } else if let Some(why) = unfit(&program) {
        // Another host may have it, and it may come later.
        node.warn(format_args!("names {}, {why}: while it cannot be run, nobody checks", program.display()));
    }
    ExecCheck { program, arguments: words }
}

/// Why a program cannot be run here, as far as can be told without running it.
fn unfit(program: &Path) -> Option<&'static str> {
    match fs::metadata(program) {
        Ok(found) if !found.is_file() => Some("which is no file"),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => Some("which is not executable"),
        Ok(_) => None,
        // Who checks a config need not be who runs it.
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
        Err(_) if program.as_os_str().to_string_lossy().contains(' ') => Some(
            "which is not here; write its arguments as words of their own, as in [\"/usr/bin/check\", \"--max\"]",
        ),
        Err(_) => Some("which is not here"),
    }
}
