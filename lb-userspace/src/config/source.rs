//! Config files: reading them, expanding `include`, and naming places in them.

use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// Larger files are refused: nobody writes them, and a device file would never end.
const LARGEST_FILE: u64 = 16 << 20;

/// One file's text.
#[derive(Debug)]
pub(crate) struct Source {
    /// As given by the user, or joined to the including file's directory.
    pub(crate) file: PathBuf,
    /// The whole file.
    pub(crate) text: String,
    /// Byte offset at which each line starts.
    line_starts: Vec<usize>,
}

impl Source {
    /// Takes text that is already at hand.
    pub(crate) fn new(file: &Path, text: String) -> Rc<Self> {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(newlines.map(|(offset, _)| offset + 1)).collect();
        Rc::new(Self { file: file.to_owned(), text, line_starts })
    }

    /// Reads a regular file.
    pub(crate) fn read(file: &Path) -> Result<Rc<Self>, String> {
        Ok(Self::new(file, read_text(file)?))
    }

    /// The place of a byte offset; offsets past the end are the end.
    pub(crate) fn place(self: &Rc<Self>, offset: usize) -> Place {
        let line = self.line_starts.partition_point(|start| *start <= offset).max(1);
        let start = self.line_starts[line - 1];
        let before = self.text.get(start..offset).unwrap_or_default();
        let column = before.chars().count() + 1;
        Place { source: Rc::clone(self), line: count(line), column: count(column) }
    }

    /// The text of a line (from 1).
    pub(crate) fn line(&self, line: u32) -> &str {
        let index = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
        let rest = self.line_starts.get(index).and_then(|start| self.text.get(*start..));
        rest.and_then(|rest| rest.lines().next()).unwrap_or_default()
    }

    /// A path of this file's text, relative to its directory.
    pub(crate) fn sibling(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }
}

/// A number of lines or columns; files are far too small for it to saturate.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A line and column of a file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The file.
    pub(crate) source: Rc<Source>,
    /// From 1.
    pub(crate) line: u32,
    /// In characters, from 1.
    pub(crate) column: u32,
}

impl Place {
    /// `weir.toml:12`, for messages that point at a second place.
    pub(crate) fn brief(&self) -> String {
        let file = self.source.file.file_name().unwrap_or(self.source.file.as_os_str());
        format!("{}:{}", file.display(), self.line)
    }
}

/// Reads a regular file of bounded size.
pub(crate) fn read_text(file: &Path) -> Result<String, String> {
    let cause = |error: io::Error| format!("read {}: {}", file.display(), lower(&error.to_string()));
    let metadata = fs::metadata(file).map_err(cause)?;
    if !metadata.is_file() {
        return Err(format!("read {}: not a regular file", file.display()));
    }
    let mut bytes = Vec::new();
    fs::File::open(file).and_then(|f| f.take(LARGEST_FILE + 1).read_to_end(&mut bytes)).map_err(cause)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LARGEST_FILE) {
        return Err(format!("read {}: larger than {} MiB", file.display(), LARGEST_FILE >> 20));
    }
    String::from_utf8(bytes).map_err(|_| format!("read {}: not UTF-8 text", file.display()))
}

/// `No such file …` becomes `no such file …`.
fn lower(message: &str) -> String {
    let mut chars = message.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// Files that a pattern with `*` and `?` names, sorted; a pattern without them names itself.
///
/// # Errors
/// A directory that exists and cannot be listed. One that does not exist holds no files.
pub(crate) fn expand(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let name = component.as_os_str().to_string_lossy();
        let wild = matches!(component, Component::Normal(_)) && name.contains(['*', '?']);
        if !wild {
            found.iter_mut().for_each(|path| path.push(component));
            continue;
        }
        let mut next = Vec::new();
        for directory in &found {
            next.extend(matching_entries(directory, &name)?);
        }
        next.sort();
        found = next;
    }
    Ok(found)
}

/// Entries of a directory whose names match; hidden ones only where the pattern says so.
fn matching_entries(directory: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let entries = match fs::read_dir(listed) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        let hidden = text.starts_with('.') && !pattern.starts_with('.');
        if !hidden && matches(pattern.as_bytes(), text.as_bytes()) {
            found.push(directory.join(&name));
        }
    }
    Ok(found)
}

/// Whether a name matches a pattern: `*` is any run, `?` any one byte. Linear back-tracking: only
/// the last `*` is ever retried.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star, taken)) = retry else { return false };
                retry = Some((star, taken + 1));
                p = star + 1;
                n = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match_names() {
        for (pattern, name, expected) in [
            ("*.toml", "web.toml", true),
            ("*.toml", "web.toml.bak", false),
            ("a?c*", "abc", true),
            ("a?c*", "ac", false),
            ("*a*b", "xaxab", true),
            ("**", "", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let source = Source::new(Path::new("x/weir.toml"), "a\nöb = 1\n".to_owned());
        let place = source.place(4);
        assert_eq!((place.line, place.column), (2, 2));
        assert_eq!(place.brief(), "weir.toml:2");
        assert_eq!(source.line(2), "öb = 1");
        assert_eq!(source.place(1000).line, 3);
    }
}
